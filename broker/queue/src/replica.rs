//! What a mirrored group replicates: its queues' live messages, and how far each session has come.
//!
//! Every mirror has a [`Replica`] and applies the group's committed entries to it, in order. It is the same on all mirrors
//! at the same index but for the locations, which are those of the mirror's own journal: [`Replica::digest`] is equal.
//! The leader makes its [`crate::Machine`] from it. Owned by the group's state machine.
//!
//! Deliberately absent: settings but the priority levels, time, bodies, consumers.

use std::collections::BTreeMap;

use bytes::Bytes;
use rustc_hash::FxHashMap;

use crate::checkpoint::{Cursor, STATE_BYTES_MIN, decode_state, encode_state};
use crate::entry::batch::{self, Part, SessionId};
use crate::entry::{EntryBuf, EntryError, EntryReader};
use crate::state::{self, Keeps, Target, Targets};
use crate::{Location, QueueId, QueueState, Seq};

/// What became of a part of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartOutcome {
    /// It was applied.
    Applied,
    /// Its number was applied before: skipped.
    Repeated,
    /// An earlier number of its session is missing: skipped. Only a leader with a fault proposes this: it has to step down, and the
    /// session sends everything from `last + 1` on to the next leader.
    Gap {
        /// The session's last applied number.
        last: u64,
    },
}

/// What an entry did.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    /// The parts of the batch and what became of each, in order.
    pub parts: Vec<(Part, PartOutcome)>,
}

impl Applied {
    /// Whether the leader that proposed the entry must step down.
    pub fn has_gap(&self) -> bool {
        let gap = |outcome: &PartOutcome| matches!(outcome, PartOutcome::Gap { .. });
        self.parts.iter().any(|(_, outcome)| gap(outcome))
    }
}

/// Where a group's log was truncated: truncated entries lie before each barrier, and no run goes across it.
///
/// Kept by the group's log storage: [`Barriers::set`] with the journal's end at each truncation, [`Barriers::before`] for each
/// entry that is applied or relocated, [`Barriers::forget`] when everything before a location is applied.
#[derive(Clone, Debug, Default)]
pub struct Barriers(Vec<Location>);

impl Barriers {
    /// The log was truncated when the journal ended at `end`.
    pub fn set(&mut self, end: Location) {
        if self.0.last().is_none_or(|last| *last < end) {
            self.0.push(end);
        }
    }

    /// The last barrier that a record at `location` lies behind.
    pub fn before(&self, location: Location) -> Location {
        let behind = self.0.partition_point(|barrier| *barrier <= location);
        let last = behind.checked_sub(1).and_then(|at| self.0.get(at));
        last.copied().unwrap_or(Location::START)
    }

    /// No record before `location` will be asked for any more: keeps the last barrier before it and those behind.
    pub fn forget(&mut self, location: Location) {
        let behind = self.0.partition_point(|barrier| *barrier <= location);
        self.0.drain(..behind.saturating_sub(1));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A mirrored queue.
#[derive(Clone, Debug)]
struct Mirrored {
    max_priority: u8,
    /// It has had a consumer ([`Part::Used`]).
    used: bool,
    state: QueueState,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Replica {
    queues: FxHashMap<QueueId, Mirrored>,
    sessions: BTreeMap<SessionId, u64>,
    /// Runs that begin before it came with a checkpoint: what the log between held is not known, so they are not extended.
    floor: Location,
}

struct Queues<'a>(&'a mut FxHashMap<QueueId, Mirrored>);

impl Targets for Queues<'_> {
    #[inline]
    fn target(&mut self, id: QueueId) -> Option<Target<'_>> {
        let queue = self.0.get_mut(&id)?;
        Some(Target {
            state: &mut queue.state,
            max_priority: queue.max_priority,
            keeps: Keeps::All,
        })
    }
}

/// `LVRP` in front of a replica's checkpoint.
const MAGIC: u32 = u32::from_le_bytes(*b"LVRP");
const VERSION: u32 = 1;

impl Replica {
    /// A group without queues and sessions.
    pub fn new() -> Self {
        Replica::default()
    }

    /// Makes a queue; one that is there stays as it is. [`Part::Create`] does this in the order of the log, which is what
    /// keeps mirrors equal: a queue that is made by other means has to be there before the first entry that names it.
    pub fn create(&mut self, id: QueueId, max_priority: u8) {
        self.queues.entry(id).or_insert_with(|| Mirrored {
            max_priority,
            used: false,
            state: QueueState::fresh(),
        });
    }

    /// Takes a queue away; says whether it was there. [`Part::Remove`] does this in the order of the log.
    pub fn remove(&mut self, id: QueueId) -> bool {
        self.queues.remove(&id).is_some()
    }

    /// A queue's state.
    pub fn queue(&self, id: QueueId) -> Option<&QueueState> {
        self.queues.get(&id).map(|q| &q.state)
    }

    /// A queue's highest priority level.
    pub fn max_priority(&self, id: QueueId) -> Option<u8> {
        self.queues.get(&id).map(|q| q.max_priority)
    }

    /// Whether a queue that goes with its last consumer has had one.
    pub fn was_used(&self, id: QueueId) -> bool {
        self.queues.get(&id).is_some_and(|q| q.used)
    }

    /// All queues, in no order.
    pub fn queues(&self) -> impl Iterator<Item = (QueueId, &QueueState)> {
        self.queues.iter().map(|(id, q)| (*id, &q.state))
    }

    /// The last number of a session that was applied; 0 if it is not known.
    pub fn last_number(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).copied().unwrap_or(0)
    }

    /// All sessions and their last applied numbers, ascending.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, u64)> {
        self.sessions.iter().map(|(id, last)| (*id, *last))
    }

    /// Applies a committed entry's payload. `location`: its record in this node's journal. `barrier`:
    /// [`Barriers::before`] that location.
    ///
    /// A part whose number was applied before, or comes too early, is skipped; only the numbers that its messages were
    /// given are used up. Ops of unknown queues are skipped.
    ///
    /// # Errors
    /// The batch is malformed; it has been applied up to there, on every mirror alike.
    pub fn apply(
        &mut self,
        payload: &Bytes,
        location: Location,
        barrier: Location,
    ) -> Result<Applied, EntryError> {
        let barrier = barrier.max(self.floor);
        let mut applied = Applied::default();
        for part in batch::parts(payload)? {
            let outcome = match &part {
                Part::Entry {
                    session,
                    number,
                    entry,
                } => self.apply_part(*session, *number, entry, location, barrier)?,
                Part::Forget(session) => {
                    self.sessions.remove(session);
                    PartOutcome::Applied
                }
                Part::Create {
                    queue,
                    max_priority,
                } => {
                    self.create(*queue, *max_priority);
                    PartOutcome::Applied
                }
                Part::Remove(queue) => {
                    self.remove(*queue);
                    PartOutcome::Applied
                }
                Part::Begin { session, number } => {
                    self.sessions.entry(*session).or_insert(*number);
                    PartOutcome::Applied
                }
                Part::Used(queue) => {
                    if let Some(queue) = self.queues.get_mut(queue) {
                        queue.used = true;
                    }
                    PartOutcome::Applied
                }
            };
            applied.parts.push((part, outcome));
        }
        Ok(applied)
    }

    fn apply_part(
        &mut self,
        session: SessionId,
        number: u64,
        entry: &std::sync::Arc<EntryBuf>,
        location: Location,
        barrier: Location,
    ) -> Result<PartOutcome, EntryError> {
        let reader = EntryReader::new(entry)?;
        let last = self.last_number(session);
        let outcome = match number.checked_sub(last) {
            _ if session == SessionId::LEADER => PartOutcome::Applied,
            None | Some(0) => PartOutcome::Repeated,
            Some(1) => {
                self.sessions.insert(session, number);
                PartOutcome::Applied
            }
            Some(_) => PartOutcome::Gap { last },
        };
        let mut queues = Queues(&mut self.queues);
        match outcome {
            PartOutcome::Applied => state::apply(&reader, location, barrier, &mut queues)?,
            PartOutcome::Repeated | PartOutcome::Gap { .. } => {
                state::use_up(&reader, &mut queues)?;
            }
        }
        Ok(outcome)
    }

    /// Points to where a message is in this node's journal now. `barrier`: [`Barriers::before`] that.
    pub fn relocated(&mut self, id: QueueId, seq: Seq, to: Location, barrier: Location) {
        if let Some(queue) = self.queues.get_mut(&id) {
            queue.state.relocate(seq, to, barrier.max(self.floor));
        }
    }

    fn sorted(&self) -> Vec<(QueueId, &Mirrored)> {
        let mut queues: Vec<_> = self.queues.iter().map(|(id, q)| (*id, q)).collect();
        queues.sort_unstable_by_key(|(id, _)| *id);
        queues
    }

    /// What is equal on all mirrors at the same index: everything but the locations.
    pub fn digest(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut put = |word: u64| out.extend_from_slice(&word.to_le_bytes());
        put(self.sessions.len() as u64);
        for (session, last) in &self.sessions {
            [session.node, session.incarnation, *last]
                .into_iter()
                .for_each(&mut put);
        }
        for (id, queue) in self.sorted() {
            let state = &queue.state;
            let head = [
                id,
                u64::from(queue.max_priority),
                u64::from(queue.used),
                state.next_seq,
                state.delivered_end,
                state.bytes,
            ];
            head.into_iter().for_each(&mut put);
            for (level, set) in state.levels.iter().enumerate() {
                // Where one run ends and the next begins is a matter of the journal.
                let mut runs = set.runs().peekable();
                while let Some(first) = runs.next() {
                    let mut end = first.end();
                    while let Some(next) = runs.next_if(|next| next.first == end) {
                        end = next.end();
                    }
                    [level as u64, first.first, end]
                        .into_iter()
                        .for_each(&mut put);
                }
            }
            for (seq, count) in &state.returns {
                put(*seq);
                put(u64::from(*count));
            }
            put(u64::MAX);
        }
        out
    }

    /// The bytes of a checkpoint. Little-endian:
    /// ```text
    /// magic u32 = "LVRP" | version u32 = 1 | sessions u32 | queues u32
    /// sessions × { node u64, incarnation u64, last u64 }                     ascending
    /// queues × { queue_id u64, max_priority u32, used u32 (0 or 1), state }   ascending; state: see crate::checkpoint
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64 + self.queues.len() * 80);
        for word in [
            MAGIC,
            VERSION,
            self.sessions.len() as u32,
            self.queues.len() as u32,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for (session, last) in &self.sessions {
            for word in [session.node, session.incarnation, *last] {
                out.extend_from_slice(&word.to_le_bytes());
            }
        }
        for (id, queue) in self.sorted() {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&u32::from(queue.max_priority).to_le_bytes());
            out.extend_from_slice(&u32::from(queue.used).to_le_bytes());
            encode_state(&queue.state, &mut out);
        }
        out
    }

    /// Decodes what [`Replica::encode`] wrote.
    ///
    /// # Errors
    /// An unknown version, or lengths that do not add up.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut c = Cursor::new(bytes);
        if c.u32()? != MAGIC {
            return Err(EntryError::Malformed(0));
        }
        let version = c.u32()?;
        if version != VERSION {
            return Err(EntryError::Version(version as u8));
        }
        let sessions = c.count(24)?;
        let queues = c.count(16 + STATE_BYTES_MIN)?;
        let mut replica = Replica::new();
        for _ in 0..sessions {
            let session = SessionId {
                node: c.u64()?,
                incarnation: c.u64()?,
            };
            let known = replica.sessions.last_key_value();
            if known.is_some_and(|(last, _)| *last >= session) {
                return c.malformed();
            }
            replica.sessions.insert(session, c.u64()?);
        }
        let mut next = Some(0);
        for _ in 0..queues {
            let id = c.u64()?;
            let (max_priority, used) = (u8::try_from(c.u32()?), c.u32()?);
            let (Ok(max_priority), 0 | 1, true) =
                (max_priority, used, next.is_some_and(|n| id >= n))
            else {
                return c.malformed();
            };
            next = id.checked_add(1);
            let state = decode_state(&mut c)?;
            let runs = state.levels.iter().flat_map(|level| level.runs());
            let last = runs.map(|run| run.location).max();
            replica.floor = replica
                .floor
                .max(last.map_or(Location::START, Location::next));
            replica.queues.insert(
                id,
                Mirrored {
                    max_priority,
                    used: used == 1,
                    state,
                },
            );
        }
        c.end()?;
        Ok(replica)
    }
}
