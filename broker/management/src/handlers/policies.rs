//! Policies and operator policies.

use leveret_topology::{ApplyTo, Command, DeletePolicy, Name, Policy, SetPolicy, VHost};
use serde_json::{Value, json};

use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};

fn value(vhost: &VHost, policy: &Policy) -> Value {
    json!({
        "vhost": vhost.name(), "name": policy.name, "pattern": policy.pattern.source(),
        "apply-to": policy.apply_to.as_str(), "definition": policy.definition,
        "priority": policy.priority,
    })
}

fn of_vhost(vhost: &VHost, operator: bool) -> Vec<Value> {
    match operator {
        true => vhost.operator_policies().map(|p| value(vhost, p)).collect(),
        false => vhost.policies().map(|p| value(vhost, p)).collect(),
    }
}

fn list_of(call: &Call, operator: bool) -> Result {
    let topology = call.topology();
    let vhosts = call.visible(&topology)?;
    let items = vhosts.into_iter().flat_map(|v| of_vhost(v, operator));
    let items = items.collect();
    drop(topology);
    call.list(items, &["vhost", "name"])
}

fn find(call: &Call, operator: bool) -> Result<Value> {
    let topology = call.topology();
    let vhost = topology.vhost(call.vhost()).ok_or_else(Failure::missing)?;
    let mut all = of_vhost(vhost, operator).into_iter();
    let found = all.find(|item| item.get("name").and_then(Value::as_str) == call.optional("name"));
    found.ok_or_else(Failure::missing)
}

fn put_of(call: &Call, operator: bool) -> Result {
    if call.topology().vhost(call.vhost()).is_none() {
        return Err(Failure::not_found("vhost_not_found"));
    }
    let body = call.json()?;
    let [pattern, definition] = json::fields(&body, ["pattern", "definition"])?;
    let definition = definition
        .as_object()
        .ok_or_else(|| Failure::bad_request("Validation failed\n\ndefinition not an object\n"))?;
    let apply_to = match body.get("apply-to").or_else(|| body.get("apply_to")) {
        None | Some(Value::Null) => ApplyTo::All,
        Some(value) => {
            let name = json::text(value, "apply-to")?;
            ApplyTo::from_name(name).ok_or_else(|| {
                Failure::bad_request(format!(
                    "Validation failed\n\napply-to '{name}' unrecognised; should be one of: \
                     'queues', 'classic_queues', 'quorum_queues', 'streams', 'exchanges', or \
                     'all'\n"
                ))
            })?
        }
    };
    let priority = match body.get("priority") {
        None | Some(Value::Null) => 0,
        Some(value) => value.as_i64().ok_or_else(|| {
            Failure::bad_request(format!(
                "Validation failed\n\npriority should be a number, actually was {value}\n"
            ))
        })?,
    };
    let exists = find(call, operator).is_ok();
    call.propose(Command::SetPolicy(SetPolicy {
        vhost: Name::from(call.vhost()),
        name: Name::from(call.param("name")),
        operator,
        pattern: json::text(pattern, "pattern")?.to_owned(),
        definition: definition.clone(),
        priority,
        apply_to,
    }))?;
    Ok(Reply::Put { made: !exists })
}

fn delete_of(call: &Call, operator: bool) -> Result {
    find(call, operator)?;
    call.propose(Command::DeletePolicy(DeletePolicy {
        vhost: Name::from(call.vhost()),
        name: Name::from(call.param("name")),
        operator,
    }))?;
    Ok(Reply::Done)
}

pub fn list(call: &Call) -> Result {
    list_of(call, false)
}

pub fn list_operator(call: &Call) -> Result {
    list_of(call, true)
}

pub fn get(call: &Call) -> Result {
    call.one(find(call, false)?)
}

pub fn get_operator(call: &Call) -> Result {
    call.one(find(call, true)?)
}

pub fn put(call: &Call) -> Result {
    put_of(call, false)
}

pub fn put_operator(call: &Call) -> Result {
    put_of(call, true)
}

pub fn delete(call: &Call) -> Result {
    delete_of(call, false)
}

pub fn delete_operator(call: &Call) -> Result {
    delete_of(call, true)
}
