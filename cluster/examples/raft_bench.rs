//! Entries a second and CPU for each, of one group of three members in this process, over real journals and a network of direct calls.
//!
//! `cargo run --release -p leveret-cluster --example raft_bench -- [DIR] [SECONDS] [BYTES]`
//!
//! A window of N means that N proposals are in flight: the next is proposed when one is answered, which is when the leader has applied it. CPU is the
//! whole process: three members, their journals, and the proposer. The durable group answers when a majority has synced its entry, the
//! transient one when a majority has written it.

#[path = "../tests/common/mod.rs"]
mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::NoReplica;
use common::network::Router;
use leveret_cluster::raft::group::{GroupConfig, RaftGroup, Role};
use leveret_cluster::raft::snapshot::{MemorySink, SnapshotSink, SnapshotSource, memory_source};
use leveret_cluster::raft::state_machine::{Committed, Machine};
use leveret_cluster::raft::types::{Payload, member_id};
use leveret_cluster::{LogStore, LogStoreConfig, Mode};
use leveret_storage::disk::{Disk, RealDisk};
use openraft_rt_tokio::TokioRuntime;
use tokio::sync::mpsc;

/// Counts, and does nothing else.
#[derive(Default)]
struct Count(u64);

impl Machine for Count {
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>) {
        self.0 += entries.map(|entry| entry.data.len() as u64).sum::<u64>();
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }

    fn restore(&mut self, _: Bytes) -> std::io::Result<()> {
        Ok(())
    }

    fn snapshot(&mut self) -> Arc<dyn SnapshotSource> {
        memory_source(self.checkpoint().into())
    }

    fn sink(&mut self) -> Box<dyn SnapshotSink> {
        Box::new(MemorySink::default())
    }

    fn install(&mut self, _: Box<dyn std::any::Any + Send>) -> std::io::Result<()> {
        Ok(())
    }
}

fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or("").split(' ').collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<u64>().ok())
            .unwrap_or(0)
    };
    // utime and stime, fields 14 and 15; a tick is 10 ms on Linux.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

async fn run(dir: &Path, kind: u32, window: u64, seconds: u64, bytes: usize) {
    let router: Router<TokioRuntime> = Router::default();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let mut groups = Vec::new();
    let mut stores = Vec::new();
    for id in 1..=3 {
        let config = LogStoreConfig {
            dir: dir.join(format!("node-{id}")),
            segment_size_bytes: 64 << 20,
            sync_interval_ms: 200,
        };
        let mode = Mode {
            clustered: true,
            manual: false,
        };
        let opened = LogStore::open_as(
            &config,
            mode,
            Arc::clone(&disk),
            &mut NoReplica,
            Box::new(|_| {}),
        );
        let (store, mut recovered) = opened.expect("the store opens");
        let store = Arc::new(store);
        let member = member_id(id, 0);
        let mut config = GroupConfig::new(kind, member);
        config.in_flight_max = window;
        let group = RaftGroup::start(
            config,
            Arc::clone(&store),
            recovered.take_raft(kind),
            Count::default(),
            router.factory(kind, member),
        );
        let group: Arc<RaftGroup<TokioRuntime, Count>> = group.await.expect("the group starts");
        let inbound: Arc<RaftGroup<TokioRuntime, Count>> = Arc::clone(&group);
        router.add(inbound);
        groups.push(group);
        stores.push(store);
    }
    let members: BTreeSet<u64> = (1..=3).map(|id| member_id(id, 0)).collect();
    groups[0].initialize(members).await.expect("a new group");
    let (leader, term) = loop {
        let leading = groups.iter().find_map(|group| match group.role() {
            Role::Leading { term, .. } => Some((Arc::clone(group), term)),
            _ => None,
        });
        if let Some(leading) = leading {
            break leading;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let data = Payload::copied(&vec![7; bytes]);
    let (tell, mut told) = mpsc::unbounded_channel();
    let propose = || {
        let (tell, at) = (tell.clone(), Instant::now());
        let answer = move |result: Result<_, _>| {
            let _ = tell.send((at, result.is_ok()));
        };
        leader
            .propose(term, data.clone(), answer)
            .expect("room in the window");
    };
    let mut delays = Vec::new();
    let before: Vec<_> = stores.iter().map(|store| store.journal().stats()).collect();
    let (start, cpu_start) = (Instant::now(), cpu());
    for _ in 0..window {
        propose();
    }
    while start.elapsed() < Duration::from_secs(seconds) {
        let (at, ok) = told.recv().await.expect("an answer");
        assert!(ok, "the leader lost its place");
        delays.push(at.elapsed());
        propose();
    }
    let (took, used) = (start.elapsed(), cpu() - cpu_start);
    delays.sort_unstable();
    let count = delays.len();
    let at = |share: f64| delays[((count - 1) as f64 * share) as usize];
    let syncs: u64 = stores
        .iter()
        .zip(&before)
        .map(|(store, before)| store.journal().stats().syncs - before.syncs)
        .sum();
    println!(
        "{} window {window:5}: {:9.0} entries/s, {:6.1} us CPU an entry, p50 {:?} p99 {:?}, {:.0} syncs/s of all",
        if kind < 512 { "durable  " } else { "transient" },
        count as f64 / took.as_secs_f64(),
        used.as_secs_f64() * 1e6 / count as f64,
        at(0.5),
        at(0.99),
        syncs as f64 / took.as_secs_f64(),
    );
    for group in &groups {
        group.shutdown().await;
    }
    for store in &stores {
        store.close();
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().unwrap_or_else(|| "raft-bench".into()));
    let seconds = args.next().and_then(|s| s.parse().ok()).unwrap_or(3);
    let bytes = args.next().and_then(|s| s.parse().ok()).unwrap_or(100);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    for (number, (kind, window)) in [(256, 1), (512, 1), (256, 64), (256, 1000), (512, 1000)]
        .into_iter()
        .enumerate()
    {
        let dir = dir.join(number.to_string());
        let _ = std::fs::remove_dir_all(&dir);
        runtime.block_on(run(&dir, kind, window, seconds, bytes));
        let _ = std::fs::remove_dir_all(&dir);
    }
}
