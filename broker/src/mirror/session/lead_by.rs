//! Another leader: what it is told.

use std::sync::Arc;

use leveret_queue::Seq;
use rustc_hash::FxHashSet;

use super::consumer::State;
use super::state::Batch;
use super::{Leader, Session};
use crate::mirror::message::{Claim, ConsumerKey, Up};
use crate::node::Settle;

impl Session {
    /// Somebody leads, or nobody is known to: what is not committed, and what is held, is told to the new one.
    pub fn lead_by(&self, leader: Option<Leader>) {
        let mut inner = self.inner.lock();
        if inner.leader == leader {
            return;
        }
        inner.leader = leader;
        inner.up.clear();
        inner.take_grants_back();
        let Some(next) = leader else {
            return self.pump(inner);
        };
        // One that begins anew after its link broke is no failover.
        let before = inner.followed.replace(next);
        let failover = before.is_some_and(|l| (l.node, l.term) != (next.node, next.term));
        let mut claims = Vec::new();
        let mut wakes = Vec::new();
        let mut cancelled = Vec::new();
        let mut again: FxHashSet<(ConsumerKey, Seq)> = FxHashSet::default();
        let gave_back = inner
            .uncommitted
            .iter()
            .flat_map(|batch| &batch.settles)
            .any(|settle| settle.how == Settle::Requeue);
        for (index, place) in inner.consumers.iter_mut().enumerate() {
            let Some(consumer) = place.as_mut().filter(|c| c.state != State::Attaching) else {
                continue;
            };
            if failover && consumer.cancel_on_failover && consumer.state == State::Attached {
                // RabbitMQ extension: what it holds goes back, marked redelivered.
                cancelled.push((Arc::clone(&consumer.spec.link), consumer.spec.handle));
                if let Some(limiter) = &consumer.spec.limiter {
                    limiter.release(consumer.places());
                    wakes.extend(limiter.take_waiters());
                }
                *place = None;
                continue;
            }
            let key = (index as u64) << 32 | u64::from(consumer.generation);
            let mut number = 0;
            let mut held = Vec::new();
            for message in consumer.held.iter_mut().flatten() {
                if message.number > 0 {
                    number += 1;
                    message.number = number;
                    held.push(message.seq);
                    if gave_back {
                        again.insert((key, message.seq));
                    }
                }
            }
            let attach = consumer.attach(key);
            claims.push(Claim { attach, held });
        }
        if gave_back {
            for batch in &mut inner.uncommitted {
                batch.keep_what_came_again(&again);
            }
        }
        let next = inner
            .uncommitted
            .front()
            .map_or(inner.last + 1, |b| b.number);
        let last = inner.last;
        inner.send(Up::Claim { next, last, claims });
        let mut resent: Vec<Up> = inner.uncommitted.iter().map(Batch::up).collect();
        resent.extend(inner.requests.values().map(|open| open.up.clone()));
        for up in resent {
            inner.send(up);
        }
        inner.wakes.extend(wakes);
        self.pump(inner);
        for (link, handle) in cancelled {
            link.cancelled(handle);
        }
    }
}
