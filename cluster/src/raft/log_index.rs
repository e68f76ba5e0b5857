//! Where the entries of one group are, and its vote: what of the log is in memory.
//!
//! Built by the journal's replay at start-up ([`LogIndex::replay`]) and kept by the log storage; both change it by the same
//! methods, in the order of the journal. So what a crash leaves and replay makes of it is what was there.
//!
//! Invariants: entries follow `purged` without a gap; their locations ascend; terms do not fall. Sixteen bytes an entry; terms are runs.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bytes::Bytes;
use leveret_storage::{Location, Record, RecordKind, ReplayError};

use super::codec::{self, Reader};
use super::types::{LogId, MemberId, Term, Vote, log_id};

/// Payload of a `Truncate` record that voids every entry, as there is no index before the first.
pub(super) const TRUNCATE_ALL: &[u8] = &[1];

/// No log comes near: so that sums of indexes stay in their type.
const INDEX_MAX: u64 = 1 << 62;

#[derive(Clone, Copy, Debug)]
struct Slot {
    location: Location,
    /// Payload bytes of the log up to this entry, since the index was made.
    bytes_end: u64,
}

/// The entries of one group, from the purged ones on.
#[derive(Clone, Debug, Default)]
pub struct LogIndex {
    /// Which member's log it is.
    pub(super) member: Option<MemberId>,
    pub(super) vote: Option<Vote>,
    /// At least this was committed; a hint.
    pub(super) committed: Option<LogId>,
    purged: Option<LogId>,
    /// Index of the first slot: 0, or what follows `purged`.
    first: u64,
    slots: VecDeque<Slot>,
    /// First index and term of each run of entries of one term.
    terms: VecDeque<(u64, Term)>,
    bytes_start: u64,
    /// Places of truncations behind the first entry.
    barriers: VecDeque<Location>,
}

impl LogIndex {
    /// The index as a checkpoint left it: nothing is known but what is purged, and the vote.
    pub(crate) fn restored(
        member: Option<MemberId>,
        vote: Option<Vote>,
        purged: Option<LogId>,
    ) -> LogIndex {
        LogIndex {
            member,
            vote,
            purged,
            first: purged.map_or(0, |id| id.index.saturating_add(1)),
            ..LogIndex::default()
        }
    }

    /// Index of the first entry that is there, or would be.
    pub fn first_index(&self) -> u64 {
        self.first
    }

    /// Index of the entry to come.
    pub fn next_index(&self) -> u64 {
        self.first_index() + self.slots.len() as u64
    }

    /// Up to where the log is purged.
    pub fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry, the last purged one if there is none.
    pub fn last(&self) -> Option<LogId> {
        if self.slots.is_empty() {
            return self.purged;
        }
        self.id_of(self.next_index() - 1)
    }

    /// The vote.
    pub fn vote(&self) -> Option<Vote> {
        self.vote
    }

    /// The member whose log it is.
    pub fn member(&self) -> Option<MemberId> {
        self.member
    }

    /// Whether the group has left any trace.
    pub fn is_empty(&self) -> bool {
        self.vote.is_none() && self.last().is_none()
    }

    /// What is known to be committed, as far as the log has it.
    pub fn committed(&self) -> Option<LogId> {
        self.committed
            .filter(|id| Some(*id) <= self.purged || self.id_of(id.index) == Some(*id))
    }

    /// Payload bytes of the entries that are there.
    pub fn bytes(&self) -> u64 {
        self.slots
            .back()
            .map_or(0, |slot| slot.bytes_end - self.bytes_start)
    }

    fn slot(&self, index: u64) -> Option<&Slot> {
        let at = index.checked_sub(self.first_index())?;
        self.slots.get(usize::try_from(at).ok()?)
    }

    /// Where an entry is.
    pub fn location_of(&self, index: u64) -> Option<Location> {
        self.slot(index).map(|slot| slot.location)
    }

    /// Payload bytes of an entry.
    pub fn bytes_of(&self, index: u64) -> Option<u64> {
        let before = match index.checked_sub(1).and_then(|index| self.slot(index)) {
            Some(slot) => slot.bytes_end,
            None => self.bytes_start,
        };
        self.slot(index).map(|slot| slot.bytes_end - before)
    }

    /// The id of an entry, or of the last purged one.
    pub fn id_of(&self, index: u64) -> Option<LogId> {
        if let Some(purged) = self.purged
            && purged.index == index
        {
            return Some(purged);
        }
        self.slot(index)?;
        let run = self.terms.partition_point(|(first, _)| *first <= index);
        let (_, term) = self.terms.get(run.checked_sub(1)?)?;
        Some(log_id(*term, index))
    }

    /// The last id of each term in a range. (openraft's description of the method speaks of the first; what it reads is the last, as
    /// its own tests say.)
    pub fn key_log_ids(&self, range: RangeInclusive<LogId>) -> Vec<LogId> {
        let (first, last) = range.into_inner();
        let ends = self.terms.iter().skip(1).map(|(next, _)| next - 1);
        let mut ids: Vec<LogId> = ends
            .filter(|index| (first.index..last.index).contains(index))
            .filter_map(|index| self.id_of(index))
            .collect();
        ids.push(last);
        ids
    }

    /// Place of the last truncation that has entries before it; nothing that begins before it may be read on behind it.
    pub fn barrier(&self) -> Option<Location> {
        self.barriers.back().copied()
    }

    /// Whether a walk of the journal from the entry before `index` comes to `index` next: nothing was truncated between.
    pub fn follows(&self, index: u64) -> bool {
        let before = index
            .checked_sub(1)
            .and_then(|index| self.location_of(index));
        let (Some(before), Some(here)) = (before, self.location_of(index)) else {
            return false;
        };
        let next = self.barriers.partition_point(|barrier| *barrier < before);
        self.barriers
            .get(next)
            .is_none_or(|barrier| *barrier > here)
    }

    /// Where replay must begin so that all entries that are there are found again, when the vote and what is purged are in a
    /// checkpoint. `end` is the journal's end.
    pub fn replay_from(&self, end: Location) -> Location {
        self.slots.front().map_or(end, |slot| slot.location)
    }

    /// The last id that can be purged so that what lies at `keep_from` in the journal, and behind, stays; at most `limit`.
    pub fn purge_point(&self, keep_from: Location, limit: LogId) -> Option<LogId> {
        let count = self.slots.partition_point(|slot| slot.location < keep_from);
        let index = (self.first_index() + count as u64).checked_sub(1)?;
        self.id_of(index.min(limit.index))
            .filter(|id| Some(*id) > self.purged)
    }

    /// Whether an entry may come next. A log begins with 0; only openraft's own tests begin it elsewhere.
    pub(super) fn is_next(&self, index: u64) -> bool {
        index == self.next_index() || (self.slots.is_empty() && self.purged.is_none())
    }

    /// Takes the next entry, for which [`LogIndex::is_next`] holds.
    pub(super) fn push(&mut self, id: LogId, location: Location, bytes: usize) {
        let (term, index) = (id.leader_id.term, id.index);
        if self.slots.is_empty() {
            self.first = index;
        }
        if self.terms.back().is_none_or(|(_, last)| *last != term) {
            self.terms.push_back((index, term));
        }
        let before = self
            .slots
            .back()
            .map_or(self.bytes_start, |slot| slot.bytes_end);
        self.slots.push_back(Slot {
            location,
            bytes_end: before + bytes as u64,
        });
    }

    /// Voids the entries behind `last`, all of them if there is none; `place` is where the journal says so.
    pub(super) fn truncate_after(&mut self, last: Option<u64>, place: Location) {
        let next = last
            .map_or(0, |index| index.saturating_add(1))
            .clamp(self.first_index(), self.next_index());
        self.slots.truncate((next - self.first_index()) as usize);
        while self.terms.back().is_some_and(|(first, _)| *first >= next) {
            self.terms.pop_back();
        }
        self.barriers.push_back(place);
        self.prune_barriers();
    }

    /// Forgets the entries up to `id`, which may be behind the last.
    pub(super) fn purge(&mut self, id: LogId) {
        if self.purged.is_some_and(|purged| id.index <= purged.index) {
            return;
        }
        let first = self.first_index();
        let next = id.index.saturating_add(1);
        let gone = next.saturating_sub(first).min(self.slots.len() as u64);
        if let Some(last) = self.slots.drain(..gone as usize).next_back() {
            self.bytes_start = last.bytes_end;
        }
        self.purged = Some(id);
        self.first = next;
        while self.terms.get(1).is_some_and(|(first, _)| *first <= next) {
            self.terms.pop_front();
        }
        if self.slots.is_empty() {
            self.terms.clear();
        } else if let Some(run) = self.terms.front_mut() {
            run.0 = run.0.max(next);
        }
        self.prune_barriers();
    }

    /// Barriers before the first entry part nothing.
    fn prune_barriers(&mut self) {
        let first = self.slots.front().map(|slot| slot.location);
        while self
            .barriers
            .front()
            .is_some_and(|barrier| first.is_none_or(|first| *barrier < first))
        {
            self.barriers.pop_front();
        }
    }

    /// Takes a record of the journal; those of other kinds change nothing.
    ///
    /// # Errors
    /// The record contradicts those before it, or cannot be understood.
    pub fn replay(&mut self, record: &Record) -> Result<(), ReplayError> {
        let header = &record.header;
        let id = log_id(header.term, header.index);
        if header.index > INDEX_MAX {
            return Err(format!("index {} is beyond any log", header.index).into());
        }
        match header.kind {
            RecordKind::Entry => self.replay_entry(record)?,
            RecordKind::Vote => {
                let mut reader = Reader::new(&record.payload);
                let vote = codec::take_vote(&mut reader)?;
                reader.end("vote")?;
                self.vote = Some(vote);
            }
            RecordKind::Truncate => {
                let all = record.payload == TRUNCATE_ALL;
                let last = Some(header.index).filter(|_| !all);
                self.truncate_after(last, record.location);
            }
            RecordKind::Purge => self.purge(id),
            RecordKind::Commit => self.committed = self.committed.max(Some(id)),
            RecordKind::GroupCreated => {
                self.member = Some(Reader::new(&record.payload).u64("member")?);
            }
            RecordKind::GroupDropped => *self = LogIndex::default(),
            _ => {}
        }
        Ok(())
    }

    fn replay_entry(&mut self, record: &Record) -> Result<(), ReplayError> {
        let header = &record.header;
        let next = self.next_index();
        if header.index < self.first_index() {
            return Ok(()); // purged since
        }
        if header.index != next {
            return Err(format!("entry {} where {next} is due", header.index).into());
        }
        if self
            .last()
            .is_some_and(|last| last.leader_id.term > header.term)
        {
            return Err(format!("entry {next} of an earlier term than the one before").into());
        }
        if !(1..=3).contains(&record.payload.first().copied().unwrap_or(0)) {
            return Err(format!("entry {next} of an unknown kind").into());
        }
        let id = log_id(header.term, header.index);
        self.push(id, record.location, record.payload.len());
        Ok(())
    }
}

/// The payload of a vote's record.
pub(super) fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = Vec::with_capacity(codec::VOTE_BYTES);
    codec::put_vote(&mut out, vote);
    Bytes::from(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Location {
        Location::new(1, offset as u32 * 8)
    }

    fn filled() -> LogIndex {
        let mut index = LogIndex::default();
        for (place, term) in [1, 1, 2, 2, 2, 5].into_iter().enumerate() {
            index.push(
                log_id(term, place as u64),
                at(place as u64),
                10 * (place + 1),
            );
        }
        index
    }

    #[test]
    fn entries_have_their_term_place_and_size() {
        let index = filled();
        assert_eq!(index.last(), Some(log_id(5, 5)));
        assert_eq!(index.id_of(1), Some(log_id(1, 1)));
        assert_eq!(index.id_of(4), Some(log_id(2, 4)));
        assert_eq!(index.id_of(6), None);
        assert_eq!(index.location_of(3), Some(at(3)));
        assert_eq!(index.bytes_of(3), Some(40));
        assert_eq!(index.bytes_of(0), Some(10));
        assert_eq!(index.bytes(), 210);
        let keys = index.key_log_ids(log_id(1, 0)..=log_id(5, 5));
        assert_eq!(keys, [log_id(1, 1), log_id(2, 4), log_id(5, 5)]);
        let keys = index.key_log_ids(log_id(2, 3)..=log_id(2, 4));
        assert_eq!(keys, [log_id(2, 4)]);
        assert_eq!(
            index.key_log_ids(log_id(2, 3)..=log_id(2, 3)),
            [log_id(2, 3)]
        );
    }

    #[test]
    fn a_purge_keeps_what_follows() {
        let mut index = filled();
        index.purge(log_id(2, 3));
        assert_eq!((index.first_index(), index.next_index()), (4, 6));
        assert_eq!(index.id_of(3), Some(log_id(2, 3)));
        assert_eq!(index.id_of(2), None);
        assert_eq!(index.id_of(4), Some(log_id(2, 4)));
        assert_eq!(index.bytes(), 110);
        index.purge(log_id(1, 1));
        assert_eq!(index.purged(), Some(log_id(2, 3)));
        index.purge(log_id(7, 100));
        assert_eq!(index.last(), Some(log_id(7, 100)));
        index.push(log_id(7, 101), at(9), 1);
        assert_eq!(index.id_of(101), Some(log_id(7, 101)));
        assert_eq!(index.bytes(), 1);
    }

    #[test]
    fn a_truncation_parts_what_is_before_it_from_what_follows() {
        let mut index = filled();
        index.truncate_after(Some(2), at(6));
        assert_eq!(index.last(), Some(log_id(2, 2)));
        index.push(log_id(6, 3), at(7), 1);
        index.push(log_id(6, 4), at(8), 1);
        assert_eq!(index.barrier(), Some(at(6)));
        assert!(index.follows(2) && !index.follows(3) && index.follows(4));
        assert!(!index.follows(0) && !index.follows(5));
        index.truncate_after(Some(3), at(9));
        index.push(log_id(8, 4), at(10), 1);
        assert!(!index.follows(3) && !index.follows(4));
        index.purge(log_id(2, 2));
        assert!(!index.follows(4));
        index.purge(log_id(6, 3));
        assert_eq!(index.barrier(), None);
        index.truncate_after(None, at(11));
        assert_eq!(index.last(), Some(log_id(6, 3)));
    }

    #[test]
    fn places_decide_how_far_to_purge() {
        let index = filled();
        let limit = log_id(5, 5);
        let places: Vec<_> = index.slots.iter().map(|slot| slot.location).collect();
        let (end, last) = (at(1000), places[places.len() - 1]);
        assert_eq!(index.purge_point(end, limit), Some(log_id(5, 5)));
        assert_eq!(index.purge_point(last, limit), Some(log_id(2, 4)));
        assert_eq!(
            index.purge_point(places[places.len() - 2], limit),
            Some(log_id(2, 3))
        );
        assert_eq!(index.purge_point(end, log_id(2, 2)), Some(log_id(2, 2)));
        assert_eq!(index.purge_point(places[0], limit), None);
        assert_eq!(index.replay_from(at(50)), at(0));
        assert_eq!(LogIndex::default().replay_from(at(50)), at(50));
    }
}
