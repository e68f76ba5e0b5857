//! One connection of the relay: just enough of a broker's side of AMQP 0-9-1.

use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use super::{Fault, Outlet, Relay, Writer};
use crate::error::{Context, Error, Result};
use crate::wire::{
    Cursor, Frame, FrameKind, MethodWriter, PROTOCOL_HEADER, Table, WireError, id, method_id,
    next_frame,
};

const FRAME_MAX_BYTES: usize = 131_072;
const INBOX_BYTES: usize = FRAME_MAX_BYTES + (128 << 10);

struct Connection<'a> {
    relay: &'a Relay,
    writer: Writer,
    /// Answers, sent after each read.
    out: Vec<u8>,
    confirms: bool,
    /// Publishes so far on the channel.
    published: u64,
    /// Publishes confirmed so far.
    confirmed: u64,
    nacks: Vec<u64>,
    /// Routing key of the publish whose content is coming.
    routing_key: Vec<u8>,
    remaining: u64,
    /// Header and body frames of that publish.
    content: Vec<u8>,
    /// The last routing key's consumer, and whole deliveries for it.
    outlet: Option<(Vec<u8>, Arc<Outlet>)>,
    batch: Vec<u8>,
    /// A delivery held back to be swapped with the next.
    held: Option<Vec<u8>>,
}

/// Serves one connection to its end.
pub fn serve(relay: &Relay, mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true).context("TCP_NODELAY")?;
    let mut header = [0; 8];
    stream.read_exact(&mut header).context("relay: reading")?;
    if header != *PROTOCOL_HEADER {
        return Err(Error::Failed("no AMQP 0-9-1 client".into()));
    }
    let half = stream.try_clone().context("relay: dup")?;
    let writer = Writer(Arc::new(Mutex::new(half)));
    let mut connection = Connection {
        relay,
        writer: writer.clone(),
        out: Vec::new(),
        confirms: false,
        published: 0,
        confirmed: 0,
        nacks: Vec::new(),
        routing_key: Vec::new(),
        remaining: 0,
        content: Vec::new(),
        outlet: None,
        batch: Vec::new(),
        held: None,
    };
    let outcome = connection.run(&mut stream);
    relay.forget(&writer);
    outcome
}

impl Connection<'_> {
    fn run(&mut self, stream: &mut TcpStream) -> Result<()> {
        MethodWriter::frame(&mut self.out, 0, id::CONNECTION_START, |m| {
            m.u8(0)
                .u8(9)
                .table(&Table::new())
                .long(b"PLAIN")
                .long(b"en_US")
        });
        self.send_answers()?;
        let mut inbox = vec![0; INBOX_BYTES];
        let (mut start, mut end) = (0, 0);
        loop {
            inbox.copy_within(start..end, 0);
            end -= start;
            start = 0;
            let room = inbox.get_mut(end..).unwrap_or_default();
            match stream.read(room).context("relay: reading")? {
                0 => return Ok(()),
                n => end += n,
            }
            while let Some(frame) =
                next_frame(inbox.get(start..end).unwrap_or_default(), FRAME_MAX_BYTES)?
            {
                let whole = start..start + frame.wire_len();
                start = whole.end;
                match frame.kind {
                    FrameKind::Method => self.method(frame)?,
                    FrameKind::Heartbeat => {}
                    FrameKind::Header | FrameKind::Body => {
                        self.content(frame, inbox.get(whole).unwrap_or_default())?;
                    }
                }
            }
            self.send_batch()?;
            self.confirm();
            self.send_answers()?;
        }
    }

    fn content(&mut self, frame: Frame<'_>, wire: &[u8]) -> Result<()> {
        if frame.kind == FrameKind::Header {
            let mut header = Cursor::new(frame.payload);
            header.u32()?;
            self.remaining = header.u64()?;
        } else {
            let len = frame.payload.len() as u64;
            self.remaining = self
                .remaining
                .checked_sub(len)
                .ok_or(WireError::ContentOutOfPlace)?;
        }
        self.content.extend_from_slice(wire);
        if self.remaining == 0 {
            self.published += 1;
            self.deliver()?;
            self.content.clear();
        }
        Ok(())
    }

    /// Appends a delivery of the publish that is complete, or commits the fault.
    fn deliver(&mut self) -> Result<()> {
        let due = |(fault, every)| self.published.is_multiple_of(every).then_some(fault);
        let fault = self.relay.fault.and_then(due);
        match fault {
            Some(Fault::Lose) => return Ok(()),
            Some(Fault::Nack) => {
                self.nacks.push(self.published);
                return Ok(());
            }
            Some(Fault::Corrupt) => {
                // The last octet of the body, before the frame's end octet.
                if let Some(at) = self.content.len().checked_sub(2) {
                    self.content[at] ^= 0xff;
                }
            }
            Some(Fault::Duplicate) => self.append()?,
            Some(Fault::Swap) | None => {}
        }
        let before = self.batch.len();
        self.append()?;
        if fault == Some(Fault::Swap) {
            self.held = Some(self.batch.split_off(before));
        } else if let Some(held) = self.held.take() {
            self.batch.extend_from_slice(&held);
        }
        Ok(())
    }

    fn append(&mut self) -> Result<()> {
        if !matches!(&self.outlet, Some((key, _)) if *key == self.routing_key) {
            self.send_batch()?;
            let key = self.routing_key.clone();
            self.outlet = self.relay.outlet(&key).map(|outlet| (key, outlet));
        }
        let Some((_, outlet)) = &self.outlet else {
            return Ok(());
        };
        let delivery_tag = outlet.delivered.fetch_add(1, Relaxed) + 1;
        MethodWriter::frame(&mut self.batch, outlet.channel, id::BASIC_DELIVER, |m| {
            m.short(&outlet.tag)
                .u64(delivery_tag)
                .u8(0)
                .short("")
                .short("k")
        });
        self.batch.extend_from_slice(&self.content);
        Ok(())
    }

    fn send_batch(&mut self) -> Result<()> {
        if let Some((_, outlet)) = &self.outlet
            && !self.batch.is_empty()
        {
            outlet.writer.send(&self.batch)?;
        }
        self.batch.clear();
        // The next batch goes to the next consumer of the queue.
        self.outlet = None;
        Ok(())
    }

    /// One ack for all that came with the last read, around what is to be nacked.
    fn confirm(&mut self) {
        if !self.confirms || self.confirmed == self.published {
            return;
        }
        for tag in self.nacks.drain(..) {
            if tag - 1 > self.confirmed {
                put_ack(&mut self.out, tag - 1);
            }
            MethodWriter::frame(&mut self.out, 1, id::BASIC_NACK, |m| m.u64(tag).u8(0));
            self.confirmed = tag;
        }
        if self.published > self.confirmed {
            put_ack(&mut self.out, self.published);
            self.confirmed = self.published;
        }
    }

    fn send_answers(&mut self) -> Result<()> {
        if !self.out.is_empty() {
            self.writer.send(&self.out)?;
            self.out.clear();
        }
        Ok(())
    }

    fn method(&mut self, frame: Frame<'_>) -> Result<()> {
        let (method, mut arguments) = method_id(frame.payload)?;
        let channel = frame.channel;
        let plain = match method {
            id::BASIC_PUBLISH => {
                arguments.u16()?;
                arguments.short()?;
                let key = arguments.short()?;
                self.routing_key.clear();
                self.routing_key.extend_from_slice(key);
                return Ok(());
            }
            id::CONNECTION_START_OK => {
                let frame_max = FRAME_MAX_BYTES as u32;
                MethodWriter::frame(&mut self.out, 0, id::CONNECTION_TUNE, |m| {
                    m.u16(2047).u32(frame_max).u16(60)
                });
                return Ok(());
            }
            id::CONNECTION_OPEN => {
                MethodWriter::frame(&mut self.out, 0, id::CONNECTION_OPEN_OK, |m| m.short(""));
                return Ok(());
            }
            id::CHANNEL_OPEN => {
                MethodWriter::frame(&mut self.out, channel, id::CHANNEL_OPEN_OK, |m| m.u32(0));
                return Ok(());
            }
            id::QUEUE_DECLARE => {
                arguments.u16()?;
                let name = String::from_utf8_lossy(arguments.short()?).into_owned();
                MethodWriter::frame(&mut self.out, channel, id::QUEUE_DECLARE_OK, |m| {
                    m.short(&name).u32(0).u32(0)
                });
                return Ok(());
            }
            id::QUEUE_DELETE => {
                MethodWriter::frame(&mut self.out, channel, id::QUEUE_DELETE_OK, |m| m.u32(0));
                return Ok(());
            }
            id::BASIC_CONSUME => return self.consume(channel, arguments),
            id::CONFIRM_SELECT => {
                self.confirms = true;
                id::CONFIRM_SELECT_OK
            }
            id::BASIC_QOS => id::BASIC_QOS_OK,
            id::EXCHANGE_DECLARE => id::EXCHANGE_DECLARE_OK,
            id::EXCHANGE_DELETE => id::EXCHANGE_DELETE_OK,
            id::QUEUE_BIND => id::QUEUE_BIND_OK,
            id::QUEUE_UNBIND => id::QUEUE_UNBIND_OK,
            id::CHANNEL_CLOSE => id::CHANNEL_CLOSE_OK,
            id::CONNECTION_CLOSE => id::CONNECTION_CLOSE_OK,
            _ => return Ok(()),
        };
        MethodWriter::frame(&mut self.out, channel, plain, |m| m);
        Ok(())
    }

    fn consume(&mut self, channel: u16, mut arguments: Cursor<'_>) -> Result<()> {
        arguments.u16()?;
        let queue = arguments.short()?.to_vec();
        let tag = String::from_utf8_lossy(arguments.short()?).into_owned();
        MethodWriter::frame(&mut self.out, channel, id::BASIC_CONSUME_OK, |m| {
            m.short(&tag)
        });
        self.send_answers()?;
        let writer = self.writer.clone();
        self.relay.subscribe(
            &queue,
            Outlet {
                writer,
                tag,
                channel,
                delivered: AtomicU64::new(0),
            },
        );
        Ok(())
    }
}

fn put_ack(out: &mut Vec<u8>, tag: u64) {
    MethodWriter::frame(out, 1, id::BASIC_ACK, |m| m.u64(tag).u8(1));
}
