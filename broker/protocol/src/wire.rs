//! Readers and writers of the elementary AMQP types (AMQP 0-9-1 section 4.2.5).
//!
//! Called by every decoder and encoder of this crate. All integers are
//! big-endian. Bits that follow each other in a method share an octet, lowest
//! bit first (section 4.2.5.2), so both [`ArgReader`] and [`ArgWriter`] carry
//! the position of the next bit.

use crate::field_table::{FieldTable, TableError, decode_table, encode_table};
use crate::short_str::ShortStr;

/// A cursor over octets of a frame. Every read returns `None` past the end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline]
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Cursor { rest: bytes }
    }

    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[octet]| octet)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A short string: its length in one octet, then its octets.
    #[inline]
    pub(crate) fn short(&mut self) -> Option<&'a [u8]> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }

    /// A long string or a table: its length in four octets, then its octets.
    #[inline]
    pub(crate) fn long(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }
}

/// Why the arguments of a method could not be read.
#[derive(Debug)]
pub(crate) enum ArgError {
    /// They end early, or octets follow the last one.
    Layout,
    /// A short string that must be UTF-8 is not.
    Utf8,
    /// A table is malformed.
    Table(TableError),
}

/// Reads the arguments of a method one after the other.
pub(crate) struct ArgReader<'a> {
    cursor: Cursor<'a>,
    bits: u8,
    bit_next: u8,
}

impl<'a> ArgReader<'a> {
    #[inline]
    pub(crate) fn new(args: &'a [u8]) -> Self {
        ArgReader {
            cursor: Cursor::new(args),
            bits: 0,
            bit_next: 0,
        }
    }

    /// The cursor for a value that is not a bit: it starts a new octet.
    #[inline]
    fn octets(&mut self) -> &mut Cursor<'a> {
        self.bit_next = 0;
        &mut self.cursor
    }

    #[inline]
    pub(crate) fn bit(&mut self) -> Result<bool, ArgError> {
        if self.bit_next == 0 {
            self.bits = self.cursor.u8().ok_or(ArgError::Layout)?;
        }
        let value = (self.bits >> self.bit_next) & 1 == 1;
        self.bit_next = (self.bit_next + 1) & 7;
        Ok(value)
    }

    #[inline]
    pub(crate) fn octet(&mut self) -> Result<u8, ArgError> {
        self.octets().u8().ok_or(ArgError::Layout)
    }

    #[inline]
    pub(crate) fn short(&mut self) -> Result<u16, ArgError> {
        self.octets().u16().ok_or(ArgError::Layout)
    }

    #[inline]
    pub(crate) fn long(&mut self) -> Result<u32, ArgError> {
        self.octets().u32().ok_or(ArgError::Layout)
    }

    #[inline]
    pub(crate) fn longlong(&mut self) -> Result<u64, ArgError> {
        self.octets().u64().ok_or(ArgError::Layout)
    }

    /// A short string of any octets, borrowed.
    #[inline]
    pub(crate) fn short_bytes(&mut self) -> Result<&'a [u8], ArgError> {
        self.octets().short().ok_or(ArgError::Layout)
    }

    /// A short string of any octets.
    pub(crate) fn shortbytes(&mut self) -> Result<ShortStr, ArgError> {
        self.short_bytes().map(ShortStr::truncated)
    }

    /// A short string that has to be UTF-8.
    pub(crate) fn shortstr(&mut self) -> Result<ShortStr, ArgError> {
        let bytes = self.short_bytes()?;
        std::str::from_utf8(bytes).map_err(|_| ArgError::Utf8)?;
        Ok(ShortStr::truncated(bytes))
    }

    pub(crate) fn longstr(&mut self) -> Result<Vec<u8>, ArgError> {
        self.octets()
            .long()
            .map(<[u8]>::to_vec)
            .ok_or(ArgError::Layout)
    }

    pub(crate) fn table(&mut self) -> Result<FieldTable, ArgError> {
        let bytes = self.octets().long().ok_or(ArgError::Layout)?;
        decode_table(bytes).map_err(ArgError::Table)
    }

    /// Ends the arguments: nothing may follow.
    #[inline]
    pub(crate) fn finish(self) -> Result<(), ArgError> {
        if self.cursor.is_empty() {
            Ok(())
        } else {
            Err(ArgError::Layout)
        }
    }
}

/// Writes the arguments of a method one after the other.
pub(crate) struct ArgWriter<'o> {
    out: &'o mut Vec<u8>,
    bit_next: u8,
}

impl<'o> ArgWriter<'o> {
    #[inline]
    pub(crate) fn new(out: &'o mut Vec<u8>) -> Self {
        ArgWriter { out, bit_next: 0 }
    }

    #[inline]
    fn octets(&mut self) -> &mut Vec<u8> {
        self.bit_next = 0;
        self.out
    }

    #[inline]
    pub(crate) fn bit(&mut self, value: &bool) {
        if self.bit_next == 0 {
            self.out.push(0);
        }
        if let Some(octet) = self.out.last_mut() {
            *octet |= u8::from(*value) << self.bit_next;
        }
        self.bit_next = (self.bit_next + 1) & 7;
    }

    #[inline]
    pub(crate) fn octet(&mut self, value: &u8) {
        self.octets().push(*value);
    }

    #[inline]
    pub(crate) fn short(&mut self, value: &u16) {
        self.octets().extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    pub(crate) fn long(&mut self, value: &u32) {
        self.octets().extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    pub(crate) fn longlong(&mut self, value: &u64) {
        self.octets().extend_from_slice(&value.to_be_bytes());
    }

    #[inline]
    pub(crate) fn shortstr(&mut self, value: &ShortStr) {
        put_short(self.octets(), value.as_bytes());
    }

    #[inline]
    pub(crate) fn shortbytes(&mut self, value: &ShortStr) {
        put_short(self.octets(), value.as_bytes());
    }

    #[inline]
    pub(crate) fn longstr(&mut self, value: &[u8]) {
        put_long(self.octets(), value);
    }

    pub(crate) fn table(&mut self, value: &FieldTable) {
        encode_table(value, self.octets());
    }
}

/// The part of `bytes` that fits a short string, and its length octet.
#[inline]
pub(crate) fn short_parts(bytes: &[u8]) -> (u8, &[u8]) {
    match u8::try_from(bytes.len()) {
        Ok(len) => (len, bytes),
        Err(_) => (
            u8::MAX,
            bytes.get(..usize::from(u8::MAX)).unwrap_or_default(),
        ),
    }
}

/// Appends a short string; octets past the 255th are left out.
#[inline]
pub(crate) fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    let (len, bytes) = short_parts(bytes);
    out.push(len);
    out.extend_from_slice(bytes);
}

/// Appends a long string; octets that a 32-bit length cannot count are left out.
pub(crate) fn put_long(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes.get(..len as usize).unwrap_or_default());
}

/// Appends four octets of length, then what `body` appends, and sets the length.
pub(crate) fn put_sized(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
    if let Some(slot) = out.get_mut(at..at + 4) {
        slot.copy_from_slice(&len.to_be_bytes());
    }
}
