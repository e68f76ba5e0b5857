//! Connections that others dial: taken, judged, and given to their handlers.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::inbound::{Answers, Inbound};
use super::link::PeerId;
use super::{Heard, Inner, dial};
use crate::wire::frame::FrameReader;
use crate::wire::handshake::{self, HandshakeError};
use crate::wire::hello::{Hello, Purpose};
use crate::wire::sender::FrameSender;
use crate::wire::{ReadHalf, WriteHalf, tls};

/// Handshakes at once; who comes on top is closed.
pub const HANDSHAKES_MAX: usize = 64;
/// Of them from one address, so that one host cannot keep all others out.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 32;
/// After the system refused a connection (no descriptors).
const PAUSE: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Handshakes {
    of: HashMap<IpAddr, usize>,
    all: usize,
}

/// A place among the handshakes, until dropped.
struct Place(Arc<Mutex<Handshakes>>, IpAddr);

impl Place {
    fn take(handshakes: &Arc<Mutex<Handshakes>>, address: IpAddr) -> Option<Place> {
        let mut held = handshakes.lock();
        if held.all >= HANDSHAKES_MAX {
            return None;
        }
        let of = held.of.entry(address).or_default();
        if *of >= HANDSHAKES_PER_ADDRESS_MAX {
            return None;
        }
        *of += 1;
        held.all += 1;
        Some(Place(Arc::clone(handshakes), address))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.0.lock();
        held.all -= 1;
        if let Some(of) = held.of.get_mut(&self.1) {
            *of -= 1;
            if *of == 0 {
                held.of.remove(&self.1);
            }
        }
    }
}

/// Takes connections until the task is aborted.
pub(super) async fn listen(inner: Arc<Inner>, listener: TcpListener) {
    let handshakes = Arc::new(Mutex::new(Handshakes::default()));
    loop {
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection of a node");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let Some(place) = Place::take(&handshakes, address.ip()) else {
            tracing::debug!(%address, "too many handshakes");
            continue;
        };
        let inner = Arc::clone(&inner);
        tokio::spawn(async move {
            let shaken = timeout(inner.timing.handshake, shake(&inner, socket)).await;
            drop(place);
            match shaken.unwrap_or(Err(HandshakeError::TimedOut)) {
                Ok((hello, read, write)) => admit(inner, hello, read, write),
                Err(error) => tracing::warn!(%address, "a connection was not taken: {error}"),
            }
        });
    }
}

async fn shake(
    inner: &Inner,
    socket: TcpStream,
) -> Result<(Hello, ReadHalf, WriteHalf), HandshakeError> {
    // What it is for is known later, and its answers are short.
    dial::configure(&socket, inner, Purpose::Session)?;
    let (mut read, mut write) = tls::accepted(socket, inner.tls.as_deref()).await?;
    let me = |hello: &Hello| -> io::Result<Hello> { inner.me.read().hello(hello.purpose) };
    let judge = |hello: &Hello| inner.judge(hello);
    let hello = handshake::accept(&mut read, &mut write, me, &inner.cookie, judge).await?;
    Ok((hello, read, write))
}

/// Gives a connection to its handler.
fn admit(inner: Arc<Inner>, hello: Hello, read: ReadHalf, write: WriteHalf) {
    let purpose = hello.purpose;
    let peer = PeerId::from(&hello);
    let entry = match purpose {
        Purpose::Founding => None,
        _ => match inner.entry(hello.node) {
            Some(entry) => Some(entry),
            // Forgotten since it was judged.
            None => return,
        },
    };
    let (sender, writer) = FrameSender::new(write, inner.bounds);
    let heard = Heard {
        inner: Arc::clone(&inner),
        entry: entry.clone(),
        peer: peer.clone(),
        purpose,
    };
    heard.now();
    let inbound = Inbound {
        peer,
        purpose,
        reader: FrameReader::new(read),
        answers: Answers(sender.clone()),
        heard,
    };
    let handler = Arc::clone(inner.handlers.of(purpose));
    let task = tokio::spawn(async move {
        let _close = CloseOnDrop(sender);
        let writing = tokio::spawn(writer);
        let _writing = AbortOnDrop(writing.abort_handle());
        handler.serve(inbound).await;
    });
    if let Some(entry) = entry {
        entry.keep(task.abort_handle());
        entry.wake.notify_waiters();
    }
}

struct CloseOnDrop(FrameSender);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
