//! A group on one of its mirrors: the replica, and, while this node leads, the machine.
//!
//! Called by Raft (committed entries, leadership), by sessions (what connections want) and by the node (metadata, timers).
//! Everything happens under the group's lock; what it leads to outside (answers to sessions, dead letters, unused queues, a proposal)
//! leaves the lock first, in order.
//!
//! Invariants: a batch of a session is admitted once and in the order of its numbers; what a session is told to be committed has
//! been applied here; a machine exists only between [`MirrorGroup::lead`] and [`MirrorGroup::step_down`], for one term.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::Bytes;
use leveret_cluster::GroupId;
use leveret_queue::entry::{BatchBuilder, MemoryGauge, Part};
use leveret_queue::{
    Applied, ConsumerSlot, ConsumerSpec, DeadLetter, Delivery, Effects, EntryBuilder, EntryError,
    Link, Location, Machine, Overflow, QueueId, Replica, SeqRange, Settings, Waiter,
};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::{FxHashMap, FxHashSet};

use super::message::{Attach, Claim, ConsumerKey, Down, Item, SessionId, SettleSeqs, Up};
use super::session::Leader;
use crate::node::BodyStore;

/// Proposals under way at most; what comes meanwhile is gathered into the next.
const PROPOSALS_MAX: usize = 4;
/// A batch is not gathered any further past this many bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long a new leader waits for the sessions of nodes that are up.
pub const CLAIMS_WAIT_MS: u64 = 500;

/// What a group needs of its surroundings.
pub trait Surroundings: Send + Sync {
    /// Proposes an entry to Raft, in the order of the calls; it is applied here, or the node stops leading.
    fn propose(&self, group: GroupId, term: u64, payload: Bytes);
    /// Tells a session, in the order of the calls.
    fn tell(&self, to: SessionId, group: GroupId, from: Leader, down: Down);
    /// A message is to be dead-lettered.
    fn dead_letter(&self, group: GroupId, dead: DeadLetter);
    /// A queue is to be deleted if it is still unused.
    fn unused(&self, queue: QueueId);
    /// The group's next timer has moved.
    fn timer(&self, group: GroupId, at_ms: u64);
}

/// What left the lock and is to be done.
enum Done {
    Tell(u64, SessionId, Down),
    Propose(u64, Bytes),
    Dead(DeadLetter),
    Unused(QueueId),
}

type Outgoing = Arc<Mutex<VecDeque<Done>>>;

/// A session's consumer, as the machine sees it.
struct PeerLink {
    term: u64,
    session: SessionId,
    key: ConsumerKey,
    credit: AtomicI64,
    waiter: Mutex<Option<Waiter>>,
    out: Outgoing,
}

impl Link for PeerLink {
    fn room(&self) -> usize {
        usize::try_from(self.credit.load(Ordering::Acquire)).unwrap_or(0)
    }

    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        let mut bytes = 0;
        let items = deliveries
            .drain(..)
            .map(|delivery| {
                bytes += delivery.message.encoded_len() as i64;
                Item {
                    number: delivery.number,
                    seq: delivery.seq,
                    redelivered: delivery.redelivered,
                    delivery_count: delivery.delivery_count,
                    message: delivery.message,
                }
            })
            .collect();
        self.credit.fetch_sub(bytes, Ordering::AcqRel);
        let key = self.key;
        let down = Down::Deliver { key, items };
        let done = Done::Tell(self.term, self.session, down);
        self.out.lock().push_back(done);
    }

    fn wait_room(&self, waiter: Waiter) -> bool {
        // Credit comes under the group's lock, as this call does.
        if self.room() > 0 {
            return false;
        }
        *self.waiter.lock() = Some(waiter);
        true
    }

    fn cancelled(&self, _: u64) {
        let down = Down::Cancelled { key: self.key };
        let done = Done::Tell(self.term, self.session, down);
        self.out.lock().push_back(done);
    }
}

struct Attached {
    queue: QueueId,
    slot: ConsumerSlot,
    link: Arc<PeerLink>,
}

/// A session, as the leader knows it.
#[derive(Default)]
struct Peer {
    /// Number of the last batch that was taken.
    received: u64,
    consumers: FxHashMap<ConsumerKey, Attached>,
    /// What was refused of batches that are not committed yet.
    refused: VecDeque<(u64, Vec<u32>)>,
}

/// A batch of a session.
struct Batch {
    number: u64,
    /// It was applied before.
    repeated: bool,
    settles: Vec<SettleSeqs>,
    entry: Bytes,
}

/// What only the leader has.
struct Leading {
    term: u64,
    machine: Machine,
    effects: Effects,
    peers: FxHashMap<SessionId, Peer>,
    /// What is to be proposed next.
    batch: BatchBuilder,
    proposals: usize,
    /// Nodes whose claims are awaited, until then.
    awaited: FxHashSet<u64>,
    until_ms: u64,
    /// What came before the machine was allowed to deliver.
    deferred: Vec<(SessionId, Up)>,
}

struct State {
    replica: Replica,
    applied: u64,
    leading: Option<Box<Leading>>,
}

/// See the module.
pub struct MirrorGroup {
    id: GroupId,
    node: u64,
    state: Mutex<State>,
    out: Outgoing,
    pumping: Mutex<()>,
    store: Arc<BodyStore>,
    gauge: Arc<MemoryGauge>,
    surroundings: Arc<dyn Surroundings>,
    next_timer_ms: AtomicU64,
    term: AtomicU64,
}

impl std::fmt::Debug for MirrorGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MirrorGroup({})", self.id)
    }
}

impl Leading {
    fn settle(&mut self, session: SessionId, settle: &SettleSeqs, now_ms: u64, store: &BodyStore) {
        let held = settle.consumer.and_then(|key| {
            let peer = self.peers.get(&session)?;
            peer.consumers.get(&key).map(|c| c.slot)
        });
        let ranges: Vec<SeqRange> = settle
            .items
            .iter()
            .map(|&(number, first, count)| SeqRange {
                number,
                first,
                count,
            })
            .collect();
        self.machine.settle_seqs(
            settle.queue,
            held,
            &ranges,
            settle.how,
            now_ms,
            store,
            &mut self.effects,
        );
    }

    /// Attaches a consumer; `None`: an exclusive one is in the way, or the queue is gone.
    fn attach(
        &mut self,
        session: SessionId,
        attach: &Attach,
        out: &Outgoing,
        now_ms: u64,
    ) -> Option<ConsumerSlot> {
        let link = Arc::new(PeerLink {
            term: self.term,
            session,
            key: attach.key,
            credit: AtomicI64::new(i64::from(attach.credit)),
            waiter: Mutex::new(None),
            out: Arc::clone(out),
        });
        let spec = ConsumerSpec {
            link: Arc::clone(&link) as Arc<dyn Link>,
            handle: attach.key,
            no_ack: attach.no_ack,
            exclusive: attach.exclusive,
            priority: attach.priority,
            prefetch: attach.prefetch,
            limiter: None,
            // One that was cancelled holds what it has, as one for basic.get does.
            passive: attach.passive || attach.cancelled,
        };
        let slot = self.machine.consume(attach.queue, spec, now_ms)?;
        self.peers.entry(session).or_default().consumers.insert(
            attach.key,
            Attached {
                queue: attach.queue,
                slot,
                link,
            },
        );
        Some(slot)
    }

    /// Queues of an entry that may refuse: what became of a repeated batch's messages is not known then.
    fn may_refuse(&self, entry: &EntryBuilder) -> bool {
        entry.queues().any(|queue| {
            self.machine
                .queue(queue)
                .is_some_and(|q| q.settings().overflow != Overflow::DropHead)
        })
    }
}

impl MirrorGroup {
    /// A mirror of a group, as its checkpoint has it. `node`: this node's id.
    pub fn new(
        id: GroupId,
        node: u64,
        replica: Replica,
        applied: u64,
        store: Arc<BodyStore>,
        surroundings: Arc<dyn Surroundings>,
    ) -> MirrorGroup {
        MirrorGroup {
            id,
            node,
            state: Mutex::new(State {
                replica,
                applied,
                leading: None,
            }),
            out: Outgoing::default(),
            pumping: Mutex::new(()),
            gauge: Arc::clone(store.gauge()),
            store,
            surroundings,
            next_timer_ms: AtomicU64::new(u64::MAX),
            term: AtomicU64::new(0),
        }
    }

    /// Its number.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// The term in which this node leads; 0 if it does not.
    pub fn leads(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Index of the last entry that was applied here.
    pub fn applied(&self) -> u64 {
        self.state.lock().applied
    }

    /// When [`MirrorGroup::tick`] is due; `u64::MAX` if it is not.
    pub fn next_timer_ms(&self) -> u64 {
        self.next_timer_ms.load(Ordering::Relaxed)
    }

    /// Takes what the machine did by itself, proposes what there is, and lets everything out that is to leave the lock.
    fn finish(&self, mut guard: MutexGuard<'_, State>) {
        if let Some(leading) = guard.leading.as_mut() {
            self.collect(leading);
            if leading.proposals < PROPOSALS_MAX && !leading.batch.is_empty() {
                leading.proposals += 1;
                let batch = std::mem::take(&mut leading.batch);
                let payload = batch.finish(Some(Arc::clone(&self.gauge)));
                let done = Done::Propose(leading.term, payload);
                self.out.lock().push_back(done);
            }
            let next = match leading.machine.is_armed() {
                true => leading.until_ms,
                false => leading.machine.next_timer_ms().unwrap_or(u64::MAX),
            };
            if self.next_timer_ms.swap(next, Ordering::Relaxed) > next {
                self.surroundings.timer(self.id, next);
            }
        }
        drop(guard);
        self.pump();
    }

    fn collect(&self, leading: &mut Leading) {
        let effects = &mut leading.effects;
        for (queue, levels) in effects.created.drain(..) {
            leading.batch.create(queue, levels);
        }
        leading.batch.own(std::mem::take(&mut effects.journal));
        let mut out = self.out.lock();
        out.extend(effects.dead.drain(..).map(Done::Dead));
        out.extend(effects.unused.drain(..).map(Done::Unused));
        drop(out);
        if let Some(failure) = effects.failure.take() {
            self.store.failed(&failure);
        }
    }

    /// Does what left the lock, in order: whoever comes while somebody else is at it leaves his to him.
    fn pump(&self) {
        loop {
            let Some(pumping) = self.pumping.try_lock() else {
                return;
            };
            loop {
                let next = self.out.lock().pop_front();
                let Some(done) = next else { break };
                match done {
                    Done::Tell(term, session, down) => {
                        let from = Leader {
                            node: self.node,
                            term,
                        };
                        self.surroundings.tell(session, self.id, from, down);
                    }
                    Done::Propose(term, payload) => {
                        self.surroundings.propose(self.id, term, payload);
                    }
                    Done::Dead(dead) => self.surroundings.dead_letter(self.id, dead),
                    Done::Unused(queue) => self.surroundings.unused(queue),
                }
            }
            drop(pumping);
            // Something may have come between the last look and the unlock.
            if self.out.lock().is_empty() {
                return;
            }
        }
    }

    // ------------------------------------------------------------------ Raft

    /// A committed entry. `location`: its record in this node's journal; `barrier`: see [`Replica::apply`].
    ///
    /// # Errors
    /// The entry is malformed: the group cannot go on, here or anywhere.
    pub fn apply(
        &self,
        index: u64,
        payload: &Bytes,
        location: Location,
        barrier: Location,
        now_ms: u64,
    ) -> Result<(), EntryError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let applied = state.replica.apply(payload, location, barrier)?;
        state.applied = index;
        if let Some(leading) = state.leading.as_mut() {
            leading.machine.apply_batch(
                &applied,
                location,
                now_ms,
                &*self.store,
                &mut leading.effects,
            )?;
            leading.proposals = leading.proposals.saturating_sub(1);
            self.tell_committed(leading, &applied);
        }
        self.finish(guard);
        Ok(())
    }

    fn tell_committed(&self, leading: &mut Leading, applied: &Applied) {
        // A batch has few sessions: the last number of each counts.
        let mut last: FxHashMap<SessionId, u64> = FxHashMap::default();
        for (part, _) in &applied.parts {
            if let Part::Entry {
                session, number, ..
            } = part
                && *number > 0
            {
                last.insert(*session, *number);
            }
        }
        let mut out = self.out.lock();
        for (session, number) in last {
            let mut refused = Vec::new();
            if let Some(peer) = leading.peers.get_mut(&session) {
                while peer.refused.front().is_some_and(|(n, _)| *n <= number) {
                    refused.extend(peer.refused.pop_front());
                }
            }
            let down = Down::Committed { number, refused };
            out.push_back(Done::Tell(leading.term, session, down));
        }
    }

    /// This node leads from now on: everything that was committed before is applied. `nodes`: those that are up, whose sessions'
    /// claims are awaited; `queues`: what the metadata has in this group, up to its index `metadata`; `end`: the journal's end now.
    pub fn lead(
        &self,
        term: u64,
        nodes: impl IntoIterator<Item = u64>,
        queues: Vec<(QueueId, Settings)>,
        metadata: u64,
        end: Location,
        now_ms: u64,
    ) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let known: FxHashSet<QueueId> = queues.iter().map(|(id, _)| *id).collect();
        let machine = Machine::lead(self.id, &state.replica, queues, end, now_ms);
        let mut batch = BatchBuilder::default();
        // Queues that were deleted while nobody could say so here. A queue's id is the index of the command that made it: one that is not
        // applied here yet is not known yet.
        for (queue, _) in state.replica.queues() {
            if queue <= metadata && !known.contains(&queue) {
                batch.remove(queue);
            }
        }
        self.out.lock().clear();
        self.term.store(term, Ordering::Release);
        state.leading = Some(Box::new(Leading {
            term,
            machine,
            effects: Effects::default(),
            peers: FxHashMap::default(),
            batch,
            proposals: 0,
            awaited: nodes.into_iter().collect(),
            until_ms: now_ms + CLAIMS_WAIT_MS,
            deferred: Vec::new(),
        }));
        self.finish(guard);
    }

    /// Another node leads, or none: sessions will say to the next what they need.
    pub fn step_down(&self) {
        let mut state = self.state.lock();
        self.term.store(0, Ordering::Release);
        self.next_timer_ms.store(u64::MAX, Ordering::Relaxed);
        if let Some(leading) = state.leading.take() {
            leading.machine.step_down();
        }
        self.out.lock().clear();
    }

    // ------------------------------------------------------------------ the node

    /// The metadata has a new queue.
    pub fn create(&self, id: QueueId, settings: Settings, now_ms: u64) {
        let mut guard = self.state.lock();
        if guard.replica.queue(id).is_some() && guard.leading.is_some() {
            // An earlier leader has served it already. This one begins anew, with what the replica has of it.
            drop(guard);
            return self.step_down();
        }
        if let Some(leading) = guard.leading.as_mut() {
            leading.machine.create(id, settings, now_ms);
        }
        self.finish(guard);
    }

    /// A queue's settings have changed.
    pub fn update(&self, id: QueueId, settings: Settings, now_ms: u64) {
        let mut guard = self.state.lock();
        if let Some(leading) = guard.leading.as_mut() {
            let effects = &mut leading.effects;
            leading
                .machine
                .update(id, settings, now_ms, &*self.store, effects);
        }
        self.finish(guard);
    }

    /// The metadata has the queue no more.
    pub fn remove(&self, id: QueueId) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            let gone = leading.machine.remove(id, &*self.store);
            for peer in leading.peers.values_mut() {
                peer.consumers.retain(|_, c| c.queue != id);
            }
            if gone.is_some() || state.replica.queue(id).is_some() {
                // What was settled or admitted before is applied before, or to nothing.
                self.collect(leading);
                leading.batch.remove(id);
            }
        }
        self.finish(guard);
    }

    /// Whether a queue has no consumers; `false` if this node cannot tell.
    pub fn is_unused(&self, id: QueueId) -> bool {
        let state = self.state.lock();
        let leading = state.leading.as_ref().filter(|l| !l.machine.is_armed());
        leading.is_some_and(|l| l.machine.is_unused(id))
    }

    /// Timers that are due, and claims that are not awaited any longer.
    pub fn tick(&self, now_ms: u64) {
        /// Queues handled before others get the lock.
        const TIMERS_MAX: usize = 256;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.go_if_ready(leading, &state.replica, now_ms);
            let effects = &mut leading.effects;
            leading
                .machine
                .tick(now_ms, TIMERS_MAX, &*self.store, effects);
        }
        self.finish(guard);
    }

    /// A node cannot be heard: nobody waits for its claims, and what its connections hold returns. `gone`: the incarnation of its process that is over for good.
    pub fn node_down(&self, node: u64, gone: Option<u64>, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            let over: Vec<SessionId> = leading
                .peers
                .keys()
                .filter(|session| session.node == node)
                .copied()
                .collect();
            for session in over {
                self.release_all(leading, session, now_ms);
            }
            if let Some(incarnation) = gone {
                let session = SessionId { node, incarnation };
                if state.replica.last_number(session) > 0 {
                    leading.batch.forget(session);
                }
            }
            leading.awaited.remove(&node);
            self.go_if_ready(leading, &state.replica, now_ms);
        }
        self.finish(guard);
    }

    fn release_all(&self, leading: &mut Leading, session: SessionId, now_ms: u64) {
        let Some(peer) = leading.peers.remove(&session) else {
            return;
        };
        for gone in peer.consumers.into_values() {
            leading.machine.release(
                gone.queue,
                gone.slot,
                now_ms,
                &*self.store,
                &mut leading.effects,
            );
        }
    }

    /// Segments of the journal that live messages are in.
    pub fn live_segments(&self, out: &mut FxHashSet<u32>) {
        let state = self.state.lock();
        for (_, queue) in state.replica.queues() {
            let runs = queue.levels.iter().flat_map(|level| level.runs());
            out.extend(runs.map(|run| run.location.segment()));
        }
    }

    /// Where its messages are.
    pub fn store(&self) -> &Arc<BodyStore> {
        &self.store
    }

    /// The bytes of a checkpoint: `applied u64`, then the replica's.
    pub fn checkpoint(&self) -> Vec<u8> {
        let state = self.state.lock();
        let mut out = state.applied.to_le_bytes().to_vec();
        out.extend_from_slice(&state.replica.encode());
        out
    }

    /// Begins as [`MirrorGroup::checkpoint`] left it.
    ///
    /// # Errors
    /// The bytes are no checkpoint.
    pub fn restore(&self, bytes: &[u8]) -> std::io::Result<()> {
        let (applied, rest) = bytes
            .split_first_chunk::<8>()
            .ok_or_else(|| std::io::Error::other("a checkpoint is too short"))?;
        let replica = Replica::decode(rest).map_err(std::io::Error::other)?;
        let mut state = self.state.lock();
        state.applied = u64::from_le_bytes(*applied);
        state.replica = replica;
        Ok(())
    }

    /// Takes another mirror's state.
    pub fn replace(&self, replica: Replica) {
        self.step_down();
        self.state.lock().replica = replica;
    }

    /// The replica as it is.
    pub fn snapshot(&self) -> Replica {
        self.state.lock().replica.clone()
    }

    // ------------------------------------------------------------------ sessions

    /// Takes what a session of another node or of this one wants of the leader of `term`.
    pub fn receive(&self, session: SessionId, term: u64, up: Up, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let Some(leading) = state.leading.as_mut().filter(|l| l.term == term) else {
            drop(guard);
            let from = Leader {
                node: self.node,
                term,
            };
            self.surroundings
                .tell(session, self.id, from, Down::NotLeading);
            return;
        };
        let is_claim = matches!(up, Up::Claim { .. });
        self.handle(leading, &state.replica, session, up, now_ms);
        if is_claim {
            leading.awaited.remove(&session.node);
            self.go_if_ready(leading, &state.replica, now_ms);
        }
        self.finish(guard);
    }

    fn go_if_ready(&self, leading: &mut Leading, replica: &Replica, now_ms: u64) {
        if !leading.machine.is_armed() || (!leading.awaited.is_empty() && now_ms < leading.until_ms)
        {
            return;
        }
        leading
            .machine
            .go(now_ms, &*self.store, &mut leading.effects);
        for (session, up) in std::mem::take(&mut leading.deferred) {
            self.handle(leading, replica, session, up, now_ms);
        }
    }

    fn handle(
        &self,
        leading: &mut Leading,
        replica: &Replica,
        session: SessionId,
        up: Up,
        now_ms: u64,
    ) {
        let store = &*self.store;
        match up {
            Up::Claim { next, claims } => self.claim(leading, session, next, claims, now_ms),
            Up::Batch {
                number,
                settles,
                entry,
            } => {
                let repeated = number <= replica.last_number(session);
                let batch = Batch {
                    number,
                    repeated,
                    settles,
                    entry,
                };
                self.batch(leading, session, &batch, now_ms);
            }
            // What follows looks at what waits: not before it is known what is held.
            up if leading.machine.is_armed()
                && !matches!(up, Up::Credit { .. } | Up::Release { .. }) =>
            {
                leading.deferred.push((session, up));
            }
            Up::Attach { request, attach } => {
                let slot = leading.attach(session, &attach, &self.out, now_ms);
                let done = slot.is_some();
                self.tell(leading, session, Down::Attached { request, done });
                leading
                    .machine
                    .run(attach.queue, now_ms, store, &mut leading.effects);
            }
            Up::Cancel { request, key } => {
                let found = leading
                    .peers
                    .get(&session)
                    .and_then(|p| p.consumers.get(&key));
                if let Some((queue, slot)) = found.map(|c| (c.queue, c.slot)) {
                    leading
                        .machine
                        .cancel(queue, slot, now_ms, store, &mut leading.effects);
                }
                self.tell(leading, session, Down::Ended { request });
            }
            Up::Release { key } => {
                let peer = leading.peers.get_mut(&session);
                if let Some(gone) = peer.and_then(|p| p.consumers.remove(&key)) {
                    leading.machine.release(
                        gone.queue,
                        gone.slot,
                        now_ms,
                        store,
                        &mut leading.effects,
                    );
                }
            }
            Up::Credit { key, bytes } => {
                let found = leading
                    .peers
                    .get(&session)
                    .and_then(|p| p.consumers.get(&key));
                let Some(link) = found.map(|c| Arc::clone(&c.link)) else {
                    return;
                };
                link.credit.fetch_add(i64::from(bytes), Ordering::AcqRel);
                let waiter = link.waiter.lock().take();
                if let Some(waiter) = waiter {
                    leading
                        .machine
                        .resume(waiter, now_ms, store, &mut leading.effects);
                }
            }
            Up::Get {
                request,
                queue,
                holder,
            } => {
                let held = holder.map(|key| {
                    let peer = leading.peers.get(&session)?;
                    peer.consumers.get(&key).map(|c| c.slot)
                });
                let got = match held {
                    // Its holder is gone, and so is whoever asked.
                    Some(None) => None,
                    held => leading.machine.get(
                        queue,
                        held.flatten(),
                        now_ms,
                        store,
                        &mut leading.effects,
                    ),
                };
                let got = got.map(|got| {
                    let item = Item {
                        number: got.number,
                        seq: got.seq,
                        redelivered: got.redelivered,
                        delivery_count: got.delivery_count,
                        message: got.message,
                    };
                    (item, got.remaining)
                });
                self.tell(leading, session, Down::Got { request, got });
            }
            Up::Purge { request, queue } => {
                let effects = &mut leading.effects;
                let messages = leading.machine.purge(queue, now_ms, store, effects);
                self.tell(leading, session, Down::Purged { request, messages });
            }
            Up::Counts {
                request,
                queue,
                touch,
            } => {
                if touch {
                    leading.machine.touch(queue, now_ms);
                }
                let (ready, consumers) = leading.machine.queue(queue).map_or((0, 0), |q| {
                    let depth = q.depth();
                    (depth.ready, depth.consumers)
                });
                let down = Down::Counts {
                    request,
                    ready,
                    consumers,
                };
                self.tell(leading, session, down);
            }
            Up::DeadLettered { queue, seq, reason } => {
                leading
                    .machine
                    .dead_lettered(queue, seq, reason, store, &mut leading.effects);
            }
        }
    }

    fn tell(&self, leading: &Leading, session: SessionId, down: Down) {
        let done = Done::Tell(leading.term, session, down);
        self.out.lock().push_back(done);
    }

    fn claim(
        &self,
        leading: &mut Leading,
        session: SessionId,
        next: u64,
        claims: Vec<Claim>,
        now_ms: u64,
    ) {
        // A session that begins anew with the same leader (its link broke) first gives back what it had.
        self.release_all(leading, session, now_ms);
        leading.peers.insert(
            session,
            Peer {
                received: next.saturating_sub(1),
                ..Peer::default()
            },
        );
        for Claim { attach, held } in claims {
            let key = attach.key;
            let queue = attach.queue;
            let Some(slot) = leading.attach(session, &attach, &self.out, now_ms) else {
                self.tell(leading, session, Down::Cancelled { key });
                continue;
            };
            let got = leading.machine.claim(
                queue,
                slot,
                &held,
                now_ms,
                &*self.store,
                &mut leading.effects,
            );
            // Both sides count what is held from 1 on; where the machine has left something out, the session is told.
            if got.contains(&None) {
                let numbers = got.iter().map(|n| n.unwrap_or(0)).collect();
                self.tell(leading, session, Down::Claimed { key, numbers });
            }
        }
    }

    fn batch(&self, leading: &mut Leading, session: SessionId, batch: &Batch, now_ms: u64) {
        let Batch {
            number,
            settles,
            entry,
            ..
        } = batch;
        let number = *number;
        let peer = leading.peers.entry(session).or_default();
        if number != peer.received + 1 {
            // Out of order: the link between has lost something, and the session will begin anew.
            return;
        }
        peer.received = number;
        let mut builder = match entry.is_empty() {
            true => EntryBuilder::default(),
            false => match EntryBuilder::reopen(entry.to_vec()) {
                Ok(builder) => builder,
                Err(error) => {
                    tracing::error!(%error, ?session, "malformed entry of a session");
                    return;
                }
            },
        };
        if batch.repeated {
            // What was refused of it is known to the leader that is gone; if there can be something, none of it counts as safe.
            let refused = match leading.may_refuse(&builder) {
                true => vec![(number, (0..builder.ops()).collect())],
                false => Vec::new(),
            };
            self.tell(leading, session, Down::Committed { number, refused });
            return;
        }
        for settle in settles {
            leading.settle(session, settle, now_ms, &self.store);
        }
        let outcome =
            leading
                .machine
                .admit(&mut builder, now_ms, &*self.store, &mut leading.effects);
        self.collect(leading);
        if !outcome.refused.is_empty()
            && let Some(peer) = leading.peers.get_mut(&session)
        {
            peer.refused.push_back((number, outcome.refused));
        }
        let entry = builder.finish(None);
        leading.batch.entry(session, number, &entry);
        if leading.batch.len() >= BATCH_BYTES_MAX {
            leading.proposals += 1;
            let full = std::mem::take(&mut leading.batch);
            let payload = full.finish(Some(Arc::clone(&self.gauge)));
            let done = Done::Propose(leading.term, payload);
            self.out.lock().push_back(done);
        }
    }
}
