//! What was promised, and whether it is kept.

use std::collections::{BTreeMap, BTreeSet};

use leveret_queue::entry::{EntryReader, Op};
use leveret_queue::{Applied, Delivery, Part, PartOutcome, QueueId, Seq};

use crate::common::id_of;

#[derive(Default)]
pub struct Oracle {
    /// What is committed: id and level of each message.
    pub messages: BTreeMap<(QueueId, Seq), (u64, u8)>,
    numbers: BTreeMap<(QueueId, u64), Seq>,
    pub settled: BTreeSet<(QueueId, Seq)>,
    /// What a consumer acknowledged or dropped, or got without acknowledgement.
    pub done: BTreeSet<(QueueId, Seq)>,
    /// What sessions were told to be committed: ids.
    pub confirmed: BTreeSet<(QueueId, u64)>,
    delivered: BTreeSet<(QueueId, Seq)>,
    first: BTreeMap<(QueueId, u8), Seq>,
    /// Digests of the replica by applied entries.
    pub digests: BTreeMap<usize, Vec<u8>>,
    /// Redelivered messages, told by the last leaders.
    pub redeliveries: u64,
}

impl Oracle {
    /// An entry is committed, and was applied for the first time.
    pub fn committed(
        &mut self,
        applied: &Applied,
        max_priority: &BTreeMap<QueueId, u8>,
    ) -> Result<(), String> {
        for (part, outcome) in &applied.parts {
            let Part::Entry { entry, .. } = part else {
                continue;
            };
            if *outcome != PartOutcome::Applied {
                return Err(format!("{outcome:?}: the leader proposed it twice"));
            }
            let reader = EntryReader::new(entry).map_err(|e| e.to_string())?;
            let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
            for op in reader.ops() {
                let op = op.map_err(|e| e.to_string())?;
                match op.op {
                    Op::Enqueue => {
                        let id = id_of(&reader.message(&op));
                        for slot in op.slots() {
                            let (queue, seq) = &mut table[usize::from(slot)];
                            let level = op.priority().min(max_priority[queue]);
                            if self.messages.insert((*queue, *seq), (id, level)).is_some() {
                                return Err(format!("number {seq} of queue {queue} given twice"));
                            }
                            if let Some(before) = self.numbers.insert((*queue, id), *seq) {
                                return Err(format!(
                                    "message {id} is {before} and {seq} of {queue}"
                                ));
                            }
                            *seq += 1;
                        }
                    }
                    Op::Settle(slot, _) => {
                        let queue = table[usize::from(slot)].0;
                        for range in op.ranges() {
                            for seq in range.first..range.first + u64::from(range.count) {
                                if !self.done.contains(&(queue, seq)) {
                                    return Err(format!("{seq} of {queue} settled by nobody"));
                                }
                                if !self.settled.insert((queue, seq)) {
                                    return Err(format!("{seq} of {queue} settled twice"));
                                }
                            }
                        }
                    }
                    Op::Return(_) | Op::Relocated => {}
                }
            }
        }
        Ok(())
    }

    /// Deliveries of one step, some of which may get lost on their way. `begun`: numbers below it were there when the leader began.
    pub fn delivered(
        &mut self,
        mut seen: Vec<(QueueId, &Delivery)>,
        begun: &BTreeMap<QueueId, Seq>,
    ) -> Result<(), String> {
        seen.sort_by_key(|(queue, d)| (*queue, d.seq));
        for (queue, d) in seen {
            let Some((id, level)) = self.messages.get(&(queue, d.seq)) else {
                return Err(format!("{} of {queue} delivered, and not committed", d.seq));
            };
            if *id != id_of(&d.message) {
                return Err(format!(
                    "{} of {queue} should be {id}: {:x}",
                    d.seq,
                    id_of(&d.message)
                ));
            }
            if self.settled.contains(&(queue, d.seq)) {
                return Err(format!("{} of {queue} delivered, and settled", d.seq));
            }
            if !self.delivered.insert((queue, d.seq)) {
                if !d.redelivered {
                    return Err(format!("{} of {queue} is not marked redelivered", d.seq));
                }
                self.redeliveries += 1;
                continue;
            }
            if d.redelivered && d.seq >= begun.get(&queue).copied().unwrap_or(1) {
                return Err(format!("{} of {queue} is marked redelivered", d.seq));
            }
            let last = self.first.insert((queue, *level), d.seq).unwrap_or(0);
            if last >= d.seq {
                return Err(format!("queue {queue}: {} first after {last}", d.seq));
            }
        }
        Ok(())
    }

    /// What was committed and not settled.
    pub fn live(&self) -> Vec<(QueueId, Seq)> {
        let alive = self.messages.keys().filter(|at| !self.settled.contains(at));
        alive.copied().collect()
    }

    /// Everything that a session was told to be committed is.
    pub fn check_confirmed(&self) -> Result<(), String> {
        match self
            .confirmed
            .iter()
            .find(|at| !self.numbers.contains_key(at))
        {
            Some(lost) => Err(format!("{lost:?} was confirmed and is lost")),
            None => Ok(()),
        }
    }
}
