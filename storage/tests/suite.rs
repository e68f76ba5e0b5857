//! The journal's behaviour, the same on the simulated and on the real disk, with threads.

mod common;

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use common::*;
use leveret_storage::{
    AppendError, Journal, JournalError, Location, ReadError, RecordKind, SyncPolicy, Verify,
};

/// Lengths around every boundary: empty, odd, copied and uncopied, large, oversize.
fn length(number: u64) -> usize {
    match number % 97 {
        0 => 0,
        1 => 2048,
        2 => 2049,
        3 => SEGMENT_BYTES as usize + 77,
        4 => 9000,
        n => (n * 11) as usize,
    }
}

#[test]
fn what_was_appended_is_read_walked_and_replayed() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        assert!(opened.records.is_empty());
        let journal = opened.journal;
        let mut kept = Vec::new();
        for number in 0..800 {
            let record = append(&journal, number, length(number), number % 50 == 0).unwrap();
            if number % 20 == 0 {
                assert_eq!(Kept::from(journal.read(record.location).unwrap()), record);
            }
            kept.push(record);
        }
        assert_eq!(journal.end(), kept.last().unwrap().end());
        let walk = |from| {
            journal
                .walk(from)
                .map(|r| r.unwrap().into())
                .collect::<Vec<Kept>>()
        };
        assert_eq!(walk(Location::ZERO), kept);
        journal.wait_durable(journal.end()).unwrap();
        assert_eq!(journal.durable(), journal.end());
        assert_eq!(walk(Location::ZERO), kept);
        assert_eq!(walk(kept[400].location), kept[400..]);
        assert_eq!(walk(kept[400].end()), kept[401..]);
        for record in &kept {
            assert_eq!(&Kept::from(journal.read(record.location).unwrap()), record);
        }
        let segments = journal.segments();
        assert!(segments.len() > 10);
        for (segment, next) in segments.iter().zip(&segments[1..]) {
            assert!(segment.sealed && segment.id + 1 == next.id);
            journal.verify(segment.id).unwrap();
            journal.prefetch(Location::new(segment.id, 0), 1 << 20);
            journal.release(segment.id);
        }
        drop(journal);

        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        assert_eq!(opened.records, kept);
        assert!(
            opened.report.clean && opened.report.cut.is_none(),
            "{:?}",
            opened.report
        );
        assert_eq!(opened.report.records, 800);
        let more = append(&opened.journal, 800, 10, true).unwrap();
        opened.journal.wait_durable(more.end()).unwrap();
        drop(opened);
        for from in [kept[399].end(), kept[400].location] {
            let opened = open_as(&config(dir), disk, from, false).unwrap();
            assert_eq!(opened.records[..400], kept[400..]);
            assert_eq!(opened.records[400], more);
        }
    });
}

#[test]
fn watermarks_only_grow_and_are_reported() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        let journal = &opened.journal;
        for number in 0..300 {
            append(journal, number, 100, number % 7 == 0).unwrap();
        }
        journal.close();
        let events = opened.events.lock();
        for pair in events.windows(2) {
            assert!(pair[0].written <= pair[1].written && pair[0].durable <= pair[1].durable);
        }
        assert!(
            events
                .iter()
                .all(|p| p.durable <= p.written && p.failed.is_none())
        );
        assert_eq!(events.last().unwrap().durable, journal.durable());
        assert!(journal.durable() >= Location::new(1, 4096 + 140));
    });
}

#[test]
fn an_unwaited_append_becomes_durable_by_the_interval() {
    on_each_disk(|disk, dir| {
        let mut config = config(dir);
        config.sync = SyncPolicy::Always { interval_ms: 5 };
        let (sender, receiver) = mpsc::channel();
        let sender = parking_lot::Mutex::new(sender);
        let events = Box::new(move |p: leveret_storage::Progress| {
            let _ = sender.lock().send(p.durable);
        });
        let (journal, _) = Journal::open(
            config,
            Arc::clone(disk),
            events,
            Location::ZERO,
            &mut |_| Ok(()),
        )
        .unwrap();
        for number in 0..3 {
            let end = append(&journal, number, 10, false).unwrap().end();
            while receiver.recv_timeout(Duration::from_secs(20)).unwrap() < end {}
        }
    });
}

#[test]
fn many_appenders_share_syncs_and_keep_their_order() {
    on_each_disk(|disk, dir| {
        let mut config = config(dir);
        config.segment_size_bytes = 64 << 10;
        let opened = open_as(&config, disk, Location::ZERO, false).unwrap();
        let journal = &opened.journal;
        std::thread::scope(|scope| {
            for group in 0..4_u32 {
                scope.spawn(move || {
                    for index in 0..500 {
                        let payload = payload(index, (index % 300) as usize);
                        let at = journal
                            .append(RecordKind::Entry, 0, group, index, 0, payload, true)
                            .unwrap();
                        if index % 100 == 0 {
                            journal
                                .wait_durable(Location::from_u64(at.to_u64() + 1))
                                .unwrap();
                            assert!(journal.durable() > at);
                        }
                        assert_eq!(journal.read(at).unwrap().header.index, index);
                    }
                });
            }
        });
        let mut next = [0; 4];
        for record in journal.walk(Location::ZERO) {
            let header = record.unwrap().header;
            assert_eq!(header.index, next[header.group as usize]);
            next[header.group as usize] += 1;
        }
        assert_eq!(next, [500; 4]);
        assert!(journal.stats().syncs < 2000, "{:?}", journal.stats());
    });
}

#[test]
fn removed_segments_are_recycled_and_their_readers_undisturbed() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        let journal = opened.journal;
        let mut held = Vec::new();
        let mut live = Vec::new();
        for number in 0..2000 {
            let record = append(&journal, number, 200, false).unwrap();
            journal.wait_durable(record.end()).unwrap();
            if number % 10 == 0 {
                held.push((record.clone(), journal.read(record.location).unwrap()));
            }
            if number % 200 == 150 {
                held.retain(|(record, _)| record.index % 1000 < 200);
            }
            live.push(record);
            let segments = journal.segments();
            if segments.len() > 3 {
                journal.remove_segment(segments[0].id).unwrap();
                live.retain(|record| record.location.segment() != segments[0].id);
                let gone = Location::new(segments[0].id, 4096);
                assert!(matches!(journal.read(gone), Err(ReadError::NoSegment(_))));
            }
        }
        for (kept, record) in held {
            assert_eq!(Kept::from(record), kept);
        }
        let stats = journal.stats();
        assert!(
            stats.segments_removed > 10 && stats.segments_recycled > 3,
            "{stats:?}"
        );
        let active = journal.segments().last().unwrap().id;
        assert!(matches!(
            journal.remove_segment(active),
            Err(JournalError::NotSealed(_))
        ));
        assert!(matches!(
            journal.remove_segment(1),
            Err(JournalError::NotSealed(1))
        ));
        drop(journal);
        let first = live[0].location;
        let opened = open_as(&config(dir), disk, first, false).unwrap();
        assert_eq!(opened.records, live);
        let error = open_as(&config(dir), disk, Location::ZERO, false).err();
        assert!(
            matches!(error, Some(JournalError::InUse { .. })),
            "{error:?}"
        );
        drop(opened);
        let error = open_as(&config(dir), disk, Location::ZERO, false).err();
        assert!(
            matches!(error, Some(JournalError::MissingSegment { segment: 1, .. })),
            "{error:?}"
        );
    });
}

#[test]
fn a_pager_forgets_and_never_syncs() {
    on_each_disk(|disk, dir| {
        let mut config = config(dir);
        config.sync = SyncPolicy::Never;
        for _ in 0..2 {
            let opened = open_as(&config, disk, Location::ZERO, false).unwrap();
            assert!(opened.records.is_empty());
            let journal = opened.journal;
            let kept: Vec<_> = (0..500)
                .map(|n| append(&journal, n, 100, true).unwrap())
                .collect();
            journal.wait_durable(journal.end()).unwrap();
            let walked: Vec<Kept> = journal
                .walk(Location::ZERO)
                .map(|r| r.unwrap().into())
                .collect();
            assert_eq!(walked, kept);
            assert_eq!(journal.stats().syncs, 0);
        }
        config.sync = SyncPolicy::Always { interval_ms: 100 };
        let error = open_as(&config, disk, Location::ZERO, false).err();
        assert!(
            matches!(error, Some(JournalError::PolicyMismatch { .. })),
            "{error:?}"
        );
    });
}

#[test]
fn what_is_not_allowed_is_refused() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        let journal = &opened.journal;
        let refused = journal.append(RecordKind::Seal, 0, 0, 0, 0, Bytes::new(), false);
        assert_eq!(refused, Err(AppendError::ReservedKind(14)));
        let large = Bytes::from(vec![0; (256 << 20) + 1]);
        let refused = journal.append(RecordKind::Entry, 0, 0, 0, 0, large, false);
        assert_eq!(refused, Err(AppendError::TooLarge((256 << 20) + 1)));
        let at = append(journal, 1, 50, true).unwrap();
        let inside = Location::new(1, at.location.offset() + 8);
        let past = journal.end();
        for _ in 0..2 {
            assert!(matches!(
                journal.read(past),
                Err(ReadError::PastEnd(_) | ReadError::NotARecord(_))
            ));
            assert!(journal.read(inside).is_err());
            journal.wait_durable(past).unwrap();
        }
        journal.close();
        assert_eq!(append(journal, 2, 1, true), Err(AppendError::Closed));
        assert_eq!(Kept::from(journal.read(at.location).unwrap()), at);

        let mut wrong = config(dir);
        wrong.segment_size_bytes = 5000;
        let error = open_as(&wrong, disk, Location::ZERO, false).err();
        assert!(matches!(error, Some(JournalError::Config(_))));
    });
}

#[test]
fn a_walk_of_headers_passes_over_payloads() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        let journal = &opened.journal;
        let mut walk = journal.walk_with(Location::ZERO, Verify::Headers);
        assert!(walk.next().is_none());
        for number in 0..200 {
            append(journal, number, 300, false).unwrap();
            assert_eq!(walk.next().unwrap().unwrap().header.index, number);
            assert!(walk.next().is_none(), "the end moves");
            if number % 30 == 0 {
                journal.wait_durable(journal.end()).unwrap();
            }
        }
    });
}

#[test]
fn a_walk_of_one_segment_does_not_need_those_behind_it() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        let journal = &opened.journal;
        let kept: Vec<_> = (0..300)
            .map(|number| append(journal, number, 300, false).unwrap())
            .collect();
        journal.wait_durable(journal.end()).unwrap();
        let walk = |from: Location| -> Vec<Kept> {
            let walk = journal.walk_segment(from);
            walk.map(|r| r.unwrap().into()).collect()
        };
        let of = |segment| -> Vec<Kept> {
            let of = kept.iter().filter(|r| r.location.segment() == segment);
            of.cloned().collect()
        };
        assert!(journal.segments().len() > 5);
        journal.remove_segment(3).unwrap();
        for segment in [1, 2, 4] {
            assert_eq!(walk(Location::new(segment, 0)), of(segment));
            assert_eq!(walk(of(segment)[5].location), of(segment)[5..]);
        }
        assert!(matches!(
            journal.walk(of(2)[0].location).last(),
            Some(Err(ReadError::NoSegment(_)))
        ));
        // The last one goes on in memory, and the one after it is another.
        let last = journal.end().segment();
        let mut walk = journal.walk_segment(Location::new(last, 0));
        let mut walked = walk.by_ref().count();
        assert_eq!(walked, of(last).len());
        for number in 300..400 {
            let next = append(journal, number, 300, false).unwrap();
            let found = walk.next().map(|r| r.unwrap().location);
            assert_eq!(found, Some(next.location).filter(|at| at.segment() == last));
            walked += usize::from(found.is_some());
        }
        assert!(journal.end().segment() > last && walked > 10);
    });
}

#[test]
fn the_tail_is_bounded() {
    on_each_disk(|disk, dir| {
        let mut config = config(dir);
        config.tail_bytes_max = 20_000;
        let opened = open_as(&config, disk, Location::ZERO, false).unwrap();
        for number in 0..2000 {
            append(&opened.journal, number, 500, false).unwrap();
            assert!(opened.journal.pending_bytes() < 20_000 + 544);
        }
        assert!(opened.journal.stats().tail_waits > 0);
    });
}

#[test]
fn a_session_without_appends_writes_nothing() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
        append(&opened.journal, 0, 10, false).unwrap();
        opened.journal.close();
        drop(opened);
        let mut ends = Vec::new();
        for _ in 0..3 {
            let opened = open_as(&config(dir), disk, Location::ZERO, false).unwrap();
            assert!(opened.report.clean && opened.records.len() == 1);
            ends.push(opened.report.end);
        }
        assert!(ends.iter().all(|end| *end == ends[0]), "{ends:?}");
    });
}

#[test]
fn the_last_handle_may_be_dropped_by_the_events() {
    on_each_disk(|disk, dir| {
        let held: Arc<parking_lot::Mutex<Option<Arc<Journal>>>> = Arc::default();
        let (sender, receiver) = mpsc::channel();
        let (slot, sender) = (Arc::clone(&held), parking_lot::Mutex::new(sender));
        let events = Box::new(move |_| {
            let last = slot.lock().take();
            if last.is_some() {
                drop(last);
                let _ = sender.lock().send(());
            }
        });
        let (journal, _) = Journal::open(
            config(dir),
            Arc::clone(disk),
            events,
            Location::ZERO,
            &mut |_| Ok(()),
        )
        .unwrap();
        let mut slot = held.lock();
        append(&journal, 0, 10, true).unwrap();
        *slot = Some(journal);
        drop(slot);
        receiver.recv_timeout(Duration::from_secs(20)).unwrap();
    });
}
