//! A publishing connection.
//!
//! Messages stand ready encoded in a block of equal slots; sending one means to write its stamp and
//! hand the slot to the socket. Slot `i` belongs to route `i mod routes`, so a producer with several
//! routes goes round them. One write carries as many messages as window, schedule and socket allow.

use std::collections::VecDeque;

use rustc_hash::FxHashSet;

use super::counters::Shared;
use super::driver::{LinkEnd, Local};
use super::pace::Pace;
use super::plan::Plan;
use super::topology::Route;
use crate::clock::now_ns;
use crate::error::{Error, Result};
use crate::net::{Client, Other, ReadOutcome, Socket, other_method};
use crate::wire::{
    Cursor, Frame, FrameKind, MessageTemplate, STAMP_BYTES, Stamp, WireError, id, method_id,
};

/// A block holds at least this many octets, so that a write carries many messages.
const BLOCK_BYTES: usize = 256 << 10;
/// Stamped at one go; the stamps of a chunk share a reading of the clock.
const CHUNK_BYTES: usize = 64 << 10;
/// A block is not built larger than this, whatever size and routes ask for.
const BLOCK_BYTES_MAX: usize = 2 << 30;
/// Written before the other connections of the thread get their turn.
const TURN_BYTES: usize = 1 << 20;

/// One connection that publishes.
pub struct Producer {
    socket: Socket,
    block: Vec<u8>,
    slot_bytes: usize,
    slots: usize,
    body_at: usize,
    stamped: bool,
    streams: Vec<u32>,
    /// Slots stamped; those before `written` octets are with the system already.
    filled: usize,
    written: usize,
    /// Position of the next message: its route, and its number on that route.
    route: usize,
    seq: u64,
    total: u64,
    limit: u64,
    pace: Option<Pace>,
    window: usize,
    in_flight: InFlight,
    returning: Option<Returning>,
    refused: Vec<(u32, u64)>,
    counted: u64,
}

/// A basic.return of which content is still to come.
#[derive(Debug, Clone, Copy)]
struct Returning {
    remaining: u64,
    stamp: Option<Stamp>,
}

impl Producer {
    /// Producer number `n` of `plan`, on a connection with channel 1 open.
    ///
    /// # Errors
    /// The plan asks for more memory than a block may have, or the broker refuses confirms.
    pub fn new(mut client: Client, plan: &Plan, n: usize, routes: &[Route]) -> Result<Producer> {
        if plan.confirm_window > 0 {
            client.confirm_select()?;
        }
        let frame_max = client.frame_max;
        let properties = plan.properties();
        let templates = routes.iter().map(|route| {
            MessageTemplate::publish(
                1,
                &route.exchange,
                &route.routing_key,
                plan.mandatory,
                &properties,
                plan.size,
                frame_max,
            )
        });
        let mut block = Vec::new();
        let mut body_at = 0;
        for template in templates {
            block.extend_from_slice(&template.bytes);
            body_at = template.body_at;
            if block.len() > BLOCK_BYTES_MAX {
                return Err(Error::Usage(
                    "message size times queues is too large".into(),
                ));
            }
        }
        let round = block.len();
        while block.len() < BLOCK_BYTES {
            block.extend_from_within(..round);
        }
        let slot_bytes = round / routes.len();
        let share = |total: u64| {
            let producers = plan.producers as u64;
            total / producers + u64::from((n as u64) < total % producers)
        };
        Ok(Producer {
            socket: Socket::new(client)?,
            slots: block.len() / slot_bytes,
            block,
            slot_bytes,
            body_at,
            stamped: plan.size >= STAMP_BYTES,
            streams: routes.iter().map(|r| r.stream).collect(),
            filled: 0,
            written: 0,
            route: 0,
            seq: 0,
            total: 0,
            limit: if plan.messages > 0 {
                share(plan.messages)
            } else {
                u64::MAX
            },
            pace: None,
            window: plan.confirm_window,
            in_flight: InFlight::default(),
            returning: None,
            refused: Vec::new(),
            counted: 0,
        })
    }

    /// Publishes on a schedule instead of as fast as it goes.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = Some(pace);
    }

    /// The connection.
    pub fn socket(&mut self) -> &mut Socket {
        &mut self.socket
    }

    /// When the next message is due, if this producer follows a schedule and may send.
    pub fn due_ns(&self) -> Option<u64> {
        let pace = self.pace?;
        (self.total < self.limit && self.has_window()).then(|| pace.due_ns(self.total))
    }

    /// True while there is something to send or to wait for.
    pub fn is_active(&self, now: u64, shared: &Shared) -> bool {
        let sending = self.total < self.limit && now < shared.deadline_ns;
        sending || self.unwritten() > 0 || self.in_flight.count() > 0
    }

    /// Takes confirms in and sends what may be sent. True if there is more to do at once.
    ///
    /// # Errors
    /// The connection ended or the broker broke the protocol.
    pub fn turn(&mut self, readable: bool, shared: &Shared, local: &mut Local) -> Result<bool> {
        if readable {
            while self.receive(shared, local)? == ReadOutcome::More {}
        }
        let more = self.send(shared)?;
        if self.total > self.counted {
            local.progress_last_ns = now_ns();
        }
        local.counts.sent += self.total - self.counted;
        self.counted = self.total;
        Ok(more)
    }

    fn receive(&mut self, shared: &Shared, local: &mut Local) -> Result<ReadOutcome> {
        let outcome = self.socket.read()?;
        let now = now_ns();
        local.progress_last_ns = now;
        let Producer {
            socket,
            in_flight,
            returning,
            refused,
            streams,
            ..
        } = self;
        let mut blocked = None;
        socket.frames(|frame, _| {
            if frame.kind == FrameKind::Method {
                let (method, mut arguments) = method_id(frame.payload)?;
                match method {
                    id::BASIC_ACK => {
                        let (tag, multiple) = (arguments.u64()?, arguments.u8()? & 1 == 1);
                        local.counts.confirmed +=
                            in_flight.settle(tag, multiple, |_, sent_ns| {
                                if sent_ns >= shared.measure_from_ns {
                                    local.confirm.record(now.saturating_sub(sent_ns));
                                }
                            })?;
                    }
                    id::BASIC_NACK => {
                        let (tag, multiple) = (arguments.u64()?, arguments.u8()? & 1 == 1);
                        let routes = streams.len() as u64;
                        local.counts.nacked += in_flight.settle(tag, multiple, |tag, _| {
                            let nth = tag - 1;
                            let stream = streams[(nth % routes) as usize];
                            refused.push((stream, nth / routes));
                        })?;
                    }
                    id::BASIC_RETURN => {
                        *returning = Some(Returning {
                            remaining: 0,
                            stamp: None,
                        });
                        local.counts.returned += 1;
                    }
                    other => match other_method(other, arguments)? {
                        Other::Blocked => blocked = Some(true),
                        Other::Unblocked => blocked = Some(false),
                        Other::Ignored => {}
                    },
                }
            } else if let Some(stamp) = returned_content(returning, frame)? {
                refused.push((stamp.stream, stamp.seq));
            }
            Ok(())
        })?;
        if let Some(blocked) = blocked
            && blocked != std::mem::replace(&mut self.socket.blocked, blocked)
        {
            local.blocked = if blocked {
                local.blocked + 1
            } else {
                local.blocked - 1
            };
        }
        Ok(outcome)
    }

    /// Stamps and writes until window, schedule or socket say stop.
    fn send(&mut self, shared: &Shared) -> Result<bool> {
        let mut turn_bytes = 0;
        while turn_bytes < TURN_BYTES {
            if self.unwritten() == 0 {
                self.fill(shared);
                if self.unwritten() == 0 {
                    return Ok(false);
                }
            }
            let end = self.filled * self.slot_bytes;
            let pending = self.block.get(self.written..end).unwrap_or_default();
            let wanted = pending.len();
            match self.socket.write(pending)? {
                None => return Ok(false),
                Some(n) => {
                    self.written += n;
                    turn_bytes += n;
                    if n < wanted {
                        return Ok(false);
                    }
                }
            }
        }
        Ok(true)
    }

    fn unwritten(&self) -> usize {
        self.filled * self.slot_bytes - self.written
    }

    fn has_window(&self) -> bool {
        self.window == 0 || self.in_flight.count() < self.window
    }

    /// Stamps the next chunk. Everything before it has been written.
    fn fill(&mut self, shared: &Shared) {
        let now = now_ns();
        if now >= shared.deadline_ns {
            return;
        }
        // The first slot of the next message's route: early slots are the ones in the cache.
        self.filled = self.route;
        self.written = self.filled * self.slot_bytes;
        let room = (self.slots - self.filled).min((CHUNK_BYTES / self.slot_bytes).max(1));
        let left = usize::try_from(self.limit - self.total).unwrap_or(usize::MAX);
        let window = if self.window == 0 {
            usize::MAX
        } else {
            self.window - self.in_flight.count()
        };
        for _ in 0..room.min(left).min(window) {
            let time_ns = match self.pace {
                None => now,
                Some(pace) => match pace.due_ns(self.total) {
                    due if due > now => break,
                    due => due,
                },
            };
            self.stamp(time_ns);
            if self.window > 0 {
                self.in_flight.push(time_ns);
            }
        }
    }

    /// Makes the next slot the next message.
    #[inline]
    fn stamp(&mut self, time_ns: u64) {
        if self.stamped {
            let stamp = Stamp {
                stream: self.streams[self.route],
                seq: self.seq,
                time_ns,
            };
            let at = self.filled * self.slot_bytes + self.body_at;
            self.block[at..at + STAMP_BYTES].copy_from_slice(&stamp.encode());
        }
        self.filled += 1;
        self.total += 1;
        self.route += 1;
        if self.route == self.streams.len() {
            self.route = 0;
            self.seq += 1;
        }
    }

    /// What was sent, by stream, and what the broker refused.
    pub fn end(self) -> LinkEnd {
        let routes = self.streams.len() as u64;
        let sent = self.streams.iter().enumerate().map(|(i, &stream)| {
            (
                stream,
                self.total / routes + u64::from((i as u64) < self.total % routes),
            )
        });
        LinkEnd::Producer {
            sent: sent.collect(),
            refused: self.refused.into_iter().collect(),
        }
    }
}

/// Follows the content of a returned message; gives its stamp when it is complete.
fn returned_content(returning: &mut Option<Returning>, frame: Frame<'_>) -> Result<Option<Stamp>> {
    let Some(state) = returning else {
        return match frame.kind {
            FrameKind::Heartbeat => Ok(None),
            _ => Err(WireError::ContentOutOfPlace.into()),
        };
    };
    match frame.kind {
        FrameKind::Header => {
            let mut header = Cursor::new(frame.payload);
            header.u32()?;
            state.remaining = header.u64()?;
        }
        FrameKind::Body => {
            if state.stamp.is_none() {
                state.stamp = Stamp::decode(frame.payload);
            }
            let len = frame.payload.len() as u64;
            state.remaining = state
                .remaining
                .checked_sub(len)
                .ok_or(WireError::ContentOutOfPlace)?;
        }
        FrameKind::Method | FrameKind::Heartbeat => return Ok(None),
    }
    if state.remaining > 0 {
        return Ok(None);
    }
    Ok(returning.take().and_then(|r| r.stamp))
}

/// Publishes that wait for their confirm, by delivery tag.
#[derive(Debug, Default)]
struct InFlight {
    /// Send times from tag `settled + 1` on; 0 once settled out of order.
    times: VecDeque<u64>,
    settled: u64,
    open: usize,
}

impl InFlight {
    fn count(&self) -> usize {
        self.open
    }

    #[inline]
    fn push(&mut self, time_ns: u64) {
        self.times.push_back(time_ns.max(1));
        self.open += 1;
    }

    /// Ends the wait for `tag`, or for all up to it; says how many that were.
    ///
    /// # Errors
    /// The tag was never used.
    #[inline]
    fn settle(&mut self, tag: u64, multiple: bool, mut each: impl FnMut(u64, u64)) -> Result<u64> {
        let issued = self.settled + self.times.len() as u64;
        if tag > issued {
            return Err(Error::Failed(format!(
                "confirm for tag {tag}, but only {issued} were sent"
            )));
        }
        let mut count = 0;
        if multiple {
            // Tag 0 stands for all so far (AMQP 0-9-1, basic.ack).
            let last = if tag == 0 { issued } else { tag };
            while self.settled < last {
                let Some(time) = self.times.pop_front() else {
                    break;
                };
                self.settled += 1;
                if time > 0 {
                    each(self.settled, time);
                    count += 1;
                }
            }
        } else if tag > self.settled {
            let at = (tag - self.settled - 1) as usize;
            if let Some(time) = self.times.get_mut(at).map(std::mem::take)
                && time > 0
            {
                each(tag, time);
                count = 1;
            }
        }
        while self.times.front() == Some(&0) {
            self.times.pop_front();
            self.settled += 1;
        }
        self.open -= count as usize;
        Ok(count)
    }
}

/// Numbers that a broker refused, as pairs of stream and number.
pub type Refused = FxHashSet<(u32, u64)>;

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(f: &mut InFlight, tag: u64, multiple: bool) -> Vec<(u64, u64)> {
        let mut seen = Vec::new();
        let count = f
            .settle(tag, multiple, |tag, time| seen.push((tag, time)))
            .unwrap();
        assert_eq!(count as usize, seen.len());
        seen
    }

    #[test]
    fn confirms_in_any_order_count_once() {
        let mut f = InFlight::default();
        (1..=6).for_each(|n| f.push(n * 10));
        assert_eq!(settle(&mut f, 2, false), [(2, 20)]);
        assert_eq!(settle(&mut f, 2, false), []);
        assert_eq!(f.count(), 5);
        assert_eq!(settle(&mut f, 4, true), [(1, 10), (3, 30), (4, 40)]);
        assert_eq!(settle(&mut f, 3, true), []);
        assert_eq!(settle(&mut f, 5, false), [(5, 50)]);
        f.push(70);
        assert_eq!(settle(&mut f, 0, true), [(6, 60), (7, 70)]);
        assert_eq!((f.count(), f.times.len(), f.settled), (0, 0, 7));
    }

    #[test]
    fn a_confirm_for_what_was_never_sent_is_an_error() {
        let mut f = InFlight::default();
        f.push(1);
        assert!(f.settle(2, false, |_, _| {}).is_err());
        assert!(f.settle(2, true, |_, _| {}).is_err());
        assert_eq!(f.count(), 1);
    }

    #[test]
    fn a_returned_message_is_identified() {
        let mut returning = Some(Returning {
            remaining: 0,
            stamp: None,
        });
        let stamp = Stamp {
            stream: 3,
            seq: 9,
            time_ns: 1,
        };
        let mut header = vec![0, 60, 0, 0];
        header.extend_from_slice(&20u64.to_be_bytes());
        header.extend_from_slice(&[0, 0]);
        let encoded = stamp.encode();
        let mut step = |kind, payload: &[u8]| {
            returned_content(
                &mut returning,
                Frame {
                    kind,
                    channel: 1,
                    payload,
                },
            )
            .unwrap()
        };
        assert_eq!(step(FrameKind::Header, &header[..]), None);
        assert_eq!(step(FrameKind::Body, &encoded), None);
        assert_eq!(step(FrameKind::Body, &[0; 4][..]), Some(stamp));
        assert!(
            returned_content(
                &mut returning,
                Frame {
                    kind: FrameKind::Body,
                    channel: 1,
                    payload: &[0]
                }
            )
            .is_err()
        );
    }
}
