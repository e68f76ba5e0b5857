//! What the API of one node asks of the others, and what they answer: reports in JSON, over the connections between nodes.
//!
//! A node that is down, or does not answer in time, is left out of lists, and is a name without numbers among the nodes.

use std::collections::BTreeMap;

use leveret_management::NodeReport;
use leveret_topology::OwnerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::report;
use crate::mirror::remote::Matter;
use crate::node::Node;
use crate::outbox::Event;

/// A question about what a node has for itself.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// [`NodeReport`].
    Node,
    /// A list of [`leveret_management::ConnectionReport`].
    Connections,
    /// A list of `ChannelReport`.
    Channels,
    /// Close this connection, with this text. The answer is whether the node has it.
    Close(OwnerId, String),
}

/// Answers another node's question in JSON; `None`: it is not understood.
pub fn answer_here(node: &Node, body: &[u8]) -> Option<Vec<u8>> {
    let answer = match serde_json::from_slice(body).ok()? {
        Ask::Node => serde_json::to_vec(&report::own(node)),
        Ask::Connections => serde_json::to_vec(&report::connections(node)),
        Ask::Channels => serde_json::to_vec(&report::channels(node)),
        Ask::Close(id, reason) => serde_json::to_vec(&close_here(node, id, &reason)),
    };
    answer.ok()
}

/// What the others answer, by their ids.
fn ask<T: DeserializeOwned>(node: &Node, ask: &Ask) -> BTreeMap<u64, T> {
    let (Some(mirror), Ok(body)) = (node.mirror(), serde_json::to_vec(ask)) else {
        return BTreeMap::new();
    };
    let answers = mirror.ask_others(Matter::Report, &body).into_iter();
    let read = |(id, bytes): (u64, bytes::Bytes)| match serde_json::from_slice(&bytes) {
        Ok(answer) => Some((id, answer)),
        Err(error) => {
            tracing::warn!(node = id, %error, "a node reports what is not understood");
            None
        }
    };
    answers.filter_map(read).collect()
}

/// A list of all nodes: this one's own, then the others'.
pub fn gather<T: DeserializeOwned>(node: &Node, what: &Ask, own: Vec<T>) -> Vec<T> {
    let others: BTreeMap<u64, Vec<T>> = ask(node, what);
    own.into_iter()
        .chain(others.into_values().flatten())
        .collect()
}

/// The nodes of the cluster, by name. Those that do not answer have nothing but their names.
pub fn nodes(node: &Node) -> Vec<NodeReport> {
    let mut others: BTreeMap<u64, NodeReport> = ask(node, &Ask::Node);
    let own = report::own(node);
    let Some(mirror) = node.mirror() else {
        return vec![own];
    };
    let topology = node.topology();
    let rest = topology.nodes().filter(|info| info.id != mirror.id());
    let rest = rest.map(|info| {
        let answered = others.remove(&info.id);
        answered.unwrap_or_else(|| NodeReport {
            name: info.name.to_string(),
            maintenance: info.maintenance,
            ..NodeReport::default()
        })
    });
    let mut all: Vec<NodeReport> = std::iter::once(own).chain(rest).collect();
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    all
}

fn close_here(node: &Node, id: OwnerId, reason: &str) -> bool {
    let mut found = false;
    for connection in node.connections().list() {
        if connection.id == id {
            connection.outbox.push(Event::Close(reason.to_owned()));
            found = true;
        }
    }
    found
}

/// Closes a connection of whichever node.
pub fn close(node: &Node, id: OwnerId, reason: &str) {
    if !close_here(node, id, reason) {
        let _: BTreeMap<u64, bool> = ask(node, &Ask::Close(id, reason.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use leveret_management::{ConnectionReport, GroupReport, Histogram, MessageStats};

    use super::*;

    #[test]
    fn a_node_reports_to_others_what_it_reports_itself() {
        let report = NodeReport {
            name: "node@host".to_owned(),
            running: true,
            mem_used: 7,
            stats: MessageStats {
                publish: 3,
                ..MessageStats::default()
            },
            groups: vec![GroupReport {
                group: 256,
                lags: vec![("other@host".to_owned(), 2)],
                ..GroupReport::default()
            }],
            // JSON has no infinity: this stays with the node.
            journal_sync_seconds: Histogram {
                buckets: vec![(f64::INFINITY, 1)],
                sum: 1.0,
            },
            ..NodeReport::default()
        };
        let bytes = serde_json::to_vec(&report).expect("writes");
        let read: NodeReport = serde_json::from_slice(&bytes).expect("reads");
        assert_eq!(
            (read.name, read.running, read.mem_used),
            (report.name, true, 7)
        );
        assert_eq!(read.stats, report.stats);
        assert_eq!(read.groups[0].lags, report.groups[0].lags);
    }

    #[test]
    fn questions_are_read_as_they_were_asked() {
        let id = OwnerId(u128::MAX - 5);
        let bytes = serde_json::to_vec(&Ask::Close(id, "why".to_owned())).expect("writes");
        let Ok(Ask::Close(read, reason)) = serde_json::from_slice(&bytes) else {
            panic!("another question");
        };
        assert_eq!((read, reason.as_str()), (id, "why"));
        let none: Vec<ConnectionReport> = serde_json::from_slice(b"[]").expect("reads");
        assert!(none.is_empty());
    }
}
