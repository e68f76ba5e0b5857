//! TLS: sessions, client certificates, and clients that are none.

mod support;

use std::net::{IpAddr, Ipv4Addr};

use leveret_config::{CertLogin, SanKind, TlsVersion};
use leveret_net::{ListenError, Listeners, Stream};
use rcgen::SanType;
use support::{Authority, Client, Files, Server, closed, converse, plain_config, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ONLY_1_2: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12];

async fn hello(stream: &mut Stream) {
    let mut bytes = [0; 5];
    within(stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"hello");
}

#[tokio::test]
async fn a_session() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut server = Server::start(&files.config()).await;
    let socket = server.tcp().await;
    let address = socket.local_addr().unwrap();
    let mut client = Client::trusting(&authority).talk(socket).await.unwrap();
    let mut accepted = server.accepted().await;
    hello(&mut accepted.stream).await;
    converse(&mut client, &mut accepted.stream).await;
    assert_eq!((accepted.peer, accepted.local), (address, server.address));
    assert_eq!(accepted.proxy, None);
    assert!(accepted.stream.as_tcp().is_none());
    let tls = accepted.tls.unwrap();
    assert_eq!(tls.version, "tlsv1.3");
    assert!(tls.cipher.starts_with("TLS13_"), "{}", tls.cipher);
    assert_eq!(tls.server_name.as_deref(), Some("localhost"));
    assert_eq!(tls.peer, None);
}

#[tokio::test]
async fn a_plain_connection() {
    let mut server = Server::start(&plain_config()).await;
    let mut client = server.tcp().await;
    let mut accepted = server.accepted().await;
    converse(&mut client, &mut accepted.stream).await;
    assert_eq!(accepted.peer, client.local_addr().unwrap());
    assert_eq!(accepted.tls, None);
    let socket = accepted.stream.as_tcp().unwrap();
    assert!(socket.nodelay().unwrap());
}

#[tokio::test]
async fn versions_that_are_asked_for() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut config = files.config();
    config.tls.versions = vec![TlsVersion::V1_2];
    let mut server = Server::start(&config).await;
    let _client = Client::trusting(&authority)
        .talk(server.tcp().await)
        .await
        .unwrap();
    assert_eq!(server.accepted().await.tls.unwrap().version, "tlsv1.2");

    config.tls.versions = vec![TlsVersion::V1_3];
    let server = Server::start(&config).await;
    let old = Client {
        versions: ONLY_1_2,
        ..Client::trusting(&authority)
    };
    assert!(old.talk(server.tcp().await).await.is_err());
    server
        .until(|counters| counters.failed == 1 && counters.open == 0)
        .await;
}

#[tokio::test]
async fn the_name_of_a_login() {
    let authority = Authority::new("authority, the");
    let files = Files::new(&authority, &authority.server());
    let names = vec![
        SanType::DnsName("first.example".try_into().unwrap()),
        SanType::DnsName("second.example".try_into().unwrap()),
        SanType::Rfc822Name("a@b.example".try_into().unwrap()),
        SanType::URI("urn:x".try_into().unwrap()),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))),
    ];
    let identity = authority.sign("Zoë", names);
    let subject_alt = CertLogin::SubjectAltName;
    for (from, kind, index, expected) in [
        (
            CertLogin::DistinguishedName,
            SanKind::Dns,
            0,
            Some("CN=Zo\\C3\\AB,O=Leveret\\, tests"),
        ),
        (CertLogin::CommonName, SanKind::Dns, 0, Some("Zoë")),
        (subject_alt, SanKind::Dns, 0, Some("first.example")),
        (subject_alt, SanKind::Dns, 1, Some("second.example")),
        (subject_alt, SanKind::Dns, 2, None),
        (subject_alt, SanKind::Email, 0, Some("a@b.example")),
        (subject_alt, SanKind::Uri, 0, Some("urn:x")),
        (subject_alt, SanKind::Ip, 0, Some("192.0.2.1")),
        (subject_alt, SanKind::Other, 0, None),
    ] {
        let mut config = files.config();
        config.tls.verify_peer = true;
        config.tls.login_from = from;
        (config.tls.login_san_kind, config.tls.login_san_index) = (kind, index);
        let mut server = Server::start(&config).await;
        let client = Client::trusting(&authority).with(&identity);
        let _client = client.talk(server.tcp().await).await.unwrap();
        let peer = server.accepted().await.tls.unwrap().peer.unwrap();
        assert_eq!(
            peer.login_name.as_deref(),
            expected,
            "{from:?} {kind:?} {index}"
        );
        assert_eq!(peer.subject, "CN=Zo\\C3\\AB,O=Leveret\\, tests");
        assert_eq!(peer.issuer, "CN=authority\\, the");
        assert_eq!(peer.validity, "1975-01-01T00:00:00Z - 4096-01-01T00:00:00Z");
    }
}

#[tokio::test]
async fn who_is_let_in() {
    let authority = Authority::new("authority");
    let other = Authority::new("other");
    let files = Files::new(&authority, &authority.server());
    let (known, unknown) = (authority.client(), other.client());
    // verify_peer, fail_if_no_peer_cert, the client's certificate: let in, with a certificate
    for (verify, require, identity, expected) in [
        (false, false, None, Some(false)),
        (false, false, Some(&known), Some(false)),
        (false, false, Some(&unknown), Some(false)),
        (true, false, None, Some(false)),
        (true, false, Some(&known), Some(true)),
        (true, false, Some(&unknown), None),
        (true, true, None, None),
        (true, true, Some(&known), Some(true)),
        (true, true, Some(&unknown), None),
    ] {
        let mut config = files.config();
        (config.tls.verify_peer, config.tls.require_peer_cert) = (verify, require);
        let mut server = Server::start(&config).await;
        let client = Client {
            identity,
            ..Client::trusting(&authority)
        };
        let case = format!("{verify} {require} {}", identity.is_some());
        let stream = client.talk(server.tcp().await).await;
        match expected {
            Some(with_certificate) => {
                let tls = server.accepted().await.tls.unwrap();
                assert_eq!(tls.peer.is_some(), with_certificate, "{case}");
            }
            None => {
                if let Ok(mut stream) = stream {
                    closed(&mut stream).await;
                }
                server
                    .until(|counters| counters.failed == 1 && counters.open == 0)
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_server_harms_nobody() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut server = Server::start(&files.config()).await;
    let other = Authority::new("other");
    assert!(
        Client::trusting(&other)
            .talk(server.tcp().await)
            .await
            .is_err()
    );
    server
        .until(|counters| counters.failed == 1 && counters.open == 0)
        .await;
    let _client = Client::trusting(&authority)
        .talk(server.tcp().await)
        .await
        .unwrap();
    hello(&mut server.accepted().await.stream).await;
}

#[tokio::test]
async fn plain_text_to_a_tls_port_is_closed() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut server = Server::start(&files.config()).await;
    for text in [
        &b"AMQP\0\0\x09\x01"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        &[0xff; 70_000],
    ] {
        let mut client = server.tcp().await;
        // The server may close before all of it is written.
        let _ = client.write_all(text).await;
        closed(&mut client).await;
    }
    server
        .until(|counters| counters.failed == 3 && counters.open == 0)
        .await;
    let _client = Client::trusting(&authority)
        .talk(server.tcp().await)
        .await
        .unwrap();
    hello(&mut server.accepted().await.stream).await;
}

#[tokio::test]
async fn files_that_cannot_be_used_are_named_at_the_start() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let refused = async |config| match Listeners::bind(&config).await {
        Err(ListenError::Tls(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    files.write("ca.pem", "no certificate");
    assert!(
        Listeners::bind(&files.config()).await.is_ok(),
        "the authorities are not needed"
    );
    let mut config = files.config();
    config.tls.verify_peer = true;
    let error = refused(config).await;
    assert!(error.contains("ca.pem: has no certificate"), "{error}");

    files.write("key.pem", &authority.client().key_pem);
    let error = refused(files.config()).await;
    assert!(error.contains("the certificate and its key"), "{error}");

    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    files.write("key.pem", encrypted);
    let error = refused(files.config()).await;
    assert!(
        error.contains("key.pem: has no private key that can be read"),
        "{error}"
    );

    std::fs::remove_file(files.path("cert.pem")).unwrap();
    let error = refused(files.config()).await;
    assert!(error.contains("cert.pem: No such file"), "{error}");
}
