//! Delivering: what waits goes to whoever may take it, staged by connection.

use std::sync::Arc;

use super::expiry::EXPIRE_SLICE;
use super::{Ctx, Queue};
use crate::consumer::State;
use crate::entry::SETTLED_ACKED;
use crate::ready::Hot;
use crate::{ConsumerSlot, Delivery, Link, StoreError, Waiter};

/// Deliveries on their way to one connection.
pub(super) struct Stage {
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

/// Rough bytes of the frames around a delivered body.
const DELIVERY_OVERHEAD: isize = 160;

impl Queue {
    /// Gives what waits to whoever may take it.
    pub(super) fn deliver(&mut self, ctx: &mut Ctx<'_>) -> Result<(), StoreError> {
        while let Some(index) = self.consumers.next() {
            if self.expires() {
                // What can be delivered at once is, even with a TTL of zero; the rest must not have expired before.
                if !self.expire(ctx, true, EXPIRE_SLICE)? {
                    break;
                }
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
            limiter.give_back();
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
        self.turn += 1;
        let turn = self.turn;
        self.delivered_end = self.delivered_end.max(hot.seq.saturating_add(1));
        hot.claimable = false;
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
            turn,
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
    pub(super) fn flush(&mut self) {
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
}
