//! The replicated part of a queue: which messages live, where, and how often they came back.
//!
//! One implementation of what an entry does to it serves recovery of local groups ([`crate::Machine::replay`]) and the
//! mirrors of a replicated group ([`crate::Replica`]).

use std::collections::BTreeMap;

use crate::entry::{EntryError, EntryReader, Op, OpRef, SettledRange};
use crate::{Location, QueueId, RunSet, Seq};

/// A queue's replicated state, as a checkpoint has it. Equal on all mirrors at equal index but for the locations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// The next message's number.
    pub next_seq: Seq,
    /// Numbers up to here may have been delivered (exclusive): a hint, exact only after a clean stop of a local group.
    pub delivered_end: Seq,
    /// Bytes of the live messages' bodies.
    pub bytes: u64,
    /// Live messages by priority level.
    pub levels: Vec<RunSet>,
    /// Delivery counts above zero, by number.
    pub returns: BTreeMap<Seq, u32>,
}

impl QueueState {
    /// The state of a queue that never had a message.
    pub fn fresh() -> Self {
        QueueState {
            next_seq: 1,
            ..QueueState::default()
        }
    }

    /// Live messages.
    pub fn messages(&self) -> u64 {
        self.levels.iter().map(RunSet::len).sum()
    }

    /// Whether a message lives.
    pub fn contains(&self, seq: Seq) -> bool {
        self.levels.iter().any(|level| level.contains(seq))
    }

    /// The run that a live message is in.
    pub fn find(&self, seq: Seq) -> Option<&crate::Run> {
        self.levels.iter().find_map(|level| level.find(seq))
    }

    /// A number is used up, whether its message is kept or not. `false`: it was before.
    fn use_up(&mut self, seq: Seq) -> bool {
        match seq.checked_add(1).filter(|_| seq >= self.next_seq) {
            Some(next) => {
                self.next_seq = next;
                true
            }
            None => false,
        }
    }

    fn keep(&mut self, seq: Seq, level: u8, size: u32, location: Location, barrier: Location) {
        let level = usize::from(level);
        if level >= self.levels.len() {
            self.levels.resize_with(level + 1, RunSet::default);
        }
        if let Some(level) = self.levels.get_mut(level) {
            level.insert_behind(seq, location, barrier);
            self.bytes = self.bytes.saturating_add(u64::from(size));
        }
    }

    fn settle(&mut self, range: SettledRange) {
        let removed: u64 = self
            .levels
            .iter_mut()
            .map(|level| level.remove(range.first, range.count))
            .sum();
        let end = range.first.saturating_add(u64::from(range.count));
        self.delivered_end = self.delivered_end.max(end);
        if removed == 0 {
            return;
        }
        self.bytes = self.bytes.saturating_sub(u64::from(range.bytes));
        if self.levels.iter().all(RunSet::is_empty) {
            self.bytes = 0;
        }
        if !self.returns.is_empty() {
            let gone: Vec<Seq> = self
                .returns
                .range(range.first..end)
                .map(|(seq, _)| *seq)
                .collect();
            for seq in gone {
                self.returns.remove(&seq);
            }
        }
    }

    /// Points to where a message is now, if it lives.
    pub fn relocate(&mut self, seq: Seq, to: Location, barrier: Location) {
        for level in &mut self.levels {
            if level.remove(seq, 1) > 0 {
                level.insert_behind(seq, to, barrier);
            }
        }
    }
}

/// A queue that an entry names.
pub(crate) struct Target<'a> {
    pub state: &'a mut QueueState,
    /// Highest priority level.
    pub max_priority: u8,
    /// What is kept of it.
    pub keeps: Keeps,
}

/// Which messages of a queue live on in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeps {
    /// None: a queue of this node that is not durable.
    Nothing,
    /// Those with delivery_mode 2.
    Persistent,
    /// All.
    All,
}

/// Finds queues by their ids.
pub(crate) trait Targets {
    /// `None`: the queue is not known, what names it is skipped.
    fn target(&mut self, id: QueueId) -> Option<Target<'_>>;
}

/// Does to the queues what an entry says.
///
/// # Errors
/// The entry is malformed; it has been applied up to there.
pub(crate) fn apply(
    reader: &EntryReader<'_>,
    location: Location,
    barrier: Location,
    queues: &mut impl Targets,
) -> Result<(), EntryError> {
    let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
    for op in reader.ops() {
        let op = op?;
        match op.op {
            Op::Enqueue => each_number(&op, &mut table, |id, seq| {
                let Some(target) = queues.target(id) else {
                    return;
                };
                // A message that the state covers already is not added again.
                let kept = target.keeps == Keeps::All
                    || target.keeps == Keeps::Persistent && op.is_persistent();
                if target.state.use_up(seq) && kept {
                    let level = op.priority().min(target.max_priority);
                    target
                        .state
                        .keep(seq, level, op.body_len(), location, barrier);
                }
            }),
            Op::Settle(slot, _) => {
                if let Some(target) = named(&table, slot).and_then(|id| queues.target(id)) {
                    op.ranges().for_each(|range| target.state.settle(range));
                }
            }
            Op::Return(slot) => {
                if let Some(target) = named(&table, slot).and_then(|id| queues.target(id)) {
                    for back in op.seqs() {
                        if back.delivery_count > 0 && target.state.contains(back.seq) {
                            target.state.returns.insert(back.seq, back.delivery_count);
                        }
                    }
                }
            }
            Op::Relocated => {
                for (slot, seq) in op.places() {
                    if let Some(target) = named(&table, slot).and_then(|id| queues.target(id)) {
                        target.state.relocate(seq, location, barrier);
                    }
                }
            }
        }
    }
    Ok(())
}

/// Uses up the numbers that an entry's messages were given, without keeping them: no other message may get them, as a
/// reader that walks the journal would find these first.
pub(crate) fn use_up(
    reader: &EntryReader<'_>,
    queues: &mut impl Targets,
) -> Result<(), EntryError> {
    let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
    for op in reader.ops() {
        let op = op?;
        if op.op == Op::Enqueue {
            each_number(&op, &mut table, |id, seq| {
                if let Some(target) = queues.target(id) {
                    target.state.use_up(seq);
                }
            });
        }
    }
    Ok(())
}

fn named(table: &[(QueueId, Seq)], slot: u16) -> Option<QueueId> {
    table.get(usize::from(slot)).map(|(id, _)| *id)
}

/// The queues of an Enqueue and the message's number in each; counts the table on.
#[inline]
fn each_number(op: &OpRef<'_>, table: &mut [(QueueId, Seq)], mut f: impl FnMut(QueueId, Seq)) {
    for slot in op.slots() {
        if let Some((id, seq)) = table.get_mut(usize::from(slot)) {
            f(*id, *seq);
            *seq = seq.saturating_add(1);
        }
    }
}
