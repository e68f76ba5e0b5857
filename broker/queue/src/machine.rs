//! The queues of one group, driven by entries and by the leader's calls.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::consumer::UnackedRange;
use crate::entry::{EntryBuf, EntryBuilder, EntryError, EntryReader, Op, SETTLED_ACKED};
use crate::queue::{Ctx, Queue};
use crate::ready::Hot;
use crate::{
    ConsumerSlot, ConsumerSpec, ConsumerView, DeadReason, Depth, Limiter, Link, Location, Message,
    Overflow, QueueId, QueueView, RunSet, Seq, Settings, Store, StoreError, Waiter,
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
}

/// The answer to basic.get.
#[derive(Debug)]
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

/// A queue's replicated state, as a checkpoint has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The next message's number.
    pub next_seq: Seq,
    /// Numbers up to here may have been delivered (exclusive).
    pub delivered_end: Seq,
    /// Bytes of the live messages' bodies.
    pub bytes: u64,
    /// Live messages by priority level.
    pub levels: Vec<RunSet>,
    /// Delivery counts above zero, by number.
    pub returns: Vec<(Seq, u32)>,
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
}

/// The queues of one group.
pub struct Machine {
    group: u32,
    queues: FxHashMap<QueueId, Box<Queue>>,
    replay: FxHashMap<QueueId, Restored>,
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

/// How a held message is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settle {
    Ack,
    Drop,
    Requeue,
}

impl Machine {
    /// An empty group.
    pub fn new(group: u32) -> Self {
        Machine {
            group,
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
        if let Some(expires) = settings.expires_ms {
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
                limiter.release(consumer.unacked_len);
                wakes.extend(limiter.take_waiters());
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

    // ------------------------------------------------------------------ entries

    /// Decides who refuses what (overflow with reject-publish) and gives the entry its sequence numbers.
    ///
    /// The entry must then be finished, logged, and applied, with no other entry between.
    pub fn admit(
        &mut self,
        entry: &mut EntryBuilder,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if self.any_may_refuse(entry) {
            self.refuse(entry, now_ms, store, effects, &mut outcome);
        }
        for slot in &mut entry.slots {
            if let Some(queue) = self.queues.get_mut(&slot.queue) {
                slot.seq_first = queue.next_seq;
                queue.next_seq += u64::from(slot.enqueues);
            }
        }
        outcome
    }

    fn any_may_refuse(&self, entry: &EntryBuilder) -> bool {
        entry.slots.iter().any(|slot| {
            slot.enqueues > 0
                && self.queues.get(&slot.queue).is_some_and(|q| {
                    q.settings.overflow != Overflow::DropHead
                        && (q.settings.max_length.is_some()
                            || q.settings.max_length_bytes.is_some())
                })
        })
    }

    fn refuse(
        &mut self,
        entry: &mut EntryBuilder,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
        outcome: &mut Outcome,
    ) {
        // What each slot's queue still takes: (messages, bytes, what its consumers take at once, dead-letter).
        let mut left: Vec<Option<(u64, u64, u64, bool)>> = entry
            .slots
            .iter()
            .map(|slot| {
                let queue = self.queues.get(&slot.queue)?;
                if queue.settings.overflow == Overflow::DropHead {
                    return None;
                }
                let takes = if queue.ready.is_empty() {
                    queue.consumers.takes()
                } else {
                    0
                };
                Some((
                    queue
                        .settings
                        .max_length
                        .map_or(u64::MAX / 2, |m| m.saturating_sub(queue.ready.messages())),
                    queue
                        .settings
                        .max_length_bytes
                        .map_or(u64::MAX / 2, |m| m.saturating_sub(queue.ready.bytes())),
                    takes,
                    queue.settings.overflow == Overflow::RejectPublishDlx,
                ))
            })
            .collect();
        let mut dead = Vec::new();
        entry.refuse_where(|op, at, slot, body| {
            let Some(Some((messages, bytes, takes, dlx))) = left.get_mut(slot) else {
                return false;
            };
            if *takes > 0 && *messages > 0 && *bytes >= u64::from(body) {
                *takes -= 1;
                return false;
            }
            if *messages >= 1 && *bytes >= u64::from(body) {
                *messages -= 1;
                *bytes -= u64::from(body);
                return false;
            }
            outcome.refused.push(op);
            if *dlx {
                dead.push((at, slot));
            }
            true
        });
        for (at, slot) in dead {
            let (Some(message), Some(queue)) = (
                entry.copy_message(at),
                entry.slots.get(slot).map(|s| s.queue),
            ) else {
                continue;
            };
            self.with(queue, now_ms, store, effects, |queue, ctx| {
                let size = message.body_len();
                let hot = Hot {
                    seq: 0,
                    message: Some(message),
                    location: Location::NONE,
                    size,
                    returns: 0,
                    redelivered: false,
                    level: 0,
                };
                queue.discard(hot, DeadReason::MaxLen, ctx);
            });
        }
    }

    /// Applies an entry that is committed (or need not be). `location`: its record in the journal, or none.
    ///
    /// # Errors
    /// The entry is malformed; it has been applied up to there.
    pub fn apply(
        &mut self,
        entry: &Arc<EntryBuf>,
        location: Location,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> Result<(), EntryError> {
        let reader = EntryReader::new(entry)?;
        let mut table = std::mem::take(&mut self.table);
        table.clear();
        table.extend(reader.queues());
        let result = self.apply_ops(&reader, &mut table, location, store);
        for ((id, _), (_, first)) in table.iter().zip(reader.queues()) {
            if let Some(queue) = self.queues.get_mut(id) {
                queue.fresh_from = first;
                queue.run(&mut Ctx {
                    group: self.group,
                    now_ms,
                    store,
                    effects,
                });
                queue.fresh_from = Seq::MAX;
            }
        }
        if table.capacity() > 4096 {
            table = Vec::new();
        }
        self.table = table;
        self.set_timers(effects);
        result
    }

    fn apply_ops(
        &mut self,
        reader: &EntryReader<'_>,
        table: &mut [(QueueId, Seq)],
        location: Location,
        store: &dyn Store,
    ) -> Result<(), EntryError> {
        for op in reader.ops() {
            let op = op?;
            if op.op != Op::Enqueue {
                continue;
            }
            let persistent = op.is_persistent();
            let size = op.body_len();
            for slot in op.slots() {
                let Some((id, seq)) = table.get_mut(usize::from(slot)) else {
                    continue;
                };
                let number = *seq;
                *seq = seq.saturating_add(1);
                let Some(queue) = self.queues.get_mut(id) else {
                    continue;
                };
                let message = reader.message(&op);
                queue.has_expiration |= message.expiration_ms().is_some();
                let level = if queue.settings.max_priority > 0 {
                    queue.ready.level_of(message.priority())
                } else {
                    0
                };
                let journaled = persistent && queue.settings.durable;
                queue.enqueue(
                    Hot {
                        seq: number,
                        message: Some(message),
                        location: if journaled { location } else { Location::NONE },
                        size,
                        returns: 0,
                        redelivered: false,
                        level,
                    },
                    store,
                );
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------------ the leader's calls

    /// basic.consume. `None`: an exclusive consumer is in the way, or the queue is gone.
    pub fn consume(
        &mut self,
        id: QueueId,
        spec: ConsumerSpec,
        now_ms: u64,
    ) -> Option<ConsumerSlot> {
        self.queues.get_mut(&id)?.attach(spec, now_ms).ok()
    }

    /// Delivers what waits; called after [`Machine::consume`] once consume-ok is on its way.
    pub fn run(&mut self, id: QueueId, now_ms: u64, store: &dyn Store, effects: &mut Effects) {
        self.with(id, now_ms, store, effects, |queue, ctx| queue.run(ctx));
    }

    /// basic.cancel: what the consumer holds stays unacknowledged.
    pub fn cancel(
        &mut self,
        id: QueueId,
        slot: ConsumerSlot,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            queue.detach(slot, ctx);
            queue.run(ctx);
        });
    }

    /// The channel is gone: the consumer goes and what it holds returns.
    pub fn release(
        &mut self,
        id: QueueId,
        slot: ConsumerSlot,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            queue.release(slot, ctx);
            queue.run(ctx);
        });
    }

    /// Acknowledges ranges of deliveries.
    pub fn ack(
        &mut self,
        id: QueueId,
        ranges: &[UnackedRange],
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.settle(id, ranges, Settle::Ack, now_ms, store, effects);
    }

    /// basic.reject or basic.nack: back to the queue, or dead-lettered.
    pub fn reject(
        &mut self,
        id: QueueId,
        ranges: &[UnackedRange],
        requeue: bool,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        let how = if requeue {
            Settle::Requeue
        } else {
            Settle::Drop
        };
        self.settle(id, ranges, how, now_ms, store, effects);
    }

    fn settle(
        &mut self,
        id: QueueId,
        ranges: &[UnackedRange],
        how: Settle,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            let mut held = Vec::new();
            for range in ranges {
                queue.take_held(range.slot, range.first, range.count, ctx, &mut held);
            }
            match how {
                Settle::Ack => {
                    for hot in &held {
                        queue.unacked = queue.unacked.saturating_sub(1);
                        queue.unacked_bytes =
                            queue.unacked_bytes.saturating_sub(u64::from(hot.size));
                        queue.counters.acked += 1;
                        queue.settled(hot, SETTLED_ACKED, ctx);
                    }
                }
                Settle::Drop => {
                    for hot in held {
                        queue.unacked = queue.unacked.saturating_sub(1);
                        queue.unacked_bytes =
                            queue.unacked_bytes.saturating_sub(u64::from(hot.size));
                        queue.discard(hot, DeadReason::Rejected, ctx);
                    }
                }
                Settle::Requeue => queue.come_back(held, ctx),
            }
            queue.run(ctx);
        });
    }

    /// basic.get. `holder`: a passive consumer that holds the message until it is acknowledged; `None`: no_ack.
    pub fn get(
        &mut self,
        id: QueueId,
        holder: Option<ConsumerSlot>,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> Option<GetResult> {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            if holder.is_some_and(|slot| queue.consumers.find(slot).is_none()) {
                return None;
            }
            let hot = match queue.get(ctx) {
                Ok(hot) => hot?,
                Err(error) => {
                    ctx.effects.failure.get_or_insert(error);
                    return None;
                }
            };
            let message = hot.message.clone()?;
            let mut result = GetResult {
                message,
                seq: hot.seq,
                number: 0,
                redelivered: hot.redelivered,
                delivery_count: (queue.settings.count_deliveries && hot.returns > 0)
                    .then_some(hot.returns),
                remaining: 0,
            };
            match holder.and_then(|slot| queue.consumers.find(slot)) {
                Some(holder) => {
                    queue.unacked += 1;
                    queue.unacked_bytes += u64::from(hot.size);
                    queue.counters.got += 1;
                    result.number = holder.hold(hot);
                }
                None => {
                    queue.counters.got_no_ack += 1;
                    queue.settled(&hot, SETTLED_ACKED, ctx);
                }
            }
            // What is behind it may have expired before.
            queue.run(ctx);
            result.remaining = queue.ready.messages();
            Some(result)
        })?
    }

    /// queue.purge: drops what waits; answers how many.
    pub fn purge(
        &mut self,
        id: QueueId,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> u64 {
        self.with(id, now_ms, store, effects, |queue, ctx| queue.purge(ctx))
            .unwrap_or(0)
    }

    /// Puts a consumer under a window that all consumers of its channel share; what it holds counts from now on.
    pub fn share_window(&mut self, id: QueueId, slot: ConsumerSlot, limiter: &Arc<Limiter>) {
        if let Some(queue) = self.queues.get_mut(&id)
            && let Some(consumer) = queue.consumers.find(slot)
        {
            limiter.occupy(consumer.unacked_len);
            consumer.spec.limiter = Some(Arc::clone(limiter));
        }
    }

    /// A declare was seen: restarts `x-expires`.
    pub fn touch(&mut self, id: QueueId, now_ms: u64) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.last_used_ms = now_ms;
        }
    }

    /// A consumer that waited for room or for its channel's window may go on.
    pub fn resume(
        &mut self,
        waiter: Waiter,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(waiter.queue, now_ms, store, effects, |queue, ctx| {
            queue.resume(waiter.consumer);
            queue.run(ctx);
        });
    }

    /// A dead-lettered message is safe at its targets (or had none): it is settled here.
    pub fn dead_lettered(
        &mut self,
        id: QueueId,
        seq: Seq,
        reason: DeadReason,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, 0, store, effects, |queue, ctx| {
            if let Some(hot) = queue.limbo.remove(&seq) {
                queue.settled(&hot, reason as u8, ctx);
            }
            if queue.limbo.is_empty() && queue.limbo.capacity() > 1024 {
                queue.limbo = FxHashMap::default();
            }
        });
    }

    /// When [`Machine::tick`] has something to do next.
    pub fn next_timer_ms(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Does what is due by `now_ms`: expiry of messages and queues. At most `max` timers, so that others get the lock.
    pub fn tick(&mut self, now_ms: u64, max: usize, store: &dyn Store, effects: &mut Effects) {
        for _ in 0..max {
            match self.timers.peek() {
                Some(Reverse((at, _))) if *at <= now_ms && effects.journal.has_slots(1) => {}
                _ => return,
            }
            let Some(Reverse((at, id))) = self.timers.pop() else {
                return;
            };
            self.with(id, now_ms, store, effects, |queue, ctx| {
                if queue.timer_ms == at {
                    queue.tick(ctx);
                }
            });
        }
    }

    /// Copies messages out of entries that they alone keep in memory; for use when memory is tight.
    pub fn unpin(&mut self) -> usize {
        let mut moved = 0;
        for queue in self.queues.values_mut() {
            let held = queue.consumers.iter_mut().flat_map(|c| c.held_mut());
            for hot in queue.ready.hot_mut().chain(held) {
                moved += usize::from(hot.unpin());
            }
        }
        moved
    }

    // ------------------------------------------------------------------ recovery

    /// Starts from a checkpoint. Queues that the metadata no longer has are left out by the caller.
    pub fn restore(&mut self, id: QueueId, state: Restored) {
        self.replay.insert(id, state);
    }

    /// Replays a journaled entry. Queues must have been created; unknown ones are skipped.
    ///
    /// # Errors
    /// The entry is malformed.
    pub fn replay(&mut self, entry: &Arc<EntryBuf>, location: Location) -> Result<(), EntryError> {
        let reader = EntryReader::new(entry)?;
        let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
        for op in reader.ops() {
            let op = op?;
            match op.op {
                Op::Enqueue => {
                    let message = reader.message(&op);
                    for slot in op.slots() {
                        let Some((id, seq)) = table.get_mut(usize::from(slot)) else {
                            continue;
                        };
                        let number = *seq;
                        *seq = seq.saturating_add(1);
                        self.replay_enqueue(*id, number, &message, location);
                    }
                }
                Op::Settle(slot, _) => {
                    let Some((id, _)) = table.get(usize::from(slot)) else {
                        continue;
                    };
                    let Some(state) = self.replay.get_mut(id) else {
                        continue;
                    };
                    for range in op.ranges() {
                        let n: u64 = state
                            .levels
                            .iter_mut()
                            .map(|l| l.remove(range.first, range.count))
                            .sum();
                        if n > 0 {
                            state.bytes = state.bytes.saturating_sub(u64::from(range.bytes));
                        }
                        state.delivered_end = state
                            .delivered_end
                            .max(range.first.saturating_add(u64::from(range.count)));
                    }
                }
                Op::Return(slot) => {
                    let Some((id, _)) = table.get(usize::from(slot)) else {
                        continue;
                    };
                    let Some(state) = self.replay.get_mut(id) else {
                        continue;
                    };
                    state
                        .returns
                        .extend(op.seqs().map(|r| (r.seq, r.delivery_count)));
                }
                Op::Relocated => {
                    for (slot, seq) in op.places() {
                        let Some((id, _)) = table.get(usize::from(slot)) else {
                            continue;
                        };
                        let Some(state) = self.replay.get_mut(id) else {
                            continue;
                        };
                        for level in &mut state.levels {
                            if level.remove(seq, 1) > 0 {
                                level.insert(seq, location);
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn replay_enqueue(&mut self, id: QueueId, seq: Seq, message: &Message, location: Location) {
        let Some(queue) = self.queues.get(&id) else {
            return;
        };
        let state = self.replay.entry(id).or_insert_with(|| Restored {
            next_seq: 1,
            ..Restored::default()
        });
        // A message that the checkpoint covers already is not added again.
        let Some(next) = seq.checked_add(1).filter(|_| seq >= state.next_seq) else {
            return;
        };
        state.next_seq = next;
        if !message.is_persistent() || !queue.settings.durable {
            return;
        }
        let level = usize::from(message.priority().min(queue.settings.max_priority));
        if level >= state.levels.len() {
            state.levels.resize_with(level + 1, RunSet::default);
        }
        if let Some(level) = state.levels.get_mut(level) {
            level.insert(seq, location);
            state.bytes += u64::from(message.body_len());
        }
    }

    /// Ends the replay: what was restored waits for delivery. `clean`: the last run ended by a clean stop, so that
    /// `delivered_end` is exact; otherwise every restored message may have been delivered.
    pub fn finish_replay(
        &mut self,
        clean: bool,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        for (id, state) in std::mem::take(&mut self.replay) {
            let Some(queue) = self.queues.get_mut(&id) else {
                continue;
            };
            queue.next_seq = queue.next_seq.max(state.next_seq);
            queue.delivered_end = if clean {
                state.delivered_end
            } else {
                state.next_seq
            };
            queue.redelivered_below = queue.delivered_end;
            queue.journaled_bytes = state.bytes;
            queue.has_expiration = true;
            queue.returns = state.returns.into_iter().collect();
            queue
                .returns
                .retain(|seq, n| *n > 0 && state.levels.iter().any(|l| l.contains(*seq)));
            queue.returns.shrink_to_fit();
            for (level, runs) in state.levels.into_iter().enumerate() {
                queue.ready.restore(level, runs);
            }
            queue.ready.set_bytes(state.bytes);
        }
        let ids: Vec<QueueId> = self.queues.keys().copied().collect();
        for id in ids {
            self.with(id, now_ms, store, effects, |queue, ctx| {
                if ctx.effects.journal.has_slots(1) {
                    queue.run(ctx);
                } else {
                    queue.timer_ms = ctx.now_ms;
                    ctx.effects.timers.push((ctx.now_ms, queue.id));
                }
            });
        }
    }

    /// The replicated state of every durable queue, for a checkpoint.
    pub fn snapshot(&self) -> Vec<(QueueId, Restored)> {
        let mut all: Vec<_> = self
            .queues
            .values()
            .filter(|q| q.settings.durable)
            .map(|q| (q.id, snapshot_queue(q)))
            .collect();
        all.sort_unstable_by_key(|(id, _)| *id);
        all
    }

    /// Points to where a message is now (it was relocated).
    pub fn relocated(&mut self, id: QueueId, seq: Seq, to: Location) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.relocate(seq, to);
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

fn snapshot_queue(q: &Queue) -> Restored {
    let journaled = |h: &Hot| h.location.is_some() && h.location.is_journaled();
    let mut levels: Vec<Vec<(Seq, Location)>> =
        vec![Vec::new(); usize::from(q.settings.max_priority) + 1];
    let mut returns: Vec<(Seq, u32)> = q.returns.iter().map(|(s, n)| (*s, *n)).collect();
    let held = q.consumers.iter().flat_map(|(_, c)| c.held());
    let waiting = q.ready.parts().flat_map(|(_, hot, _)| hot);
    for hot in held
        .chain(q.limbo.values())
        .chain(waiting)
        .filter(|h| journaled(h))
    {
        if let Some(level) = levels.get_mut(usize::from(hot.level)) {
            level.push((hot.seq, hot.location));
        }
        if hot.returns > 0 {
            returns.push((hot.seq, hot.returns));
        }
    }
    let mut tails = q.ready.parts().map(|(_, _, tail)| tail);
    let levels = levels
        .into_iter()
        .map(|mut hot| {
            hot.sort_unstable_by_key(|(seq, _)| *seq);
            let mut set = RunSet::default();
            let tail_runs = tails.next().into_iter().flat_map(|tail| tail.runs());
            let mut tail_runs = tail_runs.filter(|r| r.location.is_journaled()).peekable();
            for (seq, location) in hot {
                while tail_runs.peek().is_some_and(|r| r.first < seq) {
                    if let Some(run) = tail_runs.next() {
                        set.push_run(*run);
                    }
                }
                set.insert(seq, location);
            }
            for run in tail_runs {
                set.push_run(*run);
            }
            set
        })
        .collect();
    // The highest count of each number.
    returns.sort_unstable_by_key(|(seq, count)| (*seq, Reverse(*count)));
    returns.dedup_by_key(|(seq, _)| *seq);
    Restored {
        next_seq: q.next_seq,
        delivered_end: q.delivered_end,
        bytes: q.journaled_bytes,
        levels,
        returns,
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
