//! Checkpoints, and what they make possible: segments that go, messages that move.
//!
//! One round, by one thread: every group gives a snapshot of its state (under its lock, so at one place of the journal);
//! once that place is durable the snapshots are written as checkpoints; then a segment that lies before all of them and in which no
//! snapshot has a live message is removed. Of what stays, segments that are mostly dead are emptied: their live messages are appended
//! again at the head, and the segments go in the next round, when a checkpoint knows the new places.
//!
//! A group whose checkpoint is missing (its first round failed) holds everything: nothing is removed then.

use std::collections::BTreeMap;

use leveret_storage::checkpoint::CheckpointError;
use leveret_storage::{AppendError, JournalError, Location, ReadError};

use crate::{GroupId, LogStore};

/// What lives in one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Messages.
    pub messages: u64,
    /// About how many bytes they take there.
    pub bytes: u64,
}

/// A group's state at one place of the journal.
#[derive(Debug)]
pub struct Snapshot {
    /// The state machine's bytes.
    pub state: Vec<u8>,
    /// Everything of the group below is in it.
    pub covers: Location,
    /// Index of the group's next entry.
    pub next_index: u64,
    /// What it needs of which segment.
    pub live: BTreeMap<u32, Live>,
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
pub enum ReclaimError {
    /// A checkpoint could not be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A segment could not be removed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal takes nothing more.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// A message that is to be moved cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A checkpoint that was written.
#[derive(Debug, Default)]
pub struct Checkpointed {
    /// Replay of the group goes on here.
    pub covers: Location,
    /// What the group needs of which segment, besides what follows `covers`.
    pub live: BTreeMap<u32, Live>,
    /// Bytes of the checkpoint.
    pub bytes: u64,
}

/// A group that takes part.
pub trait Reclaim: Send + Sync {
    /// Its number.
    fn group(&self) -> GroupId;

    /// Its state now.
    fn snapshot(&self) -> Snapshot;

    /// Writes its checkpoint; durable when this returns. A Raft group does so by itself and answers what it last wrote.
    ///
    /// # Errors
    /// It could not be written; the earlier one stays.
    fn checkpoint(&self, store: &LogStore) -> Result<Checkpointed, ReclaimError> {
        let snapshot = self.snapshot();
        // A checkpoint must not know of entries that a power cut could still take away.
        store.journal().wait_durable(snapshot.covers)?;
        store.write_checkpoint(
            self.group(),
            snapshot.covers,
            snapshot.next_index,
            &snapshot.state,
        )?;
        Ok(Checkpointed {
            covers: snapshot.covers,
            live: snapshot.live,
            bytes: snapshot.state.len() as u64,
        })
    }

    /// Appends what lives in these segments again, at most about `bytes_max` bytes. Answers how many bytes it wrote.
    ///
    /// # Errors
    /// A segment cannot be read, or the journal is poisoned.
    fn relocate(&self, segments: &[u32], bytes_max: u64) -> Result<u64, ReclaimError>;
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Bytes of the checkpoints written.
    pub checkpoint_bytes: u64,
    /// Segments removed.
    pub removed: usize,
    /// Bytes of messages that were moved.
    pub relocated_bytes: u64,
}

/// A segment is emptied when less than this share of it lives: one in two.
pub const LIVE_SHARE: u64 = 2;
/// Bytes of messages that one round moves, about.
pub const RELOCATE_BYTES_MAX: u64 = 64 << 20;

/// One round over all groups of a node.
///
/// # Errors
/// The system's; what was done so far stays, and the next round begins anew.
pub fn round(
    store: &LogStore,
    groups: &[&dyn Reclaim],
    relocate_bytes_max: u64,
) -> Result<Round, ReclaimError> {
    let mut round = Round::default();
    let mut covered = Location::NONE;
    let mut live: BTreeMap<u32, Live> = BTreeMap::new();
    let mut by_group: Vec<(usize, BTreeMap<u32, Live>)> = Vec::new();
    // Metadata last: where its checkpoint is, start-up takes every group's to be (see `LogStore::open`).
    let mut order: Vec<_> = groups.iter().enumerate().collect();
    order.sort_by_key(|(_, group)| std::cmp::Reverse(group.group()));
    for (at, group) in order {
        let written = group.checkpoint(store)?;
        round.checkpoint_bytes += written.bytes;
        covered = covered.min(written.covers);
        for (segment, of_group) in &written.live {
            let sum = live.entry(*segment).or_default();
            sum.messages += of_group.messages;
            sum.bytes += of_group.bytes;
        }
        by_group.push((at, written.live));
    }
    store.finish_round()?;
    let mut sparse = Vec::new();
    for segment in store.journal().segments() {
        if !segment.sealed || segment.id >= covered.segment() {
            continue;
        }
        match live.get(&segment.id) {
            None => {
                store.journal().remove_segment(segment.id)?;
                round.removed += 1;
            }
            Some(some) if some.bytes * LIVE_SHARE < segment.bytes_used => sparse.push(segment.id),
            Some(_) => {}
        }
    }
    for (at, of_group) in by_group {
        let Some(group) = groups.get(at) else {
            continue;
        };
        let segments: Vec<u32> = sparse
            .iter()
            .copied()
            .filter(|s| of_group.contains_key(s))
            .collect();
        if segments.is_empty() || round.relocated_bytes >= relocate_bytes_max {
            continue;
        }
        round.relocated_bytes +=
            group.relocate(&segments, relocate_bytes_max - round.relocated_bytes)?;
    }
    Ok(round)
}
