//! Keys that RabbitMQ does not have.

use super::KeySpec;
use super::net::TIME_MS_MAX;
use crate::kind::Kind;

pub(super) const KEYS: &[KeySpec] = &[
    KeySpec::used(
        "leveret.data_dir",
        "./leveret-data",
        Kind::Path(|c, path| c.node.data_dir = path),
        "The folder of everything that is kept. `--data-dir` goes before it.",
    ),
    KeySpec::used(
        "leveret.node_name",
        "",
        Kind::Text(|c, text| c.node.name = Some(text)),
        "This node's name, as `name@host`; `leveret@` and the host's name when not given.",
    ),
    KeySpec::used(
        "leveret.pid_file",
        "",
        Kind::Path(|c, path| c.node.pid_file = Some(path)),
        "A file that holds the number of the node's process while it runs, for `rabbitmqctl wait`; none when not given. The variable `RABBITMQ_PID_FILE` goes before it.",
    ),
    KeySpec::used(
        "cluster_name",
        "",
        Kind::Text(|c, text| c.node.cluster_name = Some(text)),
        "The cluster's name, shown to clients; the node's name when not given. (RabbitMQ's key.)",
    ),
    KeySpec::used(
        "leveret.worker_threads",
        "",
        Kind::Int(1, 1024, "threads", |c, n| {
            c.node.worker_threads = usize::try_from(n).ok()
        }),
        "Threads that serve connections; half of the cores, at least one, when not given.",
    ),
    KeySpec::used(
        "leveret.shutdown_timeout",
        "5000",
        Kind::Int(0, TIME_MS_MAX, "milliseconds", |c, ms| {
            c.node.shutdown_timeout_ms = ms
        }),
        "How long a stop waits for clients to take their close.",
    ),
    KeySpec::used(
        "leveret.memory_budget",
        "",
        Kind::Bytes(0, u64::MAX, |c, n| {
            c.resources.memory_budget_bytes = Some(n)
        }),
        "Memory for message bodies; `vm_memory_high_watermark` times its paging ratio when not given.",
    ),
    KeySpec::used(
        "leveret.tls_reload_interval",
        "5000",
        Kind::Int(10, TIME_MS_MAX, "milliseconds", |c, ms| {
            c.tls.reload_interval_ms = ms
        }),
        "How often the files of certificates and keys are looked at; they are read again when they changed.",
    ),
    KeySpec::list(
        "leveret.proxy_protocol.trusted.$name",
        "",
        (
            |c| c.net.proxy_trusted.clear(),
            Kind::Network(|c, network| c.net.proxy_trusted.push(network)),
        ),
        "Networks whose PROXY headers are believed; others are disconnected. Without any, everyone is believed.",
    ),
    KeySpec::used(
        "journal.segment_size_bytes",
        "64MiB",
        Kind::Bytes(1 << 20, 1 << 30, |c, n| c.journal.segment_size_bytes = n),
        "Size of a segment of the journal, a multiple of 4096.",
    ),
    KeySpec::used(
        "journal.sync_interval_ms",
        "200",
        Kind::Int(1, 60_000, "milliseconds", |c, ms| {
            c.journal.sync_interval_ms = ms
        }),
        "How old a write may get before it is synced when nobody waits for it. Confirms always wait for their sync.",
    ),
    KeySpec::used(
        "journal.checkpoint_interval_ms",
        "30000",
        Kind::Int(100, TIME_MS_MAX, "milliseconds", |c, ms| {
            c.journal.checkpoint_interval_ms = ms
        }),
        "How often what changed is checkpointed; what is newer is replayed at the next start.",
    ),
];
