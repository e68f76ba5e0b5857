//! The nodes of the cluster: who is there, who goes.
//!
//! Names and fields are rabbitmqctl's. What a node alone answers is the same for one node.

use std::fmt::Write;
use std::time::Duration;

use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::node::NodeGroup;
use leveret_cluster::raft::types::{epoch_of, generation_of, node_of};
use leveret_topology::NodeState;
use serde_json::{Map, Value, json};

use super::{Handled, Result, arg, node as this_node};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::mirror::Mirror;
use crate::mirror::join::{self, Prepared};
use crate::node::{Node, Presence};

/// How long a node may take to leave all groups; the client waits longer.
const FORGET: Duration = Duration::from_secs(120);

fn refused(reason: impl AsRef<str>) -> Failure {
    Failure::new(exit::UNAVAILABLE, reason)
}

fn mirror(node: &Node) -> Result<&Mirror> {
    let alone = || refused("this node is alone: it is no member of a cluster");
    node.mirror().map(|mirror| &**mirror).ok_or_else(alone)
}

/// `forget_cluster_node NODE`.
pub fn forget(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    if request.flag("offline") {
        return Err(refused(
            "a stopped node cannot remove another one: a majority of the cluster has to agree. Run this on a member that runs, without --offline",
        ));
    }
    mirror(node)?.forget(name, FORGET).map_err(refused)?;
    Ok(Output::Done.into())
}

/// `join_cluster NODE`: the process begins anew as a node of that cluster.
pub fn join(node: &Node, request: &Request) -> Result {
    match join::prepare(node, arg(request, 0)?).map_err(refused)? {
        Prepared::AlreadyMember => {
            Ok(Output::Message("The node is already a member of this cluster".to_owned()).into())
        }
        Prepared::Restart => {
            node.stop().restart();
            Ok(Handled {
                stop: true,
                ..Output::Done.into()
            })
        }
    }
}

/// `await_online_nodes N`: done if there are as many; the client asks again.
pub fn await_online_nodes(node: &Node, request: &Request) -> Result {
    let wanted: usize = match arg(request, 0)?.parse() {
        Ok(wanted) if wanted > 0 => wanted,
        _ => {
            let text = "the number of nodes must be a whole number greater than 0";
            return Err(Failure::new(exit::DATA_ERROR, text));
        }
    };
    let online = nodes(node).iter().filter(|n| n.running).count();
    match online >= wanted {
        true => Ok(Output::Done.into()),
        false => Err(Failure::new(
            exit::TEMPORARY,
            format!("{online} of {wanted} nodes are online"),
        )),
    }
}

struct OneNode {
    id: u64,
    name: String,
    running: bool,
    state: NodeState,
    maintenance: bool,
}

/// All nodes, this one among them.
fn nodes(node: &Node) -> Vec<OneNode> {
    let Some(mirror) = node.mirror() else {
        return vec![OneNode {
            id: 0,
            name: node.name().to_owned(),
            running: true,
            state: NodeState::Member,
            maintenance: node.away().presence() != Presence::Here,
        }];
    };
    let up = mirror.up_nodes();
    let topology = node.topology();
    let one = |info: &leveret_topology::NodeInfo| OneNode {
        id: info.id,
        name: info.name.to_string(),
        // What this node hears counts; one that has not said that it serves does not.
        running: up.contains(&info.id) && info.up,
        state: info.state,
        maintenance: info.maintenance,
    };
    topology.nodes().map(one).collect()
}

/// A group, as this node knows it.
struct OneGroup {
    number: u32,
    kind: &'static str,
    leader: Option<u64>,
    term: u64,
    generation: u32,
    /// Index of the first entry of the log here, and behind the last.
    log: std::ops::Range<u64>,
    members: Vec<OneMember>,
}

struct OneMember {
    node: u64,
    epoch: u16,
    votes: bool,
    /// Entries behind the leader; only the leader knows.
    lag: Option<u64>,
}

fn group(mirror: &Mirror, raft: &NodeGroup) -> OneGroup {
    let (leader, term) = match raft.role() {
        Role::Leading { term, .. } | Role::Elected { term } => (Some(mirror.id()), term),
        Role::Following { term, leader } => (Some(node_of(leader)), term),
        Role::NoLeader { term } => (None, term),
        Role::Stopped => (None, 0),
    };
    let leads = leader == Some(mirror.id());
    let membership = raft.membership();
    let voters: Vec<u64> = membership.voter_ids().collect();
    let members = membership.nodes().map(|(member, ())| OneMember {
        node: node_of(*member),
        epoch: epoch_of(*member),
        votes: voters.contains(member),
        lag: raft.lag(*member).filter(|_| leads),
    });
    let number = raft.group();
    OneGroup {
        number,
        kind: match number {
            0 => "metadata",
            _ if leveret_cluster::is_durable(number) => "durable",
            _ => "transient",
        },
        leader,
        term,
        generation: generation_of(raft.member()),
        log: raft
            .log()
            .with_index(|index| index.first_index()..index.next_index()),
        members: members.collect(),
    }
}

fn section(out: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.collect();
    let body = match lines.is_empty() {
        true => "(none)".to_owned(),
        false => lines.join("\n"),
    };
    // Writing to a string cannot fail.
    let _ = write!(out, "{title}\n\n{body}\n\n");
}

fn maintenance(node: &OneNode) -> &'static str {
    match node.maintenance {
        true => "under maintenance",
        false => "not under maintenance",
    }
}

fn state(state: NodeState) -> &'static str {
    match state {
        NodeState::Joining => "joining",
        NodeState::Member => "member",
        NodeState::Leaving => "leaving",
    }
}

/// `cluster_status`.
pub fn status(node: &Node) -> Result {
    let (own, cluster) = (node.name(), node.cluster_name());
    let version = env!("CARGO_PKG_VERSION");
    let nodes = nodes(node);
    let name_of = |id: u64| {
        let known = nodes.iter().find(|n| n.id == id);
        known.map_or_else(|| format!("node {id}"), |n| n.name.clone())
    };
    let groups: Vec<OneGroup> = match node.mirror() {
        Some(mirror) => mirror.rafts().map(|raft| group(mirror, &raft)).collect(),
        None => Vec::new(),
    };
    // Whom this node should hear, and does not.
    let lost: Vec<String> = match node.mirror() {
        Some(mirror) => {
            let up = mirror.up_nodes();
            let silent = |n: &&OneNode| n.running_in_metadata(node) && !up.contains(&n.id);
            nodes
                .iter()
                .filter(silent)
                .map(|n| n.name.clone())
                .collect()
        }
        None => Vec::new(),
    };
    let minority = node.mirror().and_then(|mirror| mirror.minority());

    let mut text = format!("Basics\n\nCluster name: {cluster}\n\n");
    section(
        &mut text,
        "Disk Nodes",
        nodes.iter().map(|n| n.name.clone()),
    );
    let running = || nodes.iter().filter(|n| n.running);
    section(
        &mut text,
        "Running Nodes",
        running().map(|n| n.name.clone()),
    );
    let versions = running().map(|n| format!("{}: Leveret {version}", n.name));
    section(&mut text, "Versions", versions);
    let status = nodes
        .iter()
        .map(|n| format!("Node: {}, status: {}", n.name, maintenance(n)));
    section(&mut text, "Maintenance status", status);
    let states = nodes.iter().filter(|n| n.state != NodeState::Member);
    let states = states.map(|n| format!("Node: {}, state: {}", n.name, state(n.state)));
    section(&mut text, "Membership changes", states);
    text.push_str(&format!("Alarms\n\n{}\n", this_node::alarms_text(node)));
    let partitions = lost
        .iter()
        .map(|other| format!("Node {own} cannot communicate with {other}"));
    section(
        &mut text,
        "Network Partitions",
        partitions.chain(minority.clone()),
    );
    let leaders = groups.iter().map(|g| {
        let leader = g.leader.map_or_else(|| "nobody".to_owned(), &name_of);
        let members = g.members.iter().map(|m| {
            let votes = if m.votes { "" } else { ", learns" };
            let lag = m.lag.filter(|_| Some(m.node) != g.leader);
            let lag = lag.map_or_else(String::new, |lag| format!(", {lag} behind"));
            format!("{}{votes}{lag}", name_of(m.node))
        });
        let members: Vec<String> = members.collect();
        format!(
            "Group: {} ({}), leader: {leader}, members: {}",
            g.number,
            g.kind,
            members.join("; ")
        )
    });
    section(&mut text, "Groups", leaders);
    let listeners = this_node::listeners_text(node);
    section(&mut text, "Listeners", listeners.into_iter());
    let flags = this_node::flags().map(|(flag, _)| format!("Flag: {flag}, state: enabled"));
    section(&mut text, "Feature flags", flags);
    text.truncate(text.trim_end().len());
    text.push('\n');

    let map = |pairs: Vec<(String, Value)>| Value::Object(pairs.into_iter().collect::<Map<_, _>>());
    let version = json!({
        "rabbitmq_name": "Leveret",
        "rabbitmq_version": version,
        "erlang_version": "",
    });
    let flags = this_node::flags().map(|(flag, about)| {
        json!({"name": flag, "desc": about, "doc_url": "", "provided_by": "leveret",
               "stability": "stable", "state": "enabled"})
    });
    let partitions = match lost.is_empty() {
        true => Vec::new(),
        false => vec![(own.to_owned(), json!(lost))],
    };
    let group_values = groups.iter().map(|g| {
        let members = g.members.iter().map(|m| {
            json!({"node": name_of(m.node), "id": m.node, "epoch": m.epoch, "voter": m.votes,
                   "lag": m.lag})
        });
        json!({"group": g.number, "kind": g.kind, "leader": g.leader.map(&name_of),
               "term": g.term, "generation": g.generation, "log_first": g.log.start, "log_next": g.log.end, "members": members.collect::<Vec<_>>()})
    });
    let value = json!({
        "cluster_name": cluster,
        "disk_nodes": nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>(),
        "ram_nodes": [],
        "running_nodes": running().map(|n| n.name.as_str()).collect::<Vec<_>>(),
        "partitions": map(partitions),
        "minority": minority,
        "alarms": this_node::alarms_value(node),
        "maintenance_status": map(nodes.iter().map(|n| (n.name.clone(), json!(maintenance(n)))).collect()),
        "membership": map(nodes.iter().map(|n| (n.name.clone(), json!(state(n.state)))).collect()),
        "versions": map(running().map(|n| (n.name.clone(), version.clone())).collect()),
        "groups": group_values.collect::<Vec<_>>(),
        "listeners": {own: this_node::listeners_value(node)},
        "feature_flags": flags.collect::<Vec<_>>(),
    });
    Ok(Output::Report { text, value }.into())
}

impl OneNode {
    /// It said that it is there, and nobody has seen it end.
    fn running_in_metadata(&self, node: &Node) -> bool {
        node.topology().node(self.id).is_some_and(|info| info.up)
    }
}
