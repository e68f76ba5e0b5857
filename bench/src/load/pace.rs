//! When the messages of a rate-limited producer are due.
//!
//! The schedule is fixed at the start and never shifts: a message that leaves late is stamped with
//! the time it was due, so that a stall of the broker shows in every message it delayed
//! ("coordinated omission" otherwise hides all but one).

/// Messages that are due closer together than this leave together, so that high rates do not cost
/// a wake-up per message.
const TICK_NS: f64 = 200_000.0;

/// A schedule of evenly spaced messages.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    start_ns: u64,
    interval_ns: f64,
}

impl Pace {
    /// `rate` messages per second from `start_ns` on, shifted by `phase` (0 to 1) of an interval.
    pub fn new(start_ns: u64, rate: f64, phase: f64) -> Self {
        let interval_ns = 1e9 / rate;
        Pace {
            start_ns: start_ns + (interval_ns * phase) as u64,
            interval_ns,
        }
    }

    /// When message `n` (from 0) is due.
    #[inline]
    pub fn due_ns(&self, n: u64) -> u64 {
        let mut offset = n as f64 * self.interval_ns;
        if self.interval_ns < TICK_NS {
            offset = (offset / TICK_NS).ceil() * TICK_NS;
        }
        self.start_ns + offset as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_rates_are_exact_and_fast_ones_come_in_ticks() {
        let slow = Pace::new(1000, 100.0, 0.5);
        assert_eq!(slow.due_ns(0), 1000 + 5_000_000);
        assert_eq!(slow.due_ns(3), 1000 + 35_000_000);
        let fast = Pace::new(0, 1e6, 0.0);
        assert_eq!(
            (fast.due_ns(0), fast.due_ns(1), fast.due_ns(200)),
            (0, 200_000, 200_000)
        );
        assert_eq!(fast.due_ns(201), 400_000);
        assert_eq!(fast.due_ns(1_000_000), 1_000_000_000);
    }
}
