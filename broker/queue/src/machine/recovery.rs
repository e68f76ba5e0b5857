//! Starting again: from a checkpoint and the entries behind it; and what goes into a checkpoint.

use std::cmp::Reverse;
use std::sync::Arc;

use super::{Effects, Machine};
use crate::entry::{EntryBuf, EntryError, EntryReader, Op};
use crate::queue::Queue;
use crate::ready::Hot;
use crate::{Location, Message, QueueId, Restored, RunSet, Seq, Store};

impl Machine {
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
