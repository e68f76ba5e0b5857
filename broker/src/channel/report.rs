//! What a channel tells an operator who asks.

use std::sync::Arc;

use leveret_queue::ConsumerSlot;
use leveret_topology::QueueInfo;

use super::Channel;

/// A channel, at the moment it was asked.
#[derive(Debug)]
pub struct ChannelReport {
    /// Its number.
    pub number: u16,
    /// It is in confirm mode.
    pub confirm: bool,
    /// It is in transaction mode.
    pub transactional: bool,
    /// Unacknowledged messages that a consumer to come may have; 0 means unlimited.
    pub prefetch_count: u32,
    /// Unacknowledged messages that all consumers together may have; 0 means unlimited.
    pub global_prefetch_count: u32,
    /// Deliveries that are not acknowledged.
    pub unacknowledged: usize,
    /// Its consumers.
    pub consumers: Vec<ConsumerReport>,
}

/// A consumer of a channel.
#[derive(Debug)]
pub struct ConsumerReport {
    /// Its tag.
    pub tag: Box<[u8]>,
    /// Its queue.
    pub queue: Arc<QueueInfo>,
    /// Its place in the queue.
    pub slot: ConsumerSlot,
    /// Deliveries are settled as they leave.
    pub no_ack: bool,
}

impl Channel {
    /// What there is to tell.
    pub fn report(&self) -> ChannelReport {
        let consumers = self.consumers.iter();
        ChannelReport {
            number: self.number,
            confirm: self.confirm.is_some(),
            transactional: self.tx.is_some(),
            prefetch_count: self.prefetch,
            global_prefetch_count: self.limiter.as_ref().map_or(0, |window| window.limit()),
            unacknowledged: self.tags.len(),
            consumers: consumers
                .map(|consumer| ConsumerReport {
                    tag: consumer.tag.clone(),
                    queue: Arc::clone(&consumer.queue),
                    slot: consumer.slot,
                    no_ack: consumer.no_ack,
                })
                .collect(),
        }
    }
}
