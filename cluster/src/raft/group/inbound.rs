//! What comes in from other members.

use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt};
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::rt::{AsyncRuntime, WatchSender};
use openraft::storage::Snapshot;

use crate::GroupId;
use crate::raft::snapshot::{Received, SnapshotHandle, SnapshotSink};
use crate::raft::state_machine::Machine;
use crate::raft::types::{MemberId, SnapshotMeta, Types, Vote};

use super::{BoxFuture, RaftGroup};

/// The answer to come to another member.
pub type Asked<T, E> = BoxFuture<'static, Result<T, E>>;

/// The answers to come to a leader.
pub type Appended<R> = BoxStream<'static, Result<StreamAppendResult<Types<R>>, Fatal<Types<R>>>>;

/// What comes in from other members, without the state machine's type.
///
/// Every future and stream is the group's own: it does not borrow from the handle.
pub trait Inbound<R: AsyncRuntime>: Send + Sync {
    /// The group's number.
    fn group(&self) -> GroupId;

    /// Who this node is in it.
    fn member(&self) -> MemberId;

    /// The answer to each request, in order: of replication, which is one stream for each connection of a leader.
    fn append(&self, requests: BoxStream<'static, AppendEntriesRequest<Types<R>>>) -> Appended<R>;

    /// A request for a vote.
    fn vote(
        &self,
        request: VoteRequest<Types<R>>,
    ) -> Asked<VoteResponse<Types<R>>, RaftError<Types<R>>>;

    /// A question for a vote, which changes nothing.
    fn pre_vote(
        &self,
        request: VoteRequest<Types<R>>,
    ) -> Asked<VoteResponse<Types<R>>, RaftError<Types<R>>>;

    /// The leader hands itself over.
    fn transfer_leader(
        &self,
        request: TransferLeaderRequest<Types<R>>,
    ) -> Asked<TransferLeaderResponse<Types<R>>, Fatal<Types<R>>>;

    /// Where a snapshot's chunks are to be put.
    fn sink(&self) -> Asked<Box<dyn SnapshotSink>, Fatal<Types<R>>>;

    /// Installs what the sink gave in the end, for the leader with this vote.
    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        received: Box<dyn std::any::Any + Send>,
    ) -> Asked<SnapshotResponse<Types<R>>, Fatal<Types<R>>>;
}

impl<R: AsyncRuntime, M: Machine> Inbound<R> for RaftGroup<R, M> {
    fn group(&self) -> GroupId {
        self.config.group
    }

    fn member(&self) -> MemberId {
        self.config.member
    }

    fn append(&self, requests: BoxStream<'static, AppendEntriesRequest<Types<R>>>) -> Appended<R> {
        self.raft.stream_append(requests).boxed()
    }

    fn vote(
        &self,
        request: VoteRequest<Types<R>>,
    ) -> Asked<VoteResponse<Types<R>>, RaftError<Types<R>>> {
        let raft = self.raft.clone();
        Box::pin(async move { raft.vote(request).await })
    }

    fn pre_vote(
        &self,
        request: VoteRequest<Types<R>>,
    ) -> Asked<VoteResponse<Types<R>>, RaftError<Types<R>>> {
        let (raft, ahead) = (self.raft.clone(), Arc::clone(&self.ahead));
        Box::pin(async move {
            let theirs = request.last_log_id;
            let answer = raft.pre_vote(request).await?;
            if !answer.vote_granted && answer.last_log_id > theirs {
                ahead.lock().send_if_modified(|count| {
                    *count += 1;
                    true
                });
            }
            Ok(answer)
        })
    }

    fn transfer_leader(
        &self,
        request: TransferLeaderRequest<Types<R>>,
    ) -> Asked<TransferLeaderResponse<Types<R>>, Fatal<Types<R>>> {
        let raft = self.raft.clone();
        Box::pin(async move { raft.handle_transfer_leader(request).await })
    }

    fn sink(&self) -> Asked<Box<dyn SnapshotSink>, Fatal<Types<R>>> {
        let raft = self.raft.clone();
        Box::pin(async move {
            raft.with_state_machine(|machine| {
                let sink = machine.machine().sink();
                Box::pin(async move { sink })
            })
            .await
        })
    }

    fn install(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        received: Box<dyn std::any::Any + Send>,
    ) -> Asked<SnapshotResponse<Types<R>>, Fatal<Types<R>>> {
        let raft = self.raft.clone();
        let snapshot = SnapshotHandle::Received(Received::new(received));
        let snapshot = Snapshot { meta, snapshot };
        Box::pin(async move { raft.install_full_snapshot(vote, snapshot).await })
    }
}
