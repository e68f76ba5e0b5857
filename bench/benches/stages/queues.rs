//! The queue machine: messages in, delivered, acknowledged.

use std::sync::{Arc, Mutex};

use criterion::{BatchSize, Criterion, Throughput, criterion_group};
use leveret_queue::{
    ConsumerSpec, Delivery, Effects, Link, Location, Machine, NoStore, Settings, UnackedRange,
    Waiter,
};

use crate::entries::{MESSAGES, filled};

const QUEUE: u64 = 5;

criterion_group!(stage, waiting, delivered);

/// A connection that always has room. It keeps the numbers of the deliveries that came last: first and how many.
#[derive(Default)]
struct Sink(Mutex<(u64, u32)>);

impl Link for Sink {
    fn room(&self) -> usize {
        usize::MAX
    }

    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        let mut last = self.0.lock().unwrap();
        if last.1 == 0 {
            last.0 = deliveries[0].number;
        }
        last.1 += deliveries.drain(..).len() as u32;
    }

    fn wait_room(&self, _: Waiter) -> bool {
        false
    }

    fn cancelled(&self, _: u64) {}
}

fn machine() -> Machine {
    let mut machine = Machine::new(1);
    machine.create(QUEUE, Settings::default(), 0);
    machine
}

/// Admits and applies an entry, as a group that is not mirrored does.
fn put(machine: &mut Machine) {
    let mut effects = Effects::default();
    let mut entry = filled(100);
    let outcome = machine.admit(&mut entry, 1, &NoStore, &mut effects);
    assert!(outcome.refused.is_empty());
    let entry = entry.finish(None);
    machine
        .apply(&entry, Location::NONE, 1, &NoStore, &mut effects)
        .unwrap();
}

fn waiting(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue machine");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    group.bench_function("enqueue", |b| {
        b.iter_batched_ref(machine, put, BatchSize::SmallInput);
    });
}

fn delivered(c: &mut Criterion) {
    let mut group = c.benchmark_group("queue machine");
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for no_ack in [true, false] {
        let what = if no_ack { "" } else { ", acknowledge" };
        group.bench_function(format!("enqueue, deliver{what}"), |b| {
            let mut machine = machine();
            let link = Arc::new(Sink::default());
            let spec = ConsumerSpec {
                link: Arc::clone(&link) as Arc<dyn Link>,
                handle: 1,
                no_ack,
                exclusive: false,
                priority: 0,
                prefetch: 0,
                limiter: None,
                passive: false,
            };
            let slot = machine.consume(QUEUE, spec, 1).unwrap();
            b.iter(|| {
                put(&mut machine);
                let (first, count) = std::mem::take(&mut *link.0.lock().unwrap());
                assert_eq!(count as usize, MESSAGES);
                if !no_ack {
                    let range = UnackedRange { slot, first, count };
                    machine.ack(QUEUE, &[range], 1, &NoStore, &mut Effects::default());
                }
            });
            let depth = machine.queue(QUEUE).unwrap().depth();
            assert_eq!((depth.ready, depth.unacked), (0, 0));
        });
    }
}
