//! Entries at the machine: who is refused, which numbers they get, and what they enqueue.

use std::sync::Arc;

use super::{Effects, Lead, Machine, Outcome};
use crate::entry::{EntryBuf, EntryBuilder, EntryError, EntryReader, Op};
use crate::queue::Ctx;
use crate::ready::Hot;
use crate::{DeadReason, Location, Overflow, QueueId, Seq, Store};

impl Machine {
    /// Decides who refuses what (overflow with reject-publish) and gives the entry its sequence numbers.
    ///
    /// The entry must then be finished, logged, and applied, with no other entry between; if the group is mirrored, proposed and,
    /// once it is committed, applied ([`Machine::apply_batch`]), in the order of admission.
    pub fn admit(
        &mut self,
        entry: &mut EntryBuilder,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if self.lead != Lead::Local {
            self.announce(entry, effects);
        }
        if self.any_may_refuse(entry) {
            self.refuse(entry, now_ms, store, effects, &mut outcome);
        }
        for slot in &mut entry.slots {
            if let Some(queue) = self.queues.get_mut(&slot.queue) {
                slot.seq_first = queue.next_seq;
                queue.next_seq += u64::from(slot.enqueues);
            } else if self.lead != Lead::Local {
                // Nobody's number: should the queue come to be, a walk must not find these messages.
                slot.seq_first = Seq::MAX;
                outcome.unknown.push(slot.queue);
            }
        }
        if self.lead != Lead::Local {
            self.note_admitted(entry);
        }
        outcome
    }

    /// Queues that the replica does not have yet are to be made there first.
    fn announce(&mut self, entry: &EntryBuilder, effects: &mut Effects) {
        for slot in &entry.slots {
            if let Some(queue) = self.queues.get_mut(&slot.queue)
                && !std::mem::replace(&mut queue.announced, true)
            {
                let created = (queue.id, queue.settings.max_priority);
                effects.created.push(created);
            }
        }
    }

    /// Counts what is admitted and not applied yet.
    fn note_admitted(&mut self, entry: &mut EntryBuilder) {
        let ids: Vec<QueueId> = entry.slots.iter().map(|slot| slot.queue).collect();
        entry.refuse_where(|_, _, slot, body| {
            if let Some(queue) = ids.get(slot).and_then(|id| self.queues.get_mut(id)) {
                queue.admitted.0 += 1;
                queue.admitted.1 += u64::from(body);
            }
            false
        });
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
        let armed = self.lead == Lead::Armed;
        let mut left: Vec<Option<(u64, u64, u64, bool)>> = entry
            .slots
            .iter()
            .map(|slot| {
                let queue = self.queues.get(&slot.queue)?;
                if queue.settings.overflow == Overflow::DropHead {
                    return None;
                }
                let mut takes = if queue.ready.is_empty() && !armed {
                    queue.consumers.takes()
                } else {
                    0
                };
                // What was admitted before waits, or will be taken by consumers first.
                let (mut admitted, mut admitted_bytes) = queue.admitted;
                if admitted <= takes {
                    takes -= admitted;
                    (admitted, admitted_bytes) = (0, 0);
                } else {
                    admitted -= takes;
                    takes = 0;
                }
                let messages = queue.ready.messages() + admitted;
                let bytes = queue.ready.bytes() + admitted_bytes;
                let left = |max: Option<u64>, now: u64| {
                    max.map_or(u64::MAX / 2, |max| max.saturating_sub(now))
                };
                Some((
                    left(queue.settings.max_length, messages),
                    left(queue.settings.max_length_bytes, bytes),
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
                    claimable: false,
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
                    is_armed: self.lead == Lead::Armed,
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
        let mirrored = self.lead != Lead::Local;
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
                let journaled = mirrored || persistent && queue.settings.durable;
                queue.enqueue(
                    Hot {
                        seq: number,
                        message: Some(message),
                        location: if journaled { location } else { Location::NONE },
                        size,
                        returns: 0,
                        redelivered: false,
                        claimable: false,
                        level,
                    },
                    store,
                );
            }
        }
        Ok(())
    }
}
