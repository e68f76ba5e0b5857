//! What the group keeps on this node: where its messages are, checkpoints.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use leveret_cluster::reclaim::{Live, ReclaimError};
use leveret_queue::{Location, QueueId, QueueState, QueueView, Replica};

use super::MirrorGroup;
use crate::mirror::staging::Staging;
use crate::node::{BodyStore, Relocate};

impl MirrorGroup {
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
    pub(in crate::mirror) fn staging(&self) -> &Staging {
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

    /// Messages get numbers that no earlier generation of the group gave: clients may still hold those.
    pub fn in_generation(&self, generation: u32) {
        /// Numbers that a generation has for a queue.
        const BITS: u32 = 40;
        let first = u64::from(generation) << BITS | 1;
        self.first.store(first, Ordering::Release);
    }

    /// The group is formed anew: there is nothing in it. Nothing of the earlier generation is applied any more.
    pub fn begin_anew(&self, generation: u32) {
        self.step_down();
        let mut state = self.state.lock();
        state.replica = Replica::new();
        state.applied = 0;
        drop(state);
        self.staging.clear();
        self.in_generation(generation);
    }

    /// Whether it was formed anew, so that sessions may be further than it knows.
    pub(super) fn was_formed_anew(&self) -> bool {
        self.first.load(Ordering::Acquire) > 1
    }

    /// The replica as it is. Until it is dropped, the segments stay that its messages are in.
    pub fn lend(&self) -> Arc<Replica> {
        let mut state = self.state.lock();
        let lent = Arc::new(state.replica.clone());
        state.lent.push(Arc::downgrade(&lent));
        lent
    }
}
