//! A node of a cluster: its groups, its peers, and what goes between its sessions and the leaders.
//!
//! Between nodes everything of this module goes over the `session` connections, each node's over the one that it dialled, so it arrives in
//! order. A leader announces itself; a session speaks to whoever announced himself last, and begins anew when he does so again.
//!
//! - `wires`: how sessions and leaders reach each other, here or on another node.
//! - `frames`: what goes over the `session` connections.
//! - `leaders`: who leads what, and which node should.
//! - `presence`: which nodes are there, and what follows when one is not.
//! - `checkpoint`: checkpoints of all groups, and what may leave the journal.
//! - `figures`: what an operator is told of the groups.

mod checkpoint;
mod figures;
mod frames;
mod leaders;
mod presence;
mod wires;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use leveret_cluster::peers::Peers;
use leveret_cluster::raft::node::NodeGroup;
use leveret_cluster::raft::types::member_id;
use leveret_cluster::{GroupId, MIRRORED_DURABLE, MIRRORED_TRANSIENT};
use leveret_queue::SessionId;
use parking_lot::Mutex;

use crate::mirror::changes::Changes;
use crate::mirror::generations::{Generations, Slot};
use crate::mirror::lead::{MirrorGroup, Surroundings};
use crate::mirror::membership::Membership;
use crate::mirror::proposals::{Carrier, Proposals};
use crate::mirror::remote::Remote;
use crate::mirror::session::{Session, Transport};
use crate::node::Node;

pub use frames::SessionService;
pub(super) use presence::FENCE;
pub use presence::GRACE;
use wires::Wires;

/// Groups of each kind that a new cluster gets.
pub const GROUPS_DEFAULT: u32 = 8;

/// One group of queues.
pub struct Mirrored {
    /// Its state, and what this node does when it leads.
    pub group: Arc<MirrorGroup>,
    /// Its Raft.
    pub raft: Slot,
    /// This node's session with its leader.
    pub session: Arc<Session>,
    /// Changes of its leader, as this node saw them.
    changes: Changes,
    /// The connections over which the session claimed last.
    via: Mutex<Via>,
    /// Until then, in milliseconds since the start, nobody else leads if this node does.
    sure_until_ms: AtomicU64,
}

/// The connection on which a leader spoke, and the one on which it is spoken to; each has a number of its own.
type Via = (u64, u64);

impl Mirrored {
    /// This node may not lead any more.
    pub(super) fn unsure(&self) {
        self.sure_until_ms.store(0, Ordering::Relaxed);
    }
}

/// What a node of a cluster has besides what a node alone has.
pub struct Mirror {
    node: OnceLock<Weak<Node>>,
    /// This node's id.
    id: u64,
    /// The process, as others know it.
    session: SessionId,
    /// Groups of each kind.
    kinds: u32,
    groups: Vec<Mirrored>,
    pub(super) metadata: OnceLock<Arc<NodeGroup>>,
    proposals: Arc<Proposals>,
    pub(super) peers: OnceLock<Peers>,
    /// Who comes and goes.
    pub(super) membership: Membership,
    /// Epochs and generations of logs that do not wait for the disk.
    pub generations: Generations,
    /// The term in which this node leads group 0 and takes commands; 0 otherwise.
    pub(super) leads_metadata: AtomicU64,
    applied: AtomicU64,
    /// When a majority of the nodes could be heard last.
    majority: Mutex<Instant>,
    stalled: AtomicBool,
    runtime: OnceLock<tokio::runtime::Handle>,
    /// What others were asked.
    remote: Remote,
    /// The metadata here is what the cluster had when this process joined it.
    pub(super) ready: AtomicBool,
    /// A command of the metadata was refused while this node led group 0.
    refused: Arc<AtomicBool>,
    /// The groups are being ended.
    stopping: AtomicBool,
    started: Instant,
    /// Numbers of `session` connections, and the present ones to other nodes.
    connections: AtomicU64,
    outbound: Mutex<BTreeMap<u64, u64>>,
}

impl std::fmt::Debug for Mirror {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mirror(node {})", self.id)
    }
}

impl Mirror {
    /// What a node of a cluster has, before it has peers and before its groups run.
    pub fn new(
        id: u64,
        incarnation: u64,
        kinds: u32,
        bodies: &Arc<crate::node::BodyStore>,
    ) -> Arc<Mirror> {
        let wires = Arc::new(Wires(OnceLock::new()));
        let session = SessionId {
            node: id,
            incarnation,
        };
        let numbers = (0..kinds)
            .map(|at| MIRRORED_DURABLE + at)
            .chain((0..kinds).map(|at| MIRRORED_TRANSIENT + at));
        let groups = numbers
            .map(|number| Mirrored {
                group: Arc::new(MirrorGroup::new(
                    number,
                    id,
                    leveret_queue::Replica::new(),
                    0,
                    Arc::clone(bodies),
                    Arc::clone(&wires) as Arc<dyn Surroundings>,
                )),
                raft: Slot::default(),
                changes: Changes::default(),
                via: Mutex::default(),
                sure_until_ms: AtomicU64::new(0),
                session: Arc::new(Session::new(
                    session,
                    number,
                    Arc::clone(&wires) as Arc<dyn Transport>,
                )),
            })
            .collect();
        let mirror = Arc::new(Mirror {
            node: OnceLock::new(),
            id,
            session,
            kinds,
            groups,
            metadata: OnceLock::new(),
            proposals: Arc::new(Proposals::new(
                session,
                Arc::clone(&wires) as Arc<dyn Carrier>,
            )),
            peers: OnceLock::new(),
            membership: Membership::default(),
            generations: Generations::default(),
            leads_metadata: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            majority: Mutex::new(Instant::now()),
            stalled: AtomicBool::new(false),
            runtime: OnceLock::new(),
            remote: Remote::default(),
            ready: AtomicBool::new(false),
            refused: Arc::default(),
            stopping: AtomicBool::new(false),
            started: Instant::now(),
            connections: AtomicU64::new(0),
            outbound: Mutex::default(),
        });
        // Set once, here.
        let _ = wires.0.set(Arc::downgrade(&mirror));
        mirror
    }

    /// The node and its peers are there.
    pub fn begin(&self, node: &Arc<Node>, peers: Peers) {
        // Once, by the start.
        let _ = self.node.set(Arc::downgrade(node));
        let _ = self.peers.set(peers);
        let _ = self.runtime.set(tokio::runtime::Handle::current());
    }

    /// Group 0 runs.
    pub fn set_metadata(&self, raft: Arc<NodeGroup>) {
        let _ = self.metadata.set(raft);
    }

    /// All groups run: follows who leads and who is there.
    pub fn follow(self: &Arc<Self>) {
        for at in 0..self.groups.len() {
            tokio::spawn(Arc::clone(self).follow_role(at));
        }
        tokio::spawn(Arc::clone(self).follow_metadata_role());
        tokio::spawn(Arc::clone(self).follow_peers());
        tokio::spawn(Arc::clone(self).look());
        tokio::spawn(Arc::clone(self).keep_members());
    }

    /// The metadata here is what the cluster had when this process joined it: groups may lead.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    pub(super) fn node(&self) -> Option<Arc<Node>> {
        self.node.get()?.upgrade()
    }

    pub(super) fn peers(&self) -> Option<&Peers> {
        self.peers.get()
    }

    pub(super) fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.runtime.get()
    }

    pub(super) fn remote(&self) -> &Remote {
        &self.remote
    }

    fn now_ms(&self) -> u64 {
        self.node().map_or(0, |node| node.now_ms())
    }

    /// This node's id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// This process, as groups know it.
    pub fn session_id(&self) -> SessionId {
        self.session
    }

    /// A group of queues.
    #[inline]
    pub fn mirrored(&self, group: GroupId) -> Option<&Mirrored> {
        let at = match group.checked_sub(MIRRORED_TRANSIENT) {
            Some(at) => at.checked_add(self.kinds)?,
            None => group.checked_sub(MIRRORED_DURABLE)?,
        };
        self.groups.get(at as usize)
    }

    /// All groups of queues.
    pub fn groups(&self) -> &[Mirrored] {
        &self.groups
    }

    /// This node's session with a group.
    #[inline]
    pub fn session(&self, group: GroupId) -> Option<&Arc<Session>> {
        self.mirrored(group).map(|m| &m.session)
    }

    /// The group of a new queue: by its name, of the kind for what is durable or of the other.
    pub fn place(&self, hash: u64, durable: bool) -> GroupId {
        let first = if durable {
            MIRRORED_DURABLE
        } else {
            MIRRORED_TRANSIENT
        };
        first + (hash % u64::from(self.kinds.max(1))) as GroupId
    }

    /// This node's changes of the metadata.
    pub fn proposals(&self) -> &Proposals {
        &self.proposals
    }

    /// Whether all groups have a leader that this node has heard of.
    pub fn is_led(&self) -> bool {
        let led = |m: &Mirrored| m.session.leader().is_some();
        self.proposals.leader().is_some() && self.groups.iter().all(led)
    }

    /// A new life of a node has begun.
    pub fn node_up(&self, life: SessionId) {
        let now_ms = self.now_ms();
        for mirrored in &self.groups {
            mirrored.group.node_up(life, now_ms);
        }
    }

    /// Ends the groups and the connections to the other nodes, after leaderships were handed over.
    pub async fn stop(&self) {
        self.hand_over().await;
        // Until others lead what this node led, its sessions would only see it vanish.
        let until = Instant::now() + Duration::from_secs(2);
        while self.groups.iter().any(|m| m.group.leads() > 0) && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.stopping.store(true, Ordering::Release);
        for raft in self.groups.iter().filter_map(|m| m.raft.get()) {
            raft.shutdown().await;
        }
        if let Some(metadata) = self.metadata.get() {
            metadata.shutdown().await;
        }
        if let Some(peers) = self.peers.get() {
            peers.stop().await;
        }
    }

    /// Members of a group of which all these nodes are voters.
    pub fn members(nodes: &[u64]) -> BTreeSet<u64> {
        nodes.iter().map(|node| member_id(*node, 0)).collect()
    }
}
