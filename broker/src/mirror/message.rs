//! What a session and a group's leader say to each other, and how that looks between nodes.
//!
//! A session speaks to one leader at a time, in order ([`Up`]); the leader answers in order ([`Down`]). On one node the values are
//! handed over as they are; between nodes they are encoded here: little-endian, every count checked against the bytes that are there.

use std::sync::Arc;

use bytes::Bytes;
pub use leveret_queue::SessionId;
use leveret_queue::{DeadReason, EntryBuf, Message, QueueId, Seq, Standing};

use crate::node::Settle;

/// A consumer's key in its session.
pub type ConsumerKey = u64;

/// Settles by sequence number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettleSeqs {
    /// The queue.
    pub queue: QueueId,
    /// Who holds them; `None`: nobody of this session any more.
    pub consumer: Option<ConsumerKey>,
    /// How.
    pub how: Settle,
    /// (the leader's number of the first, its sequence number, how many follow each other in both).
    pub items: Vec<(u64, Seq, u32)>,
}

/// What a consumer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attach {
    /// Its key.
    pub key: ConsumerKey,
    /// The queue.
    pub queue: QueueId,
    /// Deliveries are settled as they leave.
    pub no_ack: bool,
    /// It refuses others.
    pub exclusive: bool,
    /// It stands for basic.get only.
    pub passive: bool,
    /// It was cancelled and only holds what it has.
    pub cancelled: bool,
    /// `x-priority`.
    pub priority: i32,
    /// Unacknowledged messages at most; 0 means unlimited.
    pub prefetch: u32,
    /// Its channel's consumers share a window: it gets a delivery only for a place that was granted to it ([`Up::Grant`]).
    pub shared: bool,
    /// What an earlier leader said of it; `None` for a new one.
    pub before: Option<Standing>,
    /// Bytes of deliveries that it takes now.
    pub credit: u32,
}

/// A consumer that a session had when the leader changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What it asked for.
    pub attach: Attach,
    /// What it holds, in the order of its numbers: numbers 1 and up from now on.
    pub held: Vec<Seq>,
}

/// From a session to the leader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Up {
    /// The session begins with this leader; its first batch will be `next`.
    Claim {
        /// Number of the first batch that is not known to be committed.
        next: u64,
        /// Number of the last batch that comes right behind this; below `next`: none.
        last: u64,
        /// Its consumers.
        claims: Vec<Claim>,
    },
    /// To be applied once.
    Batch {
        /// Its number in the session.
        number: u64,
        /// Settles.
        settles: Vec<SettleSeqs>,
        /// An entry without sequence numbers; empty: none.
        entry: Bytes,
    },
    /// A new consumer.
    Attach {
        /// Named by the answer.
        request: u64,
        /// What it asks for.
        attach: Attach,
    },
    /// basic.cancel: it keeps what it holds.
    Cancel {
        /// Named by the answer.
        request: u64,
        /// Which.
        key: ConsumerKey,
    },
    /// Its channel is gone: what it holds returns.
    Release {
        /// Which.
        key: ConsumerKey,
    },
    /// It takes more bytes of deliveries.
    Credit {
        /// Which.
        key: ConsumerKey,
        /// How many more.
        bytes: u32,
    },
    /// Places in its channel's window, for as many deliveries.
    Grant {
        /// Whose.
        key: ConsumerKey,
        /// How many.
        places: u32,
    },
    /// Its channel's consumers share a window from now on.
    Share {
        /// Whose.
        key: ConsumerKey,
    },
    /// basic.get.
    Get {
        /// Named by the answer.
        request: u64,
        /// From where.
        queue: QueueId,
        /// Who holds it; `None`: nobody has to acknowledge it.
        holder: Option<ConsumerKey>,
    },
    /// queue.purge.
    Purge {
        /// Named by the answer.
        request: u64,
        /// Which.
        queue: QueueId,
    },
    /// Messages and consumers of a queue.
    Counts {
        /// Named by the answer.
        request: u64,
        /// Which.
        queue: QueueId,
        /// It is declared: restarts `x-expires`.
        touch: bool,
    },
    /// A dead letter is safe at its targets.
    DeadLettered {
        /// The queue that it leaves.
        queue: QueueId,
        /// Its number there.
        seq: Seq,
        /// Why it left.
        reason: DeadReason,
    },
}

/// A message on its way to a session's consumer.
#[derive(Debug, Clone)]
pub struct Item {
    /// The leader's number for it, 0 if it needs no acknowledgement.
    pub number: u64,
    /// Its number in the queue.
    pub seq: Seq,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// Times it came back, if the queue counts them.
    pub delivery_count: Option<u32>,
    /// The message itself.
    pub message: Message,
}

impl PartialEq for Item {
    fn eq(&self, other: &Item) -> bool {
        let fixed = |i: &Item| (i.number, i.seq, i.redelivered, i.delivery_count);
        fixed(self) == fixed(other) && self.message.op_bytes() == other.message.op_bytes()
    }
}

/// From the leader to a session.
#[derive(Debug, Clone, PartialEq)]
pub enum Down {
    /// Numbers up to here are committed and applied.
    Committed {
        /// The highest.
        number: u64,
        /// Ops that a queue refused, by batch.
        refused: Vec<(u64, Vec<u32>)>,
    },
    /// A claimed consumer holds less than it claimed: some went elsewhere.
    Claimed {
        /// Which.
        key: ConsumerKey,
        /// The leader's number of each message that was claimed, in that order; 0: it is not the consumer's any more.
        numbers: Vec<u64>,
    },
    /// Answer to [`Up::Attach`].
    Attached {
        /// Whose.
        request: u64,
        /// Its place in the order of arrival; `None`: it is not there.
        arrival: Option<u64>,
    },
    /// It became its queue's single active consumer, or is it no more.
    Active {
        /// Which.
        key: ConsumerKey,
        /// Which of the two.
        active: bool,
    },
    /// It has something to get, and no place for it in its channel's window.
    Wanted {
        /// Whose.
        key: ConsumerKey,
    },
    /// Granted places that it had no use for.
    Unused {
        /// Whose.
        key: ConsumerKey,
        /// How many.
        places: u32,
    },
    /// Deliveries of a queue, in its order.
    Deliver {
        /// To whom, and what.
        items: Vec<(ConsumerKey, Item)>,
    },
    /// The queue is gone.
    Cancelled {
        /// Whose.
        key: ConsumerKey,
    },
    /// Answer to [`Up::Cancel`]: nothing is delivered to it after this.
    Ended {
        /// Whose.
        request: u64,
    },
    /// Answer to [`Up::Get`].
    Got {
        /// Whose.
        request: u64,
        /// The message, and how many wait behind it.
        got: Option<(Item, u64)>,
    },
    /// Answer to [`Up::Purge`].
    Purged {
        /// Whose.
        request: u64,
        /// How many messages went.
        messages: u64,
    },
    /// Answer to [`Up::Counts`].
    Counts {
        /// Whose.
        request: u64,
        /// Messages that wait.
        ready: u64,
        /// Consumers.
        consumers: u32,
    },
    /// It does not lead (any more): the session is to look for another.
    NotLeading,
}

/// Bytes that are no message of this protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed session message at byte {0}")]
pub struct Malformed(pub usize);

struct Put<'a>(&'a mut Vec<u8>);

impl Put<'_> {
    fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Counts come from vectors that were bounded when they were made.
    fn count(&mut self, n: usize) -> &mut Self {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX))
    }

    fn attach(&mut self, a: &Attach) {
        let flags = u8::from(a.no_ack)
            | u8::from(a.exclusive) << 1
            | u8::from(a.passive) << 2
            | u8::from(a.cancelled) << 3
            | u8::from(a.shared) << 4
            | u8::from(a.before.is_some_and(|b| b.active)) << 5;
        self.u64(a.key).u64(a.queue).u8(flags);
        self.u32(a.priority as u32).u32(a.prefetch).u32(a.credit);
        // Arrivals are counted from 1.
        self.u64(a.before.map_or(0, |b| b.arrival));
    }

    fn item(&mut self, item: &Item) {
        let flags = u8::from(item.redelivered) | u8::from(item.delivery_count.is_some()) << 1;
        self.u64(item.number).u64(item.seq).u8(flags);
        self.u32(item.delivery_count.unwrap_or(0));
        let op = item.message.op_bytes();
        self.count(op.len());
        self.0.extend_from_slice(op);
    }
}

struct Take<'a> {
    bytes: &'a Bytes,
    at: usize,
    /// The same bytes, as the home of the messages in them.
    entry: Option<Arc<EntryBuf>>,
}

impl Take<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let found = self.bytes.get(self.at..self.at.saturating_add(N));
        let array = found.and_then(|f| f.try_into().ok());
        self.at += N;
        array.ok_or(Malformed(self.at - N))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed(self.at - 1)),
        }
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things of at least `size` bytes, which must all be there.
    fn count(&mut self, size: usize) -> Result<usize, Malformed> {
        let at = self.at;
        let n = self.u32()? as usize;
        match n.checked_mul(size) {
            Some(bytes) if bytes <= self.bytes.len() - self.at => Ok(n),
            _ => Err(Malformed(at)),
        }
    }

    fn message(&mut self) -> Result<Message, Malformed> {
        let n = self.count(1)?;
        let bytes = self.bytes;
        let entry = self
            .entry
            .get_or_insert_with(|| EntryBuf::shared(bytes.clone()));
        let message = Message::in_buffer(entry, self.at..self.at + n);
        self.at += n;
        message.ok_or(Malformed(self.at - n))
    }

    fn attach(&mut self) -> Result<Attach, Malformed> {
        let (key, queue, flags) = (self.u64()?, self.u64()?, self.u8()?);
        if flags > 63 {
            return Err(Malformed(self.at - 1));
        }
        let mut attach = Attach {
            key,
            queue,
            no_ack: flags & 1 != 0,
            exclusive: flags & 2 != 0,
            passive: flags & 4 != 0,
            cancelled: flags & 8 != 0,
            priority: self.u32()? as i32,
            prefetch: self.u32()?,
            credit: self.u32()?,
            shared: flags & 16 != 0,
            before: None,
        };
        let (arrival, active) = (self.u64()?, flags & 32 != 0);
        if arrival > 0 {
            attach.before = Some(Standing { arrival, active });
        } else if active {
            return Err(Malformed(self.at - 8));
        }
        Ok(attach)
    }

    fn item(&mut self) -> Result<Item, Malformed> {
        let (number, seq, flags, count) = (self.u64()?, self.u64()?, self.u8()?, self.u32()?);
        if flags > 3 {
            return Err(Malformed(self.at - 5));
        }
        Ok(Item {
            number,
            seq,
            redelivered: flags & 1 != 0,
            delivery_count: (flags & 2 != 0).then_some(count),
            message: self.message()?,
        })
    }

    fn many<T>(
        &mut self,
        size: usize,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let n = self.count(size)?;
        (0..n).map(|_| one(self)).collect()
    }

    fn end<T>(self, value: T) -> Result<T, Malformed> {
        match self.at == self.bytes.len() {
            true => Ok(value),
            false => Err(Malformed(self.at)),
        }
    }
}

fn how_number(how: Settle) -> u8 {
    match how {
        Settle::Ack => 0,
        Settle::Drop => 1,
        Settle::Requeue => 2,
    }
}

fn how(number: u8) -> Option<Settle> {
    [Settle::Ack, Settle::Drop, Settle::Requeue]
        .get(usize::from(number))
        .copied()
}

fn reason(number: u8) -> Option<DeadReason> {
    use DeadReason::{DeliveryLimit, Expired, MaxLen, Rejected};
    [Rejected, Expired, MaxLen, DeliveryLimit]
        .into_iter()
        .find(|r| *r as u8 == number)
}

/// Bytes of an [`Attach`].
const ATTACH: usize = 37;
/// Bytes of an [`Item`] without its message.
const ITEM: usize = 25;

impl Up {
    /// Appends its bytes. A batch's entry comes last and is answered instead of copied.
    #[must_use]
    pub fn encode(&self, out: &mut Vec<u8>) -> Option<Bytes> {
        let mut put = Put(out);
        match self {
            Up::Claim { next, last, claims } => {
                put.u8(1).u64(*next).u64(*last).count(claims.len());
                for claim in claims {
                    put.attach(&claim.attach);
                    put.count(claim.held.len());
                    for seq in &claim.held {
                        put.u64(*seq);
                    }
                }
            }
            Up::Batch {
                number,
                settles,
                entry,
            } => {
                put.u8(2).u64(*number).count(settles.len());
                for settle in settles {
                    put.u64(settle.queue).u8(how_number(settle.how));
                    put.u8(u8::from(settle.consumer.is_some()));
                    put.u64(settle.consumer.unwrap_or(0));
                    put.count(settle.items.len());
                    for (hint, seq, count) in &settle.items {
                        put.u64(*hint).u64(*seq).u32(*count);
                    }
                }
                return Some(entry.clone());
            }
            Up::Attach { request, attach } => {
                put.u8(3).u64(*request);
                put.attach(attach);
            }
            Up::Cancel { request, key } => {
                put.u8(4).u64(*request).u64(*key);
            }
            Up::Release { key } => {
                put.u8(5).u64(*key);
            }
            Up::Credit { key, bytes } => {
                put.u8(6).u64(*key).u32(*bytes);
            }
            Up::Get {
                request,
                queue,
                holder,
            } => {
                put.u8(7).u64(*request).u64(*queue);
                put.u8(u8::from(holder.is_some())).u64(holder.unwrap_or(0));
            }
            Up::Purge { request, queue } => {
                put.u8(8).u64(*request).u64(*queue);
            }
            Up::Counts {
                request,
                queue,
                touch,
            } => {
                put.u8(9).u64(*request).u64(*queue).u8(u8::from(*touch));
            }
            Up::DeadLettered { queue, seq, reason } => {
                put.u8(10).u64(*queue).u64(*seq).u8(*reason as u8);
            }
            Up::Grant { key, places } => {
                put.u8(11).u64(*key).u32(*places);
            }
            Up::Share { key } => {
                put.u8(12).u64(*key);
            }
        }
        None
    }

    /// Decodes what [`Up::encode`] wrote.
    ///
    /// # Errors
    /// An unknown kind, or lengths that do not add up.
    pub fn decode(bytes: &Bytes) -> Result<Up, Malformed> {
        let mut take = Take {
            bytes,
            at: 0,
            entry: None,
        };
        let up = match take.u8()? {
            1 => Up::Claim {
                next: take.u64()?,
                last: take.u64()?,
                claims: take.many(ATTACH + 4, |take| {
                    Ok(Claim {
                        attach: take.attach()?,
                        held: take.many(8, Take::u64)?,
                    })
                })?,
            },
            2 => {
                let number = take.u64()?;
                let settles = take.many(22, |take| {
                    let queue = take.u64()?;
                    let how = how(take.u8()?).ok_or(Malformed(take.at - 1))?;
                    let held = take.flag()?;
                    let key = take.u64()?;
                    Ok(SettleSeqs {
                        queue,
                        consumer: held.then_some(key),
                        how,
                        items: take.many(20, |t| Ok((t.u64()?, t.u64()?, t.u32()?)))?,
                    })
                })?;
                let entry = bytes.slice(take.at..);
                return Ok(Up::Batch {
                    number,
                    settles,
                    entry,
                });
            }
            3 => Up::Attach {
                request: take.u64()?,
                attach: take.attach()?,
            },
            4 => Up::Cancel {
                request: take.u64()?,
                key: take.u64()?,
            },
            5 => Up::Release { key: take.u64()? },
            6 => Up::Credit {
                key: take.u64()?,
                bytes: take.u32()?,
            },
            7 => {
                let (request, queue, held) = (take.u64()?, take.u64()?, take.flag()?);
                let key = take.u64()?;
                Up::Get {
                    request,
                    queue,
                    holder: held.then_some(key),
                }
            }
            8 => Up::Purge {
                request: take.u64()?,
                queue: take.u64()?,
            },
            9 => Up::Counts {
                request: take.u64()?,
                queue: take.u64()?,
                touch: take.flag()?,
            },
            10 => Up::DeadLettered {
                queue: take.u64()?,
                seq: take.u64()?,
                reason: reason(take.u8()?).ok_or(Malformed(take.at - 1))?,
            },
            11 => Up::Grant {
                key: take.u64()?,
                places: take.u32()?,
            },
            12 => Up::Share { key: take.u64()? },
            _ => return Err(Malformed(0)),
        };
        take.end(up)
    }
}

impl Down {
    /// Appends its bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut put = Put(out);
        match self {
            Down::Committed { number, refused } => {
                put.u8(1).u64(*number).count(refused.len());
                for (number, ops) in refused {
                    put.u64(*number).count(ops.len());
                    for op in ops {
                        put.u32(*op);
                    }
                }
            }
            Down::Claimed { key, numbers } => {
                put.u8(2).u64(*key).count(numbers.len());
                for number in numbers {
                    put.u64(*number);
                }
            }
            Down::Attached { request, arrival } => {
                put.u8(3).u64(*request).u8(u8::from(arrival.is_some()));
                put.u64(arrival.unwrap_or(0));
            }
            Down::Deliver { items } => {
                put.u8(4).count(items.len());
                for (key, item) in items {
                    put.u64(*key);
                    put.item(item);
                }
            }
            Down::Cancelled { key } => {
                put.u8(5).u64(*key);
            }
            Down::Got { request, got } => {
                put.u8(6).u64(*request).u8(u8::from(got.is_some()));
                if let Some((item, behind)) = got {
                    put.u64(*behind);
                    put.item(item);
                }
            }
            Down::Purged { request, messages } => {
                put.u8(7).u64(*request).u64(*messages);
            }
            Down::Counts {
                request,
                ready,
                consumers,
            } => {
                put.u8(8).u64(*request).u64(*ready).u32(*consumers);
            }
            Down::NotLeading => {
                put.u8(9);
            }
            Down::Ended { request } => {
                put.u8(10).u64(*request);
            }
            Down::Active { key, active } => {
                put.u8(11).u64(*key).u8(u8::from(*active));
            }
            Down::Wanted { key } => {
                put.u8(12).u64(*key);
            }
            Down::Unused { key, places } => {
                put.u8(13).u64(*key).u32(*places);
            }
        }
    }

    /// Decodes what [`Down::encode`] wrote.
    ///
    /// # Errors
    /// An unknown kind, or lengths that do not add up.
    pub fn decode(bytes: &Bytes) -> Result<Down, Malformed> {
        let mut take = Take {
            bytes,
            at: 0,
            entry: None,
        };
        let down = match take.u8()? {
            1 => Down::Committed {
                number: take.u64()?,
                refused: take.many(12, |t| Ok((t.u64()?, t.many(4, Take::u32)?)))?,
            },
            2 => Down::Claimed {
                key: take.u64()?,
                numbers: take.many(8, Take::u64)?,
            },
            3 => {
                let (request, done, arrival) = (take.u64()?, take.flag()?, take.u64()?);
                let arrival = done.then_some(arrival);
                Down::Attached { request, arrival }
            }
            4 => Down::Deliver {
                items: take.many(8 + ITEM, |take| Ok((take.u64()?, take.item()?)))?,
            },
            5 => Down::Cancelled { key: take.u64()? },
            6 => {
                let request = take.u64()?;
                let got = match take.flag()? {
                    false => None,
                    true => {
                        let behind = take.u64()?;
                        Some((take.item()?, behind))
                    }
                };
                Down::Got { request, got }
            }
            7 => Down::Purged {
                request: take.u64()?,
                messages: take.u64()?,
            },
            8 => Down::Counts {
                request: take.u64()?,
                ready: take.u64()?,
                consumers: take.u32()?,
            },
            9 => Down::NotLeading,
            10 => Down::Ended {
                request: take.u64()?,
            },
            11 => Down::Active {
                key: take.u64()?,
                active: take.flag()?,
            },
            12 => Down::Wanted { key: take.u64()? },
            13 => Down::Unused {
                key: take.u64()?,
                places: take.u32()?,
            },
            _ => return Err(Malformed(0)),
        };
        take.end(down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &[u8]) -> Message {
        let new = leveret_queue::NewMessage {
            exchange: b"x",
            routing_key: b"key",
            properties: &[0, 0],
            body: &[body],
            persistent: true,
            expiration_ms: Some(5),
            priority: 3,
            time_ms: 77,
        };
        leveret_queue::EntryBuilder::single(&new).expect("a message")
    }

    fn attach() -> Attach {
        Attach {
            key: 7,
            queue: 9,
            no_ack: true,
            exclusive: false,
            passive: true,
            cancelled: true,
            priority: -3,
            prefetch: 100,
            shared: true,
            before: Some(Standing {
                arrival: 5,
                active: true,
            }),
            credit: 65536,
        }
    }

    fn item() -> Item {
        Item {
            number: 4,
            seq: 5,
            redelivered: true,
            delivery_count: Some(2),
            message: message(b"body"),
        }
    }

    fn ups() -> Vec<Up> {
        vec![
            Up::Claim {
                next: 3,
                last: 5,
                claims: vec![Claim {
                    attach: attach(),
                    held: vec![1, 5, 2],
                }],
            },
            Up::Batch {
                number: 8,
                settles: vec![SettleSeqs {
                    queue: 9,
                    consumer: Some(7),
                    how: Settle::Requeue,
                    items: vec![(1, 10, 2), (4, 20, 1)],
                }],
                entry: Bytes::from_static(b"entry"),
            },
            Up::Attach {
                request: 1,
                attach: attach(),
            },
            Up::Cancel { request: 9, key: 7 },
            Up::Release { key: 7 },
            Up::Credit { key: 7, bytes: 100 },
            Up::Grant { key: 7, places: 3 },
            Up::Share { key: 7 },
            Up::Get {
                request: 2,
                queue: 9,
                holder: None,
            },
            Up::Purge {
                request: 3,
                queue: 9,
            },
            Up::Counts {
                request: 4,
                queue: 9,
                touch: true,
            },
            Up::DeadLettered {
                queue: 9,
                seq: 3,
                reason: DeadReason::MaxLen,
            },
        ]
    }

    fn downs() -> Vec<Down> {
        vec![
            Down::Committed {
                number: 4,
                refused: vec![(3, vec![0, 2])],
            },
            Down::Claimed {
                key: 7,
                numbers: vec![1, 0, 2],
            },
            Down::Attached {
                request: 1,
                arrival: Some(3),
            },
            Down::Attached {
                request: 1,
                arrival: None,
            },
            Down::Active {
                key: 7,
                active: true,
            },
            Down::Wanted { key: 7 },
            Down::Unused { key: 7, places: 2 },
            Down::Deliver {
                items: vec![(7, item()), (8, item())],
            },
            Down::Cancelled { key: 7 },
            Down::Got {
                request: 2,
                got: Some((item(), 17)),
            },
            Down::Got {
                request: 2,
                got: None,
            },
            Down::Purged {
                request: 3,
                messages: 5,
            },
            Down::Counts {
                request: 4,
                ready: 6,
                consumers: 2,
            },
            Down::NotLeading,
            Down::Ended { request: 8 },
        ]
    }

    fn bytes_of(up: &Up) -> Bytes {
        let mut out = Vec::new();
        let tail = up.encode(&mut out);
        out.extend_from_slice(&tail.unwrap_or_default());
        Bytes::from(out)
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        for up in ups() {
            assert_eq!(Up::decode(&bytes_of(&up)), Ok(up));
        }
        for down in downs() {
            let mut out = Vec::new();
            down.encode(&mut out);
            assert_eq!(Down::decode(&Bytes::from(out)), Ok(down));
        }
    }

    #[test]
    fn cut_and_damaged_bytes_are_refused_or_something_else_but_never_trusted() {
        for up in ups() {
            let whole = bytes_of(&up);
            for end in 0..whole.len() {
                // A batch's entry has no length of its own: the frame has.
                if let Ok(other) = Up::decode(&whole.slice(..end)) {
                    assert!(matches!(other, Up::Batch { .. }), "{other:?}");
                }
            }
            for at in 0..whole.len() {
                let mut damaged = whole.to_vec();
                damaged[at] ^= 0xff;
                let _ = Up::decode(&Bytes::from(damaged));
            }
        }
        for down in downs() {
            let mut out = Vec::new();
            down.encode(&mut out);
            for end in 0..out.len() {
                assert!(Down::decode(&Bytes::copy_from_slice(&out[..end])).is_err());
            }
            for at in 0..out.len() {
                let mut damaged = out.clone();
                damaged[at] ^= 0xff;
                let _ = Down::decode(&Bytes::from(damaged));
            }
        }
    }

    #[test]
    fn a_count_without_its_items_allocates_nothing() {
        let mut out = vec![4];
        out.extend_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Down::decode(&Bytes::from(out)), Err(Malformed(1)));
    }
}
