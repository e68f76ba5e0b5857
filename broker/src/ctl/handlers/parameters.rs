//! Runtime parameters, of virtual hosts and global.

use leveret_topology::{
    ClearGlobalParameter, ClearParameter, Command, Name, SetGlobalParameter, SetParameter,
};
use serde_json::json;

use super::{Result, arg, expect_vhost, json, propose, propose_or, rows};
use crate::ctl::protocol::{Failure, Request, exit};
use crate::node::Node;

fn not_by_this_method(component: &str, what: &str) -> Result<()> {
    let kind = match component {
        "policy" => "policies",
        "operator_policy" => "operator policies",
        _ => return Ok(()),
    };
    let text = format!("{kind} may not be {what} using this method");
    Err(Failure::new(exit::UNAVAILABLE, text))
}

fn no_parameter() -> Failure {
    Failure::new(exit::UNAVAILABLE, "Parameter does not exist")
}

pub fn set(node: &Node, request: &Request) -> Result {
    let component = arg(request, 0)?;
    not_by_this_method(component, "set")?;
    let vhost = request.vhost();
    expect_vhost(&node.topology(), vhost)?;
    let set = SetParameter {
        vhost: Name::from(vhost),
        component: Name::from(component),
        name: Name::from(arg(request, 1)?),
        value: json(arg(request, 2)?)?,
    };
    propose(node, Command::SetParameter(set))
}

pub fn clear(node: &Node, request: &Request) -> Result {
    let component = arg(request, 0)?;
    not_by_this_method(component, "cleared")?;
    let clear = ClearParameter {
        vhost: Name::from(request.vhost()),
        component: Name::from(component),
        name: Name::from(arg(request, 1)?),
    };
    // A component that does not exist has no parameters.
    propose_or(node, Command::ClearParameter(clear), |_| no_parameter())
}

pub fn list(node: &Node, request: &Request) -> Result {
    let topology = node.topology();
    let vhost = expect_vhost(&topology, request.vhost())?;
    let parameters = vhost.parameters();
    let mut all: Vec<_> = parameters
        .map(|(component, name, value)| {
            vec![json!(component), json!(name), json!(value.to_string())]
        })
        .collect();
    if !vhost.limits().is_empty() {
        let limits = json!(vhost.limits()).to_string();
        all.push(vec![json!("vhost-limits"), json!("limits"), json!(limits)]);
    }
    rows(&["component", "name", "value"], all)
}

pub fn set_global(node: &Node, request: &Request) -> Result {
    let set = SetGlobalParameter {
        name: Name::from(arg(request, 0)?),
        value: json(arg(request, 1)?)?,
    };
    propose(node, Command::SetGlobalParameter(set))
}

pub fn clear_global(node: &Node, request: &Request) -> Result {
    let name = Name::from(arg(request, 0)?);
    propose(
        node,
        Command::ClearGlobalParameter(ClearGlobalParameter { name }),
    )
}

pub fn list_global(node: &Node) -> Result {
    let topology = node.topology();
    let all = topology.global_parameters();
    let all = all.map(|(name, value)| vec![json!(name), json!(value.to_string())]);
    rows(&["name", "value"], all.collect())
}

/// The name of the cluster is a global parameter.
pub fn set_cluster_name(node: &Node, request: &Request) -> Result {
    let set = SetGlobalParameter {
        name: Name::from("cluster_name"),
        value: json!(arg(request, 0)?),
    };
    propose(node, Command::SetGlobalParameter(set))
}
