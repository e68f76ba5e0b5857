//! The queue machine: commands in, effects out.
//!
//! A [`Machine`] holds the queues of one group. It is driven by entries (batches of commands, see [`entry`]) in the
//! order of the group's log, and by the leader's own calls (consume, cancel, settle, timers). It does no I/O and reads
//! no clock: the time is a parameter, bodies that left memory come through the [`Store`] trait, and deliveries leave
//! through the [`Link`] trait.
//!
//! What is replicated (equal on every mirror at equal index) is a queue's `next_seq`, its live messages and their delivery counts.
//! What is the leader's own: the order of waiting, consumers, prefetch, what is unacknowledged, timers.
//! Deliberately absent: routing, names, permissions (topology), frames and channels (broker), disk (storage).

#![forbid(unsafe_code)]

pub mod checkpoint;
mod consumer;
pub mod entry;
#[doc(hidden)]
pub mod fuzzing;
mod link;
mod machine;
mod queue;
mod ready;
mod replica;
mod runs;
mod settings;
mod state;

pub use consumer::{ConsumerSlot, ConsumerSpec, ConsumerView, Standing, UnackedRange};
pub use entry::{
    BatchBuilder, EntryBuf, EntryBuilder, EntryError, Message, NewMessage, Part, SessionId,
};
pub use link::{Delivery, Limiter, Link, Location, NoStore, Store, StoreError, Stored, Waiter};
pub use machine::{
    DeadLetter, Effects, GetResult, Machine, Outcome, QueueRef, Removed, SeqRange, Settle,
};
pub use queue::{Counters, Depth, QueueView};
pub use replica::{Applied, Barriers, PartOutcome, Replica};
pub use runs::{Run, RunSet};
pub use settings::{DeadReason, Overflow, Settings};
pub use state::QueueState;

/// A queue's identity: the metadata index of the command that created it. Never reused.
pub type QueueId = u64;

/// A message's number in its queue. Grows by one for each message enqueued; gaps are allowed, reuse never.
pub type Seq = u64;
