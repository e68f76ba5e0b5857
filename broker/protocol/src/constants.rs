//! Reply codes of AMQP 0-9-1 (section 1.1 of the XML specification), named and
//! classified as RabbitMQ does.

use crate::short_str::ShortStr;

macro_rules! reply_codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $hard:literal;)*) => {
        /// A reply code of connection.close, channel.close or basic.return.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum ReplyCode {
            $($(#[$doc])* $variant = $code,)*
        }

        impl ReplyCode {
            /// Every code, in ascending order.
            pub const ALL: &'static [ReplyCode] = &[$(ReplyCode::$variant,)*];

            /// The code with this number, if AMQP 0-9-1 has one.
            pub const fn from_u16(code: u16) -> Option<ReplyCode> {
                match code {
                    $($code => Some(ReplyCode::$variant),)*
                    _ => None,
                }
            }

            /// The name that starts a reply text, such as `NOT_FOUND`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(ReplyCode::$variant => $name,)*
                }
            }

            /// Whether the error closes the connection (a connection exception)
            /// and not only the channel.
            pub const fn is_hard(self) -> bool {
                match self {
                    $(ReplyCode::$variant => $hard,)*
                }
            }
        }
    };
}

reply_codes! {
    /// The operation succeeded; also the code of an orderly close.
    Success = 200, "REPLY_SUCCESS", false;
    /// The message is larger than the broker accepts.
    ContentTooLarge = 311, "CONTENT_TOO_LARGE", false;
    /// A mandatory message had no queue to go to.
    NoRoute = 312, "NO_ROUTE", false;
    /// An immediate message had no consumer.
    NoConsumers = 313, "NO_CONSUMERS", false;
    /// The operator closed the connection.
    ConnectionForced = 320, "CONNECTION_FORCED", true;
    /// The virtual host is unknown.
    InvalidPath = 402, "INVALID_PATH", true;
    /// Authentication or a permission failed.
    AccessRefused = 403, "ACCESS_REFUSED", false;
    /// The named entity does not exist.
    NotFound = 404, "NOT_FOUND", false;
    /// Another connection holds the entity exclusively.
    ResourceLocked = 405, "RESOURCE_LOCKED", false;
    /// A condition of the request does not hold.
    PreconditionFailed = 406, "PRECONDITION_FAILED", false;
    /// A frame could not be decoded.
    FrameError = 501, "FRAME_ERROR", true;
    /// A field has an illegal value.
    SyntaxError = 502, "SYNTAX_ERROR", true;
    /// The method is not allowed here.
    CommandInvalid = 503, "COMMAND_INVALID", true;
    /// The channel is not in a state for the request.
    ChannelError = 504, "CHANNEL_ERROR", true;
    /// A frame came that is not the expected one.
    UnexpectedFrame = 505, "UNEXPECTED_FRAME", true;
    /// The broker has not the resources for the request.
    ResourceError = 506, "RESOURCE_ERROR", true;
    /// The request is against the rules of the broker.
    NotAllowed = 530, "NOT_ALLOWED", true;
    /// The broker has not implemented the request.
    NotImplemented = 540, "NOT_IMPLEMENTED", true;
    /// The broker failed.
    InternalError = 541, "INTERNAL_ERROR", true;
}

/// Longest reply text in octets: a short string.
pub const REPLY_TEXT_MAX: usize = 255;

impl ReplyCode {
    /// The number on the wire.
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The reply text as RabbitMQ forms it: `NAME - explanation`, and when that
    /// is more than 255 octets, its first 252 and `...`.
    pub fn text(self, explanation: &str) -> ShortStr {
        let name = self.name();
        let mut text = Vec::with_capacity(name.len() + 3 + explanation.len());
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b" - ");
        text.extend_from_slice(explanation.as_bytes());
        if text.len() > REPLY_TEXT_MAX {
            text.truncate(REPLY_TEXT_MAX - 3);
            text.extend_from_slice(b"...");
        }
        ShortStr::truncated(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_variants_agree() {
        for &code in ReplyCode::ALL {
            assert_eq!(ReplyCode::from_u16(code.code()), Some(code));
        }
        assert_eq!(ReplyCode::from_u16(42), None);
    }

    #[test]
    fn texts_are_bounded_like_rabbitmqs() {
        let text = ReplyCode::NotFound.text("no queue 'q' in vhost '/'");
        assert_eq!(text, "NOT_FOUND - no queue 'q' in vhost '/'");
        let exact = ReplyCode::NotFound.text(&"x".repeat(243));
        assert_eq!(exact.len(), 255);
        assert!(exact.as_bytes().ends_with(b"xxx"));
        let long = ReplyCode::NotFound.text(&"x".repeat(244));
        assert_eq!(long.len(), 255);
        assert!(long.as_bytes().ends_with(b"xx..."));
    }
}
