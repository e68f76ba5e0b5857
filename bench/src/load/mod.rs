//! The measured loop: producers and consumers on non-blocking sockets, a few threads for all.

mod consumer;
mod counters;
mod driver;
mod pace;
mod plan;
mod producer;
mod session;
#[cfg(test)]
mod session_tests;
mod topology;
mod watch;

pub use counters::{Counts, Shared};
pub use plan::{Plan, bounded, take_arguments, take_uris};
pub use session::{Ledger, run};
pub use topology::Topology;
pub use watch::{Goal, Outcome, Watch};
