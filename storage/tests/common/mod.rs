//! What the journal's tests share: opening, models, payloads.

#![allow(dead_code, reason = "each test file uses a part")]

pub mod format;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use leveret_storage::disk::sim::SimDisk;
use leveret_storage::disk::{Disk, RealDisk};
use leveret_storage::record::{FLAG_CONTINUES, FLAG_MORE};
use leveret_storage::{
    AppendError, Journal, JournalConfig, JournalError, Location, Progress, Record, RecordKind,
    RecoveryReport,
};
use parking_lot::Mutex;

pub const SEGMENT_BYTES: u32 = 16 << 10;
pub const UUID: [u8; 16] = *b"test journal 16b";

/// What of a record must come back equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub location: Location,
    pub kind: RecordKind,
    pub flags: u8,
    pub group: u32,
    pub index: u64,
    pub term: u64,
    pub payload: Bytes,
}

impl From<Record> for Kept {
    fn from(record: Record) -> Kept {
        let header = record.header;
        Kept {
            location: record.location,
            kind: header.kind,
            flags: header.flags,
            group: header.group,
            index: header.index,
            term: header.term,
            payload: record.payload,
        }
    }
}

impl Kept {
    /// Exclusive end of the record.
    pub fn end(&self) -> Location {
        let bytes = leveret_storage::record::stored_bytes(self.payload.len()) as u32;
        Location::new(self.location.segment(), self.location.offset() + bytes)
    }
}

/// A payload that tells which append made it, at every byte.
pub fn payload(number: u64, len: usize) -> Bytes {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    Bytes::from(bytes)
}

pub fn config(dir: &Path) -> JournalConfig {
    let mut config = JournalConfig::new(dir);
    config.segment_size_bytes = SEGMENT_BYTES;
    config.uuid = Some(UUID);
    config
}

pub struct Opened {
    pub journal: Arc<Journal>,
    pub report: RecoveryReport,
    pub records: Vec<Kept>,
    pub events: Arc<Mutex<Vec<Progress>>>,
}

pub fn open_as(
    config: &JournalConfig,
    disk: &Arc<dyn Disk>,
    from: Location,
    manual: bool,
) -> Result<Opened, JournalError> {
    let mut records = Vec::new();
    let events = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&events);
    let mut replay = |record: Record| {
        records.push(Kept::from(record));
        Ok(())
    };
    let open = if manual {
        Journal::open_manual
    } else {
        Journal::open
    };
    let (journal, report) = open(
        config.clone(),
        Arc::clone(disk),
        Box::new(move |progress| sink.lock().push(progress)),
        from,
        &mut replay,
    )?;
    Ok(Opened {
        journal,
        report,
        records,
        events,
    })
}

/// Opens without threads on a simulated disk.
pub fn open_sim(disk: &SimDisk, from: Location) -> Result<Opened, JournalError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    open_as(&config(Path::new("j")), &disk, from, true)
}

/// Appends record `number` with a payload of `len` bytes; header fields follow from the number.
pub fn append(journal: &Journal, number: u64, len: usize, sync: bool) -> Result<Kept, AppendError> {
    let mut kept = Kept {
        location: Location::ZERO,
        kind: if number.is_multiple_of(5) {
            RecordKind::Vote
        } else {
            RecordKind::Entry
        },
        flags: (number << 2) as u8,
        group: (number % 7) as u32,
        index: number,
        term: number / 3,
        payload: payload(number, len),
    };
    let payload = kept.payload.clone();
    let (flags, group) = (kept.flags, kept.group);
    kept.location = journal.append(
        kept.kind, flags, group, kept.index, kept.term, payload, sync,
    )?;
    Ok(kept)
}

/// Appends records `number` and on as one unit, with payloads of these lengths.
pub fn append_unit(
    journal: &Journal,
    number: u64,
    lengths: &[usize],
    sync: bool,
) -> Result<Vec<Kept>, AppendError> {
    let last = lengths.len().saturating_sub(1);
    let mut kept: Vec<Kept> = (number..)
        .zip(lengths)
        .enumerate()
        .map(|(at, (number, len))| Kept {
            location: Location::ZERO,
            kind: RecordKind::Entry,
            flags: if at < last { FLAG_MORE } else { 0 } | if at > 0 { FLAG_CONTINUES } else { 0 },
            group: at as u32,
            index: number,
            term: 0,
            payload: payload(number, *len),
        })
        .collect();
    let records = kept
        .iter()
        .map(|k| (k.group, k.index, k.payload.clone()))
        .collect();
    let locations = journal.append_unit(records, sync)?;
    for (kept, location) in kept.iter_mut().zip(locations) {
        kept.location = location;
    }
    Ok(kept)
}

pub fn segment_file(dir: &Path, id: u32) -> PathBuf {
    dir.join(format!("{id:010}.journal"))
}

/// Runs a test on the simulated disk and on the machine's.
pub fn on_each_disk(test: impl Fn(&Arc<dyn Disk>, &Path)) {
    let sim: Arc<dyn Disk> = Arc::new(SimDisk::new());
    test(&sim, Path::new("j"));
    let real: Arc<dyn Disk> = Arc::new(RealDisk);
    let dir = tempfile::tempdir().unwrap();
    test(&real, &dir.path().join("deep/journal"));
}
