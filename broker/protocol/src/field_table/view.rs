//! A field table as it lies in a buffer: found fields without decoding the rest.
//!
//! The headers of a message pass through the broker as they came. Routing by
//! headers, CC and BCC, and dead-lettering look up single fields here.

use super::decode::{self, TableError};
use super::{FieldTable, FieldValue};
use crate::wire::Cursor;

/// The octets of a table without its length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableRef<'a>(&'a [u8]);

/// A field of a [`TableRef`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldRef<'a> {
    /// Name of the field.
    pub name: &'a [u8],
    /// Type letter.
    pub tag: u8,
    /// The octets of the value after its type letter, and a length field's where
    /// the type has one.
    pub raw: &'a [u8],
}

impl<'a> TableRef<'a> {
    /// Looks at `bytes` as a table. They are not checked; reading stops where
    /// they are malformed.
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        TableRef(bytes)
    }

    /// The octets of the table without its length field.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Whether there are no fields.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields in order, up to the end or the first malformed one.
    pub fn iter(&self) -> impl Iterator<Item = FieldRef<'a>> + use<'a> {
        let mut cursor = Cursor::new(self.0);
        std::iter::from_fn(move || {
            let name = cursor.short()?;
            let (tag, raw) = decode::skip_value(&mut cursor)?;
            Some(FieldRef { name, tag, raw })
        })
    }

    /// The first field with this name.
    pub fn get(&self, name: &[u8]) -> Option<FieldRef<'a>> {
        self.iter().find(|field| field.name == name)
    }

    /// Decodes the whole table.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode(&self) -> Result<FieldTable, TableError> {
        decode::decode_table(self.0)
    }
}

impl<'a> FieldRef<'a> {
    /// Decodes the value.
    ///
    /// # Errors
    /// When it is a malformed table or array.
    pub fn value(&self) -> Result<FieldValue, TableError> {
        decode::decode_value(self.tag, self.raw)
    }

    /// The octets, when the type is `longstr`.
    #[inline]
    pub fn as_longstr(&self) -> Option<&'a [u8]> {
        (self.tag == b'S').then_some(self.raw)
    }

    /// The table, when the type is `table`.
    #[inline]
    pub fn as_table(&self) -> Option<TableRef<'a>> {
        (self.tag == b'F').then_some(TableRef(self.raw))
    }

    /// The elements of an `array`, up to the end or the first malformed one. No
    /// elements when the type is another one. Their names are empty.
    pub fn elements(&self) -> impl Iterator<Item = FieldRef<'a>> + use<'a> {
        let mut cursor = Cursor::new(if self.tag == b'A' { self.raw } else { &[] });
        std::iter::from_fn(move || {
            let (tag, raw) = decode::skip_value(&mut cursor)?;
            Some(FieldRef {
                name: &[],
                tag,
                raw,
            })
        })
    }
}
