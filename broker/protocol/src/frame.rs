//! The protocol header and the frame envelope (AMQP 0-9-1 sections 4.2.2, 4.2.3).
//!
//! ```text
//!  0        1         3         7                   7+size
//! +--------+---------+---------+-------------------+-----------+
//! | kind   | channel | size    | payload           | end: 0xCE |
//! | u8     | u16 BE  | u32 BE  | size octets       |           |
//! +--------+---------+---------+-------------------+-----------+
//! ```
//!
//! [`parse_frame`] borrows the payload from the caller's buffer. The caller
//! drops the consumed octets when it is done with the frame.

use crate::constants::ReplyCode;
use crate::terms::Snippet;

/// Frame type of a method.
pub const METHOD: u8 = 1;
/// Frame type of a content header.
pub const HEADER: u8 = 2;
/// Frame type of a part of a content body.
pub const BODY: u8 = 3;
/// Frame type of a heartbeat.
pub const HEARTBEAT: u8 = 8;
/// Last octet of every frame.
pub const FRAME_END: u8 = 0xCE;
/// Octets of a frame before its payload.
pub const FRAME_HEAD: usize = 7;
/// Octets of a frame besides its payload.
pub const FRAME_OVERHEAD: usize = 8;
/// Smallest frame_max that peers may agree on, in octets with the overhead.
pub const FRAME_MIN_SIZE: u32 = 4096;
/// Largest payload in octets that is accepted when peers agreed on no limit
/// (frame_max 0).
pub const PAYLOAD_SIZE_CAP: u32 = 128 << 20;
/// A heartbeat frame, whole.
pub const HEARTBEAT_FRAME: [u8; FRAME_OVERHEAD] = [HEARTBEAT, 0, 0, 0, 0, 0, 0, FRAME_END];
/// Octets of the protocol header.
pub const PROTOCOL_HEADER_SIZE: usize = 8;
/// What a client opens with, and what the server answers to anything else
/// before it closes the socket.
pub const PROTOCOL_HEADER: [u8; PROTOCOL_HEADER_SIZE] = *b"AMQP\x00\x00\x09\x01";

pub use crate::terms::Snippet as FrameSnippet;

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// A method: class id, method id, arguments.
    Method = METHOD,
    /// The header of a content.
    Header = HEADER,
    /// A part of the body of a content.
    Body = BODY,
    /// A sign of life.
    Heartbeat = HEARTBEAT,
}

/// A frame in the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// What the payload is.
    pub kind: FrameKind,
    /// Channel number; 0 is the connection itself.
    pub channel: u16,
    /// The octets between the frame's head and its end octet.
    pub payload: &'a [u8],
}

/// A frame that cannot be accepted. All of them are connection exceptions; the
/// stream of frames cannot be followed any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The type octet is none of the four.
    #[error("{frame}: unknown_frame")]
    UnknownKind {
        /// Channel of the frame.
        channel: u16,
        /// The type octet and how the payload begins.
        frame: Snippet,
    },
    /// The payload is larger than agreed. Found from the head alone.
    #[error("type {kind}, all octets = <<>>: {{frame_too_large,{size},{size_max}}}")]
    TooLarge {
        /// The type octet.
        kind: u8,
        /// Channel of the frame.
        channel: u16,
        /// Announced payload in octets.
        size: u32,
        /// Largest payload in octets that was agreed on.
        size_max: u32,
    },
    /// The octet after the payload is not the end octet.
    #[error("{frame}: {{invalid_frame_end_marker,{found}}}")]
    NoEnd {
        /// Channel of the frame.
        channel: u16,
        /// The type octet and how the payload begins.
        frame: Snippet,
        /// The octet that is there.
        found: u8,
    },
}

impl FrameError {
    /// The reply code for connection.close; `Display` gives the explanation.
    pub const fn reply_code(&self) -> ReplyCode {
        ReplyCode::FrameError
    }

    /// The channel number in the head of the frame.
    pub const fn channel(&self) -> u16 {
        match self {
            FrameError::UnknownKind { channel, .. }
            | FrameError::TooLarge { channel, .. }
            | FrameError::NoEnd { channel, .. } => *channel,
        }
    }
}

/// The largest payload in octets that [`parse_frame`] accepts.
///
/// RabbitMQ lets a payload have `frame_max` octets although the frame then has
/// eight more than was agreed, for the sake of clients that do not count the
/// overhead; so does this.
#[inline]
pub const fn payload_size_limit(frame_max: u32) -> u32 {
    if frame_max == 0 || frame_max > PAYLOAD_SIZE_CAP {
        PAYLOAD_SIZE_CAP
    } else {
        frame_max
    }
}

/// Reads the frame that `buf` starts with, and how many octets of `buf` it
/// takes. `None`: the frame is not whole yet. `frame_max` is the agreed size in
/// octets with the overhead, 0 for no limit (then [`PAYLOAD_SIZE_CAP`] holds).
///
/// # Errors
/// See [`FrameError`]. A frame that is too large is refused as soon as its head
/// is there, so that nobody has to buffer it.
#[inline]
pub fn parse_frame(
    buf: &[u8],
    frame_max: u32,
) -> Result<Option<(FrameRef<'_>, usize)>, FrameError> {
    let Some((&[kind, c0, c1, s0, s1, s2, s3], rest)) = buf.split_first_chunk::<FRAME_HEAD>()
    else {
        return Ok(None);
    };
    let channel = u16::from_be_bytes([c0, c1]);
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > payload_size_limit(frame_max) {
        return Err(too_large(kind, channel, size, frame_max));
    }
    let Some((payload, [end, ..])) = rest.split_at_checked(size as usize) else {
        return Ok(None);
    };
    if *end != FRAME_END {
        return Err(no_end(kind, channel, payload, *end));
    }
    let kind = match kind {
        METHOD => FrameKind::Method,
        HEADER => FrameKind::Header,
        BODY => FrameKind::Body,
        HEARTBEAT => FrameKind::Heartbeat,
        _ => return Err(unknown_kind(kind, channel, payload)),
    };
    Ok(Some((
        FrameRef {
            kind,
            channel,
            payload,
        },
        size as usize + FRAME_OVERHEAD,
    )))
}

/// The whole size in octets of the frame that `buf` starts with, overhead
/// included, once its head is there: what the caller needs to make room for.
#[inline]
pub fn frame_size(buf: &[u8]) -> Option<usize> {
    let [_, _, _, s0, s1, s2, s3] = buf.first_chunk::<FRAME_HEAD>()?;
    Some(u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize + FRAME_OVERHEAD)
}

#[cold]
fn too_large(kind: u8, channel: u16, size: u32, frame_max: u32) -> FrameError {
    let size_max = match frame_max {
        0 => PAYLOAD_SIZE_CAP,
        limit => limit.saturating_sub(FRAME_OVERHEAD as u32),
    };
    FrameError::TooLarge {
        kind,
        channel,
        size,
        size_max,
    }
}

#[cold]
fn no_end(kind: u8, channel: u16, payload: &[u8], found: u8) -> FrameError {
    FrameError::NoEnd {
        channel,
        frame: Snippet::new(kind, payload),
        found,
    }
}

#[cold]
fn unknown_kind(kind: u8, channel: u16, payload: &[u8]) -> FrameError {
    FrameError::UnknownKind {
        channel,
        frame: Snippet::new(kind, payload),
    }
}

/// Explanation of an UNEXPECTED_FRAME (505) for a whole frame that may not come
/// on its channel, in RabbitMQ's words.
pub fn unexpected_frame_text(frame: &FrameRef<'_>) -> String {
    Snippet::new(frame.kind as u8, frame.payload).to_string()
}

/// Explanation of a FRAME_ERROR (501) for a frame whose payload is too short
/// for its kind, or a heartbeat with one, in RabbitMQ's words.
pub fn unknown_frame_text(frame: &FrameRef<'_>) -> String {
    format!(
        "{}: unknown_frame",
        Snippet::new(frame.kind as u8, frame.payload)
    )
}

/// The revision a client asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolVersion {
    /// `AMQP 0 0 9 1`.
    Amqp091,
    /// `AMQP 1 1 0 9`: 0-9, which RabbitMQ serves as 0-9-1.
    Amqp09,
}

/// A protocol header that asks for something else. The server answers with
/// [`PROTOCOL_HEADER`] and closes the socket (section 4.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolHeaderError {
    /// The first four octets are not `AMQP`.
    #[error("not an AMQP protocol header: \"{}\"", .0.escape_ascii())]
    NotAmqp([u8; PROTOCOL_HEADER_SIZE]),
    /// It is AMQP, of a version that is not served.
    #[error("AMQP protocol id {} version {}-{}-{} is not served", .0[0], .0[1], .0[2], .0[3])]
    Version([u8; 4]),
}

/// Reads the protocol header, the first eight octets of a connection. `None`:
/// fewer than eight are there.
///
/// # Errors
/// When they are something else than a header of a served version.
pub fn parse_protocol_header(buf: &[u8]) -> Result<Option<ProtocolVersion>, ProtocolHeaderError> {
    let Some(header) = buf.first_chunk::<PROTOCOL_HEADER_SIZE>() else {
        return Ok(None);
    };
    match *header {
        [b'A', b'M', b'Q', b'P', 0, 0, 9, 1] => Ok(Some(ProtocolVersion::Amqp091)),
        [b'A', b'M', b'Q', b'P', 1, 1, 0, 9] => Ok(Some(ProtocolVersion::Amqp09)),
        [b'A', b'M', b'Q', b'P', id, major, minor, revision] => {
            Err(ProtocolHeaderError::Version([id, major, minor, revision]))
        }
        other => Err(ProtocolHeaderError::NotAmqp(other)),
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
