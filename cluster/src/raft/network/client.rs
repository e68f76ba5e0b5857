//! Asks one member of one group: single requests, the stream of appends, and a snapshot in chunks.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{Stream, StreamExt};

use openraft::OptionalSend;
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::storage::Snapshot;
use tokio::time::Instant;

use crate::peers::{Answer, Link, RequestError};
use crate::raft::codec::{Malformed, Reader, take_vote};
use crate::raft::rpc::{self, kind};
use crate::raft::snapshot::{SnapshotChunks, SnapshotHandle};
use crate::raft::types::{CommittedLeaderId, MemberId, Vote, node_of};
use crate::wire::hello::Purpose;
use crate::wire::sender::Lane;

use super::pipeline::Pipeline;
use super::{AppendResult, C, GroupNetwork, RpcError, WINDOW_CHUNKS, blocking};

type SnapshotOf = Snapshot<CommittedLeaderId, MemberId, (), SnapshotHandle>;

/// How long an append to a member waits that there is no connection to.
const UNREACHABLE_PAUSE: Duration = Duration::from_millis(100);

/// Asks one member of one group.
pub struct Client {
    pub(super) network: GroupNetwork,
    pub(super) target: MemberId,
    /// Appends are single requests in the urgent lane.
    pub(super) heartbeat: bool,
}

impl Client {
    fn link(&self, purpose: Purpose) -> Result<Link, RequestError> {
        self.network
            .shared
            .peers
            .link(node_of(self.target), purpose)
            .ok_or(RequestError::NotConnected)
    }

    pub(super) fn error(&self, action: RPCTypes, error: RequestError) -> RpcError {
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
        Ok(rpc::response_of(last, self.append_one(request).await?))
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
            let number = 1 + self.network.shared.streams.fetch_add(1, Ordering::Relaxed);
            let pipeline = Pipeline::new(self, link, number, input);
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
