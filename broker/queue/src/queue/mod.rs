//! One queue: what waits, who consumes, what is unacknowledged.
//!
//! `deliver`: from what waits to consumers; `expiry`: what leaves undelivered; `consumers`: attach, release, what comes back.

mod consumers;
mod deliver;
mod expiry;

use rustc_hash::FxHashMap;

use self::deliver::Stage;
use self::expiry::{EXPIRE_SLICE, Ttls};
use crate::consumer::Consumers;
use crate::entry::SETTLED_ACKED;
use crate::machine::{DeadLetter, Effects, Settle};
use crate::ready::{Hot, Ready, Refill};
use crate::{DeadReason, Delivery, Location, QueueId, Seq, Settings, Store, StoreError};

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Waiting.
    pub ready: u64,
    /// Delivered and not acknowledged.
    pub unacked: u64,
    /// Bytes of waiting bodies.
    pub ready_bytes: u64,
    /// Bytes of unacknowledged bodies.
    pub unacked_bytes: u64,
    /// Attached consumers.
    pub consumers: u32,
}

/// What has happened in a queue since it was made on this node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Enqueued.
    pub published: u64,
    /// Delivered to consumers with acknowledgement.
    pub delivered: u64,
    /// Delivered to consumers without acknowledgement.
    pub delivered_no_ack: u64,
    /// Fetched by basic.get with acknowledgement.
    pub got: u64,
    /// Fetched by basic.get without acknowledgement.
    pub got_no_ack: u64,
    /// basic.get on the empty queue.
    pub got_empty: u64,
    /// Deliveries of messages that had been delivered before.
    pub redelivered: u64,
    /// Acknowledged.
    pub acked: u64,
    /// Expired.
    pub expired: u64,
    /// Dropped for a length limit.
    pub dropped: u64,
}

/// A look at one queue, for listings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueView {
    /// Its id.
    pub id: QueueId,
    /// Its depth.
    pub depth: Depth,
    /// Its counters.
    pub counters: Counters,
    /// When it was last used, for `x-expires`; `None` while it has consumers.
    pub idle_since_ms: Option<u64>,
    /// The handle of the single active consumer, if there is one.
    pub active_consumer: Option<u64>,
    /// Messages in memory.
    pub hot_messages: u64,
}

#[derive(Debug)]
pub(crate) struct Queue {
    pub id: QueueId,
    pub settings: Settings,
    pub next_seq: Seq,
    /// Messages that were admitted and not applied yet, and bytes of their bodies; only of a mirrored queue.
    pub admitted: (u64, u64),
    /// Its replica has it: nothing is admitted before.
    pub announced: bool,
    pub ready: Ready,
    pub consumers: Consumers,
    pub unacked: u64,
    pub unacked_bytes: u64,
    /// Live persistent messages, settled or not yet: what a checkpoint keeps.
    pub journaled_bytes: u64,
    /// Taken out to be dead-lettered; still live until that is done.
    pub limbo: FxHashMap<Seq, Hot>,
    /// Numbers up to here may have been delivered (exclusive).
    pub delivered_end: Seq,
    /// Restored messages below this number count as delivered before.
    pub redelivered_below: Seq,
    /// Delivery counts of restored messages.
    pub returns: FxHashMap<Seq, u32>,
    pub last_used_ms: u64,
    pub had_consumer: bool,
    /// Its replica knows that it had one.
    pub use_noted: bool,
    /// Deliveries so far.
    pub turn: u64,
    ttls: Ttls,
    /// A message with its own expiration may be in it.
    pub has_expiration: bool,
    /// Numbers from here on came with the entry that is being applied; `u64::MAX` otherwise.
    pub fresh_from: Seq,
    /// When its timer is set to; `u64::MAX` if not.
    pub timer_ms: u64,
    pub counters: Counters,
    /// Deliveries of the run that is under way, by connection, so that each gets them in the queue's order.
    stages: Vec<Stage>,
    /// Consumers that have a stage.
    staged: Vec<u32>,
    /// Emptied buffers of stages, for the next run.
    spare: Vec<Vec<Delivery>>,
}

/// What a queue's methods need from outside.
pub(crate) struct Ctx<'a> {
    pub group: u32,
    /// The leader has not begun yet: nothing is delivered, expires or is dropped.
    pub is_armed: bool,
    pub now_ms: u64,
    pub store: &'a dyn Store,
    pub effects: &'a mut Effects,
}

impl Queue {
    pub fn new(id: QueueId, settings: Settings, now_ms: u64) -> Self {
        Queue {
            id,
            ready: Ready::new(settings.max_priority),
            settings,
            ttls: Ttls::new(settings.message_ttl_ms),
            next_seq: 1,
            admitted: (0, 0),
            announced: false,
            consumers: Consumers::default(),
            unacked: 0,
            unacked_bytes: 0,
            journaled_bytes: 0,
            limbo: FxHashMap::default(),
            delivered_end: 0,
            redelivered_below: 0,
            returns: FxHashMap::default(),
            last_used_ms: now_ms,
            had_consumer: false,
            use_noted: false,
            turn: 0,
            has_expiration: false,
            fresh_from: Seq::MAX,
            timer_ms: u64::MAX,
            counters: Counters::default(),
            stages: Vec::new(),
            staged: Vec::new(),
            spare: Vec::new(),
        }
    }

    pub fn depth(&self) -> Depth {
        Depth {
            ready: self.ready.messages(),
            unacked: self.unacked,
            ready_bytes: self.ready.bytes(),
            unacked_bytes: self.unacked_bytes,
            consumers: self.consumers.attached,
        }
    }

    #[inline]
    pub fn enqueue(&mut self, hot: Hot, store: &dyn Store) {
        self.counters.published += 1;
        if hot.location.is_some() && hot.location.is_journaled() {
            self.journaled_bytes += u64::from(hot.size);
        }
        self.ready.push(self.id, hot, store);
    }

    /// Splits `self` into the ready list, what reading it back needs, and when its messages expire.
    fn refill<'a>(&'a mut self, store: &'a dyn Store) -> (&'a mut Ready, Refill<'a>, &'a Ttls) {
        let refill = Refill {
            queue: self.id,
            store,
            redelivered_below: self.redelivered_below,
            returns: &self.returns,
        };
        (&mut self.ready, refill, &self.ttls)
    }

    /// Takes over changed settings. Priority levels stay as declared.
    pub fn set(&mut self, settings: Settings, now_ms: u64) {
        if settings.expires_ms != self.settings.expires_ms {
            self.last_used_ms = now_ms;
        }
        let is_empty = self.ready.is_empty() && self.unacked == 0;
        self.ttls
            .set(settings.message_ttl_ms, self.next_seq, is_empty);
        if settings.single_active_consumer != self.settings.single_active_consumer {
            self.consumers.set_single(settings.single_active_consumer);
        }
        self.settings = Settings {
            max_priority: self.settings.max_priority,
            ..settings
        };
    }

    /// Does all that is due: delivers, expires, drops, sets the timer.
    pub fn run(&mut self, ctx: &mut Ctx<'_>) {
        if ctx.is_armed {
            return;
        }
        if let Err(error) = self.try_run(ctx) {
            ctx.effects.failure.get_or_insert(error);
        }
        self.flush();
    }

    fn try_run(&mut self, ctx: &mut Ctx<'_>) -> Result<(), StoreError> {
        self.deliver(ctx)?;
        let mut finished = true;
        if self.expires() {
            finished &= self.expire(ctx, false, EXPIRE_SLICE)?;
        }
        if self.settings.overflow == crate::Overflow::DropHead {
            finished &= self.drop_excess(ctx)?;
        }
        self.set_timer(ctx, !finished)
    }

    /// A message leaves without acknowledgement: to the dead-letter exchange if there is one.
    pub fn discard(&mut self, hot: Hot, reason: DeadReason, ctx: &mut Ctx<'_>) {
        let journaled = hot.location.is_some() && hot.location.is_journaled();
        if self.settings.dead_letter {
            let message = match &hot.message {
                Some(message) => Some(message.clone()),
                None => self.load(&hot, ctx),
            };
            let Some(message) = message else {
                return self.put_back_failed(hot);
            };
            ctx.effects.dead.push(DeadLetter {
                queue: self.id,
                seq: hot.seq,
                message,
                reason,
                held: journaled,
            });
            if journaled {
                self.limbo.insert(hot.seq, hot);
            }
        } else {
            self.settled(&hot, reason as u8, ctx);
        }
    }

    fn load(&self, hot: &Hot, ctx: &mut Ctx<'_>) -> Option<crate::Message> {
        let mut out = Vec::with_capacity(1);
        match ctx
            .store
            .read(self.id, hot.seq, 1, hot.location, 1, &mut out)
        {
            Ok(()) => out.pop().map(|s| s.message),
            Err(error) => {
                ctx.effects.failure.get_or_insert(error);
                None
            }
        }
    }

    fn put_back_failed(&mut self, hot: Hot) {
        self.ready.put_back(hot);
    }

    /// Notes that a message is done with.
    #[inline]
    pub fn settled(&mut self, hot: &Hot, reason: u8, ctx: &mut Ctx<'_>) {
        if hot.location.is_some() && hot.location.is_journaled() {
            self.journaled_bytes = self.journaled_bytes.saturating_sub(u64::from(hot.size));
            ctx.effects
                .journal
                .settle(self.id, reason, hot.seq, hot.size);
            if !self.returns.is_empty() {
                self.returns.remove(&hot.seq);
            }
        }
    }

    /// What was taken from consumers, or from what waits, is done with or comes back.
    pub fn settle(&mut self, taken: Vec<Hot>, how: Settle, ctx: &mut Ctx<'_>) {
        match how {
            Settle::Ack => {
                for hot in &taken {
                    self.unacked = self.unacked.saturating_sub(1);
                    self.unacked_bytes = self.unacked_bytes.saturating_sub(u64::from(hot.size));
                    self.counters.acked += 1;
                    self.settled(hot, SETTLED_ACKED, ctx);
                }
            }
            Settle::Drop => {
                for hot in taken {
                    self.unacked = self.unacked.saturating_sub(1);
                    self.unacked_bytes = self.unacked_bytes.saturating_sub(u64::from(hot.size));
                    self.discard(hot, DeadReason::Rejected, ctx);
                }
            }
            Settle::Requeue => self.come_back(taken, ctx),
        }
    }

    /// Takes the first waiting message for basic.get.
    pub fn get(&mut self, ctx: &mut Ctx<'_>) -> Result<Option<Hot>, StoreError> {
        self.last_used_ms = ctx.now_ms;
        if self.expires() {
            // All of it: what is behind must not be taken for an empty queue.
            self.expire(ctx, false, usize::MAX)?;
        }
        let (ready, refill, _) = self.refill(ctx.store);
        if ready.front(&refill)?.is_none() {
            self.counters.got_empty += 1;
            return Ok(None);
        }
        let Some(mut hot) = self.ready.pop() else {
            return Ok(None);
        };
        hot.claimable = false;
        self.delivered_end = self.delivered_end.max(hot.seq.saturating_add(1));
        if hot.redelivered {
            self.counters.redelivered += 1;
        }
        Ok(Some(hot))
    }

    /// Drops everything that waits.
    pub fn purge(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        let count = self.ready.messages();
        let (hot, tails) = self.ready.drain();
        // Bytes of the tail are not known one by one, but together; a segment's run has less than 4 GiB.
        let waiting = hot
            .iter()
            .filter(|h| h.location.is_some() && h.location.is_journaled());
        let waiting: u64 = waiting.map(|h| u64::from(h.size)).sum();
        let held = self.held_bytes();
        let mut tail_bytes = self.journaled_bytes.saturating_sub(held + waiting);
        for h in &hot {
            self.settled(h, crate::entry::SETTLED_PURGED, ctx);
        }
        for run in tails.iter().flat_map(|t| t.runs()) {
            if run.location.is_journaled() {
                let bytes = u32::try_from(tail_bytes).unwrap_or(u32::MAX);
                tail_bytes -= u64::from(bytes);
                ctx.effects.journal.settle_range(
                    self.id,
                    crate::entry::SETTLED_PURGED,
                    run.first,
                    run.count,
                    bytes,
                );
            } else {
                ctx.store.release(run.location, run.count);
            }
        }
        self.journaled_bytes = held;
        self.last_used_ms = ctx.now_ms;
        count
    }

    /// Lets go of what waits in the pager; the queue is about to be dropped.
    pub fn release_paged(&mut self, store: &dyn Store) {
        let (_, tails) = self.ready.drain();
        for run in tails
            .iter()
            .flat_map(|t| t.runs())
            .filter(|r| !r.location.is_journaled())
        {
            store.release(run.location, run.count);
        }
    }

    fn held_bytes(&self) -> u64 {
        let journaled = |h: &&Hot| h.location.is_some() && h.location.is_journaled();
        let held = self.consumers.iter().flat_map(|(_, c)| c.held());
        held.chain(self.limbo.values())
            .filter(journaled)
            .map(|h| u64::from(h.size))
            .sum()
    }

    /// Points to where a message is now.
    pub fn relocate(&mut self, seq: Seq, to: Location) {
        if self.ready.relocate(seq, to) {
            return;
        }
        if let Some(hot) = self.limbo.get_mut(&seq) {
            hot.location = to;
            return;
        }
        for consumer in self.consumers.iter_mut() {
            if let Some(hot) = consumer.held_mut().find(|h| h.seq == seq) {
                hot.location = to;
                return;
            }
        }
    }

    pub fn view(&self) -> QueueView {
        let single = self.consumers.single;
        QueueView {
            id: self.id,
            depth: self.depth(),
            counters: self.counters,
            idle_since_ms: (self.consumers.attached == 0).then_some(self.last_used_ms),
            active_consumer: single.and_then(|i| {
                self.consumers
                    .iter()
                    .find(|(at, _)| *at == i)
                    .map(|(_, c)| c.spec.handle)
            }),
            hot_messages: self
                .ready
                .parts()
                .map(|(_, hot, _)| hot.count() as u64)
                .sum(),
        }
    }
}
