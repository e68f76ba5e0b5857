//! One Raft group of a node: start, propose, lead, be led, change members, stop.
//!
//! [`RaftGroup`] is what the node holds. The network is the caller's: what goes out is an openraft network factory that is given to
//! [`RaftGroup::start`], what comes in goes through [`Inbound`], which hides the state machine's type.
//!
//! Who leads is a [`Role`], watched by whoever must act on it. A proposal is for one term: a leader that was deposed and elected again
//! finds its old proposals refused, not appended behind its new ones.
//!
//! Settings are those of RAFT's research: no snapshots, purges or leader's comeback by openraft's own policy.
//!
//! - `config`: settings and timers.
//! - `propose`: entries of the leader's, and those that wait for openraft.
//! - `role`: who leads, elections after a leader's death, and leaders that hand themselves over.
//! - `members`: changes of the members.
//! - `inbound`: what other members ask.

mod config;
mod inbound;
mod members;
mod propose;
mod role;

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use openraft::errors::{Fatal, RaftError};
use openraft::network::NetSnapshot;
use openraft::rt::{AsyncRuntime, Watch, WatchReceiver};
use openraft::{Raft, RaftNetworkFactory};
use parking_lot::Mutex;

use crate::raft::log_storage::{LogStorage, RaftLog};
use crate::raft::snapshot::SnapshotHandle;
use crate::raft::state_machine::{CheckpointState, Covered, Machine, StateMachine};
use crate::raft::types::{LogId, MemberId, Membership, Types, node_of};
use crate::{GroupId, LogStore, RecoveredGroup, is_durable};

pub use config::{GroupConfig, Timing};
pub use inbound::{Appended, Asked, Inbound};
pub use propose::ProposeError;
use propose::{Backlog, InFlight, send_backlog};
pub use role::Role;
use role::watch_role;

/// A future that somebody else polls.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a group does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its log or its checkpoint is not usable, or is another member's.
    #[error("group {group}: {source}")]
    Storage {
        /// The group.
        group: GroupId,
        /// Why.
        source: io::Error,
    },
    /// openraft refuses.
    #[error("group {group}: {reason}")]
    Raft {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
}

/// Why something that a group was asked for was not done.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// This member does not lead.
    #[error("this member does not lead")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<MemberId>,
    },
    /// openraft refuses.
    #[error("{0}")]
    Refused(String),
    /// The group has stopped.
    #[error("the group has stopped: {0}")]
    Stopped(String),
}

fn stopped<R: AsyncRuntime>(fatal: Fatal<Types<R>>) -> GroupError {
    GroupError::Stopped(fatal.to_string())
}

/// A Raft group of this node.
pub struct RaftGroup<R: AsyncRuntime, M: Machine> {
    config: GroupConfig,
    raft: Raft<Types<R>, StateMachine<R, M>>,
    store: Arc<LogStore>,
    log: Arc<RaftLog>,
    checkpoints: Arc<CheckpointState>,
    flight: Arc<InFlight>,
    backlog: Arc<Mutex<Backlog>>,
    role: <R::Watch as Watch>::Receiver<Role>,
    /// Counts the pre-votes that were refused because this member has more of the log.
    ahead: Arc<Mutex<<R::Watch as Watch>::Sender<u64>>>,
    /// One change of members at a time.
    changing: R::Mutex<()>,
}

/// Where the last so many bytes of the journal begin.
fn last_bytes(journal: &leveret_storage::Journal, bytes: u64) -> leveret_storage::Location {
    let mut left = bytes;
    let mut from = journal.end();
    if left == 0 {
        return from;
    }
    for segment in journal.segments().iter().rev() {
        let offset = segment.bytes_used.saturating_sub(left);
        from = leveret_storage::Location::new(segment.id, u32::try_from(offset).unwrap_or(0));
        left = left.saturating_sub(segment.bytes_used);
        if left == 0 {
            break;
        }
    }
    from
}

impl<R: AsyncRuntime, M: Machine> fmt::Debug for RaftGroup<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (group, role) = (self.config.group, self.role());
        write!(f, "RaftGroup(group {group}, {role:?})")
    }
}

impl<R: AsyncRuntime, M: Machine> RaftGroup<R, M> {
    /// Starts the group with what start-up found of it. Applies what is known to be committed before it returns. In a group that does
    /// not wait for the disk, the log of an earlier member of the same node is dropped: that member lost some of it, or its generation is over.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start<N>(
        config: GroupConfig,
        store: Arc<LogStore>,
        recovered: RecoveredGroup,
        machine: M,
        network: N,
    ) -> Result<Arc<Self>, StartError>
    where
        N: RaftNetworkFactory<Types<R>>,
        N::Network: NetSnapshot<Types<R>, SnapshotData = SnapshotHandle>,
    {
        let group = config.group;
        let failed = |source| StartError::Storage { group, source };
        let mut recovered = recovered;
        let earlier = recovered.index.member().filter(|known| {
            !is_durable(group)
                && node_of(*known) == node_of(config.member)
                && *known < config.member
        });
        let log = RaftLog::new(
            group,
            is_durable(group),
            Arc::clone(store.journal()),
            Arc::clone(store.flushes()),
            std::mem::take(&mut recovered.index),
        );
        if earlier.is_some() {
            log.drop_log().map_err(failed)?;
            recovered.checkpoint = None;
        }
        log.claim(config.member).map_err(failed)?;
        let (term, terms) = R::Watch::channel(None);
        let (machine, checkpoints) = StateMachine::<R, M>::new(
            machine,
            config.member,
            recovered.checkpoint,
            recovered.replay_from,
            Arc::clone(&store),
            Arc::clone(&log),
            term,
        )
        .await
        .map_err(failed)?;
        let refused = |reason: String| StartError::Raft { group, reason };
        let settings = config.openraft().validate();
        let settings = settings.map_err(|e| refused(e.to_string()))?;
        let raft = Raft::new(
            config.member,
            Arc::new(settings),
            network,
            LogStorage::<R>::new(Arc::clone(&log)),
            machine,
        )
        .await
        .map_err(|e| refused(e.to_string()))?;
        raft.external_state_machine_request(|machine| {
            machine.start();
            Box::pin(async {})
        })
        .await
        .map_err(|e| refused(e.to_string()))?;
        let (roles, role) = R::Watch::channel(Role::NoLeader { term: 0 });
        drop(R::spawn(watch_role::<R>(
            raft.server_metrics(),
            terms,
            roles,
        )));
        let backlog = Arc::new(Mutex::new(Backlog::default()));
        drop(R::spawn(send_backlog(Arc::clone(&backlog))));
        Ok(Arc::new(RaftGroup {
            config,
            raft,
            store,
            log,
            checkpoints,
            flight: Arc::default(),
            backlog,
            role,
            ahead: Arc::new(Mutex::new(R::Watch::channel(0).0)),
            changing: openraft::rt::Mutex::new(()),
        }))
    }

    /// The group's number.
    pub fn group(&self) -> GroupId {
        self.config.group
    }

    /// Who this node is in it.
    pub fn member(&self) -> MemberId {
        self.config.member
    }

    /// Its log on this node.
    pub fn log(&self) -> &Arc<RaftLog> {
        &self.log
    }

    /// openraft's own handle.
    pub fn raft(&self) -> &Raft<Types<R>, StateMachine<R, M>> {
        &self.raft
    }

    /// The members, as of the last entry of the log that says so.
    pub fn membership(&self) -> Membership {
        let metrics = self.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        membership.membership().clone()
    }

    /// Makes these the first members. Every founder may call it with the same members; a group that has a log refuses.
    ///
    /// # Errors
    /// It was done before, or the group has stopped.
    pub async fn initialize(&self, members: BTreeSet<MemberId>) -> Result<(), GroupError> {
        match self.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(refused)) => Err(GroupError::Refused(refused.to_string())),
            Err(RaftError::Fatal(fatal)) => Err(stopped(fatal)),
        }
    }

    /// The last durable checkpoint: what it has, and from where on the group needs the journal.
    pub fn covered(&self) -> Covered {
        self.checkpoints.covered()
    }

    /// Writes a checkpoint of a state that is not older than this call; durable when this returns.
    ///
    /// # Errors
    /// The group has stopped, also because the checkpoint could not be written.
    pub async fn checkpoint(&self) -> Result<Covered, GroupError> {
        let wanted = self.checkpoints.begun() + 1;
        let mut done = self.raft.data_metrics();
        while self.checkpoints.written() < wanted {
            // openraft makes one at a time, and ignores a trigger meanwhile.
            self.raft.trigger().snapshot().await.map_err(stopped)?;
            let _ = R::timeout(Duration::from_millis(20), done.changed()).await;
            let running = self.raft.metrics().borrow_watched().running_state.clone();
            running.map_err(stopped)?;
        }
        Ok(self.covered())
    }

    /// Purges the log that the last checkpoint covers, but for the last [`GroupConfig::log_keep_bytes`], and what a snapshot that is being sent needs.
    /// openraft holds back what live members have not got yet. Answers up to where.
    ///
    /// # Errors
    /// The group has stopped.
    pub async fn purge(&self) -> Result<Option<LogId>, GroupError> {
        let Some(applied) = self.covered().applied else {
            return Ok(None);
        };
        let lowest = self.checkpoints.sending.lowest();
        let keep = last_bytes(self.store.journal(), self.config.log_keep_bytes);
        let point = self.log.with_index(|index| {
            let limit = lowest.map_or(applied.index, |lowest| lowest.min(applied.index));
            index.purge_point(keep, index.id_of(limit).unwrap_or(applied))
        });
        if let Some(point) = point {
            let trigger = self.raft.trigger();
            trigger.purge_log(point.index).await.map_err(stopped)?;
        }
        Ok(point)
    }

    /// How far a member is behind the end of the log, in entries; only the leader knows.
    pub fn lag(&self, member: MemberId) -> Option<u64> {
        let metrics = self.raft.data_metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?.get(&member)?;
        let last = metrics.last_log.map_or(0, |id| id.index);
        Some(last.saturating_sub(matched.map_or(0, |id| id.index)))
    }

    /// Stops the group. Proposals that are not applied are answered with [`ProposeError::Stopped`].
    pub async fn shutdown(&self) {
        self.close_backlog();
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!("group {}: {error}", self.config.group);
        }
    }

    /// The store that it is in.
    pub fn store(&self) -> &Arc<LogStore> {
        &self.store
    }
}

impl<R: AsyncRuntime, M: Machine> Drop for RaftGroup<R, M> {
    fn drop(&mut self) {
        self.close_backlog();
    }
}
