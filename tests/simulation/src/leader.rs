//! A group on a node: the replica, and the machine while the node leads. The rules are docs/cluster.md, section 5, without consumers.
//!
//! A leader takes the batches of a session in the order of their numbers, has the machine give their messages numbers, and proposes what
//! came meanwhile as one entry. It tells a session what is committed when it has applied it. When a proposal fails it leads no
//! more, and begins anew, in the same term if that goes on, once nothing of it is under way.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::snapshot::{SnapshotSink, SnapshotSource};
use leveret_cluster::raft::state_machine::{Committed, Machine};
use leveret_cluster::raft::types::{Payload, Term};
use leveret_cluster::{GroupId, LogStore};
use leveret_queue::entry::Part;
use leveret_queue::{
    BatchBuilder, Effects, EntryBuilder, Location, QueueId, Replica, SessionId, Settings, Store,
};
use parking_lot::Mutex;

use crate::hosted::{Group, Hosted};
use crate::judge::Judge;
use crate::snapshot;
use crate::store::Bodies;

/// Proposals under way.
const PROPOSALS_MAX: usize = 4;

/// Tells a session on some node: up to this number it is committed.
pub type Tell = Box<dyn Fn(SessionId, Term, u64) + Send + Sync>;

/// The queues of a group.
pub fn queues(group: GroupId) -> [(QueueId, Settings); 4] {
    let first = u64::from(group) * 10;
    let durable = Settings {
        durable: true,
        ..Settings::default()
    };
    [
        (first + 1, durable),
        (
            first + 2,
            Settings {
                max_priority: 3,
                ..durable
            },
        ),
        (
            first + 3,
            Settings {
                max_length: Some(20),
                ..durable
            },
        ),
        (
            first + 4,
            Settings {
                message_ttl_ms: Some(3000),
                ..durable
            },
        ),
    ]
}

struct Lead {
    term: Term,
    machine: leveret_queue::Machine,
    effects: Effects,
    batch: BatchBuilder,
    received: BTreeMap<SessionId, u64>,
}

struct Inner {
    replica: Replica,
    barrier: Location,
    lead: Option<Lead>,
    /// Proposals without an answer, of whatever lead.
    under_way: usize,
}

/// See the module.
pub struct GroupState {
    group: GroupId,
    node: u64,
    inner: Mutex<Inner>,
    bodies: Bodies,
    judge: Arc<Judge>,
    raft: OnceLock<Arc<Group>>,
    /// How far this node's clock is off.
    clock_ms: Arc<AtomicI64>,
    tell: Tell,
}

impl GroupState {
    /// Without queues.
    pub fn new(
        group: GroupId,
        node: u64,
        store: &Arc<LogStore>,
        judge: &Arc<Judge>,
        clock_ms: &Arc<AtomicI64>,
        tell: Tell,
    ) -> Arc<GroupState> {
        Arc::new(GroupState {
            group,
            node,
            inner: Mutex::new(Inner {
                replica: Replica::new(),
                barrier: Location(0),
                lead: None,
                under_way: 0,
            }),
            bodies: Bodies(Arc::clone(store.journal())),
            judge: Arc::clone(judge),
            raft: OnceLock::new(),
            clock_ms: Arc::clone(clock_ms),
            tell,
        })
    }

    /// Where its messages are.
    pub fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// Takes another replica's place.
    pub(crate) fn replace(&self, replica: Replica) {
        let mut inner = self.inner.lock();
        inner.lead = None;
        inner.replica = replica;
    }

    fn now_ms(&self) -> u64 {
        let now = self.judge.now_ms() as i64 + (1 << 40);
        (now + self.clock_ms.load(Ordering::Relaxed)) as u64
    }

    /// Looks at what Raft says: begins to lead, or ends; whatever is due is done.
    pub fn look(self: &Arc<Self>) {
        let Some(raft) = self.raft.get() else { return };
        let now_ms = self.now_ms();
        let mut inner = self.inner.lock();
        match raft.role() {
            Role::Leading { term, .. } => {
                if inner.lead.as_ref().is_some_and(|lead| lead.term != term) {
                    inner.lead = None;
                }
                if inner.lead.is_none() && inner.under_way == 0 {
                    let end = Location(raft.store().journal().end().to_u64());
                    let mut machine = leveret_queue::Machine::lead(
                        self.group,
                        &inner.replica,
                        queues(self.group),
                        end,
                        now_ms,
                    );
                    let mut effects = Effects::default();
                    machine.go(now_ms, &self.bodies, &mut effects);
                    inner.lead = Some(Lead {
                        term,
                        machine,
                        effects,
                        batch: BatchBuilder::default(),
                        received: BTreeMap::new(),
                    });
                    let (node, group) = (self.node, self.group);
                    self.judge
                        .note(format_args!("node {node} group {group} leads {term}"));
                }
                if let Some(lead) = inner.lead.as_mut() {
                    let effects = &mut lead.effects;
                    lead.machine.tick(now_ms, 16, &self.bodies, effects);
                }
            }
            _ => inner.lead = None,
        }
        drop(inner);
        self.propose();
    }

    /// A batch of a session for the leader of `term`.
    pub fn receive(&self, session: SessionId, term: Term, number: u64, entry: Bytes) {
        let now_ms = self.now_ms();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        let Some(lead) = inner.lead.as_mut().filter(|lead| lead.term == term) else {
            return;
        };
        let applied = inner.replica.last_number(session);
        let received = lead.received.entry(session).or_insert(applied);
        if number <= applied {
            return (self.tell)(session, term, applied);
        }
        if number != *received + 1 {
            return;
        }
        let mut builder = match EntryBuilder::reopen(entry.to_vec()) {
            Ok(builder) => builder,
            Err(error) => {
                return self
                    .judge
                    .fail(format_args!("a batch cannot be read: {error}"));
            }
        };
        *received = number;
        let effects = &mut lead.effects;
        lead.machine
            .admit(&mut builder, now_ms, &self.bodies, effects);
        Self::collect(lead);
        lead.batch.entry(session, number, &builder.finish(None));
    }

    /// Somebody takes the first message of a queue for good.
    pub fn consume(&self, queue: QueueId) {
        let now_ms = self.now_ms();
        let mut inner = self.inner.lock();
        let Some(lead) = inner.lead.as_mut() else {
            return;
        };
        let got = lead
            .machine
            .get(queue, None, now_ms, &self.bodies, &mut lead.effects);
        if let Some(got) = got {
            let body = got.message.content().3;
            self.judge.consumed(self.group, queue, got.seq, body);
        }
        if let Some(failure) = lead.effects.failure.take() {
            self.unreadable(&failure.0);
        }
    }

    fn unreadable(&self, why: &str) {
        let (node, group) = (self.node, self.group);
        self.judge
            .fail(format_args!("node {node} group {group}: {why}"));
    }

    /// What the machine did by itself comes before what comes next.
    fn collect(lead: &mut Lead) {
        for (queue, levels) in lead.effects.created.drain(..) {
            lead.batch.create(queue, levels);
        }
        lead.batch.own(std::mem::take(&mut lead.effects.journal));
        lead.effects.dead.clear();
        lead.effects.unused.clear();
    }

    /// Proposes what there is.
    pub fn propose(self: &Arc<Self>) {
        let Some(raft) = self.raft.get() else { return };
        let mut inner = self.inner.lock();
        let under_way = inner.under_way;
        let Some(lead) = inner.lead.as_mut() else {
            return;
        };
        Self::collect(lead);
        if lead.batch.is_empty() || under_way >= PROPOSALS_MAX {
            return;
        }
        let term = lead.term;
        let payload = std::mem::take(&mut lead.batch).finish(None);
        inner.under_way += 1;
        drop(inner);
        let Some(payload) = Payload::new(payload) else {
            return self.judge.fail(format_args!("a batch is no payload"));
        };
        let state = Arc::downgrade(self);
        let proposed = raft.propose(term, payload, move |result| {
            if let Some(state) = state.upgrade() {
                let mut inner = state.inner.lock();
                inner.under_way -= 1;
                if result.is_err() && inner.lead.as_ref().is_some_and(|lead| lead.term == term) {
                    inner.lead = None;
                }
            }
        });
        if let Err(error) = proposed {
            self.judge
                .fail(format_args!("a proposal was not taken: {error}"));
        }
    }

    fn apply(&self, entry: &Committed) {
        let location = Location(entry.location.to_u64());
        let now_ms = self.now_ms();
        let mut inner = self.inner.lock();
        let inner = &mut *inner;
        if !entry.follows {
            inner.barrier = location;
        }
        let applied = match inner.replica.apply(&entry.data, location, inner.barrier) {
            Ok(applied) => applied,
            Err(error) => {
                let id = entry.log_id;
                return self
                    .judge
                    .fail(format_args!("entry {id} is malformed: {error}"));
            }
        };
        let digest = inner.replica.digest();
        let who = (self.group, self.node);
        self.judge
            .applied(who, entry.log_id, &entry.data, &applied, &digest);
        let Some(lead) = inner.lead.as_mut() else {
            return;
        };
        if applied.has_gap() {
            self.judge
                .fail(format_args!("a leader proposed a gap: {}", entry.log_id));
        }
        let effects = &mut lead.effects;
        let done = lead
            .machine
            .apply_batch(&applied, location, now_ms, &self.bodies, effects);
        if let Err(error) = done {
            self.judge.fail(format_args!("{error}"));
        }
        let mut sessions: Vec<SessionId> = Vec::new();
        for (part, _) in &applied.parts {
            if let Part::Entry { session, .. } = part
                && *session != SessionId::LEADER
                && !sessions.contains(session)
            {
                sessions.push(*session);
            }
        }
        for session in sessions {
            (self.tell)(session, lead.term, inner.replica.last_number(session));
        }
    }
}

impl Hosted for GroupState {
    fn group(&self) -> GroupId {
        self.group
    }

    fn begin(&self, raft: Arc<Group>) {
        let _ = self.raft.set(raft);
    }

    fn raft(&self) -> Option<&Arc<Group>> {
        self.raft.get()
    }

    fn replica(&self) -> Replica {
        self.inner.lock().replica.clone()
    }

    fn leads(&self) -> Option<Term> {
        self.inner.lock().lead.as_ref().map(|lead| lead.term)
    }

    fn store(&self) -> &dyn Store {
        &self.bodies
    }

    fn live_segments(&self, out: &mut BTreeSet<u32>) {
        let inner = self.inner.lock();
        for (_, queue) in inner.replica.queues() {
            let runs = queue.levels.iter().flat_map(|level| level.runs());
            out.extend(runs.map(|run| run.location.segment()));
        }
    }
}

/// The state machine of a group.
pub struct Modelled(pub Arc<GroupState>);

impl Machine for Modelled {
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>) {
        for entry in entries {
            self.0.apply(&entry);
        }
        self.0.propose();
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        self.0.inner.lock().replica.encode()
    }

    fn restore(&mut self, state: Bytes) -> io::Result<()> {
        let replica = Replica::decode(&state).map_err(io::Error::other)?;
        self.0.inner.lock().replica = replica;
        Ok(())
    }

    fn snapshot(&mut self) -> Arc<dyn SnapshotSource> {
        snapshot::source(&self.0)
    }

    fn sink(&mut self) -> Box<dyn SnapshotSink> {
        snapshot::sink(&self.0)
    }

    fn install(&mut self, received: Box<dyn Any + Send>) -> io::Result<()> {
        snapshot::install(&self.0, received)
    }
}
