//! One connection that a peer dialled: its frames, and the answers to them.

use std::io;

use tokio::time::Instant;

use super::link::PeerId;
use super::{Heard, kind};
use crate::wire::ReadHalf;
use crate::wire::frame::{Body, Frame, FrameReader, Header, OutFrame, flags};
use crate::wire::hello::Purpose;
use crate::wire::sender::{FrameSender, Lane, SendError};

/// A connection that a peer dialled, to be served.
pub struct Inbound {
    pub(super) peer: PeerId,
    pub(super) purpose: Purpose,
    pub(super) reader: FrameReader<ReadHalf>,
    pub(super) answers: Answers,
    pub(super) heard: Heard,
}

impl Inbound {
    /// Who dialled.
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// What for.
    pub fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Where answers go. To be cloned.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// The next frame, in the order in which they were put into their lane; nothing at the end. Cancel safe.
    ///
    /// # Errors
    /// The socket's, bytes that are no frame, and nothing at all for [`super::Timing::idle`].
    pub async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            while let Some(frame) = self.reader.buffered()? {
                if frame.header.kind < kind::OF_CONNECTIONS {
                    return Ok(Some(frame));
                }
                self.heard.frame(frame);
            }
            let idle = Instant::now() + self.heard.inner.timing.idle;
            match tokio::time::timeout_at(idle, self.reader.advance()).await {
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(false)) => return Ok(None),
                Ok(Ok(true)) => self.heard.now(),
            }
        }
    }
}

/// Sends what a peer that dialled is to get. Clones are the same connection.
#[derive(Clone)]
pub struct Answers(pub(super) FrameSender);

impl Answers {
    /// Answers a request.
    ///
    /// # Errors
    /// The lane is full, the connection has ended, or the answer is too long (which the peer is told instead).
    pub fn answer(
        &self,
        lane: Lane,
        request: &Header,
        body: impl Into<Body>,
    ) -> Result<(), SendError> {
        let header = Header {
            flags: flags::ANSWER,
            ..*request
        };
        match OutFrame::new(header, body) {
            Ok(frame) => self.0.try_send(lane, frame),
            Err(error) => self.fail(lane, request, &error.to_string()),
        }
    }

    /// Answers a request with the reason why it was not done.
    ///
    /// # Errors
    /// The lane is full or the connection has ended.
    pub fn fail(&self, lane: Lane, request: &Header, reason: &str) -> Result<(), SendError> {
        let header = Header {
            flags: flags::ANSWER | flags::FAILED,
            ..*request
        };
        let reason: String = reason.chars().take(1024).collect();
        // 4 KiB at most.
        match OutFrame::new(header, reason.into_bytes()) {
            Ok(frame) => self.0.try_send(lane, frame),
            Err(_) => Ok(()),
        }
    }

    /// The lanes, for frames that answer nothing.
    pub fn sender(&self) -> &FrameSender {
        &self.0
    }
}
