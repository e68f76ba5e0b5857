//! What a group tells an operator of itself.

use leveret_storage::Histogram;
use openraft::rt::{AsyncRuntime, WatchReceiver};

use super::group::RaftGroup;
use super::state_machine::Machine;
use super::types::{MemberId, Term};

/// A group at a moment, as one of its members sees it. Indexes are of the log's entries, 0 before the first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// The member's term.
    pub term: Term,
    /// Who leads, if the member knows.
    pub leader: Option<MemberId>,
    /// The last entry of the log.
    pub last_log_index: u64,
    /// The last entry that is known to be committed.
    pub committed_index: u64,
    /// The last entry that is applied.
    pub applied_index: u64,
    /// The last entry that the last snapshot covers.
    pub snapshot_index: u64,
    /// The members that have a vote.
    pub voters: Vec<MemberId>,
    /// At the leader: by how many entries each other member is behind.
    pub lags: Vec<(MemberId, u64)>,
    /// Microseconds from proposing an entry here to having applied it: of entries that this member proposed as leader.
    pub commit_us: Histogram,
    /// A mean of these that forgets.
    pub commit_recent_us: u64,
}

impl<R: AsyncRuntime, M: Machine> RaftGroup<R, M> {
    /// Where the group stands.
    pub fn figures(&self) -> Figures {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last_log_index = metrics.last_log_index.unwrap_or(0);
        let own = self.member();
        let mut lags = Vec::new();
        for (member, matched) in metrics.replication.iter().flatten() {
            if *member != own {
                let matched = matched.as_ref().map_or(0, |id| id.index);
                lags.push((*member, last_log_index.saturating_sub(matched)));
            }
        }
        let (commit_us, commit_recent_us) = self.commit_us();
        let membership = metrics.membership_config.membership();
        Figures {
            term: metrics.current_term,
            leader: metrics.current_leader,
            last_log_index,
            committed_index: metrics.local_committed.as_ref().map_or(0, |id| id.index),
            applied_index: metrics.last_applied.as_ref().map_or(0, |id| id.index),
            snapshot_index: metrics.snapshot.as_ref().map_or(0, |id| id.index),
            voters: membership.voter_ids().collect(),
            lags,
            commit_us,
            commit_recent_us,
        }
    }
}
