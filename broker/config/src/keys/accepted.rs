//! RabbitMQ's keys that have no meaning here. They are accepted so that a configuration from the field
//! starts a node unchanged, and each is logged. Their values are not looked at.
//!
//! Not in this list, because ignoring them would weaken what they protect: authentication backends
//! and revocation lists (see `access` and `net`); those refuse what is not there.

use super::KeySpec;
use crate::kind::Kind;

const fn any(name: &'static str, why: &'static str) -> KeySpec {
    KeySpec::accepted(name, Kind::Text(|_, _| ()), why)
}

const ACCEPTORS: &str = "Connections are accepted by one task per listener.";
const SOCKET: &str = "The socket keeps the system's setting.";
const TLS_FIXED: &str = "rustls offers only suites with forward secrecy, and has no renegotiation.";
const TLS_FILES: &str = "Certificates and keys are given as files.";
const ERLANG: &str = "Tuning of the Erlang runtime.";
const MNESIA: &str = "Tuning of Mnesia or Khepri; metadata is in the journal.";
const STORE: &str = "Tuning of RabbitMQ's message store; messages are in the journal.";
const MIRRORS: &str = "Tuning of RabbitMQ's mirrored queues.";
const RAFT: &str = "Tuning of RabbitMQ's Raft library.";
const STATISTICS: &str = "Statistics are always there and cost nothing to keep.";
const LOG_FORM: &str = "The form of a line is fixed.";
const LOG_TARGET: &str = "The log goes to the console and to a file; journald takes the console's.";
const LOG_ROTATE: &str = "Rotate the log with the system's tools.";
const PLUGIN: &str = "Belongs to a plugin of RabbitMQ that has no equivalent here.";
const NAMING: &str = "Not shown to clients.";
const POLICIES: &str = "Give them as definitions instead.";
const CREDENTIALS: &str = "New passwords are not judged.";

pub(super) const KEYS: &[KeySpec] = &[
    any("num_acceptors.tcp", ACCEPTORS),
    any("num_acceptors.ssl", ACCEPTORS),
    any("reverse_dns_lookups", "Peers are shown by address."),
    any("ranch_connection_max", ACCEPTORS),
    any("socket_writer.gc_threshold", ERLANG),
    any("tcp_listen_options", SOCKET),
    any("tcp_listen_options.buffer", SOCKET),
    any("tcp_listen_options.delay_send", SOCKET),
    any("tcp_listen_options.dontroute", SOCKET),
    any("tcp_listen_options.exit_on_close", SOCKET),
    any("tcp_listen_options.fd", SOCKET),
    any("tcp_listen_options.high_msgq_watermark", SOCKET),
    any("tcp_listen_options.high_watermark", SOCKET),
    any("tcp_listen_options.linger.on", SOCKET),
    any("tcp_listen_options.linger.timeout", SOCKET),
    any("tcp_listen_options.low_msgq_watermark", SOCKET),
    any("tcp_listen_options.low_watermark", SOCKET),
    any("tcp_listen_options.port", SOCKET),
    any("tcp_listen_options.priority", SOCKET),
    any("tcp_listen_options.send_timeout", SOCKET),
    any("tcp_listen_options.send_timeout_close", SOCKET),
    any("tcp_listen_options.tos", SOCKET),
    any("ssl_options", TLS_FILES),
    any("ssl_options.cacerts.$name", TLS_FILES),
    any("ssl_options.cert", TLS_FILES),
    any("ssl_options.key.$type", TLS_FILES),
    any(
        "ssl_options.password",
        "The private key's file must not be encrypted.",
    ),
    any("ssl_options.psk_identity", TLS_FIXED),
    any(
        "ssl_options.bypass_pem_cache",
        "Changed files are always read again.",
    ),
    any("ssl_options.ciphers.$cipher", TLS_FIXED),
    any("ssl_options.client_renegotiation", TLS_FIXED),
    any("ssl_options.secure_renegotiate", TLS_FIXED),
    any("ssl_options.reuse_sessions", TLS_FIXED),
    any("ssl_options.honor_cipher_order", TLS_FIXED),
    any("ssl_options.honor_ecc_order", TLS_FIXED),
    any("ssl_options.dh", TLS_FIXED),
    any("ssl_options.dhfile", TLS_FIXED),
    any(
        "ssl_options.depth",
        "The length of a chain is bounded by the verifier.",
    ),
    any("ssl_options.log_level", LOG_FORM),
    any("ssl_options.log_alert", LOG_FORM),
    any("ssl_allow_poodle_attack", TLS_FIXED),
    any("credential_validator.**", CREDENTIALS),
    any("default_users.**", POLICIES),
    any("default_policies.**", POLICIES),
    any("default_limits.**", POLICIES),
    any("definitions.hashing.algorithm", "Not configurable."),
    any("definitions.https.url", "Definitions come from files."),
    any("definitions.tls.**", "Definitions come from files."),
    any(
        "cluster_keepalive_interval",
        "For clusters; this node is alone.",
    ),
    any("cluster_queue_limit", "Limits are set per virtual host."),
    any("cluster_exchange_limit", "Limits are set per virtual host."),
    any("vhost_max", "Not limited."),
    any(
        "channel_max_per_node",
        "Channels are limited per connection.",
    ),
    any("consumer_max_per_channel", "Not limited."),
    any("runtime_parameters.limits.**", "Not limited."),
    any("deprecated_features.permit.$name", "Nothing is deprecated."),
    any("message_interceptors.**", PLUGIN),
    any("channel_interceptor.**", PLUGIN),
    any("delegate_count", ERLANG),
    any("default_worker_pool_size", ERLANG),
    any("hipe_compile", ERLANG),
    any("background_gc_enabled", ERLANG),
    any("background_gc_target_interval", ERLANG),
    any(
        "vm_memory_calculation_strategy",
        "Memory is the process's resident set without mapped files.",
    ),
    any("erlang.**", ERLANG),
    any("net_ticktime", ERLANG),
    any("distribution.listener.**", ERLANG),
    any("sysmon_handler.**", ERLANG),
    any("mnesia_table_loading_retry_timeout", MNESIA),
    any("mnesia_table_loading_retry_limit", MNESIA),
    any("metadata_store.**", MNESIA),
    any("message_store_shutdown_timeout", STORE),
    any("queue_index_embed_msgs_below", STORE),
    any("classic_queue.default_version", STORE),
    any("vhost_restart_strategy", STORE),
    any("mirroring_sync_batch_size", MIRRORS),
    any("mirroring_sync_max_throughput", MIRRORS),
    any("quorum_queue.**", RAFT),
    any("raft.**", RAFT),
    any("collect_statistics", STATISTICS),
    any("collect_statistics_interval", STATISTICS),
    any("statistics_level", STATISTICS),
    any("management_agent.**", STATISTICS),
    any("product.name", NAMING),
    any("product.version", NAMING),
    any("motd_file", NAMING),
    any("cluster_tags.$tag", NAMING),
    any("node_tags.$tag", NAMING),
    any("log.console.color_esc_seqs.**", LOG_FORM),
    any("log.console.formatter.**", LOG_FORM),
    any("log.file.formatter.**", LOG_FORM),
    any("log.file.rotation.**", LOG_ROTATE),
    any("log.default.rotation.**", LOG_ROTATE),
    any("log.$category.rotation.**", LOG_ROTATE),
    any("log.$category.file", "There is one log file, `log.file`."),
    any("log.exchange", LOG_TARGET),
    any("log.exchange.**", LOG_TARGET),
    any("log.journald", LOG_TARGET),
    any("log.journald.**", LOG_TARGET),
    any("log.syslog", LOG_TARGET),
    any("log.syslog.**", LOG_TARGET),
    any("log.summarize_process_state", ERLANG),
    any("log.error_logger_format_depth", ERLANG),
    any("amqp1_0.**", PLUGIN),
    any("auth_cache.**", PLUGIN),
    any("auth_http.**", PLUGIN),
    any("auth_ldap.**", PLUGIN),
    any("auth_oauth2.**", PLUGIN),
    any("aws.**", PLUGIN),
    any("event_exchange.**", PLUGIN),
    any("mqtt.**", PLUGIN),
    any("stomp.**", PLUGIN),
    any("stream.**", PLUGIN),
    any("tracing.**", PLUGIN),
    any("trust_store.**", PLUGIN),
    any("web_mqtt.**", PLUGIN),
    any("web_stomp.**", PLUGIN),
];
