//! Lists of queues, exchanges and bindings; how a row is made of what its columns ask for.

use std::collections::HashMap;

use leveret_protocol::{FieldTable, FieldValue};
use leveret_queue::{QueueId, QueueView};
use leveret_topology::{Destination, OwnerId, QueueInfo, VHost};
use serde_json::{Value, json};

use super::Result;
use crate::ctl::columns::columns_of;
use crate::ctl::protocol::{Failure, Output, Request, cell, exit};
use crate::node::Node;

/// A table of `items` with the columns that are asked for; `value` gives a cell.
pub(super) fn pick<T>(
    request: &Request,
    items: impl IntoIterator<Item = T>,
    value: impl Fn(&T, &str) -> Value,
) -> Result {
    let columns = columns_of(request).map_err(|unknown| {
        let names = unknown.join(",");
        let text = format!("Info key(s) {names} are not supported");
        Failure::plain(exit::USAGE, text)
    })?;
    let row = |item: T| columns.iter().map(|column| value(&item, column)).collect();
    let rows = items.into_iter().map(row).collect();
    Ok(Output::Rows { columns, rows }.into())
}

/// How a connection is called where RabbitMQ has the pid of an Erlang process; a channel by its number, 0 is the connection.
pub(super) fn pid(node: &Node, connection: OwnerId, channel: u16) -> String {
    let (high, low) = ((connection.0 >> 64) as u64, connection.0 as u64);
    format!("<{}.{high}.{low}.{channel}>", node.name())
}

/// The connection that [`pid`] calls so.
pub(super) fn connection_of(pid: &str) -> Option<OwnerId> {
    let mut parts = pid.strip_prefix('<')?.strip_suffix('>')?.rsplitn(4, '.');
    let _channel: u16 = parts.next()?.parse().ok()?;
    let low: u64 = parts.next()?.parse().ok()?;
    let high: u64 = parts.next()?.parse().ok()?;
    parts.next()?;
    Some(OwnerId(u128::from(high) << 64 | u128::from(low)))
}

/// Arguments: as Erlang terms without types in a table, with types in JSON.
pub(super) fn arguments(table: &FieldTable) -> Value {
    cell(term_of_table(table), typed_table(table))
}

fn term_of_table(table: &FieldTable) -> String {
    let fields: Vec<String> = table
        .iter()
        .map(|(name, value)| format!("{{\"{}\",{}}}", name.to_string_lossy(), term(value)))
        .collect();
    format!("[{}]", fields.join(","))
}

fn term(value: &FieldValue) -> String {
    match value {
        FieldValue::LongStr(octets) | FieldValue::Binary(octets) => {
            format!("\"{}\"", String::from_utf8_lossy(octets))
        }
        FieldValue::Table(table) => term_of_table(table),
        FieldValue::Array(values) => {
            let items: Vec<String> = values.iter().map(term).collect();
            format!("[{}]", items.join(","))
        }
        FieldValue::Void => "undefined".to_owned(),
        FieldValue::Bool(value) => value.to_string(),
        FieldValue::Float(value) => value.to_string(),
        FieldValue::Double(value) => value.to_string(),
        FieldValue::Timestamp(value) => value.to_string(),
        FieldValue::Decimal { scale, value } => format!("{{{scale},{value}}}"),
        integer => integer
            .as_integer()
            .map_or_else(String::new, |n| n.to_string()),
    }
}

fn typed_table(table: &FieldTable) -> Value {
    let field = |(name, value): (&leveret_protocol::ShortStr, &FieldValue)| {
        let (kind, value) = typed(value);
        json!([name.to_string_lossy(), kind, value])
    };
    table
        .iter()
        .map(|(name, value)| field((name, value)))
        .collect()
}

fn typed(value: &FieldValue) -> (&'static str, Value) {
    let integer = || value.as_integer().map_or(Value::Null, Value::from);
    match value {
        FieldValue::Bool(value) => ("bool", json!(value)),
        FieldValue::Byte(_) => ("byte", integer()),
        FieldValue::UnsignedByte(_) => ("unsignedbyte", integer()),
        FieldValue::Short(_) => ("short", integer()),
        FieldValue::UnsignedShort(_) => ("unsignedshort", integer()),
        FieldValue::Int(_) => ("signedint", integer()),
        FieldValue::UnsignedInt(_) => ("unsignedint", integer()),
        FieldValue::Long(_) => ("long", integer()),
        FieldValue::Float(value) => ("float", json!(value)),
        FieldValue::Double(value) => ("double", json!(value)),
        FieldValue::Decimal { scale, value } => ("decimal", json!([scale, value])),
        FieldValue::LongStr(octets) => ("longstr", json!(String::from_utf8_lossy(octets))),
        FieldValue::Binary(octets) => ("binary", json!(String::from_utf8_lossy(octets))),
        FieldValue::Timestamp(value) => ("timestamp", json!(value)),
        FieldValue::Void => ("void", Value::Null),
        FieldValue::Table(table) => ("table", typed_table(table)),
        FieldValue::Array(values) => {
            let items = values.iter().map(|value| {
                let (kind, value) = typed(value);
                json!([kind, value])
            });
            ("array", items.collect())
        }
    }
}

pub fn queues(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let vhost = topology.vhost(request.vhost());
    let mut queues = vhost.map(VHost::queues).unwrap_or_default();
    let definitions: HashMap<QueueId, Value> = match vhost {
        Some(vhost) if request.args.iter().any(|a| a.contains("effective_policy")) => queues
            .iter()
            .map(|q| (q.id.0, Value::Object(vhost.queue_policy_definition(q))))
            .collect(),
        _ => HashMap::new(),
    };
    drop(topology);
    if request.flag("offline") {
        queues.clear();
    }
    // One look at a group instead of one for each of its queues.
    let views: HashMap<QueueId, QueueView> = node
        .views_everywhere()
        .into_iter()
        .map(|view| (view.id, view))
        .collect();
    pick(request, &queues, |queue, column| {
        let view = views.get(&queue.id.0);
        let definition = definitions.get(&queue.id.0);
        queue_cell(node, queue, view, definition, column)
    })
}

fn queue_cell(
    node: &Node,
    queue: &QueueInfo,
    view: Option<&QueueView>,
    definition: Option<&Value>,
    column: &str,
) -> Value {
    let depth = view.map(|view| view.depth).unwrap_or_default();
    // Of the bodies that wait, those in memory; their sizes are taken to be alike.
    let hot = view.map_or(0, |view| view.hot_messages).min(depth.ready);
    let hot_bytes = (u128::from(depth.ready_bytes) * u128::from(hot))
        .checked_div(u128::from(depth.ready))
        .unwrap_or(0) as u64;
    let name = |name: &Option<leveret_topology::Name>| json!(name.as_deref().unwrap_or(""));
    match column {
        "name" => json!(queue.name),
        "vhost" => json!(queue.vhost),
        "type" => json!(queue.kind.as_str()),
        "durable" => json!(queue.durable),
        "auto_delete" => json!(queue.auto_delete),
        "exclusive" => json!(queue.is_exclusive()),
        "arguments" => arguments(&queue.arguments),
        "policy" => name(&queue.policy),
        "operator_policy" => name(&queue.operator_policy),
        "effective_policy_definition" => {
            let definition = definition.cloned().unwrap_or_else(|| json!({}));
            cell(definition.to_string(), definition)
        }
        "pid" => {
            let leader = node.leader_of(queue).unwrap_or_default();
            json!(format!("<{leader}.0.{}.0>", queue.id.0))
        }
        "owner_pid" => match queue.exclusive_owner {
            Some(owner) => json!(pid(node, owner, 0)),
            None => json!(""),
        },
        "messages" => json!(depth.ready + depth.unacked),
        "messages_ready" => json!(depth.ready),
        "messages_unacknowledged" => json!(depth.unacked),
        "messages_ready_ram" | "messages_ram" => json!(hot),
        "message_bytes" => json!(depth.ready_bytes + depth.unacked_bytes),
        "message_bytes_ready" => json!(depth.ready_bytes),
        "message_bytes_unacknowledged" => json!(depth.unacked_bytes),
        "message_bytes_ram" | "memory" => json!(hot_bytes),
        "consumers" => json!(depth.consumers),
        "leader" => json!(node.leader_of(queue).unwrap_or_default()),
        "members" => json!(node.members_of(queue).0),
        "online" => json!(node.members_of(queue).1),
        // One that is being made has no view yet either, for a moment.
        "state" => json!(match node.leader_of(queue) {
            Some(_) => "running",
            None => "down",
        }),
        _ => json!(""),
    }
}

/// `list_unresponsive_queues`: those that nobody leads.
pub fn unresponsive(node: &Node, request: &Request) -> Result {
    let mut queues = node
        .topology()
        .vhost(request.vhost())
        .map(VHost::queues)
        .unwrap_or_default();
    queues.retain(|queue| node.leader_of(queue).is_none());
    pick(request, &queues, |queue, column| {
        queue_cell(node, queue, None, None, column)
    })
}

pub fn exchanges(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let vhost = topology.vhost(request.vhost());
    let exchanges = vhost.map(VHost::exchanges).unwrap_or_default();
    drop(topology);
    pick(request, &exchanges, |exchange, column| match column {
        "name" => json!(exchange.name),
        "type" => json!(exchange.kind.as_str()),
        "durable" => json!(exchange.durable),
        "auto_delete" => json!(exchange.auto_delete),
        "internal" => json!(exchange.internal),
        "arguments" => arguments(&exchange.arguments),
        "policy" => json!(exchange.policy.as_deref().unwrap_or("")),
        _ => json!(""),
    })
}

/// A binding, also one by which the default exchange has every queue.
struct Row {
    source: String,
    kind: &'static str,
    destination: String,
    routing_key: String,
    arguments: Value,
}

pub fn bindings(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let vhost = topology.vhost(request.vhost());
    let queues = vhost.map(VHost::queues).unwrap_or_default();
    let bindings = vhost.map(VHost::bindings).unwrap_or_default();
    drop(topology);
    let implicit = queues.iter().map(|queue| Row {
        source: String::new(),
        kind: "queue",
        destination: queue.name.to_string(),
        routing_key: queue.name.to_string(),
        arguments: arguments(&FieldTable::new()),
    });
    let explicit = bindings.iter().map(|binding| Row {
        source: binding.id.source.to_string(),
        kind: match binding.id.destination {
            Destination::Queue(_) => "queue",
            Destination::Exchange(_) => "exchange",
        },
        destination: binding.id.destination.name().to_string(),
        routing_key: binding.id.routing_key.to_string_lossy().into_owned(),
        arguments: arguments(&binding.id.arguments),
    });
    pick(
        request,
        implicit.chain(explicit),
        |row, column| match column {
            "source_name" => json!(row.source),
            "source_kind" => json!("exchange"),
            "destination_name" => json!(row.destination),
            "destination_kind" => json!(row.kind),
            "routing_key" => json!(row.routing_key),
            "arguments" => row.arguments.clone(),
            _ => json!(""),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_names_its_connection() {
        let id = OwnerId(7 << 64 | 12);
        assert_eq!(connection_of("<leveret@a.b.7.12.0>"), Some(id));
        assert_eq!(connection_of("<leveret@a.b.7.12.3>"), Some(id));
        for bad in [
            "",
            "bogus",
            "<>",
            "<7.12.0>",
            "<a.x.12.0>",
            "<a.7.12.70000>",
        ] {
            assert_eq!(connection_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn arguments_look_as_rabbitmqs() {
        let table: FieldTable = [
            ("x-max-length", FieldValue::Int(100)),
            ("a", FieldValue::from("b")),
            ("t", FieldValue::Table(FieldTable::new())),
            ("l", FieldValue::Array(vec![FieldValue::Bool(true)])),
        ]
        .into_iter()
        .map(|(name, value)| {
            (
                leveret_protocol::ShortStr::truncated(name.as_bytes()),
                value,
            )
        })
        .collect();
        let expected = cell(
            "[{\"x-max-length\",100},{\"a\",\"b\"},{\"t\",[]},{\"l\",[true]}]",
            json!([
                ["x-max-length", "signedint", 100],
                ["a", "longstr", "b"],
                ["t", "table", []],
                ["l", "array", [["bool", true]]]
            ]),
        );
        assert_eq!(arguments(&table), expected);
    }
}
