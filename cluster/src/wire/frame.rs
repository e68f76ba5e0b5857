//! Frames: what connections between nodes carry once both sides are known.
//!
//! ```text
//!  0           4      5       6        8      16          20
//!  | length    | kind | flags | group  | id   | CRC-32C   | body
//!  | u32, body | u8   | u8    | u16    | u64  | u32       | length bytes
//! ```
//!
//! Little-endian. The checksum covers the first 16 bytes and the body. A frame that is too long, has unknown flags or a
//! wrong checksum ends the connection: nothing behind it can be believed.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Bytes before a frame's body.
pub const HEADER_BYTES: usize = 20;
/// The largest body: an entry of 64 MiB and 1 MiB around it.
pub const BODY_BYTES_MAX: usize = (64 << 20) + (1 << 20);
/// What is read at a time where frames are small.
const CHUNK_BYTES: usize = 64 << 10;
/// A body's buffer up to this size is taken at once, a larger one as the body comes.
const RESERVE_BYTES: usize = 2 << 20;

/// What a frame is to who receives it.
pub mod flags {
    /// It wants an answer with the same id.
    pub const REQUEST: u8 = 1;
    /// It is the answer.
    pub const ANSWER: u8 = 2;
    /// With [`ANSWER`]: there is none, and the body is the reason, in text.
    pub const FAILED: u8 = 4;
    /// All.
    pub const KNOWN: u8 = REQUEST | ANSWER | FAILED;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// What the body is; each purpose has its own numbers. 240 and above belong to the connection itself.
    pub kind: u8,
    /// Of [`flags`].
    pub flags: u8,
    /// The group, where the kind has one.
    pub group: u16,
    /// Of the request, where there is one.
    pub id: u64,
}

/// A frame as it was received. The body is a buffer of its own size, so keeping a slice keeps the frame only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body.
    pub body: Bytes,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`BODY_BYTES_MAX`].
    #[error("a frame of {0} bytes is over the limit")]
    TooLong(u32),
    /// Flags that nobody sends.
    #[error("a frame has unknown flags {0:#04x}")]
    Flags(u8),
    /// The checksum differs.
    #[error("a frame's checksum is wrong")]
    Checksum,
}

impl From<FrameError> for io::Error {
    fn from(error: FrameError) -> Self {
        io::Error::new(io::ErrorKind::InvalidData, error)
    }
}

/// A body to be sent: parts that are written one behind the other and never copied.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// One part.
    One(Bytes),
    /// Any number of parts.
    Many(Vec<Bytes>),
}

impl Body {
    /// The parts.
    pub fn parts(&self) -> &[Bytes] {
        match self {
            Body::Empty => &[],
            Body::One(part) => std::slice::from_ref(part),
            Body::Many(parts) => parts,
        }
    }

    /// Bytes of all parts.
    pub fn len(&self) -> usize {
        self.parts().iter().map(Bytes::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl From<Bytes> for Body {
    fn from(part: Bytes) -> Self {
        Body::One(part)
    }
}

impl From<Vec<u8>> for Body {
    fn from(part: Vec<u8>) -> Self {
        Body::One(Bytes::from(part))
    }
}

impl From<Vec<Bytes>> for Body {
    fn from(parts: Vec<Bytes>) -> Self {
        Body::Many(parts)
    }
}

/// A frame to be sent, its header encoded.
#[derive(Clone, Debug)]
pub struct OutFrame {
    pub(super) head: [u8; HEADER_BYTES],
    pub(super) body: Body,
    bytes: usize,
}

impl OutFrame {
    /// Encodes the header and computes the checksum, which reads the body once.
    ///
    /// # Errors
    /// The body is longer than [`BODY_BYTES_MAX`].
    pub fn new(header: Header, body: impl Into<Body>) -> Result<OutFrame, FrameError> {
        let body = body.into();
        let length = body.len();
        if length > BODY_BYTES_MAX {
            return Err(FrameError::TooLong(length.try_into().unwrap_or(u32::MAX)));
        }
        let mut head = [0; HEADER_BYTES];
        head[0..4].copy_from_slice(&(length as u32).to_le_bytes());
        head[4] = header.kind;
        head[5] = header.flags;
        head[6..8].copy_from_slice(&header.group.to_le_bytes());
        head[8..16].copy_from_slice(&header.id.to_le_bytes());
        let crc = body
            .parts()
            .iter()
            .fold(crc32c::crc32c(&head[..16]), |crc, part| {
                crc32c::crc32c_append(crc, part)
            });
        head[16..20].copy_from_slice(&crc.to_le_bytes());
        let bytes = HEADER_BYTES + length;
        Ok(OutFrame { head, body, bytes })
    }

    /// Bytes on the wire.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Never: a frame has a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// All bytes in one buffer: a copy, for tests and tools.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = self.head.to_vec();
        for part in self.body.parts() {
            out.extend_from_slice(part);
        }
        out
    }
}

/// A header as it is on the wire, its length judged.
struct Parsed {
    header: Header,
    length: usize,
    head_crc: u32,
    crc: u32,
}

fn parse(head: &[u8; HEADER_BYTES]) -> Result<Parsed, FrameError> {
    let [l0, l1, l2, l3, kind, flags, g0, g1, id @ .., c0, c1, c2, c3] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length as usize > BODY_BYTES_MAX {
        return Err(FrameError::TooLong(length));
    }
    if flags & !flags::KNOWN != 0 {
        return Err(FrameError::Flags(flags));
    }
    let header = Header {
        kind,
        flags,
        group: u16::from_le_bytes([g0, g1]),
        id: u64::from_le_bytes(id),
    };
    Ok(Parsed {
        header,
        length: length as usize,
        head_crc: crc32c::crc32c(&head[..16]),
        crc: u32::from_le_bytes([c0, c1, c2, c3]),
    })
}

/// The first frame of `bytes` and how many it takes; nothing if it is not there as a whole. The body is copied.
///
/// # Errors
/// [`FrameError`]; what follows is not worth reading.
pub fn decode(bytes: &[u8]) -> Result<Option<(Frame, usize)>, FrameError> {
    let Some((head, rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let parsed = parse(head)?;
    let Some(body) = rest.get(..parsed.length) else {
        return Ok(None);
    };
    if crc32c::crc32c_append(parsed.head_crc, body) != parsed.crc {
        return Err(FrameError::Checksum);
    }
    let frame = Frame {
        header: parsed.header,
        body: Bytes::copy_from_slice(body),
    };
    Ok(Some((frame, HEADER_BYTES + parsed.length)))
}

/// Takes frames off a stream.
///
/// Small frames are read many at a time, and each body is copied into a buffer of its size; what is left of a large one is
/// read into its own buffer.
pub struct FrameReader<R> {
    stream: R,
    chunk: BytesMut,
    /// A large body that is being read.
    large: Option<(Parsed, BytesMut)>,
    bytes: u64,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from `stream`.
    pub fn new(stream: R) -> Self {
        FrameReader {
            stream,
            chunk: BytesMut::with_capacity(CHUNK_BYTES),
            large: None,
            bytes: 0,
        }
    }

    /// Bytes read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next frame that was read already.
    ///
    /// # Errors
    /// As [`FrameReader::advance`].
    pub fn buffered(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some((parsed, body)) = self.large.take_if(|(p, body)| body.len() == p.length) {
            return finish(&parsed, body.freeze()).map(Some);
        }
        if self.large.is_some() {
            return Ok(None);
        }
        let Some((head, rest)) = self.chunk.split_first_chunk() else {
            return Ok(None);
        };
        let parsed = parse(head)?;
        if let Some(body) = rest.get(..parsed.length) {
            let body = Bytes::copy_from_slice(body);
            advance(&mut self.chunk, HEADER_BYTES + parsed.length);
            return finish(&parsed, body).map(Some);
        }
        if HEADER_BYTES + parsed.length > CHUNK_BYTES / 2 {
            let mut body = BytesMut::with_capacity(parsed.length.min(RESERVE_BYTES));
            body.extend_from_slice(rest);
            self.chunk.clear();
            self.large = Some((parsed, body));
        }
        Ok(None)
    }

    /// Reads once; false at the end of the stream. Cancel safe: what was read is kept.
    ///
    /// # Errors
    /// The stream's, and an end within a frame as `UnexpectedEof`.
    pub async fn advance(&mut self) -> io::Result<bool> {
        let read = match &mut self.large {
            Some((parsed, body)) => {
                let left = parsed.length - body.len();
                let room = left.min(body.len().max(RESERVE_BYTES));
                body.reserve(room);
                let mut limited = bytes::BufMut::limit(&mut *body, left);
                self.stream.read_buf(&mut limited).await?
            }
            None => {
                if self.chunk.is_empty() {
                    self.chunk.clear();
                }
                self.chunk.reserve(CHUNK_BYTES / 2);
                self.stream.read_buf(&mut self.chunk).await?
            }
        };
        self.bytes += read as u64;
        if read == 0 && (self.large.is_some() || !self.chunk.is_empty()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(read > 0)
    }

    /// The next frame; nothing at the end of the stream. Cancel safe.
    ///
    /// # Errors
    /// The stream's, and bytes that are no frame as `InvalidData`.
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.buffered()? {
                return Ok(Some(frame));
            }
            if !self.advance().await? {
                return Ok(None);
            }
        }
    }
}

fn advance(buffer: &mut BytesMut, count: usize) {
    bytes::Buf::advance(buffer, count);
}

fn finish(parsed: &Parsed, body: Bytes) -> Result<Frame, FrameError> {
    if crc32c::crc32c_append(parsed.head_crc, &body) != parsed.crc {
        return Err(FrameError::Checksum);
    }
    let header = parsed.header;
    Ok(Frame { header, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
        let header = Header {
            kind,
            flags: flags::REQUEST,
            group: 0x0102,
            id: 0x0304,
        };
        let half = body.len() / 2;
        let parts = vec![
            Bytes::copy_from_slice(&body[..half]),
            Bytes::new(),
            Bytes::copy_from_slice(&body[half..]),
        ];
        OutFrame::new(header, parts).expect("a frame").to_vec()
    }

    #[test]
    fn the_layout_stays() {
        let bytes = frame(7, b"abc");
        let expected = [3, 0, 0, 0, 7, 1, 2, 1, 4, 3, 0, 0, 0, 0, 0, 0];
        assert_eq!(bytes[..16], expected);
        assert_eq!(bytes[20..], *b"abc");
        let (frame, taken) = decode(&bytes).expect("a frame").expect("all of it");
        assert_eq!((frame.body, taken), (Bytes::from_static(b"abc"), 23));
        assert_eq!((frame.header.group, frame.header.id), (0x0102, 0x0304));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = frame(7, b"a body");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            // A longer length waits for more.
            assert!(!matches!(decode(&bytes), Ok(Some(_))), "bit {bit}");
        }
    }

    #[tokio::test]
    async fn frames_come_out_however_they_come_in() {
        let bodies: Vec<Vec<u8>> = [0, 1, 19, 1000, 70_000, 3, 40_000, 5 << 20, 0, 32_000]
            .iter()
            .enumerate()
            .map(|(at, length)| vec![at as u8; *length])
            .collect();
        let stream: Vec<u8> = bodies.iter().flat_map(|body| frame(1, body)).collect();
        for piece in [1 << 30, 65_536, 40_000, 1013] {
            let (mut write, read) = tokio::io::duplex(1 << 16);
            let bytes = stream.clone();
            let writer = tokio::spawn(async move {
                for part in bytes.chunks(piece) {
                    tokio::io::AsyncWriteExt::write_all(&mut write, part)
                        .await
                        .expect("room");
                }
            });
            let mut reader = FrameReader::new(read);
            for body in &bodies {
                let frame = reader.next().await.expect("a frame").expect("not the end");
                assert!(frame.body == body[..]);
            }
            assert_eq!(reader.next().await.expect("the end"), None);
            assert_eq!(reader.bytes(), stream.len() as u64);
            writer.await.expect("the writer");
        }
    }

    #[tokio::test]
    async fn an_end_inside_a_frame_is_an_error() {
        for body in [10, 100_000] {
            let whole = frame(1, &vec![1; body]);
            for cut in [1, 19, 20, 25, whole.len() - 1] {
                let mut reader = FrameReader::new(&whole[..cut]);
                let error = reader.next().await.expect_err("a part");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{cut}");
            }
        }
    }
}
