//! From octets to field tables, and the check of a table without decoding it.

use super::{FieldTable, FieldValue, TABLE_DEPTH_MAX, TABLE_SIZE_MAX};
use crate::short_str::ShortStr;
use crate::wire::Cursor;

/// Why octets are not a field table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// A name or a value goes past the end of its table or array.
    #[error("field table ends inside a field")]
    Truncated,
    /// The type letter is unknown.
    #[error("field table has a value of the unknown type {}", .0.escape_ascii())]
    UnknownType(u8),
    /// There are more tables and arrays inside each other than
    /// [`TABLE_DEPTH_MAX`].
    #[error("field table is nested deeper than {TABLE_DEPTH_MAX} levels")]
    TooDeep,
    /// The table has more octets than [`TABLE_SIZE_MAX`].
    #[error("field table of {0} octets is larger than {TABLE_SIZE_MAX}")]
    TooLarge(usize),
}

/// What the octets after a type letter are.
enum Layout {
    Fixed(usize),
    Sized,
}

const fn layout(tag: u8) -> Option<Layout> {
    Some(match tag {
        b'V' => Layout::Fixed(0),
        b't' | b'b' | b'B' => Layout::Fixed(1),
        b's' | b'u' | b'U' => Layout::Fixed(2),
        b'I' | b'i' | b'f' => Layout::Fixed(4),
        b'D' => Layout::Fixed(5),
        b'l' | b'L' | b'd' | b'T' => Layout::Fixed(8),
        b'S' | b'x' | b'F' | b'A' => Layout::Sized,
        _ => return None,
    })
}

/// Takes a type letter and its value off the cursor. The value is without the
/// length field that strings, tables and arrays start with.
fn take_value<'a>(cursor: &mut Cursor<'a>) -> Result<(u8, &'a [u8]), TableError> {
    let tag = cursor.u8().ok_or(TableError::Truncated)?;
    let raw = match layout(tag).ok_or(TableError::UnknownType(tag))? {
        Layout::Fixed(len) => cursor.take(len),
        Layout::Sized => cursor.long(),
    };
    Ok((tag, raw.ok_or(TableError::Truncated)?))
}

/// [`take_value`] for readers that stop at what is malformed.
pub(super) fn skip_value<'a>(cursor: &mut Cursor<'a>) -> Option<(u8, &'a [u8])> {
    take_value(cursor).ok()
}

fn check_size(bytes: &[u8]) -> Result<(), TableError> {
    if bytes.len() > TABLE_SIZE_MAX {
        return Err(TableError::TooLarge(bytes.len()));
    }
    Ok(())
}

/// Decodes a table from its octets without the length field.
///
/// # Errors
/// See [`TableError`]. Nothing but the decoded part is allocated before.
pub fn decode_table(bytes: &[u8]) -> Result<FieldTable, TableError> {
    check_size(bytes)?;
    fields(bytes, TABLE_DEPTH_MAX)
}

/// Decodes a value from its type letter and the octets after it, without a
/// length field.
pub(super) fn decode_value(tag: u8, raw: &[u8]) -> Result<FieldValue, TableError> {
    check_size(raw)?;
    value(tag, raw, TABLE_DEPTH_MAX)
}

fn fields(bytes: &[u8], depth: usize) -> Result<FieldTable, TableError> {
    let depth = depth.checked_sub(1).ok_or(TableError::TooDeep)?;
    let mut cursor = Cursor::new(bytes);
    let mut table = Vec::new();
    while !cursor.is_empty() {
        let name = cursor.short().ok_or(TableError::Truncated)?;
        let (tag, raw) = take_value(&mut cursor)?;
        table.push((ShortStr::truncated(name), value(tag, raw, depth)?));
    }
    Ok(FieldTable(table))
}

fn elements(bytes: &[u8], depth: usize) -> Result<Vec<FieldValue>, TableError> {
    let depth = depth.checked_sub(1).ok_or(TableError::TooDeep)?;
    let mut cursor = Cursor::new(bytes);
    let mut array = Vec::new();
    while !cursor.is_empty() {
        let (tag, raw) = take_value(&mut cursor)?;
        array.push(value(tag, raw, depth)?);
    }
    Ok(array)
}

fn value(tag: u8, raw: &[u8], depth: usize) -> Result<FieldValue, TableError> {
    Ok(match tag {
        b't' => FieldValue::Bool(number(raw)? != [0]),
        b'b' => FieldValue::Byte(i8::from_be_bytes(number(raw)?)),
        b'B' => FieldValue::UnsignedByte(u8::from_be_bytes(number(raw)?)),
        b's' | b'U' => FieldValue::Short(i16::from_be_bytes(number(raw)?)),
        b'u' => FieldValue::UnsignedShort(u16::from_be_bytes(number(raw)?)),
        b'I' => FieldValue::Int(i32::from_be_bytes(number(raw)?)),
        b'i' => FieldValue::UnsignedInt(u32::from_be_bytes(number(raw)?)),
        b'l' | b'L' => FieldValue::Long(i64::from_be_bytes(number(raw)?)),
        b'f' => FieldValue::Float(f32::from_be_bytes(number(raw)?)),
        b'd' => FieldValue::Double(f64::from_be_bytes(number(raw)?)),
        b'D' => {
            let [scale, v0, v1, v2, v3] = number(raw)?;
            FieldValue::Decimal {
                scale,
                value: u32::from_be_bytes([v0, v1, v2, v3]),
            }
        }
        b'S' => FieldValue::LongStr(raw.to_vec()),
        b'x' => FieldValue::Binary(raw.to_vec()),
        b'T' => FieldValue::Timestamp(u64::from_be_bytes(number(raw)?)),
        b'A' => FieldValue::Array(elements(raw, depth)?),
        b'F' => FieldValue::Table(fields(raw, depth)?),
        b'V' => FieldValue::Void,
        _ => return Err(TableError::UnknownType(tag)),
    })
}

fn number<const N: usize>(raw: &[u8]) -> Result<[u8; N], TableError> {
    raw.try_into().map_err(|_| TableError::Truncated)
}

/// Checks a table without decoding it: no allocation, one pass over its
/// octets. Accepts exactly what [`decode_table`] does.
///
/// # Errors
/// See [`TableError`].
pub fn validate_table(bytes: &[u8]) -> Result<(), TableError> {
    check_size(bytes)?;
    walk(bytes, true, TABLE_DEPTH_MAX)
}

fn walk(bytes: &[u8], named: bool, depth: usize) -> Result<(), TableError> {
    let depth = depth.checked_sub(1).ok_or(TableError::TooDeep)?;
    let mut cursor = Cursor::new(bytes);
    while !cursor.is_empty() {
        if named {
            cursor.short().ok_or(TableError::Truncated)?;
        }
        match take_value(&mut cursor)? {
            (b'F', raw) => walk(raw, true, depth)?,
            (b'A', raw) => walk(raw, false, depth)?,
            _ => {}
        }
    }
    Ok(())
}
