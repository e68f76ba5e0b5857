//! One connection to a peer that this node dialled: frames out, requests and their answers.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::name::NodeName;
use crate::wire::frame::{Body, Frame, FrameError, Header, OutFrame, flags};
use crate::wire::hello::{Hello, NodeId, Purpose};
use crate::wire::sender::{FrameSender, Lane, SendError};

/// Requests of one connection that wait for an answer.
pub const REQUESTS_MAX: usize = 65_536;

/// Who is at the other end of a connection. It proved that it knows the cookie; the rest is what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerId {
    /// Its number; zero before it has one.
    pub node: NodeId,
    /// Its name.
    pub name: NodeName,
    /// Of its disk.
    pub incarnation: u64,
    /// Of its process.
    pub boot: u64,
}

impl From<&Hello> for PeerId {
    fn from(hello: &Hello) -> Self {
        PeerId {
            node: hello.node,
            name: hello.name.clone(),
            incarnation: hello.incarnation,
            boot: hello.boot,
        }
    }
}

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There is no connection to the node. Nothing was sent.
    #[error("there is no connection to the node")]
    NotConnected,
    /// Too much waits for the peer already. Nothing was sent.
    #[error("too much waits for the node already")]
    Full,
    /// The connection ended; the peer may have done what was asked.
    #[error("the connection ended before the answer")]
    Broken,
    /// No answer in time; the peer may do what was asked.
    #[error("no answer in time")]
    TimedOut,
    /// The peer says why not.
    #[error("{0}")]
    Failed(String),
    /// The request is too long to be one frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<SendError> for RequestError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Full => RequestError::Full,
            SendError::Closed => RequestError::NotConnected,
        }
    }
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u64, oneshot::Sender<Frame>>,
    closed: bool,
}

struct Inner {
    peer: PeerId,
    purpose: Purpose,
    sender: FrameSender,
    next_id: AtomicU64,
    waiting: Mutex<Waiting>,
}

/// A connection that this node dialled. Clones are the same connection; it ends when the peer or the network ends it.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

impl Link {
    pub(super) fn new(peer: PeerId, purpose: Purpose, sender: FrameSender) -> Link {
        Link(Arc::new(Inner {
            peer,
            purpose,
            sender,
            next_id: AtomicU64::new(1),
            waiting: Mutex::default(),
        }))
    }

    /// Who is at the other end.
    pub fn peer(&self) -> &PeerId {
        &self.0.peer
    }

    /// What the connection is for.
    pub fn purpose(&self) -> Purpose {
        self.0.purpose
    }

    /// The lanes, for frames that want no answer.
    pub fn sender(&self) -> &FrameSender {
        &self.0.sender
    }

    /// Whether both are the same connection.
    pub fn is(&self, other: &Link) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Puts a frame that wants no answer behind those of its lane.
    ///
    /// # Errors
    /// It is too long, the lane is full, or the connection has ended.
    pub fn push(
        &self,
        lane: Lane,
        kind: u8,
        group: u16,
        body: impl Into<Body>,
    ) -> Result<(), RequestError> {
        let header = Header {
            kind,
            group,
            ..Header::default()
        };
        let frame = OutFrame::new(header, body)?;
        Ok(self.0.sender.try_send(lane, frame)?)
    }

    /// Puts a request behind the frames of its lane; its answer is to be waited for.
    ///
    /// # Errors
    /// As [`Link::push`], and [`REQUESTS_MAX`] wait already.
    pub fn begin(
        &self,
        lane: Lane,
        kind: u8,
        group: u16,
        body: impl Into<Body>,
    ) -> Result<Answer, RequestError> {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let header = Header {
            kind,
            flags: flags::REQUEST,
            group,
            id,
        };
        let frame = OutFrame::new(header, body)?;
        let (answer, receiver) = oneshot::channel();
        {
            let mut waiting = self.0.waiting.lock();
            if waiting.closed {
                return Err(RequestError::NotConnected);
            }
            if waiting.answers.len() >= REQUESTS_MAX {
                return Err(RequestError::Full);
            }
            waiting.answers.insert(id, answer);
        }
        let link = self.clone();
        // From here on, dropping it forgets the request.
        let pending = Answer { link, id, receiver };
        self.0.sender.try_send(lane, frame)?;
        Ok(pending)
    }

    /// A request and its answer's frame, within `timeout`.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        lane: Lane,
        kind: u8,
        group: u16,
        body: impl Into<Body>,
        timeout: Duration,
    ) -> Result<Frame, RequestError> {
        let answer = self.begin(lane, kind, group, body)?;
        match tokio::time::timeout(timeout, answer).await {
            Ok(answered) => answered,
            Err(_) => Err(RequestError::TimedOut),
        }
    }

    /// An answer has come. One that nobody waits for any more is dropped.
    pub(super) fn answered(&self, frame: Frame) {
        let waiting = self.0.waiting.lock().answers.remove(&frame.header.id);
        if let Some(waiting) = waiting {
            // Whoever asked may just have given up.
            let _ = waiting.send(frame);
        }
    }

    /// Ends it: what waits for an answer fails.
    pub(super) fn end(&self) {
        self.0.sender.abort();
        let mut waiting = self.0.waiting.lock();
        waiting.closed = true;
        waiting.answers.clear();
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} link to {}", self.0.purpose, self.0.peer.name)
    }
}

/// The answer to a request, to be awaited. Dropped, the request is forgotten here; the peer may still do it.
#[derive(Debug)]
pub struct Answer {
    link: Link,
    id: u64,
    receiver: oneshot::Receiver<Frame>,
}

impl Future for Answer {
    type Output = Result<Frame, RequestError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(context).map(|received| {
            let frame = received.map_err(|_| RequestError::Broken)?;
            if frame.header.flags & flags::FAILED == 0 {
                return Ok(frame);
            }
            let reason = String::from_utf8_lossy(&frame.body);
            Err(RequestError::Failed(
                reason
                    .chars()
                    .filter(|c| !c.is_control())
                    .take(1024)
                    .collect(),
            ))
        })
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.link.0.waiting.lock().answers.remove(&self.id);
    }
}
