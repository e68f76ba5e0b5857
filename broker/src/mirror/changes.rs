//! Changes of leaders, as this node's clients live through them: how many there were, and how long nobody was known to lead.

use std::time::{Duration, Instant};

use leveret_storage::{Histogram, HistogramCell};
use parking_lot::Mutex;

#[derive(Default)]
struct State {
    /// Who led last: node and term.
    leader: Option<(u64, u64)>,
    /// Since then nobody is known to lead.
    alone: Option<Instant>,
    count: u64,
}

/// Those of one group. A leader that begins anew after a broken connection is no change.
#[derive(Default)]
pub struct Changes {
    state: Mutex<State>,
    /// Milliseconds from the loss of a leader to the next one's announcement.
    pauses_ms: HistogramCell,
}

impl Changes {
    /// The leader is lost.
    pub fn lost(&self, now: Instant) {
        self.state.lock().alone.get_or_insert(now);
    }

    /// A node leads, in this term.
    pub fn led(&self, node: u64, term: u64, now: Instant) {
        let mut state = self.state.lock();
        let alone = state.alone.take();
        let before = state.leader.replace((node, term));
        if before.is_none() || before == Some((node, term)) {
            return;
        }
        state.count += 1;
        let pause = alone.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.pauses_ms.record(ms);
    }

    /// How many there were, and their pauses in milliseconds.
    pub fn read(&self) -> (u64, Histogram) {
        (self.state.lock().count, self.pauses_ms.read())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_and_its_pause_is_from_the_loss_on() {
        let changes = Changes::default();
        let at = |base: Instant, ms| base + Duration::from_millis(ms);
        let base = Instant::now();
        // The first leader is no change, nor is one that begins anew.
        changes.led(1, 3, base);
        changes.lost(at(base, 10));
        changes.led(1, 3, at(base, 20));
        assert_eq!(changes.read().0, 0);
        changes.lost(at(base, 100));
        changes.lost(at(base, 150));
        changes.led(2, 4, at(base, 300));
        let (count, pauses) = changes.read();
        assert_eq!((count, pauses.count(), pauses.sum), (1, 1, 200));
        // Handed over: nobody was without a leader.
        changes.led(3, 5, at(base, 900));
        let (count, pauses) = changes.read();
        assert_eq!((count, pauses.count(), pauses.sum), (2, 2, 200));
    }
}
