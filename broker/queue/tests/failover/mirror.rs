//! A mirror: its journal with what was truncated still in it, its part of the log, its replica.

use std::collections::BTreeMap;

use bytes::Bytes;
use leveret_queue::{Applied, Barriers, EntryBuilder, Location, QueueId, Replica, Seq, Store};

use crate::common::FakeStore;
use crate::common::rng::Rng;

/// An entry of the group's log; without a payload: the first of a term.
#[derive(Clone)]
pub struct Entry {
    pub term: u64,
    pub payload: Option<Bytes>,
    pub location: Location,
}

#[derive(Default)]
pub struct Mirror {
    pub store: FakeStore,
    pub log: Vec<Entry>,
    pub applied: usize,
    pub replica: Replica,
    barriers: Barriers,
    truncations: Vec<Location>,
}

impl Mirror {
    pub fn append(&mut self, term: u64, payload: Option<Bytes>, rng: &mut Rng) {
        if rng.once_in(4) {
            // Another group's.
            let mut foreign = EntryBuilder::default();
            foreign.settle(999, 0, 1, 1);
            self.store.append(&foreign.finish(None));
        }
        let blank = [2u8; 8];
        let bytes = payload.as_deref().unwrap_or(&blank);
        let location = self.store.append(bytes).0;
        self.log.push(Entry {
            term,
            payload,
            location,
        });
    }

    pub fn last(&self) -> (u64, usize) {
        (self.log.last().map_or(0, |e| e.term), self.log.len())
    }

    /// Entries that it has as the other has them.
    pub fn common(&self, other: &Mirror) -> usize {
        let pairs = self.log.iter().zip(&other.log);
        pairs.take_while(|(a, b)| a.term == b.term).count()
    }

    pub fn truncate(&mut self, len: usize) {
        assert!(len >= self.applied, "what is committed is never truncated");
        if len < self.log.len() {
            self.log.truncate(len);
            self.barriers.set(self.store.end());
            self.truncations.push(self.store.end());
        }
    }

    /// Applies the next entry.
    pub fn apply_next(&mut self) -> Result<Option<(Applied, Location)>, String> {
        let entry = self.log[self.applied].clone();
        self.applied += 1;
        let Some(payload) = entry.payload else {
            return Ok(None);
        };
        let barrier = self.barriers.before(entry.location);
        let applied = self.replica.apply(&payload, entry.location, barrier);
        let applied = applied.map_err(|e| e.to_string())?;
        if applied.has_gap() {
            return Err(format!("a gap: {applied:?}"));
        }
        Ok(Some((applied, entry.location)))
    }

    /// The process ends and begins again, from a checkpoint: it knows only what was truncated behind the entries that it reads.
    pub fn restart(&mut self) -> Result<(), String> {
        let encoded = self.replica.encode();
        let again = Replica::decode(&encoded).map_err(|e| e.to_string())?;
        if again.encode() != encoded || again.digest() != self.replica.digest() {
            return Err("a checkpoint does not hold what it was made of".into());
        }
        self.replica = again;
        let from = match self.log.get(self.applied) {
            Some(entry) => entry.location,
            None => self.store.end(),
        };
        self.barriers = Barriers::default();
        for at in self.truncations.iter().filter(|at| **at > from) {
            self.barriers.set(*at);
        }
        Ok(())
    }

    /// Moves some live messages to the journal's head, as reclaim does. Answers where they are now.
    pub fn relocate(
        &mut self,
        rng: &mut Rng,
    ) -> Result<BTreeMap<(QueueId, Seq), Location>, String> {
        let mut moved = BTreeMap::new();
        for (id, seq) in self.live() {
            if !rng.once_in(4) {
                continue;
            }
            let run = *self
                .replica
                .queue(id)
                .and_then(|q| q.find(seq))
                .ok_or("gone")?;
            let mut found = Vec::new();
            let read = self.store.read(id, seq, 1, run.location, 1, &mut found);
            read.map_err(|e| e.0)?;
            let mut entry = EntryBuilder::default();
            entry.relocated(&[(id, seq)], &found[0].message);
            let at = self.store.append(&entry.finish(None)).0;
            self.replica
                .relocated(id, seq, at, self.barriers.before(at));
            moved.insert((id, seq), at);
        }
        Ok(moved)
    }

    pub fn live(&self) -> Vec<(QueueId, Seq)> {
        let mut live = Vec::new();
        for (id, state) in self.replica.queues() {
            for run in state.levels.iter().flat_map(|level| level.runs()) {
                live.extend((run.first..run.end()).map(|seq| (id, seq)));
            }
        }
        live.sort_unstable();
        live
    }
}
