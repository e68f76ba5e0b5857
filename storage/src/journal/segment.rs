//! A segment's file: its name, its header (`FORMAT.md` section 2), and the mapping through which it is read.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::disk::{Advice, Disk, DiskFile, Mapping};
use crate::error::{Damage, JournalError, ReadError};
use crate::record::segment_seed;

/// Bytes before the first record. A block of its own, so that no write of a record ever touches the header's sectors.
pub(crate) const SEGMENT_HEADER_BYTES: u32 = 4096;

/// The format that this code writes, and the only one it reads.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"LEVJRNL\n";
const HEADER_USED_BYTES: usize = 64;
const FLAG_UNSYNCED: u32 = 1;
const SUFFIX: &str = ".journal";
const SPARE_PREFIX: &str = "spare-";

/// What names the journal a segment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub uuid: [u8; 16],
    /// Written without syncs.
    pub unsynced: bool,
}

/// A segment as the caller sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Its number.
    pub id: u32,
    /// Bytes up to the end of its last record. The file's size for a sealed segment that start-up did not read.
    pub bytes_used: u64,
    /// Size of the file.
    pub file_bytes: u64,
    /// Nothing will be written to it any more.
    pub sealed: bool,
}

/// A segment that has, or had, records.
pub(crate) struct Segment {
    pub id: u32,
    pub path: PathBuf,
    pub file_bytes: u64,
    pub seed: u32,
    /// End of the last record once sealed; 0 before.
    sealed_end: AtomicU32,
    mapping: Mutex<Option<Arc<dyn Mapping>>>,
}

impl Segment {
    pub(crate) fn new(dir: &Path, id: u32, file_bytes: u64, uuid: &[u8; 16]) -> Segment {
        Segment {
            id,
            path: segment_path(dir, id),
            file_bytes,
            seed: segment_seed(uuid, id),
            sealed_end: AtomicU32::new(0),
            mapping: Mutex::new(None),
        }
    }

    pub(crate) fn seal(&self, end: u32) {
        self.sealed_end.store(end, Ordering::Release);
    }

    /// End of the last record, if the segment is sealed.
    pub(crate) fn sealed_end(&self) -> Option<u32> {
        Some(self.sealed_end.load(Ordering::Acquire)).filter(|end| *end > 0)
    }

    /// The bytes of `range`. The caller only asks for what is written and will not be written again.
    pub(crate) fn slice(&self, disk: &dyn Disk, range: Range<usize>) -> Result<Bytes, ReadError> {
        let mapping = self.mapping(disk)?;
        let end = range.end;
        mapping.slice(range).ok_or_else(|| {
            ReadError::Damaged(
                self.damage(end as u64, "the file is shorter than its records".into()),
            )
        })
    }

    pub(crate) fn advise(
        &self,
        disk: &dyn Disk,
        range: Range<usize>,
        advice: Advice,
    ) -> std::io::Result<()> {
        if advice == Advice::DontNeed {
            // Nothing to give back where nothing is mapped.
            let mapping = self.mapping.lock().clone();
            return mapping.map_or(Ok(()), |mapping| mapping.advise(range, advice));
        }
        match self.mapping(disk) {
            Ok(mapping) => mapping.advise(range, advice),
            Err(ReadError::Io { source, .. }) => Err(source),
            Err(_) => Err(std::io::ErrorKind::InvalidData.into()),
        }
    }

    fn mapping(&self, disk: &dyn Disk) -> Result<Arc<dyn Mapping>, ReadError> {
        let mut slot = self.mapping.lock();
        if let Some(mapping) = &*slot {
            return Ok(Arc::clone(mapping));
        }
        let failed = |source| ReadError::Io {
            path: self.path.clone(),
            source,
        };
        let file = disk.open(&self.path).map_err(failed)?;
        let mapping = file.map(self.file_bytes).map_err(failed)?;
        *slot = Some(Arc::clone(&mapping));
        Ok(mapping)
    }

    /// Whether bytes of the segment are still held by a reader. Meaningful for a segment that nobody can find any more.
    pub(crate) fn in_use(self) -> bool {
        self.mapping
            .into_inner()
            .is_some_and(|mapping| Arc::strong_count(&mapping) > 1 || mapping.in_use())
    }

    pub(crate) fn damage(&self, offset: u64, reason: String) -> Damage {
        Damage {
            path: self.path.clone(),
            offset,
            reason,
        }
    }
}

pub(crate) fn segment_path(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:010}{SUFFIX}"))
}

pub(crate) fn spare_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{SPARE_PREFIX}{number}"))
}

/// The number in a segment's file name.
pub(crate) fn parse_segment_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    (digits.len() == 10 && digits.bytes().all(|b| b.is_ascii_digit()))
        .then(|| digits.parse().ok())
        .flatten()
        .filter(|id| *id > 0)
}

pub(crate) fn is_spare_name(name: &str) -> bool {
    name.strip_prefix(SPARE_PREFIX)
        .is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

/// The first block of a segment's file.
pub(crate) fn encode_header(identity: &Identity, id: u32) -> Vec<u8> {
    let mut out = vec![0; SEGMENT_HEADER_BYTES as usize];
    let flags = if identity.unsynced { FLAG_UNSYNCED } else { 0 };
    out[0..8].copy_from_slice(&MAGIC);
    out[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&flags.to_le_bytes());
    out[16..32].copy_from_slice(&identity.uuid);
    out[32..36].copy_from_slice(&id.to_le_bytes());
    let crc = crc32c::crc32c(&out[..HEADER_USED_BYTES - 4]);
    out[HEADER_USED_BYTES - 4..HEADER_USED_BYTES].copy_from_slice(&crc.to_le_bytes());
    out
}

/// Reads and judges the header of the file that is named as segment `id`.
pub(crate) fn read_header(
    file: &dyn DiskFile,
    path: &Path,
    id: u32,
) -> Result<Identity, JournalError> {
    let damaged = |reason: &str| {
        JournalError::Damaged(Damage {
            path: path.to_path_buf(),
            offset: 0,
            reason: format!("the segment header {reason}"),
        })
    };
    if file.len().map_err(JournalError::io("read", path))? < u64::from(SEGMENT_HEADER_BYTES) {
        return Err(damaged("is cut off"));
    }
    let mut header = [0; SEGMENT_HEADER_BYTES as usize];
    file.read_exact_at(&mut header, 0)
        .map_err(|source| JournalError::Unreadable {
            path: path.to_path_buf(),
            offset: 0,
            source,
        })?;
    let word = |at: usize| {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&header[at..at + 4]);
        u32::from_le_bytes(bytes)
    };
    if header[0..8] != MAGIC {
        return Err(damaged("has no journal magic"));
    }
    // Before the checksum: another version may keep it elsewhere.
    if word(8) != FORMAT_VERSION {
        return Err(JournalError::UnsupportedVersion {
            path: path.to_path_buf(),
            found: word(8),
            supported: FORMAT_VERSION,
        });
    }
    if word(HEADER_USED_BYTES - 4) != crc32c::crc32c(&header[..HEADER_USED_BYTES - 4]) {
        return Err(damaged("has a bad checksum"));
    }
    if header[36..HEADER_USED_BYTES - 4]
        .iter()
        .chain(&header[HEADER_USED_BYTES..])
        .any(|b| *b != 0)
        || word(12) & !FLAG_UNSYNCED != 0
    {
        return Err(damaged("has bytes that this format does not know"));
    }
    if word(32) != id {
        return Err(damaged(&format!(
            "says segment {}, the name says {id}",
            word(32)
        )));
    }
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&header[16..32]);
    Ok(Identity {
        uuid,
        unsynced: word(12) & FLAG_UNSYNCED != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_numbers_of_ten_digits() {
        let path = segment_path(Path::new("d"), 42);
        assert_eq!(path, Path::new("d/0000000042.journal"));
        assert_eq!(parse_segment_name("0000000042.journal"), Some(42));
        assert_eq!(parse_segment_name("4294967295.journal"), Some(u32::MAX));
        for name in [
            "42.journal",
            "0000000000.journal",
            "4294967296.journal",
            "+000000001.journal",
        ] {
            assert_eq!(parse_segment_name(name), None, "{name}");
        }
        assert!(is_spare_name("spare-7") && !is_spare_name("spare-x"));
    }
}
