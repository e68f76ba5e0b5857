//! Deliveries of a channel that wait for acknowledgement, by delivery tag.

use std::collections::{BTreeMap, VecDeque};

use leveret_cluster::GroupId;
use leveret_queue::{ConsumerSlot, QueueId};

/// One delivery.
#[derive(Clone, Copy, Debug)]
pub struct Unacked {
    /// The queue that it came from.
    pub queue: QueueId,
    /// Who holds it there.
    pub slot: ConsumerSlot,
    /// The holder's number for it.
    pub number: u64,
    /// The queue's group.
    pub group: GroupId,
    /// When it was delivered, seconds of the node's uptime.
    pub at_s: u32,
}

/// Places from which on the few that wait among many settled ones are put aside.
const PLACES_SPARSE_MIN: usize = 1024;

/// Tags of a channel. A tag is given once, ascending from 1; those delivered without acknowledgement leave no trace.
///
/// Invariants: `entries` has the tags from `base` on, its front waits; `stragglers` has tags below `base`; memory is
/// in proportion to what waits, however old the oldest of it is.
#[derive(Debug, Default)]
pub struct Tags {
    /// Tags given so far.
    given: u64,
    /// The first entry's tag is `base`.
    base: u64,
    entries: VecDeque<Option<Unacked>>,
    /// How many of `entries` wait.
    waiting: usize,
    /// Those that stayed while most around them were settled.
    stragglers: BTreeMap<u64, Unacked>,
}

impl Tags {
    /// A tag for a delivery that needs no acknowledgement.
    #[inline]
    pub fn skip(&mut self) -> u64 {
        self.push(None)
    }

    /// A tag for a delivery that waits.
    #[inline]
    pub fn add(&mut self, unacked: Unacked) -> u64 {
        self.push(Some(unacked))
    }

    #[inline]
    fn push(&mut self, entry: Option<Unacked>) -> u64 {
        self.given += 1;
        if self.entries.len() >= PLACES_SPARSE_MIN && self.waiting < self.entries.len() / 8 {
            self.put_aside();
        }
        if self.entries.is_empty() {
            if entry.is_none() {
                return self.given;
            }
            self.base = self.given;
        }
        self.waiting += usize::from(entry.is_some());
        self.entries.push_back(entry);
        self.given
    }

    #[cold]
    fn put_aside(&mut self) {
        let tagged = (self.base..).zip(self.entries.drain(..));
        self.stragglers
            .extend(tagged.filter_map(|(tag, unacked)| Some((tag, unacked?))));
        self.waiting = 0;
    }

    /// Whether a tag waits.
    pub fn contains(&self, tag: u64) -> bool {
        self.stragglers.contains_key(&tag)
            || self
                .place(tag)
                .is_some_and(|at| matches!(self.entries.get(at), Some(Some(_))))
    }

    fn place(&self, tag: u64) -> Option<usize> {
        usize::try_from(tag.checked_sub(self.base)?).ok()
    }

    /// Takes one.
    #[inline]
    pub fn take(&mut self, tag: u64) -> Option<Unacked> {
        let Some(at) = self.place(tag) else {
            return self.stragglers.remove(&tag);
        };
        let unacked = self.entries.get_mut(at)?.take()?;
        self.waiting -= 1;
        self.trim();
        Some(unacked)
    }

    /// Takes all up to `tag`, 0 meaning all, in order. `false`: the tag does not wait, and nothing was taken.
    pub fn take_up_to(&mut self, tag: u64, mut f: impl FnMut(u64, Unacked)) -> bool {
        if tag != 0 && !self.contains(tag) {
            return false;
        }
        let last = if tag == 0 { self.given } else { tag };
        while let Some(first) = self.stragglers.first_entry()
            && *first.key() <= last
        {
            let (tag, unacked) = first.remove_entry();
            f(tag, unacked);
        }
        while self.base <= last
            && let Some(entry) = self.entries.pop_front()
        {
            if let Some(unacked) = entry {
                self.waiting -= 1;
                f(self.base, unacked);
            }
            self.base += 1;
        }
        self.trim();
        true
    }

    /// Puts taken ones back under their tags (a transaction was rolled back).
    pub fn restore(&mut self, taken: impl Iterator<Item = (u64, Unacked)>) {
        for (tag, unacked) in taken {
            let entry = self.place(tag).and_then(|at| self.entries.get_mut(at));
            match entry {
                Some(entry) => {
                    self.waiting += usize::from(entry.replace(unacked).is_none());
                }
                // Below the front, or nothing else waits.
                None => {
                    if self.entries.is_empty() {
                        self.base = self.given + 1;
                    }
                    self.stragglers.insert(tag, unacked);
                }
            }
        }
    }

    fn trim(&mut self) {
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.base += 1;
        }
        if self.entries.is_empty() && self.entries.capacity() > 1024 {
            self.entries = VecDeque::new();
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting + self.stragglers.len()
    }

    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tag given last.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// The one that has waited longest.
    pub fn oldest(&self) -> Option<(u64, &Unacked)> {
        self.iter().next()
    }

    /// All, in order of their tags.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Unacked)> {
        let places = (self.base..).zip(&self.entries);
        let aside = self.stragglers.iter().map(|(tag, unacked)| (*tag, unacked));
        aside.chain(places.filter_map(|(tag, unacked)| Some((tag, unacked.as_ref()?))))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use leveret_queue::{ConsumerSpec, Machine, Settings};

    use super::*;

    fn slot() -> ConsumerSlot {
        let mut machine = Machine::new(1);
        machine.create(1, Settings::default(), 0);
        let spec = ConsumerSpec {
            link: Arc::new(()),
            handle: 0,
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: 0,
            limiter: None,
            passive: true,
        };
        machine.consume(1, spec, 0).expect("the queue is there")
    }

    /// A delivery that is told from others by its number.
    fn delivery(slot: ConsumerSlot, number: u64) -> Unacked {
        Unacked {
            queue: 1,
            slot,
            number,
            group: 1,
            at_s: 0,
        }
    }

    fn numbers(tags: &Tags) -> Vec<(u64, u64)> {
        tags.iter().map(|(tag, u)| (tag, u.number)).collect()
    }

    #[test]
    fn tags_are_given_once_and_taken_once() {
        let (slot, mut tags) = (slot(), Tags::default());
        assert_eq!(tags.skip(), 1);
        assert_eq!(tags.add(delivery(slot, 7)), 2);
        assert_eq!(tags.skip(), 3);
        assert_eq!(tags.add(delivery(slot, 8)), 4);
        for unknown in [0, 1, 3, 5, u64::MAX] {
            assert!(tags.take(unknown).is_none(), "{unknown}");
        }
        assert_eq!(tags.take(2).map(|u| u.number), Some(7));
        assert!(tags.take(2).is_none());
        assert_eq!((tags.len(), tags.given()), (1, 4));
        assert_eq!(tags.oldest().map(|(tag, _)| tag), Some(4));
    }

    #[test]
    fn a_tag_that_is_settled_takes_nothing_with_it() {
        let (slot, mut tags) = (slot(), Tags::default());
        for number in 1..=5 {
            tags.add(delivery(slot, number));
        }
        tags.take(3);
        let mut taken = Vec::new();
        assert!(!tags.take_up_to(3, |tag, _| taken.push(tag)));
        assert!(!tags.take_up_to(6, |tag, _| taken.push(tag)));
        assert!(taken.is_empty());
        assert!(tags.take_up_to(4, |tag, _| taken.push(tag)));
        assert_eq!(taken, [1, 2, 4]);
        assert!(tags.take_up_to(0, |tag, _| taken.push(tag)));
        assert_eq!(taken, [1, 2, 4, 5]);
        assert!(tags.is_empty());
        assert!(tags.take_up_to(0, |tag, _| taken.push(tag)));
    }

    #[test]
    fn what_is_restored_is_where_it_was() {
        let (slot, mut tags) = (slot(), Tags::default());
        for number in 1..=6 {
            tags.add(delivery(slot, number));
        }
        let all = numbers(&tags);
        let mut taken = Vec::new();
        tags.take_up_to(4, |tag, u| taken.push((tag, u)));
        tags.restore(taken.drain(..));
        assert_eq!(numbers(&tags), all);
        tags.take_up_to(0, |tag, u| taken.push((tag, u)));
        assert_eq!(tags.add(delivery(slot, 7)), 7);
        tags.take(7);
        tags.restore(taken.drain(..));
        assert_eq!(tags.add(delivery(slot, 8)), 8);
        let wanted: Vec<_> = all.into_iter().chain([(8, 8)]).collect();
        assert_eq!(numbers(&tags), wanted);
    }

    #[test]
    fn one_old_delivery_does_not_cost_a_place_for_every_later_one() {
        let (slot, mut tags) = (slot(), Tags::default());
        let old = tags.add(delivery(slot, 1));
        for number in 2..100_000 {
            let tag = tags.add(delivery(slot, number));
            tags.take(tag);
            tags.skip();
        }
        assert!(
            tags.entries.len() <= PLACES_SPARSE_MIN,
            "{}",
            tags.entries.len()
        );
        assert_eq!(tags.take(old).map(|u| u.number), Some(1));
        assert!(tags.is_empty());
    }

    /// Against a plain map, with operations from a small generator.
    #[test]
    fn does_what_a_map_does() {
        let (slot, mut tags) = (slot(), Tags::default());
        let mut map: BTreeMap<u64, u64> = BTreeMap::new();
        let mut state = 1_u64;
        let mut random = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % n
        };
        for number in 0..200_000 {
            match random(16) {
                0..=6 => {
                    let tag = tags.add(delivery(slot, number));
                    map.insert(tag, number);
                }
                7..=9 => drop(tags.skip()),
                10..=13 => {
                    let tag = tags.given().saturating_sub(random(64));
                    assert_eq!(tags.take(tag).map(|u| u.number), map.remove(&tag));
                }
                14 => {
                    let tag = tags.given().saturating_sub(random(8192));
                    if random(64) > 0 || tag == 0 {
                        continue;
                    }
                    let mut taken = Vec::new();
                    let known = tags.take_up_to(tag, |tag, u| taken.push((tag, u.number)));
                    assert_eq!(known, map.contains_key(&tag));
                    if known {
                        let rest = map.split_off(&(tag + 1));
                        assert_eq!(
                            taken,
                            std::mem::replace(&mut map, rest)
                                .into_iter()
                                .collect::<Vec<_>>()
                        );
                    }
                }
                _ => {
                    let first = map.iter().next().map(|(tag, number)| (*tag, *number));
                    assert_eq!(tags.oldest().map(|(tag, u)| (tag, u.number)), first);
                    assert_eq!(tags.len(), map.len());
                }
            }
        }
        assert_eq!(numbers(&tags), map.into_iter().collect::<Vec<_>>());
    }
}
