//! What must hold whatever fails; it sees everything, and the nodes know nothing of it.
//!
//! - **One leader a term**: from roles, and from every append that is sent.
//! - **Log matching**: an entry of one index and term is the same everywhere, and so is the one before it. Looked at after every step.
//! - **Leader completeness**: whoever leads has the last entry that was applied anywhere.
//! - **State machine safety**: one entry an index, and replicas that are equal byte for byte, but for locations, after it.
//! - **Nothing enqueued twice**, nothing that was not sent, each session's messages in their order in each queue.
//! - **Nothing confirmed is lost**: what a session was told to be committed was applied, and lives until it is settled by the log.
//!
//! The first violation stays. Everything that happens goes into a hash, so that two runs can be compared.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::GroupId;
use leveret_cluster::raft::codec;
use leveret_cluster::raft::log_storage::RaftLog;
use leveret_cluster::raft::types::{LogId, MemberId, Term, Vote};
use leveret_queue::entry::{EntryReader, Op, Part};
use leveret_queue::{Applied, EntryBuf, PartOutcome, QueueId, Seq, SessionId};
use openraft::rt::{AsyncRuntime, Instant as _};
use parking_lot::Mutex;

use crate::deliveries::Given;
use crate::runtime::NodeRuntime;

type Instant = <NodeRuntime as AsyncRuntime>::Instant;

/// Lines that are kept for a failure's report.
const RECENT_LINES: usize = 400;

/// What a log was last seen to have.
#[derive(Default)]
pub struct SeenLog {
    first: u64,
    terms: VecDeque<Term>,
}

/// What is known of a group.
#[derive(Default)]
struct History {
    leaders: BTreeMap<Term, MemberId>,
    /// (index, term) → the term before it, and the hash of its body.
    entries: BTreeMap<(u64, Term), (Term, u64)>,
    applied: BTreeMap<u64, (Term, u64)>,
    digests: BTreeMap<u64, u64>,
    model: Model,
    given: Given,
    /// Queues that lose nothing that no client asked to go.
    unlimited: BTreeSet<QueueId>,
}

/// What the queues of a group hold, by its log alone.
#[derive(Default)]
struct Model {
    queues: BTreeSet<QueueId>,
    live: BTreeMap<(QueueId, Seq), u64>,
    settled: BTreeSet<u64>,
    enqueued: BTreeMap<u64, (QueueId, Seq)>,
    /// Every message that ever was at a place.
    places: BTreeMap<(QueueId, Seq), u64>,
    last: BTreeMap<(SessionId, QueueId), u64>,
    confirmed: BTreeSet<u64>,
    /// What went with the last entry.
    gone: Vec<(QueueId, u64)>,
    /// The last number of each session.
    numbers: BTreeMap<SessionId, u64>,
}

struct Inner {
    hash: u64,
    events: u64,
    recent: VecDeque<String>,
    loud: bool,
    failure: Option<String>,
    groups: BTreeMap<GroupId, History>,
    /// Message → who sent it.
    sent: BTreeMap<u64, SessionId>,
    next_id: u64,
}

/// See the module.
pub struct Judge {
    start: Instant,
    inner: Mutex<Inner>,
}

/// A hash of bytes, eight at a time.
pub fn hash(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, word: u64| {
        let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    };
    let (words, rest) = bytes.as_chunks::<8>();
    let start = mix(0xcbf2_9ce4_8422_2325, bytes.len() as u64);
    let hash = words
        .iter()
        .fold(start, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, byte)| *to = *byte);
    mix(hash, u64::from_le_bytes(last))
}

/// The body of a message: its id, and bytes that follow from it.
pub fn body_of(id: u64, len: usize) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    let filler = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    body.resize(len.max(8), filler);
    body
}

/// The id of a body that is as it was sent.
pub fn id_of(body: &[u8]) -> Option<u64> {
    let id = u64::from_le_bytes(*body.first_chunk::<8>()?);
    (body_of(id, body.len()) == body).then_some(id)
}

impl Judge {
    /// Nothing has happened. `loud`: every event is printed.
    pub fn new(loud: bool) -> Judge {
        Judge {
            start: Instant::now(),
            inner: Mutex::new(Inner {
                hash: 0,
                events: 0,
                recent: VecDeque::new(),
                loud,
                failure: None,
                groups: BTreeMap::new(),
                sent: BTreeMap::new(),
                next_id: 1,
            }),
        }
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// Something happened.
    pub fn note(&self, what: fmt::Arguments<'_>) {
        let at = self.start.elapsed();
        let (ms, us) = (at.as_millis(), at.subsec_micros() % 1000);
        let line = format!("{ms:>5}.{us:03} ms {what}");
        let mut inner = self.inner.lock();
        inner.hash = (inner.hash ^ hash(line.as_bytes())).rotate_left(5);
        inner.hash = inner.hash.wrapping_mul(0x0100_0000_01b3);
        inner.events += 1;
        if inner.loud {
            println!("{line}");
        }
        if inner.recent.len() >= RECENT_LINES {
            inner.recent.pop_front();
        }
        inner.recent.push_back(line);
    }

    /// Something is wrong.
    pub fn fail(&self, what: fmt::Arguments<'_>) {
        self.note(format_args!("VIOLATION {what}"));
        let mut inner = self.inner.lock();
        inner.failure.get_or_insert_with(|| what.to_string());
    }

    /// What is wrong.
    pub fn failure(&self) -> Option<String> {
        self.inner.lock().failure.clone()
    }

    /// The last lines, for a report.
    pub fn recent(&self) -> Vec<String> {
        self.inner.lock().recent.iter().cloned().collect()
    }

    /// Hash and number of everything that happened.
    pub fn trace(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        (inner.hash, inner.events)
    }

    fn with<T>(
        &self,
        group: GroupId,
        f: impl FnOnce(&mut History) -> Result<T, String>,
    ) -> Option<T> {
        let result = f(self.inner.lock().groups.entry(group).or_default());
        match result {
            Ok(found) => Some(found),
            Err(text) => {
                self.fail(format_args!("group {group}: {text}"));
                None
            }
        }
    }

    // ------------------------------------------------------------------ Raft

    /// A member leads in a term.
    pub fn leads(&self, group: GroupId, term: Term, member: MemberId) {
        self.with(group, |history| {
            let known = *history.leaders.entry(term).or_insert(member);
            match known == member {
                true => Ok(()),
                false => Err(format!("{known:x} and {member:x} lead in term {term}")),
            }
        });
    }

    /// An append was sent under this vote.
    pub fn append_sent(&self, group: GroupId, vote: &Vote) {
        if vote.committed {
            self.leads(group, vote.leader_id.term, vote.leader_id.voted_for);
        }
    }

    /// A member was elected, with this log: it has what was applied anywhere.
    pub fn elected(&self, group: GroupId, term: Term, member: MemberId, log: &RaftLog) {
        self.leads(group, term, member);
        self.with(group, |history| {
            let Some((index, (applied, _))) = history.applied.last_key_value() else {
                return Ok(());
            };
            let (id, purged) = log.with_index(|log| (log.id_of(*index), log.purged()));
            if purged.is_some_and(|purged| purged.index > *index) {
                return Ok(());
            }
            match id.map(|id| id.leader_id.term) {
                Some(there) if there == *applied => Ok(()),
                there => Err(format!(
                    "{member:x} leads in term {term} with entry {index} of term {there:?}, which was applied as of term {applied}"
                )),
            }
        });
    }

    /// Looks at what changed in a log since it was last seen.
    pub fn log_changed(&self, log: &RaftLog, seen: &mut SeenLog) {
        let (first, next, last) =
            log.with_index(|log| (log.first_index(), log.next_index(), log.last()));
        let seen_next = seen.first + seen.terms.len() as u64;
        let last_term = last.map(|id| id.leader_id.term);
        if first == seen.first
            && next == seen_next
            && (next == first || seen.terms.back().copied() == last_term)
        {
            return;
        }
        while seen.first < first {
            seen.first += 1;
            if seen.terms.pop_front().is_none() {
                seen.first = first;
            }
        }
        let term_of = |index: u64| {
            log.with_index(|log| log.id_of(index))
                .map_or(0, |id: LogId| id.leader_id.term)
        };
        seen.terms.truncate((next - first) as usize);
        // Entries of one leader do not change: what is equal at the end is equal before.
        while let Some(term) = seen.terms.back() {
            let index = seen.first + seen.terms.len() as u64 - 1;
            if term_of(index) == *term {
                break;
            }
            seen.terms.pop_back();
        }
        for index in seen.first + seen.terms.len() as u64..next {
            let Ok(entries) = log.entries(index, index + 1, 1) else {
                // A disk that has failed; whatever was there is looked at after the restart.
                return;
            };
            let Some(entry) = entries.first() else {
                return;
            };
            let term = entry.log_id.leader_id.term;
            let before = match index.checked_sub(1) {
                Some(before) => term_of(before),
                None => 0,
            };
            let body = hash(&codec::encode_body(&entry.body));
            self.with(log.group(), |history| {
                let known = *history
                    .entries
                    .entry((index, term))
                    .or_insert((before, body));
                match known == (before, body) {
                    true => Ok(()),
                    false => Err(format!(
                        "entry {index} of term {term} is two: {known:x?} and {:x?}",
                        (before, body)
                    )),
                }
            });
            seen.terms.push_back(term);
        }
    }

    /// An entry was applied: `applied` says what became of it, and `digest` is the state behind it.
    pub fn applied(
        &self,
        (group, node): (GroupId, u64),
        id: LogId,
        data: &Bytes,
        applied: &Applied,
        digest: &[u8],
    ) {
        let (index, term) = (id.index, id.leader_id.term);
        let (body, state) = (hash(data), hash(digest));
        self.note(format_args!(
            "node {node} group {group} applied {term}.{index} {state:x}"
        ));
        let sent = &mut self.inner.lock();
        let Inner {
            groups,
            sent,
            failure,
            ..
        } = &mut **sent;
        let history = groups.entry(group).or_default();
        let is_new = !history.applied.contains_key(&index);
        let known = *history.applied.entry(index).or_insert((term, body));
        let known_state = *history.digests.entry(index).or_insert(state);
        let wrong = if known != (term, body) {
            Some(format!(
                "node {node} applied {index} of term {term}, others of {}",
                known.0
            ))
        } else if known_state != state {
            Some(format!("the replica of node {node} differs at {index}"))
        } else if is_new {
            let result = history.model.apply(applied, sent);
            let gone = std::mem::take(&mut history.model.gone);
            let mut unasked = gone.into_iter().filter(|(queue, id)| {
                history.unlimited.contains(queue) && !history.given.was_asked(*id)
            });
            let unasked = unasked.next().map(|(queue, id)| {
                format!("message {id} went from queue {queue}, and nobody had asked for it")
            });
            result.err().or(unasked)
        } else {
            None
        };
        if let Some(text) = wrong {
            failure.get_or_insert_with(|| format!("group {group}: {text}"));
        }
    }

    // ------------------------------------------------------------------ messages

    /// What clients of a group got.
    pub(crate) fn given<T>(
        &self,
        group: GroupId,
        f: impl FnOnce(&mut Given) -> Result<T, String>,
    ) -> Option<T> {
        self.with(group, |history| f(&mut history.given))
    }

    /// From these queues goes nothing that no client asked to go.
    pub fn unlimited(&self, group: GroupId, queues: impl IntoIterator<Item = QueueId>) {
        self.with(group, |history| {
            history.unlimited.extend(queues);
            Ok(())
        });
    }

    /// The groups of which anything was seen.
    pub fn groups(&self) -> Vec<GroupId> {
        self.inner.lock().groups.keys().copied().collect()
    }

    /// Whether the log has a settle of a message.
    pub fn is_settled(&self, group: GroupId, id: u64) -> bool {
        let mut inner = self.inner.lock();
        let history = inner.groups.entry(group).or_default();
        history.model.settled.contains(&id)
    }

    /// Deliveries to clients, and how many of them were marked as redelivered.
    pub fn deliveries(&self) -> (u64, u64) {
        let inner = self.inner.lock();
        let counts = inner.groups.values().map(|h| h.given.counts());
        counts.fold((0, 0), |sum, (all, again)| (sum.0 + all, sum.1 + again))
    }

    /// The id of a message that a session is about to send.
    pub fn new_message(&self, session: SessionId) -> u64 {
        let mut inner = self.inner.lock();
        let id = inner.next_id;
        inner.next_id += 1;
        inner.sent.insert(id, session);
        id
    }

    /// A session was told that these are safe.
    pub fn confirmed(&self, group: GroupId, session: SessionId, ids: &[u64]) {
        self.note(format_args!("{session:?} group {group} confirmed {ids:?}"));
        self.with(group, |history| {
            for id in ids {
                if !history.model.enqueued.contains_key(id) {
                    return Err(format!("message {id} was confirmed and is in no log"));
                }
                history.model.confirmed.insert(*id);
            }
            Ok(())
        });
    }

    /// What a consumer got: the queue's first live message.
    pub fn consumed(&self, group: GroupId, queue: QueueId, seq: Seq, body: &[u8]) {
        self.with(group, |history| {
            // Not only what lives: a leader that others have deposed does not know yet what they settled.
            let there = history.model.places.get(&(queue, seq)).copied();
            match (id_of(body), there) {
                (Some(id), Some(expected)) if id == expected => Ok(()),
                (got, there) => Err(format!(
                    "message {seq} of queue {queue} is {got:?} and should be {there:?}"
                )),
            }
        });
    }

    /// Everything that lives in a group, by its log.
    pub fn live(&self, group: GroupId) -> BTreeMap<(QueueId, Seq), u64> {
        let mut inner = self.inner.lock();
        inner.groups.entry(group).or_default().model.live.clone()
    }

    /// The last index that was applied anywhere.
    pub fn last_applied(&self, group: GroupId) -> u64 {
        let mut inner = self.inner.lock();
        let history = inner.groups.entry(group).or_default();
        history
            .applied
            .last_key_value()
            .map_or(0, |(index, _)| *index)
    }

    /// How many messages were enqueued, confirmed and settled in all groups.
    pub fn counts(&self) -> (usize, usize, usize) {
        let inner = self.inner.lock();
        inner.groups.values().fold((0, 0, 0), |sum, history| {
            let model = &history.model;
            (
                sum.0 + model.enqueued.len(),
                sum.1 + model.confirmed.len(),
                sum.2 + model.settled.len(),
            )
        })
    }

    /// At the end: what was confirmed lives, or was settled.
    pub fn nothing_is_lost(&self) {
        for group in self.groups() {
            self.with(group, |history| {
                let model = &history.model;
                let live: BTreeSet<u64> = model.live.values().copied().collect();
                for id in &model.confirmed {
                    if !live.contains(id) && !model.settled.contains(id) {
                        return Err(format!("message {id} was confirmed and is gone"));
                    }
                }
                Ok(())
            });
        }
    }
}

impl Model {
    fn apply(&mut self, applied: &Applied, sent: &BTreeMap<u64, SessionId>) -> Result<(), String> {
        for (part, outcome) in &applied.parts {
            if let Part::Entry {
                session, number, ..
            } = part
                && *session != SessionId::LEADER
            {
                let last = self.numbers.entry(*session).or_default();
                let is_next = *number == *last + 1;
                if is_next != (*outcome == PartOutcome::Applied) {
                    return Err(format!(
                        "number {number} of {session:?} is {outcome:?}, and its last one was {last}"
                    ));
                }
                *last += u64::from(is_next);
            }
            match part {
                Part::Entry { session, entry, .. } if *outcome == PartOutcome::Applied => {
                    self.entry(*session, entry, sent)?;
                }
                Part::Create { queue, .. } => {
                    self.queues.insert(*queue);
                }
                Part::Remove(queue) => {
                    self.queues.remove(queue);
                    self.live.retain(|(of, _), _| of != queue);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        session: SessionId,
        entry: &Arc<EntryBuf>,
        sent: &BTreeMap<u64, SessionId>,
    ) -> Result<(), String> {
        let text = |error: leveret_queue::EntryError| error.to_string();
        let reader = EntryReader::new(entry).map_err(text)?;
        let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
        for op in reader.ops() {
            let op = op.map_err(text)?;
            match op.op {
                Op::Enqueue => {
                    let message = reader.message(&op);
                    let id = id_of(message.content().3).ok_or("a message is not as it was sent")?;
                    if sent.get(&id) != Some(&session) {
                        return Err(format!("message {id} was not sent by {session:?}"));
                    }
                    for slot in op.slots() {
                        let Some((queue, seq)) = table.get_mut(usize::from(slot)) else {
                            continue;
                        };
                        let at = (*queue, *seq);
                        *seq += 1;
                        if !self.queues.contains(&at.0) {
                            continue;
                        }
                        if let Some(before) = self.enqueued.insert(id, at) {
                            return Err(format!(
                                "message {id} was enqueued twice: {before:?}, {at:?}"
                            ));
                        }
                        if self.last.insert((session, at.0), id) > Some(id) {
                            return Err(format!("message {id} came after one that was sent later"));
                        }
                        self.live.insert(at, id);
                        self.places.insert(at, id);
                    }
                }
                Op::Settle(slot, _) => {
                    let Some((queue, _)) = table.get(usize::from(slot)) else {
                        continue;
                    };
                    for range in op.ranges() {
                        for seq in range.first..range.first + u64::from(range.count) {
                            let gone = self.live.remove(&(*queue, seq));
                            self.settled.extend(gone);
                            self.gone.extend(gone.map(|id| (*queue, id)));
                        }
                    }
                }
                Op::Return(_) | Op::Relocated => {}
            }
        }
        Ok(())
    }
}
