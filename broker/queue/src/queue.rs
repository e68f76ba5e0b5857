//! One queue: what waits, who consumes, what is unacknowledged.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::consumer::{Consumers, State};
use crate::entry::SETTLED_ACKED;
use crate::machine::{DeadLetter, Effects};
use crate::ready::{Hot, Ready, Refill};
use crate::{
    ConsumerSlot, ConsumerSpec, DeadReason, Delivery, Link, Location, QueueId, Seq, Settings,
    Store, StoreError, Waiter,
};

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

/// Deliveries on their way to one connection.
struct Stage {
    link: Arc<dyn Link>,
    deliveries: Vec<Delivery>,
    /// Bytes that the connection still takes, as far as is known.
    room: isize,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Stage({} deliveries)", self.deliveries.len())
    }
}

/// What a queue's methods need from outside.
pub(crate) struct Ctx<'a> {
    pub group: u32,
    pub now_ms: u64,
    pub store: &'a dyn Store,
    pub effects: &'a mut Effects,
}

/// Rough bytes of the frames around a delivered body.
const DELIVERY_OVERHEAD: isize = 160;

/// The queue's `message-ttl` for each message. A message keeps the one that held when it came, as in RabbitMQ, until the node is
/// started again.
#[derive(Debug, Default)]
pub(crate) struct Ttls {
    /// For messages that come now.
    now_ms: Option<u64>,
    /// For messages below a number, ascending, that came before the last changes.
    before: Vec<(Seq, Option<u64>)>,
}

impl Ttls {
    /// Changes that are remembered; of more than these the oldest are forgotten.
    const CHANGES_MAX: usize = 16;

    fn new(ttl_ms: Option<u64>) -> Ttls {
        Ttls {
            now_ms: ttl_ms,
            before: Vec::new(),
        }
    }

    fn set(&mut self, ttl_ms: Option<u64>, next_seq: Seq, is_empty: bool) {
        if is_empty {
            self.before.clear();
        } else if ttl_ms != self.now_ms {
            if self.before.len() >= Self::CHANGES_MAX {
                self.before.remove(0);
            }
            self.before.push((next_seq, self.now_ms));
        }
        self.now_ms = ttl_ms;
    }

    fn any(&self) -> bool {
        self.now_ms.is_some() || !self.before.is_empty()
    }

    #[inline]
    fn of(&self, seq: Seq) -> Option<u64> {
        let found = self.before.iter().find(|(end, _)| seq < *end);
        found.map_or(self.now_ms, |(_, ttl)| *ttl)
    }

    /// When a message expires, milliseconds since 1970.
    #[inline]
    fn deadline(&self, hot: &Hot) -> Option<u64> {
        let message = hot.message.as_ref()?;
        let ttl = match (self.of(hot.seq), message.expiration_ms()) {
            (Some(a), Some(b)) => a.min(b),
            (Some(a), None) => a,
            (None, Some(b)) => b,
            (None, None) => return None,
        };
        Some(message.time_ms().saturating_add(ttl))
    }
}

impl Queue {
    pub fn new(id: QueueId, settings: Settings, now_ms: u64) -> Self {
        Queue {
            id,
            ready: Ready::new(settings.max_priority),
            settings,
            ttls: Ttls::new(settings.message_ttl_ms),
            next_seq: 1,
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

    fn expires(&self) -> bool {
        self.has_expiration || self.ttls.any()
    }

    /// Takes over changed settings. Priority levels stay as declared.
    pub fn set(&mut self, settings: Settings, now_ms: u64) {
        if settings.expires_ms != self.settings.expires_ms {
            self.last_used_ms = now_ms;
        }
        let is_empty = self.ready.is_empty() && self.unacked == 0;
        self.ttls
            .set(settings.message_ttl_ms, self.next_seq, is_empty);
        self.settings = Settings {
            max_priority: self.settings.max_priority,
            ..settings
        };
    }

    /// Does all that is due: delivers, expires, drops, sets the timer.
    pub fn run(&mut self, ctx: &mut Ctx<'_>) {
        if let Err(error) = self.try_run(ctx) {
            ctx.effects.failure.get_or_insert(error);
        }
        self.flush();
    }

    fn try_run(&mut self, ctx: &mut Ctx<'_>) -> Result<(), StoreError> {
        self.deliver(ctx)?;
        if self.expires() {
            self.expire(ctx, false)?;
        }
        if self.settings.overflow == crate::Overflow::DropHead {
            self.drop_excess(ctx)?;
        }
        self.set_timer(ctx)
    }

    /// Takes expired messages from the front. `strictly`: only those past their deadline, not those that reach it now,
    /// nor those that have not been offered to a consumer yet.
    fn expire(&mut self, ctx: &mut Ctx<'_>, strictly: bool) -> Result<(), StoreError> {
        if self.ready.is_empty() {
            return Ok(());
        }
        let now = ctx.now_ms;
        loop {
            let fresh_from = self.fresh_from;
            let (ready, refill, ttls) = self.refill(ctx.store);
            let due = |hot: &Hot| {
                ttls.deadline(hot).is_some_and(|at| {
                    if strictly {
                        at < now && hot.seq < fresh_from
                    } else {
                        at <= now
                    }
                })
            };
            let Some(hot) = ready.pop_expired(&refill, due)? else {
                return Ok(());
            };
            self.counters.expired += 1;
            self.discard(hot, DeadReason::Expired, ctx);
        }
    }

    fn drop_excess(&mut self, ctx: &mut Ctx<'_>) -> Result<(), StoreError> {
        let max = self.settings.max_length.unwrap_or(u64::MAX);
        let max_bytes = self.settings.max_length_bytes.unwrap_or(u64::MAX);
        while self.ready.messages() > max || self.ready.bytes() > max_bytes {
            let (ready, refill, _) = self.refill(ctx.store);
            if ready.front(&refill)?.is_none() {
                break;
            }
            let Some(hot) = ready.pop() else { break };
            self.counters.dropped += 1;
            self.discard(hot, DeadReason::MaxLen, ctx);
        }
        Ok(())
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

    /// Gives what waits to whoever may take it.
    fn deliver(&mut self, ctx: &mut Ctx<'_>) -> Result<(), StoreError> {
        while let Some(index) = self.consumers.next() {
            if self.expires() {
                // What can be delivered at once is, even with a TTL of zero; the rest must not have expired before.
                self.expire(ctx, true)?;
            }
            if self.ready.is_empty() {
                break;
            }
            if !self.may_take(index, ctx) {
                continue;
            }
            let (ready, refill, _) = self.refill(ctx.store);
            if let Err(error) = ready.front(&refill).map(|_| ()) {
                self.give_back_place(index);
                return Err(error);
            }
            let Some(hot) = self.ready.pop() else {
                self.give_back_place(index);
                break;
            };
            self.hand_over(index, hot, ctx);
            self.consumers.rotate();
        }
        Ok(())
    }

    fn give_back_place(&mut self, index: u32) {
        if let Some(consumer) = self.consumers.get(index)
            && !consumer.spec.no_ack
            && let Some(limiter) = &consumer.spec.limiter
        {
            limiter.release(1);
        }
    }

    /// Whether the consumer takes one more now; if not it leaves the round until it is resumed.
    #[inline]
    fn may_take(&mut self, index: u32, ctx: &Ctx<'_>) -> bool {
        let id = self.id;
        let Some(consumer) = self.consumers.get(index) else {
            self.consumers.deactivate(index, State::Holding);
            return false;
        };
        if consumer.window_full() {
            self.consumers.deactivate(index, State::Prefetch);
            return false;
        }
        let waiter = Waiter {
            group: ctx.group,
            queue: id,
            consumer: ConsumerSlot {
                index,
                generation: consumer.generation,
            },
        };
        let at = match consumer.stage {
            Some(at) => at,
            None => {
                let at = Self::stage(&mut self.stages, &mut self.spare, &consumer.spec.link);
                consumer.stage = Some(at);
                self.staged.push(index);
                at
            }
        };
        if let Some(stage) = self.stages.get_mut(at)
            && stage.room <= 0
        {
            if !stage.deliveries.is_empty() {
                stage.link.deliver(&mut stage.deliveries);
            }
            stage.room = stage.link.room().min(isize::MAX as usize) as isize;
            if stage.room <= 0 && stage.link.wait_room(waiter) {
                self.consumers.deactivate(index, State::Waiting);
                return false;
            }
        }
        if !consumer.spec.no_ack
            && let Some(limiter) = &consumer.spec.limiter
            && !limiter.try_take(waiter)
        {
            self.consumers.deactivate(index, State::Waiting);
            return false;
        }
        true
    }

    /// The stage of a connection in this run.
    fn stage(
        stages: &mut Vec<Stage>,
        spare: &mut Vec<Vec<Delivery>>,
        link: &Arc<dyn Link>,
    ) -> usize {
        if let Some(at) = stages.iter().position(|s| Arc::ptr_eq(&s.link, link)) {
            return at;
        }
        stages.push(Stage {
            link: Arc::clone(link),
            deliveries: spare.pop().unwrap_or_default(),
            room: 0,
        });
        stages.len() - 1
    }

    fn hand_over(&mut self, index: u32, mut hot: Hot, ctx: &mut Ctx<'_>) {
        let counts = self.settings.count_deliveries;
        self.delivered_end = self.delivered_end.max(hot.seq.saturating_add(1));
        if hot.redelivered {
            self.counters.redelivered += 1;
        }
        let Some(consumer) = self.consumers.get(index) else {
            self.ready.put_back(hot);
            return;
        };
        let no_ack = consumer.spec.no_ack;
        let Some(message) = (if no_ack {
            hot.message.take()
        } else {
            hot.message.clone()
        }) else {
            return;
        };
        let Some(stage) = consumer.stage.and_then(|at| self.stages.get_mut(at)) else {
            return;
        };
        stage.room -= DELIVERY_OVERHEAD + message.encoded_len() as isize;
        let mut delivery = Delivery {
            handle: consumer.spec.handle,
            number: 0,
            seq: hot.seq,
            message,
            redelivered: hot.redelivered,
            delivery_count: (counts && hot.returns > 0).then_some(hot.returns),
        };
        if no_ack {
            stage.deliveries.push(delivery);
            self.counters.delivered_no_ack += 1;
            self.settled(&hot, SETTLED_ACKED, ctx);
        } else {
            self.unacked += 1;
            self.unacked_bytes += u64::from(hot.size);
            delivery.number = consumer.hold(hot);
            stage.deliveries.push(delivery);
            self.counters.delivered += 1;
        }
    }

    /// Passes staged deliveries to their connections.
    fn flush(&mut self) {
        /// Buffers kept, and deliveries that one has room for.
        const SPARES: usize = 4;
        const SPARE_MAX: usize = 256;
        for mut stage in self.stages.drain(..) {
            if !stage.deliveries.is_empty() {
                stage.link.deliver(&mut stage.deliveries);
            }
            if self.spare.len() < SPARES && (1..=SPARE_MAX).contains(&stage.deliveries.capacity()) {
                self.spare.push(stage.deliveries);
            }
        }
        while let Some(index) = self.staged.pop() {
            if let Some(consumer) = self.consumers.get(index) {
                consumer.stage = None;
            }
        }
    }

    fn set_timer(&mut self, ctx: &mut Ctx<'_>) -> Result<(), StoreError> {
        let mut at = u64::MAX;
        if self.expires() && !self.ready.is_empty() {
            let (ready, refill, ttls) = self.refill(ctx.store);
            for hot in ready.fronts(&refill)? {
                if let Some(deadline) = ttls.deadline(hot) {
                    at = at.min(deadline);
                }
            }
        }
        if let Some(expires) = self.settings.expires_ms
            && self.consumers.attached == 0
        {
            at = at.min(self.last_used_ms.saturating_add(expires));
        }
        if at < self.timer_ms {
            self.timer_ms = at;
            ctx.effects.timers.push((at, self.id));
        }
        Ok(())
    }

    /// The timer rang.
    pub fn tick(&mut self, ctx: &mut Ctx<'_>) {
        self.timer_ms = u64::MAX;
        if let Some(expires) = self.settings.expires_ms
            && self.consumers.attached == 0
            && self.last_used_ms.saturating_add(expires) <= ctx.now_ms
        {
            ctx.effects.unused.push(self.id);
            // Should the deletion not come about, look again after a while.
            self.last_used_ms = ctx.now_ms;
        }
        self.run(ctx);
    }

    /// Attaches a consumer. `Err`: an exclusive consumer is in the way.
    pub fn attach(&mut self, spec: ConsumerSpec, now_ms: u64) -> Result<ConsumerSlot, ()> {
        if spec.passive {
            return Ok(self.consumers.add(spec).1);
        }
        let alone = self.consumers.attached == 0 && !self.settings.single_active_consumer;
        if self.consumers.exclusive || (spec.exclusive && !alone) {
            return Err(());
        }
        self.last_used_ms = now_ms;
        self.had_consumer = true;
        self.consumers.exclusive = spec.exclusive;
        let (index, slot) = self.consumers.add(spec);
        self.consumers.attached += 1;
        if self.settings.single_active_consumer {
            self.consumers.order.push_back(index);
            if self.consumers.single.is_none() {
                self.consumers.single = Some(index);
                self.consumers.activate(index);
            }
        } else {
            self.consumers.activate(index);
        }
        Ok(slot)
    }

    /// basic.cancel: no more deliveries; what it holds stays its own.
    pub fn detach(&mut self, slot: ConsumerSlot, ctx: &mut Ctx<'_>) -> bool {
        let Some(consumer) = self.consumers.find(slot) else {
            return false;
        };
        let attached = consumer.state != State::Holding;
        let exclusive = consumer.spec.exclusive;
        self.consumers.deactivate(slot.index, State::Holding);
        if let Some(consumer) = self.consumers.get(slot.index)
            && consumer.unacked_len == 0
        {
            self.consumers.remove(slot.index);
        }
        if attached {
            self.consumers.attached = self.consumers.attached.saturating_sub(1);
            if exclusive {
                self.consumers.exclusive = false;
            }
            self.consumers.order.retain(|i| *i != slot.index);
            if self.consumers.single == Some(slot.index) {
                self.consumers.single = self.consumers.order.front().copied();
                if let Some(next) = self.consumers.single {
                    self.consumers.activate(next);
                }
            }
            self.last_used_ms = ctx.now_ms;
            if self.consumers.attached == 0 && self.settings.auto_delete && self.had_consumer {
                ctx.effects.unused.push(self.id);
            }
        }
        true
    }

    /// The channel is gone: everything that the consumer holds returns to its place.
    pub fn release(&mut self, slot: ConsumerSlot, ctx: &mut Ctx<'_>) {
        let Some(consumer) = self.consumers.find(slot) else {
            return;
        };
        let mut held = Vec::with_capacity(consumer.unacked_len as usize);
        consumer.take(0, u32::MAX, &mut held);
        let limiter = consumer.spec.limiter.clone();
        if let Some(limiter) = limiter {
            limiter.release(held.len() as u32);
            ctx.effects.wakes.extend(limiter.take_waiters());
        }
        self.detach(slot, ctx);
        self.consumers.remove_if_empty(slot);
        self.come_back(held, ctx);
    }

    /// Messages that come back: to their places, or out if they came back too often.
    pub fn come_back(&mut self, mut held: Vec<Hot>, ctx: &mut Ctx<'_>) {
        let limit = self.settings.delivery_limit;
        let counts = self.settings.count_deliveries || limit.is_some();
        let mut counted = Vec::new();
        let mut back = Vec::with_capacity(held.len());
        held.sort_unstable_by_key(|hot| hot.seq);
        for mut hot in held {
            self.unacked = self.unacked.saturating_sub(1);
            self.unacked_bytes = self.unacked_bytes.saturating_sub(u64::from(hot.size));
            hot.redelivered = true;
            if counts {
                hot.returns = hot.returns.saturating_add(1);
                let over = limit.is_some_and(|limit| hot.returns > limit);
                let lives_on = !over || self.settings.dead_letter;
                if lives_on && hot.location.is_some() && hot.location.is_journaled() {
                    counted.push((hot.seq, hot.returns));
                }
                if over {
                    self.discard(hot, DeadReason::DeliveryLimit, ctx);
                    continue;
                }
            }
            back.push(hot);
        }
        self.ready.put_all_back(back);
        ctx.effects.journal.returned(self.id, &counted);
    }

    /// Takes held messages from a consumer; gives its window back.
    pub fn take_held(
        &mut self,
        slot: ConsumerSlot,
        first: u64,
        count: u32,
        ctx: &mut Ctx<'_>,
        out: &mut Vec<Hot>,
    ) {
        let Some(consumer) = self.consumers.find(slot) else {
            return;
        };
        let before = out.len();
        consumer.take(first, count, out);
        let taken = (out.len() - before) as u32;
        if taken == 0 {
            return;
        }
        if let Some(limiter) = &consumer.spec.limiter {
            limiter.release(taken);
            ctx.effects.wakes.extend(limiter.take_waiters());
        }
        if consumer.state == State::Prefetch && !consumer.window_full() {
            self.consumers.activate(slot.index);
        } else if consumer.state == State::Holding
            && consumer.unacked_len == 0
            && !consumer.spec.passive
        {
            self.consumers.remove(slot.index);
        }
    }

    /// A consumer that waited may go on.
    pub fn resume(&mut self, slot: ConsumerSlot) {
        if let Some(consumer) = self.consumers.find(slot)
            && consumer.state == State::Waiting
        {
            if consumer.window_full() {
                consumer.state = State::Prefetch;
            } else {
                self.consumers.activate(slot.index);
            }
        }
    }

    /// Takes the first waiting message for basic.get.
    pub fn get(&mut self, ctx: &mut Ctx<'_>) -> Result<Option<Hot>, StoreError> {
        self.last_used_ms = ctx.now_ms;
        if self.expires() {
            self.expire(ctx, false)?;
        }
        let (ready, refill, _) = self.refill(ctx.store);
        if ready.front(&refill)?.is_none() {
            self.counters.got_empty += 1;
            return Ok(None);
        }
        let Some(hot) = self.ready.pop() else {
            return Ok(None);
        };
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

impl Consumers {
    pub(crate) fn remove_if_empty(&mut self, slot: ConsumerSlot) {
        if self
            .find(slot)
            .is_some_and(|c| c.unacked_len == 0 && c.state == State::Holding)
        {
            self.remove(slot.index);
        }
    }
}
