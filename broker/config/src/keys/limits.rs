//! What is negotiated, bounds, alarms, and defaults of queues.

use super::KeySpec;
use super::net::TIME_MS_MAX;
use crate::config::{LeaderLocator, Limit, QueueType};
use crate::kind::Kind;

/// A month: a consumer may hold a message for a long time.
const CONSUMER_TIMEOUT_MS_MAX: u64 = 31 * 86_400_000;

const LEADER_LOCATOR: Kind = Kind::Choice(&[
    ("client-local", |c| {
        c.queues.leader_locator = LeaderLocator::ClientLocal
    }),
    ("balanced", |c| {
        c.queues.leader_locator = LeaderLocator::Balanced
    }),
    ("min-masters", |c| {
        c.queues.leader_locator = LeaderLocator::Balanced
    }),
    ("least-leaders", |c| {
        c.queues.leader_locator = LeaderLocator::Balanced
    }),
    ("random", |c| {
        c.queues.leader_locator = LeaderLocator::Random
    }),
]);

pub(super) const KEYS: &[KeySpec] = &[
    KeySpec::used(
        "heartbeat",
        "60",
        Kind::Int(0, u16::MAX as u64, "seconds", |c, n| {
            c.limits.heartbeat_s = u16::try_from(n).unwrap_or(u16::MAX);
        }),
        "Proposed heartbeat interval; 0 proposes none.",
    ),
    KeySpec::used(
        "frame_max",
        "131072",
        Kind::FrameBytes(0, u32::MAX as u64, |c, n| {
            c.limits.frame_max = u32::try_from(n).unwrap_or(u32::MAX);
        }),
        "Largest frame, 0 or at least 4096; 0 is unlimited.",
    ),
    KeySpec::used(
        "initial_frame_max",
        "4096",
        Kind::FrameBytes(4096, 1 << 24, |c, n| {
            c.limits.initial_frame_max = u32::try_from(n).unwrap_or(u32::MAX);
        }),
        "Largest frame until the client has tuned the connection.",
    ),
    KeySpec::used(
        "channel_max",
        "2047",
        Kind::Int(0, u16::MAX as u64, "channels", |c, n| {
            c.limits.channel_max = u16::try_from(n).unwrap_or(u16::MAX);
        }),
        "Channels of a connection; 0 is 65535.",
    ),
    KeySpec::used(
        "max_message_size",
        "134217728",
        Kind::Bytes(1, 536_870_912, |c, n| c.limits.max_message_size = n),
        "Largest body of a message.",
    ),
    KeySpec::used(
        "vm_memory_high_watermark.absolute",
        "",
        Kind::Bytes(0, u64::MAX, |c, n| {
            c.resources.memory_high_watermark = Limit::Absolute(n)
        }),
        "Memory of the process, mapped files not counted, at which publishers are blocked.",
    ),
    KeySpec::used(
        "vm_memory_high_watermark.relative",
        "0.4",
        Kind::Ratio(0.0, 100.0, |c, n| {
            c.resources.memory_high_watermark = Limit::Relative(n)
        }),
        "The same as a share of the machine's (or control group's) memory. Goes before `absolute`.",
    ),
    KeySpec::used(
        "vm_memory_high_watermark_paging_ratio",
        "0.5",
        Kind::Ratio(0.0, 1.0, |c, n| c.resources.memory_paging_ratio = n),
        "The share of the watermark that message bodies may take before they are only kept on disk.",
    ),
    KeySpec::used(
        "total_memory_available_override_value",
        "",
        Kind::Bytes(1, u64::MAX, |c, n| c.resources.total_memory_bytes = Some(n)),
        "The machine's memory, said instead of found.",
    ),
    KeySpec::used(
        "memory_monitor_interval",
        "2500",
        Kind::Int(1, TIME_MS_MAX, "milliseconds", |c, ms| {
            c.resources.monitor_interval_ms = ms
        }),
        "How often memory and disk are looked at.",
    ),
    KeySpec::used(
        "disk_free_limit.absolute",
        "50MB",
        Kind::Bytes(0, u64::MAX, |c, n| {
            c.resources.disk_free_limit = Limit::Absolute(n)
        }),
        "Free space of the data directory's disk under which publishers are blocked.",
    ),
    KeySpec::used(
        "disk_free_limit.relative",
        "",
        Kind::Ratio(0.0, 1000.0, |c, n| {
            c.resources.disk_free_limit = Limit::Relative(n)
        }),
        "The same as a multiple of the machine's memory. Goes before `absolute`.",
    ),
    KeySpec::used(
        "consumer_timeout",
        "1800000",
        Kind::IntOrInfinity(1, CONSUMER_TIMEOUT_MS_MAX, "milliseconds", |c, ms| {
            c.queues.consumer_timeout_ms = ms;
        }),
        "How long a delivery may stay unacknowledged before its channel is closed.",
    ),
    KeySpec::used(
        "default_queue_type",
        "classic",
        Kind::Choice(&[
            ("classic", |c| c.queues.default_type = QueueType::Classic),
            ("rabbit_classic_queue", |c| {
                c.queues.default_type = QueueType::Classic
            }),
            ("quorum", |c| c.queues.default_type = QueueType::Quorum),
            ("rabbit_quorum_queue", |c| {
                c.queues.default_type = QueueType::Quorum
            }),
        ]),
        "The type of queues that are declared without `x-queue-type`.",
    ),
    KeySpec::accepted(
        "queue_master_locator",
        LEADER_LOCATOR,
        "One node has every leader.",
    ),
    KeySpec::accepted(
        "queue_leader_locator",
        LEADER_LOCATOR,
        "One node has every leader.",
    ),
];
