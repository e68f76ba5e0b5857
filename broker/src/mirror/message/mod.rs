//! What a session and a group's leader say to each other, and how that looks between nodes.
//!
//! A session speaks to one leader at a time, in order ([`Up`]); the leader answers in order ([`Down`]). On one node the values are
//! handed over as they are; between nodes they are encoded here: little-endian, every count checked against the bytes that are there.

mod codec;
#[cfg(test)]
mod tests;
mod wire;

use bytes::Bytes;
pub use leveret_queue::SessionId;
use leveret_queue::{DeadReason, Message, QueueId, Seq, Standing};

use crate::node::Settle;

/// A consumer's key in its session.
pub type ConsumerKey = u64;

/// Settles by sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleSeqs {
    /// The queue.
    pub queue: QueueId,
    /// Who holds them; `None`: nobody of this session any more.
    pub consumer: Option<ConsumerKey>,
    /// How.
    pub how: Settle,
    /// (the leader's number of the first, its sequence number, how many follow each other in both).
    pub items: Vec<(u64, Seq, u32)>,
}

/// What a consumer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    /// Its key.
    pub key: ConsumerKey,
    /// The queue.
    pub queue: QueueId,
    /// Deliveries are settled as they leave.
    pub no_ack: bool,
    /// It refuses others.
    pub exclusive: bool,
    /// It stands for basic.get only.
    pub passive: bool,
    /// It was cancelled and only holds what it has.
    pub cancelled: bool,
    /// `x-priority`.
    pub priority: i32,
    /// Unacknowledged messages at most; 0 means unlimited.
    pub prefetch: u32,
    /// Its channel's consumers share a window: it gets a delivery only for a place that was granted to it ([`Up::Grant`]).
    pub shared: bool,
    /// What an earlier leader said of it; `None` for a new one.
    pub before: Option<Standing>,
    /// Bytes of deliveries that it takes now.
    pub credit: u32,
}

/// A consumer that a session had when the leader changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What it asked for.
    pub attach: Attach,
    /// What it holds, in the order of its numbers: numbers 1 and up from now on.
    pub held: Vec<Seq>,
}

/// From a session to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// The session begins with this leader; its first batch will be `next`.
    Claim {
        /// Number of the first batch that is not known to be committed.
        next: u64,
        /// Number of the last batch that comes right behind this; below `next`: none.
        last: u64,
        /// Its consumers.
        claims: Vec<Claim>,
    },
    /// To be applied once.
    Batch {
        /// Its number in the session.
        number: u64,
        /// Settles.
        settles: Vec<SettleSeqs>,
        /// An entry without sequence numbers; empty: none.
        entry: Bytes,
    },
    /// A new consumer.
    Attach {
        /// Named by the answer.
        request: u64,
        /// What it asks for.
        attach: Attach,
    },
    /// basic.cancel: it keeps what it holds.
    Cancel {
        /// Named by the answer.
        request: u64,
        /// Which.
        key: ConsumerKey,
    },
    /// Its channel is gone: what it holds returns.
    Release {
        /// Which.
        key: ConsumerKey,
    },
    /// It takes more bytes of deliveries.
    Credit {
        /// Which.
        key: ConsumerKey,
        /// How many more.
        bytes: u32,
    },
    /// Places in its channel's window, for as many deliveries.
    Grant {
        /// Whose.
        key: ConsumerKey,
        /// How many.
        places: u32,
    },
    /// Its channel's consumers share a window from now on.
    Share {
        /// Whose.
        key: ConsumerKey,
    },
    /// basic.get.
    Get {
        /// Named by the answer.
        request: u64,
        /// From where.
        queue: QueueId,
        /// Who holds it; `None`: nobody has to acknowledge it.
        holder: Option<ConsumerKey>,
    },
    /// queue.purge.
    Purge {
        /// Named by the answer.
        request: u64,
        /// Which.
        queue: QueueId,
    },
    /// Messages and consumers of a queue.
    Counts {
        /// Named by the answer.
        request: u64,
        /// Which.
        queue: QueueId,
        /// It is declared: restarts `x-expires`.
        touch: bool,
    },
    /// A dead letter is safe at its targets.
    DeadLettered {
        /// The queue that it leaves.
        queue: QueueId,
        /// Its number there.
        seq: Seq,
        /// Why it left.
        reason: DeadReason,
    },
}

/// A message on its way to a session's consumer.
#[derive(Debug, Clone)]
pub struct Item {
    /// The leader's number for it, 0 if it needs no acknowledgement.
    pub number: u64,
    /// Its number in the queue.
    pub seq: Seq,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// Times it came back, if the queue counts them.
    pub delivery_count: Option<u32>,
    /// The message itself.
    pub message: Message,
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        let fixed = |i: &Item| (i.number, i.seq, i.redelivered, i.delivery_count);
        fixed(self) == fixed(other) && self.message.op_bytes() == other.message.op_bytes()
    }
}

/// From the leader to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// Numbers up to here are committed and applied.
    Committed {
        /// The highest.
        number: u64,
        /// Ops that a queue refused, by batch.
        refused: Vec<(u64, Vec<u32>)>,
    },
    /// A claimed consumer holds less than it claimed: some went elsewhere.
    Claimed {
        /// Which.
        key: ConsumerKey,
        /// The leader's number of each message that was claimed, in that order; 0: it is not the consumer's any more.
        numbers: Vec<u64>,
    },
    /// Answer to [`Up::Attach`].
    Attached {
        /// Whose.
        request: u64,
        /// Its place in the order of arrival; `None`: it is not there.
        arrival: Option<u64>,
    },
    /// It became its queue's single active consumer, or is it no more.
    Active {
        /// Which.
        key: ConsumerKey,
        /// Which of the two.
        active: bool,
    },
    /// It has something to get, and no place for it in its channel's window.
    Wanted {
        /// Whose.
        key: ConsumerKey,
    },
    /// Granted places that it had no use for.
    Unused {
        /// Whose.
        key: ConsumerKey,
        /// How many.
        places: u32,
    },
    /// Deliveries of a queue, in its order.
    Deliver {
        /// To whom, and what.
        items: Vec<(ConsumerKey, Item)>,
    },
    /// The queue is gone.
    Cancelled {
        /// Whose.
        key: ConsumerKey,
    },
    /// Answer to [`Up::Cancel`]: nothing is delivered to it after this.
    Ended {
        /// Whose.
        request: u64,
    },
    /// Answer to [`Up::Get`].
    Got {
        /// Whose.
        request: u64,
        /// The message, and how many wait behind it.
        got: Option<(Item, u64)>,
    },
    /// Answer to [`Up::Purge`].
    Purged {
        /// Whose.
        request: u64,
        /// How many messages went.
        messages: u64,
    },
    /// Answer to [`Up::Counts`].
    Counts {
        /// Whose.
        request: u64,
        /// Messages that wait.
        ready: u64,
        /// Consumers.
        consumers: u32,
    },
    /// It does not lead (any more): the session is to look for another.
    NotLeading,
}

/// Bytes that are no message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed session message at byte {0}")]
pub struct Malformed(pub usize);
