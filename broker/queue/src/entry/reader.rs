//! Reading an entry: every length is checked before it is used.

use std::sync::Arc;

use super::{
    EntryBuf, EntryError, HEADER, KIND_ENQUEUE, KIND_RELOCATED, KIND_RETURN, KIND_SETTLE,
    MESSAGE_HEADER, Message, OP_HEADER, REFUSED, TABLE_ITEM, VERSION, pad8, u16_at, u32_at, u64_at,
};
use crate::{QueueId, Seq};

/// A settled range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledRange {
    /// First number.
    pub first: Seq,
    /// How many.
    pub count: u32,
    /// Bytes of their bodies together.
    pub bytes: u32,
}

/// A message that came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqReturn {
    /// Its number.
    pub seq: Seq,
    /// How often it has come back now.
    pub delivery_count: u32,
}

/// What an op is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A message for the slots.
    Enqueue,
    /// Messages of one slot that are done with, and the reason byte.
    Settle(u16, u8),
    /// Messages of one slot that came back.
    Return(u16),
    /// A message that moved.
    Relocated,
}

/// One op of an entry.
#[derive(Clone, Copy, Debug)]
pub struct OpRef<'a> {
    /// What it is.
    pub op: Op,
    /// Its offset in the entry.
    pub at: u32,
    bytes: &'a [u8],
    slots: usize,
}

impl<'a> OpRef<'a> {
    /// Slots of an Enqueue or Relocated op, refused ones left out.
    pub fn slots(&self) -> impl Iterator<Item = u16> + use<'a> {
        let bytes = self.bytes;
        let (at, n) = match self.op {
            Op::Enqueue | Op::Relocated => (MESSAGE_HEADER, self.slots),
            Op::Settle(..) | Op::Return(_) => (OP_HEADER, 1),
        };
        (0..n)
            .filter_map(move |i| u16_at(bytes, at + i * 2))
            .filter(|s| *s != REFUSED)
    }

    /// (slot, seq) pairs of a Relocated op.
    pub fn places(&self) -> impl Iterator<Item = (u16, Seq)> + use<'a> {
        let bytes = self.bytes;
        let n = if self.op == Op::Relocated {
            self.slots
        } else {
            0
        };
        let seqs = pad8(MESSAGE_HEADER + n * 2);
        (0..n).filter_map(move |i| {
            Some((
                u16_at(bytes, MESSAGE_HEADER + i * 2)?,
                u64_at(bytes, seqs + i * 8)?,
            ))
        })
    }

    /// Ranges of a Settle op.
    pub fn ranges(&self) -> impl Iterator<Item = SettledRange> + use<'a> {
        self.bytes
            .get(16..)
            .unwrap_or_default()
            .chunks_exact(16)
            .map(|c| SettledRange {
                first: u64_at(c, 0).unwrap_or(0),
                count: u32_at(c, 8).unwrap_or(0),
                bytes: u32_at(c, 12).unwrap_or(0),
            })
    }

    /// Seqs of a Return op.
    pub fn seqs(&self) -> impl Iterator<Item = SeqReturn> + use<'a> {
        self.bytes
            .get(16..)
            .unwrap_or_default()
            .chunks_exact(16)
            .map(|c| SeqReturn {
                seq: u64_at(c, 0).unwrap_or(0),
                delivery_count: u32_at(c, 8).unwrap_or(0),
            })
    }

    /// Bytes of the message's body.
    #[inline]
    pub fn body_len(&self) -> u32 {
        u32_at(self.bytes, 8).unwrap_or(0)
    }

    /// The message's `priority` property, 0 if absent.
    #[inline]
    pub fn priority(&self) -> u8 {
        self.bytes.get(18).copied().unwrap_or(0)
    }

    /// Whether the message has delivery_mode 2.
    #[inline]
    pub fn is_persistent(&self) -> bool {
        self.bytes
            .get(1)
            .is_some_and(|f| f & super::FLAG_PERSISTENT != 0)
    }
}

/// A checked entry.
#[derive(Clone, Debug)]
pub struct EntryReader<'a> {
    entry: &'a Arc<EntryBuf>,
    ops: u32,
    queues: usize,
    table: usize,
}

impl<'a> EntryReader<'a> {
    /// Checks the header.
    ///
    /// # Errors
    /// An unknown version, or lengths that do not add up.
    pub fn new(entry: &'a Arc<EntryBuf>) -> Result<Self, EntryError> {
        let head = entry.get(..HEADER).ok_or(EntryError::Malformed(0))?;
        if head[0] != VERSION {
            return Err(EntryError::Version(head[0]));
        }
        let queues = u16_at(head, 2).unwrap_or(0) as usize;
        let ops = u32_at(head, 4).unwrap_or(0);
        let table = u32_at(head, 8).unwrap_or(0) as usize;
        if table < HEADER || table + queues * TABLE_ITEM != entry.len() {
            return Err(EntryError::Malformed(8));
        }
        Ok(EntryReader {
            entry,
            ops,
            queues,
            table,
        })
    }

    /// Where the queue table begins.
    pub(crate) fn table(&self) -> usize {
        self.table
    }

    /// Number of ops.
    pub fn ops_len(&self) -> u32 {
        self.ops
    }

    /// The queue table: (queue, first number), in slot order.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, Seq)> + use<'a> {
        self.entry
            .get(self.table..)
            .unwrap_or_default()
            .chunks_exact(TABLE_ITEM)
            .map(|c| (u64_at(c, 0).unwrap_or(0), u64_at(c, 8).unwrap_or(0)))
    }

    /// The slot of a queue.
    pub fn slot_of(&self, queue: QueueId) -> Option<(u16, Seq)> {
        self.queues()
            .zip(0..)
            .find(|((id, _), _)| *id == queue)
            .map(|((_, seq), i)| (i, seq))
    }

    /// The message of an Enqueue or Relocated op.
    #[inline]
    pub fn message(&self, op: &OpRef<'_>) -> Message {
        Message::new(self.entry.clone(), op.at)
    }

    /// The ops in order; the first malformed one ends the iteration with an error.
    pub fn ops(&self) -> Ops<'a> {
        Ops {
            bytes: self.entry.get(..self.table).unwrap_or_default(),
            at: HEADER,
            left: self.ops,
            queues: self.queues,
        }
    }
}

/// Iterator over the ops of an entry.
#[derive(Debug)]
pub struct Ops<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u32,
    queues: usize,
}

impl<'a> Ops<'a> {
    #[cold]
    fn fail(&mut self) -> Result<OpRef<'a>, EntryError> {
        let at = self.at;
        (self.left, self.at) = (0, self.bytes.len());
        Err(EntryError::Malformed(at))
    }

    fn parse(&self) -> Option<OpRef<'a>> {
        let head = self.bytes.get(self.at..self.at + OP_HEADER)?;
        let slots = u16_at(head, 2)? as usize;
        let length = u32_at(head, 4)? as usize;
        if length < MESSAGE_HEADER.min(16) || !length.is_multiple_of(8) {
            return None;
        }
        let bytes = self.bytes.get(self.at..self.at + length)?;
        let op = match head[0] {
            KIND_ENQUEUE | KIND_RELOCATED => {
                let mut need = MESSAGE_HEADER + slots * 2;
                if head[0] == KIND_RELOCATED {
                    need = pad8(need) + slots * 8;
                }
                let fixed = bytes.get(..MESSAGE_HEADER)?;
                need += fixed[16] as usize + fixed[17] as usize;
                need = need.checked_add(u32_at(fixed, 8)? as usize)?;
                need = need.checked_add(u32_at(fixed, 12)? as usize)?;
                if need > length {
                    return None;
                }
                if head[0] == KIND_ENQUEUE {
                    Op::Enqueue
                } else {
                    Op::Relocated
                }
            }
            // The rest is items of 16 bytes.
            KIND_SETTLE | KIND_RETURN if slots != 1 || !length.is_multiple_of(16) => return None,
            KIND_SETTLE => Op::Settle(u16_at(bytes, 8)?, *bytes.get(10)?),
            KIND_RETURN => Op::Return(u16_at(bytes, 8)?),
            _ => return None,
        };
        let op = OpRef {
            op,
            at: self.at as u32,
            bytes,
            slots,
        };
        let in_table = match op.op {
            Op::Settle(slot, _) | Op::Return(slot) => (slot as usize) < self.queues,
            Op::Enqueue | Op::Relocated => op.slots().all(|s| (s as usize) < self.queues),
        };
        in_table.then_some(op)
    }
}

impl<'a> Iterator for Ops<'a> {
    type Item = Result<OpRef<'a>, EntryError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            // The ops end where the table begins.
            let malformed = self.at < self.bytes.len();
            return malformed.then(|| self.fail());
        }
        match self.parse() {
            Some(op) => {
                self.left -= 1;
                self.at += op.bytes.len();
                Some(Ok(op))
            }
            None => Some(self.fail()),
        }
    }
}
