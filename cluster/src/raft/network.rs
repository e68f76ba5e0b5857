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

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{Stream, StreamExt};

use openraft::OptionalSend;
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::{AbortHandle, spawn_blocking};
use tokio::time::Instant;

use super::codec::{Malformed, Reader, put_vote, take_vote};
use super::group;
use super::rpc::{self, kind};
use super::snapshot::{SnapshotChunks, SnapshotHandle, SnapshotSink};
use super::types::{CommittedLeaderId, LogId, MemberId, SnapshotMeta, TokioTypes, Vote, node_of};
use crate::peers::{Answer, Answers, Handler, Inbound, Link, Peers, RequestError};
use crate::wire::frame::{Frame, Header};
use crate::wire::hello::Purpose;
use crate::wire::sender::Lane;
use crate::{GroupId, METADATA_GROUP};

type C = TokioTypes;
type RpcError = RPCError<C>;
type AppendResult = StreamAppendResult<C>;
type SnapshotOf = Snapshot<CommittedLeaderId, MemberId, (), SnapshotHandle>;

/// How long an append to a member waits that there is no connection to.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);
/// How long news of what is committed waits for entries to go with.
const COMMIT_HOLD: Duration = Duration::from_millis(10);
/// Appends of one stream without an answer.
const WINDOW_REQUESTS: usize = 64;
/// Their bytes; one more may go.
const WINDOW_BYTES: usize = 16 << 20;
/// Chunks of one snapshot without an answer.
const WINDOW_CHUNKS: usize = 8;
/// Snapshots that a node receives at once.
const TRANSFERS_MAX: usize = 2;
/// Requests of a kind that one group may be asked at once, before more are refused.
const ANSWERING_MAX: usize = 1024;

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

/// Asks one member of one group.
pub struct Client {
    network: GroupNetwork,
    target: MemberId,
    /// Appends are single requests in the urgent lane.
    heartbeat: bool,
}

impl Client {
    fn link(&self, purpose: Purpose) -> Result<Link, RequestError> {
        self.network
            .shared
            .peers
            .link(node_of(self.target), purpose)
            .ok_or(RequestError::NotConnected)
    }

    fn error(&self, action: RPCTypes, error: RequestError) -> RpcError {
        let config = &self.network.shared.config;
        match error {
            RequestError::Broken | RequestError::Frame(_) => NetworkError::new(&error).into(),
            RequestError::TimedOut => Timeout {
                action,
                id: self.network.me,
                target: self.target,
                timeout: match action {
                    RPCTypes::AppendEntries => config.append,
                    RPCTypes::InstallSnapshot => config.chunk,
                    _ => config.short,
                },
            }
            .into(),
            // The next try may wait.
            RequestError::NotConnected | RequestError::Full | RequestError::Failed(_) => {
                Unreachable::new(&error).into()
            }
        }
    }

    /// One urgent request.
    async fn ask<T>(
        &self,
        (kind, action): (u8, RPCTypes),
        body: impl Into<crate::wire::frame::Body>,
        decode: impl FnOnce(&Bytes) -> Result<T, Malformed>,
    ) -> Result<T, RpcError> {
        let asked = async {
            let link = self.link(Purpose::Raft)?;
            let (group, timeout) = (self.network.group, self.network.shared.config.short);
            link.request(Lane::Urgent, kind, group, body, timeout).await
        };
        let frame = asked.await.map_err(|error| self.error(action, error))?;
        decode(&frame.body).map_err(|error| NetworkError::new(&error).into())
    }

    async fn append_one(&self, request: AppendEntriesRequest<C>) -> Result<AppendResult, RpcError> {
        let body = rpc::encode_append(self.target, 0, &request);
        let about = (kind::APPEND_ONE, RPCTypes::AppendEntries);
        self.ask(about, body, |body| rpc::decode_appended(body))
            .await
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: SnapshotOf,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let SnapshotHandle::Outgoing(outgoing) = snapshot.snapshot else {
            return Err(Unreachable::from_string("this snapshot is not one to be sent").into());
        };
        let failed = |error| StreamingError::from(self.error(RPCTypes::InstallSnapshot, error));
        let read = |error: io::Error| StreamingError::from(NetworkError::new(&error));
        let answer = |error: Malformed| StreamingError::from(NetworkError::new(&error));
        let config = &self.network.shared.config;
        let link = self.link(Purpose::Stream).map_err(failed)?;
        let group = self.network.group;
        let offer = rpc::encode_snapshot(self.target, &vote, &snapshot.meta);
        let offered = link.request(Lane::Bulk, kind::SNAPSHOT, group, offer, config.chunk);
        let wanted = offered.await.map_err(failed)?.body;
        let (transfer, have) = rpc::decode_part(&wanted).map_err(answer)?;
        let mut abort = AbortOnDrop {
            link: Some(link.clone()),
            group,
            transfer,
        };
        let source = Arc::clone(&outgoing.source);
        let opened = blocking(move || source.open(&have)).await;
        let mut chunks = opened.map_err(read)?;
        let mut window: VecDeque<Answer> = VecDeque::new();
        loop {
            let (rest, chunk) = next_chunk(chunks).await.map_err(read)?;
            chunks = rest;
            let Some(chunk) = chunk else {
                break;
            };
            self.pace(chunk.len()).await;
            if window.len() >= WINDOW_CHUNKS {
                taken(&mut window, config.chunk).await.map_err(failed)?;
            }
            let body = rpc::encode_part(transfer, chunk);
            link.sender().room(Lane::Bulk).await;
            let sent = link.begin(Lane::Bulk, kind::CHUNK, group, body);
            window.push_back(sent.map_err(failed)?);
        }
        while !window.is_empty() {
            taken(&mut window, config.chunk).await.map_err(failed)?;
        }
        let number = transfer.to_le_bytes().to_vec();
        let ended = link.request(Lane::Bulk, kind::END, group, number, config.install);
        let frame = ended.await.map_err(failed)?;
        abort.link = None;
        let vote = take_vote(&mut Reader::new(&frame.body)).map_err(answer)?;
        Ok(SnapshotResponse::new(vote))
    }

    /// Waits until `bytes` more may be sent.
    async fn pace(&self, bytes: usize) {
        let rate = self.network.shared.config.snapshot_bytes_per_second.max(1);
        let takes = Duration::from_secs_f64(bytes as f64 / rate as f64);
        let due = {
            let mut next = self.network.shared.next_chunk.lock();
            let due = (*next).max(Instant::now());
            *next = due + takes;
            due
        };
        tokio::time::sleep_until(due).await;
    }
}

/// Tells the receiver that there will be no more, unless it was ended.
struct AbortOnDrop {
    link: Option<Link>,
    group: u16,
    transfer: u64,
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(link) = &self.link {
            let number = self.transfer.to_le_bytes().to_vec();
            // A connection that has ended says as much.
            let _ = link.push(Lane::Bulk, kind::ABORT, self.group, number);
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work)
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
}

async fn next_chunk(
    mut chunks: Box<dyn SnapshotChunks>,
) -> io::Result<(Box<dyn SnapshotChunks>, Option<Bytes>)> {
    blocking(move || {
        let chunk = chunks.next_chunk()?;
        Ok((chunks, chunk))
    })
    .await
}

/// The oldest chunk was taken.
async fn taken(window: &mut VecDeque<Answer>, timeout: Duration) -> Result<(), RequestError> {
    let Some(answer) = window.pop_front() else {
        return Ok(());
    };
    let answered = tokio::time::timeout(timeout, answer).await;
    answered.unwrap_or(Err(RequestError::TimedOut)).map(drop)
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
        Ok(match self.append_one(request).await? {
            Ok(matching) if matching == last => AppendEntriesResponse::Success,
            Ok(matching) => AppendEntriesResponse::PartialSuccess(matching),
            Err(StreamAppendError::Conflict(_)) => AppendEntriesResponse::Conflict,
            Err(StreamAppendError::HigherVote(vote)) => AppendEntriesResponse::HigherVote(vote),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<AppendResult, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<C>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            if self.heartbeat {
                let client = &*self;
                let answers = input.then(move |request| client.append_one(request));
                return Ok(answers.boxed());
            }
            if self.link(Purpose::Raft).is_err() {
                // openraft would ask again at once, some twenty times before its own pause.
                tokio::time::sleep(UNREACHABLE_PAUSE).await;
            }
            let link = self
                .link(Purpose::Raft)
                .map_err(|error| self.error(RPCTypes::AppendEntries, error))?;
            let pipeline = Pipeline {
                stream: 1 + self.network.shared.streams.fetch_add(1, Ordering::Relaxed),
                client: self,
                link,
                input: Some(input),
                staged: None,
                held: None,
                sent: None,
                window: VecDeque::new(),
                window_bytes: 0,
                progress: Instant::now(),
            };
            let answers = unfold(Some(pipeline), |pipeline| async move {
                let mut pipeline = pipeline?;
                let item = pipeline.next().await?;
                let goes_on = matches!(item, Ok(Ok(_)));
                Some((item, goes_on.then_some(pipeline)))
            });
            Ok(answers.boxed())
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<C>,
        _: RPCOption,
    ) -> Result<VoteResponse<C>, RpcError> {
        let body = rpc::encode_vote(self.target, &request);
        let about = (kind::VOTE, RPCTypes::Vote);
        self.ask(about, body, |body| rpc::decode_voted(body)).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<C>,
        _: RPCOption,
    ) -> Result<VoteResponse<C>, RpcError> {
        let body = rpc::encode_vote(self.target, &request);
        let about = (kind::PRE_VOTE, RPCTypes::Vote);
        self.ask(about, body, |body| rpc::decode_voted(body)).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        tokio::select! {
            closed = cancel => Err(closed.into()),
            sent = self.send_snapshot(vote, snapshot) => sent,
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<C>,
        _: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RpcError> {
        let body = rpc::encode_transfer(self.target, &request);
        let about = (kind::TRANSFER, RPCTypes::TransferLeader);
        self.ask(about, body, |body| rpc::decode_transferred(body))
            .await
    }

    fn backoff(&self) -> Option<Backoff> {
        // A connection that is back is not known here: ask soon.
        let waits = std::iter::successors(Some(10u64), |wait| Some((wait * 2).min(200)));
        Some(Backoff::new(waits.map(Duration::from_millis)))
    }
}

/// Appends on their way to one member, and the answers in the same order.
struct Pipeline<'c, S> {
    client: &'c Client,
    link: Link,
    stream: u64,
    /// Nothing when it has ended.
    input: Option<S>,
    /// Taken from the input; its lane was full.
    staged: Option<AppendEntriesRequest<C>>,
    /// Has only news of what is committed, and goes by then if nothing else does before.
    held: Option<(AppendEntriesRequest<C>, Instant)>,
    /// Id of the last entry that was sent; nothing before anything was.
    sent: Option<Option<LogId>>,
    window: VecDeque<(Answer, usize)>,
    window_bytes: usize,
    /// When an answer last came, or something was sent with nothing in flight.
    progress: Instant,
}

impl<S: Stream<Item = AppendEntriesRequest<C>> + Unpin> Pipeline<'_, S> {
    async fn next(&mut self) -> Option<Result<AppendResult, RpcError>> {
        let client = self.client;
        let failed = |error| Some(Err(client.error(RPCTypes::AppendEntries, error)));
        let idle = client.network.shared.config.append;
        loop {
            if let Some(request) = self.staged.take() {
                match self.send(&request) {
                    Ok(()) => {}
                    Err(RequestError::Full) => self.staged = Some(request),
                    Err(error) => return failed(error),
                }
            }
            if self.input.is_none() && self.staged.is_none() {
                self.staged = self.held.take().map(|(request, _)| request);
                if self.staged.is_some() {
                    continue;
                }
            }
            let full = self.window.len() >= WINDOW_REQUESTS || self.window_bytes >= WINDOW_BYTES;
            let takes = !full && self.staged.is_none() && self.input.is_some();
            let waits = !self.window.is_empty();
            if !waits && !takes && self.staged.is_none() {
                return None;
            }
            tokio::select! {
                biased;
                answered = front(&mut self.window), if waits => {
                    if let Some((_, bytes)) = self.window.pop_front() {
                        self.window_bytes -= bytes;
                    }
                    self.progress = Instant::now();
                    return match answered.map(|frame| rpc::decode_appended(&frame.body)) {
                        Ok(Ok(result)) => Some(Ok(result)),
                        Ok(Err(error)) => Some(Err(NetworkError::new(&error).into())),
                        Err(error) => failed(error),
                    };
                }
                request = next_of(&mut self.input), if takes => match request {
                    Some(request) => self.take(request),
                    None => self.input = None,
                },
                () = until(self.held.as_ref()), if takes && self.held.is_some() => {
                    self.staged = self.held.take().map(|(request, _)| request);
                }
                () = self.link.sender().room(Lane::Bulk), if self.staged.is_some() => {}
                () = tokio::time::sleep_until(self.progress + idle), if waits => {
                    return failed(RequestError::TimedOut);
                }
            }
        }
    }

    /// What is committed goes along with the next entries, if some come soon: a follower needs it for nothing but its own state. Of
    /// the metadata all nodes have to know it at once. openraft counts an answer for everything that was asked before.
    fn take(&mut self, request: AppendEntriesRequest<C>) {
        let group = self.client.network.group;
        let news = request.entries.is_empty() && self.sent == Some(request.prev_log_id);
        if news && u32::from(group) != METADATA_GROUP {
            let by = self.held.take().map(|(_, by)| by);
            self.held = Some((request, by.unwrap_or_else(|| Instant::now() + COMMIT_HOLD)));
        } else {
            self.held = None;
            self.staged = Some(request);
        }
    }

    fn send(&mut self, request: &AppendEntriesRequest<C>) -> Result<(), RequestError> {
        let parts = rpc::encode_append(self.client.target, self.stream, request);
        let bytes = parts.iter().map(Bytes::len).sum();
        let group = self.client.network.group;
        let answer = self.link.begin(Lane::Bulk, kind::APPEND, group, parts)?;
        if self.window.is_empty() {
            self.progress = Instant::now();
        }
        self.window.push_back((answer, bytes));
        self.window_bytes += bytes;
        let last = request.entries.last().map(|entry| entry.log_id);
        self.sent = Some(last.or(request.prev_log_id));
        Ok(())
    }
}

async fn front(window: &mut VecDeque<(Answer, usize)>) -> Result<Frame, RequestError> {
    match window.front_mut() {
        Some((answer, _)) => answer.await,
        None => std::future::pending().await,
    }
}

async fn until<T>(held: Option<&(T, Instant)>) {
    match held {
        Some((_, by)) => tokio::time::sleep_until(*by).await,
        None => std::future::pending().await,
    }
}

async fn next_of<S: Stream + Unpin>(input: &mut Option<S>) -> Option<S::Item> {
    match input {
        Some(input) => input.next().await,
        None => None,
    }
}

/// One of this node's groups.
type Group = Arc<dyn group::Inbound<TokioRuntime>>;

fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The groups that peers may ask, for [`crate::peers::Handlers`]: of `raft` and of `stream` connections.
pub struct RaftService {
    groups: RwLock<HashMap<u16, Group>>,
    transfers: Arc<Semaphore>,
    next_transfer: AtomicU64,
    answering: Arc<Semaphore>,
}

impl Default for RaftService {
    fn default() -> Self {
        RaftService {
            groups: RwLock::default(),
            transfers: Arc::new(Semaphore::new(TRANSFERS_MAX)),
            next_transfer: AtomicU64::new(1),
            answering: Arc::new(Semaphore::new(ANSWERING_MAX)),
        }
    }
}

impl RaftService {
    /// No groups yet.
    pub fn new() -> RaftService {
        RaftService::default()
    }

    /// From now on this group may be asked. It takes the place of an earlier one with its number.
    pub fn add(&self, group: Group) {
        // Numbers end at `GROUPS_END`.
        if let Ok(number) = u16::try_from(group.group()) {
            self.groups.write().insert(number, group);
        }
    }

    /// The group is not to be asked any more.
    pub fn remove(&self, group: u16) {
        self.groups.write().remove(&group);
    }

    fn group(&self, number: u16, target: MemberId) -> Result<Group, String> {
        let groups = self.groups.read();
        let group = groups
            .get(&number)
            .ok_or_else(|| format!("group {number} is not here (yet)"))?;
        if group.member() != target {
            let here = group.member();
            return Err(format!(
                "member {here} of group {number} is here, not {target}"
            ));
        }
        Ok(Arc::clone(group))
    }

    async fn serve_raft(self: Arc<Self>, mut inbound: Inbound) {
        let mut streams: HashMap<u16, Streaming> = HashMap::new();
        let answers = inbound.answers().clone();
        let peer = inbound.peer().name.clone();
        loop {
            let frame = match inbound.next().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return,
                Err(error) => {
                    tracing::info!(%peer, %error, "a raft connection ended");
                    return;
                }
            };
            let header = frame.header;
            let taken = match header.kind {
                kind::APPEND => self.stream(&mut streams, &answers, &frame),
                _ => self.single(&answers, &frame),
            };
            if let Err(reason) = taken {
                // Who does not take answers asks again.
                let _ = answers.fail(Lane::Urgent, &header, &reason);
            }
        }
    }

    /// Gives a part of a stream of appends to its group.
    fn stream(
        &self,
        streams: &mut HashMap<u16, Streaming>,
        answers: &Answers,
        frame: &Frame,
    ) -> Result<(), String> {
        let (target, number, request) = rpc::decode_append(&frame.body).map_err(text)?;
        let group = self.group(frame.header.group, target)?;
        let current = streams.get(&frame.header.group).map_or(0, |s| s.number);
        if number < current {
            return Err("another stream has begun".into());
        }
        if number > current {
            let streaming = Streaming::begin(number, &group, answers.clone());
            streams.insert(frame.header.group, streaming);
        }
        match streams.get(&frame.header.group) {
            Some(streaming) => streaming
                .input
                .try_send((frame.header, request))
                .map_err(|_| "the stream has ended".into()),
            None => Err("there is no stream".into()),
        }
    }

    /// Answers a request in a task of its own.
    fn single(&self, answers: &Answers, frame: &Frame) -> Result<(), String> {
        let permit = Arc::clone(&self.answering).try_acquire_owned();
        let permit = permit.map_err(|_| "too many requests at once")?;
        let (number, body) = (frame.header.group, &frame.body);
        let answer: BoxFuture<'static, Result<Vec<u8>, String>> = match frame.header.kind {
            kind::APPEND_ONE => {
                let (target, _, request) = rpc::decode_append(body).map_err(text)?;
                let one = futures_util::stream::once(std::future::ready(request)).boxed();
                let mut appended = self.group(number, target)?.append(one);
                Box::pin(async move {
                    match appended.next().await {
                        Some(result) => Ok(rpc::encode_appended(&result.map_err(text)?)),
                        None => Err("the group has stopped".into()),
                    }
                })
            }
            kind::VOTE | kind::PRE_VOTE => {
                let (target, request) = rpc::decode_vote(body).map_err(text)?;
                let group = self.group(number, target)?;
                let voted = match frame.header.kind {
                    kind::PRE_VOTE => group.pre_vote(request),
                    _ => group.vote(request),
                };
                Box::pin(async { Ok(rpc::encode_voted(&voted.await.map_err(text)?)) })
            }
            kind::TRANSFER => {
                let (target, request) = rpc::decode_transfer(body).map_err(text)?;
                let done = self.group(number, target)?.transfer_leader(request);
                Box::pin(async { Ok(rpc::encode_transferred(&done.await.map_err(text)?)) })
            }
            unknown => return Err(format!("unknown request {unknown}")),
        };
        let (answers, header) = (answers.clone(), frame.header);
        tokio::spawn(async move {
            let _permit = permit;
            // Who does not take answers asks again.
            let _ = match answer.await {
                Ok(body) => answers.answer(Lane::Urgent, &header, body),
                Err(reason) => answers.fail(Lane::Urgent, &header, &reason),
            };
        });
        Ok(())
    }

    async fn serve_stream(self: Arc<Self>, mut inbound: Inbound) {
        let mut transfers: HashMap<u64, Receiving> = HashMap::new();
        let answers = inbound.answers().clone();
        while let Ok(Some(frame)) = inbound.next().await {
            transfers.retain(|_, receiving| !receiving.parts.is_closed());
            let taken = match frame.header.kind {
                kind::SNAPSHOT => self.receive(&mut transfers, &answers, &frame),
                kind::CHUNK | kind::END => part(&transfers, &frame),
                kind::ABORT => {
                    if let Ok((transfer, _)) = rpc::decode_part(&frame.body) {
                        transfers.remove(&transfer);
                    }
                    continue;
                }
                unknown => Err(format!("unknown request {unknown}")),
            };
            if let Err(reason) = taken {
                // Who does not take answers gives up.
                let _ = answers.fail(Lane::Bulk, &frame.header, &reason);
            }
        }
    }

    /// A snapshot is offered.
    fn receive(
        &self,
        transfers: &mut HashMap<u64, Receiving>,
        answers: &Answers,
        frame: &Frame,
    ) -> Result<(), String> {
        let (target, vote, meta) = rpc::decode_snapshot(&frame.body).map_err(text)?;
        let group = self.group(frame.header.group, target)?;
        let permit = Arc::clone(&self.transfers).try_acquire_owned();
        let permit = permit.map_err(|_| "this node receives other snapshots")?;
        let transfer = self.next_transfer.fetch_add(1, Ordering::Relaxed);
        // One for the end.
        let (parts, input) = mpsc::channel(WINDOW_CHUNKS + 1);
        let receiver = Receiver {
            group,
            vote,
            meta,
            transfer,
            answers: answers.clone(),
            _permit: permit,
        };
        let task = tokio::spawn(receiver.run(frame.header, input)).abort_handle();
        transfers.insert(transfer, Receiving { parts, task });
        Ok(())
    }
}

impl Handler for RaftService {
    fn serve(self: Arc<Self>, inbound: Inbound) -> BoxFuture<'static, ()> {
        match inbound.purpose() {
            Purpose::Raft => Box::pin(self.serve_raft(inbound)),
            Purpose::Stream => Box::pin(self.serve_stream(inbound)),
            Purpose::Session | Purpose::Founding => Box::pin(std::future::ready(())),
        }
    }
}

/// A stream of appends from one peer to one group. Dropped, its input ends.
struct Streaming {
    number: u64,
    input: mpsc::Sender<(Header, AppendEntriesRequest<C>)>,
}

impl Streaming {
    fn begin(number: u64, group: &Group, answers: Answers) -> Streaming {
        // The sender has fewer in flight, so a full channel is its mistake.
        let (input, receiver) = mpsc::channel(WINDOW_REQUESTS + 1);
        let asked = Arc::new(Mutex::new(VecDeque::<Header>::new()));
        let requests = unfold(
            (receiver, Arc::clone(&asked)),
            |(mut receiver, asked)| async {
                let (header, request) = receiver.recv().await?;
                asked.lock().push_back(header);
                Some((request, (receiver, asked)))
            },
        );
        let mut results = group.append(requests.boxed());
        tokio::spawn(async move {
            while let Some(result) = results.next().await {
                let Some(header) = asked.lock().pop_front() else {
                    return;
                };
                let told = match result {
                    Ok(result) => {
                        answers.answer(Lane::Urgent, &header, rpc::encode_appended(&result))
                    }
                    Err(fatal) => answers.fail(Lane::Urgent, &header, &fatal.to_string()),
                };
                if told.is_err() {
                    // Answers have an order: none after one that is missing.
                    return;
                }
            }
        });
        Streaming { number, input }
    }
}

/// A snapshot that is being received. Dropped, it is given up.
struct Receiving {
    parts: mpsc::Sender<(Header, Option<Bytes>)>,
    task: AbortHandle,
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // One that is being installed is in openraft's hands.
        self.task.abort();
    }
}

/// A chunk, or the end, of a transfer.
fn part(transfers: &HashMap<u64, Receiving>, frame: &Frame) -> Result<(), String> {
    let (transfer, chunk) = rpc::decode_part(&frame.body).map_err(text)?;
    let receiving = transfers
        .get(&transfer)
        .ok_or("there is no such transfer")?;
    let chunk = (frame.header.kind == kind::CHUNK).then_some(chunk);
    let part = (frame.header, chunk);
    receiving
        .parts
        .try_send(part)
        .map_err(|_| "the transfer has ended".into())
}

struct Receiver {
    group: Group,
    vote: Vote,
    meta: SnapshotMeta,
    transfer: u64,
    answers: Answers,
    _permit: OwnedSemaphorePermit,
}

impl Receiver {
    async fn run(self, offer: Header, mut input: mpsc::Receiver<(Header, Option<Bytes>)>) {
        let mut sink = match self.group.sink().await {
            Ok(sink) => sink,
            Err(error) => return self.fail(&offer, &error),
        };
        let wanted = rpc::encode_part(self.transfer, sink.have());
        let _ = self.answers.answer(Lane::Bulk, &offer, wanted);
        while let Some((header, chunk)) = input.recv().await {
            let Some(chunk) = chunk else {
                return self.install(&header, sink).await;
            };
            let put = blocking(move || {
                sink.chunk(chunk)?;
                Ok(sink)
            });
            sink = match put.await {
                Ok(sink) => sink,
                Err(error) => return self.fail(&header, &error),
            };
            let _ = self.answers.answer(Lane::Bulk, &header, Bytes::new());
        }
    }

    async fn install(&self, end: &Header, sink: Box<dyn SnapshotSink>) {
        let received = match blocking(move || sink.finish()).await {
            Ok(received) => received,
            Err(error) => return self.fail(end, &error),
        };
        let installed = self.group.install(self.vote, self.meta.clone(), received);
        match installed.await {
            Ok(response) => {
                let mut vote = Vec::new();
                put_vote(&mut vote, &response.vote);
                let _ = self.answers.answer(Lane::Bulk, end, vote);
            }
            Err(error) => self.fail(end, &error),
        }
    }

    fn fail(&self, header: &Header, error: &(dyn std::error::Error + Sync)) {
        tracing::error!(group = header.group, %error, "a snapshot was not received");
        let _ = self.answers.fail(Lane::Bulk, header, &error.to_string());
    }
}
