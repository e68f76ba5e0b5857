//! What is wrong with the payload of a method frame.

use crate::constants::ReplyCode;
use crate::field_table::TableError;
use crate::terms;
use crate::wire::ArgError;

/// A method that cannot be decoded. All of them are connection exceptions.
/// `Display` gives the explanation for the reply text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// The payload is shorter than class id and method id. RabbitMQ calls the
    /// frame unknown: see [`crate::frame::unknown_frame_text`].
    #[error("method frame of less than 4 octets")]
    TooShort,
    /// There is no such method.
    #[error("unknown method {class_id}.{method_id}")]
    Unknown {
        /// Class id of the frame.
        class_id: u16,
        /// Method id of the frame.
        method_id: u16,
    },
    /// The arguments end early, or octets follow the last one.
    #[error("cannot decode {shown}")]
    Arguments {
        /// Class id of the frame.
        class_id: u16,
        /// Method id of the frame.
        method_id: u16,
        /// The octets of the arguments as RabbitMQ prints them, cut.
        shown: Box<str>,
    },
    /// A short string is not UTF-8. On channel 0 RabbitMQ names the method in
    /// its connection.close, on other channels it puts zeros.
    #[error("Malformed UTF-8 in shortstr")]
    Utf8 {
        /// Class id of the frame.
        class_id: u16,
        /// Method id of the frame.
        method_id: u16,
    },
    /// A table among the arguments is malformed.
    #[error("{error}")]
    Table {
        /// Class id of the frame.
        class_id: u16,
        /// Method id of the frame.
        method_id: u16,
        /// What is wrong with the table.
        error: TableError,
    },
}

impl MethodError {
    #[cold]
    pub(crate) fn new(id: u32, args: &[u8], error: ArgError) -> MethodError {
        let (class_id, method_id) = ((id >> 16) as u16, id as u16);
        match error {
            ArgError::Layout => {
                let shown = terms::octets(args).into();
                MethodError::Arguments {
                    class_id,
                    method_id,
                    shown,
                }
            }
            ArgError::Utf8 => MethodError::Utf8 {
                class_id,
                method_id,
            },
            ArgError::Table(error) => MethodError::Table {
                class_id,
                method_id,
                error,
            },
        }
    }

    #[cold]
    pub(crate) fn unknown(id: u32) -> MethodError {
        MethodError::Unknown {
            class_id: (id >> 16) as u16,
            method_id: id as u16,
        }
    }

    /// The reply code for connection.close.
    ///
    /// Where RabbitMQ 3.10 answers, this is its code. An unknown method and a
    /// malformed table make its reader fail without an answer: the client sees
    /// the socket closed. Here they get codes of the specification.
    pub const fn reply_code(&self) -> ReplyCode {
        match self {
            MethodError::TooShort | MethodError::Arguments { .. } | MethodError::Utf8 { .. } => {
                ReplyCode::FrameError
            }
            MethodError::Unknown { .. } => ReplyCode::NotImplemented,
            MethodError::Table { .. } => ReplyCode::SyntaxError,
        }
    }

    /// Class id and method id for connection.close; zeros when there are none.
    pub const fn ids(&self) -> (u16, u16) {
        match self {
            MethodError::TooShort => (0, 0),
            MethodError::Unknown {
                class_id,
                method_id,
            }
            | MethodError::Arguments {
                class_id,
                method_id,
                ..
            }
            | MethodError::Utf8 {
                class_id,
                method_id,
            }
            | MethodError::Table {
                class_id,
                method_id,
                ..
            } => (*class_id, *method_id),
        }
    }
}
