//! What can go wrong, by who has to act on it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Location;

/// What a replay callback may fail with; handed back inside [`JournalError::Replay`].
pub type ReplayError = Box<dyn std::error::Error + Send + Sync>;

/// Bytes on disk that are not what was written there: named by file and offset, never repaired silently.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Byte offset in the file of the record (or header) that cannot be believed.
    pub offset: u64,
    /// What is wrong there, and how it is known.
    pub reason: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "damage in {} at offset {}: {}",
            self.path.display(),
            self.offset,
            self.reason
        )
    }
}

/// Why a journal could not be opened or a segment not be verified.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The disk could not give back a part of a file.
    #[error("cannot read {} at offset {offset}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Start of the part.
        offset: u64,
        /// The system's answer.
        source: io::Error,
    },
    /// Durable bytes changed.
    #[error("{0}; nothing was changed on disk")]
    Damaged(Damage),
    /// Written by a version of Leveret that this one does not understand.
    #[error("{} has journal format {found}, this version of leveret reads format {supported}", path.display())]
    UnsupportedVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// What this code reads and writes.
        supported: u32,
    },
    /// A segment that replay needs is not there.
    #[error("segment {segment} is missing in {}: replay starts at {from} and the newest segment is {newest}", dir.display())]
    MissingSegment {
        /// The journal's directory.
        dir: PathBuf,
        /// The number that is missing.
        segment: u32,
        /// Where replay was to start.
        from: Location,
        /// The highest number that is there.
        newest: u32,
    },
    /// The checkpoints say more than the journal has.
    #[error("replay is to start at {from}, but the journal in {} ends at {end}", dir.display())]
    ReplayBeyondEnd {
        /// The journal's directory.
        dir: PathBuf,
        /// Where replay was to start.
        from: Location,
        /// Where the journal ends.
        end: Location,
    },
    /// Replay cannot start in the middle of a record.
    #[error("replay is to start at {from}, which is inside a record of {}", path.display())]
    NotARecordBoundary {
        /// The segment's file.
        path: PathBuf,
        /// Where replay was to start.
        from: Location,
    },
    /// The segment belongs to another journal.
    #[error("{} belongs to another journal", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// A journal that was written without syncs was opened as a durable one, or the other way round.
    #[error("{} was written {}, refusing to open it {}", path.display(),
        if *unsynced { "without syncs" } else { "with syncs" },
        if *unsynced { "with syncs" } else { "without" })]
    PolicyMismatch {
        /// The file.
        path: PathBuf,
        /// How the file was written.
        unsynced: bool,
    },
    /// Another process has the directory open.
    #[error("{} is in use by another process", dir.display())]
    InUse {
        /// The journal's directory.
        dir: PathBuf,
    },
    /// A setting is outside its bounds.
    #[error("journal configuration: {0}")]
    Config(String),
    /// The caller's replay function refused a record.
    #[error("replay of the record at {location}: {source}")]
    Replay {
        /// The record.
        location: Location,
        /// The callback's error.
        source: ReplayError,
    },
    /// The operation needs a sealed segment and this is not one.
    #[error("segment {0} is not a sealed segment of this journal")]
    NotSealed(u32),
    /// The journal failed while it was being started.
    #[error(transparent)]
    Failed(#[from] Failure),
}

impl JournalError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
        let path = path.to_path_buf();
        move |source| JournalError::Io {
            action,
            path,
            source,
        }
    }
}

/// Why an append was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// A write or sync failed earlier; the node must stop and recover.
    #[error(transparent)]
    Poisoned(#[from] Failure),
    /// The journal was closed.
    #[error("the journal is closed")]
    Closed,
    /// The payload is over [`crate::record::PAYLOAD_BYTES_MAX`].
    #[error("a payload of {0} bytes is over the limit of a journal record")]
    TooLarge(usize),
    /// The kind is one that only the journal itself writes.
    #[error("record kind {0} is reserved to the journal")]
    ReservedKind(u8),
    /// The flags have a bit that only the journal sets.
    #[error("record flags {0:#04x} have bits that are reserved to the journal")]
    ReservedFlags(u8),
    /// The last segment number is used up.
    #[error("the journal is out of segment numbers")]
    OutOfLocations,
}

/// The write or sync that poisoned the journal. Final: nothing is retried, nothing becomes durable after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("journal failed: cannot {action} {}: {message}", path.display())]
pub struct Failure {
    /// What was tried.
    pub action: &'static str,
    /// On which file.
    pub path: Arc<Path>,
    /// The system's answer, as text.
    pub message: Arc<str>,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The bytes there are not what was written.
    #[error("{0}")]
    Damaged(Damage),
    /// The segment was removed, or never was.
    #[error("the segment of location {0} is not in the journal (any more)")]
    NoSegment(Location),
    /// Nothing was appended at or after this location.
    #[error("location {0} is past the end of the journal")]
    PastEnd(Location),
    /// Not the start of a record.
    #[error("no record starts at location {0}")]
    NotARecord(Location),
    /// The operating system refused.
    #[error("cannot map {}: {source}", path.display())]
    Io {
        /// The segment's file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}
