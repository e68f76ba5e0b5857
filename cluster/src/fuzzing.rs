//! What the fuzz targets in `fuzz/` call, and what their corpus is run through by `cargo test`.
//!
//! Each function takes any bytes, and panics if the crate breaks one of its promises about them.

use bytes::Bytes;
use leveret_storage::{Location, Record, RecordHeader, RecordKind};

use crate::raft::checkpoint::Head;
use crate::raft::codec::{self, Reader};
use crate::raft::log_index::LogIndex;

/// Bytes as each thing of the codec; the first says which. What is accepted is what would be written.
pub fn codec(data: &[u8]) {
    let Some((what, rest)) = data.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(rest);
    let mut reader = Reader::new(rest);
    let mut out = Vec::new();
    match what % 5 {
        0 => {
            let Ok(body) = codec::decode_body(bytes) else {
                return;
            };
            assert_eq!(codec::encode_body(&body), rest);
            return;
        }
        1 => match codec::take_vote(&mut reader) {
            Ok(vote) => codec::put_vote(&mut out, &vote),
            Err(_) => return,
        },
        2 => match codec::take_membership(&mut reader) {
            Ok(membership) => codec::put_membership(&mut out, &membership),
            Err(_) => return,
        },
        3 => match codec::take_stored_membership(&mut reader) {
            Ok(stored) => codec::put_stored_membership(&mut out, &stored),
            Err(_) => return,
        },
        _ => {
            let Ok((head, state)) = Head::decode(&bytes) else {
                return;
            };
            assert_eq!(head.encode(&state), rest);
            return;
        }
    }
    let left = reader.rest().len();
    assert_eq!(out, rest[..rest.len() - left]);
}

/// Bytes as records of one group, in order: refused or taken, never a panic, and the index holds together.
pub fn replay(data: &[u8]) {
    let mut index = LogIndex::default();
    let mut place = 4096;
    let mut rest = data;
    while let Some((head, tail)) = rest.split_first_chunk::<5>() {
        let [kind, flags, term, at, len] = *head;
        let kinds = [
            RecordKind::Entry,
            RecordKind::Vote,
            RecordKind::Truncate,
            RecordKind::Purge,
            RecordKind::Commit,
            RecordKind::GroupCreated,
            RecordKind::GroupDropped,
            RecordKind::Relocated,
        ];
        let kind = kinds[usize::from(kind) % kinds.len()];
        // Mostly what comes next, sometimes far from it.
        let entry = match flags % 4 {
            0 => u64::MAX - u64::from(at),
            1 => u64::from(at),
            _ => index.next_index(),
        };
        let len = usize::from(len).min(tail.len());
        let (payload, tail) = tail.split_at(len);
        rest = tail;
        place += 48 + len as u32;
        let record = Record {
            header: RecordHeader {
                kind,
                flags: 0,
                group: 256,
                index: entry,
                term: u64::from(term),
                len: len as u32,
                durable: Location::ZERO,
            },
            location: Location::new(1, place.next_multiple_of(8)),
            payload: Bytes::copy_from_slice(payload),
        };
        if index.replay(&record).is_err() {
            return;
        }
        check(&index);
    }
}

/// What holds of every index.
fn check(index: &LogIndex) {
    let (first, next) = (index.first_index(), index.next_index());
    assert!(first <= next);
    let mut before = None;
    for at in first..next {
        let (id, location) = (index.id_of(at), index.location_of(at));
        assert!(id.is_some_and(|id| id.index == at));
        assert!(Some((id.map(|id| id.leader_id), location)) > before);
        before = Some((id.map(|id| id.leader_id), location));
        let _ = index.follows(at);
    }
    if let (Some(last), true) = (index.last(), next > first) {
        assert_eq!(last.index + 1, next);
        if let Some(start) = index.id_of(first) {
            let keys = index.key_log_ids(start..=last);
            assert!(keys.windows(2).all(|pair| pair[0] < pair[1]));
            assert_eq!(keys.last(), Some(&last));
        }
    }
    assert_eq!(index.location_of(next), None);
    assert!(index.committed().is_none_or(|id| Some(id) <= index.last()));
}
