//! Export of definitions.
//!
//! As in RabbitMQ: without exclusive queues and their bindings, without the
//! exchanges whose names begin with `amq.`. Unlike RabbitMQ, internal exchanges
//! are in it, because its own import takes them.

use serde_json::{Map, Value, json};

use super::json::object;
use crate::access::User;
use crate::model::{Binding, Destination};
use crate::ops::VHOST_LIMITS;
use crate::policy::Policy;
use crate::state::{Topology, VHost};

/// The version of RabbitMQ whose form this is.
const RABBITMQ_VERSION: &str = "3.10.8";

impl Topology {
    /// All definitions. `product_version` is that of the broker.
    pub fn export_definitions(&self, product_version: &str) -> Value {
        let each = |of: fn(&VHost) -> Vec<Value>| -> Vec<Value> {
            self.vhosts.values().flat_map(of).collect()
        };
        json!({
            "rabbit_version": RABBITMQ_VERSION,
            "rabbitmq_version": RABBITMQ_VERSION,
            "product_name": "Leveret",
            "product_version": product_version,
            "users": self.users.values().map(user).collect::<Vec<_>>(),
            "vhosts": self.vhosts.values().map(vhost).collect::<Vec<_>>(),
            "permissions": each(permissions),
            "topic_permissions": each(topic_permissions),
            "parameters": each(parameters),
            "global_parameters": self.exported_global_parameters(),
            "policies": each(policies),
            "queues": each(queues),
            "exchanges": each(exchanges),
            "bindings": each(bindings),
        })
    }

    /// The definitions of one vhost, whose objects do not name it; None when
    /// there is no such vhost.
    pub fn export_vhost_definitions(&self, name: &str, product_version: &str) -> Option<Value> {
        let vhost = self.vhost(name)?;
        let of = |list: Vec<Value>| -> Vec<Value> { list.into_iter().map(without_vhost).collect() };
        Some(json!({
            "rabbit_version": RABBITMQ_VERSION,
            "rabbitmq_version": RABBITMQ_VERSION,
            "product_name": "Leveret",
            "product_version": product_version,
            "parameters": of(parameters(vhost)),
            "policies": of(policies(vhost)),
            "queues": of(queues(vhost)),
            "exchanges": of(exchanges(vhost)),
            "bindings": of(bindings(vhost)),
        }))
    }

    fn exported_global_parameters(&self) -> Vec<Value> {
        self.global_parameters()
            .filter(|(name, _)| !name.starts_with("internal"))
            .map(|(name, value)| json!({"name": name, "value": value}))
            .collect()
    }
}

fn without_vhost(mut item: Value) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.remove("vhost");
    }
    item
}

fn user(user: &User) -> Value {
    json!({
        "name": user.name,
        "password_hash": user.password.to_base64(),
        "hashing_algorithm": user.password.algorithm().as_str(),
        "tags": user.tags,
        "limits": user.limits,
    })
}

fn vhost(vhost: &VHost) -> Value {
    let mut metadata = Map::new();
    metadata.insert("description".to_owned(), vhost.description().into());
    metadata.insert("tags".to_owned(), json!(vhost.tags()));
    if let Some(kind) = vhost.default_queue_type() {
        metadata.insert("default_queue_type".to_owned(), kind.as_str().into());
    }
    let mut fields = metadata.clone();
    fields.insert("name".to_owned(), json!(vhost.name()));
    fields.insert("limits".to_owned(), json!([]));
    fields.insert("metadata".to_owned(), Value::Object(metadata));
    if vhost.tracing() {
        fields.insert("tracing".to_owned(), true.into());
    }
    Value::Object(fields)
}

fn permissions(vhost: &VHost) -> Vec<Value> {
    vhost
        .permissions()
        .map(|(user, entry)| {
            json!({
                "user": user,
                "vhost": vhost.name(),
                "configure": entry.configure.source(),
                "write": entry.write.source(),
                "read": entry.read.source(),
            })
        })
        .collect()
}

fn topic_permissions(vhost: &VHost) -> Vec<Value> {
    vhost
        .topic_permissions()
        .map(|(user, exchange, entry)| {
            json!({
                "user": user,
                "vhost": vhost.name(),
                "exchange": exchange,
                "write": entry.write.source(),
                "read": entry.read.source(),
            })
        })
        .collect()
}

/// Runtime parameters; the limits of the vhost and its operator policies are
/// some of them.
fn parameters(vhost: &VHost) -> Vec<Value> {
    let parameter = |component: &str, name: &str, value: Value| json!({"vhost": vhost.name(), "component": component, "name": name, "value": value});
    let mut all: Vec<Value> = vhost
        .operator_policies()
        .map(|policy| {
            let Policy {
                pattern,
                definition,
                priority,
                apply_to,
                ..
            } = policy;
            let value = json!({
                "pattern": pattern.source(),
                "definition": definition,
                "priority": priority,
                "apply-to": apply_to,
            });
            parameter("operator_policy", &policy.name, value)
        })
        .collect();
    let kept = vhost.parameters();
    all.extend(kept.map(|(component, name, value)| parameter(component, name, value.clone())));
    if !vhost.limits().is_empty() {
        all.push(parameter(VHOST_LIMITS, "limits", json!(vhost.limits())));
    }
    all
}

fn policies(vhost: &VHost) -> Vec<Value> {
    vhost
        .policies()
        .map(|policy| {
            json!({
                "vhost": vhost.name(),
                "name": policy.name,
                "pattern": policy.pattern.source(),
                "apply-to": policy.apply_to,
                "priority": policy.priority,
                "definition": policy.definition,
            })
        })
        .collect()
}

fn queues(vhost: &VHost) -> Vec<Value> {
    vhost
        .queues()
        .iter()
        .filter(|queue| !queue.is_exclusive())
        .map(|queue| {
            json!({
                "vhost": vhost.name(),
                "name": queue.name,
                "type": queue.kind.as_str(),
                "durable": queue.durable,
                "auto_delete": queue.auto_delete,
                "arguments": object(&queue.arguments),
            })
        })
        .collect()
}

fn exchanges(vhost: &VHost) -> Vec<Value> {
    vhost
        .exchanges()
        .iter()
        .filter(|exchange| !exchange.is_default() && !exchange.name.starts_with("amq."))
        .map(|exchange| {
            json!({
                "vhost": vhost.name(),
                "name": exchange.name,
                "type": exchange.kind.as_str(),
                "durable": exchange.durable,
                "auto_delete": exchange.auto_delete,
                "internal": exchange.internal,
                "arguments": object(&exchange.arguments),
            })
        })
        .collect()
}

fn bindings(vhost: &VHost) -> Vec<Value> {
    let is_exported = |binding: &Binding| match &binding.id.destination {
        Destination::Queue(name) => vhost
            .queues
            .get(name)
            .is_some_and(|queue| !queue.is_exclusive()),
        Destination::Exchange(_) => true,
    };
    vhost
        .bindings()
        .iter()
        .filter(|binding| is_exported(binding))
        .map(|binding| {
            let kind = match &binding.id.destination {
                Destination::Queue(_) => "queue",
                Destination::Exchange(_) => "exchange",
            };
            json!({
                "vhost": vhost.name(),
                "source": binding.id.source,
                "destination": binding.id.destination.name(),
                "destination_type": kind,
                "routing_key": binding.id.routing_key.to_string_lossy(),
                "arguments": object(&binding.id.arguments),
            })
        })
        .collect()
}
