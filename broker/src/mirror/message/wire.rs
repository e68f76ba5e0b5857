//! How messages look between nodes.

use bytes::Bytes;

use super::codec::{ATTACH, ITEM, Put, Take, how, how_number, reason};
use super::{Claim, Down, Malformed, SettleSeqs, Up};

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
