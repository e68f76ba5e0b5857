//! What the load threads tell the one that watches them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

/// Messages so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Handed to the system's socket buffers.
    pub sent: u64,
    /// Acknowledged by the broker.
    pub confirmed: u64,
    /// Negatively acknowledged by the broker.
    pub nacked: u64,
    /// Came back as unroutable.
    pub returned: u64,
    /// Delivered.
    pub received: u64,
}

impl Counts {
    /// Adds the counts of another thread.
    pub fn add(&mut self, other: &Counts) {
        self.sent += other.sent;
        self.confirmed += other.confirmed;
        self.nacked += other.nacked;
        self.returned += other.returned;
        self.received += other.received;
    }

    /// What came since `before`; nothing if `before` is the later one.
    pub fn since(self, before: Counts) -> Counts {
        Counts {
            sent: self.sent.saturating_sub(before.sent),
            confirmed: self.confirmed.saturating_sub(before.confirmed),
            nacked: self.nacked.saturating_sub(before.nacked),
            returned: self.returned.saturating_sub(before.returned),
            received: self.received.saturating_sub(before.received),
        }
    }
}

/// One thread's counters, stored once per turn of its loop, on a cache line of their own.
#[derive(Default)]
#[repr(align(128))]
pub struct ThreadCounters {
    sent: AtomicU64,
    confirmed: AtomicU64,
    nacked: AtomicU64,
    returned: AtomicU64,
    received: AtomicU64,
    progress_last_ns: AtomicU64,
    active: AtomicU64,
    blocked: AtomicU64,
}

impl ThreadCounters {
    /// Publishes the thread's own figures.
    pub fn store(&self, counts: &Counts, progress_last_ns: u64, active: u64, blocked: u64) {
        self.sent.store(counts.sent, Relaxed);
        self.confirmed.store(counts.confirmed, Relaxed);
        self.nacked.store(counts.nacked, Relaxed);
        self.returned.store(counts.returned, Relaxed);
        self.received.store(counts.received, Relaxed);
        self.progress_last_ns.store(progress_last_ns, Relaxed);
        self.active.store(active, Relaxed);
        self.blocked.store(blocked, Relaxed);
    }
}

/// What all load threads and the watcher share.
pub struct Shared {
    /// Time zero of schedules.
    pub start_ns: u64,
    /// Latencies of messages stamped before this are not recorded.
    pub measure_from_ns: u64,
    /// Producers stop here.
    pub deadline_ns: u64,
    threads: Vec<ThreadCounters>,
    finish: AtomicBool,
}

impl Shared {
    /// For `threads` load threads.
    pub fn new(threads: usize, start_ns: u64, measure_from_ns: u64, deadline_ns: u64) -> Self {
        Shared {
            start_ns,
            measure_from_ns,
            deadline_ns,
            // A thread counts as active until it says otherwise.
            threads: (0..threads)
                .map(|_| ThreadCounters {
                    active: AtomicU64::new(1),
                    ..Default::default()
                })
                .collect(),
            finish: AtomicBool::new(false),
        }
    }

    /// The counters of thread `n`.
    pub fn thread(&self, n: usize) -> &ThreadCounters {
        &self.threads[n]
    }

    /// The sum over all threads.
    pub fn counts(&self) -> Counts {
        let sum = |f: fn(&ThreadCounters) -> &AtomicU64| {
            self.threads.iter().map(|t| f(t).load(Relaxed)).sum()
        };
        Counts {
            sent: sum(|t| &t.sent),
            confirmed: sum(|t| &t.confirmed),
            nacked: sum(|t| &t.nacked),
            returned: sum(|t| &t.returned),
            received: sum(|t| &t.received),
        }
    }

    /// Producers that still send or wait for confirms.
    pub fn active(&self) -> u64 {
        self.threads.iter().map(|t| t.active.load(Relaxed)).sum()
    }

    /// Connections that the broker has blocked at the moment.
    pub fn blocked(&self) -> u64 {
        self.threads.iter().map(|t| t.blocked.load(Relaxed)).sum()
    }

    /// When something was last sent, confirmed or delivered; 0 if nothing was.
    pub fn progress_last_ns(&self) -> u64 {
        self.threads
            .iter()
            .map(|t| t.progress_last_ns.load(Relaxed))
            .max()
            .unwrap_or(0)
    }

    /// Tells the load threads to end.
    pub fn finish(&self) {
        self.finish.store(true, Relaxed);
    }

    /// True once [`Shared::finish`] was called.
    pub fn finishing(&self) -> bool {
        self.finish.load(Relaxed)
    }
}
