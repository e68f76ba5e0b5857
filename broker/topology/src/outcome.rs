//! What a command changed: the caller creates, adjusts and deletes queue
//! machines, cancels consumers and closes connections by it.

use std::sync::Arc;

use crate::model::{Binding, ExchangeInfo, Name, OwnerId, QueueInfo};

/// A queue before and after a change of its settings, policy or placement.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueChange {
    /// As it was.
    pub before: Arc<QueueInfo>,
    /// As it is, with the same id.
    pub after: Arc<QueueInfo>,
}

/// A binding that came or went, with its vhost.
#[derive(Debug, Clone, PartialEq)]
pub struct BindingChange {
    /// The vhost.
    pub vhost: Name,
    /// The binding.
    pub binding: Arc<Binding>,
}

/// Everything that a command changed, in a deterministic order. A command that
/// found the world as it wanted it has an empty outcome (but `queue` and
/// `exchange` tell what is there).
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// After a DeclareQueue: the queue, whether it is new or not.
    pub queue: Option<Arc<QueueInfo>>,
    /// After a DeclareExchange: the exchange, whether it is new or not.
    pub exchange: Option<Arc<ExchangeInfo>>,
    /// Queues that were created.
    pub queues_created: Vec<Arc<QueueInfo>>,
    /// Queues that are gone, in the order of their ids. Their consumers are to
    /// be cancelled and their messages dropped.
    pub queues_deleted: Vec<Arc<QueueInfo>>,
    /// Queues whose settings, policy or placement changed, in the order of
    /// their ids.
    pub queues_changed: Vec<QueueChange>,
    /// Exchanges that were created.
    pub exchanges_created: Vec<Arc<ExchangeInfo>>,
    /// Exchanges whose policy or alternate exchange changed, as they are now.
    pub exchanges_changed: Vec<Arc<ExchangeInfo>>,
    /// Exchanges that are gone, the auto-deleted ones among them.
    pub exchanges_deleted: Vec<Arc<ExchangeInfo>>,
    /// Bindings that were made.
    pub bindings_created: Vec<BindingChange>,
    /// Bindings that are gone, with their queue or exchange or by themselves.
    pub bindings_deleted: Vec<BindingChange>,
    /// The vhost that was created.
    pub vhost_created: Option<Name>,
    /// The vhost that is gone: its connections are to be closed.
    pub vhost_deleted: Option<Name>,
    /// The user that is gone: its connections are to be closed.
    pub user_deleted: Option<Name>,
    /// The connection whose exclusive queues were deleted.
    pub connection_closed: Option<OwnerId>,
    /// Whether users, permissions or limits changed, so that what a connection
    /// remembers of its permissions is stale.
    pub access_changed: bool,
    /// Whether anything of the state is different now.
    pub changed: bool,
}

impl Outcome {
    /// Whether some message may now go elsewhere than before.
    pub fn may_change_routes(&self) -> bool {
        let Outcome {
            queues_created,
            queues_deleted,
            queues_changed,
            ..
        } = self;
        let Outcome {
            exchanges_created,
            exchanges_deleted,
            exchanges_changed,
            ..
        } = self;
        !(queues_created.is_empty()
            && queues_deleted.is_empty()
            && queues_changed.is_empty()
            && exchanges_created.is_empty()
            && exchanges_deleted.is_empty()
            && exchanges_changed.is_empty()
            && self.bindings_created.is_empty()
            && self.bindings_deleted.is_empty()
            && self.vhost_created.is_none()
            && self.vhost_deleted.is_none())
    }
}
