//! basic.consume, basic.cancel, basic.get.

use std::sync::Arc;

use leveret_protocol::encode::{self, GetOk};
use leveret_protocol::method::{
    BasicCancel, BasicCancelOk, BasicConsume, BasicConsumeOk, BasicGet, BasicGetEmpty,
};
use leveret_protocol::properties::PropertiesEdit;
use leveret_protocol::{FieldTable, FieldValue, PropertiesRef, ReplyCode};
use leveret_queue::{ConsumerSlot, ConsumerSpec, Limiter, Link};
use leveret_topology::{QueueInfo, Refusal};
use rustc_hash::FxHashMap;

use super::{Channel, Getter, reply_to};
use crate::connection::core::{Core, Fault};
use crate::connection::unacked::Unacked;
use crate::ticket::{Answer, Question};

/// Queues that a channel has fetched from by basic.get, before it looks which of them are still there.
const GETTERS_SWEEP_MIN: usize = 256;

/// A consumer of this channel.
#[derive(Debug)]
pub struct Consumer {
    /// Its tag.
    pub tag: Box<[u8]>,
    /// The queue.
    pub queue: Arc<QueueInfo>,
    /// Its place in the queue.
    pub slot: ConsumerSlot,
    /// Deliveries are settled as they leave.
    pub no_ack: bool,
}

/// The consumers of a channel, by handle and by tag.
#[derive(Debug, Default)]
pub struct Consumers {
    entries: Vec<Option<Consumer>>,
    by_tag: FxHashMap<Box<[u8]>, u32>,
}

impl Consumers {
    fn reserve(&mut self) -> u32 {
        // An index is used again only after its consumer is gone from the queue, with all its deliveries.
        match self.entries.iter().position(Option::is_none) {
            Some(free) => free as u32,
            None => {
                self.entries.push(None);
                (self.entries.len() - 1) as u32
            }
        }
    }

    fn put(&mut self, index: u32, consumer: Consumer) {
        self.by_tag.insert(consumer.tag.clone(), index);
        if let Some(entry) = self.entries.get_mut(index as usize) {
            *entry = Some(consumer);
        }
    }

    /// The consumer of a handle.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&Consumer> {
        self.entries.get(index as usize)?.as_ref()
    }

    pub(super) fn by_tag(&self, tag: &[u8]) -> Option<u32> {
        self.by_tag.get(tag).copied()
    }

    /// Takes one out.
    pub fn remove(&mut self, index: u32) -> Option<Consumer> {
        let consumer = self.entries.get_mut(index as usize)?.take()?;
        self.by_tag.remove(&consumer.tag);
        Some(consumer)
    }

    /// Takes all out.
    pub fn drain(&mut self) -> Vec<Consumer> {
        self.by_tag.clear();
        self.entries.drain(..).flatten().collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_tag.len()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Consumer> {
        self.entries.iter().flatten()
    }
}

impl Channel {
    /// The handle that a consumer's deliveries carry: channel, opening, index.
    fn handle_of(&self, index: u32) -> u64 {
        u64::from(self.number) << 48 | u64::from(self.generation as u16) << 32 | u64::from(index)
    }

    /// Splits a handle into channel, opening, index.
    pub fn split_handle(handle: u64) -> (u16, u16, u32) {
        ((handle >> 48) as u16, (handle >> 32) as u16, handle as u32)
    }

    pub(super) fn consume(&mut self, core: &mut Core, m: BasicConsume) -> Result<(), Fault> {
        if m.queue.as_bytes() == reply_to::PSEUDO_QUEUE {
            return self.consume_replies(core, &m);
        }
        if self.has_consumer(m.consumer_tag.as_bytes()) {
            return Err(tag_in_use(m.consumer_tag.as_bytes()));
        }
        let tag: Box<[u8]> = if m.consumer_tag.is_empty() {
            core.node.new_name("amq.ctag-").into_bytes().into()
        } else {
            m.consumer_tag.as_bytes().into()
        };
        let name = self.queue_name(&m.queue)?;
        let queue = core.node.queue_to_consume(&core.session, core.id, &name)?;
        leveret_topology::check_consume_arguments(&queue, &m.arguments)?;
        let priority = priority(&m.arguments);
        let failover = cancel_on_failover(&m.arguments);
        // A consumer that is being attached keeps the place that it was given.
        let index = match self.attaching {
            Some(index) => index,
            None => self.consumers.reserve(),
        };
        let spec = ConsumerSpec {
            link: core.outbox.clone() as Arc<dyn Link>,
            handle: self.handle_of(index),
            no_ack: m.no_ack,
            exclusive: m.exclusive,
            priority,
            prefetch: self.prefetch,
            limiter: self.limiter.clone(),
            passive: false,
        };
        let now_ms = core.now_ms;
        self.attaching = Some(index);
        let attached = core.ask(Question::Attach, |node, ticket| {
            node.attach(&queue, spec, now_ms, failover, ticket)
        });
        self.attaching = match &attached {
            Err(fault) if fault.waits => return Err(fault.clone()),
            _ => None,
        };
        let Some(slot) = slot_of(attached?)? else {
            // It may have been deleted in the meantime.
            core.node.queue_to_consume(&core.session, core.id, &name)?;
            return Err(Fault::from(Refusal::access(format!(
                "{} in exclusive use",
                queue.resource()
            ))));
        };
        self.consumers.put(
            index,
            Consumer {
                tag: tag.clone(),
                queue: queue.clone(),
                slot,
                no_ack: m.no_ack,
            },
        );
        if !m.no_wait {
            core.send(
                self.number,
                BasicConsumeOk {
                    consumer_tag: leveret_protocol::ShortStr::truncated(&tag),
                },
            );
        }
        core.node.run(&queue, now_ms);
        Ok(())
    }

    /// Whether a consumer of this channel has the tag.
    pub(super) fn has_consumer(&self, tag: &[u8]) -> bool {
        self.consumers.by_tag(tag).is_some() || self.is_reply_consumer(tag)
    }

    pub(super) fn cancel(&mut self, core: &mut Core, m: BasicCancel) -> Result<(), Fault> {
        let tag = m.consumer_tag.as_bytes();
        if let Some(index) = self.consumers.by_tag(tag)
            && let Some(consumer) = self.consumers.get(index)
        {
            let (queue, slot) = (consumer.queue.clone(), consumer.slot);
            let now_ms = core.now_ms;
            core.ask(Question::Cancel, |node, ticket| {
                node.cancel_for(&queue, slot, now_ms, ticket)
            })?;
            // What was on its way to the consumer leaves before cancel-ok.
            self.deliver_own(core);
            self.consumers.remove(index);
        } else if self.is_reply_consumer(tag)
            && let Some(reply_to) = self.reply_to.take()
        {
            core.node.reply_routes().remove(reply_to.token());
        }
        if !m.no_wait {
            core.send(
                self.number,
                BasicCancelOk {
                    consumer_tag: m.consumer_tag,
                },
            );
        }
        Ok(())
    }

    /// The queue of a consumer is gone: basic.cancel from the server (RabbitMQ extension).
    pub fn consumer_lost(&mut self, core: &mut Core, index: u32) {
        let Some(consumer) = self.consumers.remove(index) else {
            return;
        };
        if core.session.cancel_notify {
            let tag = leveret_protocol::ShortStr::truncated(&consumer.tag);
            core.send(
                self.number,
                BasicCancel {
                    consumer_tag: tag,
                    no_wait: true,
                },
            );
        }
    }

    pub(super) fn get(&mut self, core: &mut Core, m: BasicGet) -> Result<(), Fault> {
        let name = self.queue_name(&m.queue)?;
        let queue = core.node.queue_to_consume(&core.session, core.id, &name)?;
        let now_ms = core.now_ms;
        let holder = if m.no_ack {
            None
        } else {
            self.getter(core, &queue)?
        };
        let got = match core.ask(Question::Get, |node, ticket| {
            node.get(&queue, holder, now_ms, ticket)
        })? {
            Answer::Got(got) => got,
            other => return Err(Fault::mixed_up(&other)),
        };
        let Some(got) = got else {
            core.counts.get_empty();
            core.send(self.number, BasicGetEmpty::default());
            return Ok(());
        };
        core.counts.got(m.no_ack, got.redelivered);
        let delivery_tag = match holder {
            None => self.tags.skip(),
            Some(slot) => self.tags.add(Unacked {
                queue: queue.id.0,
                slot,
                number: got.number,
                group: queue.group,
                at_s: core.node.uptime_s(),
            }),
        };
        let (exchange, routing_key, properties, body) = got.message.content();
        let counted = got
            .delivery_count
            .map(|n| with_delivery_count(properties, n));
        encode::put_content(
            &mut core.out,
            self.number,
            &GetOk {
                delivery_tag,
                redelivered: got.redelivered,
                exchange,
                routing_key,
                message_count: u32::try_from(got.remaining).unwrap_or(u32::MAX),
            },
            counted.as_deref().unwrap_or(properties),
            body,
            core.frame_max,
        );
        Ok(())
    }

    /// Who holds what this channel gets from a queue by basic.get.
    fn getter(
        &mut self,
        core: &mut Core,
        queue: &QueueInfo,
    ) -> Result<Option<ConsumerSlot>, Fault> {
        if let Some(getter) = self.getters.get(&queue.id.0) {
            return Ok(Some(getter.slot));
        }
        let spec = ConsumerSpec {
            link: core.outbox.clone() as Arc<dyn Link>,
            handle: self.handle_of(u32::MAX),
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: 0,
            limiter: None,
            passive: true,
        };
        let now_ms = core.now_ms;
        let attached = core.ask(Question::Attach, |node, ticket| {
            node.attach(queue, spec, now_ms, false, ticket)
        })?;
        let Some(slot) = slot_of(attached)? else {
            return Ok(None);
        };
        if self.getters.len() >= GETTERS_SWEEP_MIN && self.getters.len().is_power_of_two() {
            // Those of queues that are gone hold nothing.
            let topology = core.node.topology();
            self.getters.retain(|id, _| {
                topology
                    .queue_by_id(leveret_topology::QueueId(*id))
                    .is_some()
            });
        }
        self.getters.insert(
            queue.id.0,
            Getter {
                group: queue.group,
                slot,
            },
        );
        Ok(Some(slot))
    }

    /// Consumers that exist already come under the window of basic.qos with global=true.
    pub(super) fn share_window(&mut self, core: &mut Core, limiter: Arc<Limiter>) {
        for consumer in self.consumers.iter() {
            core.node
                .share_window(&consumer.queue, consumer.slot, &limiter);
        }
        self.limiter = Some(limiter);
    }

    /// The named queue, or the one declared last on this channel if the name is empty.
    pub(super) fn queue_name(
        &self,
        name: &leveret_protocol::ShortStr,
    ) -> Result<leveret_topology::Name, Fault> {
        if name.is_empty() {
            return self
                .last_queue
                .clone()
                .ok_or_else(|| Fault::new(ReplyCode::NotFound, "no previously declared queue"));
        }
        Ok(crate::connection::name(name))
    }
}

fn slot_of(answer: Answer) -> Result<Option<ConsumerSlot>, Fault> {
    match answer {
        Answer::Attached(slot) => Ok(slot),
        other => Err(Fault::mixed_up(&other)),
    }
}

/// The content's properties with the header `x-delivery-count`.
pub(super) fn with_delivery_count(properties: &[u8], count: u32) -> Vec<u8> {
    let raw = PropertiesRef::new(properties);
    let mut headers = raw.decode_headers().unwrap_or_else(|_| FieldTable::new());
    headers.insert("x-delivery-count", FieldValue::Long(i64::from(count)));
    PropertiesEdit::new(properties).headers(&headers).to_bytes()
}

/// 530 NOT_ALLOWED for a consumer tag that another consumer of the channel has.
#[cold]
pub(super) fn tag_in_use(tag: &[u8]) -> Fault {
    Fault::new(
        ReplyCode::NotAllowed,
        format!(
            "attempt to reuse consumer tag '{}'",
            String::from_utf8_lossy(tag)
        ),
    )
}

/// `x-cancel-on-ha-failover` of basic.consume (RabbitMQ extension): basic.cancel instead of a silent move to the next leader.
fn cancel_on_failover(arguments: &FieldTable) -> bool {
    arguments.get("x-cancel-on-ha-failover") == Some(&FieldValue::Bool(true))
}

/// `x-priority` of basic.consume (RabbitMQ extension), 0 if there is none.
fn priority(arguments: &FieldTable) -> i32 {
    let asked = arguments
        .get("x-priority")
        .and_then(FieldValue::as_integer)
        .unwrap_or(0);
    asked.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}
