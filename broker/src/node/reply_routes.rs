//! Consumers of direct replies, by token (RabbitMQ extension, direct reply-to).

use std::sync::Arc;

use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use crate::outbox::Outbox;

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
