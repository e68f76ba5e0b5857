//! Writing an entry.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{
    EntryBuf, EntryError, EntryReader, FLAG_PERSISTENT, HEADER, KIND_ENQUEUE, KIND_RELOCATED,
    KIND_RETURN, KIND_SETTLE, MESSAGE_HEADER, MemoryGauge, OP_HEADER, Op, REFUSED, VERSION, pad8,
    u16_at, u32_at,
};
use crate::{QueueId, Seq};

/// A message to be enqueued, borrowed from the publisher's buffers.
#[derive(Clone, Copy, Debug)]
pub struct NewMessage<'a> {
    /// Name of the exchange it was published to, at most 255 bytes.
    pub exchange: &'a [u8],
    /// Its routing key, at most 255 bytes.
    pub routing_key: &'a [u8],
    /// Property flags and list as they are on the wire.
    pub properties: &'a [u8],
    /// The body, possibly in several pieces (one a frame).
    pub body: &'a [&'a [u8]],
    /// delivery_mode 2.
    pub persistent: bool,
    /// The `expiration` property, decoded.
    pub expiration_ms: Option<u64>,
    /// The `priority` property, 0 if absent.
    pub priority: u8,
    /// Wall clock now.
    pub time_ms: u64,
}

/// A queue named by an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub queue: QueueId,
    /// Enqueues to it in this entry.
    pub enqueues: u32,
    pub seq_first: Seq,
}

/// An entry being filled.
///
/// The queue table goes behind the ops, so nothing moves when the entry is finished.
#[derive(Debug)]
pub struct EntryBuilder {
    buf: Vec<u8>,
    pub(crate) slots: Vec<Slot>,
    index: FxHashMap<QueueId, u16>,
    ops: u32,
    durable: bool,
    last: Option<(QueueId, u16)>,
    /// Where the last Settle op begins, if it is the last op: ranges are added to it.
    open_settle: Option<(usize, u16, u8)>,
}

/// Queues named by one entry at most; a fan-out to more is split over entries by the caller.
pub const SLOTS_MAX: usize = 0xFFF0;
const LINEAR_SLOTS: usize = 8;

impl Default for EntryBuilder {
    fn default() -> Self {
        Self::with_capacity(512)
    }
}

impl EntryBuilder {
    /// An empty entry with room for `bytes` before it grows.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::with_buffer(Vec::with_capacity(bytes.max(64)))
    }

    /// An empty entry in an empty buffer, from [`MemoryGauge::take_buffer`].
    pub fn with_buffer(mut buf: Vec<u8>) -> Self {
        buf.clear();
        buf.resize(HEADER, 0);
        EntryBuilder {
            buf,
            slots: Vec::new(),
            index: FxHashMap::default(),
            ops: 0,
            durable: false,
            last: None,
            open_settle: None,
        }
    }

    /// No op so far.
    pub fn is_empty(&self) -> bool {
        self.ops == 0
    }

    /// Ops so far.
    pub fn ops(&self) -> u32 {
        self.ops
    }

    /// The queues that it names.
    pub fn queues(&self) -> impl Iterator<Item = QueueId> {
        self.slots.iter().map(|slot| slot.queue)
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    /// Whether an op in it must be journaled.
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Marks the entry as one that must be journaled.
    pub fn set_durable(&mut self) {
        self.durable = true;
    }

    /// Whether `more` queues still fit in the table.
    pub fn has_slots(&self, more: usize) -> bool {
        self.slots.len() + more <= SLOTS_MAX
    }

    #[inline]
    fn slot(&mut self, queue: QueueId) -> u16 {
        if let Some((last, slot)) = self.last
            && last == queue
        {
            return slot;
        }
        let slot = self.find_slot(queue);
        self.last = Some((queue, slot));
        slot
    }

    fn find_slot(&mut self, queue: QueueId) -> u16 {
        if self.slots.len() <= LINEAR_SLOTS {
            if let Some(at) = self.slots.iter().position(|s| s.queue == queue) {
                return at as u16;
            }
        } else {
            if self.index.is_empty() {
                self.index = self
                    .slots
                    .iter()
                    .zip(0..)
                    .map(|(s, i)| (s.queue, i))
                    .collect();
            }
            if let Some(&at) = self.index.get(&queue) {
                return at;
            }
        }
        let at = self.slots.len() as u16;
        self.slots.push(Slot {
            queue,
            enqueues: 0,
            seq_first: 0,
        });
        if !self.index.is_empty() {
            self.index.insert(queue, at);
        }
        at
    }

    fn begin(&mut self, kind: u8, flags: u8, slots: usize) -> usize {
        let at = self.buf.len();
        self.buf.extend_from_slice(&[kind, flags]);
        self.buf.extend_from_slice(&(slots as u16).to_le_bytes());
        self.buf.extend_from_slice(&[0; 4]);
        self.ops += 1;
        self.open_settle = None;
        at
    }

    fn end(&mut self, at: usize) {
        let padded = pad8(self.buf.len());
        self.buf.resize(padded, 0);
        let length = (padded - at) as u32;
        self.buf[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
    }

    /// Adds one message for all of `queues` (none twice). `journal`: one of them keeps it on disk.
    /// Returns the op's number, by which a refusal names it.
    pub fn enqueue(&mut self, queues: &[QueueId], message: &NewMessage<'_>, journal: bool) -> u32 {
        let op = self.ops;
        let body_len: usize = message.body.iter().map(|part| part.len()).sum();
        let exchange = &message.exchange[..message.exchange.len().min(255)];
        let routing_key = &message.routing_key[..message.routing_key.len().min(255)];
        self.buf.reserve(
            MESSAGE_HEADER
                + queues.len() * 2
                + exchange.len()
                + routing_key.len()
                + message.properties.len()
                + body_len
                + 8,
        );
        let (expires, expiration) = super::expiration_field(message.expiration_ms);
        let flags = expires
            | if message.persistent {
                FLAG_PERSISTENT
            } else {
                0
            };
        let at = self.begin(KIND_ENQUEUE, flags, queues.len());
        let mut head = [0u8; MESSAGE_HEADER - OP_HEADER];
        head[0..4].copy_from_slice(&(body_len as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(message.properties.len() as u32).to_le_bytes());
        head[8] = exchange.len() as u8;
        head[9] = routing_key.len() as u8;
        head[10] = message.priority;
        head[12..16].copy_from_slice(&expiration.to_le_bytes());
        head[16..24].copy_from_slice(&message.time_ms.to_le_bytes());
        self.buf.extend_from_slice(&head);
        for &queue in queues {
            let slot = self.slot(queue);
            self.slots[slot as usize].enqueues += 1;
            self.buf.extend_from_slice(&slot.to_le_bytes());
        }
        self.buf.extend_from_slice(exchange);
        self.buf.extend_from_slice(routing_key);
        self.buf.extend_from_slice(message.properties);
        for part in message.body {
            self.buf.extend_from_slice(part);
        }
        self.end(at);
        self.durable |= journal;
        op
    }

    /// A message by itself, in no queue.
    pub fn single(message: &NewMessage<'_>) -> Option<super::Message> {
        Self::single_counted(message, None)
    }

    /// The same, counted by `gauge`.
    pub(crate) fn single_counted(
        message: &NewMessage<'_>,
        gauge: Option<Arc<MemoryGauge>>,
    ) -> Option<super::Message> {
        let mut entry = EntryBuilder::with_capacity(256);
        entry.enqueue(&[], message, false);
        let entry = entry.finish(gauge);
        let reader = super::EntryReader::new(&entry).ok()?;
        let op = reader.ops().next()?.ok()?;
        Some(reader.message(&op))
    }

    /// Adds a settled message: `bytes` is its body's length. Neighbours are merged into ranges.
    pub fn settle(&mut self, queue: QueueId, reason: u8, seq: Seq, bytes: u32) {
        self.settle_range(queue, reason, seq, 1, bytes);
    }

    /// Adds a settled range of messages.
    pub fn settle_range(&mut self, queue: QueueId, reason: u8, seq: Seq, count: u32, bytes: u32) {
        self.durable = true;
        let slot = self.slot(queue);
        let at = match self.open_settle {
            Some((at, s, r)) if s == slot && r == reason => {
                if self.extend_last_range(seq, count, bytes) {
                    return;
                }
                at
            }
            _ => {
                let at = self.begin(KIND_SETTLE, 0, 1);
                self.buf.extend_from_slice(&slot.to_le_bytes());
                self.buf.extend_from_slice(&[reason, 0, 0, 0, 0, 0]);
                at
            }
        };
        self.buf.extend_from_slice(&seq.to_le_bytes());
        self.buf.extend_from_slice(&count.to_le_bytes());
        self.buf.extend_from_slice(&bytes.to_le_bytes());
        self.end(at);
        self.open_settle = Some((at, slot, reason));
    }

    fn extend_last_range(&mut self, seq: Seq, count: u32, bytes: u32) -> bool {
        let at = self.buf.len() - 16;
        let Some(first) = super::u64_at(&self.buf, at) else {
            return false;
        };
        let (Some(n), Some(b)) = (u32_at(&self.buf, at + 8), u32_at(&self.buf, at + 12)) else {
            return false;
        };
        let (Some(sum_n), Some(sum_b)) = (n.checked_add(count), b.checked_add(bytes)) else {
            return false;
        };
        if first.checked_add(u64::from(n)) != Some(seq) {
            return false;
        }
        self.buf[at + 8..at + 12].copy_from_slice(&sum_n.to_le_bytes());
        self.buf[at + 12..at + 16].copy_from_slice(&sum_b.to_le_bytes());
        true
    }

    /// Adds messages that came back to the queue, with their new delivery counts.
    pub fn returned(&mut self, queue: QueueId, seqs: &[(Seq, u32)]) {
        if seqs.is_empty() {
            return;
        }
        self.durable = true;
        let slot = self.slot(queue);
        let at = self.begin(KIND_RETURN, 0, 1);
        self.buf.extend_from_slice(&slot.to_le_bytes());
        self.buf.extend_from_slice(&[0; 6]);
        for (seq, count) in seqs {
            self.buf.extend_from_slice(&seq.to_le_bytes());
            self.buf.extend_from_slice(&count.to_le_bytes());
            self.buf.extend_from_slice(&[0; 4]);
        }
        self.end(at);
    }

    /// Adds the settles and returns of another entry.
    pub fn append_settles(&mut self, other: EntryBuilder) {
        let mut at = HEADER;
        for _ in 0..other.ops {
            let Some(length) = u32_at(&other.buf, at + 4) else {
                return;
            };
            let op = other.buf.get(at..at + length as usize).unwrap_or_default();
            at += length as usize;
            let queue = u16_at(op, 8).and_then(|s| other.slots.get(usize::from(s)));
            let (Some(&kind), Some(queue)) = (op.first(), queue.map(|s| s.queue)) else {
                continue;
            };
            let items = op.get(16..).unwrap_or_default().chunks_exact(16);
            let seq = |c: &[u8]| super::u64_at(c, 0).unwrap_or(0);
            let word = |c: &[u8], i: usize| u32_at(c, i).unwrap_or(0);
            match kind {
                KIND_SETTLE => {
                    let reason = op.get(10).copied().unwrap_or(0);
                    for c in items {
                        self.settle_range(queue, reason, seq(c), word(c, 8), word(c, 12));
                    }
                }
                KIND_RETURN => {
                    let seqs: Vec<_> = items.map(|c| (seq(c), word(c, 8))).collect();
                    self.returned(queue, &seqs);
                }
                _ => {}
            }
        }
    }

    /// Adds a message that moved, with its queues and its numbers there.
    pub fn relocated(&mut self, places: &[(QueueId, Seq)], message: &super::Message) {
        self.durable = true;
        let (exchange, routing_key, properties, body) = message.content();
        let (expires, expiration) = super::expiration_field(message.expiration_ms());
        let flags = if message.is_persistent() {
            FLAG_PERSISTENT
        } else {
            0
        } | expires;
        let at = self.begin(KIND_RELOCATED, flags, places.len());
        let mut head = [0u8; MESSAGE_HEADER - OP_HEADER];
        head[0..4].copy_from_slice(&(body.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(properties.len() as u32).to_le_bytes());
        head[8] = exchange.len() as u8;
        head[9] = routing_key.len() as u8;
        head[10] = message.priority();
        head[12..16].copy_from_slice(&expiration.to_le_bytes());
        head[16..24].copy_from_slice(&message.time_ms().to_le_bytes());
        self.buf.extend_from_slice(&head);
        for (queue, _) in places {
            let slot = self.slot(*queue);
            self.buf.extend_from_slice(&slot.to_le_bytes());
        }
        let padded = pad8(self.buf.len());
        self.buf.resize(padded, 0);
        for (_, seq) in places {
            self.buf.extend_from_slice(&seq.to_le_bytes());
        }
        self.buf.extend_from_slice(exchange);
        self.buf.extend_from_slice(routing_key);
        self.buf.extend_from_slice(properties);
        self.buf.extend_from_slice(body);
        self.end(at);
    }

    /// Opens a finished entry again, so that [`crate::Machine::admit`] can give its messages numbers: what a session sent. It may
    /// enqueue only.
    ///
    /// # Errors
    /// The entry is malformed, or has other ops.
    pub fn reopen(entry: Vec<u8>) -> Result<EntryBuilder, EntryError> {
        let entry = EntryBuf::owned(entry, None);
        let reader = EntryReader::new(&entry)?;
        let slots = reader.queues().map(|(queue, _)| Slot {
            queue,
            enqueues: 0,
            seq_first: 0,
        });
        let mut slots: Vec<Slot> = slots.collect();
        if slots.len() > SLOTS_MAX {
            return Err(EntryError::Malformed(2));
        }
        for op in reader.ops() {
            let op = op?;
            if op.op != Op::Enqueue {
                return Err(EntryError::Malformed(op.at as usize));
            }
            for slot in op.slots() {
                if let Some(slot) = slots.get_mut(usize::from(slot)) {
                    slot.enqueues = slot.enqueues.saturating_add(1);
                }
            }
        }
        let (ops, table) = (reader.ops_len(), reader.table());
        let mut buf = EntryBuf::into_vec(entry);
        buf.truncate(table);
        buf[..HEADER].fill(0);
        Ok(EntryBuilder {
            buf,
            slots,
            index: FxHashMap::default(),
            ops,
            durable: true,
            last: None,
            open_settle: None,
        })
    }

    /// Calls `refuse` for each (op, its offset, slot, body) of every Enqueue, in order; where it says so, the message is not for that queue.
    pub(crate) fn refuse_where(&mut self, mut refuse: impl FnMut(u32, usize, usize, u32) -> bool) {
        let mut at = HEADER;
        for op in 0..self.ops {
            let (Some(slots), Some(length)) =
                (u16_at(&self.buf, at + 2), u32_at(&self.buf, at + 4))
            else {
                return;
            };
            if self.buf[at] == KIND_ENQUEUE {
                let body = u32_at(&self.buf, at + 8).unwrap_or(0);
                for i in 0..slots as usize {
                    let place = at + MESSAGE_HEADER + i * 2;
                    let Some(slot) = u16_at(&self.buf, place) else {
                        return;
                    };
                    if slot == REFUSED {
                        continue;
                    }
                    if refuse(op, at, slot as usize, body) {
                        self.buf[place..place + 2].copy_from_slice(&REFUSED.to_le_bytes());
                        self.slots[slot as usize].enqueues -= 1;
                    }
                }
            }
            at += length as usize;
        }
    }

    /// The message of the op at `at`, before the entry is finished: for a refused message that is to be dead-lettered.
    pub(crate) fn copy_message(&self, at: usize) -> Option<super::Message> {
        let length = u32_at(&self.buf, at + 4)? as usize;
        Some(super::Message::new(
            EntryBuf::owned(self.buf.get(at..at + length)?.to_vec(), None),
            0,
        ))
    }

    /// Writes header and queue table. The numbers of the table must have been given by `Machine::admit`.
    pub fn finish(mut self, gauge: Option<Arc<MemoryGauge>>) -> Arc<EntryBuf> {
        let table = self.buf.len();
        self.buf.reserve_exact(self.slots.len() * super::TABLE_ITEM);
        for slot in &self.slots {
            self.buf.extend_from_slice(&slot.queue.to_le_bytes());
            self.buf.extend_from_slice(&slot.seq_first.to_le_bytes());
        }
        self.buf[0] = VERSION;
        self.buf[2..4].copy_from_slice(&(self.slots.len() as u16).to_le_bytes());
        self.buf[4..8].copy_from_slice(&self.ops.to_le_bytes());
        self.buf[8..12].copy_from_slice(&(table as u32).to_le_bytes());
        if self.buf.capacity() > self.buf.len() + self.buf.len() / 2 + 256 {
            // A small entry must not hold a large buffer.
            let large = std::mem::take(&mut self.buf);
            self.buf = large.as_slice().to_vec();
            if let Some(gauge) = &gauge {
                gauge.give_back(large);
            }
        }
        EntryBuf::owned(self.buf, gauge)
    }
}
