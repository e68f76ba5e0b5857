//! Field tables and arrays (AMQP 0-9-1 section 4.2.5.5) with the type letters
//! that RabbitMQ reads and writes.
//!
//! | letter | octets after it | value | RabbitMQ's name |
//! |---|---|---|---|
//! | `t` | 1 | boolean | bool |
//! | `b` / `B` | 1 | signed / unsigned | byte / unsignedbyte |
//! | `s` / `u` | 2 | signed / unsigned | short / unsignedshort |
//! | `I` / `i` | 4 | signed / unsigned | signedint / unsignedint |
//! | `l`, `L` | 8 | signed, written as `l` | long |
//! | `f`, `d` | 4, 8 | IEEE 754 | float, double |
//! | `D` | 1 + 4 | scale and unsigned number | decimal |
//! | `S`, `x` | 4 + n | octets | longstr, binary |
//! | `T` | 8 | seconds since 1970, unsigned | timestamp |
//! | `A`, `F` | 4 + n | values, or names and values | array, table |
//! | `V` | 0 | nothing | void |
//!
//! The specification's `U` (signed 16 bits) is read too, which RabbitMQ does
//! not, and written as `s`. So are floats that are not numbers.
//!
//! An owned [`FieldTable`] keeps the order and the duplicates it was received
//! with. [`TableRef`] looks into the octets of a table without decoding it.
//! Bounds: [`TABLE_SIZE_MAX`] octets, [`TABLE_DEPTH_MAX`] levels.

mod compare;
mod decode;
mod encode;
mod view;

pub use compare::{ArgMismatch, compare_args};
pub use decode::{TableError, decode_table, validate_table};
pub use encode::{encode_table, encode_table_body, encode_value};
pub use view::{FieldRef, TableRef};

use crate::short_str::ShortStr;

/// Largest table in octets, without its length field. It is above what frames
/// of the default size can carry; a decoded table takes up to 40 times as much
/// memory.
pub const TABLE_SIZE_MAX: usize = 1 << 20;

/// Most tables and arrays inside each other, the outermost table included.
/// RabbitMQ has no limit but the size of a frame; no known client needs ten.
pub const TABLE_DEPTH_MAX: usize = 128;

/// A value of a field table or of an array.
#[derive(Debug, Clone, Default)]
pub enum FieldValue {
    /// `t`
    Bool(bool),
    /// `b`
    Byte(i8),
    /// `B`
    UnsignedByte(u8),
    /// `s`
    Short(i16),
    /// `u`
    UnsignedShort(u16),
    /// `I`
    Int(i32),
    /// `i`
    UnsignedInt(u32),
    /// `l`
    Long(i64),
    /// `f`
    Float(f32),
    /// `d`
    Double(f64),
    /// `D`: `value` / 10^`scale`
    Decimal {
        /// Digits after the decimal point.
        scale: u8,
        /// The number without the decimal point.
        value: u32,
    },
    /// `S`
    LongStr(Vec<u8>),
    /// `x`
    Binary(Vec<u8>),
    /// `T`: seconds since the beginning of 1970.
    Timestamp(u64),
    /// `A`
    Array(Vec<FieldValue>),
    /// `F`
    Table(FieldTable),
    /// `V`
    #[default]
    Void,
}

impl FieldValue {
    /// The name of the type in RabbitMQ's reply texts, such as `signedint`.
    pub const fn type_name(&self) -> &'static str {
        match self {
            FieldValue::Bool(_) => "bool",
            FieldValue::Byte(_) => "byte",
            FieldValue::UnsignedByte(_) => "unsignedbyte",
            FieldValue::Short(_) => "short",
            FieldValue::UnsignedShort(_) => "unsignedshort",
            FieldValue::Int(_) => "signedint",
            FieldValue::UnsignedInt(_) => "unsignedint",
            FieldValue::Long(_) => "long",
            FieldValue::Float(_) => "float",
            FieldValue::Double(_) => "double",
            FieldValue::Decimal { .. } => "decimal",
            FieldValue::LongStr(_) => "longstr",
            FieldValue::Binary(_) => "binary",
            FieldValue::Timestamp(_) => "timestamp",
            FieldValue::Array(_) => "array",
            FieldValue::Table(_) => "table",
            FieldValue::Void => "void",
        }
    }

    /// The value of any of the seven integer types; not of a timestamp.
    pub const fn as_integer(&self) -> Option<i64> {
        Some(match self {
            FieldValue::Byte(value) => *value as i64,
            FieldValue::UnsignedByte(value) => *value as i64,
            FieldValue::Short(value) => *value as i64,
            FieldValue::UnsignedShort(value) => *value as i64,
            FieldValue::Int(value) => *value as i64,
            FieldValue::UnsignedInt(value) => *value as i64,
            FieldValue::Long(value) => *value,
            _ => return None,
        })
    }

    /// The octets of a `longstr`.
    pub fn as_longstr(&self) -> Option<&[u8]> {
        match self {
            FieldValue::LongStr(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The text of a `longstr` that is UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        std::str::from_utf8(self.as_longstr()?).ok()
    }

    /// The value of a `bool`.
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            FieldValue::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The fields of a `table`.
    pub const fn as_table(&self) -> Option<&FieldTable> {
        match self {
            FieldValue::Table(table) => Some(table),
            _ => None,
        }
    }

    /// The values of an `array`.
    pub fn as_array(&self) -> Option<&[FieldValue]> {
        match self {
            FieldValue::Array(values) => Some(values),
            _ => None,
        }
    }
}

impl From<&str> for FieldValue {
    fn from(text: &str) -> Self {
        FieldValue::LongStr(text.as_bytes().to_vec())
    }
}

impl From<String> for FieldValue {
    fn from(text: String) -> Self {
        FieldValue::LongStr(text.into_bytes())
    }
}

impl From<bool> for FieldValue {
    fn from(value: bool) -> Self {
        FieldValue::Bool(value)
    }
}

impl From<i32> for FieldValue {
    fn from(value: i32) -> Self {
        FieldValue::Int(value)
    }
}

impl From<i64> for FieldValue {
    fn from(value: i64) -> Self {
        FieldValue::Long(value)
    }
}

impl From<FieldTable> for FieldValue {
    fn from(table: FieldTable) -> Self {
        FieldValue::Table(table)
    }
}

impl From<Vec<FieldValue>> for FieldValue {
    fn from(values: Vec<FieldValue>) -> Self {
        FieldValue::Array(values)
    }
}

/// Names and values in the order they were received or inserted. A name may
/// occur twice when a client sent it so; lookups find the first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldTable(Vec<(ShortStr, FieldValue)>);

impl FieldTable {
    /// An empty table.
    pub const fn new() -> FieldTable {
        FieldTable(Vec::new())
    }

    /// The first value with this name.
    pub fn get(&self, name: impl AsRef<[u8]>) -> Option<&FieldValue> {
        let name = name.as_ref();
        self.0
            .iter()
            .find(|(key, _)| key.as_bytes() == name)
            .map(|(_, value)| value)
    }

    /// Whether there is a value with this name.
    pub fn contains(&self, name: impl AsRef<[u8]>) -> bool {
        self.get(name).is_some()
    }

    /// Replaces the first value with this name, or appends one. Octets of the
    /// name past the 255th are left out.
    pub fn insert(&mut self, name: impl AsRef<[u8]>, value: impl Into<FieldValue>) {
        let name = name.as_ref();
        match self.0.iter_mut().find(|(key, _)| key.as_bytes() == name) {
            Some((_, slot)) => *slot = value.into(),
            None => self.0.push((ShortStr::truncated(name), value.into())),
        }
    }

    /// Removes every value with this name; gives the first.
    pub fn remove(&mut self, name: impl AsRef<[u8]>) -> Option<FieldValue> {
        let name = name.as_ref();
        let at = self.0.iter().position(|(key, _)| key.as_bytes() == name)?;
        let (_, value) = self.0.remove(at);
        self.0.retain(|(key, _)| key.as_bytes() != name);
        Some(value)
    }

    /// Orders the fields by name, those with equal names as they were.
    pub fn sort(&mut self) {
        self.0.sort_by(|a, b| a.0.cmp(&b.0));
    }

    /// Number of fields.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields in order.
    pub fn iter(&self) -> std::slice::Iter<'_, (ShortStr, FieldValue)> {
        self.0.iter()
    }
}

impl From<Vec<(ShortStr, FieldValue)>> for FieldTable {
    fn from(fields: Vec<(ShortStr, FieldValue)>) -> Self {
        FieldTable(fields)
    }
}

impl FromIterator<(ShortStr, FieldValue)> for FieldTable {
    fn from_iter<I: IntoIterator<Item = (ShortStr, FieldValue)>>(fields: I) -> Self {
        FieldTable(fields.into_iter().collect())
    }
}

impl IntoIterator for FieldTable {
    type Item = (ShortStr, FieldValue);
    type IntoIter = std::vec::IntoIter<Self::Item>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a FieldTable {
    type Item = &'a (ShortStr, FieldValue);
    type IntoIter = std::slice::Iter<'a, (ShortStr, FieldValue)>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests;
