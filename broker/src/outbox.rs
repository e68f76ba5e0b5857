//! What others put into a connection: deliveries and events.
//!
//! One per connection, shared with the queue groups (as the consumers' [`Link`]), the journal's watch and the node. The
//! connection's task takes everything at once. Whoever adds something wakes the task; nobody waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;

use atomic_waker::AtomicWaker;
use leveret_queue::{Delivery, Link, Waiter};
use leveret_topology::OwnerId;
use parking_lot::Mutex;

use crate::channel::ChannelReport;

/// Bytes of deliveries that wait for one connection at most; its consumers are passed over until it has drained.
pub const OUTBOX_BYTES_MAX: usize = 1 << 20;

/// Rough bytes of the frames around a delivered body.
const DELIVERY_OVERHEAD: usize = 160;

/// Something that happened to a connection from outside.
#[derive(Debug)]
pub enum Event {
    /// A consumer lost its queue.
    ConsumerCancelled {
        /// The connection's handle of it.
        handle: u64,
    },
    /// An alarm began or ended: connection.blocked with this reason, or connection.unblocked.
    Blocked(Option<String>),
    /// The connection is to be closed, 320 CONNECTION_FORCED with this text.
    Close(String),
    /// An operator asks for its channels.
    Report(Sender<(OwnerId, Vec<ChannelReport>)>),
}

impl Event {
    /// It concerns the connection as a whole, so that its place among deliveries and replies does not matter.
    pub fn is_urgent(&self) -> bool {
        !matches!(self, Event::ConsumerCancelled { .. })
    }
}

#[derive(Debug, Default)]
struct Inner {
    deliveries: Vec<Delivery>,
    events: Vec<Event>,
    waiters: Vec<Waiter>,
    closed: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Outbox {
    inner: Mutex<Inner>,
    queued_bytes: AtomicUsize,
    pending: AtomicBool,
    waker: AtomicWaker,
}

impl Outbox {
    /// Sets who is woken; called by the task before it looks for work for the last time.
    pub fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Wakes the task without adding anything.
    #[inline]
    pub fn wake(&self) {
        // Only the first of several wakes between two turns of the task does the work.
        if !self.pending.swap(true, Ordering::AcqRel) {
            self.waker.wake();
        }
    }

    /// Whether there may be something to take; clears the mark.
    #[inline]
    pub fn take_pending(&self) -> bool {
        self.pending.swap(false, Ordering::AcqRel)
    }

    /// Whether something was added since the last [`Outbox::take_pending`].
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Acquire)
    }

    /// Adds an event.
    pub fn push(&self, event: Event) {
        let mut inner = self.inner.lock();
        if inner.closed {
            return;
        }
        inner.events.push(event);
        drop(inner);
        self.wake();
    }

    /// Takes everything; the vectors are swapped with the given empty ones.
    pub fn take(&self, deliveries: &mut Vec<Delivery>, events: &mut Vec<Event>) {
        let mut inner = self.inner.lock();
        std::mem::swap(&mut inner.deliveries, deliveries);
        std::mem::swap(&mut inner.events, events);
        if inner.deliveries.capacity() > 1024 {
            inner.deliveries = Vec::new();
        }
    }

    /// Takes the urgent events only: the connection has no room for the rest.
    pub fn take_urgent(&self, events: &mut Vec<Event>) {
        let mut inner = self.inner.lock();
        events.extend(inner.events.extract_if(.., |event| event.is_urgent()));
    }

    /// Deliveries of these bytes have left; says who may go on now.
    pub fn left(&self, bytes: usize) -> Vec<Waiter> {
        let before = self.queued_bytes.fetch_sub(bytes, Ordering::AcqRel);
        if before - bytes >= OUTBOX_BYTES_MAX / 2 {
            return Vec::new();
        }
        let mut inner = self.inner.lock();
        std::mem::take(&mut inner.waiters)
    }

    /// Bytes of deliveries that wait.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Acquire)
    }

    /// What a delivery counts for.
    #[inline]
    pub fn weight(delivery: &Delivery) -> usize {
        DELIVERY_OVERHEAD + delivery.message.encoded_len()
    }

    /// The connection is gone: whatever comes is dropped. Its consumers must be released by the caller.
    pub fn close(&self) {
        let mut inner = self.inner.lock();
        inner.closed = true;
        inner.deliveries = Vec::new();
        inner.events = Vec::new();
        inner.waiters = Vec::new();
    }
}

impl Link for Outbox {
    #[inline]
    fn room(&self) -> usize {
        OUTBOX_BYTES_MAX.saturating_sub(self.queued_bytes.load(Ordering::Acquire))
    }

    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        let bytes: usize = deliveries.iter().map(Self::weight).sum();
        let mut inner = self.inner.lock();
        if inner.closed {
            deliveries.clear();
            return;
        }
        self.queued_bytes.fetch_add(bytes, Ordering::AcqRel);
        if inner.deliveries.is_empty() {
            std::mem::swap(&mut inner.deliveries, deliveries);
        } else {
            inner.deliveries.append(deliveries);
        }
        drop(inner);
        self.wake();
    }

    fn wait_room(&self, waiter: Waiter) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed {
            return true;
        }
        if self.queued_bytes.load(Ordering::Acquire) < OUTBOX_BYTES_MAX {
            return false;
        }
        inner.waiters.push(waiter);
        true
    }

    fn cancelled(&self, handle: u64) {
        self.push(Event::ConsumerCancelled { handle });
    }
}

impl leveret_cluster::Notify for Outbox {
    fn notify(&self) {
        self.wake();
    }
}
