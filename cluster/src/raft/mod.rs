//! Raft of one group over the node's journal, with openraft.
//!
//! - [`types`]: what openraft is told about members, votes, entries.
//! - [`codec`]: the bytes of these.
//! - [`log_index`]: what of a log is in memory, and how replay makes it again.
//! - [`flush`]: who waits for the journal's writer.
//! - [`log_storage`]: the log as openraft wants it.
//! - [`checkpoint`]: the group's part of its checkpoint.
//! - [`state_machine`]: what applies entries, and writes checkpoints.
//! - [`group`]: one group of a node: who leads, proposals, members.
//! - [`node`]: the groups of a node; [`reconcile`]: their way to the members that they are to have.
//! - [`figures`]: what a group tells an operator.
//! - [`snapshot`]: what a member far behind is given.
//! - [`rpc`]: the bytes of what members ask each other; [`network`]: how it gets there.

pub mod checkpoint;
pub mod codec;
pub mod figures;
pub mod flush;
pub mod group;
pub mod log_index;
pub mod log_storage;
pub mod network;
pub mod node;
pub mod reconcile;
pub mod rpc;
pub mod snapshot;
pub mod state_machine;
pub mod types;
