//! A consuming connection: any number of subscriptions on one channel.
//!
//! The consumer tag of a subscription is its number, so that a delivery is attributed by reading a
//! few digits. Nothing on the way of a delivery allocates.

use super::counters::Shared;
use super::driver::{LinkEnd, Local};
use super::plan::Plan;
use crate::clock::now_ns;
use crate::error::{Error, Result};
use crate::integrity::SubscriptionLog;
use crate::net::{Client, Other, ReadOutcome, Socket, other_method};
use crate::wire::{
    Cursor, Frame, FrameKind, MethodWriter, STAMP_BYTES, Stamp, WireError, id, method_id,
    pattern_matches,
};

/// Reads before the other connections of the thread get their turn.
const TURN_READS: usize = 8;
/// Acks that wait for room in the socket before deliveries are left unread.
const UNSENT_BYTES_MAX: usize = 4 << 20;

/// One connection that consumes.
pub struct Consumer {
    socket: Socket,
    intake: Intake,
}

/// Everything but the socket, so that frames can be borrowed from it meanwhile.
struct Intake {
    queues: Vec<usize>,
    logs: Vec<SubscriptionLog>,
    size: u64,
    stamped: bool,
    verify_body: bool,
    ack_every: u64,
    unacked: u64,
    last_tag: u64,
    delivery: Option<Delivery>,
    now: u64,
}

/// A delivery of which content is still to come.
#[derive(Debug, Clone, Copy)]
struct Delivery {
    tag: u64,
    subscription: usize,
    redelivered: bool,
    /// Body length by the header; `None` before the header.
    size: Option<u64>,
    got: u64,
    stamp: Option<Stamp>,
    intact: bool,
}

impl Consumer {
    /// Subscribes to `queues` (number and name) on a connection with channel 1 open.
    ///
    /// # Errors
    /// The broker refuses.
    pub fn new(mut client: Client, plan: &Plan, queues: &[(usize, String)]) -> Result<Consumer> {
        if plan.prefetch > 0 {
            client.qos(plan.prefetch)?;
        }
        for (n, (_, name)) in queues.iter().enumerate() {
            client.consume(name, &n.to_string(), plan.ack_every == 0)?;
        }
        Ok(Consumer {
            socket: Socket::new(client)?,
            intake: Intake {
                queues: queues.iter().map(|(number, _)| *number).collect(),
                logs: queues.iter().map(|_| SubscriptionLog::default()).collect(),
                size: plan.size as u64,
                stamped: plan.size >= STAMP_BYTES,
                verify_body: plan.verify_body,
                ack_every: plan.ack_every,
                unacked: 0,
                last_tag: 0,
                delivery: None,
                now: 0,
            },
        })
    }

    /// The connection.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// Takes deliveries in and acknowledges them. True if there is more to do at once.
    ///
    /// # Errors
    /// The connection ended or the broker broke the protocol.
    pub fn turn(&mut self, readable: bool, shared: &Shared, local: &mut Local) -> Result<bool> {
        if !self.socket.flush()? && self.socket.unsent() > UNSENT_BYTES_MAX {
            return Ok(false);
        }
        let mut more = readable;
        let mut reads = 0;
        while more && reads < TURN_READS {
            let outcome = self.socket.read()?;
            if outcome == ReadOutcome::Empty {
                more = false;
            } else {
                reads += 1;
                more = outcome == ReadOutcome::More;
                self.take_in(shared, local)?;
            }
        }
        Ok(more)
    }

    /// Handles what came before the connection was handed over.
    ///
    /// # Errors
    /// As [`Consumer::turn`].
    pub fn take_in(&mut self, shared: &Shared, local: &mut Local) -> Result<()> {
        let intake = &mut self.intake;
        intake.now = now_ns();
        self.socket
            .frames(|frame, out| intake.frame(frame, out, shared, local))?;
        self.socket.flush().map(drop)
    }

    /// Acknowledges what `ack_every` has left over.
    ///
    /// # Errors
    /// The connection ended.
    pub fn settle(&mut self) -> Result<()> {
        if self.intake.unacked > 0 {
            put_ack(self.socket.queue(), self.intake.last_tag, true);
            self.intake.unacked = 0;
        }
        self.socket.flush().map(drop)
    }

    /// What each subscription saw.
    pub fn end(self) -> LinkEnd {
        LinkEnd::Consumer(
            self.intake
                .queues
                .into_iter()
                .zip(self.intake.logs)
                .collect(),
        )
    }
}

impl Intake {
    #[inline]
    fn frame(
        &mut self,
        frame: Frame<'_>,
        out: &mut Vec<u8>,
        shared: &Shared,
        local: &mut Local,
    ) -> Result<()> {
        match frame.kind {
            FrameKind::Method => self.method(frame)?,
            FrameKind::Header => {
                let delivery = self.delivery.as_mut().ok_or(WireError::ContentOutOfPlace)?;
                let mut header = Cursor::new(frame.payload);
                header.u32()?;
                let size = header.u64()?;
                delivery.size = Some(size);
                if size == 0 {
                    self.complete(out, shared, local)?;
                }
            }
            FrameKind::Body => {
                if self.body(frame.payload)? {
                    self.complete(out, shared, local)?;
                }
            }
            FrameKind::Heartbeat => {}
        }
        Ok(())
    }

    #[inline]
    fn method(&mut self, frame: Frame<'_>) -> Result<()> {
        let (method, mut arguments) = method_id(frame.payload)?;
        if method != id::BASIC_DELIVER {
            return match other_method(method, arguments)? {
                Other::Blocked | Other::Unblocked | Other::Ignored => Ok(()),
            };
        }
        let subscription = number(arguments.short()?)
            .filter(|&n| n < self.logs.len())
            .ok_or_else(|| Error::Failed("a delivery for an unknown consumer tag".into()))?;
        self.delivery = Some(Delivery {
            tag: arguments.u64()?,
            subscription,
            redelivered: arguments.u8()? & 1 == 1,
            size: None,
            got: 0,
            stamp: None,
            intact: true,
        });
        Ok(())
    }

    /// Takes a piece of a body; true if it was the last.
    #[inline]
    fn body(&mut self, piece: &[u8]) -> Result<bool> {
        let delivery = self.delivery.as_mut().ok_or(WireError::ContentOutOfPlace)?;
        let size = delivery.size.ok_or(WireError::ContentOutOfPlace)?;
        let at = delivery.got;
        delivery.got += piece.len() as u64;
        if delivery.got > size {
            return Err(WireError::ContentOutOfPlace.into());
        }
        if at == 0 {
            delivery.stamp = Stamp::decode(piece);
        }
        if self.verify_body {
            let skip = if at == 0 && self.stamped {
                STAMP_BYTES
            } else {
                0
            };
            let rest = piece.get(skip..).unwrap_or_default();
            delivery.intact &= pattern_matches(rest, at as usize + skip);
        }
        Ok(delivery.got == size)
    }

    #[inline]
    fn complete(&mut self, out: &mut Vec<u8>, shared: &Shared, local: &mut Local) -> Result<()> {
        let delivery = self.delivery.take().ok_or(WireError::ContentOutOfPlace)?;
        local.counts.received += 1;
        local.progress_last_ns = self.now;
        let log = self
            .logs
            .get_mut(delivery.subscription)
            .ok_or_else(|| Error::Failed("a delivery for an unknown consumer tag".into()))?;
        if delivery.got != self.size || !delivery.intact {
            log.record_corrupted();
        } else if self.stamped
            && let Some(stamp) = delivery.stamp
        {
            log.record(stamp, delivery.redelivered);
            if stamp.time_ns >= shared.measure_from_ns {
                local
                    .end_to_end
                    .record(self.now.saturating_sub(stamp.time_ns));
            }
        }
        self.last_tag = delivery.tag;
        self.unacked += 1;
        if self.ack_every > 0 && self.unacked >= self.ack_every {
            put_ack(out, delivery.tag, self.ack_every > 1);
            self.unacked = 0;
        } else if self.ack_every == 0 {
            self.unacked = 0;
        }
        Ok(())
    }
}

fn put_ack(out: &mut Vec<u8>, tag: u64, multiple: bool) {
    MethodWriter::frame(out, 1, id::BASIC_ACK, |m| m.u64(tag).u8(u8::from(multiple)));
}

/// Decimal digits as a number.
#[inline]
fn number(digits: &[u8]) -> Option<usize> {
    let mut n = 0usize;
    for &d in digits {
        let digit = d.checked_sub(b'0').filter(|d| *d < 10)?;
        n = n.checked_mul(10)?.checked_add(usize::from(digit))?;
    }
    (!digits.is_empty()).then_some(n)
}
