//! The journal, on the file system of the temporary folder.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group};
use leveret_storage::disk::RealDisk;
use leveret_storage::{Journal, JournalConfig, Location, RecordKind};

const PAYLOAD: usize = 1024;
const RECORDS: u64 = 10_000;
/// Records that share a sync.
const GROUP: u64 = 100;

criterion_group!(stage, append, recover, read);

fn open(folder: &Path) -> (Arc<Journal>, u64) {
    let mut records = 0;
    let (journal, _) = Journal::open(
        JournalConfig::new(folder),
        Arc::new(RealDisk),
        Box::new(|_| ()),
        Location::ZERO,
        &mut |_| {
            records += 1;
            Ok(())
        },
    )
    .unwrap();
    (journal, records)
}

fn put(journal: &Journal, index: u64, payload: &Bytes, sync: bool) -> Location {
    journal
        .append(RecordKind::Entry, 0, 1, index, 1, payload.clone(), sync)
        .unwrap()
}

/// Only the last segments stay, as where everything is consumed.
fn tidy(journal: &Journal, index: u64) {
    if index.is_multiple_of(10_000) {
        for segment in journal.segments().iter().rev().skip(2) {
            journal.remove_segment(segment.id).unwrap();
        }
    }
}

fn append(c: &mut Criterion) {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let payload = Bytes::from(vec![0x5a; PAYLOAD]);
    let mut group = c.benchmark_group(format!("journal, records of {PAYLOAD} B"));
    group.throughput(Throughput::Elements(1));
    let mut index = 0;
    group.bench_function("append", |b| {
        b.iter(|| {
            index += 1;
            tidy(&journal, index);
            black_box(put(&journal, index, &payload, false))
        });
    });
    journal.wait_durable(journal.end()).unwrap();
    group.bench_function("commit one", |b| {
        b.iter(|| {
            index += 1;
            tidy(&journal, index);
            put(&journal, index, &payload, true);
            journal.wait_durable(journal.end()).unwrap();
        });
    });
    group.throughput(Throughput::Elements(GROUP));
    group.bench_function(format!("commit {GROUP} together"), |b| {
        b.iter(|| {
            for _ in 0..GROUP {
                index += 1;
                tidy(&journal, index);
                put(&journal, index, &payload, true);
            }
            journal.wait_durable(journal.end()).unwrap();
        });
    });
}

/// A folder with [`RECORDS`] records.
fn filled() -> (tempfile::TempDir, Vec<Location>) {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = open(folder.path());
    let payload = Bytes::from(vec![0x5a; PAYLOAD]);
    let locations = (0..RECORDS).map(|index| put(&journal, index, &payload, true));
    let locations = locations.collect();
    journal.wait_durable(journal.end()).unwrap();
    journal.close();
    (folder, locations)
}

fn recover(c: &mut Criterion) {
    let (folder, _) = filled();
    let mut group = c.benchmark_group(format!("journal, records of {PAYLOAD} B"));
    group.throughput(Throughput::Elements(RECORDS));
    group.sample_size(10);
    group.bench_function("recovery scan", |b| {
        b.iter(|| {
            let (journal, records) = open(folder.path());
            assert_eq!(records, RECORDS);
            journal.close();
        });
    });
}

fn read(c: &mut Criterion) {
    let (folder, locations) = filled();
    let (journal, _) = open(folder.path());
    let mut group = c.benchmark_group(format!("journal, records of {PAYLOAD} B"));
    group.throughput(Throughput::Elements(1));
    let mut at = 0;
    group.bench_function("mapped read", |b| {
        b.iter(|| {
            at = (at + 7919) % locations.len();
            let record = journal.read(black_box(locations[at])).unwrap();
            assert_eq!(record.header.index, at as u64);
        });
    });
}
