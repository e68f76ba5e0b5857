//! What a message costs in the machine: `cargo run --release -p leveret-queue --example queue_cost`.
//!
//! Batches of 500 messages of 16 bytes to one consumer: build the entry, admit, apply, deliver, acknowledge. Then ten
//! million journaled messages in one queue: the index's size and the time of a snapshot.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use leveret_queue::{
    ConsumerSpec, Delivery, Effects, EntryBuilder, Link, Location, Machine, NewMessage, NoStore,
    Settings, UnackedRange, Waiter, checkpoint,
};

const BATCH: u64 = 500;
const QUEUE: u64 = 1;

/// A connection that always has room, and drops what it gets.
#[derive(Default)]
struct Sink {
    got: AtomicUsize,
    last: Mutex<Vec<Delivery>>,
}

impl Link for Sink {
    fn room(&self) -> usize {
        1 << 20
    }

    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        self.got.fetch_add(deliveries.len(), Ordering::Relaxed);
        if let Ok(mut last) = self.last.lock() {
            last.clear();
            last.append(deliveries);
        }
    }

    fn wait_room(&self, _: Waiter) -> bool {
        false
    }

    fn cancelled(&self, _: u64) {}
}

fn batch() -> EntryBuilder {
    let mut builder = EntryBuilder::with_capacity(BATCH as usize * 80);
    let message = NewMessage {
        exchange: b"",
        routing_key: b"queue",
        properties: &[0x10, 0, 2],
        body: &[b"0123456789abcdef"],
        persistent: true,
        expiration_ms: None,
        priority: 0,
        time_ms: 1,
    };
    for _ in 0..BATCH {
        builder.enqueue(&[QUEUE], &message, true);
    }
    builder
}

/// Nanoseconds that this thread has run: the machine may be busy with other things.
fn cpu_nanos() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split_whitespace().next();
    first.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Nanoseconds a message of: building, admit and apply with delivery, acknowledgement.
fn throughput(rounds: u64, durable: bool, no_ack: bool) -> [f64; 3] {
    let mut machine = Machine::new(0);
    let settings = Settings {
        durable,
        ..Settings::default()
    };
    machine.create(QUEUE, settings, 0);
    let sink = Arc::new(Sink::default());
    let spec = ConsumerSpec {
        link: sink.clone(),
        handle: 1,
        no_ack,
        exclusive: false,
        priority: 0,
        prefetch: 0,
        limiter: None,
        passive: false,
    };
    let slot = machine.consume(QUEUE, spec, 0).expect("nobody else");
    let mut nanos = [0u64; 3];
    for round in 0..rounds {
        let start = cpu_nanos();
        let mut builder = batch();
        nanos[0] += cpu_nanos() - start;
        let start = cpu_nanos();
        let mut effects = Effects::default();
        machine.admit(&mut builder, 1, &NoStore, &mut effects);
        let entry = builder.finish(None);
        let location = Location(round * 40_000);
        machine
            .apply(&entry, location, 1, &NoStore, &mut effects)
            .expect("a good entry");
        nanos[1] += cpu_nanos() - start;
        let start = cpu_nanos();
        let mut effects = Effects::default();
        let range = UnackedRange {
            slot,
            first: round * BATCH + 1,
            count: BATCH as u32,
        };
        machine.ack(QUEUE, &[range], 1, &NoStore, &mut effects);
        nanos[2] += cpu_nanos() - start;
    }
    let total = rounds * BATCH;
    assert_eq!(sink.got.load(Ordering::Relaxed) as u64, total);
    assert_eq!(machine.queue(QUEUE).expect("there").depth().unacked, 0);
    nanos.map(|n| n as f64 / total as f64)
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

fn backlog(messages: u64) {
    let mut machine = Machine::new(0);
    let settings = Settings {
        durable: true,
        ..Settings::default()
    };
    machine.create(QUEUE, settings, 0);
    let before = resident_kib();
    let start = Instant::now();
    let mut at = 0u64;
    for _ in 0..messages / BATCH {
        let mut builder = batch();
        let mut effects = Effects::default();
        machine.admit(&mut builder, 1, &NoStore, &mut effects);
        let entry = builder.finish(None);
        if (at & 0xffff_ffff) + entry.len() as u64 > 64 << 20 {
            at = ((at >> 32) + 1) << 32;
        }
        machine
            .apply(&entry, Location(at), 1, &NoStore, &mut effects)
            .expect("a good entry");
        at += entry.len() as u64;
    }
    println!("backlog of {messages}: applied in {:?}", start.elapsed());
    println!(
        "  resident: {} KiB more, the head in memory included",
        resident_kib() - before
    );
    let start = Instant::now();
    let state = machine.snapshot();
    let took = start.elapsed();
    let runs: usize = state[0].1.levels.iter().map(|l| l.runs().len()).sum();
    let bytes = checkpoint::encode(&state);
    println!(
        "  snapshot in {took:?}: {runs} runs, {} bytes of checkpoint",
        bytes.len()
    );
    println!(
        "  {:.6} bytes of index a message",
        runs as f64 * 24.0 / messages as f64
    );
    let start = Instant::now();
    let mut again = Machine::new(0);
    again.create(QUEUE, settings, 0);
    for (id, state) in checkpoint::decode(&bytes).expect("encoded here") {
        again.restore(id, state);
    }
    again.finish_replay(true, 1, &NoStore, &mut Effects::default());
    println!("  restored in {:?}", start.elapsed());
}

fn main() {
    let rounds = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(10_000);
    for (name, durable, no_ack) in [
        ("transient, no_ack", false, true),
        ("transient, acked", false, false),
        ("durable, no_ack", true, true),
        ("durable, acked", true, false),
    ] {
        let [build, apply, ack] = throughput(rounds, durable, no_ack);
        println!(
            "{name}: build {build:.1}, admit+apply+deliver {apply:.1}, ack {ack:.1} ns a message"
        );
    }
    backlog(10_000_000);
}
