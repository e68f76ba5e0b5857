//! Batches: what one Raft entry of a mirrored group carries.
//!
//! A batch gathers what several sessions sent, and what the leader's machine settled by itself, so that one commit serves
//! them all. Little-endian; every part and the entry in it are aligned to 8 bytes from the batch's start, so that a
//! message is read in place.
//!
//! ```text
//! batch   0  kind u8 = 1
//!         1  version u8 = 0x81        the high bit tells a batch from an entry of a local group, whose byte 1 is 0
//!         2  reserved u16 = 0
//!         4  parts u32
//!         8  parts
//!
//! part    0  node u64                 the session; both 0: the leader's own part
//!         8  incarnation u64
//!        16  number u64               the session's number of this part, from 1; Create, Remove, Used: the queue's id
//!        24  length u32               of the entry behind, a multiple of 8
//!        28  what u8, argument u8, reserved u16
//!        32  entry                    as in the module above
//!
//! what    0  Entry                    the ops of the entry
//!         1  Forget                   the session is gone for good; length 0
//!         2  Create                   the queue is there from here on, argument: its highest priority level; length 0
//!         3  Remove                   the queue is gone with all that is in it; length 0
//!         4  Used                     the queue has had a consumer, with the last of which it goes; length 0
//!         5  Begin                    a session that is not known here goes on behind `number`: the group was formed anew; length 0
//! ```

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{EntryBuf, EntryError, EntryReader, Op, u32_at, u64_at};
use crate::{Location, QueueId, Seq, Stored};

/// First byte of a batch.
pub const KIND_BATCH: u8 = 1;
/// The version that this code writes.
pub const BATCH_VERSION: u8 = 0x81;
/// Bytes before the first part.
pub const BATCH_HEADER: usize = 8;
/// Bytes of a part before its entry.
pub const PART_HEADER: usize = 32;

const WHAT_ENTRY: u8 = 0;
const WHAT_FORGET: u8 = 1;
const WHAT_CREATE: u8 = 2;
const WHAT_REMOVE: u8 = 3;
const WHAT_USED: u8 = 4;
const WHAT_BEGIN: u8 = 5;

/// A node's process as a source of parts: what is repeated under one session is applied once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    /// The node.
    pub node: u64,
    /// The incarnation of its process.
    pub incarnation: u64,
}

impl SessionId {
    /// The leader's own parts: not numbered, always applied.
    pub const LEADER: SessionId = SessionId {
        node: 0,
        incarnation: 0,
    };
}

/// A part of a batch.
#[derive(Clone, Debug)]
pub enum Part {
    /// Ops.
    Entry {
        /// Whose.
        session: SessionId,
        /// Its number there; 0 for the leader's own.
        number: u64,
        /// The ops: a slice of the batch.
        entry: Arc<EntryBuf>,
    },
    /// A session is gone for good.
    Forget(SessionId),
    /// A queue is there from here on.
    Create {
        /// Its id.
        queue: QueueId,
        /// Its highest priority level.
        max_priority: u8,
    },
    /// A queue is gone.
    Remove(QueueId),
    /// A queue has had a consumer.
    Used(QueueId),
    /// A session that the group does not know goes on behind a number. What came before it was lost with the group's log.
    Begin {
        /// Which.
        session: SessionId,
        /// The last number that is not to come.
        number: u64,
    },
}

/// A batch being filled.
#[derive(Debug)]
pub struct BatchBuilder {
    buf: Vec<u8>,
    parts: u32,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::with_buffer(Vec::new())
    }
}

impl BatchBuilder {
    /// An empty batch in an empty buffer, from [`super::MemoryGauge::take_buffer`].
    pub fn with_buffer(mut buf: Vec<u8>) -> Self {
        buf.clear();
        buf.extend_from_slice(&[KIND_BATCH, BATCH_VERSION, 0, 0, 0, 0, 0, 0]);
        BatchBuilder { buf, parts: 0 }
    }

    /// No part so far.
    pub fn is_empty(&self) -> bool {
        self.parts == 0
    }

    /// Parts so far.
    pub fn parts(&self) -> u32 {
        self.parts
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.buf.len()
    }

    fn add(&mut self, session: SessionId, number: u64, what: u8, argument: u8, entry: &[u8]) {
        debug_assert!(entry.len().is_multiple_of(8), "entries are padded");
        self.buf.reserve(PART_HEADER + entry.len());
        for word in [session.node, session.incarnation, number] {
            self.buf.extend_from_slice(&word.to_le_bytes());
        }
        self.buf
            .extend_from_slice(&(entry.len() as u32).to_le_bytes());
        self.buf.extend_from_slice(&[what, argument, 0, 0]);
        self.buf.extend_from_slice(entry);
        self.parts += 1;
    }

    /// Adds a finished entry of a session, whose numbers were given by [`crate::Machine::admit`].
    pub fn entry(&mut self, session: SessionId, number: u64, entry: &EntryBuf) {
        self.add(session, number, WHAT_ENTRY, 0, entry);
    }

    /// Adds what the leader's machine settled ([`crate::Effects::journal`]), unless it is nothing.
    pub fn own(&mut self, journal: super::EntryBuilder) {
        if !journal.is_empty() {
            let entry = journal.finish(None);
            self.add(SessionId::LEADER, 0, WHAT_ENTRY, 0, &entry);
        }
    }

    /// Adds that a session is gone for good.
    pub fn forget(&mut self, session: SessionId) {
        self.add(session, 0, WHAT_FORGET, 0, &[]);
    }

    /// Adds that a queue is there from here on.
    pub fn create(&mut self, queue: QueueId, max_priority: u8) {
        self.add(SessionId::LEADER, queue, WHAT_CREATE, max_priority, &[]);
    }

    /// Adds that a queue is gone.
    pub fn remove(&mut self, queue: QueueId) {
        self.add(SessionId::LEADER, queue, WHAT_REMOVE, 0, &[]);
    }

    /// Adds that a queue has had a consumer.
    pub fn used(&mut self, queue: QueueId) {
        self.add(SessionId::LEADER, queue, WHAT_USED, 0, &[]);
    }

    /// Adds that a session goes on behind a number, if the group does not know it.
    pub fn begin(&mut self, session: SessionId, number: u64) {
        self.add(session, number, WHAT_BEGIN, 0, &[]);
    }

    /// The batch, counted by `gauge` for as long as a message in it is in use.
    pub fn finish(mut self, gauge: Option<Arc<super::MemoryGauge>>) -> Bytes {
        self.buf[4..8].copy_from_slice(&self.parts.to_le_bytes());
        EntryBuf::owned(self.buf, gauge).to_bytes()
    }
}

/// Whether a record's payload is a batch; otherwise it is an entry of a local group or of relocated messages, or has none.
pub fn is_batch(payload: &[u8]) -> bool {
    matches!(payload, [KIND_BATCH, version, ..] if version & 0x80 != 0)
}

/// The parts of a batch. Lengths are checked; the entries' ops are checked as they are read.
///
/// # Errors
/// An unknown version, or lengths that do not add up.
pub fn parts(batch: &Bytes) -> Result<Vec<Part>, EntryError> {
    let mut parts = Vec::new();
    for part in Headers::new(batch)? {
        let (at, header) = part?;
        parts.push(header.part(batch, at));
    }
    Ok(parts)
}

/// What stands before a part's entry.
struct PartHeader {
    session: SessionId,
    number: u64,
    length: usize,
    what: u8,
    argument: u8,
}

impl PartHeader {
    /// `at`: where the entry begins.
    fn part(&self, batch: &Bytes, at: usize) -> Part {
        match self.what {
            WHAT_FORGET => Part::Forget(self.session),
            WHAT_CREATE => Part::Create {
                queue: self.number,
                max_priority: self.argument,
            },
            WHAT_REMOVE => Part::Remove(self.number),
            WHAT_USED => Part::Used(self.number),
            WHAT_BEGIN => Part::Begin {
                session: self.session,
                number: self.number,
            },
            _ => Part::Entry {
                session: self.session,
                number: self.number,
                entry: EntryBuf::part(batch.slice(at..at + self.length)),
            },
        }
    }
}

/// Goes over the parts' headers.
struct Headers<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u32,
}

impl<'a> Headers<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, EntryError> {
        let head = bytes.get(..BATCH_HEADER).ok_or(EntryError::Malformed(0))?;
        match head {
            [KIND_BATCH, BATCH_VERSION, 0, 0, ..] => {}
            [KIND_BATCH, version, ..] if *version != BATCH_VERSION => {
                return Err(EntryError::Version(*version));
            }
            _ => return Err(EntryError::Malformed(0)),
        }
        Ok(Headers {
            bytes,
            at: BATCH_HEADER,
            left: u32_at(head, 4).unwrap_or(0),
        })
    }

    fn parse(&self) -> Option<PartHeader> {
        let head = self.bytes.get(self.at..)?.get(..PART_HEADER)?;
        let header = PartHeader {
            session: SessionId {
                node: u64_at(head, 0)?,
                incarnation: u64_at(head, 8)?,
            },
            number: u64_at(head, 16)?,
            length: u32_at(head, 24)? as usize,
            what: head[28],
            argument: head[29],
        };
        let leader = header.session == SessionId::LEADER;
        let known = match header.what {
            // The leader's own parts are not numbered, all others are.
            WHAT_ENTRY => leader == (header.number == 0) && header.argument == 0,
            WHAT_FORGET => !leader && header.number == 0 && header.argument == 0,
            WHAT_BEGIN => !leader && header.number > 0 && header.argument == 0,
            WHAT_CREATE => leader,
            WHAT_REMOVE | WHAT_USED => leader && header.argument == 0,
            _ => false,
        };
        let empty = header.what != WHAT_ENTRY;
        let fits = self.bytes.len() - self.at - PART_HEADER >= header.length;
        (known
            && fits
            && head[30..32] == [0, 0]
            && header.length.is_multiple_of(8)
            && empty == (header.length == 0))
            .then_some(header)
    }
}

impl Iterator for Headers<'_> {
    type Item = Result<(usize, PartHeader), EntryError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 && self.at == self.bytes.len() {
            return None;
        }
        match self.parse().filter(|_| self.left > 0) {
            Some(header) => {
                let at = self.at + PART_HEADER;
                self.at = at + header.length;
                self.left -= 1;
                Some(Ok((at, header)))
            }
            None => {
                let at = std::mem::replace(&mut self.at, self.bytes.len());
                self.left = 0;
                Some(Err(EntryError::Malformed(at)))
            }
        }
    }
}

/// The entries of a record's payload, whether it is a batch or a plain entry. A mirrored group's blank and membership records have
/// other first bytes, and no entries.
///
/// # Errors
/// The batch is malformed.
pub fn entries(payload: &Bytes) -> Result<Vec<Arc<EntryBuf>>, EntryError> {
    if !is_batch(payload) {
        let plain = payload.first() == Some(&super::VERSION);
        return Ok(plain
            .then(|| EntryBuf::shared(payload.clone()))
            .into_iter()
            .collect());
    }
    let mut entries = Vec::new();
    for part in Headers::new(payload)? {
        let (at, header) = part?;
        if header.what == WHAT_ENTRY {
            entries.push(EntryBuf::shared(payload.slice(at..at + header.length)));
        }
    }
    Ok(entries)
}

/// Reads from a record at `location` the messages of `queue` with numbers in `wanted` above those in `out`, ascending, until
/// `out` has `max`. For stores, which walk from record to record ([`crate::Store::read`]).
///
/// From record to record a run's numbers ascend. Within one they need not: where messages moved together, they lie in the order of
/// the places that they came from.
///
/// # Errors
/// The batch or an entry is malformed.
pub fn read_messages(
    payload: &Bytes,
    location: Location,
    queue: QueueId,
    wanted: &Range<Seq>,
    max: usize,
    out: &mut Vec<Stored>,
) -> Result<(), EntryError> {
    for entry in entries(payload)? {
        if out.len() < max {
            read_entry(&entry, location, queue, wanted, max, out)?;
        }
    }
    Ok(())
}

fn read_entry(
    entry: &Arc<EntryBuf>,
    location: Location,
    queue: QueueId,
    wanted: &Range<Seq>,
    max: usize,
    out: &mut Vec<Stored>,
) -> Result<(), EntryError> {
    let reader = EntryReader::new(entry)?;
    let Some((slot, mut next)) = reader.slot_of(queue) else {
        return Ok(());
    };
    let mut awaited = out
        .last()
        .map_or(wanted.start, |last| last.seq.saturating_add(1));
    let mut later = Vec::new();
    for op in reader.ops() {
        let op = op?;
        let seq = match op.op {
            Op::Enqueue if op.slots().any(|s| s == slot) => {
                let seq = next;
                next = next.saturating_add(1);
                seq
            }
            Op::Relocated => match op.places().find(|(s, _)| *s == slot) {
                Some((_, seq)) => seq,
                None => continue,
            },
            Op::Enqueue | Op::Settle(..) | Op::Return(_) => continue,
        };
        // Copies of a message that was moved before may lie here too: only the awaited numbers count.
        if !(awaited..wanted.end).contains(&seq) {
            continue;
        }
        let stored = Stored {
            seq,
            message: reader.message(&op),
            location,
        };
        if seq > awaited {
            later.push(stored);
            continue;
        }
        awaited += 1;
        out.push(stored);
        if out.len() >= max {
            return Ok(());
        }
    }
    later.sort_by_key(|stored: &Stored| stored.seq);
    for stored in later {
        if out.len() >= max {
            break;
        }
        if out.last().is_none_or(|last| last.seq < stored.seq) {
            out.push(stored);
        }
    }
    Ok(())
}
