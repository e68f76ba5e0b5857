//! Leading a mirrored group: the machine is made from the replica, waits for claims, and goes.
//!
//! Every message of such a group is journaled, whatever its persistence. An entry is admitted when it is proposed and applied when it is
//! committed, with others between; what is admitted and not applied counts for the limits. A machine whose proposal
//! failed is dropped: whatever it did without commit is gone with it.

use std::collections::hash_map::Entry;

use super::{Effects, Lead, Machine};
use crate::entry::{EntryError, EntryReader, Op, Part, SessionId};
use crate::queue::Queue;
use crate::{
    Applied, ConsumerSlot, Location, PartOutcome, QueueId, QueueState, Replica, Seq, Settings,
    Store,
};

impl Machine {
    /// A machine that is to lead the group: its queues hold what the replica says. Nothing is delivered, expires or is dropped until
    /// [`Machine::go`].
    ///
    /// `queues`: what the metadata has, with settings (priority levels are the replica's where it has the queue). `end`: the journal's
    /// end now; everything that was ever truncated from the group's log lies before it.
    pub fn lead(
        group: u32,
        replica: &Replica,
        queues: impl IntoIterator<Item = (QueueId, Settings)>,
        end: Location,
        now_ms: u64,
    ) -> Machine {
        let mut machine = Machine::new(group);
        machine.lead = Lead::Armed;
        for (id, mut settings) in queues {
            let state = replica.queue(id);
            if let Some(levels) = replica.max_priority(id) {
                settings.max_priority = levels;
            }
            let Entry::Vacant(vacant) = machine.queues.entry(id) else {
                continue;
            };
            let queue = vacant.insert(Box::new(Queue::new(id, settings, now_ms)));
            queue.ready.set_barrier(end);
            if let Some(state) = state {
                queue.announced = true;
                queue.had_consumer = replica.was_used(id);
                queue.use_noted = queue.had_consumer;
                queue.adopt(state.clone(), state.next_seq);
            }
        }
        machine
    }

    /// No message gets a number below `first` from now on. For a group that was formed anew: what clients hold of the messages before must
    /// not be taken for messages of now.
    pub fn number_from(&mut self, first: Seq) {
        for queue in self.queues.values_mut() {
            queue.next_seq = queue.next_seq.max(first);
        }
    }

    /// Begins: what nobody claimed waits for delivery again, marked redelivered; timers run, and unused times count from now.
    pub fn go(&mut self, now_ms: u64, store: &dyn Store, effects: &mut Effects) {
        if self.lead != Lead::Armed {
            return;
        }
        self.lead = Lead::Leading;
        for queue in self.queues.values_mut() {
            queue.last_used_ms = now_ms;
            if queue.settings.single_active_consumer && !queue.consumers.kept {
                let next = queue.consumers.next_single();
                queue.consumers.make_single(next);
            }
            // Who claims later comes too late for it.
            queue.consumers.kept = true;
        }
        self.run_all(now_ms, store, effects);
    }

    /// Queues that go with their last consumer, and have lost it: called once every consumer that there can be has claimed, which may be
    /// later than [`Machine::go`].
    pub fn left(&self, effects: &mut Effects) {
        let left = self.queues.values().filter(|queue| queue.is_left());
        effects.unused.extend(left.map(|queue| queue.id));
    }

    /// Whether [`Machine::go`] was not called yet.
    pub fn is_armed(&self) -> bool {
        self.lead == Lead::Armed
    }

    /// Another node leads from now on. Nothing is given back and nobody is told: sessions attach their consumers there, and claim what
    /// they hold. Shared windows keep their count: who claims counts anew, in a new [`crate::Limiter`].
    pub fn step_down(self) {}

    /// Applies what a committed entry did to the replica: the messages of the parts that were applied wait from now on. The rest of
    /// it was done to the machine before it was proposed. `location`: as given to [`Replica::apply`].
    ///
    /// # Errors
    /// An entry is malformed; the replica would have said so.
    pub fn apply_batch(
        &mut self,
        applied: &Applied,
        location: Location,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> Result<(), EntryError> {
        for (part, outcome) in &applied.parts {
            let Part::Entry { session, entry, .. } = part else {
                continue;
            };
            let reader = EntryReader::new(entry)?;
            let is_enqueue = |op: &_| {
                matches!(
                    op,
                    Ok(crate::entry::OpRef {
                        op: Op::Enqueue,
                        ..
                    })
                )
            };
            if *session == SessionId::LEADER && !reader.ops().any(|op| is_enqueue(&op)) {
                continue;
            }
            self.let_in(&reader);
            if *outcome == PartOutcome::Applied {
                self.apply(entry, location, now_ms, store, effects)?;
            }
        }
        Ok(())
    }

    /// What an entry enqueues is not merely admitted any more.
    fn let_in(&mut self, reader: &EntryReader<'_>) {
        let table: Vec<QueueId> = reader.queues().map(|(id, _)| id).collect();
        for op in reader.ops().map_while(Result::ok) {
            if op.op != Op::Enqueue {
                continue;
            }
            for id in op.slots().filter_map(|slot| table.get(usize::from(slot))) {
                if let Some(queue) = self.queues.get_mut(id) {
                    let (messages, bytes) = &mut queue.admitted;
                    *messages = messages.saturating_sub(1);
                    *bytes = bytes.saturating_sub(u64::from(op.body_len()));
                }
            }
        }
    }

    /// A session says what a consumer of it held under the last leader. What it gets is its own as before: not redelivered, and
    /// its settles count. Answers the new delivery number of each, in the order of `held`; `None`: the message is gone or somebody
    /// else's, and its settle is void.
    ///
    /// Before [`Machine::go`] a consumer gets whatever lives and nobody else claimed; after it, what still waits and was not delivered
    /// since. Nothing is delivered by it: call [`Machine::run`] when all consumers of the session have claimed. A session that comes
    /// after [`Machine::go`] has its uncommitted settles done first, or what they name is delivered to others meanwhile. A message that a
    /// consumer gave back and got again from the last leader is claimed, and not given back again with what is sent again.
    pub fn claim(
        &mut self,
        id: QueueId,
        slot: ConsumerSlot,
        held: &[Seq],
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> Vec<Option<u64>> {
        let numbers = self.with(id, now_ms, store, effects, |queue, ctx| {
            queue.claim(slot, held, ctx).unwrap_or_else(|error| {
                ctx.effects.failure.get_or_insert(error);
                Vec::new()
            })
        });
        let mut numbers = numbers.unwrap_or_default();
        numbers.resize(held.len(), None);
        numbers
    }
}

impl Queue {
    /// Takes over restored state. `delivered_end`: numbers below it may have been delivered.
    pub(super) fn adopt(&mut self, state: QueueState, delivered_end: Seq) {
        self.next_seq = self.next_seq.max(state.next_seq);
        self.delivered_end = delivered_end;
        self.redelivered_below = delivered_end;
        self.journaled_bytes = state.bytes;
        self.has_expiration = true;
        self.returns = state
            .returns
            .iter()
            .filter(|(seq, n)| **n > 0 && state.contains(**seq))
            .map(|(seq, n)| (*seq, *n))
            .collect();
        for (level, runs) in state.levels.into_iter().enumerate() {
            self.ready.restore(level, runs);
        }
        self.ready.set_bytes(state.bytes);
    }
}
