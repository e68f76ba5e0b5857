//! The network between the nodes: what Raft's members ask each other, and frames of sessions.
//!
//! Requests are single packets: each may be lost, come twice, late, and after a later one. Replication and snapshots go over connections, as
//! they do over TCP: in order, held up while the way is cut, and broken if that lasts. What was sent before a connection broke may
//! still arrive after its successor's first bytes. Everything is encoded and decoded as on the wire.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, Stream};
use leveret_cluster::GroupId;
use leveret_cluster::raft::group::{BoxFuture, Inbound};
use leveret_cluster::raft::rpc;
use leveret_cluster::raft::snapshot::{SnapshotHandle, SnapshotSink};
use leveret_cluster::raft::types::{CommittedLeaderId, MemberId, Types, Vote, node_of};
use leveret_queue::SessionId;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::rt::{AsyncRuntime, Instant as _, Select2};
use openraft::storage::Snapshot;
use openraft::{AnyError, OptionalSend};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use crate::judge::Judge;
use crate::random::Random;
use crate::runtime::{NodeRuntime, Process, in_flight};

type C = Types<NodeRuntime>;
type Instant = <NodeRuntime as AsyncRuntime>::Instant;
type RpcError = RPCError<C>;
type AppendResult = StreamAppendResult<C>;
type Group = Arc<dyn Inbound<NodeRuntime>>;
type Handler = Arc<dyn Fn(Group) -> BoxFuture<'static, Option<Bytes>> + Send + Sync>;

/// Appends of a stream without an answer.
const WINDOW: usize = 64;
/// Of a single request.
const SHORT: Duration = Duration::from_secs(2);
/// A connection is broken if its way is cut for so long.
const CUT_MAX: Duration = Duration::from_secs(3);
/// A stream has failed if no answer comes for so long.
const APPEND: Duration = Duration::from_secs(10);

/// How packets fare from one node to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// Nothing gets through.
    pub cut: bool,
    /// Of 1000 packets, how many are lost.
    pub lost: u64,
    /// How many come twice.
    pub twice: u64,
    /// Of 1000 parts of a connection, how many are its last.
    pub breaks: u64,
    /// Microseconds that a packet takes, at least and at most; small ones are more frequent.
    pub delay_us: (u64, u64),
}

impl Weather {
    /// A network without faults.
    pub const FINE: Weather = Weather {
        cut: false,
        lost: 0,
        twice: 0,
        breaks: 0,
        delay_us: (50, 500),
    };
}

/// Takes what comes over a connection that a process has dialled, until it ends.
pub type Accept =
    Arc<dyn Fn(SessionId, mpsc::UnboundedReceiver<Bytes>) -> BoxFuture<'static, ()> + Send + Sync>;

/// Where frames for a node go.
pub type Take = Arc<dyn Fn(u64, Bytes) + Send + Sync>;

struct Endpoint {
    process: Arc<Process>,
    groups: BTreeMap<GroupId, Group>,
    take: Option<Take>,
    accept: Option<Accept>,
    /// Snapshots that it is being sent.
    transfers: BTreeMap<u64, Box<dyn SnapshotSink>>,
}

struct State {
    random: Random,
    last_transfer: u64,
    weather: BTreeMap<(u64, u64), Weather>,
    endpoints: BTreeMap<u64, Endpoint>,
    snapshots: u64,
}

/// The network.
#[derive(Clone)]
pub struct Net {
    state: Arc<Mutex<State>>,
    judge: Arc<Judge>,
}

impl Net {
    /// A network without nodes.
    pub fn new(random: Random, judge: Arc<Judge>) -> Net {
        Net {
            state: Arc::new(Mutex::new(State {
                random,
                last_transfer: 0,
                weather: BTreeMap::new(),
                endpoints: BTreeMap::new(),
                snapshots: 0,
            })),
            judge,
        }
    }

    /// Changes the weather on one way.
    pub fn set_weather(&self, from: u64, to: u64, change: impl FnOnce(&mut Weather)) {
        let mut state = self.state.lock();
        change(state.weather.entry((from, to)).or_insert(Weather::FINE));
    }

    /// The weather on one way.
    pub fn weather(&self, from: u64, to: u64) -> Weather {
        let state = self.state.lock();
        let known = state.weather.get(&(from, to));
        known.copied().unwrap_or(Weather::FINE)
    }

    /// A node's process is there.
    pub fn join(&self, node: u64, process: &Arc<Process>) {
        let endpoint = Endpoint {
            process: Arc::clone(process),
            groups: BTreeMap::new(),
            take: None,
            accept: None,
            transfers: BTreeMap::new(),
        };
        self.state.lock().endpoints.insert(node, endpoint);
    }

    /// It is not any more.
    pub fn leave(&self, node: u64) {
        let gone = self.state.lock().endpoints.remove(&node);
        drop(gone);
    }

    /// A group of the node may be asked.
    pub fn add_group(&self, group: Group) {
        let node = node_of(group.member());
        if let Some(endpoint) = self.state.lock().endpoints.get_mut(&node) {
            endpoint.groups.insert(group.group(), group);
        }
    }

    /// The node takes frames.
    pub fn set_take(&self, node: u64, take: Take) {
        if let Some(endpoint) = self.state.lock().endpoints.get_mut(&node) {
            endpoint.take = Some(take);
        }
    }

    /// The node takes connections.
    pub fn set_accept(&self, node: u64, accept: Accept) {
        if let Some(endpoint) = self.state.lock().endpoints.get_mut(&node) {
            endpoint.accept = Some(accept);
        }
    }

    /// A connection of a process to another node; `None`: it cannot be reached now.
    pub fn dial(&self, from: SessionId, to: u64) -> Option<Lane> {
        let ways = [(from.node, to), (to, from.node)];
        if ways.iter().any(|(a, b)| self.weather(*a, *b).cut) {
            return None;
        }
        let (process, accept) = {
            let state = self.state.lock();
            let endpoint = state.endpoints.get(&to)?;
            (Arc::clone(&endpoint.process), endpoint.accept.clone()?)
        };
        let (lane, arrived) = self.connection(from.node, to);
        drop(process.spawn(accept(from, arrived)));
        Some(lane)
    }

    /// Nodes that are there.
    pub fn nodes(&self) -> Vec<u64> {
        self.state.lock().endpoints.keys().copied().collect()
    }

    /// Snapshots that were installed somewhere.
    pub fn snapshots(&self) -> u64 {
        self.state.lock().snapshots
    }

    /// What sends for the member `me` of `group`.
    pub fn factory(&self, group: GroupId, me: MemberId) -> Factory {
        Factory {
            net: self.clone(),
            group,
            me,
        }
    }

    fn delay(&self, from: u64, to: u64) -> Duration {
        let (low, high) = self.weather(from, to).delay_us;
        let mut state = self.state.lock();
        Duration::from_micros(state.random.skewed(low, high))
    }

    fn draw(&self, permille: u64) -> bool {
        permille > 0 && self.state.lock().random.permille(permille)
    }

    /// The process of a node and one of its groups.
    fn find(&self, node: u64, group: GroupId) -> Option<(Arc<Process>, Group)> {
        let state = self.state.lock();
        let endpoint = state.endpoints.get(&node)?;
        let group = endpoint.groups.get(&group)?;
        Some((Arc::clone(&endpoint.process), Arc::clone(group)))
    }

    /// A packet's way; `false` if it does not arrive.
    async fn carry(&self, from: u64, to: u64) -> bool {
        let weather = self.weather(from, to);
        if weather.cut || self.draw(weather.lost) {
            return false;
        }
        NodeRuntime::sleep(self.delay(from, to)).await;
        !self.weather(from, to).cut
    }

    /// Waits while the way of a connection is cut; `false` if that breaks it.
    async fn passes(&self, from: u64, to: u64) -> bool {
        let mut waited = Duration::ZERO;
        let look = Duration::from_millis(20);
        while self.weather(from, to).cut {
            if waited >= CUT_MAX {
                return false;
            }
            NodeRuntime::sleep(look).await;
            waited += look;
        }
        true
    }

    /// Takes out where a snapshot is put.
    fn sink(&self, node: u64, transfer: u64) -> Option<Box<dyn SnapshotSink>> {
        let mut state = self.state.lock();
        state.endpoints.get_mut(&node)?.transfers.remove(&transfer)
    }

    /// Sends a frame: lost, twice or late as it may be.
    pub fn push(&self, from: u64, to: u64, frame: Bytes) {
        let copies = 1 + u64::from(self.draw(self.weather(from, to).twice));
        for _ in 0..copies {
            let (net, frame) = (self.clone(), frame.clone());
            in_flight(async move {
                if !net.carry(from, to).await {
                    return;
                }
                let found = {
                    let state = net.state.lock();
                    let endpoint = state.endpoints.get(&to);
                    endpoint.and_then(|e| Some((Arc::clone(&e.process), e.take.clone()?)))
                };
                if let Some((process, take)) = found {
                    drop(process.spawn(async move { take(from, frame) }));
                }
            });
        }
    }

    /// What a connection carries from one node to another, until it breaks.
    fn connection(&self, from: u64, to: u64) -> (Lane, mpsc::UnboundedReceiver<Bytes>) {
        let (sender, mut sent) = mpsc::unbounded_channel::<(Instant, Bytes)>();
        let (forward, arrived) = mpsc::unbounded_channel();
        let net = self.clone();
        in_flight(async move {
            loop {
                let next = NodeRuntime::select2(sent.recv(), forward.closed()).await;
                let Select2::First(Some((at, bytes))) = next else {
                    break;
                };
                NodeRuntime::sleep_until(at).await;
                if !net.passes(from, to).await || forward.send(bytes).is_err() {
                    break;
                }
            }
            drop(forward);
            // Whoever sends hears of the end over the way back.
            let _ = net.passes(to, from).await;
            NodeRuntime::sleep(net.delay(to, from)).await;
        });
        let lane = Lane {
            net: self.clone(),
            way: (from, to),
            last: Instant::now(),
            sender: Some(sender),
        };
        (lane, arrived)
    }
}

/// A snapshot that is being sent to a node; what was received of it goes when it breaks off.
struct Transfer {
    net: Net,
    node: u64,
    number: u64,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        drop(self.net.sink(self.node, self.number));
    }
}

/// One direction of a connection.
pub struct Lane {
    net: Net,
    way: (u64, u64),
    last: Instant,
    sender: Option<mpsc::UnboundedSender<(Instant, Bytes)>>,
}

impl Lane {
    /// Whether it has ended, as far as the sender knows.
    pub fn is_broken(&self) -> bool {
        self.sender.as_ref().is_none_or(|sender| sender.is_closed())
    }

    /// `false`: the connection is broken. What was sent before may still arrive.
    pub fn send(&mut self, bytes: Bytes) -> bool {
        let (from, to) = self.way;
        if self.net.draw(self.net.weather(from, to).breaks) {
            self.sender = None;
        }
        let Some(sender) = &self.sender else {
            return false;
        };
        self.last = self.last.max(Instant::now() + self.net.delay(from, to));
        sender.send((self.last, bytes)).is_ok()
    }
}

/// Makes the clients of one group of one node.
pub struct Factory {
    net: Net,
    group: GroupId,
    me: MemberId,
}

impl Factory {
    fn client(&self, to: MemberId, heartbeat: bool) -> Client {
        Client {
            net: self.net.clone(),
            group: self.group,
            me: self.me,
            to,
            heartbeat,
        }
    }
}

impl RaftNetworkFactory<C> for Factory {
    type Network = Client;

    async fn new_client(&mut self, to: MemberId, (): &()) -> Client {
        self.client(to, false)
    }

    async fn new_heartbeat_client(&mut self, to: MemberId, (): &()) -> Client {
        self.client(to, true)
    }
}

/// Asks one member of one group.
#[derive(Clone)]
pub struct Client {
    net: Net,
    group: GroupId,
    me: MemberId,
    to: MemberId,
    heartbeat: bool,
}

fn broken(why: &'static str) -> RpcError {
    NetworkError::new(&AnyError::error(why)).into()
}

fn joined(parts: Vec<Bytes>) -> Bytes {
    parts.iter().flat_map(|part| part.iter().copied()).collect()
}

impl Client {
    fn ways(&self) -> (u64, u64) {
        (node_of(self.me), node_of(self.to))
    }

    /// The target as it is now, if it is that member.
    fn find(&self) -> Option<(Arc<Process>, Group)> {
        let found = self.net.find(node_of(self.to), self.group);
        found.filter(|(_, group)| group.member() == self.to)
    }

    /// A request by itself; once, if it must not come twice.
    async fn ask(&self, once: bool, handler: Handler) -> Result<Bytes, RpcError> {
        let (from, to) = self.ways();
        let weather = self.net.weather(from, to);
        let copies = 1 + u64::from(!once && self.net.draw(weather.twice));
        let (tell, told) = oneshot::channel();
        let tell = Arc::new(Mutex::new(Some(tell)));
        for _ in 0..copies {
            let (client, handler, tell) = (self.clone(), Arc::clone(&handler), Arc::clone(&tell));
            in_flight(async move {
                if !client.net.carry(from, to).await {
                    // Nobody says so: the sender waits.
                    return NodeRuntime::sleep(SHORT).await;
                }
                let Some((process, group)) = client.find() else {
                    return;
                };
                let answer = process.spawn(handler(group)).await;
                let Ok(Some(Some(answer))) = answer else {
                    return;
                };
                if !client.net.carry(to, from).await {
                    return NodeRuntime::sleep(SHORT).await;
                }
                if let Some(tell) = tell.lock().take() {
                    let _ = tell.send(answer);
                }
            });
        }
        drop(tell);
        match NodeRuntime::timeout(SHORT, told).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(Unreachable::new(&AnyError::error("refused")).into()),
            Err(_) => Err(broken("timed out")),
        }
    }

    async fn append_one(&self, request: AppendEntriesRequest<C>) -> Result<AppendResult, RpcError> {
        self.net.judge.append_sent(self.group, &request.vote);
        let body = joined(rpc::encode_append(self.to, 0, &request));
        let handler: Handler = Arc::new(move |group| Box::pin(append_once(group, body.clone())));
        let answer = self.ask(false, handler).await?;
        rpc::decode_appended(&answer).map_err(|_| broken("malformed"))
    }

    fn pipeline<'s, S>(&'s self, input: S) -> BoxStream<'s, Result<AppendResult, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        let (from, to) = self.ways();
        let (lane, mut arrived) = self.net.connection(from, to);
        let (mut back, answers) = self.net.connection(to, from);
        let client = self.clone();
        in_flight(async move {
            let first = arrived.recv().await;
            let (Some(first), Some((process, group))) = (first, client.find()) else {
                return;
            };
            let requests = stream::unfold(
                (Some(first), arrived),
                |(mut first, mut arrived)| async move {
                    let bytes = match first.take() {
                        Some(bytes) => bytes,
                        None => arrived.recv().await?,
                    };
                    let (_, _, request) = rpc::decode_append::<NodeRuntime>(&bytes).ok()?;
                    Some((request, (None, arrived)))
                },
            );
            drop(process.spawn(async move {
                let mut results = group.append(requests.boxed());
                while let Some(Ok(result)) = results.next().await {
                    let bytes = rpc::encode_appended::<NodeRuntime>(&result);
                    if !back.send(bytes.into()) {
                        return;
                    }
                }
            }));
        });
        let state = Pipeline {
            client: self.clone(),
            input: Some(input),
            lane,
            answers,
            unanswered: 0,
        };
        let answers = stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            let item = state.next().await?;
            let goes_on = matches!(item, Ok(Ok(_)));
            Some((item, goes_on.then_some(state)))
        });
        answers.boxed()
    }

    /// What was sent long ago arrives again.
    fn stray(&self, body: Bytes) {
        let client = self.clone();
        let (from, to) = self.ways();
        let late = Duration::from_micros(self.net.state.lock().random.skewed(100, 800_000));
        in_flight(async move {
            NodeRuntime::sleep(late).await;
            if client.net.carry(from, to).await
                && let Some((process, group)) = client.find()
            {
                drop(process.spawn(append_once(group, body)));
            }
        });
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, MemberId, (), SnapshotHandle>,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let failed =
            |why: &'static str| StreamingError::from(NetworkError::new(&AnyError::error(why)));
        let SnapshotHandle::Outgoing(outgoing) = snapshot.snapshot else {
            return Err(failed("nothing to be sent"));
        };
        let node = node_of(self.to);
        let number = {
            let mut state = self.net.state.lock();
            state.last_transfer += 1;
            state.last_transfer
        };
        let transfer = Transfer {
            net: self.net.clone(),
            node,
            number,
        };
        let net = self.net.clone();
        let offer: Handler = Arc::new(move |group| {
            let net = net.clone();
            Box::pin(async move {
                let made = group.sink().await.ok()?;
                let have = made.have();
                let mut state = net.state.lock();
                let endpoint = state.endpoints.get_mut(&node)?;
                endpoint.transfers.insert(number, made);
                Some(have)
            })
        });
        let have = self.ask(true, offer).await?;
        let mut chunks = outgoing
            .source
            .open(&have)
            .map_err(|_| failed("not opened"))?;
        while let Some(chunk) = chunks.next_chunk().map_err(|_| failed("not read"))? {
            let net = self.net.clone();
            let handler: Handler = Arc::new(move |_| {
                let (net, chunk) = (net.clone(), chunk.clone());
                Box::pin(async move {
                    let mut sink = net.sink(node, number)?;
                    sink.chunk(chunk).ok()?;
                    let mut state = net.state.lock();
                    let endpoint = state.endpoints.get_mut(&node)?;
                    endpoint.transfers.insert(number, sink);
                    Some(Bytes::new())
                })
            });
            self.ask(true, handler).await?;
        }
        let meta = rpc::encode_snapshot(self.to, &vote, &snapshot.meta);
        let net = self.net.clone();
        let end: Handler = Arc::new(move |group| {
            let (meta, net) = (meta.clone(), net.clone());
            Box::pin(async move {
                let (_, vote, meta) = rpc::decode_snapshot(&meta).ok()?;
                let received = net.sink(node, number)?.finish().ok()?;
                let response = group.install(vote, meta, received).await.ok()?;
                net.state.lock().snapshots += 1;
                let answer = VoteResponse::<C>::new(response.vote, None, true);
                Some(rpc::encode_voted::<NodeRuntime>(&answer).into())
            })
        });
        let answer = self.ask(true, end).await?;
        drop(transfer);
        let answer = rpc::decode_voted::<NodeRuntime>(&answer).map_err(|_| failed("malformed"))?;
        Ok(SnapshotResponse::new(answer.vote))
    }
}

async fn append_once(group: Group, body: Bytes) -> Option<Bytes> {
    let (_, _, request) = rpc::decode_append::<NodeRuntime>(&body).ok()?;
    let mut results = group.append(stream::iter([request]).boxed());
    let result = results.next().await?.ok()?;
    Some(rpc::encode_appended::<NodeRuntime>(&result).into())
}

struct Pipeline<S> {
    client: Client,
    input: Option<S>,
    lane: Lane,
    answers: mpsc::UnboundedReceiver<Bytes>,
    unanswered: usize,
}

impl<S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin> Pipeline<S> {
    async fn next(&mut self) -> Option<Result<AppendResult, RpcError>> {
        loop {
            if self.unanswered == 0 && self.input.is_none() {
                return None;
            }
            let input = self.input.as_mut().filter(|_| self.unanswered < WINDOW);
            let request = async {
                match input {
                    Some(input) => input.next().await,
                    None => std::future::pending().await,
                }
            };
            let waits = match self.unanswered {
                0 => Duration::from_secs(3600),
                _ => APPEND,
            };
            let either = NodeRuntime::select2(self.answers.recv(), request);
            match NodeRuntime::timeout(waits, either).await {
                Err(_) if self.unanswered == 0 => {}
                Err(_) => return Some(Err(broken("no answers"))),
                Ok(Select2::First(Some(answer))) => {
                    self.unanswered = self.unanswered.saturating_sub(1);
                    return Some(rpc::decode_appended(&answer).map_err(|_| broken("malformed")));
                }
                Ok(Select2::First(None)) => return Some(Err(broken("ended"))),
                Ok(Select2::Second(None)) => self.input = None,
                Ok(Select2::Second(Some(request))) => {
                    let client = &self.client;
                    client.net.judge.append_sent(client.group, &request.vote);
                    let body = joined(rpc::encode_append(client.to, 1, &request));
                    let (from, to) = client.ways();
                    if client.net.draw(client.net.weather(from, to).twice) {
                        client.stray(body.clone());
                    }
                    if !self.lane.send(body) {
                        return Some(Err(broken("broken")));
                    }
                    self.unanswered += 1;
                }
            }
        }
    }
}

impl RaftNetworkV2<C> for Client {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<C>,
        _: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RpcError> {
        let last = request.entries.last().map(|entry| entry.log_id);
        let last = last.or(request.prev_log_id);
        Ok(rpc::response_of(last, self.append_one(request).await?))
    }

    #[allow(clippy::type_complexity, reason = "openraft's")]
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> Pin<
        Box<
            dyn Future<Output = Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
                + Send
                + 's,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let client = &*self;
            if client.heartbeat {
                let answers = input.then(move |request| client.append_one(request));
                return Ok(answers.boxed());
            }
            // Also a refusal takes its time.
            let (from, to) = client.ways();
            NodeRuntime::sleep(client.net.delay(from, to)).await;
            if client.find().is_none() {
                return Err(Unreachable::new(&AnyError::error("refused")).into());
            }
            Ok(client.pipeline(input))
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<C>,
        _: RPCOption,
    ) -> Result<VoteResponse<C>, RpcError> {
        let body = Bytes::from(rpc::encode_vote(self.to, &request));
        let handler: Handler = Arc::new(move |group| {
            let body = body.clone();
            Box::pin(async move {
                let (_, request) = rpc::decode_vote(&body).ok()?;
                let answer = group.vote(request).await.ok()?;
                Some(rpc::encode_voted::<NodeRuntime>(&answer).into())
            })
        });
        let answer = self.ask(false, handler).await?;
        rpc::decode_voted(&answer).map_err(|_| broken("malformed"))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        _: RPCOption,
    ) -> Result<VoteResponse<C>, RpcError> {
        let body = Bytes::from(rpc::encode_vote(self.to, &request));
        let handler: Handler = Arc::new(move |group| {
            let body = body.clone();
            Box::pin(async move {
                let (_, request) = rpc::decode_vote(&body).ok()?;
                let answer = group.pre_vote(request).await.ok()?;
                Some(rpc::encode_voted::<NodeRuntime>(&answer).into())
            })
        });
        let answer = self.ask(false, handler).await?;
        rpc::decode_voted(&answer).map_err(|_| broken("malformed"))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, MemberId, (), SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        match NodeRuntime::select2(cancel, self.send_snapshot(vote, snapshot)).await {
            Select2::First(closed) => Err(closed.into()),
            Select2::Second(sent) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RpcError> {
        let body = Bytes::from(rpc::encode_transfer(self.to, &request));
        let handler: Handler = Arc::new(move |group| {
            let body = body.clone();
            Box::pin(async move {
                let (_, request) = rpc::decode_transfer(&body).ok()?;
                let answer = group.transfer_leader(request).await.ok()?;
                Some(rpc::encode_transferred::<NodeRuntime>(&answer).into())
            })
        });
        let answer = self.ask(false, handler).await?;
        rpc::decode_transferred(&answer).map_err(|_| broken("malformed"))
    }

    fn backoff(&self) -> Option<Backoff> {
        let waits = std::iter::successors(Some(10u64), |wait| Some((wait * 2).min(200)));
        Some(Backoff::new(waits.map(Duration::from_millis)))
    }
}
