//! Checkpoints: the old one or the new one, whole, whenever the power goes.

mod common;

use std::path::Path;

use bytes::Bytes;
use common::*;
use leveret_storage::Location;
use leveret_storage::checkpoint::{self, CheckpointError, Covers};
use leveret_storage::disk::sim::{Fault, SimDisk};

fn covers(index: u64) -> Covers {
    Covers {
        journal: UUID,
        location: Location::new(2, 4096),
        group: 1,
        index,
        term: 3,
    }
}

#[test]
fn what_is_written_is_read_listed_and_removed() {
    on_each_disk(|disk, dir| {
        let disk = disk.as_ref();
        disk.create_dir_all(dir).unwrap();
        assert_eq!(checkpoint::read(disk, dir, "a").unwrap(), None);
        for (index, len) in [(1, 0), (2, 1), (3, 100_000)] {
            let data = payload(index, len);
            checkpoint::write(disk, dir, "a", &covers(index), &data).unwrap();
            let read = checkpoint::read(disk, dir, "a").unwrap().unwrap();
            assert_eq!((read.covers, read.data), (covers(index), data));
        }
        checkpoint::write(disk, dir, "b-2_x", &covers(9), b"x").unwrap();
        assert_eq!(checkpoint::list(disk, dir).unwrap(), ["a", "b-2_x"]);
        checkpoint::remove(disk, dir, "a").unwrap();
        checkpoint::remove(disk, dir, "a").unwrap();
        assert_eq!(checkpoint::list(disk, dir).unwrap(), ["b-2_x"]);
        for name in ["", "A", "a/b", "..", "a.b", &"x".repeat(101)] {
            let refused = checkpoint::write(disk, dir, name, &covers(1), b"");
            assert!(matches!(refused, Err(CheckpointError::Name(_))), "{name}");
        }
    });
}

#[test]
fn a_power_cut_leaves_the_old_or_the_new_one() {
    let dir = Path::new("j");
    let mut seen = [0; 2];
    for cut in 1..9 {
        for seed in 0..60 {
            let disk = SimDisk::new();
            checkpoint::write(&disk, dir, "a", &covers(1), &payload(1, 3000)).unwrap();
            disk.fail(cut, Fault::PowerCut);
            let done = checkpoint::write(&disk, dir, "a", &covers(2), &payload(2, 5000)).is_ok();
            disk.crash(seed);
            let read = checkpoint::read(&disk, dir, "a").unwrap().unwrap();
            let index = read.covers.index;
            assert!(index == 2 || !done, "a finished write was lost");
            assert_eq!(
                read.data,
                payload(index, if index == 1 { 3000 } else { 5000 })
            );
            seen[index as usize - 1] += 1;
            assert_eq!(checkpoint::list(&disk, dir).unwrap(), ["a"]);
            checkpoint::write(&disk, dir, "a", &covers(3), b"again").unwrap();
        }
    }
    assert!(seen[0] > 50 && seen[1] > 50, "{seen:?}");
}

#[test]
fn every_flipped_bit_and_every_cut_is_noticed() {
    let disk = SimDisk::new();
    let dir = Path::new("j");
    checkpoint::write(&disk, dir, "a", &covers(1), b"a few bytes").unwrap();
    let path = dir.join("a.checkpoint");
    let whole = disk.content(&path).unwrap();
    for bit in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let error = checkpoint::decode(Bytes::from(bytes), &path).unwrap_err();
        assert!(error.to_string().contains("a.checkpoint"), "{error}");
    }
    for len in 0..whole.len() {
        let bytes = Bytes::copy_from_slice(&whole[..len]);
        assert!(checkpoint::decode(bytes, &path).is_err(), "cut at {len}");
    }
}
