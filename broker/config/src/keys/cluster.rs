//! The other nodes, the HTTP API and the metrics. They are read and checked; a single node without an
//! HTTP API has no use for them yet.

use super::KeySpec;
use crate::config::{PartitionHandling, PeerDiscovery};
use crate::kind::Kind;

const ONE_NODE: &str = "For clusters; this node is alone.";
const NO_HTTP: &str = "There is no HTTP API yet.";
const NO_METRICS: &str = "There is no metrics endpoint yet.";
const PORT_MAX: u64 = u16::MAX as u64;

pub(super) const KEYS: &[KeySpec] = &[
    KeySpec::accepted(
        "cluster.listen",
        Kind::Listen(|c, addr| c.cluster.listen = Some(addr)),
        "Leveret's own: where the other nodes reach this one. For clusters; this node is alone.",
    ),
    KeySpec::accepted(
        "cluster.cookie_file",
        Kind::Existing(|c, path| c.cluster.cookie_file = Some(path)),
        "Leveret's own: a file with the secret that all nodes share. For clusters; this node is alone.",
    ),
    KeySpec::accepted(
        "cluster_partition_handling",
        Kind::Choice(&[
            ("pause_minority", |c| {
                c.cluster.partition_handling = PartitionHandling::PauseMinority
            }),
            ("ignore", |c| {
                c.cluster.partition_handling = PartitionHandling::Ignore
            }),
            ("autoheal", |c| {
                c.cluster.partition_handling = PartitionHandling::PauseMinority
            }),
            ("pause_if_all_down", |c| {
                c.cluster.partition_handling = PartitionHandling::PauseMinority;
            }),
        ]),
        "For clusters; this node is alone. Default `pause_minority` (RabbitMQ: `ignore`), which the last two also mean.",
    ),
    KeySpec::accepted(
        "cluster_partition_handling.**",
        Kind::Text(|_, _| ()),
        ONE_NODE,
    ),
    KeySpec::accepted(
        "cluster_formation.peer_discovery_backend",
        Kind::Choice(&[
            ("classic_config", |c| {
                c.cluster.discovery = PeerDiscovery::ClassicConfig
            }),
            ("rabbit_peer_discovery_classic_config", |c| {
                c.cluster.discovery = PeerDiscovery::ClassicConfig;
            }),
            ("dns", |c| c.cluster.discovery = PeerDiscovery::Dns),
            ("rabbit_peer_discovery_dns", |c| {
                c.cluster.discovery = PeerDiscovery::Dns
            }),
        ]),
        ONE_NODE,
    ),
    KeySpec::accepted(
        "cluster_formation.classic_config.nodes.$node",
        Kind::Text(|c, node| c.cluster.nodes.push(node)),
        ONE_NODE,
    ),
    KeySpec::accepted(
        "cluster_formation.dns.hostname",
        Kind::Text(|c, name| c.cluster.dns_hostname = Some(name)),
        ONE_NODE,
    ),
    KeySpec::accepted("cluster_formation.**", Kind::Text(|_, _| ()), ONE_NODE),
    KeySpec::accepted(
        "management.tcp.port",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.management.port = u16::try_from(n).unwrap_or(u16::MAX);
        }),
        NO_HTTP,
    ),
    KeySpec::accepted(
        "management.tcp.ip",
        Kind::Ip(|c, ip| c.management.ip = Some(ip)),
        NO_HTTP,
    ),
    KeySpec::accepted(
        "management.ssl.port",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.management.tls_port = u16::try_from(n).ok()
        }),
        NO_HTTP,
    ),
    KeySpec::accepted(
        "management.listener.port",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.management.port = u16::try_from(n).unwrap_or(u16::MAX);
        }),
        NO_HTTP,
    ),
    KeySpec::accepted(
        "management.listener.ip",
        Kind::Ip(|c, ip| c.management.ip = Some(ip)),
        NO_HTTP,
    ),
    KeySpec::accepted(
        "management.path_prefix",
        Kind::Text(|c, path| c.management.path = path),
        NO_HTTP,
    ),
    KeySpec::accepted("management.**", Kind::Text(|_, _| ()), NO_HTTP),
    KeySpec::accepted(
        "prometheus.tcp.port",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.prometheus.port = u16::try_from(n).unwrap_or(u16::MAX);
        }),
        NO_METRICS,
    ),
    KeySpec::accepted(
        "prometheus.tcp.ip",
        Kind::Ip(|c, ip| c.prometheus.ip = Some(ip)),
        NO_METRICS,
    ),
    KeySpec::accepted(
        "prometheus.ssl.port",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.prometheus.tls_port = u16::try_from(n).ok()
        }),
        NO_METRICS,
    ),
    KeySpec::accepted(
        "prometheus.path",
        Kind::Text(|c, path| c.prometheus.path = path),
        NO_METRICS,
    ),
    KeySpec::accepted("prometheus.**", Kind::Text(|_, _| ()), NO_METRICS),
];
