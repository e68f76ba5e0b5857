//! Queues that other nodes have a part in: sessions, leaders, and what goes between them.
//!
//! [docs/cluster.md](../../../docs/cluster.md), section 5. Connections use a queue that is led elsewhere through their node's session with the
//! queue's group; a leader that happens to be on the same node is reached by a call instead of a socket, and by nothing else
//! differently.

mod changes;
pub mod cluster;
mod drain;
pub mod generations;
pub mod join;
pub mod lead;
mod machines;
pub mod membership;
pub mod message;
pub mod proposals;
pub mod remote;
pub mod session;
mod staging;
pub mod start;
mod transfer;

pub use cluster::Mirror;
pub use machines::{MetadataMachine, QueueMachine};
