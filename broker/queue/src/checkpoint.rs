//! The bytes of a group's checkpoint: positions and small state, no bodies.
//!
//! Little-endian:
//! ```text
//! version u32 = 1 | queues u32
//! queues × { queue_id u64, state }
//!
//! state := next_seq u64, delivered_end u64, bytes u64, levels u32, returns u32,
//!          levels × { runs u32, reserved u32, runs × { first u64, location u64, count u32, span u32 } },
//!          returns × { seq u64, count u32, reserved u32 }
//! ```
//! Runs and returns ascend by number.

use std::collections::BTreeMap;

use crate::entry::{EntryError, u32_at, u64_at};
use crate::{Location, QueueId, QueueState, Run, RunSet};

const VERSION: u32 = 1;

/// Encodes the state of a group's queues.
pub fn encode(queues: &[(QueueId, QueueState)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + queues.len() * 64);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&(queues.len() as u32).to_le_bytes());
    for (id, state) in queues {
        out.extend_from_slice(&id.to_le_bytes());
        encode_state(state, &mut out);
    }
    out
}

/// Encodes the state of one queue.
pub(crate) fn encode_state(state: &QueueState, out: &mut Vec<u8>) {
    for word in [state.next_seq, state.delivered_end, state.bytes] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&(state.levels.len() as u32).to_le_bytes());
    out.extend_from_slice(&(state.returns.len() as u32).to_le_bytes());
    for level in &state.levels {
        out.extend_from_slice(&(level.runs().len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for run in level.runs() {
            out.extend_from_slice(&run.first.to_le_bytes());
            out.extend_from_slice(&run.location.0.to_le_bytes());
            out.extend_from_slice(&run.count.to_le_bytes());
            out.extend_from_slice(&run.span.to_le_bytes());
        }
    }
    for (seq, count) in &state.returns {
        out.extend_from_slice(&seq.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }
}

/// Reads a checkpoint's bytes; whatever is not there is an error.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    pub fn u32(&mut self) -> Result<u32, EntryError> {
        let value = u32_at(self.bytes, self.at).ok_or(EntryError::Malformed(self.at))?;
        self.at += 4;
        Ok(value)
    }

    pub fn u64(&mut self) -> Result<u64, EntryError> {
        let value = u64_at(self.bytes, self.at).ok_or(EntryError::Malformed(self.at))?;
        self.at += 8;
        Ok(value)
    }

    fn run(&mut self) -> Result<Run, EntryError> {
        Ok(Run {
            first: self.u64()?,
            location: Location(self.u64()?),
            count: self.u32()?,
            span: self.u32()?,
        })
    }

    /// A count of items of at least `size` bytes that must still be there.
    pub fn count(&mut self, size: usize) -> Result<usize, EntryError> {
        let at = self.at;
        let n = self.u32()? as usize;
        if n.saturating_mul(size) > self.bytes.len() - self.at {
            return Err(EntryError::Malformed(at));
        }
        Ok(n)
    }

    /// Says that what was just read is wrong.
    pub fn malformed<T>(&self) -> Result<T, EntryError> {
        Err(EntryError::Malformed(self.at))
    }

    /// All must have been read.
    pub fn end(&self) -> Result<(), EntryError> {
        match self.at == self.bytes.len() {
            true => Ok(()),
            false => self.malformed(),
        }
    }
}

/// Bytes of a queue's state at least, and of a queue with it.
pub(crate) const STATE_BYTES_MIN: usize = 32;

/// Decodes what [`encode`] wrote.
///
/// # Errors
/// An unknown version, or lengths that do not add up.
pub fn decode(bytes: &[u8]) -> Result<Vec<(QueueId, QueueState)>, EntryError> {
    let mut c = Cursor::new(bytes);
    let version = c.u32()?;
    if version != VERSION {
        return Err(EntryError::Version(version as u8));
    }
    let queues = c.count(8 + STATE_BYTES_MIN)?;
    let mut all = Vec::with_capacity(queues);
    for _ in 0..queues {
        let id = c.u64()?;
        all.push((id, decode_state(&mut c)?));
    }
    c.end()?;
    Ok(all)
}

/// Decodes the state of one queue.
pub(crate) fn decode_state(c: &mut Cursor<'_>) -> Result<QueueState, EntryError> {
    let (next_seq, delivered_end, bytes) = (c.u64()?, c.u64()?, c.u64()?);
    let levels = c.count(8)?;
    let returns = c.count(16)?;
    let mut state = QueueState {
        next_seq,
        delivered_end,
        bytes,
        levels: Vec::new(),
        returns: BTreeMap::new(),
    };
    for _ in 0..levels {
        let runs = c.count(24)?;
        c.u32()?;
        let mut set = RunSet::default();
        let mut next = 0;
        for _ in 0..runs {
            let run = c.run()?;
            let end = run.first.checked_add(u64::from(run.count));
            next = match end.filter(|_| run.count > 0 && run.first >= next) {
                Some(end) => end,
                None => return c.malformed(),
            };
            set.push_run(run);
        }
        if next > state.next_seq {
            return c.malformed();
        }
        state.levels.push(set);
    }
    // A body has less than 4 GiB.
    if state.bytes > state.messages().saturating_mul(u64::from(u32::MAX)) {
        return c.malformed();
    }
    let mut next = 0;
    for _ in 0..returns {
        let (seq, count) = (c.u64()?, c.u32()?);
        c.u32()?;
        if seq < next {
            return c.malformed();
        }
        next = seq.saturating_add(1);
        state.returns.insert(seq, count);
    }
    Ok(state)
}
