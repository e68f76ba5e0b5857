//! One Raft group of a node: start, propose, lead, be led, change members, stop.
//!
//! [`RaftGroup`] is what the node holds. The network is the caller's: what goes out is an openraft network factory that is given to
//! [`RaftGroup::start`], what comes in goes through [`Inbound`], which hides the state machine's type.
//!
//! Who leads is a [`Role`], watched by whoever must act on it. A proposal is for one term: a leader that was deposed and elected again
//! finds its old proposals refused, not appended behind its new ones.
//!
//! Settings are those of RAFT's research: no snapshots, purges or leader's comeback by openraft's own policy.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::poll_fn;
use futures_util::stream::{BoxStream, StreamExt};
use openraft::errors::{ClientWriteError, Fatal, RaftError};
use openraft::network::NetSnapshot;
use openraft::raft::{
    AppendEntriesRequest, ClientWriteResponse, ClientWriteResult, SnapshotResponse,
    StreamAppendResult, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::rt::{AsyncRuntime, Watch, WatchReceiver, WatchSender};
use openraft::storage::Snapshot;
use openraft::{ChangeMembers, Config, Raft, RaftNetworkFactory, ServerState, SnapshotPolicy};
use parking_lot::Mutex;

use super::log_storage::{LogStorage, RaftLog};
use super::reconcile::{self, Present, Step, Wanted};
use super::snapshot::{Received, SnapshotHandle, SnapshotSink};
use super::state_machine::{CheckpointState, Covered, Machine, StateMachine};
use super::types::{
    Answer, LogId, MemberId, Membership, Payload, SnapshotMeta, Term, Types, Vote, node_of,
};
use crate::{GroupId, LogStore, RecoveredGroup, is_durable};

/// A future that somebody else polls.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The answer to come to another member.
pub type Asked<T, E> = BoxFuture<'static, Result<T, E>>;

/// The answers to come to a leader.
pub type Appended<R> = BoxStream<'static, Result<StreamAppendResult<Types<R>>, Fatal<Types<R>>>>;

/// How often a leader is heard, and when it is taken for gone.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Milliseconds between heartbeats.
    pub heartbeat_ms: u64,
    /// The shortest random time that a follower waits behind the lease.
    pub election_min_ms: u64,
    /// The longest, and the lease.
    pub election_max_ms: u64,
    /// Milliseconds between the candidates that follow the first after a leader's death.
    pub candidate_step_ms: u64,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            heartbeat_ms: 100,
            election_min_ms: 500,
            election_max_ms: 1000,
            candidate_step_ms: 100,
        }
    }
}

/// Settings of a group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// Which.
    pub group: GroupId,
    /// Who this node is in it.
    pub member: MemberId,
    /// Log that stays behind a checkpoint, for members that were away: what lies in the last so many bytes of the journal, which all
    /// groups share.
    pub log_keep_bytes: u64,
    /// Proposals in flight.
    pub in_flight_max: u64,
    /// Payload bytes of those.
    pub in_flight_bytes_max: u64,
    /// Timers.
    pub timing: Timing,
}

impl GroupConfig {
    /// The defaults: 256 MiB of log, 64 proposals, 16 MiB.
    pub fn new(group: GroupId, member: MemberId) -> Self {
        GroupConfig {
            group,
            member,
            log_keep_bytes: 256 << 20,
            in_flight_max: 64,
            in_flight_bytes_max: 16 << 20,
            timing: Timing::default(),
        }
    }

    fn openraft(&self) -> Config {
        Config {
            cluster_name: format!("group-{}", self.group),
            heartbeat_interval: self.timing.heartbeat_ms,
            heartbeat_min_interval: Some(self.timing.heartbeat_ms),
            election_timeout_min: self.timing.election_min_ms,
            election_timeout_max: self.timing.election_max_ms,
            enable_pre_vote: Some(true),
            quorum_loss_probe_interval: Some(2 * self.timing.election_max_ms),
            enable_leader_restore: Some(false),
            max_payload_entries: 256,
            max_append_entries: Some(4096),
            snapshot_policy: SnapshotPolicy::Never,
            max_in_snapshot_log_to_keep: u64::MAX,
            ..Config::default()
        }
    }
}

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

/// Who leads, as this member knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nobody that is known of.
    NoLeader {
        /// The highest term that was seen.
        term: Term,
    },
    /// Another member.
    Following {
        /// Its term.
        term: Term,
        /// Which.
        leader: MemberId,
    },
    /// This member was elected; what was committed before may not all be applied yet.
    Elected {
        /// Its term.
        term: Term,
    },
    /// This member leads: its first own entry, and so everything committed before, is applied.
    Leading {
        /// Its term.
        term: Term,
        /// Index of its first own entry.
        since: u64,
    },
    /// The group has stopped.
    Stopped,
}

/// What became of a proposal that was not applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Too many or too large proposals in flight: come again when one of them is answered. Nothing was proposed.
    #[error("too many proposals in flight")]
    Full,
    /// This member does not lead, or not in that term. It will never be committed.
    #[error("this member does not lead")]
    NotLeader {
        /// Who does, if that is known.
        leader: Option<MemberId>,
    },
    /// It was appended here, and another leader's log replaced it: it may be committed or not.
    #[error("the entry was replaced by another leader's; it may be committed or not")]
    Replaced {
        /// Who leads now, if that is known.
        leader: Option<MemberId>,
    },
    /// The group has stopped: it may be committed or not.
    #[error("the group has stopped; the entry may be committed or not")]
    Stopped,
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

/// Proposals in flight.
#[derive(Debug, Default)]
struct InFlight {
    count: AtomicU64,
    bytes: AtomicU64,
}

/// Tells a proposer, at the latest when it is dropped.
struct Told<F: FnOnce(Result<LogId, ProposeError>)> {
    answer: Option<F>,
    flight: Arc<InFlight>,
    bytes: u64,
}

impl<F: FnOnce(Result<LogId, ProposeError>)> Told<F> {
    fn tell(&mut self, result: Result<LogId, ProposeError>) {
        if let Some(answer) = self.answer.take() {
            self.flight.count.fetch_sub(1, Ordering::AcqRel);
            self.flight.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
            answer(result);
        }
    }
}

impl<F: FnOnce(Result<LogId, ProposeError>)> Drop for Told<F> {
    fn drop(&mut self) {
        self.tell(Err(ProposeError::Stopped));
    }
}

/// Proposals that openraft's channel did not take at once, in order.
#[derive(Default)]
struct Backlog {
    waiting: VecDeque<BoxFuture<'static, ()>>,
    /// One of them is being sent.
    busy: bool,
    closed: bool,
    waker: Option<Waker>,
}

/// When a member stands for election after a leader's death; see [`RaftGroup::leader_is_gone`].
struct Turn {
    /// The dead leader's.
    term: Term,
    place: u32,
    /// Not before this much was waited; never, if it may not.
    at: Option<Duration>,
    seen: Vote,
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
    /// Starts the group with what start-up found of it. Applies what is known to be committed before it returns.
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
        let log = RaftLog::new(
            group,
            is_durable(group),
            Arc::clone(store.journal()),
            Arc::clone(store.flushes()),
            recovered.index,
        );
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

    /// Who leads.
    pub fn role(&self) -> Role {
        *self.role.borrow_watched()
    }

    /// Tells of each change of who leads. A change that is over before it was looked at is not seen; terms tell.
    pub fn watch_role(&self) -> <R::Watch as Watch>::Receiver<Role> {
        self.role.clone()
    }

    /// The members, as of the last entry of the log that says so.
    pub fn membership(&self) -> Membership {
        let metrics = self.raft.server_metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        membership.membership().clone()
    }

    /// Proposes an entry as the leader of `term`, behind all that were proposed before; does not wait. `answer` is called once,
    /// on a task of the group, when the entry is applied here, or will not be; it must not block, and not call the group.
    ///
    /// # Errors
    /// [`ProposeError::Full`]: nothing is proposed, and `answer` is not called.
    pub fn propose(
        &self,
        term: Term,
        payload: Payload,
        answer: impl FnOnce(Result<LogId, ProposeError>) + Send + 'static,
    ) -> Result<(), ProposeError> {
        let bytes = payload.len() as u64;
        let count_before = self.flight.count.fetch_add(1, Ordering::AcqRel);
        let bytes_before = self.flight.bytes.fetch_add(bytes, Ordering::AcqRel);
        // One alone is taken whatever its size.
        if count_before >= self.config.in_flight_max
            || (count_before > 0 && bytes_before + bytes > self.config.in_flight_bytes_max)
        {
            self.flight.count.fetch_sub(1, Ordering::AcqRel);
            self.flight.bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(ProposeError::Full);
        }
        let mut told = Told {
            answer: Some(answer),
            flight: Arc::clone(&self.flight),
            bytes,
        };
        let answer = Answer::new(move |result: ClientWriteResult<Types<R>>| {
            told.tell(match result {
                Ok(response) => Ok(response.log_id),
                Err(ClientWriteError::LogEntryDiscarded(to)) => {
                    let leader = to.leader_id;
                    Err(ProposeError::Replaced { leader })
                }
                Err(ClientWriteError::ForwardToLeader(to)) => {
                    let leader = to.leader_id;
                    Err(ProposeError::NotLeader { leader })
                }
                Err(_) => Err(ProposeError::NotLeader { leader: None }),
            });
        });
        let raft = self.raft.clone();
        let mut send: BoxFuture<'static, ()> = Box::pin(async move {
            // If the core has stopped, the answer is dropped with the message, and tells so.
            let _ = raft
                .write(payload)
                .with_leader(term)
                .responder(answer)
                .await;
        });
        let mut backlog = self.backlog.lock();
        if backlog.closed {
            return Ok(());
        }
        // The channel has room, as a rule: then the message is in it at once.
        if !backlog.busy && backlog.waiting.is_empty() {
            let mut context = Context::from_waker(Waker::noop());
            if send.as_mut().poll(&mut context).is_ready() {
                return Ok(());
            }
        }
        backlog.waiting.push_back(send);
        let waker = backlog.waker.take();
        drop(backlog);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(())
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

    /// The order in which members stand for election after the death of the leader of `term`: the groups' leaders spread.
    fn rank(&self, member: MemberId, term: Term) -> u64 {
        let mut hash = u64::from(self.config.group) << 32 ^ term ^ member.rotate_left(17);
        // splitmix64
        hash = hash.wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ hash >> 31
    }

    /// The process of `node` is gone, and `alive` are the nodes that are known to live, with this one. If that node led, its lease
    /// ends here, and the living voters stand for election one after the other until one leads. To be called on all who live. Returns when
    /// this member has nothing more to do for it, at the latest after [`Timing::election_max_ms`]: then the timers decide. Drop it if the node is
    /// heard again.
    ///
    /// A wrong report costs an election at worst: a vote needs a majority and an up-to-date log.
    ///
    /// # Errors
    /// The group has stopped.
    pub async fn leader_is_gone(&self, node: u64, alive: &BTreeSet<u64>) -> Result<(), GroupError> {
        let step = Duration::from_millis(self.config.timing.candidate_step_ms);
        let tick = step / 5;
        let limit = Duration::from_millis(self.config.timing.election_max_ms);
        // Who has more of the log than one that stands before it need not wait for its turn.
        let mut ahead = self.ahead.lock().subscribe();
        let mut waited = Duration::ZERO;
        let mut turn: Option<Turn> = None;
        while waited < limit {
            let (vote, leads) = {
                let metrics = self.raft.server_metrics();
                let metrics = metrics.borrow_watched();
                (metrics.vote, metrics.current_leader)
            };
            let leader = vote.leader_id;
            let (led, term) = (
                vote.committed && node_of(leader.voted_for) == node,
                leader.term,
            );
            if led {
                // Also when it was seen before: what the dead node had sent may arrive late, and begin the lease again. As if it had handed
                // itself over to somebody else, which ends the lease here and no more.
                let request = TransferLeaderRequest::new(vote, leader.voted_for, None);
                let handed = self.raft.handle_transfer_leader(request).await;
                let _ended = handed.map_err(stopped)?;
                if turn.as_ref().is_none_or(|turn| turn.term < term) {
                    let place = self.place(node, term, alive);
                    let at = place.map(|place| waited + step * place);
                    turn = Some(Turn {
                        term,
                        place: place.unwrap_or(0),
                        at,
                        seen: vote,
                    });
                }
            }
            if let Some(turn) = &mut turn {
                if leads.is_some_and(|id| node_of(id) != node) && term > turn.term {
                    return Ok(());
                }
                if vote != turn.seen {
                    // An election is under way, here or elsewhere: it is not to be disturbed.
                    turn.seen = vote;
                    turn.at = turn.at.map(|_| waited + step * (turn.place + 1));
                } else if turn.at.is_some_and(|at| at <= waited) {
                    // A pre-vote changes no term: it is refused by who has not noticed yet, or has more of the log, and asked again.
                    self.raft.trigger().elect(true).await.map_err(stopped)?;
                    turn.at = Some(waited + tick * (turn.place + 1));
                }
            }
            let woken = R::select2(ahead.changed(), R::sleep(tick)).await;
            match (woken, &mut turn) {
                (openraft::rt::Select2::First(Ok(())), Some(turn)) => {
                    turn.at = turn.at.map(|at| at.min(waited));
                }
                _ => waited += tick,
            }
        }
        Ok(())
    }

    /// After how many others this member stands for election, if it may.
    fn place(&self, dead: u64, term: Term, alive: &BTreeSet<u64>) -> Option<u32> {
        let mut candidates: Vec<MemberId> = self
            .membership()
            .voter_ids()
            .filter(|id| node_of(*id) != dead && alive.contains(&node_of(*id)))
            .collect();
        candidates.sort_unstable_by_key(|id| (self.rank(*id, term), *id));
        let place = candidates.iter().position(|id| *id == self.config.member)?;
        u32::try_from(place).ok()
    }

    /// Hands the leadership to another voter; returns when the request is on its way.
    ///
    /// # Errors
    /// The group has stopped.
    pub async fn transfer_leader(&self, to: MemberId) -> Result<(), GroupError> {
        let trigger = self.raft.trigger();
        trigger.transfer_leader(to).await.map_err(stopped)
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

    /// Takes in a member that does not vote; returns when that is committed, not when it has the log.
    ///
    /// # Errors
    /// This member does not lead, a change is under way, or the group has stopped.
    pub async fn add_learner(&self, member: MemberId) -> Result<LogId, GroupError> {
        let _one = openraft::rt::Mutex::lock(&self.changing).await;
        done(self.raft.add_learner(member, (), false).await)
    }

    /// Lets a learner vote.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn promote(&self, member: MemberId) -> Result<LogId, GroupError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([member])))
            .await
    }

    /// Takes a member out, whether it votes or not.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn remove(&self, member: MemberId) -> Result<LogId, GroupError> {
        let members = BTreeSet::from([member]);
        let votes = self.membership().voter_ids().any(|id| id == member);
        self.change(match votes {
            true => ChangeMembers::RemoveVoters(members),
            false => ChangeMembers::RemoveNodes(members),
        })
        .await
    }

    /// Ends a change of members whose leader did not live to end it.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn flatten(&self) -> Result<LogId, GroupError> {
        self.change(ChangeMembers::AddVoterIds(BTreeSet::new()))
            .await
    }

    /// The members that are committed, if there is no later change that is not.
    pub fn committed_membership(&self) -> Option<Membership> {
        let metrics = self.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        let committed = &metrics.committed_membership_config;
        (committed.log_id() == metrics.membership_config.log_id())
            .then(|| committed.membership().clone())
    }

    /// What a leader does next for the group to have the wanted members.
    pub fn next_step(&self, wanted: &Wanted) -> Step {
        let membership = self.membership();
        let members = membership.nodes().map(|(member, ())| *member);
        let lag = members.filter_map(|member| Some((member, self.lag(member)?)));
        reconcile::next(
            &Present {
                me: self.config.member,
                membership: &membership,
                committed: self.committed_membership().is_some(),
                lag: &lag.collect(),
            },
            wanted,
        )
    }

    /// Does such a step; it is committed when this returns.
    ///
    /// # Errors
    /// As [`RaftGroup::add_learner`].
    pub async fn take_step(&self, step: Step) -> Result<(), GroupError> {
        match step {
            Step::Done | Step::Wait => return Ok(()),
            Step::HandOver(to) => return self.transfer_leader(to).await,
            Step::Flatten => self.flatten().await,
            Step::Add(member) => self.add_learner(member).await,
            Step::Promote(member) => self.promote(member).await,
            Step::Remove(member) => self.remove(member).await,
        }
        .map(drop)
    }

    async fn change(&self, change: ChangeMembers<MemberId, ()>) -> Result<LogId, GroupError> {
        let _one = openraft::rt::Mutex::lock(&self.changing).await;
        done(self.raft.change_membership(change, false).await)
    }

    /// How long ago this leader sent what a majority has answered since; `None`: it does not lead, or nobody has answered. Nobody else leads
    /// as long as this is below the time after which members elect another.
    pub fn quorum_age(&self) -> Option<Duration> {
        let metrics = self.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        acked.map(|acked| openraft::Instant::elapsed(&*acked))
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

    fn close_backlog(&self) {
        let mut backlog = self.backlog.lock();
        backlog.closed = true;
        let waiting = std::mem::take(&mut backlog.waiting);
        let waker = backlog.waker.take();
        drop(backlog);
        if let Some(waker) = waker {
            waker.wake();
        }
        // Answers those proposals; not under the lock.
        drop(waiting);
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

type WriteError<R> = RaftError<Types<R>, ClientWriteError<Types<R>>>;

fn done<R: AsyncRuntime>(
    result: Result<ClientWriteResponse<Types<R>>, WriteError<R>>,
) -> Result<LogId, GroupError> {
    match result {
        Ok(response) => Ok(response.log_id),
        Err(RaftError::Fatal(fatal)) => Err(stopped(fatal)),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) => {
            let leader = to.leader_id;
            Err(GroupError::NotLeader { leader })
        }
        Err(RaftError::APIError(refused)) => Err(GroupError::Refused(refused.to_string())),
    }
}

/// Sends what could not be sent at once, in order, until the group stops.
async fn send_backlog(backlog: Arc<Mutex<Backlog>>) {
    loop {
        let next = poll_fn(|context| {
            let mut backlog = backlog.lock();
            backlog.busy = false;
            if let Some(next) = backlog.waiting.pop_front() {
                backlog.busy = true;
                return Poll::Ready(Some(next));
            }
            if backlog.closed {
                return Poll::Ready(None);
            }
            backlog.waker = Some(context.waker().clone());
            Poll::Pending
        });
        match next.await {
            Some(send) => send.await,
            None => return,
        }
    }
}

type ServerMetrics<R> = openraft::metrics::RaftServerMetrics<Types<R>>;

/// Makes roles of what openraft tells of its state.
async fn watch_role<R: AsyncRuntime>(
    mut metrics: <R::Watch as Watch>::Receiver<ServerMetrics<R>>,
    mut terms: <R::Watch as Watch>::Receiver<Option<LogId>>,
    roles: <R::Watch as Watch>::Sender<Role>,
) {
    loop {
        let role = {
            let seen = metrics.borrow_and_update();
            let applied = *terms.borrow_and_update();
            role_of::<R>(&seen, applied)
        };
        roles.send_if_different(role);
        if role == Role::Stopped {
            return;
        }
        let changed = R::select2(metrics.changed(), terms.changed()).await;
        let ended = match changed {
            openraft::rt::Select2::First(result) => result.is_err(),
            openraft::rt::Select2::Second(result) => result.is_err(),
        };
        if ended {
            roles.send_if_different(Role::Stopped);
            return;
        }
    }
}

fn role_of<R: AsyncRuntime>(metrics: &ServerMetrics<R>, applied: Option<LogId>) -> Role {
    let term = metrics.vote.leader_id.term;
    match (metrics.state, metrics.current_leader) {
        (ServerState::Shutdown, _) => Role::Stopped,
        (ServerState::Leader, _) => match applied {
            Some(first) if first.leader_id.term == term => Role::Leading {
                term,
                since: first.index,
            },
            _ => Role::Elected { term },
        },
        (_, Some(leader)) if leader != metrics.id => Role::Following { term, leader },
        _ => Role::NoLeader { term },
    }
}

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
