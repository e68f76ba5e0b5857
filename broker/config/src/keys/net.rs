//! Listeners, sockets and TLS.

use super::KeySpec;
use crate::config::{CertLogin, SanKind, TlsVersion};
use crate::kind::Kind;

const PORT_MAX: u64 = u16::MAX as u64;
/// A day: longer than any timeout that is meant.
pub(super) const TIME_MS_MAX: u64 = 86_400_000;

pub(super) const KEYS: &[KeySpec] = &[
    KeySpec::list(
        "listeners.tcp.$name",
        "127.0.0.1:5672",
        (
            |c| c.net.tcp_listeners.clear(),
            Kind::Listen(|c, addr| c.net.tcp_listeners.push(addr)),
        ),
        "AMQP without TLS. A port alone listens on every interface. RabbitMQ's default is every interface.",
    ),
    KeySpec::used(
        "listeners.tcp",
        "",
        Kind::Choice(&[("none", |c| c.net.tcp_listeners.clear())]),
        "No plain listener, whatever `listeners.tcp.$name` says.",
    ),
    KeySpec::list(
        "listeners.ssl.$name",
        "",
        (
            |c| c.net.tls_listeners.clear(),
            Kind::Listen(|c, addr| c.net.tls_listeners.push(addr)),
        ),
        "AMQP with TLS. Needs `ssl_options.certfile` and `ssl_options.keyfile`.",
    ),
    KeySpec::used(
        "listeners.ssl",
        "",
        Kind::Choice(&[("none", |c| c.net.tls_listeners.clear())]),
        "No TLS listener, whatever `listeners.ssl.$name` says.",
    ),
    KeySpec::used(
        "handshake_timeout",
        "10000",
        Kind::IntOrInfinity(1, TIME_MS_MAX, "milliseconds", |c, ms| {
            c.net.handshake_timeout_ms = ms
        }),
        "From the accepted socket (after TLS) to an open connection.",
    ),
    KeySpec::used(
        "ssl_handshake_timeout",
        "5000",
        Kind::Int(1, TIME_MS_MAX, "milliseconds", |c, ms| {
            c.net.tls_handshake_timeout_ms = ms
        }),
        "For the whole TLS handshake; a PROXY header has the same time.",
    ),
    KeySpec::used(
        "connection_max",
        "infinity",
        Kind::IntOrInfinity(0, u64::MAX, "connections", |c, n| c.net.connection_max = n),
        "Connections open at once on this node; more are closed when they are accepted.",
    ),
    KeySpec::used(
        "proxy_protocol",
        "false",
        Kind::Flag(|c, on| c.net.proxy_protocol = on),
        "Every connection must begin with a PROXY header, version 1 or 2.",
    ),
    KeySpec::used(
        "tcp_listen_options.backlog",
        "128",
        Kind::Int(1, PORT_MAX, "connections", |c, n| {
            c.net.tcp.backlog = u32::try_from(n).unwrap_or(u32::MAX);
        }),
        "Connections that may wait to be accepted.",
    ),
    KeySpec::used(
        "tcp_listen_options.nodelay",
        "true",
        Kind::Flag(|c, on| c.net.tcp.nodelay = on),
        "TCP_NODELAY.",
    ),
    KeySpec::used(
        "tcp_listen_options.keepalive",
        "false",
        Kind::Flag(|c, on| c.net.tcp.keepalive = on),
        "SO_KEEPALIVE.",
    ),
    KeySpec::used(
        "tcp_listen_options.sndbuf",
        "",
        Kind::Int(1, i32::MAX as u64, "bytes", |c, n| {
            c.net.tcp.send_buffer_bytes = u32::try_from(n).ok()
        }),
        "SO_SNDBUF.",
    ),
    KeySpec::used(
        "tcp_listen_options.recbuf",
        "",
        Kind::Int(1, i32::MAX as u64, "bytes", |c, n| {
            c.net.tcp.receive_buffer_bytes = u32::try_from(n).ok()
        }),
        "SO_RCVBUF.",
    ),
];

pub(super) const TLS_KEYS: &[KeySpec] = &[
    KeySpec::used(
        "ssl_options.cacertfile",
        "",
        Kind::Existing(|c, path| c.tls.ca_file = Some(path)),
        "PEM file of the authorities that client certificates are checked against.",
    ),
    KeySpec::used(
        "ssl_options.certfile",
        "",
        Kind::Existing(|c, path| c.tls.cert_file = Some(path)),
        "PEM file of this server's certificate and its chain.",
    ),
    KeySpec::used(
        "ssl_options.keyfile",
        "",
        Kind::Existing(|c, path| c.tls.key_file = Some(path)),
        "PEM file of this server's private key, not encrypted.",
    ),
    KeySpec::used(
        "ssl_options.verify",
        "verify_none",
        Kind::Choice(&[
            ("verify_none", |c| c.tls.verify_peer = false),
            ("verify_peer", |c| c.tls.verify_peer = true),
        ]),
        "Whether clients are asked for a certificate, which is then checked. Needs `ssl_options.cacertfile`.",
    ),
    KeySpec::used(
        "ssl_options.fail_if_no_peer_cert",
        "false",
        Kind::Flag(|c, on| c.tls.require_peer_cert = on),
        "Whether clients without a certificate are refused. Needs `verify_peer`.",
    ),
    KeySpec::list(
        "ssl_options.versions.$version",
        "",
        (
            |c| c.tls.versions.clear(),
            Kind::Choice(&[
                ("tlsv1.3", |c| c.tls.versions.push(TlsVersion::V1_3)),
                ("tlsv1.2", |c| c.tls.versions.push(TlsVersion::V1_2)),
                ("tlsv1.1", |_| ()),
                ("tlsv1", |_| ()),
            ]),
        ),
        "TLS versions to offer; both 1.2 and 1.3 when not given. Older ones may be named and are never offered.",
    ),
    KeySpec::used(
        "ssl_cert_login_from",
        "distinguished_name",
        Kind::Choice(&[
            ("distinguished_name", |c| {
                c.tls.login_from = CertLogin::DistinguishedName
            }),
            ("common_name", |c| c.tls.login_from = CertLogin::CommonName),
            ("subject_alternative_name", |c| {
                c.tls.login_from = CertLogin::SubjectAltName
            }),
            ("subject_alt_name", |c| {
                c.tls.login_from = CertLogin::SubjectAltName
            }),
        ]),
        "What of a client certificate is the user name of an EXTERNAL login.",
    ),
    KeySpec::used(
        "ssl_cert_login_san_type",
        "dns",
        Kind::Choice(&[
            ("dns", |c| c.tls.login_san_kind = SanKind::Dns),
            ("ip", |c| c.tls.login_san_kind = SanKind::Ip),
            ("email", |c| c.tls.login_san_kind = SanKind::Email),
            ("uri", |c| c.tls.login_san_kind = SanKind::Uri),
            ("other_name", |c| c.tls.login_san_kind = SanKind::Other),
        ]),
        "With `subject_alternative_name`: the kind of name.",
    ),
    KeySpec::used(
        "ssl_cert_login_san_index",
        "0",
        Kind::Int(0, 1000, "an index", |c, n| {
            c.tls.login_san_index = usize::try_from(n).unwrap_or(0)
        }),
        "With `subject_alternative_name`: which of the names of that kind, from 0.",
    ),
    KeySpec::used(
        "ssl_options.crl_check",
        "false",
        Kind::Choice(&[("false", |_| ())]),
        "Revocation lists are not checked. Anything but `false` is refused, so that nobody relies on it.",
    ),
];
