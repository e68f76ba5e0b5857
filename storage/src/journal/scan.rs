//! Reading one segment from its first record to where its records end.
//!
//! Used by recovery and by the scrub. Reads through the mapping in large steps, each brought in first so that what the disk
//! cannot give is an error with an offset, and given back behind the reader so that a scan leaves nothing resident.

use bytes::Bytes;

use super::segment::{SEGMENT_HEADER_BYTES, Segment};
use crate::disk::{Advice, Disk};
use crate::error::{JournalError, ReadError};
use crate::record::{self, Fault, Parsed, RecordKind};

/// Brought into memory at once, ahead of what is parsed.
const READ_AHEAD_BYTES: usize = 4 << 20;

/// Unit of what is brought in and given back.
const PAGE_BYTES: usize = 4096;

/// Where the records of a segment end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// At its seal.
    Sealed,
    /// At a place that is no record.
    Bad(Fault),
}

/// What was learned of a segment while it was read.
#[derive(Debug)]
pub(super) struct Scan {
    pub stop: Stop,
    /// Offset behind the last record (the seal among them), which is the bad place if there is one.
    pub end: usize,
    /// The highest durable offset that a record in it names.
    pub proven: usize,
    /// Its last record is a mark: the journal was closed here.
    pub marked: bool,
    /// Whether it has any record.
    pub used: bool,
    /// The whole file.
    pub bytes: Bytes,
}

/// Reads records until the seal or the first place that is none, and shows each to `visit` with its offset.
pub(super) fn scan(
    segment: &Segment,
    disk: &dyn Disk,
    mut visit: impl FnMut(usize, &Parsed, &Bytes) -> Result<(), JournalError>,
) -> Result<Scan, JournalError> {
    let bytes = whole(segment, disk)?;
    let start = SEGMENT_HEADER_BYTES as usize;
    let mut scan = Scan {
        stop: Stop::Sealed,
        end: start,
        proven: start,
        marked: false,
        used: false,
        bytes: bytes.clone(),
    };
    let mut window = Window {
        segment,
        disk,
        start: 0,
        end: 0,
    };
    loop {
        window.reach(scan.end + record::HEADER_BYTES, scan.end)?;
        let judged = record::parse_header(&bytes, segment.id, scan.end, segment.seed);
        if let Ok(parsed) = &judged {
            window.reach(parsed.next, scan.end)?;
        }
        let judged = judged.and_then(|parsed| {
            record::check_payload(&bytes, scan.end, &parsed, segment.seed)?;
            Ok(parsed)
        });
        let parsed = match judged {
            Ok(parsed) => parsed,
            Err(fault) => {
                scan.stop = Stop::Bad(fault);
                return Ok(scan);
            }
        };
        visit(scan.end, &parsed, &bytes)?;
        scan.used = true;
        scan.end = parsed.next;
        scan.proven = scan.proven.max(parsed.header.durable.offset() as usize);
        scan.marked = parsed.header.kind == RecordKind::Mark;
        if parsed.header.kind == RecordKind::Seal {
            return Ok(scan);
        }
    }
}

/// A header at or after `offset` that could only be written when everything below `durable_past` was durable.
pub(super) fn find_proof(
    segment: &Segment,
    bytes: &Bytes,
    disk: &dyn Disk,
    offset: usize,
    durable_past: Option<usize>,
) -> Result<Option<usize>, JournalError> {
    let mut window = Window {
        segment,
        disk,
        start: 0,
        end: offset,
    };
    let mut at = offset;
    while at < bytes.len() {
        let end = bytes.len().min(at + READ_AHEAD_BYTES);
        window.reach((end + record::HEADER_BYTES).min(bytes.len()), at)?;
        let proof =
            record::scan_headers(bytes, segment.id, at..end, segment.seed).find(|(_, header)| {
                durable_past.is_none_or(|past| header.durable.offset() as usize > past)
            });
        if let Some((place, _)) = proof {
            return Ok(Some(place));
        }
        at = end;
    }
    Ok(None)
}

/// The whole file; for start-up, when nobody writes.
pub(super) fn whole(segment: &Segment, disk: &dyn Disk) -> Result<Bytes, JournalError> {
    segment
        .slice(disk, 0..segment.file_bytes as usize)
        .map_err(|error| match error {
            ReadError::Io { path, source } => JournalError::Io {
                action: "map",
                path,
                source,
            },
            ReadError::Damaged(damage) => JournalError::Damaged(damage),
            other => JournalError::Damaged(segment.damage(0, other.to_string())),
        })
}

/// The part of a segment that is in memory for a scan.
struct Window<'a> {
    segment: &'a Segment,
    disk: &'a dyn Disk,
    start: usize,
    end: usize,
}

impl Window<'_> {
    /// Brings the bytes below `offset` in, and gives those back that lie below `keep`.
    #[inline]
    fn reach(&mut self, offset: usize, keep: usize) -> Result<(), JournalError> {
        if offset <= self.end {
            Ok(())
        } else {
            self.advance(offset, keep)
        }
    }

    fn advance(&mut self, offset: usize, keep: usize) -> Result<(), JournalError> {
        let file_bytes = self.segment.file_bytes as usize;
        let from = self.end / PAGE_BYTES * PAGE_BYTES;
        let to = offset.max(self.end + READ_AHEAD_BYTES).min(file_bytes);
        if from < to {
            let populated = self.segment.advise(self.disk, from..to, Advice::Populate);
            populated.map_err(|source| JournalError::Unreadable {
                path: self.segment.path.clone(),
                offset: from as u64,
                source,
            })?;
        }
        self.release(keep / PAGE_BYTES * PAGE_BYTES);
        self.end = offset.max(to);
        Ok(())
    }

    fn release(&mut self, end: usize) {
        let _ = self
            .segment
            .advise(self.disk, self.start..end, Advice::DontNeed);
        self.start = end;
    }
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.release(self.end);
    }
}
