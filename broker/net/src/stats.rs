//! Counts of connections, and the limit on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What happened since the start. Every count only grows, except `open`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Connections that are open now, those still in their TLS handshake included.
    pub open: u64,
    /// Sockets accepted.
    pub accepted: u64,
    /// Sockets closed because of `connection_max`.
    pub over_limit: u64,
    /// Sockets closed in the PROXY or TLS phase: malformed, not trusted, too slow.
    pub failed: u64,
    /// Errors of `accept`.
    pub accept_errors: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Stats {
    open: AtomicU64,
    pub(crate) accepted: AtomicU64,
    over_limit: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) accept_errors: AtomicU64,
}

impl Stats {
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            open: self.open.load(Ordering::Relaxed),
            accepted: self.accepted.load(Ordering::Relaxed),
            over_limit: self.over_limit.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            accept_errors: self.accept_errors.load(Ordering::Relaxed),
        }
    }

    /// A place among the open connections, unless there are `max` already.
    pub(crate) fn open(self: &Arc<Self>, max: Option<u64>) -> Option<ConnectionSlot> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= max.unwrap_or(u64::MAX) {
            self.open.fetch_sub(1, Ordering::Relaxed);
            self.over_limit.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(ConnectionSlot(Arc::clone(self)))
    }
}

/// A place among the `connection_max` open connections; given back when it is dropped.
#[derive(Debug)]
pub struct ConnectionSlot(Arc<Stats>);

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}
