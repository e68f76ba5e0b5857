//! What a node has besides its objects: resources, what came and went, messages.

use super::objects::{Named, sum};
use super::text::Text;
use crate::broker::{NodeReport, QueueReport};
use crate::server::Api;
use crate::stats::MessageStats;

/// What a node has besides its objects.
pub(super) fn whole(text: &mut Text, api: &Api, node: &NodeReport, queues: &[Named]) {
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
    text.gauge(
        "consumers",
        "Consumers currently connected",
        sum(queues, consumers),
    );
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
}

const PROTOCOL: &str = "protocol=\"amqp091\"";
/// The queue type is kept as a word only, so all queues count as classic ones.
const TYPED: &str = "protocol=\"amqp091\",queue_type=\"rabbit_classic_queue\"";

fn consumers(queue: &QueueReport) -> u64 {
    u64::from(queue.consumers)
}

/// Counters since the start.
pub(super) fn global(text: &mut Text, node: &NodeReport, queues: &[Named]) {
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
    text.line("global_consumers", PROTOCOL, sum(queues, consumers));
    // Who publishes is not kept track of: a channel may at any time.
    text.head("global_publishers", "gauge", "Channels that may publish");
    text.line("global_publishers", PROTOCOL, node.channels);
}

/// What channels count, together: the names that older dashboards ask for. Unlike RabbitMQ's they do not shrink when a channel closes.
pub(super) fn channels(text: &mut Text, node: &NodeReport, queues: &[Named]) {
    let s = &node.stats;
    text.gauge(
        "channel_consumers",
        "Consumers on channels",
        sum(queues, consumers),
    );
    text.gauge(
        "channel_messages_unacked",
        "Delivered but not yet acknowledged messages",
        sum(queues, |queue| queue.unacked),
    );
    for (name, help, value) in [
        (
            "messages_published_total",
            "Total number of messages published into an exchange on a channel",
            s.publish,
        ),
        (
            "messages_confirmed_total",
            "Total number of messages published into an exchange and confirmed on the channel",
            s.confirm,
        ),
        (
            "messages_unroutable_dropped_total",
            "Total number of messages published as non-mandatory into an exchange and dropped as unroutable",
            s.drop_unroutable,
        ),
        (
            "messages_unroutable_returned_total",
            "Total number of messages published as mandatory into an exchange and returned to the publisher as unroutable",
            s.return_unroutable,
        ),
        (
            "messages_delivered_total",
            "Total number of messages delivered to consumers in automatic acknowledgement mode",
            s.deliver_no_ack,
        ),
        (
            "messages_delivered_ack_total",
            "Total number of messages delivered to consumers in manual acknowledgement mode",
            s.deliver,
        ),
        (
            "messages_redelivered_total",
            "Total number of messages redelivered to consumers",
            s.redeliver,
        ),
        (
            "messages_acked_total",
            "Total number of messages acknowledged by consumers",
            s.ack,
        ),
        (
            "get_total",
            "Total number of messages fetched with basic.get in automatic acknowledgement mode",
            s.get_no_ack,
        ),
        (
            "get_ack_total",
            "Total number of messages fetched with basic.get in manual acknowledgement mode",
            s.get,
        ),
        (
            "get_empty_total",
            "Total number of times basic.get operations fetched no message",
            s.get_empty,
        ),
    ] {
        text.counter(&format!("channel_{name}"), help, value);
    }
}
