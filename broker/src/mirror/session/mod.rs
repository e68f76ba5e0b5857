//! A node's end of what its connections do with the queues of one group.
//!
//! Owned by the node, called by connections (submit, attach, settle, ...) and by whoever hears from the group's leader
//! ([`Session::receive`], [`Session::lead_by`]). It numbers what must be applied once and keeps it until the leader says that it is
//! committed; it knows what its consumers hold, so that a new leader can be told. It knows nothing of Raft.
//!
//! Invariants: numbers go to a leader in order and without gaps; a consumer's held messages have ascending numbers, the
//! connection's own, which never change, while the leader's numbers begin anew with each leader.

mod consumer;
mod hear;
mod lead_by;
mod state;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use leveret_cluster::{GroupId, Notify};
use leveret_queue::{
    ConsumerSlot, ConsumerSpec, ConsumerView, DeadReason, EntryBuilder, Limiter, QueueId, Seq,
    Waiter,
};
use parking_lot::{Mutex, MutexGuard};

use self::consumer::{Consumer, State};
use self::state::{Batch, Inner};
use super::message::{SessionId, Up};
use crate::node::SettleRange;
use crate::ticket::{Answer, Ticket};

/// Bytes of deliveries that one consumer may have under way from its leader.
pub const CONSUMER_CREDIT_BYTES: u32 = 256 << 10;

/// Ops of a batch that queues refused; filled when it is committed.
pub type Refused = Arc<Mutex<Vec<u32>>>;

/// Who leads a group, and since when. Deliveries and answers of another term or era are void.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leader {
    /// The node.
    pub node: u64,
    /// Raft's term.
    pub term: u64,
    /// A leader that begins anew within its term has the next era.
    pub era: u64,
}

/// How a session reaches its leader. Messages arrive in the order of the calls, or the leader is soon another one.
pub trait Transport: Send + Sync {
    /// Sends, or drops what cannot be sent: a session begins anew with its next leader.
    fn send(&self, to: Leader, group: GroupId, from: SessionId, up: Up);
    /// Consumers of this node that waited for a place in their channel's window may go on.
    fn wake(&self, waiters: Vec<Waiter>);
}

/// See the module.
pub struct Session {
    id: SessionId,
    group: GroupId,
    inner: Mutex<Inner>,
    committed: AtomicU64,
    transport: Arc<dyn Transport>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Session(group {})", self.group)
    }
}

impl Session {
    /// A session without a leader.
    pub fn new(id: SessionId, group: GroupId, transport: Arc<dyn Transport>) -> Session {
        Session {
            id,
            group,
            inner: Mutex::default(),
            committed: AtomicU64::new(0),
            transport,
        }
    }

    /// Batches up to this number are committed.
    #[inline]
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Who leads, as far as the session knows.
    pub fn leader(&self) -> Option<Leader> {
        self.inner.lock().leader
    }

    /// Sends what is to be sent, in order: one thread at a time.
    fn pump<'a>(&'a self, mut inner: MutexGuard<'a, Inner>) {
        let wakes = std::mem::take(&mut inner.wakes);
        if inner.pumping {
            drop(inner);
            if !wakes.is_empty() {
                self.transport.wake(wakes);
            }
            return;
        }
        inner.pumping = true;
        while let Some((leader, up)) = inner.up.pop_front() {
            drop(inner);
            self.transport.send(leader, self.group, self.id, up);
            inner = self.inner.lock();
        }
        inner.pumping = false;
        drop(inner);
        if !wakes.is_empty() {
            self.transport.wake(wakes);
        }
    }

    /// Publishes and settles. The batch is safe once [`Session::committed`] has reached the number that is answered (0: there was nothing in
    /// it); `who` is woken then, and `refused` has the ops that a queue refused.
    pub fn submit(
        &self,
        entry: Option<EntryBuilder>,
        settles: &[SettleRange],
        who: Option<Arc<dyn Notify>>,
        refused: Option<&Refused>,
    ) -> u64 {
        let entry = entry.filter(|e| !e.is_empty());
        let entry = entry.map_or_else(Bytes::new, |e| e.finish(None).to_bytes());
        let mut inner = self.inner.lock();
        let mut emptied = Vec::new();
        let settles = inner.resolve(settles, &mut emptied);
        if entry.is_empty() && settles.is_empty() {
            self.pump(inner);
            return 0;
        }
        inner.last += 1;
        let batch = Batch {
            number: inner.last,
            settles,
            entry,
            who,
            refused: refused.cloned(),
        };
        inner.send(batch.up());
        inner.uncommitted.push_back(batch);
        for key in emptied {
            inner.release_if_empty(key);
        }
        let number = inner.last;
        self.pump(inner);
        number
    }

    /// Attaches a consumer; the ticket is answered with its slot.
    pub fn attach(
        &self,
        queue: QueueId,
        spec: ConsumerSpec,
        cancel_on_failover: bool,
        ticket: &Arc<Ticket>,
    ) {
        let mut inner = self.inner.lock();
        inner.generation = inner.generation.wrapping_add(1);
        let generation = inner.generation;
        let consumer = Consumer {
            generation,
            queue,
            spec,
            cancel_on_failover,
            state: State::Attaching,
            held: VecDeque::new(),
            base: 1,
            owed: 0,
            granted: 0,
            wanted: false,
            standing: None,
        };
        let index = match inner.consumers.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                inner.consumers.push(None);
                inner.consumers.len() - 1
            }
        };
        let key = (index as u64) << 32 | u64::from(generation);
        let attach = consumer.attach(key);
        if let Some(place) = inner.consumers.get_mut(index) {
            *place = Some(consumer);
        }
        inner.request(Arc::clone(ticket), |request| Up::Attach { request, attach });
        self.pump(inner);
    }

    /// basic.cancel: the ticket is answered when everything that was delivered to it is here.
    pub fn cancel(&self, slot: ConsumerSlot, ticket: &Arc<Ticket>) {
        let mut inner = self.inner.lock();
        let key = slot.key();
        let Some(consumer) = inner.consumer(key) else {
            drop(inner);
            return ticket.answer(Answer::Ended);
        };
        consumer.state = State::Cancelled;
        inner.request(Arc::clone(ticket), |request| Up::Cancel { request, key });
        self.pump(inner);
    }

    /// The consumer's channel is about to go ([`Session::release`]): it gets nothing more.
    pub fn silence(&self, slot: ConsumerSlot) {
        /// Its answer is nobody's.
        const REQUEST: u64 = 0;
        let mut inner = self.inner.lock();
        let key = slot.key();
        if let Some(consumer) = inner.consumer(key)
            && consumer.state == State::Attached
        {
            consumer.state = State::Cancelled;
            inner.send(Up::Cancel {
                request: REQUEST,
                key,
            });
        }
        self.pump(inner);
    }

    /// The consumer's channel is gone: what it holds returns to the queue.
    pub fn release(&self, slot: ConsumerSlot) {
        let mut inner = self.inner.lock();
        let key = slot.key();
        if inner.remove(key).is_some() {
            inner.send(Up::Release { key });
        }
        self.pump(inner);
    }

    /// basic.get.
    pub fn get(&self, queue: QueueId, holder: Option<ConsumerSlot>, ticket: &Arc<Ticket>) {
        self.ask(ticket, |request| Up::Get {
            request,
            queue,
            holder: holder.map(ConsumerSlot::key),
        });
    }

    /// queue.purge.
    pub fn purge(&self, queue: QueueId, ticket: &Arc<Ticket>) {
        self.ask(ticket, |request| Up::Purge { request, queue });
    }

    /// Messages and consumers. `touch`: the queue is declared.
    pub fn counts(&self, queue: QueueId, touch: bool, ticket: &Arc<Ticket>) {
        self.ask(ticket, |request| Up::Counts {
            request,
            queue,
            touch,
        });
    }

    fn ask(&self, ticket: &Arc<Ticket>, up: impl FnOnce(u64) -> Up) {
        let mut inner = self.inner.lock();
        inner.request(Arc::clone(ticket), up);
        self.pump(inner);
    }

    /// A dead letter of one of the group's queues is safe at its targets.
    pub fn dead_lettered(&self, queue: QueueId, seq: Seq, reason: DeadReason) {
        let mut inner = self.inner.lock();
        inner.send(Up::DeadLettered { queue, seq, reason });
        self.pump(inner);
    }

    /// A consumer's connection has room again.
    pub fn resume(&self, slot: ConsumerSlot) {
        let mut inner = self.inner.lock();
        let key = slot.key();
        if let Some(consumer) = inner.consumer(key)
            && consumer.owed > 0
        {
            let bytes = std::mem::take(&mut consumer.owed);
            inner.send(Up::Credit { key, bytes });
        }
        inner.grant(self.group, key);
        self.pump(inner);
    }

    /// A consumer comes under its channel's window.
    pub fn share_window(&self, slot: ConsumerSlot, limiter: &Arc<Limiter>) {
        let mut inner = self.inner.lock();
        let key = slot.key();
        if let Some(consumer) = inner.consumer(key) {
            limiter.occupy(consumer.places());
            consumer.spec.limiter = Some(Arc::clone(limiter));
            inner.send(Up::Share { key });
        }
        self.pump(inner);
    }

    /// A consumer, for listings; `None` if there is none any more.
    pub fn consumer_view(&self, slot: ConsumerSlot) -> Option<ConsumerView> {
        let mut inner = self.inner.lock();
        let consumer = inner.consumer(slot.key())?;
        let there = consumer.state == State::Attached && !consumer.spec.passive;
        there.then(|| ConsumerView {
            slot,
            priority: consumer.spec.priority,
            prefetch: consumer.spec.prefetch,
            exclusive: consumer.spec.exclusive,
            active: consumer.standing.is_none_or(|s| s.active),
        })
    }
}
