//! The broker, as the API sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use leveret_management::{
    Broker, ChannelReport, ConnectionReport, NodeReport, Place, QueueReport, Reach,
};
use leveret_protocol::ReplyCode;
use leveret_storage::Location;
use leveret_topology::{Command, OwnerId, QueueInfo, Refusal, Topology};
use parking_lot::RwLockReadGuard;
use rustc_hash::FxHashMap;
use tokio::io::DuplexStream;
use tokio::runtime::Handle;

use super::everywhere::{self, Ask};
use super::report;
use crate::connection::Peer;
use crate::ctl::{FEATURE_FLAGS, salt};
use crate::node::Node;

/// Bytes between the API and a connection within the process.
const PIPE_BYTES: usize = 64 << 10;
/// How long a change may take to become durable.
const DURABLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Rung when something is durable.
struct Bell(SyncSender<()>);

impl leveret_cluster::Notify for Bell {
    fn notify(&self) {
        // It has rung if there is no room.
        let _ = self.0.try_send(());
    }
}

/// See the module.
pub struct View {
    node: Arc<Node>,
    /// The runtime of connections.
    amqp: Handle,
}

impl View {
    /// Of a node.
    pub fn new(node: Arc<Node>, amqp: Handle) -> View {
        View { node, amqp }
    }

    /// Waits until a change is durable.
    fn wait(&self, at: Option<Location>) -> Result<(), Refusal> {
        let Some(at) = at else { return Ok(()) };
        let (ring, rung) = sync_channel(1);
        self.node.wait_durable(at, Arc::new(Bell(ring)));
        if self.node.durable() <= at {
            // What it comes to is looked at below.
            let _ = rung.recv_timeout(DURABLE_TIMEOUT);
        }
        match self.node.durable() > at {
            true => Ok(()),
            false => {
                let text = "the change was made but is not on disk";
                Err(Refusal::new(ReplyCode::InternalError, text))
            }
        }
    }
}

impl Broker for View {
    fn node_name(&self) -> &str {
        self.node.name()
    }

    fn cluster_name(&self) -> String {
        self.node.cluster_name()
    }

    fn member_names(&self) -> Vec<String> {
        let topology = self.node.topology();
        let names: Vec<String> = topology.nodes().map(|node| node.name.to_string()).collect();
        match names.is_empty() {
            true => vec![self.node.name().to_owned()],
            false => names,
        }
    }

    fn now_ms(&self) -> u64 {
        self.node.now_ms()
    }

    fn topology(&self) -> RwLockReadGuard<'_, Topology> {
        self.node.topology()
    }

    fn propose(&self, command: Command) -> Result<(), Refusal> {
        let (_, durable) = self.node.propose_and_wait(&command)?;
        self.wait(durable)
    }

    fn import(&self, file: &[u8], vhost: Option<&str>, user: &str) -> Result<(), String> {
        let imported = self.node.import(file, vhost, Some(user))?;
        self.wait(imported.durable).map_err(|refusal| refusal.text)
    }

    fn salt(&self) -> [u8; 4] {
        salt()
    }

    fn loopback_users(&self) -> &[String] {
        &self.node.config().access.loopback_users
    }

    fn node(&self) -> NodeReport {
        report::own(&self.node)
    }

    fn nodes(&self) -> Vec<NodeReport> {
        everywhere::nodes(&self.node)
    }

    fn queues(&self, reach: Reach) -> FxHashMap<u64, QueueReport> {
        let views = match reach {
            Reach::Here => self.node.views(),
            Reach::Everywhere => self.node.views_everywhere(),
        };
        report::queues(&views)
    }

    fn place(&self, queue: &QueueInfo) -> Place {
        report::place(&self.node, queue)
    }

    fn sample(&self) {
        let now_ms = self.node.now_ms();
        for connection in self.node.connections().list() {
            connection.traffic.sample(now_ms);
        }
    }

    fn connections(&self, reach: Reach) -> Vec<ConnectionReport> {
        let own = report::connections(&self.node);
        match reach {
            Reach::Here => own,
            Reach::Everywhere => everywhere::gather(&self.node, &Ask::Connections, own),
        }
    }

    fn channels(&self, reach: Reach) -> Vec<ChannelReport> {
        let own = report::channels(&self.node);
        match reach {
            Reach::Here => own,
            Reach::Everywhere => everywhere::gather(&self.node, &Ask::Channels, own),
        }
    }

    fn close_connection(&self, id: OwnerId, reason: &str) {
        everywhere::close(&self.node, id, reason);
    }

    fn dial(&self, peer: SocketAddr) -> DuplexStream {
        let (here, there) = tokio::io::duplex(PIPE_BYTES);
        let listeners = self.node.listeners();
        let local = listeners.first().map_or(peer, |(address, _)| *address);
        let peer = Peer {
            peer,
            local,
            tls: false,
            certificate_name: None,
        };
        let node = Arc::clone(&self.node);
        self.amqp
            .spawn(crate::server::serve_stream(node, there, peer));
        here
    }

    fn feature_flags(&self) -> &'static [(&'static str, &'static str)] {
        FEATURE_FLAGS
    }

    fn certificate_ends(&self) -> Vec<(u16, String, Option<u64>)> {
        super::certificate_ends(&self.node)
    }
}
