//! Health checks: 200 while all is well, else 503 with the reason.

use leveret_protocol::BasicProperties;
use leveret_protocol::method::{BasicGet, BasicPublish, Method, QueueDeclare};
use serde_json::{Map, Value, json};

use super::exchanges::short;
use super::refused_in_full;
use crate::broker::NodeReport;
use crate::call::Call;
use crate::reply::{Failure, Reply, Result};

fn ok() -> Result {
    Ok(Reply::Json(json!({"status": "ok"})))
}

fn failed(reason: &str, more: Value) -> Result {
    let mut body = Map::new();
    body.insert("status".to_owned(), json!("failed"));
    body.insert("reason".to_owned(), json!(reason));
    if let Value::Object(more) = more {
        body.extend(more);
    }
    Ok(Reply::Status(503, Value::Object(body)))
}

/// The node that answers.
fn this(call: &Call) -> NodeReport {
    call.broker().node()
}

fn alarms_of(node: &NodeReport) -> Vec<Value> {
    let pairs = [(node.alarms.memory, "memory"), (node.alarms.disk, "disk")];
    let on = pairs.iter().filter(|(on, _)| *on);
    on.map(|(_, resource)| json!({"node": node.name, "resource": resource}))
        .collect()
}

pub fn alarms(call: &Call) -> Result {
    let on: Vec<Value> = call.broker().nodes().iter().flat_map(alarms_of).collect();
    match on.is_empty() {
        true => ok(),
        false => failed(
            "There are alarms in effect in the cluster",
            json!({"alarms": on}),
        ),
    }
}

pub fn local_alarms(call: &Call) -> Result {
    let on = alarms_of(&this(call));
    match on.is_empty() {
        true => ok(),
        false => failed(
            "There are alarms in effect on the node",
            json!({"alarms": on}),
        ),
    }
}

pub fn port(call: &Call) -> Result {
    let invalid = |_| Failure::bad_request("Invalid port");
    let port: i64 = call.param("port").parse().map_err(invalid)?;
    let listeners = this(call).listeners;
    let ports: Vec<u16> = listeners.iter().map(|l| l.address.port()).collect();
    match ports.iter().any(|p| i64::from(*p) == port) {
        true => Ok(Reply::Json(json!({"status": "ok", "port": port}))),
        false => failed(
            "No active listener",
            json!({"missing": port, "ports": ports}),
        ),
    }
}

fn normal_protocol(name: &str) -> &str {
    match name {
        "amqp091" | "amqp0.9.1" | "amqp0-9-1" | "amqp0_9_1" => "amqp",
        "amqps" | "amqp+tls" | "amqp+ssl" => "amqp/ssl",
        "http1" | "http1.1" | "http_api" | "management" | "management_ui" | "ui" => "http",
        "cli" | "distribution" => "clustering",
        "prometheus" => "http/prometheus",
        other => other,
    }
}

pub fn protocol(call: &Call) -> Result {
    let lower = call.param("protocol").to_lowercase();
    let wanted = normal_protocol(&lower);
    let listeners = this(call).listeners;
    let mut protocols: Vec<&str> = listeners.iter().map(|l| l.protocol.as_str()).collect();
    protocols.dedup();
    match protocols.contains(&wanted) {
        true => Ok(Reply::Json(json!({"status": "ok", "protocol": wanted}))),
        false => failed(
            "No active listener",
            json!({"missing": wanted, "protocols": protocols}),
        ),
    }
}

pub fn certificates(call: &Call) -> Result {
    let number: u64 = call
        .param("within")
        .parse()
        .map_err(|_| Failure::bad_request("Invalid expiration value."))?;
    let days: u64 = match call.param("unit").to_lowercase().as_str() {
        "days" => 1,
        "weeks" => 7,
        "months" => 30,
        "years" => 365,
        _ => {
            let reason = "Time unit not recognised. Supported units: days, weeks, months, years.";
            return Err(Failure::bad_request(reason));
        }
    };
    let seconds = number.saturating_mul(days).saturating_mul(86_400);
    let until_ms = call
        .broker()
        .now_ms()
        .saturating_add(seconds.saturating_mul(1000));
    let expiring: Vec<Value> = call
        .broker()
        .certificate_ends()
        .into_iter()
        .filter(|(_, _, ends_ms)| ends_ms.is_none_or(|ends| ends <= until_ms))
        .map(|(port, file, ends_ms)| {
            let on: Vec<String> = ends_ms.map(crate::text::timestamp).into_iter().collect();
            json!({
                "node": call.broker().node_name(), "port": port, "certfile": file,
                "certfile_expires_on": on,
            })
        })
        .collect();
    match expiring.is_empty() {
        true => ok(),
        false => failed("Certificates expiring", json!({"expired": expiring})),
    }
}

/// A virtual host runs wherever its node does, and connections are accepted while the node runs.
pub fn virtual_hosts(_: &Call) -> Result {
    ok()
}

pub fn quorum_critical(call: &Call) -> Result {
    if call.broker().member_names().len() <= 1 {
        let body = json!({"status": "ok", "reason": "single node cluster"});
        return Ok(Reply::Json(body));
    }
    let node = this(call);
    let critical: Vec<Value> = node
        .groups
        .iter()
        .filter(|group| group.spare == 0)
        .map(|group| json!({"group": group.group}))
        .collect();
    match critical.is_empty() {
        true => ok(),
        false => failed(
            "There are quorum queues that would lose their quorum if the target node is shut down",
            json!({"queues": critical}),
        ),
    }
}

pub fn in_service(call: &Call) -> Result {
    let node = this(call);
    if node.alarms.minority {
        return failed("the node hears no majority of its cluster", Value::Null);
    }
    match node.maintenance {
        false => ok(),
        true => failed("the node is in maintenance mode", Value::Null),
    }
}

pub fn cluster_size(call: &Call) -> Result {
    let nodes = call.broker().nodes();
    let down: Vec<&str> = nodes
        .iter()
        .filter(|node| !node.running)
        .map(|node| node.name.as_str())
        .collect();
    match down.is_empty() {
        true => ok(),
        false => failed("nodes of the cluster are missing", json!({"missing": down})),
    }
}

pub fn metadata(call: &Call) -> Result {
    let there = call.topology().vhosts().next().is_some();
    match there {
        true => ok(),
        false => failed("the metadata is not there yet", Value::Null),
    }
}

pub fn leaders(call: &Call) -> Result {
    let topology = call.topology();
    let vhosts = call.visible(&topology)?;
    let queues: Vec<_> = vhosts
        .into_iter()
        .flat_map(|vhost| vhost.queues())
        .collect();
    drop(topology);
    let mut led = rustc_hash::FxHashMap::default();
    let without: Vec<Value> = queues
        .iter()
        .filter(|queue| {
            let is_led = led
                .entry(queue.group)
                .or_insert_with(|| call.broker().place(queue).leader.is_some());
            !*is_led
        })
        .map(|queue| json!({"name": queue.name, "virtual_host": queue.vhost, "type": queue.kind.as_str()}))
        .collect();
    match without.is_empty() {
        true => ok(),
        false => failed(
            "Detected quorum queues without an elected leader",
            json!({"queues": without}),
        ),
    }
}

/// The old check: alarms, and that the node answers.
pub fn node(call: &Call) -> Result {
    let nodes = call.broker().nodes();
    let name = call.optional("node").unwrap_or(call.broker().node_name());
    let node = nodes.iter().find(|node| node.name == name);
    let node = node.ok_or_else(Failure::missing)?;
    let mut on = alarms_of(node);
    if !node.running {
        on.push(json!("the node is not running"));
    }
    if node.alarms.minority {
        on.push(json!("the node hears no majority of its cluster"));
    }
    match on.is_empty() {
        true => ok(),
        false => Ok(Reply::Json(json!({
            "status": "failed", "reason": format!("resource alarm(s) in effect: {}", json!(on)),
        }))),
    }
}

const QUEUE: &str = "aliveness-test";

pub fn aliveness(call: &Call) -> Result {
    if call.topology().vhost(call.vhost()).is_none() {
        return Err(Failure::missing());
    }
    let queue = short(QUEUE)?;
    let declare = QueueDeclare {
        queue: queue.clone(),
        ..Default::default()
    };
    let publish = BasicPublish {
        routing_key: queue.clone(),
        ..Default::default()
    };
    let get = BasicGet {
        queue,
        no_ack: true,
        ..Default::default()
    };
    let fetched = call.channel(async |channel| {
        let work = async {
            channel.call(declare).await?;
            let properties = BasicProperties::default();
            channel
                .publish(publish, &properties, b"test_message")
                .await?;
            channel.call(get).await
        };
        work.await.map_err(refused_in_full)
    })?;
    match fetched.0 {
        Method::BasicGetOk(_) => ok(),
        _ => failed("aliveness-test queue is empty", Value::Null),
    }
}
