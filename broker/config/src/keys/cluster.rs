//! The other nodes, the HTTP API and the metrics. The latter two are read and checked; there is no use for them yet.

use super::KeySpec;
use crate::config::{PartitionHandling, PeerDiscovery};
use crate::kind::Kind;

const ONE_NODE: &str = "Nodes find each other by `cluster_formation.classic_config.nodes.*` only.";
const NO_HTTP: &str = "There is no HTTP API yet.";
const NO_METRICS: &str = "There is no metrics endpoint yet.";
const PORT_MAX: u64 = u16::MAX as u64;

pub(super) const KEYS: &[KeySpec] = &[
    KeySpec::used(
        "cluster.listen",
        "",
        Kind::Listen(|c, addr| c.cluster.listen = Some(addr)),
        "Leveret's own: where the other nodes reach this one. The port of its own entry in the list of nodes, on all interfaces, when not given.",
    ),
    KeySpec::used(
        "cluster.cookie_file",
        "",
        Kind::Existing(|c, path| c.cluster.cookie_file = Some(path)),
        "Leveret's own: a file with the secret that all nodes share. A cluster needs one.",
    ),
    KeySpec::used(
        "cluster.ssl_options.cacertfile",
        "",
        Kind::Existing(|c, path| c.cluster.tls.ca_file = Some(path)),
        "Leveret's own: PEM file of the authorities that the other nodes' certificates are checked against. With this, `certfile` and `keyfile` nodes speak TLS 1.3 to each other, each with a certificate; all of them, or none.",
    ),
    KeySpec::used(
        "cluster.ssl_options.certfile",
        "",
        Kind::Existing(|c, path| c.cluster.tls.cert_file = Some(path)),
        "Leveret's own: PEM file of this node's certificate and its chain. It names the host that the others connect to, and is for both sides of a connection.",
    ),
    KeySpec::used(
        "cluster.ssl_options.keyfile",
        "",
        Kind::Existing(|c, path| c.cluster.tls.key_file = Some(path)),
        "Leveret's own: PEM file of this node's private key, not encrypted.",
    ),
    KeySpec::used(
        "cluster.catch_up_bytes_per_second",
        "100MiB",
        Kind::Bytes(1 << 16, 1 << 40, |c, n| {
            c.cluster.catch_up_bytes_per_second = n
        }),
        "Leveret's own: how fast this node sends the messages that nodes lack which are new or were away for long, to all of them together.",
    ),
    KeySpec::used(
        "cluster.log_keep_bytes",
        "128MiB",
        Kind::Bytes(0, 1 << 40, |c, n| c.cluster.log_keep_bytes = n),
        "Leveret's own: log that stays in the journal behind a checkpoint, so that a node that was away for a while gets what it missed and nothing else.",
    ),
    KeySpec::used(
        "cluster_partition_handling",
        "pause_minority",
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
        "What a node does that hears no majority of its cluster: send its clients away after 2 s, or keep them, blocked (`ignore`). The last two mean `pause_minority`. (RabbitMQ's default: `ignore`.)",
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
    KeySpec::list(
        "cluster_formation.classic_config.nodes.$node",
        "",
        (
            |c| c.cluster.nodes.clear(),
            Kind::Text(|c, node| c.cluster.nodes.push(node)),
        ),
        "The nodes that found the cluster, this one among them, as `name@host` or `name@host:port` (the port between nodes, 25672 when not given). Without any the node is alone.",
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
