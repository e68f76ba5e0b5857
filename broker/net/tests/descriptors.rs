//! A process without file descriptors left. Alone in its process, because the limit is the process's.

mod support;

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{Server, converse, plain_config};
use tokio::net::TcpSocket;

#[tokio::test]
async fn accepting_pauses_and_goes_on() {
    let mut server = Server::start(&plain_config()).await;
    // The client's descriptor is there before the limit is.
    let client = TcpSocket::new_v4().unwrap();
    let before = getrlimit(Resource::Nofile);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    let mut spare = Vec::new();
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(open + 8),
            ..before
        },
    )
    .unwrap();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        spare.push(file);
    }

    let begun = Instant::now();
    let mut client = client.connect(server.address).await.unwrap();
    let errors = server
        .until(|counters| counters.accept_errors >= 6)
        .await
        .accept_errors;
    // 10 + 20 + 40 + 80 + 160 ms lie between the first error and the sixth.
    assert!(
        errors < 20 && begun.elapsed() >= Duration::from_millis(310),
        "{errors} errors"
    );

    drop(spare);
    let mut accepted = server.accepted().await;
    converse(&mut client, &mut accepted.stream).await;
    setrlimit(Resource::Nofile, before).unwrap();
}
