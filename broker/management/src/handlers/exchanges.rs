//! Exchanges.

use leveret_protocol::ShortStr;
use leveret_protocol::method::{ExchangeDeclare, ExchangeDelete};
use leveret_topology::{ExchangeInfo, Topology, arguments_to_json};
use serde_json::{Map, Value, json};

use super::refused;
use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};

fn value(exchange: &ExchangeInfo) -> Map<String, Value> {
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(exchange.name));
    out.insert("vhost".to_owned(), json!(exchange.vhost));
    out.insert("type".to_owned(), json!(exchange.kind.as_str()));
    out.insert("durable".to_owned(), json!(exchange.durable));
    out.insert("auto_delete".to_owned(), json!(exchange.auto_delete));
    out.insert("internal".to_owned(), json!(exchange.internal));
    out.insert(
        "arguments".to_owned(),
        arguments_to_json(&exchange.arguments),
    );
    // RabbitMQ says `rmq-internal` of those that it made.
    let by = exchange.declared_by.as_deref().unwrap_or("rmq-internal");
    out.insert("user_who_performed_action".to_owned(), json!(by));
    if let Some(policy) = &exchange.policy {
        out.insert("policy".to_owned(), json!(policy));
    }
    out
}

pub fn list(call: &Call) -> Result {
    let topology = call.topology();
    let vhosts = call.visible(&topology)?;
    let exchanges: Vec<_> = vhosts.into_iter().flat_map(|v| v.exchanges()).collect();
    drop(topology);
    let items = exchanges.iter().map(|x| Value::Object(value(x))).collect();
    call.list(items, &["vhost", "name"])
}

fn exists(topology: &Topology, call: &Call) -> bool {
    let name = call.exchange("exchange");
    topology.exchange(call.vhost(), name).is_some()
}

pub fn get(call: &Call) -> Result {
    call.range()?;
    let name = call.exchange("exchange");
    let found = call.topology().exchange(call.vhost(), name).cloned();
    let mut item = value(&*found.ok_or_else(Failure::missing)?);
    // Rates by source and destination are not kept.
    item.insert("incoming".to_owned(), json!([]));
    item.insert("outgoing".to_owned(), json!([]));
    call.one(Value::Object(item))
}

pub fn put(call: &Call) -> Result {
    let known = {
        let topology = call.topology();
        if topology.vhost(call.vhost()).is_none() {
            return Err(Failure::not_found("vhost_not_found"));
        }
        exists(&topology, call)
    };
    let body = call.json()?;
    let kind = match body.get("type") {
        None | Some(Value::Null) => "direct",
        Some(value) => json::text(value, "type")?,
    };
    let declare = ExchangeDeclare {
        exchange: short(call.exchange("exchange"))?,
        kind: short(kind)?,
        durable: json::flag(&body, "durable")?,
        auto_delete: json::flag(&body, "auto_delete")?,
        internal: json::flag(&body, "internal")?,
        arguments: json::arguments(&body)?,
        ..Default::default()
    };
    call.channel(async |channel| channel.call(declare).await.map_err(|c| refused(&c)))?;
    Ok(Reply::Put { made: !known })
}

pub fn delete(call: &Call) -> Result {
    if !exists(&call.topology(), call) {
        return Err(Failure::missing());
    }
    let delete = ExchangeDelete {
        exchange: short(call.exchange("exchange"))?,
        if_unused: call.is_set("if-unused"),
        ..Default::default()
    };
    call.channel(async |channel| channel.call(delete).await.map_err(|c| refused(&c)))?;
    Ok(Reply::Done)
}

/// A name that AMQP can carry.
pub(super) fn short(name: &str) -> Result<ShortStr> {
    ShortStr::try_from(name).map_err(|_| Failure::bad_request("a name is longer than 255 bytes"))
}
