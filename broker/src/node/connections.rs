//! The open connections of the node.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use leveret_topology::{Name, OwnerId};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::channel::ChannelReport;
use crate::outbox::{Event, Outbox};

/// How long connections may take to tell of their channels.
const CHANNELS_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// What the client said of itself, in JSON: that takes the least memory.
    pub client_properties: Box<str>,
    /// How the user was authenticated.
    pub auth_mechanism: &'static str,
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
    /// What went over it.
    pub traffic: Traffic,
    /// How to reach it.
    pub outbox: Arc<Outbox>,
}

/// What went over a connection's socket, and how it is. Written by its task only, but for what [`Traffic::sample`] writes.
#[derive(Debug, Default)]
pub struct Traffic {
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    reads: AtomicU64,
    writes: AtomicU64,
    blocked: AtomicBool,
    /// At the last sample: bytes received and sent until then, and bytes a second before it.
    sampled: Mutex<Sample>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at_ms: u64,
    received_bytes: u64,
    sent_bytes: u64,
    received_rate: f64,
    sent_rate: f64,
}

/// [`Traffic`] at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TrafficNow {
    /// Bytes from the client.
    pub received_bytes: u64,
    /// Bytes to the client.
    pub sent_bytes: u64,
    /// Reads that brought something.
    pub reads: u64,
    /// Writes that took something.
    pub writes: u64,
    /// Bytes a second from the client, between the last two samples.
    pub received_rate: f64,
    /// Bytes a second to the client, likewise.
    pub sent_rate: f64,
    /// It published, and an alarm keeps it from publishing more.
    pub blocked: bool,
}

impl Traffic {
    /// All of it, since the connection was accepted.
    pub fn set(&self, received: (u64, u64), sent: (u64, u64), blocked: bool) {
        self.received_bytes.store(received.0, Ordering::Relaxed);
        self.reads.store(received.1, Ordering::Relaxed);
        self.sent_bytes.store(sent.0, Ordering::Relaxed);
        self.writes.store(sent.1, Ordering::Relaxed);
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// Looks how much it became since the last look.
    pub fn sample(&self, now_ms: u64) {
        let mut last = self.sampled.lock();
        let received_bytes = self.received_bytes.load(Ordering::Relaxed);
        let sent_bytes = self.sent_bytes.load(Ordering::Relaxed);
        let seconds = now_ms.saturating_sub(last.at_ms) as f64 / 1000.0;
        // The first look has nothing to compare with.
        let rate = |now: u64, before: u64| match last.at_ms > 0 && seconds > 0.0 {
            true => now.saturating_sub(before) as f64 / seconds,
            false => 0.0,
        };
        *last = Sample {
            at_ms: now_ms,
            received_bytes,
            sent_bytes,
            received_rate: rate(received_bytes, last.received_bytes),
            sent_rate: rate(sent_bytes, last.sent_bytes),
        };
    }

    /// What there is to tell.
    pub fn now(&self) -> TrafficNow {
        let last = *self.sampled.lock();
        TrafficNow {
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            writes: self.writes.load(Ordering::Relaxed),
            received_rate: last.received_rate,
            sent_rate: last.sent_rate,
            blocked: self.blocked.load(Ordering::Relaxed),
        }
    }
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

    /// All of them, by their identity.
    pub fn sorted(&self) -> Vec<Arc<ConnectionInfo>> {
        let mut all = self.list();
        all.sort_unstable_by_key(|connection| connection.id);
        all
    }

    /// Asks every connection for its channels, by its identity. One that has not answered after 5 s is left out. Blocks.
    pub fn channels(&self) -> Vec<(Arc<ConnectionInfo>, Vec<ChannelReport>)> {
        let connections = self.sorted();
        let (sender, receiver) = channel();
        for connection in &connections {
            connection.outbox.push(Event::Report(sender.clone()));
        }
        drop(sender);
        let until = Instant::now() + CHANNELS_TIMEOUT;
        let mut told = FxHashMap::default();
        while told.len() < connections.len() {
            let left = until.saturating_duration_since(Instant::now());
            match receiver.recv_timeout(left) {
                Ok((id, channels)) => told.insert(id, channels),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            };
        }
        let all = connections.into_iter();
        all.filter_map(|connection| {
            let channels = told.remove(&connection.id)?;
            Some((connection, channels))
        })
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_between_samples() {
        let traffic = Traffic::default();
        traffic.set((1000, 1), (10, 1), false);
        traffic.sample(5_000);
        assert_eq!(traffic.now().received_rate, 0.0);
        traffic.set((11_000, 3), (510, 2), true);
        traffic.sample(10_000);
        let now = traffic.now();
        assert_eq!((now.received_rate, now.sent_rate), (2000.0, 100.0));
        assert_eq!(
            (now.received_bytes, now.reads, now.sent_bytes, now.writes),
            (11_000, 3, 510, 2)
        );
        assert!(now.blocked);
    }
}
