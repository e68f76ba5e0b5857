//! What the fuzz targets in `fuzz/` call, and what their corpus is run through by `cargo test`.
//!
//! Each function takes any bytes, and panics if the crate breaks one of its promises about them.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::disk::Disk;
use crate::disk::sim::SimDisk;
use crate::journal::segment::{Identity, SEGMENT_HEADER_BYTES, encode_header, segment_path};
use crate::record::{self, ALIGN_BYTES, HEADER_BYTES};
use crate::{Journal, JournalConfig, JournalError, Location, Record, RecordKind, checkpoint};

const UUID: [u8; 16] = *b"fuzzed journal!!";
const SEGMENT_BYTES: usize = 16 << 10;

/// Bytes in the place of records: never a panic, nothing accepted with a bad checksum, nothing accepted that a bit away is
/// accepted too.
pub fn records(data: &[u8]) {
    let seed = record::segment_seed(&UUID, 1);
    for offset in (0..data.len()).step_by(ALIGN_BYTES) {
        let Ok(parsed) = record::parse(data, 1, offset, seed) else {
            continue;
        };
        assert!(parsed.next <= data.len() && parsed.next > offset);
        assert!(record::scan_headers(data, 1, offset..offset + 1, seed).count() == 1);
        let mut damaged = data.to_vec();
        for byte in (offset..parsed.next).step_by(7) {
            damaged[byte] ^= 0x10;
            assert!(
                record::parse(&damaged, 1, offset, seed).is_err(),
                "byte {byte}"
            );
            damaged[byte] ^= 0x10;
        }
    }
}

/// Bytes as what a crash left of a journal's only segment. The first byte says whether checksums are made good before
/// (bit 0: headers, bit 1: payloads), so that fields get past them. It is refused, or opened: then it can be
/// appended to, and all of it is there the next time.
pub fn recovery(data: &[u8]) {
    let Some((mode, data)) = data.split_first() else {
        return;
    };
    let mut file = encode_header(
        &Identity {
            uuid: UUID,
            unsynced: false,
        },
        1,
    );
    file.extend_from_slice(data);
    file.resize(SEGMENT_BYTES, 0);
    repair(&mut file, mode & 1 != 0, mode & 2 != 0);
    let dir = Path::new("j");
    let disk = SimDisk::new();
    disk.set_content(&segment_path(dir, 1), &file);
    let (journal, found) = match open(&disk, dir) {
        Ok(opened) => opened,
        Err(JournalError::Damaged(damage)) => {
            assert!(damage.offset >= u64::from(SEGMENT_HEADER_BYTES));
            return;
        }
        Err(other) => panic!("{other}"),
    };
    let walked: Vec<Record> = journal.walk(Location::ZERO).map_while(Result::ok).collect();
    assert_eq!(walked, found);
    let payload = Bytes::from_static(b"appended");
    let appended = journal.append(RecordKind::Entry, 4, 2, 3, 4, payload, true);
    let appended = appended
        .ok()
        .filter(|_| journal.wait_durable(journal.end()).is_ok());
    assert!(appended.is_some(), "an opened journal takes appends");
    drop(journal);
    disk.crash(u64::from(*mode));
    match open(&disk, dir) {
        Ok((_, again)) => {
            assert_eq!(again[..found.len()], found[..]);
            assert_eq!(
                again[found.len()..]
                    .iter()
                    .map(|r| r.location)
                    .collect::<Vec<_>>(),
                [appended.unwrap_or_default()]
            );
        }
        Err(error) => panic!("an opened journal opens again: {error}"),
    }
}

/// Bytes as a checkpoint: never a panic, and one that is accepted is the one that was written.
pub fn checkpoint(data: &[u8]) {
    let (path, dir) = (Path::new("a.checkpoint"), Path::new(""));
    let Ok(found) = checkpoint::decode(Bytes::copy_from_slice(data), path) else {
        return;
    };
    let disk = SimDisk::new();
    let written = checkpoint::write(&disk, dir, "a", &found.covers, &found.data);
    assert!(written.is_ok());
    let bytes = disk.content(path).unwrap_or_default();
    // Bytes 12 to 16 and 44 to 48 are zero in format 1; the checksum covers them.
    assert_eq!(bytes, data);
}

fn open(disk: &SimDisk, dir: &Path) -> Result<(Arc<Journal>, Vec<Record>), JournalError> {
    let mut config = JournalConfig::new(dir);
    config.segment_size_bytes = SEGMENT_BYTES as u32;
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut records = Vec::new();
    let (journal, _) = Journal::open_manual(
        config,
        disk,
        Box::new(|_| ()),
        Location::ZERO,
        &mut |record| {
            records.push(record);
            Ok(())
        },
    )?;
    Ok((journal, records))
}

/// Gives good checksums to the chain of records from the first on.
fn repair(file: &mut [u8], headers: bool, payloads: bool) {
    let seed = record::segment_seed(&UUID, 1);
    let mut offset = SEGMENT_HEADER_BYTES as usize;
    while let Some(header) = file.get(offset..offset + HEADER_BYTES) {
        let mut len = [0; 4];
        len.copy_from_slice(&header[8..12]);
        let len = u32::from_le_bytes(len) as usize;
        if header.iter().all(|byte| *byte == 0) {
            return;
        }
        if payloads
            && let Some(payload) = file.get(offset + HEADER_BYTES..offset + HEADER_BYTES + len)
        {
            let crc = record::payload_crc(payload, seed);
            file[offset + 4..offset + 8].copy_from_slice(&crc.to_le_bytes());
        }
        if headers {
            let crc = crc32c::crc32c_append(
                seed ^ offset as u32,
                &file[offset + 4..offset + HEADER_BYTES],
            );
            file[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
        }
        offset = match offset.checked_add(record::stored_bytes(len)) {
            Some(next) => next,
            None => return,
        };
    }
}
