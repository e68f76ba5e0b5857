//! Bytes of the parts of a message.

use std::sync::Arc;

use bytes::Bytes;
use leveret_queue::{DeadReason, EntryBuf, Message, Standing};

use super::{Attach, Item, Malformed};
use crate::node::Settle;

pub(super) struct Put<'a>(pub(super) &'a mut Vec<u8>);

impl Put<'_> {
    pub(super) fn u8(&mut self, v: u8) -> &mut Self {
        self.0.push(v);
        self
    }

    pub(super) fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    pub(super) fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Counts come from vectors that were bounded when they were made.
    pub(super) fn count(&mut self, n: usize) -> &mut Self {
        self.u32(u32::try_from(n).unwrap_or(u32::MAX))
    }

    pub(super) fn attach(&mut self, a: &Attach) {
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

    pub(super) fn item(&mut self, item: &Item) {
        let flags = u8::from(item.redelivered) | u8::from(item.delivery_count.is_some()) << 1;
        self.u64(item.number).u64(item.seq).u8(flags);
        self.u32(item.delivery_count.unwrap_or(0));
        let op = item.message.op_bytes();
        self.count(op.len());
        self.0.extend_from_slice(op);
    }
}

pub(super) struct Take<'a> {
    pub(super) bytes: &'a Bytes,
    pub(super) at: usize,
    /// The same bytes, as the home of the messages in them.
    pub(super) entry: Option<Arc<EntryBuf>>,
}

impl Take<'_> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let found = self.bytes.get(self.at..self.at.saturating_add(N));
        let array = found.and_then(|f| f.try_into().ok());
        self.at += N;
        array.ok_or(Malformed(self.at - N))
    }

    pub(super) fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Malformed(self.at - 1)),
        }
    }

    pub(super) fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things of at least `size` bytes, which must all be there.
    pub(super) fn count(&mut self, size: usize) -> Result<usize, Malformed> {
        let at = self.at;
        let n = self.u32()? as usize;
        match n.checked_mul(size) {
            Some(bytes) if bytes <= self.bytes.len() - self.at => Ok(n),
            _ => Err(Malformed(at)),
        }
    }

    pub(super) fn message(&mut self) -> Result<Message, Malformed> {
        let n = self.count(1)?;
        let bytes = self.bytes;
        let entry = self
            .entry
            .get_or_insert_with(|| EntryBuf::shared(bytes.clone()));
        let message = Message::in_buffer(entry, self.at..self.at + n);
        self.at += n;
        message.ok_or(Malformed(self.at - n))
    }

    pub(super) fn attach(&mut self) -> Result<Attach, Malformed> {
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

    pub(super) fn item(&mut self) -> Result<Item, Malformed> {
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

    pub(super) fn many<T>(
        &mut self,
        size: usize,
        mut one: impl FnMut(&mut Self) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let n = self.count(size)?;
        (0..n).map(|_| one(self)).collect()
    }

    pub(super) fn end<T>(self, value: T) -> Result<T, Malformed> {
        match self.at == self.bytes.len() {
            true => Ok(value),
            false => Err(Malformed(self.at)),
        }
    }
}

pub(super) fn how_number(how: Settle) -> u8 {
    match how {
        Settle::Ack => 0,
        Settle::Drop => 1,
        Settle::Requeue => 2,
    }
}

pub(super) fn how(number: u8) -> Option<Settle> {
    [Settle::Ack, Settle::Drop, Settle::Requeue]
        .get(usize::from(number))
        .copied()
}

pub(super) fn reason(number: u8) -> Option<DeadReason> {
    use DeadReason::{DeliveryLimit, Expired, MaxLen, Rejected};
    [Rejected, Expired, MaxLen, DeliveryLimit]
        .into_iter()
        .find(|r| *r as u8 == number)
}

/// Bytes of an [`Attach`].
pub(super) const ATTACH: usize = 37;
/// Bytes of an [`Item`] without its message.
pub(super) const ITEM: usize = 25;
