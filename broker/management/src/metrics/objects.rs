//! Queues, connections and channels of this node, together or each by itself.

use super::text::{Text, labels};
use crate::broker::{ChannelReport, QueueReport, Reach};
use crate::server::Api;

/// A queue with the names that its series have.
pub(super) struct Named {
    pub vhost: String,
    pub name: String,
    pub report: QueueReport,
}

/// A family of a queue's series: name, kind, help, value.
pub(super) type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> u64);

pub(super) const COARSE: &[Family<QueueReport>] = &[
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

pub(super) const CONSUMERS: &[Family<QueueReport>] =
    &[("queue_consumers", "gauge", "Consumers on a queue", |q| {
        u64::from(q.consumers)
    })];

pub(super) const FINE: &[Family<QueueReport>] = &[
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

pub(super) fn sum(queues: &[Named], of: fn(&QueueReport) -> u64) -> u64 {
    queues.iter().map(|queue| of(&queue.report)).sum()
}

pub(super) fn aggregated(text: &mut Text, families: &[Family<QueueReport>], queues: &[Named]) {
    for (name, kind, help, of) in families {
        text.head(name, kind, help);
        text.line(name, "", sum(queues, *of));
    }
}

pub(super) fn each(text: &mut Text, families: &[Family<QueueReport>], queues: &[Named]) {
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
pub(super) fn own_queues(api: &Api, wanted: &[&str]) -> Vec<Named> {
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

pub(super) fn connections(text: &mut Text, api: &Api) {
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

pub(super) fn channels(text: &mut Text, api: &Api, vhosts: &[&str]) {
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
