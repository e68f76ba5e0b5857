//! Who leads a group: what is known of it, the election after a leader's death, and handing over.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::ServerState;
use openraft::raft::TransferLeaderRequest;
use openraft::rt::{AsyncRuntime, Watch, WatchReceiver, WatchSender};

use crate::raft::state_machine::Machine;
use crate::raft::types::{LogId, MemberId, Term, Types, Vote, node_of};

use super::{GroupError, RaftGroup, stopped};

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

/// When a member stands for election after a leader's death; see [`RaftGroup::leader_is_gone`].
struct Turn {
    /// The dead leader's.
    term: Term,
    place: u32,
    /// Not before this much was waited; never, if it may not.
    at: Option<Duration>,
    seen: Vote,
}

impl<R: AsyncRuntime, M: Machine> RaftGroup<R, M> {
    /// Who leads.
    pub fn role(&self) -> Role {
        *self.role.borrow_watched()
    }

    /// Tells of each change of who leads. A change that is over before it was looked at is not seen; terms tell.
    pub fn watch_role(&self) -> <R::Watch as Watch>::Receiver<Role> {
        self.role.clone()
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
    /// this member has nothing more to do for it, at the latest after [`super::Timing::election_max_ms`]: then the timers decide. Drop it if the node is
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

    /// How long ago this leader sent what a majority has answered since; `None`: it does not lead, or nobody has answered. Nobody else leads
    /// as long as this is below the time after which members elect another.
    pub fn quorum_age(&self) -> Option<Duration> {
        let metrics = self.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        acked.map(|acked| openraft::Instant::elapsed(&*acked))
    }
}

type ServerMetrics<R> = openraft::metrics::RaftServerMetrics<Types<R>>;

/// Makes roles of what openraft tells of its state.
pub(super) async fn watch_role<R: AsyncRuntime>(
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
