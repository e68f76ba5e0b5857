//! Routing through tables of 10,000 bindings.

use std::hint::black_box;

use criterion::{Criterion, criterion_group};
use leveret_protocol::{FieldTable, FieldValue};
use leveret_topology::{
    Arguments, ChangeBinding, Command, DeclareExchange, DeclareQueue, DefaultContent, Destination,
    Key, MessageAttributes, Name, NoAttributes, Publication, Topology,
};

const BINDINGS: usize = 10_000;
const QUEUES: usize = 100;

criterion_group!(stage, topic, direct, headers);

/// An exchange "x" with bindings to [`QUEUES`] queues, each with the key and arguments that `binding` gives.
fn bound(kind: &str, binding: impl Fn(usize) -> (String, Arguments)) -> Topology {
    let mut topology = Topology::new();
    let mut index = 0;
    let mut apply = |topology: &mut Topology, command: Command| {
        index += 1;
        topology.apply(index, &command).unwrap();
    };
    for command in DefaultContent::default().commands([1, 2, 3, 4]) {
        apply(&mut topology, command);
    }
    apply(
        &mut topology,
        Command::DeclareExchange(DeclareExchange::new("/", "x", kind)),
    );
    for n in 0..QUEUES {
        let declare = DeclareQueue::new("/", &format!("queue-{n}"));
        apply(&mut topology, Command::DeclareQueue(declare));
    }
    for n in 0..BINDINGS {
        let (key, arguments) = binding(n);
        let bind = ChangeBinding {
            vhost: Name::from("/"),
            source: Name::from("x"),
            destination: Destination::Queue(Name::from(format!("queue-{}", n % QUEUES).as_str())),
            routing_key: Key::from(key.as_str()),
            arguments,
            connection: None,
        };
        apply(&mut topology, Command::Bind(bind));
    }
    topology
}

/// Routes messages with `keys` in turn.
fn route(b: &mut criterion::Bencher, topology: &Topology, keys: &[String]) {
    let mut found = Vec::new();
    let mut keys = keys.iter().cycle();
    b.iter(|| {
        let key = keys.next().map_or(&b""[..], |key| key.as_bytes());
        let message = Publication {
            routing_keys: &[key],
            attributes: &NoAttributes,
        };
        let routed = topology.route("/", "x", black_box(&message), &mut found);
        assert!(routed.is_ok() && !found.is_empty());
        black_box(found.len())
    });
}

fn topic(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("route by topic, {BINDINGS} bindings"));
    let keys: Vec<String> = (0..1000)
        .map(|n| format!("service.{}.event", n * 7))
        .collect();
    let exact = bound("topic", |n| {
        (format!("service.{n}.event"), Arguments::new())
    });
    group.bench_function("words", |b| route(b, &exact, &keys));
    let stars = bound("topic", |n| (format!("service.{n}.*"), Arguments::new()));
    group.bench_function("a star at the end", |b| route(b, &stars, &keys));
    let hashes = bound("topic", |n| (format!("#.{n}.#"), Arguments::new()));
    group.bench_function("hashes around", |b| route(b, &hashes, &keys));
}

fn direct(c: &mut Criterion) {
    let keys: Vec<String> = (0..1000).map(|n| format!("key-{}", n * 7)).collect();
    let table = bound("direct", |n| (format!("key-{n}"), Arguments::new()));
    c.bench_function(&format!("route by key, {BINDINGS} bindings"), |b| {
        route(b, &table, &keys);
    });
}

struct Headers(FieldTable);

impl MessageAttributes for Headers {
    fn headers(&self) -> Option<&FieldTable> {
        Some(&self.0)
    }
}

fn headers(c: &mut Criterion) {
    let table = bound("headers", |n| {
        let mut arguments = Arguments::new();
        arguments.insert("x-match", "all");
        arguments.insert("number", FieldValue::Long(n as i64));
        arguments.insert("kind", "event");
        (String::new(), arguments)
    });
    let mut message = FieldTable::default();
    message.insert("number", FieldValue::Long(77));
    message.insert("kind", "event");
    let message = Headers(message);
    let mut found = Vec::new();
    c.bench_function(&format!("route by headers, {BINDINGS} bindings"), |b| {
        b.iter(|| {
            let message = Publication {
                routing_keys: &[b""],
                attributes: &message,
            };
            let routed = topology_route(&table, &message, &mut found);
            assert_eq!(routed, 1);
        });
    });
}

fn topology_route(
    topology: &Topology,
    message: &Publication<'_>,
    found: &mut Vec<std::sync::Arc<leveret_topology::QueueInfo>>,
) -> usize {
    let routed = topology.route("/", "x", black_box(message), found);
    assert!(routed.is_ok());
    found.len()
}
