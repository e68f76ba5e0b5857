//! Several records at once, and what their appender waits for.

mod common;

use bytes::Bytes;
use common::*;
use leveret_storage::{Location, NewRecord, RecordKind, Wait};

#[test]
fn an_append_that_waits_for_the_write_is_written_and_not_synced() {
    on_each_disk(|disk, dir| {
        let opened = open_as(&config(dir), disk, Location::ZERO, true).unwrap();
        let journal = &opened.journal;
        let new = |index| NewRecord {
            kind: RecordKind::Entry,
            flags: 0,
            group: 300,
            index,
            term: 1,
            payload: Bytes::from_static(b"abc"),
        };
        let mut locations = Vec::new();
        let append = |indexes: std::ops::Range<u64>, wait, locations: &mut Vec<Location>| {
            journal.append_all(indexes.map(new), wait, locations)
        };
        append(1..3, Wait::Nobody, &mut locations).unwrap();
        assert!(!journal.step(false), "nobody waits");
        append(3..5, Wait::Written, &mut locations).unwrap();
        assert!(journal.step(false));
        assert_eq!(journal.written(), journal.end());
        assert!(journal.durable() <= locations[0]);
        assert!(
            !journal.step(false),
            "the write is done, nobody waits for more"
        );
        append(5..6, Wait::Durable, &mut locations).unwrap();
        assert!(journal.step(false));
        assert_eq!(journal.durable(), journal.end());
        for (at, location) in locations.iter().enumerate() {
            assert_eq!(journal.read(*location).unwrap().header.index, at as u64 + 1);
        }
        let reserved = NewRecord {
            kind: RecordKind::Seal,
            ..new(6)
        };
        let refused = journal.append_all([new(6), reserved], Wait::Durable, &mut locations);
        assert!(refused.is_err());
        assert_eq!(locations.len(), 6);
    });
}
