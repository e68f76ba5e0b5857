//! Connections that begin with a PROXY header, and those that should and do not.

mod support;

use leveret_config::Config;
use leveret_net::proxy::V2_SIGNATURE;
use support::{Authority, Client, Files, Server, closed, plain_config, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 5672\r\n";

fn v2() -> Vec<u8> {
    let body = [192, 0, 2, 1, 198, 51, 100, 2, 0xdc, 4, 0x16, 0x28];
    [&V2_SIGNATURE[..], &[0x21, 0x11, 0, 12], &body].concat()
}

fn local() -> Vec<u8> {
    [&V2_SIGNATURE[..], &[0x20, 0, 0, 0]].concat()
}

fn proxied(mut config: Config) -> Config {
    config.net.proxy_protocol = true;
    config
}

#[tokio::test]
async fn the_header_gives_the_addresses_and_leaves_the_rest() {
    let mut server = Server::start(&proxied(plain_config())).await;
    for header in [V1.to_vec(), v2()] {
        let mut client = server.tcp().await;
        let socket = client.local_addr().unwrap();
        client
            .write_all(&[&header[..], b"AMQP\0\0\x09\x01"].concat())
            .await
            .unwrap();
        let mut accepted = server.accepted().await;
        assert_eq!(accepted.peer, "192.0.2.1:56324".parse().unwrap());
        assert_eq!(accepted.local, "198.51.100.2:5672".parse().unwrap());
        assert_eq!(accepted.proxy, Some(socket));
        let mut bytes = [0; 8];
        within(accepted.stream.read_exact(&mut bytes))
            .await
            .unwrap();
        assert_eq!(&bytes, b"AMQP\0\0\x09\x01");
    }
}

#[tokio::test]
async fn a_connection_of_the_proxy_itself_keeps_its_addresses() {
    let mut server = Server::start(&proxied(plain_config())).await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), local()] {
        let mut client = server.tcp().await;
        client.write_all(&header).await.unwrap();
        let accepted = server.accepted().await;
        assert_eq!(accepted.peer, client.local_addr().unwrap());
        assert_eq!((accepted.local, accepted.proxy), (server.address, None));
    }
}

#[tokio::test]
async fn a_header_in_pieces() {
    let mut server = Server::start(&proxied(plain_config())).await;
    for header in [V1.to_vec(), v2()] {
        let mut client = server.tcp().await;
        client.set_nodelay(true).unwrap();
        for byte in header {
            client.write_all(&[byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(
            server.accepted().await.peer,
            "192.0.2.1:56324".parse().unwrap()
        );
    }
}

#[tokio::test]
async fn no_header_or_a_wrong_one_is_closed() {
    let mut server = Server::start(&proxied(plain_config())).await;
    let endless = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 1000]].concat();
    let wrong: [&[u8]; 4] = [
        b"AMQP\0\0\x09\x01AMQP\0\0\x09\x01",
        b"PROXY TCP4 1 2 3 4\r\n",
        &endless,
        &[0x16; 64],
    ];
    for bytes in wrong {
        let mut client = server.tcp().await;
        client.write_all(bytes).await.unwrap();
        closed(&mut client).await;
    }
    let mut short = server.tcp().await;
    short.write_all(&v2()[..20]).await.unwrap();
    short.shutdown().await.unwrap();
    closed(&mut short).await;
    server
        .until(|counters| counters.failed == 5 && counters.open == 0)
        .await;

    let mut client = server.tcp().await;
    client.write_all(V1).await.unwrap();
    server.accepted().await;
}

#[tokio::test]
async fn only_trusted_networks_are_believed() {
    let trusting = |network: &str| {
        let text = format!(
            "listeners.tcp.1 = 127.0.0.1:0\nproxy_protocol = true\n\
             leveret.proxy_protocol.trusted.1 = {network}\n"
        );
        Config::from_text(&text, "test.conf").unwrap()
    };
    let mut server = Server::start(&trusting("127.0.0.0/8")).await;
    let mut client = server.tcp().await;
    client.write_all(V1).await.unwrap();
    server.accepted().await;

    let server = Server::start(&trusting("192.0.2.0/24")).await;
    let mut client = server.tcp().await;
    closed(&mut client).await;
    server.until(|counters| counters.failed == 1).await;
}

#[tokio::test]
async fn tls_comes_after_the_header() {
    let authority = Authority::new("authority");
    let files = Files::new(&authority, &authority.server());
    let mut server = Server::start(&proxied(files.config())).await;
    let mut socket = server.tcp().await;
    socket.write_all(&v2()).await.unwrap();
    let _client = Client::trusting(&authority).talk(socket).await.unwrap();
    let accepted = server.accepted().await;
    assert_eq!(accepted.peer, "192.0.2.1:56324".parse().unwrap());
    assert!(accepted.tls.is_some());
}
