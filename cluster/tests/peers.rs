//! Who is there and who is not; requests, lanes, statuses. Some peers are processes of their own, to be killed and stopped.

mod nodes;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use leveret_cluster::peers::{
    Handlers, Inbound, PeerEvent, PeerEvents, PeerState, Peers, RequestError,
};
use leveret_cluster::wire::hello::Purpose;
use leveret_cluster::wire::sender::{Lane, SendError};
use nodes::*;
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};

/// Not a test: the process that a test starts, as node 2. It ends with its input.
#[test]
#[ignore = "a part of other tests"]
fn child_process() {
    let Ok(ports) = std::env::var("LEVERET_TEST_PORTS") else {
        return;
    };
    let ports: Vec<u16> = ports
        .split(' ')
        .map(|p| p.parse().expect("a port"))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let listener = loop {
            // The port may still be held by the process before.
            match tokio::net::TcpListener::bind(local(ports[1])).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        };
        let port = listener.local_addr().expect("an address").port();
        let peers = Peers::new(config(2), Handlers::default());
        peers.listen(listener);
        peers.set_peers([peer(1, ports[0])]);
        println!("\nlistens on {port} as {}", peers.me().boot);
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
        peers.stop().await;
    });
}

struct Process {
    child: Child,
    port: u16,
    boot: u64,
}

impl Process {
    fn start(first: u16, own: u16) -> Process {
        let program = std::env::current_exe().expect("this test");
        let mut child = Command::new(program)
            .args(["--exact", "child_process", "--ignored", "--nocapture"])
            .env("LEVERET_TEST_PORTS", format!("{first} {own}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let output = child.stdout.take().expect("its output");
        let line = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("listens on ")?.to_owned()))
            .expect("a port");
        let (port, boot) = line.split_once(" as ").expect("port and boot");
        Process {
            child,
            port: port.parse().expect("a port"),
            boot: boot.parse().expect("a number"),
        }
    }

    fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("a process of ours");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn next(events: &mut PeerEvents) -> PeerEvent {
    soon(events.next()).await
}

fn is(event: &PeerEvent, kind: &str, boot: u64) -> bool {
    format!("{event:?}").starts_with(kind) && event.node() == 2 && event.boot() == boot
}

/// Node 1 with a process as node 2, which is up.
async fn with_process() -> (Peers, PeerEvents, Process, u16) {
    let (peers, port) = node(config(1), Handlers::default()).await;
    let process = Process::start(port, 0);
    peers.set_peers([peer(2, process.port)]);
    let mut events = peers.subscribe();
    let event = next(&mut events).await;
    assert!(is(&event, "Up", process.boot), "{event:?}");
    (peers, events, process, port)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_process_is_gone_at_once() {
    // The machine may be busy with something else for one of the tries, but not for all.
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        let (peers, mut events, process, _) = with_process().await;
        let killed = Instant::now();
        process.signal(Signal::KILL);
        let event = next(&mut events).await;
        fastest = fastest.min(killed.elapsed());
        assert!(is(&event, "Gone", process.boot), "{event:?}");
        assert_eq!(peers.state(2).0, PeerState::Gone);
        assert!(peers.link(2, Purpose::Raft).is_none());
        peers.stop().await;
    }
    println!("gone after {fastest:?}");
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_is_silent_after_one_and_a_half_seconds() {
    let (_peers, mut events, process, _) = with_process().await;
    let stopped = Instant::now();
    process.signal(Signal::STOP);
    let event = next(&mut events).await;
    let after = stopped.elapsed();
    assert!(is(&event, "Silent", process.boot), "{event:?}");
    println!("silent after {after:?}");
    assert!(
        after > Duration::from_millis(1300) && after < Duration::from_secs(5),
        "{after:?}"
    );
    process.signal(Signal::CONT);
    let event = next(&mut events).await;
    assert!(is(&event, "Up", process.boot), "{event:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_stops_in_order_says_goodbye() {
    let (_peers, mut events, mut process, _) = with_process().await;
    drop(process.child.stdin.take());
    let event = next(&mut events).await;
    assert!(is(&event, "Gone", process.boot), "{event:?}");
    process.child.wait().expect("its end");
}

#[tokio::test]
async fn a_goodbye_counts_before_the_connections_end() {
    let nodes = connected(2).await;
    let link = nodes[1].link(1, Purpose::Raft).expect("a link");
    link.push(Lane::Urgent, 241, 0, Bytes::new()).expect("room");
    until("it is gone", || nodes[0].state(2).0 == PeerState::Gone).await;
    assert!(nodes[0].link(2, Purpose::Raft).is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_comes_back_is_another_one() {
    let (peers, mut events, process, port) = with_process().await;
    let (own, before) = (process.port, process.boot);
    process.signal(Signal::KILL);
    let again = Process::start(port, own);
    let event = next(&mut events).await;
    assert!(is(&event, "Gone", before), "{event:?}");
    let event = next(&mut events).await;
    assert!(is(&event, "Up", again.boot), "{event:?}");
    assert_eq!(peers.state(2).1.expect("a peer").boot, again.boot);
}

#[tokio::test]
async fn statuses_are_told_with_the_next_heartbeat() {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&heard);
    let handlers = Handlers {
        on_status: Box::new(move |node, status| told.lock().push((node, status.blob.clone()))),
        ..Handlers::default()
    };
    let nodes = [
        node(config(1), handlers).await,
        node(config(2), Handlers::default()).await,
    ];
    nodes[1].0.set_status(Bytes::from_static(b"first"));
    introduce(&nodes);
    until("the first status", || {
        nodes[0]
            .0
            .status(2)
            .is_some_and(|status| status.blob == b"first"[..])
    })
    .await;
    nodes[1].0.set_status(Bytes::from_static(b"second"));
    until("the second status", || {
        heard.lock().last() == Some(&(2, Bytes::from_static(b"second")))
    })
    .await;
    assert_eq!(
        nodes[0].0.status(2).expect("a status").boot,
        nodes[1].0.me().boot
    );
}

/// Node 2 answers requests: kind 1 with the body, kind 2 never, kind 3 not, kind 4 after the next request.
async fn answering(mut inbound: Inbound) {
    let mut late = None;
    while let Ok(Some(frame)) = inbound.next().await {
        let answers = inbound.answers();
        match frame.header.kind {
            1 => answers
                .answer(Lane::Bulk, &frame.header, frame.body.clone())
                .expect("room"),
            3 => answers
                .fail(Lane::Bulk, &frame.header, "it is\ntoo late")
                .expect("room"),
            4 => late = Some(frame.clone()),
            _ => {}
        }
        if let Some(late) = late.take_if(|late| late.header != frame.header) {
            answers
                .answer(Lane::Bulk, &late.header, late.body)
                .expect("room");
        }
    }
}

async fn asking() -> (Vec<Peers>, leveret_cluster::peers::Link) {
    let handlers = Handlers {
        session: Arc::new(Serve(answering)),
        ..Handlers::default()
    };
    let nodes = [
        node(config(1), Handlers::default()).await,
        node(config(2), handlers).await,
    ];
    introduce(&nodes);
    let nodes: Vec<Peers> = nodes.into_iter().map(|(peers, _)| peers).collect();
    until("a session link", || {
        nodes[0].link(2, Purpose::Session).is_some()
    })
    .await;
    let link = nodes[0].link(2, Purpose::Session).expect("a link");
    (nodes, link)
}

#[tokio::test]
async fn requests_get_their_own_answers() {
    let (nodes, link) = asking().await;
    let ask = |kind, body: &'static [u8], timeout| {
        link.request(Lane::Bulk, kind, 5, Bytes::from_static(body), timeout)
    };
    let answer = ask(1, b"a body", LONG).await.expect("an answer");
    assert_eq!(
        (answer.body, answer.header.group),
        (Bytes::from_static(b"a body"), 5)
    );
    let unanswered = ask(2, b"", Duration::from_millis(30)).await;
    assert_eq!(unanswered, Err(RequestError::TimedOut));
    let failed = ask(3, b"", LONG).await;
    assert_eq!(failed, Err(RequestError::Failed("it istoo late".into())));
    let late = link.begin(Lane::Bulk, 4, 0, vec![4]).expect("room");
    let early = ask(1, b"early", LONG).await.expect("an answer");
    assert_eq!(early.body, b"early"[..]);
    assert_eq!(late.await.expect("an answer").body, [4][..]);
    // One that is not waited for any more is forgotten.
    drop(link.begin(Lane::Bulk, 1, 0, vec![5]).expect("room"));
    assert_eq!(
        ask(1, b"on", LONG).await.expect("an answer").body,
        b"on"[..]
    );
    let open = link.begin(Lane::Bulk, 2, 0, Bytes::new()).expect("room");
    nodes[1].stop().await;
    assert_eq!(soon(open).await, Err(RequestError::Broken));
    until("the link is closed", || link.sender().is_closed()).await;
    let closed = link.push(Lane::Bulk, 1, 0, Bytes::new());
    assert_eq!(closed, Err(RequestError::from(SendError::Closed)));
}

#[tokio::test]
async fn who_is_no_peer_any_more_is_closed() {
    let (nodes, link) = asking().await;
    nodes[0].set_peers([]);
    soon(link.sender().ended()).await;
    assert_eq!(nodes[0].state(2).0, PeerState::Unknown);
    // Nor is it let in.
    until("node 2 has lost its links", || {
        Purpose::OF_MEMBERS
            .iter()
            .all(|purpose| nodes[1].link(1, *purpose).is_none())
    })
    .await;
}

#[tokio::test]
async fn an_urgent_frame_overtakes_a_hundred_mebibytes() {
    const FRAMES: usize = 100;
    let before = Arc::new(AtomicUsize::new(usize::MAX));
    let all = Arc::new(AtomicUsize::new(0));
    let (seen, count) = (Arc::clone(&before), Arc::clone(&all));
    let counting = move |mut inbound: Inbound| {
        let (seen, count) = (Arc::clone(&seen), Arc::clone(&count));
        async move {
            while let Ok(Some(frame)) = inbound.next().await {
                match frame.header.kind {
                    7 => seen.store(count.load(Ordering::Relaxed), Ordering::Relaxed),
                    _ => _ = count.fetch_add(1, Ordering::Relaxed),
                }
            }
        }
    };
    let handlers = Handlers {
        raft: Arc::new(Serve(counting)),
        ..Handlers::default()
    };
    let mut sender = config(1);
    sender.bounds.bulk_bytes = 200 << 20;
    let nodes = [
        node(sender, Handlers::default()).await,
        node(config(2), handlers).await,
    ];
    introduce(&nodes);
    all_up(&nodes[0].0).await;
    let link = nodes[0].0.link(2, Purpose::Raft).expect("a link");
    let body = Bytes::from(vec![1; 1 << 20]);
    for _ in 0..FRAMES {
        link.push(Lane::Bulk, 1, 0, body.clone()).expect("room");
    }
    link.push(Lane::Urgent, 7, 0, Bytes::new()).expect("room");
    until("all have come", || all.load(Ordering::Relaxed) == FRAMES).await;
    let before = before.load(Ordering::Relaxed);
    println!("{before} of {FRAMES} frames came before the urgent one");
    assert!(before <= 3, "{before}");
}
