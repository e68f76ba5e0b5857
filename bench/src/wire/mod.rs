//! The part of AMQP 0-9-1 that a load generator speaks: enough to publish, consume, confirm and
//! declare, and nothing that the measured loop does not need.
//!
//! It is a codec of its own, not the broker's: a fault shared by both sides would stay unseen.
//! Encoding appends to a caller's buffer, parsing borrows from one; neither allocates on the way of
//! a message. Field tables are written, never read.

mod frame;
mod method;
mod properties;
mod template;

pub use frame::{FRAME_OVERHEAD, Frame, FrameKind, next_frame};
pub use method::{Cursor, FieldValue, MethodWriter, Table, id, method_id};
pub use properties::Properties;
pub use template::{MessageTemplate, STAMP_BYTES, Stamp, pattern_matches};

/// What a client sends before anything else (AMQP 0-9-1 section 4.2.2).
pub const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";

/// Bytes that are not AMQP 0-9-1, or not what the negotiated limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The octet that ends every frame is not 0xCE (section 4.2.3).
    #[error("frame does not end with 0xCE")]
    FrameEnd,
    /// A frame type other than method, header, body and heartbeat.
    #[error("unknown frame type {0}")]
    FrameType(u8),
    /// A frame larger than the negotiated `frame_max`.
    #[error("frame of {0} bytes exceeds the negotiated maximum")]
    FrameTooLarge(usize),
    /// A field ends before its length says so.
    #[error("truncated field")]
    Truncated,
    /// A content frame where none belongs, or more body than the header announced.
    #[error("content frame out of place")]
    ContentOutOfPlace,
}
