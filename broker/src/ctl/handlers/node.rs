//! The node itself: limits, status, feature flags.

use std::fmt::Write;

use leveret_config::Limit;
use serde_json::{Value, json};

use super::listing::pick;
use super::{Result, arg};
use crate::ctl::protocol::{Failure, Output, Request, exit};
use crate::ctl::thresholds::{self, Threshold};
use crate::node::{Node, Presence};

/// RabbitMQ's feature flags, of 3.8 to 3.13: all of them are on. Name and what it stands for.
pub const FEATURE_FLAGS: &[(&str, &str)] = &[
    (
        "classic_mirrored_queue_version",
        "Support setting version for classic mirrored queues",
    ),
    (
        "classic_queue_type_delivery_support",
        "Bug fix for classic queue deliveries using mixed versions",
    ),
    (
        "direct_exchange_routing_v2",
        "v2 direct exchange routing implementation",
    ),
    (
        "drop_unroutable_metric",
        "Count unroutable publishes to be dropped in stats",
    ),
    (
        "empty_basic_get_metric",
        "Count AMQP basic.get on empty queues in stats",
    ),
    ("feature_flags_v2", "Feature flags subsystem V2"),
    (
        "implicit_default_bindings",
        "Default bindings are now implicit, instead of being stored in the database",
    ),
    (
        "listener_records_in_ets",
        "Store listener records in ETS instead of Mnesia",
    ),
    ("maintenance_mode_status", "Maintenance mode status"),
    ("quorum_queue", "Support queues of type `quorum`"),
    (
        "restart_streams",
        "Support for restarting streams with optional preferred next leader",
    ),
    ("stream_queue", "Support queues of type `stream`"),
    (
        "stream_sac_coordinator_unblock_group",
        "Bug fix to unblock a group of consumers in a super stream partition",
    ),
    (
        "stream_single_active_consumer",
        "Single active consumer for streams",
    ),
    (
        "tracking_records_in_ets",
        "Store tracking records in ETS instead of Mnesia",
    ),
    (
        "user_limits",
        "Configure connection and channel limits for a user",
    ),
    (
        "virtual_host_metadata",
        "Virtual host metadata (description, tags, etc)",
    ),
];

pub fn list_feature_flags(request: &Request) -> Result {
    pick(request, FEATURE_FLAGS, |(name, about), column| {
        json!(match column {
            "name" => *name,
            "state" => "enabled",
            "stability" => "stable",
            "provided_by" => "leveret",
            "desc" => *about,
            _ => "",
        })
    })
}

pub fn enable_feature_flag(node: &Node, request: &Request) -> Result {
    let name = arg(request, 0)?;
    if name == "all" || FEATURE_FLAGS.iter().any(|(flag, _)| *flag == name) {
        return Ok(Output::Done.into());
    }
    let text = format!("This feature flag is not supported by node {}", node.name());
    Err(Failure::new(exit::USAGE, text))
}

/// Takes effect at once, and until the node stops: it is not written anywhere.
pub fn set_limit(node: &Node, request: &Request) -> Result {
    match thresholds::read(request) {
        Some(Ok(Threshold::Memory(limit))) => node.set_memory_high_watermark(limit),
        Some(Ok(Threshold::Disk(limit))) => node.set_disk_free_limit(limit),
        Some(Err(failure)) => return Err(failure),
        None => {}
    }
    Ok(Output::Done.into())
}

/// The alarms of all nodes: a node's name and what it lacks.
pub fn alarms(node: &Node) -> Vec<(String, &'static str)> {
    let alarms = node.alarms();
    let own = [(node.name().to_owned(), alarms.memory(), alarms.disk())];
    let topology = node.topology();
    let others = alarms
        .others()
        .into_iter()
        .filter_map(|(id, memory, disk)| {
            let name = topology.node(id)?.name.to_string();
            Some((name, memory, disk))
        });
    let mut on = Vec::new();
    for (name, memory, disk) in own.into_iter().chain(others) {
        on.extend(memory.then(|| (name.clone(), "memory")));
        on.extend(disk.then_some((name, "disk")));
    }
    on
}

/// What nodes lack, each once.
fn resources(node: &Node) -> Vec<&'static str> {
    let on = alarms(node);
    let lacks = |resource: &&str| on.iter().any(|(_, what)| what == resource);
    ["memory", "disk"].into_iter().filter(lacks).collect()
}

pub fn alarms_text(node: &Node) -> String {
    let on = alarms(node);
    if on.is_empty() {
        return "(none)\n".to_owned();
    }
    let line = |(name, resource): &(String, &str)| match *resource {
        "memory" => format!("Memory alarm on node {name}\n"),
        _ => format!("Free disk space alarm on node {name}\n"),
    };
    on.iter().map(line).collect()
}

pub fn alarms_value(node: &Node) -> Value {
    let one = |(name, resource): &(String, &str)| json!({"node": name, "resource": resource});
    alarms(node).iter().map(one).collect()
}

/// What the node listens on.
pub struct Listener {
    /// The address, as it is connected to.
    pub address: std::net::SocketAddr,
    interface: String,
    /// The port.
    pub port: u16,
    /// RabbitMQ's name of the protocol.
    pub protocol: String,
    purpose: &'static str,
}

/// What the node listens on.
pub fn listeners(node: &Node) -> Vec<Listener> {
    let one = |address: std::net::SocketAddr, protocol: String| Listener {
        address,
        interface: match address.ip() {
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
            std::net::IpAddr::V4(ip) => ip.to_string(),
        },
        port: address.port(),
        purpose: match protocol.as_str() {
            "amqp" => "AMQP 0-9-1",
            "amqp/ssl" => "AMQP 0-9-1 over TLS",
            "http" => "HTTP API",
            "https" => "HTTP API over TLS (HTTPS)",
            "http/prometheus" => "Prometheus exporter API over HTTP",
            "https/prometheus" => "Prometheus exporter API over TLS (HTTPS)",
            _ => "",
        },
        protocol,
    };
    let amqp = node.listeners().into_iter().map(|(address, tls)| {
        let protocol = if tls { "amqp/ssl" } else { "amqp" };
        one(address, protocol.to_owned())
    });
    let http = node.http_listeners().into_iter();
    amqp.chain(http.map(|(address, protocol)| one(address, protocol)))
        .collect()
}

pub fn listeners_value(node: &Node) -> Value {
    let one = |l: &Listener| {
        json!({"node": node.name(), "interface": l.interface, "port": l.port,
               "protocol": l.protocol, "purpose": l.purpose})
    };
    listeners(node).iter().map(one).collect()
}

fn limit_value(limit: Limit) -> Value {
    match limit {
        Limit::Absolute(bytes) => json!({"absolute": bytes}),
        Limit::Relative(share) => json!({"relative": share}),
    }
}

/// Gigabytes, as `status` shows them.
fn gigabytes(bytes: u64) -> String {
    format!("{} gb", (bytes as f64 / 1e5).round() / 1e4)
}

fn section(out: &mut String, title: &str, body: &str) {
    // Writing to a string cannot fail.
    let _ = write!(out, "{title}\n\n{body}\n");
}

pub fn status(node: &Node) -> Result {
    let limits = node.limits();
    let memory = crate::node::process_memory();
    let space = node.store().journal().space();
    let free = space.map_or(0, |space| space.available_bytes);
    let data_dir = node.config().node.data_dir.display().to_string();
    let (queues, vhosts) = {
        let topology = node.topology();
        (topology.queues().count(), topology.vhosts().count())
    };
    let connections = node.connections().len();
    let version = env!("CARGO_PKG_VERSION");
    let pid = std::process::id();
    let maintenance = node.away().presence() != Presence::Here
        || node.mirror().is_some_and(|mirror| mirror.is_drained());
    let (watermark, disk_limit) = (limits.memory_bytes(), limits.disk_bytes());

    let mut text = String::new();
    let runtime = format!(
        "OS PID: {pid}\nOS: Linux\nUptime (seconds): {}\nIs under maintenance?: {maintenance}\n\
         Leveret version: {version}\nNode name: {}\n",
        node.uptime_s(),
        node.name()
    );
    section(&mut text, "Runtime", &runtime);
    let dir = format!("Node data directory: {data_dir}\n");
    section(&mut text, "Data directory", &dir);
    section(&mut text, "Alarms", &alarms_text(node));
    let setting = match limits.memory {
        Limit::Relative(share) => format!("{share} of available memory"),
        Limit::Absolute(bytes) => format!("{bytes} bytes"),
    };
    let body = format!(
        "Total memory used: {}\nCalculation strategy: anonymous\n\
         Memory high watermark setting: {setting}, computed to: {}\n\
         message bodies: {}\n",
        gigabytes(memory.anonymous_bytes),
        gigabytes(watermark),
        gigabytes(u64::try_from(node.bodies().gauge().bytes()).unwrap_or(0)),
    );
    section(&mut text, "Memory", &body);
    let body = format!(
        "Low free disk space watermark: {}\nFree disk space: {}\n",
        gigabytes(disk_limit),
        gigabytes(free)
    );
    section(&mut text, "Free Disk Space", &body);
    let body = format!(
        "Connection count: {connections}\nQueue count: {queues}\nVirtual host count: {vhosts}\n"
    );
    section(&mut text, "Totals", &body);
    section(&mut text, "Listeners", &listener_lines(node));

    let value = json!({
        "pid": pid,
        "os": "Linux",
        "uptime": node.uptime_s(),
        "is_under_maintenance": maintenance,
        "product_name": "Leveret",
        "product_version": version,
        "rabbitmq_version": version,
        "node_name": node.name(),
        "data_directory": data_dir,
        "active_plugins": [],
        "config_files": [],
        "log_files": [],
        "alarms": resources(node),
        "memory": {
            "strategy": "anonymous",
            "total": {"anonymous": memory.anonymous_bytes, "rss": memory.resident_bytes},
        },
        "vm_memory_calculation_strategy": "anonymous",
        "vm_memory_high_watermark_setting": limit_value(limits.memory),
        "vm_memory_high_watermark_limit": watermark,
        "disk_free": free,
        "disk_free_limit": disk_limit,
        "totals": {
            "connection_count": connections,
            "queue_count": queues,
            "virtual_host_count": vhosts,
        },
        "listeners": listeners_value(node),
    });
    Ok(Output::Report { text, value }.into())
}

/// Its listeners, one a line, as `status` and `listeners` show them.
pub fn listener_lines(node: &Node) -> String {
    let line = |l: &Listener| {
        format!(
            "Interface: {}, port: {}, protocol: {}, purpose: {}\n",
            l.interface, l.port, l.protocol, l.purpose
        )
    };
    listeners(node).iter().map(line).collect()
}

/// Its listeners, one a line, as `cluster_status` shows them.
pub fn listeners_text(node: &Node) -> Vec<String> {
    let name = node.name();
    let line = |l: &Listener| {
        format!(
            "Node: {name}, interface: {}, port: {}, protocol: {}, purpose: {}",
            l.interface, l.port, l.protocol, l.purpose
        )
    };
    listeners(node).iter().map(line).collect()
}

/// The feature flags: name and what each stands for.
pub fn flags() -> impl Iterator<Item = (&'static str, &'static str)> {
    FEATURE_FLAGS.iter().copied()
}
