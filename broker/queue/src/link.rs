//! The two sides of the machine: where deliveries go, and where bodies come from.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::{ConsumerSlot, Message, QueueId, Seq};

/// Where a message is on disk: `segment << 32 | offset` of its record, bit 63 set when it is in the pager.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location(pub u64);

impl Location {
    /// The message is in memory only.
    pub const NONE: Location = Location(u64::MAX);
    /// Where a journal begins: before every record.
    pub const START: Location = Location(0);
    /// Set in the locations of the pager.
    pub const PAGED: u64 = 1 << 63;

    /// The place behind this one.
    pub(crate) fn next(self) -> Location {
        Location(self.0.saturating_add(1))
    }

    /// Whether there is a copy on disk.
    #[inline]
    pub fn is_some(self) -> bool {
        self.0 != u64::MAX
    }

    /// Whether the copy is in the journal (survives a restart).
    #[inline]
    pub fn is_journaled(self) -> bool {
        self.0 & Self::PAGED == 0
    }

    /// Segment and store, comparable for equality.
    #[inline]
    pub fn segment(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Byte offset in the segment.
    #[inline]
    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

/// One message on its way to a consumer.
#[derive(Debug)]
pub struct Delivery {
    /// The connection's own handle of the consumer, from [`crate::ConsumerSpec::handle`].
    pub handle: u64,
    /// Its number among the consumer's deliveries; settles name it.
    pub number: u64,
    /// The message's number in its queue.
    pub seq: Seq,
    /// The message itself.
    pub message: Message,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// Times it came back to the queue, if the queue counts them.
    pub delivery_count: Option<u32>,
}

/// A consumer that waits for room; handed back to [`crate::Machine::resume`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    /// The group of the queue, as given to [`crate::Machine::new`].
    pub group: u32,
    /// The queue.
    pub queue: QueueId,
    /// The consumer in that queue.
    pub consumer: ConsumerSlot,
}

/// A consumer's connection, seen from the queue.
pub trait Link: Send + Sync {
    /// Bytes of deliveries that it takes now.
    fn room(&self) -> usize;
    /// Takes the deliveries (leaves the vector empty) and wakes the connection.
    fn deliver(&self, deliveries: &mut Vec<Delivery>);
    /// Asks for [`crate::Machine::resume`] once there is room. `false`: there is room already, nothing was registered.
    fn wait_room(&self, waiter: Waiter) -> bool;
    /// The queue is gone or passed on: the consumer is cancelled (RabbitMQ extension, consumer_cancel_notify).
    fn cancelled(&self, handle: u64);
}

/// Why a body could not be read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreError(pub String);

/// A message read back from disk.
#[derive(Debug)]
pub struct Stored {
    /// Its number.
    pub seq: Seq,
    /// Its bytes, a slice of the record.
    pub message: Message,
    /// Where it is.
    pub location: Location,
}

/// Bodies that are not in memory.
pub trait Store: Send + Sync {
    /// Reads messages of `queue` with numbers in `first..first + count`, walking forward from `from`; appends at most
    /// `max` of them, in order, to `out`.
    ///
    /// # Errors
    /// A record is damaged or missing; the text names it.
    fn read(
        &self,
        queue: QueueId,
        first: Seq,
        count: u32,
        from: Location,
        max: usize,
        out: &mut Vec<Stored>,
    ) -> Result<(), StoreError>;

    /// Writes one transient message out; the location has [`Location::PAGED`] set.
    ///
    /// # Errors
    /// The pager's disk failed or is full: the message stays in memory.
    fn page_out(&self, queue: QueueId, seq: Seq, message: &Message)
    -> Result<Location, StoreError>;

    /// `count` messages from a run at `location` of the pager are in memory again, or gone.
    fn release(&self, _location: Location, _count: u32) {}

    /// Whether the memory budget is exceeded: new waiting messages go to disk.
    fn memory_tight(&self) -> bool;
}

/// A store of nothing, for machines whose messages all stay in memory (tests, simulation).
#[derive(Debug, Default)]
pub struct NoStore;

impl Store for NoStore {
    fn read(
        &self,
        queue: QueueId,
        first: Seq,
        _count: u32,
        _from: Location,
        _max: usize,
        _out: &mut Vec<Stored>,
    ) -> Result<(), StoreError> {
        Err(StoreError(format!(
            "message {first} of queue {queue}: no store"
        )))
    }

    fn page_out(&self, _: QueueId, _: Seq, _: &Message) -> Result<Location, StoreError> {
        Err(StoreError("no pager".into()))
    }

    fn memory_tight(&self) -> bool {
        false
    }
}

/// The prefetch window that all consumers of a channel share (basic.qos with global=true as RabbitMQ means it).
#[derive(Debug)]
pub struct Limiter {
    limit: AtomicU32,
    used: AtomicU32,
    waiters: Mutex<Vec<Waiter>>,
}

impl Limiter {
    /// A window of `limit` unacknowledged messages; 0 means unlimited.
    pub fn new(limit: u32) -> Self {
        Limiter {
            limit: AtomicU32::new(limit),
            used: AtomicU32::new(0),
            waiters: Mutex::default(),
        }
    }

    /// The limit; 0 means unlimited.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets a new limit; the caller resumes [`Limiter::take_waiters`].
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    /// Takes one place, or registers the waiter and says `false`.
    pub(crate) fn try_take(&self, waiter: Waiter) -> bool {
        if self.take() {
            return true;
        }
        self.lock().push(waiter);
        // A place may have come free between the two: look once more, so that no wake-up is missed.
        if self.take() {
            self.lock().retain(|w| *w != waiter);
            return true;
        }
        false
    }

    fn take(&self) -> bool {
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                let limit = self.limit.load(Ordering::SeqCst);
                (limit == 0 || used < limit).then_some(used + 1)
            })
            .is_ok()
    }

    /// Takes `n` places, whatever the limit: what was delivered before there was one.
    pub(crate) fn occupy(&self, n: u32) {
        self.used.fetch_add(n, Ordering::SeqCst);
    }

    /// Gives `n` places back.
    pub(crate) fn release(&self, n: u32) {
        let _ = self
            .used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                Some(used.saturating_sub(n))
            });
    }

    /// Those who wait for a place; they are to be resumed by the caller, outside of any group's lock.
    pub fn take_waiters(&self) -> Vec<Waiter> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiter>> {
        self.waiters
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
