//! What the arguments and the policies of a queue come to.

use super::{Key, Name};

/// What happens to a publish when the queue is at its limit (`x-overflow`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// The oldest message makes room.
    #[default]
    DropHead,
    /// The publish is refused.
    RejectPublish,
    /// The publish is refused and dead-lettered.
    RejectPublishDlx,
}

impl Overflow {
    /// The value of the argument.
    pub const fn as_str(self) -> &'static str {
        match self {
            Overflow::DropHead => "drop-head",
            Overflow::RejectPublish => "reject-publish",
            Overflow::RejectPublishDlx => "reject-publish-dlx",
        }
    }

    /// The value of this name, if there is one.
    pub fn from_name(name: &str) -> Option<Overflow> {
        [
            Overflow::DropHead,
            Overflow::RejectPublish,
            Overflow::RejectPublishDlx,
        ]
        .into_iter()
        .find(|value| value.as_str() == name)
    }
}

/// How sure dead-lettering is (`x-dead-letter-strategy`). Leveret always does
/// at least once; the word is kept for whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum DeadLetterStrategy {
    /// A dead letter may get lost on its way.
    #[default]
    AtMostOnce,
    /// It does not.
    AtLeastOnce,
}

impl DeadLetterStrategy {
    /// The value of the argument.
    pub const fn as_str(self) -> &'static str {
        match self {
            DeadLetterStrategy::AtMostOnce => "at-most-once",
            DeadLetterStrategy::AtLeastOnce => "at-least-once",
        }
    }

    /// The value of this name, if there is one.
    pub fn from_name(name: &str) -> Option<DeadLetterStrategy> {
        [
            DeadLetterStrategy::AtMostOnce,
            DeadLetterStrategy::AtLeastOnce,
        ]
        .into_iter()
        .find(|value| value.as_str() == name)
    }
}

/// What the policy keys `ha-mode` and `ha-params` ask for. Any of them makes a
/// queue mirrored; how many nodes then hold it is the cluster's affair.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HaMode {
    /// On every node.
    All,
    /// On this many.
    Exactly(u32),
    /// On the nodes of these names.
    Nodes(Vec<Name>),
}

/// The settings of a queue after the merge of its arguments, its policy and
/// its operator policy. `None`: not set, so no limit.
///
/// The merge is RabbitMQ's: of a number in several places the smallest; of
/// anything else the argument before the policy; the operator policy limits
/// both.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct EffectiveQueueSettings {
    /// `message-ttl`: milliseconds a message may wait.
    pub message_ttl_ms: Option<u64>,
    /// `expires`: milliseconds the queue may be unused. Never 0.
    pub expires_ms: Option<u64>,
    /// `max-length`: most messages that wait.
    pub max_length: Option<u64>,
    /// `max-length-bytes`: most octets of the bodies that wait.
    pub max_length_bytes: Option<u64>,
    /// `overflow`.
    pub overflow: Overflow,
    /// `dead-letter-exchange`, in the vhost of the queue; empty for the default
    /// exchange. It need not exist.
    pub dead_letter_exchange: Option<Name>,
    /// `dead-letter-routing-key`; without it the message's own keys.
    pub dead_letter_routing_key: Option<Key>,
    /// `dead-letter-strategy`.
    pub dead_letter_strategy: DeadLetterStrategy,
    /// `max-priority`: the highest priority that is told apart, 1 to 255.
    pub max_priority: Option<u8>,
    /// `delivery-limit`: how often a message may come back before it is
    /// dead-lettered.
    pub delivery_limit: Option<u64>,
    /// `single-active-consumer`.
    pub single_active_consumer: bool,
    /// `consumer-timeout`: milliseconds a delivery may stay unacknowledged.
    pub consumer_timeout_ms: Option<u64>,
    /// `queue-mode: lazy`. Kept for whoever asks: every queue is lazy here.
    pub lazy: bool,
    /// `ha-mode` with `ha-params`, from policies alone.
    pub ha_mode: Option<HaMode>,
}
