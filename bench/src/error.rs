//! What can end a scenario before its time.

use crate::wire::WireError;

/// Every failure that reaches the command line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The command line or a scenario file asks for something that cannot be.
    #[error("{0}")]
    Usage(String),
    /// The system refused; `what` says what was tried.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The broker sent something that is not AMQP 0-9-1.
    #[error("the broker broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The broker closed a channel or the connection.
    #[error("the broker closed the {scope}: {code} {text}")]
    Closed {
        /// "channel" or "connection".
        scope: &'static str,
        /// Reply code of AMQP 0-9-1 section 1.2.
        code: u16,
        /// Reply text.
        text: String,
    },
    /// The broker closed the socket without a word.
    #[error("the broker closed the socket")]
    Eof,
    /// Something that must happen did not, or the other way round.
    #[error("{0}")]
    Failed(String),
}

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Gives system errors the name of what was tried.
pub trait Context<T> {
    /// Turns the system's error into [`Error::Io`].
    fn context(self, what: impl Into<String>) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|source| Error::Io {
            what: what.into(),
            source,
        })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context(self, what: impl Into<String>) -> Result<T> {
        self.map_err(|e| Error::Io {
            what: what.into(),
            source: e.into(),
        })
    }
}
