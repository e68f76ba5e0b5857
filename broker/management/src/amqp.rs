//! An AMQP client of this node, without a socket: one connection with one channel.
//!
//! It does what an HTTP request asks for, as the user who asks, and is gone with it. The peer is this process, so what it sends is
//! taken at its word; everything is bounded by [`PATIENCE`].

use std::net::SocketAddr;
use std::time::Duration;

use leveret_protocol::encode::put_method;
use leveret_protocol::frame::{BODY, FRAME_END, HEADER, PROTOCOL_HEADER};
use leveret_protocol::method::{
    BasicPublish, ChannelOpen, ConnectionClose, ConnectionOpen, ConnectionStartOk, ConnectionTuneOk,
};
use leveret_protocol::{
    BasicProperties, ContentHeaderRef, FrameKind, Method, ReplyCode, ShortStr, parse_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::{Instant, timeout_at};

use crate::broker::Broker;

/// How long a request may take in all. An alarm holds publishes back for longer than anybody waits.
pub const PATIENCE: Duration = Duration::from_secs(30);

const CHANNEL: u16 = 1;
/// Bytes read at a time.
const READ_BYTES: usize = 64 << 10;

/// Why the channel is of no more use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// The node closed channel or connection with this code and text.
    ByServer(u16, String),
    /// It ended, or did not answer in time.
    Lost,
}

impl Closed {
    /// The text without the code's name in front of it.
    pub fn explanation(&self) -> &str {
        match self {
            Closed::ByServer(_, text) => text.split_once(" - ").map_or(text, |(_, why)| why),
            Closed::Lost => "the node did not answer in time",
        }
    }

    /// Whether it was closed with this code.
    pub fn is(&self, code: ReplyCode) -> bool {
        matches!(self, Closed::ByServer(number, _) if *number == code.code())
    }
}

/// A message that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Its properties.
    pub properties: BasicProperties,
    /// Its body.
    pub body: Vec<u8>,
}

/// See the module.
#[derive(Debug)]
pub struct Channel {
    stream: DuplexStream,
    input: Vec<u8>,
    output: Vec<u8>,
    until: Instant,
}

fn short(text: &str) -> Result<ShortStr, Closed> {
    ShortStr::try_from(text).map_err(|_| {
        let text = "PRECONDITION_FAILED - a name is longer than 255 bytes".to_owned();
        Closed::ByServer(ReplyCode::PreconditionFailed.code(), text)
    })
}

impl Channel {
    /// Opens a connection to a virtual host and a channel.
    ///
    /// # Errors
    /// The login is refused.
    pub async fn open(
        broker: &dyn Broker,
        peer: SocketAddr,
        (user, password): (&str, &str),
        vhost: &str,
    ) -> Result<Channel, Closed> {
        let mut channel = Channel {
            stream: broker.dial(peer),
            input: Vec::new(),
            output: PROTOCOL_HEADER.to_vec(),
            until: Instant::now() + PATIENCE,
        };
        channel.flush().await?;
        channel.next(0).await?;
        channel.put_on(
            0,
            ConnectionStartOk {
                mechanism: short("PLAIN")?,
                response: format!("\0{user}\0{password}").into_bytes(),
                locale: short("en_US")?,
                ..Default::default()
            },
        );
        channel.flush().await?;
        let (channel_max, frame_max) = match channel.next(0).await?.0 {
            Method::ConnectionTune(tune) => (tune.channel_max, tune.frame_max),
            _ => return Err(Closed::Lost),
        };
        let heartbeat = 0;
        channel.put_on(
            0,
            ConnectionTuneOk {
                channel_max,
                frame_max,
                heartbeat,
            },
        );
        channel.put_on(
            0,
            ConnectionOpen {
                virtual_host: short(vhost)?,
                ..Default::default()
            },
        );
        channel.flush().await?;
        channel.next(0).await?;
        channel.call(ChannelOpen::default()).await?;
        Ok(channel)
    }

    fn put_on(&mut self, channel: u16, method: impl Into<Method>) {
        put_method(&mut self.output, channel, &method.into());
    }

    /// Sends a method that has no answer.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn send(&mut self, method: impl Into<Method>) -> Result<(), Closed> {
        self.put_on(CHANNEL, method);
        self.flush().await
    }

    /// Sends a method, and waits for its answer.
    ///
    /// # Errors
    /// The node closed the channel or connection instead.
    pub async fn call(
        &mut self,
        method: impl Into<Method>,
    ) -> Result<(Method, Option<Content>), Closed> {
        self.send(method).await?;
        self.next(CHANNEL).await
    }

    /// Publishes a message.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn publish(
        &mut self,
        publish: BasicPublish,
        properties: &BasicProperties,
        body: &[u8],
    ) -> Result<(), Closed> {
        /// Bytes of body in a frame: less than anybody's `frame_max`.
        const PART_BYTES: usize = 4000;
        self.put_on(CHANNEL, publish);
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&(body.len() as u64).to_be_bytes());
        properties.encode(&mut header);
        self.put_frame(HEADER, &header);
        for part in body.chunks(PART_BYTES) {
            self.put_frame(BODY, part);
        }
        self.flush().await
    }

    fn put_frame(&mut self, kind: u8, payload: &[u8]) {
        self.output.push(kind);
        self.output.extend_from_slice(&CHANNEL.to_be_bytes());
        let size = payload.len() as u32;
        self.output.extend_from_slice(&size.to_be_bytes());
        self.output.extend_from_slice(payload);
        self.output.push(FRAME_END);
    }

    async fn flush(&mut self) -> Result<(), Closed> {
        let output = std::mem::take(&mut self.output);
        // Both sides write into bounded pipes: what comes back must be taken meanwhile.
        let mut rest = output.as_slice();
        while !rest.is_empty() {
            let mut chunk = vec![0; READ_BYTES];
            let (mut reader, mut writer) = tokio::io::split(&mut self.stream);
            let step = async {
                tokio::select! {
                    biased;
                    written = writer.write(rest) => written.map(Ok),
                    read = reader.read(&mut chunk) => read.map(Err),
                }
            };
            match timeout_at(self.until, step).await {
                Ok(Ok(Ok(written))) if written > 0 => {
                    rest = rest.get(written..).unwrap_or_default();
                }
                Ok(Ok(Err(read))) if read > 0 => {
                    self.input
                        .extend_from_slice(chunk.get(..read).unwrap_or_default());
                }
                // What the node said before it hung up is still to be read.
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// The next method that comes on the channel; 0 is the connection.
    ///
    /// # Errors
    /// The node closed the channel or connection.
    pub async fn next(&mut self, channel: u16) -> Result<(Method, Option<Content>), Closed> {
        loop {
            let (on, method) = match self.frame().await? {
                (on, FrameKind::Method, payload) => {
                    (on, Method::decode(&payload).map_err(|_| Closed::Lost)?)
                }
                _ => continue,
            };
            match method {
                Method::ChannelClose(close) => {
                    let text = close.reply_text.to_string_lossy().into_owned();
                    return Err(Closed::ByServer(close.reply_code, text));
                }
                Method::ConnectionClose(close) => {
                    let text = close.reply_text.to_string_lossy().into_owned();
                    return Err(Closed::ByServer(close.reply_code, text));
                }
                method if on == channel => {
                    let content = match &method {
                        Method::BasicGetOk(_) | Method::BasicReturn(_) => {
                            Some(self.content().await?)
                        }
                        _ => None,
                    };
                    return Ok((method, content));
                }
                // connection.blocked, and its end.
                _ => {}
            }
        }
    }

    async fn content(&mut self) -> Result<Content, Closed> {
        let (_, FrameKind::Header, payload) = self.frame().await? else {
            return Err(Closed::Lost);
        };
        let header = ContentHeaderRef::parse(&payload).map_err(|_| Closed::Lost)?;
        let properties = BasicProperties::decode(header.properties).unwrap_or_default();
        let size = header.body_size as usize;
        let mut body = Vec::new();
        while body.len() < size {
            let (_, FrameKind::Body, part) = self.frame().await? else {
                return Err(Closed::Lost);
            };
            body.extend_from_slice(&part);
        }
        Ok(Content { properties, body })
    }

    async fn frame(&mut self) -> Result<(u16, FrameKind, Vec<u8>), Closed> {
        loop {
            let parsed = parse_frame(&self.input, 0).map_err(|_| Closed::Lost)?;
            if let Some((frame, used)) = parsed {
                let found = (frame.channel, frame.kind, frame.payload.to_vec());
                self.input.drain(..used);
                return Ok(found);
            }
            let mut chunk = vec![0; READ_BYTES];
            match timeout_at(self.until, self.stream.read(&mut chunk)).await {
                Ok(Ok(read)) if read > 0 => self
                    .input
                    .extend_from_slice(chunk.get(..read).unwrap_or_default()),
                _ => return Err(Closed::Lost),
            }
        }
    }

    /// Says goodbye. What was settled before is settled.
    pub async fn close(mut self) {
        self.put_on(
            0,
            ConnectionClose {
                reply_code: ReplyCode::Success.code(),
                ..Default::default()
            },
        );
        if self.flush().await.is_ok() {
            // Whatever it says: it has done what came before.
            let _ = self.next(0).await;
        }
    }
}
