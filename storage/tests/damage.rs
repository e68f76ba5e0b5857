//! Bytes that changed on disk: durable ones are refused by file and offset, whatever changed; others are a torn tail.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use common::*;
use leveret_storage::disk::Disk;
use leveret_storage::disk::sim::SimDisk;
use leveret_storage::{JournalError, Location, RecordKind, SyncPolicy};

/// A journal that lost its power: synced group by group, the last one a little torn or not.
struct Made {
    disk: SimDisk,
    kept: Vec<Kept>,
    /// The end of what a record proves.
    proven: Location,
}

fn make(groups: u64, recycled: bool) -> Made {
    let disk = SimDisk::new();
    let opened = open_sim(&disk, Location::ZERO).unwrap();
    let journal = &opened.journal;
    let mut kept = Vec::new();
    let mut proven = Location::ZERO;
    for group in 0..groups {
        proven = journal.durable();
        for n in 0..4 {
            let number = group * 4 + n;
            kept.push(append(journal, number, (number as usize * 37) % 900, n == 3).unwrap());
        }
        journal.step(false);
        assert_eq!(journal.durable(), kept.last().unwrap().end());
        let segments = journal.segments();
        if recycled && segments.len() > 4 {
            journal.remove_segment(segments[0].id).unwrap();
            kept.retain(|record| record.location.segment() > segments[0].id);
        }
    }
    drop(opened);
    disk.crash(0);
    let made = Made { disk, kept, proven };
    let from = made.kept[0].location;
    assert_eq!(
        open_sim(&copy(&made.disk), from).unwrap().records,
        made.kept
    );
    made
}

fn copy(disk: &SimDisk) -> SimDisk {
    use leveret_storage::disk::Disk;
    let copy = SimDisk::new();
    for name in disk.list(Path::new("j")).unwrap() {
        let path = Path::new("j").join(name);
        copy.set_content(&path, &disk.content(&path).unwrap());
    }
    copy
}

fn file(id: u32) -> PathBuf {
    segment_file(Path::new("j"), id)
}

/// The refusal of a journal that must be refused, and the proof that nothing was changed.
fn refusal(disk: &SimDisk, from: Location) -> (PathBuf, u64, String) {
    let before: Vec<_> = (1..80).map(|id| disk.content(&file(id))).collect();
    match open_sim(disk, from).err() {
        Some(JournalError::Damaged(damage)) => {
            let after: Vec<_> = (1..80).map(|id| disk.content(&file(id))).collect();
            assert_eq!(before, after, "a refused journal was changed");
            (damage.path, damage.offset, damage.reason)
        }
        other => panic!("expected damage, got {:?}", other.map(|e| e.to_string())),
    }
}

/// Flips bits all over the durable part, and checks that the record that was hit is named.
fn flip_everywhere(recycled: bool, flips: usize) {
    let made = make(if recycled { 150 } else { 60 }, recycled);
    let from = made.kept[0].location;
    let mut random = 0x1234_5678_u64;
    let mut next = |bound: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let durable: Vec<&Kept> = made
        .kept
        .iter()
        .filter(|r| r.end() <= made.proven)
        .collect();
    assert!(durable.len() > 60);
    for _ in 0..flips {
        let hit = durable[next(durable.len() as u64) as usize];
        let (start, end) = (hit.location.offset(), hit.end().offset());
        // Half of the flips in headers, where a length or a checksum is hit.
        let span = if next(2) == 0 { 40 } else { end - start };
        let bit = u64::from(start) * 8 + next(u64::from(span) * 8);
        let disk = copy(&made.disk);
        assert!(disk.flip_bit(&file(hit.location.segment()), bit as usize));
        let (path, offset, reason) = refusal(&disk, from);
        assert_eq!(
            (path, offset),
            (file(hit.location.segment()), u64::from(start)),
            "{reason}"
        );
    }
}

#[test]
fn a_flipped_bit_in_durable_data_is_refused_by_file_and_offset() {
    flip_everywhere(false, 400);
}

#[test]
fn a_flipped_bit_in_a_recycled_journal_is_refused_by_file_and_offset() {
    flip_everywhere(true, 200);
}

#[test]
fn a_flipped_bit_in_the_last_group_cuts_it() {
    let made = make(30, false);
    let last = made.kept.last().unwrap();
    for hit in made
        .kept
        .iter()
        .filter(|record| record.location >= made.proven)
    {
        let disk = copy(&made.disk);
        assert!(disk.flip_bit(
            &file(hit.location.segment()),
            hit.location.offset() as usize * 8 + 70
        ));
        let opened = open_sim(&disk, Location::ZERO).unwrap();
        let cut = opened.report.cut.unwrap();
        assert_eq!(cut.location, hit.location);
        assert!(cut.path.ends_with(file(hit.location.segment())));
        assert!(!opened.records.contains(last) && opened.records.len() + 4 >= made.kept.len());
        assert_eq!(opened.records[..], made.kept[..opened.records.len()]);
    }
}

#[test]
fn a_closed_journal_proves_its_last_record() {
    let disk = SimDisk::new();
    let opened = open_sim(&disk, Location::ZERO).unwrap();
    let kept = append(&opened.journal, 1, 100, true).unwrap();
    opened.journal.close();
    drop(opened);
    disk.crash(0);
    assert!(disk.flip_bit(&file(1), kept.location.offset() as usize * 8 + 400));
    assert_eq!(
        refusal(&disk, Location::ZERO).1,
        u64::from(kept.location.offset())
    );
}

#[test]
fn a_lost_sector_in_durable_data_is_refused() {
    let made = make(40, false);
    for id in 1..4 {
        let disk = copy(&made.disk);
        let mut content = disk.content(&file(id)).unwrap();
        content[6144..6656].fill(0);
        disk.set_content(&file(id), &content);
        let first = made
            .kept
            .iter()
            .find(|record| record.end() > Location::new(id, 6144))
            .unwrap();
        let (path, offset, _) = refusal(&disk, Location::ZERO);
        assert_eq!(
            (path, offset),
            (file(id), u64::from(first.location.offset()))
        );
    }
}

#[test]
fn damage_at_a_seal_is_refused() {
    let made = make(60, false);
    let last = made
        .kept
        .iter()
        .rfind(|record| record.location.segment() == 2)
        .unwrap();
    let disk = copy(&made.disk);
    assert!(disk.flip_bit(&file(2), last.end().offset() as usize * 8 + 99));
    let (path, offset, _) = refusal(&disk, Location::ZERO);
    assert_eq!((path, offset), (file(2), u64::from(last.end().offset())));
}

#[test]
fn damage_before_the_start_of_replay_is_found_by_the_scrub() {
    let made = make(60, false);
    let hit = made
        .kept
        .iter()
        .find(|record| record.location.segment() == 1)
        .unwrap();
    let disk = copy(&made.disk);
    assert!(disk.flip_bit(&file(1), hit.location.offset() as usize * 8 + 12));
    let opened = open_sim(&disk, Location::new(3, 0)).unwrap();
    opened.journal.verify(2).unwrap();
    match opened.journal.verify(1) {
        Err(JournalError::Damaged(damage)) => {
            assert_eq!(damage.offset, u64::from(hit.location.offset()));
        }
        other => panic!("{other:?}"),
    }
    assert!(opened.journal.read(hit.location).is_err());
    assert!(opened.journal.walk(hit.location).next().unwrap().is_err());
}

#[test]
fn segments_that_are_missing_foreign_or_misnamed_are_refused() {
    let made = make(60, false);
    let open = |change: &dyn Fn(&SimDisk)| {
        use leveret_storage::disk::Disk;
        let disk = copy(&made.disk);
        change(&disk);
        let names = disk.list(Path::new("j")).unwrap();
        let error = open_sim(&disk, Location::ZERO).err().map(|e| e.to_string());
        assert_eq!(names, disk.list(Path::new("j")).unwrap());
        error.unwrap_or_default()
    };
    let remove = |disk: &SimDisk, id| {
        use leveret_storage::disk::Disk;
        disk.remove(&file(id)).unwrap();
    };
    assert!(open(&|disk| remove(disk, 2)).starts_with("segment 2 is missing in j"));
    assert!(open(&|disk| remove(disk, 1)).starts_with("segment 1 is missing in j"));
    let swap = |disk: &SimDisk| disk.set_content(&file(2), &disk.content(&file(3)).unwrap());
    assert!(open(&swap).contains("says segment 3, the name says 2"));
    let foreign = |disk: &SimDisk| {
        let mut content = disk.content(&file(2)).unwrap();
        content[..4096].copy_from_slice(&format::segment_header(&[9; 16], 2, 1));
        disk.set_content(&file(2), &content);
    };
    assert_eq!(
        open(&foreign),
        "j/0000000002.journal belongs to another journal"
    );
    let newer = |disk: &SimDisk| {
        let mut content = disk.content(&file(2)).unwrap();
        content[..4096].copy_from_slice(&format::segment_header(&UUID, 2, 7));
        disk.set_content(&file(2), &content);
    };
    let expected =
        "j/0000000002.journal has journal format 7, this version of leveret reads format 1";
    assert_eq!(open(&newer), expected);
    for bit in [
        0,
        70,
        8 * 13,
        8 * 20,
        8 * 33,
        8 * 40,
        8 * 62,
        8 * 100,
        8 * 4095,
    ] {
        let error = open(&|disk| assert!(disk.flip_bit(&file(2), bit)));
        assert!(error.contains("0000000002.journal"), "bit {bit}: {error}");
    }
    let short = |disk: &SimDisk| {
        let content = disk.content(&file(2)).unwrap();
        disk.set_content(&file(2), &content[..8000]);
    };
    assert!(open(&short).starts_with("damage in j/0000000002.journal at offset"));
}

#[test]
fn an_unknown_kind_is_refused_even_at_the_end() {
    let disk = SimDisk::new();
    let opened = open_sim(&disk, Location::ZERO).unwrap();
    let kept = append(&opened.journal, 1, 100, true).unwrap();
    opened.journal.step(false);
    drop(opened);
    let place = kept.end().offset();
    let unknown = Kept {
        location: kept.end(),
        payload: Bytes::from_static(b"new"),
        ..kept
    };
    let bytes = format::record(format::seed(&UUID, 1), place, place, 200, &unknown);
    let mut content = disk.content(&file(1)).unwrap();
    content[place as usize..][..bytes.len()].copy_from_slice(&bytes);
    disk.set_content(&file(1), &content);
    disk.crash(0);
    let (path, offset, reason) = refusal(&disk, Location::ZERO);
    assert_eq!((path, offset), (file(1), u64::from(place)));
    assert!(reason.starts_with("unknown record kind 200"), "{reason}");
}

#[test]
fn a_record_inside_a_payload_is_no_proof() {
    // A message that carries a journal's bytes, header and all, in the torn tail: the place is another, so it is nothing.
    let disk = SimDisk::new();
    let opened = open_sim(&disk, Location::ZERO).unwrap();
    let first = append(&opened.journal, 1, 100, true).unwrap();
    opened.journal.step(false);
    let content = disk.content(&file(1)).unwrap();
    let stolen = Bytes::copy_from_slice(&content[4096..first.end().offset() as usize]);
    let carrier = opened
        .journal
        .append(RecordKind::Entry, 0, 0, 0, 0, stolen, true)
        .unwrap();
    opened.journal.step(false);
    drop(opened);
    assert!(disk.flip_bit(&file(1), carrier.offset() as usize * 8));
    disk.crash(0);
    let opened = open_sim(&disk, Location::ZERO).unwrap();
    assert_eq!(opened.records, [first]);
    assert_eq!(opened.report.end, carrier);
}

#[test]
fn replay_cannot_start_past_the_end_or_inside_a_record() {
    let made = make(10, false);
    let end = made.kept.last().unwrap().end();
    let open = |from| {
        open_sim(&copy(&made.disk), from)
            .err()
            .map(|e| e.to_string())
    };
    assert_eq!(open(end), None);
    let past = open(Location::new(end.segment(), end.offset() + 8)).unwrap();
    assert!(past.contains("but the journal in j ends at"), "{past}");
    let inside = open(Location::new(1, 4096 + 8)).unwrap();
    assert!(
        inside.contains("inside a record of j/0000000001.journal"),
        "{inside}"
    );
    assert!(
        open(Location::new(50, 0))
            .unwrap()
            .starts_with("segment 50 is missing")
    );
}

/// Its files were never synced: after a power cut they may hold anything, and nobody misses it.
#[test]
fn a_pager_passes_over_what_a_crash_made_of_the_last_one() {
    let sim = SimDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(sim.clone());
    let mut config = config(Path::new("pager"));
    config.sync = SyncPolicy::Never;
    let path = segment_file(Path::new("pager"), 1);
    for rest in [&[0; 8192][..], b"", b"short", &[0xA5; 8192]] {
        sim.set_content(&path, rest);
        let opened = open_as(&config, &disk, Location::ZERO, false).unwrap();
        append(&opened.journal, 1, 100, true).unwrap();
    }
}
