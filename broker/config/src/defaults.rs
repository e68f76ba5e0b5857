//! Default values of the parts of [`Config`](crate::Config).

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use crate::config::*;

impl Default for Config {
    fn default() -> Self {
        Self {
            net: NetConfig::default(),
            tls: TlsConfig::default(),
            access: AccessConfig::default(),
            limits: LimitsConfig::default(),
            resources: ResourcesConfig::default(),
            queues: QueuesConfig::default(),
            definitions: DefinitionsConfig::default(),
            log: LogConfig::default(),
            node: NodeConfig::default(),
            journal: JournalConfig::default(),
            cluster: ClusterConfig::default(),
            management: HttpConfig::loopback(15672, ""),
            prometheus: HttpConfig::loopback(15692, "/metrics"),
            ignored: Vec::new(),
            given: Vec::new(),
        }
    }
}

impl Default for NetConfig {
    fn default() -> Self {
        Self {
            tcp_listeners: vec![ListenAddr::loopback(5672)],
            tls_listeners: Vec::new(),
            handshake_timeout_ms: Some(10_000),
            tls_handshake_timeout_ms: 5_000,
            connection_max: None,
            proxy_protocol: false,
            proxy_trusted: Vec::new(),
            tcp: TcpOptions::default(),
        }
    }
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            backlog: 128,
            nodelay: true,
            keepalive: false,
            send_buffer_bytes: None,
            receive_buffer_bytes: None,
        }
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            ca_file: None,
            cert_file: None,
            key_file: None,
            verify_peer: false,
            require_peer_cert: false,
            versions: Vec::new(),
            login_from: CertLogin::default(),
            login_san_kind: SanKind::default(),
            login_san_index: 0,
            reload_interval_ms: 5_000,
        }
    }
}

impl Default for AccessConfig {
    fn default() -> Self {
        Self {
            mechanisms: vec![Mechanism::Plain, Mechanism::AmqPlain],
            loopback_users: vec!["guest".to_owned()],
            default_vhost: "/".to_owned(),
            default_user: "guest".to_owned(),
            default_pass: "guest".to_owned(),
            default_user_tags: vec!["administrator".to_owned()],
            default_permissions: Permissions::default(),
            password_hashing: PasswordHashing::default(),
        }
    }
}

impl Default for Permissions {
    fn default() -> Self {
        Self {
            configure: ".*".to_owned(),
            write: ".*".to_owned(),
            read: ".*".to_owned(),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            heartbeat_s: 60,
            frame_max: 131_072,
            initial_frame_max: 4096,
            channel_max: 2047,
            max_message_size: 134_217_728,
        }
    }
}

impl Default for ResourcesConfig {
    fn default() -> Self {
        Self {
            memory_high_watermark: Limit::Relative(0.4),
            memory_paging_ratio: 0.5,
            memory_budget_bytes: None,
            total_memory_bytes: None,
            monitor_interval_ms: 2_500,
            disk_free_limit: Limit::Absolute(50_000_000),
        }
    }
}

impl Default for QueuesConfig {
    fn default() -> Self {
        Self {
            default_type: QueueType::default(),
            leader_locator: LeaderLocator::default(),
            consumer_timeout_ms: Some(1_800_000),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            console: true,
            console_level: LogLevel::Info,
            console_stderr: false,
            console_colors: true,
            console_format: LogFormat::Text,
            file: None,
            dir: None,
            file_level: LogLevel::Info,
            file_format: LogFormat::Text,
            level: LogLevel::Info,
            categories: Vec::new(),
        }
    }
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            name: None,
            cluster_name: None,
            data_dir: PathBuf::from("./leveret-data"),
            worker_threads: None,
            pid_file: None,
            shutdown_timeout_ms: 5_000,
        }
    }
}

impl Default for JournalConfig {
    fn default() -> Self {
        Self {
            segment_size_bytes: 64 << 20,
            sync_interval_ms: 200,
            checkpoint_interval_ms: 30_000,
        }
    }
}

impl HttpConfig {
    /// A plain listener on the loopback interface.
    fn loopback(port: u16, path: &str) -> Self {
        Self {
            ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            port: Some(port),
            path: path.to_owned(),
            tls_port: None,
            tls_ip: None,
            cert_file: None,
            key_file: None,
            ca_file: None,
            verify_peer: false,
        }
    }
}
