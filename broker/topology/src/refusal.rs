//! What a command or an operation is refused with.

use std::fmt;

use leveret_protocol::ReplyCode;

use crate::model::Resource;

/// A refusal, in RabbitMQ's words. The caller adds the failing method's class
/// and method ids when it becomes a channel.close or connection.close; whether
/// it closes the connection is [`ReplyCode::is_hard`].
///
/// Mutations that have no AMQP method (users, policies, ...) use the same type:
/// `NotFound` for what is not there, `PreconditionFailed` for what is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The reply code.
    pub reply_code: ReplyCode,
    /// The explanation, without the code's name in front of it. The reply text
    /// on the wire is `reply_code.text(&text)`.
    pub text: String,
}

impl Refusal {
    /// A refusal with this code and explanation.
    pub fn new(reply_code: ReplyCode, text: impl Into<String>) -> Refusal {
        Refusal {
            reply_code,
            text: text.into(),
        }
    }

    /// 406 PRECONDITION_FAILED.
    pub fn precondition(text: impl Into<String>) -> Refusal {
        Refusal::new(ReplyCode::PreconditionFailed, text)
    }

    /// 403 ACCESS_REFUSED.
    pub fn access(text: impl Into<String>) -> Refusal {
        Refusal::new(ReplyCode::AccessRefused, text)
    }

    /// 404 NOT_FOUND for a queue or exchange that does not exist.
    pub fn not_found(resource: Resource<'_>) -> Refusal {
        Refusal::new(ReplyCode::NotFound, format!("no {resource}"))
    }

    /// 530 NOT_ALLOWED for a vhost that does not exist, as connection.open has it.
    pub fn no_vhost(vhost: &str) -> Refusal {
        Refusal::new(ReplyCode::NotAllowed, format!("vhost {vhost} not found"))
    }

    /// 405 RESOURCE_LOCKED for a queue that is exclusive to another connection.
    pub fn locked(queue: Resource<'_>) -> Refusal {
        Refusal::new(
            ReplyCode::ResourceLocked,
            format!(
                "cannot obtain exclusive access to locked {queue}. It could be originally \
                 declared on another connection or the exclusive property value does not match \
                 that of the original declaration."
            ),
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.reply_code.name(), self.text)
    }
}

impl std::error::Error for Refusal {}
