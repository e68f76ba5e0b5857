//! Bounds: of time before AMQP, of connections, and what an end of accepting touches.

mod support;

use std::time::{Duration, Instant};

use leveret_config::{Config, ListenAddr, ListenHost};
use leveret_net::{ListenError, Listeners};
use support::{Authority, Client, Files, Server, closed, converse, plain_config, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_millis(300);

fn limited(mut config: Config) -> Config {
    config.net.tls_handshake_timeout_ms = LIMIT.as_millis() as u64;
    config
}

/// Writes `bytes` one at a time until the server closes, and checks that it did so for the time taken.
async fn dribble(server: &Server, bytes: &[u8]) {
    let begun = Instant::now();
    let (mut reader, mut writer) = server.tcp().await.into_split();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let write = async {
        for byte in bytes.iter().cycle() {
            pause.tick().await;
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = write => {}
        () = closed(&mut reader) => {}
    }
    assert!(
        begun.elapsed() >= LIMIT,
        "closed after {:?}",
        begun.elapsed()
    );
}

/// The start of a TLS record that promises more.
const CLIENT_HELLO: [u8; 64] = {
    let mut bytes = [0; 64];
    [bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]] = [22, 3, 1, 2, 0, 1];
    bytes
};

#[tokio::test]
async fn a_slow_tls_handshake_is_cut_and_holds_up_nobody() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut server = Server::start(&limited(files.config())).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(server.tcp().await);
    }
    server.until(|counters| counters.open == 50).await;
    let _client = Client::trusting(&authority)
        .talk(server.tcp().await)
        .await
        .unwrap();
    let _accepted = server.accepted().await;
    dribble(&server, &CLIENT_HELLO).await;
    for mut client in silent {
        closed(&mut client).await;
    }
    server
        .until(|counters| counters.failed == 51 && counters.open == 1)
        .await;
}

#[tokio::test]
async fn a_slow_proxy_header_is_cut() {
    let mut config = limited(plain_config());
    config.net.proxy_protocol = true;
    let server = Server::start(&config).await;
    let mut silent = server.tcp().await;
    dribble(&server, b"PROXY UNKNOWN ").await;
    closed(&mut silent).await;
    server
        .until(|counters| counters.failed == 2 && counters.open == 0)
        .await;
}

#[tokio::test]
async fn connections_over_the_limit_are_closed_and_a_closed_one_makes_room() {
    let mut config = plain_config();
    config.net.connection_max = Some(2);
    let mut server = Server::start(&config).await;
    let (mut one, _two) = (server.tcp().await, server.tcp().await);
    let (mut first, second) = (server.accepted().await, server.accepted().await);
    let mut three = server.tcp().await;
    closed(&mut three).await;
    let counters = server.until(|counters| counters.over_limit == 1).await;
    assert_eq!((counters.open, counters.accepted), (2, 3));
    converse(&mut one, &mut first.stream).await;
    drop(second);
    let _four = server.tcp().await;
    server.accepted().await;
}

#[tokio::test]
async fn an_end_of_accepting_leaves_what_is_open() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut config = files.config();
    config.net.tcp_listeners = vec![ListenAddr::loopback(0)];
    let mut server = Server::start(&config).await;
    let mut client = server.tcp().await;
    let mut accepted = server.accepted().await;
    let tls = server
        .serving
        .local_addrs()
        .iter()
        .find(|local| local.tls)
        .unwrap()
        .address;
    let mut in_handshake = TcpStream::connect(tls).await.unwrap();
    server.until(|counters| counters.open == 2).await;

    let (address, serving) = (server.address, server.serving);
    within(serving.stop()).await;
    assert!(TcpStream::connect(address).await.is_err());
    closed(&mut in_handshake).await;
    converse(&mut client, &mut accepted.stream).await;
}

#[tokio::test]
async fn addresses() {
    let taken = Server::start(&plain_config()).await;
    let mut config = Config::default();
    config.net.tcp_listeners = vec![ListenAddr::loopback(taken.address.port())];
    match Listeners::bind(&config).await {
        Err(ListenError::Bind(error)) => {
            let text = error.to_string();
            assert!(text.contains(&taken.address.to_string()), "{text}");
        }
        other => panic!("{other:?}"),
    }

    config.net.tcp_listeners = vec![
        ListenAddr {
            host: ListenHost::All,
            port: 0,
        },
        ListenAddr {
            host: ListenHost::Name("localhost".to_owned()),
            port: 0,
        },
    ];
    let mut server = Server::start(&config).await;
    for local in server.serving.local_addrs().to_vec() {
        let mut client = TcpStream::connect(("127.0.0.1", local.address.port()));
        if local.address.ip().is_ipv6() && !local.address.ip().is_unspecified() {
            client = TcpStream::connect(("::1", local.address.port()));
        }
        let mut client = client.await.unwrap();
        client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        server
            .accepted()
            .await
            .stream
            .read_exact(&mut byte)
            .await
            .unwrap();
    }
}
