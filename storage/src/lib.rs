//! Leveret's store: the journal and the checkpoints beside it.
//!
//! A node has one [`Journal`]: a directory of append-only segments, written by one thread and made durable with one
//! `fdatasync` for all that is pending, whoever appended it. Where a record lies is its [`Location`]; what is
//! durable is one location too. Readers see records that are not yet written in memory, and written ones through
//! mapped segments. The byte-exact format is in `FORMAT.md` beside this crate.
//!
//! The crate knows neither AMQP nor Raft: a record has a kind, a group, an index, a term and a payload.
//! It owns no policy about what may be removed: the caller says which segments are dead.

#![deny(unsafe_code)]

pub mod checkpoint;
pub mod disk;
mod error;
pub mod fuzzing;
mod journal;
mod location;
pub mod record;

pub use error::{AppendError, Damage, Failure, JournalError, ReadError, ReplayError};
pub use journal::append::{NewRecord, Wait};
pub use journal::config::{JournalConfig, SyncPolicy};
pub use journal::recovery::{Cut, RecoveryReport};
pub use journal::segment::SegmentInfo;
pub use journal::stats::{Histogram, HistogramCell, JournalStats};
pub use journal::walk::{Verify, Walk};
pub use journal::{Journal, Progress};
pub use location::Location;
pub use record::{Record, RecordHeader, RecordKind};
