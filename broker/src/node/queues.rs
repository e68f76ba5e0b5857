//! Queues as connections use them: found by name, consumed from, asked.

use std::sync::Arc;

use leveret_queue::{ConsumerSlot, ConsumerSpec, Limiter};
use leveret_topology::{
    Actor, Command, DeleteQueue, Name, OwnerId, Permission, Publication, QueueId, QueueInfo,
    Refusal,
};

use super::{Attributes, Node};
use crate::connection::core::Session;
use crate::connection::routes::Route;
use crate::ticket::{Answer, Ticket};

impl Node {
    /// A queue to consume from: it exists, the user may read it, and nobody else owns it.
    ///
    /// # Errors
    /// 403, 404 or 405 as RabbitMQ has them.
    pub fn queue_to_consume(
        &self,
        session: &Session,
        connection: OwnerId,
        name: &Name,
    ) -> Result<Arc<QueueInfo>, Refusal> {
        let topology = self.topology();
        let actor = Actor::new(&session.user, connection);
        let resource = leveret_topology::Resource::queue(&session.vhost, name);
        topology.check_permission(&actor, resource, Permission::Read)?;
        let queue = topology.expect_queue(&session.vhost, name)?;
        check_owner(queue, connection)?;
        Ok(queue.clone())
    }

    /// The queues of a publish, and whether the route may be kept.
    ///
    /// # Errors
    /// 403 or 404 as RabbitMQ has them.
    pub fn route(
        &self,
        session: &Session,
        exchange: &[u8],
        routing_key: &[u8],
        extra_keys: &[&[u8]],
        attributes: &Attributes<'_>,
    ) -> Result<(Route, bool), Refusal> {
        let exchange = String::from_utf8_lossy(exchange);
        let variables: Vec<(&str, &str)> = session
            .client_id
            .iter()
            .map(|id| ("client_id", id.as_str()))
            .collect();
        let actor = Actor {
            user: &session.user,
            connection: None,
            variables: &variables,
        };
        let mut queues = Vec::new();
        let topology = self.topology();
        topology.check_publish(&actor, &session.vhost, &exchange, routing_key)?;
        let mut keys = Vec::with_capacity(1 + extra_keys.len());
        keys.push(routing_key);
        keys.extend_from_slice(extra_keys);
        let publication = Publication {
            routing_keys: &keys,
            attributes,
        };
        let stable = topology.route(&session.vhost, &exchange, &publication, &mut queues)?;
        Ok((queues.into(), stable))
    }

    /// The queues of a message that the broker itself publishes; none if there is no such exchange.
    pub(super) fn route_own(
        &self,
        vhost: &str,
        exchange: &str,
        keys: &[&[u8]],
        attributes: &Attributes<'_>,
    ) -> Vec<Arc<QueueInfo>> {
        let mut queues = Vec::new();
        let publication = Publication {
            routing_keys: keys,
            attributes,
        };
        let _ = self
            .topology()
            .route(vhost, exchange, &publication, &mut queues);
        queues
    }

    /// Attaches a consumer; deliveries begin with [`Node::run`].
    pub fn attach(
        &self,
        queue: &QueueInfo,
        spec: ConsumerSpec,
        now_ms: u64,
        cancel_on_failover: bool,
        ticket: &Arc<Ticket>,
    ) -> Option<Answer> {
        if let Some(session) = self.session(queue.group) {
            session.attach(queue.id.0, spec, cancel_on_failover, ticket);
            return None;
        }
        let group = self.group(queue.group);
        let slot = group.and_then(|group| group.consume(queue.id.0, spec, now_ms));
        Some(Answer::Attached(slot))
    }

    /// Delivers what waits.
    pub fn run(&self, queue: &QueueInfo, now_ms: u64) {
        if let Some(group) = self.group(queue.group) {
            let after = group.run(queue.id.0, now_ms);
            self.after(after, now_ms);
        }
    }

    /// Ends a consumer.
    pub fn cancel(&self, queue: &QueueInfo, slot: ConsumerSlot, now_ms: u64) {
        if let Some(group) = self.group(queue.group) {
            let after = group.cancel(queue.id.0, slot, now_ms);
            self.after(after, now_ms);
        }
    }

    /// [`Node::cancel`] for a connection that may have to wait until all that was delivered is here.
    pub fn cancel_for(
        &self,
        queue: &QueueInfo,
        slot: ConsumerSlot,
        now_ms: u64,
        ticket: &Arc<Ticket>,
    ) -> Option<Answer> {
        if let Some(session) = self.session(queue.group) {
            session.cancel(slot, ticket);
            return None;
        }
        self.cancel(queue, slot, now_ms);
        Some(Answer::Ended)
    }

    /// Takes back what a consumer of a closed channel holds.
    pub fn release(&self, group: u32, queue: u64, slot: ConsumerSlot, now_ms: u64) {
        if let Some(session) = self.session(group) {
            return session.release(slot);
        }
        if let Some(group) = self.group(group) {
            let after = group.release(queue, slot, now_ms);
            self.after(after, now_ms);
        }
    }

    /// Puts a consumer under its channel's window.
    pub fn share_window(&self, queue: &QueueInfo, slot: ConsumerSlot, limiter: &Arc<Limiter>) {
        if let Some(group) = self.group(queue.group) {
            group.share_window(queue.id.0, slot, limiter);
        }
    }

    /// basic.get.
    pub fn get(
        &self,
        queue: &QueueInfo,
        holder: Option<ConsumerSlot>,
        now_ms: u64,
        ticket: &Arc<Ticket>,
    ) -> Option<Answer> {
        if let Some(session) = self.session(queue.group) {
            session.get(queue.id.0, holder, ticket);
            return None;
        }
        let Some(group) = self.group(queue.group) else {
            return Some(Answer::Got(None));
        };
        let (result, after) = group.get(queue.id.0, holder, now_ms);
        self.after(after, now_ms);
        Some(Answer::Got(result))
    }

    /// queue.purge: how many messages went.
    pub fn purge(&self, queue: &QueueInfo, now_ms: u64) -> u64 {
        let Some(group) = self.group(queue.group) else {
            return 0;
        };
        let (purged, after) = group.purge(queue.id.0, now_ms);
        self.after(after, now_ms);
        purged
    }

    /// [`Node::purge`] for a connection that may have to wait.
    pub fn purge_for(
        &self,
        queue: &QueueInfo,
        now_ms: u64,
        ticket: &Arc<Ticket>,
    ) -> Option<Answer> {
        if let Some(session) = self.session(queue.group) {
            session.purge(queue.id.0, ticket);
            return None;
        }
        Some(Answer::Purged(self.purge(queue, now_ms)))
    }

    /// [`Node::counts`] for a connection that may have to wait. `touch`: it declares the queue, which restarts `x-expires`.
    pub fn counts_for(
        &self,
        queue: &QueueInfo,
        touch: bool,
        now_ms: u64,
        ticket: &Arc<Ticket>,
    ) -> Option<Answer> {
        if let Some(session) = self.session(queue.group) {
            session.counts(queue.id.0, touch, ticket);
            return None;
        }
        if touch {
            self.touch(queue, now_ms);
        }
        let (ready, consumers) = self.counts(queue);
        Some(Answer::Counts(ready, consumers))
    }

    /// Ready messages and consumers.
    pub fn counts(&self, queue: &QueueInfo) -> (u64, u32) {
        self.group(queue.group)
            .map_or((0, 0), |group| group.counts(queue.id.0))
    }

    /// A declare was seen: restarts `x-expires`.
    pub fn touch(&self, queue: &QueueInfo, now_ms: u64) {
        if let Some(group) = self.group(queue.group) {
            group.touch(queue.id.0, now_ms);
        }
    }

    /// Deletes a queue that lost its last consumer or expired, if that is still so.
    pub fn delete_unused(&self, id: u64) {
        let queue = self.topology().queue_by_id(QueueId(id)).cloned();
        let Some(queue) = queue else { return };
        let unused = match self.mirror().and_then(|m| m.mirrored(queue.group)) {
            Some(mirrored) => mirrored.group.is_unused(id),
            None => self
                .group(queue.group)
                .is_some_and(|group| group.is_unused(id)),
        };
        if !unused {
            return;
        }
        let command = Command::DeleteQueue(DeleteQueue {
            vhost: queue.vhost.clone(),
            name: queue.name.clone(),
            id: Some(queue.id),
        });
        if self.mirror().is_some() {
            return self.propose_quietly(&command);
        }
        if let Err(error) = self.propose(&command) {
            tracing::debug!(queue = %queue.name, %error, "unused queue was not deleted");
        }
    }
}

/// 405 RESOURCE_LOCKED for a queue that belongs to another connection.
pub fn check_owner(queue: &QueueInfo, connection: OwnerId) -> Result<(), Refusal> {
    match queue.exclusive_owner {
        Some(owner) if owner != connection => Err(Refusal::locked(queue.resource())),
        _ => Ok(()),
    }
}
