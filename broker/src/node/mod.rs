//! A node: the metadata, the queue groups, the store, and what runs beside them.
//!
//! Called by connections (publish, consume, declare, ...), by the timers and by the maintenance thread. Lock order: the metadata
//! lock, then the topology, then at most one group (a transaction: several, in ascending order), then an outbox. Nothing
//! that is done after a group's lock was released ([`After`]) happens under another one.

mod alarms;
mod attributes;
mod away;
mod connections;
mod counters;
mod dead_letter;
mod group;
mod maintenance;
mod metadata;
mod open;
mod queues;
mod reply_routes;
mod store;
mod transaction;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use leveret_cluster::{GroupId, LogStore};
use leveret_config::Config;
use leveret_queue::{EntryBuilder, Waiter};
use leveret_storage::{AppendError, Location};
use leveret_topology::Topology;
use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::mirror::Mirror;
use crate::mirror::session::Session;

pub use alarms::{Alarms, Limits};
pub use attributes::Attributes;
pub use away::{Away, Presence};
pub use connections::{ConnectionInfo, Connections, Traffic};
pub use counters::{Counters, Counts};
pub use group::{After, QueueGroup, Settle, SettleRange, Submitted, add_live};
pub use maintenance::{Maintenance, ProcessMemory, machine_memory_bytes, process_memory};
pub use metadata::Metadata;
pub use open::{Imported, StartError, StartReport};
pub use reply_routes::ReplyRoutes;
pub use store::{BodyStore, Relocate};
pub use transaction::{Committed, Transaction};

/// See the module.
pub struct Node {
    config: Config,
    clock: Clock,
    name: String,
    store: Arc<LogStore>,
    bodies: Arc<BodyStore>,
    metadata: Mutex<Metadata>,
    topology: RwLock<Topology>,
    version: AtomicU64,
    /// Added to the versions of the topology, so that one that was replaced as a whole has none of the old ones.
    version_epoch: AtomicU64,
    groups: Vec<Arc<QueueGroup>>,
    counters: Counters,
    reply_routes: ReplyRoutes,
    connections: Connections,
    alarms: Alarms,
    /// What this node has to do with others, if there are any.
    mirror: OnceLock<Arc<Mirror>>,
    /// Why it does not serve yet.
    waiting: Mutex<Option<String>>,
    /// Addresses that are listened on, and whether with TLS.
    listeners: Mutex<Vec<(SocketAddr, bool)>>,
    /// Addresses that HTTP is listened for on, and what is spoken there.
    http_listeners: Mutex<Vec<(SocketAddr, String)>>,
    away: Away,
    /// Rung when a group's next timer is earlier than it was.
    timer: Notify,
    /// Rung when the node must stop, with the reason.
    stop: Arc<Stop>,
    names: AtomicU64,
    name_seed: u64,
}

/// Tells the server that the node must stop.
#[derive(Debug, Default)]
pub struct Stop {
    reason: Mutex<Option<String>>,
    bell: Notify,
    restart: AtomicBool,
}

impl Stop {
    /// The node must stop; the first reason counts.
    pub fn now(&self, reason: &str) {
        self.reason.lock().get_or_insert_with(|| reason.to_owned());
        self.bell.notify_one();
    }

    /// When the node has stopped, the process is to begin anew.
    pub fn restart(&self) {
        self.restart.store(true, Ordering::Release);
    }

    /// Whether it is.
    pub fn is_restart(&self) -> bool {
        self.restart.load(Ordering::Acquire)
    }

    /// Waits until the node must stop.
    pub async fn wait(&self) -> String {
        loop {
            if let Some(reason) = self.reason.lock().clone() {
                return reason;
            }
            self.bell.notified().await;
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.name)
    }
}

impl Node {
    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The node's name, `name@host`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's name: as an operator set it, as it is configured, or this node's.
    pub fn cluster_name(&self) -> String {
        let topology = self.topology();
        let set = topology.global_parameter("cluster_name");
        let name = set.and_then(|name| name.as_str());
        name.or(self.config.node.cluster_name.as_deref())
            .unwrap_or(&self.name)
            .to_owned()
    }

    /// Milliseconds since 1970.
    #[inline]
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Bytes of the largest body. In a cluster a message has to fit between two nodes.
    pub fn message_bytes_max(&self) -> u64 {
        const CLUSTER_MAX: u64 = 60 << 20;
        let configured = self.config.limits.max_message_size;
        match self.mirror.get() {
            Some(_) => configured.min(CLUSTER_MAX),
            None => configured,
        }
    }

    /// Seconds since the start.
    pub fn uptime_s(&self) -> u32 {
        (self.clock.uptime_ms() / 1000) as u32
    }

    /// The metadata, for reading.
    pub fn topology(&self) -> RwLockReadGuard<'_, Topology> {
        self.topology.read()
    }

    /// Grows with every change of the metadata that a cached route or permission may depend on.
    #[inline]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Everything below is durable.
    #[inline]
    pub fn durable(&self) -> Location {
        self.store.journal().durable()
    }

    /// The store.
    pub fn store(&self) -> &Arc<LogStore> {
        &self.store
    }

    /// Bodies in memory and in the pager.
    pub fn bodies(&self) -> &Arc<BodyStore> {
        &self.bodies
    }

    /// The node's numbers.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Consumers of direct replies.
    pub fn reply_routes(&self) -> &ReplyRoutes {
        &self.reply_routes
    }

    /// Open connections.
    pub fn connections(&self) -> &Connections {
        &self.connections
    }

    /// Alarms that are on.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// Addresses that are listened on, and whether with TLS.
    pub fn listeners(&self) -> Vec<(SocketAddr, bool)> {
        self.listeners.lock().clone()
    }

    /// The server listens on these addresses.
    pub fn set_listeners(&self, listeners: Vec<(SocketAddr, bool)>) {
        *self.listeners.lock() = listeners;
    }

    /// Addresses that HTTP is listened for on, and RabbitMQ's words for what is spoken there.
    pub fn http_listeners(&self) -> Vec<(SocketAddr, String)> {
        self.http_listeners.lock().clone()
    }

    /// HTTP is listened for on these addresses.
    pub fn set_http_listeners(&self, listeners: Vec<(SocketAddr, String)>) {
        *self.http_listeners.lock() = listeners;
    }

    /// Whether it serves clients, as its operator wants it.
    pub fn away(&self) -> &Away {
        &self.away
    }

    /// What the server waits for to stop.
    pub fn stop(&self) -> &Arc<Stop> {
        &self.stop
    }

    /// Calls `notify` once the record at `at` is durable; the caller looks at [`Node::durable`] again afterwards.
    pub fn wait_durable(&self, at: Location, notify: Arc<dyn leveret_cluster::Notify>) {
        self.store.watch().wait(at, notify);
    }

    /// A number that was not given before.
    pub fn next_number(&self) -> u128 {
        u128::from(self.names.fetch_add(1, Ordering::Relaxed))
    }

    /// A connection is gone: its exclusive queues go.
    pub fn close_owner(&self, owner: leveret_topology::OwnerId) {
        if self.topology().queues_of_owner(owner).is_empty() {
            return;
        }
        let command =
            leveret_topology::Command::CloseConnection(leveret_topology::CloseConnection {
                connection: owner,
            });
        self.propose_quietly(&command);
    }

    /// [`Node::close_owner`] for a connection that waits until they are gone.
    pub fn close_owner_for(
        &self,
        owner: leveret_topology::OwnerId,
        ticket: &Arc<crate::ticket::Ticket>,
    ) -> Option<crate::ticket::Answer> {
        if self.topology().queues_of_owner(owner).is_empty() {
            return Some(crate::ticket::Answer::Ended);
        }
        let command =
            leveret_topology::Command::CloseConnection(leveret_topology::CloseConnection {
                connection: owner,
            });
        self.propose_for(&command, ticket)
    }

    /// A name that nobody else has: `prefix` and 22 characters.
    pub fn new_name(&self, prefix: &str) -> String {
        use std::hash::{BuildHasher, Hasher, RandomState};
        const ALPHABET: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let mut hasher = RandomState::new().build_hasher();
        hasher.write_u64(number);
        let mut bits = u128::from(hasher.finish()) << 64
            | u128::from(
                self.name_seed
                    .wrapping_add(number.wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            );
        let mut name = String::with_capacity(prefix.len() + 22);
        name.push_str(prefix);
        for _ in 0..22 {
            name.push(char::from(ALPHABET[(bits & 63) as usize]));
            bits >>= 6;
        }
        name
    }

    /// What this node has to do with others; `None` on a node alone.
    pub fn mirror(&self) -> Option<&Arc<Mirror>> {
        self.mirror.get()
    }

    /// Why this node does not serve yet, while it looks for its place in a cluster.
    pub fn waiting(&self) -> Option<String> {
        self.waiting.lock().clone()
    }

    /// Says why this node does not serve yet; nothing when it does.
    pub fn set_waiting(&self, why: Option<String>) {
        *self.waiting.lock() = why;
    }

    /// This node is one of a cluster.
    pub fn set_mirror(&self, mirror: Arc<Mirror>) {
        // Once, before anybody is served.
        let _ = self.mirror.set(mirror);
    }

    /// The identity of a new connection.
    pub fn new_owner(&self) -> leveret_topology::OwnerId {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        match self.mirror.get() {
            Some(mirror) => {
                let process = mirror.session_id();
                leveret_topology::OwnerId::of_node(process.node, process.incarnation, number)
            }
            None => leveret_topology::OwnerId::of_node(0, self.now_ms(), number),
        }
    }

    /// The next timer is earlier than it was.
    pub fn ring_timer(&self) {
        self.timer.notify_one();
    }

    /// This node's session with a group of mirrored queues; `None` on a node alone, where every group is its own.
    #[inline]
    pub fn session(&self, group: GroupId) -> Option<&Arc<Session>> {
        self.mirror.get()?.session(group)
    }

    #[inline]
    fn group(&self, id: GroupId) -> Option<&Arc<QueueGroup>> {
        self.groups.get((id as usize).checked_sub(1)?)
    }

    /// All queue groups.
    pub fn groups(&self) -> &[Arc<QueueGroup>] {
        &self.groups
    }

    /// Submits what a connection collected for one group.
    ///
    /// # Errors
    /// The journal is poisoned: nothing was applied.
    #[inline]
    pub fn submit(
        &self,
        group: GroupId,
        entry: Option<EntryBuilder>,
        settles: &[SettleRange],
        sync: bool,
        now_ms: u64,
    ) -> Result<Submitted, AppendError> {
        let Some(group) = self.group(group) else {
            return Ok(Submitted::default());
        };
        let (submitted, after) = group.submit(entry, settles, sync, now_ms)?;
        self.after(after, now_ms);
        Ok(submitted)
    }

    /// Resumes consumers that waited for room or for a window.
    pub fn resume(&self, waiters: Vec<Waiter>, now_ms: u64) {
        for waiter in waiters {
            if let Some(session) = self.session(waiter.group) {
                session.resume(waiter.consumer);
            } else if let Some(group) = self.group(waiter.group) {
                let after = group.resume(waiter, now_ms);
                self.after(after, now_ms);
            }
        }
    }

    /// Does what a call of a group left to do. Each step may leave more.
    #[inline]
    pub fn after(&self, after: After, now_ms: u64) {
        if !after.is_empty() {
            self.do_after(after, now_ms);
        }
    }

    fn do_after(&self, mut after: After, now_ms: u64) {
        // A cycle of consumers that wake each other ends because each wake-up moves a message.
        while !after.is_empty() {
            if std::mem::take(&mut after.timer) {
                self.timer.notify_one();
            }
            let mut more = After::default();
            for waiter in std::mem::take(&mut after.wakes) {
                if let Some(group) = self.group(waiter.group) {
                    more.merge(group.resume(waiter, now_ms));
                }
            }
            for dead in std::mem::take(&mut after.dead) {
                more.merge(self.dead_letter(dead, now_ms));
            }
            for queue in std::mem::take(&mut after.unused) {
                self.delete_unused(queue);
            }
            after = more;
        }
    }
}
