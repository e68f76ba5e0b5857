//! Raft of one group over the node's journal, with openraft.
//!
//! - [`types`]: what openraft is told about members, votes, entries.
//! - [`codec`]: the bytes of these.

pub mod codec;
pub mod types;
