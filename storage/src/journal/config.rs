//! Settings of a journal.

use std::path::PathBuf;

use super::segment::SEGMENT_HEADER_BYTES;
use crate::error::JournalError;
use crate::record::HEADER_BYTES;

/// The smallest segment that can be asked for: for tests.
const SEGMENT_SIZE_BYTES_MIN: u32 = 16 << 10;
/// The largest: offsets must leave room for one record over the size.
const SEGMENT_SIZE_BYTES_MAX: u32 = 1 << 30;

const _: () = assert!(SEGMENT_SIZE_BYTES_MIN > SEGMENT_HEADER_BYTES + 2 * HEADER_BYTES as u32);

/// When written bytes are made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// At once when somebody waits; else when the oldest unsynced append is this old.
    Always {
        /// Milliseconds that an append without a waiter may stay unsynced.
        interval_ms: u64,
    },
    /// Never: a pager. What is in the directory of an earlier pager is removed at open, `durable` follows `written`.
    Never,
}

/// Settings of a journal.
#[derive(Debug, Clone)]
pub struct JournalConfig {
    /// Directory of the segments; made if it is not there. Nothing else should live in it.
    pub dir: PathBuf,
    /// Size of a segment's file, a multiple of 4096. A record that does not fit gets a segment of its own.
    pub segment_size_bytes: u32,
    /// When to sync.
    pub sync: SyncPolicy,
    /// Appended and not yet written bytes above which an append waits for the writer: the last resort, callers
    /// should hold back long before (see `Journal::pending_bytes`).
    pub tail_bytes_max: u64,
    /// Files of removed segments that are kept for reuse.
    pub spare_segments_max: usize,
    /// Identity of a new journal; random when `None`. An existing journal keeps its own.
    pub uuid: Option<[u8; 16]>,
}

impl JournalConfig {
    /// The defaults for a durable journal in `dir`: segments of 64 MiB, 100 ms, a tail of 256 MiB, two spares.
    pub fn new(dir: impl Into<PathBuf>) -> JournalConfig {
        JournalConfig {
            dir: dir.into(),
            segment_size_bytes: 64 << 20,
            sync: SyncPolicy::Always { interval_ms: 100 },
            tail_bytes_max: 256 << 20,
            spare_segments_max: 2,
            uuid: None,
        }
    }

    pub(crate) fn check(&self) -> Result<(), JournalError> {
        let size = self.segment_size_bytes;
        if !(SEGMENT_SIZE_BYTES_MIN..=SEGMENT_SIZE_BYTES_MAX).contains(&size)
            || !size.is_multiple_of(4096)
        {
            return Err(JournalError::Config(format!(
                "segment_size_bytes = {size} must be a multiple of 4096 from {SEGMENT_SIZE_BYTES_MIN} to \
                 {SEGMENT_SIZE_BYTES_MAX}"
            )));
        }
        if matches!(self.sync, SyncPolicy::Always { interval_ms: 0 }) {
            return Err(JournalError::Config("interval_ms must not be 0".into()));
        }
        if self.tail_bytes_max == 0 {
            return Err(JournalError::Config("tail_bytes_max must not be 0".into()));
        }
        Ok(())
    }

    pub(crate) fn syncs(&self) -> bool {
        self.sync != SyncPolicy::Never
    }
}
