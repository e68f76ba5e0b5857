//! Several records of one caller at once, and what it waits for.

use bytes::Bytes;

use super::Journal;
use super::tail::Pending;
use crate::error::AppendError;
use crate::location::Location;
use crate::record::{self, PAYLOAD_BYTES_MAX, RecordKind};

/// What the caller of an append waits for, and so what the writer hurries to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Nothing: written and synced with what is waited for, or when the sync interval is over.
    Nobody,
    /// That the record is in a file, where it survives this process. Synced like the others of its kind.
    Written,
    /// That the record survives a power cut.
    Durable,
}

impl Wait {
    pub(super) const fn of(sync: bool) -> Wait {
        if sync { Wait::Durable } else { Wait::Nobody }
    }
}

/// A record to be appended.
#[derive(Debug, Clone)]
pub struct NewRecord {
    /// What it is for; not one of the journal's own.
    pub kind: RecordKind,
    /// The caller's, without [`record::FLAGS_RESERVED`].
    pub flags: u8,
    /// Whose it is.
    pub group: u32,
    /// The group's log index, or what the kind means by it.
    pub index: u64,
    /// The group's term.
    pub term: u64,
    /// At most [`PAYLOAD_BYTES_MAX`].
    pub payload: Bytes,
}

impl Journal {
    /// Takes records in order, under one lock, and puts the location of each behind `locations`. They are no unit: a crash may
    /// leave the first of them without the others.
    ///
    /// # Errors
    /// As [`Journal::append`]. Those before the one that was refused are in the journal, and their locations in `locations`.
    pub fn append_all(
        &self,
        records: impl IntoIterator<Item = NewRecord>,
        wait: Wait,
        locations: &mut Vec<Location>,
    ) -> Result<(), AppendError> {
        let shared = &*self.shared;
        let mut wake = false;
        let mut tail = shared.tail.lock();
        if tail.bytes >= shared.config.tail_bytes_max {
            self.wait_for_room(&mut tail);
        }
        let mut append = |new: NewRecord| {
            if new.kind.is_internal() {
                return Err(AppendError::ReservedKind(new.kind as u8));
            }
            if new.flags & record::FLAGS_RESERVED != 0 {
                return Err(AppendError::ReservedFlags(new.flags));
            }
            if new.payload.len() > PAYLOAD_BYTES_MAX {
                return Err(AppendError::TooLarge(new.payload.len()));
            }
            let (location, woken) = tail.append(
                Pending {
                    payload: new.payload,
                    location: Location::ZERO,
                    index: new.index,
                    term: new.term,
                    group: new.group,
                    kind: new.kind,
                    flags: new.flags,
                },
                wait,
            )?;
            locations.push(location);
            wake |= woken;
            Ok(())
        };
        let result = records.into_iter().try_for_each(&mut append);
        drop(tail);
        if wake {
            self.wake_writer();
        }
        result
    }
}
