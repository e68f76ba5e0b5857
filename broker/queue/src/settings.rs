//! What of a queue's arguments and policies the machine acts on.

/// What happens to a message that does not fit a length limit (RabbitMQ extension, `x-overflow`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest waiting message goes.
    #[default]
    DropHead,
    /// The new message is refused: basic.nack to a confirming publisher.
    RejectPublish,
    /// As `RejectPublish`, and the refused message is dead-lettered.
    RejectPublishDlx,
}

/// Why a message was dead-lettered, or settled without an acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum DeadReason {
    /// basic.reject or basic.nack with requeue=false.
    Rejected = 1,
    /// Per-queue or per-message TTL.
    Expired = 2,
    /// `x-max-length` or `x-max-length-bytes`.
    MaxLen = 3,
    /// Returned to the queue more often than its delivery limit allows.
    DeliveryLimit = 4,
}

impl DeadReason {
    /// The word of the `reason` field in an `x-death` header.
    pub fn as_str(self) -> &'static str {
        match self {
            DeadReason::Rejected => "rejected",
            DeadReason::Expired => "expired",
            DeadReason::MaxLen => "maxlen",
            DeadReason::DeliveryLimit => "delivery_limit",
        }
    }
}

/// The effective settings of one queue: arguments merged with policies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Persistent messages are journaled and survive a restart.
    pub durable: bool,
    /// Deleted when its last consumer goes.
    pub auto_delete: bool,
    /// `x-message-ttl`, milliseconds. Zero expires what cannot be delivered at once.
    pub message_ttl_ms: Option<u64>,
    /// `x-expires`, milliseconds without consumer, get or declare.
    pub expires_ms: Option<u64>,
    /// `x-max-length`, waiting messages.
    pub max_length: Option<u64>,
    /// `x-max-length-bytes`, bytes of waiting bodies.
    pub max_length_bytes: Option<u64>,
    /// `x-overflow`.
    pub overflow: Overflow,
    /// A dead-letter exchange is set; which one is the topology's business.
    pub dead_letter: bool,
    /// `x-max-priority`, 0 to 255; 0 means no priorities.
    pub max_priority: u8,
    /// Returns to the queue after which a message is dropped or dead-lettered.
    pub delivery_limit: Option<u32>,
    /// Deliveries carry `x-delivery-count` (quorum declarations).
    pub count_deliveries: bool,
    /// `x-single-active-consumer`.
    pub single_active_consumer: bool,
}
