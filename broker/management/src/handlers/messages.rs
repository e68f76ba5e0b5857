//! Publishing a message and fetching some.

use leveret_protocol::method::{
    BasicGet, BasicNack, BasicPublish, BasicReject, ConfirmSelect, Method,
};
use leveret_protocol::{BasicProperties, ShortStr};
use serde_json::{Map, Value, json};

use super::refused_in_full;
use crate::amqp::{Channel, Closed, Content};
use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};

/// Messages of one request at most, and bytes of their bodies.
const COUNT_MAX: i64 = 10_000;
const BYTES_MAX: usize = 128 << 20;

fn short(name: &str) -> Result<ShortStr> {
    ShortStr::try_from(name).map_err(|_| Failure::bad_request("a name is longer than 255 bytes"))
}

pub fn publish(call: &Call) -> Result {
    let topology = call.topology();
    let exists = topology.vhost(call.vhost()).is_some();
    drop(topology);
    if !exists {
        return Err(Failure::not_found("vhost_not_found"));
    }
    let body = call.json()?;
    let given = json::fields(
        &body,
        ["routing_key", "properties", "payload", "payload_encoding"],
    )?;
    let [key, properties, payload, encoding] = given;
    let payload = payload
        .as_str()
        .ok_or_else(|| Failure::bad_request("payload_not_string"))?;
    let payload = json::payload(payload, json::text(encoding, "payload_encoding")?)?;
    let properties = json::properties(properties)?;
    let publish = BasicPublish {
        exchange: short(call.exchange("exchange"))?,
        routing_key: short(json::text(key, "routing_key")?)?,
        mandatory: true,
        ..Default::default()
    };
    let routed = call.channel(async |channel| {
        confirmed(channel, publish, &properties, &payload)
            .await
            .map_err(refused_in_full)
    })?;
    match routed {
        Some(routed) => Ok(Reply::Json(json!({"routed": routed}))),
        None => Err(Failure::bad_request(
            "rejected Unable to publish message. Check queue limits.",
        )),
    }
}

/// Whether a message was routed; `None` if a queue refused it.
async fn confirmed(
    channel: &mut Channel,
    publish: BasicPublish,
    properties: &BasicProperties,
    payload: &[u8],
) -> Result<Option<bool>, Closed> {
    channel.call(ConfirmSelect::default()).await?;
    channel.publish(publish, properties, payload).await?;
    let mut routed = true;
    loop {
        match channel.next(1).await?.0 {
            Method::BasicReturn(_) => routed = false,
            Method::BasicAck(_) => return Ok(Some(routed)),
            Method::BasicNack(_) => return Ok(None),
            _ => {}
        }
    }
}

/// What becomes of fetched messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum AckMode {
    AckRequeueTrue,
    AckRequeueFalse,
    RejectRequeueTrue,
    RejectRequeueFalse,
}

fn ack_mode(text: &str) -> Result<AckMode> {
    match text {
        "ack_requeue_true" => Ok(AckMode::AckRequeueTrue),
        "ack_requeue_false" => Ok(AckMode::AckRequeueFalse),
        "reject_requeue_true" => Ok(AckMode::RejectRequeueTrue),
        "reject_requeue_false" => Ok(AckMode::RejectRequeueFalse),
        other => Err(Failure::bad_request(json!(["unknown_ackmode", other]))),
    }
}

pub fn get(call: &Call) -> Result {
    let body = call.json()?;
    let [mode, count, encoding] = json::fields(&body, ["ackmode", "count", "encoding"])?;
    let mode = ack_mode(json::text(mode, "ackmode")?)?;
    let count = json::integer(count)?;
    let auto = match json::text(encoding, "encoding")? {
        "auto" => true,
        "base64" => false,
        _ => {
            let reason = "Unsupported encoding. Please use auto or base64.";
            return Err(Failure::bad_request(reason));
        }
    };
    let truncate = match body.get("truncate") {
        None | Some(Value::Null) => usize::MAX,
        Some(value) => usize::try_from(json::integer(value)?).unwrap_or(0),
    };
    if !(0..=COUNT_MAX).contains(&count) {
        return Err(Failure::bad_request(json!(["count_out_of_range", count])));
    }
    {
        let topology = call.topology();
        if topology.vhost(call.vhost()).is_none() {
            return Err(Failure::not_found("vhost_not_found"));
        }
        if topology.queue(call.vhost(), call.param("queue")).is_none() {
            return Err(Failure::not_found("queue_not_found"));
        }
    }
    let queue = short(call.param("queue"))?;
    let messages = call.channel(async |channel| {
        let fetched = fetch(channel, queue, mode, count as usize).await;
        fetched.map_err(refused_in_full)
    })?;
    let value = |(method, content): &(Method, Content)| message(method, content, auto, truncate);
    Ok(Reply::Json(messages.iter().map(value).collect()))
}

async fn fetch(
    channel: &mut Channel,
    queue: ShortStr,
    mode: AckMode,
    count: usize,
) -> Result<Vec<(Method, Content)>, Closed> {
    let get = BasicGet {
        queue,
        no_ack: mode == AckMode::AckRequeueFalse,
        ..Default::default()
    };
    let mut messages = Vec::new();
    let mut bytes = 0;
    while messages.len() < count && bytes < BYTES_MAX {
        match channel.call(get.clone()).await? {
            (method @ Method::BasicGetOk(_), Some(content)) => {
                bytes += content.body.len();
                messages.push((method, content));
            }
            _ => break,
        }
    }
    // Only now: what is given back would be fetched again.
    for (method, _) in &messages {
        let Method::BasicGetOk(got) = method else {
            continue;
        };
        let delivery_tag = got.delivery_tag;
        match mode {
            AckMode::AckRequeueFalse => {}
            AckMode::AckRequeueTrue => {
                let nack = BasicNack {
                    delivery_tag,
                    multiple: false,
                    requeue: true,
                };
                channel.send(nack).await?;
            }
            AckMode::RejectRequeueTrue | AckMode::RejectRequeueFalse => {
                let reject = BasicReject {
                    delivery_tag,
                    requeue: mode == AckMode::RejectRequeueTrue,
                };
                channel.send(reject).await?;
            }
        }
    }
    Ok(messages)
}

fn message(method: &Method, content: &Content, auto: bool, truncate: usize) -> Value {
    let Method::BasicGetOk(got) = method else {
        return Value::Null;
    };
    let shown = content.body.get(..truncate).unwrap_or(&content.body);
    let (payload, encoding) = json::payload_value(shown, auto);
    let mut out = Map::new();
    out.insert("payload_bytes".to_owned(), json!(content.body.len()));
    out.insert("redelivered".to_owned(), json!(got.redelivered));
    let exchange = got.exchange.to_string_lossy();
    out.insert("exchange".to_owned(), json!(exchange));
    let key = got.routing_key.to_string_lossy();
    out.insert("routing_key".to_owned(), json!(key));
    out.insert("message_count".to_owned(), json!(got.message_count));
    let properties = json::properties_value(&content.properties);
    out.insert("properties".to_owned(), properties);
    out.insert("payload".to_owned(), json!(payload));
    out.insert("payload_encoding".to_owned(), json!(encoding));
    Value::Object(out)
}
