//! Nodes with their sessions and mirrors, the leader, and what may happen to them.

mod checks;
mod session;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use leveret_queue::{
    BatchBuilder, ConsumerSlot, ConsumerSpec, Delivery, Effects, EntryBuilder, Location, Machine,
    NewMessage, Part, QueueId, Seq, SeqRange, SessionId, Settings, Settle,
};

use self::session::{Consumer, Sent, Session};
use crate::common::rng::Rng;
use crate::common::{FakeLink, body_of, message, spec};
use crate::mirror::Mirror;
use crate::oracle::Oracle;

const NODES: usize = 3;
const GROUP: u32 = 300;
type Key = u64;

fn settings() -> BTreeMap<QueueId, Settings> {
    let plain = Settings::default();
    let levels = Settings {
        max_priority: 3,
        ..plain
    };
    let counted = Settings {
        count_deliveries: true,
        ..plain
    };
    [(10, plain), (11, levels), (12, counted)].into()
}

struct Leader {
    node: usize,
    machine: Machine,
    effects: Effects,
    link: Arc<FakeLink>,
    slots: BTreeMap<Key, ConsumerSlot>,
    proposed: BTreeMap<SessionId, u64>,
    forgotten: BTreeSet<SessionId>,
    /// Next numbers when it began.
    begun: BTreeMap<QueueId, Seq>,
}

pub struct World {
    rng: Rng,
    mirrors: Vec<Mirror>,
    sessions: Vec<Session>,
    leader: Leader,
    term: u64,
    committed: usize,
    oracle: Oracle,
    next_key: Key,
    next_id: u64,
    next_incarnation: u64,
    gone: Vec<SessionId>,
    /// Delivered while a session had it that did not tell the leader in time: one of the two has it in vain.
    contested: BTreeSet<(QueueId, Seq)>,
}

impl World {
    pub fn new(seed: u64) -> Self {
        World {
            rng: Rng(seed),
            mirrors: (0..NODES).map(|_| Mirror::default()).collect(),
            sessions: (0..NODES).map(|node| Session::new(node, 1)).collect(),
            leader: Leader {
                node: 0,
                machine: Machine::new(GROUP),
                effects: Effects::default(),
                link: FakeLink::new(0),
                slots: BTreeMap::new(),
                proposed: BTreeMap::new(),
                forgotten: BTreeSet::new(),
                begun: BTreeMap::new(),
            },
            term: 0,
            committed: 0,
            oracle: Oracle::default(),
            next_key: 1,
            next_id: 1,
            next_incarnation: 2,
            gone: Vec::new(),
            contested: BTreeSet::new(),
        }
    }

    pub fn run(mut self) -> Result<(), String> {
        self.elect(None)?;
        let steps = 20 + self.rng.below(80);
        for at in 0..steps {
            let result = self.step().and_then(|()| self.check());
            result.map_err(|error| format!("step {at}: {error}"))?;
        }
        self.finish()
    }

    fn step(&mut self) -> Result<(), String> {
        let node = self.rng.below(NODES);
        match self.rng.below(24) {
            0..=4 => self.send(node),
            5 | 6 => self.consume(node),
            7 => self.release(node),
            8..=10 => self.propose(false, None),
            11..=14 => self.replicate(node, 3),
            15..=17 => self.commit(),
            18 => self.follow(node),
            19 => self.mirrors[node].restart(),
            20 => self.relocate(node),
            21 => self.attach(node),
            22 if self.rng.once_in(2) => {
                let dead = self.rng.once_in(2).then_some(node);
                self.elect(dead)
            }
            _ => self.deliver(true),
        }
    }

    // ------------------------------------------------------------------ sessions

    /// A session publishes and settles.
    fn send(&mut self, node: usize) -> Result<(), String> {
        let rng = &mut self.rng;
        let session = &mut self.sessions[node];
        let mut sent = Sent {
            number: session.next_number,
            entry: None,
            messages: Vec::new(),
            settles: Vec::new(),
        };
        session.next_number += 1;
        let queues: Vec<QueueId> = settings().into_keys().collect();
        let mut builder = EntryBuilder::default();
        for _ in 0..rng.below(5) {
            let to: Vec<QueueId> = queues.iter().copied().filter(|_| rng.once_in(2)).collect();
            if to.is_empty() {
                continue;
            }
            let body = body_of(self.next_id, 8 + rng.below(30));
            let new = NewMessage {
                priority: rng.below(5) as u8,
                persistent: rng.once_in(2),
                body: &[&body],
                ..message(&[])
            };
            builder.enqueue(&to, &new, false);
            sent.messages.extend(to.iter().map(|q| (*q, self.next_id)));
            self.next_id += 1;
        }
        if !builder.is_empty() {
            sent.entry = Some(builder.finish(None).to_vec());
        }
        for (key, consumer) in &mut session.consumers {
            let how = [Settle::Ack, Settle::Ack, Settle::Drop, Settle::Requeue][rng.below(4)];
            let taken: Vec<(Seq, u64)> = match rng.below(4) {
                0 => Vec::new(),
                // All up to one.
                1 => {
                    let n = rng.below(consumer.held.len() + 1);
                    consumer.held.drain(..n).collect()
                }
                _ => consumer.held.extract_if(.., |_| rng.once_in(3)).collect(),
            };
            for stretch in taken.chunk_by(|a, b| a.0 + 1 == b.0 && a.1 + 1 == b.1) {
                let range = SeqRange {
                    number: stretch[0].1,
                    first: stretch[0].0,
                    count: stretch.len() as u32,
                };
                sent.settles.push((*key, consumer.queue, range, how));
                if how != Settle::Requeue {
                    let done = stretch.iter().map(|(seq, _)| (consumer.queue, *seq));
                    self.oracle.done.extend(done);
                }
            }
        }
        session.sent.push_back(sent);
        Ok(())
    }

    fn consume(&mut self, node: usize) -> Result<(), String> {
        let key = self.next_key;
        self.next_key += 1;
        let queues: Vec<QueueId> = settings().into_keys().collect();
        let consumer = Consumer {
            queue: queues[self.rng.below(queues.len())],
            no_ack: self.rng.once_in(8),
            prefetch: self.rng.below(6) as u32,
            held: Vec::new(),
        };
        let session = &mut self.sessions[node];
        let queue = consumer.queue;
        if session.attached {
            self.leader.attach(key, &consumer)?;
        }
        session.consumers.insert(key, consumer);
        self.call(|m, s, e| m.run(queue, 0, s, e));
        self.deliver(true)
    }

    /// A channel is closed: what the consumer holds comes back.
    fn release(&mut self, node: usize) -> Result<(), String> {
        // What it settled before is told first.
        self.propose(true, None)?;
        let session = &mut self.sessions[node];
        let Some((key, consumer)) = session.consumers.pop_first() else {
            return Ok(());
        };
        let attached = session.attached;
        if let Some(slot) = self.leader.slots.remove(&key).filter(|_| attached) {
            self.call(|m, s, e| m.release(consumer.queue, slot, 0, s, e));
        }
        self.deliver(true)
    }

    // ------------------------------------------------------------------ the leader

    fn call<R>(
        &mut self,
        f: impl FnOnce(&mut Machine, &dyn leveret_queue::Store, &mut Effects) -> R,
    ) -> R {
        let leader = &mut self.leader;
        let store = &self.mirrors[leader.node].store;
        f(&mut leader.machine, store, &mut leader.effects)
    }

    /// Takes what attached sessions sent and that of `late`, `all` or some, and proposes it in one entry.
    fn propose(&mut self, all: bool, late: Option<usize>) -> Result<(), String> {
        let leader = &mut self.leader;
        let store = &self.mirrors[leader.node].store;
        let mut batch = BatchBuilder::default();
        for (node, session) in self.sessions.iter().enumerate() {
            if !session.attached && late != Some(node) {
                continue;
            }
            let proposed = leader.proposed.entry(session.id).or_default();
            for sent in &session.sent {
                if sent.number <= *proposed {
                    continue;
                }
                if !all && self.rng.once_in(3) {
                    break;
                }
                *proposed = sent.number;
                for (key, queue, range, how) in &sent.settles {
                    let slot = leader.slots.get(key).copied();
                    let (machine, effects) = (&mut leader.machine, &mut leader.effects);
                    machine.settle_seqs(*queue, slot, &[*range], *how, 0, store, effects);
                }
                let bytes = sent.entry.clone();
                let bytes = bytes.unwrap_or_else(|| EntryBuilder::default().finish(None).to_vec());
                let mut builder = EntryBuilder::reopen(bytes).map_err(|e| e.to_string())?;
                let (machine, effects) = (&mut leader.machine, &mut leader.effects);
                let outcome = machine.admit(&mut builder, 0, store, effects);
                if !outcome.refused.is_empty() || !outcome.unknown.is_empty() {
                    return Err(format!("{outcome:?}"));
                }
                for (queue, levels) in leader.effects.created.drain(..) {
                    batch.create(queue, levels);
                }
                batch.entry(session.id, sent.number, &builder.finish(None));
            }
        }
        // Again under each leader: the last one's proposal may be gone with it.
        for session in self.gone.iter().filter(|s| leader.forgotten.insert(**s)) {
            batch.forget(*session);
        }
        batch.own(std::mem::take(&mut leader.effects.journal));
        if !batch.is_empty() {
            let payload = batch.finish(None);
            let node = leader.node;
            self.mirrors[node].append(self.term, Some(payload), &mut self.rng);
        }
        self.deliver(true)
    }

    /// Takes what the leader's machine delivered; some of it does not reach the session if it is not `reliable`.
    fn deliver(&mut self, reliable: bool) -> Result<(), String> {
        if let Some(failure) = self.leader.effects.failure.take() {
            return Err(format!("{failure:?}"));
        }
        let all: Vec<Delivery> = self.leader.link.take();
        let mut seen = Vec::new();
        for d in &all {
            let owner = self
                .sessions
                .iter()
                .position(|s| s.consumers.contains_key(&d.handle));
            // Its channel may have been closed meanwhile.
            let queue = owner.map(|node| self.sessions[node].consumers[&d.handle].queue);
            let queue = queue.ok_or(format!("nobody is {}", d.handle))?;
            let at = (queue, d.seq);
            for session in &self.sessions {
                if !session.has(at) || self.contested.contains(&at) {
                    continue;
                }
                if session.attached {
                    return Err(format!("{at:?} belongs to {:?}", session.id));
                }
                // It came too late: others have it now.
                self.contested.insert(at);
            }
            seen.push((queue, d));
        }
        self.oracle.delivered(seen, &self.leader.begun)?;
        for d in &all {
            for session in &mut self.sessions {
                if let Some(consumer) = session.consumers.get_mut(&d.handle) {
                    if consumer.no_ack {
                        self.oracle.done.insert((consumer.queue, d.seq));
                    } else if reliable {
                        consumer.held.push((d.seq, d.number));
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends some of the leader's log to a mirror.
    fn replicate(&mut self, node: usize, max: usize) -> Result<(), String> {
        if node == self.leader.node {
            return Ok(());
        }
        let from = self.mirrors[node].common(&self.mirrors[self.leader.node]);
        let entries: Vec<_> = self.mirrors[self.leader.node].log[from..].to_vec();
        if entries.is_empty() {
            return Ok(());
        }
        self.mirrors[node].truncate(from);
        for entry in entries.into_iter().take(max) {
            self.mirrors[node].append(entry.term, entry.payload, &mut self.rng);
        }
        Ok(())
    }

    /// What a majority has is committed; the leader applies it and tells the sessions.
    fn commit(&mut self) -> Result<(), String> {
        let leader = &self.mirrors[self.leader.node];
        let others = (0..NODES).filter(|node| *node != self.leader.node);
        let has = others.map(|node| self.mirrors[node].common(leader)).max();
        let end = has.unwrap_or(0);
        if end > self.committed && leader.log[end - 1].term == self.term {
            self.committed = end;
        }
        self.follow(self.leader.node)
    }

    /// A mirror applies what is committed, as far as it has it.
    fn follow(&mut self, node: usize) -> Result<(), String> {
        let levels = settings().into_iter().map(|(id, s)| (id, s.max_priority));
        let levels: BTreeMap<QueueId, u8> = levels.collect();
        // Entries that are committed lie at the same place in every log that has them.
        let reached = self.mirrors[node].common(&self.mirrors[self.leader.node]);
        while self.mirrors[node].applied < self.committed.min(reached) {
            let leads = node == self.leader.node;
            if !leads && self.rng.once_in(4) {
                break;
            }
            let mirror = &mut self.mirrors[node];
            let applied = mirror.apply_next()?;
            let (at, digest) = (mirror.applied, mirror.replica.digest());
            let first = !self.oracle.digests.contains_key(&at);
            if *self.oracle.digests.entry(at).or_insert(digest.clone()) != digest {
                return Err(format!("mirror {node} differs at {at}"));
            }
            let Some((applied, location)) = applied else {
                continue;
            };
            if first {
                self.oracle.committed(&applied, &levels)?;
            }
            if leads && !self.leader.machine.is_empty() {
                let result = self.call(|m, s, e| m.apply_batch(&applied, location, 0, s, e));
                result.map_err(|e| e.to_string())?;
                for (part, _) in &applied.parts {
                    if let Part::Entry {
                        session, number, ..
                    } = part
                    {
                        for s in self.sessions.iter_mut().filter(|s| s.id == *session) {
                            s.committed(*number, &mut self.oracle);
                        }
                    }
                }
                self.deliver(true)?;
            }
        }
        Ok(())
    }

    fn relocate(&mut self, node: usize) -> Result<(), String> {
        let moved: BTreeMap<(QueueId, Seq), Location> =
            self.mirrors[node].relocate(&mut self.rng)?;
        if node == self.leader.node {
            for ((id, seq), at) in moved {
                self.leader.machine.relocated(id, seq, at);
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------------ leader changes

    /// Another leader, or the same anew. `dead`: a node whose process ended, and began again at once.
    fn elect(&mut self, dead: Option<usize>) -> Result<(), String> {
        // Some of the last deliveries are lost on their way.
        let reliable = self.rng.once_in(2);
        self.deliver(reliable)?;
        if let Some(node) = dead {
            self.gone.push(self.sessions[node].id);
            self.sessions[node] = Session::new(node, self.next_incarnation);
            self.next_incarnation += 1;
            self.mirrors[node].restart()?;
        }
        // A candidate needs one other mirror that is not ahead of it.
        let mut pairs = Vec::new();
        for one in 0..NODES {
            for two in (0..NODES).filter(|two| *two != one) {
                if self.mirrors[one].last() >= self.mirrors[two].last() {
                    pairs.push((one, two));
                }
            }
        }
        let (node, voter) = pairs[self.rng.below(pairs.len())];
        self.term += 1;
        self.leader.node = node;
        self.leader.machine = Machine::new(GROUP);
        self.leader.effects = Effects::default();
        self.mirrors[node].append(self.term, None, &mut self.rng);
        self.replicate(voter, usize::MAX)?;
        self.commit()?;
        if self.committed != self.mirrors[node].log.len() {
            return Err("the first entry of the term is not committed".into());
        }
        let mirror = &self.mirrors[node];
        let replica = &mirror.replica;
        let machine = Machine::lead(GROUP, replica, settings(), mirror.store.end(), 0);
        self.leader = Leader {
            node,
            machine,
            effects: Effects::default(),
            link: FakeLink::new(1 << 30),
            slots: BTreeMap::new(),
            proposed: replica.sessions().collect(),
            forgotten: BTreeSet::new(),
            begun: replica.queues().map(|(id, q)| (id, q.next_seq)).collect(),
        };
        self.sessions.iter_mut().for_each(|s| s.attached = false);
        let mut order: Vec<usize> = (0..NODES).collect();
        order.rotate_left(self.rng.below(NODES));
        for node in order {
            // One may be late.
            if !self.rng.once_in(6) {
                self.attach(node)?;
            }
        }
        // What sessions sent before is taken before anything is delivered; some of it may be committed by then.
        self.propose(true, None)?;
        if self.rng.once_in(2) {
            self.replicate(voter, usize::MAX)?;
            self.commit()?;
        }
        if !self.leader.link.take().is_empty() {
            return Err("delivered before it began".into());
        }
        self.call(|m, s, e| m.go(0, s, e));
        self.deliver(true)
    }

    /// A session tells the leader what its consumers hold.
    fn attach(&mut self, node: usize) -> Result<(), String> {
        let session = &mut self.sessions[node];
        if session.attached {
            return Ok(());
        }
        let leader = &mut self.leader;
        let last = self.mirrors[leader.node].replica.last_number(session.id);
        session.committed(last, &mut self.oracle);
        session.drop_old_requeues();
        // What it settled counts before anything that it waits for; before the leader goes, the order does not matter.
        if !self.leader.machine.is_armed() || self.rng.once_in(2) {
            self.propose(true, Some(node))?;
        }
        let (leader, session) = (&mut self.leader, &mut self.sessions[node]);
        session.attached = true;
        let store = &self.mirrors[leader.node].store;
        for (key, consumer) in &mut session.consumers {
            let slot = leader.attach(*key, consumer)?;
            let held: Vec<Seq> = consumer.held.iter().map(|(seq, _)| *seq).collect();
            let (machine, effects) = (&mut leader.machine, &mut leader.effects);
            let got = machine.claim(consumer.queue, slot, &held, 0, store, effects);
            if got.len() != held.len() {
                return Err(format!("{held:?} claimed, answered {got:?}"));
            }
            let mut next = 1;
            for (seq, number) in held.iter().zip(&got) {
                let at = (consumer.queue, *seq);
                match number {
                    Some(number) if *number != next => {
                        return Err(format!("{seq} got {number}, expected {next}"));
                    }
                    Some(_) => next += 1,
                    None if self.contested.contains(&at) => {}
                    None => return Err(format!("{at:?} is nobody's, and not its holder's")),
                }
            }
            let numbered = held.iter().zip(got);
            consumer.held = numbered.filter_map(|(seq, n)| Some((*seq, n?))).collect();
        }
        for consumer in session.consumers.values() {
            let (machine, effects) = (&mut leader.machine, &mut leader.effects);
            machine.run(consumer.queue, 0, store, effects);
        }
        self.deliver(true)
    }
}

impl Leader {
    fn attach(&mut self, key: Key, consumer: &Consumer) -> Result<ConsumerSlot, String> {
        let spec = ConsumerSpec {
            no_ack: consumer.no_ack,
            prefetch: consumer.prefetch,
            ..spec(&self.link, key)
        };
        let slot = self.machine.consume(consumer.queue, spec, 0);
        let slot = slot.ok_or("consume failed")?;
        self.slots.insert(key, slot);
        Ok(slot)
    }
}
