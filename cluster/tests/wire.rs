//! Who may connect, and what becomes of those who may not.

mod nodes;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use leveret_cluster::peers::{DialError, Handlers, PeerState, Peers, PeersConfig};
use leveret_cluster::wire::frame::{Header, OutFrame};
use leveret_cluster::wire::handshake::{self, HandshakeError};
use leveret_cluster::wire::hello::{Cookie, Hello, Purpose, Role};
use leveret_cluster::wire::tls::{Tls, TlsFiles};
use nodes::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn hello(node: u64, purpose: Purpose) -> Hello {
    let me = me(node);
    Hello {
        purpose,
        cluster: me.cluster,
        node,
        incarnation: me.incarnation,
        boot: me.boot,
        name: me.name,
        nonce: [9; 32],
    }
}

/// Node 1, which knows node 2; how many connections its handlers have been given.
async fn victim(config: PeersConfig) -> (Peers, u16, Arc<AtomicUsize>) {
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let handler = Arc::new(Serve(
        move |mut inbound: leveret_cluster::peers::Inbound| {
            let count = Arc::clone(&count);
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                while let Ok(Some(_)) = inbound.next().await {}
                count.fetch_sub(1, Ordering::Relaxed);
            }
        },
    ));
    let handlers = Handlers {
        raft: handler.clone(),
        session: handler,
        ..Handlers::default()
    };
    let (peers, port) = node(config, handlers).await;
    // Nobody listens there: only the victim's ear is tested.
    peers.set_peers([peer(2, 1)]);
    (peers, port, served)
}

async fn dial(port: u16) -> TcpStream {
    TcpStream::connect(local(port)).await.expect("a connection")
}

/// Everything up to the end of the stream.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    match soon(stream.read_to_end(&mut bytes)).await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    bytes
}

async fn shake(stream: &mut TcpStream, hello: &Hello) -> Result<Hello, HandshakeError> {
    let (mut read, mut write) = stream.split();
    let cookie = Cookie::new("a secret");
    soon(handshake::dial(
        &mut read,
        &mut write,
        hello,
        &cookie,
        |_| Ok(()),
    ))
    .await
}

/// A proper connection still comes about.
async fn still_works(port: u16, served: &AtomicUsize) {
    let mut stream = dial(port).await;
    shake(&mut stream, &hello(2, Purpose::Session))
        .await
        .expect("a peer");
    until("the peer is served", || served.load(Ordering::Relaxed) == 1).await;
    drop(stream);
    until("it has left", || served.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn a_wrong_cookie_is_told_nothing() {
    let (_peers, port, served) = victim(config(1)).await;
    let mut stream = dial(port).await;
    let first = hello(2, Purpose::Raft).encode();
    stream.write_all(&first).await.expect("room");
    let mut theirs = vec![0; 2];
    stream.read_exact(&mut theirs).await.expect("their length");
    theirs.resize(
        2 + usize::from(u16::from_le_bytes([theirs[0], theirs[1]])),
        0,
    );
    stream
        .read_exact(&mut theirs[2..])
        .await
        .expect("their hello");
    let proof = Cookie::new("a guess").prove(Role::Dialler, &first, &theirs);
    stream.write_all(&proof).await.expect("room");
    assert_eq!(rest(&mut stream).await, b"");
    assert_eq!(served.load(Ordering::Relaxed), 0);

    let other = PeersConfig {
        cookie: Cookie::new("a guess"),
        ..config(2)
    };
    let guessing = Peers::new(other, Handlers::default());
    let asked = guessing.ask(&address(1, port), 1, Vec::new(), LONG).await;
    assert!(
        matches!(&asked, Err(DialError::Handshake(HandshakeError::Stream(_)))),
        "{asked:?}"
    );
    still_works(port, &served).await;
}

#[tokio::test]
async fn a_proof_cannot_be_used_again() {
    let (_peers, port, served) = victim(config(1)).await;
    // What a good peer sends, as somebody on the way hears it.
    let mut stream = dial(port).await;
    let mine = hello(2, Purpose::Session).encode();
    stream.write_all(&mine).await.expect("room");
    let mut theirs = vec![0; 2];
    stream.read_exact(&mut theirs).await.expect("their length");
    theirs.resize(
        2 + usize::from(u16::from_le_bytes([theirs[0], theirs[1]])),
        0,
    );
    stream
        .read_exact(&mut theirs[2..])
        .await
        .expect("their hello");
    let proof = Cookie::new("a secret").prove(Role::Dialler, &mine, &theirs);
    stream.write_all(&proof).await.expect("room");
    stream.write_all(&[0]).await.expect("room");
    until("the good one is served", || {
        served.load(Ordering::Relaxed) == 1
    })
    .await;
    // Again, and their own proof sent back to them.
    let mut answer = [0; 33];
    stream
        .read_exact(&mut answer)
        .await
        .expect("proof and verdict");
    for proof in [&proof[..], &answer[..32]] {
        let mut again = dial(port).await;
        let whole = [&mine[..], proof, &[0]].concat();
        again.write_all(&whole).await.expect("room");
        let heard = rest(&mut again).await;
        assert!(heard.len() <= theirs.len(), "no proof and no verdict");
    }
    assert_eq!(served.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn garbage_and_huge_lengths_are_closed() {
    let (_peers, port, served) = victim(config(1)).await;
    let requests: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
        b"AMQP\0\0\x09\x01",
        &[0xff; 5000],
        &[0; 100],
        &[88, 0, b'L', b'E', b'V', b'N', 9, 9],
    ];
    for request in requests {
        let mut stream = dial(port).await;
        stream.write_all(request).await.expect("room");
        stream.shutdown().await.expect("its end");
        assert_eq!(rest(&mut stream).await, b"");
    }
    assert_eq!(served.load(Ordering::Relaxed), 0);
    // Once it is known, a peer's frames are judged too.
    let header = Header::default();
    let good = OutFrame::new(header, vec![1, 2, 3])
        .expect("a frame")
        .to_vec();
    let mut checksum = good.clone();
    checksum[21] ^= 1;
    let mut huge = good.clone();
    huge[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let mut flags = good.clone();
    flags[5] = 0x80;
    for bad in [checksum, huge, flags] {
        let mut stream = dial(port).await;
        shake(&mut stream, &hello(2, Purpose::Raft))
            .await
            .expect("a peer");
        stream.write_all(&good).await.expect("room");
        until("it is served", || served.load(Ordering::Relaxed) == 1).await;
        stream.write_all(&bad).await.expect("room");
        assert_eq!(rest(&mut stream).await, b"");
        until("it is closed", || served.load(Ordering::Relaxed) == 0).await;
    }
    still_works(port, &served).await;
}

#[tokio::test]
async fn who_does_not_fit_is_told_why() {
    let (peers, port, served) = victim(config(1)).await;
    let good = hello(2, Purpose::Raft);
    let cases = [
        (
            Hello {
                cluster: [1; 16],
                ..good.clone()
            },
            "another cluster",
        ),
        (
            Hello {
                node: 7,
                ..good.clone()
            },
            "knows no node 7",
        ),
        (
            Hello {
                name: name(5),
                ..good.clone()
            },
            "node 2 is n2@127.0.0.1",
        ),
        (
            Hello {
                incarnation: 1,
                ..good.clone()
            },
            "forget_cluster_node",
        ),
        (
            Hello {
                boot: peers.me().boot,
                incarnation: peers.me().incarnation,
                ..good.clone()
            },
            "the node itself",
        ),
        (
            Hello {
                name: name(1),
                ..good.clone()
            },
            "called n1@127.0.0.1 too",
        ),
    ];
    for (wrong, reason) in cases {
        let refused = shake(&mut dial(port).await, &wrong).await;
        let Err(HandshakeError::Refused { reason: told, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert!(told.contains(reason), "{told}");
    }
    assert_eq!(served.load(Ordering::Relaxed), 0);
    still_works(port, &served).await;
}

#[tokio::test]
async fn another_node_behind_an_address_is_not_taken_for_the_right_one() {
    let nodes = connected(2).await;
    let (third, port) = node(config(3), Handlers::default()).await;
    third.set_peers([peer(1, 1), peer(2, 1)]);
    // Node 1 believes that node 2 is where node 3 listens.
    let one = &nodes[0];
    one.set_peers([peer(2, port), peer(3, port)]);
    until("node 3 is up", || one.state(3).0 == PeerState::Up).await;
    assert!(one.link(2, Purpose::Raft).is_none());
    let asked = one.ask(&address(2, port), 1, Vec::new(), LONG).await;
    let Err(DialError::Handshake(HandshakeError::Unfit { reason, .. })) = asked else {
        panic!("{asked:?}");
    };
    assert!(reason.contains("n2@127.0.0.1"), "{reason}");
}

#[tokio::test]
async fn slow_handshakes_end_and_are_bounded() {
    let slow = PeersConfig {
        timing: short(),
        ..config(1)
    };
    let (_peers, port, served) = victim(slow).await;
    let begin = std::time::Instant::now();
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut stream = dial(port).await;
        // The connection may have been closed already: there are too many.
        let _ = stream.write_all(&[88]).await;
        held.push(stream);
    }
    for stream in &mut held {
        assert_eq!(rest(stream).await, b"");
    }
    assert!(begin.elapsed() < LONG);
    still_works(port, &served).await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_any_more_is_closed() {
    let slow = PeersConfig {
        timing: short(),
        ..config(1)
    };
    let (_peers, port, served) = victim(slow).await;
    let mut stream = dial(port).await;
    shake(&mut stream, &hello(2, Purpose::Raft))
        .await
        .expect("a peer");
    until("it is served", || served.load(Ordering::Relaxed) == 1).await;
    // A part of a frame is no frame.
    stream.write_all(&[0; 10]).await.expect("room");
    assert_eq!(rest(&mut stream).await, b"");
    until("it is closed", || served.load(Ordering::Relaxed) == 0).await;
}

struct Certificates(tempfile::TempDir);

impl Certificates {
    /// An authority, and a certificate of it for each host.
    fn new(hosts: &[&str]) -> Certificates {
        let dir = tempfile::tempdir().expect("a directory");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = params.self_signed(&key).expect("an authority");
        std::fs::write(dir.path().join("ca.pem"), ca.pem()).expect("a file");
        let issuer = rcgen::Issuer::new(params, key);
        for host in hosts {
            let key = rcgen::KeyPair::generate().expect("a key");
            let params = rcgen::CertificateParams::new(vec![(*host).to_owned()]).expect("a host");
            let cert = params.signed_by(&key, &issuer).expect("a certificate");
            std::fs::write(dir.path().join(format!("{host}.pem")), cert.pem()).expect("a file");
            std::fs::write(dir.path().join(format!("{host}.key")), key.serialize_pem())
                .expect("a file");
        }
        Certificates(dir)
    }

    fn tls(&self, host: &str) -> Option<Arc<Tls>> {
        let file = |name: String| self.0.path().join(name);
        let files = TlsFiles {
            ca: file("ca.pem".into()),
            cert: file(format!("{host}.pem")),
            key: file(format!("{host}.key")),
        };
        Some(Arc::new(Tls::load(files).expect("a configuration")))
    }
}

#[tokio::test]
async fn tls_wants_a_certificate_on_both_sides() {
    let (ours, others) = (
        Certificates::new(&["127.0.0.1", "example"]),
        Certificates::new(&["127.0.0.1"]),
    );
    let with = |node, tls| PeersConfig {
        tls,
        ..config(node)
    };
    let (one, first) = node(with(1, ours.tls("127.0.0.1")), Handlers::default()).await;
    let (two, second) = node(with(2, ours.tls("127.0.0.1")), Handlers::default()).await;
    for peers in [&one, &two] {
        peers.set_peers([peer(1, first), peer(2, second)]);
    }
    all_up(&one).await;
    all_up(&two).await;
    // Frames larger than a TLS record.
    let link = one.link(2, Purpose::Raft).expect("a link");
    link.push(
        leveret_cluster::wire::sender::Lane::Bulk,
        1,
        0,
        vec![7; 3 << 20],
    )
    .expect("room");
    link.sender().close();
    soon(link.sender().ended()).await;

    let strangers = [
        ("no TLS", with(3, None)),
        ("another authority", with(3, others.tls("127.0.0.1"))),
    ];
    for (what, stranger) in strangers {
        let asking = Peers::new(stranger, Handlers::default());
        let asked = asking.ask(&address(1, first), 1, Vec::new(), LONG).await;
        assert!(
            matches!(asked, Err(DialError::Handshake(_))),
            "{what}: {asked:?}"
        );
    }
    // A certificate of the authority for another host: it may dial, but not be dialled.
    let (_four, fourth) = node(with(4, ours.tls("example")), Handlers::default()).await;
    let asked = one.ask(&address(4, fourth), 1, Vec::new(), LONG).await;
    assert!(
        matches!(asked, Err(DialError::Handshake(HandshakeError::Stream(_)))),
        "{asked:?}"
    );
    let plain = Peers::new(with(5, None), Handlers::default());
    let (listener, fifth) = bind().await;
    plain.listen(listener);
    let asked = one
        .ask(&address(5, fifth), 1, Vec::new(), Duration::from_secs(20))
        .await;
    assert!(asked.is_err(), "a plain peer is not taken");
}
