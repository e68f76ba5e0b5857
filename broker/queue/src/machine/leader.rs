//! The leader's own calls: consumers, settling, timers. What they settle is journaled by [`Effects::journal`].

use std::cmp::Reverse;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{Effects, GetResult, Lead, Machine};
use crate::consumer::UnackedRange;
use crate::entry::SETTLED_ACKED;
use crate::{
    ConsumerSlot, ConsumerSpec, DeadReason, Limiter, QueueId, Seq, Standing, Store, Waiter,
};

/// How a held message is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settle {
    /// basic.ack.
    Ack,
    /// basic.reject or basic.nack without requeue.
    Drop,
    /// basic.reject or basic.nack with requeue, basic.recover.
    Requeue,
}

/// Messages with consecutive numbers that a consumer settles, named by their numbers in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqRange {
    /// The number that the first had among the consumer's deliveries; the others follow. It makes them quick to find, and may be wrong.
    pub number: u64,
    /// The first one's number in the queue.
    pub first: Seq,
    /// How many.
    pub count: u32,
}

impl Machine {
    /// basic.consume. `None`: an exclusive consumer is in the way, or the queue is gone.
    pub fn consume(
        &mut self,
        id: QueueId,
        spec: ConsumerSpec,
        now_ms: u64,
    ) -> Option<ConsumerSlot> {
        self.queues.get_mut(&id)?.attach(spec, None, now_ms).ok()
    }

    /// [`Machine::consume`] of a consumer that there was under an earlier leader: before [`Machine::go`], the single active one stays it.
    pub fn consume_again(
        &mut self,
        id: QueueId,
        spec: ConsumerSpec,
        before: Standing,
        now_ms: u64,
    ) -> Option<ConsumerSlot> {
        let queue = self.queues.get_mut(&id)?;
        queue.attach(spec, Some(before), now_ms).ok()
    }

    /// A consumer's place in the order of arrival.
    pub fn arrival(&mut self, id: QueueId, slot: ConsumerSlot) -> u64 {
        let queue = self.queues.get_mut(&id);
        let consumer = queue.and_then(|q| q.consumers.find(slot));
        consumer.map_or(0, |c| c.arrival)
    }

    /// A queue that goes with its last consumer has one: its replica is to know, so that a later leader does.
    pub fn note_use(&mut self, id: QueueId, effects: &mut Effects) {
        let Some(queue) = self.queues.get_mut(&id) else {
            return;
        };
        if queue.settings.auto_delete
            && queue.had_consumer
            && !std::mem::replace(&mut queue.use_noted, true)
        {
            if !std::mem::replace(&mut queue.announced, true) {
                let created = (queue.id, queue.settings.max_priority);
                effects.created.push(created);
            }
            effects.used.push(id);
        }
    }

    /// Delivers what waits; called after [`Machine::consume`] once consume-ok is on its way.
    pub fn run(&mut self, id: QueueId, now_ms: u64, store: &dyn Store, effects: &mut Effects) {
        self.with(id, now_ms, store, effects, |queue, ctx| queue.run(ctx));
    }

    /// basic.cancel: what the consumer holds stays unacknowledged.
    pub fn cancel(
        &mut self,
        id: QueueId,
        slot: ConsumerSlot,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            queue.detach(slot, ctx);
            queue.run(ctx);
        });
    }

    /// The channel is gone: the consumer goes and what it holds returns.
    pub fn release(
        &mut self,
        id: QueueId,
        slot: ConsumerSlot,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            queue.release(slot, ctx);
            queue.run(ctx);
        });
    }

    /// Acknowledges ranges of deliveries.
    pub fn ack(
        &mut self,
        id: QueueId,
        ranges: &[UnackedRange],
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.settle(id, ranges, Settle::Ack, now_ms, store, effects);
    }

    /// basic.reject or basic.nack: back to the queue, or dead-lettered.
    pub fn reject(
        &mut self,
        id: QueueId,
        ranges: &[UnackedRange],
        requeue: bool,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        let how = if requeue {
            Settle::Requeue
        } else {
            Settle::Drop
        };
        self.settle(id, ranges, how, now_ms, store, effects);
    }

    fn settle(
        &mut self,
        id: QueueId,
        ranges: &[UnackedRange],
        how: Settle,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, now_ms, store, effects, |queue, ctx| {
            let mut held = Vec::new();
            for range in ranges {
                queue.take_held(range.slot, range.first, range.count, ctx, &mut held);
            }
            queue.settle(held, how, ctx);
            queue.run(ctx);
        });
    }

    /// Settles messages by their numbers in the queue, wherever they are: with the consumer `slot`, or waiting. What another
    /// consumer holds and what is gone stays as it is. Answers how many were settled.
    #[allow(clippy::too_many_arguments, reason = "as the other calls, and where")]
    pub fn settle_seqs(
        &mut self,
        id: QueueId,
        slot: Option<ConsumerSlot>,
        items: &[SeqRange],
        how: Settle,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> u64 {
        let settled = self.with(id, now_ms, store, effects, |queue, ctx| {
            let mut taken = Vec::new();
            for item in items {
                let before = taken.len();
                if let Some(slot) = slot {
                    queue.take_held_seqs(slot, *item, ctx, &mut taken);
                }
                if taken.len() - before < item.count as usize {
                    let result = queue.take_waiting(item.first, item.count, ctx, &mut taken);
                    if let Err(error) = result {
                        ctx.effects.failure.get_or_insert(error);
                    }
                }
            }
            let settled = taken.len() as u64;
            queue.settle(taken, how, ctx);
            queue.run(ctx);
            settled
        });
        settled.unwrap_or(0)
    }

    /// basic.get. `holder`: a passive consumer that holds the message until it is acknowledged; `None`: no_ack. Not before
    /// [`Machine::go`]: nothing is there then.
    pub fn get(
        &mut self,
        id: QueueId,
        holder: Option<ConsumerSlot>,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> Option<GetResult> {
        if self.lead == Lead::Armed {
            return None;
        }
        self.with(id, now_ms, store, effects, |queue, ctx| {
            if holder.is_some_and(|slot| queue.consumers.find(slot).is_none()) {
                return None;
            }
            let hot = match queue.get(ctx) {
                Ok(hot) => hot?,
                Err(error) => {
                    ctx.effects.failure.get_or_insert(error);
                    return None;
                }
            };
            let message = hot.message.clone()?;
            let mut result = GetResult {
                message,
                seq: hot.seq,
                number: 0,
                redelivered: hot.redelivered,
                delivery_count: (queue.settings.count_deliveries && hot.returns > 0)
                    .then_some(hot.returns),
                remaining: 0,
            };
            match holder.and_then(|slot| queue.consumers.find(slot)) {
                Some(holder) => {
                    queue.unacked += 1;
                    queue.unacked_bytes += u64::from(hot.size);
                    queue.counters.got += 1;
                    result.number = holder.hold(hot);
                }
                None => {
                    queue.counters.got_no_ack += 1;
                    queue.settled(&hot, SETTLED_ACKED, ctx);
                }
            }
            // What is behind it may have expired before.
            queue.run(ctx);
            result.remaining = queue.ready.messages();
            Some(result)
        })?
    }

    /// queue.purge: drops what waits; answers how many. Not before [`Machine::go`]: nothing waits then.
    pub fn purge(
        &mut self,
        id: QueueId,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) -> u64 {
        if self.lead == Lead::Armed {
            return 0;
        }
        self.with(id, now_ms, store, effects, |queue, ctx| queue.purge(ctx))
            .unwrap_or(0)
    }

    /// Puts a consumer under a window that all consumers of its channel share; what it holds counts from now on.
    pub fn share_window(&mut self, id: QueueId, slot: ConsumerSlot, limiter: &Arc<Limiter>) {
        if let Some(queue) = self.queues.get_mut(&id)
            && let Some(consumer) = queue.consumers.find(slot)
        {
            limiter.occupy(consumer.unacked_len);
            consumer.spec.limiter = Some(Arc::clone(limiter));
        }
    }

    /// A declare was seen: restarts `x-expires`.
    pub fn touch(&mut self, id: QueueId, now_ms: u64) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.last_used_ms = now_ms;
        }
    }

    /// A consumer that waited for room or for its channel's window may go on.
    pub fn resume(
        &mut self,
        waiter: Waiter,
        now_ms: u64,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(waiter.queue, now_ms, store, effects, |queue, ctx| {
            queue.resume(waiter.consumer);
            queue.run(ctx);
        });
    }

    /// A dead-lettered message is safe at its targets (or had none): it is settled here.
    pub fn dead_lettered(
        &mut self,
        id: QueueId,
        seq: Seq,
        reason: DeadReason,
        store: &dyn Store,
        effects: &mut Effects,
    ) {
        self.with(id, 0, store, effects, |queue, ctx| {
            if let Some(hot) = queue.limbo.remove(&seq) {
                queue.settled(&hot, reason as u8, ctx);
            }
            if queue.limbo.is_empty() && queue.limbo.capacity() > 1024 {
                queue.limbo = FxHashMap::default();
            }
        });
    }

    /// When [`Machine::tick`] has something to do next.
    pub fn next_timer_ms(&self) -> Option<u64> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Does what is due by `now_ms`: expiry of messages and queues. At most `max` timers, so that others get the lock.
    pub fn tick(&mut self, now_ms: u64, max: usize, store: &dyn Store, effects: &mut Effects) {
        for _ in 0..if self.lead == Lead::Armed { 0 } else { max } {
            match self.timers.peek() {
                Some(Reverse((at, _))) if *at <= now_ms && effects.journal.has_slots(1) => {}
                _ => return,
            }
            let Some(Reverse((at, id))) = self.timers.pop() else {
                return;
            };
            self.with(id, now_ms, store, effects, |queue, ctx| {
                if queue.timer_ms == at {
                    queue.tick(ctx);
                }
            });
        }
    }

    /// Copies messages out of entries that they alone keep in memory; for use when memory is tight.
    pub fn unpin(&mut self) -> usize {
        let mut moved = 0;
        for queue in self.queues.values_mut() {
            let held = queue.consumers.iter_mut().flat_map(|c| c.held_mut());
            for hot in queue.ready.hot_mut().chain(held) {
                moved += usize::from(hot.unpin());
            }
        }
        moved
    }
}
