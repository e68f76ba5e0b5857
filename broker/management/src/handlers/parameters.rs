//! Runtime parameters, of virtual hosts and global.

use leveret_topology::{
    ClearGlobalParameter, ClearParameter, Command, Name, SetGlobalParameter, SetParameter,
    SetVhostLimits, VHost,
};
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};

const VHOST_LIMITS: &str = "vhost-limits";
const OPERATOR_POLICY: &str = "operator_policy";

fn item(vhost: &VHost, component: &str, name: &str, value: Value) -> Value {
    json!({"value": value, "vhost": vhost.name(), "component": component, "name": name})
}

/// Limits and operator policies are parameters too, policies are not.
fn of_vhost(vhost: &VHost) -> Vec<Value> {
    let parameters = vhost.parameters();
    let mut all: Vec<Value> = parameters
        .map(|(component, name, value)| item(vhost, component, name, value.clone()))
        .collect();
    if !vhost.limits().is_empty() {
        all.push(item(vhost, VHOST_LIMITS, "limits", json!(vhost.limits())));
    }
    all.extend(vhost.operator_policies().map(|policy| {
        let value = json!({
            "pattern": policy.pattern.source(), "definition": policy.definition,
            "priority": policy.priority, "apply-to": policy.apply_to.as_str(),
        });
        item(vhost, OPERATOR_POLICY, &policy.name, value)
    }));
    all
}

pub fn list(call: &Call) -> Result {
    let topology = call.topology();
    let vhosts = call.visible(&topology)?;
    let mut items: Vec<Value> = vhosts.into_iter().flat_map(of_vhost).collect();
    drop(topology);
    if let Some(component) = call.optional("component") {
        items.retain(|item| item.get("component").and_then(Value::as_str) == Some(component));
    }
    call.list(items, &["component", "vhost", "name"])
}

fn find(call: &Call) -> Result<Value> {
    let topology = call.topology();
    let vhost = topology.vhost(call.vhost()).ok_or_else(Failure::missing)?;
    let is_it = |item: &Value| {
        let is = |field: &str, value: &str| item.get(field).and_then(Value::as_str) == Some(value);
        is("component", call.param("component")) && is("name", call.param("name"))
    };
    let found = of_vhost(vhost).into_iter().find(is_it);
    found.ok_or_else(Failure::missing)
}

pub fn get(call: &Call) -> Result {
    call.one(find(call)?)
}

pub fn put(call: &Call) -> Result {
    let exists = find(call).is_ok();
    let vhost = Name::from(call.vhost());
    if call.topology().vhost(&vhost).is_none() {
        return Err(Failure::not_found("vhost_not_found"));
    }
    let body = call.json()?;
    let [value] = json::fields(&body, ["value"])?;
    call.propose(Command::SetParameter(SetParameter {
        vhost,
        component: Name::from(call.param("component")),
        name: Name::from(call.param("name")),
        value: value.clone(),
    }))?;
    Ok(Reply::Put { made: !exists })
}

pub fn delete(call: &Call) -> Result {
    find(call)?;
    let vhost = Name::from(call.vhost());
    let component = Name::from(call.param("component"));
    let name = Name::from(call.param("name"));
    call.propose(match component.as_str() {
        VHOST_LIMITS => Command::SetVhostLimits(SetVhostLimits {
            vhost,
            limits: Map::new(),
        }),
        _ => Command::ClearParameter(ClearParameter {
            vhost,
            component,
            name,
        }),
    })?;
    Ok(Reply::Done)
}

pub fn list_global(call: &Call) -> Result {
    let topology = call.topology();
    let all = topology.global_parameters();
    let items = all
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    drop(topology);
    call.list(items, &["name"])
}

pub fn get_global(call: &Call) -> Result {
    let name = call.param("name");
    let found = call.topology().global_parameter(name).cloned();
    let value = found.ok_or_else(Failure::missing)?;
    call.one(json!({"name": name, "value": value}))
}

pub fn put_global(call: &Call) -> Result {
    let name = call.param("name");
    let body = call.json()?;
    let [value] = json::fields(&body, ["value"])?;
    let exists = call.topology().global_parameter(name).is_some();
    call.propose(Command::SetGlobalParameter(SetGlobalParameter {
        name: Name::from(name),
        value: value.clone(),
    }))?;
    Ok(Reply::Put { made: !exists })
}

pub fn delete_global(call: &Call) -> Result {
    let name = call.param("name");
    if call.topology().global_parameter(name).is_none() {
        return Err(Failure::missing());
    }
    let name = Name::from(name);
    call.propose(Command::ClearGlobalParameter(ClearGlobalParameter { name }))?;
    Ok(Reply::Done)
}
