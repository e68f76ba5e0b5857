//! Consumers of direct replies, by token (RabbitMQ extension, direct reply-to).

use std::sync::Arc;

use leveret_queue::{Delivery, Link, Message};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::Node;
use crate::mirror::remote::Matter;
use crate::outbox::Outbox;
use crate::ticket::{Answer, Ticket};

/// Bytes that may wait for one connection before replies to it are not routable any more: nobody holds their publishers back.
const REPLY_BYTES_MAX: usize = 64 << 20;

/// A connection, and its handle of the consumer.
type Consumer = (Arc<Outbox>, u64);

/// Where replies go. Fewer than there are channels: each has one consumer of replies at most.
#[derive(Default)]
pub struct ReplyRoutes(RwLock<FxHashMap<Box<str>, Consumer>>);

impl std::fmt::Debug for ReplyRoutes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplyRoutes({})", self.0.read().len())
    }
}

impl ReplyRoutes {
    /// A channel consumes replies.
    pub fn insert(&self, token: &str, outbox: Arc<Outbox>, handle: u64) {
        self.0.write().insert(token.into(), (outbox, handle));
    }

    /// It does not any more.
    pub fn remove(&self, token: &str) {
        self.0.write().remove(token);
    }

    /// Who gets the replies for a token.
    pub fn find(&self, token: &str) -> Option<Consumer> {
        self.0.read().get(token).cloned()
    }
}

/// The node that a token names: `g`, its number, a dot.
fn home_of(token: &str) -> Option<u64> {
    token.strip_prefix('g')?.split_once('.')?.0.parse().ok()
}

impl Node {
    /// A token for a new consumer of replies. In a cluster it names the node.
    pub fn new_reply_token(&self) -> String {
        match self.mirror() {
            Some(mirror) => self.new_name(&format!("g{}.", mirror.id())),
            None => self.new_name("g1"),
        }
    }

    /// The other node that the consumer with a token is on; `None`: it is here, or nowhere.
    pub fn reply_home(&self, token: &str) -> Option<u64> {
        let mirror = self.mirror()?;
        home_of(token).filter(|home| *home != mirror.id())
    }

    /// Whether another node's consumer of replies is there.
    pub fn find_reply_for(&self, home: u64, token: &str, ticket: &Arc<Ticket>) -> Option<Answer> {
        let Some(mirror) = self.mirror() else {
            return Some(Answer::Found(false));
        };
        let ticket = Arc::clone(ticket);
        let told = move |answer: Option<bytes::Bytes>| {
            let there = answer.is_some_and(|bytes| bytes[..] == [1]);
            ticket.answer(Answer::Found(there));
        };
        mirror.ask(home, Matter::Reply, token.as_bytes(), Box::new(told));
        None
    }

    /// Gives a reply to its consumer, on this node. `false`: nobody is there, or it does not take what it has got.
    pub fn take_reply(&self, token: &str, message: Message) -> bool {
        let found = self.reply_routes.find(token);
        let found = found.filter(|(link, _)| link.queued_bytes() < REPLY_BYTES_MAX);
        let Some((link, handle)) = found else {
            return false;
        };
        link.deliver(&mut vec![Delivery {
            handle,
            number: 0,
            seq: 0,
            message,
            redelivered: false,
            delivery_count: None,
            turn: 0,
        }]);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_node() {
        assert_eq!(home_of("g12.abc"), Some(12));
        for other in ["", "spec", "g1abc", "g.abc", "gx.abc", "12.abc"] {
            assert_eq!(home_of(other), None, "{other}");
        }
    }
}
