//! Settings of a group.

use openraft::{Config, SnapshotPolicy};

use crate::GroupId;
use crate::raft::types::MemberId;

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

    pub(super) fn openraft(&self) -> Config {
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
