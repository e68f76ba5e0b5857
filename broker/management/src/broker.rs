//! What the API wants of the broker.

use std::net::SocketAddr;

use leveret_topology::{Command, OwnerId, QueueInfo, Refusal, Topology};
use parking_lot::RwLockReadGuard;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::DuplexStream;

use crate::stats::{Churn, MessageStats};

/// Whose things are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Those of the node that answers.
    Here,
    /// Those of all nodes of its cluster that answer.
    Everywhere,
}

/// The broker, as the API sees it. Every method but [`Broker::dial`] may block, and is called on a blocking thread.
pub trait Broker: Send + Sync + 'static {
    /// The name of the node that answers.
    fn node_name(&self) -> &str;
    /// The cluster's name.
    fn cluster_name(&self) -> String;
    /// The names of all nodes of the cluster, this one among them.
    fn member_names(&self) -> Vec<String>;
    /// Milliseconds since 1970.
    fn now_ms(&self) -> u64;
    /// The metadata.
    fn topology(&self) -> RwLockReadGuard<'_, Topology>;
    /// Applies a command, and returns when it is durable.
    ///
    /// # Errors
    /// The refusal; nothing has changed.
    fn propose(&self, command: Command) -> Result<(), Refusal>;
    /// Imports definitions, whole or into one virtual host; `user` gets all permissions in new virtual hosts.
    ///
    /// # Errors
    /// The first object that is malformed or refused; those before it are imported.
    fn import(&self, file: &[u8], vhost: Option<&str>, user: &str) -> Result<(), String>;
    /// A salt that nobody can foresee.
    fn salt(&self) -> [u8; 4];
    /// Users that may only come from a loopback address.
    fn loopback_users(&self) -> &[String];
    /// The node that answers. Asks nobody else.
    fn node(&self) -> NodeReport;
    /// The nodes of the cluster; those that do not answer have nothing but their names.
    fn nodes(&self) -> Vec<NodeReport>;
    /// Numbers of queues by their ids: of those that a node leads. Those whose leader does not answer are missing.
    fn queues(&self, reach: Reach) -> FxHashMap<u64, QueueReport>;
    /// Where a queue is.
    fn place(&self, queue: &QueueInfo) -> Place;
    /// Called every five seconds: what is needed for rates of connections is looked at.
    fn sample(&self);
    /// Open connections.
    fn connections(&self, reach: Reach) -> Vec<ConnectionReport>;
    /// Open channels, with their consumers.
    fn channels(&self, reach: Reach) -> Vec<ChannelReport>;
    /// Closes a connection of whichever node, 320 CONNECTION_FORCED with this text.
    fn close_connection(&self, id: OwnerId, reason: &str);
    /// A connection to this node's AMQP, without a socket, as if from this address. Does not block.
    fn dial(&self, peer: SocketAddr) -> DuplexStream;
    /// RabbitMQ's feature flags, all of them on: names and what they stand for.
    fn feature_flags(&self) -> &'static [(&'static str, &'static str)];
    /// Certificates that listeners show: port, file, and when it ends in milliseconds since 1970; `None` if it cannot be read.
    fn certificate_ends(&self) -> Vec<(u16, String, Option<u64>)>;
}

/// Where a queue is.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The node that leads it; none is known during an election.
    pub leader: Option<String>,
    /// The nodes that hold it.
    pub members: Vec<String>,
    /// Of these, the ones that are up.
    pub online: Vec<String>,
}

/// The numbers of a queue.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct QueueReport {
    /// Its id.
    pub id: u64,
    /// Messages that wait.
    pub ready: u64,
    /// Messages delivered and not acknowledged.
    pub unacked: u64,
    /// Bytes of the bodies that wait.
    pub ready_bytes: u64,
    /// Bytes of the bodies that are not acknowledged.
    pub unacked_bytes: u64,
    /// Messages whose bodies are in memory.
    pub hot: u64,
    /// Consumers.
    pub consumers: u32,
    /// When it was last used, milliseconds since 1970; `None` while it has consumers.
    pub idle_since_ms: Option<u64>,
    /// What happened to its messages.
    pub stats: MessageStats,
    /// Messages that expired.
    pub expired: u64,
    /// Messages that were dropped for a length limit.
    pub dropped: u64,
}

/// A connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectionReport {
    /// Its identity.
    pub id: OwnerId,
    /// The node that has it.
    pub node: String,
    /// `peer -> local`.
    pub name: String,
    /// The user.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// The client's address.
    pub peer: SocketAddr,
    /// The node's address.
    pub local: SocketAddr,
    /// TLS is spoken.
    pub tls: bool,
    /// The name that the client gave it.
    pub client_name: Option<String>,
    /// What the client said of itself.
    pub client_properties: Value,
    /// How the user was authenticated.
    pub auth_mechanism: String,
    /// An alarm keeps it from publishing.
    pub blocked: bool,
    /// Bytes from the client, and reads that brought them.
    pub received: (u64, u64),
    /// Bytes to the client, and writes that took them.
    pub sent: (u64, u64),
    /// Bytes a second from the client and to it, of the last few seconds.
    pub rates: (f64, f64),
    /// Most channels; 0 means no limit.
    pub channel_max: u16,
    /// Largest frame in bytes.
    pub frame_max: u32,
    /// Seconds between heartbeats; 0 means none.
    pub heartbeat_s: u16,
    /// Open channels.
    pub channels: usize,
    /// When it was opened, milliseconds since 1970.
    pub connected_at_ms: u64,
}

/// A channel.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChannelReport {
    /// Its number.
    pub number: u16,
    /// Its connection's name.
    pub connection: String,
    /// The node that has it.
    pub node: String,
    /// The user.
    pub user: String,
    /// The virtual host.
    pub vhost: String,
    /// The client's address.
    pub peer: SocketAddr,
    /// It is in confirm mode.
    pub confirm: bool,
    /// It is in transaction mode.
    pub transactional: bool,
    /// Unacknowledged messages that a consumer to come may have; 0 means unlimited.
    pub prefetch_count: u32,
    /// Unacknowledged messages that all consumers together may have; 0 means unlimited.
    pub global_prefetch_count: u32,
    /// Deliveries that are not acknowledged.
    pub unacknowledged: u64,
    /// Its consumers.
    pub consumers: Vec<ConsumerReport>,
}

/// A consumer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConsumerReport {
    /// Its tag.
    pub tag: String,
    /// The id of its queue.
    pub queue_id: u64,
    /// The name of its queue.
    pub queue: String,
    /// Deliveries are to be acknowledged.
    pub ack_required: bool,
    /// Unacknowledged messages at most; 0 means unlimited.
    pub prefetch_count: u32,
    /// It refuses any other.
    pub exclusive: bool,
    /// It gets deliveries.
    pub active: bool,
    /// `x-priority`.
    pub priority: i32,
}

/// An address that a node listens on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListenerReport {
    /// The address.
    pub address: SocketAddr,
    /// RabbitMQ's word for what is spoken: `amqp`, `amqp/ssl`, `http`, `https`, `http/prometheus`, `https/prometheus`, `clustering`.
    pub protocol: String,
}

/// Alarms of a node.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct AlarmReport {
    /// Memory is above the watermark.
    pub memory: bool,
    /// Free disk space is below the limit.
    pub disk: bool,
    /// It hears no majority of its cluster.
    pub minority: bool,
}

/// A Raft group, as one of its members sees it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct GroupReport {
    /// Its number; 0 is the metadata.
    pub group: u32,
    /// The node that leads it, if one is known.
    pub leader: Option<String>,
    /// This member leads it.
    pub leads: bool,
    /// The term.
    pub term: u64,
    /// The last entry of its log.
    pub last_log_index: u64,
    /// Committed up to this entry.
    pub commit_index: u64,
    /// Applied up to this entry.
    pub applied_index: u64,
    /// The entry that the last snapshot ends with.
    pub snapshot_index: u64,
    /// Microseconds that an entry took to be committed, lately: a mean that forgets.
    pub commit_recent_us: u64,
    /// Of the leader: by how many entries each other member is behind.
    pub lags: Vec<(String, u64)>,
    /// Members that a majority needs beyond those that are up; 0 if the loss of one more would stop it.
    pub spare: usize,
}

/// Counts in buckets.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    /// Exclusive upper bounds and how many values fell below each (and not below the one before); the last bound may be infinite.
    pub buckets: Vec<(f64, u64)>,
    /// The sum of the values.
    pub sum: f64,
}

/// A node.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// It runs and answers.
    pub running: bool,
    /// It was drained: it leads nothing and serves no clients.
    pub maintenance: bool,
    /// Milliseconds since its start.
    pub uptime_ms: u64,
    /// The process id.
    pub os_pid: u32,
    /// Bytes of memory it uses.
    pub mem_used: u64,
    /// Bytes of memory at which publishers are blocked.
    pub mem_limit: u64,
    /// Bytes free on the disk of its data.
    pub disk_free: u64,
    /// Bytes of free disk below which publishers are blocked.
    pub disk_free_limit: u64,
    /// Open file descriptors.
    pub fd_used: u64,
    /// Most open file descriptors.
    pub fd_total: u64,
    /// Cores.
    pub processors: u64,
    /// Its alarms.
    pub alarms: AlarmReport,
    /// The folder of its data.
    pub db_dir: String,
    /// What it listens on.
    pub listeners: Vec<ListenerReport>,
    /// Open connections.
    pub connections: u64,
    /// Open channels.
    pub channels: u64,
    /// What happened to messages on it.
    pub stats: MessageStats,
    /// Publishes that reached a queue.
    pub routed: u64,
    /// Publishes on channels in confirm mode.
    pub received_confirm: u64,
    /// What came and went.
    pub churn: Churn,
    /// Changes of leaders of groups that it saw.
    pub failovers: u64,
    /// Seconds without a known leader at each of them. Not told to other nodes, as JSON has no infinity.
    #[serde(skip)]
    pub failover_pause_seconds: Histogram,
    /// Seconds from proposing an entry to having applied it, of groups that it leads. Not told either.
    #[serde(skip)]
    pub commit_seconds: Histogram,
    /// Raft groups, if it is one of a cluster.
    pub groups: Vec<GroupReport>,
    /// Seconds of the journal's syncs. Not told either.
    #[serde(skip)]
    pub journal_sync_seconds: Histogram,
    /// Records that the journal wrote together. Not told either.
    #[serde(skip)]
    pub journal_batch_records: Histogram,
    /// Bytes that the journal wrote.
    pub journal_written_bytes: u64,
    /// Write calls of the journal.
    pub journal_writes: u64,
}
