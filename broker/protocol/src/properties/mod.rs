//! The properties of class basic (AMQP 0-9-1 sections 4.2.6.1 and 1.8).
//!
//! On the wire they are 16 flags, highest bit first in the order of
//! [`Property`], and the values of the properties whose flag is set. Bit 0
//! would say that more flags follow and bit 1 has no property; both are refused,
//! where RabbitMQ ignores them and misreads what they announce.
//!
//! [`PropertiesRef`] looks into the octets as they came, which is how messages
//! pass through the broker. [`PropertiesEdit`] writes them again with some
//! changed. [`BasicProperties`] is the owned form, for what the broker itself
//! publishes and for tests.

mod edit;
mod owned;
mod raw;

pub use edit::PropertiesEdit;
pub use owned::BasicProperties;
pub use raw::PropertiesRef;

use crate::field_table::TableError;

/// `delivery_mode` of a persistent message.
pub const DELIVERY_MODE_PERSISTENT: u8 = 2;

/// Properties without any property.
pub const NO_PROPERTIES: [u8; 2] = [0, 0];

/// The properties in the order of their flags and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Property {
    /// MIME type of the body.
    ContentType = 0,
    /// MIME encoding of the body.
    ContentEncoding = 1,
    /// Table of the application's headers.
    Headers = 2,
    /// 1 transient, 2 persistent.
    DeliveryMode = 3,
    /// 0 to 9 in the specification, 0 to 255 in RabbitMQ.
    Priority = 4,
    /// Joins a reply to its request.
    CorrelationId = 5,
    /// Queue for the reply.
    ReplyTo = 6,
    /// Time to live in milliseconds, as decimal digits.
    Expiration = 7,
    /// The application's id of the message.
    MessageId = 8,
    /// Seconds since the beginning of 1970.
    Timestamp = 9,
    /// The application's type of the message.
    Type = 10,
    /// Name of the user who published, validated by the broker.
    UserId = 11,
    /// The application.
    AppId = 12,
    /// Reserved in 0-9-1.
    ClusterId = 13,
}

/// How the value of a property is laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    Short,
    Table,
    Octet,
    LongLong,
}

impl Property {
    /// Every property in order.
    pub const ALL: [Property; 14] = [
        Property::ContentType,
        Property::ContentEncoding,
        Property::Headers,
        Property::DeliveryMode,
        Property::Priority,
        Property::CorrelationId,
        Property::ReplyTo,
        Property::Expiration,
        Property::MessageId,
        Property::Timestamp,
        Property::Type,
        Property::UserId,
        Property::AppId,
        Property::ClusterId,
    ];

    /// The flag that says the property is there.
    #[inline]
    pub const fn flag(self) -> u16 {
        0x8000 >> self as u8
    }

    #[inline]
    const fn layout(self) -> Layout {
        match self {
            Property::Headers => Layout::Table,
            Property::DeliveryMode | Property::Priority => Layout::Octet,
            Property::Timestamp => Layout::LongLong,
            _ => Layout::Short,
        }
    }
}

/// The flags that have no property.
const FLAGS_UNKNOWN: u16 = 0b11;

/// Why octets are not properties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// A property goes past the end.
    #[error("content properties end inside a property")]
    Truncated,
    /// Octets follow the last property.
    #[error("octets follow the last content property")]
    Trailing,
    /// The flags name properties that class basic does not have.
    #[error("content properties have unknown flags {0:#06x}")]
    UnknownFlags(u16),
    /// The headers table is malformed.
    #[error("{0}")]
    Headers(#[from] TableError),
}

#[cfg(test)]
mod tests;
