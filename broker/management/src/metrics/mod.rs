//! Metrics in Prometheus' text format, by the names of RabbitMQ's plugin, and Leveret's own.
//!
//! A node tells of itself; Prometheus scrapes every node. `rabbitmq_identity_info` is what RabbitMQ's dashboards join everything
//! with. The metrics of the Erlang runtime are absent but for those that the Overview dashboard asks for.

mod logs;
mod node;
mod objects;
mod text;

use serde_json::Value;

use crate::broker::NodeReport;
use crate::handlers::cluster::RABBITMQ_VERSION;
use crate::server::Api;
use objects::{
    COARSE, CONSUMERS, FINE, Named, aggregated, channels, connections, each, own_queues,
};
use text::{Text, labels};

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
            of_node(&mut text, api, &node, &queues);
            for families in [COARSE, CONSUMERS, FINE] {
                aggregated(&mut text, families, &queues);
            }
            node::channels(&mut text, &node, &queues);
        }
        Scope::PerObject => {
            identity(&mut text, api, "per-object");
            let queues = own_queues(api, &[]);
            of_node(&mut text, api, &node, &queues);
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

/// What is told of the node whether its objects are told of together or each by itself.
fn of_node(text: &mut Text, api: &Api, node: &NodeReport, queues: &[Named]) {
    node::whole(text, api, node, queues);
    node::global(text, node, queues);
    logs::raft(text, node);
    logs::journal(text, node);
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
