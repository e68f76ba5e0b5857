//! A non-blocking socket with its receive buffer and its unsent bytes.

use std::io::{self, Read, Write};

use mio::net::TcpStream;

use super::Client;
use super::client::closed;
use crate::error::{Context, Error, Result};
use crate::wire::{Cursor, Frame, id, next_frame};

/// Room to read beside one frame of the largest size.
const READ_BYTES: usize = 128 << 10;

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOutcome {
    /// Bytes came, and more may wait.
    More,
    /// Bytes came, and the socket is empty.
    Drained,
    /// Nothing came.
    Empty,
}

/// One connection under load.
pub struct Socket {
    stream: TcpStream,
    inbox: Vec<u8>,
    start: usize,
    end: usize,
    out: Vec<u8>,
    sent: usize,
    frame_max: usize,
    /// connection.blocked came and connection.unblocked did not yet.
    pub blocked: bool,
}

impl Socket {
    /// Takes a connection over from the blocking client.
    ///
    /// # Errors
    /// The system refuses to make it non-blocking.
    pub fn new(client: Client) -> Result<Socket> {
        let frame_max = client.frame_max;
        let (stream, mut inbox) = client.into_parts();
        stream.set_nonblocking(true).context("O_NONBLOCK")?;
        let end = inbox.len();
        if end == 0 {
            // A fresh zeroed vector is mapped lazily: idle connections cost no memory for it.
            inbox = vec![0; frame_max + READ_BYTES];
        } else {
            inbox.resize(end.max(frame_max) + READ_BYTES, 0);
        }
        Ok(Socket {
            stream: TcpStream::from_std(stream),
            inbox,
            start: 0,
            end,
            out: Vec::new(),
            sent: 0,
            frame_max,
            blocked: false,
        })
    }

    /// For registration with a poller.
    pub fn source(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads once, as much as there is room for.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn read(&mut self) -> Result<ReadOutcome> {
        if self.start > 0 {
            self.inbox.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        let room = self.inbox.get_mut(self.end..).unwrap_or_default();
        let asked = room.len();
        match self.stream.read(room) {
            Ok(0) => Err(Error::Eof),
            Ok(n) => {
                self.end += n;
                // A stream socket that gives less than was asked is empty (epoll(7)).
                Ok(if n < asked {
                    ReadOutcome::Drained
                } else {
                    ReadOutcome::More
                })
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(ReadOutcome::Empty),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(ReadOutcome::More),
            Err(e) => Err(e).context("reading from the broker"),
        }
    }

    /// Hands every whole frame that has arrived to `each`.
    ///
    /// # Errors
    /// Bytes that are no frame, or what `each` returns.
    #[inline]
    pub fn frames(
        &mut self,
        mut each: impl FnMut(Frame<'_>, &mut Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        loop {
            let unread = self.inbox.get(self.start..self.end).unwrap_or_default();
            let Some(frame) = next_frame(unread, self.frame_max)? else {
                return Ok(());
            };
            self.start += frame.wire_len();
            each(frame, &mut self.out)?;
        }
    }

    /// Bytes queued by [`Socket::frames`] and [`Socket::queue`] that the system has not taken.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// The buffer that [`Socket::flush`] writes from.
    pub fn queue(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Writes what is queued; true if nothing is left.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self) -> Result<bool> {
        while self.sent < self.out.len() {
            let rest = self.out.get(self.sent..).unwrap_or_default();
            match self.stream.write(rest) {
                Ok(n) => self.sent += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e).context("writing to the broker"),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(true)
    }

    /// Writes from a buffer of the caller's, past the queue; `None` if the system takes nothing now.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn write(&mut self, bytes: &[u8]) -> Result<Option<usize>> {
        match self.stream.write(bytes) {
            Ok(n) => Ok(Some(n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(Some(0)),
            Err(e) => Err(e).context("writing to the broker"),
        }
    }
}

/// A method that belongs to no scenario in particular.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Other {
    /// The broker stopped reading this publisher's socket (RabbitMQ extension).
    Blocked,
    /// And goes on.
    Unblocked,
    /// Of no interest.
    Ignored,
}

/// Deals with the methods that may come on any connection at any time.
///
/// # Errors
/// The broker closes the channel or the connection, or cancels the consumer.
pub fn other_method(method: u32, arguments: Cursor<'_>) -> Result<Other> {
    match method {
        id::CONNECTION_CLOSE => Err(closed("connection", arguments)?),
        id::CHANNEL_CLOSE => Err(closed("channel", arguments)?),
        id::BASIC_CANCEL => Err(Error::Failed("the broker cancelled a consumer".into())),
        id::CONNECTION_BLOCKED => Ok(Other::Blocked),
        id::CONNECTION_UNBLOCKED => Ok(Other::Unblocked),
        id::CHANNEL_FLOW => Err(Error::Failed(
            "the broker sent channel.flow, which is not supported".into(),
        )),
        _ => Ok(Other::Ignored),
    }
}
