//! The Leveret broker: connections and channels, the node, the server, the command line.
//!
//! - [`connection`] and [`channel`]: state machines from bytes to bytes, without sockets.
//! - [`node`]: metadata, queue groups, store; what connections call.
//! - [`server`]: the only network sockets, signals, logs.
//! - [`ctl`]: the operator's command line of a running node.
//! - [`management`]: the HTTP API and metrics of a running node.

#![forbid(unsafe_code)]

pub mod channel;
pub mod cli;
mod clock;
pub mod connection;
pub mod ctl;
pub mod local_cluster;
pub mod management;
pub mod mirror;
pub mod node;
pub mod outbox;
pub mod server;
pub mod ticket;
