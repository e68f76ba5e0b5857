//! What the journal costs on this machine. Numbers for the README come from here.
//!
//! ```text
//! cargo run --release -p leveret-storage --example journal_bench -- DIR flood RECORD_BYTES MEGABYTES
//! cargo run --release -p leveret-storage --example journal_bench -- DIR commit RECORD_BYTES COMMITS
//! cargo run --release -p leveret-storage --example journal_bench -- DIR replay
//! cargo run --release -p leveret-storage --example journal_bench -- DIR walk
//! ```
//!
//! `churn` in the place of `flood` removes segments as it goes, so that their files are reused.
//! `flood` appends without waiting and syncs at the end; `commit` waits for each append before the next, as a publisher with a
//! confirm window of one; `replay` opens what is in DIR; `walk` passes over it, with and without checksums of payloads.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use leveret_storage::disk::RealDisk;
use leveret_storage::{Journal, JournalConfig, Location, RecordKind, Verify};
use parking_lot::{Condvar, Mutex};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| arguments.get(i).and_then(|a| a.parse::<u64>().ok());
    match (
        arguments.first(),
        arguments.get(1).map(String::as_str),
        number(2),
        number(3),
    ) {
        (Some(dir), Some("flood"), Some(bytes), Some(megabytes)) => {
            flood(dir, bytes, megabytes, false)
        }
        (Some(dir), Some("churn"), Some(bytes), Some(megabytes)) => {
            flood(dir, bytes, megabytes, true)
        }
        (Some(dir), Some("commit"), Some(bytes), Some(commits)) => commit(dir, bytes, commits),
        (Some(dir), Some("replay"), ..) => replay(dir),
        (Some(dir), Some("walk"), ..) => walk(dir),
        _ => Err(
            "arguments: DIR flood|churn BYTES MEGABYTES | commit BYTES COMMITS | replay | walk"
                .into(),
        ),
    }
}

/// CPU time of the process so far, all threads, those that ended too.
fn cpu() -> Duration {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(clock.tv_sec.unsigned_abs(), clock.tv_nsec as u32)
}

/// Resident memory, mapped files included, in MiB.
fn resident_mib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096 / (1 << 20)
}

fn flood(dir: &str, bytes: u64, megabytes: u64, remove: bool) -> Outcome {
    let config = JournalConfig::new(dir);
    let (journal, _) = Journal::open(
        config,
        Arc::new(RealDisk),
        Box::new(|_| ()),
        Location::ZERO,
        &mut |_| Ok(()),
    )?;
    let payload = Bytes::from(vec![0x5a; bytes as usize]);
    let count = (megabytes << 20) / bytes;
    let (start, cpu_start) = (Instant::now(), cpu());
    for index in 0..count {
        journal.append(RecordKind::Entry, 0, 1, index, 1, payload.clone(), false)?;
        if remove && index % 10_000 == 0 {
            for segment in journal.segments().iter().rev().skip(4) {
                journal.remove_segment(segment.id)?;
            }
        }
    }
    let appended = start.elapsed();
    journal.wait_durable(journal.end())?;
    let (took, cpu) = (start.elapsed(), cpu() - cpu_start);
    println!(
        "flood {bytes} B x {count}: {:.0} appends/s, {:.0} MB/s payload, all durable after {:.2} s (appended after \
         {:.2} s), {:.0} ns CPU an append",
        count as f64 / took.as_secs_f64(),
        (count * bytes) as f64 / took.as_secs_f64() / 1e6,
        took.as_secs_f64(),
        appended.as_secs_f64(),
        cpu.as_nanos() as f64 / count as f64,
    );
    println!("{:?}", journal.stats());
    Ok(())
}

fn commit(dir: &str, bytes: u64, commits: u64) -> Outcome {
    let gate = Arc::new((Mutex::new(Location::ZERO), Condvar::new()));
    let opened = Arc::clone(&gate);
    let events = Box::new(move |progress: leveret_storage::Progress| {
        let before = std::mem::replace(&mut *opened.0.lock(), progress.durable);
        if before < progress.durable {
            opened.1.notify_one();
        }
    });
    let config = JournalConfig::new(dir);
    let disk = Arc::new(RealDisk);
    let (journal, _) = Journal::open(config, disk, events, Location::ZERO, &mut |_| Ok(()))?;
    let payload = Bytes::from(vec![0x5a; bytes as usize]);
    let mut took = Vec::with_capacity(commits as usize);
    let cpu_start = cpu();
    for index in 0..commits {
        let start = Instant::now();
        let location = journal.append(RecordKind::Entry, 0, 1, index, 1, payload.clone(), true)?;
        let mut durable = gate.0.lock();
        while *durable <= location {
            gate.1.wait(&mut durable);
        }
        took.push(start.elapsed());
    }
    let cpu = cpu() - cpu_start;
    took.sort_unstable();
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize].as_micros();
    let sum: Duration = took.iter().sum();
    println!(
        "commit {bytes} B x {commits}: {:.0}/s, p50 {} us, p99 {} us, p99.9 {} us, {:.1} us CPU a commit",
        commits as f64 / sum.as_secs_f64(),
        at(0.5),
        at(0.99),
        at(0.999),
        cpu.as_nanos() as f64 / commits as f64 / 1e3,
    );
    println!("{:?}", journal.stats());
    Ok(())
}

fn open(dir: &str) -> Result<(Arc<Journal>, u64), Box<dyn std::error::Error>> {
    let mut bytes = 0;
    let (start, cpu_start) = (Instant::now(), cpu());
    let (journal, report) = Journal::open(
        JournalConfig::new(Path::new(dir)),
        Arc::new(RealDisk),
        Box::new(|_| ()),
        Location::ZERO,
        &mut |record| {
            bytes += record.payload.len() as u64;
            Ok(())
        },
    )?;
    let took = start.elapsed().as_secs_f64();
    println!(
        "replay {} records, {} MB: {:.3} s, {:.0} MB/s, {:.0} ns CPU a record, resident {} MiB",
        report.records,
        report.bytes / 1_000_000,
        took,
        report.bytes as f64 / took / 1e6,
        (cpu() - cpu_start).as_nanos() as f64 / report.records as f64,
        resident_mib(),
    );
    Ok((journal, bytes))
}

fn replay(dir: &str) -> Outcome {
    open(dir).map(|_| ())
}

fn walk(dir: &str) -> Outcome {
    let (journal, _) = open(dir)?;
    for (name, verify) in [("all", Verify::All), ("headers", Verify::Headers)] {
        for round in 0..2 {
            let (mut records, mut bytes) = (0_u64, 0);
            let (start, cpu_start) = (Instant::now(), cpu());
            for record in journal.walk_with(Location::ZERO, verify) {
                records += 1;
                bytes += u64::from(record?.header.len);
            }
            let took = start.elapsed().as_secs_f64();
            println!(
                "walk ({name}, round {round}) {records} records: {:.1} ns CPU a record, {:.0} MB/s, resident {} MiB",
                (cpu() - cpu_start).as_nanos() as f64 / records as f64,
                bytes as f64 / took / 1e6,
                resident_mib(),
            );
        }
    }
    for segment in journal.segments() {
        journal.release(segment.id);
    }
    println!("released: resident {} MiB", resident_mib());
    Ok(())
}
