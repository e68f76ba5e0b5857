//! What the wire between nodes costs, over loopback and both nodes in one process: the round trip of a small request, frames of 1 KiB in
//! bulk, a large body, each with the processor time of both sides.
//!
//! `cargo run --release -p leveret-cluster --example wire_bench`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use leveret_cluster::name::{NodeAddress, NodeName};
use leveret_cluster::peers::{Handler, Handlers, Inbound, Link, Me, Peer, Peers, PeersConfig};
use leveret_cluster::wire::hello::{Cookie, Purpose};
use leveret_cluster::wire::sender::Lane;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::TcpListener;

type Failure = Box<dyn std::error::Error>;

/// Answers requests with their body, and counts what wants no answer.
#[derive(Default)]
struct Echo(Arc<AtomicU64>);

impl Handler for Echo {
    fn serve(self: Arc<Self>, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            while let Ok(Some(frame)) = inbound.next().await {
                if frame.header.kind == 1 {
                    let _ = inbound
                        .answers()
                        .answer(Lane::Bulk, &frame.header, frame.body);
                } else {
                    self.0.fetch_add(1, Ordering::Release);
                }
            }
        })
    }
}

fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

struct Measured {
    start: Instant,
    cpu: Duration,
}

impl Measured {
    fn start() -> Measured {
        Measured {
            start: Instant::now(),
            cpu: cpu(),
        }
    }

    fn tell(self, what: &str, count: u64, bytes: u64) {
        let (took, cpu) = (self.start.elapsed().as_secs_f64(), cpu() - self.cpu);
        println!(
            "{what:<40} {:>9.0} /s {:>8.1} MB/s {:>8.2} us of CPU each",
            count as f64 / took,
            (count * bytes) as f64 / took / 1e6,
            cpu.as_secs_f64() * 1e6 / count as f64,
        );
    }
}

async fn node(number: u64, handler: Arc<dyn Handler>) -> Result<(Peers, Peer), Failure> {
    let name = NodeName::parse(&format!("n{number}@127.0.0.1"))?;
    let me = Me {
        cluster: [1; 16],
        node: number,
        incarnation: number,
        boot: number,
        name: name.clone(),
    };
    let handlers = Handlers {
        session: handler,
        ..Handlers::default()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = NodeAddress {
        name,
        host: "127.0.0.1".into(),
        port: listener.local_addr()?.port(),
    };
    let peers = Peers::new(PeersConfig::new(me, Cookie::new("a secret")), handlers);
    peers.listen(listener);
    let peer = Peer {
        node: number,
        incarnation: None,
        address,
    };
    Ok((peers, peer))
}

async fn round_trips(link: &Link, at_once: usize, count: u64) -> Result<(), Failure> {
    let measured = Measured::start();
    let mut times = Vec::new();
    let mut waiting = std::collections::VecDeque::new();
    for _ in 0..count {
        let begun = Instant::now();
        waiting.push_back((
            begun,
            link.begin(Lane::Bulk, 1, 0, Bytes::from_static(&[1; 32]))?,
        ));
        if waiting.len() >= at_once
            && let Some((begun, answer)) = waiting.pop_front()
        {
            answer.await?;
            times.push(begun.elapsed());
        }
    }
    for (begun, answer) in waiting {
        answer.await?;
        times.push(begun.elapsed());
    }
    measured.tell(
        &format!("requests of 32 bytes, {at_once} at once"),
        count,
        32,
    );
    times.sort_unstable();
    let of = |share: usize| times[(times.len() - 1) * share / 1000];
    println!(
        "{:<40} p50 {:?}, p99 {:?}, p999 {:?}",
        "",
        of(500),
        of(990),
        of(999)
    );
    Ok(())
}

async fn bulk(link: &Link, came: &AtomicU64, size: usize, count: u64) -> Result<(), Failure> {
    let body = Bytes::from(vec![1; size]);
    came.store(0, Ordering::Release);
    let measured = Measured::start();
    for _ in 0..count {
        link.sender().room(Lane::Bulk).await;
        link.push(Lane::Bulk, 2, 0, body.clone())?;
    }
    while came.load(Ordering::Acquire) < count {
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    measured.tell(&format!("frames of {size} bytes"), count, size as u64);
    Ok(())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let came = Arc::new(AtomicU64::new(0));
    let (one, first) = node(1, Arc::new(Echo::default())).await?;
    let (two, second) = node(2, Arc::new(Echo(Arc::clone(&came)))).await?;
    for peers in [&one, &two] {
        peers.set_peers([first.clone(), second.clone()]);
    }
    let link = loop {
        match one.link(2, Purpose::Session) {
            Some(link) => break link,
            None => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    round_trips(&link, 1, 20_000).await?;
    round_trips(&link, 64, 400_000).await?;
    bulk(&link, &came, 1024, 2_000_000).await?;
    bulk(&link, &came, 64 << 10, 50_000).await?;
    bulk(&link, &came, 1 << 20, 4000).await?;
    one.stop().await;
    two.stop().await;
    Ok(())
}
