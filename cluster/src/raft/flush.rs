//! Who waits for the journal's writer, in order.
//!
//! One queue for each of the two watermarks, shared by all groups of a node. The journal's progress event drains it on the writer's
//! thread; whoever comes too late is told at once. A group's waiters are told in the order in which they came. Two groups that
//! append at the same moment may queue in the other order than their records lie; then the first waits for the event
//! that covers both.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use leveret_storage::{Failure, Location, Wait};
use parking_lot::Mutex;

/// Called once, on the writer's thread or the caller's; must not block.
pub type Flushed = Box<dyn FnOnce(io::Result<()>) + Send>;

#[derive(Default)]
struct Queue {
    /// Everything below has passed.
    passed: Location,
    waiting: VecDeque<(Location, Flushed)>,
}

impl Queue {
    fn advance(&mut self, passed: Location, due: &mut Vec<Flushed>) {
        self.passed = self.passed.max(passed);
        let count = self
            .waiting
            .iter()
            .take_while(|(at, _)| *at < self.passed)
            .count();
        due.extend(self.waiting.drain(..count).map(|(_, flushed)| flushed));
    }
}

#[derive(Default)]
struct Inner {
    written: Queue,
    durable: Queue,
    failed: Option<String>,
}

/// The waiters of a node's groups.
#[derive(Default)]
pub struct FlushQueue(Mutex<Inner>);

impl fmt::Debug for FlushQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.0.lock();
        let (written, durable) = (inner.written.waiting.len(), inner.durable.waiting.len());
        write!(
            f,
            "FlushQueue({written} for written, {durable} for durable)"
        )
    }
}

impl FlushQueue {
    /// Calls `flushed` when the record at `at`, and all before it, are in a file or durable, as `wait` says; at once for
    /// [`Wait::Nobody`].
    pub fn push(&self, at: Location, wait: Wait, flushed: Flushed) {
        let mut inner = self.0.lock();
        if let Some(failure) = &inner.failed {
            let error = io::Error::other(failure.clone());
            drop(inner);
            return flushed(Err(error));
        }
        let queue = match wait {
            Wait::Written => &mut inner.written,
            Wait::Durable => &mut inner.durable,
            Wait::Nobody => {
                drop(inner);
                return flushed(Ok(()));
            }
        };
        if queue.waiting.is_empty() && at < queue.passed {
            drop(inner);
            return flushed(Ok(()));
        }
        queue.waiting.push_back((at, flushed));
    }

    /// The journal's event: everything below these places is written, and durable.
    pub fn advance(&self, written: Location, durable: Location) {
        let mut due = Vec::new();
        let mut inner = self.0.lock();
        inner.written.advance(written, &mut due);
        inner.durable.advance(durable, &mut due);
        drop(inner);
        for flushed in due {
            flushed(Ok(()));
        }
    }

    /// The journal failed: tells all that wait, and all that come.
    pub fn fail(&self, failure: &Failure) {
        let text = failure.to_string();
        let mut inner = self.0.lock();
        inner.failed = Some(text.clone());
        let written = std::mem::take(&mut inner.written.waiting);
        let durable = std::mem::take(&mut inner.durable.waiting);
        drop(inner);
        for (_, flushed) in written.into_iter().chain(durable) {
            flushed(Err(io::Error::other(text.clone())));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use super::*;

    fn at(offset: u32) -> Location {
        Location::new(1, offset)
    }

    #[test]
    fn each_is_told_in_order_when_its_watermark_passes() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let queue = FlushQueue::default();
        let push = |place, wait, name: &'static str| {
            let told = Arc::clone(&told);
            let flushed = move |result: io::Result<()>| told.lock().push((name, result.is_ok()));
            queue.push(at(place), wait, Box::new(flushed));
        };
        let take = || std::mem::take(&mut *told.lock());
        push(8, Wait::Durable, "a");
        push(16, Wait::Written, "b");
        push(24, Wait::Durable, "c");
        queue.advance(at(24), at(8));
        assert_eq!(take(), [("b", true)]);
        queue.advance(at(32), at(24));
        assert_eq!(take(), [("a", true)]);
        push(20, Wait::Durable, "behind c");
        push(24, Wait::Written, "passed");
        assert_eq!(take(), [("passed", true)]);
        queue.advance(at(32), at(32));
        assert_eq!(take(), [("c", true), ("behind c", true)]);
        push(32, Wait::Durable, "d");
        let failure = Failure {
            action: "sync",
            path: Arc::from(Path::new("f")),
            message: "broken".into(),
        };
        queue.fail(&failure);
        push(8, Wait::Written, "e");
        assert_eq!(take(), [("d", false), ("e", false)]);
    }
}
