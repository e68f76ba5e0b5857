//! Groups: logs over the node's journal that drive state machines.
//!
//! A group is a log of entries and a state machine that applies them in order. All groups of a node share one journal,
//! and so one fsync. This crate knows no AMQP: what an entry means is the business of the state machine.
//!
//! - [`GroupLog`] appends the entries of one group; its owner holds the group's lock.
//! - [`DurableWatch`] tells who waits for a place in the journal that it is durable.
//! - [`LogStore`] opens the journal and the checkpoints and replays what follows them.
//! - [`reclaim`] writes checkpoints, removes segments that nobody needs, and moves what still lives out of the others.
//!
//! A group of this release has one member, the node itself: an entry is committed once this node's journal has it
//! (durably, where somebody waits for that).

#![forbid(unsafe_code)]

mod group_log;
mod log_store;
pub mod raft;
pub mod reclaim;
mod watch;

pub use group_log::GroupLog;
pub use log_store::{LogStore, LogStoreConfig, OpenError, Recovered, Replica};
pub use watch::{DurableWatch, Notify};

/// A group's number. 0 is the metadata group.
pub type GroupId = u32;

/// The metadata group.
pub const METADATA_GROUP: GroupId = 0;
