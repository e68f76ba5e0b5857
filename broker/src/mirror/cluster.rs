//! A node of a cluster: its groups, its peers, and what goes between its sessions and the leaders.
//!
//! Between nodes everything of this module goes over the `session` connections, each node's over the one that it dialled, so it arrives in
//! order. A leader announces itself; a session speaks to whoever announced himself last, and begins anew when he does so again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use leveret_cluster::peers::{Handler, Inbound, Link, PeerEvent, PeerState, Peers};
use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::node::NodeGroup;
use leveret_cluster::raft::types::{Payload, member_id, node_of};
use leveret_cluster::reclaim::{LIVE_SHARE, Live, RELOCATE_BYTES_MAX, ReclaimError};
use leveret_cluster::wire::frame::Frame;
use leveret_cluster::wire::hello::Purpose;
use leveret_cluster::wire::sender::Lane;
use leveret_cluster::{GroupId, METADATA_GROUP, MIRRORED_DURABLE, MIRRORED_TRANSIENT};
use leveret_queue::{DeadLetter, Location, QueueId, SessionId};
use leveret_topology::{Command, NodeDown, NodeUp};
use parking_lot::Mutex;

use super::lead::{Beginning, MirrorGroup, Surroundings};
use super::membership::Membership;
use super::message::{Down, Up};
use super::proposals::{Carrier, Numbered, Proposals};
use super::remote::{self, Remote};
use super::session::{Leader, Session, Transport};
use crate::node::Node;

/// Groups of each kind that a new cluster gets.
pub const GROUPS_DEFAULT: u32 = 8;

/// How often the state of things is looked at, whatever was told.
const LOOK: Duration = Duration::from_millis(50);
/// Members elect nobody else for so long after they have heard of their leader.
const LEASE: Duration = Duration::from_millis(500);
/// How long another node has to hear more nodes than this one before leaderships go to it.
const REACH: Duration = Duration::from_millis(300);
/// How often nodes are asked who leads what nobody seems to lead.
const ASK: Duration = Duration::from_millis(250);
/// How long the answers to an era's last proposals are awaited between two looks.
const ANSWERS: Duration = Duration::from_millis(2);
/// How often leaderships are compared.
const SPREAD: Duration = Duration::from_secs(1);
/// A node that cannot be heard for so long counts as down: the exclusive queues of its connections go.
const AWAY: Duration = Duration::from_secs(10);
/// How long a command about a node that is down may take before it is proposed again.
const AGAIN: Duration = Duration::from_secs(2);
/// A node that cannot be heard for so long serves no publish: an answer need not wait for it.
pub(super) const FENCE: Duration = Duration::from_millis(1000);
/// A node without a majority for so long sends its clients away.
pub const GRACE: Duration = Duration::from_millis(2000);

/// Kinds of frames on `session` connections.
mod kind {
    /// From a session: `term u64, era u64`, then an [`super::Up`].
    pub const UP: u8 = 1;
    /// To a session: `term u64, era u64, incarnation u64`, then a [`super::Down`].
    pub const DOWN: u8 = 2;
    /// A command for the leader of group 0: `term u64`, then its payload.
    pub const PROPOSE: u8 = 3;
    /// The sender has applied the metadata: `index u64`.
    pub const APPLIED: u8 = 4;
    /// The sender leads: `term u64, era u64`.
    pub const LEADS: u8 = 5;
    /// The sender wants to know what the receiver leads.
    pub const WHO_LEADS: u8 = 6;
    /// The sender knows no leader of the group.
    pub const WHO_LEADS_IT: u8 = 7;
}

/// What clients are told when the others have counted this node as down.
const TOLD_DOWN: &str =
    "broker forced connection closure with reason 'the cluster counted this node as down'";

/// Nodes that cannot be heard, as the leader of group 0 sees them.
#[derive(Default)]
struct Away {
    since: BTreeMap<u64, Instant>,
    /// When it was said last.
    told: BTreeMap<u64, Instant>,
    /// What their connections held has returned.
    released: BTreeSet<u64>,
    /// The nodes that the others know to be heard here.
    reach: BTreeSet<u64>,
    /// A node that hears more, and since when.
    better: Option<(u64, Instant)>,
}

/// One group of queues.
pub struct Mirrored {
    /// Its state, and what this node does when it leads.
    pub group: Arc<MirrorGroup>,
    /// Its Raft.
    pub raft: OnceLock<Arc<NodeGroup>>,
    /// This node's session with its leader.
    pub session: Arc<Session>,
    /// The connections over which the session claimed last.
    via: Mutex<Via>,
    /// Until then, in milliseconds since the start, nobody else leads if this node does.
    sure_until_ms: AtomicU64,
}

/// The connection on which a leader spoke, and the one on which it is spoken to; each has a number of its own.
type Via = (u64, u64);

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

/// Term and era, as frames begin with.
fn reign(leader: Leader) -> Vec<u8> {
    let mut out = leader.term.to_le_bytes().to_vec();
    out.extend_from_slice(&leader.era.to_le_bytes());
    out
}

/// Carries what sessions and leaders say, here or to another node.
struct Wires(OnceLock<Weak<Mirror>>);

impl Wires {
    fn mirror(&self) -> Option<Arc<Mirror>> {
        self.0.get()?.upgrade()
    }
}

impl Transport for Wires {
    fn send(&self, to: Leader, group: GroupId, from: SessionId, up: Up) {
        let Some(mirror) = self.mirror() else { return };
        if to.node == mirror.id {
            if let Some(mirrored) = mirror.mirrored(group) {
                mirrored.group.receive(from, to, up, mirror.now_ms());
            }
            return;
        }
        let mut head = reign(to);
        let tail = up.encode(&mut head);
        mirror.push(to.node, kind::UP, group, head, tail);
    }

    fn wake(&self, waiters: Vec<leveret_queue::Waiter>) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            let now_ms = node.now_ms();
            node.resume(waiters, now_ms);
        }
    }
}

impl Carrier for Wires {
    fn carry(&self, to: Leader, payload: Bytes) {
        let Some(mirror) = self.mirror() else { return };
        if to.node == mirror.id {
            return mirror.propose_metadata(to.term, payload);
        }
        let head = to.term.to_le_bytes().to_vec();
        mirror.push(to.node, kind::PROPOSE, METADATA_GROUP, head, Some(payload));
    }
}

impl Surroundings for Wires {
    fn propose(&self, group: GroupId, term: u64, payload: Bytes) {
        let Some(mirror) = self.mirror() else { return };
        let Some(mirrored) = mirror.mirrored(group) else {
            return;
        };
        let (Some(raft), Some(payload)) = (mirrored.raft.get(), Payload::new(payload)) else {
            return mirrored.group.proposal_ended();
        };
        let state = Arc::clone(&mirrored.group);
        let refused = raft.propose(term, payload, move |result| {
            // Applied: the state machine has told. Otherwise this node leads no more, which the role says too.
            if result.is_err() && state.leads() == term {
                state.step_down();
            }
            state.proposal_ended();
        });
        if refused.is_err() {
            // More in flight than this node ever proposes: it cannot go on in this era.
            tracing::error!(group, "a proposal was not taken");
            mirrored.group.step_down();
            mirrored.group.proposal_ended();
        }
    }

    fn tell(&self, to: SessionId, group: GroupId, from: Leader, down: Down) {
        let Some(mirror) = self.mirror() else { return };
        if to.node == mirror.id {
            if to == mirror.session
                && let Some(mirrored) = mirror.mirrored(group)
            {
                mirrored.session.receive(from, down);
            }
            return;
        }
        let mut head = reign(from);
        head.extend_from_slice(&to.incarnation.to_le_bytes());
        down.encode(&mut head);
        mirror.push(to.node, kind::DOWN, group, head, None);
    }

    fn dead_letter(&self, group: GroupId, dead: DeadLetter) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            node.dead_letter_mirrored(group, dead);
        }
    }

    fn unused(&self, queue: QueueId) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            node.delete_unused(queue);
        }
    }

    fn is_sure(&self, group: GroupId) -> bool {
        let Some(mirror) = self.mirror() else {
            return false;
        };
        mirror.mirrored(group).is_some_and(|m| mirror.is_sure(m))
    }

    fn timer(&self, _: GroupId, _: u64) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            node.ring_timer();
        }
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
                raft: OnceLock::new(),
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

    /// How long this node has been without a majority; zero if it has one.
    pub fn without_majority(&self) -> Duration {
        self.majority.lock().elapsed()
    }

    // ------------------------------------------------------------------ what others are told

    pub(super) fn push(
        &self,
        to: u64,
        kind: u8,
        group: GroupId,
        head: Vec<u8>,
        tail: Option<Bytes>,
    ) {
        if let Some(link) = self.peers.get().and_then(|p| p.link(to, Purpose::Session)) {
            self.push_on(&link, kind, group, head, tail);
        }
    }

    pub(super) fn push_on(
        &self,
        link: &Link,
        kind: u8,
        group: GroupId,
        head: Vec<u8>,
        tail: Option<Bytes>,
    ) {
        let mut parts = vec![Bytes::from(head)];
        parts.extend(tail.filter(|t| !t.is_empty()));
        if let Err(error) = link.push(Lane::Bulk, kind, group as u16, parts) {
            // What is missing now would never be noticed otherwise: both ends begin anew with the next connection.
            tracing::warn!(peer = link.peer().node, %error, "a session connection is given up");
            link.sender().abort();
        }
    }

    pub(super) fn broadcast(&self, kind: u8, group: GroupId, body: &[u8]) {
        let Some(peers) = self.peers.get() else {
            return;
        };
        for node in peers.nodes() {
            self.push(node, kind, group, body.to_vec(), None);
        }
    }

    /// This node has applied the metadata up to an index.
    pub fn metadata_applied(&self, index: u64) {
        self.applied.fetch_max(index, Ordering::AcqRel);
        let now_ms = self.now_ms();
        for mirrored in &self.groups {
            mirrored.group.metadata_applied(index, now_ms);
        }
        self.broadcast(kind::APPLIED, METADATA_GROUP, &index.to_le_bytes());
    }

    /// Index of the last command of the metadata that was applied here.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn announce(&self, group: GroupId, leader: Leader) {
        self.broadcast(kind::LEADS, group, &reign(leader));
    }

    /// This node as leader of group 0; `None`: it does not lead it.
    fn metadata_leader(&self) -> Option<Leader> {
        let term = self.leads_metadata.load(Ordering::Acquire);
        (term > 0).then_some(Leader {
            node: self.id,
            term,
            era: 0,
        })
    }

    /// A new life of a node has begun.
    pub fn node_up(&self, life: SessionId) {
        let now_ms = self.now_ms();
        for mirrored in &self.groups {
            mirrored.group.node_up(life, now_ms);
        }
    }

    /// This node as leader of a group; `None`: it does not lead it.
    fn own_leader(&self, group: GroupId) -> Option<Leader> {
        match self.mirrored(group) {
            Some(mirrored) => mirrored.group.leader(),
            None if group == METADATA_GROUP => self.metadata_leader(),
            None => None,
        }
    }

    /// Asks who leads the groups of which no leader is known: an announcement may have been lost, or come before the end of an
    /// earlier one.
    fn ask_for_leaders(&self) {
        let ask = |group: GroupId| match self.own_leader(group) {
            Some(own) => self.led_by(group, own, 0),
            None => self.broadcast(kind::WHO_LEADS_IT, group, &[]),
        };
        if self.proposals.leader().is_none() {
            ask(METADATA_GROUP);
        }
        for mirrored in &self.groups {
            if mirrored.session.leader().is_none() {
                ask(mirrored.group.id());
            }
        }
    }

    /// Tells one node everything that this one leads.
    fn announce_all(&self, to: &Link) {
        let tell = |group: GroupId, leader: Option<Leader>| {
            if let Some(leader) = leader {
                self.push_on(to, kind::LEADS, group, reign(leader), None);
            }
        };
        tell(METADATA_GROUP, self.metadata_leader());
        for mirrored in &self.groups {
            tell(mirrored.group.id(), mirrored.group.leader());
        }
    }

    // ------------------------------------------------------------------ what others say

    /// Takes a frame of the `session` connection `on` of a node.
    fn take(&self, from: SessionId, on: u64, frame: &Frame) -> Result<(), &'static str> {
        let SessionId {
            node: from,
            incarnation,
        } = from;
        let group = GroupId::from(frame.header.group);
        let word = |at: usize| {
            let bytes = frame.body.get(at..at + 8).ok_or("a frame is too short")?;
            Ok::<u64, &'static str>(u64::from_le_bytes(
                bytes.try_into().map_err(|_| "a frame is too short")?,
            ))
        };
        match frame.header.kind {
            kind::UP => {
                let leader = Leader {
                    node: self.id,
                    term: word(0)?,
                    era: word(8)?,
                };
                let up = Up::decode(&frame.body.slice(16..)).map_err(|_| "malformed up")?;
                let mirrored = self.mirrored(group).ok_or("unknown group")?;
                let session = SessionId {
                    node: from,
                    incarnation,
                };
                mirrored.group.receive(session, leader, up, self.now_ms());
            }
            kind::DOWN => {
                let (term, era, to) = (word(0)?, word(8)?, word(16)?);
                if to != self.session.incarnation {
                    // For an earlier life of this process.
                    return Ok(());
                }
                let down = Down::decode(&frame.body.slice(24..)).map_err(|_| "malformed down")?;
                let mirrored = self.mirrored(group).ok_or("unknown group")?;
                let leader = Leader {
                    node: from,
                    term,
                    era,
                };
                mirrored.session.receive(leader, down);
            }
            kind::PROPOSE => self.propose_metadata(word(0)?, frame.body.slice(8..)),
            kind::APPLIED => self.proposals.other_applied(from, word(0)?),
            kind::LEADS => {
                let leader = Leader {
                    node: from,
                    term: word(0)?,
                    era: word(8)?,
                };
                self.led_by(group, leader, on);
            }
            kind::WHO_LEADS => {
                let peers = self.peers.get();
                if let Some(link) = peers.and_then(|p| p.link(from, Purpose::Session)) {
                    self.announce_all(&link);
                }
            }
            kind::WHO_LEADS_IT => {
                let peers = self.peers.get();
                if let Some(leader) = self.own_leader(group)
                    && let Some(link) = peers.and_then(|p| p.link(from, Purpose::Session))
                {
                    self.push_on(&link, kind::LEADS, group, reign(leader), None);
                }
            }
            remote::kind::ASK..=remote::kind::REPLY => self.take_remote(from, frame)?,
            _ => return Err("a frame of an unknown kind"),
        }
        Ok(())
    }

    /// Whether nobody else can lead a group that this node leads.
    fn is_sure(&self, mirrored: &Mirrored) -> bool {
        let now_ms = self.started.elapsed().as_millis() as u64;
        if now_ms < mirrored.sure_until_ms.load(Ordering::Relaxed) {
            return true;
        }
        let age = mirrored.raft.get().and_then(|raft| raft.quorum_age());
        let Some(left) = age.and_then(|age| LEASE.checked_sub(age)) else {
            return false;
        };
        let until_ms = now_ms + left.as_millis() as u64;
        mirrored.sure_until_ms.store(until_ms, Ordering::Relaxed);
        now_ms < until_ms
    }

    /// Somebody announces that he leads. An earlier leader's announcement may come late; the same one again means that something may
    /// have been lost.
    fn led_by(&self, group: GroupId, leader: Leader, on: u64) {
        let earlier = |known: Option<Leader>| {
            known.is_some_and(|l| (l.term, l.era) > (leader.term, leader.era))
        };
        if group == METADATA_GROUP {
            if !earlier(self.proposals.leader()) {
                self.proposals.lead_by(None);
                self.proposals.lead_by(Some(leader));
            }
        } else if let Some(Mirrored { session, via, .. }) = self.mirrored(group)
            && !earlier(session.leader())
        {
            let to = self.outbound.lock().get(&leader.node).copied();
            let over = (on, to.unwrap_or(0));
            if std::mem::replace(&mut *via.lock(), over) == over && session.leader() == Some(leader)
            {
                // It has claimed on these very connections.
                return;
            }
            session.lead_by(None);
            session.lead_by(Some(leader));
        }
    }

    fn propose_metadata(&self, term: u64, payload: Bytes) {
        let led = self.leads_metadata.load(Ordering::Acquire);
        let (Some(raft), Some(payload)) = (self.metadata.get(), Payload::new(payload)) else {
            return;
        };
        if led != term || Numbered::head(payload.encoded()).is_none() {
            return;
        }
        // What is not applied is sent again by its session: to the next leader, or when this one announces itself again, as
        // it does when it was refused for want of a majority.
        let refused = Arc::clone(&self.refused);
        let told = move |result: Result<_, _>| {
            if result.is_err() {
                refused.store(true, Ordering::Release);
            }
        };
        if raft.propose(term, payload, told).is_err() {
            self.refused.store(true, Ordering::Release);
        }
    }

    // ------------------------------------------------------------------ who leads

    /// The nodes that this one hears, itself among them.
    pub fn up_nodes(&self) -> BTreeSet<u64> {
        let mut up = BTreeSet::from([self.id]);
        if let Some(peers) = self.peers.get() {
            let there = |node: &u64| {
                peers.state(*node).0 == PeerState::Up
                    && peers.link(*node, Purpose::Session).is_some()
            };
            up.extend(peers.nodes().into_iter().filter(there));
        }
        up
    }

    /// Follows what a group's Raft says of this node's role in it.
    async fn follow_role(self: Arc<Self>, at: usize) {
        use openraft_watch::changed;
        let Some(mirrored) = self.groups.get(at) else {
            return;
        };
        let Some(raft) = mirrored.raft.get().cloned() else {
            return;
        };
        let mut roles = raft.watch_role();
        loop {
            let mut patience = LOOK;
            match raft.role() {
                Role::Leading { term, .. }
                    if mirrored.group.leads() != term && self.ready.load(Ordering::Acquire) =>
                {
                    if mirrored.group.leads() > 0 {
                        mirrored.group.step_down();
                    }
                    if mirrored.group.is_quiet() {
                        self.begin_to_lead(mirrored, term);
                    } else {
                        patience = ANSWERS;
                    }
                }
                Role::Leading { .. } => {}
                Role::Stopped => return self.ended(raft.group()),
                _ if mirrored.group.leads() > 0 => {
                    mirrored.group.step_down();
                    if mirrored.session.leader().is_some_and(|l| l.node == self.id) {
                        mirrored.session.lead_by(None);
                    }
                }
                _ => {}
            }
            // A group that began to lead too early, or has to begin anew, is looked at again.
            if let Ok(false) = tokio::time::timeout(patience, changed(&mut roles)).await {
                return;
            }
        }
    }

    /// A group's Raft has ended: in order, or because something could not be written. Then the node cannot go on, as with a journal
    /// that has failed.
    fn ended(&self, group: GroupId) {
        if !self.stopping.load(Ordering::Acquire)
            && let Some(node) = self.node()
        {
            node.stop().now(&format!(
                "group {group} has ended: something of it could not be written"
            ));
        }
    }

    fn begin_to_lead(&self, mirrored: &Mirrored, term: u64) {
        let Some(node) = self.node() else { return };
        let id = mirrored.group.id();
        let nodes = self.up_nodes();
        let leader = node.lead_group(id, |known| {
            mirrored.group.lead(Beginning {
                term,
                nodes,
                queues: known.queues,
                metadata: known.index,
                lives: known.lives,
                end: Location(node.store().journal().end().to_u64()),
                now_ms: node.now_ms(),
            })
        });
        tracing::info!(group = id, term, era = leader.era, "leading");
        self.announce(id, leader);
        self.led_by(id, leader, 0);
    }

    async fn follow_metadata_role(self: Arc<Self>) {
        use openraft_watch::changed;
        let Some(raft) = self.metadata.get().cloned() else {
            return;
        };
        let mut roles = raft.watch_role();
        loop {
            match raft.role() {
                Role::Leading { term, .. } => {
                    if self.leads_metadata.swap(term, Ordering::AcqRel) != term {
                        tracing::info!(group = METADATA_GROUP, term, "leading");
                        let leader = Leader {
                            node: self.id,
                            term,
                            era: 0,
                        };
                        self.announce(METADATA_GROUP, leader);
                        self.led_by(METADATA_GROUP, leader, 0);
                    }
                }
                Role::Stopped => return self.ended(raft.group()),
                _ => {
                    if self.leads_metadata.swap(0, Ordering::AcqRel) > 0
                        && self.proposals.leader().is_some_and(|l| l.node == self.id)
                    {
                        self.proposals.lead_by(None);
                    }
                }
            }
            if !changed(&mut roles).await {
                return;
            }
        }
    }

    // ------------------------------------------------------------------ who is there

    /// Follows what is known of the other nodes.
    async fn follow_peers(self: Arc<Self>) {
        let Some(peers) = self.peers.get().cloned() else {
            return;
        };
        let mut events = peers.subscribe();
        loop {
            match events.next().await {
                PeerEvent::Up { node, .. } => {
                    tracing::info!(peer = node, "node is up");
                    // It serves again: answers wait for it, as soon as it says how far it is.
                    self.proposals.other_applied(node, 0);
                }
                PeerEvent::Silent { node, .. } => {
                    tracing::warn!(peer = node, "node is silent");
                    self.lost(node);
                }
                PeerEvent::Gone { node, .. } => {
                    tracing::warn!(peer = node, "node is gone");
                    self.end_leases(node);
                    self.lost(node);
                }
            }
        }
    }

    /// Nobody waits for a node any more.
    pub(super) fn lost(&self, node: u64) {
        self.proposals.other_gone(node);
        self.answers_lost(node);
        if let Some(own) = self.node() {
            own.set_alarms_of(node, false, false);
        }
        let now_ms = self.now_ms();
        for mirrored in &self.groups {
            if mirrored.session.leader().is_some_and(|l| l.node == node) {
                mirrored.session.lead_by(None);
            }
            mirrored.group.not_awaited(node, now_ms);
        }
        if self.proposals.leader().is_some_and(|l| l.node == node) {
            self.proposals.lead_by(None);
        }
    }

    /// What connections of nodes hold that cannot be heard returns. Not while this node hears no majority: whoever leads by then gives
    /// the same to others.
    fn release_lost(&self, away: &mut Away) {
        let Some(peers) = self.peers.get() else {
            return;
        };
        for node in peers.nodes() {
            if peers.state(node).0 == PeerState::Up {
                away.released.remove(&node);
            } else if away.released.insert(node) {
                let now_ms = self.now_ms();
                for mirrored in &self.groups {
                    mirrored.group.node_down(node, now_ms);
                }
            }
        }
    }

    /// The leader of group 0 says which nodes are down: those whose process is over at once, silent ones after a while.
    fn tell_down(&self, away: &mut Away) {
        let (Some(peers), Some(node)) = (self.peers.get(), self.node()) else {
            return;
        };
        for id in peers.nodes() {
            let (state, peer) = peers.state(id);
            if state == PeerState::Up {
                away.since.remove(&id);
                away.told.remove(&id);
                continue;
            }
            let since = *away.since.entry(id).or_insert_with(Instant::now);
            let known = node
                .topology()
                .node(id)
                .filter(|n| n.up)
                .map(|n| n.incarnation);
            let Some(incarnation) = known.filter(|_| self.metadata_leader().is_some()) else {
                continue;
            };
            let over = state == PeerState::Gone && peer.is_some_and(|p| p.boot == incarnation);
            let told = away.told.get(&id);
            if (over || since.elapsed() >= AWAY) && told.is_none_or(|t| t.elapsed() >= AGAIN) {
                away.told.insert(id, Instant::now());
                let down = Command::NodeDown(NodeDown {
                    node: id,
                    incarnation,
                });
                self.proposals.propose(&down, Box::new(|_| ()));
            }
        }
    }

    /// The others have counted this node as down while it lived: its connections' exclusive queues are gone, and so they go too.
    pub fn told_down(&self) {
        let (Some(node), Some(runtime)) = (self.node(), self.runtime.get()) else {
            return;
        };
        tracing::warn!("the cluster counted this node as down: clients are sent away");
        node.connections().close_where(|_| true, TOLD_DOWN);
        let up = Command::NodeUp(NodeUp {
            node: self.id,
            name: node.name().into(),
            incarnation: self.session.incarnation,
            // As before.
            disk: 0,
            address: "".into(),
        });
        runtime.spawn(async move { node.propose_quietly(&up) });
    }

    /// A leader's process is gone: nobody waits for its lease to run out.
    fn end_leases(self: &Arc<Self>, node: u64) {
        let alive = self.up_nodes();
        if let Some(raft) = self.metadata.get().cloned() {
            let alive = alive.clone();
            tokio::spawn(async move {
                if let Err(error) = raft.leader_is_gone(node, &alive).await {
                    tracing::debug!(%error, "no election");
                }
            });
        }
        for mirrored in &self.groups {
            let Some(raft) = mirrored.raft.get().cloned() else {
                continue;
            };
            let alive = alive.clone();
            tokio::spawn(async move {
                if let Err(error) = raft.leader_is_gone(node, &alive).await {
                    tracing::debug!(%error, "no election");
                }
            });
        }
    }

    /// What is looked at whatever was told: majorities, timers of groups.
    async fn look(self: Arc<Self>) {
        let mut spread = Instant::now();
        let mut away = Away::default();
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let voters = self.voters();
            if self.up_nodes().intersection(&voters).count() * 2 > voters.len() {
                *self.majority.lock() = Instant::now();
                self.release_lost(&mut away);
            }
            for mirrored in &self.groups {
                mirrored.group.retry();
            }
            self.tell_reach(&mut away);
            if asked.elapsed() >= ASK {
                asked = Instant::now();
                self.ask_for_leaders();
            }
            let without = self.without_majority();
            let stalled = without >= FENCE;
            if self.stalled.swap(stalled, Ordering::AcqRel) != stalled
                && let Some(node) = self.node()
            {
                node.set_minority(stalled);
            }
            self.tell_down(&mut away);
            if let Some(leader) = self.metadata_leader()
                && self.refused.swap(false, Ordering::AcqRel)
            {
                self.announce(METADATA_GROUP, leader);
                self.led_by(METADATA_GROUP, leader, 0);
            }
            if spread.elapsed() >= SPREAD {
                spread = Instant::now();
                self.spread().await;
            }
        }
    }

    /// Tells the others whom this node hears, and leaves its leaderships to one that hears more, as it is with a cut between two nodes
    /// that both reach the third: their clients could not use what the other of them leads.
    fn tell_reach(self: &Arc<Self>, away: &mut Away) {
        let Some(peers) = self.peers.get() else {
            return;
        };
        let up = self.up_nodes();
        if away.reach != up {
            away.reach.clone_from(&up);
            let words = up.iter().flat_map(|node| node.to_le_bytes());
            peers.set_status(words.collect::<Vec<u8>>().into());
        }
        let better = if up.len() <= peers.nodes().len() {
            up.iter().copied().find(|node| {
                let theirs = self.reach(*node);
                theirs.is_superset(&up) && theirs.len() > up.len()
            })
        } else {
            None
        };
        let Some(better) = better else {
            away.better = None;
            return;
        };
        match away.better {
            Some((node, since)) if node == better && since.elapsed() >= REACH => {
                away.better = None;
                tokio::spawn(Arc::clone(self).leave_to(better));
            }
            Some((node, _)) if node == better => {}
            _ => away.better = Some((better, Instant::now())),
        }
    }

    /// The nodes that another one said to hear.
    fn reach(&self, node: u64) -> BTreeSet<u64> {
        let status = self.peers.get().and_then(|peers| peers.status(node));
        let blob = status.map(|status| status.blob).unwrap_or_default();
        let words = blob.chunks_exact(8);
        words
            .filter_map(|word| word.try_into().ok().map(u64::from_le_bytes))
            .collect()
    }

    async fn leave_to(self: Arc<Self>, node: u64) {
        let rafts = self.groups.iter().filter_map(|m| m.raft.get());
        for raft in self.metadata.get().into_iter().chain(rafts) {
            let member = raft.membership().voter_ids().find(|m| node_of(*m) == node);
            if let (Role::Leading { .. }, Some(to)) = (raft.role(), member) {
                tracing::info!(
                    group = raft.group(),
                    to = node,
                    "leaving it to a node that hears more nodes"
                );
                if let Err(error) = raft.transfer_leader(to).await {
                    tracing::debug!(%error, "leadership stays");
                }
            }
        }
    }

    /// Hands one leadership to a node that has fewer: of the groups of durable queues, of the others, of all.
    async fn spread(&self) {
        let (up, voters) = (self.up_nodes(), self.voters());
        // Who leads what, by kind; who is drained, or hears less than this node, gets nothing.
        let mut led: [BTreeMap<u64, Vec<&Arc<NodeGroup>>>; 2] = Default::default();
        for node in up.intersection(&voters) {
            let fit = *node == self.id || self.reach(*node).is_superset(&up);
            if fit && !self.is_drained_node(*node) {
                led.iter_mut().for_each(|kind| {
                    kind.insert(*node, Vec::new());
                });
            }
        }
        for mirrored in &self.groups {
            let Some(raft) = mirrored.raft.get() else {
                return;
            };
            let leader = match raft.role() {
                Role::Leading { .. } => self.id,
                Role::Following { leader, .. } => node_of(leader),
                // Not while somebody is being elected.
                _ => return,
            };
            let kind = usize::from(mirrored.group.id() >= MIRRORED_TRANSIENT);
            if let Some(groups) = led.get_mut(kind).and_then(|kind| kind.get_mut(&leader)) {
                groups.push(raft);
            }
        }
        let [durable, transient] = &led;
        let of = |kind: &BTreeMap<u64, Vec<_>>, node: u64| kind.get(&node).map_or(0, Vec::len);
        let total = |node: u64| of(durable, node) + of(transient, node);
        for (kind, all) in [
            (durable, false),
            (transient, false),
            (durable, true),
            (transient, true),
        ] {
            let count = |node: u64| if all { total(node) } else { of(kind, node) };
            let nodes = || kind.keys().copied();
            // One at a time: who has the most, the first of them.
            let most = nodes().max_by_key(|node| (count(*node), std::cmp::Reverse(*node)));
            let Some(fewest) = nodes().min_by_key(|node| count(*node)) else {
                return;
            };
            let uneven = most == Some(self.id) && count(self.id) >= count(fewest) + 2;
            if !uneven || of(kind, self.id) <= of(kind, fewest) {
                continue;
            }
            let Some(raft) = kind.get(&self.id).and_then(|groups| groups.last()) else {
                continue;
            };
            let mut members = raft
                .membership()
                .voter_ids()
                .collect::<Vec<_>>()
                .into_iter();
            // A member that is far behind would only make the group wait.
            if let Some(to) = members.find(|member| node_of(*member) == fewest)
                && raft.lag(to).is_some_and(|lag| lag < 64)
                && let Err(error) = raft.transfer_leader(to).await
            {
                tracing::debug!(%error, "leadership stays");
            }
            return;
        }
    }

    /// One round of checkpoints of all groups; then segments go that neither a log nor a live message needs. Answers how many. Not to be called
    /// on a thread of the runtime.
    ///
    /// # Errors
    /// The text says which group has no checkpoint, or which segment stays.
    pub fn checkpoint(&self) -> Result<usize, String> {
        let (Some(runtime), Some(node), Some(metadata)) =
            (self.runtime.get(), self.node(), self.metadata.get())
        else {
            return Ok(0);
        };
        // Before and after: what a checkpoint was made of lies between.
        let mut before = BTreeMap::new();
        for mirrored in &self.groups {
            mirrored.group.live(&mut before);
        }
        let mut needed = leveret_storage::Location::NONE;
        let rafts = self.groups.iter().filter_map(|m| m.raft.get());
        for raft in std::iter::once(metadata).chain(rafts) {
            let covered = runtime.block_on(async {
                let covered = raft.checkpoint().await?;
                raft.purge().await?;
                Ok::<_, leveret_cluster::raft::group::GroupError>(covered)
            });
            let covered = covered.map_err(|e| format!("group {}: {e}", raft.group()))?;
            needed = needed.min(covered.replay_from);
        }
        node.store().finish_round().map_err(|e| e.to_string())?;
        let mut live = BTreeMap::new();
        for mirrored in &self.groups {
            mirrored.group.live(&mut live);
        }
        let journal = node.store().journal();
        let mut removed = 0;
        let mut sparse = Vec::new();
        for segment in journal.segments() {
            if !segment.sealed || segment.id >= needed.segment() {
                continue;
            }
            let bytes = live.get(&segment.id).map(|live: &Live| live.bytes);
            if bytes.is_none() && !before.contains_key(&segment.id) {
                journal
                    .remove_segment(segment.id)
                    .map_err(|e| e.to_string())?;
                removed += 1;
            } else if bytes.is_some_and(|bytes| bytes * LIVE_SHARE < segment.bytes_used) {
                sparse.push(segment.id);
            }
        }
        self.relocate(&sparse).map_err(|e| e.to_string())?;
        Ok(removed)
    }

    /// Moves what lives in segments that are mostly dead to the journal's end; the next round removes them.
    fn relocate(&self, segments: &[u32]) -> Result<(), ReclaimError> {
        let mut left = RELOCATE_BYTES_MAX;
        let mut last = None;
        for mirrored in &self.groups {
            if segments.is_empty() || left == 0 {
                break;
            }
            let (written, at) = mirrored.group.relocate(segments, left)?;
            left = left.saturating_sub(written);
            last = last.max(at);
        }
        if let (Some(last), Some(node)) = (last, self.node()) {
            // A checkpoint that knows the new places must not outlive them.
            node.store().journal().wait_durable(last)?;
        }
        Ok(())
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

    /// Gives a group's leadership away before this node stops.
    async fn hand_over(&self) {
        let up = self.up_nodes();
        for mirrored in &self.groups {
            let Some(raft) = mirrored.raft.get() else {
                continue;
            };
            if mirrored.group.leads() == 0 {
                continue;
            }
            let mut voters: Vec<_> = raft
                .membership()
                .voter_ids()
                .filter(|m| node_of(*m) != self.id && up.contains(&node_of(*m)))
                .collect();
            voters.sort_unstable_by_key(|m| raft.lag(*m).unwrap_or(u64::MAX));
            if let Some(to) = voters.first() {
                let _ = raft.transfer_leader(*to).await;
            }
        }
    }

    /// Members of a group of which all these nodes are voters.
    pub fn members(nodes: &[u64]) -> BTreeSet<u64> {
        nodes.iter().map(|node| member_id(*node, 0)).collect()
    }
}

/// Serves the `session` connections of this node, once it has its place in the cluster.
#[derive(Default)]
pub struct SessionService(pub OnceLock<Arc<Mirror>>);

impl Handler for SessionService {
    fn serve(self: Arc<Self>, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        let mirror = self.0.get().cloned();
        Box::pin(async move {
            // Who dials too early dials again.
            let Some(mirror) = mirror else { return };
            let node = inbound.peer().node;
            let session = SessionId {
                node,
                incarnation: inbound.peer().boot,
            };
            let on = mirror.connections.fetch_add(1, Ordering::Relaxed) + 1;
            loop {
                match inbound.next().await {
                    Ok(Some(frame)) => {
                        if let Err(error) = mirror.take(session, on, &frame) {
                            tracing::error!(peer = node, error, "a session connection is closed");
                            return mirror.answers_lost(node);
                        }
                    }
                    Ok(None) => return mirror.answers_lost(node),
                    Err(error) => {
                        tracing::info!(peer = node, %error, "a session connection ended");
                        return mirror.answers_lost(node);
                    }
                }
            }
        })
    }

    fn connected(&self, link: &Link) {
        let Some(mirror) = self.0.get() else { return };
        let number = mirror.connections.fetch_add(1, Ordering::Relaxed) + 1;
        mirror.outbound.lock().insert(link.peer().node, number);
        mirror.announce_all(link);
        if let Some(node) = mirror.node() {
            let alarms = node.alarms();
            let alarms = vec![u8::from(alarms.memory()), u8::from(alarms.disk())];
            mirror.push_on(link, remote::kind::ALARMS, METADATA_GROUP, alarms, None);
        }
        let index = mirror.applied().to_le_bytes();
        mirror.push_on(link, kind::APPLIED, METADATA_GROUP, index.to_vec(), None);
        mirror.push_on(link, kind::WHO_LEADS, METADATA_GROUP, Vec::new(), None);
    }

    fn disconnected(&self, link: &Link) {
        let node = link.peer().node;
        let Some(mirror) = self.0.get() else { return };
        mirror.answers_lost(node);
        for mirrored in &mirror.groups {
            if mirrored.session.leader().is_some_and(|l| l.node == node) {
                mirrored.session.lead_by(None);
            }
        }
    }
}

/// Waiting for a change of a watch of openraft's.
mod openraft_watch {
    use openraft::async_runtime::watch::WatchReceiver;

    /// `false`: there will be none.
    pub async fn changed<W, T>(watch: &mut impl WatchReceiver<W, T>) -> bool
    where
        W: openraft::async_runtime::watch::Watch,
        T: openraft::OptionalSend + openraft::OptionalSync,
    {
        watch.changed().await.is_ok()
    }
}
