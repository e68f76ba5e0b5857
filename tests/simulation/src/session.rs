//! A node's end of what its clients do with the queues of one group: docs/cluster.md, section 5, without consumers.
//!
//! Batches are numbered and kept until they are committed, and everything that is not is sent again, in order, to a new leader and whenever
//! nothing was heard for a while. Frames may be lost, come twice or late.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::GroupId;
use leveret_cluster::raft::types::Term;
use leveret_queue::{EntryBuilder, NewMessage, SessionId};
use parking_lot::Mutex;

use crate::hosted::Client;
use crate::judge::{Judge, body_of};
use crate::leader::queues;
use crate::network::Net;
use crate::random::Random;

/// Batches that wait for their commit at most.
const UNCOMMITTED_MAX: usize = 8;
/// After so long without progress everything is sent again.
const AGAIN_MS: u64 = 100;

/// What goes between sessions and leaders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The sender leads.
    Leads {
        /// The group.
        group: GroupId,
        /// Its term.
        term: Term,
    },
    /// For the leader of a term.
    Batch {
        /// The group.
        group: GroupId,
        /// The term.
        term: Term,
        /// Of the sender's process.
        incarnation: u64,
        /// The session's number of it.
        number: u64,
        /// The messages.
        entry: Bytes,
    },
    /// From a leader: everything up to this number is committed.
    Committed {
        /// The group.
        group: GroupId,
        /// Its term.
        term: Term,
        /// Of the session's process.
        incarnation: u64,
        /// The number.
        number: u64,
    },
}

impl Frame {
    /// Five words, then the entry.
    pub fn encode(&self) -> Bytes {
        let (words, entry): ([u64; 5], &[u8]) = match self {
            Frame::Leads { group, term } => ([0, u64::from(*group), *term, 0, 0], &[]),
            Frame::Batch {
                group,
                term,
                incarnation,
                number,
                entry,
            } => (
                [1, u64::from(*group), *term, *incarnation, *number],
                entry.as_ref(),
            ),
            Frame::Committed {
                group,
                term,
                incarnation,
                number,
            } => ([2, u64::from(*group), *term, *incarnation, *number], &[]),
        };
        let words = words.iter().flat_map(|word| word.to_le_bytes());
        words.chain(entry.iter().copied()).collect()
    }

    /// The frame of these bytes.
    pub fn decode(bytes: &Bytes) -> Option<Frame> {
        let word = |at: usize| {
            let word = bytes.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(word.try_into().ok()?))
        };
        let (group, term) = (word(1)? as GroupId, word(2)?);
        let (incarnation, number) = (word(3)?, word(4)?);
        Some(match word(0)? {
            0 => Frame::Leads { group, term },
            1 => Frame::Batch {
                group,
                term,
                incarnation,
                number,
                entry: bytes.slice(40..),
            },
            _ => Frame::Committed {
                group,
                term,
                incarnation,
                number,
            },
        })
    }
}

struct Batch {
    number: u64,
    entry: Bytes,
    ids: Vec<u64>,
}

struct Inner {
    leader: Option<(u64, Term)>,
    last: u64,
    uncommitted: VecDeque<Batch>,
    progress_ms: u64,
}

/// See the module.
pub struct Session {
    id: SessionId,
    group: GroupId,
    net: Net,
    judge: Arc<Judge>,
    inner: Mutex<Inner>,
}

impl Client for Session {
    fn is_idle(&self) -> bool {
        self.inner.lock().uncommitted.is_empty()
    }
}

impl Session {
    /// Without a leader.
    pub fn new(id: SessionId, group: GroupId, net: &Net, judge: &Arc<Judge>) -> Arc<Session> {
        Arc::new(Session {
            id,
            group,
            net: net.clone(),
            judge: Arc::clone(judge),
            inner: Mutex::new(Inner {
                leader: None,
                last: 0,
                uncommitted: VecDeque::new(),
                progress_ms: 0,
            }),
        })
    }

    /// Its group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Whether it is this one.
    pub fn is(&self, id: SessionId, group: GroupId) -> bool {
        self.id == id && self.group == group
    }

    fn send(&self, to: (u64, Term), batch: &Batch) {
        let frame = Frame::Batch {
            group: self.group,
            term: to.1,
            incarnation: self.id.incarnation,
            number: batch.number,
            entry: batch.entry.clone(),
        };
        self.net.push(self.id.node, to.0, frame.encode());
    }

    fn send_all(&self, inner: &mut Inner) {
        inner.progress_ms = self.judge.now_ms();
        if let Some(leader) = inner.leader {
            for batch in &inner.uncommitted {
                self.send(leader, batch);
            }
        }
    }

    /// A client publishes a few messages, unless too much waits.
    pub fn publish(&self, random: &mut Random) {
        let mut inner = self.inner.lock();
        if inner.uncommitted.len() >= UNCOMMITTED_MAX {
            return;
        }
        let mut entry = EntryBuilder::default();
        let mut ids = Vec::new();
        for _ in 0..random.between(1, 4) {
            let queues = queues(self.group);
            let Some((queue, _)) = random.pick(&queues) else {
                return;
            };
            let id = self.judge.new_message(self.id);
            let body = body_of(id, random.skewed(8, 3000) as usize);
            let message = NewMessage {
                exchange: b"",
                routing_key: b"",
                properties: b"",
                body: &[&body],
                persistent: true,
                expiration_ms: None,
                priority: random.below(5) as u8,
                time_ms: 0,
            };
            entry.enqueue(&[*queue], &message, true);
            ids.push(id);
        }
        inner.last += 1;
        let batch = Batch {
            number: inner.last,
            entry: entry.finish(None).to_bytes(),
            ids,
        };
        if let Some(leader) = inner.leader {
            self.send(leader, &batch);
        }
        inner.uncommitted.push_back(batch);
    }

    /// Sends everything again if nothing was heard for long.
    pub fn look(&self) {
        let mut inner = self.inner.lock();
        if self.judge.now_ms() >= inner.progress_ms + AGAIN_MS {
            self.send_all(&mut inner);
        }
    }

    /// A node says that it leads.
    pub fn led_by(&self, node: u64, term: Term) {
        let mut inner = self.inner.lock();
        if inner.leader.is_none_or(|(_, known)| known < term) {
            inner.leader = Some((node, term));
            self.send_all(&mut inner);
        }
    }

    /// A leader says what is committed.
    pub fn committed(&self, number: u64) {
        let mut inner = self.inner.lock();
        if number > inner.last {
            let (id, last) = (self.id, inner.last);
            self.judge
                .fail(format_args!("{id:?} was told {number}, and sent {last}"));
        }
        let mut ids = Vec::new();
        while inner
            .uncommitted
            .front()
            .is_some_and(|b| b.number <= number)
        {
            ids.extend(
                inner
                    .uncommitted
                    .pop_front()
                    .into_iter()
                    .flat_map(|b| b.ids),
            );
        }
        if !ids.is_empty() {
            inner.progress_ms = self.judge.now_ms();
            drop(inner);
            self.judge.confirmed(self.group, self.id, &ids);
        }
    }
}
