//! The open connections of the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use leveret_topology::{Name, OwnerId};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::outbox::{Event, Outbox};

/// What others may know of a connection.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Its identity.
    pub id: OwnerId,
    /// The authenticated user.
    pub user: Name,
    /// The virtual host.
    pub vhost: Name,
    /// `peer -> local`, as RabbitMQ names connections.
    pub name: String,
    /// The client's address.
    pub peer: SocketAddr,
    /// Our address.
    pub local: SocketAddr,
    /// TLS is spoken.
    pub tls: bool,
    /// The name that the client gave its connection.
    pub client_name: Option<Box<str>>,
    /// Most channels, as negotiated; 0 means no limit.
    pub channel_max: u16,
    /// Largest frame in bytes, as negotiated.
    pub frame_max: u32,
    /// Seconds between heartbeats, as negotiated; 0 means none.
    pub heartbeat_s: u16,
    /// When it was opened, milliseconds since 1970.
    pub opened_ms: u64,
    /// Open channels.
    pub channels: AtomicUsize,
    /// How to reach it.
    pub outbox: Arc<Outbox>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Connections {
    all: Mutex<FxHashMap<OwnerId, Arc<ConnectionInfo>>>,
    closing: AtomicBool,
}

impl Connections {
    /// Adds one that is open, unless `admit` refuses it, given the open ones of its vhost and of its user.
    pub fn insert<E>(
        &self,
        info: Arc<ConnectionInfo>,
        admit: impl FnOnce(u64, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut all = self.all.lock();
        let in_vhost = all.values().filter(|c| c.vhost == info.vhost).count() as u64;
        let of_user = all.values().filter(|c| c.user == info.user).count() as u64;
        admit(in_vhost, of_user)?;
        all.insert(info.id, info);
        Ok(())
    }

    /// Closes all of them, and those that open from now on (they ask [`Connections::is_closing`]).
    pub fn close_all(&self, reason: &str) {
        self.closing.store(true, Ordering::SeqCst);
        self.close_where(|_| true, reason);
    }

    /// The node stops: a connection that has just been inserted must close itself.
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    /// Forgets one that is closed.
    pub fn remove(&self, id: OwnerId) {
        self.all.lock().remove(&id);
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.all.lock().len()
    }

    /// None is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them.
    pub fn list(&self) -> Vec<Arc<ConnectionInfo>> {
        self.all.lock().values().cloned().collect()
    }

    /// Open channels of a user.
    pub fn channels_of(&self, user: &str) -> u64 {
        let all = self.all.lock();
        let of_user = all.values().filter(|c| *c.user == *user);
        of_user
            .map(|c| c.channels.load(Ordering::Relaxed) as u64)
            .sum()
    }

    /// Closes those for which `wanted` holds, 320 CONNECTION_FORCED.
    pub fn close_where(&self, wanted: impl Fn(&ConnectionInfo) -> bool, reason: &str) {
        for connection in self.list() {
            if wanted(&connection) {
                connection.outbox.push(Event::Close(reason.to_owned()));
            }
        }
    }

    /// Tells all of them.
    pub fn tell(&self, mut event: impl FnMut() -> Event) {
        for connection in self.list() {
            connection.outbox.push(event());
        }
    }
}
