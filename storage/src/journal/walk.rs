//! Records in order, from a location to the end: through files, then through what is in memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Journal;
use super::segment::{SEGMENT_HEADER_BYTES, Segment};
use super::tail::Pending;
use crate::error::ReadError;
use crate::location::Location;
use crate::record::{self, Record, RecordHeader, RecordKind};

/// Records taken out of memory under one lock.
const TAIL_BATCH: usize = 64;

/// What a walk verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verify {
    /// Header and payload.
    All,
    /// The header only: payload pages are not touched.
    Headers,
}

/// Iterator over records; see [`Journal::walk`]. Ends after the first error. After `None` it may be asked again, and
/// goes on with what was appended since.
pub struct Walk<'a> {
    journal: &'a Journal,
    position: Location,
    /// The last segment that is walked.
    last_segment: u32,
    verify: Verify,
    view: Option<View>,
    tail: VecDeque<Pending>,
    failed: bool,
}

/// Bytes of one segment that will not change.
struct View {
    segment: Arc<Segment>,
    bytes: Bytes,
}

impl<'a> Walk<'a> {
    pub(super) fn new(
        journal: &'a Journal,
        from: Location,
        last_segment: u32,
        verify: Verify,
    ) -> Walk<'a> {
        Walk {
            journal,
            position: from,
            last_segment,
            verify,
            view: None,
            tail: VecDeque::new(),
            failed: false,
        }
    }

    /// Where the next record will be looked for.
    pub fn position(&self) -> Location {
        self.position
    }

    #[cold]
    fn fail(&mut self, error: ReadError) -> Option<Result<Record, ReadError>> {
        self.failed = true;
        Some(Err(error))
    }

    /// Steps over the next record in the view; `Ok(None)` at the view's end.
    #[inline]
    fn next_in_view(&mut self) -> Result<Option<(Location, RecordHeader, usize)>, ReadError> {
        let Some(view) = &self.view else {
            return Ok(None);
        };
        loop {
            let offset = self.position.offset() as usize;
            if self.position.segment() != view.segment.id || offset >= view.bytes.len() {
                return Ok(None);
            }
            let segment = &view.segment;
            let parsed = match self.verify {
                Verify::All => record::parse(&view.bytes, segment.id, offset, segment.seed),
                Verify::Headers => {
                    record::parse_header(&view.bytes, segment.id, offset, segment.seed)
                }
            };
            let parsed = parsed.map_err(|fault| {
                ReadError::Damaged(segment.damage(offset as u64, fault.to_string()))
            })?;
            let location = self.position;
            self.position = Location::new(segment.id, parsed.next as u32);
            match parsed.header.kind {
                RecordKind::Seal => {
                    let next = segment.id.saturating_add(1);
                    self.position = Location::new(next, SEGMENT_HEADER_BYTES);
                    return Ok(None);
                }
                RecordKind::Mark => {}
                _ => return Ok(Some((location, parsed.header, parsed.payload_start))),
            }
        }
    }

    /// Finds more to walk: the next view or records in memory. `false` at the end of the journal.
    fn refill(&mut self) -> Result<bool, ReadError> {
        self.view = None;
        loop {
            if self.position.segment() > self.last_segment {
                return Ok(false);
            }
            let written = self.journal.written();
            if self.position < written {
                return self.next_view(written);
            }
            let mut records = Vec::new();
            let tail = self.journal.shared.tail.lock();
            tail.records_from(self.position, TAIL_BATCH, &mut records);
            let passed = self.journal.written() > self.position;
            drop(tail);
            if !passed {
                records.retain(|record| record.location.segment() <= self.last_segment);
                self.tail.extend(records);
                return Ok(!self.tail.is_empty());
            }
        }
    }

    fn next_view(&mut self, written: Location) -> Result<bool, ReadError> {
        let from = self.position;
        if from == Location::ZERO {
            let first = self.journal.shared.segments.read().keys().next().copied();
            self.position = Location::new(first.unwrap_or(1), SEGMENT_HEADER_BYTES);
        } else if from.offset() < SEGMENT_HEADER_BYTES {
            self.position = Location::new(from.segment(), SEGMENT_HEADER_BYTES);
        }
        if self.position >= written {
            return Ok(true);
        }
        let segment = self.journal.shared.segment(self.position.segment());
        let segment = segment.ok_or(ReadError::NoSegment(from))?;
        let limit = self.journal.readable_end(&segment);
        if self.position.offset() as usize >= limit {
            if segment.sealed_end().is_none() {
                return Err(ReadError::NotARecord(from));
            }
            // A former end, right behind the seal.
            let next = segment.id.saturating_add(1);
            self.position = Location::new(next, SEGMENT_HEADER_BYTES);
            return Ok(true);
        }
        let bytes = segment.slice(&*self.journal.shared.disk, 0..limit)?;
        self.view = Some(View { segment, bytes });
        Ok(true)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Record, ReadError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.next_in_view() {
                Ok(Some((location, header, start))) => {
                    let view = self.view.as_ref()?;
                    let payload = view.bytes.slice(start..start + header.len as usize);
                    return Some(Ok(Record {
                        header,
                        location,
                        payload,
                    }));
                }
                Ok(None) => {}
                Err(error) => return self.fail(error),
            }
            if let Some(pending) = self.tail.pop_front() {
                let end = pending.location.offset() + pending.stored() as u32;
                self.position = Location::new(pending.location.segment(), end);
                return Some(Ok(pending.into_record()));
            }
            match self.refill() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => return self.fail(error),
            }
        }
        None
    }
}
