//! The queues of one group, driven by entries and by the leader's calls.
//!
//! `entries`: what an entry does; `leader`: consumers, settling, timers; `recovery`: starting from a checkpoint and a log; `lead`:
//! leading a mirrored group.

mod entries;
mod lead;
mod leader;
mod recovery;

pub use leader::{SeqRange, Settle};

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use crate::entry::EntryBuilder;
use crate::queue::{Ctx, Queue};
use crate::{
    ConsumerSpec, ConsumerView, DeadReason, Depth, Link, Message, QueueId, QueueState, QueueView,
    Seq, Settings, Store, StoreError, Waiter,
};

/// A message on its way to the dead-letter exchange.
#[derive(Debug)]
pub struct DeadLetter {
    /// The queue that it leaves.
    pub queue: QueueId,
    /// Its number there.
    pub seq: Seq,
    /// The message.
    pub message: Message,
    /// Why.
    pub reason: DeadReason,
    /// It is still live at the source: call [`Machine::dead_lettered`] once it is enqueued at its targets.
    pub held: bool,
}

/// What the driver has to do after a call. Nothing in it is done by the machine.
#[derive(Debug, Default)]
pub struct Effects {
    /// What the machine settled by itself: to be journaled behind what caused it.
    pub journal: EntryBuilder,
    /// Queues of a mirrored group that are named for the first time, and their highest priority levels: to be proposed before the
    /// entry that names them ([`crate::BatchBuilder::create`]).
    pub created: Vec<(QueueId, u8)>,
    /// Queues of a mirrored group that have had a consumer, and are deleted with their last one: to be proposed
    /// ([`crate::BatchBuilder::used`]).
    pub used: Vec<QueueId>,
    /// To be routed to dead-letter exchanges, outside of the group's lock.
    pub dead: Vec<DeadLetter>,
    /// Queues that became unused (auto-delete, expires): to be proposed for deletion.
    pub unused: Vec<QueueId>,
    /// Consumers of any group that may go on: call [`Machine::resume`], outside of the group's lock.
    pub wakes: Vec<Waiter>,
    /// A body could not be read: the node must stop.
    pub failure: Option<StoreError>,
    pub(crate) timers: Vec<(u64, QueueId)>,
}

/// What became of the ops of an entry at admission.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Numbers of Enqueue ops that a queue refused, ascending; once for each refusing queue.
    pub refused: Vec<u32>,
    /// Queues of a mirrored group that this node does not know: messages for them are lost, if the entry is proposed.
    pub unknown: Vec<QueueId>,
}

/// The answer to basic.get.
#[derive(Debug, Clone)]
pub struct GetResult {
    /// The message.
    pub message: Message,
    /// Its number in the queue.
    pub seq: Seq,
    /// The holder's number for it, if it is to be acknowledged.
    pub number: u64,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// Times it came back, if the queue counts them.
    pub delivery_count: Option<u32>,
    /// Messages that wait behind it.
    pub remaining: u64,
}

/// What was in a queue that is gone.
#[derive(Debug)]
pub struct Removed {
    /// Its depth at the end.
    pub depth: Depth,
    /// Consumers of other queues that may go on, as [`Effects::wakes`]: places of their channels' windows came free.
    pub wakes: Vec<Waiter>,
}

/// A look at one queue's state.
#[derive(Debug)]
pub struct QueueRef<'a>(&'a Queue);

impl QueueRef<'_> {
    /// Its id.
    pub fn id(&self) -> QueueId {
        self.0.id
    }

    /// How much it holds.
    pub fn depth(&self) -> Depth {
        self.0.depth()
    }

    /// For listings.
    pub fn view(&self) -> QueueView {
        self.0.view()
    }

    /// Its consumers, for listings.
    pub fn consumers(&self) -> impl Iterator<Item = ConsumerView> {
        self.0.consumers.views()
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Messages that were admitted and wait to be committed.
    pub fn admitted(&self) -> u64 {
        self.0.admitted.0
    }
}

/// What the group is to this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lead {
    /// Its own: nothing is mirrored.
    Local,
    /// Mirrored, and this node is about to lead it: consumers claim what they hold, nothing is delivered.
    Armed,
    /// Mirrored, and led by this node.
    Leading,
}

/// The queues of one group.
pub struct Machine {
    group: u32,
    lead: Lead,
    queues: FxHashMap<QueueId, Box<Queue>>,
    replay: FxHashMap<QueueId, QueueState>,
    timers: BinaryHeap<Reverse<(u64, QueueId)>>,
    table: Vec<(QueueId, Seq)>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Machine(group {}, {} queues)",
            self.group,
            self.queues.len()
        )
    }
}

impl Machine {
    /// An empty group.
    pub fn new(group: u32) -> Self {
        Machine {
            group,
            lead: Lead::Local,
            queues: FxHashMap::default(),
            replay: FxHashMap::default(),
            timers: BinaryHeap::new(),
            table: Vec::new(),
        }
    }

    /// Makes a queue. An id that is there already stays as it is.
    pub fn create(&mut self, id: QueueId, settings: Settings, now_ms: u64) {
        let Entry::Vacant(vacant) = self.queues.entry(id) else {
            return;
        };
        let queue = vacant.insert(Box::new(Queue::new(id, settings, now_ms)));
        if let Some(expires) = settings.expires_ms
            && self.lead != Lead::Armed
        {
            queue.timer_ms = now_ms.saturating_add(expires);
            self.timers.push(Reverse((queue.timer_ms, id)));
        }
    }

    /// Takes over changed settings (a policy was applied). Priority levels stay as declared.
    pub fn update(
        &mut self,
        id: QueueId,
        settings: Settings,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            queue.set(settings, ctx.now_ms);
            queue.run(ctx);
        });
    }

    /// Takes a queue away; its consumers are told.
    pub fn remove(&mut self, id: QueueId, store: &dyn Store) -> Option<Removed> {
        let mut queue = self.queues.remove(&id)?;
        let depth = queue.depth();
        queue.release_paged(store);
        let mut wakes = Vec::new();
        for consumer in queue.consumers.iter_mut() {
            if let Some(limiter) = &consumer.spec.limiter {
                wakes.extend(limiter.settled(consumer.unacked_len));
            }
            if !consumer.spec.passive && consumer.state != crate::consumer::State::Holding {
                consumer.spec.link.cancelled(consumer.spec.handle);
            }
        }
        Some(Removed { depth, wakes })
    }

    /// A look at a queue.
    pub fn queue(&self, id: QueueId) -> Option<QueueRef<'_>> {
        self.queues.get(&id).map(|q| QueueRef(q))
    }

    /// All queues.
    pub fn queues(&self) -> impl Iterator<Item = QueueRef<'_>> {
        self.queues.values().map(|q| QueueRef(q))
    }

    /// Number of queues.
    pub fn len(&self) -> usize {
        self.queues.len()
    }

    /// No queue.
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether a queue has no consumer: it may be deleted for being unused.
    pub fn is_unused(&self, id: QueueId) -> bool {
        self.queues
            .get(&id)
            .is_some_and(|q| q.consumers.attached == 0)
    }

    /// How many messages a consumer holds.
    pub fn held_by(&self, id: QueueId, slot: crate::ConsumerSlot) -> u32 {
        let queue = self.queues.get(&id);
        queue.map_or(0, |q| q.consumers.held_by(slot))
    }

    fn with<R>(
        &mut self,
        id: QueueId,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
        f: impl FnOnce(&mut Queue, &mut Ctx<'_>) -> R,
    ) -> Option<R> {
        let queue = self.queues.get_mut(&id)?;
        let mut ctx = Ctx {
            group: self.group,
            is_armed: self.lead == Lead::Armed,
            now_ms,
            store,
            effects,
        };
        let result = f(queue, &mut ctx);
        self.set_timers(effects);
        Some(result)
    }

    fn set_timers(&mut self, effects: &mut Effects) {
        self.timers.extend(effects.timers.drain(..).map(Reverse));
        // A queue whose timer moves to an earlier time and back leaves the later ones behind.
        if self.timers.len() > 2 * self.queues.len() + 64 {
            let set = self.queues.values().filter(|q| q.timer_ms != u64::MAX);
            self.timers = set.map(|q| Reverse((q.timer_ms, q.id))).collect();
        }
    }

    /// Every consumer of a link, for tests and listings: (queue, handle).
    pub fn consumers(&self) -> impl Iterator<Item = (QueueId, &ConsumerSpec, u32)> {
        self.queues.values().flat_map(|q| {
            q.consumers
                .iter()
                .map(move |(_, c)| (q.id, &c.spec, c.unacked_len))
        })
    }

    /// Checks what must always hold; for tests and simulation.
    ///
    /// # Errors
    /// Says what does not.
    pub fn check(&self) -> Result<(), String> {
        for q in self.queues.values() {
            let held: u64 = q
                .consumers
                .iter()
                .map(|(_, c)| u64::from(c.unacked_len))
                .sum();
            if held != q.unacked {
                return Err(format!(
                    "queue {}: {held} held but {} unacked",
                    q.id, q.unacked
                ));
            }
            let parts: u64 = q
                .ready
                .parts()
                .map(|(_, hot, runs)| hot.count() as u64 + runs.len())
                .sum();
            if parts != q.ready.messages() {
                return Err(format!(
                    "queue {}: {parts} parts, {} ready",
                    q.id,
                    q.ready.messages()
                ));
            }
            if q.ready.is_empty() && q.ready.bytes() != 0 {
                return Err(format!(
                    "queue {}: empty with {} bytes",
                    q.id,
                    q.ready.bytes()
                ));
            }
        }
        Ok(())
    }
}

/// A connection whose consumers never get anything: for passive holders in tests.
impl Link for () {
    fn room(&self) -> usize {
        0
    }

    fn deliver(&self, deliveries: &mut Vec<crate::Delivery>) {
        deliveries.clear();
    }

    fn wait_room(&self, _: Waiter) -> bool {
        true
    }

    fn cancelled(&self, _: u64) {}
}
