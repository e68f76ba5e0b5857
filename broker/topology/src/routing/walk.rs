//! From exchange to exchange: bindings between exchanges and alternate
//! exchanges, each exchange once.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::{Publication, Target};
use crate::model::QueueInfo;
use crate::registry::{Registry, Slot};
use crate::state::ExchangeEntry;

pub(crate) type Queues = Registry<Arc<QueueInfo>>;
pub(crate) type Exchanges = Registry<ExchangeEntry>;

/// Up to here a list is searched faster than a set.
const LINEAR_SEARCH_MAX: usize = 16;

/// The exchanges a message has yet to go to, after those where it has been.
/// Allocates nothing for a message that stays at one exchange.
#[derive(Default)]
struct Itinerary {
    slots: Vec<Slot>,
    known: FxHashSet<Slot>,
}

impl Itinerary {
    fn add(&mut self, slot: Slot) {
        if self.slots.len() < LINEAR_SEARCH_MAX {
            if !self.slots.contains(&slot) {
                self.slots.push(slot);
            }
            return;
        }
        if self.known.is_empty() {
            self.known.extend(&self.slots);
        }
        if self.known.insert(slot) {
            self.slots.push(slot);
        }
    }
}

/// Appends the queues of a message that is published to the exchange at
/// `start`: each once, in the order of their ids. Says whether only the routing
/// keys decided, so that the next message with the same ones goes the same way.
pub(crate) fn walk(
    exchanges: &Exchanges,
    queues: &Queues,
    start: Slot,
    message: &Publication<'_>,
    out: &mut Vec<Arc<QueueInfo>>,
) -> bool {
    let mut stable = true;
    let mut itinerary = Itinerary::default();
    let mut next = 0;
    let mut current = start;
    loop {
        let exchange = &exchanges[current];
        let mut matched = false;
        stable &= exchange.matcher.goes_by_key();
        exchange.matcher.route(message, |target| {
            matched = true;
            match target {
                Target::Queue(slot) => out.push(queues[slot].clone()),
                Target::Exchange(slot) if slot != start => itinerary.add(slot),
                Target::Exchange(_) => {}
            }
        });
        if !matched && let Some(name) = &exchange.info.alternate_exchange {
            // One that does not exist takes nothing.
            if let Some(slot) = exchanges.slot(name).filter(|slot| *slot != start) {
                itinerary.add(slot);
            }
        }
        match itinerary.slots.get(next) {
            Some(slot) => current = *slot,
            None => break,
        }
        next += 1;
    }
    if out.len() > 1 {
        out.sort_unstable_by_key(|queue| queue.id);
        out.dedup_by_key(|queue| queue.id);
    }
    stable
}
