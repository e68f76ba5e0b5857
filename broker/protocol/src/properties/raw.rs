//! Properties as they lie in a buffer.

use super::{BasicProperties, FLAGS_UNKNOWN, Layout, PropertiesError, Property};
use crate::field_table::{FieldTable, TableError, TableRef, validate_table};
use crate::wire::Cursor;

/// Property flags and property list, borrowed.
///
/// The accessors find one property without decoding the others. They expect
/// octets that [`PropertiesRef::validate`] accepts; on others they give `None`
/// or some part of the octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PropertiesRef<'a>(&'a [u8]);

impl<'a> PropertiesRef<'a> {
    /// Looks at `raw`: two octets of flags and the list. They are not checked.
    #[inline]
    pub const fn new(raw: &'a [u8]) -> Self {
        PropertiesRef(raw)
    }

    /// The octets: flags and list.
    #[inline]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Walks over the list once, the headers table included.
    ///
    /// # Errors
    /// See [`PropertiesError`].
    #[inline]
    pub fn validate(&self) -> Result<(), PropertiesError> {
        let (flags, mut cursor) = self.open().ok_or(PropertiesError::Truncated)?;
        if flags & FLAGS_UNKNOWN != 0 {
            return Err(PropertiesError::UnknownFlags(flags & FLAGS_UNKNOWN));
        }
        for property in set_in(flags) {
            let value = take(&mut cursor, property).ok_or(PropertiesError::Truncated)?;
            if property == Property::Headers {
                validate_table(value)?;
            }
        }
        if cursor.is_empty() {
            Ok(())
        } else {
            Err(PropertiesError::Trailing)
        }
    }

    #[inline]
    fn open(&self) -> Option<(u16, Cursor<'a>)> {
        let mut cursor = Cursor::new(self.0);
        let flags = cursor.u16()?;
        Some((flags, cursor))
    }

    /// The flags; 0 when there are none.
    #[inline]
    pub fn flags(&self) -> u16 {
        self.open().map_or(0, |(flags, _)| flags)
    }

    /// Whether a property is there.
    #[inline]
    pub fn has(&self, property: Property) -> bool {
        self.flags() & property.flag() != 0
    }

    /// The octets of a property's value without a length field.
    #[inline]
    pub fn get(&self, wanted: Property) -> Option<&'a [u8]> {
        let (flags, mut cursor) = self.open()?;
        if flags & wanted.flag() == 0 {
            return None;
        }
        for property in set_in(flags) {
            let value = take(&mut cursor, property)?;
            if property == wanted {
                return Some(value);
            }
        }
        None
    }

    /// The properties that are there, with the octets of their values without
    /// length fields, in order, up to the first malformed one.
    pub fn iter(&self) -> impl Iterator<Item = (Property, &'a [u8])> + use<'a> {
        let (flags, mut cursor) = self.open().unwrap_or((0, Cursor::new(&[])));
        set_in(flags).map_while(move |property| Some((property, take(&mut cursor, property)?)))
    }

    #[inline]
    fn octet(&self, property: Property) -> Option<u8> {
        self.get(property)?.first().copied()
    }

    /// MIME type of the body.
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.get(Property::ContentType)
    }

    /// MIME encoding of the body.
    pub fn content_encoding(&self) -> Option<&'a [u8]> {
        self.get(Property::ContentEncoding)
    }

    /// The headers table as it came.
    #[inline]
    pub fn headers(&self) -> Option<TableRef<'a>> {
        self.get(Property::Headers).map(TableRef::new)
    }

    /// The headers table, decoded; empty when there is none.
    ///
    /// # Errors
    /// When it is malformed.
    pub fn decode_headers(&self) -> Result<FieldTable, TableError> {
        self.headers()
            .map_or(Ok(FieldTable::new()), |headers| headers.decode())
    }

    /// 1 transient, 2 persistent, anything else as it came.
    #[inline]
    pub fn delivery_mode(&self) -> Option<u8> {
        self.octet(Property::DeliveryMode)
    }

    /// Whether the delivery mode is 2.
    #[inline]
    pub fn is_persistent(&self) -> bool {
        self.delivery_mode() == Some(super::DELIVERY_MODE_PERSISTENT)
    }

    /// Priority of the message.
    #[inline]
    pub fn priority(&self) -> Option<u8> {
        self.octet(Property::Priority)
    }

    /// Joins a reply to its request.
    pub fn correlation_id(&self) -> Option<&'a [u8]> {
        self.get(Property::CorrelationId)
    }

    /// Queue for the reply.
    #[inline]
    pub fn reply_to(&self) -> Option<&'a [u8]> {
        self.get(Property::ReplyTo)
    }

    /// Time to live in milliseconds, as the digits that came.
    #[inline]
    pub fn expiration(&self) -> Option<&'a [u8]> {
        self.get(Property::Expiration)
    }

    /// The application's id of the message.
    pub fn message_id(&self) -> Option<&'a [u8]> {
        self.get(Property::MessageId)
    }

    /// Seconds since the beginning of 1970.
    pub fn timestamp(&self) -> Option<u64> {
        self.get(Property::Timestamp)?
            .try_into()
            .ok()
            .map(u64::from_be_bytes)
    }

    /// The application's type of the message.
    pub fn kind(&self) -> Option<&'a [u8]> {
        self.get(Property::Type)
    }

    /// Name of the user who published.
    #[inline]
    pub fn user_id(&self) -> Option<&'a [u8]> {
        self.get(Property::UserId)
    }

    /// The application.
    pub fn app_id(&self) -> Option<&'a [u8]> {
        self.get(Property::AppId)
    }

    /// Reserved in 0-9-1.
    pub fn cluster_id(&self) -> Option<&'a [u8]> {
        self.get(Property::ClusterId)
    }

    /// Decodes all properties.
    ///
    /// # Errors
    /// When the octets are malformed.
    pub fn decode(&self) -> Result<BasicProperties, PropertiesError> {
        BasicProperties::decode(self.0)
    }
}

/// The properties whose flag is set, in order.
#[inline]
fn set_in(flags: u16) -> impl Iterator<Item = Property> {
    let mut left = flags & !FLAGS_UNKNOWN;
    std::iter::from_fn(move || {
        let property = *Property::ALL.get(left.leading_zeros() as usize)?;
        left &= !property.flag();
        Some(property)
    })
}

/// Takes the value of `property` off the cursor, without its length field.
#[inline]
fn take<'a>(cursor: &mut Cursor<'a>, property: Property) -> Option<&'a [u8]> {
    match property.layout() {
        Layout::Short => cursor.short(),
        Layout::Table => cursor.long(),
        Layout::Octet => cursor.take(1),
        Layout::LongLong => cursor.take(8),
    }
}
