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

mod claims;
mod keep;
mod leading;
mod link;
mod nodes;
mod requests;
mod term;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use leveret_cluster::GroupId;
use leveret_queue::entry::MemoryGauge;
use leveret_queue::{DeadLetter, Location, QueueId, Replica, Settings};
use parking_lot::{Mutex, MutexGuard};

use self::leading::Leading;
use self::link::{Done, Outgoing};
use super::message::{Down, SessionId};
use super::session::Leader;
use super::staging::Staging;
use crate::node::BodyStore;

/// Proposals under way at most; what comes meanwhile is gathered into the next.
const PROPOSALS_MAX: usize = 4;
/// Milliseconds that settles wait for a message to share an entry with: nobody waits for an acknowledgement to be committed, and an
/// entry costs each mirror an fsync.
const SETTLES_HELD_MS: u64 = 5;
/// Bytes of settles that do not wait.
const SETTLES_HELD_BYTES: usize = 64 << 10;
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
    /// The first number of a message in this generation of the group.
    first: AtomicU64,
}

impl std::fmt::Debug for MirrorGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MirrorGroup({})", self.id)
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
            first: AtomicU64::new(1),
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
    fn finish(&self, mut guard: MutexGuard<'_, State>, now_ms: u64) {
        if let Some(leading) = guard.leading.as_mut() {
            self.collect(leading, now_ms);
            let may_propose = leading.proposals < PROPOSALS_MAX;
            if may_propose && leading.is_due(now_ms) {
                let done = leading.take_batch(&self.gauge);
                self.out.lock().push_back(done);
            }
            let mut next = match leading.machine.is_armed() {
                true => leading.until_ms,
                false => leading.machine.next_timer_ms().unwrap_or(u64::MAX),
            };
            if may_propose && !leading.batch.is_empty() {
                next = next.min(leading.due_ms);
            }
            if self.next_timer_ms.swap(next, Ordering::Relaxed) > next {
                self.surroundings.timer(self.id, next);
            }
        }
        drop(guard);
        self.pump();
    }

    fn collect(&self, leading: &mut Leading, now_ms: u64) {
        let effects = &mut leading.effects;
        if !effects.created.is_empty() || !effects.used.is_empty() {
            leading.due_ms = 0;
        }
        for (queue, levels) in effects.created.drain(..) {
            leading.batch.create(queue, levels);
        }
        for queue in effects.used.drain(..) {
            leading.batch.used(queue);
        }
        if !effects.journal.is_empty() {
            leading.due_ms = leading.due_ms.min(now_ms + SETTLES_HELD_MS);
            leading.batch.own(std::mem::take(&mut effects.journal));
        }
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
}
