//! The task of one connection: the only code that touches its socket.
//!
//! One task reads and writes. A turn: read what the socket has, let the connection work on it, let it take what
//! came from elsewhere, write what there is. The task sleeps when the socket has nothing, nothing is to be written
//! that the socket would take, and nobody put anything into the outbox.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use leveret_net::Accepted;
use leveret_protocol::encode::put_heartbeat;
use leveret_protocol::frame::frame_size;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::connection::{Connection, Peer, Reading};
use crate::node::Node;

/// Bytes read from a socket at a time.
const READ_BYTES: usize = 128 << 10;
/// A frame of more than this is put together where it stays. Only peers that agreed on a larger `frame_max` send such.
const LARGE_FRAME_BYTES: usize = 2 * READ_BYTES;
/// An output buffer of more than this is given back when it is empty.
const OUTPUT_KEEP_BYTES: usize = 256 << 10;
/// Turns before other tasks get the thread.
const TURNS_MAX: usize = 16;
/// How long the peer has to answer connection.close, and to hang up after close-ok.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// How often a connection without heartbeats looks at its time-outs.
const TICK: Duration = Duration::from_secs(30);

thread_local! {
    /// Bytes between socket and connection. Nothing stays in it between two polls.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Where the socket is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Bytes go both ways.
    Open,
    /// We said all we had; the peer may still be sending.
    Draining,
}

struct Task<S> {
    node: Arc<Node>,
    stream: S,
    connection: Connection,
    /// The beginning of a frame that is not whole yet, or what was read while the connection had to wait.
    partial: Vec<u8>,
    /// Some of `partial` was not shown to the connection yet.
    unseen: bool,
    /// The peer has hung up; what it sent before counts.
    ended: bool,
    written: usize,
    stage: Stage,
    timer: Pin<Box<Sleep>>,
    /// When the peer was heard last, milliseconds of the node's clock.
    heard_ms: u64,
    spoke_ms: u64,
    opened_ms: u64,
    over_ms: Option<u64>,
    /// Bytes and reads.
    received: (u64, u64),
    /// Bytes and writes.
    sent: (u64, u64),
}

/// Serves an accepted connection until it is over.
pub async fn serve(node: Arc<Node>, accepted: Accepted) {
    let peer = Peer {
        peer: accepted.peer,
        local: accepted.local,
        tls: accepted.tls.is_some(),
        certificate_name: accepted
            .tls
            .as_ref()
            .and_then(|tls| tls.peer.as_ref()?.login_name.clone()),
    };
    let _slot = accepted.slot;
    serve_stream(node, accepted.stream, peer).await;
}

/// Serves a connection whose bytes come from anywhere.
pub async fn serve_stream<S>(node: Arc<Node>, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let now_ms = node.now_ms();
    let mut task = Task {
        connection: Connection::new(Arc::clone(&node), peer),
        stream,
        partial: Vec::new(),
        unseen: false,
        ended: false,
        written: 0,
        stage: Stage::Open,
        timer: Box::pin(sleep(Duration::from_secs(1))),
        heard_ms: now_ms,
        spoke_ms: now_ms,
        opened_ms: now_ms,
        over_ms: None,
        received: (0, 0),
        sent: (0, 0),
        node,
    };
    poll_fn(|cx| task.poll(cx)).await;
}

impl<S> Drop for Task<S> {
    fn drop(&mut self) {
        // Also when the task is dropped without having ended: consumers and exclusive queues must go.
        self.connection.release();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Task<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..TURNS_MAX {
            self.connection.outbox().register(cx.waker());
            self.connection.outbox().take_pending();
            let before = self.connection.reading();
            let mut progress = self.read(cx);
            if self.stage == Stage::Open {
                self.connection.turn();
            }
            progress |= self.write(cx);
            progress |= self.tick(cx);
            // What held the connection back has just gone: the socket must be asked before the task sleeps.
            progress |= before != Reading::Yes && self.connection.reading() == Reading::Yes;
            if self.is_over(cx) {
                return Poll::Ready(());
            }
            if !progress && !self.connection.outbox().is_pending() {
                self.connection.set_traffic(self.received, self.sent);
                return Poll::Pending;
            }
        }
        self.connection.set_traffic(self.received, self.sent);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn count_read(&mut self, read: usize) {
        if read > 0 {
            self.received = (self.received.0 + read as u64, self.received.1 + 1);
        }
    }

    /// Reads once and lets the connection work on it. Says whether anything happened.
    ///
    /// A connection that has to wait is read as well, a little: so its heartbeats are heard, and its end is seen.
    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stage == Stage::Draining {
            return self.drain(cx);
        }
        let working = match self.connection.reading() {
            Reading::Yes => true,
            Reading::No => false,
            Reading::Over => return false,
        };
        if !working && (self.ended || self.is_full()) {
            return false;
        }
        // What was kept back while the connection waited may be a whole frame by now.
        let again = working && (std::mem::take(&mut self.unseen) | self.connection.take_waited());
        if working
            && !again
            && !self.ended
            // What comes before is no frame, or a small one.
            && self.connection.is_open()
            && let Some(size) = frame_size(&self.partial)
            && size > LARGE_FRAME_BYTES.max(self.partial.len())
        {
            return self.read_large(cx, size);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let start = self.partial.len();
            if scratch.len() < start + READ_BYTES {
                scratch.resize(start + READ_BYTES, 0);
            }
            let Some((kept, free)) = scratch.split_at_mut_checked(start) else {
                return false;
            };
            let mut buf = ReadBuf::new(free.get_mut(..READ_BYTES).unwrap_or_default());
            let ready = match self.ended {
                true => Poll::Ready(Ok(())),
                false => Pin::new(&mut self.stream).poll_read(cx, &mut buf),
            };
            let read = buf.filled().len();
            self.count_read(read);
            match ready {
                Poll::Pending if start == 0 || !again => return false,
                Poll::Pending => {}
                Poll::Ready(Ok(())) if read == 0 && (working || self.connection.is_blocked()) => {
                    if !again {
                        self.hung_up("client unexpectedly closed TCP connection");
                        return true;
                    }
                    self.ended = true;
                }
                Poll::Ready(Ok(())) if read == 0 => self.ended = true,
                Poll::Ready(Ok(())) => self.heard_ms = self.node.now_ms(),
                Poll::Ready(Err(error)) => {
                    self.hung_up(&format!("socket: {error}"));
                    return true;
                }
            }
            if !working {
                self.partial.extend_from_slice(buf.filled());
                self.unseen = true;
                return true;
            }
            kept.copy_from_slice(&self.partial);
            self.partial.clear();
            let bytes = scratch.get(..start + read).unwrap_or_default();
            let used = self.connection.input(bytes);
            let rest = bytes.get(used..).unwrap_or_default();
            self.partial.extend_from_slice(rest);
            if self.partial.is_empty() && self.partial.capacity() > 4096 {
                self.partial = Vec::new();
            }
            // A poll that waited for nothing new must not spin.
            read > 0 || used > 0 || self.ended
        })
    }

    /// Reads more of a large frame of `size` bytes, whose beginning is in `partial`: to where it stays, so that what is there already
    /// is not moved with every read. (A frame over the agreed size was refused by its head.)
    fn read_large(&mut self, cx: &mut Context<'_>, size: usize) -> bool {
        let start = self.partial.len();
        // Grows by doubling: a head alone does not make anybody reserve what it claims.
        self.partial.resize(size.min(start + READ_BYTES), 0);
        let mut buf = ReadBuf::new(self.partial.get_mut(start..).unwrap_or_default());
        let ready = Pin::new(&mut self.stream).poll_read(cx, &mut buf);
        let read = buf.filled().len();
        self.partial.truncate(start + read);
        self.count_read(read);
        match ready {
            Poll::Pending => return false,
            Poll::Ready(Ok(())) if read == 0 => {
                self.hung_up("client unexpectedly closed TCP connection");
            }
            Poll::Ready(Ok(())) => {
                self.heard_ms = self.node.now_ms();
                if self.partial.len() == size {
                    let whole = std::mem::take(&mut self.partial);
                    let used = self.connection.input(&whole);
                    self.partial
                        .extend_from_slice(whole.get(used..).unwrap_or_default());
                }
            }
            Poll::Ready(Err(error)) => self.hung_up(&format!("socket: {error}")),
        }
        true
    }

    /// Nothing more is read while the connection waits.
    fn is_full(&self) -> bool {
        self.partial.len() >= READ_BYTES
    }

    /// Throws away what the peer still sends, so that closing the socket does not reset it.
    fn drain(&mut self, cx: &mut Context<'_>) -> bool {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < READ_BYTES {
                scratch.resize(READ_BYTES, 0);
            }
            let mut buf = ReadBuf::new(scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Pending => false,
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => true,
                Poll::Ready(_) => {
                    self.over_ms = Some(0);
                    true
                }
            }
        })
    }

    fn hung_up(&mut self, why: &str) {
        self.connection.lost(why);
        self.connection.output().clear();
        self.stage = Stage::Draining;
        self.over_ms = Some(0);
    }

    /// Writes what there is. Says whether the socket took anything.
    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        loop {
            let out = self.connection.output();
            let rest = out.get(self.written..).unwrap_or_default();
            if rest.is_empty() {
                out.clear();
                self.written = 0;
                if out.capacity() > OUTPUT_KEEP_BYTES {
                    *out = Vec::new();
                }
                break;
            }
            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Pending => break,
                Poll::Ready(Ok(n)) if n > 0 => {
                    self.written += n;
                    self.sent = (self.sent.0 + n as u64, self.sent.1 + 1);
                    self.spoke_ms = self.node.now_ms();
                    progress = true;
                }
                Poll::Ready(_) => {
                    self.hung_up("client closed the connection while it was written to");
                    return true;
                }
            }
        }
        // A buffer that is written slowly must not grow at its dead front.
        if self.written > OUTPUT_KEEP_BYTES {
            self.connection.output().drain(..self.written);
            self.written = 0;
        }
        // TLS holds bytes back until it is flushed; a plain socket has nothing to do.
        if progress && let Poll::Ready(Err(_)) = Pin::new(&mut self.stream).poll_flush(cx) {
            self.hung_up("client closed the connection while it was written to");
        }
        progress
    }

    /// Heartbeats and time-outs.
    fn tick(&mut self, cx: &mut Context<'_>) -> bool {
        let mut progress = false;
        if self.connection.is_closing() && self.over_ms.is_none() {
            // The time of the answer runs from now on.
            self.over_ms = Some(self.node.now_ms());
            self.timer.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            progress |= self.look_at_the_clock();
            let next = self.tick_interval();
            self.timer.as_mut().reset(Instant::now() + next);
        }
        progress
    }

    fn tick_interval(&self) -> Duration {
        if !self.connection.is_open() || self.connection.is_closing() || self.over_ms.is_some() {
            return Duration::from_secs(1);
        }
        let mut interval = TICK;
        if self.connection.heartbeat_s() > 0 {
            interval = interval.min(Duration::from_millis(
                u64::from(self.connection.heartbeat_s()) * 500,
            ));
        }
        if let Some(ms) = self.node.config().queues.consumer_timeout_ms {
            interval = interval.min(Duration::from_millis((ms / 2).max(500)));
        }
        interval
    }

    fn look_at_the_clock(&mut self) -> bool {
        let now_ms = self.node.now_ms();
        let silent_ms = now_ms.saturating_sub(self.heard_ms);
        if !self.connection.is_open() {
            let timeout = self
                .node
                .config()
                .net
                .handshake_timeout_ms
                .unwrap_or(u64::MAX);
            if now_ms.saturating_sub(self.opened_ms) >= timeout {
                self.hung_up("handshake timeout");
                return true;
            }
            return false;
        }
        if self.connection.is_closing() {
            let since = *self.over_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) >= CLOSE_TIMEOUT.as_millis() as u64 {
                self.hung_up("no close-ok");
                return true;
            }
            return false;
        }
        self.connection.tick();
        let heartbeat_ms = u64::from(self.connection.heartbeat_s()) * 1000;
        if heartbeat_ms == 0 || self.stage == Stage::Draining {
            return false;
        }
        // A connection that is not read cannot be heard.
        if self.connection.reading() != Reading::Yes && self.is_full() {
            self.heard_ms = now_ms;
        } else if silent_ms >= heartbeat_ms * 2 {
            self.hung_up(&format!(
                "missed heartbeats from client, timeout: {}s",
                heartbeat_ms / 1000
            ));
            return true;
        }
        if now_ms.saturating_sub(self.spoke_ms) >= heartbeat_ms / 2
            && self.connection.output().is_empty()
        {
            put_heartbeat(self.connection.output());
            return true;
        }
        if self.connection.output().is_empty() {
            *self.connection.output() = Vec::new();
        }
        false
    }

    /// After the last byte: closes our side, waits for the peer's.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.connection.reading() != Reading::Over || !self.connection.output().is_empty() {
            return false;
        }
        if self.over_ms == Some(0) {
            return true;
        }
        let now_ms = self.node.now_ms();
        if self.stage == Stage::Open {
            self.stage = Stage::Draining;
            self.over_ms = Some(now_ms);
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
            self.timer.as_mut().reset(Instant::now() + CLOSE_TIMEOUT);
            // Once more, to register for what is still to be read.
            self.drain(cx);
            return self.over_ms == Some(0) || {
                let _ = self.timer.as_mut().poll(cx);
                false
            };
        }
        let since = self.over_ms.unwrap_or(now_ms);
        now_ms.saturating_sub(since) >= CLOSE_TIMEOUT.as_millis() as u64
    }
}
