//! Queues.

use std::sync::Arc;

use leveret_protocol::method::{QueueDeclare, QueueDelete, QueuePurge};
use leveret_topology::{QueueInfo, QueueType, Topology, arguments_to_json};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::exchanges::short;
use super::{connections, refused};
use crate::broker::{Broker, Place, QueueReport, Reach};
use crate::call::Call;
use crate::json;
use crate::rates::{self, Range, Samples};
use crate::reply::{Failure, Reply, Result};
use crate::stats::MessageStats;
use crate::text::timestamp;

/// What is known of a queue without asking it.
const BASIC: &[&str] = &[
    "vhost",
    "name",
    "node",
    "durable",
    "auto_delete",
    "exclusive",
    "owner_pid_details",
    "arguments",
    "type",
    "policy",
];

fn set(out: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    out.insert(name.to_owned(), value.into());
}

fn basic(queue: &QueueInfo, place: &Place) -> Map<String, Value> {
    let mut out = Map::new();
    set(&mut out, "name", queue.name.as_str());
    set(&mut out, "vhost", queue.vhost.as_str());
    set(&mut out, "durable", queue.durable);
    set(&mut out, "auto_delete", queue.auto_delete);
    set(&mut out, "exclusive", queue.is_exclusive());
    set(&mut out, "arguments", arguments_to_json(&queue.arguments));
    set(&mut out, "type", queue.kind.as_str());
    set(&mut out, "node", place.leader.clone());
    set(&mut out, "policy", queue.policy.as_deref());
    out
}

/// Everything that a list shows.
fn put_more(
    out: &mut Map<String, Value>,
    queue: &QueueInfo,
    place: &Place,
    report: Option<&QueueReport>,
    samples: &Samples,
    range: Option<Range>,
) {
    set(out, "operator_policy", queue.operator_policy.as_deref());
    set(out, "leader", place.leader.clone());
    set(out, "members", place.members.clone());
    set(out, "online", place.online.clone());
    if queue.mirrored || place.members.len() > 1 {
        let followers = |names: &[String]| -> Value {
            let others = names
                .iter()
                .filter(|name| Some(*name) != place.leader.as_ref());
            others.cloned().collect()
        };
        set(out, "slave_nodes", followers(&place.members));
        set(out, "synchronised_slave_nodes", followers(&place.online));
        set(out, "recoverable_slaves", followers(&place.online));
    } else {
        set(out, "recoverable_slaves", Value::Null);
    }
    let Some(report) = report else {
        // Its leader does not answer, or there is none at this moment.
        set(out, "state", "down");
        return;
    };
    let series = samples.queue(report.id);
    set(out, "state", "running");
    rates::put_depths(out, (report.ready, report.unacked), series, range);
    let hot = report.hot.min(report.ready);
    // The sizes of bodies that wait are taken to be alike.
    let hot_bytes = (u128::from(report.ready_bytes) * u128::from(hot))
        .checked_div(u128::from(report.ready))
        .unwrap_or(0) as u64;
    set(
        out,
        "message_bytes",
        report.ready_bytes + report.unacked_bytes,
    );
    set(out, "message_bytes_ready", report.ready_bytes);
    set(out, "message_bytes_unacknowledged", report.unacked_bytes);
    set(out, "message_bytes_ram", hot_bytes);
    set(
        out,
        "message_bytes_paged_out",
        report.ready_bytes - hot_bytes.min(report.ready_bytes),
    );
    set(out, "messages_ready_ram", hot);
    set(out, "messages_ram", hot + report.unacked);
    set(out, "messages_unacknowledged_ram", report.unacked);
    set(out, "messages_paged_out", report.ready - hot);
    set(out, "memory", hot_bytes);
    set(out, "consumers", report.consumers);
    set(out, "consumer_capacity", u8::from(report.consumers > 0));
    set(out, "consumer_utilisation", u8::from(report.consumers > 0));
    set(out, "head_message_timestamp", Value::Null);
    set(out, "exclusive_consumer_tag", Value::Null);
    set(out, "single_active_consumer_tag", Value::Null);
    if let Some(ms) = report.idle_since_ms {
        set(out, "idle_since", timestamp(ms));
    }
    let stats = &report.stats;
    if *stats != MessageStats::default() {
        let mut all = Map::new();
        rates::put_stats(&mut all, stats, series, range, MessageStats::OF_QUEUE);
        set(out, "message_stats", Value::Object(all));
    }
}

fn put_policy(out: &mut Map<String, Value>, topology: &Topology, queue: &QueueInfo) {
    let definition = match queue.policy.is_some() || queue.operator_policy.is_some() {
        true => topology
            .vhost(&queue.vhost)
            .map(|vhost| vhost.queue_policy_definition(queue)),
        false => None,
    };
    let definition = Value::Object(definition.unwrap_or_default());
    set(out, "effective_policy_definition", definition);
}

/// Places by group: a queue's place is its group's.
#[derive(Default)]
struct Places(FxHashMap<u32, Place>);

impl Places {
    fn of(&mut self, broker: &dyn Broker, queue: &QueueInfo) -> &Place {
        self.0
            .entry(queue.group)
            .or_insert_with(|| broker.place(queue))
    }
}

pub fn list(call: &Call) -> Result {
    let (view, range) = (call.view()?, call.range()?);
    let queues: Vec<Arc<QueueInfo>> = {
        let topology = call.topology();
        let vhosts = call.visible(&topology)?;
        vhosts
            .into_iter()
            .flat_map(|vhost| vhost.queues())
            .collect()
    };
    let mut places = Places::default();
    let mut items = Vec::with_capacity(queues.len());
    for (at, queue) in queues.iter().enumerate() {
        let mut item = basic(queue, places.of(call.broker(), queue));
        // Finds the queue again after sorting.
        set(&mut item, "", at);
        items.push(Value::Object(item));
    }
    let only_basic = call.is_set("disable_stats") && !call.is_set("enable_queue_totals");
    let more = |mut items: Vec<Value>| {
        let reports = match only_basic {
            true => FxHashMap::default(),
            false => call.broker().queues(Reach::Everywhere),
        };
        let samples = call.api.samples();
        let topology = call.topology();
        for item in &mut items {
            let Some(fields) = item.as_object_mut() else {
                continue;
            };
            let at = fields.remove("").and_then(|at| at.as_u64());
            let queue = at.and_then(|at| queues.get(at as usize));
            if only_basic {
                continue;
            }
            if let Some(queue) = queue {
                put_policy(fields, &topology, queue);
                let report = reports.get(&queue.id.0);
                let place = places.of(call.broker(), queue);
                put_more(fields, queue, place, report, &samples, range);
            }
        }
        items
    };
    let listed = view.lazy(items, &["vhost", "name"], BASIC, more)?;
    Ok(Reply::Json(listed))
}

fn find(call: &Call) -> Option<Arc<QueueInfo>> {
    let topology = call.topology();
    topology.queue(call.vhost(), call.param("queue")).cloned()
}

pub fn get(call: &Call) -> Result {
    let range = call.range()?;
    let queue = find(call).ok_or_else(Failure::missing)?;
    let place = call.broker().place(&queue);
    let mut item = basic(&queue, &place);
    put_policy(&mut item, &call.topology(), &queue);
    if !call.is_set("disable_stats") {
        let reports = call.broker().queues(Reach::Everywhere);
        let report = reports.get(&queue.id.0);
        put_more(
            &mut item,
            &queue,
            &place,
            report,
            &call.api.samples(),
            range,
        );
        let consumers = connections::consumers_of(call, queue.id.0);
        set(&mut item, "consumer_details", consumers);
        // Rates by source and target are not kept.
        set(&mut item, "incoming", json!([]));
        set(&mut item, "deliveries", json!([]));
    }
    if let Some(owner) = queue.exclusive_owner {
        let all = call.broker().connections(Reach::Everywhere);
        if let Some(connection) = all.iter().find(|c| c.id == owner) {
            let details = json!({
                "name": connection.name, "peer_host": connection.peer.ip().to_canonical(),
                "peer_port": connection.peer.port(),
            });
            set(&mut item, "owner_pid_details", details);
        }
    }
    call.one(Value::Object(item))
}

pub fn put(call: &Call) -> Result {
    if call.topology().vhost(call.vhost()).is_none() {
        return Err(Failure::not_found("vhost_not_found"));
    }
    let known = find(call).is_some();
    let body = call.json()?;
    let mut arguments = json::arguments(&body)?;
    // The newer form of the API has the type beside the arguments as well.
    if let Some(kind) = body.get("type").and_then(Value::as_str)
        && QueueType::from_name(kind).is_some()
        && !arguments.contains("x-queue-type")
    {
        arguments.insert("x-queue-type", kind);
    }
    let declare = QueueDeclare {
        queue: short(call.param("queue"))?,
        durable: json::flag(&body, "durable")?,
        auto_delete: json::flag(&body, "auto_delete")?,
        arguments,
        ..Default::default()
    };
    call.channel(async |channel| channel.call(declare).await.map_err(|c| refused(&c)))?;
    Ok(Reply::Put { made: !known })
}

pub fn delete(call: &Call) -> Result {
    find(call).ok_or_else(Failure::missing)?;
    let delete = QueueDelete {
        queue: short(call.param("queue"))?,
        if_unused: call.is_set("if-unused"),
        if_empty: call.is_set("if-empty"),
        ..Default::default()
    };
    call.channel(async |channel| channel.call(delete).await.map_err(|c| refused(&c)))?;
    Ok(Reply::Done)
}

pub fn purge(call: &Call) -> Result {
    find(call).ok_or_else(Failure::missing)?;
    let purge = QueuePurge {
        queue: short(call.param("queue"))?,
        ..Default::default()
    };
    call.channel(async |channel| channel.call(purge).await.map_err(|c| refused(&c)))?;
    Ok(Reply::Done)
}

/// A mirror is brought up to date by itself, while the queue works.
pub fn action(call: &Call) -> Result {
    let missing = || match call.topology().vhost(call.vhost()) {
        None => Failure::not_found("vhost_not_found"),
        Some(_) => Failure::not_found("queue_not_found"),
    };
    find(call).ok_or_else(missing)?;
    let body = call.json()?;
    let [action] = json::fields(&body, ["action"])?;
    match action.as_str() {
        Some("sync" | "cancel_sync") => Ok(Reply::Done),
        _ => Err(Failure::bad_request(json!(["unknown", action]))),
    }
}
