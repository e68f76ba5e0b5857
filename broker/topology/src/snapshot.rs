//! The whole state as octets and back: what a checkpoint and a new mirror get.
//!
//! JSON of version 1. Lists are in the order of names, queues in that of their
//! ids and bindings in that of their creation, so equal states have equal
//! octets. What follows from the rest is not in it: routing tables, and what
//! policies make of queues and exchanges.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::access::{TopicPermissions, User, UserPermissions};
use crate::limits::VhostLimits;
use crate::model::{
    Arguments, Binding, Destination, ExchangeInfo, ExchangeType, ForgottenNode, Formed, Name,
    NodeInfo, OwnerId, QueueId, QueueInfo, QueueType,
};
use crate::outcome::Outcome;
use crate::policy::Policy;
use crate::state::{Topology, VHost};

/// The version that is written and the newest that is read.
const VERSION: u32 = 1;

/// Octets that are no snapshot, or one that contradicts itself.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It is not the JSON of a snapshot.
    #[error("not a metadata snapshot: {0}")]
    Json(#[from] serde_json::Error),
    /// A newer program wrote it.
    #[error("metadata snapshot of version {0}, newer than {VERSION}")]
    Version(u32),
    /// Something is in it twice, or refers to what is not there.
    #[error("metadata snapshot: {0}")]
    Contradiction(String),
}

#[derive(Serialize, Deserialize)]
struct Snapshot {
    version: u32,
    vhosts: Vec<VhostRecord>,
    users: Vec<User>,
    global_parameters: BTreeMap<Name, Value>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<NodeInfo>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    forgotten: Vec<ForgottenNode>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    formed: BTreeMap<u32, Formed>,
}

#[derive(Serialize, Deserialize)]
struct VhostRecord {
    name: Name,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<Name>,
    #[serde(default)]
    default_queue_type: Option<QueueType>,
    #[serde(default)]
    tracing: bool,
    #[serde(default)]
    limits: VhostLimits,
    #[serde(default)]
    permissions: BTreeMap<Name, UserPermissions>,
    #[serde(default)]
    topic_permissions: Vec<((Name, Name), TopicPermissions)>,
    #[serde(default)]
    policies: Vec<Policy>,
    #[serde(default)]
    operator_policies: Vec<Policy>,
    #[serde(default)]
    parameters: Vec<((Name, Name), Value)>,
    exchanges: Vec<ExchangeRecord>,
    queues: Vec<QueueRecord>,
    bindings: Vec<Binding>,
}

#[derive(Serialize, Deserialize)]
struct ExchangeRecord {
    name: Name,
    #[serde(rename = "type")]
    kind: ExchangeType,
    durable: bool,
    auto_delete: bool,
    internal: bool,
    #[serde(default)]
    arguments: Arguments,
    #[serde(default)]
    declared_by: Option<Name>,
}

#[derive(Serialize, Deserialize)]
struct QueueRecord {
    id: QueueId,
    name: Name,
    #[serde(rename = "type")]
    kind: QueueType,
    durable: bool,
    auto_delete: bool,
    #[serde(default)]
    exclusive_owner: Option<OwnerId>,
    group: u32,
    #[serde(default)]
    arguments: Arguments,
    #[serde(default)]
    declared_by: Option<Name>,
}

impl Topology {
    /// The whole state. States that the same commands made have the same
    /// octets.
    pub fn snapshot(&self) -> Vec<u8> {
        let snapshot = Snapshot {
            version: VERSION,
            vhosts: self.vhosts.values().map(VhostRecord::from).collect(),
            users: self.users.values().cloned().collect(),
            global_parameters: self.global_parameters.clone(),
            nodes: self.nodes.values().cloned().collect(),
            forgotten: self.forgotten.values().cloned().collect(),
            formed: self.formed.clone(),
        };
        // The types have string keys only and no serializer of their own that fails.
        serde_json::to_vec(&snapshot).unwrap_or_default()
    }

    /// The state that a snapshot was made of.
    ///
    /// # Errors
    /// When it is of a newer version, damaged, or contradicts itself.
    pub fn restore(snapshot: &[u8]) -> Result<Topology, SnapshotError> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        let Version { version } = serde_json::from_slice(snapshot)?;
        if version > VERSION {
            return Err(SnapshotError::Version(version));
        }
        let snapshot: Snapshot = serde_json::from_slice(snapshot)?;
        let mut topology = Topology::new();
        for user in snapshot.users {
            topology.users.insert(user.name.clone(), user);
        }
        topology.global_parameters = snapshot.global_parameters;
        let nodes = snapshot.nodes.into_iter();
        topology.nodes = nodes.map(|node| (node.id, node)).collect();
        let forgotten = snapshot.forgotten.into_iter();
        topology.forgotten = forgotten.map(|node| (node.id, node)).collect();
        topology.formed = snapshot.formed;
        for record in snapshot.vhosts {
            let mut outcome = Outcome::default();
            let vhost = record.restore(&mut outcome)?;
            for queue in &outcome.queues_created {
                if topology.queues_by_id.contains_key(&queue.id) {
                    return Err(contradiction(format!("two queues of id {}", queue.id)));
                }
            }
            topology.note(&mut outcome);
            let name = vhost.name.clone();
            if topology.vhosts.insert(name.clone(), vhost).is_some() {
                return Err(contradiction(format!("two vhosts '{name}'")));
            }
        }
        Ok(topology)
    }

    /// As [`Topology::restore`], without what does not survive a restart.
    ///
    /// # Errors
    /// As [`Topology::restore`].
    pub fn restore_durable(snapshot: &[u8]) -> Result<Topology, SnapshotError> {
        let mut topology = Topology::restore(snapshot)?;
        topology.drop_transient();
        Ok(topology)
    }
}

fn contradiction(text: String) -> SnapshotError {
    SnapshotError::Contradiction(text)
}

impl From<&VHost> for VhostRecord {
    fn from(vhost: &VHost) -> Self {
        let mut queues: Vec<_> = vhost
            .queues
            .iter()
            .map(|queue| QueueRecord::from(&**queue))
            .collect();
        queues.sort_unstable_by_key(|queue| queue.id);
        let pairs = |map: &BTreeMap<(Name, Name), Value>| {
            map.iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect()
        };
        VhostRecord {
            name: vhost.name.clone(),
            description: vhost.description.clone(),
            tags: vhost.tags.clone(),
            default_queue_type: vhost.default_queue_type,
            tracing: vhost.tracing,
            limits: vhost.limits,
            permissions: vhost.permissions.clone(),
            topic_permissions: vhost
                .topic_permissions
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
            policies: vhost.policies.values().cloned().collect(),
            operator_policies: vhost.operator_policies.values().cloned().collect(),
            parameters: pairs(&vhost.parameters),
            exchanges: vhost
                .exchanges()
                .iter()
                .map(|info| ExchangeRecord::from(&**info))
                .collect(),
            queues,
            bindings: vhost
                .bindings()
                .iter()
                .map(|binding| Binding::clone(binding))
                .collect(),
        }
    }
}

impl From<&ExchangeInfo> for ExchangeRecord {
    fn from(info: &ExchangeInfo) -> Self {
        ExchangeRecord {
            name: info.name.clone(),
            kind: info.kind,
            durable: info.durable,
            auto_delete: info.auto_delete,
            internal: info.internal,
            arguments: info.arguments.clone(),
            declared_by: info.declared_by.clone(),
        }
    }
}

impl From<&QueueInfo> for QueueRecord {
    fn from(info: &QueueInfo) -> Self {
        QueueRecord {
            id: info.id,
            name: info.name.clone(),
            kind: info.kind,
            durable: info.durable,
            auto_delete: info.auto_delete,
            exclusive_owner: info.exclusive_owner,
            group: info.group,
            arguments: info.arguments.clone(),
            declared_by: info.declared_by.clone(),
        }
    }
}

impl VhostRecord {
    fn restore(self, outcome: &mut Outcome) -> Result<VHost, SnapshotError> {
        let by_name = |policies: Vec<Policy>| {
            policies
                .into_iter()
                .map(|policy| (policy.name.clone(), policy))
                .collect()
        };
        let mut vhost = VHost {
            description: self.description,
            tags: self.tags,
            default_queue_type: self.default_queue_type,
            tracing: self.tracing,
            limits: self.limits,
            permissions: self.permissions,
            topic_permissions: self.topic_permissions.into_iter().collect(),
            policies: by_name(self.policies),
            operator_policies: by_name(self.operator_policies),
            parameters: self.parameters.into_iter().collect(),
            ..VHost::new(self.name)
        };
        for record in self.exchanges {
            if vhost.exchanges.slot(&record.name).is_some() {
                return Err(contradiction(format!("two exchanges '{}'", record.name)));
            }
            let info = record.restore(&vhost);
            vhost.insert_exchange(Arc::new(info), outcome);
        }
        for record in self.queues {
            if vhost.queues.slot(&record.name).is_some() {
                return Err(contradiction(format!("two queues '{}'", record.name)));
            }
            let info = record.restore(&mut vhost);
            vhost.insert_queue(Arc::new(info), outcome);
        }
        for binding in self.bindings {
            restore_binding(&mut vhost, binding, outcome)?;
        }
        Ok(vhost)
    }
}

fn restore_binding(
    vhost: &mut VHost,
    binding: Binding,
    outcome: &mut Outcome,
) -> Result<(), SnapshotError> {
    let id = &binding.id;
    let destination_exists = match &id.destination {
        Destination::Queue(name) => vhost.queues.slot(name).is_some(),
        Destination::Exchange(name) => vhost.exchanges.slot(name).is_some(),
    };
    if !destination_exists || vhost.exchanges.slot(&id.source).is_none() {
        return Err(contradiction(format!(
            "a binding of what is not there: {id:?}"
        )));
    }
    if vhost.binding(id).is_some() {
        return Err(contradiction(format!("two bindings {id:?}")));
    }
    let id = vhost.with_own_names(binding.id);
    vhost.insert_binding(Arc::new(Binding { id, ..binding }), outcome);
    Ok(())
}

impl ExchangeRecord {
    fn restore(self, vhost: &VHost) -> ExchangeInfo {
        let info = ExchangeInfo {
            vhost: vhost.name.clone(),
            name: self.name,
            kind: self.kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments,
            declared_by: self.declared_by,
            policy: None,
            operator_policy: None,
            alternate_exchange: None,
        };
        vhost.exchange_with_policies(&info)
    }
}

impl QueueRecord {
    fn restore(self, vhost: &mut VHost) -> QueueInfo {
        let info = QueueInfo {
            id: self.id,
            vhost: vhost.name.clone(),
            name: self.name,
            kind: self.kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            exclusive_owner: self.exclusive_owner,
            mirrored: false,
            group: self.group,
            arguments: self.arguments,
            declared_by: self.declared_by,
            policy: None,
            operator_policy: None,
            settings: vhost.recent_settings.clone(),
        };
        vhost.with_policies(&info)
    }
}
