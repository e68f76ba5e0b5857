//! Checkpoints of all groups, and what may leave the journal after them.

use std::collections::BTreeMap;
use std::sync::Arc;

use leveret_cluster::reclaim::{LIVE_SHARE, Live, RELOCATE_BYTES_MAX, ReclaimError};

use super::Mirror;

impl Mirror {
    /// One round of checkpoints of all groups; then segments go that neither a log nor a live message needs. Answers how many. Not to be called
    /// on a thread of the runtime.
    ///
    /// # Errors
    /// The text says which group has no checkpoint, or which segment stays.
    pub fn checkpoint(&self) -> Result<usize, String> {
        let (Some(runtime), Some(node), Some(metadata)) =
            (self.runtime.get(), self.node(), self.metadata.get())
        else {
            return Ok(0);
        };
        if self.generations.any_between() {
            return Ok(0);
        }
        // Before and after: what a checkpoint was made of lies between.
        let mut before = BTreeMap::new();
        for mirrored in &self.groups {
            mirrored.group.live(&mut before);
        }
        let mut needed = leveret_storage::Location::NONE;
        let rafts = self.groups.iter().filter_map(|m| m.raft.get());
        for raft in std::iter::once(Arc::clone(metadata)).chain(rafts) {
            let covered = runtime.block_on(async {
                let covered = raft.checkpoint().await?;
                raft.purge().await?;
                Ok::<_, leveret_cluster::raft::group::GroupError>(covered)
            });
            let covered = match covered {
                // It is another one by now.
                Err(_) if self.generations.any_between() => return Ok(0),
                covered => covered.map_err(|e| format!("group {}: {e}", raft.group()))?,
            };
            needed = needed.min(covered.replay_from);
        }
        node.store().finish_round().map_err(|e| e.to_string())?;
        let mut live = BTreeMap::new();
        for mirrored in &self.groups {
            mirrored.group.live(&mut live);
        }
        if self.generations.any_between() {
            // Until its new checkpoint is there, a group needs the record that says that the log before is dropped.
            return Ok(0);
        }
        let journal = node.store().journal();
        let mut removed = 0;
        let mut sparse = Vec::new();
        for segment in journal.segments() {
            if !segment.sealed || segment.id >= needed.segment() {
                continue;
            }
            let bytes = live.get(&segment.id).map(|live: &Live| live.bytes);
            if bytes.is_none() && !before.contains_key(&segment.id) {
                journal
                    .remove_segment(segment.id)
                    .map_err(|e| e.to_string())?;
                removed += 1;
            } else if bytes.is_some_and(|bytes| bytes * LIVE_SHARE < segment.bytes_used) {
                sparse.push(segment.id);
            }
        }
        self.relocate(&sparse).map_err(|e| e.to_string())?;
        Ok(removed)
    }

    /// Moves what lives in segments that are mostly dead to the journal's end; the next round removes them.
    pub(super) fn relocate(&self, segments: &[u32]) -> Result<(), ReclaimError> {
        let mut left = RELOCATE_BYTES_MAX;
        let mut last = None;
        for mirrored in &self.groups {
            if segments.is_empty() || left == 0 {
                break;
            }
            let (written, at) = mirrored.group.relocate(segments, left)?;
            left = left.saturating_sub(written);
            last = last.max(at);
        }
        if let (Some(last), Some(node)) = (last, self.node()) {
            // A checkpoint that knows the new places must not outlive them.
            node.store().journal().wait_durable(last)?;
        }
        Ok(())
    }
}
