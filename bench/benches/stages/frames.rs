//! A publish as it comes from a socket, and a delivery as it goes to one.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group};
use leveret_protocol::encode::{Deliver, put_ack, put_content};
use leveret_protocol::method::{BasicPublish, Method, split_method};
use leveret_protocol::{BasicPublishRef, ContentHeaderRef, ShortStr, encode, parse_frame};

const FRAME_MAX: u32 = 131_072;
/// delivery_mode 2: the flag, and its octet.
const PERSISTENT: [u8; 3] = [0x10, 0x00, 2];

criterion_group!(stage, parse, write);

/// basic.publish, content header and body of `size` octets, as one after the other in a receive buffer.
fn publish(size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let method = Method::BasicPublish(BasicPublish {
        exchange: ShortStr::try_from("").unwrap(),
        routing_key: ShortStr::try_from("bench-0000000").unwrap(),
        mandatory: false,
        immediate: false,
        ..BasicPublish::default()
    });
    encode::put_method(&mut out, 1, &method);
    let mut header = vec![0, 60, 0, 0];
    header.extend((size as u64).to_be_bytes());
    header.extend(PERSISTENT);
    for (kind, payload) in [(2, header), (3, vec![0x5a; size])] {
        out.extend([kind, 0, 1]);
        out.extend((payload.len() as u32).to_be_bytes());
        out.extend(payload);
        out.push(0xce);
    }
    out
}

fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse a publish");
    for size in [16, 1024] {
        let bytes = publish(size);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("{size} B"), |b| {
            b.iter(|| {
                let mut rest = black_box(bytes.as_slice());
                let mut next = || {
                    let (frame, used) = parse_frame(rest, FRAME_MAX).unwrap().unwrap();
                    rest = &rest[used..];
                    frame.payload
                };
                let (_, arguments) = split_method(next()).unwrap();
                let publish = BasicPublishRef::decode(arguments).unwrap();
                let header = ContentHeaderRef::parse(next()).unwrap();
                let body = next();
                assert_eq!(header.body_size, body.len() as u64);
                black_box((publish.routing_key.len(), header.properties.len(), body[0]))
            });
        });
    }
}

fn write(c: &mut Criterion) {
    let mut group = c.benchmark_group("write");
    let mut out = Vec::with_capacity(1 << 16);
    for size in [16, 1024] {
        let body = vec![0x5a; size];
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("a delivery of {size} B"), |b| {
            let mut tag = 0;
            b.iter(|| {
                tag += 1;
                out.clear();
                let deliver = Deliver {
                    consumer_tag: b"ctag1.0",
                    delivery_tag: tag,
                    redelivered: false,
                    exchange: b"",
                    routing_key: b"bench-0000000",
                };
                put_content(&mut out, 1, &deliver, &PERSISTENT, &body, FRAME_MAX);
                black_box(out.len())
            });
        });
    }
    group.bench_function("a confirm", |b| {
        b.iter(|| {
            out.clear();
            put_ack(&mut out, 1, black_box(7), true);
            black_box(out.len())
        });
    });
}
