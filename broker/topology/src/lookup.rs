//! Reading the state: single entities, lists, and the way of a message.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::access::{TopicPermissions, User, UserPermissions};
use crate::limits::VhostLimits;
use crate::model::{
    Binding, Destination, ExchangeInfo, Name, OwnerId, QueueId, QueueInfo, QueueType, Resource,
};
use crate::policy::{Policy, merged_definition};
use crate::refusal::Refusal;
use crate::routing::{Publication, walk};
use crate::state::{ById, Topology, VHost, in_order};

impl Topology {
    /// A state with nothing in it: not a vhost, not a user.
    pub fn new() -> Topology {
        Topology::default()
    }

    /// Grows with every change after which some message may go elsewhere, or to
    /// a queue whose record is another. A route is good as long as it stays.
    /// Every node counts for itself.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Grows with every change of users, permissions and limits. What a check
    /// of them said is good as long as it stays.
    #[inline]
    pub fn access_version(&self) -> u64 {
        self.access_version
    }

    /// A vhost.
    pub fn vhost(&self, name: &str) -> Option<&VHost> {
        self.vhosts.get(name)
    }

    /// The vhosts in the order of their names.
    pub fn vhosts(&self) -> impl Iterator<Item = &VHost> {
        self.vhosts.values()
    }

    /// A user.
    pub fn user(&self, name: &str) -> Option<&User> {
        self.users.get(name)
    }

    /// The users in the order of their names.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        self.users.values()
    }

    /// A queue.
    #[inline]
    pub fn queue(&self, vhost: &str, name: &str) -> Option<&Arc<QueueInfo>> {
        self.vhosts.get(vhost)?.queues.get(name)
    }

    /// The queue of this id.
    #[inline]
    pub fn queue_by_id(&self, id: QueueId) -> Option<&Arc<QueueInfo>> {
        self.queues_by_id.get(&id)
    }

    /// Every queue, in no order that means anything.
    pub fn queues(&self) -> impl Iterator<Item = &Arc<QueueInfo>> {
        self.queues_by_id.values()
    }

    /// The ids of the exclusive queues of a connection, oldest first.
    pub fn queues_of_owner(&self, owner: OwnerId) -> &[QueueId] {
        self.queues_by_owner
            .get(&owner)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }

    /// An exchange.
    #[inline]
    pub fn exchange(&self, vhost: &str, name: &str) -> Option<&Arc<ExchangeInfo>> {
        Some(&self.vhosts.get(vhost)?.exchanges.get(name)?.info)
    }

    /// A vhost that has to be there.
    ///
    /// # Errors
    /// 530 NOT_ALLOWED.
    pub fn expect_vhost(&self, name: &str) -> Result<&VHost, Refusal> {
        self.vhosts.get(name).ok_or_else(|| Refusal::no_vhost(name))
    }

    pub(crate) fn expect_vhost_mut(&mut self, name: &str) -> Result<&mut VHost, Refusal> {
        self.vhosts
            .get_mut(name)
            .ok_or_else(|| Refusal::no_vhost(name))
    }

    /// A queue that has to be there.
    ///
    /// # Errors
    /// 404 NOT_FOUND.
    pub fn expect_queue(&self, vhost: &str, name: &str) -> Result<&Arc<QueueInfo>, Refusal> {
        self.queue(vhost, name)
            .ok_or_else(|| Refusal::not_found(Resource::queue(vhost, name)))
    }

    /// An exchange that has to be there.
    ///
    /// # Errors
    /// 404 NOT_FOUND.
    pub fn expect_exchange(&self, vhost: &str, name: &str) -> Result<&Arc<ExchangeInfo>, Refusal> {
        self.exchange(vhost, name)
            .ok_or_else(|| Refusal::not_found(Resource::exchange(vhost, name)))
    }

    /// Finds the queues of a message: `out` is emptied and then has each of them
    /// once, in the order of their ids. Direct reply-to is not looked after: the
    /// pseudo-queues `amq.rabbitmq.reply-to.*` are no queues. Answers whether
    /// only the routing keys decided: the route then holds for the same keys
    /// as long as [`Topology::version`] stays.
    ///
    /// # Errors
    /// 404 NOT_FOUND when there is no such exchange.
    pub fn route(
        &self,
        vhost: &str,
        exchange: &str,
        message: &Publication<'_>,
        out: &mut Vec<Arc<QueueInfo>>,
    ) -> Result<bool, Refusal> {
        out.clear();
        let found = self.vhosts.get(vhost);
        let slot = found.and_then(|vhost| vhost.exchanges.slot(exchange));
        let (Some(found), Some(slot)) = (found, slot) else {
            return Err(Refusal::not_found(Resource::exchange(vhost, exchange)));
        };
        if exchange.is_empty() {
            found.route_by_name(message.routing_keys, out);
            Ok(true)
        } else {
            Ok(walk(&found.exchanges, &found.queues, slot, message, out))
        }
    }
}

impl VHost {
    /// The default exchange: every queue is bound by its name
    /// (AMQP 0-9-1 section 3.1.3.1).
    fn route_by_name(&self, keys: &[&[u8]], out: &mut Vec<Arc<QueueInfo>>) {
        for key in keys {
            let name = std::str::from_utf8(key).ok();
            out.extend(name.and_then(|name| self.queues.get(name)).cloned());
        }
        if out.len() > 1 {
            out.sort_unstable_by_key(|queue| queue.id);
            out.dedup_by_key(|queue| queue.id);
        }
    }

    /// The name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What it is for.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Its tags.
    pub fn tags(&self) -> &[Name] {
        &self.tags
    }

    /// The type of queues that are declared without one.
    pub fn default_queue_type(&self) -> Option<QueueType> {
        self.default_queue_type
    }

    /// Whether the firehose tracer is on.
    pub fn tracing(&self) -> bool {
        self.tracing
    }

    /// Its limits.
    pub fn limits(&self) -> VhostLimits {
        self.limits
    }

    /// Number of queues.
    pub fn queue_count(&self) -> usize {
        self.queues.len()
    }

    /// The queues in the order of their names.
    pub fn queues(&self) -> Vec<Arc<QueueInfo>> {
        let mut queues: Vec<_> = self.queues.iter().cloned().collect();
        queues.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        queues
    }

    /// The exchanges in the order of their names.
    pub fn exchanges(&self) -> Vec<Arc<ExchangeInfo>> {
        let mut exchanges: Vec<_> = self
            .exchanges
            .iter()
            .map(|entry| entry.info.clone())
            .collect();
        exchanges.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        exchanges
    }

    /// The bindings in the order of their creation, without those by which the
    /// default exchange has every queue.
    pub fn bindings(&self) -> Vec<Arc<Binding>> {
        let all = self.exchanges.iter().flat_map(|entry| &entry.bindings);
        in_order(all.map(|ById(binding)| binding.clone()))
    }

    /// The bindings of an exchange, in the order of their creation.
    pub fn bindings_from(&self, source: &str) -> Vec<Arc<Binding>> {
        let entry = self.exchanges.get(source);
        let all = entry.into_iter().flat_map(|entry| &entry.bindings);
        in_order(all.map(|ById(binding)| binding.clone()))
    }

    /// The bindings that lead to a queue or exchange, in the order of their
    /// creation.
    pub fn bindings_to(&self, destination: &Destination) -> Vec<Arc<Binding>> {
        in_order(
            self.incoming
                .get(destination)
                .into_iter()
                .flatten()
                .cloned(),
        )
    }

    /// The permissions of users here, in the order of the users' names.
    pub fn permissions(&self) -> impl Iterator<Item = (&Name, &UserPermissions)> {
        self.permissions.iter()
    }

    /// The topic permissions here: user, exchange, permissions.
    pub fn topic_permissions(&self) -> impl Iterator<Item = (&Name, &Name, &TopicPermissions)> {
        self.topic_permissions
            .iter()
            .map(|((user, exchange), entry)| (user, exchange, entry))
    }

    /// The policies in the order of their names.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// The operator policies in the order of their names.
    pub fn operator_policies(&self) -> impl Iterator<Item = &Policy> {
        self.operator_policies.values()
    }

    /// The runtime parameters: component, name, value. The limits of the vhost
    /// are not among them.
    pub fn parameters(&self) -> impl Iterator<Item = (&Name, &Name, &Value)> {
        self.parameters
            .iter()
            .map(|((component, name), value)| (component, name, value))
    }

    /// The settings that policy and operator policy of a queue come to.
    pub fn queue_policy_definition(&self, queue: &QueueInfo) -> Map<String, Value> {
        merged_definition(self.queue_policies(&queue.name, queue.kind))
    }

    /// The settings that policy and operator policy of an exchange come to.
    pub fn exchange_policy_definition(&self, exchange: &ExchangeInfo) -> Map<String, Value> {
        merged_definition(self.exchange_policies(&exchange.name))
    }
}
