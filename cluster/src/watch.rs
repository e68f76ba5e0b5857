//! Who waits for a place in the journal to be durable.

use std::collections::BinaryHeap;
use std::sync::Arc;

use leveret_storage::Location;
use parking_lot::Mutex;

/// Somebody who waits. Called on the journal's writer thread: it must not block.
pub trait Notify: Send + Sync {
    /// The place is durable; look again.
    fn notify(&self);
}

struct Waiting {
    at: Location,
    who: Arc<dyn Notify>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.at.cmp(&self.at) // the smallest first
    }
}

/// The waiters, by place. Each asks once for one place; it asks again when it needs a further one.
#[derive(Default)]
pub struct DurableWatch {
    waiting: Mutex<BinaryHeap<Waiting>>,
}

impl std::fmt::Debug for DurableWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DurableWatch({} waiting)", self.waiting.lock().len())
    }
}

impl DurableWatch {
    /// Asks to be told when the record at `at` is durable. The caller must look at the durable location once more
    /// afterwards: it may have passed in between.
    pub fn wait(&self, at: Location, who: Arc<dyn Notify>) {
        self.waiting.lock().push(Waiting { at, who });
    }

    /// Everything below `durable` is durable: tells those who waited for it.
    pub fn advance(&self, durable: Location) {
        loop {
            let mut waiting = self.waiting.lock();
            match waiting.peek() {
                Some(first) if first.at < durable => {}
                _ => return,
            }
            let Some(first) = waiting.pop() else { return };
            drop(waiting);
            first.who.notify();
        }
    }

    /// Tells everybody: nothing will become durable any more.
    pub fn abandon(&self) {
        for waiting in std::mem::take(&mut *self.waiting.lock()) {
            waiting.who.notify();
        }
    }
}
