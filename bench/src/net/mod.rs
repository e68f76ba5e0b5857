//! Sockets: a blocking client for everything that is not measured, and a non-blocking one for what
//! is.

mod client;
mod socket;

pub use client::{Client, QueueOptions};
pub use socket::{Other, ReadOutcome, Socket, other_method};
