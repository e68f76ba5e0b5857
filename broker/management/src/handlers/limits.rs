//! Limits of virtual hosts and users.

use leveret_topology::{Command, Name, SetUserLimits, SetVhostLimits};
use serde_json::{Map, Value, json};

use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};

fn fields(limits: impl serde::Serialize) -> Map<String, Value> {
    match json!(limits) {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

pub fn list_of_vhosts(call: &Call) -> Result {
    let topology = call.topology();
    let one = call.optional("vhost");
    if one.is_some_and(|name| topology.vhost(name).is_none()) {
        return Err(Failure::missing());
    }
    let items = topology
        .vhosts()
        .filter(|vhost| one.is_none_or(|name| *vhost.name() == *name))
        .filter(|vhost| !vhost.limits().is_empty() && call.caller.sees(&topology, vhost.name()))
        .map(|vhost| json!({"vhost": vhost.name(), "value": vhost.limits()}))
        .collect();
    drop(topology);
    call.list(items, &["vhost"])
}

pub fn list_of_users(call: &Call) -> Result {
    let topology = call.topology();
    let one = call.optional("user");
    if one.is_some_and(|name| topology.user(name).is_none()) {
        return Err(Failure::missing());
    }
    let items = topology
        .users()
        .filter(|user| one.is_none_or(|name| *user.name == *name))
        .filter(|user| !fields(user.limits).is_empty())
        .map(|user| json!({"user": user.name, "value": user.limits}))
        .collect();
    drop(topology);
    call.list(items, &["user"])
}

fn of_vhost(call: &Call) -> Result<Map<String, Value>> {
    let topology = call.topology();
    let vhost = topology.vhost(call.vhost());
    let vhost = vhost.ok_or_else(|| Failure::not_found("vhost_not_found"))?;
    Ok(fields(vhost.limits()))
}

fn set_of_vhost(call: &Call, limits: Map<String, Value>) -> Result {
    call.propose(Command::SetVhostLimits(SetVhostLimits {
        vhost: Name::from(call.vhost()),
        limits,
    }))?;
    Ok(Reply::Done)
}

/// The body's `value`.
fn value(call: &Call) -> Result<Value> {
    let body = call.json()?;
    let [value] = json::fields(&body, ["value"])?;
    Ok(value.clone())
}

pub fn put_of_vhost(call: &Call) -> Result {
    let mut limits = of_vhost(call)?;
    limits.insert(call.param("name").to_owned(), value(call)?);
    set_of_vhost(call, limits)
}

pub fn delete_of_vhost(call: &Call) -> Result {
    let mut limits = of_vhost(call)?;
    match limits.remove(call.param("name")) {
        Some(_) => set_of_vhost(call, limits),
        None => Ok(Reply::Done),
    }
}

fn of_user(call: &Call) -> Result<Map<String, Value>> {
    let topology = call.topology();
    let user = topology.user(call.param("user"));
    let user = user.ok_or_else(|| Failure::not_found("user_not_found"))?;
    Ok(fields(user.limits))
}

fn set_of_user(call: &Call, limits: Map<String, Value>) -> Result {
    call.propose(Command::SetUserLimits(SetUserLimits {
        user: Name::from(call.param("user")),
        limits,
    }))?;
    Ok(Reply::Done)
}

pub fn put_of_user(call: &Call) -> Result {
    let mut limits = of_user(call)?;
    limits.insert(call.param("name").to_owned(), value(call)?);
    set_of_user(call, limits)
}

pub fn delete_of_user(call: &Call) -> Result {
    let mut limits = of_user(call)?;
    match limits.remove(call.param("name")) {
        Some(_) => set_of_user(call, limits),
        None => Ok(Reply::Done),
    }
}
