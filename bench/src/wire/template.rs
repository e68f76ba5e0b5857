//! A publish, encoded once and then only stamped.
//!
//! The body starts with a [`Stamp`] where the size allows; the rest is a fixed pattern, so that a
//! consumer can check it without having been told.
//!
//! ```text
//! 0              8                16             size
//! +--------------+----------------+--------------+
//! | stream | seq | time (ns)      | pattern      |
//! +--------------+----------------+--------------+
//!   u24     u40    u64, CLOCK_MONOTONIC            all big-endian
//! ```

use super::frame::put_frame;
use super::{FRAME_OVERHEAD, MethodWriter, Properties, id};

/// Octets that a stamp takes at the front of a body.
pub const STAMP_BYTES: usize = 16;

const SEQ_BITS: u32 = 40;

/// Who sent a message, which of theirs it is, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Sequence of messages of one producer on one route; below 2^24.
    pub stream: u32,
    /// Counts from 0 within the stream; below 2^40.
    pub seq: u64,
    /// CLOCK_MONOTONIC, ns: when the message was due (with a rate) or encoded (without).
    pub time_ns: u64,
}

impl Stamp {
    /// Streams are numbered below this.
    pub const STREAMS_MAX: usize = 1 << 24;

    /// The two words as they stand in the body.
    #[inline]
    pub fn encode(self) -> [u8; STAMP_BYTES] {
        let word = u64::from(self.stream) << SEQ_BITS | self.seq;
        let both = u128::from(word) << 64 | u128::from(self.time_ns);
        both.to_be_bytes()
    }

    /// The stamp at the start of `body`, if there is room for one.
    #[inline]
    pub fn decode(body: &[u8]) -> Option<Stamp> {
        let both = u128::from_be_bytes(*body.first_chunk::<STAMP_BYTES>()?);
        let word = (both >> 64) as u64;
        Some(Stamp {
            stream: (word >> SEQ_BITS) as u32,
            seq: word & ((1 << SEQ_BITS) - 1),
            time_ns: both as u64,
        })
    }
}

/// One publish in wire form: method, header and body frames.
#[derive(Debug, Clone)]
pub struct MessageTemplate {
    /// All frames of the publish.
    pub bytes: Vec<u8>,
    /// Where the body starts in `bytes`; the stamp goes there.
    pub body_at: usize,
}

impl MessageTemplate {
    /// Encodes a publish with a body of `size` octets in frames of at most `frame_max`.
    pub fn publish(
        channel: u16,
        exchange: &str,
        routing_key: &str,
        mandatory: bool,
        properties: &Properties,
        size: usize,
        frame_max: usize,
    ) -> Self {
        let mut bytes = Vec::with_capacity(size + 128);
        MethodWriter::frame(&mut bytes, channel, id::BASIC_PUBLISH, |m| {
            m.u16(0)
                .short(exchange)
                .short(routing_key)
                .u8(u8::from(mandatory))
        });
        put_content(&mut bytes, channel, properties, size, frame_max)
    }

    /// Encodes a delivery, as a broker would send it.
    #[cfg(test)]
    pub fn deliver(channel: u16, consumer_tag: &str, size: usize, frame_max: usize) -> Self {
        let mut bytes = Vec::with_capacity(size + 128);
        MethodWriter::frame(&mut bytes, channel, id::BASIC_DELIVER, |m| {
            m.short(consumer_tag).u64(0).u8(0).short("").short("key")
        });
        put_content(&mut bytes, channel, &Properties::default(), size, frame_max)
    }
}

/// Appends header and body frames to a method, and hands out the whole as a template.
fn put_content(
    method: &mut Vec<u8>,
    channel: u16,
    properties: &Properties,
    size: usize,
    frame_max: usize,
) -> MessageTemplate {
    let mut bytes = std::mem::take(method);
    put_frame(&mut bytes, 2, channel, |b| {
        b.extend_from_slice(&60u16.to_be_bytes());
        b.extend_from_slice(&[0; 2]);
        b.extend_from_slice(&(size as u64).to_be_bytes());
        properties.put(b);
    });
    let body_at = bytes.len() + 7;
    let chunk_max = frame_max - FRAME_OVERHEAD;
    let mut offset = 0;
    while offset < size {
        let chunk = (size - offset).min(chunk_max);
        put_frame(&mut bytes, 3, channel, |b| {
            b.extend((offset..offset + chunk).map(pattern))
        });
        offset += chunk;
    }
    MessageTemplate { bytes, body_at }
}

/// The pattern repeats after so many octets: a prime, so that a shift by any power of two shows.
const PERIOD: usize = 251;

static PATTERN: [u8; PERIOD * 17] = {
    let mut bytes = [0; PERIOD * 17];
    let mut i = 0;
    while i < bytes.len() {
        bytes[i] = (i % PERIOD) as u8;
        i += 1;
    }
    bytes
};

/// The octet of a body at `offset`, outside the stamp.
#[inline]
fn pattern(offset: usize) -> u8 {
    (offset % PERIOD) as u8
}

/// True if `piece` is what stands in a body from `offset` on.
pub fn pattern_matches(piece: &[u8], offset: usize) -> bool {
    // Chunks of whole periods: each starts at the same phase.
    let phase = offset % PERIOD;
    piece
        .chunks(PERIOD * 16)
        .all(|chunk| PATTERN.get(phase..phase + chunk.len()) == Some(chunk))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Cursor, FrameKind, method_id, next_frame};
    use proptest::prelude::*;

    #[test]
    fn small_publish_golden_bytes() {
        let p = Properties {
            delivery_mode: Some(2),
            ..Properties::default()
        };
        let t = MessageTemplate::publish(1, "", "q", true, &p, 2, 4096);
        let want: &[u8] = b"\x01\x00\x01\x00\x00\x00\x0a\x00\x3c\x00\x28\x00\x00\x00\x01q\x01\xCE\
            \x02\x00\x01\x00\x00\x00\x0f\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x10\x00\x02\xCE\
            \x03\x00\x01\x00\x00\x00\x02\x00\x01\xCE";
        assert_eq!(t.bytes, want);
        assert_eq!(t.body_at, want.len() - 3);
    }

    #[test]
    fn empty_body_has_no_body_frame() {
        let t = MessageTemplate::publish(1, "e", "k", false, &Properties::default(), 0, 4096);
        let method = next_frame(&t.bytes, 4096).unwrap().unwrap();
        let header = next_frame(&t.bytes[method.wire_len()..], 4096)
            .unwrap()
            .unwrap();
        assert_eq!(method.wire_len() + header.wire_len(), t.bytes.len());
    }

    proptest! {
        #[test]
        fn stamps_round_trip(stream in 0u32..1 << 24, seq in 0u64..1 << 40, time_ns: u64) {
            let stamp = Stamp { stream, seq, time_ns };
            prop_assert_eq!(Stamp::decode(&stamp.encode()), Some(stamp));
        }

        #[test]
        fn body_is_split_at_frame_max(size in 0usize..20_000, frame_max in 4096usize..9000) {
            let t = MessageTemplate::publish(5, "e", "k", false, &Properties::typical(), size, frame_max);
            let mut rest = &t.bytes[..];
            let mut body = Vec::new();
            let mut kinds = Vec::new();
            while let Some(f) = next_frame(rest, frame_max).unwrap() {
                if f.kind == FrameKind::Body {
                    body.extend_from_slice(f.payload);
                }
                if f.kind == FrameKind::Header {
                    prop_assert_eq!(Cursor::new(&f.payload[4..]).u64(), Ok(size as u64));
                }
                kinds.push(f.kind);
                rest = &rest[f.wire_len()..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(body.len(), size);
            prop_assert!(body.iter().enumerate().all(|(i, &b)| b == pattern(i)));
            prop_assert_eq!(&kinds[..2], &[FrameKind::Method, FrameKind::Header][..]);
            prop_assert_eq!(kinds.len(), 2 + size.div_ceil(frame_max - 8));
            if size > 0 {
                prop_assert_eq!(t.bytes[t.body_at], 0);
            }
        }

        #[test]
        fn pattern_check_finds_a_flipped_octet(at in 0usize..600, len in 1usize..9000, flip: usize) {
            let mut piece: Vec<u8> = (at..at + len).map(pattern).collect();
            prop_assert!(pattern_matches(&piece, at));
            piece[flip % len] ^= 1;
            prop_assert!(!pattern_matches(&piece, at));
        }

        #[test]
        fn deliver_parses(size in 16usize..100) {
            let t = MessageTemplate::deliver(2, "7", size, 4096);
            let f = next_frame(&t.bytes, 4096).unwrap().unwrap();
            let (method, mut c) = method_id(f.payload).unwrap();
            prop_assert_eq!(method, id::BASIC_DELIVER);
            prop_assert_eq!(c.short(), Ok(&b"7"[..]));
        }
    }
}
