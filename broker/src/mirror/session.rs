//! A node's end of what its connections do with the queues of one group.
//!
//! Owned by the node, called by connections (submit, attach, settle, ...) and by whoever hears from the group's leader
//! ([`Session::receive`], [`Session::lead_by`]). It numbers what must be applied once and keeps it until the leader says that it is
//! committed; it knows what its consumers hold, so that a new leader can be told. It knows nothing of Raft.
//!
//! Invariants: numbers go to a leader in order and without gaps; a consumer's held messages have ascending numbers, the
//! connection's own, which never change, while the leader's numbers begin anew with each leader.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use leveret_cluster::{GroupId, Notify};
use leveret_queue::{
    ConsumerSlot, ConsumerSpec, ConsumerView, DeadReason, Delivery, EntryBuilder, GetResult,
    Limiter, Link, QueueId, Seq, Standing, UnackedRange, Waiter,
};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashSet;

use super::message::{Attach, Claim, ConsumerKey, Down, Item, SessionId, SettleSeqs, Up};
use crate::node::{Settle, SettleRange};
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

/// A message that a consumer of this session holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    /// The leader's number; 0 when the message went elsewhere.
    number: u64,
    seq: Seq,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The leader has not answered.
    Attaching,
    /// It gets deliveries.
    Attached,
    /// It only holds.
    Cancelled,
}

#[derive(Debug)]
struct Consumer {
    generation: u32,
    queue: QueueId,
    spec: ConsumerSpec,
    cancel_on_failover: bool,
    state: State,
    /// From number `base` on; `None`: settled.
    held: VecDeque<Option<Held>>,
    base: u64,
    /// Bytes that were delivered and for which no new credit was given yet.
    owed: u32,
    /// Places of its channel's window that the leader has for it.
    granted: u32,
    /// The leader has something for it and waits for a place.
    wanted: bool,
    /// What the leader says of it, for the next one.
    standing: Option<Standing>,
}

impl Consumer {
    fn hold(&mut self, number: u64, seq: Seq) -> u64 {
        self.held.push_back(Some(Held { number, seq }));
        self.base + self.held.len() as u64 - 1
    }

    fn take(&mut self, number: u64) -> Option<Held> {
        let at = usize::try_from(number.checked_sub(self.base)?).ok()?;
        let held = self.held.get_mut(at)?.take();
        while let Some(None) = self.held.front() {
            self.held.pop_front();
            self.base += 1;
        }
        held
    }

    /// Places of its channel's window that it takes.
    fn places(&self) -> u32 {
        let held = self.held.iter().flatten().count();
        u32::try_from(held).unwrap_or(u32::MAX) + self.granted
    }

    fn attach(&self, key: ConsumerKey) -> Attach {
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

/// A batch that is not known to be committed.
struct Batch {
    number: u64,
    settles: Vec<SettleSeqs>,
    entry: Bytes,
    who: Option<Arc<dyn Notify>>,
    refused: Option<Refused>,
}

impl Batch {
    /// Whoever gave a message back and got it again holds it: the next leader is not to take it from him.
    fn keep_what_came_again(&mut self, held: &FxHashSet<(ConsumerKey, Seq)>) {
        for settle in &mut self.settles {
            let Some(key) = settle.consumer.filter(|_| settle.how == Settle::Requeue) else {
                continue;
            };
            let again = |seq: Seq| held.contains(&(key, seq));
            let any = |&(_, first, count): &(u64, Seq, u32)| {
                (first..first.saturating_add(u64::from(count))).any(again)
            };
            if !settle.items.iter().any(any) {
                continue;
            }
            settle.items = settle
                .items
                .iter()
                .flat_map(|&(number, first, count)| {
                    (0..u64::from(count)).map(move |at| (number + at, first + at, 1))
                })
                .filter(|(_, seq, _)| !again(*seq))
                .collect();
        }
    }

    fn up(&self) -> Up {
        Up::Batch {
            number: self.number,
            settles: self.settles.clone(),
            entry: self.entry.clone(),
        }
    }
}

/// A request without an answer.
#[derive(Debug)]
struct Open {
    up: Up,
    ticket: Arc<Ticket>,
}

#[derive(Default)]
struct Inner {
    leader: Option<Leader>,
    /// The last leader that there was.
    followed: Option<Leader>,
    /// Number of the last batch.
    last: u64,
    uncommitted: VecDeque<Batch>,
    consumers: Vec<Option<Consumer>>,
    generation: u32,
    requests: BTreeMap<u64, Open>,
    last_request: u64,
    up: VecDeque<(Leader, Up)>,
    pumping: bool,
    /// Who waits for places that came free.
    wakes: Vec<Waiter>,
}

/// Places that a leader is given at a time, so that what many queues have for a channel does not cost a question for each message.
const PLACES_MAX: u32 = 32;

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

fn same(a: &Arc<dyn Notify>, b: &Arc<dyn Notify>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

fn split(key: ConsumerKey) -> (usize, u32) {
    ((key >> 32) as usize, key as u32)
}

impl Inner {
    fn consumer(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        let (index, generation) = split(key);
        let consumer = self.consumers.get_mut(index)?.as_mut()?;
        (consumer.generation == generation).then_some(consumer)
    }

    fn remove(&mut self, key: ConsumerKey) -> Option<Consumer> {
        self.consumer(key)?;
        let gone = self.consumers.get_mut(split(key).0)?.take()?;
        self.free(&gone.spec.limiter.clone(), gone.places());
        Some(gone)
    }

    /// Places of a channel's window are free.
    fn free(&mut self, limiter: &Option<Arc<Limiter>>, places: u32) {
        if let Some(limiter) = limiter.as_ref().filter(|_| places > 0) {
            limiter.release(places);
            self.wakes.extend(limiter.take_waiters());
        }
    }

    /// The leader that had places is gone.
    fn take_grants_back(&mut self) {
        for consumer in self.consumers.iter_mut().flatten() {
            consumer.wanted = false;
            let unused = std::mem::take(&mut consumer.granted);
            if let Some(limiter) = consumer.spec.limiter.as_ref().filter(|_| unused > 0) {
                limiter.release(unused);
                self.wakes.extend(limiter.take_waiters());
            }
        }
    }

    /// Gives the leader places for a consumer, if it waits for some and there are any.
    fn grant(&mut self, group: GroupId, key: ConsumerKey) {
        let Some(consumer) = self.consumer(key).filter(|c| c.wanted) else {
            return;
        };
        let waiter = Waiter {
            group,
            queue: consumer.queue,
            consumer: ConsumerSlot::from_key(key),
        };
        let Some(limiter) = &consumer.spec.limiter else {
            return;
        };
        let places = limiter.take_some(PLACES_MAX, waiter);
        if places > 0 {
            consumer.wanted = false;
            consumer.granted += places;
            self.send(Up::Grant { key, places });
        }
    }

    /// A consumer that was cancelled is kept only for what it holds.
    fn release_if_empty(&mut self, key: ConsumerKey) {
        let empty = self
            .consumer(key)
            .is_some_and(|c| c.state == State::Cancelled && c.held.is_empty());
        if empty {
            self.remove(key);
            self.send(Up::Release { key });
        }
    }

    fn send(&mut self, up: Up) {
        if let Some(leader) = self.leader {
            self.up.push_back((leader, up));
        }
    }

    fn request(&mut self, ticket: Arc<Ticket>, up: impl FnOnce(u64) -> Up) {
        self.last_request += 1;
        let up = up(self.last_request);
        self.send(up.clone());
        self.requests.insert(self.last_request, Open { up, ticket });
    }

    /// Settles by sequence number what a connection settles by its own numbers.
    /// Adds consumers to `emptied` that were kept for these alone.
    fn resolve(
        &mut self,
        ranges: &[SettleRange],
        emptied: &mut Vec<ConsumerKey>,
    ) -> Vec<SettleSeqs> {
        let mut settles: Vec<SettleSeqs> = Vec::new();
        for SettleRange { queue, how, range } in ranges {
            let UnackedRange { slot, first, count } = *range;
            let key = slot.key();
            let Some(consumer) = self.consumer(key) else {
                continue;
            };
            let mut items: Vec<(u64, Seq, u32)> = Vec::new();
            let mut taken = 0;
            for number in first..first.saturating_add(u64::from(count)) {
                let Some(held) = consumer.take(number) else {
                    continue;
                };
                taken += 1;
                if held.number == 0 {
                    continue;
                }
                match items.last_mut() {
                    Some((number, seq, n))
                        if *number + u64::from(*n) == held.number
                            && *seq + u64::from(*n) == held.seq =>
                    {
                        *n += 1;
                    }
                    _ => items.push((held.number, held.seq, 1)),
                }
            }
            let over = consumer.state == State::Cancelled && consumer.held.is_empty();
            let limiter = consumer.spec.limiter.clone();
            if over {
                emptied.push(key);
            }
            self.free(&limiter, taken);
            if !items.is_empty() {
                settles.push(SettleSeqs {
                    queue: *queue,
                    consumer: Some(key),
                    how: *how,
                    items,
                });
            }
        }
        settles
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

    /// Somebody leads, or nobody is known to: what is not committed, and what is held, is told to the new one.
    pub fn lead_by(&self, leader: Option<Leader>) {
        let mut inner = self.inner.lock();
        if inner.leader == leader {
            return;
        }
        inner.leader = leader;
        inner.up.clear();
        inner.take_grants_back();
        let Some(next) = leader else {
            return self.pump(inner);
        };
        // One that begins anew after its link broke is no failover.
        let before = inner.followed.replace(next);
        let failover = before.is_some_and(|l| (l.node, l.term) != (next.node, next.term));
        let mut claims = Vec::new();
        let mut wakes = Vec::new();
        let mut cancelled = Vec::new();
        let mut again: FxHashSet<(ConsumerKey, Seq)> = FxHashSet::default();
        let gave_back = inner
            .uncommitted
            .iter()
            .flat_map(|batch| &batch.settles)
            .any(|settle| settle.how == Settle::Requeue);
        for (index, place) in inner.consumers.iter_mut().enumerate() {
            let Some(consumer) = place.as_mut().filter(|c| c.state != State::Attaching) else {
                continue;
            };
            if failover && consumer.cancel_on_failover && consumer.state == State::Attached {
                // RabbitMQ extension: what it holds goes back, marked redelivered.
                cancelled.push((Arc::clone(&consumer.spec.link), consumer.spec.handle));
                if let Some(limiter) = &consumer.spec.limiter {
                    limiter.release(consumer.places());
                    wakes.extend(limiter.take_waiters());
                }
                *place = None;
                continue;
            }
            let key = (index as u64) << 32 | u64::from(consumer.generation);
            let mut number = 0;
            let mut held = Vec::new();
            for message in consumer.held.iter_mut().flatten() {
                if message.number > 0 {
                    number += 1;
                    message.number = number;
                    held.push(message.seq);
                    if gave_back {
                        again.insert((key, message.seq));
                    }
                }
            }
            let attach = consumer.attach(key);
            claims.push(Claim { attach, held });
        }
        if gave_back {
            for batch in &mut inner.uncommitted {
                batch.keep_what_came_again(&again);
            }
        }
        let next = inner
            .uncommitted
            .front()
            .map_or(inner.last + 1, |b| b.number);
        let last = inner.last;
        inner.send(Up::Claim { next, last, claims });
        let mut resent: Vec<Up> = inner.uncommitted.iter().map(Batch::up).collect();
        resent.extend(inner.requests.values().map(|open| open.up.clone()));
        for up in resent {
            inner.send(up);
        }
        inner.wakes.extend(wakes);
        self.pump(inner);
        for (link, handle) in cancelled {
            link.cancelled(handle);
        }
    }

    /// Takes what a leader said. Of another than the present one it is void.
    pub fn receive(&self, from: Leader, down: Down) {
        let mut inner = self.inner.lock();
        if inner.leader != Some(from) {
            return;
        }
        match down {
            Down::Committed { number, refused } => {
                return self.commit(inner, number, refused);
            }
            Down::Claimed { key, numbers } => {
                if let Some(consumer) = inner.consumer(key) {
                    // What was settled since is not there any more; the claim gave numbers from 1 on.
                    for held in consumer.held.iter_mut().flatten() {
                        let at = held.number.checked_sub(1).map(|at| at as usize);
                        if let Some(number) = at.and_then(|at| numbers.get(at)) {
                            held.number = *number;
                        }
                    }
                }
            }
            Down::Deliver { items } => return self.deliver(inner, items),
            Down::Active { key, active } => {
                if let Some(consumer) = inner.consumer(key) {
                    let arrival = consumer.standing.map_or(0, |s| s.arrival);
                    consumer.standing = Some(Standing { arrival, active });
                }
            }
            Down::Wanted { key } => {
                if let Some(consumer) = inner.consumer(key) {
                    consumer.wanted = true;
                    inner.grant(self.group, key);
                }
            }
            Down::Unused { key, places } => {
                if let Some(consumer) = inner.consumer(key) {
                    let places = places.min(consumer.granted);
                    consumer.granted -= places;
                    let limiter = consumer.spec.limiter.clone();
                    inner.free(&limiter, places);
                }
            }
            Down::Cancelled { key } => {
                // Its queue is gone, and what it held with it.
                if let Some(gone) = inner.remove(key)
                    && gone.state == State::Attached
                    && !gone.spec.passive
                {
                    drop(inner);
                    gone.spec.link.cancelled(gone.spec.handle);
                    return;
                }
            }
            Down::Attached { request, arrival } => self.attached(&mut inner, request, arrival),
            Down::Ended { request } => {
                if let Some(open) = inner.requests.remove(&request) {
                    if let Up::Cancel { key, .. } = open.up {
                        inner.release_if_empty(key);
                    }
                    open.ticket.answer(Answer::Ended);
                }
            }
            Down::Got { request, got } => self.got(&mut inner, request, got),
            Down::Purged { request, messages } => {
                if let Some(open) = inner.requests.remove(&request) {
                    open.ticket.answer(Answer::Purged(messages));
                }
            }
            Down::Counts {
                request,
                ready,
                consumers,
            } => {
                if let Some(open) = inner.requests.remove(&request) {
                    open.ticket.answer(Answer::Counts(ready, consumers));
                }
            }
            Down::NotLeading => {
                inner.leader = None;
                inner.up.clear();
            }
        }
        self.pump(inner);
    }

    fn commit(&self, mut inner: MutexGuard<'_, Inner>, number: u64, refused: Vec<(u64, Vec<u32>)>) {
        let mut wake: Vec<Arc<dyn Notify>> = Vec::new();
        while inner
            .uncommitted
            .front()
            .is_some_and(|b| b.number <= number)
        {
            let Some(batch) = inner.uncommitted.pop_front() else {
                break;
            };
            if let Some(place) = &batch.refused
                && let Some((_, ops)) = refused.iter().find(|(n, _)| *n == batch.number)
            {
                place.lock().clone_from(ops);
            }
            match batch.who {
                Some(who) if wake.last().is_none_or(|last| !same(last, &who)) => {
                    wake.push(who);
                }
                Some(_) | None => {}
            }
        }
        // Never backwards, and never past what was sent.
        let known = number.min(inner.last);
        self.committed.fetch_max(known, Ordering::AcqRel);
        drop(inner);
        for who in wake {
            who.notify();
        }
    }

    fn attached(&self, inner: &mut Inner, request: u64, arrival: Option<u64>) {
        let Some(open) = inner.requests.remove(&request) else {
            return;
        };
        let Up::Attach { attach, .. } = open.up else {
            return;
        };
        let key = attach.key;
        let Some(arrival) = arrival else {
            inner.remove(key);
            return open.ticket.answer(Answer::Attached(None));
        };
        // A connection that ended meanwhile has forgotten its question.
        if Arc::strong_count(&open.ticket) == 1 {
            inner.remove(key);
            inner.send(Up::Release { key });
            return;
        }
        if let Some(consumer) = inner.consumer(key) {
            consumer.state = State::Attached;
            if arrival > 0 {
                let active = consumer.standing.is_some_and(|s| s.active);
                consumer.standing = Some(Standing { arrival, active });
            }
            let slot = ConsumerSlot::from_key(key);
            open.ticket.answer(Answer::Attached(Some(slot)));
        }
    }

    fn got(&self, inner: &mut Inner, request: u64, got: Option<(Item, u64)>) {
        let Some(open) = inner.requests.remove(&request) else {
            return;
        };
        let Up::Get { holder, .. } = open.up else {
            return;
        };
        let result = got.map(|(item, remaining)| {
            let mut number = 0;
            if let Some(consumer) = holder.and_then(|key| inner.consumer(key)) {
                number = consumer.hold(item.number, item.seq);
            }
            GetResult {
                message: item.message,
                seq: item.seq,
                number,
                redelivered: item.redelivered,
                delivery_count: item.delivery_count,
                remaining,
            }
        });
        open.ticket.answer(Answer::Got(result));
    }

    fn deliver<'a>(&'a self, mut inner: MutexGuard<'a, Inner>, items: Vec<(ConsumerKey, Item)>) {
        // What consumers of one connection get is in the queue's order; a run has few connections.
        let mut links: Vec<(Arc<dyn Link>, Vec<Delivery>)> = Vec::new();
        let mut owed: Vec<(ConsumerKey, u32)> = Vec::new();
        for (key, item) in items {
            let Some(consumer) = inner.consumer(key) else {
                continue;
            };
            let bytes = u32::try_from(item.message.encoded_len()).unwrap_or(u32::MAX);
            match owed.iter_mut().find(|(known, _)| *known == key) {
                Some((_, sum)) => *sum = sum.saturating_add(bytes),
                None => owed.push((key, bytes)),
            }
            let mut number = 0;
            if !consumer.spec.no_ack {
                number = consumer.hold(item.number, item.seq);
                if let Some(limiter) = &consumer.spec.limiter {
                    match consumer.granted.checked_sub(1) {
                        Some(rest) => consumer.granted = rest,
                        // It was on its way when the window began to hold.
                        None => limiter.occupy(1),
                    }
                }
            }
            let delivery = Delivery {
                handle: consumer.spec.handle,
                number,
                seq: item.seq,
                message: item.message,
                redelivered: item.redelivered,
                delivery_count: item.delivery_count,
                turn: 0,
            };
            let link = &consumer.spec.link;
            match links.iter_mut().find(|(known, _)| Arc::ptr_eq(known, link)) {
                Some((_, deliveries)) => deliveries.push(delivery),
                None => links.push((Arc::clone(link), vec![delivery])),
            }
        }
        // Under the lock, so that deliveries reach the connection in the order in which they were held.
        for (link, mut deliveries) in links {
            link.deliver(&mut deliveries);
        }
        for (key, bytes) in owed {
            let group = self.group;
            let Some(consumer) = inner.consumer(key) else {
                continue;
            };
            consumer.owed = consumer.owed.saturating_add(bytes);
            let waiter = Waiter {
                group,
                queue: consumer.queue,
                consumer: ConsumerSlot::from_key(key),
            };
            let link = &consumer.spec.link;
            if link.room() > 0 || !link.wait_room(waiter) {
                let bytes = std::mem::take(&mut consumer.owed);
                inner.send(Up::Credit { key, bytes });
            }
        }
        self.pump(inner);
    }
}
