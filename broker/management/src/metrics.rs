//! Metrics in Prometheus' text format, by the names of RabbitMQ's plugin, and Leveret's own.
//!
//! A node tells of itself; Prometheus scrapes every node. `rabbitmq_identity_info` is what RabbitMQ's dashboards join everything
//! with. The metrics of the Erlang runtime are absent but for those that the Overview dashboard asks for.

use std::fmt::{Display, Write};

use serde_json::Value;

use crate::broker::{ChannelReport, Histogram, NodeReport, QueueReport, Reach};
use crate::handlers::cluster::RABBITMQ_VERSION;
use crate::server::Api;
use crate::stats::MessageStats;

/// How much is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Queues, connections and channels together.
    Aggregated,
    /// Each queue by itself.
    PerObject,
    /// Families and virtual hosts as the query says.
    Detailed,
    /// Memory.
    Memory,
}

/// Ends of paths, and what is told there.
pub const SCOPES: &[(&str, Scope)] = &[
    ("", Scope::Aggregated),
    ("/per-object", Scope::PerObject),
    ("/detailed", Scope::Detailed),
    ("/memory-breakdown", Scope::Memory),
];

/// Series of the same name follow each other, after their type.
struct Text {
    out: String,
    prefix: &'static str,
}

/// `name="value",...` with what would end a value escaped.
fn labels(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for c in value.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                c => out.push(c),
            }
        }
        out.push('"');
    }
    out
}

impl Text {
    /// Leveret's own are not RabbitMQ's.
    fn prefix(&self, name: &str) -> &'static str {
        match name.starts_with("leveret_") {
            true => "",
            false => self.prefix,
        }
    }

    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let prefix = self.prefix(name);
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "# TYPE {prefix}{name} {kind}");
        let _ = writeln!(self.out, "# HELP {prefix}{name} {help}");
    }

    fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        let prefix = self.prefix(name);
        let _ = match labels.is_empty() {
            true => writeln!(self.out, "{prefix}{name} {value}"),
            false => writeln!(self.out, "{prefix}{name}{{{labels}}} {value}"),
        };
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "gauge", help);
        self.line(name, "", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, "counter", help);
        self.line(name, "", value);
    }

    fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.head(name, "histogram", help);
        let mut count = 0;
        for (bound, values) in &histogram.buckets {
            count += values;
            if bound.is_finite() {
                let le = bound.to_string();
                self.line(&format!("{name}_bucket"), &labels(&[("le", &le)]), count);
            }
        }
        self.line(&format!("{name}_bucket"), "le=\"+Inf\"", count);
        self.line(&format!("{name}_sum"), "", histogram.sum);
        self.line(&format!("{name}_count"), "", count);
    }
}

/// A queue with the names that its series have.
struct Named {
    vhost: String,
    name: String,
    report: QueueReport,
}

/// A family of a queue's series: name, kind, help, value.
type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

const COARSE: &[Family<QueueReport>] = &[
    (
        "queue_messages_ready",
        "gauge",
        "Messages ready to be delivered to consumers",
        |q| q.ready,
    ),
    (
        "queue_messages_unacked",
        "gauge",
        "Messages delivered to consumers but not yet acknowledged",
        |q| q.unacked,
    ),
    (
        "queue_messages",
        "gauge",
        "Sum of ready and unacknowledged messages - total queue depth",
        |q| q.ready + q.unacked,
    ),
];

const CONSUMERS: &[Family<QueueReport>] =
    &[("queue_consumers", "gauge", "Consumers on a queue", |q| {
        u64::from(q.consumers)
    })];

const FINE: &[Family<QueueReport>] = &[
    (
        "queue_messages_bytes",
        "gauge",
        "Size in bytes of ready and unacknowledged messages",
        |q| q.ready_bytes + q.unacked_bytes,
    ),
    (
        "queue_messages_ready_bytes",
        "gauge",
        "Size in bytes of ready messages",
        |q| q.ready_bytes,
    ),
    (
        "queue_messages_unacked_bytes",
        "gauge",
        "Size in bytes of all unacknowledged messages",
        |q| q.unacked_bytes,
    ),
    (
        "queue_messages_ram",
        "gauge",
        "Ready and unacknowledged messages stored in memory",
        |q| q.hot.min(q.ready) + q.unacked,
    ),
    (
        "queue_messages_ready_ram",
        "gauge",
        "Ready messages stored in memory",
        |q| q.hot.min(q.ready),
    ),
    (
        "queue_messages_unacked_ram",
        "gauge",
        "Unacknowledged messages stored in memory",
        |q| q.unacked,
    ),
    (
        "queue_messages_paged_out",
        "gauge",
        "Messages paged out to disk",
        |q| q.ready - q.hot.min(q.ready),
    ),
    (
        "queue_messages_published_total",
        "counter",
        "Total number of messages published to queues",
        |q| q.stats.publish,
    ),
    (
        "queue_messages_expired_total",
        "counter",
        "Messages that expired",
        |q| q.expired,
    ),
    (
        "queue_messages_dropped_total",
        "counter",
        "Messages dropped for a length limit",
        |q| q.dropped,
    ),
];

fn sum(queues: &[Named], of: fn(&QueueReport) -> u64) -> u64 {
    queues.iter().map(|queue| of(&queue.report)).sum()
}

fn aggregated(text: &mut Text, families: &[Family<QueueReport>], queues: &[Named]) {
    for (name, kind, help, of) in families {
        text.head(name, kind, help);
        text.line(name, "", sum(queues, *of));
    }
}

fn each(text: &mut Text, families: &[Family<QueueReport>], queues: &[Named]) {
    let of_queue = |queue: &Named| labels(&[("vhost", &queue.vhost), ("queue", &queue.name)]);
    let names: Vec<String> = queues.iter().map(of_queue).collect();
    for (name, kind, help, of) in families {
        text.head(name, kind, help);
        for (queue, labels) in queues.iter().zip(&names) {
            text.line(name, labels, of(&queue.report));
        }
    }
}

/// Queues that this node leads: each is told of once in a cluster.
fn own_queues(api: &Api, wanted: &[&str]) -> Vec<Named> {
    let broker = api.broker();
    let mut reports = broker.queues(Reach::Here);
    let topology = broker.topology();
    let queues: Vec<_> = topology.queues().cloned().collect();
    drop(topology);
    let mut named = Vec::new();
    for queue in queues {
        if !wanted.is_empty() && !wanted.contains(&queue.vhost.as_str()) {
            continue;
        }
        if let Some(report) = reports.remove(&queue.id.0) {
            named.push(Named {
                vhost: queue.vhost.to_string(),
                name: queue.name.to_string(),
                report,
            });
        }
    }
    named.sort_unstable_by(|a, b| (&a.vhost, &a.name).cmp(&(&b.vhost, &b.name)));
    named
}

/// Everything that a scope has.
pub fn write(api: &Api, scope: Scope, query: &[(String, String)]) -> String {
    let broker = api.broker();
    let node = broker.node();
    let mut text = Text {
        out: String::with_capacity(32 << 10),
        prefix: "rabbitmq_",
    };
    match scope {
        Scope::Memory => {
            identity(&mut text, api, "memory-breakdown");
            let (name, help) = ("memory_total_bytes", "Memory of the process");
            text.gauge(name, help, node.mem_used);
        }
        Scope::Aggregated => {
            identity(&mut text, api, "aggregated");
            let queues = own_queues(api, &[]);
            whole(&mut text, api, &node, &queues);
            for families in [COARSE, CONSUMERS, FINE] {
                aggregated(&mut text, families, &queues);
            }
        }
        Scope::PerObject => {
            identity(&mut text, api, "per-object");
            let queues = own_queues(api, &[]);
            whole(&mut text, api, &node, &queues);
            for families in [COARSE, CONSUMERS, FINE] {
                each(&mut text, families, &queues);
            }
            connections(&mut text, api);
            channels(&mut text, api, &[]);
        }
        Scope::Detailed => detailed(&mut text, api, query),
    }
    text.out
}

fn identity(text: &mut Text, api: &Api, endpoint: &str) {
    let broker = api.broker();
    let cluster = broker.cluster_name();
    text.head(
        "build_info",
        "untyped",
        "RabbitMQ & Erlang/OTP version info",
    );
    let build = labels(&[
        ("rabbitmq_version", RABBITMQ_VERSION),
        ("prometheus_plugin_version", RABBITMQ_VERSION),
        ("prometheus_client_version", ""),
        ("erlang_version", ""),
        ("product_name", "Leveret"),
        ("product_version", env!("CARGO_PKG_VERSION")),
    ]);
    text.line("build_info", &build, 1);
    text.head(
        "identity_info",
        "untyped",
        "RabbitMQ node & cluster identity info",
    );
    let name = broker
        .topology()
        .global_parameter("internal_cluster_id")
        .cloned();
    let id = name.as_ref().and_then(Value::as_str).unwrap_or(&cluster);
    let identity = labels(&[
        ("rabbitmq_node", broker.node_name()),
        ("rabbitmq_cluster", &cluster),
        ("rabbitmq_cluster_permanent_id", id),
        ("rabbitmq_endpoint", endpoint),
    ]);
    text.line("identity_info", &identity, 1);
}

/// What a node has besides its objects.
fn whole(text: &mut Text, api: &Api, node: &NodeReport, queues: &[Named]) {
    let alarms = [
        (
            "alarms_file_descriptor_limit",
            "is 1 if file descriptor limit alarm is in effect",
            false,
        ),
        (
            "alarms_free_disk_space_watermark",
            "is 1 if free disk space watermark alarm is in effect",
            node.alarms.disk,
        ),
        (
            "alarms_memory_used_watermark",
            "is 1 if VM memory watermark alarm is in effect",
            node.alarms.memory,
        ),
        (
            "leveret_alarms_minority",
            "is 1 while the node hears no majority of its cluster",
            node.alarms.minority,
        ),
    ];
    for (name, help, on) in alarms {
        text.gauge(name, help, u8::from(on));
    }
    let churn = &node.churn;
    for (name, help, value) in [
        (
            "connections_opened_total",
            "Total number of connections opened",
            churn.connection_created,
        ),
        (
            "connections_closed_total",
            "Total number of connections closed or terminated",
            churn.connection_closed,
        ),
        (
            "channels_opened_total",
            "Total number of channels opened",
            churn.channel_created,
        ),
        (
            "channels_closed_total",
            "Total number of channels closed",
            churn.channel_closed,
        ),
        (
            "queues_declared_total",
            "Total number of queues declared",
            churn.queue_declared,
        ),
        (
            "queues_created_total",
            "Total number of queues created",
            churn.queue_created,
        ),
        (
            "queues_deleted_total",
            "Total number of queues deleted",
            churn.queue_deleted,
        ),
    ] {
        text.counter(name, help, value);
    }
    for (name, help, value) in [
        ("process_open_fds", "Open file descriptors", node.fd_used),
        (
            "process_max_fds",
            "Open file descriptors limit",
            node.fd_total,
        ),
        (
            "process_open_tcp_sockets",
            "Open TCP sockets",
            node.connections,
        ),
        (
            "process_max_tcp_sockets",
            "Open TCP sockets limit",
            node.fd_total,
        ),
        (
            "process_resident_memory_bytes",
            "Memory used in bytes",
            node.mem_used,
        ),
        (
            "resident_memory_limit_bytes",
            "Memory high watermark in bytes",
            node.mem_limit,
        ),
        (
            "disk_space_available_bytes",
            "Disk space available in bytes",
            node.disk_free,
        ),
        (
            "disk_space_available_limit_bytes",
            "Free disk space low watermark in bytes",
            node.disk_free_limit,
        ),
        (
            "connections",
            "Connections currently open",
            node.connections,
        ),
        ("channels", "Channels currently open", node.channels),
    ] {
        text.gauge(name, help, value);
    }
    let uptime_s = node.uptime_ms as f64 / 1000.0;
    text.gauge("erlang_uptime_seconds", "Node uptime", uptime_s);
    text.gauge("uptime_seconds", "Node uptime", uptime_s);
    text.gauge("queues", "Queues available", queues.len());
    let consumers = sum(queues, |queue| u64::from(queue.consumers));
    text.gauge("consumers", "Consumers currently connected", consumers);
    let (attempts, succeeded, failed) = api.attempts().totals();
    for (name, help, value) in [
        (
            "auth_attempts_total",
            "Total number of authorization attempts",
            attempts,
        ),
        (
            "auth_attempts_succeeded_total",
            "Total number of successful authentication attempts",
            succeeded,
        ),
        (
            "auth_attempts_failed_total",
            "Total number of failed authentication attempts",
            failed,
        ),
    ] {
        text.head(name, "counter", help);
        text.line(name, "protocol=\"http\"", value);
    }
    global(text, node, queues, consumers);
    raft(text, node);
    journal(text, node);
}

const PROTOCOL: &str = "protocol=\"amqp091\"";
/// The queue type is kept as a word only, so all queues count as classic ones.
const TYPED: &str = "protocol=\"amqp091\",queue_type=\"rabbit_classic_queue\"";

/// Counters since the start.
fn global(text: &mut Text, node: &NodeReport, queues: &[Named], consumers: u64) {
    let s: &MessageStats = &node.stats;
    for (name, help, labels, value) in [
        (
            "messages_received_total",
            "Total number of messages received from publishers",
            PROTOCOL,
            s.publish,
        ),
        (
            "messages_received_confirm_total",
            "Total number of messages received from publishers using publisher confirms",
            PROTOCOL,
            node.received_confirm,
        ),
        (
            "messages_confirmed_total",
            "Total number of messages confirmed to publishers",
            PROTOCOL,
            s.confirm,
        ),
        (
            "messages_routed_total",
            "Total number of messages routed to queues or streams",
            PROTOCOL,
            node.routed,
        ),
        (
            "messages_unroutable_dropped_total",
            "Total number of messages published as non-mandatory into an exchange and dropped as unroutable",
            PROTOCOL,
            s.drop_unroutable,
        ),
        (
            "messages_unroutable_returned_total",
            "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable",
            PROTOCOL,
            s.return_unroutable,
        ),
        (
            "messages_delivered_total",
            "Total number of messages delivered to consumers",
            TYPED,
            s.deliver_get,
        ),
        (
            "messages_delivered_consume_auto_ack_total",
            "Total number of messages delivered to consumers using basic.consume with automatic acknowledgment",
            TYPED,
            s.deliver_no_ack,
        ),
        (
            "messages_delivered_consume_manual_ack_total",
            "Total number of messages delivered to consumers using basic.consume with manual acknowledgment",
            TYPED,
            s.deliver,
        ),
        (
            "messages_delivered_get_auto_ack_total",
            "Total number of messages delivered to consumers using basic.get with automatic acknowledgment",
            TYPED,
            s.get_no_ack,
        ),
        (
            "messages_delivered_get_manual_ack_total",
            "Total number of messages delivered to consumers using basic.get with manual acknowledgment",
            TYPED,
            s.get,
        ),
        (
            "messages_get_empty_total",
            "Total number of times basic.get operations fetched no message",
            TYPED,
            s.get_empty,
        ),
        (
            "messages_redelivered_total",
            "Total number of messages redelivered to consumers",
            TYPED,
            s.redeliver,
        ),
        (
            "messages_acknowledged_total",
            "Total number of message acknowledgements received from consumers",
            TYPED,
            s.ack,
        ),
    ] {
        let name = format!("global_{name}");
        text.head(&name, "counter", help);
        text.line(&name, labels, value);
    }
    for (name, help, of) in [
        (
            "expired",
            "messages dead-lettered due to message TTL exceeded",
            (|q| q.expired) as fn(&QueueReport) -> u64,
        ),
        (
            "maxlen",
            "messages dead-lettered due to overflow drop-head or reject-publish-dlx",
            |q| q.dropped,
        ),
    ] {
        let name = format!("global_messages_dead_lettered_{name}_total");
        text.head(&name, "counter", help);
        let labels = "queue_type=\"rabbit_classic_queue\",dead_letter_strategy=\"at_least_once\"";
        text.line(&name, labels, sum(queues, of));
    }
    text.head("global_consumers", "gauge", "Current number of consumers");
    text.line("global_consumers", PROTOCOL, consumers);
    // Who publishes is not kept track of: a channel may at any time.
    text.head("global_publishers", "gauge", "Channels that may publish");
    text.line("global_publishers", PROTOCOL, node.channels);
}

fn raft(text: &mut Text, node: &NodeReport) {
    let groups = &node.groups;
    let most =
        |of: fn(&crate::broker::GroupReport) -> u64| groups.iter().map(of).max().unwrap_or(0);
    let total = |of: fn(&crate::broker::GroupReport) -> u64| groups.iter().map(of).sum::<u64>();
    for (name, kind, help, value) in [
        (
            "raft_term_total",
            "counter",
            "Current Raft term number",
            most(|g| g.term),
        ),
        (
            "raft_log_snapshot_index",
            "gauge",
            "Raft log snapshot index",
            total(|g| g.snapshot_index),
        ),
        (
            "raft_log_last_applied_index",
            "gauge",
            "Raft log last applied index",
            total(|g| g.applied_index),
        ),
        (
            "raft_log_commit_index",
            "gauge",
            "Raft log commit index",
            total(|g| g.commit_index),
        ),
        (
            "raft_log_last_written_index",
            "gauge",
            "Raft log last written index",
            total(|g| g.last_log_index),
        ),
    ] {
        text.head(name, kind, help);
        text.line(name, "", value);
    }
    if groups.is_empty() {
        return;
    }
    for (name, help, of) in [
        (
            "leveret_group_term",
            "Raft term of a group",
            (|g| g.term) as fn(&crate::broker::GroupReport) -> u64,
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

fn journal(text: &mut Text, node: &NodeReport) {
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

fn connections(text: &mut Text, api: &Api) {
    let all = api.broker().connections(Reach::Here);
    let name = "connection_channels";
    text.head(name, "gauge", "Channels on a connection");
    for connection in &all {
        text.line(
            name,
            &labels(&[("channel", &connection.name)]),
            connection.channels,
        );
    }
}

fn channels(text: &mut Text, api: &Api, vhosts: &[&str]) {
    let mut all = api.broker().channels(Reach::Here);
    all.retain(|c| vhosts.is_empty() || vhosts.contains(&c.vhost.as_str()));
    let families: [Family<ChannelReport>; 3] = [
        (
            "channel_consumers",
            "gauge",
            "Consumers on a channel",
            |c| c.consumers.len() as u64,
        ),
        (
            "channel_messages_unacked",
            "gauge",
            "Delivered but not yet acknowledged messages",
            |c| c.unacknowledged,
        ),
        (
            "channel_prefetch",
            "gauge",
            "Total limit of unacknowledged messages for all consumers on a channel",
            |c| u64::from(c.global_prefetch_count),
        ),
    ];
    for (name, kind, help, of) in families {
        text.head(name, kind, help);
        for channel in &all {
            let id = format!("{} ({})", channel.connection, channel.number);
            text.line(name, &labels(&[("channel", &id)]), of(channel));
        }
    }
}

/// What the query names: `family=` and `vhost=`, any number of each.
fn detailed(text: &mut Text, api: &Api, query: &[(String, String)]) {
    let all = |name: &str| -> Vec<&str> {
        let named = query.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect()
    };
    let (families, vhosts) = (all("family"), all("vhost"));
    text.prefix = "rabbitmq_detailed_";
    let queues = match families.iter().any(|family| family.starts_with("queue_")) {
        true => own_queues(api, &vhosts),
        false => Vec::new(),
    };
    for family in &families {
        match *family {
            "queue_coarse_metrics" => each(text, COARSE, &queues),
            "queue_consumer_count" => each(text, CONSUMERS, &queues),
            "queue_metrics" => each(text, FINE, &queues),
            "connection_metrics" | "connection_coarse_metrics" => connections(text, api),
            "channel_metrics" => channels(text, api, &vhosts),
            "vhost_status" => {
                text.prefix = "rabbitmq_cluster_";
                text.head("vhost_status", "gauge", "Whether a given vhost is running");
                for vhost in api.broker().topology().vhosts() {
                    text.line("vhost_status", &labels(&[("vhost", vhost.name())]), 1);
                }
                text.prefix = "rabbitmq_detailed_";
            }
            "exchange_names" => {
                text.prefix = "rabbitmq_cluster_";
                let name = "exchange_name";
                text.head(
                    name,
                    "gauge",
                    "Enumerates exchanges without any additional info",
                );
                let topology = api.broker().topology();
                let exchanges: Vec<_> = topology.vhosts().flat_map(|v| v.exchanges()).collect();
                drop(topology);
                for x in exchanges.iter().filter(|x| !x.is_default()) {
                    let kind = x.kind.as_str();
                    let pairs = [
                        ("vhost", x.vhost.as_str()),
                        ("exchange", &x.name),
                        ("type", kind),
                    ];
                    text.line(name, &labels(&pairs), 1);
                }
                text.prefix = "rabbitmq_detailed_";
            }
            // Families of the Erlang runtime, and ones that are not known.
            _ => {}
        }
    }
    text.prefix = "rabbitmq_";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_within_their_labels() {
        let name = "a\"} 1\nrabbitmq_x{b=\"\\";
        assert_eq!(
            labels(&[("queue", name)]),
            "queue=\"a\\\"} 1\\nrabbitmq_x{b=\\\"\\\\\""
        );
    }

    #[test]
    fn histograms_accumulate() {
        let mut text = Text {
            out: String::new(),
            prefix: "p_",
        };
        let histogram = Histogram {
            buckets: vec![(0.5, 2), (1.0, 0), (f64::INFINITY, 3)],
            sum: 7.5,
        };
        text.histogram("h", "help", &histogram);
        let expected = "# TYPE p_h histogram\n# HELP p_h help\np_h_bucket{le=\"0.5\"} 2\n\
             p_h_bucket{le=\"1\"} 2\np_h_bucket{le=\"+Inf\"} 5\np_h_sum 7.5\np_h_count 5\n";
        assert_eq!(text.out, expected);
    }
}
