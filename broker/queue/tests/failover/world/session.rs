//! A node's session: its consumers, what it sent and has not heard to be committed.

use std::collections::{BTreeMap, VecDeque};

use leveret_queue::{QueueId, Seq, SeqRange, SessionId, Settle};

use super::Key;
use crate::oracle::Oracle;

pub struct Consumer {
    pub queue: QueueId,
    pub no_ack: bool,
    pub prefetch: u32,
    /// Numbers in the queue, and among its deliveries by the leader that it is attached to.
    pub held: Vec<(Seq, u64)>,
}

/// What a session sent and has not heard to be committed.
pub struct Sent {
    pub number: u64,
    pub entry: Option<Vec<u8>>,
    pub messages: Vec<(QueueId, u64)>,
    pub settles: Vec<(Key, QueueId, SeqRange, Settle)>,
}

pub struct Session {
    pub id: SessionId,
    pub next_number: u64,
    pub sent: VecDeque<Sent>,
    pub consumers: BTreeMap<Key, Consumer>,
    /// It has told the present leader what it holds.
    pub attached: bool,
}

impl Session {
    pub fn new(node: usize, incarnation: u64) -> Self {
        Session {
            id: SessionId {
                node: node as u64 + 1,
                incarnation,
            },
            next_number: 1,
            sent: VecDeque::new(),
            consumers: BTreeMap::new(),
            attached: false,
        }
    }

    /// Whether one of its consumers holds a message, or settled it for good without having heard that this is committed.
    pub fn has(&self, (queue, seq): (QueueId, Seq)) -> bool {
        let settled = |(_, q, r, how): &(Key, QueueId, SeqRange, Settle)| {
            let range = r.first..r.first + u64::from(r.count);
            *q == queue && *how != Settle::Requeue && range.contains(&seq)
        };
        let mut mine = self.consumers.values().filter(|c| c.queue == queue);
        mine.any(|c| c.held.iter().any(|held| held.0 == seq))
            || self
                .sent
                .iter()
                .any(|sent| sent.settles.iter().any(settled))
    }

    /// What a consumer gave back and then got again from the last leader is its own: giving it back is not said again.
    pub fn drop_old_requeues(&mut self) {
        for sent in &mut self.sent {
            let mut kept = Vec::new();
            for (key, queue, range, how) in sent.settles.drain(..) {
                let consumer = self.consumers.get(&key);
                let again = |seq| consumer.is_some_and(|c| c.held.iter().any(|(s, _)| *s == seq));
                for at in 0..range.count {
                    let one = SeqRange {
                        number: range.number + u64::from(at),
                        first: range.first + u64::from(at),
                        count: 1,
                    };
                    if how != Settle::Requeue || !again(one.first) {
                        kept.push((key, queue, one, how));
                    }
                }
            }
            sent.settles = kept;
        }
    }

    pub fn committed(&mut self, number: u64, oracle: &mut Oracle) {
        let done = self.sent.partition_point(|sent| sent.number <= number);
        let done = self.sent.drain(..done);
        oracle.confirmed.extend(done.flat_map(|sent| sent.messages));
    }
}
