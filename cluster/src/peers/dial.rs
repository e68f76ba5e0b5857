//! Connections that this node dials, and dials again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::link::{Link, PeerId, RequestError};
use super::{Entry, Heard, Inner, PeerState, heartbeat, kind, slot};
use crate::name::NodeAddress;
use crate::wire::frame::{FrameReader, flags};
use crate::wire::handshake::{self, HandshakeError};
use crate::wire::hello::{Hello, Purpose};
use crate::wire::sender::{FrameSender, Lane};
use crate::wire::{ReadHalf, WriteHalf, tls};

/// A connection that lived longer is worth dialling again at once.
const LONG: std::time::Duration = std::time::Duration::from_secs(1);
/// The socket's buffer of what is to be sent on `raft` connections: what a heartbeat may have to wait for.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Why a node was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Nobody listens there.
    #[error("nobody listens at {0}")]
    Nobody(NodeAddress),
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where to.
        address: NodeAddress,
        /// The system's answer.
        source: io::Error,
    },
    /// The peer is not the right one, or does not want this node.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The connection was there, and the request failed.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It took too long.
    #[error("no answer in time")]
    TimedOut,
}

struct Connected {
    hello: Hello,
    read: ReadHalf,
    write: WriteHalf,
}

/// Connects and shakes hands. `known` is where the node was reached last: tried alone, and forgotten if that fails.
async fn connect(
    inner: &Inner,
    address: &NodeAddress,
    purpose: Purpose,
    known: &mut Option<SocketAddr>,
    judge: impl FnOnce(&Hello) -> Result<(), String>,
) -> Result<Connected, DialError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::ConnectionRefused => DialError::Nobody(address.clone()),
        _ => DialError::Connect {
            address: address.clone(),
            source,
        },
    };
    let socket = async {
        match known.take() {
            Some(known) => TcpStream::connect(known).await,
            None => TcpStream::connect((address.host.as_str(), address.port)).await,
        }
    };
    let socket = match timeout(inner.timing.connect, socket).await {
        Ok(connected) => connected.map_err(failed)?,
        Err(_) => return Err(DialError::TimedOut),
    };
    *known = socket.peer_addr().ok();
    configure(&socket, inner, purpose).map_err(failed)?;
    let shake = async {
        let (mut read, mut write) = tls::connected(socket, &address.host, inner.tls.as_deref())
            .await
            .map_err(HandshakeError::Stream)?;
        let me = inner
            .me
            .read()
            .hello(purpose)
            .map_err(HandshakeError::Stream)?;
        let hello = handshake::dial(&mut read, &mut write, &me, &inner.cookie, judge).await?;
        Ok(Connected { hello, read, write })
    };
    match timeout(inner.timing.handshake, shake).await {
        Ok(shaken) => shaken.map_err(DialError::Handshake),
        Err(_) => Err(HandshakeError::TimedOut.into()),
    }
}

/// Sets the options of a socket between nodes.
pub(super) fn configure(socket: &TcpStream, inner: &Inner, purpose: Purpose) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let options = socket2::SockRef::from(socket);
    #[cfg(any(target_os = "linux", target_os = "android"))]
    options.set_tcp_user_timeout(Some(inner.timing.unacknowledged))?;
    if purpose == Purpose::Raft {
        options.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    }
    Ok(())
}

/// Keeps a connection to a peer: until the task is aborted, or everything stops.
pub(super) async fn keep(inner: Arc<Inner>, entry: Arc<Entry>, purpose: Purpose) {
    let timing = inner.timing;
    let mut wait = timing.redial_min;
    let mut known = None;
    // The process that was reached, until it is known to be gone.
    let mut reached: Option<PeerId> = None;
    let mut complaint = String::new();
    while !inner.stopping.load(Ordering::Relaxed) {
        let judge = |hello: &Hello| {
            let expected = &entry.peer;
            if hello.name != expected.address.name {
                let (wanted, found) = (&expected.address, &hello.name);
                return Err(format!("{wanted} was expected there, {found} is there"));
            }
            if hello.purpose != purpose {
                return Err("it answers for another purpose".into());
            }
            inner.judge(hello)
        };
        let address = &entry.peer.address;
        match connect(&inner, address, purpose, &mut known, judge).await {
            Ok(connected) => {
                complaint.clear();
                let since = Instant::now();
                reached = Some(PeerId::from(&connected.hello));
                run(&inner, &entry, purpose, connected).await;
                if since.elapsed() >= LONG {
                    wait = timing.redial_min;
                    continue;
                }
            }
            Err(error) => {
                if let (DialError::Nobody(_), Purpose::Raft) = (&error, purpose)
                    && let Some(peer) = reached.take()
                {
                    inner.board.set(PeerState::Gone, &peer);
                }
                let text = error.to_string();
                if text != complaint && purpose == Purpose::Raft {
                    tracing::warn!(peer = %entry.peer.address, "{text}");
                    complaint = text;
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(timing.redial_max),
            () = entry.wake.notified() => wait = timing.redial_min,
        }
    }
}

/// A connection's place among the peer's, left however the connection ends.
struct Registered<'r> {
    inner: &'r Inner,
    entry: &'r Entry,
    link: Link,
    writer: JoinHandle<io::Result<()>>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.link.end();
        self.writer.abort();
        let purpose = self.link.purpose();
        if let Some(slot) = slot(purpose) {
            let mut links = self.entry.links.lock();
            if links[slot].as_ref().is_some_and(|link| link.is(&self.link)) {
                links[slot] = None;
            }
        }
        self.inner.handlers.of(purpose).disconnected(&self.link);
    }
}

/// Serves one connection to its end.
async fn run(inner: &Arc<Inner>, entry: &Arc<Entry>, purpose: Purpose, connected: Connected) {
    let peer = PeerId::from(&connected.hello);
    let (sender, writer) = FrameSender::new(connected.write, inner.bounds);
    let link = Link::new(peer.clone(), purpose, sender);
    let heard = Heard {
        inner: Arc::clone(inner),
        entry: Some(Arc::clone(entry)),
        peer: peer.clone(),
        purpose,
    };
    heard.now();
    // The first frame: what this node is, before anything that follows from it.
    if let Some(frame) = heartbeat(inner.status.read().clone()) {
        let _ = link.sender().try_send(Lane::Urgent, frame);
    }
    if let Some(slot) = slot(purpose) {
        entry.links.lock()[slot] = Some(link.clone());
    }
    let registered = Registered {
        inner,
        entry,
        link: link.clone(),
        writer: inner.runtime.spawn(writer),
    };
    let handler = inner.handlers.of(purpose);
    handler.connected(&link);
    if purpose == Purpose::Raft {
        inner.board.set(PeerState::Up, &peer);
    }
    let mut reader = FrameReader::new(connected.read);
    let ended = async {
        loop {
            while let Some(frame) = reader.buffered()? {
                if frame.header.flags & flags::ANSWER != 0 {
                    link.answered(frame);
                } else if frame.header.kind >= kind::OF_CONNECTIONS {
                    heard.frame(frame);
                } else {
                    handler.pushed(&link, frame);
                }
            }
            if !reader.advance().await? {
                return io::Result::Ok(());
            }
            heard.now();
        }
    };
    let ended: io::Result<()> = ended.await;
    drop(registered);
    match ended {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::error!(peer = %peer.name, ?purpose, %error, "connection closed");
        }
        Err(error) => tracing::debug!(peer = %peer.name, ?purpose, %error, "connection ended"),
        Ok(()) => tracing::debug!(peer = %peer.name, ?purpose, "connection ended"),
    }
}

/// One request over a connection of its own.
pub(super) async fn ask(
    inner: &Arc<Inner>,
    address: &NodeAddress,
    kind: u8,
    body: Vec<u8>,
) -> Result<(PeerId, Bytes), DialError> {
    let judge = |hello: &Hello| {
        if hello.name != address.name {
            let found = &hello.name;
            return Err(format!("{address} was expected there, {found} is there"));
        }
        inner.judge(hello)
    };
    let connected = connect(inner, address, Purpose::Founding, &mut None, judge).await?;
    let peer = PeerId::from(&connected.hello);
    let (sender, writer) = FrameSender::new(connected.write, inner.bounds);
    let link = Link::new(peer.clone(), Purpose::Founding, sender);
    let mut reader = FrameReader::new(connected.read);
    let answer = link.begin(Lane::Bulk, kind, 0, body)?;
    let read = async {
        while let Ok(Some(frame)) = reader.next().await {
            if frame.header.flags & flags::ANSWER != 0 {
                link.answered(frame);
            }
        }
        link.end();
    };
    let frame = tokio::select! {
        answered = answer => answered?,
        // The reader's end and the writer's fail the answer; if they come first, the request is broken as well.
        _ = async { tokio::join!(read, writer) } => return Err(RequestError::Broken.into()),
    };
    Ok((peer, frame.body))
}
