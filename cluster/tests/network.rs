//! Raft groups of three nodes over sockets on loopback: replication in a pipeline, large entries, a node that is away, snapshots.

mod common;
mod nodes;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use common::{Remember, open, sim};
use leveret_cluster::peers::{Handlers, Peers};
use leveret_cluster::raft::group::{GroupConfig, ProposeError, RaftGroup, Role};
use leveret_cluster::raft::network::{Network, NetworkConfig, RaftService};
use leveret_cluster::raft::types::{Payload, Term, member_id, node_of};
use leveret_cluster::{GroupId, LogStore};
use leveret_storage::disk::sim::SimDisk;
use nodes::{all_up, bind, config, peer, soon, until};
use openraft_rt_tokio::TokioRuntime;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

type Group = Arc<RaftGroup<TokioRuntime, Remember>>;

const GROUPS: [GroupId; 2] = [0, 256];

struct Node {
    id: u64,
    peers: Peers,
    groups: Vec<(Group, Remember)>,
    _store: Arc<LogStore>,
}

impl Node {
    async fn start(id: u64, listener: TcpListener, ports: &[u16]) -> Node {
        let service = Arc::new(RaftService::new());
        let handlers = Handlers {
            raft: service.clone(),
            stream: service.clone(),
            ..Handlers::default()
        };
        let peers = Peers::new(config(id), handlers);
        peers.listen(listener);
        peers.set_peers((1..).zip(ports).map(|(id, port)| peer(id, *port)));
        let network = Network::new(peers.clone(), NetworkConfig::default());
        let disk = SimDisk::new();
        let (store, mut recovered) = open(&sim(&disk), &PathBuf::from("data"), false);
        let mut groups = Vec::new();
        for group in GROUPS {
            let member = member_id(id, 0);
            let machine = Remember::default();
            let mut config = GroupConfig::new(group, member);
            config.log_keep_bytes = 0;
            let started: Group = RaftGroup::start(
                config,
                Arc::clone(&store),
                recovered.take_raft(group),
                machine.clone(),
                network.group(group, member),
            )
            .await
            .expect("the group starts");
            service.add(started.clone());
            groups.push((started, machine));
        }
        Node {
            id,
            peers,
            groups,
            _store: store,
        }
    }

    async fn stop(self) {
        self.peers.stop().await;
        for (group, _) in &self.groups {
            group.shutdown().await;
        }
    }
}

struct Cluster {
    nodes: Vec<Node>,
    ports: Vec<u16>,
}

impl Cluster {
    /// Three nodes, of which the first `count` are started and founders.
    async fn of(count: usize) -> (Cluster, Vec<TcpListener>) {
        let (mut listeners, mut ports) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (listener, port) = bind().await;
            listeners.push(listener);
            ports.push(port);
        }
        let later = listeners.split_off(count);
        let mut nodes = Vec::new();
        for (id, listener) in (1..).zip(listeners) {
            nodes.push(Node::start(id, listener, &ports).await);
        }
        let members: BTreeSet<u64> = (1..=count as u64).map(|id| member_id(id, 0)).collect();
        for node in &nodes {
            for (group, _) in &node.groups {
                let _ = group.initialize(members.clone()).await;
            }
        }
        (Cluster { nodes, ports }, later)
    }

    fn leader(&self, group: usize) -> Option<(Group, Term)> {
        self.nodes.iter().find_map(|node| {
            let group = &node.groups[group].0;
            match group.role() {
                Role::Leading { term, .. } => Some((Arc::clone(group), term)),
                _ => None,
            }
        })
    }

    async fn led(&self, group: usize) -> (Group, Term) {
        until("a leader", || self.leader(group).is_some()).await;
        self.leader(group).expect("a leader")
    }

    async fn agreed(&self, group: usize, count: usize) -> Vec<Bytes> {
        until("all have applied the same", || {
            let of = |node: &Node| node.groups[group].1.entries();
            let first = of(&self.nodes[0]);
            first.len() >= count && self.nodes.iter().all(|node| of(node) == first)
        })
        .await;
        self.nodes[0].groups[group].1.data()
    }
}

/// Proposes, and waits for room first.
async fn begin(group: &Group, term: Term, data: &[u8]) -> oneshot::Receiver<bool> {
    loop {
        let (tell, told) = oneshot::channel();
        let proposed = group.propose(term, Payload::copied(data), move |result| {
            let _ = tell.send(result.is_ok());
        });
        match proposed {
            Ok(()) => return told,
            Err(ProposeError::Full) => {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn propose(group: &Group, term: Term, data: &[u8]) {
    assert!(
        soon(begin(group, term, data).await)
            .await
            .expect("an answer")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_arrive_in_order_whole_and_once() {
    let (cluster, _) = Cluster::of(3).await;
    let mut expected = Vec::new();
    for group in 0..GROUPS.len() {
        let (leader, term) = cluster.led(group).await;
        let mut waiting = Vec::new();
        let mut sent = Vec::new();
        for number in 0..600u32 {
            let mut data = vec![number as u8; 1000];
            data[..4].copy_from_slice(&number.to_le_bytes());
            waiting.push(begin(&leader, term, &data).await);
            sent.push(Bytes::from(data));
        }
        // A larger one among them.
        let large = vec![7; 20 << 10];
        waiting.push(begin(&leader, term, &large).await);
        sent.push(large.into());
        for told in waiting {
            assert!(soon(told).await.expect("an answer"));
        }
        expected.push(sent);
    }
    for (group, expected) in expected.iter().enumerate() {
        assert!(cluster.agreed(group, expected.len()).await == *expected);
    }
    for node in cluster.nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survivors_go_on_without_the_leader() {
    let (mut cluster, _) = Cluster::of(3).await;
    let (leader, term) = cluster.led(0).await;
    propose(&leader, term, b"first").await;
    let dead = node_of(leader.member());
    drop(leader);
    let at = cluster.nodes.iter().position(|node| node.id == dead);
    cluster.nodes.remove(at.expect("the leader")).stop().await;
    let (leader, term) = cluster.led(0).await;
    propose(&leader, term, b"second").await;
    assert_eq!(cluster.agreed(0, 2).await, [&b"first"[..], b"second"]);
    // Votes and transfers go over the wire as well.
    let to = cluster
        .nodes
        .iter()
        .find(|node| member_id(node.id, 0) != leader.member());
    let to = to.expect("another one");
    leader
        .transfer_leader(member_id(to.id, 0))
        .await
        .expect("a transfer");
    until("the other leads", || {
        matches!(to.groups[0].0.role(), Role::Leading { .. })
    })
    .await;
    for node in cluster.nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_member_gets_a_snapshot_in_chunks() {
    let (mut cluster, mut later) = Cluster::of(2).await;
    for node in &cluster.nodes {
        until("both are up", || {
            node.peers.state(3 - node.id).0 == leveret_cluster::peers::PeerState::Up
        })
        .await;
    }
    let (leader, term) = cluster.led(0).await;
    let mut expected = Vec::new();
    for number in 0..150u32 {
        let data = vec![number as u8; 20_000];
        propose(&leader, term, &data).await;
        expected.push(Bytes::from(data));
    }
    leader.checkpoint().await.expect("a checkpoint");
    leader.purge().await.expect("a purge");
    until("the purge", || {
        leader.log().with_index(|index| index.purged().is_some())
    })
    .await;
    let third = Node::start(3, later.remove(0), &cluster.ports).await;
    all_up(&third.peers).await;
    leader
        .add_learner(member_id(3, 0))
        .await
        .expect("a learner");
    cluster.nodes.push(third);
    assert!(cluster.agreed(0, expected.len()).await == expected);
    // 3 MB of state, so several chunks.
    assert_eq!(cluster.nodes[2].groups[0].1.0.lock().installed, 1);
    propose(&leader, term, b"and on").await;
    expected.push(Bytes::from_static(b"and on"));
    assert!(cluster.agreed(0, expected.len()).await == expected);
    for node in cluster.nodes {
        node.stop().await;
    }
}
