//! Nodes on loopback, and waiting for conditions.

#![allow(dead_code, reason = "each test uses a part")]

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use leveret_cluster::name::{NodeAddress, NodeName};
use leveret_cluster::peers::{
    Handler, Handlers, Inbound, Me, Peer, PeerState, Peers, PeersConfig, Timing,
};
use leveret_cluster::wire::hello::Cookie;
use tokio::net::TcpListener;

pub const CLUSTER: [u8; 16] = *b"a cluster's uuid";

/// However slow the machine is.
pub const LONG: Duration = Duration::from_secs(60);

static BOOTS: AtomicU64 = AtomicU64::new(1);

pub fn boot() -> u64 {
    u64::from(std::process::id()) << 32 | BOOTS.fetch_add(1, Ordering::Relaxed)
}

pub fn name(node: u64) -> NodeName {
    NodeName::parse(&format!("n{node}@127.0.0.1")).expect("a name")
}

pub fn me(node: u64) -> Me {
    Me {
        cluster: CLUSTER,
        node,
        incarnation: 1000 + node,
        boot: boot(),
        name: name(node),
    }
}

pub fn config(node: u64) -> PeersConfig {
    PeersConfig::new(me(node), Cookie::new("a secret"))
}

pub fn peer(node: u64, port: u16) -> Peer {
    Peer {
        node,
        incarnation: Some(1000 + node),
        address: address(node, port),
    }
}

pub fn address(node: u64, port: u16) -> NodeAddress {
    NodeAddress {
        name: name(node),
        host: "127.0.0.1".into(),
        port,
    }
}

pub async fn bind() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A node that listens.
pub async fn node(config: PeersConfig, handlers: Handlers) -> (Peers, u16) {
    let (listener, port) = bind().await;
    let peers = Peers::new(config, handlers);
    peers.listen(listener);
    (peers, port)
}

/// Nodes 1 to `count`, each a peer of the others, all up.
pub async fn connected(count: u64) -> Vec<Peers> {
    let mut nodes = Vec::new();
    for number in 1..=count {
        nodes.push(node(config(number), Handlers::default()).await);
    }
    introduce(&nodes);
    let nodes: Vec<Peers> = nodes.into_iter().map(|(peers, _)| peers).collect();
    for peers in &nodes {
        all_up(peers).await;
    }
    nodes
}

pub fn introduce(nodes: &[(Peers, u16)]) {
    let all: Vec<Peer> = (1..)
        .zip(nodes)
        .map(|(n, (_, port))| peer(n, *port))
        .collect();
    for (peers, _) in nodes {
        peers.set_peers(all.clone());
    }
}

pub async fn all_up(peers: &Peers) {
    until("all peers are up", || {
        let nodes = peers.nodes();
        nodes
            .iter()
            .all(|node| peers.state(*node).0 == PeerState::Up)
    })
    .await;
}

/// Times that make what takes seconds take a part of one.
pub fn short() -> Timing {
    Timing {
        handshake: Duration::from_millis(300),
        idle: Duration::from_millis(400),
        ..Timing::default()
    }
}

#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let wait = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let waited = tokio::time::timeout(LONG, wait).await;
        assert!(waited.is_ok(), "{caller}: not in a minute: {what}");
    }
}

/// What `future` gives, which it does soon.
#[track_caller]
pub fn soon<F: Future>(future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(LONG, future).await {
            Ok(value) => value,
            Err(_) => panic!("{caller}: not in a minute"),
        }
    }
}

/// A handler made of a function.
pub struct Serve<F>(pub F);

impl<F, R> Handler for Serve<F>
where
    F: Fn(Inbound) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    fn serve(self: Arc<Self>, inbound: Inbound) -> BoxFuture<'static, ()> {
        Box::pin((self.0)(inbound))
    }
}
