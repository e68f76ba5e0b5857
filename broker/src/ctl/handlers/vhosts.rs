//! Virtual hosts and their limits.

use leveret_topology::{Command, DeleteVhost, Name, PutVhost, SetVhostLimits, VHost};
use serde_json::{Map, Value, json};

use super::listing::pick;
use super::{Result, arg, expect_vhost, json_object, propose, rows};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

fn put(vhost: &VHost) -> PutVhost {
    PutVhost {
        name: vhost.name().clone(),
        description: vhost.description().to_owned(),
        tags: vhost.tags().to_vec(),
        default_queue_type: None,
        tracing: None,
        user: None,
    }
}

/// One that is there stays as it is, unless something is said of it.
pub fn add(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    let mut put = match node.topology().vhost(name) {
        Some(vhost) => put(vhost),
        None => PutVhost {
            name: Name::from(name),
            description: String::new(),
            tags: Vec::new(),
            default_queue_type: None,
            tracing: None,
            user: None,
        },
    };
    if let Some(description) = request.option("description") {
        put.description = description.to_owned();
    }
    if let Some(tags) = request.option("tags") {
        let tags = tags.split(',').map(str::trim).filter(|tag| !tag.is_empty());
        put.tags = tags.map(Name::from).collect();
    }
    put.default_queue_type = request.option("default-queue-type").map(Name::from);
    propose(node, Command::PutVhost(put))
}

pub fn delete(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    expect_vhost(&node.topology(), name)?;
    let name = Name::from(name);
    propose(node, Command::DeleteVhost(DeleteVhost { name }))
}

pub fn set_tags(node: &Node, request: &Request) -> Result {
    let tags = request.args.iter().skip(1);
    let put = PutVhost {
        tags: tags.map(|tag| Name::from(tag.as_str())).collect(),
        ..put(expect_vhost(&node.topology(), arg(request, 0)?)?)
    };
    propose(node, Command::PutVhost(put))
}

pub fn list(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    pick(request, topology.vhosts(), |vhost, column| match column {
        "name" => json!(vhost.name()),
        "description" => json!(vhost.description()),
        "tags" => json!(vhost.tags()),
        "default_queue_type" => {
            let kind = vhost.default_queue_type();
            json!(kind.map_or("undefined", |kind| kind.as_str()))
        }
        "tracing" => json!(vhost.tracing()),
        "cluster_state" => json!([format!("{}: running", node.name())]),
        _ => Value::Null,
    })
}

fn replace_limits(node: &Node, vhost: &str, limits: Map<String, Value>) -> Result {
    let set = SetVhostLimits {
        vhost: Name::from(vhost),
        limits,
    };
    propose(node, Command::SetVhostLimits(set))
}

pub fn set_limits(node: &Node, request: &Request) -> Result {
    let vhost = request.vhost();
    expect_vhost(&node.topology(), vhost)?;
    let limits = json_object(arg(request, 0)?, "limits not a list")?;
    replace_limits(node, vhost, limits)
}

pub fn clear_limits(node: &Node, request: &Request) -> Result {
    let vhost = request.vhost();
    let limited = node
        .topology()
        .vhost(vhost)
        .is_some_and(|vhost| !vhost.limits().is_empty());
    if !limited {
        let text = "Parameter does not exist";
        return Err(Failure::new(exit::UNAVAILABLE, text));
    }
    replace_limits(node, vhost, Map::new())
}

pub fn list_limits(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let limits = |vhost: &VHost| json!(vhost.limits()).to_string();
    if request.flag("global") {
        let limited = topology.vhosts().filter(|vhost| !vhost.limits().is_empty());
        let limited = limited.map(|vhost| vec![json!(vhost.name()), json!(limits(vhost))]);
        return rows(&["vhost", "limits"], limited.collect());
    }
    let vhost = expect_vhost(&topology, request.vhost())?;
    match vhost.limits().is_empty() {
        true => rows(&["vhost", "limits"], Vec::new()),
        false => Ok(Output::Value(limits(vhost)).into()),
    }
}
