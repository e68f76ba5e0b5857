//! Reclaim of the journal: segments that go, messages that are moved out of others, and both again after a restart.

mod wire;

use std::path::Path;
use std::sync::Arc;

use leveret::node::Node;
use leveret_config::Config;
use leveret_protocol::method::{BasicAck, QueueDeclare};
use wire::{Wire, declare, get};

const SEGMENT_BYTES: u64 = 64 << 10;
/// So that about fifteen messages fill a segment.
const BODY_BYTES: usize = 4000;

fn start(dir: &Path) -> Arc<Node> {
    let mut config = Config::default();
    config.node.data_dir = dir.to_path_buf();
    config.journal.segment_size_bytes = SEGMENT_BYTES;
    let (node, _) = Node::start(config, 1 << 30).expect("the node starts");
    Arc::new(node)
}

/// A node on the same folder, once the clients of this one are gone.
fn restart(node: Arc<Node>, dir: &Path) -> Arc<Node> {
    drop(Arc::into_inner(node).expect("nobody else has it"));
    start(dir)
}

fn body(number: u32) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(BODY_BYTES, b'.');
    body
}

fn number(body: &[u8]) -> u32 {
    u32::from_be_bytes(body[..4].try_into().unwrap())
}

fn active(node: &Node) -> u32 {
    let journal = node.store().journal();
    journal.wait_durable(journal.end()).unwrap();
    journal.written().segment()
}

/// A client with one durable queue, which it publishes numbered messages to and takes others out of.
struct Client {
    wire: Wire,
    next: u32,
}

impl Client {
    fn new(node: &Arc<Node>) -> Client {
        let mut wire = Wire::open(node);
        wire.open_channel(1);
        wire.confirm(1);
        let durable = QueueDeclare {
            durable: true,
            ..declare("q")
        };
        wire.send(1, durable);
        wire.expect("queue.declare-ok");
        Client { wire, next: 0 }
    }

    /// Publishes one message; gives its number.
    fn publish(&mut self) -> u32 {
        self.wire.publish(1, "q", &body(self.next));
        self.wire.expect("basic.ack");
        self.next += 1;
        self.next - 1
    }

    /// Publishes until the journal is in its next segment; gives the numbers.
    fn fill_segment(&mut self, node: &Node) -> Vec<u32> {
        let before = active(node);
        let mut numbers = Vec::new();
        while active(node) == before {
            numbers.push(self.publish());
        }
        numbers
    }

    /// Takes everything, acks all but `kept`, and gives those back to the queue.
    fn keep(&mut self, node: &Arc<Node>, kept: &[u32]) {
        let mut wire = Wire::open(node);
        wire.open_channel(1);
        while let Some(came) = wire.get(1, "q") {
            let leveret_protocol::Method::BasicGetOk(ok) = came.method else {
                unreachable!()
            };
            if !kept.contains(&number(&came.body)) {
                let (delivery_tag, multiple) = (ok.delivery_tag, false);
                wire.send(
                    1,
                    BasicAck {
                        delivery_tag,
                        multiple,
                    },
                );
            }
        }
        // A reply behind the acks; the rest goes back with the connection.
        wire.send(1, get("q"));
        wire.expect("basic.get-empty");
        wire.connection.release();
    }

    fn numbers(&mut self) -> Vec<u32> {
        let all = self.wire.drain(1, "q");
        all.iter().map(|(body, _)| number(body)).collect()
    }
}

#[test]
fn messages_move_out_of_a_segment_whose_follower_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let mut client = Client::new(&node);
    let first = active(&node);
    let kept = [client.fill_segment(&node)[3]];
    client.fill_segment(&node);
    client.fill_segment(&node);
    client.keep(&node, &kept);
    // Removes the second segment, and moves the only message of the first.
    let round = node.checkpoint().expect("a round");
    assert!(round.removed > 0 && round.relocated_bytes > 0, "{round:?}");
    client.fill_segment(&node);
    node.checkpoint().expect("a round");
    let segments = node.store().journal().segments();
    assert!(segments.iter().all(|s| s.id != first), "{segments:?}");
    client.keep(&node, &kept);
    drop(client);
    let node = restart(node, dir.path());
    assert_eq!(Client::new(&node).numbers(), kept);
}

#[test]
fn messages_that_moved_in_another_order_are_read_in_theirs() {
    let dir = tempfile::tempdir().unwrap();
    let node = start(dir.path());
    let mut client = Client::new(&node);
    let relocate = |client: &mut Client, kept: &[u32]| {
        client.keep(&node, kept);
        let round = node.checkpoint().expect("a round");
        assert!(round.relocated_bytes > 0, "{round:?}");
    };
    // The end of one segment and the beginning of the next, which still is full of others when the end moves on.
    let one = client.fill_segment(&node);
    let two = client.fill_segment(&node);
    let kept = &one[one.len() - 4..];
    let both: Vec<u32> = kept.iter().chain(&two).copied().collect();
    relocate(&mut client, &both);
    // Now the beginning moves first, as it lies in an earlier segment than the end.
    client.fill_segment(&node);
    client.fill_segment(&node);
    relocate(&mut client, kept);
    // And then both out of one segment into one record, in that order.
    client.fill_segment(&node);
    relocate(&mut client, kept);
    node.checkpoint().expect("a round");
    drop(client);
    let node = restart(node, dir.path());
    assert_eq!(Client::new(&node).numbers(), kept);
}
