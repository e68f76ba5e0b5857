//! The typed configuration, and its defaults.
//!
//! Defaults are RabbitMQ 3.10's where the meaning is the same. Three are not: a node listens on loopback
//! only until it is told otherwise, it logs to the console, and its partition handling is
//! `pause_minority`. Fields are named after what they mean here; the key that sets each is in
//! [`crate::keys`].

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Everything that a node is told at its start.
///
/// Plain data: [`Config::load`](crate::Config::load) fills and checks it, the server reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The sockets and what is allowed before a connection is open.
    pub net: NetConfig,
    /// Certificates of the TLS listeners.
    pub tls: TlsConfig,
    /// Who may log in, and how.
    pub access: AccessConfig,
    /// What is negotiated with a client, and other bounds.
    pub limits: LimitsConfig,
    /// When publishers are blocked, and when bodies leave memory.
    pub resources: ResourcesConfig,
    /// Defaults of new queues, timers of consumers.
    pub queues: QueuesConfig,
    /// What is imported at the start.
    pub definitions: DefinitionsConfig,
    /// Where the log goes and how much of it.
    pub log: LogConfig,
    /// Names and data of this node.
    pub node: NodeConfig,
    /// The journal.
    pub journal: JournalConfig,
    /// The other nodes.
    pub cluster: ClusterConfig,
    /// The HTTP API.
    pub management: HttpConfig,
    /// The metrics endpoint.
    pub prometheus: HttpConfig,
    /// Settings that were accepted and have no effect, for the server to log. In file order.
    pub ignored: Vec<IgnoredSetting>,
    /// What was given: keys and values, as they were written, in the order of the table of keys.
    pub given: Vec<(String, String)>,
}

/// A setting that RabbitMQ knows and that has no meaning here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredSetting {
    /// The key as it was written.
    pub key: String,
    /// Where it was written, as `file:line` or `--set`.
    pub origin: String,
    /// Why it has no effect, one line.
    pub why: &'static str,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenAddr {
    /// The interface.
    pub host: ListenHost,
    /// The port; 0 takes any free one.
    pub port: u16,
}

/// The interface of a [`ListenAddr`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenHost {
    /// A port was given alone: every interface, IPv6 and IPv4.
    All,
    /// One address.
    Ip(IpAddr),
    /// A name, resolved when the socket is bound.
    Name(String),
}

impl ListenAddr {
    /// An address of the loopback interface.
    pub fn loopback(port: u16) -> Self {
        Self {
            host: ListenHost::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port,
        }
    }
}

impl std::fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.host {
            ListenHost::All => write!(f, "{}", self.port),
            ListenHost::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            ListenHost::Ip(ip) => write!(f, "{ip}:{}", self.port),
            ListenHost::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Sockets.
#[derive(Debug, Clone, PartialEq)]
pub struct NetConfig {
    /// Plain listeners. Default: `127.0.0.1:5672`.
    pub tcp_listeners: Vec<ListenAddr>,
    /// TLS listeners. Default: none.
    pub tls_listeners: Vec<ListenAddr>,
    /// From the accepted (and, with TLS, encrypted) socket to `connection.open-ok`, in milliseconds;
    /// `None` is unlimited.
    pub handshake_timeout_ms: Option<u64>,
    /// The whole of the TLS handshake, in milliseconds. A PROXY header has the same time.
    pub tls_handshake_timeout_ms: u64,
    /// Connections open at once on this node; `None` is unlimited.
    pub connection_max: Option<u64>,
    /// Every connection begins with a PROXY protocol header (version 1 or 2).
    pub proxy_protocol: bool,
    /// Networks whose PROXY headers are believed; others are disconnected. Empty: everyone is believed.
    pub proxy_trusted: Vec<Network>,
    /// Options of the listening and accepted sockets.
    pub tcp: TcpOptions,
}

/// An IP network, `address/prefix`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Any address of the network.
    pub address: IpAddr,
    /// Leading bits that count: at most 32 or 128.
    pub prefix: u8,
}

impl Network {
    /// Whether `ip` is in the network. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
            IpAddr::V6(v6) => (v6.to_bits(), 128),
        };
        let ((network, width), (address, address_width)) = (bits(self.address), bits(ip));
        let ignored = 128 - u32::from(self.prefix).min(width);
        width == address_width && (network ^ address).checked_shr(ignored).unwrap_or(0) == 0
    }
}

/// TCP options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpOptions {
    /// Connections that wait to be accepted.
    pub backlog: u32,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_KEEPALIVE.
    pub keepalive: bool,
    /// SO_SNDBUF in bytes; `None` leaves the system's.
    pub send_buffer_bytes: Option<u32>,
    /// SO_RCVBUF in bytes; `None` leaves the system's.
    pub receive_buffer_bytes: Option<u32>,
}

/// Certificates of the TLS listeners. The files are read by the listener, and again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM, the certificate authorities that client certificates are checked against.
    pub ca_file: Option<PathBuf>,
    /// PEM, this server's certificate and its chain.
    pub cert_file: Option<PathBuf>,
    /// PEM, this server's private key, not encrypted.
    pub key_file: Option<PathBuf>,
    /// `verify_peer`: ask for a client certificate and check it.
    pub verify_peer: bool,
    /// Refuse clients without a certificate. Only with `verify_peer`.
    pub require_peer_cert: bool,
    /// Protocol versions that were asked for. Empty: all that are offered (1.2 and 1.3).
    pub versions: Vec<TlsVersion>,
    /// How the name of an EXTERNAL login is taken from a client certificate.
    pub login_from: CertLogin,
    /// With [`CertLogin::SubjectAltName`]: the kind of name.
    pub login_san_kind: SanKind,
    /// With [`CertLogin::SubjectAltName`]: which of the names of that kind, from 0.
    pub login_san_index: usize,
    /// How often the files are looked at, in milliseconds.
    pub reload_interval_ms: u64,
}

/// A version of TLS that is offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// Where an EXTERNAL login finds its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CertLogin {
    /// The whole subject, as RFC 4514 writes it.
    #[default]
    DistinguishedName,
    /// The subject's common names, joined with commas.
    CommonName,
    /// A subject alternative name.
    SubjectAltName,
}

/// A kind of subject alternative name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SanKind {
    /// A host name.
    #[default]
    Dns,
    /// An address.
    Ip,
    /// RFC 822.
    Email,
    /// A URI.
    Uri,
    /// `otherName`.
    Other,
}

/// Who may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessConfig {
    /// SASL mechanisms, in the order they are offered.
    pub mechanisms: Vec<Mechanism>,
    /// Users that may only come from a loopback address.
    pub loopback_users: Vec<String>,
    /// The virtual host that is made when the node starts with no data.
    pub default_vhost: String,
    /// The user that is made when the node starts with no data.
    pub default_user: String,
    /// That user's password.
    pub default_pass: String,
    /// That user's tags.
    pub default_user_tags: Vec<String>,
    /// That user's configure, write and read permissions on the default virtual host.
    pub default_permissions: Permissions,
    /// How new passwords are hashed.
    pub password_hashing: PasswordHashing,
}

/// Regular expressions of a user's rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permissions {
    /// Declare and delete.
    pub configure: String,
    /// Publish, bind to.
    pub write: String,
    /// Consume, bind from.
    pub read: String,
}

/// A SASL mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// AMQP 0-8's: name and password in a field table.
    AmqPlain,
    /// The client certificate's name.
    External,
}

impl Mechanism {
    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::AmqPlain => "AMQPLAIN",
            Self::External => "EXTERNAL",
        }
    }
}

/// A hash of passwords, salted with 4 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PasswordHashing {
    /// For users from before RabbitMQ 3.6 only.
    Md5,
    /// The default.
    #[default]
    Sha256,
    /// SHA-512.
    Sha512,
}

/// What is negotiated, and other bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Proposed heartbeat interval in seconds; 0 is none.
    pub heartbeat_s: u16,
    /// Largest frame in bytes, its 8 bytes of envelope included; 0 is unlimited.
    pub frame_max: u32,
    /// Largest frame before tuning, in bytes.
    pub initial_frame_max: u32,
    /// Channels of a connection; 0 is the protocol's 65535.
    pub channel_max: u16,
    /// Largest body of a message in bytes.
    pub max_message_size: u64,
}

/// A limit that can be told as a share of the machine's memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Limit {
    /// Times the machine's memory.
    Relative(f64),
    /// Bytes.
    Absolute(u64),
}

impl Limit {
    /// The limit in bytes on a machine (or in a control group) with `memory_bytes` of memory.
    pub fn bytes(self, memory_bytes: u64) -> u64 {
        match self {
            Self::Absolute(bytes) => bytes,
            // A float cast saturates, so any checked ratio gives a number.
            Self::Relative(ratio) => (memory_bytes as f64 * ratio) as u64,
        }
    }
}

/// When publishers are blocked, and when bodies leave memory.
#[derive(Debug, Clone, PartialEq)]
pub struct ResourcesConfig {
    /// Resident memory of the process at which publishers are blocked.
    pub memory_high_watermark: Limit,
    /// The share of the watermark that message bodies may take before they are only kept on disk.
    pub memory_paging_ratio: f64,
    /// The memory for message bodies in bytes, said directly; `None` is watermark times paging ratio.
    pub memory_budget_bytes: Option<u64>,
    /// The machine's memory in bytes, said instead of found.
    pub total_memory_bytes: Option<u64>,
    /// How often the alarms are looked at, in milliseconds.
    pub monitor_interval_ms: u64,
    /// Free disk space under which publishers are blocked.
    pub disk_free_limit: Limit,
}

impl ResourcesConfig {
    /// Bytes of bodies to keep in memory, on a machine with `memory_bytes`.
    pub fn memory_budget(&self, memory_bytes: u64) -> u64 {
        self.memory_budget_bytes.unwrap_or_else(|| {
            let watermark = self.memory_high_watermark.bytes(memory_bytes);
            Limit::Relative(self.memory_paging_ratio).bytes(watermark)
        })
    }
}

/// Defaults of new queues, timers of consumers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuesConfig {
    /// What `x-queue-type` is when it is not given.
    pub default_type: QueueType,
    /// Where a new queue's leader goes.
    pub leader_locator: LeaderLocator,
    /// How long a delivery may stay unacknowledged before its channel is closed, in milliseconds;
    /// `None` is for ever.
    pub consumer_timeout_ms: Option<u64>,
}

/// A queue type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QueueType {
    /// On one node, unless a policy mirrors it.
    #[default]
    Classic,
    /// Mirrored.
    Quorum,
}

/// Where a new queue's leader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LeaderLocator {
    /// The node that the declaring client is connected to.
    #[default]
    ClientLocal,
    /// The node with the fewest leaders.
    Balanced,
    /// Any node.
    Random,
}

/// What is imported at the start.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DefinitionsConfig {
    /// A definitions file, or a directory of them (read in the order of their names).
    pub path: Option<PathBuf>,
    /// Do not import again what was imported already.
    pub skip_if_unchanged: bool,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum LogLevel {
    /// Everything.
    Debug,
    /// The default.
    #[default]
    Info,
    /// Noticeable.
    Notice,
    /// Something to look at.
    Warning,
    /// Something failed.
    Error,
    /// Worse; nothing is logged above `error` here.
    Critical,
    /// As `Critical`.
    Alert,
    /// As `Critical`.
    Emergency,
    /// Nothing at all.
    None,
}

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Where the log goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The console, if it is logged to.
    pub console: bool,
    /// Least severe level that the console shows.
    pub console_level: LogLevel,
    /// The console is standard error instead of standard output.
    pub console_stderr: bool,
    /// Colours on a console that is a terminal.
    pub console_colors: bool,
    /// How lines look on the console.
    pub console_format: LogFormat,
    /// A file to log to; relative to `dir` when that is given.
    pub file: Option<PathBuf>,
    /// The directory of the log file.
    pub dir: Option<PathBuf>,
    /// Least severe level that the file gets.
    pub file_level: LogLevel,
    /// How lines look in the file.
    pub file_format: LogFormat,
    /// Level of what has no category of its own.
    pub level: LogLevel,
    /// Levels of categories (`connection`, `channel`, `queue`, ...), as (category, level).
    pub categories: Vec<(&'static str, LogLevel)>,
}

/// Names and data of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The node's name in the form `name@host`; `None` is `leveret@` and the host's name.
    pub name: Option<String>,
    /// The cluster's name; `None` is the node's name.
    pub cluster_name: Option<String>,
    /// The folder of everything that is kept.
    pub data_dir: PathBuf,
    /// Threads that serve connections; `None` is one per core.
    pub worker_threads: Option<usize>,
    /// The file that holds the number of the process.
    pub pid_file: Option<PathBuf>,
    /// How long a stop waits for clients to take their close, in milliseconds.
    pub shutdown_timeout_ms: u64,
}

/// The journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalConfig {
    /// Size of a segment in bytes.
    pub segment_size_bytes: u64,
    /// How old a write may get before it is synced when nobody waits for it, in milliseconds.
    pub sync_interval_ms: u64,
    /// How often groups are checkpointed when they changed, in milliseconds.
    pub checkpoint_interval_ms: u64,
}

/// The other nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where the other nodes reach this one; `None` until clustered.
    pub listen: Option<ListenAddr>,
    /// A file with the secret that all nodes share.
    pub cookie_file: Option<PathBuf>,
    /// TLS between nodes; none of it, or all.
    pub tls: ClusterTls,
    /// Log that stays behind a checkpoint: what lies in the last so many bytes of the journal.
    pub log_keep_bytes: u64,
    /// How fast snapshots are sent, all together, in bytes a second.
    pub catch_up_bytes_per_second: u64,
    /// What a node does that is cut off from the majority.
    pub partition_handling: PartitionHandling,
    /// How the other nodes are found.
    pub discovery: PeerDiscovery,
    /// The nodes of `classic_config`, this one may be among them.
    pub nodes: Vec<String>,
    /// The name whose addresses are the nodes', for `dns`.
    pub dns_hostname: Option<String>,
}

/// The PEM files of TLS between nodes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClusterTls {
    /// Authorities that certificates of other nodes are checked against.
    pub ca_file: Option<PathBuf>,
    /// This node's certificate and its chain.
    pub cert_file: Option<PathBuf>,
    /// Its private key.
    pub key_file: Option<PathBuf>,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        ClusterConfig {
            listen: None,
            cookie_file: None,
            tls: ClusterTls::default(),
            log_keep_bytes: 128 << 20,
            catch_up_bytes_per_second: 100 << 20,
            partition_handling: PartitionHandling::default(),
            discovery: PeerDiscovery::default(),
            nodes: Vec::new(),
            dns_hostname: None,
        }
    }
}

/// What a node does that is cut off from the majority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PartitionHandling {
    /// Keep its connections, blocked.
    Ignore,
    /// Close its connections and refuse new ones until it is back.
    #[default]
    PauseMinority,
}

/// How the other nodes are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerDiscovery {
    /// They are listed.
    #[default]
    ClassicConfig,
    /// One host name has all their addresses.
    Dns,
    /// Kubernetes knows them.
    Kubernetes,
}

/// A listener of HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// The interface; `None` is all.
    pub ip: Option<IpAddr>,
    /// The plain port, when there is one.
    pub port: Option<u16>,
    /// The first segment of every path.
    pub path: String,
    /// The TLS port, when there is one.
    pub tls_port: Option<u16>,
    /// The interface of the TLS port; `None` is [`HttpConfig::ip`].
    pub tls_ip: Option<IpAddr>,
    /// PEM, the certificate of the TLS port; `None` is that of AMQP.
    pub cert_file: Option<PathBuf>,
    /// PEM, its key.
    pub key_file: Option<PathBuf>,
    /// PEM, the authorities that client certificates are checked against.
    pub ca_file: Option<PathBuf>,
    /// Clients must show a certificate.
    pub verify_peer: bool,
}

impl HttpConfig {
    /// The plain address, if there is one.
    pub fn tcp_listener(&self) -> Option<ListenAddr> {
        Some(listen_addr(self.ip, self.port?))
    }

    /// The TLS address, if there is one.
    pub fn tls_listener(&self) -> Option<ListenAddr> {
        Some(listen_addr(self.tls_ip.or(self.ip), self.tls_port?))
    }

    /// The certificates of the TLS port: its own, or else those of AMQP.
    pub fn tls(&self, amqp: &TlsConfig) -> TlsConfig {
        if self.cert_file.is_none() && self.key_file.is_none() {
            return amqp.clone();
        }
        TlsConfig {
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            verify_peer: self.verify_peer,
            require_peer_cert: self.verify_peer,
            ..amqp.clone()
        }
    }
}

fn listen_addr(ip: Option<IpAddr>, port: u16) -> ListenAddr {
    let host = ip.map_or(ListenHost::All, ListenHost::Ip);
    ListenAddr { host, port }
}
