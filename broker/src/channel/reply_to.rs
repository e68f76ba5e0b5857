//! Direct reply-to (RabbitMQ extension): replies that need no queue.
//!
//! A client consumes from the pseudo-queue `amq.rabbitmq.reply-to` and publishes requests with that name in
//! `reply_to`. The broker writes an address instead, `amq.rabbitmq.reply-to.TOKEN`; whoever publishes to it through the
//! default exchange reaches the consumer directly.

use std::sync::Arc;

use leveret_protocol::method::{BasicConsume, BasicConsumeOk};
use leveret_protocol::{PropertiesRef, ReplyCode, ShortStr};
use leveret_queue::{Delivery, EntryBuilder, NewMessage};

use super::{Channel, Publish};
use crate::connection::core::{Core, Fault};
use crate::ticket::{Answer, Question};

/// The name that stands for it.
pub const PSEUDO_QUEUE: &[u8] = b"amq.rabbitmq.reply-to";

/// The consumer index of replies in a handle.
pub const REPLY_INDEX: u32 = u32::MAX - 1;

/// A channel's consumer of replies.
#[derive(Debug)]
pub struct ReplyTo {
    token: String,
    tag: Box<[u8]>,
}

impl ReplyTo {
    /// What requests are addressed with.
    pub fn token(&self) -> &str {
        &self.token
    }
}

/// The token of an address, if the message goes to one.
pub fn token<'a>(exchange: &[u8], routing_key: &'a [u8]) -> Option<&'a str> {
    if !exchange.is_empty() {
        return None;
    }
    let rest = routing_key.strip_prefix(PSEUDO_QUEUE)?.strip_prefix(b".")?;
    std::str::from_utf8(rest).ok()
}

/// Whether somebody consumes the replies to a token, here or on another node.
fn is_there(core: &mut Core, token: &str) -> Result<bool, Fault> {
    let Some(home) = core.node.reply_home(token) else {
        return Ok(core.node.reply_routes().find(token).is_some());
    };
    let answer = core.ask(Question::Reply, |node, ticket| {
        node.find_reply_for(home, token, ticket)
    })?;
    match answer {
        Answer::Found(there) => Ok(there),
        other => Err(Fault::mixed_up(&other)),
    }
}

impl Channel {
    pub(super) fn is_reply_consumer(&self, tag: &[u8]) -> bool {
        self.reply_to.as_ref().is_some_and(|r| *r.tag == *tag)
    }

    /// basic.consume on the pseudo-queue.
    pub(super) fn consume_replies(
        &mut self,
        core: &mut Core,
        m: &BasicConsume,
    ) -> Result<(), Fault> {
        if self.has_consumer(m.consumer_tag.as_bytes()) {
            return Err(super::consume::tag_in_use(m.consumer_tag.as_bytes()));
        }
        if self.reply_to.is_some() {
            return Err(Fault::precondition("reply consumer already set"));
        }
        if !m.no_ack {
            return Err(Fault::precondition("reply consumer cannot acknowledge"));
        }
        let tag: Box<[u8]> = if m.consumer_tag.is_empty() {
            core.node.new_name("amq.ctag-").into_bytes().into()
        } else {
            m.consumer_tag.as_bytes().into()
        };
        let token = core.node.new_reply_token();
        let handle = u64::from(self.number) << 48
            | u64::from(self.generation as u16) << 32
            | u64::from(REPLY_INDEX);
        core.node
            .reply_routes()
            .insert(&token, Arc::clone(&core.outbox), handle);
        self.reply_to = Some(ReplyTo {
            token,
            tag: tag.clone(),
        });
        if !m.no_wait {
            core.send(
                self.number,
                BasicConsumeOk {
                    consumer_tag: ShortStr::truncated(&tag),
                },
            );
        }
        Ok(())
    }

    /// The address that replaces the pseudo-queue's name in `reply_to`.
    pub(super) fn reply_address(&self) -> Result<Vec<u8>, Fault> {
        let reply_to = self
            .reply_to
            .as_ref()
            .ok_or_else(|| Fault::precondition("fast reply consumer does not exist"))?;
        Ok([PSEUDO_QUEUE, b".", reply_to.token.as_bytes()].concat())
    }

    /// The name of a reply address, or of the pseudo-queue: how many consumers stand behind it, as queue.declare tells.
    /// `None`: it is an ordinary name.
    ///
    /// # Errors
    /// 404: nobody is there.
    pub(super) fn declare_reply_address(core: &mut Core, name: &str) -> Option<Result<u32, Fault>> {
        let rest = name.as_bytes().strip_prefix(PSEUDO_QUEUE)?;
        let found = match rest {
            [] => true,
            [b'.', token @ ..] => match std::str::from_utf8(token).map(|t| is_there(core, t)) {
                Ok(Ok(there)) => there,
                Ok(Err(fault)) => return Some(Err(fault)),
                Err(_) => false,
            },
            _ => false,
        };
        let resource = leveret_topology::Resource::queue(&core.session.vhost, name);
        Some(match found {
            true => Ok(1),
            false => Err(leveret_topology::Refusal::not_found(resource).into()),
        })
    }

    /// A message to an address: straight to its consumer, or returned if that is gone.
    pub(super) fn publish_reply(
        &mut self,
        core: &mut Core,
        token: &str,
        publish: &Publish<'_>,
        message: &NewMessage<'_>,
    ) -> Result<(), Fault> {
        // The permission to publish is that of the default exchange; one place in the cache of routes holds it for all addresses.
        let to_pseudo_queue = Publish {
            routing_key: PSEUDO_QUEUE,
            ..*publish
        };
        let properties = PropertiesRef::new(publish.properties);
        self.route(core, &to_pseudo_queue, &[], &properties)?;
        // Another node tells what became of a reply only if it is asked before.
        let home = core.node.reply_home(token);
        if home.is_some() && publish.mandatory && !is_there(core, token)? {
            self.count_reply(core);
            core.counts.unroutable(true);
            self.put_return(core, message);
            return Ok(());
        }
        let Some(single) = EntryBuilder::single(message) else {
            return Err(Fault::new(ReplyCode::InternalError, "reply"));
        };
        self.count_reply(core);
        let sent = match (home, core.node.mirror()) {
            (Some(home), Some(mirror)) => {
                mirror.send_reply(home, token, &single);
                true
            }
            _ => core.node.take_reply(token, single),
        };
        if !sent {
            core.counts.unroutable(publish.mandatory);
            if publish.mandatory {
                self.put_return(core, message);
            }
        }
        Ok(())
    }

    /// A reply counts as a publish, and is confirmed as one.
    fn count_reply(&mut self, core: &mut Core) {
        let mark = self.confirm.as_mut().map(|tag| {
            *tag += 1;
            *tag
        });
        if let Some(tag) = mark {
            core.batch.confirm(self.number, tag);
        }
        core.counts.received(mark.is_some());
    }

    /// Encodes a reply for this channel's consumer.
    pub fn deliver_reply(&mut self, core: &mut Core, delivery: &Delivery) {
        let Some(reply_to) = &self.reply_to else {
            return;
        };
        let (exchange, routing_key, properties, body) = delivery.message.content();
        // The tag of what comes next: like RabbitMQ, a reply uses none up.
        let delivery_tag = self.tags.given() + 1;
        leveret_protocol::encode::put_content(
            &mut core.out,
            self.number,
            &leveret_protocol::encode::Deliver {
                consumer_tag: &reply_to.tag,
                delivery_tag,
                redelivered: false,
                exchange,
                routing_key,
            },
            properties,
            body,
            core.frame_max,
        );
        core.counts.delivered(true, false);
    }
}
