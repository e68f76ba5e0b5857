//! Failed writes and syncs, a full disk, a panic of the caller: final, reported once, nothing confirmed after.

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use common::*;
use leveret_storage::disk::Disk;
use leveret_storage::disk::sim::{Fault, SimDisk};
use leveret_storage::{AppendError, Journal, JournalError, Location, SyncPolicy};

fn poisoned_by(fault: Fault, manual: bool) {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let opened = open_as(&config(Path::new("j")), &disk, Location::ZERO, manual).unwrap();
    let journal = &opened.journal;
    let safe = append(journal, 0, 100, true).unwrap();
    journal.wait_durable(safe.end()).unwrap();
    let durable = journal.durable();
    // On this file: the next segment is prepared by a thread of its own, at any time.
    assert!(sim.fail_next_on(&Path::new("j").join("0000000001.journal"), fault));
    let lost = append(journal, 1, 100, true).unwrap();
    let error = journal.wait_durable(lost.end()).unwrap_err();
    assert!(matches!(&error, AppendError::Poisoned(_)), "{error:?}");
    assert!(error.to_string().contains("0000000001.journal"), "{error}");
    assert_eq!(append(journal, 2, 100, true), Err(error));
    journal.step(true);
    assert_eq!(journal.durable(), durable);
    assert_eq!(
        Kept::from(journal.read(lost.location).unwrap()),
        lost,
        "readable all the same"
    );
    let syncs = journal.stats().syncs;
    journal.close();
    assert_eq!(journal.stats().syncs, syncs, "nothing is tried again");
    let events = opened.events.lock();
    assert_eq!(events.iter().filter(|p| p.failed.is_some()).count(), 1);
    assert!(events.last().unwrap().failed.is_some());
    assert!(events.iter().all(|p| p.durable <= durable));
}

#[test]
fn a_failed_write_or_sync_poisons_for_ever() {
    for manual in [true, false] {
        poisoned_by(Fault::Sync, manual);
        poisoned_by(Fault::Write(ErrorKind::Other), manual);
        poisoned_by(Fault::Write(ErrorKind::StorageFull), manual);
    }
}

#[test]
fn records_behind_a_lying_sync_are_written_again() {
    // The sync fails, the process restarts without a power cut: the page cache has the record, the disk perhaps not. Once
    // recovery took it in, it must survive a power cut.
    for seed in 0..50 {
        let disk = SimDisk::new();
        let opened = open_sim(&disk, Location::ZERO).unwrap();
        let kept = append(&opened.journal, 0, 2000, true).unwrap();
        disk.fail(1, Fault::Sync);
        opened.journal.step(false);
        assert_ne!(opened.journal.durable(), kept.end());
        drop(opened);
        let opened = open_sim(&disk, Location::ZERO).unwrap();
        assert_eq!(opened.records.as_slice(), std::slice::from_ref(&kept));
        assert_eq!(opened.journal.durable(), kept.end());
        drop(opened);
        disk.crash(seed);
        assert_eq!(open_sim(&disk, Location::ZERO).unwrap().records, [kept]);
    }
}

#[test]
fn a_full_disk_fails_only_the_append_that_needs_the_space() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    // Two segments, and no third.
    sim.set_capacity(u64::from(SEGMENT_BYTES) * 2 + 100);
    for manual in [true, false] {
        let opened = open_as(&config(Path::new("j")), &disk, Location::ZERO, manual).unwrap();
        let journal = &opened.journal;
        let mut number = 0;
        let mut last = Ok(());
        while last.is_ok() {
            assert!(number < 100);
            let before = journal.end();
            let record = append(journal, number, 1000, true).unwrap();
            last = journal.wait_durable(record.end());
            number += 1;
            if last.is_ok() && record.location.segment() == 2 {
                // The second is in use; the third could not be made, and nobody minds.
                journal.step(false);
                assert!(journal.space().unwrap().available_bytes < u64::from(SEGMENT_BYTES));
            }
            assert!(last.is_ok() || before.segment() == 2, "{last:?}");
        }
        assert!(matches!(last, Err(AppendError::Poisoned(_))));
        drop(opened);
        // Room again: recovery has all that was durable.
        sim.set_capacity(u64::from(SEGMENT_BYTES) * 4);
        let opened = open_as(&config(Path::new("j")), &disk, Location::ZERO, manual).unwrap();
        assert!(opened.records.len() as u64 >= number - 1);
        drop(opened);
        for name in disk.list(Path::new("j")).unwrap() {
            disk.remove(&Path::new("j").join(name)).unwrap();
        }
        sim.set_capacity(u64::from(SEGMENT_BYTES) * 2 + 100);
    }
}

#[test]
fn a_full_disk_that_has_room_again_in_time_is_forgotten() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    sim.set_capacity(u64::from(SEGMENT_BYTES) + 100);
    let opened = open_as(&config(Path::new("j")), &disk, Location::ZERO, false).unwrap();
    append(&opened.journal, 0, 1000, true).unwrap();
    opened.journal.wait_durable(opened.journal.end()).unwrap();
    sim.set_capacity(1 << 20);
    for number in 1..200 {
        append(&opened.journal, number, 1000, false).unwrap();
    }
    opened.journal.wait_durable(opened.journal.end()).unwrap();
    assert!(opened.journal.segments().len() > 10);
}

#[test]
fn a_panic_in_the_events_does_not_leave_anybody_waiting() {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::new());
    let events = Box::new(|progress: leveret_storage::Progress| {
        assert!(progress.failed.is_some(), "the panic of this test");
    });
    let config = config(Path::new("j"));
    let (journal, _) =
        Journal::open(config, disk, events, Location::ZERO, &mut |_| Ok(())).unwrap();
    let record = append(&journal, 0, 10, true).unwrap();
    assert!(matches!(
        journal.wait_durable(record.end()),
        Err(AppendError::Poisoned(_))
    ));
}

#[test]
fn a_replay_that_refuses_ends_the_opening() {
    let disk = SimDisk::new();
    let opened = open_sim(&disk, Location::ZERO).unwrap();
    let kept: Vec<_> = (0..3)
        .map(|n| append(&opened.journal, n, 10, true).unwrap())
        .collect();
    opened.journal.close();
    drop(opened);
    let disk: Arc<dyn Disk> = Arc::new(disk);
    let mut config = config(Path::new("j"));
    config.sync = SyncPolicy::Always { interval_ms: 1 };
    let error = Journal::open(
        config,
        disk,
        Box::new(|_| ()),
        Location::ZERO,
        &mut |record| {
            if record.header.index == 1 {
                Err("no such group".into())
            } else {
                Ok(())
            }
        },
    );
    match error.err() {
        Some(JournalError::Replay { location, source }) => {
            assert_eq!(location, kept[1].location);
            assert_eq!(source.to_string(), "no such group");
        }
        other => panic!("{other:?}"),
    }
}
