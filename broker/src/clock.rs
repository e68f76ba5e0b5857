//! The node's clock: wall time that never goes backwards while the node runs.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Wall time at the start, moved on by the monotonic clock, so that a clock that is set does not expire queues.
#[derive(Debug)]
pub struct Clock {
    start_ms: u64,
    start: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        let since_1970 = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Clock {
            start_ms: since_1970.as_millis() as u64,
            start: Instant::now(),
        }
    }
}

impl Clock {
    /// Milliseconds since 1970.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.start_ms + self.start.elapsed().as_millis() as u64
    }

    /// Milliseconds since the node started.
    pub fn uptime_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}
