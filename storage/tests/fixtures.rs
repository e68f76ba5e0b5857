//! Journals of released formats: what was written stays readable, what is written stays the same bytes, and each kind of
//! damage keeps its refusal. `fixtures/v1` is a journal and a checkpoint; `fixtures/v1/damage.txt` says what to change in
//! them and what must come of it.
//!
//! With `LEVERET_WRITE_FIXTURES=1` the files are written anew: only before a format is released.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::*;
use leveret_storage::disk::{Disk, RealDisk};
use leveret_storage::{Location, checkpoint};

const FILES: [&str; 4] = [
    "0000000001.journal",
    "0000000002.journal",
    "0000000003.journal",
    "group-0.checkpoint",
];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1")
}

fn covers() -> checkpoint::Covers {
    checkpoint::Covers {
        journal: UUID,
        location: Location::new(1, 4096),
        group: 3,
        index: 4,
        term: 5,
    }
}

/// The journal of the fixture, made anew.
fn write(dir: &Path) -> Vec<Kept> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let opened = open_as(&config(dir), &disk, Location::ZERO, true).unwrap();
    let mut kept = Vec::new();
    for number in 0..26 {
        kept.push(append(&opened.journal, number, (number as usize * 97) % 1200, true).unwrap());
        if number % 3 == 0 {
            opened.journal.step(true);
        }
    }
    opened.journal.close();
    checkpoint::write(&RealDisk, dir, "group-0", &covers(), b"the state").unwrap();
    kept
}

fn copy_to(dir: &Path) {
    for file in FILES {
        fs::copy(fixtures().join(file), dir.join(file)).unwrap();
    }
}

#[test]
fn format_1_is_written_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path());
    for file in FILES {
        let written = fs::read(dir.path().join(file)).unwrap();
        if std::env::var_os("LEVERET_WRITE_FIXTURES").is_some() {
            fs::create_dir_all(fixtures()).unwrap();
            fs::write(fixtures().join(file), &written).unwrap();
        }
        let fixture = fs::read(fixtures().join(file)).unwrap();
        assert!(written == fixture, "{file} is written differently");
    }
}

#[test]
fn format_1_is_as_the_page_says() {
    let dir = tempfile::tempdir().unwrap();
    let kept = write(dir.path());
    for id in [1, 2] {
        let file = fs::read(segment_file(&fixtures(), id)).unwrap();
        assert_eq!(file[..4096], format::segment_header(&UUID, id, 1));
        let mut end = 4096;
        for record in kept.iter().filter(|record| record.location.segment() == id) {
            let at = record.location.offset() as usize;
            assert_eq!(at, end);
            let durable = u32::from_le_bytes(file[at + 20..at + 24].try_into().unwrap());
            assert!((4096..=at as u32).contains(&durable));
            let kind = record.kind as u8;
            let bytes = format::record(format::seed(&UUID, id), at as u32, durable, kind, record);
            assert_eq!(file[at..at + bytes.len()], bytes);
            end += bytes.len();
        }
        assert_eq!(
            file[end + 12],
            if id == 1 { 14 } else { 15 },
            "sealed, closed with a mark"
        );
        assert!(file[end + 40..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn format_1_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let kept = write(dir.path());
    let dir = tempfile::tempdir().unwrap();
    copy_to(dir.path());
    let disk: Arc<dyn Disk> = Arc::new(RealDisk);
    let opened = open_as(&config(dir.path()), &disk, Location::ZERO, false).unwrap();
    assert_eq!(opened.records, kept);
    assert!(opened.report.clean);
    let read = checkpoint::read(&RealDisk, dir.path(), "group-0")
        .unwrap()
        .unwrap();
    assert_eq!(
        (read.covers, read.data.as_ref()),
        (covers(), &b"the state"[..])
    );
}

/// `FILE OFFSET HEX = OUTCOME`, where HEX `cut` cuts the file there and `gone` removes it; OUTCOME is a part of the refusal's text, or `records N`.
#[test]
fn each_damage_has_its_refusal() {
    let table = fs::read_to_string(fixtures().join("damage.txt")).unwrap();
    let rows: Vec<&str> = table
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
        .collect();
    assert!(rows.len() >= 15);
    for row in rows {
        let (change, outcome) = row.split_once(" = ").unwrap();
        let words: Vec<&str> = change.split_whitespace().collect();
        let [file, offset, hex] = words[..] else {
            panic!("{row}")
        };
        let dir = tempfile::tempdir().unwrap();
        copy_to(dir.path());
        let path = dir.path().join(file);
        let offset: usize = offset.parse().unwrap();
        let mut bytes = fs::read(&path).unwrap();
        match hex {
            "gone" => {}
            "cut" => bytes.truncate(offset),
            _ => {
                for (i, pair) in hex.as_bytes().chunks(2).enumerate() {
                    let pair = std::str::from_utf8(pair).unwrap();
                    bytes[offset + i] = u8::from_str_radix(pair, 16).unwrap();
                }
            }
        }
        fs::remove_file(&path).unwrap();
        if hex != "gone" {
            fs::write(&path, bytes).unwrap();
        }
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let journal = open_as(&config(dir.path()), &disk, Location::ZERO, true);
        let checkpoint = checkpoint::read(&RealDisk, dir.path(), "group-0");
        let found = match (journal, checkpoint) {
            (Err(error), _) => error.to_string(),
            (_, Err(error)) => error.to_string(),
            (Ok(opened), Ok(_)) => format!("records {}", opened.records.len()),
        };
        assert!(found.contains(outcome), "{row}\nfound: {found}");
    }
}
