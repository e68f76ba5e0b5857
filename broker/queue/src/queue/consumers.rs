//! Consumers come and go, and what they held comes back.

use super::{Ctx, Queue};
use crate::consumer::{Consumers, Standing, State};
use crate::ready::Hot;
use crate::{ConsumerSlot, ConsumerSpec, DeadReason, Seq, SeqRange, StoreError};

impl Queue {
    /// Attaches a consumer. `Err`: an exclusive consumer is in the way. `before`: what it was under an earlier leader.
    pub fn attach(
        &mut self,
        spec: ConsumerSpec,
        before: Option<Standing>,
        now_ms: u64,
    ) -> Result<ConsumerSlot, ()> {
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
            self.consumers.arrive(index, before.map(|b| b.arrival));
            let keeps = before.is_some_and(|b| b.active) && !self.consumers.kept;
            if keeps || self.consumers.single.is_none() {
                self.consumers.kept = keeps;
                self.consumers.make_single(Some(index));
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
                let next = self.consumers.next_single();
                self.consumers.make_single(next);
            }
            self.last_used_ms = ctx.now_ms;
            if !ctx.is_armed && self.is_left() {
                ctx.effects.unused.push(self.id);
            }
        }
        true
    }

    /// Its last consumer went, and it goes with it (`auto_delete`).
    pub fn is_left(&self) -> bool {
        self.consumers.attached == 0 && self.settings.auto_delete && self.had_consumer
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
            ctx.effects.wakes.extend(limiter.settled(held.len() as u32));
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
        self.gave_up(slot, (out.len() - before) as u32, ctx);
    }

    /// As [`Queue::take_held`], by the messages' numbers in the queue.
    pub fn take_held_seqs(
        &mut self,
        slot: ConsumerSlot,
        item: SeqRange,
        ctx: &mut Ctx<'_>,
        out: &mut Vec<Hot>,
    ) {
        let Some(consumer) = self.consumers.find(slot) else {
            return;
        };
        let before = out.len();
        consumer.take_seqs(item.number, item.first, item.count, out);
        self.gave_up(slot, (out.len() - before) as u32, ctx);
    }

    /// A consumer does not hold `taken` of its messages any more: its window moves.
    fn gave_up(&mut self, slot: ConsumerSlot, taken: u32, ctx: &mut Ctx<'_>) {
        let Some(consumer) = self.consumers.find(slot).filter(|_| taken > 0) else {
            return;
        };
        if let Some(limiter) = &consumer.spec.limiter {
            ctx.effects.wakes.extend(limiter.settled(taken));
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

    /// Takes what waits, whoever had it before.
    pub fn take_waiting(
        &mut self,
        first: Seq,
        count: u32,
        ctx: &mut Ctx<'_>,
        out: &mut Vec<Hot>,
    ) -> Result<(), StoreError> {
        let end = first.saturating_add(u64::from(count));
        let before = out.len();
        let (ready, refill, _) = self.refill(ctx.store);
        let result = ready.take(&refill, first, end, &|_| true, out);
        for hot in out.iter().skip(before) {
            // Settled like those that somebody holds.
            self.unacked += 1;
            self.unacked_bytes += u64::from(hot.size);
        }
        result
    }

    /// Gives a consumer what it held before this leader began: what waits and was not delivered since. Answers its new numbers.
    pub fn claim(
        &mut self,
        slot: ConsumerSlot,
        held: &[Seq],
        ctx: &mut Ctx<'_>,
    ) -> Result<Vec<Option<u64>>, StoreError> {
        let mut numbers = Vec::with_capacity(held.len());
        let mut got = Vec::new();
        for stretch in held.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            let Some(&first) = stretch.first() else {
                continue;
            };
            let end = first.saturating_add(stretch.len() as u64);
            let end = end.min(self.redelivered_below);
            got.clear();
            if self.consumers.find(slot).is_some() {
                let (ready, refill, _) = self.refill(ctx.store);
                ready.take(&refill, first, end, &|hot| hot.claimable, &mut got)?;
            }
            got.sort_unstable_by_key(|hot| hot.seq);
            let mut got = got.drain(..).peekable();
            for seq in stretch {
                let hot = got.next_if(|hot| hot.seq == *seq);
                numbers.push(hot.and_then(|hot| self.hold_again(slot, hot)));
            }
        }
        Ok(numbers)
    }

    fn hold_again(&mut self, slot: ConsumerSlot, mut hot: Hot) -> Option<u64> {
        let consumer = self.consumers.find(slot)?;
        if let Some(limiter) = &consumer.spec.limiter {
            limiter.occupy(1);
        }
        self.unacked += 1;
        self.unacked_bytes += u64::from(hot.size);
        (hot.redelivered, hot.claimable) = (false, false);
        if hot.location.is_some() {
            hot.message = None;
        }
        Some(consumer.hold(hot))
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
