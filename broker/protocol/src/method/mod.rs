//! Every class and method of AMQP 0-9-1 and of RabbitMQ's extensions to it.
//!
//! The module `table` is one table: it makes a struct for each method, and
//! [`Method`] over all of them. The payload of a method frame is
//!
//! ```text
//!  0          2           4
//! +----------+-----------+--------------+
//! | class id | method id | arguments    |
//! | u16 BE   | u16 BE    |              |
//! +----------+-----------+--------------+
//! ```
//!
//! Names RabbitMQ requires to be UTF-8 are checked (`shortstr` in the table);
//! those it takes as they are, are not (`shortbytes`). Like RabbitMQ, decoding
//! ignores bits of a bit octet that the method does not name.
//!
//! For basic.publish there is [`crate::publish::BasicPublishRef`], which does
//! not allocate.

mod error;
mod table;

pub use error::MethodError;
pub use table::*;

use crate::wire::Cursor;

/// Who sends a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sender {
    /// Clients only.
    Client,
    /// The server only.
    Server,
    /// Both.
    Both,
}

impl Sender {
    /// Whether a server accepts the method from a client.
    pub const fn is_client(self) -> bool {
        matches!(self, Sender::Client | Sender::Both)
    }
}

/// Class id and method id as one number, to match on a method before it is
/// decoded: `match split_method(payload)?.0 { BasicPublish::ID => ... }`.
#[inline]
pub const fn method_id(class_id: u16, method_id: u16) -> u32 {
    (class_id as u32) << 16 | method_id as u32
}

/// Splits the payload of a method frame into its id (see [`method_id`]) and its
/// arguments.
///
/// # Errors
/// [`MethodError::TooShort`].
#[inline]
pub fn split_method(payload: &[u8]) -> Result<(u32, &[u8]), MethodError> {
    let mut cursor = Cursor::new(payload);
    let id = cursor.u32().ok_or(MethodError::TooShort)?;
    Ok((id, cursor.rest()))
}
