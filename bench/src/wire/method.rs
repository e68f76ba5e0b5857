//! Methods: a writer for those that the generator sends, a cursor for those that it reads.

use super::WireError;
use super::frame::put_frame;

/// Method identifiers: class in the upper 16 bits, method in the lower.
#[allow(missing_docs)]
pub mod id {
    const fn of(class: u16, method: u16) -> u32 {
        (class as u32) << 16 | method as u32
    }
    pub const CONNECTION_START: u32 = of(10, 10);
    pub const CONNECTION_START_OK: u32 = of(10, 11);
    pub const CONNECTION_TUNE: u32 = of(10, 30);
    pub const CONNECTION_TUNE_OK: u32 = of(10, 31);
    pub const CONNECTION_OPEN: u32 = of(10, 40);
    pub const CONNECTION_OPEN_OK: u32 = of(10, 41);
    pub const CONNECTION_CLOSE: u32 = of(10, 50);
    pub const CONNECTION_CLOSE_OK: u32 = of(10, 51);
    pub const CONNECTION_BLOCKED: u32 = of(10, 60);
    pub const CONNECTION_UNBLOCKED: u32 = of(10, 61);
    pub const CHANNEL_OPEN: u32 = of(20, 10);
    pub const CHANNEL_OPEN_OK: u32 = of(20, 11);
    pub const CHANNEL_FLOW: u32 = of(20, 20);
    pub const CHANNEL_CLOSE: u32 = of(20, 40);
    pub const CHANNEL_CLOSE_OK: u32 = of(20, 41);
    pub const EXCHANGE_DECLARE: u32 = of(40, 10);
    pub const EXCHANGE_DECLARE_OK: u32 = of(40, 11);
    pub const EXCHANGE_DELETE: u32 = of(40, 20);
    pub const EXCHANGE_DELETE_OK: u32 = of(40, 21);
    pub const QUEUE_DECLARE: u32 = of(50, 10);
    pub const QUEUE_DECLARE_OK: u32 = of(50, 11);
    pub const QUEUE_BIND: u32 = of(50, 20);
    pub const QUEUE_BIND_OK: u32 = of(50, 21);
    pub const QUEUE_DELETE: u32 = of(50, 40);
    pub const QUEUE_DELETE_OK: u32 = of(50, 41);
    pub const QUEUE_UNBIND: u32 = of(50, 50);
    pub const QUEUE_UNBIND_OK: u32 = of(50, 51);
    pub const BASIC_QOS: u32 = of(60, 10);
    pub const BASIC_QOS_OK: u32 = of(60, 11);
    pub const BASIC_CONSUME: u32 = of(60, 20);
    pub const BASIC_CONSUME_OK: u32 = of(60, 21);
    pub const BASIC_CANCEL: u32 = of(60, 30);
    pub const BASIC_PUBLISH: u32 = of(60, 40);
    pub const BASIC_RETURN: u32 = of(60, 50);
    pub const BASIC_DELIVER: u32 = of(60, 60);
    pub const BASIC_ACK: u32 = of(60, 80);
    pub const BASIC_NACK: u32 = of(60, 120);
    pub const CONFIRM_SELECT: u32 = of(85, 10);
    pub const CONFIRM_SELECT_OK: u32 = of(85, 11);
}

/// The identifier at the start of a method frame's payload.
#[inline]
pub fn method_id(payload: &[u8]) -> Result<(u32, Cursor<'_>), WireError> {
    let mut cursor = Cursor(payload);
    Ok((cursor.u32()?, cursor))
}

/// A value of a field table that the generator writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldValue {
    /// Type `t`.
    Bool(bool),
    /// Type `I` where it fits, else `l`.
    Int(i64),
    /// Type `S`.
    Text(String),
    /// Type `F`.
    Table(Table),
}

/// A field table in the order in which it is written.
pub type Table = Vec<(String, FieldValue)>;

/// Appends `table` with its length in front (AMQP 0-9-1 section 4.2.5.5).
pub(super) fn put_table(out: &mut Vec<u8>, table: &Table) {
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    for (name, value) in table {
        put_short(out, name);
        match value {
            FieldValue::Bool(b) => out.extend_from_slice(&[b't', u8::from(*b)]),
            FieldValue::Int(n) => match i32::try_from(*n) {
                Ok(small) => {
                    out.push(b'I');
                    out.extend_from_slice(&small.to_be_bytes());
                }
                Err(_) => {
                    out.push(b'l');
                    out.extend_from_slice(&n.to_be_bytes());
                }
            },
            FieldValue::Text(s) => {
                out.push(b'S');
                put_long(out, s.as_bytes());
            }
            FieldValue::Table(t) => {
                out.push(b'F');
                put_table(out, t);
            }
        }
    }
    let size = (out.len() - size_at - 4) as u32;
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
}

/// Appends a short string; what exceeds 255 octets is cut, as flags are checked before.
pub(super) fn put_short(out: &mut Vec<u8>, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(255)];
    out.push(bytes.len() as u8);
    out.extend_from_slice(bytes);
}

fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Writes the arguments of one method, in the order of the specification.
pub struct MethodWriter<'a>(&'a mut Vec<u8>);

impl<'a> MethodWriter<'a> {
    /// Appends a whole method frame to `out`.
    pub fn frame(
        out: &mut Vec<u8>,
        channel: u16,
        method: u32,
        arguments: impl FnOnce(MethodWriter<'_>) -> MethodWriter<'_>,
    ) {
        put_frame(out, 1, channel, |payload| {
            payload.extend_from_slice(&method.to_be_bytes());
            arguments(MethodWriter(payload));
        });
    }

    /// One octet, or a group of bits (first bit lowest).
    pub fn u8(self, value: u8) -> MethodWriter<'a> {
        self.0.push(value);
        self
    }

    /// A 16-bit integer.
    pub fn u16(self, value: u16) -> MethodWriter<'a> {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A 32-bit integer.
    pub fn u32(self, value: u32) -> MethodWriter<'a> {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A 64-bit integer.
    pub fn u64(self, value: u64) -> MethodWriter<'a> {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    /// A short string of at most 255 octets.
    pub fn short(self, text: &str) -> MethodWriter<'a> {
        put_short(self.0, text);
        self
    }

    /// A long string.
    pub fn long(self, bytes: &[u8]) -> MethodWriter<'a> {
        put_long(self.0, bytes);
        self
    }

    /// A field table.
    pub fn table(self, table: &Table) -> MethodWriter<'a> {
        put_table(self.0, table);
        self
    }
}

/// Reads arguments from the front of a payload.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor(bytes)
    }

    #[inline]
    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    /// One octet.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, WireError> {
        Ok(u8::from_be_bytes(self.chunk()?))
    }

    /// A 16-bit integer.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, WireError> {
        Ok(u16::from_be_bytes(self.chunk()?))
    }

    /// A 32-bit integer.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.chunk()?))
    }

    /// A 64-bit integer.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_be_bytes(self.chunk()?))
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.0.split_at_checked(len).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// A short string as octets.
    #[inline]
    pub fn short(&mut self) -> Result<&'a [u8], WireError> {
        let len = usize::from(self.u8()?);
        self.take(len)
    }

    /// A long string, or a field table unread.
    pub fn long(&mut self) -> Result<&'a [u8], WireError> {
        let len = self.u32()? as usize;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::next_frame;

    #[test]
    fn queue_declare_golden_bytes() {
        let mut out = Vec::new();
        let args = vec![
            ("x-expires".to_owned(), FieldValue::Int(1_800_000)),
            ("big".to_owned(), FieldValue::Int(1 << 40)),
            ("a".to_owned(), FieldValue::Bool(true)),
            ("s".to_owned(), FieldValue::Text("xy".into())),
        ];
        MethodWriter::frame(&mut out, 1, id::QUEUE_DECLARE, |m| {
            m.u16(0).short("q").u8(0b10).table(&args)
        });
        let mut want = b"\x01\x00\x01\x00\x00\x00\x3a\x00\x32\x00\x0a\x00\x00\x01q\x02".to_vec();
        want.extend_from_slice(b"\x00\x00\x00\x2d\x09x-expiresI\x00\x1b\x77\x40");
        want.extend_from_slice(b"\x03bigl\x00\x00\x01\x00\x00\x00\x00\x00\x01at\x01");
        want.extend_from_slice(b"\x01sS\x00\x00\x00\x02xy\xCE");
        let size = (want.len() - 8) as u32;
        want[3..7].copy_from_slice(&size.to_be_bytes());
        let table = size - 4 - 2 - 2 - 1 - 4;
        want[16..20].copy_from_slice(&table.to_be_bytes());
        assert_eq!(out, want);
    }

    #[test]
    fn cursor_reads_back_what_the_writer_wrote() {
        let mut out = Vec::new();
        MethodWriter::frame(&mut out, 9, id::BASIC_DELIVER, |m| {
            m.short("17").u64(1 << 33).u8(1).short("ex").short("key")
        });
        let frame = next_frame(&out, 4096).unwrap().unwrap();
        let (method, mut c) = method_id(frame.payload).unwrap();
        assert_eq!(method, id::BASIC_DELIVER);
        assert_eq!(c.short(), Ok(&b"17"[..]));
        assert_eq!(c.u64(), Ok(1 << 33));
        assert_eq!(c.u8(), Ok(1));
        assert_eq!(c.short(), Ok(&b"ex"[..]));
        assert_eq!(c.short(), Ok(&b"key"[..]));
        assert_eq!(c.u8(), Err(WireError::Truncated));
    }

    #[test]
    fn lengths_past_the_end_are_truncated_not_read() {
        assert_eq!(Cursor::new(b"\x05abc").short(), Err(WireError::Truncated));
        assert_eq!(
            Cursor::new(b"\xff\xff\xff\xffabc").long(),
            Err(WireError::Truncated)
        );
        assert_eq!(Cursor::new(b"\x00").u16(), Err(WireError::Truncated));
        assert!(method_id(b"\x00\x3c\x00").is_err());
    }
}
