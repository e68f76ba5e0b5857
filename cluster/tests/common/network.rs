//! A network between the members of one process: direct calls, with replication pipelined. Members can be cut off.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::sync::Arc;

use futures_util::stream::{Stream, StreamExt};
use leveret_cluster::GroupId;
use leveret_cluster::raft::group::{BoxFuture, Inbound};
use leveret_cluster::raft::snapshot::SnapshotHandle;
use leveret_cluster::raft::types::{CommittedLeaderId, MemberId, Types, Vote};
use openraft::base::BoxStream;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::rt::AsyncRuntime;
use openraft::storage::Snapshot;
use openraft::{AnyError, OptionalSend};
use parking_lot::Mutex;

type Answers<'s, R> = BoxStream<'s, Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>>>;
type Groups<R> = HashMap<(GroupId, MemberId), Arc<dyn Inbound<R>>>;

struct State<R> {
    groups: Groups<R>,
    cut: HashSet<MemberId>,
    snapshots: usize,
}

/// All members there are.
pub struct Router<R>(Arc<Mutex<State<R>>>);

impl<R> Clone for Router<R> {
    fn clone(&self) -> Self {
        Router(Arc::clone(&self.0))
    }
}

impl<R> Default for Router<R> {
    fn default() -> Self {
        Router(Arc::new(Mutex::new(State {
            groups: HashMap::new(),
            cut: HashSet::new(),
            snapshots: 0,
        })))
    }
}

impl<R: AsyncRuntime> Router<R> {
    pub fn add(&self, group: Arc<dyn Inbound<R>>) {
        let key = (group.group(), group.member());
        self.0.lock().groups.insert(key, group);
    }

    /// The member's process is gone.
    pub fn remove(&self, group: GroupId, member: MemberId) {
        self.0.lock().groups.remove(&(group, member));
    }

    /// The member hears and says nothing, or does again.
    pub fn cut(&self, member: MemberId, cut: bool) {
        let mut state = self.0.lock();
        if cut {
            state.cut.insert(member);
        } else {
            state.cut.remove(&member);
        }
    }

    /// Snapshots that were sent.
    pub fn snapshots(&self) -> usize {
        self.0.lock().snapshots
    }

    /// What a member's group sends with.
    pub fn factory(&self, group: GroupId, from: MemberId) -> Factory<R> {
        let router = self.clone();
        Factory {
            router,
            group,
            from,
        }
    }
}

pub struct Factory<R> {
    router: Router<R>,
    group: GroupId,
    from: MemberId,
}

impl<R: AsyncRuntime> RaftNetworkFactory<Types<R>> for Factory<R> {
    type Network = Link<R>;

    async fn new_client(&mut self, to: MemberId, _node: &()) -> Link<R> {
        let router = self.router.clone();
        let (group, from) = (self.group, self.from);
        Link {
            router,
            group,
            from,
            to,
        }
    }
}

pub struct Link<R> {
    router: Router<R>,
    group: GroupId,
    from: MemberId,
    to: MemberId,
}

impl<R> Clone for Link<R> {
    fn clone(&self) -> Self {
        Link {
            router: self.router.clone(),
            ..*self
        }
    }
}

fn unreachable<R: AsyncRuntime>() -> RPCError<Types<R>> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error("cut off")))
}

fn broken<R: AsyncRuntime>(error: impl std::fmt::Display) -> RPCError<Types<R>> {
    RPCError::Network(NetworkError::new(&AnyError::error(error.to_string())))
}

impl<R: AsyncRuntime> Link<R> {
    fn peer(&self) -> Result<Arc<dyn Inbound<R>>, RPCError<Types<R>>> {
        let state = self.router.0.lock();
        if state.cut.contains(&self.from) || state.cut.contains(&self.to) {
            return Err(unreachable());
        }
        let peer = state.groups.get(&(self.group, self.to));
        peer.cloned().ok_or_else(unreachable)
    }
}

impl<R: AsyncRuntime> RaftNetworkV2<Types<R>> for Link<R> {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RPCError<Types<R>>> {
        let _ = request;
        Err(broken("streams only"))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<Answers<'s, R>, RPCError<Types<R>>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            let peer = self.peer()?;
            let link = self.clone();
            let answers = peer.append(input.boxed());
            let checked = answers.map(move |answer| {
                link.peer()?;
                answer.map_err(broken)
            });
            let stream: Answers<'s, R> = Box::pin(checked);
            Ok(stream)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let answer = self.peer()?.vote(request).await.map_err(broken)?;
        self.peer().map(|_| answer)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RPCError<Types<R>>> {
        let answer = self.peer()?.pre_vote(request).await.map_err(broken)?;
        self.peer().map(|_| answer)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<CommittedLeaderId, MemberId, (), SnapshotHandle>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let failed = |error: std::io::Error| {
            StreamingError::Network(NetworkError::new(&AnyError::error(error.to_string())))
        };
        let SnapshotHandle::Outgoing(outgoing) = &snapshot.snapshot else {
            return Err(failed(std::io::Error::other("not yet")));
        };
        let peer = self.peer().map_err(|e| failed(std::io::Error::other(e)))?;
        let mut sink = peer
            .sink()
            .await
            .map_err(|e| failed(std::io::Error::other(e)))?;
        let mut chunks = outgoing.source.open(&sink.have()).map_err(failed)?;
        while let Some(chunk) = chunks.next_chunk().map_err(failed)? {
            sink.chunk(chunk).map_err(failed)?;
        }
        let received = sink.finish().map_err(failed)?;
        self.router.0.lock().snapshots += 1;
        peer.install(vote, snapshot.meta, received)
            .await
            .map_err(|e| failed(std::io::Error::other(e)))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types<R>>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RPCError<Types<R>>> {
        self.peer()?.transfer_leader(request).await.map_err(broken)
    }
}
