//! A record on disk: its header, its two checksums, and how bytes are judged to be one. `FORMAT.md` section 3.
//!
//! ```text
//!  0        4        8        12   13     14     16       20       24              32              40
//!  | head   | data   | len    |kind|flags | zero | group  | durable| index         | term          | payload, zeros to 8
//!  | CRC u32| CRC u32| u32    | u8 | u8   | u16  | u32    | u32    | u64           | u64           |
//! ```
//!
//! All integers are little-endian. Both checksums are CRC-32C and start from the segment's seed (the journal's uuid and
//! the segment's number), the header's also from the record's offset: a record of another segment, of
//! another place, or of the past of a recycled file is not a record here. The header has a checksum of its own so that a
//! walk can pass over payloads, and so that recovery can believe a header whose payload is torn.
//!
//! Parsing is pure and total: any bytes give a record or a [`Fault`], never a panic. The writer encodes, everything else parses.

use std::ops::Range;

use bytes::Bytes;

use crate::Location;

/// Bytes of a record's header.
pub const HEADER_BYTES: usize = 40;

/// Records start at multiples of this.
pub const ALIGN_BYTES: usize = 8;

/// The largest payload: 256 MiB.
pub const PAYLOAD_BYTES_MAX: usize = 256 << 20;

const _: () = assert!(HEADER_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(PAYLOAD_BYTES_MAX + 2 * HEADER_BYTES + (1 << 16) < u32::MAX as usize);

/// Flag of a record: the next record belongs to the same unit (`Journal::append_unit`).
pub const FLAG_MORE: u8 = 1;
/// Flag of a record: it belongs to the same unit as the record before it.
pub const FLAG_CONTINUES: u8 = 2;
/// The flags that only the journal sets; the others are the caller's.
pub const FLAGS_RESERVED: u8 = FLAG_MORE | FLAG_CONTINUES;

/// What a record is for. An unknown kind in a file of a known version is refused.
#[repr(u8)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RecordKind {
    /// Commands of a group.
    Entry = 1,
    /// A Raft vote.
    Vote = 2,
    /// Entries of the group after `index` are void.
    Truncate = 3,
    /// Entries of the group up to `index` are not needed any more.
    Purge = 4,
    /// A hint: entries of the group up to `index` are committed.
    Commit = 5,
    /// Live messages moved here from an older segment.
    Relocated = 6,
    /// A checkpoint of the group was made.
    Checkpoint = 7,
    /// The group exists from here on.
    GroupCreated = 8,
    /// The group is gone.
    GroupDropped = 9,
    /// Last record of a segment; written by the journal only.
    Seal = 14,
    /// Says what is durable and nothing else; written by the journal only, when it is closed.
    Mark = 15,
}

impl RecordKind {
    /// The kind with this number, if there is one.
    pub const fn from_u8(value: u8) -> Option<RecordKind> {
        Some(match value {
            1 => RecordKind::Entry,
            2 => RecordKind::Vote,
            3 => RecordKind::Truncate,
            4 => RecordKind::Purge,
            5 => RecordKind::Commit,
            6 => RecordKind::Relocated,
            7 => RecordKind::Checkpoint,
            8 => RecordKind::GroupCreated,
            9 => RecordKind::GroupDropped,
            14 => RecordKind::Seal,
            15 => RecordKind::Mark,
            _ => return None,
        })
    }

    /// Whether only the journal itself writes such records; they are not given to replay or to a walk.
    pub const fn is_internal(self) -> bool {
        matches!(self, RecordKind::Seal | RecordKind::Mark)
    }
}

/// What a record says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// What it is for.
    pub kind: RecordKind,
    /// The caller's, but for [`FLAGS_RESERVED`].
    pub flags: u8,
    /// Whose record it is.
    pub group: u32,
    /// The group's log index, or what the kind means by it.
    pub index: u64,
    /// The group's term.
    pub term: u64,
    /// Bytes of the payload.
    pub len: u32,
    /// What was known to be durable when this record was written. [`Location::ZERO`] while it is in memory only.
    pub durable: Location,
}

/// A record with its place and its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What it says about itself.
    pub header: RecordHeader,
    /// Where it starts.
    pub location: Location,
    /// A slice of the mapped segment, or of the appender's bytes while the record is not written yet.
    pub payload: Bytes,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Forty zeros, or no room for a header: nothing was written here.
    #[error("nothing is written here")]
    Empty,
    /// The header's checksum does not hold.
    #[error("the header's checksum does not match")]
    Header,
    /// A header with a good checksum that no version 1 writes.
    #[error("unknown record kind {0}")]
    Kind(u8),
    /// A header with a good checksum whose fields contradict its place.
    #[error("the header contradicts its place")]
    Fields,
    /// The payload would end after the segment does.
    #[error("the payload would end after the segment")]
    Length,
    /// The payload's checksum does not hold.
    #[error("the payload's checksum does not match")]
    Payload,
    /// The bytes that fill up to a multiple of 8 are not zero.
    #[error("the padding is not zero")]
    Padding,
}

/// Bytes that a record with `payload_len` bytes of payload takes in a segment.
pub const fn stored_bytes(payload_len: usize) -> usize {
    (HEADER_BYTES + payload_len).next_multiple_of(ALIGN_BYTES)
}

/// The checksum seed of a segment.
pub fn segment_seed(journal: &[u8; 16], segment: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(journal), &segment.to_le_bytes())
}

/// A header's fields as they lie on disk, with the payload's checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawHeader {
    pub kind: RecordKind,
    pub flags: u8,
    pub group: u32,
    pub index: u64,
    pub term: u64,
    pub len: u32,
    /// Offset in this segment up to which the journal was durable.
    pub durable_offset: u32,
}

impl RawHeader {
    /// The header's bytes at `offset`, for a payload with this checksum.
    pub(crate) fn encode(&self, seed: u32, offset: u32, payload_crc: u32) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[4..8].copy_from_slice(&payload_crc.to_le_bytes());
        out[8..12].copy_from_slice(&self.len.to_le_bytes());
        out[12] = self.kind as u8;
        out[13] = self.flags;
        out[16..20].copy_from_slice(&self.group.to_le_bytes());
        out[20..24].copy_from_slice(&self.durable_offset.to_le_bytes());
        out[24..32].copy_from_slice(&self.index.to_le_bytes());
        out[32..40].copy_from_slice(&self.term.to_le_bytes());
        let crc = header_crc(&out, seed, offset);
        out[0..4].copy_from_slice(&crc.to_le_bytes());
        out
    }
}

/// Checksum of a payload in the segment with this seed.
#[inline]
pub(crate) fn payload_crc(payload: &[u8], seed: u32) -> u32 {
    if payload.is_empty() {
        seed
    } else {
        crc32c::crc32c_append(seed, payload)
    }
}

#[inline]
fn header_crc(header: &[u8; HEADER_BYTES], seed: u32, offset: u32) -> u32 {
    crc32c::crc32c_append(seed ^ offset, &header[4..])
}

/// A parsed header and where the record's parts lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// What the record says.
    pub header: RecordHeader,
    /// Offset of the payload in the segment.
    pub payload_start: usize,
    /// Offset of the next record in the segment.
    pub next: usize,
}

/// Reads little-endian integers out of a header of fixed size.
macro_rules! field {
    ($header:expr, $at:expr, $kind:ty) => {{
        let mut bytes = [0; size_of::<$kind>()];
        bytes.copy_from_slice(&$header[$at..$at + size_of::<$kind>()]);
        <$kind>::from_le_bytes(bytes)
    }};
}

/// Judges the header at `offset` of `segment`, whose bytes start with the file's.
///
/// # Errors
/// [`Fault`] says why no record starts there. The payload was not looked at.
#[inline]
pub fn parse_header(bytes: &[u8], segment: u32, offset: usize, seed: u32) -> Result<Parsed, Fault> {
    let header: &[u8; HEADER_BYTES] = bytes
        .get(offset..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(Fault::Empty)?;
    let place = u32::try_from(offset).map_err(|_| Fault::Empty)?;
    if field!(header, 0, u32) != header_crc(header, seed, place) {
        let empty = header.iter().all(|byte| *byte == 0);
        return Err(if empty { Fault::Empty } else { Fault::Header });
    }
    let kind = RecordKind::from_u8(header[12]).ok_or(Fault::Kind(header[12]))?;
    let len = field!(header, 8, u32);
    let durable = field!(header, 20, u32);
    if field!(header, 14, u16) != 0 || durable > place || len as usize > PAYLOAD_BYTES_MAX {
        return Err(Fault::Fields);
    }
    let next = offset + stored_bytes(len as usize);
    if next > bytes.len() {
        return Err(Fault::Length);
    }
    let header = RecordHeader {
        kind,
        flags: header[13],
        group: field!(header, 16, u32),
        index: field!(header, 24, u64),
        term: field!(header, 32, u64),
        len,
        durable: Location::new(segment, durable),
    };
    Ok(Parsed {
        header,
        payload_start: offset + HEADER_BYTES,
        next,
    })
}

/// Judges the whole record at `offset`: header, payload and both checksums.
///
/// # Errors
/// [`Fault`] says why no record starts there.
#[inline]
pub fn parse(bytes: &[u8], segment: u32, offset: usize, seed: u32) -> Result<Parsed, Fault> {
    let parsed = parse_header(bytes, segment, offset, seed)?;
    check_payload(bytes, offset, &parsed, seed)?;
    Ok(parsed)
}

/// Judges the payload of the record at `offset`, whose header was parsed.
#[inline]
pub(crate) fn check_payload(
    bytes: &[u8],
    offset: usize,
    parsed: &Parsed,
    seed: u32,
) -> Result<(), Fault> {
    let stored = bytes
        .get(parsed.payload_start..parsed.next)
        .ok_or(Fault::Length)?;
    let (payload, padding) = stored
        .split_at_checked(parsed.header.len as usize)
        .ok_or(Fault::Length)?;
    let crc = bytes
        .get(offset + 4..)
        .and_then(|rest| rest.first_chunk())
        .ok_or(Fault::Empty)?;
    if payload_crc(payload, seed) != u32::from_le_bytes(*crc) {
        return Err(Fault::Payload);
    }
    if padding.iter().any(|byte| *byte != 0) {
        return Err(Fault::Padding);
    }
    Ok(())
}

/// Headers with a good checksum that start in `range`, found without following lengths: what recovery asks of the bytes behind
/// a place that is no record. Payloads are not judged.
pub fn scan_headers(
    bytes: &[u8],
    segment: u32,
    range: Range<usize>,
    seed: u32,
) -> impl Iterator<Item = (usize, RecordHeader)> {
    let first = range.start.next_multiple_of(ALIGN_BYTES);
    (first..range.end)
        .step_by(ALIGN_BYTES)
        .filter_map(move |at| {
            let head: &[u8; 16] = bytes.get(at..)?.first_chunk()?;
            // Cheap tests first: most of what is scanned is zeros, or the past of a recycled file.
            if head[14] != 0 || head[15] != 0 || RecordKind::from_u8(head[12]).is_none() {
                return None;
            }
            let parsed = parse_header(bytes, segment, at, seed).ok()?;
            Some((at, parsed.header))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u32 = 0x1234_5678;

    fn sample(payload: &[u8], offset: u32) -> Vec<u8> {
        let raw = RawHeader {
            kind: RecordKind::Entry,
            flags: 3,
            group: 7,
            index: 0x0102_0304_0506_0708,
            term: 9,
            len: payload.len() as u32,
            durable_offset: 8,
        };
        let mut bytes = vec![0; offset as usize];
        bytes.extend_from_slice(&raw.encode(SEED, offset, payload_crc(payload, SEED)));
        bytes.extend_from_slice(payload);
        bytes.resize(offset as usize + stored_bytes(payload.len()), 0);
        bytes
    }

    #[test]
    fn what_is_encoded_is_parsed() {
        for len in [0, 1, 7, 8, 9, 100, 5000] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let bytes = sample(&payload, 16);
            let parsed = parse(&bytes, 5, 16, SEED).unwrap();
            assert_eq!(parsed.header.index, 0x0102_0304_0506_0708);
            assert_eq!(parsed.header.durable, Location::new(5, 8));
            assert_eq!(&bytes[parsed.payload_start..][..len], payload);
            assert_eq!(parsed.next, bytes.len());
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample(b"the payload", 16);
        for bit in 16 * 8..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&damaged, 5, 16, SEED).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn a_record_is_bound_to_its_segment_and_place() {
        let bytes = sample(b"x", 16);
        assert_eq!(parse(&bytes, 5, 16, SEED + 1), Err(Fault::Header));
        let mut moved = vec![0; 8];
        moved.extend_from_slice(&bytes);
        assert_eq!(parse(&moved, 5, 24, SEED), Err(Fault::Header));
        assert_eq!(
            scan_headers(&bytes, 5, 0..bytes.len(), SEED)
                .map(|(at, _)| at)
                .collect::<Vec<_>>(),
            [16]
        );
        assert_eq!(scan_headers(&moved, 5, 0..moved.len(), SEED).count(), 0);
    }

    #[test]
    fn every_cut_is_a_fault() {
        let bytes = sample(b"a payload of some length", 16);
        for len in 0..bytes.len() {
            assert!(parse(&bytes[..len], 5, 16, SEED).is_err(), "cut at {len}");
        }
        assert_eq!(parse(&[0; 64], 5, 8, SEED), Err(Fault::Empty));
    }
}
