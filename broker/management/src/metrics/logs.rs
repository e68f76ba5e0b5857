//! Raft groups and the journal below them.

use super::text::{Text, labels};
use crate::broker::{GroupReport, NodeReport};

type Of = fn(&GroupReport) -> u64;

/// Of the groups together; the first word is RabbitMQ's up to 3.13, the second what it is called later.
const SUMS: &[(&str, &str, &str, Of)] = &[
    ("raft_term_total", "raft_term", "Raft terms", |g| g.term),
    (
        "raft_log_snapshot_index",
        "raft_snapshot_index",
        "Raft log snapshot index",
        |g| g.snapshot_index,
    ),
    (
        "raft_log_last_applied_index",
        "raft_last_applied",
        "Raft log last applied index",
        |g| g.applied_index,
    ),
    (
        "raft_log_commit_index",
        "raft_commit_index",
        "Raft log commit index",
        |g| g.commit_index,
    ),
    (
        "raft_log_last_written_index",
        "raft_last_written_index",
        "Raft log last written index",
        |g| g.last_log_index,
    ),
];

/// Raft groups: nothing but zeros of a node alone.
pub(super) fn raft(text: &mut Text, node: &NodeReport) {
    let groups = &node.groups;
    for (name, later, help, of) in SUMS {
        let sum: u64 = groups.iter().map(of).sum();
        let kind = match name.ends_with("_total") {
            true => "counter",
            false => "gauge",
        };
        text.head(name, kind, help);
        text.line(name, "", sum);
        text.gauge(later, help, sum);
    }
    let slowest_us = groups
        .iter()
        .filter(|g| g.leads)
        .map(|g| g.commit_recent_us);
    let slowest_s = slowest_us.max().unwrap_or(0) as f64 * 1e-6;
    let help =
        "Time taken for a log entry to be committed, of the slowest group that this node leads";
    text.gauge("raft_entry_commit_latency_seconds", help, slowest_s);
    text.gauge("raft_commit_latency_seconds", help, slowest_s);
    let name = "leveret_commit_seconds";
    let help = "Seconds from proposing an entry to having applied it, at its group's leader";
    text.histogram(name, help, &node.commit_seconds);
    let help = "Changes of leaders of groups, as this node saw them";
    text.counter("leveret_failovers_total", help, node.failovers);
    let name = "leveret_failover_pause_seconds";
    let help = "Seconds without a known leader at such a change";
    text.histogram(name, help, &node.failover_pause_seconds);
    if groups.is_empty() {
        return;
    }
    for (name, help, of) in [
        (
            "leveret_group_term",
            "Raft term of a group",
            (|g| g.term) as fn(&GroupReport) -> u64,
        ),
        (
            "leveret_group_leader",
            "is 1 if this node leads the group",
            |g| u64::from(g.leads),
        ),
        (
            "leveret_group_commit_index",
            "Entries of a group that are committed",
            |g| g.commit_index,
        ),
        (
            "leveret_group_applied_index",
            "Entries of a group that are applied here",
            |g| g.applied_index,
        ),
        (
            "leveret_group_spare_members",
            "Members of a group that may be lost before it stops",
            |g| g.spare as u64,
        ),
    ] {
        text.head(name, "gauge", help);
        for group in groups {
            let number = group.group.to_string();
            text.line(name, &labels(&[("group", &number)]), of(group));
        }
    }
    let name = "leveret_replication_lag_entries";
    text.head(
        name,
        "gauge",
        "Entries by which a member is behind, at the group's leader",
    );
    for group in groups {
        let number = group.group.to_string();
        for (member, lag) in &group.lags {
            text.line(
                name,
                &labels(&[("group", &number), ("member", member)]),
                lag,
            );
        }
    }
}

/// The journal that all groups share.
pub(super) fn journal(text: &mut Text, node: &NodeReport) {
    let (name, help) = (
        "leveret_journal_fsync_seconds",
        "Seconds that a sync of the journal took",
    );
    text.histogram(name, help, &node.journal_sync_seconds);
    let (name, help) = (
        "leveret_journal_batch_records",
        "Records that the journal wrote together",
    );
    text.histogram(name, help, &node.journal_batch_records);
    let (name, help) = (
        "leveret_journal_written_bytes_total",
        "Bytes written to the journal",
    );
    text.counter(name, help, node.journal_written_bytes);
    let (name, help) = ("leveret_journal_writes_total", "Write calls of the journal");
    text.counter(name, help, node.journal_writes);
}
