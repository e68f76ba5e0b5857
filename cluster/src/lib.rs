//! Groups: logs over the node's journal that drive state machines.
//!
//! A group is a log of entries and a state machine that applies them in order. All groups of a node share one journal,
//! and so one fsync. This crate knows no AMQP: what an entry means is the business of the state machine.
//!
//! - [`GroupLog`] appends the entries of one group; its owner holds the group's lock.
//! - [`DurableWatch`] tells who waits for a place in the journal that it is durable.
//! - [`LogStore`] opens the journal and the checkpoints and replays what follows them.
//! - [`reclaim`] writes checkpoints, removes segments that nobody needs, and moves what still lives out of the others.
//! - [`wire`] and [`peers`] connect the nodes of a cluster; [`identity`] and [`founding`] say who they are and how they become one;
//!   [`address_book`] says where they were last.
//!
//! A group of this release has one member, the node itself: an entry is committed once this node's journal has it
//! (durably, where somebody waits for that).

#![forbid(unsafe_code)]

pub mod address_book;
pub mod boot;
pub mod founding;
pub mod fuzzing;
mod group_log;
pub mod identity;
mod log_store;
pub mod name;
pub mod peers;
pub mod power;
pub mod raft;
pub mod reclaim;
mod watch;
pub mod wire;

pub use group_log::GroupLog;
pub use log_store::{
    LogStore, LogStoreConfig, Mode, OpenError, Recovered, RecoveredGroup, Replica,
};
pub use watch::{DurableWatch, Notify};

/// A group's number. 0 is the metadata group.
pub type GroupId = u32;

/// The metadata group.
pub const METADATA_GROUP: GroupId = 0;

/// The first group of mirrored durable queues.
pub const MIRRORED_DURABLE: GroupId = 256;
/// The first group of mirrored queues that are not durable.
pub const MIRRORED_TRANSIENT: GroupId = 512;
/// Behind the last group there may be.
pub const GROUPS_END: GroupId = 768;

/// Whether a group is a Raft group on a node of a cluster: metadata and the mirrored groups are.
pub const fn is_raft(group: GroupId) -> bool {
    group == METADATA_GROUP || (group >= MIRRORED_DURABLE && group < GROUPS_END)
}

/// Whether an entry of a Raft group counts when it is durable; otherwise when it is written.
pub const fn is_durable(group: GroupId) -> bool {
    group < MIRRORED_TRANSIENT
}
