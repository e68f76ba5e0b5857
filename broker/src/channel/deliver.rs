//! Deliveries on their way out: tags, frames.

use leveret_protocol::encode::{self, Deliver};
use leveret_queue::Delivery;

use super::Channel;
use super::consume::with_delivery_count;
use crate::connection::core::Core;
use crate::connection::unacked::Unacked;

impl Channel {
    /// Encodes one delivery for the consumer at `index`. One whose consumer is gone is left out: its queue has taken
    /// it back when the consumer was released.
    #[inline]
    pub fn deliver(&mut self, core: &mut Core, index: u32, delivery: &Delivery) {
        let Some(consumer) = self.consumers.get(index) else {
            return;
        };
        let delivery_tag = if consumer.no_ack {
            self.tags.skip()
        } else {
            self.tags.add(Unacked {
                queue: consumer.queue.id.0,
                slot: consumer.slot,
                number: delivery.number,
                group: consumer.queue.group,
                at_s: core.uptime_s,
            })
        };
        let (exchange, routing_key, properties, body) = delivery.message.content();
        let counted = delivery
            .delivery_count
            .map(|n| with_delivery_count(properties, n));
        encode::put_content(
            &mut core.out,
            self.number,
            &Deliver {
                consumer_tag: &consumer.tag,
                delivery_tag,
                redelivered: delivery.redelivered,
                exchange,
                routing_key,
            },
            counted.as_deref().unwrap_or(properties),
            body,
            core.frame_max,
        );
        core.counts.delivered(consumer.no_ack, delivery.redelivered);
    }

    /// Delivers what is in the outbox for this channel now; deliveries of other channels are kept for their turn.
    pub(super) fn deliver_own(&mut self, core: &mut Core) {
        core.take_outbox();
        let number = self.number;
        let generation = self.generation as u16;
        let mut rest = Vec::new();
        let mut bytes = 0;
        for delivery in std::mem::take(&mut core.deliveries) {
            let (channel, opening, index) = Channel::split_handle(delivery.handle);
            if channel != number {
                rest.push(delivery);
                continue;
            }
            bytes += crate::outbox::Outbox::weight(&delivery);
            if opening == generation {
                self.deliver_any(core, index, &delivery);
            }
        }
        core.deliveries = rest;
        core.left(bytes);
    }
}
