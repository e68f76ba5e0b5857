//! What the machine costs in memory, counted by the allocator.
#![allow(unsafe_code)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{FakeLink, Node, durable, id_of, message, spec};
use leveret_queue::{
    ConsumerSlot, ConsumerSpec, Effects, EntryBuilder, Location, Machine, NoStore, Settings, Store,
    StoreError, Stored, UnackedRange,
};

thread_local! {
    static HEAP: Cell<i64> = const { Cell::new(0) };
}

/// Counts what the test's own thread holds.
struct Counting;

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HEAP.set(HEAP.get() + layout.size() as i64);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HEAP.set(HEAP.get() - layout.size() as i64);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn heap() -> i64 {
    HEAP.get()
}

const Q: u64 = 1;

fn node(settings: Settings) -> Node {
    let mut node = Node::default();
    node.create(Q, settings);
    node
}

fn attach(node: &mut Node, spec: ConsumerSpec) -> ConsumerSlot {
    node.machine
        .consume(Q, spec, node.now)
        .expect("nothing in the way")
}

fn ids(link: &FakeLink) -> Vec<u64> {
    link.take().iter().map(|d| id_of(&d.message)).collect()
}

fn range(slot: ConsumerSlot, first: u64, count: u32) -> UnackedRange {
    UnackedRange { slot, first, count }
}

#[test]
fn an_idle_queue_is_small() {
    let idle = |settings: Settings| {
        let mut machine = Machine::new(0);
        let before = heap();
        for id in 0..1792 {
            machine.create(id, settings, 0);
        }
        let bytes = (heap() - before) / 1792;
        drop(machine);
        bytes
    };
    let plain = idle(durable());
    assert!(plain < 1024, "{plain} bytes a queue");
    let timed = idle(Settings {
        expires_ms: Some(1000),
        ..durable()
    });
    assert!(timed < 1024, "{timed} bytes a queue");
    let levels = idle(Settings {
        max_priority: 255,
        ..durable()
    });
    assert!(levels < 2048, "{levels} bytes a queue of 256 priorities");
}

/// A journal whose messages nobody reads.
struct Elsewhere;

impl Store for Elsewhere {
    fn read(
        &self,
        _: u64,
        _: u64,
        _: u32,
        _: Location,
        _: usize,
        _: &mut Vec<Stored>,
    ) -> Result<(), StoreError> {
        Err(StoreError("nothing is read here".into()))
    }

    fn page_out(&self, _: u64, _: u64, _: &leveret_queue::Message) -> Result<Location, StoreError> {
        Err(StoreError("nothing is paged here".into()))
    }

    fn memory_tight(&self) -> bool {
        true
    }
}

/// A backlog of a million messages: past the head in memory it costs runs only.
#[test]
fn a_deep_backlog_costs_runs() {
    let mut machine = Machine::new(0);
    machine.create(Q, durable(), 0);
    let before = heap();
    let mut at = 0u64;
    for _ in 0..2000 {
        let mut builder = EntryBuilder::with_capacity(64 << 10);
        for _ in 0..500 {
            builder.enqueue(&[Q], &message(&[b"0123456789abcdef"]), true);
        }
        let mut effects = Effects::default();
        machine.admit(&mut builder, 0, &NoStore, &mut effects);
        let entry = builder.finish(None);
        if (at & 0xffff_ffff) + entry.len() as u64 > 64 << 20 {
            at = ((at >> 32) + 1) << 32;
        }
        let applied = machine.apply(&entry, Location(at), 0, &Elsewhere, &mut effects);
        assert_eq!(applied, Ok(()));
        at += entry.len() as u64 + 24;
    }
    assert_eq!(machine.queue(Q).expect("there").depth().ready, 1_000_000);
    let bytes = heap() - before;
    assert!(bytes < 100_000, "{bytes} bytes for a million messages");
}

/// One message that stays unacknowledged costs no memory for those that come and go after it.
#[test]
fn one_held_message_does_not_make_the_consumer_grow() {
    let mut node = node(Settings::default());
    let link = FakeLink::new(usize::MAX >> 8);
    let slot = attach(&mut node, spec(&link, 1));
    let before = heap();
    for id in 0..20_000u64 {
        node.publish_ids(Q, id..id + 1, false);
        link.drain();
        assert_eq!(ids(&link), [id]);
        if id % 5000 != 3 {
            node.call(|m, now, s, e| m.ack(Q, &[range(slot, id + 1, 1)], now, s, e));
        }
        node.machine.check().expect("invariants");
    }
    assert_eq!(node.machine.queue(Q).expect("there").depth().unacked, 4);
    let bytes = heap() - before;
    assert!(
        bytes < 300_000,
        "{bytes} bytes for 4 unacknowledged messages"
    );
    for (at, id) in [3, 5003, 10_003, 15_003u64].into_iter().enumerate() {
        let ack = [range(slot, id + 1, 1)];
        node.call(|m, now, s, e| m.ack(Q, &ack, now, s, e));
        let unacked = node.machine.queue(Q).expect("there").depth().unacked;
        assert_eq!(unacked as usize, 3 - at);
    }
}

#[test]
fn drained_queues_give_their_memory_back() {
    let mut node = node(Settings::default());
    let before = heap();
    node.publish_ids(Q, 0..20_000, false);
    assert!(heap() - before > 20_000 * 48);
    assert_eq!(node.drain(Q).len(), 20_000);
    let bytes = heap() - before;
    assert!(bytes <= 100_000, "{bytes} bytes in an empty queue");
}

/// Short deadlines before a long one must not pile up in the timer heap.
#[test]
fn timers_do_not_pile_up() {
    let mut node = node(Settings {
        expires_ms: Some(1 << 40),
        message_ttl_ms: Some(1),
        ..Settings::default()
    });
    let before = heap();
    for id in 0..5000 {
        node.publish_ids(Q, id..id + 1, false);
        node.now += 2;
        node.call(|m, now, s, e| m.tick(now, 100, s, e));
        assert_eq!(node.machine.queue(Q).expect("there").depth().ready, 0);
    }
    let bytes = heap() - before;
    assert!(bytes < 16_000, "{bytes} bytes of timers");
    assert!(node.machine.next_timer_ms().is_some_and(|at| at > 1 << 40));
}
