//! A blocking client: handshake, declarations, subscriptions, one method and its answer at a time.
//!
//! It sets scenarios up and measures churn. The connections under load start here and are handed
//! over to [`super::Socket`] with whatever arrived early.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::error::{Context, Error, Result};
use crate::uri::Uri;
use crate::wire::{
    Cursor, FRAME_OVERHEAD, FieldValue, FrameKind, MethodWriter, PROTOCOL_HEADER, Table, id,
    method_id, next_frame,
};

/// Frames are never asked to be larger than this, whatever the broker allows.
const FRAME_MAX_BYTES: u32 = 131_072;
/// The least that AMQP 0-9-1 allows (section 4.2.3, frame-min-size).
const FRAME_MIN_BYTES: u32 = 4096;
/// An answer that takes longer is a failure. Deleting a deep queue takes some brokers a while.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests that are sent before their answers are waited for.
const CALLS_AT_ONCE: usize = 500;
/// Deliveries that arrive before the hand-over are kept up to here.
const EARLY_BYTES_MAX: usize = 256 << 20;

/// How a queue is declared.
#[derive(Debug, Clone, Default)]
pub struct QueueOptions {
    /// Survives a restart.
    pub durable: bool,
    /// Dies with the connection.
    pub exclusive: bool,
    /// Dies with its last consumer.
    pub auto_delete: bool,
    /// Arguments such as `x-queue-type`.
    pub arguments: Table,
}

/// A connection that waits for each answer.
pub struct Client {
    stream: TcpStream,
    inbox: Vec<u8>,
    parsed: usize,
    early: Vec<u8>,
    out: Vec<u8>,
    /// Negotiated, octets, overhead included.
    pub frame_max: usize,
    /// Product and version that the broker announced, as far as it did.
    pub server: String,
}

impl Client {
    /// Connects, authenticates (PLAIN) and opens the virtual host. Heartbeats are turned off.
    ///
    /// # Errors
    /// No connection, no protocol, or a refusal by the broker.
    pub fn connect(uri: &Uri) -> Result<Client> {
        let address = format!("{}:{}", uri.host, uri.port);
        let stream = TcpStream::connect((uri.host.as_str(), uri.port))
            .context(format!("connecting to {address}"))?;
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .context("SO_RCVTIMEO")?;
        let mut client = Client {
            stream,
            inbox: Vec::new(),
            parsed: 0,
            early: Vec::new(),
            out: Vec::new(),
            frame_max: FRAME_MAX_BYTES as usize,
            server: String::new(),
        };
        client.handshake(uri)?;
        Ok(client)
    }

    /// Connects and opens channel 1.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn open(uri: &Uri) -> Result<Client> {
        let mut client = Client::connect(uri)?;
        client.open_channel(1)?;
        Ok(client)
    }

    fn handshake(&mut self, uri: &Uri) -> Result<()> {
        self.out.extend_from_slice(PROTOCOL_HEADER);
        self.flush()?;
        let start = self.wait(id::CONNECTION_START)?;
        let text = |key| table_text(&start, key).unwrap_or_default();
        self.server = format!("{} {}", text("product"), text("version"))
            .trim()
            .to_owned();
        let response = format!("\0{}\0{}", uri.user, uri.password);
        MethodWriter::frame(&mut self.out, 0, id::CONNECTION_START_OK, |m| {
            m.table(&client_properties())
                .short("PLAIN")
                .long(response.as_bytes())
                .short("en_US")
        });
        self.flush()?;
        let tune = self.wait(id::CONNECTION_TUNE)?;
        let mut tune = Cursor::new(&tune);
        let (channel_max, frame_max) = (tune.u16()?, tune.u32()?);
        let frame_max = if frame_max == 0 {
            FRAME_MAX_BYTES
        } else {
            frame_max
        };
        let frame_max = frame_max.clamp(FRAME_MIN_BYTES, FRAME_MAX_BYTES);
        self.frame_max = frame_max as usize;
        MethodWriter::frame(&mut self.out, 0, id::CONNECTION_TUNE_OK, |m| {
            m.u16(channel_max).u32(frame_max).u16(0)
        });
        MethodWriter::frame(&mut self.out, 0, id::CONNECTION_OPEN, |m| {
            m.short(&uri.vhost).short("").u8(0)
        });
        self.flush()?;
        self.wait(id::CONNECTION_OPEN_OK)?;
        Ok(())
    }

    /// Sends one method and waits for its answer; returns the answer's arguments.
    ///
    /// # Errors
    /// The broker closed the channel or the connection instead, or did not answer in time.
    pub fn call(
        &mut self,
        channel: u16,
        method: u32,
        answer: u32,
        arguments: impl FnOnce(MethodWriter<'_>) -> MethodWriter<'_>,
    ) -> Result<Vec<u8>> {
        MethodWriter::frame(&mut self.out, channel, method, arguments);
        self.flush()?;
        self.wait(answer)
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// As [`Client::call`], like all that follow.
    pub fn open_channel(&mut self, channel: u16) -> Result<()> {
        self.call(channel, id::CHANNEL_OPEN, id::CHANNEL_OPEN_OK, |m| {
            m.short("")
        })
        .map(drop)
    }

    /// Closes a channel.
    pub fn close_channel(&mut self, channel: u16) -> Result<()> {
        self.call(channel, id::CHANNEL_CLOSE, id::CHANNEL_CLOSE_OK, |m| {
            m.u16(200).short("").u16(0).u16(0)
        })
        .map(drop)
    }

    /// Declares a queue on channel 1 and says how many messages wait in it.
    pub fn declare_queue(&mut self, name: &str, options: &QueueOptions) -> Result<u32> {
        let bits = u8::from(options.durable) << 1
            | u8::from(options.exclusive) << 2
            | u8::from(options.auto_delete) << 3;
        self.declare(name, bits, &options.arguments)
    }

    /// Asks how many messages wait in a queue that must be there.
    pub fn queue_depth(&mut self, name: &str) -> Result<u32> {
        self.declare(name, 1, &Table::new())
    }

    fn declare(&mut self, name: &str, bits: u8, arguments: &Table) -> Result<u32> {
        let ok = self.call(1, id::QUEUE_DECLARE, id::QUEUE_DECLARE_OK, |m| {
            m.u16(0).short(name).u8(bits).table(arguments)
        })?;
        let mut ok = Cursor::new(&ok);
        ok.short()?;
        Ok(ok.u32()?)
    }

    /// Deletes a queue with its messages.
    pub fn delete_queue(&mut self, name: &str) -> Result<()> {
        self.call(1, id::QUEUE_DELETE, id::QUEUE_DELETE_OK, |m| {
            m.u16(0).short(name).u8(0)
        })
        .map(drop)
    }

    /// Declares an exchange.
    pub fn declare_exchange(&mut self, name: &str, kind: &str, durable: bool) -> Result<()> {
        self.call(1, id::EXCHANGE_DECLARE, id::EXCHANGE_DECLARE_OK, |m| {
            m.u16(0)
                .short(name)
                .short(kind)
                .u8(u8::from(durable) << 1)
                .table(&Table::new())
        })
        .map(drop)
    }

    /// Deletes an exchange with its bindings.
    pub fn delete_exchange(&mut self, name: &str) -> Result<()> {
        self.call(1, id::EXCHANGE_DELETE, id::EXCHANGE_DELETE_OK, |m| {
            m.u16(0).short(name).u8(0)
        })
        .map(drop)
    }

    /// Binds a queue to an exchange.
    pub fn bind_queue(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.call(1, id::QUEUE_BIND, id::QUEUE_BIND_OK, |m| {
            m.u16(0)
                .short(queue)
                .short(exchange)
                .short(key)
                .u8(0)
                .table(&Table::new())
        })
        .map(drop)
    }

    /// Binds a queue by many keys, many binds under way at once.
    pub fn bind_queue_often(
        &mut self,
        queue: &str,
        exchange: &str,
        mut keys: impl Iterator<Item = String>,
    ) -> Result<()> {
        loop {
            let some: Vec<String> = keys.by_ref().take(CALLS_AT_ONCE).collect();
            if some.is_empty() {
                return Ok(());
            }
            for key in &some {
                MethodWriter::frame(&mut self.out, 1, id::QUEUE_BIND, |m| {
                    m.u16(0)
                        .short(queue)
                        .short(exchange)
                        .short(key)
                        .u8(0)
                        .table(&Table::new())
                });
            }
            self.flush()?;
            for _ in &some {
                self.wait(id::QUEUE_BIND_OK)?;
            }
        }
    }

    /// Takes a binding away.
    pub fn unbind_queue(&mut self, queue: &str, exchange: &str, key: &str) -> Result<()> {
        self.call(1, id::QUEUE_UNBIND, id::QUEUE_UNBIND_OK, |m| {
            m.u16(0)
                .short(queue)
                .short(exchange)
                .short(key)
                .table(&Table::new())
        })
        .map(drop)
    }

    /// Turns confirms on for channel 1.
    pub fn confirm_select(&mut self) -> Result<()> {
        self.call(1, id::CONFIRM_SELECT, id::CONFIRM_SELECT_OK, |m| m.u8(0))
            .map(drop)
    }

    /// Limits unacknowledged deliveries of each later consumer of channel 1.
    pub fn qos(&mut self, prefetch_count: u16) -> Result<()> {
        self.call(1, id::BASIC_QOS, id::BASIC_QOS_OK, |m| {
            m.u32(0).u16(prefetch_count).u8(0)
        })
        .map(drop)
    }

    /// Subscribes on channel 1. Deliveries that come before the answer are kept for the hand-over.
    pub fn consume(&mut self, queue: &str, tag: &str, no_ack: bool) -> Result<()> {
        self.call(1, id::BASIC_CONSUME, id::BASIC_CONSUME_OK, |m| {
            m.u16(0)
                .short(queue)
                .short(tag)
                .u8(u8::from(no_ack) << 1)
                .table(&Table::new())
        })
        .map(drop)
    }

    /// Closes the connection in good order.
    pub fn close(mut self) -> Result<()> {
        self.call(0, id::CONNECTION_CLOSE, id::CONNECTION_CLOSE_OK, |m| {
            m.u16(200).short("bye").u16(0).u16(0)
        })
        .map(drop)
    }

    /// The socket, and what has arrived on it but was not read yet.
    pub fn into_parts(mut self) -> (TcpStream, Vec<u8>) {
        self.early
            .extend_from_slice(self.inbox.get(self.parsed..).unwrap_or_default());
        (self.stream, self.early)
    }

    fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.out).context("writing")?;
        self.out.clear();
        Ok(())
    }

    /// Reads frames until the method `answer` is among them.
    fn wait(&mut self, answer: u32) -> Result<Vec<u8>> {
        loop {
            let unread = self.inbox.get(self.parsed..).unwrap_or_default();
            let Some(frame) = next_frame(unread, self.frame_max.max(FRAME_OVERHEAD))? else {
                self.fill()?;
                continue;
            };
            let frame_end = self.parsed + frame.wire_len();
            let keep = match frame.kind {
                FrameKind::Heartbeat => false,
                FrameKind::Header | FrameKind::Body => true,
                FrameKind::Method => {
                    let (method, arguments) = method_id(frame.payload)?;
                    if method == answer {
                        let arguments = frame.payload.get(4..).unwrap_or_default().to_vec();
                        self.parsed = frame_end;
                        return Ok(arguments);
                    }
                    if method == id::CONNECTION_CLOSE {
                        return Err(closed("connection", arguments)?);
                    }
                    if method == id::CHANNEL_CLOSE {
                        return Err(closed("channel", arguments)?);
                    }
                    true
                }
            };
            if keep {
                self.early
                    .extend_from_slice(self.inbox.get(self.parsed..frame_end).unwrap_or_default());
                if self.early.len() > EARLY_BYTES_MAX {
                    return Err(Error::Failed("too much arrived before the answer".into()));
                }
            }
            self.parsed = frame_end;
        }
    }

    fn fill(&mut self) -> Result<()> {
        self.inbox.drain(..self.parsed);
        self.parsed = 0;
        let len = self.inbox.len();
        self.inbox.resize(len + 65_536, 0);
        let outcome = self
            .stream
            .read(self.inbox.get_mut(len..).unwrap_or_default());
        self.inbox.truncate(len + *outcome.as_ref().unwrap_or(&0));
        match outcome.context("waiting for the broker")? {
            0 => Err(Error::Eof),
            _ => Ok(()),
        }
    }
}

/// Reads the reply of a close method.
///
/// # Errors
/// The arguments are cut short.
pub fn closed(scope: &'static str, mut arguments: Cursor<'_>) -> Result<Error> {
    let code = arguments.u16()?;
    let text = String::from_utf8_lossy(arguments.short()?).into_owned();
    Ok(Error::Closed { scope, code, text })
}

fn client_properties() -> Table {
    let yes = |name: &str| (name.to_owned(), FieldValue::Bool(true));
    vec![
        ("product".into(), FieldValue::Text("leveret-bench".into())),
        (
            "version".into(),
            FieldValue::Text(env!("CARGO_PKG_VERSION").into()),
        ),
        (
            "capabilities".into(),
            FieldValue::Table(vec![
                yes("publisher_confirms"),
                yes("basic.nack"),
                yes("consumer_cancel_notify"),
                yes("connection.blocked"),
                yes("authentication_failure_close"),
            ]),
        ),
    ]
}

/// The long string under `key` somewhere in an encoded field table. A search, not a parser: good
/// enough for names that are only shown.
fn table_text(table: &[u8], key: &str) -> Option<String> {
    let mut pattern = vec![key.len() as u8];
    pattern.extend_from_slice(key.as_bytes());
    pattern.push(b'S');
    let at = table
        .windows(pattern.len())
        .position(|window| window == pattern)?;
    let value = Cursor::new(table.get(at + pattern.len()..)?).long().ok()?;
    Some(String::from_utf8_lossy(value).into_owned())
}
