//! Policies and operator policies.

use leveret_topology::{ApplyTo, Command, DeletePolicy, Name, SetPolicy};
use serde_json::{Value, json};

use super::{Result, arg, expect_vhost, json_object, propose, rows};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

pub fn set(node: &Node, request: &Request, operator: bool) -> Result {
    let vhost = request.vhost();
    expect_vhost(&node.topology(), vhost)?;
    let definition = json_object(arg(request, 2)?, "definition not an object")?;
    let apply_to = request.option("apply-to").unwrap_or("all");
    let apply_to = ApplyTo::from_name(apply_to).ok_or_else(|| {
        let text = format!(
            "Validation failed\n\napply-to '{apply_to}' unrecognised; should be 'queues', \
             'exchanges' or 'all'\n"
        );
        Failure::new(exit::UNAVAILABLE, text)
    })?;
    let priority = request.option("priority").and_then(|p| p.parse().ok());
    let set = SetPolicy {
        vhost: Name::from(vhost),
        name: Name::from(arg(request, 0)?),
        operator,
        pattern: arg(request, 1)?.to_owned(),
        definition,
        priority: priority.unwrap_or(0),
        apply_to,
    };
    propose(node, Command::SetPolicy(set))
}

pub fn clear(node: &Node, request: &Request, operator: bool) -> Result {
    let vhost = request.vhost();
    if node.topology().vhost(vhost).is_none() {
        let text = "Parameter does not exist";
        return Err(Failure::new(exit::UNAVAILABLE, text));
    }
    let delete = DeletePolicy {
        vhost: Name::from(vhost),
        name: Name::from(arg(request, 0)?),
        operator,
    };
    propose(node, Command::DeletePolicy(delete))
}

pub fn list(node: &Node, request: &Request, operator: bool) -> Result {
    let topology = node.topology();
    let vhost = expect_vhost(&topology, request.vhost())?;
    let policies: Vec<_> = match operator {
        true => vhost.operator_policies().collect(),
        false => vhost.policies().collect(),
    };
    let all = policies.into_iter().map(|policy| {
        vec![
            json!(vhost.name()),
            json!(policy.name),
            json!(policy.pattern.source()),
            json!(policy.apply_to.as_str()),
            json!(Value::Object(policy.definition.clone()).to_string()),
            json!(policy.priority),
        ]
    });
    let columns = [
        "vhost",
        "name",
        "pattern",
        "apply-to",
        "definition",
        "priority",
    ];
    rows(&columns, all.collect())
}

/// Keys of mirrored classic queues: they change nothing here, where every queue is mirrored.
const MIRRORING: &[&str] = &[
    "ha-mode",
    "ha-params",
    "ha-sync-mode",
    "ha-sync-batch-size",
    "ha-promote-on-shutdown",
    "ha-promote-on-failure",
];

/// `remove_classic_queue_mirroring_from_policies`: a policy that has nothing else goes as a whole.
pub fn remove_mirroring(node: &Node) -> Result {
    let mut changes = Vec::new();
    {
        let topology = node.topology();
        for vhost in topology.vhosts() {
            let policies = vhost.policies().map(|policy| (policy, false));
            let operators = vhost.operator_policies().map(|policy| (policy, true));
            for (policy, operator) in policies.chain(operators) {
                let mut definition = policy.definition.clone();
                definition.retain(|key, _| !MIRRORING.contains(&key.as_str()));
                if definition.len() == policy.definition.len() {
                    continue;
                }
                let (vhost, name) = (vhost.name().clone(), policy.name.clone());
                changes.push(match definition.is_empty() {
                    true => Command::DeletePolicy(DeletePolicy {
                        vhost,
                        name,
                        operator,
                    }),
                    false => Command::SetPolicy(SetPolicy {
                        vhost,
                        name,
                        operator,
                        pattern: policy.pattern.source().to_owned(),
                        definition,
                        priority: policy.priority,
                        apply_to: policy.apply_to,
                    }),
                });
            }
        }
    }
    let mut handled = Output::Done.into();
    for change in changes {
        handled = propose(node, change)?;
    }
    Ok(handled)
}
