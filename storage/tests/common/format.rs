//! `FORMAT.md` once more, written from the page and not from the crate: what the writer writes must equal this.

use super::Kept;

/// CRC-32C bit by bit, continued from a finished value.
pub fn crc(start: u32, bytes: &[u8]) -> u32 {
    let mut crc = !start;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0x82f6_3b78
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

pub fn seed(uuid: &[u8; 16], segment: u32) -> u32 {
    crc(crc(0, uuid), &segment.to_le_bytes())
}

pub fn segment_header(uuid: &[u8; 16], segment: u32, version: u32) -> Vec<u8> {
    let mut out = b"LEVJRNL\n".to_vec();
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(uuid);
    out.extend_from_slice(&segment.to_le_bytes());
    out.resize(60, 0);
    let crc = crc(0, &out);
    out.extend_from_slice(&crc.to_le_bytes());
    out.resize(4096, 0);
    out
}

/// A record's bytes; `kind` as a number, so that unknown ones can be made.
pub fn record(seed: u32, offset: u32, durable: u32, kind: u8, kept: &Kept) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&crc(seed, &kept.payload).to_le_bytes());
    out.extend_from_slice(&(kept.payload.len() as u32).to_le_bytes());
    out.extend_from_slice(&[kind, kept.flags, 0, 0]);
    out.extend_from_slice(&kept.group.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(&kept.index.to_le_bytes());
    out.extend_from_slice(&kept.term.to_le_bytes());
    let head = crc(seed ^ offset, &out);
    let mut bytes = head.to_le_bytes().to_vec();
    bytes.extend_from_slice(&out);
    bytes.extend_from_slice(&kept.payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}
