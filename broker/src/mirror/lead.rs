//! A group on one of its mirrors: the replica, and, while this node leads, the machine.
//!
//! Called by Raft (committed entries, leadership), by sessions (what connections want) and by the node (metadata, timers).
//! Everything happens under the group's lock; what it leads to outside (answers to sessions, dead letters, unused queues, a proposal)
//! leaves the lock first, in order.
//!
//! Invariants: a batch of a session is admitted once and in the order of its numbers; what a session is told to be committed has
//! been applied here; a machine exists only between [`MirrorGroup::lead`] and [`MirrorGroup::step_down`], for one era of one term;
//! an era begins when nothing that an earlier one proposed is on its way; a session that names a queue which the metadata here does
//! not have yet waits with everything behind that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use leveret_cluster::GroupId;
use leveret_cluster::reclaim::{Live, ReclaimError};
use leveret_queue::entry::{BatchBuilder, EntryReader, MemoryGauge, Part};
use leveret_queue::{
    Applied, ConsumerSlot, ConsumerSpec, DeadLetter, Delivery, Effects, EntryBuf, EntryBuilder,
    EntryError, Limiter, Link, Location, Machine, Overflow, PartOutcome, QueueId, QueueState,
    QueueView, Replica, SeqRange, Settings, Waiter,
};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::{FxHashMap, FxHashSet};

use super::message::{Attach, Claim, ConsumerKey, Down, Item, SessionId, SettleSeqs, Up};
use super::session::Leader;
use super::staging::Staging;
use crate::node::{BodyStore, Relocate};

/// Proposals under way at most; what comes meanwhile is gathered into the next.
const PROPOSALS_MAX: usize = 4;
/// A batch is not gathered any further past this many bytes.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// How long a new leader waits for the sessions of nodes that are up; those that are silent for 1.5 s are not.
pub const CLAIMS_WAIT_MS: u64 = 2000;

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
    /// Whether a majority follows this leader at this moment: nobody else can lead then.
    fn is_sure(&self, group: GroupId) -> bool;
    /// The group's next timer has moved.
    fn timer(&self, group: GroupId, at_ms: u64);
}

/// One leadership of this node: Raft's term, and which beginning in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reign {
    term: u64,
    era: u64,
}

/// What a leader begins with.
#[derive(Debug)]
pub struct Beginning {
    /// Raft's term.
    pub term: u64,
    /// Nodes that are up, whose sessions' claims are awaited.
    pub nodes: BTreeSet<u64>,
    /// What the metadata here has in this group.
    pub queues: Vec<(QueueId, Settings)>,
    /// The metadata's index.
    pub metadata: u64,
    /// Nodes and the present life of each, as the metadata has them.
    pub lives: Vec<SessionId>,
    /// The journal's end.
    pub end: Location,
    /// Milliseconds since 1970.
    pub now_ms: u64,
}

/// What left the lock and is to be done.
enum Done {
    Tell(Reign, SessionId, Down),
    Deliver(Staged),
    Propose(u64, Bytes),
    Dead(DeadLetter),
    Unused(QueueId),
}

type Outgoing = Arc<Mutex<VecDeque<Done>>>;

/// Deliveries of one queue to one session, by their turns: a connection with several consumers gets them in the queue's order.
struct Staged {
    reign: Reign,
    session: SessionId,
    queue: QueueId,
    bytes: i64,
    items: Vec<(u64, ConsumerKey, Item)>,
}

/// Bytes that are gathered for one message to a session.
const STAGED_BYTES_MAX: i64 = 1 << 20;

/// A session's consumer, as the machine sees it.
struct PeerLink {
    reign: Reign,
    session: SessionId,
    queue: QueueId,
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
        let items = deliveries.drain(..).map(|delivery| {
            bytes += delivery.message.encoded_len() as i64;
            let item = Item {
                number: delivery.number,
                seq: delivery.seq,
                redelivered: delivery.redelivered,
                delivery_count: delivery.delivery_count,
                message: delivery.message,
            };
            (delivery.turn, self.key, item)
        });
        let mut items: Vec<_> = items.collect();
        self.credit.fetch_sub(bytes, Ordering::AcqRel);
        let mut out = self.out.lock();
        if let Some(Done::Deliver(last)) = out.back_mut()
            && (last.reign, last.session, last.queue) == (self.reign, self.session, self.queue)
            && last.bytes < STAGED_BYTES_MAX
        {
            last.bytes += bytes;
            last.items.append(&mut items);
            last.items.sort_by_key(|(turn, ..)| *turn);
            return;
        }
        out.push_back(Done::Deliver(Staged {
            reign: self.reign,
            session: self.session,
            queue: self.queue,
            bytes,
            items,
        }));
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
        self.tell(Down::Cancelled { key: self.key });
    }

    fn active(&self, _: u64, active: bool) {
        let key = self.key;
        self.tell(Down::Active { key, active });
    }
}

impl PeerLink {
    fn tell(&self, down: Down) {
        let done = Done::Tell(self.reign, self.session, down);
        self.out.lock().push_back(done);
    }
}

struct Attached {
    queue: QueueId,
    slot: ConsumerSlot,
    link: Arc<PeerLink>,
    /// Places in its channel's window that its session has granted.
    window: Option<Arc<Limiter>>,
}

/// A session, as the leader knows it.
#[derive(Default)]
struct Peer {
    /// Number of the last batch that was taken.
    received: u64,
    /// Number of the last batch that belongs to its claim.
    last: u64,
    consumers: FxHashMap<ConsumerKey, Attached>,
    /// What was refused of batches that are not committed yet.
    refused: VecDeque<(u64, Vec<u32>)>,
    /// What waits until the metadata here has a queue that the first of it names.
    held_back: VecDeque<Up>,
    /// Number of the last batch with messages in it.
    published: u64,
    /// What is to see the messages that came before it: done when the batch of that number is applied.
    late: VecDeque<(u64, Up)>,
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
    reign: Reign,
    machine: Machine,
    effects: Effects,
    peers: FxHashMap<SessionId, Peer>,
    /// What is to be proposed next.
    batch: BatchBuilder,
    proposals: usize,
    /// An entry of this era was applied: nobody else leads, or has led since the era began.
    proven: bool,
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
    /// What is on its way to other mirrors.
    lent: Vec<Weak<Replica>>,
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
    era: AtomicU64,
    /// Proposals that Raft has and has not answered.
    in_flight: AtomicU64,
    /// Index up to which the metadata's queues are known here.
    metadata: AtomicU64,
    /// A session waits for a queue.
    waits: AtomicBool,
    /// Deliveries wait until a majority is heard.
    unsure: AtomicBool,
    /// What came of snapshots that were not installed.
    staging: Staging,
}

impl std::fmt::Debug for MirrorGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MirrorGroup({})", self.id)
    }
}

/// A window that asks the consumer's session for places.
fn granted(link: &Arc<PeerLink>) -> Arc<Limiter> {
    let asker = Arc::downgrade(link);
    Arc::new(Limiter::granted(Box::new(move || {
        if let Some(link) = asker.upgrade() {
            link.tell(Down::Wanted { key: link.key });
        }
    })))
}

/// The queue whose waiting messages a request is about.
fn looks_at(up: &Up) -> Option<QueueId> {
    match up {
        Up::Get { queue, .. } | Up::Purge { queue, .. } | Up::Counts { queue, .. } => Some(*queue),
        _ => None,
    }
}

impl Leading {
    /// Whether a request of a session has to wait for what the session has published before: until the number that is answered is applied.
    fn is_early(&self, replica: &Replica, session: SessionId, up: &Up) -> Option<u64> {
        let queue = looks_at(up)?;
        let peer = self.peers.get(&session)?;
        if peer.published <= replica.last_number(session) {
            return None;
        }
        let admitted = self.machine.queue(queue)?.admitted();
        (admitted > 0 || !peer.late.is_empty()).then_some(peer.published)
    }

    /// Requests whose messages are applied now.
    fn take_late(&mut self, replica: &Replica) -> Vec<(SessionId, Up)> {
        let mut ready = Vec::new();
        for (session, peer) in &mut self.peers {
            let applied = replica.last_number(*session);
            while peer.late.front().is_some_and(|(n, _)| *n <= applied) {
                ready.extend(peer.late.pop_front().map(|(_, up)| (*session, up)));
            }
        }
        ready
    }

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
            reign: self.reign,
            session,
            queue: attach.queue,
            key: attach.key,
            credit: AtomicI64::new(i64::from(attach.credit)),
            waiter: Mutex::new(None),
            out: Arc::clone(out),
        });
        let window = attach.shared.then(|| granted(&link));
        let spec = ConsumerSpec {
            link: Arc::clone(&link) as Arc<dyn Link>,
            handle: attach.key,
            no_ack: attach.no_ack,
            exclusive: attach.exclusive,
            priority: attach.priority,
            prefetch: attach.prefetch,
            limiter: window.clone(),
            // One that was cancelled holds what it has, as one for basic.get does.
            passive: attach.passive || attach.cancelled,
        };
        let slot = match attach.before {
            Some(before) => self
                .machine
                .consume_again(attach.queue, spec, before, now_ms)?,
            None => self.machine.consume(attach.queue, spec, now_ms)?,
        };
        self.machine.note_use(attach.queue, &mut self.effects);
        self.peers.entry(session).or_default().consumers.insert(
            attach.key,
            Attached {
                queue: attach.queue,
                slot,
                link,
                window,
            },
        );
        Some(slot)
    }

    /// Whether a session's consumers hold messages of this leader's.
    fn holds(&self, session: SessionId) -> bool {
        self.peers.get(&session).is_some_and(|peer| {
            let mut attached = peer.consumers.values();
            attached.any(|c| self.machine.held_by(c.queue, c.slot) > 0)
        })
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

/// Sessions of lives of a node before this one say nothing any more.
fn forget_before(replica: &Replica, batch: &mut BatchBuilder, life: SessionId) {
    for (session, _) in replica.sessions() {
        if session.node == life.node && session.incarnation < life.incarnation {
            batch.forget(session);
        }
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
                lent: Vec::new(),
            }),
            out: Outgoing::default(),
            pumping: Mutex::new(()),
            gauge: Arc::clone(store.gauge()),
            store,
            surroundings,
            next_timer_ms: AtomicU64::new(u64::MAX),
            term: AtomicU64::new(0),
            era: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            metadata: AtomicU64::new(0),
            waits: AtomicBool::new(false),
            unsure: AtomicBool::new(false),
            staging: Staging::default(),
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

    /// This node as the leader, if it leads.
    pub fn leader(&self) -> Option<Leader> {
        let state = self.state.lock();
        let reign = state.leading.as_ref()?.reign;
        Some(self.leader_of(reign))
    }

    fn leader_of(&self, reign: Reign) -> Leader {
        Leader {
            node: self.node,
            term: reign.term,
            era: reign.era,
        }
    }

    /// Whether everything that this node proposed to the group was answered: only then may it begin to lead.
    pub fn is_quiet(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }

    /// Raft has answered a proposal: it is applied, or it never will be in this term.
    pub fn proposal_ended(&self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
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
                let done = Done::Propose(leading.reign.term, payload);
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
        for queue in effects.used.drain(..) {
            leading.batch.used(queue);
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

    /// Looks again whether what waits for a majority may go.
    pub fn retry(&self) {
        if self.unsure.swap(false, Ordering::AcqRel) {
            self.pump();
        }
    }

    /// Does what left the lock, in order: whoever comes while somebody else is at it leaves his to him.
    fn pump(&self) {
        loop {
            let Some(pumping) = self.pumping.try_lock() else {
                return;
            };
            loop {
                let next = {
                    let mut out = self.out.lock();
                    let delivers = |done: &Done| {
                        matches!(
                            done,
                            Done::Tell(_, _, Down::Deliver { .. } | Down::Got { .. })
                        )
                    };
                    if out.front().is_some_and(delivers) && !self.surroundings.is_sure(self.id) {
                        // Another may have given the same to somebody else. It goes when a majority is heard, or never.
                        self.unsure.store(true, Ordering::Release);
                        return;
                    }
                    let next = out.pop_front();
                    if let Some(Done::Propose(..)) = next {
                        // Under the lock: who clears what is left knows what is not.
                        self.in_flight.fetch_add(1, Ordering::AcqRel);
                    }
                    next
                };
                let Some(done) = next else { break };
                match done {
                    Done::Tell(reign, session, down) => {
                        let from = self.leader_of(reign);
                        self.surroundings.tell(session, self.id, from, down);
                    }
                    Done::Deliver(staged) => {
                        let from = self.leader_of(staged.reign);
                        let items = staged.items.into_iter();
                        let items = items.map(|(_, key, item)| (key, item)).collect();
                        let down = Down::Deliver { items };
                        self.surroundings.tell(staged.session, self.id, from, down);
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

    /// A committed entry, by its term and index. `location`: its record in this node's journal; `barrier`: see [`Replica::apply`].
    ///
    /// # Errors
    /// The entry is malformed: the group cannot go on, here or anywhere.
    pub fn apply(
        &self,
        (term, index): (u64, u64),
        payload: &Bytes,
        location: Location,
        barrier: Location,
        now_ms: u64,
    ) -> Result<(), EntryError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let applied = state.replica.apply(payload, location, barrier)?;
        state.applied = index;
        if state.leading.as_ref().is_some_and(|l| l.reign.term < term) {
            // Somebody else led, and this node has not heard of it yet.
            drop(guard);
            self.step_down();
            return Ok(());
        }
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
            if !leading.proven && leading.reign.term == term {
                leading.proven = true;
                leading.until_ms = now_ms + CLAIMS_WAIT_MS;
                self.go_if_ready(leading, &state.replica, now_ms);
            }
            if applied.has_gap() {
                // A batch before it was refused by Raft: everything that is not committed comes again, in order.
                tracing::warn!(group = self.id, index, "a batch was lost; beginning anew");
                self.finish(guard);
                self.step_down();
                return Ok(());
            }
            for (session, up) in leading.take_late(&state.replica) {
                self.handle(leading, &state.replica, session, up, now_ms);
            }
        }
        self.finish(guard);
        Ok(())
    }

    fn tell_committed(&self, leading: &mut Leading, applied: &Applied) {
        // A batch has few sessions: the last number of each counts.
        let mut last: FxHashMap<SessionId, u64> = FxHashMap::default();
        for (part, outcome) in &applied.parts {
            if let Part::Entry {
                session, number, ..
            } = part
                && *number > 0
                && !matches!(outcome, PartOutcome::Gap { .. })
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
            out.push_back(Done::Tell(leading.reign, session, down));
        }
    }

    /// This node leads from now on: everything that was committed before is applied, and what an earlier era proposed is answered
    /// ([`MirrorGroup::is_quiet`]). Under the metadata's lock, so that no queue comes or goes meanwhile.
    pub fn lead(&self, beginning: Beginning) -> Leader {
        let Beginning {
            term,
            nodes,
            queues,
            metadata,
            lives,
            end,
            now_ms,
        } = beginning;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        self.metadata.fetch_max(metadata, Ordering::AcqRel);
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
        for life in lives {
            forget_before(&state.replica, &mut batch, life);
        }
        self.out.lock().clear();
        self.waits.store(false, Ordering::Release);
        let era = self.era.fetch_add(1, Ordering::AcqRel) + 1;
        let reign = Reign { term, era };
        self.term.store(term, Ordering::Release);
        // Whoever needs to know that it leads proposes: Raft's role may be that of before a long stop.
        let payload = batch.finish(Some(Arc::clone(&self.gauge)));
        self.out.lock().push_back(Done::Propose(term, payload));
        state.leading = Some(Box::new(Leading {
            reign,
            machine,
            effects: Effects::default(),
            peers: FxHashMap::default(),
            batch: BatchBuilder::default(),
            proposals: 1,
            proven: false,
            awaited: nodes.into_iter().collect(),
            until_ms: u64::MAX,
            deferred: Vec::new(),
        }));
        self.finish(guard);
        self.leader_of(reign)
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
        // Nor while a node's consumers may come to claim.
        let leading = state.leading.as_ref();
        let leading = leading.filter(|l| !l.machine.is_armed() && l.awaited.is_empty());
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

    /// The metadata here has everything up to an index: who waited for a queue goes on.
    pub fn metadata_applied(&self, index: u64, now_ms: u64) {
        self.metadata.fetch_max(index, Ordering::SeqCst);
        if !self.waits.load(Ordering::SeqCst) {
            return;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.waits.store(false, Ordering::SeqCst);
            let sessions: Vec<SessionId> = leading
                .peers
                .iter()
                .filter(|(_, peer)| !peer.held_back.is_empty())
                .map(|(session, _)| *session)
                .collect();
            for session in sessions {
                let waited = leading.peers.get_mut(&session);
                let waited = waited.map(|peer| std::mem::take(&mut peer.held_back));
                for up in waited.unwrap_or_default() {
                    if !self.take(leading, &state.replica, session, up, now_ms) {
                        drop(guard);
                        return self.step_down();
                    }
                }
            }
        }
        self.finish(guard);
    }

    /// A new life of a node has begun: what its earlier ones held returns, and what was applied of them need not be known any more.
    pub fn node_up(&self, life: SessionId, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.release_where(leading, now_ms, |session| {
                session.node == life.node && session.incarnation < life.incarnation
            });
            forget_before(&state.replica, &mut leading.batch, life);
        }
        self.finish(guard);
    }

    /// A node cannot be heard: nobody waits for its claims.
    pub fn not_awaited(&self, node: u64, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.await_no_more(leading, &state.replica, node, now_ms);
        }
        self.finish(guard);
    }

    /// A node cannot be heard, and a majority can: what its connections hold returns.
    pub fn node_down(&self, node: u64, now_ms: u64) {
        let mut guard = self.state.lock();
        if let Some(leading) = guard.leading.as_mut() {
            let released = self.release_where(leading, now_ms, |session| session.node == node);
            for session in released {
                // Once it is heard again it has to begin anew.
                self.tell(leading, session, Down::NotLeading);
            }
        }
        self.finish(guard);
    }

    fn release_where(
        &self,
        leading: &mut Leading,
        now_ms: u64,
        over: impl Fn(&SessionId) -> bool,
    ) -> Vec<SessionId> {
        let sessions: Vec<SessionId> = leading.peers.keys().copied().filter(over).collect();
        for session in &sessions {
            self.release_all(leading, *session, now_ms);
        }
        sessions
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

    /// A look at its queues, if this node leads.
    pub fn views(&self) -> Vec<QueueView> {
        let state = self.state.lock();
        let machine = state.leading.as_ref().map(|leading| &leading.machine);
        let queues = machine.into_iter().flat_map(|machine| machine.queues());
        queues.map(|queue| queue.view()).collect()
    }

    /// Adds up what lives in which segment of the journal, snapshots on their way to other mirrors included: about as many bytes.
    pub fn live(&self, out: &mut BTreeMap<u32, Live>) {
        let mut state = self.state.lock();
        state.lent.retain(|lent| lent.strong_count() > 0);
        let lent: Vec<Arc<Replica>> = state.lent.iter().filter_map(Weak::upgrade).collect();
        let lent = lent.iter().map(|replica| &**replica);
        for replica in std::iter::once(&state.replica).chain(lent) {
            for (_, queue) in replica.queues() {
                crate::node::add_live(queue, out);
            }
        }
        self.staging.live(out);
    }

    /// What came of snapshots that were not installed.
    pub(super) fn staging(&self) -> &Staging {
        &self.staging
    }

    /// Appends what lives in these segments again, at most about `bytes_max` bytes; the journal forgets nothing of it before the next
    /// checkpoint knows the new places. Answers how many bytes it wrote, and the last record's place.
    ///
    /// # Errors
    /// A segment cannot be read, or the journal is poisoned.
    pub fn relocate(
        &self,
        segments: &[u32],
        bytes_max: u64,
    ) -> Result<(u64, Option<leveret_storage::Location>), ReclaimError> {
        let mut queues: Vec<(QueueId, QueueState)> = {
            let state = self.state.lock();
            let there = |queue: &QueueState| {
                let mut runs = queue.levels.iter().flat_map(|level| level.runs());
                runs.any(|run| segments.contains(&run.location.segment()))
            };
            let queues = state.replica.queues().filter(|(_, queue)| there(queue));
            queues.map(|(id, queue)| (id, queue.clone())).collect()
        };
        queues.sort_unstable_by_key(|(id, _)| *id);
        let journal = self.store.journal();
        let what = Relocate {
            journal,
            group: self.id,
            queues: &queues,
        };
        let mut last = None;
        let written = what.run(segments, bytes_max, |entry, moved| {
            let kind = leveret_storage::RecordKind::Relocated;
            let at = journal.append(kind, 0, self.id, 0, 0, entry, false)?;
            last = Some(at);
            let location = Location(at.to_u64());
            let mut guard = self.state.lock();
            let state = &mut *guard;
            for (queue, seq) in moved {
                // Each record is its own barrier: nothing is known of what lies before it.
                state.replica.relocated(queue, seq, location, location);
                if let Some(leading) = state.leading.as_mut() {
                    leading.machine.relocated(queue, seq, location);
                }
            }
            Ok(())
        })?;
        Ok((written, last))
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

    /// The replica as it is. Until it is dropped, the segments stay that its messages are in.
    pub fn lend(&self) -> Arc<Replica> {
        let mut state = self.state.lock();
        let lent = Arc::new(state.replica.clone());
        state.lent.push(Arc::downgrade(&lent));
        lent
    }

    // ------------------------------------------------------------------ sessions

    /// Takes what a session of another node or of this one wants of `leader`.
    pub fn receive(&self, session: SessionId, leader: Leader, up: Up, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let reign = Reign {
            term: leader.term,
            era: leader.era,
        };
        let Some(leading) = state.leading.as_mut().filter(|l| l.reign == reign) else {
            drop(guard);
            // Void for who has heard of another leader meanwhile.
            self.surroundings
                .tell(session, self.id, leader, Down::NotLeading);
            return;
        };
        if !self.take(leading, &state.replica, session, up, now_ms) {
            drop(guard);
            return self.step_down();
        }
        self.finish(guard);
    }

    /// Handles what a session says, or holds it back with all that follows until the metadata have what it names. `false`: this
    /// leader has to begin anew.
    fn take(
        &self,
        leading: &mut Leading,
        replica: &Replica,
        session: SessionId,
        up: Up,
        now_ms: u64,
    ) -> bool {
        let is_claim = matches!(up, Up::Claim { .. });
        if is_claim {
            // Its link broke and came back; what it said before it says again.
            let holds = leading.holds(session);
            self.release_all(leading, session, now_ms);
            leading.deferred.retain(|(who, _)| *who != session);
            if holds {
                tracing::info!(group = self.id, ?session, "claims again; beginning anew");
                return false;
            }
        }
        match leading.peers.get_mut(&session) {
            Some(peer) if !peer.held_back.is_empty() => {
                peer.held_back.push_back(up);
                return true;
            }
            Some(_) => {}
            None if is_claim => {}
            None => {
                // It could not be heard for a while, and what it held went back: it has to begin anew.
                self.tell(leading, session, Down::NotLeading);
                return true;
            }
        }
        if self.names_unknown(&up) {
            self.waits.store(true, Ordering::SeqCst);
            // Again: the metadata may have come between.
            if self.names_unknown(&up) {
                let peer = leading.peers.entry(session).or_default();
                peer.held_back.push_back(up);
                return true;
            }
        }
        self.handle(leading, replica, session, up, now_ms);
        // What it has settled must not be given to others: its batches are awaited too.
        let complete = leading.peers.get(&session);
        if complete.is_some_and(|peer| peer.received >= peer.last) {
            self.await_no_more(leading, replica, session.node, now_ms);
        }
        true
    }

    /// A node has claimed, or will not.
    fn await_no_more(&self, leading: &mut Leading, replica: &Replica, node: u64, now_ms: u64) {
        if leading.awaited.remove(&node)
            && leading.awaited.is_empty()
            && !leading.machine.is_armed()
        {
            leading.machine.left(&mut leading.effects);
        }
        self.go_if_ready(leading, replica, now_ms);
    }

    /// Whether something names a queue that the metadata here does not have yet: its id is the index of the command that made it.
    fn names_unknown(&self, up: &Up) -> bool {
        let known = self.metadata.load(Ordering::SeqCst);
        match up {
            Up::Claim { claims, .. } => claims.iter().any(|claim| claim.attach.queue > known),
            Up::Batch { entry, settles, .. } => {
                settles.iter().any(|settle| settle.queue > known)
                    || (!entry.is_empty()
                        && EntryReader::new(&EntryBuf::shared(entry.clone()))
                            .is_ok_and(|r| r.queues().any(|(id, _)| id > known)))
            }
            Up::Attach { attach, .. } => attach.queue > known,
            Up::Get { queue, .. }
            | Up::Purge { queue, .. }
            | Up::Counts { queue, .. }
            | Up::DeadLettered { queue, .. } => *queue > known,
            Up::Cancel { .. }
            | Up::Release { .. }
            | Up::Credit { .. }
            | Up::Grant { .. }
            | Up::Share { .. } => false,
        }
    }

    fn go_if_ready(&self, leading: &mut Leading, replica: &Replica, now_ms: u64) {
        if !leading.machine.is_armed() || !leading.proven {
            return;
        }
        if !leading.awaited.is_empty() {
            if now_ms < leading.until_ms {
                return;
            }
            let nodes = &leading.awaited;
            tracing::warn!(
                group = self.id,
                ?nodes,
                "goes without the claims of nodes that are up"
            );
        }
        leading
            .machine
            .go(now_ms, &*self.store, &mut leading.effects);
        if leading.awaited.is_empty() {
            leading.machine.left(&mut leading.effects);
        }
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
            Up::Claim { next, last, claims } => {
                let peer = Peer {
                    received: next.saturating_sub(1),
                    last,
                    ..Peer::default()
                };
                leading.peers.insert(session, peer);
                self.claim(leading, session, claims, now_ms);
            }
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
            // What a session published before, it sees.
            up if let Some(number) = leading.is_early(replica, session, &up) => {
                if let Some(peer) = leading.peers.get_mut(&session) {
                    peer.late.push_back((number, up));
                }
            }
            Up::Attach { request, attach } => {
                let slot = leading.attach(session, &attach, &self.out, now_ms);
                let arrival = slot.map(|slot| leading.machine.arrival(attach.queue, slot));
                self.tell(leading, session, Down::Attached { request, arrival });
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
            Up::Grant { key, places } => {
                let attached = leading
                    .peers
                    .get(&session)
                    .and_then(|p| p.consumers.get(&key));
                let Some(window) = attached.and_then(|c| c.window.clone()) else {
                    return;
                };
                window.grant(places);
                for waiter in window.take_waiters() {
                    let effects = &mut leading.effects;
                    leading.machine.resume(waiter, now_ms, store, effects);
                }
                let places = window.take_unused();
                if places > 0 {
                    self.tell(leading, session, Down::Unused { key, places });
                }
            }
            Up::Share { key } => {
                let peer = leading.peers.get_mut(&session);
                if let Some(shared) = peer.and_then(|p| p.consumers.get_mut(&key)) {
                    let window = granted(&shared.link);
                    let (queue, slot) = (shared.queue, shared.slot);
                    shared.window = Some(Arc::clone(&window));
                    leading.machine.share_window(queue, slot, &window);
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
        let done = Done::Tell(leading.reign, session, down);
        self.out.lock().push_back(done);
    }

    fn claim(&self, leading: &mut Leading, session: SessionId, claims: Vec<Claim>, now_ms: u64) {
        let queues: FxHashSet<QueueId> = claims.iter().map(|claim| claim.attach.queue).collect();
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
        if !leading.machine.is_armed() {
            // It comes late: what waits goes to its consumers from now on.
            for queue in queues {
                leading
                    .machine
                    .run(queue, now_ms, &*self.store, &mut leading.effects);
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
        let Some(peer) = leading.peers.get_mut(&session) else {
            return;
        };
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
        if builder.ops() > 0
            && let Some(peer) = leading.peers.get_mut(&session)
        {
            peer.published = number;
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
            let done = Done::Propose(leading.reign.term, payload);
            self.out.lock().push_back(done);
        }
    }
}
