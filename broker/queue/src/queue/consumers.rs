//! Consumers come and go, and what they held comes back.

use super::{Ctx, Queue};
use crate::consumer::{Consumers, State};
use crate::ready::Hot;
use crate::{ConsumerSlot, ConsumerSpec, DeadReason};

impl Queue {
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
                self.consumers.single = self.consumers.next_single();
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
