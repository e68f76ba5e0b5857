//! What a session keeps until a leader has committed or answered it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::{GroupId, Notify};
use leveret_queue::{ConsumerSlot, Limiter, Seq, UnackedRange, Waiter};
use rustc_hash::FxHashSet;

use super::consumer::{Consumer, State};
use super::{Leader, Refused};
use crate::mirror::message::{ConsumerKey, SettleSeqs, Up};
use crate::node::{Settle, SettleRange};
use crate::ticket::Ticket;

/// A batch that is not known to be committed.
pub(super) struct Batch {
    pub(super) number: u64,
    pub(super) settles: Vec<SettleSeqs>,
    pub(super) entry: Bytes,
    pub(super) who: Option<Arc<dyn Notify>>,
    pub(super) refused: Option<Refused>,
}

impl Batch {
    /// Whoever gave a message back and got it again holds it: the next leader is not to take it from him.
    pub(super) fn keep_what_came_again(&mut self, held: &FxHashSet<(ConsumerKey, Seq)>) {
        for settle in &mut self.settles {
            let Some(key) = settle.consumer.filter(|_| settle.how == Settle::Requeue) else {
                continue;
            };
            let again = |seq: Seq| held.contains(&(key, seq));
            let any = |&(_, first, count): &(u64, Seq, u32)| {
                (first..first.saturating_add(u64::from(count))).any(again)
            };
            if !settle.items.iter().any(any) {
                continue;
            }
            settle.items = settle
                .items
                .iter()
                .flat_map(|&(number, first, count)| {
                    (0..u64::from(count)).map(move |at| (number + at, first + at, 1))
                })
                .filter(|(_, seq, _)| !again(*seq))
                .collect();
        }
    }

    pub(super) fn up(&self) -> Up {
        Up::Batch {
            number: self.number,
            settles: self.settles.clone(),
            entry: self.entry.clone(),
        }
    }
}

/// A request without an answer.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) up: Up,
    pub(super) ticket: Arc<Ticket>,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) leader: Option<Leader>,
    /// The last leader that there was.
    pub(super) followed: Option<Leader>,
    /// Number of the last batch.
    pub(super) last: u64,
    pub(super) uncommitted: VecDeque<Batch>,
    pub(super) consumers: Vec<Option<Consumer>>,
    pub(super) generation: u32,
    pub(super) requests: BTreeMap<u64, Open>,
    pub(super) last_request: u64,
    pub(super) up: VecDeque<(Leader, Up)>,
    pub(super) pumping: bool,
    /// Who waits for places that came free.
    pub(super) wakes: Vec<Waiter>,
}

/// Places that a leader is given at a time, so that what many queues have for a channel does not cost a question for each message.
pub(super) const PLACES_MAX: u32 = 32;

pub(super) fn same(a: &Arc<dyn Notify>, b: &Arc<dyn Notify>) -> bool {
    std::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(b))
}

pub(super) fn split(key: ConsumerKey) -> (usize, u32) {
    ((key >> 32) as usize, key as u32)
}

impl Inner {
    pub(super) fn consumer(&mut self, key: ConsumerKey) -> Option<&mut Consumer> {
        let (index, generation) = split(key);
        let consumer = self.consumers.get_mut(index)?.as_mut()?;
        (consumer.generation == generation).then_some(consumer)
    }

    pub(super) fn remove(&mut self, key: ConsumerKey) -> Option<Consumer> {
        self.consumer(key)?;
        let gone = self.consumers.get_mut(split(key).0)?.take()?;
        self.free(&gone.spec.limiter.clone(), gone.places());
        Some(gone)
    }

    /// Places of a channel's window are free.
    pub(super) fn free(&mut self, limiter: &Option<Arc<Limiter>>, places: u32) {
        if let Some(limiter) = limiter.as_ref().filter(|_| places > 0) {
            limiter.release(places);
            self.wakes.extend(limiter.take_waiters());
        }
    }

    /// The leader that had places is gone.
    pub(super) fn take_grants_back(&mut self) {
        for consumer in self.consumers.iter_mut().flatten() {
            consumer.wanted = false;
            let unused = std::mem::take(&mut consumer.granted);
            if let Some(limiter) = consumer.spec.limiter.as_ref().filter(|_| unused > 0) {
                limiter.release(unused);
                self.wakes.extend(limiter.take_waiters());
            }
        }
    }

    /// Gives the leader places for a consumer, if it waits for some and there are any.
    pub(super) fn grant(&mut self, group: GroupId, key: ConsumerKey) {
        let Some(consumer) = self.consumer(key).filter(|c| c.wanted) else {
            return;
        };
        let waiter = Waiter {
            group,
            queue: consumer.queue,
            consumer: ConsumerSlot::from_key(key),
        };
        let Some(limiter) = &consumer.spec.limiter else {
            return;
        };
        let places = limiter.take_some(PLACES_MAX, waiter);
        if places > 0 {
            consumer.wanted = false;
            consumer.granted += places;
            self.send(Up::Grant { key, places });
        }
    }

    /// A consumer that was cancelled is kept only for what it holds.
    pub(super) fn release_if_empty(&mut self, key: ConsumerKey) {
        let empty = self
            .consumer(key)
            .is_some_and(|c| c.state == State::Cancelled && c.held.is_empty());
        if empty {
            self.remove(key);
            self.send(Up::Release { key });
        }
    }

    pub(super) fn send(&mut self, up: Up) {
        if let Some(leader) = self.leader {
            self.up.push_back((leader, up));
        }
    }

    pub(super) fn request(&mut self, ticket: Arc<Ticket>, up: impl FnOnce(u64) -> Up) {
        self.last_request += 1;
        let up = up(self.last_request);
        self.send(up.clone());
        self.requests.insert(self.last_request, Open { up, ticket });
    }

    /// Settles by sequence number what a connection settles by its own numbers.
    /// Adds consumers to `emptied` that were kept for these alone.
    pub(super) fn resolve(
        &mut self,
        ranges: &[SettleRange],
        emptied: &mut Vec<ConsumerKey>,
    ) -> Vec<SettleSeqs> {
        let mut settles: Vec<SettleSeqs> = Vec::new();
        for SettleRange { queue, how, range } in ranges {
            let UnackedRange { slot, first, count } = *range;
            let key = slot.key();
            let Some(consumer) = self.consumer(key) else {
                continue;
            };
            let mut items: Vec<(u64, Seq, u32)> = Vec::new();
            let mut taken = 0;
            for number in first..first.saturating_add(u64::from(count)) {
                let Some(held) = consumer.take(number) else {
                    continue;
                };
                taken += 1;
                if held.number == 0 {
                    continue;
                }
                match items.last_mut() {
                    Some((number, seq, n))
                        if *number + u64::from(*n) == held.number
                            && *seq + u64::from(*n) == held.seq =>
                    {
                        *n += 1;
                    }
                    _ => items.push((held.number, held.seq, 1)),
                }
            }
            let over = consumer.state == State::Cancelled && consumer.held.is_empty();
            let limiter = consumer.spec.limiter.clone();
            if over {
                emptied.push(key);
            }
            self.free(&limiter, taken);
            if !items.is_empty() {
                settles.push(SettleSeqs {
                    queue: *queue,
                    consumer: Some(key),
                    how: *how,
                    items,
                });
            }
        }
        settles
    }
}
