//! A client without a socket: bytes into a [`Connection`], bytes out of it.

#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use leveret::connection::{Connection, Peer, Reading};
use leveret::node::Node;
use leveret_config::Config;
use leveret_protocol::frame::PROTOCOL_HEADER;
use leveret_protocol::method::{
    BasicAck, BasicConsume, BasicGet, BasicPublish, ChannelOpen, ConfirmSelect, ConnectionOpen,
    ConnectionStartOk, ConnectionTuneOk, QueueDeclare,
};
use leveret_protocol::{FieldTable, FieldValue, FrameKind, Method, ShortStr, encode, parse_frame};

/// How long a condition may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node on an empty folder.
pub fn node(dir: &Path) -> Arc<Node> {
    let mut config = Config::default();
    config.node.data_dir = dir.to_path_buf();
    config.journal.segment_size_bytes = 4 << 20;
    let (node, _) = Node::start(config, 1 << 30).expect("the node starts");
    Arc::new(node)
}

pub fn short(text: &str) -> ShortStr {
    ShortStr::truncated(text.as_bytes())
}

/// What came from the broker: a method, and the body behind it if it has one.
#[derive(Clone, Debug, PartialEq)]
pub struct Came {
    pub channel: u16,
    pub method: Method,
    pub body: Vec<u8>,
}

pub struct Wire {
    pub connection: Connection,
    came: VecDeque<Came>,
    /// Bytes of the client that the connection has not taken yet.
    rest: Vec<u8>,
    /// The output is not taken: the client does not read.
    pub stuck: bool,
}

impl Wire {
    /// A connection that has said nothing yet.
    pub fn accepted(node: &Arc<Node>) -> Wire {
        let address = "127.0.0.1:1".parse().expect("an address");
        let peer = Peer {
            peer: address,
            local: address,
            tls: false,
            certificate_name: None,
        };
        Wire {
            connection: Connection::new(Arc::clone(node), peer),
            came: VecDeque::new(),
            rest: Vec::new(),
            stuck: false,
        }
    }

    /// A connection that is open.
    pub fn open(node: &Arc<Node>) -> Wire {
        let mut wire = Wire::accepted(node);
        wire.send_raw(&handshake());
        wire.expect("connection.open-ok");
        wire
    }

    /// Gives bytes to the connection as the server's task does.
    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.rest.extend_from_slice(bytes);
        self.turn();
    }

    /// Lets the connection work on what there is, and takes what it sends.
    pub fn turn(&mut self) {
        if self.connection.reading() == Reading::Yes && !self.rest.is_empty() {
            let used = self.connection.input(&self.rest);
            self.rest.drain(..used);
        }
        self.connection.turn();
        if !self.stuck {
            self.take_output();
        }
    }

    pub fn take_output(&mut self) {
        let out = std::mem::take(self.connection.output());
        let mut at = 0;
        while let Some((frame, size)) = parse_frame(&out[at..], 0).expect("well formed") {
            at += size;
            match frame.kind {
                FrameKind::Method => self.came.push_back(Came {
                    channel: frame.channel,
                    method: Method::decode(frame.payload).expect("well formed"),
                    body: Vec::new(),
                }),
                FrameKind::Body => {
                    let last = self.came.back_mut().expect("a method before");
                    assert_eq!(last.channel, frame.channel);
                    last.body.extend_from_slice(frame.payload);
                }
                FrameKind::Header | FrameKind::Heartbeat => {}
            }
        }
        assert_eq!(at, out.len(), "half a frame");
    }

    /// The bytes that are to be written, untouched.
    pub fn output_len(&mut self) -> usize {
        self.connection.output().len()
    }

    pub fn send(&mut self, channel: u16, method: impl Into<Method>) {
        let mut bytes = Vec::new();
        encode::put_method(&mut bytes, channel, &method.into());
        self.send_raw(&bytes);
    }

    /// Turns until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Wire) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < end,
                "waited for {what}; came: {:?}",
                self.came
            );
            std::thread::yield_now();
            self.turn();
        }
    }

    /// The next that comes; its name must be this.
    pub fn expect(&mut self, name: &str) -> Came {
        self.until(name, |wire| !wire.came.is_empty());
        let came = self.came.pop_front().expect("something came");
        if matches!(came.method.name(), "connection.start" | "connection.tune")
            && name != came.method.name()
        {
            return self.expect(name);
        }
        assert_eq!(came.method.name(), name, "{came:?}");
        came
    }

    /// What came and was not expected yet.
    pub fn came(&mut self) -> Vec<Came> {
        self.came.drain(..).collect()
    }

    pub fn open_channel(&mut self, channel: u16) {
        self.send(channel, ChannelOpen::default());
        self.expect("channel.open-ok");
    }

    pub fn declare(&mut self, channel: u16, queue: &str) {
        self.send(channel, declare(queue));
        self.expect("queue.declare-ok");
    }

    pub fn confirm(&mut self, channel: u16) {
        self.send(channel, ConfirmSelect::default());
        self.expect("confirm.select-ok");
    }

    pub fn publish(&mut self, channel: u16, queue: &str, body: &[u8]) {
        self.send_raw(&publish(channel, queue, body));
    }

    pub fn get(&mut self, channel: u16, queue: &str) -> Option<Came> {
        self.send(channel, get(queue));
        self.until("an answer", |wire| !wire.came.is_empty());
        let came = self.came.pop_front().expect("something came");
        match came.method {
            Method::BasicGetOk(_) => Some(came),
            Method::BasicGetEmpty(_) => None,
            other => panic!("{other:?}"),
        }
    }

    /// Takes everything out of a queue.
    pub fn drain(&mut self, channel: u16, queue: &str) -> Vec<(Vec<u8>, bool)> {
        let mut all = Vec::new();
        while let Some(came) = self.get(channel, queue) {
            let Method::BasicGetOk(ok) = came.method else {
                unreachable!()
            };
            self.send(
                channel,
                BasicAck {
                    delivery_tag: ok.delivery_tag,
                    multiple: false,
                },
            );
            all.push((came.body, ok.redelivered));
        }
        all
    }
}

/// The client's half of the handshake, at once.
pub fn handshake() -> Vec<u8> {
    let mut capabilities = FieldTable::default();
    for name in [
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
    ] {
        capabilities.insert(name, FieldValue::Bool(true));
    }
    let mut properties = FieldTable::default();
    properties.insert("capabilities", FieldValue::Table(capabilities));
    let mut bytes = PROTOCOL_HEADER.to_vec();
    let methods: [Method; 3] = [
        ConnectionStartOk {
            client_properties: properties,
            mechanism: short("PLAIN"),
            response: b"\0guest\0guest".to_vec(),
            locale: short("en_US"),
        }
        .into(),
        ConnectionTuneOk {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 0,
        }
        .into(),
        ConnectionOpen {
            virtual_host: short("/"),
            ..Default::default()
        }
        .into(),
    ];
    for method in methods {
        encode::put_method(&mut bytes, 0, &method);
    }
    bytes
}

pub fn declare(queue: &str) -> QueueDeclare {
    QueueDeclare {
        queue: short(queue),
        ..Default::default()
    }
}

pub fn get(queue: &str) -> BasicGet {
    BasicGet {
        queue: short(queue),
        ..Default::default()
    }
}

pub fn consume(queue: &str, tag: &str, no_ack: bool) -> BasicConsume {
    BasicConsume {
        queue: short(queue),
        consumer_tag: short(tag),
        no_ack,
        ..Default::default()
    }
}

/// A persistent message to a queue.
pub fn publish(channel: u16, queue: &str, body: &[u8]) -> Vec<u8> {
    /// Payload of a body frame.
    const PART: usize = 131_072 - 8;
    let method = BasicPublish {
        routing_key: short(queue),
        ..Default::default()
    };
    let mut bytes = Vec::new();
    encode::put_method(&mut bytes, channel, &method.into());
    // Class 60, weight 0, size; delivery-mode 2.
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(body.len() as u64).to_be_bytes());
    header.extend_from_slice(&[0x10, 0, 2]);
    put_frame(&mut bytes, 2, channel, &header);
    for part in body.chunks(PART) {
        put_frame(&mut bytes, 3, channel, part);
    }
    bytes
}

pub fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, payload: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
    out.push(0xCE);
}
