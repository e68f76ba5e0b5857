//! The content header (AMQP 0-9-1 section 4.2.6.1).
//!
//! ```text
//!  0          2        4           12               14
//! +----------+--------+-----------+----------------+---------------+
//! | class id | weight | body size | property flags | property list |
//! | u16 BE   | 0      | u64 BE    | u16 BE         |               |
//! +----------+--------+-----------+----------------+---------------+
//!                                 \_ properties, kept as they came _/
//! ```

use crate::constants::ReplyCode;
use crate::properties::{PropertiesError, PropertiesRef};
use crate::wire::Cursor;

/// Octets of a content header before the properties.
pub const CONTENT_HEADER_HEAD: usize = 12;

/// A content header in the receive buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeaderRef<'a> {
    /// Class of the method the content belongs to; only basic has contents.
    pub class_id: u16,
    /// Octets of the body.
    pub body_size: u64,
    /// Property flags and property list, as they came and known to be well
    /// formed. See [`ContentHeaderRef::properties`].
    pub properties: &'a [u8],
}

/// Why a payload is not a content header. All are connection exceptions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentHeaderError {
    /// The payload is shorter than the head. RabbitMQ calls the frame unknown:
    /// see [`crate::frame::unknown_frame_text`].
    #[error("content header of less than 12 octets")]
    TooShort,
    /// The weight is not zero, which RabbitMQ words like this.
    #[error("expected content header for class {class_id}, got non content header frame instead")]
    Weight {
        /// Class id of the header.
        class_id: u16,
    },
    /// The properties are malformed.
    #[error("{0}")]
    Properties(#[from] PropertiesError),
}

impl ContentHeaderError {
    /// The reply code for connection.close; `Display` gives the explanation.
    ///
    /// For malformed properties RabbitMQ 3.10 answers 541 INTERNAL_ERROR without
    /// an explanation; the specification's code is used here.
    pub const fn reply_code(&self) -> ReplyCode {
        match self {
            ContentHeaderError::TooShort => ReplyCode::FrameError,
            ContentHeaderError::Weight { .. } => ReplyCode::UnexpectedFrame,
            ContentHeaderError::Properties(_) => ReplyCode::SyntaxError,
        }
    }
}

impl<'a> ContentHeaderRef<'a> {
    /// Reads the payload of a header frame. The properties are walked over once,
    /// the headers table in them included; nothing is allocated.
    ///
    /// The class id is not compared with anything: the caller knows which
    /// method came before.
    ///
    /// # Errors
    /// See [`ContentHeaderError`].
    #[inline]
    pub fn parse(payload: &'a [u8]) -> Result<Self, ContentHeaderError> {
        let mut cursor = Cursor::new(payload);
        let (Some(class_id), Some(weight), Some(body_size)) =
            (cursor.u16(), cursor.u16(), cursor.u64())
        else {
            return Err(ContentHeaderError::TooShort);
        };
        if weight != 0 {
            return Err(ContentHeaderError::Weight { class_id });
        }
        let properties = cursor.rest();
        PropertiesRef::new(properties).validate()?;
        Ok(ContentHeaderRef {
            class_id,
            body_size,
            properties,
        })
    }

    /// The properties, to look into.
    #[inline]
    pub fn properties(&self) -> PropertiesRef<'a> {
        PropertiesRef::new(self.properties)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &[u8] = b"\x00\x3c\x00\x00\x00\x00\x00\x00\x00\x00\x01\x02\x10\x00\x02";

    #[test]
    fn reads_the_head_and_keeps_the_properties() {
        let header = ContentHeaderRef::parse(HEADER).unwrap();
        assert_eq!(header.class_id, 60);
        assert_eq!(header.body_size, 258);
        assert_eq!(header.properties, b"\x10\x00\x02");
        assert_eq!(header.properties().delivery_mode(), Some(2));
    }

    #[test]
    fn refuses_every_truncation_and_a_tail() {
        for cut in 0..HEADER.len() {
            let error = ContentHeaderRef::parse(&HEADER[..cut]).unwrap_err();
            assert_eq!(
                error == ContentHeaderError::TooShort,
                cut < CONTENT_HEADER_HEAD
            );
        }
        let mut longer = HEADER.to_vec();
        longer.push(0);
        assert_eq!(
            ContentHeaderRef::parse(&longer),
            Err(ContentHeaderError::Properties(PropertiesError::Trailing))
        );
    }

    #[test]
    fn refuses_a_weight() {
        let mut heavy = HEADER.to_vec();
        heavy[3] = 1;
        let error = ContentHeaderRef::parse(&heavy).unwrap_err();
        assert_eq!(error.reply_code(), ReplyCode::UnexpectedFrame);
        assert_eq!(
            error.to_string(),
            "expected content header for class 60, got non content header frame instead"
        );
    }
}
