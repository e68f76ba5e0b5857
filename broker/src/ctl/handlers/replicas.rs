//! Members of queues. Every node of a cluster has every queue, so there is little to do, and it is said truly what was not done.

use leveret_cluster::raft::types::node_of;
use serde_json::{Value, json};

use super::{Result, arg, rows};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::node::Node;

fn refused(reason: impl AsRef<str>) -> Failure {
    Failure::new(exit::UNAVAILABLE, reason)
}

/// The group of the queue that is named.
fn group_of(node: &Node, request: &Request) -> Result<u32> {
    let topology = node.topology();
    let queue = topology.queue(request.vhost(), arg(request, 0)?);
    let queue = queue.ok_or_else(|| refused("not_found"))?;
    Ok(queue.group)
}

/// `sync_queue`, `cancel_sync_queue`: the queue must be there; mirrors have what was confirmed at any time.
pub fn sync(node: &Node, request: &Request) -> Result {
    group_of(node, request)?;
    Ok(Output::Done.into())
}

const COLUMNS: [&str; 6] = [
    "Node Name",
    "Raft State",
    "Log Index",
    "Commit Index",
    "Snapshot Index",
    "Term",
];

/// `quorum_status QUEUE`: what this node knows of itself as a member of the queue's group. `everywhere` puts all of them together, and
/// [`complete`] adds those that did not answer.
pub fn status(node: &Node, request: &Request) -> Result {
    let group = group_of(node, request)?;
    let raft = node
        .mirror()
        .and_then(|mirror| mirror.mirrored(group))
        .and_then(|mirrored| mirrored.raft.get());
    let Some(raft) = raft else {
        // A node alone: its queues are in no group.
        let row = vec![
            json!(node.name()),
            json!("leader"),
            Value::Null,
            Value::Null,
            Value::Null,
            Value::Null,
        ];
        return rows(&COLUMNS, vec![row]);
    };
    let figures = raft.figures();
    let state = match figures.leader {
        Some(leader) if leader == raft.member() => "leader",
        Some(_) if figures.voters.contains(&raft.member()) => "follower",
        Some(_) => "non_voter",
        None => "candidate",
    };
    let row = vec![
        json!(node.name()),
        json!(state),
        json!(figures.last_log_index),
        json!(figures.committed_index),
        json!(figures.snapshot_index),
        json!(figures.term),
    ];
    rows(&COLUMNS, vec![row])
}

/// The same with those members that did not answer.
pub fn complete(node: &Node, request: &Request, output: Output) -> Output {
    let raft = group_of(node, request).ok().and_then(|group| {
        let mirrored = node.mirror()?.mirrored(group)?;
        mirrored.raft.get()
    });
    let (Output::Rows { columns, mut rows }, Some(raft), Some(mirror)) =
        (output, raft, node.mirror())
    else {
        return Output::Done;
    };
    for member in raft.membership().nodes().map(|(member, ())| *member) {
        let name = mirror.name_of(node_of(member));
        if !rows.iter().any(|row| row.first() == Some(&json!(name))) {
            let mut row = vec![json!(name), json!("noproc")];
            row.resize(columns.len(), Value::Null);
            rows.push(row);
        }
    }
    rows.sort_by_key(|row| row.first().and_then(Value::as_str).unwrap_or("").to_owned());
    Output::Rows { columns, rows }
}

/// `rebalance KIND`.
pub fn rebalance(request: &Request) -> Result {
    match arg(request, 0)? {
        "all" | "classic" | "quorum" | "stream" => {
            let text =
                "Nothing to do: leaders are spread over the nodes by themselves, all the time";
            Ok(Output::Message(text.to_owned()).into())
        }
        kind => Err(refused(format!(
            "type {kind} is not supported. Try one of all, classic, quorum."
        ))),
    }
}

/// Whether a node of this name has all queues.
fn is_member(node: &Node, name: &str) -> bool {
    match node.mirror() {
        Some(mirror) => mirror
            .node_named(name)
            .is_some_and(|info| mirror.voters().contains(&info.id)),
        None => node.name() == name,
    }
}

fn has_all(node: &Node, name: &str) -> Result {
    match is_member(node, name) {
        true => {
            let text = format!("Nothing to do: node {name} has every queue, as all nodes do");
            Ok(Output::Message(text).into())
        }
        false => Err(refused(format!(
            "nothing was done: {name} is no member of this cluster, or not yet. A node that joins the cluster gets every queue by that"
        ))),
    }
}

/// `grow NODE all|even`.
pub fn grow(node: &Node, request: &Request) -> Result {
    match arg(request, 1)? {
        "all" | "even" => has_all(node, arg(request, 0)?),
        other => Err(Failure::new(
            exit::DATA_ERROR,
            format!("strategy '{other}' is not recognised: it is 'all' or 'even'"),
        )),
    }
}

/// `add_member QUEUE NODE`.
pub fn add_member(node: &Node, request: &Request) -> Result {
    group_of(node, request)?;
    has_all(node, arg(request, 1)?)
}

fn not_removed(name: &str) -> Result {
    Err(refused(format!(
        "nothing was done: every node of the cluster has every queue. 'forget_cluster_node {name}' removes a node with all its queues' mirrors"
    )))
}

/// `shrink NODE`.
pub fn shrink(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    match is_member(node, name) {
        true => not_removed(name),
        // One that was forgotten is in no group any more: that is what was asked for.
        false => Ok(Output::Message(format!("Node {name} has no queues of this cluster")).into()),
    }
}

/// `delete_member QUEUE NODE`.
pub fn delete_member(node: &Node, request: &Request) -> Result {
    group_of(node, request)?;
    not_removed(arg(request, 1)?)
}
