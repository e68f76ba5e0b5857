//! The log of one group.

use std::sync::Arc;

use bytes::Bytes;
use leveret_storage::{AppendError, Journal, Location, RecordKind};

use crate::GroupId;

/// Appends the entries of one group. Owned by the group's state, under its lock: entries have the order of the appends.
#[derive(Clone)]
pub struct GroupLog {
    group: GroupId,
    next_index: u64,
    journal: Arc<Journal>,
}

impl std::fmt::Debug for GroupLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "GroupLog(group {}, next {})",
            self.group, self.next_index
        )
    }
}

impl GroupLog {
    /// The log of `group`; its next entry gets `next_index` (at least 1).
    pub fn new(group: GroupId, next_index: u64, journal: Arc<Journal>) -> Self {
        GroupLog {
            group,
            next_index: next_index.max(1),
            journal,
        }
    }

    /// The index that the next entry gets.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The journal that it writes to.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Takes the next index, for an entry that is appended as part of a unit ([`Journal::append_unit`]).
    pub fn take_index(&mut self) -> u64 {
        self.next_index += 1;
        self.next_index - 1
    }

    /// Appends one entry. `sync`: somebody waits for it to be durable; otherwise it is by the journal's sync interval.
    ///
    /// # Errors
    /// The journal is poisoned or closed, or the entry is too large.
    pub fn append(&mut self, payload: Bytes, sync: bool) -> Result<Location, AppendError> {
        let location = self.journal.append(
            RecordKind::Entry,
            0,
            self.group,
            self.next_index,
            0,
            payload,
            sync,
        )?;
        self.next_index += 1;
        Ok(location)
    }
}
