//! A consumer, as its session knows it: what it holds, and the places that it takes.

use std::collections::VecDeque;

use leveret_queue::{ConsumerSpec, QueueId, Seq, Standing};

use super::CONSUMER_CREDIT_BYTES;
use crate::mirror::message::{Attach, ConsumerKey};

/// A message that a consumer of this session holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    /// The leader's number; 0 when the message went elsewhere.
    pub(super) number: u64,
    pub(super) seq: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// The leader has not answered.
    Attaching,
    /// It gets deliveries.
    Attached,
    /// It only holds.
    Cancelled,
}

#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) generation: u32,
    pub(super) queue: QueueId,
    pub(super) spec: ConsumerSpec,
    pub(super) cancel_on_failover: bool,
    pub(super) state: State,
    /// From number `base` on; `None`: settled.
    pub(super) held: VecDeque<Option<Held>>,
    pub(super) base: u64,
    /// Bytes that were delivered and for which no new credit was given yet.
    pub(super) owed: u32,
    /// Places of its channel's window that the leader has for it.
    pub(super) granted: u32,
    /// The leader has something for it and waits for a place.
    pub(super) wanted: bool,
    /// What the leader says of it, for the next one.
    pub(super) standing: Option<Standing>,
}

impl Consumer {
    pub(super) fn hold(&mut self, number: u64, seq: Seq) -> u64 {
        self.held.push_back(Some(Held { number, seq }));
        self.base + self.held.len() as u64 - 1
    }

    pub(super) fn take(&mut self, number: u64) -> Option<Held> {
        let at = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let held = self.held.get_mut(at)?.take();
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            self.base += 1;
        }
        held
    }

    /// Places of its channel's window that it takes.
    pub(super) fn places(&self) -> u32 {
        let held = self.held.iter().flatten().count();
        u32::try_from(held).unwrap_or(u32::MAX) + self.granted
    }

    pub(super) fn attach(&self, key: ConsumerKey) -> Attach {
        Attach {
            key,
            queue: self.queue,
            no_ack: self.spec.no_ack,
            exclusive: self.spec.exclusive,
            passive: self.spec.passive,
            cancelled: self.state == State::Cancelled,
            priority: self.spec.priority,
            prefetch: self.spec.prefetch,
            shared: self.spec.limiter.is_some(),
            before: self.standing,
            credit: CONSUMER_CREDIT_BYTES.saturating_sub(self.owed),
        }
    }
}
