//! Log entries: what is replicated and journaled.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group};
use leveret_queue::entry::EntryReader;
use leveret_queue::{BatchBuilder, EntryBuf, EntryBuilder, NewMessage, SessionId, entry::batch};

/// Messages of an entry.
pub const MESSAGES: usize = 100;
const QUEUE: u64 = 5;

criterion_group!(stage, write, read, batches);

/// [`MESSAGES`] of `size` octets for one queue.
pub fn filled(size: usize) -> EntryBuilder {
    let body = vec![0x5a; size];
    let message = NewMessage {
        exchange: b"",
        routing_key: b"bench-0000000",
        properties: &[0x10, 0x00, 2],
        body: &[&body],
        persistent: true,
        expiration_ms: None,
        priority: 0,
        time_ms: 1,
    };
    let mut entry = EntryBuilder::with_capacity(MESSAGES * (size + 128));
    for _ in 0..MESSAGES {
        entry.enqueue(&[QUEUE], &message, true);
    }
    entry
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("write an entry of {MESSAGES}"));
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for size in [16, 1024] {
        group.bench_function(format!("{size} B"), |b| {
            b.iter(|| black_box(filled(size).finish(None)));
        });
    }
}

fn walk(entry: &Arc<EntryBuf>) -> usize {
    let reader = EntryReader::new(entry).unwrap();
    let ops = reader.ops().map(|op| reader.message(&op.unwrap()));
    ops.map(|message| message.body().len()).sum()
}

fn read(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("read an entry of {MESSAGES}"));
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for size in [16, 1024] {
        let entry = filled(size).finish(None);
        group.bench_function(format!("{size} B"), |b| {
            b.iter(|| assert_eq!(walk(black_box(&entry)), size * MESSAGES));
        });
    }
}

/// What a mirrored group proposes: entries of several sessions in one.
fn batches(c: &mut Criterion) {
    let session = SessionId {
        node: 1,
        incarnation: 1,
    };
    let entry = filled(100).finish(None);
    let written = || {
        let mut batch = BatchBuilder::default();
        for number in 1..=10 {
            batch.entry(session, number, &entry);
        }
        batch.finish(None)
    };
    let mut group = c.benchmark_group("a batch of 10 entries");
    group.throughput(Throughput::Elements(10 * MESSAGES as u64));
    group.bench_function("write", |b| b.iter(|| black_box(written())));
    let batch = written();
    group.bench_function("read", |b| {
        b.iter(|| assert_eq!(batch::parts(black_box(&batch)).unwrap().len(), 10));
    });
}
