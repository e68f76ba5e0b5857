//! A group of local queues: one lock, one log, one machine.
//!
//! `submit` is the hot path: admit, log, apply, log what apply settled, all under the group's lock; what is left to do
//! (dead letters, consumers of other groups, unused queues) is handed to the caller for after the lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use leveret_cluster::reclaim::ReclaimError;
use leveret_cluster::reclaim::{Live, Reclaim, Snapshot};
use leveret_cluster::{GroupId, GroupLog};
use leveret_queue::entry::MemoryGauge;
use leveret_queue::{
    ConsumerSlot, ConsumerSpec, ConsumerView, DeadLetter, DeadReason, Effects, EntryBuf,
    EntryBuilder, GetResult, Limiter, Location, Machine, QueueId, QueueState, QueueView, Seq,
    Settings, UnackedRange, Waiter,
};
use leveret_storage::{AppendError, Journal, Record};
use parking_lot::{Mutex, MutexGuard};

use super::store::{BodyStore, Relocate};
use super::transaction::{Committed, Part};

pub use leveret_queue::Settle;

/// Deliveries of one consumer that are settled alike.
#[derive(Clone, Copy, Debug)]
pub struct SettleRange {
    /// The queue.
    pub queue: QueueId,
    /// How.
    pub how: Settle,
    /// Which.
    pub range: UnackedRange,
}

/// What is left to do once the group's lock is free.
#[derive(Debug, Default)]
pub struct After {
    /// To be routed to dead-letter exchanges.
    pub dead: Vec<DeadLetter>,
    /// Queues to be deleted if they are still unused.
    pub unused: Vec<QueueId>,
    /// Consumers to be resumed.
    pub wakes: Vec<Waiter>,
    /// The group's next timer is now earlier than it was.
    pub timer: bool,
}

impl After {
    /// Nothing is left to do.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.dead.is_empty() && self.unused.is_empty() && self.wakes.is_empty() && !self.timer
    }

    /// Adds what another call left.
    pub fn merge(&mut self, other: After) {
        self.dead.extend(other.dead);
        self.unused.extend(other.unused);
        self.wakes.extend(other.wakes);
        self.timer |= other.timer;
    }
}

/// What became of a submitted entry.
#[derive(Debug, Default)]
pub struct Submitted {
    /// The record to wait for; `None`: no message was journaled.
    pub location: Option<leveret_storage::Location>,
    /// The record of what was settled. It lies before that of the messages.
    pub settled: Option<leveret_storage::Location>,
    /// Ops that a queue refused.
    pub refused: Vec<u32>,
}

struct State {
    machine: Machine,
    log: GroupLog,
    effects: Effects,
}

/// See the module.
pub struct QueueGroup {
    id: GroupId,
    state: Mutex<State>,
    store: Arc<BodyStore>,
    gauge: Arc<MemoryGauge>,
    next_timer_ms: AtomicU64,
}

impl std::fmt::Debug for QueueGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QueueGroup({})", self.id)
    }
}

impl QueueGroup {
    /// A group with its machine as recovery left it.
    /// `effects`: what recovery left to be done; the first [`QueueGroup::tick`] hands it out.
    pub fn new(
        machine: Machine,
        id: GroupId,
        log: GroupLog,
        store: Arc<BodyStore>,
        effects: Effects,
    ) -> Self {
        let gauge = store.gauge().clone();
        let next = machine.next_timer_ms().unwrap_or(u64::MAX);
        QueueGroup {
            id,
            state: Mutex::new(State {
                machine,
                log,
                effects,
            }),
            store,
            gauge,
            next_timer_ms: AtomicU64::new(next),
        }
    }

    /// Its number.
    pub fn id(&self) -> GroupId {
        self.id
    }

    /// When [`QueueGroup::tick`] is due; `u64::MAX` if it is not.
    pub fn next_timer_ms(&self) -> u64 {
        self.next_timer_ms.load(Ordering::Relaxed)
    }

    /// Logs what was settled so far.
    fn log_settles(state: &mut State) -> Option<leveret_storage::Location> {
        if state.effects.journal.is_empty() {
            return None;
        }
        let entry = std::mem::take(&mut state.effects.journal).finish(None);
        let logged = state.log.append(entry.to_bytes(), false);
        logged
            .inspect_err(|error| tracing::debug!(%error, "settles were not logged"))
            .ok()
    }

    /// Logs what the machine settled by itself, and takes what is left to do.
    fn finish(&self, mut state: MutexGuard<'_, State>) -> After {
        let state = &mut *state;
        Self::log_settles(state);
        if let Some(failure) = state.effects.failure.take() {
            self.store.failed(&failure);
        }
        let next = state.machine.next_timer_ms().unwrap_or(u64::MAX);
        let before = self.next_timer_ms.swap(next, Ordering::Relaxed);
        let effects = &mut state.effects;
        After {
            dead: std::mem::take(&mut effects.dead),
            unused: std::mem::take(&mut effects.unused),
            wakes: std::mem::take(&mut effects.wakes),
            timer: next < before,
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut Machine, &BodyStore, &mut Effects) -> R) -> (R, After) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let result = f(&mut state.machine, &self.store, &mut state.effects);
        (result, self.finish(guard))
    }

    /// Publishes and settles: see the module. `sync`: somebody waits for durability.
    ///
    /// # Errors
    /// The journal is poisoned: nothing of the entry was applied.
    pub fn submit(
        &self,
        entry: Option<EntryBuilder>,
        settles: &[SettleRange],
        sync: bool,
        now_ms: u64,
    ) -> Result<(Submitted, After), AppendError> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut submitted = Submitted::default();
        for range in settles {
            Self::settle(state, &self.store, range, now_ms);
        }
        if !settles.is_empty() {
            // Before the messages: a publisher's confirm says that its earlier acknowledgements are on disk too.
            submitted.settled = Self::log_settles(state);
        }
        if let Some(mut entry) = entry {
            let outcome = state
                .machine
                .admit(&mut entry, now_ms, &*self.store, &mut state.effects);
            submitted.refused = outcome.refused;
            let durable = entry.is_durable();
            let entry = entry.finish(Some(self.gauge.clone()));
            let mut location = Location::NONE;
            if durable {
                let at = state.log.append(entry.to_bytes(), sync)?;
                submitted.location = Some(at);
                location = Location(at.to_u64());
            }
            Self::apply(state, &self.store, &entry, location, now_ms);
        }
        Ok((submitted, self.finish(guard)))
    }

    fn apply(
        state: &mut State,
        store: &BodyStore,
        entry: &Arc<EntryBuf>,
        location: Location,
        now_ms: u64,
    ) {
        let applied = state
            .machine
            .apply(entry, location, now_ms, store, &mut state.effects);
        if let Err(error) = applied {
            // The builder wrote it a moment ago: memory is damaged, or there is a bug. Either way: stop.
            store.failed(&leveret_queue::StoreError(error.to_string()));
        }
    }

    fn settle(state: &mut State, store: &BodyStore, range: &SettleRange, now_ms: u64) {
        let (machine, effects) = (&mut state.machine, &mut state.effects);
        let ranges = [range.range];
        match range.how {
            Settle::Ack => machine.ack(range.queue, &ranges, now_ms, store, effects),
            Settle::Drop => machine.reject(range.queue, &ranges, false, now_ms, store, effects),
            Settle::Requeue => machine.reject(range.queue, &ranges, true, now_ms, store, effects),
        }
    }

    /// Commits a transaction over several groups, given in ascending order of their numbers.
    ///
    /// # Errors
    /// The journal is poisoned; nothing was applied.
    pub(super) fn commit(
        parts: Vec<(&QueueGroup, Part)>,
        journal: &Journal,
        now_ms: u64,
    ) -> Result<(Committed, After), AppendError> {
        let mut committed = Committed::default();
        let mut open = Vec::with_capacity(parts.len());
        for (group, part) in parts {
            let mut guard = group.state.lock();
            let state = &mut *guard;
            for range in &part.settles {
                Self::settle(state, &group.store, range, now_ms);
            }
            let mut entry = part.entry.unwrap_or_default();
            let outcome =
                state
                    .machine
                    .admit(&mut entry, now_ms, &*group.store, &mut state.effects);
            committed.refused |= !outcome.refused.is_empty();
            // The settles belong to the unit: they go into the same entry instead of one of their own.
            entry.append_settles(std::mem::take(&mut state.effects.journal));
            open.push((group, guard, entry));
        }
        let mut records = Vec::new();
        let mut ready = Vec::with_capacity(open.len());
        for (group, mut guard, entry) in open {
            let durable = entry.is_durable();
            let entry = entry.finish(Some(group.gauge.clone()));
            if durable {
                records.push((group.id, guard.log.take_index(), entry.to_bytes()));
            }
            ready.push((group, guard, entry, durable));
        }
        let locations = journal.append_unit(records, true)?;
        committed.at = locations.last().copied();
        let mut locations = locations.into_iter();
        let mut after = After::default();
        for (group, mut guard, entry, durable) in ready {
            let at = if durable { locations.next() } else { None };
            let location = at.map_or(Location::NONE, |at| Location(at.to_u64()));
            Self::apply(&mut guard, &group.store, &entry, location, now_ms);
            after.merge(group.finish(guard));
        }
        Ok((committed, after))
    }

    /// Puts a consumer under its channel's window.
    pub fn share_window(&self, id: QueueId, slot: ConsumerSlot, limiter: &Arc<Limiter>) {
        self.state.lock().machine.share_window(id, slot, limiter);
    }

    /// Settles of several queues of the group.
    pub fn settle_all(&self, ranges: &[SettleRange], now_ms: u64) -> After {
        let mut guard = self.state.lock();
        for range in ranges {
            Self::settle(&mut guard, &self.store, range, now_ms);
        }
        self.finish(guard)
    }

    /// Makes a queue.
    pub fn create(&self, id: QueueId, settings: Settings, now_ms: u64) -> After {
        self.with(|machine, _, _| machine.create(id, settings, now_ms))
            .1
    }

    /// Takes over changed settings.
    pub fn update(&self, id: QueueId, settings: Settings, now_ms: u64) -> After {
        self.with(|machine, store, effects| machine.update(id, settings, now_ms, store, effects))
            .1
    }

    /// Removes a queue; answers how many messages were waiting in it.
    pub fn remove(&self, id: QueueId) -> (u64, After) {
        let (removed, mut after) = self.with(|machine, store, _| machine.remove(id, store));
        let Some(removed) = removed else {
            return (0, after);
        };
        after.wakes.extend(removed.wakes);
        (removed.depth.ready, after)
    }

    /// Attaches a consumer. `None`: an exclusive consumer is in the way, or the queue is gone. Deliveries begin with
    /// [`QueueGroup::run`].
    pub fn consume(&self, id: QueueId, spec: ConsumerSpec, now_ms: u64) -> Option<ConsumerSlot> {
        self.state.lock().machine.consume(id, spec, now_ms)
    }

    /// Delivers what waits.
    pub fn run(&self, id: QueueId, now_ms: u64) -> After {
        self.with(|machine, store, effects| machine.run(id, now_ms, store, effects))
            .1
    }

    /// basic.cancel.
    pub fn cancel(&self, id: QueueId, slot: ConsumerSlot, now_ms: u64) -> After {
        self.with(|machine, store, effects| machine.cancel(id, slot, now_ms, store, effects))
            .1
    }

    /// A consumer's channel is gone.
    pub fn release(&self, id: QueueId, slot: ConsumerSlot, now_ms: u64) -> After {
        self.with(|machine, store, effects| machine.release(id, slot, now_ms, store, effects))
            .1
    }

    /// basic.get.
    pub fn get(
        &self,
        id: QueueId,
        holder: Option<ConsumerSlot>,
        now_ms: u64,
    ) -> (Option<GetResult>, After) {
        self.with(|machine, store, effects| machine.get(id, holder, now_ms, store, effects))
    }

    /// queue.purge.
    pub fn purge(&self, id: QueueId, now_ms: u64) -> (u64, After) {
        self.with(|machine, store, effects| machine.purge(id, now_ms, store, effects))
    }

    /// A declare was seen.
    pub fn touch(&self, id: QueueId, now_ms: u64) {
        self.state.lock().machine.touch(id, now_ms);
    }

    /// A consumer may go on.
    pub fn resume(&self, waiter: Waiter, now_ms: u64) -> After {
        self.with(|machine, store, effects| machine.resume(waiter, now_ms, store, effects))
            .1
    }

    /// A dead letter is at its targets.
    pub fn dead_lettered(&self, id: QueueId, seq: Seq, reason: DeadReason) -> After {
        self.with(|machine, store, effects| machine.dead_lettered(id, seq, reason, store, effects))
            .1
    }

    /// Timers that are due.
    pub fn tick(&self, now_ms: u64) -> After {
        /// Queues handled before others get the lock.
        const TIMERS_MAX: usize = 256;
        self.with(|machine, store, effects| machine.tick(now_ms, TIMERS_MAX, store, effects))
            .1
    }

    /// A look at one queue.
    pub fn view(&self, id: QueueId) -> Option<QueueView> {
        self.state.lock().machine.queue(id).map(|q| q.view())
    }

    /// The consumers of all queues.
    pub fn consumers(&self) -> Vec<(QueueId, ConsumerView)> {
        let state = self.state.lock();
        let mut all = Vec::new();
        for queue in state.machine.queues() {
            all.extend(queue.consumers().map(|view| (queue.id(), view)));
        }
        all
    }

    /// Ready messages and consumers of a queue, for queue.declare-ok.
    pub fn counts(&self, id: QueueId) -> (u64, u32) {
        self.state.lock().machine.queue(id).map_or((0, 0), |q| {
            let depth = q.depth();
            (depth.ready, depth.consumers)
        })
    }

    /// Whether a queue has no consumers.
    pub fn is_unused(&self, id: QueueId) -> bool {
        self.state.lock().machine.is_unused(id)
    }

    /// A look at all queues.
    pub fn views(&self) -> Vec<QueueView> {
        self.state
            .lock()
            .machine
            .queues()
            .map(|q| q.view())
            .collect()
    }

    /// Lets go of entries that few messages keep in memory.
    pub fn unpin(&self) -> usize {
        self.state.lock().machine.unpin()
    }
}

/// Bytes that a message takes in a segment besides its body: op header, names, properties.
const RECORD_OVERHEAD_BYTES: u64 = 80;

fn live_of(state: &[(QueueId, QueueState)]) -> BTreeMap<u32, Live> {
    let mut live: BTreeMap<u32, Live> = BTreeMap::new();
    state
        .iter()
        .for_each(|(_, queue)| add_live(queue, &mut live));
    live
}

/// Adds up what of a queue lives in which segment.
pub fn add_live(queue: &QueueState, live: &mut BTreeMap<u32, Live>) {
    let messages: u64 = queue.levels.iter().map(|l| l.len()).sum();
    let each = RECORD_OVERHEAD_BYTES + queue.bytes.checked_div(messages).unwrap_or(0);
    for run in queue.levels.iter().flat_map(|l| l.runs()) {
        let segment = live.entry(run.location.segment()).or_default();
        segment.messages += u64::from(run.count);
        segment.bytes += u64::from(run.count) * each;
    }
}

impl Reclaim for QueueGroup {
    fn group(&self) -> GroupId {
        self.id
    }

    fn snapshot(&self) -> Snapshot {
        let state = self.state.lock();
        let queues = state.machine.snapshot();
        let covers = state.log.journal().end();
        let next_index = state.log.next_index();
        drop(state);
        Snapshot {
            live: live_of(&queues),
            state: leveret_queue::checkpoint::encode(&queues),
            covers,
            next_index,
        }
    }

    fn relocate(&self, segments: &[u32], bytes_max: u64) -> Result<u64, ReclaimError> {
        let (queues, journal) = {
            let state = self.state.lock();
            (state.machine.snapshot(), Arc::clone(state.log.journal()))
        };
        let what = Relocate {
            journal: &journal,
            group: self.id,
            queues: &queues,
        };
        what.run(segments, bytes_max, |entry, moved| {
            let mut state = self.state.lock();
            let at = state.log.append(entry, false)?;
            for (queue, seq) in moved {
                state.machine.relocated(queue, seq, Location(at.to_u64()));
            }
            Ok(())
        })
    }
}

/// Replays a record into a machine.
pub(super) fn replay(
    machine: &mut Machine,
    record: &Record,
) -> Result<(), leveret_queue::EntryError> {
    let entry = EntryBuf::shared(record.payload.clone());
    machine.replay(&entry, Location(record.location.to_u64()))
}
