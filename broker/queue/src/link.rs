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
    /// Grows with every delivery of the queue, so that those of several consumers can be put in order.
    pub turn: u64,
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
    /// The consumer became the queue's single active one, or is it no more.
    fn active(&self, _handle: u64, _active: bool) {}
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

/// Called by a window of granted places when it has none left.
pub type Wanted = Box<dyn Fn() + Send + Sync>;

/// The prefetch window that all consumers of a channel share (basic.qos with global=true as RabbitMQ means it).
///
/// Of a consumer that is elsewhere it has the places that were granted to it ([`Limiter::granted`]): each is good for one delivery, and
/// what is settled makes no room by itself.
pub struct Limiter {
    limit: AtomicU32,
    used: AtomicU32,
    waiters: Mutex<Vec<Waiter>>,
    wanted: Option<Wanted>,
}

impl std::fmt::Debug for Limiter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Limiter({:?} of {:?})", self.used, self.limit)
    }
}

impl Limiter {
    /// A window of `limit` unacknowledged messages; 0 means unlimited.
    pub fn new(limit: u32) -> Self {
        Limiter {
            limit: AtomicU32::new(limit),
            used: AtomicU32::new(0),
            waiters: Mutex::default(),
            wanted: None,
        }
    }

    /// A window without places, that asks for some when it needs one.
    pub fn granted(wanted: Wanted) -> Self {
        Limiter {
            wanted: Some(wanted),
            ..Limiter::new(0)
        }
    }

    /// Adds places; the caller resumes [`Limiter::take_waiters`].
    pub fn grant(&self, places: u32) {
        self.limit.fetch_add(places, Ordering::SeqCst);
    }

    /// Takes back the granted places that are left.
    pub fn take_unused(&self) -> u32 {
        self.limit.swap(0, Ordering::SeqCst)
    }

    /// Takes up to `max` places to grant them elsewhere. If there is none, registers the waiter and answers 0.
    pub fn take_some(&self, max: u32, waiter: Waiter) -> u32 {
        if max == 0 || !self.try_take(waiter) {
            return 0;
        }
        let more = (1..max).take_while(|_| self.take()).count();
        1 + more as u32
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
        if let Some(wanted) = &self.wanted {
            // Places come under the lock that this call is made under.
            wanted();
            return false;
        }
        // A place may have come free between the two: look once more, so that no wake-up is missed.
        if self.take() {
            self.lock().retain(|w| *w != waiter);
            return true;
        }
        false
    }

    fn take(&self) -> bool {
        if self.wanted.is_some() {
            let one_less = |left: u32| left.checked_sub(1);
            let taken = self
                .limit
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less);
            return taken.is_ok();
        }
        self.used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                let limit = self.limit.load(Ordering::SeqCst);
                (limit == 0 || used < limit).then_some(used + 1)
            })
            .is_ok()
    }

    /// Takes `n` places, whatever the limit: what was delivered before there was one.
    pub fn occupy(&self, n: u32) {
        self.used.fetch_add(n, Ordering::SeqCst);
    }

    /// Gives `n` places back.
    pub fn release(&self, n: u32) {
        let _ = self
            .used
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |used| {
                Some(used.saturating_sub(n))
            });
    }

    /// What was delivered is settled: its places are free. Answers those who wait for one; of granted places nobody, as who granted them
    /// counts what is settled.
    pub(crate) fn settled(&self, n: u32) -> Vec<Waiter> {
        if self.wanted.is_some() {
            return Vec::new();
        }
        self.release(n);
        self.take_waiters()
    }

    /// Gives back a place that was taken and not used.
    pub(crate) fn give_back(&self) {
        match self.wanted {
            Some(_) => self.grant(1),
            None => self.release(1),
        }
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
