//! Properties, owned and typed.

use super::{PropertiesEdit, PropertiesError, PropertiesRef, Property};
use crate::field_table::{FieldTable, decode_table};
use crate::short_str::ShortStr;

/// The 14 properties of class basic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BasicProperties {
    /// MIME type of the body.
    pub content_type: Option<ShortStr>,
    /// MIME encoding of the body.
    pub content_encoding: Option<ShortStr>,
    /// The application's headers.
    pub headers: Option<FieldTable>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    /// Priority of the message.
    pub priority: Option<u8>,
    /// Joins a reply to its request.
    pub correlation_id: Option<ShortStr>,
    /// Queue for the reply.
    pub reply_to: Option<ShortStr>,
    /// Time to live in milliseconds, as decimal digits.
    pub expiration: Option<ShortStr>,
    /// The application's id of the message.
    pub message_id: Option<ShortStr>,
    /// Seconds since the beginning of 1970.
    pub timestamp: Option<u64>,
    /// The application's type of the message (`type` on the wire).
    pub kind: Option<ShortStr>,
    /// Name of the user who published.
    pub user_id: Option<ShortStr>,
    /// The application.
    pub app_id: Option<ShortStr>,
    /// Reserved in 0-9-1.
    pub cluster_id: Option<ShortStr>,
}

impl BasicProperties {
    /// Decodes flags and list.
    ///
    /// # Errors
    /// See [`PropertiesError`].
    pub fn decode(raw: &[u8]) -> Result<BasicProperties, PropertiesError> {
        let view = PropertiesRef::new(raw);
        view.validate()?;
        let text = |property| view.get(property).map(ShortStr::truncated);
        Ok(BasicProperties {
            content_type: text(Property::ContentType),
            content_encoding: text(Property::ContentEncoding),
            headers: view.get(Property::Headers).map(decode_table).transpose()?,
            delivery_mode: view.delivery_mode(),
            priority: view.priority(),
            correlation_id: text(Property::CorrelationId),
            reply_to: text(Property::ReplyTo),
            expiration: text(Property::Expiration),
            message_id: text(Property::MessageId),
            timestamp: view.timestamp(),
            kind: text(Property::Type),
            user_id: text(Property::UserId),
            app_id: text(Property::AppId),
            cluster_id: text(Property::ClusterId),
        })
    }

    /// Appends flags and list.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut edit = PropertiesEdit::new(&super::NO_PROPERTIES);
        let texts = [
            (Property::ContentType, &self.content_type),
            (Property::ContentEncoding, &self.content_encoding),
            (Property::CorrelationId, &self.correlation_id),
            (Property::ReplyTo, &self.reply_to),
            (Property::Expiration, &self.expiration),
            (Property::MessageId, &self.message_id),
            (Property::Type, &self.kind),
            (Property::UserId, &self.user_id),
            (Property::AppId, &self.app_id),
            (Property::ClusterId, &self.cluster_id),
        ];
        for (property, text) in texts {
            if let Some(text) = text {
                edit = edit.set(property, text.as_bytes());
            }
        }
        if let Some(headers) = &self.headers {
            edit = edit.headers(headers);
        }
        if let Some(mode) = self.delivery_mode {
            edit = edit.set(Property::DeliveryMode, vec![mode]);
        }
        if let Some(priority) = self.priority {
            edit = edit.set(Property::Priority, vec![priority]);
        }
        if let Some(timestamp) = self.timestamp {
            edit = edit.set(Property::Timestamp, timestamp.to_be_bytes().to_vec());
        }
        edit.apply(out);
    }

    /// Flags and list in a vector of their own.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}
