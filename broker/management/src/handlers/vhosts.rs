//! Virtual hosts.

use leveret_topology::{Command, DeleteVhost, Name, PutVhost, VHost};
use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use super::users::tags;
use crate::broker::{QueueReport, Reach};
use crate::call::Call;
use crate::json;
use crate::rates::{self, Samples};
use crate::reply::{Failure, Reply, Result};
use crate::stats::MessageStats;

/// What AMQP can name.
const NAME_BYTES_MAX: usize = 255;

fn basic(call: &Call, vhost: &VHost) -> Map<String, Value> {
    let kind = vhost.default_queue_type();
    let kind = json!(kind.map_or("undefined", |kind| kind.as_str()));
    let mut metadata = Map::new();
    metadata.insert("description".to_owned(), json!(vhost.description()));
    metadata.insert("tags".to_owned(), json!(vhost.tags()));
    if vhost.default_queue_type().is_some() {
        metadata.insert("default_queue_type".to_owned(), kind.clone());
    }
    let members = call.broker().member_names();
    let state: Map<String, Value> = members
        .into_iter()
        .map(|name| (name, json!("running")))
        .collect();
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(vhost.name()));
    out.insert("description".to_owned(), json!(vhost.description()));
    out.insert("tags".to_owned(), json!(vhost.tags()));
    out.insert("default_queue_type".to_owned(), kind);
    out.insert("metadata".to_owned(), Value::Object(metadata));
    out.insert("tracing".to_owned(), json!(vhost.tracing()));
    out.insert("cluster_state".to_owned(), Value::Object(state));
    out
}

/// Adds what is in the queues of a virtual host.
fn put_totals(out: &mut Map<String, Value>, vhost: &VHost, reports: &FxHashMap<u64, QueueReport>) {
    let queues = vhost.queues();
    if queues.is_empty() {
        return;
    }
    let mut stats = MessageStats::default();
    let (mut ready, mut unacked) = (0, 0);
    for report in queues.iter().filter_map(|queue| reports.get(&queue.id.0)) {
        stats.add(&report.stats);
        ready += report.ready;
        unacked += report.unacked;
    }
    rates::put_depths(out, (ready, unacked), None, None);
    let mut all = Map::new();
    rates::put_stats(&mut all, &stats, None, None, MessageStats::OF_QUEUE);
    out.insert("message_stats".to_owned(), Value::Object(all));
}

pub fn list(call: &Call) -> Result {
    let reports = match call.is_set("disable_stats") {
        true => FxHashMap::default(),
        false => call.broker().queues(Reach::Everywhere),
    };
    let topology = call.topology();
    let mut items = Vec::new();
    for vhost in topology.vhosts() {
        if !call.caller.sees(&topology, vhost.name()) {
            continue;
        }
        let mut item = basic(call, vhost);
        if !call.is_set("disable_stats") {
            put_totals(&mut item, vhost, &reports);
        }
        items.push(Value::Object(item));
    }
    drop(topology);
    call.list(items, &["name"])
}

pub fn get(call: &Call) -> Result {
    let reports = call.broker().queues(Reach::Everywhere);
    let topology = call.topology();
    let vhost = topology.vhost(call.vhost()).ok_or_else(Failure::missing)?;
    let mut item = basic(call, vhost);
    put_totals(&mut item, vhost, &reports);
    drop(topology);
    call.one(Value::Object(item))
}

pub fn put(call: &Call) -> Result {
    let body = call.json()?;
    let name = call.vhost();
    if name.len() > NAME_BYTES_MAX {
        return Err(Failure::bad_request("a name is longer than 255 bytes"));
    }
    let (exists, before) = {
        let topology = call.topology();
        let vhost = topology.vhost(name);
        let of = |vhost: &VHost| (vhost.description().to_owned(), vhost.tags().to_vec());
        (vhost.is_some(), vhost.map(of).unwrap_or_default())
    };
    let description = match body.get("description") {
        None | Some(Value::Null) => before.0,
        Some(value) => json::text(value, "description")?.to_owned(),
    };
    let tags = match body.get("tags") {
        None | Some(Value::Null) => before.1,
        Some(value) => tags(value)?,
    };
    let kind = body
        .get("default_queue_type")
        .or_else(|| body.get("defaultqueuetype"));
    let kind = match kind {
        None | Some(Value::Null) => None,
        Some(value) => Some(Name::from(json::text(value, "default_queue_type")?)),
    };
    call.propose(Command::PutVhost(PutVhost {
        name: Name::from(name),
        description,
        tags,
        default_queue_type: kind,
        tracing: json::optional_flag(&body, "tracing")?,
        user: Some(Name::from(call.caller.name.as_str())),
    }))?;
    Ok(Reply::Put { made: !exists })
}

pub fn delete(call: &Call) -> Result {
    let name = call.vhost();
    if call.topology().vhost(name).is_none() {
        return Err(Failure::missing());
    }
    let name = Name::from(name);
    call.propose(Command::DeleteVhost(DeleteVhost { name }))?;
    Ok(Reply::Done)
}

/// A virtual host runs wherever its node does.
pub fn start(call: &Call) -> Result {
    let members = call.broker().member_names();
    let known = members.iter().any(|name| name == call.param("node"));
    if call.topology().vhost(call.vhost()).is_none() || !known {
        return Err(Failure::missing());
    }
    Ok(Reply::Done)
}

/// The samples, for whoever wants rates.
pub(super) fn with_samples<T>(call: &Call, work: impl FnOnce(&Samples) -> T) -> T {
    work(&call.api.samples())
}
