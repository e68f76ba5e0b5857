//! What is appended and not yet written: the only state that appenders share.
//!
//! The lock is held for a few instructions by an append and twice per cycle by the writer. Locations are given here, in the
//! order of the appends; the writer follows them exactly, also from one segment to the next.
//!
//! Invariants: `inflight` then `pending` are in location order without gaps; `end` is the end of the last of them;
//! `bytes` counts the stored bytes of both until they are written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::append::Wait;
use super::config::JournalConfig;
use super::segment::SEGMENT_HEADER_BYTES;
use crate::error::{AppendError, Failure};
use crate::location::Location;
use crate::record::{HEADER_BYTES, PAYLOAD_BYTES_MAX, RecordKind, stored_bytes};

/// Pending bytes for which the writer is woken though nobody waits; half of the tail if that is less.
const WRITE_BEHIND_BYTES: u64 = 256 << 10;

/// The largest batch whose vector is kept.
const RECYCLED_RECORDS_MAX: usize = 4 << 10;

/// An appended record that is not written yet.
#[derive(Clone)]
pub(crate) struct Pending {
    pub payload: Bytes,
    pub location: Location,
    pub index: u64,
    pub term: u64,
    pub group: u32,
    pub kind: RecordKind,
    pub flags: u8,
}

impl Pending {
    /// A record that only the journal writes.
    pub(crate) fn internal(kind: RecordKind, location: Location) -> Pending {
        Pending {
            payload: Bytes::new(),
            location,
            index: 0,
            term: 0,
            group: 0,
            kind,
            flags: 0,
        }
    }

    pub(crate) fn stored(&self) -> usize {
        stored_bytes(self.payload.len())
    }
}

/// What the writer is doing, as the appenders need to know it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum WriterState {
    /// Will look at the tail before it sleeps.
    Running,
    /// Sleeps until the sync interval of what it knows is over.
    Lingering,
    /// Sleeps until it is woken.
    Idle,
}

/// What the writer has to do next.
pub(crate) enum Work {
    /// Write these, and make everything durable below the location.
    Cycle {
        batch: Arc<Vec<Pending>>,
        sync_below: Location,
        closing: bool,
    },
    /// Nothing is due before this long.
    Sleep(Option<Duration>),
}

pub(crate) struct Tail {
    pending: Vec<Pending>,
    inflight: Option<Arc<Vec<Pending>>>,
    /// Emptied vector of an earlier batch.
    recycled: Vec<Pending>,
    end: Location,
    /// Bytes of the segment that `end` lies in.
    capacity: u32,
    segment_size_bytes: u32,
    write_behind_bytes: u64,
    pub bytes: u64,
    /// An append waits until `bytes` is lower.
    pub waiting_for_room: bool,
    /// Somebody waits for everything below to be durable.
    sync_wanted: Location,
    /// Somebody waits for everything below to be written.
    write_wanted: Location,
    /// Since when the writer knows of appends that are not durable.
    oldest: Option<Instant>,
    /// What was durable when the writer last asked.
    durable_seen: Location,
    writer: WriterState,
    failed: Option<Failure>,
    closing: bool,
    appends: u64,
    append_bytes: u64,
}

impl Tail {
    pub(crate) fn new(end: Location, capacity: u32, config: &JournalConfig) -> Tail {
        Tail {
            pending: Vec::new(),
            inflight: None,
            recycled: Vec::new(),
            end,
            capacity,
            segment_size_bytes: config.segment_size_bytes,
            write_behind_bytes: WRITE_BEHIND_BYTES.min(config.tail_bytes_max / 2),
            bytes: 0,
            waiting_for_room: false,
            sync_wanted: Location::ZERO,
            write_wanted: Location::ZERO,
            oldest: None,
            durable_seen: Location::ZERO,
            writer: WriterState::Running,
            failed: None,
            closing: false,
            appends: 0,
            append_bytes: 0,
        }
    }

    pub(crate) fn end(&self) -> Location {
        self.end
    }

    /// Records and payload bytes appended so far.
    pub(crate) fn appended(&self) -> (u64, u64) {
        (self.appends, self.append_bytes)
    }

    pub(crate) fn check(&self) -> Result<(), AppendError> {
        match &self.failed {
            Some(failure) => Err(AppendError::Poisoned(failure.clone())),
            None if self.closing => Err(AppendError::Closed),
            None => Ok(()),
        }
    }

    /// Reserves the place of a record of `stored` bytes. Every segment keeps room for its seal.
    fn reserve(&mut self, stored: usize) -> Result<Location, AppendError> {
        let stored = stored as u32; // at most PAYLOAD_BYTES_MAX and a header, checked by the caller
        let fits = u64::from(self.end.offset()) + u64::from(stored) + HEADER_BYTES as u64
            <= u64::from(self.capacity);
        if !fits {
            let next = self
                .end
                .segment()
                .checked_add(1)
                .ok_or(AppendError::OutOfLocations)?;
            self.end = Location::new(next, SEGMENT_HEADER_BYTES);
            let needed = SEGMENT_HEADER_BYTES + stored + HEADER_BYTES as u32;
            self.capacity = self.segment_size_bytes.max(needed.next_multiple_of(4096));
        }
        let location = self.end;
        self.end = Location::new(location.segment(), location.offset() + stored);
        Ok(location)
    }

    /// Takes a record, and says whether the writer must be woken.
    pub(crate) fn append(
        &mut self,
        mut record: Pending,
        wait: Wait,
    ) -> Result<(Location, bool), AppendError> {
        self.check()?;
        if record.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge(record.payload.len()));
        }
        let stored = record.stored();
        let location = self.reserve(stored)?;
        record.location = location;
        self.appends += 1;
        self.append_bytes += record.payload.len() as u64;
        self.pending.push(record);
        self.bytes += stored as u64;
        match wait {
            Wait::Durable => self.sync_wanted = self.end,
            Wait::Written => self.write_wanted = self.end,
            Wait::Nobody => {}
        }
        let wake = match self.writer {
            WriterState::Running => false,
            WriterState::Idle => true,
            WriterState::Lingering => wait != Wait::Nobody || self.bytes >= self.write_behind_bytes,
        };
        if wake {
            self.writer = WriterState::Running;
        }
        Ok((location, wake))
    }

    /// Somebody waits for everything below `location`; says whether the writer must be woken.
    pub(crate) fn want_sync(&mut self, location: Location) -> bool {
        self.sync_wanted = self.sync_wanted.max(location.min(self.end));
        self.wake()
    }

    pub(crate) fn close(&mut self) -> bool {
        self.closing = true;
        self.wake()
    }

    fn wake(&mut self) -> bool {
        let asleep = self.writer != WriterState::Running;
        self.writer = WriterState::Running;
        asleep
    }

    pub(crate) fn fail(&mut self, failure: Failure) {
        self.failed.get_or_insert(failure);
    }

    pub(crate) fn failure(&self) -> Option<Failure> {
        self.failed.clone()
    }

    /// The writer's question: what now? `now` is `None` in a journal without a clock, where `force` says when the
    /// interval is over.
    pub(crate) fn next_work(
        &mut self,
        durable: Location,
        interval: Duration,
        now: Option<Instant>,
        force: bool,
    ) -> Work {
        let unsynced = self.end > durable;
        if !unsynced || self.durable_seen < durable {
            self.oldest = None;
            self.durable_seen = durable;
        }
        if unsynced {
            self.oldest = self.oldest.or(now);
        }
        let waited = self.sync_wanted > durable;
        let age = self
            .oldest
            .zip(now)
            .map(|(oldest, now)| now.saturating_duration_since(oldest));
        let due = force || self.closing || age.is_some_and(|age| age >= interval);
        let write_waited = self
            .pending
            .first()
            .is_some_and(|first| first.location < self.write_wanted);
        let write = !self.pending.is_empty()
            && (waited || write_waited || due || self.bytes >= self.write_behind_bytes);
        if write || (unsynced && (waited || due)) || self.closing {
            self.writer = WriterState::Running;
            let sync_below = if due { self.end } else { self.sync_wanted };
            let batch = Arc::new(std::mem::replace(
                &mut self.pending,
                std::mem::take(&mut self.recycled),
            ));
            self.inflight = Some(Arc::clone(&batch));
            return Work::Cycle {
                batch,
                sync_below,
                closing: self.closing,
            };
        }
        self.writer = if unsynced {
            WriterState::Lingering
        } else {
            WriterState::Idle
        };
        Work::Sleep(age.map(|age| interval - age))
    }

    /// Takes the batch's records out of memory: all of them are written.
    pub(crate) fn forget_inflight(&mut self) {
        self.inflight = None;
    }

    /// Gives back the vector of a batch, emptied.
    pub(crate) fn recycle(&mut self, emptied: Vec<Pending>) {
        if emptied.capacity() > 0 && emptied.capacity() <= RECYCLED_RECORDS_MAX {
            self.recycled = emptied;
        }
    }

    /// Appends the last record of a session, the writer's own; nothing if this segment has no room for it.
    pub(crate) fn append_mark(&mut self) -> Option<Pending> {
        let location = self.end;
        let end = location.offset() + HEADER_BYTES as u32;
        if end + HEADER_BYTES as u32 > self.capacity {
            return None;
        }
        self.end = Location::new(location.segment(), end);
        Some(Pending::internal(RecordKind::Mark, location))
    }

    /// Records in memory from the first one at or after `location` on, at most `count` of them.
    pub(crate) fn records_from(&self, location: Location, count: usize, out: &mut Vec<Pending>) {
        let inflight = self.inflight.as_deref().map_or(&[][..], Vec::as_slice);
        for part in [inflight, self.pending.as_slice()] {
            let start = part.partition_point(|record| record.location < location);
            let room = count - out.len();
            out.extend(
                part.get(start..)
                    .unwrap_or_default()
                    .iter()
                    .take(room)
                    .cloned(),
            );
        }
    }
}
