//! What a member that is new or far behind is given in place of the log.
//!
//! A snapshot is a handle ([`SnapshotHandle`]), not bytes: openraft passes it from the state machine to the network of the
//! sender, and from the receiver's network to its state machine. Between the two is a conversation that the network carries:
//!
//! 1. The receiver makes a [`SnapshotSink`] and sends what it [has](SnapshotSink::have).
//! 2. The sender [opens](SnapshotSource::open) the handle's source with it, and sends chunk after chunk. They are the state machine's:
//!    its checkpoint first, then the live messages in the order of the sender's files, without those that the receiver has.
//! 3. The receiver gives each to the sink, which puts messages into its own journal. After the last it
//!    [finishes](SnapshotSink::finish), which makes them durable, and hands openraft a handle of what was received.
//!
//! A transfer that breaks begins again; what the sink has staged is in the next `have`. While a handle is out, the sender's log is not
//! purged past its index ([`Sending`]), and what its source refers to stays in the journal (the source is the pin).
//!
//! [`memory_source`] and [`MemorySink`] are for a state that has no messages outside of it; such a state is held in memory whole, on
//! both sides.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;

/// Bytes of a chunk, unless one message is larger.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// The largest state of [`MemorySink`].
pub const MEMORY_BYTES_MAX: usize = 1 << 30;

/// One state of a group, to be sent; what it refers to stays as long as this lives.
pub trait SnapshotSource: Send + Sync + 'static {
    /// The chunks for a receiver that has what `have` says ([`SnapshotSink::have`]; empty for nothing).
    ///
    /// # Errors
    /// `have` cannot be understood, or the state cannot be read.
    fn open(&self, have: &[u8]) -> io::Result<Box<dyn SnapshotChunks>>;
}

/// The chunks of a snapshot, in order.
pub trait SnapshotChunks: Send + 'static {
    /// The next chunk, about [`CHUNK_BYTES_MAX`] at most; nothing after the last. May read the disk.
    ///
    /// # Errors
    /// It cannot be read.
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>>;
}

/// Where a receiver puts the chunks. Dropped if the transfer breaks; what it staged may stay for the next.
pub trait SnapshotSink: Send + 'static {
    /// What the receiver has already, as [`SnapshotSource::open`] wants it.
    fn have(&self) -> Bytes;

    /// Takes the next chunk.
    ///
    /// # Errors
    /// It cannot be understood, or not be stored.
    fn chunk(&mut self, chunk: Bytes) -> io::Result<()>;

    /// There are no more. What comes of it is given to the state machine's `install`. May wait for the disk.
    ///
    /// # Errors
    /// Chunks are missing, or they could not be made durable.
    fn finish(self: Box<Self>) -> io::Result<Box<dyn Any + Send>>;
}

/// A snapshot in openraft's hands.
pub enum SnapshotHandle {
    /// A checkpoint was written here; there is nothing to be sent of it.
    Local,
    /// To be sent.
    Outgoing(Outgoing),
    /// Was received, and is to be installed: what [`SnapshotSink::finish`] gave.
    Received(Received),
}

impl fmt::Debug for SnapshotHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SnapshotHandle::Local => "local",
            SnapshotHandle::Outgoing(_) => "outgoing",
            SnapshotHandle::Received(_) => "received",
        })
    }
}

/// What a sink gave, on its way to the state machine. In a mutex as openraft wants to share handles; it is never locked.
pub struct Received(Mutex<Box<dyn Any + Send>>);

impl Received {
    /// What a sink gave.
    pub fn new(received: Box<dyn Any + Send>) -> Self {
        Received(Mutex::new(received))
    }

    /// The same again.
    pub fn into_inner(self) -> Box<dyn Any + Send> {
        self.0.into_inner()
    }
}

/// A snapshot that is being sent.
#[derive(Clone)]
pub struct Outgoing {
    /// The state.
    pub source: Arc<dyn SnapshotSource>,
    pub(super) _sending: Arc<SendingGuard>,
}

/// At which indexes snapshots are being sent: the log is not purged past the lowest.
#[derive(Debug, Default)]
pub struct Sending(Mutex<BTreeMap<u64, usize>>);

impl Sending {
    /// Holds the log behind `index` until the guard is dropped.
    pub(super) fn hold(self: &Arc<Self>, index: u64) -> Arc<SendingGuard> {
        *self.0.lock().entry(index).or_default() += 1;
        Arc::new(SendingGuard {
            sending: Arc::clone(self),
            index,
        })
    }

    /// The lowest index that is held.
    pub fn lowest(&self) -> Option<u64> {
        self.0.lock().keys().next().copied()
    }
}

/// Holds the log; see [`Sending`].
#[derive(Debug)]
pub struct SendingGuard {
    sending: Arc<Sending>,
    index: u64,
}

impl Drop for SendingGuard {
    fn drop(&mut self) {
        let mut held = self.sending.0.lock();
        if let Some(count) = held.get_mut(&self.index) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.index);
            }
        }
    }
}

/// A state that is all in `state`.
pub fn memory_source(state: Bytes) -> Arc<dyn SnapshotSource> {
    Arc::new(MemorySource(state))
}

struct MemorySource(Bytes);

impl SnapshotSource for MemorySource {
    fn open(&self, _have: &[u8]) -> io::Result<Box<dyn SnapshotChunks>> {
        Ok(Box::new(MemoryChunks(self.0.clone())))
    }
}

struct MemoryChunks(Bytes);

impl SnapshotChunks for MemoryChunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let len = self.0.len().min(CHUNK_BYTES_MAX);
        Ok(Some(self.0.split_to(len)))
    }
}

/// Gathers a state that is all in its chunks; finishes with [`Bytes`].
#[derive(Debug, Default)]
pub struct MemorySink(BytesMut);

impl SnapshotSink for MemorySink {
    fn have(&self) -> Bytes {
        Bytes::new()
    }

    fn chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        if self.0.len() + chunk.len() > MEMORY_BYTES_MAX {
            return Err(io::Error::other("a snapshot over 1 GiB"));
        }
        self.0.extend_from_slice(&chunk);
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<Box<dyn Any + Send>> {
        Ok(Box::new(self.0.freeze()))
    }
}

/// All of a snapshot from a source to a sink, without a network.
///
/// # Errors
/// Those of the two.
pub fn copy(
    source: &dyn SnapshotSource,
    mut sink: Box<dyn SnapshotSink>,
) -> io::Result<Box<dyn Any + Send>> {
    let mut chunks = source.open(&sink.have())?;
    while let Some(chunk) = chunks.next_chunk()? {
        sink.chunk(chunk)?;
    }
    sink.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_in_memory_arrives_whole() {
        for len in [0, 1, CHUNK_BYTES_MAX, CHUNK_BYTES_MAX * 2 + 17] {
            let state: Bytes = (0..len).map(|i| (i % 251) as u8).collect();
            let source = memory_source(state.clone());
            let got = copy(&*source, Box::new(MemorySink::default())).expect("a copy");
            assert_eq!(got.downcast_ref::<Bytes>(), Some(&state));
        }
    }

    #[test]
    fn the_log_is_held_as_long_as_the_lowest_is_sent() {
        let sending = Arc::new(Sending::default());
        let (high, low) = (sending.hold(9), sending.hold(4));
        let again = sending.hold(4);
        assert_eq!(sending.lowest(), Some(4));
        drop(low);
        assert_eq!(sending.lowest(), Some(4));
        drop(again);
        assert_eq!(sending.lowest(), Some(9));
        drop(high);
        assert_eq!(sending.lowest(), None);
    }
}
