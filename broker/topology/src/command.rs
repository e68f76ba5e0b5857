//! The commands of the metadata machine and their encoding.
//!
//! A command is complete: time, random values and placement are in it, so that
//! every node that applies it comes to the same state. It is JSON with a
//! version: `{"v":1,"command":{"DeclareQueue":{...}}}`. Fields that a reader
//! does not know are passed over, fields that are missing have their defaults,
//! so a field can be added without a new version.

use leveret_protocol::FieldTable;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::access::PasswordHash;
use crate::model::{Arguments, Binding, BindingId, Destination, Key, Name, OwnerId, QueueId};
use crate::policy::ApplyTo;

/// The version that [`Command::encode`] writes and the newest that
/// [`Command::decode`] reads.
pub const COMMAND_VERSION: u32 = 1;

/// A change of the metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// exchange.declare, not passive.
    DeclareExchange(DeclareExchange),
    /// exchange.delete.
    DeleteExchange(DeleteExchange),
    /// queue.bind and exchange.bind.
    Bind(ChangeBinding),
    /// queue.unbind and exchange.unbind.
    Unbind(ChangeBinding),
    /// queue.declare, not passive.
    DeclareQueue(DeclareQueue),
    /// queue.delete, auto-delete and expiry.
    DeleteQueue(DeleteQueue),
    /// Moves a queue to another group.
    PlaceQueue(PlaceQueue),
    /// A connection is gone: its exclusive queues go.
    CloseConnection(CloseConnection),
    /// Creates a vhost, or changes its description and tags.
    PutVhost(PutVhost),
    /// Deletes a vhost with all that is in it.
    DeleteVhost(DeleteVhost),
    /// Replaces the limits of a vhost.
    SetVhostLimits(SetVhostLimits),
    /// Creates a user, or replaces its password and tags.
    PutUser(PutUser),
    /// Deletes a user with its permissions.
    DeleteUser(DeleteUser),
    /// Replaces the limits of a user.
    SetUserLimits(SetUserLimits),
    /// Sets what a user may do in a vhost.
    SetPermissions(SetPermissions),
    /// Takes it away.
    ClearPermissions(ClearPermissions),
    /// Sets what a user may do with a topic exchange's keys.
    SetTopicPermissions(SetTopicPermissions),
    /// Takes it away, of one exchange or of all in the vhost.
    ClearTopicPermissions(ClearTopicPermissions),
    /// Creates or replaces a policy or operator policy.
    SetPolicy(SetPolicy),
    /// Deletes a policy or operator policy.
    DeletePolicy(DeletePolicy),
    /// Sets a runtime parameter.
    SetParameter(SetParameter),
    /// Deletes a runtime parameter.
    ClearParameter(ClearParameter),
    /// Sets a global parameter, such as `cluster_name`.
    SetGlobalParameter(SetGlobalParameter),
    /// Deletes a global parameter.
    ClearGlobalParameter(ClearGlobalParameter),
    /// A node of the cluster has started.
    NodeUp(NodeUp),
    /// A node's process is gone: the exclusive queues of its connections go.
    NodeDown(NodeDown),
    /// A node is let into the cluster.
    AdmitNode(AdmitNode),
    /// All groups have it as a voter.
    NodeJoined(ChangeNode),
    /// A node is to leave the cluster.
    ForgetNode(ChangeNode),
    /// No group has it any more: its id and its disk never come back.
    NodeRemoved(ChangeNode),
    /// A node is drained, or serves again.
    SetMaintenance(SetMaintenance),
    /// A group of which a majority has lost the log is formed anew, empty.
    FormGroup(FormGroup),
}

impl Command {
    /// Whether it may change which nodes there are, or what is known of one.
    pub fn is_about_nodes(&self) -> bool {
        matches!(
            self,
            Command::NodeUp(_)
                | Command::NodeDown(_)
                | Command::AdmitNode(_)
                | Command::NodeJoined(_)
                | Command::ForgetNode(_)
                | Command::NodeRemoved(_)
                | Command::SetMaintenance(_)
                | Command::FormGroup(_)
        )
    }
}

/// See [`Command::DeclareExchange`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclareExchange {
    /// The vhost.
    pub vhost: Name,
    /// The name, without line ends.
    pub name: Name,
    /// The name of the type, as it came.
    #[serde(rename = "type")]
    pub kind: Name,
    /// Whether it survives a restart.
    #[serde(default)]
    pub durable: bool,
    /// Whether it goes with its last binding.
    #[serde(default)]
    pub auto_delete: bool,
    /// Whether only exchanges publish to it.
    #[serde(default)]
    pub internal: bool,
    /// The arguments.
    #[serde(default)]
    pub arguments: Arguments,
    /// Who declares it.
    #[serde(default)]
    pub user: Option<Name>,
    /// Take an exchange of this name as it is (import of definitions).
    #[serde(default)]
    pub keep_existing: bool,
}

/// See [`Command::DeleteExchange`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeleteExchange {
    /// The vhost.
    pub vhost: Name,
    /// The name.
    pub name: Name,
    /// Only when nothing is bound to it.
    #[serde(default)]
    pub if_unused: bool,
}

/// See [`Command::Bind`] and [`Command::Unbind`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeBinding {
    /// The vhost.
    pub vhost: Name,
    /// Name of the exchange.
    pub source: Name,
    /// Where its messages are to go.
    pub destination: Destination,
    /// The routing key.
    #[serde(default)]
    pub routing_key: Key,
    /// The arguments, in any order.
    #[serde(default)]
    pub arguments: Arguments,
    /// The connection that asks: an exclusive queue is its owner's to bind.
    #[serde(default)]
    pub connection: Option<OwnerId>,
}

impl ChangeBinding {
    /// The identity of the binding: as given, with the arguments sorted.
    pub fn id(&self) -> BindingId {
        BindingId {
            source: self.source.clone(),
            destination: self.destination.clone(),
            routing_key: self.routing_key.clone(),
            arguments: self.arguments.clone().sorted(),
        }
    }
}

impl From<(&Name, &Binding)> for ChangeBinding {
    fn from((vhost, binding): (&Name, &Binding)) -> Self {
        let BindingId {
            source,
            destination,
            routing_key,
            arguments,
        } = binding.id.clone();
        let vhost = vhost.clone();
        ChangeBinding {
            vhost,
            source,
            destination,
            routing_key,
            arguments,
            connection: None,
        }
    }
}

/// Where a new queue is to be put, by what it turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Placement {
    /// The group of a queue that is not mirrored.
    pub local: u32,
    /// The group of a mirrored queue.
    pub mirrored: u32,
}

/// See [`Command::DeclareQueue`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeclareQueue {
    /// The vhost.
    pub vhost: Name,
    /// The name, without line ends; never empty.
    pub name: Name,
    /// Whether the caller made the name up (`amq.gen-...`).
    #[serde(default)]
    pub server_named: bool,
    /// As in queue.declare; an exclusive queue is not durable all the same.
    #[serde(default)]
    pub durable: bool,
    /// Whether it goes with its last consumer.
    #[serde(default)]
    pub auto_delete: bool,
    /// The connection it is exclusive to.
    #[serde(default)]
    pub exclusive_owner: Option<OwnerId>,
    /// The arguments.
    #[serde(default)]
    pub arguments: Arguments,
    /// Where to put it.
    #[serde(default)]
    pub placement: Placement,
    /// Who declares it.
    #[serde(default)]
    pub user: Option<Name>,
    /// Take a queue of this name as it is (import of definitions).
    #[serde(default)]
    pub keep_existing: bool,
}

/// See [`Command::DeleteQueue`]. Whether the queue is in use or empty is known
/// to the queue machine: the caller asks it first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeleteQueue {
    /// The vhost.
    pub vhost: Name,
    /// The name.
    pub name: Name,
    /// Only this queue: one of the same name that came after it stays.
    #[serde(default)]
    pub id: Option<QueueId>,
}

/// See [`Command::PlaceQueue`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlaceQueue {
    /// The queue; one that is gone is no error.
    pub id: QueueId,
    /// The group it belongs to from now on.
    pub group: u32,
}

/// See [`Command::CloseConnection`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloseConnection {
    /// The connection.
    pub connection: OwnerId,
}

/// See [`Command::PutVhost`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutVhost {
    /// The name.
    pub name: Name,
    /// What it is for.
    #[serde(default)]
    pub description: String,
    /// Its tags.
    #[serde(default)]
    pub tags: Vec<Name>,
    /// The type of queues that are declared without one: `classic`, `quorum` or
    /// `stream`. It is set when the vhost is created; an empty one never
    /// replaces one that is set.
    #[serde(default)]
    pub default_queue_type: Option<Name>,
    /// Turns the firehose tracer on or off.
    #[serde(default)]
    pub tracing: Option<bool>,
    /// A user who gets every permission in it when it is new.
    #[serde(default)]
    pub user: Option<Name>,
}

/// See [`Command::DeleteVhost`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeleteVhost {
    /// The name.
    pub name: Name,
}

/// See [`Command::SetVhostLimits`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetVhostLimits {
    /// The vhost.
    pub vhost: Name,
    /// `max-connections` and `max-queues`; negative for no limit. Both absent
    /// takes the limits away.
    pub limits: Map<String, Value>,
}

/// See [`Command::PutUser`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PutUser {
    /// The name.
    pub name: Name,
    /// The hash of the password. None keeps the one there is; a new user then
    /// cannot log in by password.
    #[serde(default)]
    pub password: Option<PasswordHash>,
    /// Tags, such as `administrator`. None keeps the ones there are.
    #[serde(default)]
    pub tags: Option<Vec<Name>>,
    /// Refuse when the user is there already.
    #[serde(default)]
    pub must_be_new: bool,
    /// Refuse when the user is not there yet.
    #[serde(default)]
    pub must_exist: bool,
}

/// See [`Command::DeleteUser`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeleteUser {
    /// The name.
    pub name: Name,
}

/// See [`Command::SetUserLimits`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetUserLimits {
    /// The user.
    pub user: Name,
    /// `max-connections` and `max-channels`; negative for no limit.
    pub limits: Map<String, Value>,
}

/// See [`Command::SetPermissions`]. Regular expressions, not anchored; the
/// empty one matches the empty name alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetPermissions {
    /// The user.
    pub user: Name,
    /// The vhost.
    pub vhost: Name,
    /// What the user may declare and delete.
    pub configure: String,
    /// What the user may publish and bind to.
    pub write: String,
    /// What the user may consume and bind from.
    pub read: String,
}

/// See [`Command::ClearPermissions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClearPermissions {
    /// The user.
    pub user: Name,
    /// The vhost.
    pub vhost: Name,
}

/// See [`Command::SetTopicPermissions`]. Regular expressions in which
/// `{username}`, `{vhost}` and `{client_id}` stand for their values.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetTopicPermissions {
    /// The user.
    pub user: Name,
    /// The vhost.
    pub vhost: Name,
    /// The exchange; it need not exist.
    pub exchange: Name,
    /// Routing keys the user may publish with.
    pub write: String,
    /// Binding keys the user may bind with.
    pub read: String,
}

/// See [`Command::ClearTopicPermissions`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClearTopicPermissions {
    /// The user.
    pub user: Name,
    /// The vhost.
    pub vhost: Name,
    /// The exchange; None for all of them.
    #[serde(default)]
    pub exchange: Option<Name>,
}

/// See [`Command::SetPolicy`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetPolicy {
    /// The vhost.
    pub vhost: Name,
    /// The name.
    pub name: Name,
    /// Whether it is an operator policy.
    #[serde(default)]
    pub operator: bool,
    /// A regular expression for the names it applies to.
    pub pattern: String,
    /// The settings.
    pub definition: Map<String, Value>,
    /// Of several policies that match, the one with the highest applies.
    #[serde(default)]
    pub priority: i64,
    /// What it applies to.
    #[serde(default, rename = "apply-to")]
    pub apply_to: ApplyTo,
}

/// See [`Command::DeletePolicy`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeletePolicy {
    /// The vhost.
    pub vhost: Name,
    /// The name.
    pub name: Name,
    /// Whether it is an operator policy.
    #[serde(default)]
    pub operator: bool,
}

/// See [`Command::SetParameter`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetParameter {
    /// The vhost.
    pub vhost: Name,
    /// What the parameter is of: `shovel`, `federation-upstream`, ...
    pub component: Name,
    /// The name.
    pub name: Name,
    /// The value.
    pub value: Value,
}

/// See [`Command::ClearParameter`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClearParameter {
    /// The vhost.
    pub vhost: Name,
    /// What the parameter is of.
    pub component: Name,
    /// The name.
    pub name: Name,
}

/// See [`Command::SetGlobalParameter`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetGlobalParameter {
    /// The name.
    pub name: Name,
    /// The value.
    pub value: Value,
}

/// See [`Command::ClearGlobalParameter`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClearGlobalParameter {
    /// The name.
    pub name: Name,
}

/// See [`Command::NodeUp`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeUp {
    /// Its id in the cluster.
    pub node: u64,
    /// Its name, `name@host`.
    pub name: Name,
    /// Which life of its process, 48 bits.
    pub incarnation: u64,
    /// Which disk; zero if it does not say.
    #[serde(default)]
    pub disk: u64,
    /// Where the others reach it, `name@host:port`; empty if it does not say.
    #[serde(default)]
    pub address: Name,
    /// The epoch of its logs that do not wait for the disk.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u16,
}

fn is_zero(epoch: &u16) -> bool {
    *epoch == 0
}

/// See [`Command::FormGroup`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FormGroup {
    /// The group.
    pub group: u32,
    /// Its next generation. Another one than the next changes nothing: it was formed meanwhile.
    pub generation: u32,
    /// Who votes in it at first, by member.
    pub members: Vec<u64>,
}

/// See [`Command::NodeDown`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDown {
    /// Its id in the cluster.
    pub node: u64,
    /// The life that is over.
    pub incarnation: u64,
}

/// See [`Command::AdmitNode`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AdmitNode {
    /// Its id: larger than any that was given before.
    pub node: u64,
    /// Its name, `name@host`, which no member has.
    pub name: Name,
    /// Where the others reach it, `name@host:port`.
    pub address: Name,
    /// Which disk.
    pub disk: u64,
}

/// What happens to a node; see [`Command::NodeJoined`], [`Command::ForgetNode`], [`Command::NodeRemoved`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChangeNode {
    /// Its id.
    pub node: u64,
}

/// See [`Command::SetMaintenance`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SetMaintenance {
    /// Its id.
    pub node: u64,
    /// Whether it is drained.
    pub on: bool,
}

/// An encoded command that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// It is not the JSON of a command.
    #[error("not a metadata command: {0}")]
    Json(#[from] serde_json::Error),
    /// A newer program wrote it.
    #[error("metadata command of version {0}, newer than {COMMAND_VERSION}")]
    Version(u32),
}

#[derive(Serialize)]
struct EnvelopeRef<'a> {
    v: u32,
    command: &'a Command,
}

#[derive(Deserialize)]
struct Version {
    v: u32,
}

#[derive(Deserialize)]
struct Envelope {
    command: Command,
}

impl Command {
    /// The command as octets, for the journal and the mirrors.
    pub fn encode(&self) -> Vec<u8> {
        let envelope = EnvelopeRef {
            v: COMMAND_VERSION,
            command: self,
        };
        // The types have string keys only and no serializer of their own that fails.
        serde_json::to_vec(&envelope).unwrap_or_default()
    }

    /// The command that [`Command::encode`] made these octets of.
    ///
    /// # Errors
    /// When they are of a newer version, or no command.
    pub fn decode(octets: &[u8]) -> Result<Command, DecodeError> {
        let Version { v } = serde_json::from_slice(octets)?;
        if v > COMMAND_VERSION {
            return Err(DecodeError::Version(v));
        }
        let Envelope { command } = serde_json::from_slice(octets)?;
        Ok(command)
    }
}

impl DeclareQueue {
    /// A classic, non-durable declaration of this name; the caller sets the rest.
    pub fn new(vhost: &str, name: &str) -> DeclareQueue {
        DeclareQueue {
            vhost: Name::from(vhost),
            name: Name::from(name),
            server_named: false,
            durable: false,
            auto_delete: false,
            exclusive_owner: None,
            arguments: Arguments::from(FieldTable::new()),
            placement: Placement::default(),
            user: None,
            keep_existing: false,
        }
    }
}

impl DeclareExchange {
    /// A non-durable declaration of this name and type; the caller sets the rest.
    pub fn new(vhost: &str, name: &str, kind: &str) -> DeclareExchange {
        DeclareExchange {
            vhost: Name::from(vhost),
            name: Name::from(name),
            kind: Name::from(kind),
            durable: false,
            auto_delete: false,
            internal: false,
            arguments: Arguments::new(),
            user: None,
            keep_existing: false,
        }
    }
}
