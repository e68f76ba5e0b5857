//! Properties written again with some of them changed.
//!
//! Dead-lettering replaces the headers and removes the expiration, CC and BCC
//! replace the headers, direct reply-to sets reply_to. The other properties are
//! copied as octets, undecoded.

use std::borrow::Cow;

use super::{Layout, PropertiesRef, Property};
use crate::field_table::{FieldTable, encode_table_body};
use crate::wire::{put_long, put_short};

/// What happens to a property.
#[derive(Debug, Clone, Default)]
enum Change<'a> {
    #[default]
    Keep,
    Remove,
    Set(Cow<'a, [u8]>),
}

/// A list of changes to properties, made in one pass by
/// [`PropertiesEdit::apply`].
#[derive(Debug, Clone)]
pub struct PropertiesEdit<'a> {
    raw: &'a [u8],
    changes: [Change<'a>; Property::ALL.len()],
}

impl<'a> PropertiesEdit<'a> {
    /// Changes nothing yet. `raw` are flags and list that
    /// [`PropertiesRef::validate`] accepts; of others, what is malformed and
    /// what follows it is left out.
    pub fn new(raw: &'a [u8]) -> Self {
        PropertiesEdit {
            raw,
            changes: Default::default(),
        }
    }

    fn change(mut self, property: Property, change: Change<'a>) -> Self {
        if let Some(slot) = self.changes.get_mut(property as usize) {
            *slot = change;
        }
        self
    }

    /// Removes a property, if it is there.
    #[must_use]
    pub fn remove(self, property: Property) -> Self {
        self.change(property, Change::Remove)
    }

    /// Sets a property to `value`: the octets without a length field. Of a short
    /// string, octets past the 255th are left out; an octet or a timestamp of
    /// another size than theirs (1 or 8) removes the property.
    #[must_use]
    pub fn set(self, property: Property, value: impl Into<Cow<'a, [u8]>>) -> Self {
        let value = value.into();
        let fits = match property.layout() {
            Layout::Octet => value.len() == 1,
            Layout::LongLong => value.len() == 8,
            Layout::Short | Layout::Table => true,
        };
        let change = if fits {
            Change::Set(value)
        } else {
            Change::Remove
        };
        self.change(property, change)
    }

    /// Replaces the headers table. An empty table is still a table.
    #[must_use]
    pub fn headers(self, headers: &FieldTable) -> Self {
        let mut body = Vec::new();
        encode_table_body(headers, &mut body);
        self.change(Property::Headers, Change::Set(Cow::Owned(body)))
    }

    /// Sets the delivery mode: 1 transient, 2 persistent.
    #[must_use]
    pub fn delivery_mode(self, mode: u8) -> Self {
        self.set(Property::DeliveryMode, vec![mode])
    }

    /// Appends the changed flags and list.
    pub fn apply(&self, out: &mut Vec<u8>) {
        let view = PropertiesRef::new(self.raw);
        let start = out.len();
        out.extend_from_slice(&super::NO_PROPERTIES);
        let mut flags = 0;
        let mut kept = view.iter().peekable();
        for (property, change) in Property::ALL.into_iter().zip(&self.changes) {
            let old = kept
                .next_if(|(next, _)| *next == property)
                .map(|(_, value)| value);
            let value = match change {
                Change::Keep => old,
                Change::Remove => None,
                Change::Set(value) => Some(value.as_ref()),
            };
            let Some(value) = value else { continue };
            flags |= property.flag();
            match property.layout() {
                Layout::Short => put_short(out, value),
                Layout::Table => put_long(out, value),
                Layout::Octet | Layout::LongLong => out.extend_from_slice(value),
            }
        }
        if let Some(slot) = out.get_mut(start..start + 2) {
            slot.copy_from_slice(&flags.to_be_bytes());
        }
    }

    /// The changed flags and list in a vector of their own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.raw.len() + 64);
        self.apply(&mut out);
        out
    }
}
