//! Class tx: entries of several groups that take effect together.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use leveret_cluster::{GroupId, Notify};
use leveret_queue::{EntryBuilder, NewMessage, UnackedRange};
use leveret_storage::{AppendError, Location};
use leveret_topology::QueueInfo;
use parking_lot::Mutex;

use super::group::QueueGroup;
use super::{Node, Settle, SettleRange};
use crate::mirror::session::Refused;
use crate::ticket::{Answer, Ticket};

/// What a transaction does in one group.
#[derive(Debug, Default)]
pub(super) struct Part {
    pub entry: Option<EntryBuilder>,
    pub settles: Vec<SettleRange>,
}

/// Publishes and settles to be committed together.
#[derive(Debug, Default)]
pub struct Transaction {
    parts: BTreeMap<GroupId, Part>,
}

impl Transaction {
    /// Adds a routed message. `false`: the transaction names more queues than one entry can.
    #[must_use]
    pub fn publish(&mut self, queues: &[Arc<QueueInfo>], message: &NewMessage<'_>) -> bool {
        /// Places in an entry's queue table that are left for the queues of settles.
        const SETTLE_SLOTS: usize = 0x4000;
        let mut groups: Vec<GroupId> = queues.iter().map(|q| q.group).collect();
        groups.sort_unstable();
        groups.dedup();
        for group in groups {
            let mine = || queues.iter().filter(|q| q.group == group);
            let ids: Vec<u64> = mine().map(|q| q.id.0).collect();
            let journal = message.persistent && mine().any(|q| q.durable);
            let part = self.parts.entry(group).or_default();
            let entry = part.entry.get_or_insert_default();
            if !entry.has_slots(ids.len() + SETTLE_SLOTS) {
                return false;
            }
            entry.enqueue(&ids, message, journal);
        }
        true
    }

    /// Adds a settled delivery.
    pub fn settle(&mut self, group: GroupId, queue: u64, how: Settle, range: UnackedRange) {
        self.parts
            .entry(group)
            .or_default()
            .settles
            .push(SettleRange { queue, how, range });
    }
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Committed {
    /// Must be durable before the client is told.
    pub at: Option<Location>,
    /// A full queue refused some of the messages; the rest is committed.
    pub refused: bool,
}

impl Node {
    /// Commits: all groups concerned are locked in ascending order, their records follow each other in the journal as one
    /// unit, then all is applied.
    ///
    /// # Errors
    /// The journal is poisoned; nothing was applied.
    pub fn commit(&self, transaction: Transaction, now_ms: u64) -> Result<Committed, AppendError> {
        let mut parts = Vec::new();
        for (id, part) in transaction.parts {
            if let Some(group) = self.group(id) {
                parts.push((group.as_ref(), part));
            }
        }
        let (committed, after) = QueueGroup::commit(parts, self.store.journal(), now_ms)?;
        self.after(after, now_ms);
        Ok(committed)
    }

    /// [`Node::commit`] for a connection that may have to wait. In a cluster each group takes its part as a whole, and the answer comes
    /// when all of them have it: a node that dies before may leave some with their parts and others without, as in RabbitMQ.
    pub fn commit_for(
        self: &Arc<Self>,
        transaction: Transaction,
        now_ms: u64,
        ticket: &Arc<Ticket>,
    ) -> Option<Answer> {
        if self.mirror().is_none() {
            return Some(match self.commit(transaction, now_ms) {
                Ok(committed) => Answer::Committed(committed),
                Err(error) => Answer::Unavailable(error.to_string()),
            });
        }
        let way = Arc::new(CommitWay {
            node: Arc::downgrade(self),
            ticket: Arc::clone(ticket),
            parts: Mutex::new(None),
        });
        let mut parts = Vec::with_capacity(transaction.parts.len());
        for (group, part) in transaction.parts {
            if let Some(session) = self.session(group) {
                let who: Arc<dyn Notify> = way.clone();
                let refused = Refused::default();
                let number = session.submit(part.entry, &part.settles, Some(who), Some(&refused));
                parts.push((group, number, refused));
            }
        }
        *way.parts.lock() = Some(parts);
        way.notify();
        None
    }
}

/// A transaction that not all of its groups have committed.
struct CommitWay {
    node: Weak<Node>,
    ticket: Arc<Ticket>,
    /// Groups, the session's numbers there, and what was refused; nothing once it is done.
    parts: Mutex<Option<Vec<(GroupId, u64, Refused)>>>,
}

impl Notify for CommitWay {
    fn notify(&self) {
        let Some(node) = self.node.upgrade() else {
            return;
        };
        let mut parts = self.parts.lock();
        let safe = |(group, number, _): &(GroupId, u64, Refused)| {
            let session = node.session(*group);
            session.is_none_or(|s| s.committed() >= *number)
        };
        let Some(done) = parts.take_if(|parts| parts.iter().all(safe)) else {
            return;
        };
        drop(parts);
        let refused = done
            .iter()
            .any(|(_, _, refused)| !refused.lock().is_empty());
        self.ticket
            .answer(Answer::Committed(Committed { at: None, refused }));
    }
}
