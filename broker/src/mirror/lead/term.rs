//! Raft: what is committed, and when this node leads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use leveret_queue::entry::{BatchBuilder, Part};
use leveret_queue::{Applied, Effects, EntryError, Location, Machine, PartOutcome, QueueId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::leading::{Leading, forget_before};
use super::link::Done;
use super::{Beginning, CLAIMS_WAIT_MS, MirrorGroup, Reign};
use crate::mirror::message::{Down, SessionId};
use crate::mirror::session::Leader;

impl MirrorGroup {
    /// A committed entry, by its term and index. `location`: its record in this node's journal; `barrier`: see [`leveret_queue::Replica::apply`].
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
                self.finish(guard, now_ms);
                self.step_down();
                return Ok(());
            }
            for (session, up) in leading.take_late(&state.replica) {
                self.handle(leading, &state.replica, session, up, now_ms);
            }
        }
        self.finish(guard, now_ms);
        Ok(())
    }

    pub(super) fn tell_committed(&self, leading: &mut Leading, applied: &Applied) {
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
        let mut machine = Machine::lead(self.id, &state.replica, queues, end, now_ms);
        machine.number_from(self.first.load(Ordering::Acquire));
        let mut batch = BatchBuilder::default();
        // Queues that were deleted while nobody could say so here. A queue's id is the index of the command that made it: one that is not
        // applied here yet is not known yet.
        for (queue, _) in state.replica.queues() {
            if queue <= metadata && !known.contains(&queue) {
                batch.remove(queue);
            }
        }
        for life in &lives {
            forget_before(&state.replica, &mut batch, *life);
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
            due_ms: u64::MAX,
            proposals: 1,
            proven: false,
            awaited: nodes.into_iter().collect(),
            until_ms: u64::MAX,
            lives: lives.iter().map(|l| (l.node, l.incarnation)).collect(),
            deferred: Vec::new(),
        }));
        self.finish(guard, now_ms);
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
}
