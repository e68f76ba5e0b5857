//! What a node has besides its groups: who leads, who is heard, and the session connections to the others.
//!
//! By docs/cluster.md, sections 3, 5 and 8, as `broker/src/mirror/cluster.rs` does it with sockets. Each node dials each other one; what
//! a leader announces goes over the announcer's connection, and a session begins anew with a leader when either way between them
//! is another one than it claimed on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;
use leveret::mirror::lead::{Beginning, CLAIMS_WAIT_MS, MirrorGroup, Surroundings};
use leveret::mirror::message::{Down, Item, Up};
use leveret::mirror::session::{Leader, Session, Transport};
use leveret::node::BodyStore;
use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::types::{Payload, Term};
use leveret_cluster::{GroupId, LogStore};
use leveret_queue::{DeadLetter, Location, QueueId, Replica, SessionId, Settings, Store, Waiter};
use parking_lot::Mutex;

use super::client::Clients;
use super::wire::{Frame, reign};
use crate::hosted::{Group, Hosted};
use crate::judge::Judge;
use crate::leader;
use crate::network::{Lane, Net};
use crate::random::Random;

/// A node that is not heard for so long is silent.
const SILENT_MS: u64 = 1500;
/// Looks that are further apart than this were not looks: the process stood still.
const STALL_MS: u64 = 500;
/// Between two heartbeats, and between two questions for leaders.
const HEARTBEAT_MS: u64 = 100;
const ASK_MS: u64 = 250;
/// Members elect nobody else for so long after they have heard of their leader.
const LEASE: Duration = Duration::from_millis(500);

/// The queues of a group.
pub fn queues(group: GroupId) -> Vec<(QueueId, Settings)> {
    let mut queues = leader::queues(group).to_vec();
    let single = Settings {
        durable: true,
        single_active_consumer: true,
        ..Settings::default()
    };
    queues.push((u64::from(group) * 10 + 5, single));
    queues
}

/// Queues from which nothing goes that no client asked to go.
pub fn unlimited(group: GroupId) -> impl Iterator<Item = QueueId> {
    let queues = queues(group).into_iter();
    let unlimited = |s: &Settings| s.max_length.is_none() && s.message_ttl_ms.is_none();
    queues.filter(move |(_, s)| unlimited(s)).map(|(id, _)| id)
}

/// A queue that does not give what came first first.
pub fn has_priorities(queue: QueueId) -> bool {
    queue % 10 == 2
}

/// A queue of which messages may go without an acknowledgement.
pub fn is_careless(queue: QueueId) -> bool {
    queue % 10 == 4
}

/// A group on this node.
pub struct Kept {
    /// Its state, and what this node does when it leads.
    pub group: Arc<MirrorGroup>,
    /// This node's session with its leader.
    pub session: Arc<Session>,
    raft: OnceLock<Arc<Group>>,
    host: Weak<Host>,
    node: u64,
    via: Mutex<(u64, u64)>,
    /// The leader that is being heard.
    hearing: Mutex<Option<Leader>>,
    /// Of this node's reign: since when, and sessions that have not claimed yet with the last batch of their claim.
    unclaimed: Mutex<(u64, BTreeMap<u64, Option<u64>>)>,
}

impl Kept {
    /// The node.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The leader whose message the session is being told.
    pub fn hearing(&self) -> Option<Leader> {
        *self.hearing.lock()
    }
}

impl Hosted for Kept {
    fn group(&self) -> GroupId {
        self.group.id()
    }

    fn begin(&self, raft: Arc<Group>) {
        let _ = self.raft.set(raft);
    }

    fn raft(&self) -> Option<&Arc<Group>> {
        self.raft.get()
    }

    fn replica(&self) -> Replica {
        Replica::clone(&self.group.lend())
    }

    fn leads(&self) -> Option<Term> {
        Some(self.group.leads()).filter(|term| *term > 0)
    }

    fn store(&self) -> &dyn Store {
        &**self.group.store()
    }

    fn live_segments(&self, out: &mut BTreeSet<u32>) {
        let mut live = BTreeMap::new();
        self.group.live(&mut live);
        out.extend(live.into_keys());
    }

    fn relocate(&self, segments: &[u32]) -> bool {
        match self.group.relocate(segments, 1 << 20) {
            Ok((_, Some(last))) => {
                let journal = self.group.store().journal();
                journal.wait_durable(last).is_ok()
            }
            Ok((_, None)) => true,
            Err(_) => false,
        }
    }
}

/// What is known of another node.
#[derive(Default)]
struct Peer {
    heard_ms: u64,
    /// The process that was heard last.
    boot: u64,
    /// The last process that was seen to end.
    ended: u64,
    is_up: bool,
    /// What its clients held has returned.
    released: bool,
}

/// See the module.
pub struct Host {
    /// This process.
    pub id: SessionId,
    judge: Arc<Judge>,
    net: Net,
    nodes: Vec<u64>,
    clock_ms: i64,
    groups: Vec<Arc<Kept>>,
    store: Arc<LogStore>,
    peers: Mutex<BTreeMap<u64, Peer>>,
    outbound: Mutex<BTreeMap<u64, (u64, Lane)>>,
    connections: AtomicU64,
    /// Present lives of nodes, as the metadata has them here; and those that it will have, and when.
    lives: Mutex<BTreeMap<u64, u64>>,
    coming: Mutex<Vec<(u64, SessionId)>>,
    looked_ms: AtomicU64,
    beat_ms: AtomicU64,
    asked_ms: AtomicU64,
    random: Mutex<Random>,
    clients: OnceLock<Arc<Clients>>,
    failed: Arc<AtomicBool>,
}

struct Wires(OnceLock<Weak<Host>>);

impl Wires {
    fn host(&self) -> Option<Arc<Host>> {
        self.0.get()?.upgrade()
    }
}

impl Transport for Wires {
    fn send(&self, to: Leader, group: GroupId, from: SessionId, up: Up) {
        let Some(host) = self.host() else { return };
        if to.node == host.id.node {
            return host.take_up(from, group, to, up);
        }
        host.push(to.node, &Frame::Up(group, reign(to), up));
    }

    fn wake(&self, waiters: Vec<Waiter>) {
        if let Some(host) = self.host() {
            host.resume(waiters);
        }
    }
}

impl Surroundings for Wires {
    fn propose(&self, group: GroupId, term: u64, payload: Bytes) {
        let Some(host) = self.host() else { return };
        let Some(kept) = host.kept(group) else { return };
        let (Some(raft), Some(payload)) = (kept.raft.get(), Payload::new(payload)) else {
            return kept.group.proposal_ended();
        };
        let state = Arc::clone(&kept.group);
        let proposed = raft.propose(term, payload, move |result| {
            if result.is_err() && state.leads() == term {
                state.step_down();
            }
            state.proposal_ended();
        });
        if proposed.is_err() {
            host.judge.fail(format_args!("a proposal was not taken"));
        }
    }

    fn tell(&self, to: SessionId, group: GroupId, from: Leader, down: Down) {
        let Some(host) = self.host() else { return };
        let items: Vec<&Item> = match &down {
            Down::Deliver { items } => items.iter().map(|(_, item)| item).collect(),
            Down::Got { got, .. } => got.iter().map(|(item, _)| item).collect(),
            _ => Vec::new(),
        };
        for item in items {
            host.judge.leaves(group, to, item.message.content().3);
        }
        if to.node == host.id.node {
            if to == host.id
                && let Some(kept) = host.kept(group)
            {
                host.hear(kept, from, down);
            }
            return;
        }
        host.push(
            to.node,
            &Frame::Down(group, reign(from), to.incarnation, down),
        );
    }

    fn dead_letter(&self, group: GroupId, dead: DeadLetter) {
        // It has no target.
        if let Some(host) = self.host()
            && dead.held
            && let Some(kept) = host.kept(group)
        {
            kept.session
                .dead_lettered(dead.queue, dead.seq, dead.reason);
        }
    }

    fn unused(&self, _: QueueId) {}

    fn is_sure(&self, group: GroupId) -> bool {
        let host = self.host();
        let age = host.and_then(|host| host.kept(group)?.raft.get()?.quorum_age());
        age.is_some_and(|age| age < LEASE)
    }

    fn timer(&self, _: GroupId, _: u64) {}
}

/// What a host is made of.
pub struct Making {
    /// The process.
    pub id: SessionId,
    /// All nodes.
    pub nodes: Vec<u64>,
    /// The groups.
    pub groups: Vec<GroupId>,
    /// Sees everything.
    pub judge: Arc<Judge>,
    /// Between the nodes.
    pub net: Net,
    /// How far the node's clock is off.
    pub clock_ms: i64,
    /// The node's journal.
    pub store: Arc<LogStore>,
    /// Something of it failed.
    pub failed: Arc<AtomicBool>,
    /// Of what the host draws.
    pub random: Random,
}

impl Host {
    /// With groups that do not run yet.
    pub fn new(making: Making) -> Arc<Host> {
        let wires = Arc::new(Wires(OnceLock::new()));
        let (id, judge) = (making.id, &making.judge);
        let journal = making.store.journal();
        let (node, fails) = (id.node, Arc::clone(judge));
        let bodies = Arc::new(BodyStore::new(
            Arc::clone(journal),
            Arc::clone(journal),
            Arc::default(),
            u64::MAX >> 1,
            Box::new(move |error| fails.fail(format_args!("node {node}: {error}"))),
        ));
        let host = Arc::new_cyclic(|host| {
            let groups = making.groups.iter().map(|group| {
                let transport = Arc::clone(&wires) as Arc<dyn Transport>;
                let state = MirrorGroup::new(
                    *group,
                    id.node,
                    Replica::new(),
                    0,
                    Arc::clone(&bodies),
                    Arc::clone(&wires) as Arc<dyn Surroundings>,
                );
                Arc::new(Kept {
                    group: Arc::new(state),
                    session: Arc::new(Session::new(id, *group, transport)),
                    raft: OnceLock::new(),
                    host: host.clone(),
                    node: id.node,
                    via: Mutex::default(),
                    hearing: Mutex::default(),
                    unclaimed: Mutex::default(),
                })
            });
            let others = making.nodes.iter().filter(|node| **node != id.node);
            let now_ms = judge.now_ms();
            let peers = others.map(|node| {
                let peer = Peer {
                    heard_ms: now_ms,
                    ..Peer::default()
                };
                (*node, peer)
            });
            Host {
                id,
                judge: Arc::clone(judge),
                net: making.net,
                nodes: making.nodes.clone(),
                clock_ms: making.clock_ms,
                groups: groups.collect(),
                store: Arc::clone(&making.store),
                peers: Mutex::new(peers.collect()),
                outbound: Mutex::default(),
                connections: AtomicU64::new(0),
                lives: Mutex::new(BTreeMap::from([(id.node, id.incarnation)])),
                coming: Mutex::default(),
                looked_ms: AtomicU64::new(now_ms),
                beat_ms: AtomicU64::new(0),
                asked_ms: AtomicU64::new(0),
                random: Mutex::new(making.random),
                clients: OnceLock::new(),
                failed: making.failed,
            }
        });
        let _ = wires.0.set(Arc::downgrade(&host));
        let _ = host.clients.set(Clients::new(&host));
        for group in &making.groups {
            judge.unlimited(*group, unlimited(*group));
        }
        host
    }

    /// Its groups.
    pub fn groups(&self) -> &[Arc<Kept>] {
        &self.groups
    }

    /// One of them.
    pub fn kept(&self, group: GroupId) -> Option<&Arc<Kept>> {
        self.groups.iter().find(|kept| kept.group.id() == group)
    }

    /// Sees everything.
    pub fn judge(&self) -> &Arc<Judge> {
        &self.judge
    }

    /// What it serves.
    pub fn clients(&self) -> Option<&Arc<Clients>> {
        self.clients.get()
    }

    /// The node's clock.
    pub fn now_ms(&self) -> u64 {
        (self.judge.now_ms() as i64 + (1 << 40) + self.clock_ms) as u64
    }

    /// Consumers may go on.
    pub fn resume(&self, waiters: Vec<Waiter>) {
        for waiter in waiters {
            if let Some(kept) = self.kept(waiter.group) {
                kept.session.resume(waiter.consumer);
            }
        }
    }

    // ------------------------------------------------------------------ what is said

    fn push(&self, to: u64, frame: &Frame) {
        if let Some((_, lane)) = self.outbound.lock().get_mut(&to) {
            lane.send(frame.encode());
        }
    }

    fn broadcast(&self, frame: &Frame) {
        for node in self.nodes.iter().filter(|node| **node != self.id.node) {
            self.push(*node, frame);
        }
    }

    /// The session hears its leader.
    fn hear(&self, kept: &Kept, from: Leader, down: Down) {
        let before = kept.hearing.lock().replace(from);
        kept.session.receive(from, down);
        if let Some(clients) = self.clients.get() {
            clients.answers(kept);
        }
        *kept.hearing.lock() = before;
    }

    fn take_up(&self, from: SessionId, group: GroupId, to: Leader, up: Up) {
        let Some(kept) = self.kept(group) else { return };
        if kept.group.leader() == Some(to) {
            let mut unclaimed = kept.unclaimed.lock();
            let (_, nodes) = &mut *unclaimed;
            match &up {
                Up::Claim { next, last, .. } if last < next => {
                    nodes.remove(&from.node);
                }
                Up::Claim { last, .. } => {
                    if let Some(place) = nodes.get_mut(&from.node) {
                        *place = Some(*last);
                    }
                }
                Up::Batch { number, .. } => {
                    let last = nodes.get(&from.node).copied().flatten();
                    if last.is_some_and(|last| *number >= last) {
                        nodes.remove(&from.node);
                    }
                }
                _ => {}
            }
        }
        kept.group.receive(from, to, up, self.now_ms());
    }

    /// A frame of the connection `on`, which the process `from` has dialled.
    pub fn take(&self, from: SessionId, on: u64, bytes: &Bytes) {
        let Some(frame) = Frame::decode(bytes) else {
            let id = self.id;
            return self
                .judge
                .fail(format_args!("{id:?} got a malformed frame"));
        };
        let leader = |node: u64, (term, era)| Leader { node, term, era };
        match frame {
            Frame::Up(group, reign, up) => {
                self.take_up(from, group, leader(self.id.node, reign), up);
            }
            Frame::Down(group, reign, to, down) => {
                if to == self.id.incarnation
                    && let Some(kept) = self.kept(group)
                {
                    self.hear(kept, leader(from.node, reign), down);
                }
            }
            Frame::Leads(group, reign) => self.led_by(group, leader(from.node, reign), on),
            Frame::WhoLeads => {
                for kept in &self.groups {
                    self.tell_leader(kept, from.node);
                }
            }
            Frame::WhoLeadsIt(group) => {
                if let Some(kept) = self.kept(group) {
                    self.tell_leader(kept, from.node);
                }
            }
        }
    }

    fn tell_leader(&self, kept: &Kept, to: u64) {
        if let Some(leader) = kept.group.leader() {
            self.push(to, &Frame::Leads(kept.group.id(), reign(leader)));
        }
    }

    fn led_by(&self, group: GroupId, leader: Leader, on: u64) {
        let Some(kept) = self.kept(group) else { return };
        let known = kept.session.leader();
        if known.is_some_and(|known| reign(known) > reign(leader)) {
            return;
        }
        let to = self.outbound.lock().get(&leader.node).map(|(n, _)| *n);
        let over = (on, to.unwrap_or(0));
        if std::mem::replace(&mut *kept.via.lock(), over) == over && known == Some(leader) {
            return;
        }
        kept.session.lead_by(None);
        kept.session.lead_by(Some(leader));
    }

    // ------------------------------------------------------------------ who is there

    /// Another node's process lives.
    pub fn heard(&self, from: u64, boot: u64) {
        let mut peers = self.peers.lock();
        let Some(peer) = peers
            .get_mut(&from)
            .filter(|peer| peer.boot <= boot && peer.ended < boot)
        else {
            return;
        };
        peer.heard_ms = self.judge.now_ms();
        if peer.boot < boot {
            peer.boot = boot;
            // Its metadata come by another way.
            let at = peer.heard_ms + self.random.lock().skewed(1, 500);
            let life = SessionId {
                node: from,
                incarnation: boot,
            };
            self.coming.lock().push((at, life));
        }
        peer.is_up = true;
    }

    /// Another node's process was seen to end.
    pub fn gone(&self, node: u64) {
        if let Some(peer) = self.peers.lock().get_mut(&node) {
            peer.is_up = false;
            // Its last heartbeats may still come.
            peer.ended = peer.boot;
        }
        self.lost(node);
    }

    fn lost(&self, node: u64) {
        let now_ms = self.now_ms();
        for kept in &self.groups {
            if kept.session.leader().is_some_and(|l| l.node == node) {
                kept.session.lead_by(None);
            }
            if kept.group.leads() > 0 {
                self.judge.forfeit(kept.group.id(), node);
            }
            kept.group.not_awaited(node, now_ms);
        }
    }

    /// The nodes that this one hears, with itself.
    fn up_nodes(&self) -> BTreeSet<u64> {
        let (peers, outbound) = (self.peers.lock(), self.outbound.lock());
        let up = peers
            .iter()
            .filter(|(node, peer)| peer.is_up && outbound.contains_key(node));
        let up = up.map(|(node, _)| *node);
        up.chain([self.id.node]).collect()
    }

    /// Looks at everything there is to do. `false`: the node cannot go on.
    pub fn look(self: &Arc<Self>) -> bool {
        let now_ms = self.judge.now_ms();
        let gap = now_ms - self.looked_ms.swap(now_ms, Ordering::Relaxed);
        self.dial();
        self.look_at_peers(now_ms, gap);
        let due: Vec<SessionId> = {
            let mut coming = self.coming.lock();
            let due = coming.extract_if(.., |(at, _)| *at <= now_ms);
            due.map(|(_, life)| life).collect()
        };
        for life in due {
            self.node_up(life);
        }
        for kept in &self.groups {
            if !self.look_at(kept, now_ms) {
                return false;
            }
        }
        if self.asked_ms.load(Ordering::Relaxed) + ASK_MS <= now_ms {
            self.asked_ms.store(now_ms, Ordering::Relaxed);
            self.ask();
        }
        !self.failed.load(Ordering::Relaxed)
    }

    /// Asks who leads the groups of which no leader is known.
    fn ask(&self) {
        for kept in &self.groups {
            if kept.session.leader().is_none() {
                let group = kept.group.id();
                match kept.group.leader() {
                    Some(own) => self.led_by(group, own, 0),
                    None => self.broadcast(&Frame::WhoLeadsIt(group)),
                }
            }
        }
    }

    fn dial(self: &Arc<Self>) {
        for node in self.nodes.iter().filter(|node| **node != self.id.node) {
            let broken = {
                let mut outbound = self.outbound.lock();
                let broken = outbound.get(node).is_some_and(|(_, lane)| lane.is_broken());
                if broken {
                    outbound.remove(node);
                } else if outbound.contains_key(node) {
                    continue;
                }
                broken
            };
            if broken {
                self.judge
                    .note(format_args!("{:?} lost its connection to {node}", self.id));
                for kept in &self.groups {
                    if kept.session.leader().is_some_and(|l| l.node == *node) {
                        kept.session.lead_by(None);
                    }
                }
            }
            let number = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
            let Some(lane) = self.net.dial(self.id, *node) else {
                continue;
            };
            self.outbound.lock().insert(*node, (number, lane));
            for kept in &self.groups {
                self.tell_leader(kept, *node);
            }
            self.push(*node, &Frame::WhoLeads);
        }
    }

    /// A connection that another node has dialled gets its number.
    pub fn accepted(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn look_at_peers(&self, now_ms: u64, gap: u64) {
        if self.beat_ms.load(Ordering::Relaxed) + HEARTBEAT_MS <= now_ms {
            self.beat_ms.store(now_ms, Ordering::Relaxed);
            let boot = Bytes::copy_from_slice(&self.id.incarnation.to_le_bytes());
            for node in self.nodes.iter().filter(|node| **node != self.id.node) {
                self.net.push(self.id.node, *node, boot.clone());
            }
        }
        let mut silent = Vec::new();
        for (node, peer) in &mut *self.peers.lock() {
            if gap > STALL_MS {
                peer.heard_ms = peer.heard_ms.max(now_ms.saturating_sub(SILENT_MS / 2));
            }
            if peer.is_up && now_ms - peer.heard_ms > SILENT_MS {
                peer.is_up = false;
                silent.push(*node);
            }
        }
        for node in silent {
            self.judge
                .note(format_args!("{:?} does not hear {node}", self.id));
            self.lost(node);
        }
        if self.up_nodes().len() * 2 > self.nodes.len() {
            self.release_lost();
        }
    }

    /// What clients of nodes hold that cannot be heard returns.
    fn release_lost(&self) {
        let mut lost = Vec::new();
        for (node, peer) in &mut *self.peers.lock() {
            if peer.is_up {
                peer.released = false;
            } else if !std::mem::replace(&mut peer.released, true) {
                lost.push(*node);
            }
        }
        for node in lost {
            for kept in &self.groups {
                if kept.group.leads() > 0 {
                    self.judge.forfeit(kept.group.id(), node);
                }
                kept.group.node_down(node, self.now_ms());
            }
        }
    }

    fn node_up(&self, life: SessionId) {
        let mut lives = self.lives.lock();
        let known = lives.entry(life.node).or_default();
        if *known >= life.incarnation {
            return;
        }
        *known = life.incarnation;
        drop(lives);
        self.judge
            .note(format_args!("{:?} knows of {life:?}", self.id));
        for kept in &self.groups {
            kept.group.node_up(life, self.now_ms());
        }
    }

    // ------------------------------------------------------------------ who leads

    fn look_at(&self, kept: &Arc<Kept>, now_ms: u64) -> bool {
        let Some(raft) = kept.raft.get() else {
            return true;
        };
        let group = &kept.group;
        match raft.role() {
            Role::Leading { term, .. } if group.leads() != term => {
                if group.leads() > 0 {
                    group.step_down();
                }
                if group.is_quiet() {
                    self.begin_to_lead(kept, term, now_ms);
                }
            }
            Role::Leading { .. } => {}
            Role::Stopped => return false,
            _ if group.leads() > 0 => {
                group.step_down();
                if kept
                    .session
                    .leader()
                    .is_some_and(|l| l.node == self.id.node)
                {
                    kept.session.lead_by(None);
                }
            }
            _ => {}
        }
        group.retry();
        if group.leads() > 0 {
            let late: Vec<u64> = {
                let mut unclaimed = kept.unclaimed.lock();
                let over = unclaimed.0 + CLAIMS_WAIT_MS <= now_ms;
                let nodes = over.then(|| std::mem::take(&mut unclaimed.1));
                nodes.into_iter().flat_map(BTreeMap::into_keys).collect()
            };
            for node in late {
                self.judge.forfeit(group.id(), node);
            }
            if group.next_timer_ms() <= self.now_ms() {
                group.tick(self.now_ms());
            }
        }
        true
    }

    fn begin_to_lead(&self, kept: &Kept, term: Term, now_ms: u64) {
        let group = kept.group.id();
        let nodes = self.up_nodes();
        for node in self.nodes.iter().filter(|node| !nodes.contains(node)) {
            self.judge.forfeit(group, *node);
        }
        let waiting = nodes.iter().map(|node| (*node, None)).collect();
        *kept.unclaimed.lock() = (now_ms, waiting);
        let lives = self.lives.lock().clone();
        let lives = lives
            .into_iter()
            .map(|(node, incarnation)| SessionId { node, incarnation });
        let beginning = Beginning {
            term,
            nodes,
            queues: queues(group),
            metadata: u64::MAX >> 1,
            lives: lives.collect(),
            end: Location(self.store.journal().end().to_u64()),
            now_ms: self.now_ms(),
        };
        let leader = kept.group.lead(beginning);
        self.judge.begins(group, reign(leader));
        self.judge
            .note(format_args!("{:?} group {group} leads {leader:?}", self.id));
        self.broadcast(&Frame::Leads(group, reign(leader)));
        self.led_by(group, leader, 0);
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} of {:?}",
            self.group,
            self.host.upgrade().map(|h| h.id)
        )
    }
}
