//! Bindings.

use std::hash::Hasher;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use leveret_protocol::FieldTable;
use leveret_protocol::method::{ExchangeBind, ExchangeUnbind, QueueBind, QueueUnbind};
use leveret_topology::{
    Arguments, Binding, BindingId, Destination, Key, Name, VHost, arguments_to_json,
};
use rustc_hash::FxHasher;
use serde_json::{Value, json};

use super::exchanges::short;
use super::refused;
use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};
use crate::text::{quote, unquote};

const ORDER: &[&str] = &[
    "vhost",
    "source",
    "type",
    "destination",
    "routing_key",
    "properties_key",
];

/// What tells a binding from others of the same pair, for paths: the key, or `~` for the empty one, then a hash of the arguments if there
/// are any. RabbitMQ's hash is another one; nobody computes it but the broker.
fn properties_key(id: &BindingId) -> String {
    let key = id.routing_key.to_string_lossy();
    let key = match key.as_ref() {
        "" => "~".to_owned(),
        key => quote(key),
    };
    match id.arguments.is_empty() {
        true => key,
        false => format!("{key}~{}", hash(&id.arguments)),
    }
}

fn hash(arguments: &Arguments) -> String {
    let sorted = arguments.clone().sorted();
    let mut hasher = FxHasher::default();
    hasher.write(arguments_to_json(&sorted).to_string().as_bytes());
    let short = (hasher.finish() >> 32) as u32;
    URL_SAFE_NO_PAD.encode(short.to_be_bytes())
}

fn value(vhost: &str, id: &BindingId) -> Value {
    let kind = match id.destination {
        Destination::Queue(_) => "queue",
        Destination::Exchange(_) => "exchange",
    };
    json!({
        "source": id.source, "vhost": vhost, "destination": id.destination.name(),
        "destination_type": kind, "routing_key": id.routing_key.to_string_lossy(),
        "arguments": arguments_to_json(&id.arguments), "properties_key": properties_key(id),
    })
}

/// By which the default exchange has a queue.
fn implicit(queue: &Name) -> BindingId {
    BindingId {
        source: Name::default(),
        destination: Destination::Queue(queue.clone()),
        routing_key: Key::from(queue.as_str()),
        arguments: Arguments::new(),
    }
}

fn all(vhost: &VHost) -> Vec<Value> {
    let queues = vhost.queues();
    let implicit = queues.iter().map(|queue| implicit(&queue.name));
    let implicit = implicit.map(|id| value(vhost.name(), &id));
    let bindings = vhost.bindings();
    let explicit = bindings.iter().map(|b| value(vhost.name(), &b.id));
    implicit.chain(explicit).collect()
}

pub fn list(call: &Call) -> Result {
    let topology = call.topology();
    let vhosts = call.visible(&topology)?;
    let items = vhosts.into_iter().flat_map(all).collect();
    drop(topology);
    call.list(items, ORDER)
}

/// Those of a virtual host that `of` finds.
fn some(call: &Call, of: impl FnOnce(&VHost) -> Vec<BindingId>) -> Result {
    let topology = call.topology();
    let vhost = topology.vhost(call.vhost()).ok_or_else(Failure::missing)?;
    let found = of(vhost);
    drop(topology);
    let items = found.iter().map(|id| value(call.vhost(), id)).collect();
    call.list(items, ORDER)
}

fn ids(bindings: &[std::sync::Arc<Binding>]) -> Vec<BindingId> {
    bindings.iter().map(|binding| binding.id.clone()).collect()
}

pub fn of_source(call: &Call) -> Result {
    some(call, |vhost| match call.exchange("exchange") {
        "" => vhost.queues().iter().map(|q| implicit(&q.name)).collect(),
        name => ids(&vhost.bindings_from(name)),
    })
}

pub fn of_destination(call: &Call) -> Result {
    let to = Destination::Exchange(Name::from(call.exchange("exchange")));
    some(call, |vhost| ids(&vhost.bindings_to(&to)))
}

pub fn of_queue(call: &Call) -> Result {
    let name = Name::from(call.param("queue"));
    let exists = call.topology().queue(call.vhost(), &name).is_some();
    some(call, |vhost| {
        let mut found = ids(&vhost.bindings_to(&Destination::Queue(name.clone())));
        if exists {
            found.push(implicit(&name));
        }
        found
    })
}

fn destination(call: &Call) -> Result<Destination> {
    match call.param("dtype") {
        "q" => Ok(Destination::Queue(Name::from(call.param("destination")))),
        "e" => Ok(Destination::Exchange(Name::from(
            call.exchange("destination"),
        ))),
        _ => Err(Failure::missing()),
    }
}

/// Those of a pair; `exists`: there is a queue of the destination's name.
fn pair(call: &Call, vhost: &VHost, to: &Destination, exists: bool) -> Vec<BindingId> {
    let source = call.exchange("source");
    let mut found = ids(&vhost.bindings_to(to));
    found.retain(|id| *id.source == *source);
    if let ("", Destination::Queue(name), true) = (source, to, exists) {
        found.push(implicit(name));
    }
    found
}

pub fn between(call: &Call) -> Result {
    let to = destination(call)?;
    let exists = call.topology().queue(call.vhost(), to.name()).is_some();
    some(call, |vhost| pair(call, vhost, &to, exists))
}

/// The binding in the path.
fn find(call: &Call) -> Result<BindingId> {
    let to = destination(call)?;
    let topology = call.topology();
    let vhost = topology.vhost(call.vhost()).ok_or_else(Failure::missing)?;
    let wanted = call.param("props");
    let (key, wanted_hash) = match wanted.strip_prefix('~') {
        Some("") => ("", None),
        Some(rest) => ("", rest.strip_prefix('~')),
        None => match wanted.split_once('~') {
            Some((key, hash)) => (key, Some(hash)),
            None => (wanted, None),
        },
    };
    let key = unquote(key).ok_or_else(Failure::missing)?;
    let exists = topology.queue(call.vhost(), to.name()).is_some();
    let mut found = pair(call, vhost, &to, exists).into_iter();
    let is_it = |id: &BindingId| {
        let own = (!id.arguments.is_empty()).then(|| hash(&id.arguments));
        id.routing_key.to_string_lossy() == key.as_str() && own.as_deref() == wanted_hash
    };
    found.find(is_it).ok_or_else(Failure::missing)
}

pub fn get(call: &Call) -> Result {
    let id = find(call)?;
    call.one(value(call.vhost(), &id))
}

pub fn bind(call: &Call) -> Result {
    let to = destination(call)?;
    if call.topology().vhost(call.vhost()).is_none() {
        return Err(Failure::not_found("vhost_not_found"));
    }
    let body = call.json()?;
    let key = match body.get("routing_key") {
        None | Some(Value::Null) => "",
        Some(value) => json::text(value, "routing_key")?,
    };
    let arguments = json::arguments(&body)?;
    let source = call.exchange("source");
    let id = BindingId {
        source: Name::from(source),
        destination: to,
        routing_key: Key::from(key),
        arguments: Arguments::from(arguments.clone()),
    };
    change(call, &id, true)?;
    let location = format!(
        "{}/{}",
        quote(call.param("destination")),
        // Once more, as it is a segment of a path now.
        properties_key(&id).replace('%', "%25").replace('+', "%2B")
    );
    Ok(Reply::Created(location))
}

pub fn unbind(call: &Call) -> Result {
    let id = find(call)?;
    change(call, &id, false)?;
    Ok(Reply::Done)
}

fn change(call: &Call, id: &BindingId, bind: bool) -> Result<()> {
    let source = short(&id.source)?;
    let target = short(id.destination.name())?;
    let routing_key = short(&id.routing_key.to_string_lossy())?;
    let arguments: FieldTable = id.arguments.as_table().clone();
    let method: leveret_protocol::Method = match (&id.destination, bind) {
        (Destination::Queue(_), true) => QueueBind {
            queue: target,
            exchange: source,
            routing_key,
            arguments,
            ..Default::default()
        }
        .into(),
        (Destination::Queue(_), false) => QueueUnbind {
            queue: target,
            exchange: source,
            routing_key,
            arguments,
            ..Default::default()
        }
        .into(),
        (Destination::Exchange(_), true) => ExchangeBind {
            destination: target,
            source,
            routing_key,
            arguments,
            ..Default::default()
        }
        .into(),
        (Destination::Exchange(_), false) => ExchangeUnbind {
            destination: target,
            source,
            routing_key,
            arguments,
            ..Default::default()
        }
        .into(),
    };
    call.channel(async |channel| channel.call(method).await.map_err(|c| refused(&c)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_are_told_apart_by_key_and_arguments() {
        let id = |key: &str, arguments: Arguments| BindingId {
            source: Name::from("x"),
            destination: Destination::Queue(Name::from("q")),
            routing_key: Key::from(key),
            arguments,
        };
        let one = || Arguments::from([("a", leveret_protocol::FieldValue::Int(1))]);
        assert_eq!(properties_key(&id("", Arguments::new())), "~");
        assert_eq!(
            properties_key(&id("a b/~c%", Arguments::new())),
            "a+b%2F%7Ec%25"
        );
        let key = properties_key(&id("a.b", one()));
        assert!(key.starts_with("a.b~") && key.len() == 10, "{key}");
        assert!(properties_key(&id("", one())).starts_with("~~"));
    }
}
