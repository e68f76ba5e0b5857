//! Frames (AMQP 0-9-1 section 4.2.3).
//!
//! ```text
//! 0      1         3             7                  size+7   size+8
//! +------+---------+-------------+  +------------+  +--------+
//! | type | channel | size (u32)  |  |  payload   |  | 0xCE   |
//! +------+---------+-------------+  +------------+  +--------+
//!   u8     u16 BE     BE               size octets
//! ```

use super::WireError;

/// Octets of a frame that are not payload.
pub const FRAME_OVERHEAD: usize = 8;

const HEAD: usize = 7;
const FRAME_END: u8 = 0xCE;

/// The four frame types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Type 1.
    Method,
    /// Type 2.
    Header,
    /// Type 3.
    Body,
    /// Type 8.
    Heartbeat,
}

/// One whole frame, borrowed from the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// Channel number; 0 is the connection itself.
    pub channel: u16,
    /// Between the 7 octets in front and the end octet.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Octets that this frame took on the wire.
    pub fn wire_len(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD
    }
}

/// The frame at the start of `bytes`, or `None` if it is not there whole yet.
///
/// # Errors
/// A frame larger than `frame_max` (in octets, overhead included), of unknown type, or without its
/// end octet.
#[inline]
pub fn next_frame(bytes: &[u8], frame_max: usize) -> Result<Option<Frame<'_>>, WireError> {
    let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
        return Ok(None);
    };
    let [kind, c0, c1, s0, s1, s2, s3] = *head;
    let size = u32::from_be_bytes([s0, s1, s2, s3]) as usize;
    if size + FRAME_OVERHEAD > frame_max {
        return Err(WireError::FrameTooLarge(size));
    }
    let kind = match kind {
        1 => FrameKind::Method,
        2 => FrameKind::Header,
        3 => FrameKind::Body,
        8 => FrameKind::Heartbeat,
        other => return Err(WireError::FrameType(other)),
    };
    let (Some(payload), Some(&end)) = (rest.get(..size), rest.get(size)) else {
        return Ok(None);
    };
    if end != FRAME_END {
        return Err(WireError::FrameEnd);
    }
    Ok(Some(Frame {
        kind,
        channel: u16::from_be_bytes([c0, c1]),
        payload,
    }))
}

/// Appends a frame of `kind` whose payload `fill` writes.
pub(super) fn put_frame(
    out: &mut Vec<u8>,
    kind: u8,
    channel: u16,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let size = (out.len() - size_at - 4) as u32;
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAX: usize = 4096;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_frame(&mut out, kind, channel, |b| b.extend_from_slice(payload));
        out
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(frame(3, 0x0102, b"ab"), b"\x03\x01\x02\0\0\0\x02ab\xCE");
    }

    #[test]
    fn every_split_point_is_incomplete() {
        let bytes = frame(1, 7, b"0123456789");
        for cut in 0..bytes.len() {
            assert_eq!(next_frame(&bytes[..cut], MAX), Ok(None), "cut at {cut}");
        }
        let whole = next_frame(&bytes, MAX).unwrap().unwrap();
        assert_eq!(
            (whole.channel, whole.payload, whole.wire_len()),
            (7, &b"0123456789"[..], 18)
        );
    }

    #[test]
    fn bad_end_type_and_size_are_refused() {
        let mut bytes = frame(1, 7, b"xy");
        *bytes.last_mut().unwrap() = 0;
        assert_eq!(next_frame(&bytes, MAX), Err(WireError::FrameEnd));
        assert_eq!(
            next_frame(&frame(9, 0, b""), MAX),
            Err(WireError::FrameType(9))
        );
        assert_eq!(
            next_frame(&frame(3, 0, &[0; MAX]), MAX),
            Err(WireError::FrameTooLarge(MAX)),
            "payload of frame_max leaves no room for the overhead"
        );
        assert!(
            next_frame(&frame(3, 0, &[0; MAX - 8]), MAX)
                .unwrap()
                .is_some()
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = next_frame(&bytes, MAX);
        }
    }
}
