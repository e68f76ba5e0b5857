//! AMQP 0-9-1 on the wire: frames, methods, field tables, properties.
//!
//! This crate turns octets into values and values into octets, and does
//! nothing else: no socket, no clock, no state between calls. The connection
//! code of the broker calls it for every frame in both directions.
//!
//! - [`frame`]: the protocol header and the frame envelope.
//! - [`method`]: every class and method as a struct, and [`Method`] over all.
//! - [`publish`] and [`content`]: what a published message arrives as,
//!   borrowed from the receive buffer.
//! - [`properties`]: the basic properties, raw, owned and rewritten.
//! - [`field_table`]: tables and arrays of typed values.
//! - [`encode`]: whole deliveries, returns and acknowledgements, written
//!   straight into an output buffer.
//! - [`constants`]: reply codes.
//!
//! Invariants: no input makes a function panic; every length is checked
//! against the bytes that are there before anything is allocated for it;
//! nesting is bounded by [`field_table::TABLE_DEPTH_MAX`]. Deliberately absent:
//! the order of methods on a channel and the assembly of a message from its
//! frames, which belong to the connection.

#![forbid(unsafe_code)]

pub mod constants;
pub mod content;
pub mod encode;
pub mod field_table;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
pub mod method;
pub mod properties;
pub mod publish;
mod short_str;
mod terms;
mod wire;

pub use constants::ReplyCode;
pub use content::{ContentHeaderError, ContentHeaderRef};
pub use field_table::{FieldTable, FieldValue, TableError};
pub use frame::{FrameError, FrameKind, FrameRef, parse_frame};
pub use method::{Method, MethodError};
pub use properties::{BasicProperties, PropertiesError, PropertiesRef};
pub use publish::BasicPublishRef;
pub use short_str::{ShortStr, ShortStrTooLong};
