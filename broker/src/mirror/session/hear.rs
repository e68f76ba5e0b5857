//! What a leader says.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_cluster::Notify;
use leveret_queue::{ConsumerSlot, Delivery, GetResult, Link, Standing, Waiter};
use parking_lot::MutexGuard;

use super::consumer::State;
use super::state::{Inner, same};
use super::{Leader, Session};
use crate::mirror::message::{ConsumerKey, Down, Item, Up};
use crate::ticket::Answer;

impl Session {
    /// Takes what a leader said. Of another than the present one it is void.
    pub fn receive(&self, from: Leader, down: Down) {
        let mut inner = self.inner.lock();
        if inner.leader != Some(from) {
            return;
        }
        match down {
            Down::Committed { number, refused } => {
                return self.commit(inner, number, refused);
            }
            Down::Claimed { key, numbers } => {
                if let Some(consumer) = inner.consumer(key) {
                    // What was settled since is not there any more; the claim gave numbers from 1 on.
                    for held in consumer.held.iter_mut().flatten() {
                        let at = held.number.checked_sub(1).map(|at| at as usize);
                        if let Some(number) = at.and_then(|at| numbers.get(at)) {
                            held.number = *number;
                        }
                    }
                }
            }
            Down::Deliver { items } => return self.deliver(inner, items),
            Down::Active { key, active } => {
                if let Some(consumer) = inner.consumer(key) {
                    let arrival = consumer.standing.map_or(0, |s| s.arrival);
                    consumer.standing = Some(Standing { arrival, active });
                }
            }
            Down::Wanted { key } => {
                if let Some(consumer) = inner.consumer(key) {
                    consumer.wanted = true;
                    inner.grant(self.group, key);
                }
            }
            Down::Unused { key, places } => {
                if let Some(consumer) = inner.consumer(key) {
                    let places = places.min(consumer.granted);
                    consumer.granted -= places;
                    let limiter = consumer.spec.limiter.clone();
                    inner.free(&limiter, places);
                }
            }
            Down::Cancelled { key } => {
                // Its queue is gone, and what it held with it.
                if let Some(gone) = inner.remove(key)
                    && gone.state == State::Attached
                    && !gone.spec.passive
                {
                    drop(inner);
                    gone.spec.link.cancelled(gone.spec.handle);
                    return;
                }
            }
            Down::Attached { request, arrival } => self.attached(&mut inner, request, arrival),
            Down::Ended { request } => {
                if let Some(open) = inner.requests.remove(&request) {
                    if let Up::Cancel { key, .. } = open.up {
                        inner.release_if_empty(key);
                    }
                    open.ticket.answer(Answer::Ended);
                }
            }
            Down::Got { request, got } => self.got(&mut inner, request, got),
            Down::Purged { request, messages } => {
                if let Some(open) = inner.requests.remove(&request) {
                    open.ticket.answer(Answer::Purged(messages));
                }
            }
            Down::Counts {
                request,
                ready,
                consumers,
            } => {
                if let Some(open) = inner.requests.remove(&request) {
                    open.ticket.answer(Answer::Counts(ready, consumers));
                }
            }
            Down::NotLeading => {
                inner.leader = None;
                inner.up.clear();
            }
        }
        self.pump(inner);
    }

    pub(super) fn commit(
        &self,
        mut inner: MutexGuard<'_, Inner>,
        number: u64,
        refused: Vec<(u64, Vec<u32>)>,
    ) {
        let mut wake: Vec<Arc<dyn Notify>> = Vec::new();
        while inner
            .uncommitted
            .front()
            .is_some_and(|b| b.number <= number)
        {
            let Some(batch) = inner.uncommitted.pop_front() else {
                break;
            };
            if let Some(place) = &batch.refused
                && let Some((_, ops)) = refused.iter().find(|(n, _)| *n == batch.number)
            {
                place.lock().clone_from(ops);
            }
            match batch.who {
                Some(who) if wake.last().is_none_or(|last| !same(last, &who)) => {
                    wake.push(who);
                }
                Some(_) | None => {}
            }
        }
        // Never backwards, and never past what was sent.
        let known = number.min(inner.last);
        self.committed.fetch_max(known, Ordering::AcqRel);
        drop(inner);
        for who in wake {
            who.notify();
        }
    }

    pub(super) fn attached(&self, inner: &mut Inner, request: u64, arrival: Option<u64>) {
        let Some(open) = inner.requests.remove(&request) else {
            return;
        };
        let Up::Attach { attach, .. } = open.up else {
            return;
        };
        let key = attach.key;
        let Some(arrival) = arrival else {
            inner.remove(key);
            return open.ticket.answer(Answer::Attached(None));
        };
        // A connection that ended meanwhile has forgotten its question.
        if Arc::strong_count(&open.ticket) == 1 {
            inner.remove(key);
            inner.send(Up::Release { key });
            return;
        }
        if let Some(consumer) = inner.consumer(key) {
            consumer.state = State::Attached;
            if arrival > 0 {
                let active = consumer.standing.is_some_and(|s| s.active);
                consumer.standing = Some(Standing { arrival, active });
            }
            let slot = ConsumerSlot::from_key(key);
            open.ticket.answer(Answer::Attached(Some(slot)));
        }
    }

    pub(super) fn got(&self, inner: &mut Inner, request: u64, got: Option<(Item, u64)>) {
        let Some(open) = inner.requests.remove(&request) else {
            return;
        };
        let Up::Get { holder, .. } = open.up else {
            return;
        };
        let result = got.map(|(item, remaining)| {
            let mut number = 0;
            if let Some(consumer) = holder.and_then(|key| inner.consumer(key)) {
                number = consumer.hold(item.number, item.seq);
            }
            GetResult {
                message: item.message,
                seq: item.seq,
                number,
                redelivered: item.redelivered,
                delivery_count: item.delivery_count,
                remaining,
            }
        });
        open.ticket.answer(Answer::Got(result));
    }

    pub(super) fn deliver<'a>(
        &'a self,
        mut inner: MutexGuard<'a, Inner>,
        items: Vec<(ConsumerKey, Item)>,
    ) {
        // What consumers of one connection get is in the queue's order; a run has few connections.
        let mut links: Vec<(Arc<dyn Link>, Vec<Delivery>)> = Vec::new();
        let mut owed: Vec<(ConsumerKey, u32)> = Vec::new();
        for (key, item) in items {
            let Some(consumer) = inner.consumer(key) else {
                continue;
            };
            let bytes = u32::try_from(item.message.encoded_len()).unwrap_or(u32::MAX);
            match owed.iter_mut().find(|(known, _)| *known == key) {
                Some((_, sum)) => *sum = sum.saturating_add(bytes),
                None => owed.push((key, bytes)),
            }
            let mut number = 0;
            if !consumer.spec.no_ack {
                number = consumer.hold(item.number, item.seq);
                if let Some(limiter) = &consumer.spec.limiter {
                    match consumer.granted.checked_sub(1) {
                        Some(rest) => consumer.granted = rest,
                        // It was on its way when the window began to hold.
                        None => limiter.occupy(1),
                    }
                }
            }
            let delivery = Delivery {
                handle: consumer.spec.handle,
                number,
                seq: item.seq,
                message: item.message,
                redelivered: item.redelivered,
                delivery_count: item.delivery_count,
                turn: 0,
            };
            let link = &consumer.spec.link;
            match links.iter_mut().find(|(known, _)| Arc::ptr_eq(known, link)) {
                Some((_, deliveries)) => deliveries.push(delivery),
                None => links.push((Arc::clone(link), vec![delivery])),
            }
        }
        // Under the lock, so that deliveries reach the connection in the order in which they were held.
        for (link, mut deliveries) in links {
            link.deliver(&mut deliveries);
        }
        for (key, bytes) in owed {
            let group = self.group;
            let Some(consumer) = inner.consumer(key) else {
                continue;
            };
            consumer.owed = consumer.owed.saturating_add(bytes);
            let waiter = Waiter {
                group,
                queue: consumer.queue,
                consumer: ConsumerSlot::from_key(key),
            };
            let link = &consumer.spec.link;
            if link.room() > 0 || !link.wait_room(waiter) {
                let bytes = std::mem::take(&mut consumer.owed);
                inner.send(Up::Credit { key, bytes });
            }
        }
        self.pump(inner);
    }
}
