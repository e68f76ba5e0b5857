//! A channel: the state machine of one number on a connection (AMQP 0-9-1 section 2.2.5).
//!
//! Owned by its connection, which hands it every frame of its number. It does no I/O: what it sends goes to the
//! connection's output ([`Core::out`]), what it asks of queues goes into the batch or to the node.

mod consume;
mod content;
mod declare;
mod deliver;
mod publish;
mod reply_to;
mod report;
mod settle;
mod tx;

use std::sync::Arc;

use leveret_protocol::method::{
    AccessRequestOk, BasicAck, BasicNack, BasicQosOk, BasicRecoverOk, BasicReject, ChannelFlowOk,
    ConfirmSelectOk,
};
use leveret_protocol::{Method, ReplyCode};
use leveret_queue::{ConsumerSlot, Limiter, QueueId};
use rustc_hash::FxHashMap;

use crate::connection::core::{Core, Fault};
use crate::connection::unacked::Tags;
use consume::Consumers;
use content::Incoming;

pub use content::METHOD_EXPECTED;
pub use publish::Publish;
pub use report::{ChannelReport, ConsumerReport};

/// Holds what basic.get took from a queue.
#[derive(Clone, Copy, Debug)]
struct Getter {
    group: u32,
    slot: ConsumerSlot,
}

/// See the module.
#[derive(Debug)]
pub struct Channel {
    number: u16,
    generation: u32,
    /// The broker closed it; everything but channel.close and close-ok is passed over.
    closing: bool,
    released: bool,
    incoming: Option<Box<Incoming>>,
    /// The tag of the last publish, in confirm mode.
    confirm: Option<u64>,
    tx: Option<Box<tx::Tx>>,
    consumers: Consumers,
    tags: Tags,
    getters: FxHashMap<QueueId, Getter>,
    /// Per-consumer prefetch of the consumers to come.
    prefetch: u32,
    /// The window that all consumers share.
    limiter: Option<Arc<Limiter>>,
    last_queue: Option<leveret_topology::Name>,
    reply_to: Option<reply_to::ReplyTo>,
    /// The place of a consumer whose queue has not answered yet.
    attaching: Option<u32>,
}

impl Channel {
    /// A channel that was just opened.
    pub fn new(number: u16, generation: u32) -> Channel {
        Channel {
            number,
            generation,
            closing: false,
            released: false,
            incoming: None,
            confirm: None,
            tx: None,
            consumers: Consumers::default(),
            tags: Tags::default(),
            getters: FxHashMap::default(),
            prefetch: 0,
            limiter: None,
            last_queue: None,
            reply_to: None,
            attaching: None,
        }
    }

    /// Which opening of its number it is.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// It was closed by the broker and waits for close-ok.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// The client closed it.
    pub fn set_released(&mut self) {
        self.released = true;
    }

    /// The client closed it: its number is free.
    pub fn is_released(&self) -> bool {
        self.released
    }

    /// One delivery: of a queue, or a direct reply.
    #[inline]
    pub fn deliver_any(&mut self, core: &mut Core, index: u32, delivery: &leveret_queue::Delivery) {
        if index == reply_to::REPLY_INDEX {
            self.deliver_reply(core, delivery);
        } else {
            self.deliver(core, index, delivery);
        }
    }

    /// Marks it closed by the broker.
    pub fn set_closing(&mut self) {
        self.closing = true;
        self.incoming = None;
    }

    /// A method that is not on the hot path.
    ///
    /// # Errors
    /// A channel or connection exception; the caller closes what it concerns.
    pub fn handle(&mut self, core: &mut Core, method: Method) -> Result<(), Fault> {
        match method {
            Method::ChannelFlow(flow) => self.flow(core, flow.active),
            Method::ChannelFlowOk(_) => Ok(()),
            Method::AccessRequest(_) => {
                core.send(self.number, AccessRequestOk { ticket: 1 });
                Ok(())
            }
            Method::ExchangeDeclare(m) => self.exchange_declare(core, m),
            Method::ExchangeDelete(m) => self.exchange_delete(core, m),
            Method::ExchangeBind(m) => self.exchange_bind(core, m),
            Method::ExchangeUnbind(m) => self.exchange_unbind(core, m),
            Method::QueueDeclare(m) => self.queue_declare(core, m),
            Method::QueueDelete(m) => self.queue_delete(core, m),
            Method::QueueBind(m) => self.queue_bind(core, m),
            Method::QueueUnbind(m) => self.queue_unbind(core, m),
            Method::QueuePurge(m) => self.queue_purge(core, m),
            Method::BasicQos(m) => {
                self.qos(core, m.prefetch_size, m.prefetch_count, m.global)?;
                core.send(self.number, BasicQosOk {});
                Ok(())
            }
            Method::BasicConsume(m) => self.consume(core, m),
            Method::BasicCancel(m) => self.cancel(core, m),
            Method::BasicCancelOk(_) => Ok(()),
            Method::BasicGet(m) => self.get(core, m),
            Method::BasicRecover(m) => {
                self.recover(core, m.requeue)?;
                core.send(self.number, BasicRecoverOk {});
                Ok(())
            }
            Method::BasicRecoverAsync(m) => self.recover(core, m.requeue),
            Method::ConfirmSelect(m) => {
                if self.tx.is_some() {
                    return Err(Fault::precondition("cannot switch from tx to confirm mode"));
                }
                if self.confirm.is_none() {
                    self.confirm = Some(0);
                }
                if !m.no_wait {
                    core.send(self.number, ConfirmSelectOk {});
                }
                Ok(())
            }
            Method::TxSelect(_) => self.tx_select(core),
            Method::TxCommit(_) => self.tx_commit(core),
            Method::TxRollback(_) => self.tx_rollback(core),
            Method::BasicAck(m) => self.ack(core, m),
            Method::BasicNack(m) => self.nack(core, m),
            Method::BasicReject(m) => self.reject(core, m),
            other => Err(Fault::new(
                ReplyCode::CommandInvalid,
                format!("unimplemented method {}", other.name()),
            )),
        }
    }

    /// basic.ack.
    pub fn ack(&mut self, core: &mut Core, m: BasicAck) -> Result<(), Fault> {
        self.settle(core, m.delivery_tag, m.multiple, crate::node::Settle::Ack)
    }

    /// basic.nack (RabbitMQ extension).
    pub fn nack(&mut self, core: &mut Core, m: BasicNack) -> Result<(), Fault> {
        self.settle(core, m.delivery_tag, m.multiple, Self::refusal(m.requeue))
    }

    /// basic.reject.
    pub fn reject(&mut self, core: &mut Core, m: BasicReject) -> Result<(), Fault> {
        self.settle(core, m.delivery_tag, false, Self::refusal(m.requeue))
    }

    fn refusal(requeue: bool) -> crate::node::Settle {
        if requeue {
            crate::node::Settle::Requeue
        } else {
            crate::node::Settle::Drop
        }
    }

    /// channel.flow: RabbitMQ answers active=true and refuses the other.
    fn flow(&mut self, core: &mut Core, active: bool) -> Result<(), Fault> {
        if !active {
            return Err(Fault::new(ReplyCode::NotImplemented, "active=false"));
        }
        core.send(self.number, ChannelFlowOk { active: true });
        Ok(())
    }

    /// basic.qos as RabbitMQ means it: global=false is for each consumer to come, global=true for all of the channel.
    fn qos(&mut self, core: &mut Core, size: u32, count: u16, global: bool) -> Result<(), Fault> {
        if size != 0 {
            return Err(Fault::new(
                ReplyCode::NotImplemented,
                format!("prefetch_size!=0 ({size})"),
            ));
        }
        if !global {
            self.prefetch = u32::from(count);
            return Ok(());
        }
        match &self.limiter {
            Some(limiter) => {
                limiter.set_limit(u32::from(count));
                let waiters = limiter.take_waiters();
                core.node.resume(waiters, core.now_ms);
            }
            None if count > 0 => {
                let limiter = Arc::new(Limiter::new(u32::from(count)));
                self.share_window(core, limiter);
            }
            None => {}
        }
        Ok(())
    }

    /// The first half of [`Channel::release`]: no more deliveries. What the consumers hold stays theirs, so that it does not
    /// go from one consumer that is about to end to the next.
    pub fn release_consumers(&mut self, core: &mut Core) {
        for consumer in self.consumers.iter() {
            core.node
                .cancel(&consumer.queue, consumer.slot, core.now_ms);
        }
    }

    /// The channel is over: consumers go, and everything unacknowledged returns to its queue.
    pub fn release(&mut self, core: &mut Core) {
        self.closing = true;
        self.incoming = None;
        self.tx = None;
        if let Some(reply_to) = self.reply_to.take() {
            core.node.reply_routes().remove(reply_to.token());
        }
        self.release_consumers(core);
        let now_ms = core.now_ms;
        for consumer in self.consumers.drain() {
            core.node.release(
                consumer.queue.group,
                consumer.queue.id.0,
                consumer.slot,
                now_ms,
            );
        }
        for (queue, getter) in self.getters.drain() {
            core.node.release(getter.group, queue, getter.slot, now_ms);
        }
        // Consumers that were cancelled still hold what they had.
        let mut holders: Vec<_> = self
            .tags
            .iter()
            .map(|(_, u)| (u.group, u.queue, u.slot))
            .collect();
        holders.sort_unstable_by_key(|(g, q, s)| (*g, *q, s.key()));
        holders.dedup();
        for (group, queue, slot) in holders {
            core.node.release(group, queue, slot, now_ms);
        }
        self.tags = Tags::default();
    }

    /// Whether a delivery has waited longer than `timeout_s` for its acknowledgement: its tag. Both times are whole seconds,
    /// rounded down, so that a difference says up to a second too much.
    pub fn overdue(&self, now_s: u32, timeout_s: u32) -> Option<u64> {
        let (tag, oldest) = self.tags.oldest()?;
        (now_s.saturating_sub(oldest.at_s) > timeout_s).then_some(tag)
    }

    /// Consumers, and deliveries that wait for acknowledgement.
    pub fn counts(&self) -> (usize, usize) {
        (self.consumers.len(), self.tags.len())
    }
}
