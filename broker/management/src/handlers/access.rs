//! Permissions and topic permissions.

use leveret_topology::{
    ClearPermissions, ClearTopicPermissions, Command, Name, SetPermissions, SetTopicPermissions,
    Topology, VHost,
};
use serde_json::{Value, json};

use crate::call::Call;
use crate::json;
use crate::reply::{Failure, Reply, Result};

const ORDER: &[&str] = &["vhost", "user"];
const TOPIC_ORDER: &[&str] = &["vhost", "user", "exchange"];

fn of_vhost(vhost: &VHost) -> Vec<Value> {
    let one = |(user, p): (&Name, &leveret_topology::UserPermissions)| {
        json!({
            "user": user, "vhost": vhost.name(), "configure": p.configure.source(),
            "write": p.write.source(), "read": p.read.source(),
        })
    };
    vhost.permissions().map(one).collect()
}

fn topic_of_vhost(vhost: &VHost) -> Vec<Value> {
    let permissions = vhost.topic_permissions();
    permissions
        .map(|(user, exchange, p)| {
            json!({
                "user": user, "vhost": vhost.name(), "exchange": exchange,
                "write": p.write.source(), "read": p.read.source(),
            })
        })
        .collect()
}

fn all(topology: &Topology, of: fn(&VHost) -> Vec<Value>) -> Vec<Value> {
    topology.vhosts().flat_map(of).collect()
}

fn is_of(item: &Value, field: &str, name: &str) -> bool {
    item.get(field).and_then(Value::as_str) == Some(name)
}

fn of_user(call: &Call, of: fn(&VHost) -> Vec<Value>) -> Result<Vec<Value>> {
    let topology = call.topology();
    let user = call.param("user");
    if topology.user(user).is_none() {
        return Err(Failure::missing());
    }
    let mut items = all(&topology, of);
    items.retain(|item| is_of(item, "user", user));
    Ok(items)
}

fn in_vhost(call: &Call, of: fn(&VHost) -> Vec<Value>) -> Result<Vec<Value>> {
    let topology = call.topology();
    let vhost = topology.vhost(call.vhost()).ok_or_else(Failure::missing)?;
    Ok(of(vhost))
}

pub fn list(call: &Call) -> Result {
    let items = all(&call.topology(), of_vhost);
    call.list(items, ORDER)
}

pub fn list_topic(call: &Call) -> Result {
    let items = all(&call.topology(), topic_of_vhost);
    call.list(items, TOPIC_ORDER)
}

pub fn list_of_user(call: &Call) -> Result {
    call.list(of_user(call, of_vhost)?, ORDER)
}

pub fn list_topic_of_user(call: &Call) -> Result {
    call.list(of_user(call, topic_of_vhost)?, TOPIC_ORDER)
}

pub fn list_of_vhost(call: &Call) -> Result {
    call.list(in_vhost(call, of_vhost)?, ORDER)
}

pub fn list_topic_of_vhost(call: &Call) -> Result {
    call.list(in_vhost(call, topic_of_vhost)?, TOPIC_ORDER)
}

/// What a user has in a virtual host.
fn found(call: &Call, of: fn(&VHost) -> Vec<Value>) -> Result<Vec<Value>> {
    let mut items = of_user(call, of)?;
    if call.topology().vhost(call.vhost()).is_none() {
        return Err(Failure::missing());
    }
    items.retain(|item| is_of(item, "vhost", call.vhost()));
    Ok(items)
}

pub fn get(call: &Call) -> Result {
    let found = found(call, of_vhost)?.pop();
    call.one(found.ok_or_else(Failure::missing)?)
}

pub fn get_topic(call: &Call) -> Result {
    let found = found(call, topic_of_vhost)?;
    if found.is_empty() {
        return Err(Failure::missing());
    }
    call.one(Value::Array(found))
}

/// Both must be there; says whether the user has something in the virtual host already.
fn expect_both(call: &Call, of: fn(&VHost) -> Vec<Value>) -> Result<bool> {
    found(call, of)
        .map(|found| !found.is_empty())
        .map_err(|_| Failure::bad_request("vhost_or_user_not_found"))
}

pub fn put(call: &Call) -> Result {
    let exists = expect_both(call, of_vhost)?;
    let body = call.json()?;
    let [configure, write, read] = json::fields(&body, ["configure", "write", "read"])?;
    call.propose(Command::SetPermissions(SetPermissions {
        user: Name::from(call.param("user")),
        vhost: Name::from(call.vhost()),
        configure: json::text(configure, "configure")?.to_owned(),
        write: json::text(write, "write")?.to_owned(),
        read: json::text(read, "read")?.to_owned(),
    }))?;
    Ok(Reply::Put { made: !exists })
}

pub fn put_topic(call: &Call) -> Result {
    let exists = expect_both(call, topic_of_vhost)?;
    let body = call.json()?;
    let [exchange, write, read] = json::fields(&body, ["exchange", "write", "read"])?;
    call.propose(Command::SetTopicPermissions(SetTopicPermissions {
        user: Name::from(call.param("user")),
        vhost: Name::from(call.vhost()),
        exchange: Name::from(json::text(exchange, "exchange")?),
        write: json::text(write, "write")?.to_owned(),
        read: json::text(read, "read")?.to_owned(),
    }))?;
    Ok(Reply::Put { made: !exists })
}

pub fn delete(call: &Call) -> Result {
    if found(call, of_vhost)?.is_empty() {
        return Err(Failure::missing());
    }
    call.propose(Command::ClearPermissions(ClearPermissions {
        user: Name::from(call.param("user")),
        vhost: Name::from(call.vhost()),
    }))?;
    Ok(Reply::Done)
}

pub fn delete_topic(call: &Call) -> Result {
    if found(call, topic_of_vhost)?.is_empty() {
        return Err(Failure::missing());
    }
    call.propose(Command::ClearTopicPermissions(ClearTopicPermissions {
        user: Name::from(call.param("user")),
        vhost: Name::from(call.vhost()),
        exchange: call.optional("exchange").map(Name::from),
    }))?;
    Ok(Reply::Done)
}
