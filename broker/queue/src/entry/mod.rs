//! Entries: batches of commands, encoded once.
//!
//! The same bytes are the messages' home in memory, the journal record's payload and (mirrored) the Raft entry.
//! Little-endian throughout; everything is aligned to 8 bytes from the entry's start.
//!
//! ```text
//! entry   0  version u8 = 1
//!         1  flags u8 = 0
//!         2  queues u16               entries of the queue table
//!         4  ops u32
//!         8  table_offset u32         where the queue table begins (the ops end there)
//!        12  reserved u32 = 0
//!        16  ops
//!         …  queues × { queue_id u64, seq_first u64 }
//!
//! op      0  kind u8
//!         1  flags u8
//!         2  slots u16                how many slots follow the header
//!         4  length u32               of the whole op, a multiple of 8
//!         8  body, then slots × u16   (indices of the queue table; 0xFFFF: refused)
//!
//! Enqueue (1)   flags: 1 persistent, 2 has expiration, 4 expiration is in seconds
//!         8  body_len u32
//!        12  props_len u32
//!        16  exchange_len u8, routing_key_len u8, priority u8, reserved u8
//!        20  expiration u32             milliseconds, or seconds where those do not fit
//!        24  time_ms u64              when it was published, the proposer's wall clock
//!        32  slots × u16, exchange, routing key, properties, body, padding
//!            its number in a slot's queue is seq_first + the count of earlier enqueues to that slot in this entry
//!
//! Settle (2)    slots = 1
//!         8  slot u16, reason u8, 5 reserved
//!        16  ranges × { seq_first u64, count u32, bytes u32 }
//!
//! Return (3)    slots = 1
//!         8  slot u16, 6 reserved
//!        16  seqs × { seq u64, delivery_count u32, reserved u32 }
//!
//! Relocated (4) as Enqueue, with slots × u16 followed (8-aligned) by slots × seq u64: where a message is now
//! ```

pub mod batch;
mod builder;
mod message;
mod reader;

pub use batch::{BatchBuilder, Part, SessionId};
pub use builder::{EntryBuilder, NewMessage};
pub use message::{EntryBuf, MemoryGauge, Message};
pub use reader::{EntryReader, Op, OpRef, SeqReturn, SettledRange};

/// The version that this code writes.
pub const VERSION: u8 = 1;
pub(crate) const HEADER: usize = 16;
pub(crate) const OP_HEADER: usize = 8;
pub(crate) const MESSAGE_HEADER: usize = 32;
pub(crate) const TABLE_ITEM: usize = 16;
/// A slot that was refused at admission.
pub const REFUSED: u16 = u16::MAX;

pub(crate) const KIND_ENQUEUE: u8 = 1;
pub(crate) const KIND_SETTLE: u8 = 2;
pub(crate) const KIND_RETURN: u8 = 3;
pub(crate) const KIND_RELOCATED: u8 = 4;

pub(crate) const FLAG_PERSISTENT: u8 = 1;
pub(crate) const FLAG_EXPIRATION: u8 = 2;
pub(crate) const FLAG_EXPIRATION_SECONDS: u8 = 4;

/// Flags and value of an expiration.
pub(crate) fn expiration_field(expiration_ms: Option<u64>) -> (u8, u32) {
    match expiration_ms {
        None => (0, 0),
        Some(ms) => match u32::try_from(ms) {
            Ok(ms) => (FLAG_EXPIRATION, ms),
            Err(_) => {
                let seconds = u32::try_from(ms.div_ceil(1000)).unwrap_or(u32::MAX);
                (FLAG_EXPIRATION | FLAG_EXPIRATION_SECONDS, seconds)
            }
        },
    }
}

/// Reason byte of a Settle for an ordinary acknowledgement.
pub const SETTLED_ACKED: u8 = 0;
/// Reason byte of a Settle for a purge.
pub const SETTLED_PURGED: u8 = 5;

/// Bytes that are not an entry of a known version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryError {
    /// Written by a later release.
    Version(u8),
    /// Lengths do not add up at this byte of the entry.
    Malformed(usize),
}

impl std::fmt::Display for EntryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EntryError::Version(v) => write!(f, "entry of unknown version {v}"),
            EntryError::Malformed(at) => write!(f, "malformed entry at byte {at}"),
        }
    }
}

impl std::error::Error for EntryError {}

pub(crate) fn pad8(n: usize) -> usize {
    (n + 7) & !7
}

pub(crate) fn u16_at(buf: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(buf.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(buf: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(buf.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn u64_at(buf: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(buf.get(at..at + 8)?.try_into().ok()?))
}
