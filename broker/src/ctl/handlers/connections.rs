//! Connections, channels and consumers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_queue::{ConsumerView, QueueId};
use serde_json::json;

use super::listing::{connection_of, pick, pid};
use super::{Result, arg};
use crate::channel::{ChannelReport, ConsumerReport};
use crate::ctl::protocol::{Failure, Output, Request, cell, exit};
use crate::node::{ConnectionInfo, Node};
use crate::outbox::Event;

pub fn list(node: &Node, request: &Request) -> Result {
    pick(
        request,
        node.connections().sorted(),
        |connection, column| match column {
            "pid" => json!(pid(node, connection.id, 0)),
            "name" => json!(connection.name),
            "user" => json!(connection.user),
            "vhost" => json!(connection.vhost),
            "peer_host" => json!(connection.peer.ip().to_canonical().to_string()),
            "peer_port" => json!(connection.peer.port()),
            "host" => json!(connection.local.ip().to_canonical().to_string()),
            "port" => json!(connection.local.port()),
            "ssl" => json!(connection.tls),
            "state" => json!("running"),
            "protocol" => cell("{0,9,1}", json!([0, 9, 1])),
            "channels" => json!(connection.channels.load(Ordering::Relaxed)),
            "channel_max" => json!(connection.channel_max),
            "frame_max" => json!(connection.frame_max),
            "timeout" => json!(connection.heartbeat_s),
            "connected_at" => json!((connection.id.0 >> 64) as u64),
            "user_provided_name" => json!(connection.client_name.as_deref().unwrap_or("")),
            "client_properties" => match connection.client_name.as_deref() {
                Some(name) => cell(
                    format!("[{{\"connection_name\",\"{name}\"}}]"),
                    json!([["connection_name", "longstr", name]]),
                ),
                None => cell("[]", json!([])),
            },
            _ => json!(""),
        },
    )
}

pub fn list_channels(node: &Node, request: &Request) -> Result {
    let reports = node.connections().channels();
    let channels = reports
        .iter()
        .flat_map(|(connection, channels)| channels.iter().map(move |c| (connection, c)));
    pick(request, channels, |(connection, channel), column| {
        let number = channel.number;
        match column {
            "pid" => json!(pid(node, connection.id, number)),
            "connection" => json!(pid(node, connection.id, 0)),
            "name" => json!(format!("{} ({number})", connection.name)),
            "number" => json!(number),
            "user" => json!(connection.user),
            "vhost" => json!(connection.vhost),
            "confirm" => json!(channel.confirm),
            "transactional" => json!(channel.transactional),
            "consumer_count" => json!(channel.consumers.len()),
            "messages_unacknowledged" => json!(channel.unacknowledged),
            "prefetch_count" => json!(channel.prefetch_count),
            "global_prefetch_count" => json!(channel.global_prefetch_count),
            _ => json!(""),
        }
    })
}

/// A consumer, as its channel and as its queue see it.
struct Row<'a> {
    connection: &'a ConnectionInfo,
    channel: &'a ChannelReport,
    consumer: &'a ConsumerReport,
    view: ConsumerView,
}

pub fn list_consumers(node: &Node, request: &Request) -> Result {
    let reports = node.connections().channels();
    let views = node.groups().iter().flat_map(|group| group.consumers());
    let views: HashMap<(QueueId, u64), ConsumerView> = views
        .map(|(queue, view)| ((queue, view.slot.key()), view))
        .collect();
    let mut rows = Vec::new();
    for (connection, channels) in &reports {
        if *connection.vhost != *request.vhost() {
            continue;
        }
        for channel in channels {
            // One that the queue does not have any more has just been cancelled.
            rows.extend(channel.consumers.iter().filter_map(|consumer| {
                let key = (consumer.queue.id.0, consumer.slot.key());
                let view = match node.session(consumer.queue.group) {
                    Some(session) => session.consumer_view(consumer.slot),
                    None => views.get(&key).copied(),
                };
                Some(Row {
                    connection,
                    channel,
                    consumer,
                    view: view?,
                })
            }));
        }
    }
    pick(request, rows, |row, column| match column {
        "queue_name" => json!(row.consumer.queue.name),
        "channel_pid" => json!(pid(node, row.connection.id, row.channel.number)),
        "consumer_tag" => json!(String::from_utf8_lossy(&row.consumer.tag)),
        "ack_required" => json!(!row.consumer.no_ack),
        "prefetch_count" => json!(row.view.prefetch),
        "active" => json!(row.view.active),
        "activity_status" => json!(match row.view.active {
            true => "up",
            false => "waiting",
        }),
        "arguments" => match row.view.priority {
            0 => cell("[]", json!([])),
            priority => cell(
                format!("[{{\"x-priority\",{priority}}}]"),
                json!([["x-priority", "signedint", priority]]),
            ),
        },
        _ => json!(""),
    })
}

fn close_each(connections: impl Iterator<Item = Arc<ConnectionInfo>>, why: &str) -> usize {
    let close = |c: Arc<ConnectionInfo>| c.outbox.push(Event::Close(why.to_owned()));
    connections.map(close).count()
}

pub fn close(node: &Node, request: &Request) -> Result {
    let (name, why) = (arg(request, 0)?, arg(request, 1)?);
    let Some(id) = connection_of(name) else {
        let text = format!("Error:\n{{:invalid_pid_syntax, \"{name}\"}}");
        return Err(Failure::new(exit::UNAVAILABLE, text));
    };
    let wanted = node.connections().list().into_iter().filter(|c| c.id == id);
    close_each(wanted, why);
    Ok(Output::Done.into())
}

pub fn close_all(node: &Node, request: &Request) -> Result {
    let limit = request.option("limit").and_then(|n| n.parse().ok());
    // 0 is RabbitMQ's word for all.
    let limit = limit.filter(|n| *n > 0).unwrap_or(usize::MAX);
    let everywhere = request.flag("global");
    let wanted = node
        .connections()
        .sorted()
        .into_iter()
        .filter(|c| everywhere || *c.vhost == *request.vhost())
        .take(limit);
    let closed = close_each(wanted, arg(request, 0)?);
    Ok(Output::Message(format!("Closed {closed} connections")).into())
}

pub fn close_all_of_user(node: &Node, request: &Request) -> Result {
    let (user, why) = (arg(request, 0)?, arg(request, 1)?);
    let wanted = node
        .connections()
        .sorted()
        .into_iter()
        .filter(|c| *c.user == *user);
    close_each(wanted, why);
    Ok(Output::Done.into())
}
