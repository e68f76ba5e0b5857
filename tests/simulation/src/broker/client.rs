//! Connections of a node's clients: they publish, consume, acknowledge, give back, cancel and go, as they please.
//!
//! Everything goes through the node's sessions, as the broker's connections do it; what comes of it is told to the judge at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use leveret::node::{Settle, SettleRange};
use leveret::outbox::Outbox;
use leveret::ticket::{Answer, Question, Ticket};
use leveret_cluster::GroupId;
use leveret_queue::{
    ConsumerSlot, ConsumerSpec, Delivery, EntryBuilder, Limiter, Link, NewMessage, QueueId, Seq,
    UnackedRange, Waiter,
};
use parking_lot::Mutex;

use super::host::{Host, Kept, has_priorities, is_careless, queues};
use super::wire::reign;
use crate::deliveries::{Arrival, Holder};
use crate::hosted::Client;
use crate::judge::body_of;
use crate::random::Random;

/// Batches without a commit at most.
const UNCOMMITTED_MAX: usize = 8;
/// Consumers of a node and group at most.
const CONSUMERS_MAX: usize = 6;
/// Bytes of deliveries that a client takes before it has looked at them.
const ROOM_BYTES: usize = 8000;

/// What clients are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Everything.
    Busy,
    /// They settle what they have, and wait.
    Quiet,
    /// And consume from every queue.
    Drain,
}

/// A message that a consumer holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    id: u64,
    number: u64,
}

/// One consumer's connection.
struct Conn {
    host: Weak<Host>,
    group: GroupId,
    queue: QueueId,
    who: Holder,
    no_ack: bool,
    state: Mutex<Got>,
}

#[derive(Default)]
struct Got {
    held: Vec<Held>,
    /// Bytes that were not looked at.
    unread: usize,
    waiters: Vec<Waiter>,
    cancelled: bool,
}

impl Conn {
    fn arrive(&self, number: u64, seq: Seq, redelivered: bool, body: &[u8]) {
        let Some(host) = self.host.upgrade() else {
            return;
        };
        let Some(kept) = host.kept(self.group) else {
            return;
        };
        // What came of a get may be looked at when its leader is over.
        let from = kept.hearing().or_else(|| kept.session.leader());
        let arrival = Arrival {
            from: from.map_or((0, 0), reign),
            who: self.who,
            queue: self.queue,
            seq,
            redelivered,
            in_order: !has_priorities(self.queue),
            is_held: !self.no_ack,
            body,
        };
        let id = host.judge().arrived(self.group, &arrival);
        if let Some(id) = id.filter(|_| !self.no_ack) {
            self.state.lock().held.push(Held { id, number });
        }
    }
}

impl Link for Conn {
    fn room(&self) -> usize {
        ROOM_BYTES.saturating_sub(self.state.lock().unread)
    }

    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        for delivery in deliveries.drain(..) {
            let body = delivery.message.content().3.to_vec();
            self.state.lock().unread += delivery.message.encoded_len();
            self.arrive(delivery.number, delivery.seq, delivery.redelivered, &body);
        }
    }

    fn wait_room(&self, waiter: Waiter) -> bool {
        if self.room() > 0 {
            return false;
        }
        self.state.lock().waiters.push(waiter);
        true
    }

    fn cancelled(&self, _: u64) {
        self.state.lock().cancelled = true;
        if let Some(host) = self.host.upgrade() {
            host.judge().released(self.group, self.who);
        }
    }
}

/// A consumer, or the holder of what basic.get gave.
struct Consumer {
    conn: Arc<Conn>,
    passive: bool,
    /// It was cancelled, and only holds what it has.
    ended: bool,
    attaching: Option<Arc<Ticket>>,
    slot: Option<ConsumerSlot>,
    /// A basic.get without an answer.
    getting: Option<Arc<Ticket>>,
    over: bool,
}

impl Consumer {
    /// It gets messages by itself.
    fn consumes(&self) -> bool {
        !self.over && !self.passive && !self.ended
    }
}

/// Who settles what, how.
type Settling = (Holder, u64, Settle, QueueId, UnackedRange);

/// A batch on its way.
struct Batch {
    number: u64,
    published: Vec<u64>,
    settled: Vec<u64>,
}

#[derive(Default)]
struct OfGroup {
    consumers: Vec<Consumer>,
    batches: VecDeque<Batch>,
    /// Questions of which the answers do not matter.
    asked: Vec<Arc<Ticket>>,
    window: Option<Arc<Limiter>>,
}

/// See the module.
pub struct Clients {
    host: Weak<Host>,
    groups: Mutex<BTreeMap<GroupId, OfGroup>>,
    last: AtomicU64,
    outbox: Arc<Outbox>,
}

impl Clients {
    /// Without connections.
    pub fn new(host: &Arc<Host>) -> Arc<Clients> {
        Arc::new(Clients {
            host: Arc::downgrade(host),
            groups: Mutex::default(),
            last: AtomicU64::new(0),
            outbox: Arc::default(),
        })
    }

    fn ticket(&self, question: Question) -> Arc<Ticket> {
        Ticket::new(question, Arc::clone(&self.outbox))
    }

    /// Looks at the answers that came of a group's leader.
    pub fn answers(&self, kept: &Kept) {
        let Some(mut groups) = self.groups.try_lock() else {
            // It comes of a call of a client's; who called looks afterwards.
            return;
        };
        if let Some(group) = groups.get_mut(&kept.group.id()) {
            group.answers();
        }
    }

    /// Consumers that a queue has here.
    pub fn consumers(&self, group: GroupId, queue: QueueId) -> usize {
        let groups = self.groups.lock();
        let consumers = groups.get(&group).map(|group| group.consumers.iter());
        let attached = consumers.into_iter().flatten();
        attached
            .filter(|c| c.consumes() && c.slot.is_some() && c.conn.queue == queue)
            .count()
    }

    /// What clients do of themselves in one look. `load`: of 1000 looks, how many publish, and how many do something else.
    pub fn work(&self, kept: &Arc<Kept>, random: &mut Random, phase: Phase, load: (u64, u64)) {
        let Some(host) = self.host.upgrade() else {
            return;
        };
        let id = kept.group.id();
        // One connection is one thread: nothing of what it calls comes back to it.
        let mut groups = self.groups.lock();
        let group = groups.entry(id).or_default();
        group.confirms(kept, &host);
        group.read(&host);
        let busy = phase == Phase::Busy;
        let settles = if busy && !random.permille(300) {
            Vec::new()
        } else {
            group.settle(random, !busy)
        };
        let publishes = busy && random.permille(load.0) && group.batches.len() < UNCOMMITTED_MAX;
        if publishes || !settles.is_empty() {
            group.submit(kept, &host, random, publishes, settles);
        }
        if busy && random.permille(load.1) {
            self.act(group, kept, &host, random);
        }
        if phase == Phase::Drain {
            for (queue, _) in queues(id) {
                let there = |c: &Consumer| c.consumes() && c.conn.queue == queue;
                if !group.consumers.iter().any(there) {
                    self.attach(group, kept, queue, false, random);
                }
            }
        }
        group.answers();
        group.consumers.retain(|consumer| {
            !consumer.over || consumer.attaching.is_some() || consumer.getting.is_some()
        });
    }

    fn attach(
        &self,
        group: &mut OfGroup,
        kept: &Kept,
        queue: QueueId,
        passive: bool,
        random: &mut Random,
    ) {
        let consumer = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(host) = self.host.upgrade() else {
            return;
        };
        let who = Holder {
            session: host.id,
            consumer,
        };
        let conn = Arc::new(Conn {
            host: self.host.clone(),
            group: kept.group.id(),
            queue,
            who,
            no_ack: !passive && is_careless(queue) && random.one_in(3),
            state: Mutex::default(),
        });
        let limiter = random.one_in(4).then(|| {
            let window = || Arc::new(Limiter::new(4));
            Arc::clone(group.window.get_or_insert_with(window))
        });
        let spec = ConsumerSpec {
            link: Arc::clone(&conn) as Arc<dyn Link>,
            handle: consumer,
            no_ack: conn.no_ack,
            exclusive: false,
            priority: random.below(3) as i32,
            prefetch: if passive {
                0
            } else {
                random.skewed(1, 20) as u32
            },
            limiter: limiter.filter(|_| !passive && !conn.no_ack),
            passive,
        };
        let ticket = self.ticket(Question::Attach);
        host.judge()
            .note(format_args!("{who:?} attaches to {queue}"));
        kept.session.attach(queue, spec, random.one_in(8), &ticket);
        group.consumers.push(Consumer {
            conn,
            passive,
            ended: false,
            attaching: Some(ticket),
            slot: None,
            getting: None,
            over: false,
        });
    }

    /// One of many things.
    fn act(&self, group: &mut OfGroup, kept: &Kept, host: &Host, random: &mut Random) {
        let all = queues(kept.group.id());
        let Some((queue, _)) = random.pick(&all).copied() else {
            return;
        };
        let (judge, id) = (host.judge(), kept.group.id());
        match random.below(12) {
            0..=3 if group.consumers.len() < CONSUMERS_MAX => {
                self.attach(group, kept, queue, random.one_in(4), random);
            }
            4 | 5 => {
                let at = random.below(group.consumers.len().max(1) as u64) as usize;
                let consumer = group.consumers.get_mut(at);
                let there = |c: &&mut Consumer| !c.over && c.getting.is_none();
                let Some(consumer) = consumer.filter(there) else {
                    return;
                };
                let Some(slot) = consumer.slot else { return };
                consumer.over = true;
                judge.note(format_args!("{:?} goes", consumer.conn.who));
                if random.one_in(2) {
                    kept.session.silence(slot);
                }
                judge.released(id, consumer.conn.who);
                consumer.conn.state.lock().held.clear();
                kept.session.release(slot);
            }
            6 => {
                let mut consumers = group.consumers.iter_mut();
                let some = consumers.find(|c| c.consumes() && random.one_in(2));
                if let Some((consumer, slot)) = some.and_then(|c| c.slot.map(|slot| (c, slot))) {
                    consumer.ended = true;
                    judge.note(format_args!("{:?} is cancelled", consumer.conn.who));
                    let ticket = self.ticket(Question::Cancel);
                    kept.session.cancel(slot, &ticket);
                    group.asked.push(ticket);
                }
            }
            7..=9 => {
                let mut passive = group.consumers.iter_mut();
                let free = passive
                    .find(|c| c.passive && !c.over && c.slot.is_some() && c.getting.is_none());
                if let Some(holder) = free {
                    let ticket = self.ticket(Question::Get);
                    kept.session.get(holder.conn.queue, holder.slot, &ticket);
                    holder.getting = Some(ticket);
                }
            }
            10 if is_careless(queue) => {
                judge.purges(id, queue);
                let ticket = self.ticket(Question::Purge);
                kept.session.purge(queue, &ticket);
                group.asked.push(ticket);
            }
            _ => {
                let ticket = self.ticket(Question::Counts);
                kept.session.counts(queue, random.one_in(2), &ticket);
                group.asked.push(ticket);
            }
        }
    }

    /// What keeps clients waiting.
    pub fn waits(&self) -> Option<String> {
        let groups = self.groups.lock();
        for (id, group) in &*groups {
            if let Some(first) = group.batches.front() {
                return Some(format!(
                    "group {id}: batch {} is not committed",
                    first.number
                ));
            }
            let attaching = group.consumers.iter().find(|c| c.attaching.is_some());
            if let Some(consumer) = attaching {
                return Some(format!("{:?} is being attached", consumer.conn.who));
            }
            if let Some(consumer) = group.consumers.iter().find(|c| c.getting.is_some()) {
                return Some(format!("{:?} waits for a message", consumer.conn.who));
            }
            if group.asked.iter().any(|ticket| !ticket.is_answered()) {
                return Some(format!("group {id}: a question has no answer"));
            }
        }
        None
    }
}

impl Client for Clients {
    fn is_idle(&self) -> bool {
        self.waits().is_none()
    }
}

impl OfGroup {
    fn answers(&mut self) {
        for consumer in &mut self.consumers {
            if let Some(Answer::Attached(slot)) = consumer.attaching.as_ref().and_then(|t| t.get())
            {
                consumer.attaching = None;
                consumer.slot = slot;
                consumer.over |= slot.is_none();
            }
            if let Some(Answer::Got(got)) = consumer.getting.as_ref().and_then(|t| t.get()) {
                consumer.getting = None;
                if let Some(got) = got {
                    let body = got.message.content().3.to_vec();
                    let conn = &consumer.conn;
                    conn.arrive(got.number, got.seq, got.redelivered, &body);
                }
            }
            if consumer.conn.state.lock().cancelled {
                consumer.over = true;
            }
        }
        self.asked.retain(|ticket| !ticket.is_answered());
    }

    /// What is committed.
    fn confirms(&mut self, kept: &Kept, host: &Host) {
        let committed = kept.session.committed();
        let (group, judge) = (kept.group.id(), host.judge());
        while self.batches.front().is_some_and(|b| b.number <= committed) {
            let Some(batch) = self.batches.pop_front() else {
                break;
            };
            if !batch.published.is_empty() {
                judge.confirmed(group, host.id, &batch.published);
            }
            judge.settled(group, host.id, &batch.settled);
        }
    }

    /// Clients look at what came.
    fn read(&mut self, host: &Host) {
        for consumer in &self.consumers {
            let waiters = {
                let mut got = consumer.conn.state.lock();
                got.unread = 0;
                std::mem::take(&mut got.waiters)
            };
            if !waiters.is_empty() {
                host.resume(waiters);
            }
        }
    }

    /// Takes some of what is held, or all, to be settled.
    fn settle(&mut self, random: &mut Random, all: bool) -> Vec<Settling> {
        let mut settles = Vec::new();
        for consumer in self.consumers.iter_mut().filter(|c| !c.over) {
            let Some(slot) = consumer.slot else { continue };
            let mut got = consumer.conn.state.lock();
            let count = match all {
                true => got.held.len(),
                false => random.below(got.held.len() as u64 + 1) as usize,
            };
            // Several at once, from either end.
            let from = match random.one_in(3) {
                true => got.held.len() - count,
                false => 0,
            };
            let how = match random.below(6) {
                0 if !all => Settle::Requeue,
                1 => Settle::Drop,
                _ => Settle::Ack,
            };
            for held in got.held.drain(from..from + count) {
                let range = UnackedRange {
                    slot,
                    first: held.number,
                    count: 1,
                };
                settles.push((consumer.conn.who, held.id, how, consumer.conn.queue, range));
            }
        }
        settles
    }

    fn submit(
        &mut self,
        kept: &Kept,
        host: &Host,
        random: &mut Random,
        publishes: bool,
        settles: Vec<Settling>,
    ) {
        let (group, judge) = (kept.group.id(), host.judge());
        let (mut ranges, mut settled) = (Vec::new(), Vec::new());
        for (who, id, how, queue, range) in settles {
            let goes = how != Settle::Requeue;
            judge.note(format_args!("{:?} settles {id}: {how:?}", host.id));
            judge.settles(group, who, id, goes);
            settled.extend(goes.then_some(id));
            ranges.push(SettleRange { queue, how, range });
        }
        let mut published = Vec::new();
        let mut entry = EntryBuilder::default();
        let queues = queues(group);
        for _ in 0..if publishes { random.between(1, 4) } else { 0 } {
            let Some((queue, _)) = random.pick(&queues) else {
                return;
            };
            let id = judge.new_message(host.id);
            let body = body_of(id, random.skewed(8, 3000) as usize);
            let message = NewMessage {
                exchange: b"",
                routing_key: b"",
                properties: b"",
                body: &[&body],
                persistent: random.one_in(2),
                expiration_ms: None,
                priority: random.below(5) as u8,
                time_ms: host.now_ms(),
            };
            entry.enqueue(&[*queue], &message, true);
            published.push(id);
        }
        let entry = publishes.then_some(entry);
        let number = kept.session.submit(entry, &ranges, None, None);
        if number > 0 {
            self.batches.push_back(Batch {
                number,
                published,
                settled,
            });
        }
    }
}
