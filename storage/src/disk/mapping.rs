//! Mapped files. The only unsafe code of the crate.
//!
//! A mapping covers a whole segment, part of which may still be written through the file. Nobody is ever given a slice of
//! a part that can change: the journal asks only for ranges below its written watermark, which are not written again
//! (a segment is recycled only when its mapping is not in use, and never while it is mapped).

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use memmap2::{Advice as MapAdvice, MmapOptions, MmapRaw, UncheckedAdvice};

use super::{Advice, Mapping};

/// A file mapped shared and read-only.
pub(super) struct RealMapping {
    map: Arc<MmapRaw>,
}

impl RealMapping {
    pub(super) fn new(file: &File, len: u64) -> io::Result<RealMapping> {
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        if file.metadata()?.len() < len as u64 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let map = MmapOptions::new().len(len).map_raw_read_only(file)?;
        Ok(RealMapping { map: Arc::new(map) })
    }
}

/// A part of a mapping, which keeps the whole mapped.
struct Part {
    map: Arc<MmapRaw>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `range` was checked against the mapping's length when the part was made, the mapping lives as long as
        // `self.map`, and the bytes of a part handed out are not written any more (module documentation).
        unsafe {
            std::slice::from_raw_parts(self.map.as_ptr().add(self.range.start), self.range.len())
        }
    }
}

impl Mapping for RealMapping {
    fn slice(&self, range: Range<usize>) -> Option<Bytes> {
        if range.start > range.end || range.end > self.map.len() {
            return None;
        }
        Some(Bytes::from_owner(Part {
            map: Arc::clone(&self.map),
            range,
        }))
    }

    fn advise(&self, range: Range<usize>, advice: Advice) -> io::Result<()> {
        let end = range.end.min(self.map.len());
        let Some(len) = end.checked_sub(range.start).filter(|len| *len > 0) else {
            return Ok(());
        };
        match advice {
            Advice::WillNeed => self.map.advise_range(MapAdvice::WillNeed, range.start, len),
            Advice::Populate => {
                match self
                    .map
                    .advise_range(MapAdvice::PopulateRead, range.start, len)
                {
                    // Linux before 5.14 does not know it: the pages come in when they are touched.
                    Err(e) if e.kind() == io::ErrorKind::InvalidInput => Ok(()),
                    other => other,
                }
            }
            // SAFETY: on a shared file mapping this drops page table entries only; a later read faults the
            // same bytes in again from the file.
            Advice::DontNeed => unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, len)
            },
        }
    }

    fn in_use(&self) -> bool {
        Arc::strong_count(&self.map) > 1
    }
}
