//! From a port to a stream that AMQP can be spoken on.
//!
//! The server binds the [`Listeners`] that a [`Config`](leveret_config::Config) names and gives
//! [`serve`](Listeners::serve) a function; for every connection that passes what comes before AMQP (the PROXY
//! header, the TLS handshake) the function gets an [`Accepted`], in the task that stays the
//! connection's own.
//!
//! Invariants:
//! - an accept loop ends only when it is told to; an error of `accept` never ends it and never makes
//!   it spin;
//! - what is before AMQP is limited in time and in bytes, and holds up no other connection;
//! - a TLS configuration that does not work never replaces one that does.
//!
//! Deliberately absent: AMQP, and its own handshake timeout.

#![forbid(unsafe_code)]

mod bind;
mod listeners;
pub mod proxy;
mod stats;
mod stream;
pub mod tls;

pub use bind::BindError;
pub use listeners::{Accepted, ListenError, Listeners, LocalAddr, Serving};
pub use stats::{ConnectionSlot, Counters};
pub use stream::Stream;
