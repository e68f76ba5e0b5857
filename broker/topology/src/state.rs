//! The state: what is kept, and the primitive changes that keep it whole.
//!
//! `ops` decides what a command changes; the methods here make the change and
//! note it in the outcome. Invariants, checked in tests by
//! [`Topology::check_invariants`]:
//! - both ends of every binding exist, in the vhost of the binding;
//! - the routing tables hold exactly the bindings;
//! - every queue is found by its id, and every exclusive one by its owner.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use serde_json::Value;

use crate::access::{TopicPermissions, User, UserPermissions};
use crate::limits::VhostLimits;
use crate::model::{
    Binding, BindingId, Destination, EffectiveQueueSettings, ExchangeInfo, ForgottenNode, Formed,
    Name, NodeInfo, OwnerId, QueueId, QueueInfo, QueueType,
};
use crate::outcome::{BindingChange, Outcome};
use crate::policy::Policy;
use crate::routing::{Exchanges, Matcher, Queues, Target};

/// The metadata machine. See the [crate documentation](crate).
#[derive(Debug, Default)]
pub struct Topology {
    pub(crate) vhosts: BTreeMap<Name, VHost>,
    pub(crate) users: BTreeMap<Name, User>,
    pub(crate) global_parameters: BTreeMap<Name, Value>,
    /// Nodes of the cluster, by id; none on a node alone.
    pub(crate) nodes: BTreeMap<u64, NodeInfo>,
    /// Nodes that were members once, by id.
    pub(crate) forgotten: BTreeMap<u64, ForgottenNode>,
    /// Groups that were formed anew.
    pub(crate) formed: BTreeMap<u32, Formed>,
    /// Where each queue is.
    pub(crate) queues_by_id: FxHashMap<QueueId, Arc<QueueInfo>>,
    /// The exclusive queues of each connection.
    pub(crate) queues_by_owner: FxHashMap<OwnerId, Vec<QueueId>>,
    pub(crate) version: u64,
    pub(crate) access_version: u64,
}

/// A vhost with everything in it.
#[derive(Debug)]
pub struct VHost {
    pub(crate) name: Name,
    pub(crate) description: String,
    pub(crate) tags: Vec<Name>,
    pub(crate) default_queue_type: Option<QueueType>,
    pub(crate) tracing: bool,
    pub(crate) limits: VhostLimits,
    /// By user.
    pub(crate) permissions: BTreeMap<Name, UserPermissions>,
    /// By user and exchange.
    pub(crate) topic_permissions: BTreeMap<(Name, Name), TopicPermissions>,
    pub(crate) policies: BTreeMap<Name, Policy>,
    pub(crate) operator_policies: BTreeMap<Name, Policy>,
    /// By component and name.
    pub(crate) parameters: BTreeMap<(Name, Name), Value>,
    pub(crate) exchanges: Exchanges,
    pub(crate) queues: Queues,
    /// The bindings that lead to a queue or exchange.
    pub(crate) incoming: FxHashMap<Destination, Vec<Arc<Binding>>>,
    /// The settings that were made last: most queues are like their neighbours.
    pub(crate) recent_settings: Arc<EffectiveQueueSettings>,
}

/// An exchange with its bindings.
#[derive(Debug)]
pub(crate) struct ExchangeEntry {
    pub info: Arc<ExchangeInfo>,
    pub matcher: Matcher,
    pub bindings: FxHashSet<ById>,
}

/// A binding in a set, found by its [`BindingId`].
#[derive(Debug, Clone)]
pub(crate) struct ById(pub Arc<Binding>);

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ById {}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl Borrow<BindingId> for ById {
    fn borrow(&self) -> &BindingId {
        &self.0.id
    }
}

impl VHost {
    /// A vhost with nothing in it, not even its own exchanges.
    pub(crate) fn new(name: Name) -> VHost {
        VHost {
            name,
            description: String::new(),
            tags: Vec::new(),
            default_queue_type: None,
            tracing: false,
            limits: VhostLimits::default(),
            permissions: BTreeMap::new(),
            topic_permissions: BTreeMap::new(),
            policies: BTreeMap::new(),
            operator_policies: BTreeMap::new(),
            parameters: BTreeMap::new(),
            exchanges: Exchanges::default(),
            queues: Queues::default(),
            incoming: FxHashMap::default(),
            recent_settings: Arc::default(),
        }
    }

    fn target(&self, destination: &Destination) -> Option<Target> {
        match destination {
            Destination::Queue(name) => self.queues.slot(name).map(Target::Queue),
            Destination::Exchange(name) => self.exchanges.slot(name).map(Target::Exchange),
        }
    }

    /// Adds an exchange that is not there yet.
    pub(crate) fn insert_exchange(&mut self, info: Arc<ExchangeInfo>, outcome: &mut Outcome) {
        let matcher = Matcher::new(info.kind, &info.arguments);
        let entry = ExchangeEntry {
            info: info.clone(),
            matcher,
            bindings: FxHashSet::default(),
        };
        self.exchanges.insert(info.name.clone(), entry);
        outcome.exchanges_created.push(info);
        outcome.changed = true;
    }

    /// Removes an exchange with its bindings in both directions, and the
    /// auto-delete exchanges that lose their last binding by it.
    pub(crate) fn remove_exchange(&mut self, name: &str, outcome: &mut Outcome) {
        let mut emptied = Vec::new();
        self.take_exchange(name, &mut emptied, outcome);
        self.auto_delete(emptied, outcome);
    }

    fn take_exchange(&mut self, name: &str, emptied: &mut Vec<Name>, outcome: &mut Outcome) {
        let Some(entry) = self.exchanges.get(name) else {
            return;
        };
        let info = entry.info.clone();
        for binding in in_order(entry.bindings.iter().map(|binding| binding.0.clone())) {
            self.detach(&binding, outcome);
        }
        self.detach_incoming(Destination::Exchange(info.name.clone()), emptied, outcome);
        self.exchanges.remove(name);
        outcome.exchanges_deleted.push(info);
        outcome.changed = true;
    }

    /// Removes the bindings that lead to `destination`; their exchanges are
    /// appended to `emptied`.
    fn detach_incoming(
        &mut self,
        destination: Destination,
        emptied: &mut Vec<Name>,
        outcome: &mut Outcome,
    ) {
        let incoming = self.incoming.remove(&destination).unwrap_or_default();
        for binding in in_order(incoming.into_iter()) {
            self.detach(&binding, outcome);
            emptied.push(binding.id.source.clone());
        }
    }

    /// Deletes those of the exchanges that are auto-delete and have no bindings.
    fn auto_delete(&mut self, mut emptied: Vec<Name>, outcome: &mut Outcome) {
        let mut next = 0;
        while let Some(name) = emptied.get(next).cloned() {
            next += 1;
            let gone = |entry: &ExchangeEntry| entry.info.auto_delete && entry.bindings.is_empty();
            if self.exchanges.get(&name).is_some_and(gone) {
                self.take_exchange(&name, &mut emptied, outcome);
            }
        }
    }

    /// Adds a queue that is not there yet.
    pub(crate) fn insert_queue(&mut self, info: Arc<QueueInfo>, outcome: &mut Outcome) {
        self.queues.insert(info.name.clone(), info.clone());
        outcome.queues_created.push(info);
        outcome.changed = true;
    }

    /// Removes a queue with its bindings, and the auto-delete exchanges that
    /// lose their last binding by it.
    pub(crate) fn remove_queue(&mut self, name: &str, outcome: &mut Outcome) {
        let mut emptied = Vec::new();
        self.take_queue(name, &mut emptied, outcome);
        self.auto_delete(emptied, outcome);
    }

    fn take_queue(&mut self, name: &str, emptied: &mut Vec<Name>, outcome: &mut Outcome) {
        let Some(info) = self.queues.get(name).cloned() else {
            return;
        };
        self.detach_incoming(Destination::Queue(info.name.clone()), emptied, outcome);
        self.queues.remove(name);
        outcome.queues_deleted.push(info);
        outcome.changed = true;
    }

    /// Removes an exchange with its bindings and nothing else.
    pub(crate) fn drop_exchange(&mut self, name: &str, outcome: &mut Outcome) {
        self.take_exchange(name, &mut Vec::new(), outcome);
    }

    /// Removes a queue with its bindings and nothing else.
    pub(crate) fn drop_queue(&mut self, name: &str, outcome: &mut Outcome) {
        self.take_queue(name, &mut Vec::new(), outcome);
    }

    /// The binding of this identity.
    pub(crate) fn binding(&self, id: &BindingId) -> Option<&Arc<Binding>> {
        Some(&self.exchanges.get(&id.source)?.bindings.get(id)?.0)
    }

    /// The same identity with the names that exchange and queue have anyway, so
    /// that thousands of bindings do not keep copies of them.
    pub(crate) fn with_own_names(&self, id: BindingId) -> BindingId {
        let exchange = |name: Name| match self.exchanges.get(&name) {
            Some(entry) => entry.info.name.clone(),
            None => name,
        };
        let destination = match id.destination {
            Destination::Queue(name) => Destination::Queue(match self.queues.get(&name) {
                Some(queue) => queue.name.clone(),
                None => name,
            }),
            Destination::Exchange(name) => Destination::Exchange(exchange(name)),
        };
        BindingId {
            source: exchange(id.source),
            destination,
            ..id
        }
    }

    /// Adds a binding that is not there yet, between ends that are.
    pub(crate) fn insert_binding(&mut self, binding: Arc<Binding>, outcome: &mut Outcome) {
        let Some(target) = self.target(&binding.id.destination) else {
            return;
        };
        let Some(entry) = self.exchanges.get_mut(&binding.id.source) else {
            return;
        };
        entry.matcher.add(&binding, target);
        entry.bindings.insert(ById(binding.clone()));
        self.incoming
            .entry(binding.id.destination.clone())
            .or_default()
            .push(binding.clone());
        outcome.bindings_created.push(BindingChange {
            vhost: self.name.clone(),
            binding,
        });
        outcome.changed = true;
    }

    /// Removes a binding, and its exchange when that is auto-delete and has no
    /// other.
    pub(crate) fn remove_binding(&mut self, binding: &Arc<Binding>, outcome: &mut Outcome) {
        self.detach(binding, outcome);
        self.auto_delete(vec![binding.id.source.clone()], outcome);
    }

    fn detach(&mut self, binding: &Arc<Binding>, outcome: &mut Outcome) {
        let destination = &binding.id.destination;
        let target = self.target(destination);
        let source = self.exchanges.get_mut(&binding.id.source);
        if let (Some(target), Some(entry)) = (target, source)
            && entry.bindings.remove(&binding.id)
        {
            entry.matcher.remove(binding, target);
        }
        if let Some(incoming) = self.incoming.get_mut(destination) {
            if let Some(at) = incoming
                .iter()
                .position(|other| Arc::ptr_eq(other, binding))
            {
                incoming.swap_remove(at);
            }
            if incoming.is_empty() {
                self.incoming.remove(destination);
            }
        }
        let change = BindingChange {
            vhost: self.name.clone(),
            binding: binding.clone(),
        };
        outcome.bindings_deleted.push(change);
        outcome.changed = true;
    }
}

/// Bindings in the order of their creation.
pub(crate) fn in_order(bindings: impl Iterator<Item = Arc<Binding>>) -> Vec<Arc<Binding>> {
    let mut bindings: Vec<_> = bindings.collect();
    bindings.sort_unstable_by_key(|binding| binding.created);
    bindings
}

impl Topology {
    /// Brings the indices over all vhosts and the versions up to date with what
    /// a command did. The one place where they change.
    pub(crate) fn note(&mut self, outcome: &mut Outcome) {
        outcome.queues_deleted.sort_by_key(|queue| queue.id);
        outcome.queues_changed.sort_by_key(|change| change.after.id);
        for queue in &outcome.queues_created {
            self.queues_by_id.insert(queue.id, queue.clone());
            if let Some(owner) = queue.exclusive_owner {
                self.queues_by_owner
                    .entry(owner)
                    .or_default()
                    .push(queue.id);
            }
        }
        for change in &outcome.queues_changed {
            self.queues_by_id
                .insert(change.after.id, change.after.clone());
        }
        for queue in &outcome.queues_deleted {
            self.queues_by_id.remove(&queue.id);
            self.forget_owned(queue);
        }
        if outcome.may_change_routes() {
            self.version += 1;
        }
        if outcome.access_changed {
            self.access_version += 1;
        }
    }

    fn forget_owned(&mut self, queue: &QueueInfo) {
        let Some(owner) = queue.exclusive_owner else {
            return;
        };
        if let Some(owned) = self.queues_by_owner.get_mut(&owner) {
            owned.retain(|id| *id != queue.id);
            if owned.is_empty() {
                self.queues_by_owner.remove(&owner);
            }
        }
    }

    /// Checks the invariants of this module.
    ///
    /// # Panics
    /// When one does not hold. For tests and simulation.
    #[doc(hidden)]
    pub fn check_invariants(&self) {
        let mut queues = 0;
        for (name, vhost) in &self.vhosts {
            assert_eq!(name, &vhost.name);
            queues += vhost.queues.len();
            let mut bindings = 0;
            for entry in vhost.exchanges.iter() {
                bindings += entry.bindings.len();
                for ById(binding) in &entry.bindings {
                    assert_eq!(binding.id.source, entry.info.name);
                    let incoming = vhost.incoming.get(&binding.id.destination);
                    let known = |all: &Vec<_>| all.iter().any(|b| Arc::ptr_eq(b, binding));
                    assert!(
                        incoming.is_some_and(known),
                        "{binding:?} is known at one end"
                    );
                    assert!(
                        vhost.target(&binding.id.destination).is_some(),
                        "{binding:?} leads nowhere"
                    );
                }
            }
            let incoming: usize = vhost.incoming.values().map(Vec::len).sum();
            assert_eq!(bindings, incoming);
            for queue in vhost.queues.iter() {
                let by_id = self.queues_by_id.get(&queue.id);
                assert!(
                    by_id.is_some_and(|other| Arc::ptr_eq(other, queue)),
                    "{queue:?}"
                );
                if let Some(owner) = queue.exclusive_owner {
                    assert!(
                        self.queues_by_owner[&owner].contains(&queue.id),
                        "{queue:?}"
                    );
                }
            }
        }
        assert_eq!(queues, self.queues_by_id.len());
        let owned: usize = self.queues_by_owner.values().map(Vec::len).sum();
        assert_eq!(
            owned,
            self.queues_by_id
                .values()
                .filter(|q| q.is_exclusive())
                .count()
        );
    }
}
