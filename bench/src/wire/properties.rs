//! Content properties (AMQP 0-9-1 section 4.2.6.1), written only.

use super::Table;
use super::method::{put_short, put_table};

/// The properties that a scenario sets; an absent one is not sent.
#[derive(Debug, Clone, Default)]
pub struct Properties {
    /// MIME type.
    pub content_type: Option<String>,
    /// MIME encoding.
    pub content_encoding: Option<String>,
    /// Application headers.
    pub headers: Option<Table>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    /// 0 to 9.
    pub priority: Option<u8>,
    /// Names the request that a reply belongs to.
    pub correlation_id: Option<String>,
    /// Where the reply goes.
    pub reply_to: Option<String>,
    /// Time to live, in ms, as decimal text.
    pub expiration: Option<String>,
    /// Application's identifier.
    pub message_id: Option<String>,
}

impl Properties {
    /// What ordinary applications send: a type, an identifier and a small header table.
    pub fn typical() -> Self {
        use super::FieldValue::{Int, Text};
        Properties {
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            headers: Some(vec![
                ("origin".into(), Text("leveret-bench".into())),
                ("attempt".into(), Int(1)),
            ]),
            message_id: Some("00000000-0000-0000-0000-000000000000".into()),
            ..Properties::default()
        }
    }

    /// Appends flags and values, in the order of the specification.
    pub fn put(&self, out: &mut Vec<u8>) {
        let present = [
            (15, self.content_type.is_some()),
            (14, self.content_encoding.is_some()),
            (13, self.headers.is_some()),
            (12, self.delivery_mode.is_some()),
            (11, self.priority.is_some()),
            (10, self.correlation_id.is_some()),
            (9, self.reply_to.is_some()),
            (8, self.expiration.is_some()),
            (7, self.message_id.is_some()),
        ];
        let flags = present
            .iter()
            .fold(0u16, |f, &(bit, set)| f | (u16::from(set) << bit));
        out.extend_from_slice(&flags.to_be_bytes());
        for text in [&self.content_type, &self.content_encoding]
            .into_iter()
            .flatten()
        {
            put_short(out, text);
        }
        if let Some(headers) = &self.headers {
            put_table(out, headers);
        }
        out.extend(self.delivery_mode);
        out.extend(self.priority);
        let tail = [
            &self.correlation_id,
            &self.reply_to,
            &self.expiration,
            &self.message_id,
        ];
        for text in tail.into_iter().flatten() {
            put_short(out, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        Properties::default().put(&mut out);
        assert_eq!(out, b"\0\0");
        out.clear();
        let p = Properties {
            delivery_mode: Some(2),
            correlation_id: Some("c".into()),
            reply_to: Some("r".into()),
            headers: Some(vec![]),
            ..Properties::default()
        };
        p.put(&mut out);
        assert_eq!(out, b"\x36\x00\0\0\0\0\x02\x01c\x01r");
    }
}
