//! Queues as connections use them: found by name, consumed from, asked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret_queue::{ConsumerSlot, ConsumerSpec, Counters, Depth, Limiter, QueueView};
use leveret_topology::{
    Actor, Command, DeleteQueue, Name, NodeInfo, OwnerId, Permission, Publication, QueueId,
    QueueInfo, Refusal,
};

use super::{Attributes, Node};
use crate::connection::core::Session;
use crate::connection::routes::Route;
use crate::mirror::remote::Matter;
use crate::ticket::{Answer, Question, Ticket};

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
        if let Some(session) = self.session(queue.group) {
            session.silence(slot);
        } else if let Some(group) = self.group(queue.group) {
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
        if let Some(session) = self.session(queue.group) {
            session.share_window(slot, limiter);
        } else if let Some(group) = self.group(queue.group) {
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

    /// A look at all queues that this node serves: in a cluster, that it leads.
    pub fn views(&self) -> Vec<QueueView> {
        let local = self.groups.iter().flat_map(|group| group.views());
        let led = self.mirror().map(|mirror| mirror.groups()).into_iter();
        let led = led.flatten().flat_map(|mirrored| mirrored.group.views());
        local.chain(led).collect()
    }

    /// A look at the queues of the whole cluster. Not to be called on a thread that serves connections.
    pub fn views_everywhere(&self) -> Vec<QueueView> {
        let mut views = self.views();
        if let Some(mirror) = self.mirror() {
            for (_, bytes) in mirror.ask_others(Matter::Views, &[]) {
                views.extend(decode_views(&bytes));
            }
        }
        views
    }

    /// [`Node::views`] for another node: each as 20 words, little-endian.
    pub fn encode_views(&self) -> Vec<u8> {
        let views = self.views();
        let words = views.iter().flat_map(words_of);
        words.flat_map(u64::to_le_bytes).collect()
    }

    /// The name of the node that leads a queue; `None`: nobody does at the moment.
    pub fn leader_of(&self, queue: &QueueInfo) -> Option<String> {
        let Some(session) = self.session(queue.group) else {
            return Some(self.name().to_owned());
        };
        let leader = session.leader()?.node;
        let topology = self.topology();
        topology.node(leader).map(|node| node.name.to_string())
    }

    /// The names of the nodes that have a queue, and of those among them that are there.
    pub fn members_of(&self, _queue: &QueueInfo) -> (Vec<String>, Vec<String>) {
        let topology = self.topology();
        if self.mirror().is_none() {
            return (vec![self.name().to_owned()], vec![self.name().to_owned()]);
        }
        let name = |node: &NodeInfo| node.name.to_string();
        let all = topology.nodes().map(name).collect();
        let up = topology.nodes().filter(|node| node.up).map(name).collect();
        (all, up)
    }

    /// Asks a queue's leader and waits. Not to be called on a thread that serves connections. `None`: no answer came.
    fn wait_for(
        &self,
        question: Question,
        start: impl FnOnce(&Arc<Ticket>) -> Option<Answer>,
    ) -> Option<Answer> {
        const PATIENCE: Duration = Duration::from_secs(20);
        const LOOK: Duration = Duration::from_millis(5);
        let ticket = Ticket::new(question, Arc::default());
        let until = Instant::now() + PATIENCE;
        if let Some(answer) = start(&ticket) {
            return Some(answer);
        }
        while !ticket.is_answered() && Instant::now() < until {
            std::thread::sleep(LOOK);
        }
        ticket.get()
    }

    /// [`Node::counts`] for a caller that can wait, in a cluster too.
    pub fn counts_and_wait(&self, queue: &QueueInfo) -> Option<(u64, u32)> {
        let now_ms = self.now_ms();
        match self.wait_for(Question::Counts, |ticket| {
            self.counts_for(queue, false, now_ms, ticket)
        })? {
            Answer::Counts(ready, consumers) => Some((ready, consumers)),
            _ => None,
        }
    }

    /// [`Node::purge`] for a caller that can wait, in a cluster too.
    pub fn purge_and_wait(&self, queue: &QueueInfo) -> Option<u64> {
        let now_ms = self.now_ms();
        match self.wait_for(Question::Purge, |ticket| {
            self.purge_for(queue, now_ms, ticket)
        })? {
            Answer::Purged(messages) => Some(messages),
            _ => None,
        }
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

/// Words of a [`QueueView`] between nodes.
const VIEW_WORDS: usize = 20;

fn words_of(view: &QueueView) -> [u64; VIEW_WORDS] {
    let (depth, counters) = (&view.depth, &view.counters);
    // Times and handles are below the largest number.
    let or_none = |value: Option<u64>| value.unwrap_or(u64::MAX);
    [
        view.id,
        depth.ready,
        depth.unacked,
        depth.ready_bytes,
        depth.unacked_bytes,
        u64::from(depth.consumers),
        counters.published,
        counters.delivered,
        counters.delivered_no_ack,
        counters.got,
        counters.got_no_ack,
        counters.got_empty,
        counters.redelivered,
        counters.acked,
        counters.expired,
        counters.dropped,
        or_none(view.idle_since_ms),
        or_none(view.active_consumer),
        view.hot_messages,
        0,
    ]
}

fn view_of(words: &[u64; VIEW_WORDS]) -> QueueView {
    let [
        id,
        ready,
        unacked,
        ready_bytes,
        unacked_bytes,
        consumers,
        published,
        delivered,
        delivered_no_ack,
        got,
        got_no_ack,
        got_empty,
        redelivered,
        acked,
        expired,
        dropped,
        idle,
        active,
        hot_messages,
        _,
    ] = *words;
    QueueView {
        id,
        depth: Depth {
            ready,
            unacked,
            ready_bytes,
            unacked_bytes,
            consumers: u32::try_from(consumers).unwrap_or(u32::MAX),
        },
        counters: Counters {
            published,
            delivered,
            delivered_no_ack,
            got,
            got_no_ack,
            got_empty,
            redelivered,
            acked,
            expired,
            dropped,
        },
        idle_since_ms: (idle != u64::MAX).then_some(idle),
        active_consumer: (active != u64::MAX).then_some(active),
        hot_messages,
    }
}

/// What [`Node::encode_views`] wrote; bytes that are no whole view count for nothing.
fn decode_views(bytes: &[u8]) -> Vec<QueueView> {
    let views = bytes.chunks_exact(8 * VIEW_WORDS);
    let view = |bytes: &[u8]| {
        let mut words = [0; VIEW_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        view_of(&words)
    };
    views.map(view).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_what_it_was() {
        let words: [u64; VIEW_WORDS] = std::array::from_fn(|at| at as u64 + 1);
        let mut words = [&words[..VIEW_WORDS - 1], &[0]].concat();
        for none in [false, true] {
            if none {
                (words[16], words[17]) = (u64::MAX, u64::MAX);
            }
            let array: [u64; VIEW_WORDS] = words[..].try_into().expect("as many");
            let view = view_of(&array);
            assert_eq!(words_of(&view), array);
            let mut bytes: Vec<u8> = array.iter().flat_map(|w| w.to_le_bytes()).collect();
            bytes.extend_from_slice(&[1, 2, 3]);
            assert_eq!(decode_views(&bytes), [view]);
        }
    }
}
