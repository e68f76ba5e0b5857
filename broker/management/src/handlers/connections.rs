//! Connections, channels and consumers.

use serde_json::{Map, Value, json};

use crate::broker::{ChannelReport, ConnectionReport, ConsumerReport, Reach};
use crate::call::Call;
use crate::reply::{Failure, Reply, Result};

fn connection_value(c: &ConnectionReport) -> Value {
    let mut out = json!({
        "name": c.name, "node": c.node, "user": c.user, "vhost": c.vhost,
        "user_who_performed_action": c.user,
        "peer_host": c.peer.ip().to_canonical(), "peer_port": c.peer.port(),
        "host": c.local.ip().to_canonical(), "port": c.local.port(),
        "ssl": c.tls, "protocol": "AMQP 0-9-1", "type": "network",
        "state": if c.blocked { "blocked" } else { "running" },
        "auth_mechanism": c.auth_mechanism,
        "recv_oct": c.received.0, "recv_oct_details": {"rate": c.rates.0}, "recv_cnt": c.received.1,
        "send_oct": c.sent.0, "send_oct_details": {"rate": c.rates.1}, "send_cnt": c.sent.1, "send_pend": 0,
        "channels": c.channels, "channel_max": c.channel_max, "frame_max": c.frame_max,
        "timeout": c.heartbeat_s, "connected_at": c.connected_at_ms, "client_properties": c.client_properties,
    });
    if let (Some(fields), Some(name)) = (out.as_object_mut(), &c.client_name) {
        fields.insert("user_provided_name".to_owned(), json!(name));
    }
    out
}

/// A user without tag sees what is the user's own.
fn is_visible(call: &Call, user: &str, vhost: &str) -> bool {
    let in_vhost = call.optional("vhost").is_none_or(|only| only == vhost);
    in_vhost && (call.caller.is_monitor() || call.caller.name == user)
}

fn expect_vhost(call: &Call) -> Result<()> {
    match call.optional("vhost") {
        Some(name) if call.topology().vhost(name).is_none() => Err(Failure::missing()),
        _ => Ok(()),
    }
}

pub fn list(call: &Call) -> Result {
    expect_vhost(call)?;
    let all = call.broker().connections(Reach::Everywhere);
    let visible = all.iter().filter(|c| is_visible(call, &c.user, &c.vhost));
    call.list(visible.map(connection_value).collect(), &["vhost", "name"])
}

/// The connection in the path, if the user may have to do with it.
fn find(call: &Call) -> Result<ConnectionReport> {
    let name = call.param("connection");
    let mut all = call.broker().connections(Reach::Everywhere).into_iter();
    let found = all.find(|c| c.name == name).ok_or_else(Failure::missing)?;
    own(call, &found.user)?;
    Ok(found)
}

fn own(call: &Call, user: &str) -> Result<()> {
    let may = match call.method {
        "DELETE" => call.caller.is_admin(),
        _ => call.caller.is_monitor(),
    };
    match may || call.caller.name == user {
        true => Ok(()),
        false => Err(Failure::not_authorised(
            "User not authorised to access object",
        )),
    }
}

pub fn get(call: &Call) -> Result {
    call.range()?;
    call.one(connection_value(&find(call)?))
}

fn reason(call: &Call) -> &str {
    let reason = call.reason.as_deref();
    reason.unwrap_or("Closed via management plugin")
}

pub fn close(call: &Call) -> Result {
    let found = find(call)?;
    call.broker().close_connection(found.id, reason(call));
    Ok(Reply::Done)
}

fn of_user(call: &Call) -> Result<Vec<ConnectionReport>> {
    let user = call.param("username");
    own(call, user)?;
    let mut all = call.broker().connections(Reach::Everywhere);
    all.retain(|c| c.user == user);
    Ok(all)
}

pub fn list_of_user(call: &Call) -> Result {
    let one = |c: &ConnectionReport| json!({"name": c.name, "vhost": c.vhost, "user": c.user, "node": c.node});
    call.list(of_user(call)?.iter().map(one).collect(), &["vhost", "name"])
}

pub fn close_of_user(call: &Call) -> Result {
    for connection in of_user(call)? {
        call.broker().close_connection(connection.id, reason(call));
    }
    Ok(Reply::Done)
}

fn channel_name(c: &ChannelReport) -> String {
    format!("{} ({})", c.connection, c.number)
}

fn channel_value(c: &ChannelReport) -> Map<String, Value> {
    let value = json!({
        "name": channel_name(c), "number": c.number, "node": c.node, "user": c.user,
        "user_who_performed_action": c.user, "vhost": c.vhost, "state": "running",
        "confirm": c.confirm, "transactional": c.transactional,
        "consumer_count": c.consumers.len(), "messages_unacknowledged": c.unacknowledged,
        "messages_uncommitted": 0, "messages_unconfirmed": 0, "acks_uncommitted": 0,
        "prefetch_count": c.prefetch_count, "global_prefetch_count": c.global_prefetch_count,
        "connection_details": {
            "name": c.connection, "peer_host": c.peer.ip().to_canonical(),
            "peer_port": c.peer.port(),
        },
    });
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

pub fn channels(call: &Call) -> Result {
    expect_vhost(call)?;
    let all = call.broker().channels(Reach::Everywhere);
    let visible = all.iter().filter(|c| is_visible(call, &c.user, &c.vhost));
    let items = visible.map(|c| Value::Object(channel_value(c))).collect();
    call.list(items, &["vhost", "name"])
}

pub fn channels_of(call: &Call) -> Result {
    let connection = find(call)?;
    let mut all = call.broker().channels(Reach::Everywhere);
    all.retain(|c| c.connection == connection.name && c.node == connection.node);
    let items = all
        .iter()
        .map(|c| Value::Object(channel_value(c)))
        .collect();
    call.list(items, &["name"])
}

pub fn channel(call: &Call) -> Result {
    let name = call.param("channel");
    let mut all = call.broker().channels(Reach::Everywhere).into_iter();
    let found = all.find(|c| channel_name(c) == name);
    let found = found.ok_or_else(Failure::missing)?;
    own(call, &found.user)?;
    let mut item = channel_value(&found);
    let consumers = found.consumers.iter().map(|c| consumer_value(&found, c));
    item.insert("consumer_details".to_owned(), consumers.collect());
    // Rates by exchange and queue are not kept.
    item.insert("publishes".to_owned(), json!([]));
    item.insert("deliveries".to_owned(), json!([]));
    call.one(Value::Object(item))
}

fn consumer_value(channel: &ChannelReport, c: &ConsumerReport) -> Value {
    let arguments = match c.priority {
        0 => json!({}),
        priority => json!({"x-priority": priority}),
    };
    json!({
        "consumer_tag": c.tag, "ack_required": c.ack_required, "prefetch_count": c.prefetch_count,
        "exclusive": c.exclusive, "active": c.active,
        "activity_status": if c.active { "up" } else { "waiting" },
        "arguments": arguments, "queue": {"name": c.queue, "vhost": channel.vhost},
        "channel_details": {
            "name": channel_name(channel), "number": channel.number, "node": channel.node,
            "connection_name": channel.connection, "user": channel.user,
            "peer_host": channel.peer.ip().to_canonical(), "peer_port": channel.peer.port(),
        },
    })
}

pub fn consumers(call: &Call) -> Result {
    expect_vhost(call)?;
    let all = call.broker().channels(Reach::Everywhere);
    let visible = all.iter().filter(|c| is_visible(call, &c.user, &c.vhost));
    let items = visible.flat_map(|channel| {
        let consumers = channel.consumers.iter();
        consumers.map(move |consumer| consumer_value(channel, consumer))
    });
    call.list(
        items.collect(),
        &["queue.vhost", "queue.name", "consumer_tag"],
    )
}

/// The consumers of a queue.
pub(super) fn consumers_of(call: &Call, queue: u64) -> Value {
    let all = call.broker().channels(Reach::Everywhere);
    let mut found = Vec::new();
    for channel in &all {
        let of_queue = channel.consumers.iter().filter(|c| c.queue_id == queue);
        found.extend(of_queue.map(|consumer| consumer_value(channel, consumer)));
    }
    Value::Array(found)
}
