//! A connection from bytes to bytes: no socket, no server.

mod wire;

use leveret::connection::{OUTPUT_BYTES_MAX, Reading};
use leveret::outbox::Event;
use leveret_protocol::method::{
    BasicCancel, BasicNack, ChannelClose, ChannelCloseOk, ChannelOpen, ConnectionClose,
    QueueDeclare, QueueDelete,
};
use leveret_protocol::{Method, encode};
use wire::{Came, Wire, consume, declare, get, handshake, node, publish, short};

fn put(bytes: &mut Vec<u8>, channel: u16, method: impl Into<Method>) {
    encode::put_method(bytes, channel, &method.into());
}

fn bodies(came: &[Came]) -> Vec<&[u8]> {
    came.iter().map(|c| c.body.as_slice()).collect()
}

/// The reply text of a close.
fn text(came: &Came) -> String {
    match &came.method {
        Method::ChannelClose(close) => close.reply_text.to_string_lossy().into_owned(),
        Method::ConnectionClose(close) => close.reply_text.to_string_lossy().into_owned(),
        other => panic!("{other:?}"),
    }
}

/// A session whose answers are always the same.
fn session() -> Vec<u8> {
    let mut bytes = handshake();
    put(&mut bytes, 1, ChannelOpen::default());
    put(
        &mut bytes,
        1,
        QueueDeclare {
            durable: true,
            ..declare("q")
        },
    );
    bytes.extend_from_slice(&publish(1, "q", b"one"));
    bytes.extend_from_slice(&publish(1, "q", b""));
    bytes.extend_from_slice(&publish(1, "q", &[b'x'; 300]));
    for _ in 0..4 {
        put(&mut bytes, 1, get("q"));
    }
    put(&mut bytes, 1, ChannelClose::default());
    put(&mut bytes, 0, ConnectionClose::default());
    bytes
}

const ANSWERS: [&str; 11] = [
    "connection.start",
    "connection.tune",
    "connection.open-ok",
    "channel.open-ok",
    "queue.declare-ok",
    "basic.get-ok",
    "basic.get-ok",
    "basic.get-ok",
    "basic.get-empty",
    "channel.close-ok",
    "connection.close-ok",
];

#[test]
fn however_the_bytes_are_cut_the_answers_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    for step in [1, 2, 3, 7, 64, usize::MAX] {
        let mut wire = Wire::accepted(&node);
        let bytes = session();
        for part in bytes.chunks(step.min(bytes.len())) {
            wire.send_raw(part);
        }
        wire.until("the end", |w| w.connection.reading() == Reading::Over);
        let came = wire.came();
        let names: Vec<_> = came.iter().map(|c| c.method.name()).collect();
        assert_eq!(names, ANSWERS, "in steps of {step}");
        assert_eq!(
            bodies(&came[5..8]),
            [&b"one"[..], b"", &[b'x'; 300]],
            "in steps of {step}"
        );
        let mut wire = Wire::open(&node);
        wire.open_channel(1);
        // What the session left unacknowledged has come back.
        assert_eq!(wire.drain(1, "q").len(), 3);
    }
}

#[test]
fn a_durable_declare_holds_back_what_is_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    let mut bytes = Vec::new();
    for no_wait in [false, true] {
        for name in ["a", "b", "c"] {
            let durable = QueueDeclare {
                durable: true,
                no_wait,
                ..declare(&format!("{name}-{no_wait}"))
            };
            put(&mut bytes, 1, durable);
        }
    }
    put(&mut bytes, 1, get("c-true"));
    wire.send_raw(&bytes);
    for _ in 0..3 {
        wire.expect("queue.declare-ok");
    }
    wire.expect("basic.get-empty");
    assert_eq!(wire.came(), []);
}

#[test]
fn nothing_is_confirmed_on_a_channel_after_its_close() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.confirm(1);
    let durable = QueueDeclare {
        durable: true,
        ..declare("q")
    };
    wire.send(1, durable);
    wire.expect("queue.declare-ok");
    for _ in 0..20 {
        // The publish waits for the disk when the next method closes the channel.
        let mut bytes = publish(1, "q", b"x");
        put(&mut bytes, 1, consume("missing", "", false));
        bytes.extend_from_slice(&publish(1, "q", b"never"));
        wire.send_raw(&bytes);
        let mut came = wire.came();
        came.retain(|c| c.method.name() != "basic.ack");
        wire.until("the journal", |w| {
            w.turn();
            node.durable() == node.store().journal().end()
        });
        came.extend(wire.came());
        let names: Vec<_> = came.iter().map(|c| c.method.name()).collect();
        assert_eq!(names, ["channel.close"]);
        assert_eq!(
            text(&came[0]),
            "NOT_FOUND - no queue 'missing' in vhost '/'"
        );
        wire.send(1, ChannelCloseOk {});
        wire.open_channel(1);
        wire.confirm(1);
    }
    let all = wire.drain(1, "q");
    assert_eq!(all, vec![(b"x".to_vec(), false); 20]);
}

#[test]
fn what_a_closed_channel_held_is_back_in_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.open_channel(2);
    wire.declare(1, "q");
    for body in [b"0", b"1", b"2", b"3"] {
        wire.publish(1, "q", body);
    }
    wire.get(1, "q").unwrap();
    wire.send(1, consume("q", "tag", false));
    wire.expect("basic.consume-ok");
    let delivered: Vec<_> = (0..3).map(|_| wire.expect("basic.deliver").body).collect();
    assert_eq!(delivered, [b"1", b"2", b"3"]);
    // More is on its way to the channel when it is closed and opened again at once.
    let mut bytes = publish(2, "q", b"4");
    put(&mut bytes, 1, ChannelClose::default());
    put(&mut bytes, 1, ChannelOpen::default());
    wire.send_raw(&bytes);
    wire.expect("channel.close-ok");
    wire.expect("channel.open-ok");
    let all = wire.drain(1, "q");
    let bodies: Vec<_> = all.iter().map(|(body, _)| body.as_slice()).collect();
    assert_eq!(bodies, [b"0", b"1", b"2", b"3", b"4"]);
    assert!(all[..4].iter().all(|(_, redelivered)| *redelivered));
}

#[test]
fn nothing_goes_to_another_consumer_of_a_connection_that_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut other = Wire::open(&node);
    other.open_channel(1);
    other.declare(1, "q");
    let mut wire = Wire::open(&node);
    for channel in [1, 2] {
        wire.open_channel(channel);
    }
    wire.send(1, consume("q", "keeps", false));
    wire.expect("basic.consume-ok");
    for number in 0..10 {
        other.publish(1, "q", &[number]);
    }
    wire.until("deliveries", |w| {
        w.output_len() == 0
            && node
                .groups()
                .iter()
                .all(|g| g.views().iter().all(|v| v.depth.ready == 0))
    });
    for _ in 0..10 {
        wire.expect("basic.deliver");
    }
    // These would take for good whatever came their way.
    for (channel, tag) in [(1, "takes"), (2, "takes, too")] {
        wire.send(channel, consume("q", tag, true));
        wire.expect("basic.consume-ok");
    }
    wire.connection.lost("the test is over");
    assert_eq!(wire.connection.reading(), Reading::Over);
    // Again: there is nothing left to give back.
    wire.connection.release();
    let all = other.drain(1, "q");
    let wanted: Vec<_> = (0..10).map(|number| (vec![number], true)).collect();
    assert_eq!(all, wanted);
}

#[test]
fn exclusive_queues_go_with_their_connection() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let exclusive = || QueueDeclare {
        exclusive: true,
        ..declare("mine")
    };
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.send(1, exclusive());
    wire.expect("queue.declare-ok");
    let mut other = Wire::open(&node);
    other.open_channel(1);
    other.send(1, exclusive());
    assert!(text(&other.expect("channel.close")).starts_with("RESOURCE_LOCKED"));
    other.send(1, ChannelCloseOk {});
    wire.connection.lost("the test says so");
    other.open_channel(1);
    other.send(1, exclusive());
    other.expect("queue.declare-ok");
}

#[test]
fn output_that_is_not_taken_stops_the_input() {
    const BODY: usize = 1 << 20;
    const COUNT: usize = 32;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.declare(1, "q");
    for _ in 0..COUNT {
        wire.publish(1, "q", &vec![7; BODY]);
    }
    wire.stuck = true;
    let mut bytes = Vec::new();
    for _ in 0..COUNT {
        put(&mut bytes, 1, get("q"));
    }
    wire.send_raw(&bytes);
    assert_eq!(wire.connection.reading(), Reading::No);
    assert!(wire.output_len() < OUTPUT_BYTES_MAX + BODY + (64 << 10));
    assert!(
        wire.connection.take_waited(),
        "there is more to be looked at"
    );
    wire.stuck = false;
    for _ in 0..COUNT {
        assert_eq!(wire.expect("basic.get-ok").body.len(), BODY);
    }
}

#[test]
fn a_client_that_does_not_read_can_be_closed() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.declare(1, "q");
    wire.stuck = true;
    wire.send(1, consume("q", "tag", true));
    wire.publish(1, "q", &vec![7; 1 << 20]);
    wire.until("output", |w| w.output_len() > 1 << 20);
    wire.connection
        .outbox()
        .push(Event::Close("the operator says so".to_owned()));
    wire.turn();
    assert!(wire.connection.is_closing());
    wire.stuck = false;
    wire.expect("basic.consume-ok");
    wire.expect("basic.deliver");
    let close = wire.expect("connection.close");
    assert_eq!(text(&close), "CONNECTION_FORCED - the operator says so");
    assert!(node.connections().is_empty());
}

#[test]
fn an_alarm_stops_a_connection_at_its_first_publish() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.confirm(1);
    let outbox = wire.connection.outbox().clone();
    outbox.push(Event::Blocked(Some("low on memory".to_owned())));
    wire.declare(1, "q");
    let mut bytes = publish(1, "q", b"x");
    put(&mut bytes, 1, get("q"));
    wire.send_raw(&bytes);
    let blocked = wire.expect("connection.blocked");
    assert_eq!(blocked.channel, 0);
    assert_eq!(wire.connection.reading(), Reading::No);
    wire.turn();
    assert_eq!(wire.came(), []);
    outbox.push(Event::Blocked(None));
    wire.turn();
    wire.expect("connection.unblocked");
    assert!(
        wire.connection.take_waited(),
        "there is more to be looked at"
    );
    assert_eq!(wire.expect("basic.get-ok").body, b"x");
    wire.expect("basic.ack");
}

#[test]
fn a_cancelled_consumer_is_told_after_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    for _ in 0..10 {
        let durable = QueueDeclare {
            durable: true,
            ..declare("q")
        };
        wire.send(1, durable);
        wire.expect("queue.declare-ok");
        wire.send(1, consume("q", "tag", false));
        wire.expect("basic.consume-ok");
        let delete = QueueDelete {
            queue: short("q"),
            ..Default::default()
        };
        wire.send(1, delete);
        wire.expect("queue.delete-ok");
        let told = wire.expect("basic.cancel");
        let expected = BasicCancel {
            consumer_tag: short("tag"),
            no_wait: true,
        };
        assert_eq!(told.method, expected.into());
    }
}

#[test]
fn a_full_queue_refuses_as_rabbitmq_does() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut wire = Wire::open(&node);
    wire.open_channel(1);
    wire.confirm(1);
    let mut full = declare("full");
    full.arguments.insert("x-max-length", 1_i32);
    full.arguments.insert("x-overflow", "reject-publish");
    wire.send(1, full);
    wire.expect("queue.declare-ok");
    wire.declare(1, "free");
    let mut bytes = Vec::new();
    for queue in ["full", "full", "full", "free", "full", "free"] {
        bytes.extend_from_slice(&publish(1, queue, b"x"));
    }
    wire.send_raw(&bytes);
    wire.until("the answers", |w| w.output_len() == 0);
    let methods: Vec<_> = wire.came().into_iter().map(|c| c.method).collect();
    let ack = |delivery_tag| {
        Method::BasicAck(leveret_protocol::method::BasicAck {
            delivery_tag,
            multiple: false,
        })
    };
    // RabbitMQ's nacks leave `requeue` as it is by default.
    let nack = |delivery_tag| {
        Method::BasicNack(BasicNack {
            delivery_tag,
            multiple: true,
            requeue: true,
        })
    };
    assert_eq!(methods, [ack(1), nack(3), ack(4), nack(5), ack(6)]);
}

#[test]
fn garbage_ends_the_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path());
    let mut seed = 1_u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as usize
    };
    let whole = session();
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + random() % 4 {
            // Not in the protocol header: that is answered with one.
            let at = 8 + random() % (bytes.len() - 8);
            bytes[at] = random() as u8;
        }
        let mut wire = Wire::accepted(&node);
        wire.send_raw(&bytes);
        wire.connection.lost("the test is over");
    }
    assert!(node.connections().is_empty());
    Wire::open(&node).open_channel(1);
}
