//! Definitions, whole and of a virtual host.

use leveret_topology::Topology;
use serde_json::Value;

use crate::call::Call;
use crate::reply::{Failure, Reply, Result};

pub fn export(call: &Call) -> Result {
    let version = env!("CARGO_PKG_VERSION");
    let topology = call.topology();
    let found: Option<Value> = match call.optional("vhost") {
        None => Some(topology.export_definitions(version)),
        Some(name) => Topology::export_vhost_definitions(&topology, name, version),
    };
    drop(topology);
    let found = found.ok_or_else(Failure::missing)?;
    match call.query("download") {
        Some(name) => Ok(Reply::Download(found, name.to_owned())),
        None => Ok(Reply::Json(found)),
    }
}

/// What was imported before something is refused stays.
pub fn import(call: &Call) -> Result {
    let vhost = call.optional("vhost");
    if vhost.is_some_and(|name| call.topology().vhost(name).is_none()) {
        return Err(Failure::not_found("vhost_not_found"));
    }
    if call.body.is_empty() {
        return Ok(Reply::Done);
    }
    if serde_json::from_slice::<serde::de::IgnoredAny>(&call.body).is_err() {
        return Err(Failure::bad_request("failed_to_parse_json"));
    }
    call.broker()
        .import(&call.body, vhost, &call.caller.name)
        .map_err(Failure::bad_request)?;
    Ok(Reply::Done)
}
