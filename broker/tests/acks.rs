//! Acknowledgements and the confirm of what is published after them, on a simulated disk whose power is cut.

mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use leveret::node::Node;
use leveret_config::Config;
use leveret_protocol::Method;
use leveret_protocol::encode;
use leveret_protocol::method::{BasicAck, QueueDeclare};
use leveret_storage::disk::sim::{Fault, SimDisk};
use wire::{Wire, declare, publish};

/// They lie in several groups, and some share one.
const QUEUES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn start(disk: &SimDisk) -> Arc<Node> {
    let mut config = Config::default();
    config.node.data_dir = "data".into();
    config.journal.segment_size_bytes = 256 << 10;
    // What nobody waits for is not synced within the test.
    config.journal.sync_interval_ms = 3_600_000;
    let (node, _) = Node::start_on(config, 1 << 30, Arc::new(disk.clone())).expect("a start");
    Arc::new(node)
}

/// One read of the socket: bytes before, an ack of the message in `acked`, a publish to `target`. Once that publish is
/// confirmed the power is cut; says whether the acked message is there again afterwards.
fn comes_back(acked: &str, target: &str, before: &[u8], confirms_before: u64, seed: u64) -> bool {
    let disk = SimDisk::new();
    let node = start(&disk);
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.confirm(1);
    for queue in QUEUES {
        let durable = QueueDeclare {
            durable: true,
            ..declare(queue)
        };
        wire.send(1, durable);
        wire.expect("queue.declare-ok");
    }
    wire.publish(1, acked, b"acked");
    wire.expect("basic.ack");
    let came = wire.get(1, acked).expect("it was published");
    let Method::BasicGetOk(got) = came.method else {
        unreachable!("a get has no other answer with a body");
    };
    let mut bytes = before.to_vec();
    let ack = BasicAck {
        delivery_tag: got.delivery_tag,
        multiple: false,
    };
    encode::put_method(&mut bytes, 1, &ack.into());
    bytes.extend_from_slice(&publish(1, target, b"after"));
    wire.send_raw(&bytes);
    let last = 2 + confirms_before;
    wire.until("the confirm", |wire| {
        wire.came()
            .iter()
            .any(|came| matches!(&came.method, Method::BasicAck(ack) if ack.delivery_tag == last))
    });
    disk.fail(1, Fault::PowerCut);
    drop(wire);
    drop(node);
    disk.crash(seed);
    let node = start(&disk);
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    let all = wire.drain(1, acked);
    all.iter().any(|(body, _)| body == b"acked")
}

#[test]
fn a_confirm_covers_the_acks_before_it() {
    let disk = SimDisk::new();
    let node = start(&disk);
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    QUEUES.iter().for_each(|queue| wire.declare(1, queue));
    let group = |queue| node.topology().queue("/", queue).unwrap().group;
    let groups: BTreeSet<u32> = QUEUES.into_iter().map(group).collect();
    assert!((3..QUEUES.len()).contains(&groups.len()), "{groups:?}");
    // Alone; behind a publish of the same read; behind so many that a part of the read is submitted before the rest.
    let small = publish(1, "f", b"before");
    let large = publish(1, "f", &vec![b'.'; 1 << 20]);
    for acked in ["a", "f"] {
        for target in QUEUES {
            for (before, confirms) in [(&[][..], 0), (&small[..], 1), (&large[..], 1)] {
                // Nothing of what was not durable is there, or some.
                for seed in 0..2 {
                    assert!(
                        !comes_back(acked, target, before, confirms, seed),
                        "'{acked}' (group {}) acked, '{target}' (group {}) confirmed, {} bytes before, seed {seed}",
                        group(acked),
                        group(target),
                        before.len()
                    );
                }
            }
        }
    }
}
