//! Leading a mirrored group: named cases of claims, settles by number, and what waits until the leader goes.

mod common;

use std::sync::Arc;

use common::{FakeLink, FakeStore, body_of, id_of, limited, message, spec};
use leveret_queue::{
    BatchBuilder, ConsumerSlot, ConsumerSpec, Effects, EntryBuilder, Limiter, Location, Machine,
    NewMessage, QueueId, Replica, Seq, SeqRange, SessionId, Settings, Settle, Standing, Waiter,
};

const Q: QueueId = 5;
const SESSION: SessionId = SessionId {
    node: 1,
    incarnation: 1,
};

/// A group with one queue, whose entries are committed at once.
struct Group {
    replica: Replica,
    machine: Machine,
    store: FakeStore,
    settings: Settings,
    next_number: u64,
    now: u64,
}

impl Group {
    fn new(settings: Settings) -> Self {
        let replica = Replica::new();
        let machine = Machine::lead(300, &replica, [(Q, settings)], Location::START, 0);
        let mut group = Group {
            replica,
            machine,
            store: FakeStore::default(),
            settings,
            next_number: 1,
            now: 0,
        };
        group.go();
        group
    }

    /// A call of the machine; what it settles is committed.
    fn call<R>(
        &mut self,
        f: impl FnOnce(&mut Machine, u64, &FakeStore, &mut Effects) -> R,
    ) -> (R, Effects) {
        let mut effects = Effects::default();
        let result = f(&mut self.machine, self.now, &self.store, &mut effects);
        assert_eq!(effects.failure, None);
        assert_eq!(self.machine.check(), Ok(()));
        let mut batch = BatchBuilder::default();
        batch.own(std::mem::take(&mut effects.journal));
        if !batch.is_empty() {
            self.commit(batch);
        }
        (result, effects)
    }

    fn commit(&mut self, batch: BatchBuilder) {
        let payload = batch.finish(None);
        let (at, _) = self.store.append(&payload);
        let applied = self.replica.apply(&payload, at, Location::START);
        let applied = applied.expect("good");
        self.call(|m, now, s, e| m.apply_batch(&applied, at, now, s, e))
            .0
            .expect("good");
    }

    fn publish(&mut self, ids: std::ops::Range<u64>) {
        for id in ids {
            let body = body_of(id, 10);
            let new = NewMessage {
                body: &[&body],
                time_ms: self.now,
                persistent: false,
                ..message(&[])
            };
            let mut builder = EntryBuilder::default();
            builder.enqueue(&[Q], &new, false);
            let (_, effects) = self.call(|m, now, s, e| m.admit(&mut builder, now, s, e));
            let mut batch = BatchBuilder::default();
            for (queue, levels) in effects.created {
                batch.create(queue, levels);
            }
            batch.entry(SESSION, self.next_number, &builder.finish(None));
            self.next_number += 1;
            self.commit(batch);
        }
    }

    /// The leader is gone; another one begins with the replica.
    fn next_leader(&mut self) {
        let end = self.store.end();
        let queues = [(Q, self.settings)];
        let next = Machine::lead(300, &self.replica, queues, end, self.now);
        std::mem::replace(&mut self.machine, next).step_down();
    }

    fn go(&mut self) -> Effects {
        let go = |m: &mut Machine, now, s: &FakeStore, e: &mut Effects| {
            m.go(now, s, e);
            m.left(e);
        };
        self.call(go).1
    }

    fn consume(&mut self, spec: ConsumerSpec) -> ConsumerSlot {
        let slot = self.machine.consume(Q, spec, self.now);
        self.call(|m, now, s, e| m.run(Q, now, s, e));
        slot.expect("nothing in the way")
    }

    fn claim(&mut self, slot: ConsumerSlot, held: &[Seq]) -> Vec<Option<u64>> {
        self.call(|m, now, s, e| m.claim(Q, slot, held, now, s, e))
            .0
    }

    fn settle(
        &mut self,
        slot: Option<ConsumerSlot>,
        (number, first, count): (u64, Seq, u32),
        how: Settle,
    ) -> u64 {
        let item = SeqRange {
            number,
            first,
            count,
        };
        self.call(|m, now, s, e| m.settle_seqs(Q, slot, &[item], how, now, s, e))
            .0
    }

    fn depth(&self) -> (u64, u64) {
        let depth = self.machine.queue(Q).expect("there").depth();
        (depth.ready, depth.unacked)
    }

    fn live(&self) -> Vec<Seq> {
        let state = self.replica.queue(Q).expect("there");
        let runs = state.levels.iter().flat_map(|level| level.runs());
        runs.flat_map(|run| run.first..run.end()).collect()
    }
}

fn seen(link: &FakeLink) -> Vec<(Seq, bool)> {
    let all = link.take();
    for d in &all {
        assert_eq!(id_of(&d.message), d.seq);
    }
    all.iter().map(|d| (d.seq, d.redelivered)).collect()
}

fn windowed(link: &Arc<FakeLink>, handle: u64, prefetch: u32) -> ConsumerSpec {
    ConsumerSpec {
        prefetch,
        ..spec(link, handle)
    }
}

#[test]
fn transient_messages_of_a_mirrored_queue_are_kept_too() {
    let mut group = Group::new(Settings::default());
    group.publish(1..4);
    group.next_leader();
    assert!(group.machine.is_armed());
    group.go();
    assert_eq!(group.depth(), (3, 0));
}

#[test]
fn nothing_happens_before_the_leader_goes() {
    let settings = Settings {
        message_ttl_ms: Some(10),
        max_length: Some(2),
        expires_ms: Some(1000),
        ..Settings::default()
    };
    let mut group = Group::new(settings);
    group.publish(1..3);
    group.now = 5000;
    group.next_leader();
    let link = FakeLink::new(1 << 20);
    let slot = group.consume(spec(&link, 1));
    group.publish(3..5);
    let (got, _) = group.call(|m, now, s, e| m.get(Q, None, now, s, e));
    assert!(got.is_none());
    assert_eq!(group.call(|m, now, s, e| m.purge(Q, now, s, e)).0, 0);
    let (_, effects) = group.call(|m, now, s, e| m.tick(now, 100, s, e));
    assert!(effects.unused.is_empty());
    assert_eq!(group.machine.next_timer_ms(), None);
    assert_eq!(group.depth(), (4, 0));
    assert_eq!(seen(&link), []);
    group.call(|m, now, s, e| m.cancel(Q, slot, now, s, e));
    // Two are old, of the others none is too many.
    group.go();
    assert_eq!(group.live(), [3, 4]);
    assert_eq!(group.machine.next_timer_ms(), Some(5010));
    // Unused since the leader went.
    group.now = 5999;
    let (_, effects) = group.call(|m, now, s, e| m.tick(now, 100, s, e));
    assert!(effects.unused.is_empty());
    group.now = 6000;
    let (_, effects) = group.call(|m, now, s, e| m.tick(now, 100, s, e));
    assert_eq!(effects.unused, [Q]);
}

#[test]
fn a_queue_that_was_left_before_the_leader_went_goes_then() {
    let settings = Settings {
        auto_delete: true,
        ..Settings::default()
    };
    let mut group = Group::new(settings);
    group.publish(1..2);
    group.next_leader();
    let link = FakeLink::new(1 << 20);
    let slot = group.consume(spec(&link, 1));
    let (_, effects) = group.call(|m, now, s, e| m.cancel(Q, slot, now, s, e));
    assert!(effects.unused.is_empty());
    assert_eq!(group.go().unused, [Q]);
}

#[test]
fn a_claim_gives_back_what_was_held_and_the_rest_is_redelivered() {
    let mut group = Group::new(Settings::default());
    group.publish(1..8);
    group.next_leader();
    let link = FakeLink::new(1 << 20);
    let (one, two) = (
        group.consume(windowed(&link, 1, 3)),
        group.consume(windowed(&link, 2, 1)),
    );
    // In its own order, and what nobody has is void.
    assert_eq!(
        group.claim(one, &[5, 2, 3, 99]),
        [Some(1), Some(2), Some(3), None]
    );
    // Not twice, and not from others.
    assert_eq!(group.claim(two, &[3, 3, 5]), [None, None, None]);
    assert_eq!(group.depth(), (4, 3));
    assert_eq!(seen(&link), []);
    group.go();
    // The first one's window is full.
    assert_eq!(seen(&link), [(1, true)]);
    assert_eq!(group.settle(Some(one), (2, 2, 2), Settle::Ack), 2);
    assert_eq!(seen(&link), [(4, true), (6, true)]);
    assert_eq!(group.live(), [1, 4, 5, 6, 7]);
    // What was claimed and comes back is redelivered, in its place.
    assert_eq!(group.settle(Some(two), (1, 1, 1), Settle::Ack), 1);
    assert_eq!(seen(&link), [(7, true)]);
    assert_eq!(group.settle(Some(one), (1, 5, 1), Settle::Requeue), 1);
    assert_eq!(seen(&link), [(5, true)]);
    // New ones are not.
    assert_eq!(group.settle(Some(two), (2, 7, 1), Settle::Ack), 1);
    group.publish(8..9);
    assert_eq!(seen(&link), [(8, false)]);
}

#[test]
fn a_late_claim_gets_what_waits_and_was_not_delivered_since() {
    let mut group = Group::new(Settings::default());
    group.publish(1..7);
    group.next_leader();
    group.go();
    let link = FakeLink::new(1 << 20);
    let other = group.consume(windowed(&link, 1, 3));
    assert_eq!(seen(&link), [(1, true), (2, true), (3, true)]);
    group.settle(Some(other), (1, 1, 1), Settle::Ack);
    assert_eq!(seen(&link), [(4, true)]);
    group.call(|m, now, s, e| m.release(Q, other, now, s, e));
    let late = group.consume(ConsumerSpec {
        no_ack: false,
        ..windowed(&FakeLink::new(0), 2, 0)
    });
    // 1 is gone, 2 to 4 were somebody else's, 5 and 6 wait.
    assert_eq!(
        group.claim(late, &[1, 2, 4, 5, 6, 7]),
        [None, None, None, Some(1), Some(2), None]
    );
    // A message of this leader cannot have been held under another.
    group.publish(7..8);
    assert_eq!(group.claim(late, &[7]), [None]);
    assert_eq!(group.depth(), (4, 2));
}

#[test]
fn claimed_messages_count_for_the_windows() {
    let mut group = Group::new(Settings::default());
    group.publish(1..7);
    group.next_leader();
    let link = FakeLink::new(1 << 20);
    let limiter = Arc::new(Limiter::new(4));
    let slot = group.consume(limited(windowed(&link, 1, 0), &limiter));
    group.claim(slot, &[2, 3, 4]);
    group.go();
    assert_eq!(seen(&link), [(1, true)]);
    let item = SeqRange {
        number: 1,
        first: 2,
        count: 3,
    };
    let (_, effects) =
        group.call(|m, now, s, e| m.settle_seqs(Q, Some(slot), &[item], Settle::Ack, now, s, e));
    for waiter in effects.wakes {
        group.call(|m, now, s, e| m.resume(waiter, now, s, e));
    }
    assert_eq!(seen(&link), [(5, true), (6, true)]);
}

#[test]
fn settles_find_messages_whatever_the_number_says() {
    let mut group = Group::new(Settings::default());
    let link = FakeLink::new(1 << 20);
    let slot = group.consume(spec(&link, 1));
    group.publish(1..9);
    assert_eq!(group.settle(Some(slot), (3, 3, 2), Settle::Ack), 2);
    for wrong in [0, 1, 7, 8, 9, u64::MAX] {
        // What is not there is not found, what is there is not touched.
        assert_eq!(group.settle(Some(slot), (wrong, 3, 2), Settle::Ack), 0);
    }
    assert_eq!(group.settle(Some(slot), (u64::MAX, 5, 1), Settle::Ack), 1);
    assert_eq!(group.settle(Some(slot), (2, 6, 1), Settle::Ack), 1);
    assert_eq!(group.live(), [1, 2, 7, 8]);
    assert_eq!(group.settle(Some(slot), (1, 0, u32::MAX), Settle::Ack), 4);
    assert_eq!(
        group.settle(Some(slot), (1, Seq::MAX, u32::MAX), Settle::Drop),
        0
    );
    assert_eq!((group.live(), group.depth()), (vec![], (0, 0)));
}

#[test]
fn settles_reach_what_waits_but_not_what_others_hold() {
    let settings = Settings {
        count_deliveries: true,
        ..Settings::default()
    };
    let mut group = Group::new(settings);
    group.publish(1..6);
    group.next_leader();
    let link = FakeLink::new(1 << 20);
    let (one, two) = (group.consume(spec(&link, 1)), group.consume(spec(&link, 2)));
    group.claim(one, &[1]);
    group.claim(two, &[2]);
    assert_eq!(group.settle(Some(one), (1, 2, 1), Settle::Ack), 0);
    assert_eq!(group.settle(None, (1, 1, 2), Settle::Ack), 0);
    assert_eq!(group.settle(Some(one), (9, 3, 1), Settle::Ack), 1);
    assert_eq!(group.settle(None, (0, 4, 1), Settle::Requeue), 1);
    assert_eq!(group.live(), [1, 2, 4, 5]);
    assert_eq!(group.depth(), (2, 2));
    let returns = &group.replica.queue(Q).expect("there").returns;
    assert_eq!(*returns, [(4, 1)].into());
    // It was given back under the last leader, and nobody got it since.
    assert_eq!(group.claim(two, &[4]), [Some(2)]);
}

/// A message in the middle of a backlog is claimed and comes back: it is delivered between its neighbours.
#[test]
fn what_comes_back_into_a_backlog_keeps_its_place() {
    let mut group = Group::new(Settings::default());
    group.publish(1..2000);
    group.next_leader();
    let link = FakeLink::new(1 << 20);
    let slot = group.consume(windowed(&link, 1, 1));
    let held: Vec<Seq> = (500..520).chain([1500, 1700]).collect();
    assert!(group.claim(slot, &held).iter().all(Option::is_some));
    group.call(|m, now, s, e| m.release(Q, slot, now, s, e));
    group.go();
    assert_eq!(group.depth(), (1999, 0));
    for seq in 1..2000 {
        let (got, _) = group.call(|m, now, s, e| m.get(Q, None, now, s, e));
        let got = got.expect("waits");
        assert_eq!((got.seq, id_of(&got.message)), (seq, seq));
    }
}

/// Many consumers that hold every other message claim in time that grows with what they hold.
#[test]
fn claims_of_interleaved_messages_walk_little() {
    let mut group = Group::new(Settings::default());
    group.publish(1..4001);
    group.next_leader();
    let link = FakeLink::new(1 << 20);
    let walked = |group: &Group| group.store.walked.load(std::sync::atomic::Ordering::SeqCst);
    let before = walked(&group);
    for at in 0..4 {
        let slot = group.consume(spec(&link, at));
        let held: Vec<Seq> = (1..4001).filter(|seq| seq % 4 == at).collect();
        let got = group.claim(slot, &held);
        assert!(got.iter().all(Option::is_some));
    }
    let records = walked(&group) - before;
    assert!(records < 20 * 4000, "{records} records");
}

#[test]
fn messages_for_queues_that_the_leader_does_not_know_are_told() {
    let mut group = Group::new(Settings::default());
    let mut builder = EntryBuilder::default();
    builder.enqueue(&[Q, 77], &message(&[b"12345678"]), false);
    let (outcome, effects) = group.call(|m, now, s, e| m.admit(&mut builder, now, s, e));
    assert_eq!(outcome.unknown, [77]);
    assert_eq!(effects.created, [(Q, 0)]);
    group.machine.create(77, Settings::default(), 0);
    let mut builder = EntryBuilder::default();
    builder.enqueue(&[Q, 77], &message(&[b"12345678"]), false);
    let (outcome, effects) = group.call(|m, now, s, e| m.admit(&mut builder, now, s, e));
    assert_eq!((outcome.unknown.len(), effects.created), (0, vec![(77, 0)]));
}

// ---------------------------------------------------------------------- who is who over a change of leaders

#[test]
fn the_single_active_consumer_stays_it_whoever_claims_first() {
    let mut group = Group::new(Settings {
        single_active_consumer: true,
        ..Settings::default()
    });
    let links: Vec<_> = (0..3).map(|_| FakeLink::new(1 << 20)).collect();
    let slots: Vec<_> = (1u64..)
        .zip(&links)
        .map(|(handle, link)| group.consume(spec(link, handle)))
        .collect();
    // The first goes: the second is the one.
    group.call(|m, now, s, e| m.release(Q, slots[0], now, s, e));
    let standings: Vec<Standing> = slots[1..]
        .iter()
        .map(|slot| Standing {
            arrival: group.machine.arrival(Q, *slot),
            active: *slot == slots[1],
        })
        .collect();
    assert_eq!(
        standings.iter().map(|s| s.arrival).collect::<Vec<_>>(),
        [2, 3]
    );
    group.next_leader();
    let again = |group: &mut Group, at: usize, link: &Arc<FakeLink>| {
        let before = standings[at];
        let spec = spec(link, at as u64);
        let slot = group.machine.consume_again(Q, spec, before, 0);
        slot.expect("nothing in the way")
    };
    again(&mut group, 1, &links[2]);
    let holder = again(&mut group, 0, &links[1]);
    group.go();
    group.publish(1..3);
    assert_eq!((links[1].take().len(), links[2].take().len()), (2, 0));
    // A new one stands behind those that were there before.
    let new = FakeLink::new(1 << 20);
    let late = group.consume(spec(&new, 9));
    assert_eq!(group.machine.arrival(Q, late), 4);
    group.call(|m, now, s, e| m.release(Q, holder, now, s, e));
    assert_eq!((links[2].take().len(), new.take().len()), (2, 0));
}

#[test]
fn if_the_single_active_consumer_is_gone_with_its_node_the_next_by_arrival_is_it() {
    let mut group = Group::new(Settings {
        single_active_consumer: true,
        ..Settings::default()
    });
    group.next_leader();
    let (early, late) = (FakeLink::new(1 << 20), FakeLink::new(1 << 20));
    for (link, arrival) in [(&late, 7), (&early, 5)] {
        let before = Standing {
            arrival,
            active: false,
        };
        group
            .machine
            .consume_again(Q, spec(link, arrival), before, 0);
    }
    group.go();
    group.publish(1..2);
    assert_eq!((early.take().len(), late.take().len()), (1, 0));
}

#[test]
fn a_queue_that_goes_with_its_last_consumer_goes_though_its_leader_died_too() {
    let settings = Settings {
        auto_delete: true,
        ..Settings::default()
    };
    let note = |group: &mut Group| {
        let (_, effects) = group.call(|m, _, _, e| m.note_use(Q, e));
        let mut batch = BatchBuilder::default();
        for (queue, levels) in &effects.created {
            batch.create(*queue, *levels);
        }
        for queue in &effects.used {
            batch.used(*queue);
        }
        let noted = !batch.is_empty();
        if noted {
            group.commit(batch);
        }
        noted
    };
    let mut group = Group::new(settings);
    assert!(!note(&mut group), "nobody has used it");
    group.next_leader();
    assert_eq!(group.go().unused, [0; 0]);
    group.consume(spec(&FakeLink::new(1 << 20), 1));
    assert!(note(&mut group));
    assert!(!note(&mut group), "it is known");
    group.replica = Replica::decode(&group.replica.encode()).expect("good");
    group.next_leader();
    assert_eq!(group.go().unused, [Q]);
}

#[test]
fn a_window_of_granted_places_asks_and_takes_no_more_than_it_has() {
    let asked = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&asked);
    let limiter = Arc::new(Limiter::granted(Box::new(move || {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    })));
    let asked = || asked.load(std::sync::atomic::Ordering::Relaxed);
    let mut group = Group::new(Settings::default());
    let link = FakeLink::new(1 << 20);
    let slot = group.consume(limited(spec(&link, 1), &limiter));
    assert_eq!(asked(), 0, "there is nothing to get");
    group.publish(1..6);
    assert_eq!((asked(), link.take().len()), (1, 0));
    let grant = |group: &mut Group, places| {
        limiter.grant(places);
        for waiter in limiter.take_waiters() {
            group.call(|m, now, s, e| m.resume(waiter, now, s, e));
        }
        limiter.take_unused()
    };
    assert_eq!(grant(&mut group, 2), 0);
    assert_eq!((asked(), link.take().len()), (2, 2));
    // What is settled is counted where the places come from, and whoever waits for them waits on.
    group.settle(Some(slot), (1, 1, 2), Settle::Ack);
    assert_eq!((asked(), link.take().len()), (2, 0));
    assert_eq!(grant(&mut group, 8), 5);
    assert_eq!((asked(), link.take().len()), (2, 3));
}

#[test]
fn places_are_taken_up_to_the_limit_and_then_waited_for() {
    let limiter = Limiter::new(5);
    let mut group = Group::new(Settings::default());
    let consumer = group.consume(spec(&FakeLink::new(1 << 20), 1));
    let waiter = Waiter {
        group: 300,
        queue: Q,
        consumer,
    };
    assert_eq!(limiter.take_some(3, waiter), 3);
    assert_eq!(limiter.take_some(3, waiter), 2);
    assert!(limiter.take_waiters().is_empty());
    assert_eq!(limiter.take_some(3, waiter), 0);
    assert_eq!(limiter.take_waiters(), [waiter]);
    limiter.release(4);
    assert_eq!(limiter.take_some(32, waiter), 4);
}

#[test]
fn deliveries_of_several_consumers_can_be_put_in_order() {
    let mut group = Group::new(Settings::default());
    let links = [(); 2].map(|()| FakeLink::new(1 << 20));
    for (handle, link) in (1u64..).zip(&links) {
        group.consume(spec(link, handle));
    }
    group.publish(1..7);
    let mut turns: Vec<(u64, Seq)> = links
        .iter()
        .flat_map(|link| link.take())
        .map(|delivery| (delivery.turn, delivery.seq))
        .collect();
    turns.sort_unstable();
    assert_eq!(
        turns.iter().map(|t| t.1).collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
}
