//! The other nodes: connections to each, who is there and who is not, requests and their answers.
//!
//! Each node dials each other one, with one connection for each [`Purpose`], and accepts as many. What a node wants goes over
//! the connection that it dialled ([`Link`]); what others want of it comes in over theirs ([`Inbound`]) and is given to the
//! purpose's [`Handler`]. A connection that breaks is dialled again at once, then after 10 ms, doubling to 500 ms.
//!
//! Over its `raft` connections a node sends a heartbeat each 100 ms, and at once when its status changes: a few bytes that the owner
//! sets and the others are given. From them, and from how connections end, comes what is known of a peer:
//! [`PeerState`]. `docs/cluster.md` section 8 is about what follows from that.
//!
//! Before a node is a member it has peers of purpose [`Purpose::Founding`] only: [`Peers::ask`], and the handler's part.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use parking_lot::{Mutex, RwLock};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use crate::name::{NodeAddress, NodeName};
use crate::wire::frame::{Frame, Header, OutFrame};
use crate::wire::hello::{ClusterId, Cookie, Hello, NodeId, Purpose, random};
use crate::wire::sender::{Lane, LaneBounds};
use crate::wire::tls::Tls;

mod dial;
mod events;
mod inbound;
mod link;
mod listen;

pub use dial::DialError;
pub use events::{PeerEvent, PeerEvents, PeerState, Status};
pub use inbound::{Answers, Inbound};
pub use link::{Answer, Link, PeerId, REQUESTS_MAX, RequestError};

use events::Board;

/// Bytes of a status.
pub const STATUS_BYTES_MAX: usize = 4096;

/// How often the states of peers are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(50);
/// A watch that was this late did not run, as this process was stopped: nobody is silent for that.
const STALL: Duration = Duration::from_millis(500);
/// Frames on connections without heartbeats, in heartbeats.
const KEEPALIVE_HEARTBEATS: u32 = 10;

/// Kinds of frames that are about the connection.
pub(crate) mod kind {
    /// And above: not the handlers'.
    pub const OF_CONNECTIONS: u8 = 240;
    /// With the sender's status on `raft` connections, empty on others.
    pub const HEARTBEAT: u8 = 240;
    /// The sender's process is about to end.
    pub const GOODBYE: u8 = 241;
}

/// What this node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Me {
    /// Its cluster; zero before it has one.
    pub cluster: ClusterId,
    /// Its number; zero before it has one.
    pub node: NodeId,
    /// Of its disk.
    pub incarnation: u64,
    /// Of this process: random.
    pub boot: u64,
    /// Its name.
    pub name: NodeName,
}

impl Me {
    fn hello(&self, purpose: Purpose) -> std::io::Result<Hello> {
        Ok(Hello {
            purpose,
            cluster: self.cluster,
            node: self.node,
            incarnation: self.incarnation,
            boot: self.boot,
            name: self.name.clone(),
            nonce: random()?,
        })
    }
}

/// Another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number.
    pub node: NodeId,
    /// Of its disk; a peer with another one is refused. Nothing: not known here yet, any will do.
    pub incarnation: Option<u64>,
    /// Its name and where it listens.
    pub address: NodeAddress,
}

/// Times of connections and of the watch over peers.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// A peer that is not heard of for this long is silent.
    pub silent: Duration,
    /// Before the first redial that does not happen at once.
    pub redial_min: Duration,
    /// Between redials at most.
    pub redial_max: Duration,
    /// For a connection to come about, without the handshake.
    pub connect: Duration,
    /// For a handshake.
    pub handshake: Duration,
    /// What was sent must be received by the peer's kernel in this time, or the connection is given up.
    pub unacknowledged: Duration,
    /// A connection that a peer dialled and on which nothing came for this long has ended: who dialled it sends something
    /// each second.
    pub idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat: Duration::from_millis(100),
            silent: Duration::from_millis(1500),
            redial_min: Duration::from_millis(10),
            redial_max: Duration::from_millis(500),
            connect: Duration::from_secs(1),
            handshake: crate::wire::handshake::TIME_MAX,
            unacknowledged: Duration::from_secs(3),
            idle: Duration::from_secs(10),
        }
    }
}

/// Who serves what peers want, by purpose.
pub trait Handler: Send + Sync + 'static {
    /// A peer has dialled. The connection lives as long as the future: what it has not sent when it ends is dropped, so it
    /// ends when [`Inbound::next`] gives no more frames. It is to ask for the next frame soon: what shows that the peer
    /// lives comes between them.
    fn serve(self: Arc<Self>, inbound: Inbound) -> BoxFuture<'static, ()>;

    /// A connection that this node dialled is there. Called before anything comes from it.
    fn connected(&self, _link: &Link) {}

    /// That connection has ended.
    fn disconnected(&self, _link: &Link) {}

    /// A frame that answers nothing came from a connection that this node dialled; in order. Must not block.
    fn pushed(&self, _link: &Link, _frame: Frame) {}
}

/// Wants nothing of what comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Nobody;

impl Handler for Nobody {
    fn serve(self: Arc<Self>, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        // What is about the connection is still heard.
        Box::pin(async move { while let Ok(Some(_)) = inbound.next().await {} })
    }
}

/// Called with each heartbeat that comes, on the connection's task. Must not block.
pub type OnStatus = Box<dyn Fn(NodeId, &Status) + Send + Sync>;

/// The handlers of all purposes.
pub struct Handlers {
    /// Of [`Purpose::Raft`].
    pub raft: Arc<dyn Handler>,
    /// Of [`Purpose::Session`].
    pub session: Arc<dyn Handler>,
    /// Of [`Purpose::Stream`].
    pub stream: Arc<dyn Handler>,
    /// Of [`Purpose::Founding`].
    pub founding: Arc<dyn Handler>,
    /// Who is told what peers say of themselves.
    pub on_status: OnStatus,
}

impl Default for Handlers {
    fn default() -> Self {
        Handlers {
            raft: Arc::new(Nobody),
            session: Arc::new(Nobody),
            stream: Arc::new(Nobody),
            founding: Arc::new(Nobody),
            on_status: Box::new(|_, _| ()),
        }
    }
}

impl Handlers {
    fn of(&self, purpose: Purpose) -> &Arc<dyn Handler> {
        match purpose {
            Purpose::Raft => &self.raft,
            Purpose::Session => &self.session,
            Purpose::Stream => &self.stream,
            Purpose::Founding => &self.founding,
        }
    }
}

/// What [`Peers`] needs to know.
pub struct PeersConfig {
    /// Who this node is. [`Peers::set_me`] changes it.
    pub me: Me,
    /// The cluster's secret.
    pub cookie: Cookie,
    /// Nothing: connections are not encrypted.
    pub tls: Option<Arc<Tls>>,
    /// Times.
    pub timing: Timing,
    /// What may wait for one connection.
    pub bounds: LaneBounds,
}

impl PeersConfig {
    /// The usual times and bounds, without TLS.
    pub fn new(me: Me, cookie: Cookie) -> PeersConfig {
        PeersConfig {
            me,
            cookie,
            tls: None,
            timing: Timing::default(),
            bounds: LaneBounds::default(),
        }
    }
}

/// One peer, as long as it is one.
struct Entry {
    peer: Peer,
    /// The connections that this node dialled, by place in [`Purpose::OF_MEMBERS`].
    links: Mutex<[Option<Link>; 3]>,
    /// When it was last heard of, in ms of [`Inner::clock`].
    heard_ms: AtomicU64,
    /// The peer is there: no need to wait before dialling.
    wake: Notify,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Entry {
    fn keep(&self, task: AbortHandle) {
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }

    fn links(&self) -> Vec<Link> {
        self.links.lock().iter().flatten().cloned().collect()
    }

    /// Ends all its connections.
    fn end(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }
}

fn slot(purpose: Purpose) -> Option<usize> {
    Purpose::OF_MEMBERS.iter().position(|p| *p == purpose)
}

struct Inner {
    me: RwLock<Me>,
    cookie: Cookie,
    tls: Option<Arc<Tls>>,
    timing: Timing,
    bounds: LaneBounds,
    handlers: Handlers,
    entries: RwLock<BTreeMap<NodeId, Arc<Entry>>>,
    /// Members that were removed for good.
    forgotten: RwLock<BTreeSet<NodeId>>,
    board: Arc<Board>,
    status: RwLock<Bytes>,
    status_changed: Notify,
    start: Instant,
    stopping: AtomicBool,
    runtime: Handle,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Inner {
    fn clock(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    fn entry(&self, node: NodeId) -> Option<Arc<Entry>> {
        self.entries.read().get(&node).cloned()
    }

    /// What a member says to another one must be about the same cluster, and the other one be known here.
    fn judge(&self, hello: &Hello) -> Result<(), String> {
        let me = self.me.read();
        // Lives of different nodes may have the same number: they are those of their clocks.
        if (hello.boot, hello.incarnation) == (me.boot, me.incarnation) {
            return Err("this is the node itself".into());
        }
        if hello.name == me.name {
            return Err(format!("this node is called {} too", me.name));
        }
        if hello.purpose == Purpose::Founding {
            return Ok(());
        }
        if me.cluster == [0; 16] {
            return Err(format!("{} is no member of a cluster yet", me.name));
        }
        if hello.cluster != me.cluster {
            return Err(format!("{} is a member of another cluster", me.name));
        }
        let entries = self.entries.read();
        let Some(entry) = entries.get(&hello.node) else {
            if self.forgotten.read().contains(&hello.node) {
                return Err(format!(
                    "{} was removed from the cluster (forget_cluster_node)",
                    hello.name
                ));
            }
            return Err(format!("{} knows no node {}", me.name, hello.node));
        };
        if entry.peer.address.name != hello.name {
            let known = &entry.peer.address.name;
            return Err(format!("node {} is {known} for {}", hello.node, me.name));
        }
        match entry.peer.incarnation {
            Some(known) if known != hello.incarnation => Err(format!(
                "the disk of {} is not the one that {} knows: it has to be forgotten first (forget_cluster_node)",
                hello.name, me.name
            )),
            _ => Ok(()),
        }
    }
}

/// What came from a peer: it is there, and what it says of itself.
struct Heard {
    inner: Arc<Inner>,
    entry: Option<Arc<Entry>>,
    peer: PeerId,
    purpose: Purpose,
}

impl Heard {
    fn now(&self) {
        if let Some(entry) = &self.entry {
            entry.heard_ms.store(self.inner.clock(), Ordering::Relaxed);
        }
    }

    /// A frame about the connection.
    fn frame(&self, frame: Frame) {
        if self.purpose != Purpose::Raft {
            return;
        }
        match frame.header.kind {
            kind::HEARTBEAT if frame.body.len() <= STATUS_BYTES_MAX => {
                let status = Status {
                    boot: self.peer.boot,
                    blob: frame.body,
                };
                (self.inner.handlers.on_status)(self.peer.node, &status);
                self.inner.board.set_status(self.peer.node, status);
            }
            kind::GOODBYE => self.inner.board.set(PeerState::Gone, &self.peer),
            _ => {}
        }
    }
}

/// The other nodes. Clones are the same; [`Peers::stop`] ends it.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

impl Peers {
    /// No peers yet. To be called on a tokio runtime, where all its tasks run.
    pub fn new(config: PeersConfig, handlers: Handlers) -> Peers {
        let runtime = Handle::current();
        let peers = Peers(Arc::new(Inner {
            me: RwLock::new(config.me),
            cookie: config.cookie,
            tls: config.tls,
            timing: config.timing,
            bounds: config.bounds,
            handlers,
            entries: RwLock::default(),
            forgotten: RwLock::default(),
            board: Arc::new(Board::new()),
            status: RwLock::default(),
            status_changed: Notify::new(),
            start: Instant::now(),
            stopping: AtomicBool::new(false),
            runtime,
            tasks: Mutex::default(),
        }));
        peers.spawn(heartbeats(Arc::clone(&peers.0)));
        peers.spawn(watch(Arc::clone(&peers.0)));
        peers
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.0.runtime.spawn(task).abort_handle();
        self.0.tasks.lock().push(task);
    }

    /// Takes connections from `listener` until the end.
    pub fn listen(&self, listener: TcpListener) {
        self.spawn(listen::listen(Arc::clone(&self.0), listener));
    }

    /// Who this node is.
    pub fn me(&self) -> Me {
        self.0.me.read().clone()
    }

    /// This node is a member now. To be called before [`Peers::set_peers`].
    pub fn set_me(&self, me: Me) {
        *self.0.me.write() = me;
    }

    /// The members, without or with this node itself. Connections to those that are new are dialled, those of others are
    /// ended; one whose address or incarnation is another is both. An incarnation that becomes known changes nothing for a peer that is
    /// there already.
    pub fn set_peers(&self, peers: impl IntoIterator<Item = Peer>) {
        let me = self.0.me.read().node;
        let wanted: BTreeMap<NodeId, Peer> = peers
            .into_iter()
            .filter(|peer| peer.node != me)
            .map(|peer| (peer.node, peer))
            .collect();
        let mut entries = self.0.entries.write();
        entries.retain(|node, entry| {
            let stays = wanted.get(node).is_some_and(|peer| {
                let incarnation = entry.peer.incarnation.and(peer.incarnation);
                entry.peer.address == peer.address && entry.peer.incarnation == incarnation
            });
            if !stays {
                entry.end();
            }
            if !wanted.contains_key(node) {
                self.0.board.forget(*node);
            }
            stays
        });
        for (node, peer) in wanted {
            if entries.contains_key(&node) {
                continue;
            }
            let entry = Arc::new(Entry {
                peer,
                links: Mutex::default(),
                heard_ms: AtomicU64::new(self.0.clock()),
                wake: Notify::new(),
                tasks: Mutex::default(),
            });
            entries.insert(node, Arc::clone(&entry));
            for purpose in Purpose::OF_MEMBERS {
                let task = dial::keep(Arc::clone(&self.0), Arc::clone(&entry), purpose);
                entry.keep(self.0.runtime.spawn(task).abort_handle());
            }
        }
    }

    /// Nodes that were members once: told so when they come back.
    pub fn set_forgotten(&self, nodes: BTreeSet<NodeId>) {
        *self.0.forgotten.write() = nodes;
    }

    /// The numbers of the peers, without this node.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.0.entries.read().keys().copied().collect()
    }

    /// The changes of all peers, from the present states on.
    pub fn subscribe(&self) -> PeerEvents {
        self.0.board.subscribe()
    }

    /// How a peer is, and the process that this is about.
    pub fn state(&self, node: NodeId) -> (PeerState, Option<PeerId>) {
        self.0.board.state(node)
    }

    /// What a peer last said of itself.
    pub fn status(&self, node: NodeId) -> Option<Status> {
        self.0.board.status(node)
    }

    /// What this node says of itself, from now on; told to all peers at once. Cut to [`STATUS_BYTES_MAX`].
    pub fn set_status(&self, blob: Bytes) {
        let end = blob.len().min(STATUS_BYTES_MAX);
        let blob = blob.slice(..end);
        {
            let mut status = self.0.status.write();
            if *status == blob {
                return;
            }
            *status = blob;
        }
        self.0.status_changed.notify_one();
    }

    /// The connection to a peer, if there is one.
    pub fn link(&self, node: NodeId, purpose: Purpose) -> Option<Link> {
        let entry = self.0.entry(node)?;
        let links = entry.links.lock();
        links.get(slot(purpose)?)?.clone()
    }

    /// A request to a peer, and its answer's frame.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        node: NodeId,
        purpose: Purpose,
        lane: Lane,
        (kind, group): (u8, u16),
        body: impl Into<crate::wire::frame::Body>,
        timeout: Duration,
    ) -> Result<Frame, RequestError> {
        let link = self.link(node, purpose).ok_or(RequestError::NotConnected)?;
        link.request(lane, kind, group, body, timeout).await
    }

    /// One request to a node that need not be a member of the same cluster, over a connection of its own for
    /// [`Purpose::Founding`], within `timeout`.
    ///
    /// # Errors
    /// [`DialError`].
    pub async fn ask(
        &self,
        address: &NodeAddress,
        kind: u8,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(PeerId, Bytes), DialError> {
        let asked = dial::ask(&self.0, address, kind, body);
        match tokio::time::timeout(timeout, asked).await {
            Ok(answered) => answered,
            Err(_) => Err(DialError::TimedOut),
        }
    }

    /// Takes and dials no more connections, says goodbye to all peers, and ends everything. Takes at most a second.
    pub async fn stop(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
        for task in self.0.tasks.lock().drain(..) {
            task.abort();
        }
        let entries: Vec<_> = self.0.entries.read().values().cloned().collect();
        let links: Vec<Link> = entries.iter().flat_map(|entry| entry.links()).collect();
        for link in &links {
            if link.purpose() == Purpose::Raft {
                // A peer that cannot be told will see it by itself.
                let _ = link.push(Lane::Urgent, kind::GOODBYE, 0, Bytes::new());
            }
            link.sender().close();
        }
        let told = async {
            for link in &links {
                link.sender().ended().await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), told).await;
        for entry in entries {
            entry.end();
        }
    }
}

fn heartbeat(status: Bytes) -> Option<OutFrame> {
    let header = Header {
        kind: kind::HEARTBEAT,
        ..Header::default()
    };
    OutFrame::new(header, status).ok()
}

/// Sends heartbeats, and now and then something on the other connections.
async fn heartbeats(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(inner.timing.heartbeat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut count = 0u32;
    loop {
        tokio::select! {
            _ = ticks.tick() => count = count.wrapping_add(1),
            () = inner.status_changed.notified() => {}
        }
        let status = inner.status.read().clone();
        let Some(full) = heartbeat(status) else {
            continue;
        };
        let entries: Vec<_> = inner.entries.read().values().cloned().collect();
        for link in entries.iter().flat_map(|entry| entry.links()) {
            let frame = match link.purpose() {
                Purpose::Raft => Some(full.clone()),
                _ if count.is_multiple_of(KEEPALIVE_HEARTBEATS) => heartbeat(Bytes::new()),
                _ => None,
            };
            if let Some(frame) = frame {
                // A lane that is full has enough to say.
                let _ = link.sender().try_send(Lane::Urgent, frame);
            }
        }
    }
}

/// Notices who falls silent, and who is heard of again.
async fn watch(inner: Arc<Inner>) {
    let mut ticks = tokio::time::interval(WATCH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let silent = inner.timing.silent.as_millis() as u64;
    let mut last = inner.clock();
    loop {
        ticks.tick().await;
        let now = inner.clock();
        let gap = now.saturating_sub(last);
        last = now;
        let entries: Vec<_> = inner.entries.read().values().cloned().collect();
        for entry in entries {
            if gap > STALL.as_millis() as u64 {
                entry
                    .heard_ms
                    .fetch_max(now.saturating_sub(silent / 2), Ordering::Relaxed);
            }
            let quiet = now.saturating_sub(entry.heard_ms.load(Ordering::Relaxed)) > silent;
            match inner.board.state(entry.peer.node) {
                (PeerState::Up, Some(peer)) if quiet => inner.board.set(PeerState::Silent, &peer),
                (PeerState::Silent, Some(peer)) if !quiet => inner.board.set(PeerState::Up, &peer),
                _ => {}
            }
        }
    }
}
