//! Consumers of a queue, and what they hold.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::ready::Hot;
use crate::{Limiter, Link, Seq};

/// A consumer's place in its queue: index and generation, so that a stale name finds nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerSlot {
    pub(crate) index: u32,
    pub(crate) generation: u32,
}

impl ConsumerSlot {
    /// A number that orders slots, for sorting.
    pub fn key(self) -> u64 {
        u64::from(self.index) << 32 | u64::from(self.generation)
    }

    /// The slot with this key.
    pub fn from_key(key: u64) -> ConsumerSlot {
        ConsumerSlot {
            index: (key >> 32) as u32,
            generation: key as u32,
        }
    }
}

/// A range of a consumer's delivery numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnackedRange {
    /// Who got them.
    pub slot: ConsumerSlot,
    /// First number.
    pub first: u64,
    /// How many.
    pub count: u32,
}

/// What a channel asks for in basic.consume, or to hold what basic.get gave it.
#[derive(Clone)]
pub struct ConsumerSpec {
    /// Its connection.
    pub link: Arc<dyn Link>,
    /// The connection's own handle, returned with every delivery.
    pub handle: u64,
    /// Deliveries are settled as they leave.
    pub no_ack: bool,
    /// Refuses, and is refused beside, any other consumer.
    pub exclusive: bool,
    /// `x-priority`.
    pub priority: i32,
    /// Unacknowledged messages at most; 0 means unlimited.
    pub prefetch: u32,
    /// The window shared by the channel's consumers.
    pub limiter: Option<Arc<Limiter>>,
    /// It never gets deliveries by itself: it stands for basic.get.
    pub passive: bool,
}

impl std::fmt::Debug for ConsumerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "ConsumerSpec({}, prefetch {}, no_ack {})",
            self.handle, self.prefetch, self.no_ack
        )
    }
}

/// What a consumer was under an earlier leader of its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its place in the order of arrival, from 1.
    pub arrival: u64,
    /// It was the single active consumer.
    pub active: bool,
}

/// A look at one consumer, for listings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConsumerView {
    /// Its place in the queue.
    pub slot: ConsumerSlot,
    /// `x-priority`.
    pub priority: i32,
    /// Unacknowledged messages at most; 0 means unlimited.
    pub prefetch: u32,
    /// Refuses any other consumer.
    pub exclusive: bool,
    /// It gets deliveries; otherwise another one is the single active consumer.
    pub active: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// In the round of its priority.
    Active,
    /// Its own window is full.
    Prefetch,
    /// Its connection has no room, or its channel's window is full: resumed by a waiter.
    Waiting,
    /// Another consumer is the single active one.
    Standby,
    /// Cancelled, or passive: only holds what it has.
    Holding,
}

#[derive(Debug)]
pub(crate) struct Consumer {
    pub spec: ConsumerSpec,
    pub generation: u32,
    pub state: State,
    /// Unacknowledged messages with numbers from `base` on; `None`: settled.
    unacked: VecDeque<Option<Hot>>,
    /// Number of the front of `unacked`.
    base: u64,
    /// Those that stayed while most around them were settled: numbers below `base`.
    stragglers: BTreeMap<u64, Hot>,
    pub unacked_len: u32,
    /// Where its deliveries are staged, once it got one in the run that is under way.
    pub stage: Option<usize>,
    /// Its place among the consumers in the order of their arrival, whoever led the queue then.
    pub arrival: u64,
}

/// Past this many unacknowledged messages a consumer's further ones keep no body in memory if it is on disk.
const HELD_BODIES_MAX: u32 = 4096;

/// Places of settled messages that are kept before the few unsettled between them are put aside.
const PLACES_SPARSE_MIN: usize = 1024;

impl Consumer {
    /// Remembers a delivered message and numbers it.
    pub fn hold(&mut self, mut hot: Hot) -> u64 {
        if self.unacked_len >= HELD_BODIES_MAX && hot.location.is_some() {
            hot.message = None;
        }
        let here = self.unacked_len as usize - self.stragglers.len();
        if self.unacked.len() >= PLACES_SPARSE_MIN && here < self.unacked.len() / 8 {
            let first = self.base;
            self.base += self.unacked.len() as u64;
            let numbered = (first..).zip(self.unacked.drain(..));
            self.stragglers
                .extend(numbered.filter_map(|(n, hot)| Some((n, hot?))));
        }
        let number = self.base + self.unacked.len() as u64;
        self.unacked.push_back(Some(hot));
        self.unacked_len += 1;
        number
    }

    /// Takes held messages back, in the order of their numbers.
    pub fn take(&mut self, first: u64, count: u32, out: &mut Vec<Hot>) {
        let end = first.saturating_add(u64::from(count));
        let before = out.len();
        if first < self.base && !self.stragglers.is_empty() {
            let range = self.stragglers.range(first..end.min(self.base));
            let numbers: Vec<u64> = range.map(|(number, _)| *number).collect();
            out.extend(
                numbers
                    .iter()
                    .filter_map(|number| self.stragglers.remove(number)),
            );
        }
        let here = |number: u64| {
            number
                .saturating_sub(self.base)
                .min(self.unacked.len() as u64)
        };
        let (from, to) = (here(first) as usize, here(end) as usize);
        out.reserve((to - from).min(self.unacked_len as usize));
        out.extend(self.unacked.range_mut(from..to).filter_map(Option::take));
        self.taken(out.len() - before);
    }

    /// Takes held messages back by their numbers in the queue. `hint`: the number among the consumer's deliveries that the
    /// first had, the others following it; where that is wrong they are searched for.
    pub fn take_seqs(&mut self, hint: u64, first: Seq, count: u32, out: &mut Vec<Hot>) {
        let (before, end) = (out.len(), first.saturating_add(u64::from(count)));
        let mut next = first;
        let mut number = Some(hint);
        while let Some(hot) = number
            .filter(|_| next < end)
            .and_then(|number| self.take_if(number, next))
        {
            out.push(hot);
            next += 1;
            number = number.and_then(|number| number.checked_add(1));
        }
        if next < end && self.unacked_len as usize > out.len() - before {
            let wanted = |hot: &Hot| (next..end).contains(&hot.seq);
            let numbers = self.stragglers.iter().filter(|(_, hot)| wanted(hot));
            let numbers: Vec<u64> = numbers.map(|(number, _)| *number).collect();
            out.extend(numbers.iter().filter_map(|n| self.stragglers.remove(n)));
            let places = self.unacked.iter_mut();
            out.extend(places.filter_map(|place| place.take_if(|hot| wanted(hot))));
        }
        self.taken(out.len() - before);
    }

    /// Takes a held message if the delivery of that number is it.
    fn take_if(&mut self, number: u64, seq: Seq) -> Option<Hot> {
        match number.checked_sub(self.base) {
            Some(at) => {
                let place = self.unacked.get_mut(usize::try_from(at).ok()?)?;
                place.take_if(|hot| hot.seq == seq)
            }
            None => {
                self.stragglers.get(&number).filter(|h| h.seq == seq)?;
                self.stragglers.remove(&number)
            }
        }
    }

    /// `count` messages were taken out.
    fn taken(&mut self, count: usize) {
        self.unacked_len -= count as u32;
        while let Some(None) = self.unacked.front() {
            self.unacked.pop_front();
            self.base += 1;
        }
        if self.unacked.is_empty() && self.unacked.capacity() > 1024 {
            self.unacked = VecDeque::new();
        }
    }

    /// What it holds.
    pub fn held(&self) -> impl Iterator<Item = &Hot> {
        self.stragglers
            .values()
            .chain(self.unacked.iter().flatten())
    }

    /// What it holds, to be pointed elsewhere.
    pub fn held_mut(&mut self) -> impl Iterator<Item = &mut Hot> {
        self.stragglers
            .values_mut()
            .chain(self.unacked.iter_mut().flatten())
    }

    pub fn window_full(&self) -> bool {
        !self.spec.no_ack && self.spec.prefetch > 0 && self.unacked_len >= self.spec.prefetch
    }
}

/// The consumers of one queue.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    slots: Vec<Option<Box<Consumer>>>,
    generation: u32,
    /// Active consumers by descending priority, each in its round.
    rounds: Vec<(i32, VecDeque<u32>)>,
    /// Attached consumers (passive and cancelled ones not counted).
    pub attached: u32,
    /// The one that gets everything, with single active consumer.
    pub single: Option<u32>,
    pub exclusive: bool,
    /// Attached consumers in order of arrival, kept only with single active consumer.
    pub order: VecDeque<u32>,
    /// The last arrival.
    pub arrivals: u64,
    /// The single active consumer was it under the last leader, too.
    pub kept: bool,
}

impl Consumers {
    pub fn add(&mut self, spec: ConsumerSpec) -> (u32, ConsumerSlot) {
        self.generation = self.generation.wrapping_add(1);
        let generation = self.generation;
        let state = if spec.passive {
            State::Holding
        } else {
            State::Standby
        };
        let consumer = Box::new(Consumer {
            spec,
            generation,
            state,
            unacked: VecDeque::new(),
            base: 1,
            stragglers: BTreeMap::new(),
            unacked_len: 0,
            stage: None,
            arrival: 0,
        });
        let index = match self.slots.iter().position(Option::is_none) {
            Some(free) => {
                self.slots[free] = Some(consumer);
                free as u32
            }
            None => {
                self.slots.push(Some(consumer));
                (self.slots.len() - 1) as u32
            }
        };
        (index, ConsumerSlot { index, generation })
    }

    pub fn find(&mut self, slot: ConsumerSlot) -> Option<&mut Consumer> {
        self.get(slot.index)
            .filter(|c| c.generation == slot.generation)
    }

    /// How many messages it holds; 0 if it is gone.
    pub fn held_by(&self, slot: ConsumerSlot) -> u32 {
        let place = self.slots.get(slot.index as usize);
        place
            .and_then(|place| place.as_deref())
            .filter(|c| c.generation == slot.generation)
            .map_or(0, |c| c.unacked_len)
    }

    #[inline]
    pub fn get(&mut self, index: u32) -> Option<&mut Consumer> {
        self.slots.get_mut(index as usize)?.as_deref_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Consumer)> {
        (0..)
            .zip(&self.slots)
            .filter_map(|(i, c)| Some((i, c.as_deref()?)))
    }

    /// Those that are attached.
    pub fn views(&self) -> impl Iterator<Item = ConsumerView> {
        let attached = self.iter().filter(|(_, c)| c.state != State::Holding);
        attached.map(|(index, consumer)| ConsumerView {
            slot: ConsumerSlot {
                index,
                generation: consumer.generation,
            },
            priority: consumer.spec.priority,
            prefetch: consumer.spec.prefetch,
            exclusive: consumer.spec.exclusive,
            active: consumer.state != State::Standby,
        })
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Consumer> {
        self.slots.iter_mut().filter_map(|c| c.as_deref_mut())
    }

    pub fn remove(&mut self, index: u32) -> Option<Box<Consumer>> {
        let consumer = self.slots.get_mut(index as usize)?.take()?;
        while let Some(None) = self.slots.last() {
            self.slots.pop();
        }
        if self.slots.is_empty() {
            self.slots = Vec::new();
        }
        Some(consumer)
    }

    /// Puts a consumer at the end of its round.
    pub fn activate(&mut self, index: u32) {
        let Some(consumer) = self.get(index) else {
            return;
        };
        if consumer.state == State::Active {
            return;
        }
        consumer.state = State::Active;
        let priority = consumer.spec.priority;
        match self.rounds.iter_mut().find(|(p, _)| *p == priority) {
            Some((_, round)) => round.push_back(index),
            None => {
                let at = self.rounds.partition_point(|(p, _)| *p > priority);
                self.rounds.insert(at, (priority, VecDeque::from([index])));
            }
        }
    }

    /// Takes a consumer out of its round.
    pub fn deactivate(&mut self, index: u32, state: State) {
        let Some(consumer) = self.get(index) else {
            return;
        };
        let was = std::mem::replace(&mut consumer.state, state);
        if was != State::Active {
            return;
        }
        let priority = consumer.spec.priority;
        if let Some(at) = self.rounds.iter().position(|(p, _)| *p == priority) {
            let round = &mut self.rounds[at].1;
            if round.front() == Some(&index) {
                round.pop_front();
            } else {
                round.retain(|i| *i != index);
            }
            if round.is_empty() {
                self.rounds.remove(at);
            }
        }
    }

    /// Whose turn it is.
    #[inline]
    pub fn next(&self) -> Option<u32> {
        self.rounds.first()?.1.front().copied()
    }

    /// Ends the turn of the one that [`Consumers::next`] named.
    #[inline]
    pub fn rotate(&mut self) {
        if let Some((_, round)) = self.rounds.first_mut()
            && round.len() > 1
        {
            round.rotate_left(1);
        }
    }

    /// Makes a consumer the single active one, or none.
    pub fn make_single(&mut self, next: Option<u32>) {
        let before = std::mem::replace(&mut self.single, next);
        if before == next {
            return;
        }
        if let Some(index) = before
            && let Some(consumer) = self.get(index)
            && consumer.state != State::Holding
        {
            consumer.spec.link.active(consumer.spec.handle, false);
            self.deactivate(index, State::Standby);
        }
        if let Some(index) = next {
            if let Some(consumer) = self.get(index) {
                consumer.spec.link.active(consumer.spec.handle, true);
            }
            self.activate(index);
        }
    }

    /// Puts an attached consumer into the order of arrival. `arrival`: its place under an earlier leader.
    pub fn arrive(&mut self, index: u32, arrival: Option<u64>) {
        let arrival = arrival.unwrap_or(self.arrivals + 1);
        self.arrivals = self.arrivals.max(arrival);
        let before = |at: &u32| {
            let consumer = self.slots.get(*at as usize).and_then(|c| c.as_deref());
            consumer.is_some_and(|c| c.arrival <= arrival)
        };
        let at = self.order.partition_point(before);
        self.order.insert(at, index);
        if let Some(consumer) = self.get(index) {
            consumer.arrival = arrival;
        }
    }

    /// Who follows the single active consumer: of the highest priority, the one that came first (RabbitMQ's classic queues).
    pub fn next_single(&self) -> Option<u32> {
        let priority = |index: &u32| {
            let consumer = self.slots.get(*index as usize)?.as_deref();
            consumer.map(|c| c.spec.priority)
        };
        self.order.iter().rev().copied().max_by_key(priority)
    }

    /// Begins or ends single active consumer among those that are attached.
    pub fn set_single(&mut self, single: bool) {
        let attached = self.iter().filter(|(_, c)| c.state != State::Holding);
        let mut attached: Vec<(u32, u32)> = attached.map(|(i, c)| (c.generation, i)).collect();
        attached.sort_unstable();
        self.order.clear();
        self.single = None;
        if single {
            for (_, index) in &attached {
                self.arrive(*index, None);
            }
            self.single = self.next_single();
            let holder = self.single.and_then(|index| self.get(index));
            if let Some(holder) = holder {
                holder.spec.link.active(holder.spec.handle, true);
            }
        }
        for (_, index) in attached {
            let standby = self.get(index).is_some_and(|c| c.state == State::Standby);
            if single && self.single != Some(index) {
                self.deactivate(index, State::Standby);
            } else if standby {
                self.activate(index);
            }
        }
    }

    /// How many messages the active consumers would take now, as far as their own windows say.
    pub fn takes(&self) -> u64 {
        self.iter()
            .filter(|(_, c)| c.state == State::Active)
            .map(|(_, c)| match (c.spec.no_ack, c.spec.prefetch) {
                (true, _) | (_, 0) => u64::MAX,
                (_, n) => u64::from(n.saturating_sub(c.unacked_len)),
            })
            .fold(0, u64::saturating_add)
    }
}
