//! Serves what other members ask of this node's groups: votes, appends in the order of their stream, and snapshots.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::unfold;

use openraft::raft::AppendEntriesRequest;
use openraft_rt_tokio::TokioRuntime;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;

use crate::peers::{Answers, Handler, Inbound};
use crate::raft::codec::put_vote;
use crate::raft::group;
use crate::raft::rpc::{self, kind};
use crate::raft::snapshot::SnapshotSink;
use crate::raft::types::{MemberId, SnapshotMeta, Vote};
use crate::wire::frame::{Frame, Header};
use crate::wire::hello::Purpose;
use crate::wire::sender::Lane;

use super::{C, WINDOW_CHUNKS, WINDOW_REQUESTS, blocking};

/// Snapshots that a node receives at once.
const TRANSFERS_MAX: usize = 2;
/// Requests of a kind that one group may be asked at once, before more are refused.
const ANSWERING_MAX: usize = 1024;

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
