//! Named cases of the machine: each was wrong once, or is too large or too rare for random commands.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use common::{FakeLink, Node, body_of, durable, holder, id_of, limited, message, spec};
use leveret_queue::{
    ConsumerSpec, DeadReason, Effects, EntryBuilder, Limiter, Location, NewMessage, NoStore,
    Overflow, RunSet, Settings, UnackedRange,
};

const Q: u64 = 1;

fn node(settings: Settings) -> Node {
    let mut node = Node::default();
    node.create(Q, settings);
    node
}

fn attach(node: &mut Node, spec: ConsumerSpec) -> leveret_queue::ConsumerSlot {
    let slot = node
        .machine
        .consume(Q, spec, node.now)
        .expect("nothing in the way");
    let ((), effects) = node.call(|m, now, s, e| m.run(Q, now, s, e));
    assert_eq!(effects.failure, None);
    slot
}

fn ids(link: &FakeLink) -> Vec<u64> {
    link.take().iter().map(|d| id_of(&d.message)).collect()
}

fn range(slot: leveret_queue::ConsumerSlot, first: u64, count: u32) -> UnackedRange {
    UnackedRange { slot, first, count }
}

// ---------------------------------------------------------------------- runs

#[test]
fn a_number_that_is_there_is_not_inserted_again() {
    let mut set = RunSet::default();
    for seq in [1, 5, 6, 9] {
        set.insert(seq, Location(seq * 100_000));
    }
    for seq in [1, 5, 6, 9] {
        set.insert(seq, Location(seq));
    }
    assert_eq!(set.len(), 4);
    assert_eq!(set.remove(0, 20), 4);
    assert!(set.is_empty());
}

/// Relocated messages of an old segment lie between new ones: reading the first run must not move the start of the next.
#[test]
fn moved_messages_between_new_ones_are_all_found() {
    let mut node = node(durable());
    node.store.tight.store(true, Ordering::SeqCst);
    // 128 stay in memory; the next ones are runs. What follows is in the second segment.
    node.publish_ids(Q, 0..150, true);
    for seq in 139..=150u64 {
        let snapshot = node.machine.snapshot();
        let run = snapshot[0].1.levels[0].find(seq).copied().expect("alive");
        assert!(run.location.is_journaled());
        let record = node.log[seq as usize - 1].1.clone();
        let (_, moved) = common::messages_of(&record, Q).remove(0);
        node.publish_ids(Q, seq + 11..seq + 12, true);
        let mut builder = EntryBuilder::default();
        builder.relocated(&[(Q, seq)], &moved);
        let (location, copy) = node.store.append(&builder.finish(None));
        node.log.push((location, copy));
        node.machine.relocated(Q, seq, location);
    }
    node.publish_ids(Q, 162..170, true);
    assert_eq!(node.drain(Q), (0..170).collect::<Vec<_>>());
}

/// A deep backlog of which every other message is gone is read in one pass.
#[test]
fn a_backlog_with_holes_is_read_in_linear_time() {
    let mut node = node(durable());
    let link = FakeLink::new(usize::MAX >> 8);
    let slot = attach(&mut node, spec(&link, 1));
    let count = 2000;
    node.publish_ids(Q, 0..count, true);
    for number in (1..=count).step_by(2) {
        node.call(|m, now, s, e| m.ack(Q, &[range(slot, number, 1)], now, s, e));
    }
    node.crash(false, false);
    node.store.walked.store(0, Ordering::SeqCst);
    assert_eq!(node.drain(Q).len() as u64, count / 2);
    let walked = node.store.walked.load(Ordering::SeqCst);
    assert!(walked < 8 * count, "{walked} records for {count} messages");
}

// ---------------------------------------------------------------------- requeue and settle

#[test]
fn messages_over_the_delivery_limit_are_dead_lettered_in_order() {
    let mut node = node(Settings {
        delivery_limit: Some(0),
        dead_letter: true,
        ..durable()
    });
    let link = FakeLink::new(1 << 20);
    let slot = attach(&mut node, spec(&link, 1));
    node.publish_ids(Q, 0..5, true);
    let ((), effects) =
        node.call(|m, now, s, e| m.reject(Q, &[range(slot, 1, 5)], true, now, s, e));
    let dead: Vec<u64> = effects.dead.iter().map(|d| d.seq).collect();
    assert_eq!(dead, [1, 2, 3, 4, 5]);
    assert!(
        effects
            .dead
            .iter()
            .all(|d| d.reason == DeadReason::DeliveryLimit && d.held)
    );
}

/// Ten consumers share a backlog by turns; when their channels go, everything is back in order, soon.
#[test]
fn interleaved_messages_come_back_in_order_and_in_time() {
    let mut node = node(Settings::default());
    let link = FakeLink::new(usize::MAX >> 8);
    let slots: Vec<_> = (0..10).map(|i| attach(&mut node, spec(&link, i))).collect();
    let count = 200_000;
    let mut builder = EntryBuilder::with_capacity(1 << 20);
    for id in 0..count {
        let body = body_of(id, 8);
        let body: &[&[u8]] = &[&body];
        builder.enqueue(
            &[Q],
            &NewMessage {
                body,
                ..message(&[])
            },
            false,
        );
    }
    node.submit(builder);
    for slot in &slots {
        node.machine
            .cancel(Q, *slot, 0, &NoStore, &mut Effects::default());
    }
    drop(link.take());
    let start = Instant::now();
    for slot in slots {
        node.call(|m, now, s, e| m.release(Q, slot, now, s, e));
    }
    let took = start.elapsed();
    assert_eq!(node.drain(Q), (0..count).collect::<Vec<_>>());
    // Half of it took 0.05 s merged and 2.9 s one by one.
    assert!(took.as_secs() < 5, "{took:?}");
}

#[test]
fn absurd_ranges_end_soon() {
    let mut node = node(Settings::default());
    let link = FakeLink::new(1 << 20);
    let slot = attach(&mut node, spec(&link, 1));
    node.publish_ids(Q, 0..3, false);
    let start = Instant::now();
    for first in [0, 1, 1000, u64::MAX - 5] {
        let absurd = [range(slot, first, u32::MAX)];
        node.call(|m, now, s, e| m.ack(Q, &absurd, now, s, e));
    }
    assert_eq!(node.machine.queue(Q).expect("there").depth().unacked, 0);
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn dead_letters_are_settled_once() {
    let mut node = node(Settings {
        dead_letter: true,
        ..durable()
    });
    let link = FakeLink::new(usize::MAX >> 8);
    let slot = attach(&mut node, spec(&link, 1));
    let count = 5000;
    let mut builder = EntryBuilder::with_capacity(1 << 20);
    for id in 0..count {
        let body = body_of(id, 8);
        let body: &[&[u8]] = &[&body];
        builder.enqueue(
            &[Q],
            &NewMessage {
                body,
                ..message(&[])
            },
            true,
        );
    }
    // Kept in memory: the fake journal's segments are too small for it.
    let mut effects = Effects::default();
    node.machine.admit(&mut builder, 0, &NoStore, &mut effects);
    let entry = builder.finish(None);
    let applied = node
        .machine
        .apply(&entry, Location(0), 0, &*node.store, &mut effects);
    assert_eq!(applied, Ok(()));
    let all = [range(slot, 1, 4096)];
    let mut dead = Effects::default();
    node.machine
        .reject(Q, &all, false, 0, &*node.store, &mut dead);
    assert_eq!(dead.dead.len(), 4096);
    for letter in &dead.dead {
        let (seq, reason) = (letter.seq, letter.reason);
        let mut effects = Effects::default();
        node.machine
            .dead_lettered(Q, seq, reason, &NoStore, &mut effects);
        assert!(effects.journal.is_durable(), "settled in the journal");
        let mut again = Effects::default();
        node.machine
            .dead_lettered(Q, seq, reason, &NoStore, &mut again);
        assert!(again.journal.is_empty(), "once");
    }
}

// ---------------------------------------------------------------------- consumers

#[test]
fn a_removed_queue_gives_its_places_of_the_channel_window_back() {
    let mut node = node(Settings::default());
    node.create(2, Settings::default());
    let link = FakeLink::new(1 << 20);
    let limiter = Arc::new(Limiter::new(1));
    attach(&mut node, limited(spec(&link, 1), &limiter));
    node.publish_ids(Q, 0..1, false);
    let slot = node
        .machine
        .consume(2, limited(spec(&link, 2), &limiter), 0);
    assert!(slot.is_some());
    node.publish_ids(2, 1..2, false);
    assert_eq!(ids(&link), [0], "the window is full");
    let removed = node.machine.remove(Q, &NoStore).expect("there");
    assert_eq!(removed.wakes.len(), 1, "the other consumer can go on");
    for waiter in removed.wakes {
        node.call(|m, now, s, e| m.resume(waiter, now, s, e));
    }
    assert_eq!(ids(&link), [1]);
}

#[test]
fn thousands_of_consumers_without_a_window_do_not_overflow() {
    let mut node = node(Settings {
        max_length: Some(1),
        overflow: Overflow::RejectPublish,
        ..Settings::default()
    });
    let link = FakeLink::new(1 << 20);
    for i in 0..3000 {
        attach(&mut node, spec(&link, i));
    }
    let mut builder = EntryBuilder::default();
    for id in 0..10u64 {
        let body = body_of(id, 8);
        let body: &[&[u8]] = &[&body];
        builder.enqueue(
            &[Q],
            &NewMessage {
                body,
                ..message(&[])
            },
            false,
        );
    }
    let (outcome, ..) = node.submit(builder);
    assert!(outcome.refused.is_empty(), "all are delivered at once");
    assert_eq!(ids(&link).len(), 10);
}

#[test]
fn a_blocked_channel_window_does_not_keep_old_room() {
    let mut node = node(Settings::default());
    let link = FakeLink::new(1000);
    let limiter = Arc::new(Limiter::new(1));
    let slot = attach(&mut node, limited(spec(&link, 1), &limiter));
    node.publish_ids(Q, 0..20, false);
    assert_eq!(ids(&link), [0], "the window is full");
    // The link fills up by others.
    link.capacity.store(1, Ordering::SeqCst);
    limiter.set_limit(0);
    for waiter in limiter.take_waiters() {
        node.call(|m, now, s, e| m.resume(waiter, now, s, e));
    }
    assert_eq!(ids(&link), [], "it has no room");
    node.call(|m, now, s, e| m.ack(Q, &[range(slot, 1, 1)], now, s, e));
    link.capacity.store(100_000, Ordering::SeqCst);
    for waiter in link.drain() {
        node.call(|m, now, s, e| m.resume(waiter, now, s, e));
    }
    assert_eq!(ids(&link), (1..20).collect::<Vec<_>>());
}

#[test]
fn consumers_of_equal_priority_take_turns_and_lower_ones_wait() {
    let mut node = node(Settings::default());
    let (a, b, low) = (
        FakeLink::new(1 << 20),
        FakeLink::new(1 << 20),
        FakeLink::new(1 << 20),
    );
    let windowed = |link, handle, priority| ConsumerSpec {
        prefetch: 3,
        priority,
        ..spec(link, handle)
    };
    attach(&mut node, windowed(&low, 3, -1));
    attach(&mut node, windowed(&a, 1, 0));
    attach(&mut node, windowed(&b, 2, 0));
    node.publish_ids(Q, 0..8, false);
    assert_eq!(ids(&a), [0, 2, 4]);
    assert_eq!(ids(&b), [1, 3, 5]);
    assert_eq!(ids(&low), [6, 7]);
}

#[test]
fn get_for_a_holder_that_is_gone_loses_nothing() {
    let mut node = node(Settings::default());
    let link = FakeLink::new(1 << 20);
    let slot = node.machine.consume(Q, holder(&link, 1), 0).expect("free");
    node.call(|m, now, s, e| m.release(Q, slot, now, s, e));
    node.publish_ids(Q, 0..1, false);
    let (got, _) = node.call(|m, now, s, e| m.get(Q, Some(slot), now, s, e));
    assert!(got.is_none());
    assert_eq!(node.drain(Q), [0]);
}

#[test]
fn a_failed_read_is_reported_and_loses_nothing() {
    let mut node = node(durable());
    node.publish_ids(Q, 0..300, true);
    node.crash(false, false);
    node.store.fail_read.store(true, Ordering::SeqCst);
    let link = FakeLink::new(1 << 20);
    let limiter = Arc::new(Limiter::new(1000));
    let slot = node
        .machine
        .consume(Q, limited(spec(&link, 1), &limiter), 0)
        .expect("free");
    let ((), effects) = node.call(|m, now, s, e| m.run(Q, now, s, e));
    assert!(effects.failure.is_some());
    let (got, effects) = node.call(|m, now, s, e| m.get(Q, None, now, s, e));
    assert!(got.is_none() && effects.failure.is_some());
    node.machine.check().expect("invariants");
    let depth = node.machine.queue(Q).expect("there").depth();
    // What had been read at start was there to be delivered.
    assert_eq!(
        (depth.ready + depth.unacked, depth.ready > 100),
        (300, true)
    );
    node.store.fail_read.store(false, Ordering::SeqCst);
    let ((), effects) = node.call(|m, now, s, e| m.run(Q, now, s, e));
    assert_eq!(effects.failure, None);
    assert_eq!(ids(&link), (0..300).collect::<Vec<_>>());
    let ((), _) = node.call(|m, now, s, e| m.ack(Q, &[range(slot, 1, 300)], now, s, e));
    node.machine.check().expect("invariants");
}

// ---------------------------------------------------------------------- time

/// The publisher's clock was read when the message arrived, a moment before it is applied.
#[test]
fn a_ttl_of_zero_delivers_to_a_waiting_consumer() {
    let mut node = node(Settings {
        message_ttl_ms: Some(0),
        ..Settings::default()
    });
    let link = FakeLink::new(1 << 20);
    let body = body_of(5, 8);
    let body: &[&[u8]] = &[&body];
    let late = NewMessage {
        body,
        time_ms: node.now - 3,
        ..message(&[])
    };
    attach(&mut node, spec(&link, 1));
    node.publish(&[Q], &late);
    assert_eq!(ids(&link), [5]);
    let slot = attach(&mut node, spec(&link, 2));
    let ((), _) = node.call(|m, now, s, e| m.cancel(Q, slot, now, s, e));
    // Without a consumer it is gone at once.
    let mut alone = self::node(node.machine.queue(Q).expect("there").settings().to_owned());
    alone.publish(&[Q], &late);
    assert_eq!(alone.machine.queue(Q).expect("there").depth().ready, 0);
}

#[test]
fn a_message_behind_one_that_was_fetched_expires_in_time() {
    let mut node = node(Settings {
        dead_letter: true,
        ..Settings::default()
    });
    for (id, expiration) in [(1, 60_000), (2, 10)] {
        let body = body_of(id, 8);
        let one = NewMessage {
            body: &[&body],
            expiration_ms: Some(expiration),
            time_ms: node.now,
            ..message(&[])
        };
        node.publish(&[Q], &one);
    }
    node.now += 20;
    let (got, effects) = node.call(|m, now, s, e| m.get(Q, None, now, s, e));
    let got = got.expect("the first");
    assert_eq!((id_of(&got.message), got.remaining), (1, 0));
    assert_eq!(effects.dead.len(), 1);
}

#[test]
fn creating_a_queue_again_keeps_its_timer() {
    let settings = Settings {
        expires_ms: Some(60_000),
        message_ttl_ms: Some(10),
        ..Settings::default()
    };
    let mut node = node(settings);
    node.publish_ids(Q, 0..1, false);
    node.create(Q, settings);
    node.now += 11;
    node.call(|m, now, s, e| m.tick(now, 10, s, e));
    assert_eq!(node.machine.queue(Q).expect("there").depth().ready, 0);
}

#[test]
fn a_queue_expires_when_unused_and_never_beside_a_consumer() {
    let mut node = node(Settings {
        expires_ms: Some(100),
        ..Settings::default()
    });
    let unused = |node: &mut Node, by: u64| {
        node.now += by;
        node.call(|m, now, s, e| m.tick(now, 100, s, e)).1.unused
    };
    assert!(unused(&mut node, 99).is_empty());
    node.machine.touch(Q, node.now);
    assert!(unused(&mut node, 99).is_empty());
    node.call(|m, now, s, e| m.get(Q, None, now, s, e));
    assert!(unused(&mut node, 99).is_empty());
    let link = FakeLink::new(0);
    let slot = attach(&mut node, spec(&link, 1));
    assert!(unused(&mut node, 1000).is_empty());
    node.call(|m, now, s, e| m.cancel(Q, slot, now, s, e));
    assert!(unused(&mut node, 99).is_empty());
    assert_eq!(unused(&mut node, 1), [Q]);
}

/// RabbitMQ starts the time anew when a policy sets it.
#[test]
fn a_new_expiry_policy_does_not_count_the_past() {
    let mut node = node(Settings::default());
    node.now += 10_000;
    let settings = Settings {
        expires_ms: Some(500),
        ..Settings::default()
    };
    node.call(|m, now, s, e| m.update(Q, settings, now, s, e));
    let ((), effects) = node.call(|m, now, s, e| m.tick(now, 100, s, e));
    assert!(effects.unused.is_empty());
    node.now += 500;
    let ((), effects) = node.call(|m, now, s, e| m.tick(now, 100, s, e));
    assert_eq!(effects.unused, [Q]);
}

// ---------------------------------------------------------------------- recovery

#[test]
fn a_purge_of_a_backlog_leaves_no_bytes_behind_after_a_crash() {
    let mut node = node(Settings {
        max_length_bytes: Some(100_000),
        ..durable()
    });
    node.publish_ids(Q, 0..500, true);
    node.crash(false, false);
    let (purged, _) = node.call(|m, now, s, e| m.purge(Q, now, s, e));
    assert_eq!(purged, 500);
    node.crash(false, false);
    node.machine.check().expect("invariants");
    assert_eq!(node.machine.queue(Q).expect("there").depth().ready_bytes, 0);
}

#[test]
fn delivery_counts_survive_twice_and_do_not_outlive_their_messages() {
    let mut node = node(Settings {
        count_deliveries: true,
        ..durable()
    });
    node.publish_ids(Q, 0..4, true);
    for round in 1..=3u32 {
        let link = FakeLink::new(1 << 20);
        let slot = attach(&mut node, spec(&link, 1));
        let counts: Vec<_> = link.take().iter().map(|d| d.delivery_count).collect();
        assert_eq!(counts, [(round > 1).then_some(round - 1); 4]);
        node.call(|m, now, s, e| m.release(Q, slot, now, s, e));
        node.take_checkpoint();
        assert_eq!(node.machine.snapshot()[0].1.returns.len(), 4);
        node.crash(true, round == 2);
    }
    assert_eq!(node.drain(Q).len(), 4);
    node.crash(true, false);
    assert_eq!(node.machine.snapshot()[0].1.returns, [].into());
}

/// After a crash everything counts as delivered before; a clean stop after it must not forget that.
#[test]
fn redelivered_survives_a_crash_and_then_a_clean_stop() {
    let mut node = node(durable());
    let link = FakeLink::new(1 << 20);
    attach(&mut node, spec(&link, 1));
    node.publish_ids(Q, 0..1, true);
    assert_eq!(link.take().len(), 1);
    node.crash(false, false);
    node.take_checkpoint();
    node.crash(true, true);
    attach(&mut node, spec(&link, 2));
    let got = link.take();
    assert_eq!(got.len(), 1);
    assert!(got[0].redelivered);
}

#[test]
fn a_queue_that_changed_its_levels_loses_nothing() {
    let mut node = node(durable());
    node.publish_ids(Q, 0..2, true);
    node.take_checkpoint();
    for priority in [9, 3] {
        let body = body_of(u64::from(priority), 8);
        let body: &[&[u8]] = &[&body];
        node.publish(
            &[Q],
            &NewMessage {
                body,
                priority,
                ..message(&[])
            },
        );
    }
    node.queues.insert(
        Q,
        Settings {
            max_priority: 9,
            ..durable()
        },
    );
    node.crash(true, false);
    assert_eq!(node.drain(Q), [9, 3, 0, 1]);
    node.queues.insert(Q, durable());
    node.crash(false, false);
    assert_eq!(node.machine.check(), Ok(()));
}

#[test]
fn a_rehomed_message_still_counts_for_the_memory_budget() {
    let mut node = node(Settings::default());
    let mut builder = EntryBuilder::with_capacity(64 << 10);
    let big = [0u8; 1000];
    for id in 0..40 {
        let body = body_of(id, 16);
        let body: &[&[u8]] = &[&body, &big];
        builder.enqueue(
            &[Q],
            &NewMessage {
                body,
                ..message(&[])
            },
            false,
        );
    }
    node.submit(builder);
    for _ in 0..39 {
        node.call(|m, now, s, e| m.get(Q, None, now, s, e));
    }
    assert!(node.gauge.bytes() > 40_000);
    assert_eq!(node.machine.unpin(), 1);
    let bytes = node.gauge.bytes();
    assert!((1000..5000).contains(&bytes), "{bytes} bytes");
    assert_eq!(node.drain(Q), [39]);
    assert_eq!(node.gauge.bytes(), 0);
}

#[test]
fn held_messages_do_not_pin_their_entries_either() {
    let mut node = node(Settings::default());
    let link = FakeLink::new(1 << 20);
    let slot = attach(&mut node, spec(&link, 1));
    let mut builder = EntryBuilder::with_capacity(64 << 10);
    let big = [0u8; 1000];
    for id in 0..40 {
        let body = body_of(id, 16);
        let body: &[&[u8]] = &[&body, &big];
        builder.enqueue(
            &[Q],
            &NewMessage {
                body,
                ..message(&[])
            },
            false,
        );
    }
    node.submit(builder);
    drop(link.take());
    node.call(|m, now, s, e| m.ack(Q, &[range(slot, 1, 39)], now, s, e));
    assert_eq!(node.machine.unpin(), 1);
    let bytes = node.gauge.bytes();
    assert!((1000..5000).contains(&bytes), "{bytes} bytes");
    node.call(|m, now, s, e| m.release(Q, slot, now, s, e));
    assert_eq!(node.drain(Q), [39]);
}

/// One set of effects may name more queues than a queue table has room for.
#[test]
fn what_very_many_queues_settle_at_once_is_not_mixed_up() {
    let mut node = Node::default();
    let ttl = Settings {
        message_ttl_ms: Some(5),
        ..durable()
    };
    let count = 70_000u64;
    for id in 1..=count {
        node.create(id, ttl);
    }
    let all: Vec<u64> = (1..=count).collect();
    for chunk in all.chunks(10_000) {
        let body = body_of(1, 8);
        node.publish(
            chunk,
            &NewMessage {
                body: &[&body],
                time_ms: node.now,
                ..message(&[])
            },
        );
    }
    node.now += 10;
    let mut rounds = 0;
    while node.machine.queues().any(|q| q.depth().ready > 0) {
        let ((), effects) = node.call(|m, now, s, e| m.tick(now, usize::MAX, s, e));
        assert_eq!(effects.failure, None);
        rounds += 1;
        assert!(rounds < 100, "no progress");
    }
    let live = common::naive_live(&node.log);
    assert!(live.values().all(|q| q.is_empty()));
}

/// A backlog that falls due at once leaves in slices, so that its lock and the memory of its dead letters are bounded.
#[test]
fn what_falls_due_together_leaves_in_slices() {
    let limited = Settings {
        max_length: Some(10),
        ..Settings::default()
    };
    let short = Settings {
        message_ttl_ms: Some(50),
        ..Settings::default()
    };
    for (settings, left) in [(limited, 10), (short, 0)] {
        let dying = Settings {
            dead_letter: true,
            ..settings
        };
        let mut node = node(Settings {
            max_length: None,
            ..dying
        });
        node.publish_ids(Q, 0..200_000, false);
        node.now += 100_000;
        let (mut dead, mut slices) = (0, 0);
        let ((), effects) = node.call(|m, now, s, e| m.update(Q, dying, now, s, e));
        let mut slice = effects.dead.len();
        while slice > 0 {
            assert!(slice <= 32 * 1024, "{slice} at once");
            (dead, slices) = (dead + slice, slices + 1);
            node.now += 1;
            let ((), effects) = node.call(|m, now, s, e| m.tick(now, 256, s, e));
            slice = effects.dead.len();
            // The timer goes on with it, and others get the lock before.
            let next = node.machine.next_timer_ms();
            assert!(next.is_some_and(|next| next > node.now) || dead + slice == 200_000 - left);
        }
        assert_eq!(dead, 200_000 - left);
        assert!(slices > 5, "{slices}");
        let depth = node.machine.queue(Q).expect("there").depth();
        assert_eq!(depth.ready, left as u64);
        node.machine.check().expect("invariants");
    }
}

/// Nobody gets what has expired, however much of it lies before the rest.
#[test]
fn what_expired_in_masses_is_not_delivered() {
    let mut node = node(Settings {
        message_ttl_ms: Some(50),
        ..Settings::default()
    });
    node.now = 1_000_000;
    for (ids, time_ms) in [(0..10_000, node.now - 60), (10_000..10_003, node.now)] {
        for id in ids {
            let body = body_of(id, 8);
            let one = NewMessage {
                body: &[&body],
                time_ms,
                ..message(&[])
            };
            let mut builder = EntryBuilder::default();
            builder.enqueue(&[Q], &one, false);
            node.submit(builder);
        }
    }
    let link = FakeLink::new(1 << 20);
    attach(&mut node, spec(&link, 1));
    let mut came = ids(&link);
    for _ in 0..20 {
        node.now += 1;
        node.call(|m, now, s, e| m.tick(now, 256, s, e));
        came.extend(ids(&link));
    }
    assert_eq!(came, [10_000, 10_001, 10_002]);
}

// ---------------------------------------------------------------------- memory

#[test]
fn a_paged_backlog_is_read_back_in_order() {
    let mut node = node(Settings::default());
    node.store.tight.store(true, Ordering::SeqCst);
    node.publish_ids(Q, 0..1000, false);
    assert_eq!(node.store.paged(), 1000 - 128);
    node.store.fail_page.store(true, Ordering::SeqCst);
    node.publish_ids(Q, 1000..1100, false);
    node.store.tight.store(false, Ordering::SeqCst);
    node.publish_ids(Q, 1100..1200, false);
    node.machine.check().expect("invariants");
    assert_eq!(node.drain(Q), (0..1200).collect::<Vec<_>>());
    assert_eq!(node.store.paged(), 0);
}
