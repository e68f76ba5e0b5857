//! openraft's network over the peers: what this node's members ask others, and what they answer.
//!
//! - [`Network`] gives each group what makes its client for each other member. Appends are a stream of requests over the peer's `raft`
//!   connection, up to 64 and 16 MiB unanswered; heartbeats, votes and transfers are single requests in the urgent lane.
//!   A snapshot goes over the `stream` connection in chunks, at a bounded rate.
//! - [`RaftService`] serves both connections: it gives what comes to the groups' `Raft`s, appends of one stream in their
//!   order, and never waits for a group, so none holds up another.
//!
//! openraft's time limits are not used for streams: a follower answers when its disk is done, and a peer that ended is known from
//! its connections. What is here is for a peer that answers other things and not this.
//!
//! `client` asks one member, `pipeline` is its stream of appends, `service` answers.

mod client;
mod pipeline;
mod service;

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use openraft::errors::RPCError;
use openraft::network::RaftNetworkFactory;
use openraft::raft::StreamAppendResult;
use parking_lot::Mutex;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::GroupId;
use crate::peers::Peers;
use crate::raft::types::{MemberId, TokioTypes};

pub use client::Client;
pub use service::RaftService;

type C = TokioTypes;
type RpcError = RPCError<C>;
type AppendResult = StreamAppendResult<C>;

/// Appends of one stream without an answer.
const WINDOW_REQUESTS: usize = 64;
/// Chunks of one snapshot without an answer.
const WINDOW_CHUNKS: usize = 8;

/// Time limits and rates.
#[derive(Clone, Copy, Debug)]
pub struct NetworkConfig {
    /// A stream of appends that has no answer for this long has failed. Longer than a disk may hang.
    pub append: Duration,
    /// Of votes, heartbeats and transfers.
    pub short: Duration,
    /// Of a snapshot's beginning and of each of its chunks.
    pub chunk: Duration,
    /// Of its installation.
    pub install: Duration,
    /// Of all snapshots that this node sends, together.
    pub snapshot_bytes_per_second: u64,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        NetworkConfig {
            append: Duration::from_secs(10),
            short: Duration::from_secs(2),
            chunk: Duration::from_secs(30),
            install: Duration::from_secs(300),
            snapshot_bytes_per_second: 100 << 20,
        }
    }
}

/// What the clients of a node share.
struct Shared {
    peers: Peers,
    config: NetworkConfig,
    /// The last stream's number.
    streams: AtomicU64,
    /// When the next chunk may go.
    next_chunk: Mutex<Instant>,
}

/// Makes the networks of this node's groups, which share the rate of snapshots.
#[derive(Clone)]
pub struct Network(Arc<Shared>);

impl Network {
    /// Over these peers.
    pub fn new(peers: Peers, config: NetworkConfig) -> Network {
        Network(Arc::new(Shared {
            peers,
            config,
            streams: AtomicU64::new(0),
            next_chunk: Mutex::new(Instant::now()),
        }))
    }

    /// What the member `me` of `group` sends with.
    pub fn group(&self, group: GroupId, me: MemberId) -> GroupNetwork {
        GroupNetwork {
            shared: Arc::clone(&self.0),
            // Numbers end at `GROUPS_END`; one that does not fit reaches nobody.
            group: u16::try_from(group).unwrap_or(u16::MAX),
            me,
        }
    }
}

/// Makes the clients of one group.
#[derive(Clone)]
pub struct GroupNetwork {
    shared: Arc<Shared>,
    group: u16,
    me: MemberId,
}

impl GroupNetwork {
    fn client(&self, target: MemberId, heartbeat: bool) -> Client {
        Client {
            network: self.clone(),
            target,
            heartbeat,
        }
    }
}

impl RaftNetworkFactory<C> for GroupNetwork {
    type Network = Client;

    async fn new_client(&mut self, target: MemberId, (): &()) -> Client {
        self.client(target, false)
    }

    async fn new_heartbeat_client(&mut self, target: MemberId, (): &()) -> Client {
        self.client(target, true)
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}
