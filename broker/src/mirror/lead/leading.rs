//! What a group has only while it leads.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use bytes::Bytes;
use leveret_queue::entry::{BatchBuilder, MemoryGauge};
use leveret_queue::{
    ConsumerSlot, ConsumerSpec, Effects, EntryBuilder, Link, Machine, Overflow, QueueId, Replica,
    SeqRange,
};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use super::link::{Attached, Outgoing, PeerLink, granted};
use super::{Done, Reign, SETTLES_HELD_BYTES, SETTLES_HELD_MS};
use crate::mirror::message::{Attach, Claim, ConsumerKey, SessionId, SettleSeqs, Up};
use crate::node::BodyStore;

/// A session, as the leader knows it.
#[derive(Default)]
pub(super) struct Peer {
    /// Number of the last batch that was taken.
    pub(super) received: u64,
    /// Number of the last batch that belongs to its claim.
    pub(super) last: u64,
    /// Its claim, until that batch has come: what it has settled or given back is not its consumers' to get before.
    pub(super) claims: Option<Vec<Claim>>,
    pub(super) consumers: FxHashMap<ConsumerKey, Attached>,
    /// What was refused of batches that are not committed yet.
    pub(super) refused: VecDeque<(u64, Vec<u32>)>,
    /// What waits until the metadata here has a queue that the first of it names.
    pub(super) held_back: VecDeque<Up>,
    /// Number of the last batch with messages in it.
    pub(super) published: u64,
    /// What is to see the messages that came before it: done when the batch of that number is applied.
    pub(super) late: VecDeque<(u64, Up)>,
}

/// A batch of a session.
pub(super) struct Batch {
    pub(super) number: u64,
    /// It was applied before.
    pub(super) repeated: bool,
    pub(super) settles: Vec<SettleSeqs>,
    pub(super) entry: Bytes,
}

/// What only the leader has.
pub(super) struct Leading {
    pub(super) reign: Reign,
    pub(super) machine: Machine,
    pub(super) effects: Effects,
    pub(super) peers: FxHashMap<SessionId, Peer>,
    /// What is to be proposed next.
    pub(super) batch: BatchBuilder,
    /// When the batch is to be proposed: at once (0) if somebody waits for what is in it. `u64::MAX`: there is none.
    pub(super) due_ms: u64,
    pub(super) proposals: usize,
    /// An entry of this era was applied: nobody else leads, or has led since the era began.
    pub(super) proven: bool,
    /// Nodes whose claims are awaited, until then.
    pub(super) awaited: FxHashSet<u64>,
    pub(super) until_ms: u64,
    /// The present life of each node, as far as it is known here.
    pub(super) lives: FxHashMap<u64, u64>,
    /// What came before the machine was allowed to deliver.
    pub(super) deferred: Vec<(SessionId, Up)>,
}
/// The queue whose waiting messages a request is about.
pub(super) fn looks_at(up: &Up) -> Option<QueueId> {
    match up {
        Up::Get { queue, .. } | Up::Purge { queue, .. } | Up::Counts { queue, .. } => Some(*queue),
        _ => None,
    }
}

impl Leading {
    /// Whether there is a batch that should wait no longer for more to come.
    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        let full = self.batch.len() >= SETTLES_HELD_BYTES;
        !self.batch.is_empty() && (full || self.due_ms <= now_ms)
    }

    /// Somebody waits for what is in the batch.
    pub(super) fn hurry(&mut self) {
        self.due_ms = 0;
    }

    /// Nobody waits for what was put into the batch, but it is not to be late.
    pub(super) fn hold(&mut self, now_ms: u64) {
        self.due_ms = self.due_ms.min(now_ms + SETTLES_HELD_MS);
    }

    /// The batch, as it is to be proposed.
    pub(super) fn take_batch(&mut self, gauge: &Arc<MemoryGauge>) -> Done {
        self.proposals += 1;
        self.due_ms = u64::MAX;
        let batch = std::mem::take(&mut self.batch);
        Done::Propose(self.reign.term, batch.finish(Some(Arc::clone(gauge))))
    }

    /// A life of a node has begun.
    pub(super) fn begins(&mut self, life: SessionId) {
        let known = self.lives.entry(life.node).or_default();
        *known = life.incarnation.max(*known);
    }

    /// Whether another life of its node has begun since.
    pub(super) fn is_over(&self, session: SessionId) -> bool {
        let known = self.lives.get(&session.node);
        known.is_some_and(|known| session.incarnation < *known)
    }

    /// Whether a request of a session has to wait for what the session has published before: until the number that is answered is applied.
    pub(super) fn is_early(&self, replica: &Replica, session: SessionId, up: &Up) -> Option<u64> {
        let queue = looks_at(up)?;
        let peer = self.peers.get(&session)?;
        if peer.published <= replica.last_number(session) {
            return None;
        }
        let admitted = self.machine.queue(queue)?.admitted();
        (admitted > 0 || !peer.late.is_empty()).then_some(peer.published)
    }

    /// Requests whose messages are applied now.
    pub(super) fn take_late(&mut self, replica: &Replica) -> Vec<(SessionId, Up)> {
        let mut ready = Vec::new();
        for (session, peer) in &mut self.peers {
            let applied = replica.last_number(*session);
            while peer.late.front().is_some_and(|(n, _)| *n <= applied) {
                ready.extend(peer.late.pop_front().map(|(_, up)| (*session, up)));
            }
        }
        ready
    }

    pub(super) fn settle(
        &mut self,
        session: SessionId,
        settle: &SettleSeqs,
        now_ms: u64,
        store: &BodyStore,
    ) {
        let held = settle.consumer.and_then(|key| {
            let peer = self.peers.get(&session)?;
            peer.consumers.get(&key).map(|c| c.slot)
        });
        let ranges: Vec<SeqRange> = settle
            .items
            .iter()
            .map(|&(number, first, count)| SeqRange {
                number,
                first,
                count,
            })
            .collect();
        self.machine.settle_seqs(
            settle.queue,
            held,
            &ranges,
            settle.how,
            now_ms,
            store,
            &mut self.effects,
        );
    }

    /// Attaches a consumer; `None`: an exclusive one is in the way, or the queue is gone.
    pub(super) fn attach(
        &mut self,
        session: SessionId,
        attach: &Attach,
        out: &Outgoing,
        now_ms: u64,
    ) -> Option<ConsumerSlot> {
        let link = Arc::new(PeerLink {
            reign: self.reign,
            session,
            queue: attach.queue,
            key: attach.key,
            credit: AtomicI64::new(i64::from(attach.credit)),
            waiter: Mutex::new(None),
            out: Arc::clone(out),
        });
        let window = attach.shared.then(|| granted(&link));
        let spec = ConsumerSpec {
            link: Arc::clone(&link) as Arc<dyn Link>,
            handle: attach.key,
            no_ack: attach.no_ack,
            exclusive: attach.exclusive,
            priority: attach.priority,
            prefetch: attach.prefetch,
            limiter: window.clone(),
            // One that was cancelled holds what it has, as one for basic.get does.
            passive: attach.passive || attach.cancelled,
        };
        let slot = match attach.before {
            Some(before) => self
                .machine
                .consume_again(attach.queue, spec, before, now_ms)?,
            None => self.machine.consume(attach.queue, spec, now_ms)?,
        };
        self.machine.note_use(attach.queue, &mut self.effects);
        self.peers.entry(session).or_default().consumers.insert(
            attach.key,
            Attached {
                queue: attach.queue,
                slot,
                link,
                window,
            },
        );
        Some(slot)
    }

    /// Whether a session's consumers hold messages of this leader's.
    pub(super) fn holds(&self, session: SessionId) -> bool {
        self.peers.get(&session).is_some_and(|peer| {
            let mut attached = peer.consumers.values();
            attached.any(|c| self.machine.held_by(c.queue, c.slot) > 0)
        })
    }

    /// Queues of an entry that may refuse: what became of a repeated batch's messages is not known then.
    pub(super) fn may_refuse(&self, entry: &EntryBuilder) -> bool {
        entry.queues().any(|queue| {
            self.machine
                .queue(queue)
                .is_some_and(|q| q.settings().overflow != Overflow::DropHead)
        })
    }
}

/// Sessions of lives of a node before this one say nothing any more.
pub(super) fn forget_before(replica: &Replica, batch: &mut BatchBuilder, life: SessionId) {
    for (session, _) in replica.sessions() {
        if session.node == life.node && session.incarnation < life.incarnation {
            batch.forget(session);
        }
    }
}
