//! What this node reports of itself, to its own API and to those of the other nodes.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_cluster::raft::figures::Figures;
use leveret_cluster::raft::types::node_of;
use leveret_management::{
    AlarmReport, ChannelReport, Churn, ConnectionReport, ConsumerReport, GroupReport, Histogram,
    ListenerReport, MessageStats, NodeReport, Place, QueueReport,
};
use leveret_queue::{ConsumerView, QueueId, QueueView};
use leveret_topology::QueueInfo;
use rustc_hash::FxHashMap;

use crate::mirror::Mirror;
use crate::node::{ConnectionInfo, Node, Presence, process_memory};

fn queue_report(view: &QueueView) -> QueueReport {
    let c = &view.counters;
    QueueReport {
        id: view.id,
        ready: view.depth.ready,
        unacked: view.depth.unacked,
        ready_bytes: view.depth.ready_bytes,
        unacked_bytes: view.depth.unacked_bytes,
        hot: view.hot_messages,
        consumers: view.depth.consumers,
        idle_since_ms: view.idle_since_ms,
        stats: MessageStats {
            ack: c.acked,
            deliver: c.delivered,
            deliver_no_ack: c.delivered_no_ack,
            get: c.got,
            get_no_ack: c.got_no_ack,
            get_empty: c.got_empty,
            deliver_get: c.delivered + c.delivered_no_ack + c.got + c.got_no_ack,
            publish: c.published,
            redeliver: c.redelivered,
            ..MessageStats::default()
        },
        expired: c.expired,
        dropped: c.dropped,
    }
}

/// Queues by their ids.
pub fn queues(views: &[QueueView]) -> FxHashMap<u64, QueueReport> {
    let one = |view: &QueueView| (view.id, queue_report(view));
    views.iter().map(one).collect()
}

/// The nodes that this one hears, by their ids; it alone if it is alone.
fn up(node: &Node) -> BTreeSet<u64> {
    node.mirror()
        .map_or_else(BTreeSet::new, |mirror| mirror.up_nodes())
}

/// Where a queue is. A leader that is not heard any more leads nothing.
pub fn place(node: &Node, queue: &QueueInfo) -> Place {
    let own = || node.name().to_owned();
    let (Some(mirror), Some(session)) = (node.mirror(), node.session(queue.group)) else {
        return Place {
            leader: Some(own()),
            members: vec![own()],
            online: vec![own()],
        };
    };
    let up = up(node);
    let leader = session.leader().map(|leader| leader.node);
    let voters = mirror.mirrored(queue.group).and_then(|m| m.raft.get());
    let voters: BTreeSet<u64> = voters.map_or_else(BTreeSet::new, |raft| {
        raft.membership().voter_ids().map(node_of).collect()
    });
    let names = |ids: &mut dyn Iterator<Item = &u64>| ids.map(|id| mirror.name_of(*id)).collect();
    Place {
        leader: leader
            .filter(|id| up.contains(id))
            .map(|id| mirror.name_of(id)),
        members: names(&mut voters.iter()),
        online: names(&mut voters.intersection(&up)),
    }
}

/// The connections of this node.
pub fn connections(node: &Node) -> Vec<ConnectionReport> {
    let of = |c: &Arc<ConnectionInfo>| {
        let traffic = c.traffic.now();
        ConnectionReport {
            id: c.id,
            node: node.name().to_owned(),
            name: c.name.clone(),
            user: c.user.to_string(),
            vhost: c.vhost.to_string(),
            peer: c.peer,
            local: c.local,
            tls: c.tls,
            client_name: c.client_name.as_deref().map(str::to_owned),
            client_properties: serde_json::from_str(&c.client_properties).unwrap_or_default(),
            auth_mechanism: c.auth_mechanism.to_owned(),
            blocked: traffic.blocked,
            received: (traffic.received_bytes, traffic.reads),
            sent: (traffic.sent_bytes, traffic.writes),
            rates: (traffic.received_rate, traffic.sent_rate),
            channel_max: c.channel_max,
            frame_max: c.frame_max,
            heartbeat_s: c.heartbeat_s,
            channels: c.channels.load(Ordering::Relaxed),
            connected_at_ms: c.opened_ms,
        }
    };
    node.connections().sorted().iter().map(of).collect()
}

/// The channels of this node, with their consumers.
pub fn channels(node: &Node) -> Vec<ChannelReport> {
    let told = node.connections().channels();
    // What a node alone knows from its queues, one of a cluster knows from its sessions with their leaders.
    let views = node.groups().iter().flat_map(|group| group.consumers());
    let views: HashMap<(QueueId, u64), ConsumerView> = views
        .map(|(queue, view)| ((queue, view.slot.key()), view))
        .collect();
    let mut all = Vec::new();
    for (connection, channels) in &told {
        all.extend(channels.iter().map(|channel| {
            // One that the queue does not have any more has just been cancelled.
            let consumers = channel.consumers.iter().filter_map(|consumer| {
                let key = (consumer.queue.id.0, consumer.slot.key());
                let view = match node.session(consumer.queue.group) {
                    Some(session) => session.consumer_view(consumer.slot)?,
                    None => *views.get(&key)?,
                };
                Some(ConsumerReport {
                    tag: String::from_utf8_lossy(&consumer.tag).into_owned(),
                    queue_id: consumer.queue.id.0,
                    queue: consumer.queue.name.to_string(),
                    ack_required: !consumer.no_ack,
                    prefetch_count: view.prefetch,
                    exclusive: view.exclusive,
                    active: view.active,
                    priority: view.priority,
                })
            });
            ChannelReport {
                number: channel.number,
                connection: connection.name.clone(),
                node: node.name().to_owned(),
                user: connection.user.to_string(),
                vhost: connection.vhost.to_string(),
                peer: connection.peer,
                confirm: channel.confirm,
                transactional: channel.transactional,
                prefetch_count: channel.prefetch_count,
                global_prefetch_count: channel.global_prefetch_count,
                unacknowledged: channel.unacknowledged as u64,
                consumers: consumers.collect(),
            }
        }));
    }
    all
}

/// Open file descriptors, and how many there may be; 0 where the system does not tell.
fn descriptors() -> (u64, u64) {
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let most = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    (open, most.unwrap_or(0))
}

fn histogram(from: &leveret_storage::Histogram, unit: f64) -> Histogram {
    let bound = |at| leveret_storage::Histogram::bound(at).map_or(f64::INFINITY, |n| n as f64);
    let counts = from.counts.iter().enumerate();
    Histogram {
        buckets: counts
            .map(|(at, count)| (bound(at) * unit, *count))
            .collect(),
        sum: from.sum as f64 * unit,
    }
}

fn group(mirror: &Mirror, up: &BTreeSet<u64>, number: u32, figures: &Figures) -> GroupReport {
    let voters = figures.voters.len();
    let live = figures.voters.iter().filter(|m| up.contains(&node_of(**m)));
    let leader = figures.leader.map(node_of).filter(|id| up.contains(id));
    let lags = figures.lags.iter();
    GroupReport {
        group: number,
        leader: leader.map(|id| mirror.name_of(id)),
        leads: leader == Some(mirror.id()),
        term: figures.term,
        last_log_index: figures.last_log_index,
        commit_index: figures.committed_index,
        applied_index: figures.applied_index,
        snapshot_index: figures.snapshot_index,
        commit_recent_us: figures.commit_recent_us,
        lags: lags
            .map(|(member, lag)| (mirror.name_of(node_of(*member)), *lag))
            .collect(),
        spare: live.count().saturating_sub(voters / 2 + 1),
    }
}

/// The groups, and how long their entries took to be committed.
fn groups(node: &Node) -> (Vec<GroupReport>, leveret_storage::Histogram) {
    let mut commit_us = leveret_storage::Histogram::default();
    let Some(mirror) = node.mirror() else {
        return (Vec::new(), commit_us);
    };
    let (up, all) = (up(node), mirror.figures());
    let one = |(number, figures): &(u32, Figures)| {
        commit_us.add(&figures.commit_us);
        group(mirror, &up, *number, figures)
    };
    (all.iter().map(one).collect(), commit_us)
}

/// This node.
pub fn own(node: &Node) -> NodeReport {
    let counts = node.counters().read();
    let limits = node.limits();
    let journal = node.store().journal();
    let space = journal.space();
    let stats = journal.stats();
    let (fd_used, fd_total) = descriptors();
    let connections = node.connections().list();
    let channels = connections
        .iter()
        .map(|c| c.channels.load(Ordering::Relaxed));
    let amqp = node.listeners().into_iter().map(|(address, tls)| {
        let protocol = if tls { "amqp/ssl" } else { "amqp" };
        (address, protocol.to_owned())
    });
    let mut listeners: Vec<ListenerReport> = amqp
        .chain(node.http_listeners())
        .map(|(address, protocol)| ListenerReport { address, protocol })
        .collect();
    listeners.sort_unstable_by_key(|l| (l.protocol.clone(), l.address));
    let (groups, commit_us) = groups(node);
    let changes = node.mirror().map(|mirror| mirror.changes());
    let (failovers, pauses_ms) = changes.unwrap_or_default();
    let (got, got_no_ack) = (counts.messages_got_manual_ack, counts.messages_got_auto_ack);
    let delivered = counts.messages_delivered_manual_ack;
    let delivered_no_ack = counts.messages_delivered_auto_ack;
    NodeReport {
        name: node.name().to_owned(),
        running: true,
        maintenance: node.away().presence() != Presence::Here
            || node.mirror().is_some_and(|mirror| mirror.is_drained()),
        uptime_ms: u64::from(node.uptime_s()) * 1000,
        os_pid: std::process::id(),
        mem_used: process_memory().anonymous_bytes,
        mem_limit: limits.memory_bytes(),
        disk_free: space.map_or(0, |space| space.available_bytes),
        disk_free_limit: limits.disk_bytes(),
        fd_used,
        fd_total,
        processors: std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        alarms: AlarmReport {
            memory: node.alarms().memory(),
            disk: node.alarms().disk(),
            minority: node.alarms().minority(),
        },
        db_dir: node.config().node.data_dir.display().to_string(),
        listeners,
        connections: connections.len() as u64,
        channels: channels.map(|n| n as u64).sum(),
        stats: MessageStats {
            ack: counts.messages_acknowledged,
            confirm: counts.messages_confirmed,
            deliver: delivered,
            deliver_no_ack: delivered_no_ack,
            deliver_get: delivered + delivered_no_ack + got + got_no_ack,
            drop_unroutable: counts.messages_unroutable_dropped,
            get: got,
            get_no_ack: got_no_ack,
            get_empty: counts.messages_get_empty,
            publish: counts.messages_received,
            redeliver: counts.messages_redelivered,
            return_unroutable: counts.messages_unroutable_returned,
        },
        routed: counts.messages_routed,
        received_confirm: counts.messages_received_confirm,
        churn: Churn {
            channel_closed: counts.channels_closed,
            channel_created: counts.channels_opened,
            connection_closed: counts.connections_closed,
            connection_created: counts.connections_opened,
            queue_created: counts.queues_created,
            queue_declared: counts.queues_declared,
            queue_deleted: counts.queues_deleted,
        },
        failovers,
        failover_pause_seconds: histogram(&pauses_ms, 1e-3),
        commit_seconds: histogram(&commit_us, 1e-6),
        groups,
        journal_sync_seconds: histogram(&stats.sync_us, 1e-6),
        journal_batch_records: histogram(&stats.batch_records, 1.0),
        journal_written_bytes: stats.written_bytes,
        journal_writes: stats.writes,
    }
}
