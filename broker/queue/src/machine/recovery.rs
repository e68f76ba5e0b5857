//! Starting again: from a checkpoint and the entries behind it; and what goes into a checkpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Effects, Machine};
use crate::entry::{EntryBuf, EntryError, EntryReader};
use crate::queue::Queue;
use crate::ready::Hot;
use crate::state::{self, Keeps, Target, Targets};
use crate::{Location, QueueId, QueueState, RunSet, Seq, Store};

/// The states of the queues that there are, while entries are replayed.
struct Replaying<'a> {
    queues: &'a FxHashMap<QueueId, Box<Queue>>,
    states: &'a mut FxHashMap<QueueId, QueueState>,
}

impl Targets for Replaying<'_> {
    fn target(&mut self, id: QueueId) -> Option<Target<'_>> {
        let settings = &self.queues.get(&id)?.settings;
        Some(Target {
            state: self.states.entry(id).or_insert_with(QueueState::fresh),
            max_priority: settings.max_priority,
            keeps: if settings.durable {
                Keeps::Persistent
            } else {
                Keeps::Nothing
            },
        })
    }
}

impl Machine {
    /// Starts from a checkpoint. Queues that the metadata no longer has are left out by the caller.
    pub fn restore(&mut self, id: QueueId, state: QueueState) {
        self.replay.insert(id, state);
    }

    /// Replays a journaled entry. Queues must have been created; unknown ones are skipped.
    ///
    /// # Errors
    /// The entry is malformed.
    pub fn replay(&mut self, entry: &Arc<EntryBuf>, location: Location) -> Result<(), EntryError> {
        let reader = EntryReader::new(entry)?;
        let mut queues = Replaying {
            queues: &self.queues,
            states: &mut self.replay,
        };
        state::apply(&reader, location, Location::START, &mut queues)
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
            let delivered_end = if clean {
                state.delivered_end
            } else {
                state.next_seq
            };
            queue.adopt(state, delivered_end);
        }
        self.run_all(now_ms, store, effects);
    }

    /// Does what is due in every queue; in those that `effects` has no place for, by a timer.
    pub(super) fn run_all(&mut self, now_ms: u64, store: &dyn Store, effects: &mut Effects) {
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
    pub fn snapshot(&self) -> Vec<(QueueId, QueueState)> {
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

fn snapshot_queue(q: &Queue) -> QueueState {
    let journaled = |h: &Hot| h.location.is_some() && h.location.is_journaled();
    let mut levels: Vec<Vec<(Seq, Location)>> =
        vec![Vec::new(); usize::from(q.settings.max_priority) + 1];
    let mut returns: BTreeMap<Seq, u32> = q.returns.iter().map(|(s, n)| (*s, *n)).collect();
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
            // The highest count of each number.
            let count = returns.entry(hot.seq).or_default();
            *count = hot.returns.max(*count);
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
    QueueState {
        next_seq: q.next_seq,
        delivered_end: q.delivered_end,
        bytes: q.journaled_bytes,
        levels,
        returns,
    }
}
