//! The other nodes, the HTTP API and the metrics.

use super::KeySpec;
use crate::config::{PartitionHandling, PeerDiscovery};
use crate::kind::Kind;

const ONE_NODE: &str = "Nodes find each other by `cluster_formation.classic_config.nodes.*` only.";
const HTTP: &str = "Of RabbitMQ's web server or web page.";
const METRICS: &str = "Of RabbitMQ's web server, or of how it gathers metrics.";
const ALL_INTERFACES: &str = "RabbitMQ's default is every interface.";
const SOME_CERTIFICATE: &str = "PEM file of the TLS port's certificate; that of `ssl_options` when neither it nor the key is given.";
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
    KeySpec::used(
        "management.ssl.port",
        "",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            // Without a plain port that is asked for there is none then.
            c.management.port = None;
            c.management.tls_port = u16::try_from(n).ok();
        }),
        "The HTTP API with TLS.",
    ),
    KeySpec::used(
        "management.ssl.ip",
        "",
        Kind::Ip(|c, ip| c.management.tls_ip = Some(ip)),
        "The interface of the TLS port; that of the plain one when not given.",
    ),
    KeySpec::used(
        "management.ssl.certfile",
        "",
        Kind::Existing(|c, path| c.management.cert_file = Some(path)),
        SOME_CERTIFICATE,
    ),
    KeySpec::used(
        "management.ssl.keyfile",
        "",
        Kind::Existing(|c, path| c.management.key_file = Some(path)),
        "PEM file of its key.",
    ),
    KeySpec::used(
        "management.ssl.cacertfile",
        "",
        Kind::Existing(|c, path| c.management.ca_file = Some(path)),
        "PEM file of the authorities that client certificates are checked against.",
    ),
    KeySpec::used(
        "management.ssl.verify",
        "verify_none",
        Kind::Choice(&[
            ("verify_none", |c| c.management.verify_peer = false),
            ("verify_peer", |c| c.management.verify_peer = true),
        ]),
        "Whether clients must show a certificate.",
    ),
    KeySpec::used(
        "management.listener.port",
        "",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.management.port = u16::try_from(n).ok();
        }),
        "The old name of `management.tcp.port`.",
    ),
    KeySpec::used(
        "management.listener.ip",
        "",
        Kind::Ip(|c, ip| c.management.ip = Some(ip)),
        "The old name of `management.tcp.ip`.",
    ),
    KeySpec::used(
        "management.listener.ssl",
        "false",
        Kind::Choice(&[("false", |_| ())]),
        "The old form of TLS: give `management.ssl.port` instead. Anything but `false` is refused, so that nobody relies on it.",
    ),
    KeySpec::used(
        "management.tcp.port",
        "15672",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.management.port = u16::try_from(n).ok();
        }),
        "The HTTP API; 0 takes any free port. Only with TLS when `management.ssl.port` is given and this is not.",
    ),
    KeySpec::used(
        "management.tcp.ip",
        "127.0.0.1",
        Kind::Ip(|c, ip| c.management.ip = Some(ip)),
        ALL_INTERFACES,
    ),
    KeySpec::used(
        "management.tcp",
        "",
        Kind::Choice(&[("none", |c| c.management.port = None)]),
        "Leveret's own: no plain listener of the HTTP API.",
    ),
    KeySpec::used(
        "management.path_prefix",
        "",
        Kind::Text(|c, path| c.management.path = path),
        "The first segment of every path of the HTTP API.",
    ),
    KeySpec::accepted("management.**", Kind::Text(|_, _| ()), HTTP),
    KeySpec::used(
        "prometheus.ssl.port",
        "",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            // Without a plain port that is asked for there is none then.
            c.prometheus.port = None;
            c.prometheus.tls_port = u16::try_from(n).ok();
        }),
        "Metrics with TLS.",
    ),
    KeySpec::used(
        "prometheus.ssl.ip",
        "",
        Kind::Ip(|c, ip| c.prometheus.tls_ip = Some(ip)),
        "The interface of the TLS port; that of the plain one when not given.",
    ),
    KeySpec::used(
        "prometheus.ssl.certfile",
        "",
        Kind::Existing(|c, path| c.prometheus.cert_file = Some(path)),
        SOME_CERTIFICATE,
    ),
    KeySpec::used(
        "prometheus.ssl.keyfile",
        "",
        Kind::Existing(|c, path| c.prometheus.key_file = Some(path)),
        "PEM file of its key.",
    ),
    KeySpec::used(
        "prometheus.ssl.cacertfile",
        "",
        Kind::Existing(|c, path| c.prometheus.ca_file = Some(path)),
        "PEM file of the authorities that client certificates are checked against.",
    ),
    KeySpec::used(
        "prometheus.ssl.verify",
        "verify_none",
        Kind::Choice(&[
            ("verify_none", |c| c.prometheus.verify_peer = false),
            ("verify_peer", |c| c.prometheus.verify_peer = true),
        ]),
        "Whether clients must show a certificate.",
    ),
    KeySpec::used(
        "prometheus.tcp.port",
        "15692",
        Kind::Int(0, PORT_MAX, "a port", |c, n| {
            c.prometheus.port = u16::try_from(n).ok();
        }),
        "Metrics for Prometheus; 0 takes any free port. Only with TLS when `prometheus.ssl.port` is given and this is not.",
    ),
    KeySpec::used(
        "prometheus.tcp.ip",
        "127.0.0.1",
        Kind::Ip(|c, ip| c.prometheus.ip = Some(ip)),
        ALL_INTERFACES,
    ),
    KeySpec::used(
        "prometheus.tcp",
        "",
        Kind::Choice(&[("none", |c| c.prometheus.port = None)]),
        "Leveret's own: no plain listener of metrics.",
    ),
    KeySpec::used(
        "prometheus.path",
        "/metrics",
        Kind::Text(|c, path| c.prometheus.path = path),
        "Where metrics are.",
    ),
    KeySpec::accepted("prometheus.**", Kind::Text(|_, _| ()), METRICS),
];
