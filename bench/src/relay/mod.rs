//! A relay that looks like a broker and keeps nothing: what a publisher sends goes straight to the
//! consumer's socket, in the thread that read it.
//!
//! It serves three ends: the limit that no broker on this machine can pass, the cost of the
//! generator itself, and, with a fault switched on, the proof that the verdict finds faults.
//! Routing is by routing key as queue name, whatever the exchange. There is no store: a message for
//! a queue without a consumer is dropped. Nothing here is meant for messages of value.

mod connection;

use std::collections::HashMap;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::error::{Context, Error, Result};
use crate::flags::Flags;

/// A fault that the relay commits once every so many messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The message is not delivered.
    Lose,
    /// It is delivered twice.
    Duplicate,
    /// It is delivered after the next one.
    Swap,
    /// An octet of its body changes.
    Corrupt,
    /// It is confirmed with basic.nack and not delivered.
    Nack,
}

/// What all connections share.
#[derive(Default)]
pub struct Relay {
    queues: Mutex<HashMap<Vec<u8>, Arc<Queue>>>,
    fault: Option<(Fault, u64)>,
}

/// The consumers of a queue.
#[derive(Default)]
pub struct Queue {
    outlets: Mutex<Vec<Arc<Outlet>>>,
    turn: AtomicU64,
}

/// One subscription.
pub struct Outlet {
    /// The consumer's connection.
    pub writer: Writer,
    /// Consumer tag.
    pub tag: String,
    /// Channel of the subscription.
    pub channel: u16,
    /// Delivery tags given out.
    pub delivered: AtomicU64,
}

/// The sending half of a connection. Whole frames only.
#[derive(Clone)]
pub struct Writer(Arc<Mutex<TcpStream>>);

impl Writer {
    /// Sends `frames`, waiting as long as the peer does not read.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn send(&self, frames: &[u8]) -> Result<()> {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stream.write_all(frames).context("relay: writing")
    }
}

impl Relay {
    /// With a fault in each so-many-th message.
    pub fn new(fault: Option<(Fault, u64)>) -> Self {
        Relay {
            fault,
            ..Relay::default()
        }
    }

    /// Adds a consumer to a queue.
    pub fn subscribe(&self, queue: &[u8], outlet: Outlet) {
        let queue = self.queue(queue);
        queue
            .outlets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(outlet));
    }

    /// The consumer whose turn it is.
    pub fn outlet(&self, queue: &[u8]) -> Option<Arc<Outlet>> {
        let queue = self.queue(queue);
        let outlets = queue.outlets.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = queue.turn.fetch_add(1, Relaxed) as usize;
        outlets.get(turn % outlets.len().max(1)).cloned()
    }

    /// Takes all consumers of a connection out.
    pub fn forget(&self, writer: &Writer) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        for queue in queues.values() {
            let mut outlets = queue.outlets.lock().unwrap_or_else(PoisonError::into_inner);
            outlets.retain(|outlet| !Arc::ptr_eq(&outlet.writer.0, &writer.0));
        }
    }

    fn queue(&self, name: &[u8]) -> Arc<Queue> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(queues.entry(name.to_vec()).or_default())
    }

    /// Serves every connection that `listener` accepts, each on a thread of its own.
    ///
    /// # Errors
    /// The listener failed.
    pub fn serve(self: Arc<Self>, listener: &TcpListener) -> Result<()> {
        loop {
            let (stream, _) = listener.accept().context("relay: accepting")?;
            let relay = Arc::clone(&self);
            // A connection that ends badly is the peer's affair.
            thread::spawn(move || drop(connection::serve(&relay, stream)));
        }
    }
}

/// `relay --listen ADDRESS [--fault KIND:EVERY]`: runs until it is killed.
///
/// # Errors
/// The address cannot be bound.
pub fn relay(mut flags: Flags) -> Result<bool> {
    let address = flags
        .text("listen")?
        .unwrap_or_else(|| "127.0.0.1:5679".into());
    let fault = flags
        .text("fault")?
        .map(|text| parse_fault(&text))
        .transpose()?;
    flags.finish()?;
    let listener = TcpListener::bind(&address).context(format!("binding {address}"))?;
    eprintln!("relaying on {address}; this is no broker, messages are not kept");
    Arc::new(Relay::new(fault)).serve(&listener).map(|()| true)
}

fn parse_fault(text: &str) -> Result<(Fault, u64)> {
    let bad = || {
        Error::Usage(format!(
            "--fault {text:?}: lose, duplicate, swap, corrupt or nack, then :N for each N-th"
        ))
    };
    let (kind, every) = text.split_once(':').ok_or_else(bad)?;
    let kind = match kind {
        "lose" => Fault::Lose,
        "duplicate" => Fault::Duplicate,
        "swap" => Fault::Swap,
        "corrupt" => Fault::Corrupt,
        "nack" => Fault::Nack,
        _ => return Err(bad()),
    };
    let every = every
        .parse()
        .ok()
        .filter(|&n: &u64| n > 0)
        .ok_or_else(bad)?;
    Ok((kind, every))
}
