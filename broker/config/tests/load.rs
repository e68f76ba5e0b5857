//! Configurations as people write them: files from the field, what replaces what, and what each
//! mistake is told.

use std::fs;
use std::path::PathBuf;

use leveret_config::{
    CertLogin, Config, ConfigError, Limit, ListenAddr, ListenHost, LogFormat, LogLevel, Mechanism,
    PartitionHandling, QueueType, TlsVersion,
};

fn from(text: &str) -> Config {
    Config::from_text(text, "test.conf").unwrap_or_else(|error| panic!("{error}"))
}

fn problems(text: &str) -> Vec<String> {
    match Config::from_text(text, "test.conf") {
        Ok(config) => panic!("no error, but {config:?}"),
        Err(ConfigError { problems }) => problems.iter().map(ToString::to_string).collect(),
    }
}

fn file(directory: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = directory.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, text).unwrap();
    path
}

#[test]
fn nothing_at_all_is_the_default() {
    let config = Config::load(None, &[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.net.tcp_listeners, [ListenAddr::loopback(5672)]);
}

#[test]
fn a_configuration_from_the_field() {
    let config = from(
        "listeners.tcp.1 = 10.1.0.5:5672\n\
         management.listener.ip = 10.1.0.5\n\
         management.listener.port = 15672\n\
         prometheus.tcp.ip = 10.1.0.5\n\
         cluster_formation.peer_discovery_backend = rabbit_peer_discovery_classic_config\n\
         cluster_formation.classic_config.nodes.1 = rabbit@control01\n\
         cluster_formation.classic_config.nodes.2 = rabbit@control02\n\
         cluster_partition_handling = pause_minority\n\
         collect_statistics_interval = 30000\n\
         mnesia_table_loading_retry_limit = 10\n\
         vm_memory_high_watermark.absolute = 4GB\n\
         disk_free_limit.absolute = 2GB\n\
         deprecated_features.permit.management_metrics_collection = true\n\
         default_queue_type = quorum\n\
         log.console = true\n\
         log.file.level = warning\n\
         default_user = openstack\n\
         default_pass = secret # not so\n\
         consumer_timeout = 3600000\n",
    );
    assert_eq!(config.net.tcp_listeners.len(), 1);
    assert_eq!(config.net.tcp_listeners[0].to_string(), "10.1.0.5:5672");
    assert_eq!(
        config.cluster.nodes,
        ["rabbit@control01", "rabbit@control02"]
    );
    assert_eq!(
        config.cluster.partition_handling,
        PartitionHandling::PauseMinority
    );
    assert_eq!(
        config.resources.memory_high_watermark,
        Limit::Absolute(4_000_000_000)
    );
    assert_eq!(
        config.resources.disk_free_limit,
        Limit::Absolute(2_000_000_000)
    );
    assert_eq!(config.queues.default_type, QueueType::Quorum);
    assert_eq!(config.queues.consumer_timeout_ms, Some(3_600_000));
    assert_eq!(config.log.file_level, LogLevel::Warning);
    assert_eq!(config.access.default_user, "openstack");
    assert_eq!(config.access.default_pass, "secret");
    let ignored: Vec<_> = config
        .ignored
        .iter()
        .map(|i| (i.origin.as_str(), i.key.as_str()))
        .collect();
    assert!(ignored.contains(&("test.conf:9", "collect_statistics_interval")));
    assert!(ignored.contains(&(
        "test.conf:13",
        "deprecated_features.permit.management_metrics_collection"
    )));
    assert!(!ignored.iter().any(|(_, key)| *key == "default_user"));
}

#[test]
fn unknown_keys_are_named_with_file_and_line_and_a_guess() {
    assert_eq!(
        problems("# first\nheartbeet = 60\n"),
        ["test.conf:2: unknown key `heartbeet`: did you mean `heartbeat`?"]
    );
    assert_eq!(
        problems("listener.tcp.default = 5672"),
        ["test.conf:1: unknown key `listener.tcp.default`: did you mean `listeners.tcp.default`?"]
    );
    assert_eq!(
        problems("no.such.thing = 1"),
        ["test.conf:1: unknown key `no.such.thing`"]
    );
    assert_eq!(
        problems("log.conection.level = debug"),
        ["test.conf:1: unknown key `log.conection.level`: did you mean `log.connection.level`?"]
    );
}

#[test]
fn wrong_values_are_told_what_was_expected() {
    assert_eq!(
        problems("heartbeat = sixty"),
        ["test.conf:1: `heartbeat = sixty`: expected seconds, from 0 to 65535"]
    );
    assert_eq!(
        problems("listeners.tcp.default = 127.0.0.1"),
        ["test.conf:1: `listeners.tcp.default = 127.0.0.1`: expected `port` or `address:port`"]
    );
    assert_eq!(
        problems("proxy_protocol = yes"),
        ["test.conf:1: `proxy_protocol = yes`: expected `true` or `false`"]
    );
    assert_eq!(
        problems("default_queue_type = stream"),
        [
            "test.conf:1: `default_queue_type = stream`: expected `classic`, `rabbit_classic_queue`, \
          `quorum` or `rabbit_quorum_queue`"
        ]
    );
    assert_eq!(
        problems("load_definitions = /no/such/file.json"),
        [
            "test.conf:1: `load_definitions = /no/such/file.json`: expected the path of a file that can be read"
        ]
    );
    assert_eq!(problems("auth_backends.1 = ldap").len(), 1);
    assert_eq!(problems("ssl_options.crl_check = true").len(), 1);
}

#[test]
fn all_problems_are_told_at_once_and_not_without_end() {
    assert_eq!(
        problems("heartbeat = x\nwrong line\nunknown = 1\nframe_max = y\n").len(),
        4
    );
    assert_eq!(problems(&"wrong line\n".repeat(1000)).len(), 20);
    let unknown: String = (0..1000).map(|n| format!("unknown{n} = 1\n")).collect();
    assert_eq!(problems(&unknown).len(), 20);
}

#[test]
fn a_later_setting_of_a_key_replaces_the_earlier_one() {
    let config = from("heartbeat = 10\nlisteners.tcp.1 = 1\nheartbeat = 20\nlisteners.tcp.1 = 2\n");
    assert_eq!(config.limits.heartbeat_s, 20);
    assert_eq!(
        config.net.tcp_listeners,
        [ListenAddr {
            host: ListenHost::All,
            port: 2
        }]
    );
}

#[test]
fn lists_replace_their_default() {
    let config = from(
        "listeners.tcp.local = 127.0.0.1:5672\nlisteners.tcp.six = [::1]:5673\n\
         auth_mechanisms.1 = EXTERNAL\nauth_mechanisms.2 = PLAIN\n\
         default_user_tags.monitoring = true\ndefault_user_tags.administrator = false\n\
         ssl_options.versions.1 = tlsv1.3\nssl_options.versions.2 = tlsv1.1\n",
    );
    assert_eq!(config.net.tcp_listeners.len(), 2);
    assert_eq!(
        config.access.mechanisms,
        [Mechanism::External, Mechanism::Plain]
    );
    assert_eq!(config.access.default_user_tags, ["monitoring"]);
    assert_eq!(config.tls.versions, [TlsVersion::V1_3]);
}

#[test]
fn loopback_users() {
    assert_eq!(from("").access.loopback_users, ["guest"]);
    assert_eq!(
        from("loopback_users.guest = true").access.loopback_users,
        ["guest"]
    );
    assert!(
        from("loopback_users.guest = false")
            .access
            .loopback_users
            .is_empty()
    );
    assert!(
        from("loopback_users = none")
            .access
            .loopback_users
            .is_empty()
    );
    assert_eq!(
        from("loopback_users.my\\.user = true")
            .access
            .loopback_users,
        ["my.user"]
    );
}

#[test]
fn none_goes_before_named_listeners_wherever_it_stands() {
    assert!(
        from("listeners.tcp = none\nlisteners.tcp.1 = 5672\n")
            .net
            .tcp_listeners
            .is_empty()
    );
    assert!(
        from("listeners.tcp.1 = 5672\nlisteners.tcp = none\n")
            .net
            .tcp_listeners
            .is_empty()
    );
}

#[test]
fn relative_goes_before_absolute() {
    let config =
        from("vm_memory_high_watermark.relative = 0.6\nvm_memory_high_watermark.absolute = 1GB");
    assert_eq!(config.resources.memory_high_watermark, Limit::Relative(0.6));
    assert_eq!(config.resources.memory_high_watermark.bytes(1000), 600);
    assert_eq!(config.resources.memory_budget(1000), 300);
    assert_eq!(
        from("leveret.memory_budget = 7")
            .resources
            .memory_budget(1000),
        7
    );
}

#[test]
fn what_needs_each_other_is_checked() {
    let missing = problems("\nlisteners.ssl.1 = 5671");
    assert_eq!(
        missing,
        [
            "test.conf:2: `listeners.ssl` needs `ssl_options.certfile`",
            "test.conf:2: `listeners.ssl` needs `ssl_options.keyfile`",
        ]
    );
    assert_eq!(problems("ssl_options.verify = verify_peer").len(), 1);
    assert_eq!(problems("ssl_options.fail_if_no_peer_cert = true").len(), 1);
    assert_eq!(problems("frame_max = 100").len(), 1);
    assert_eq!(from("frame_max = 0").limits.frame_max, 0);
}

#[test]
fn tls_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = file(&directory, "any.pem", "not looked at here");
    let path = path.display();
    let config = from(&format!(
        "listeners.ssl.default = 5671\nssl_options.cacertfile = {path}\nssl_options.certfile = {path}\n\
         ssl_options.keyfile = {path}\nssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\nssl_cert_login_from = common_name\n\
         ssl_options.ciphers.1 = ECDHE-RSA-AES256-GCM-SHA384\n"
    ));
    assert!(config.tls.verify_peer && config.tls.require_peer_cert);
    assert_eq!(config.tls.login_from, CertLogin::CommonName);
    assert_eq!(config.ignored.len(), 1);
}

#[test]
fn conf_d_and_overrides_come_after_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let main = file(
        &directory,
        "rabbitmq.conf",
        "heartbeat = 1\nframe_max = 8192\nchannel_max = 1\n",
    );
    file(
        &directory,
        "conf.d/20-b.conf",
        "heartbeat = 3\nlog.console.formatter = json\n",
    );
    file(
        &directory,
        "conf.d/10-a.conf",
        "heartbeat = 2\nframe_max = 16384\n",
    );
    file(&directory, "conf.d/30-c.conf.disabled", "heartbeat = 4\n");
    let config = Config::load(Some(&main), &[]).unwrap();
    assert_eq!(
        (config.limits.heartbeat_s, config.limits.frame_max),
        (3, 16384)
    );
    assert_eq!(
        (config.limits.channel_max, config.log.console_format),
        (1, LogFormat::Json)
    );

    let set = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let overrides = [set("heartbeat", "9"), set("default_pass", "a # 'b'")];
    let config = Config::load(Some(&main), &overrides).unwrap();
    assert_eq!(
        (config.limits.heartbeat_s, config.limits.frame_max),
        (9, 16384)
    );
    assert_eq!(config.access.default_pass, "a # 'b'");

    let error = Config::load(None, &[set("hartbeat", "1"), set("no key", "1")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "--set: `no key` is not a key\n--set: unknown key `hartbeat`: did you mean `heartbeat`?"
    );

    let config = Config::load(Some(&directory.path().join("conf.d")), &[]).unwrap();
    assert_eq!(config.limits.heartbeat_s, 3);
}

#[test]
fn included_files_and_values_from_files() {
    let directory = tempfile::tempdir().unwrap();
    file(&directory, "secret", "pass#word\n");
    file(
        &directory,
        "more/a.conf",
        "heartbeat = 5\ndefault_user = $(< ../secret )\n",
    );
    let main = file(
        &directory,
        "main.conf",
        "include more/*.conf\ndefault_pass = $(<secret)\nchannel_max = 7\n",
    );
    let config = Config::load(Some(&main), &[]).unwrap();
    assert_eq!(config.access.default_pass, "pass#word");
    assert_eq!(config.access.default_user, "pass#word");
    assert_eq!(
        (config.limits.heartbeat_s, config.limits.channel_max),
        (5, 7)
    );

    let missing = file(&directory, "missing.conf", "default_pass = $(<nothing)\n");
    let error = Config::load(Some(&missing), &[]).unwrap_err().to_string();
    assert!(
        error.contains("missing.conf:1: `default_pass`") && error.contains("nothing"),
        "{error}"
    );
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let itself = file(
        &directory,
        "itself.conf",
        "include itself.conf\nheartbeat = 1\n",
    );
    let error = Config::load(Some(&itself), &[]).unwrap_err().to_string();
    assert!(
        error.contains("itself.conf:1: files include each other too deeply"),
        "{error}"
    );

    let absent = directory.path().join("absent.conf");
    let error = Config::load(Some(&absent), &[]).unwrap_err().to_string();
    assert!(error.contains("absent.conf: cannot be read"), "{error}");

    let long = file(&directory, "long.conf", &"#\n".repeat(600_000));
    let error = Config::load(Some(&long), &[]).unwrap_err().to_string();
    assert!(error.contains("long.conf: longer than"), "{error}");

    let binary = directory.path().join("binary.conf");
    fs::write(&binary, [0xff, 0xfe, 0x00]).unwrap();
    let error = Config::load(Some(&binary), &[]).unwrap_err().to_string();
    assert!(error.contains("binary.conf: is not UTF-8 text"), "{error}");
}
