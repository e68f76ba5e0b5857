//! The machine and the models side by side: does a command to both, and compares.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_queue::entry::EntryReader;
use leveret_queue::{
    ConsumerSlot, ConsumerSpec, DeadReason, Effects, EntryBuilder, Limiter, Machine, NewMessage,
    Overflow, QueueId, Seq, Settings, Store, UnackedRange, Waiter,
};

use crate::commands::{CONNECTIONS, Command, Publish, QUEUES, policy};
use crate::common::model::{Key, Model, Msg, Place, Seen, Taker};
use crate::common::{FakeLink, Node, body_of, id_of};

struct Connection {
    link: Arc<FakeLink>,
    limiter: Arc<Limiter>,
    limit: u32,
}

impl Connection {
    fn new() -> Self {
        Connection {
            link: FakeLink::new(6000),
            limiter: Arc::new(Limiter::new(3)),
            limit: 3,
        }
    }
}

pub struct World {
    node: Node,
    models: BTreeMap<QueueId, Model>,
    ids: [QueueId; QUEUES],
    next_queue: QueueId,
    connections: Vec<Connection>,
    slots: BTreeMap<Key, (QueueId, ConsumerSlot)>,
    holders: BTreeMap<(QueueId, usize), Key>,
    next_key: Key,
    next_id: u64,
    /// (queue, number, reason): on their way to the dead-letter exchange.
    limbo: Vec<(QueueId, Seq, DeadReason)>,
    refused_dead: usize,
    first_deliveries: BTreeMap<(QueueId, u8), u64>,
}

impl World {
    pub fn new(settings: &[Settings]) -> Self {
        let mut world = World {
            node: Node::default(),
            models: BTreeMap::new(),
            ids: [0; QUEUES],
            next_queue: 10,
            connections: (0..CONNECTIONS).map(|_| Connection::new()).collect(),
            slots: BTreeMap::new(),
            holders: BTreeMap::new(),
            next_key: 1,
            next_id: 1,
            limbo: Vec::new(),
            refused_dead: 0,
            first_deliveries: BTreeMap::new(),
        };
        for (at, settings) in settings.iter().enumerate() {
            world.create(at, *settings);
        }
        world
    }

    fn create(&mut self, at: usize, settings: Settings) {
        let id = self.next_queue;
        self.next_queue += 1;
        self.ids[at] = id;
        self.node.create(id, settings);
        self.models.insert(id, Model::new(settings));
    }

    fn id(&self, at: u8) -> QueueId {
        self.ids[usize::from(at) % QUEUES]
    }

    fn model(&mut self, id: QueueId) -> &mut Model {
        self.models.get_mut(&id).expect("models follow the queues")
    }

    /// Takes what the links saw, by queue.
    fn collect(&mut self) -> BTreeMap<QueueId, Vec<Seen>> {
        let mut seen: BTreeMap<QueueId, Vec<Seen>> = BTreeMap::new();
        for connection in &self.connections {
            for d in connection.link.take() {
                let (queue, _) = self
                    .slots
                    .get(&d.handle)
                    .copied()
                    .unwrap_or_else(|| panic!("no consumer {}", d.handle));
                seen.entry(queue).or_default().push(Seen {
                    key: d.handle,
                    number: d.number,
                    seq: d.seq,
                    id: id_of(&d.message),
                    redelivered: d.redelivered,
                    delivery_count: d.delivery_count,
                });
            }
        }
        seen
    }

    /// One publisher published everything: first deliveries of a level are in the order of publishing.
    fn note_first(&mut self, id: QueueId, seen: &[Seen]) -> Result<(), String> {
        let mut first: Vec<_> = seen.iter().filter(|s| !s.redelivered).collect();
        first.sort_by_key(|s| s.seq);
        for s in first {
            let message = self.models[&id].msgs.get(&s.seq);
            let level = message.ok_or(format!("{s:?} is not there"))?.level;
            let last = self.first_deliveries.insert((id, level), s.id).unwrap_or(0);
            if last >= s.id {
                return Err(format!("{} delivered first after {last}", s.id));
            }
        }
        Ok(())
    }

    /// Ends a step: the models of `ran` (queue, first fresh number) do what the machine did; effects are compared.
    fn step(&mut self, ran: &[(QueueId, Seq)], effects: Effects) -> Result<(), String> {
        let mut pending = vec![(ran.to_vec(), effects)];
        while let Some((ran, effects)) = pending.pop() {
            if let Some(error) = &effects.failure {
                return Err(format!("failure: {error:?}"));
            }
            let mut seen = self.collect();
            let mut dead: BTreeMap<QueueId, Vec<_>> = BTreeMap::new();
            for letter in &effects.dead {
                if letter.seq == 0 {
                    self.refused_dead -= 1;
                    continue;
                }
                let id = self.models[&letter.queue]
                    .msgs
                    .get(&letter.seq)
                    .map(|m| m.id);
                if id.is_some_and(|id| id != id_of(&letter.message)) {
                    return Err(format!("{letter:?} should be message {id:?}"));
                }
                let letters = dead.entry(letter.queue).or_default();
                letters.push((letter.seq, letter.reason, letter.held));
                if letter.held {
                    self.limbo.push((letter.queue, letter.seq, letter.reason));
                }
            }
            for (id, fresh) in &ran {
                let now = self.node.now;
                let seen = seen.remove(id).unwrap_or_default();
                self.note_first(*id, &seen)?;
                let model = self.model(*id);
                model.run(now, *fresh, &seen)?;
                let expected = std::mem::take(&mut model.dead);
                let got = dead.remove(id).unwrap_or_default();
                if expected != got {
                    return Err(format!("dead letters {got:?}, expected {expected:?}"));
                }
                let unused = std::mem::take(&mut model.unused);
                if unused != effects.unused.contains(id) {
                    return Err(format!("queue {id}: unused is not {unused}"));
                }
            }
            if !seen.is_empty() || !dead.is_empty() {
                return Err(format!("effects of other queues: {seen:?} {dead:?}"));
            }
            for waiter in effects.wakes {
                pending.push(self.resume(waiter));
                // One at a time: each is a step of its own.
                let (ran, effects) = pending.pop().expect("just pushed");
                self.step(&ran, effects)?;
            }
        }
        Ok(())
    }

    fn resume(&mut self, waiter: Waiter) -> (Vec<(QueueId, Seq)>, Effects) {
        let ((), effects) = self.node.call(|m, now, s, e| m.resume(waiter, now, s, e));
        let ran = self.models.contains_key(&waiter.queue);
        let ran = ran.then_some((waiter.queue, Seq::MAX));
        (ran.into_iter().collect(), effects)
    }

    fn call(
        &mut self,
        id: QueueId,
        f: impl FnOnce(&mut Machine, u64, &dyn Store, &mut Effects),
    ) -> Result<(), String> {
        let ((), effects) = self.node.call(f);
        self.step(&[(id, Seq::MAX)], effects)
    }

    fn publish(&mut self, messages: &[Publish], delay: u8) -> Result<(), String> {
        let mut builder = EntryBuilder::default();
        let time_ms = self.node.now;
        self.node.now += u64::from(delay % 3);
        let mut ids = Vec::new();
        let mut before: BTreeMap<QueueId, (u64, u64)> = BTreeMap::new();
        for m in messages {
            let queues: Vec<QueueId> = (0..QUEUES)
                .filter(|i| m.queues >> i & 1 == 1)
                .map(|i| self.ids[i])
                .collect();
            let keeps = |id: &QueueId| self.models[id].settings.durable;
            let journal = m.persistent && queues.iter().any(keeps);
            let body = body_of(self.next_id, usize::from(m.size));
            let message = NewMessage {
                exchange: b"amq.topic",
                routing_key: b"a.key",
                properties: &[0x80, 0, 1, b'x'],
                body: &[&body[..3], &body[3..]],
                persistent: m.persistent,
                expiration_ms: m.expiration.map(u64::from),
                priority: m.priority,
                time_ms,
            };
            let op = builder.enqueue(&queues, &message, journal);
            ids.push((op, self.next_id, m, queues.clone()));
            for id in queues {
                before.insert(id, self.models[&id].ready());
            }
            self.next_id += 1;
        }
        let logged = self.node.log.len();
        let (outcome, effects, entry) = self.node.submit(builder);
        let reader = EntryReader::new(&entry).map_err(|e| e.to_string())?;
        let table: Vec<(QueueId, Seq)> = reader.queues().collect();
        let mut next = table.clone();
        let is_logged = self.node.is_logged(logged, &entry);
        let mut refusals = outcome.refused.clone();
        for (op, (number, id, m, queues)) in reader.ops().zip(ids) {
            let op = op.map_err(|e| e.to_string())?;
            let taken: BTreeSet<QueueId> = op.slots().map(|s| table[usize::from(s)].0).collect();
            for queue in queues {
                let refused = !taken.contains(&queue);
                if refused {
                    let at = refusals.iter().position(|o| *o == number);
                    refusals.remove(at.ok_or("a refusal that is not in the outcome")?);
                }
                let state = before.get_mut(&queue).expect("noted above");
                let body = u64::from(m.size);
                let model = self.models.get_mut(&queue).expect("there");
                let s = model.settings;
                let full = state.0 + 1 > s.max_length.unwrap_or(u64::MAX)
                    || state.1 + body > s.max_length_bytes.unwrap_or(u64::MAX);
                let refuses = s.overflow != Overflow::DropHead && full;
                // With consumers the machine may know that it is delivered at once.
                if refused != refuses && (model.attached() == 0 || refused) {
                    return Err(format!(
                        "message {id}: refused {refused}, expected {refuses}"
                    ));
                }
                if refused {
                    let dlx = s.overflow == Overflow::RejectPublishDlx && s.dead_letter;
                    self.refused_dead += usize::from(dlx);
                    continue;
                }
                *state = (state.0 + 1, state.1 + body);
                let (_, seq) = next.iter_mut().find(|(q, _)| *q == queue).expect("a slot");
                if *seq <= model.last_seq {
                    return Err(format!("number {seq} given again"));
                }
                model.last_seq = *seq;
                if is_logged {
                    model.journaled_seq = *seq;
                }
                model.msgs.insert(
                    *seq,
                    Msg {
                        id,
                        size: u32::from(m.size),
                        level: m.priority.min(s.max_priority),
                        journaled: m.persistent && s.durable,
                        time_ms,
                        expiration: m.expiration.map(u64::from),
                        ttl: s.message_ttl_ms,
                        returns: 0,
                        redelivered: false,
                        place: Place::Ready,
                    },
                );
                *seq += 1;
            }
        }
        if !refusals.is_empty() {
            return Err(format!("refused {refusals:?}, which were taken"));
        }
        self.step(&table, effects)?;
        if self.refused_dead != 0 {
            return Err(format!(
                "{} refused ones not dead-lettered",
                self.refused_dead
            ));
        }
        Ok(())
    }

    fn consume(&mut self, id: QueueId, conn: usize, taker: Taker) -> Result<(), String> {
        let key = self.next_key;
        self.next_key += 1;
        let connection = &self.connections[conn];
        let spec = ConsumerSpec {
            link: connection.link.clone(),
            handle: key,
            no_ack: taker.no_ack,
            exclusive: taker.exclusive,
            priority: taker.priority,
            prefetch: taker.prefetch,
            limiter: taker.limited.then(|| connection.limiter.clone()),
            passive: taker.passive,
        };
        let passive = taker.passive;
        let slot = self.node.machine.consume(id, spec, self.node.now);
        let attached = self.model(id).attach(key, taker);
        if slot.is_some() != attached {
            return Err(format!("consume gave {slot:?}"));
        }
        let Some(slot) = slot else { return Ok(()) };
        self.slots.insert(key, (id, slot));
        if passive {
            self.holders.insert((id, conn), key);
            return Ok(());
        }
        self.call(id, |m, now, s, e| m.run(id, now, s, e))
    }

    fn get(&mut self, id: QueueId, conn: usize, ack: bool) -> Result<(), String> {
        if ack && !self.holders.contains_key(&(id, conn)) {
            let taker = Taker {
                passive: true,
                attached: false,
                ..taker(conn)
            };
            self.consume(id, conn, taker)?;
        }
        let key = self.holders.get(&(id, conn)).copied();
        let slot = key.filter(|_| ack).map(|key| self.slots[&key].1);
        let (got, effects) = self.node.call(|m, now, s, e| m.get(id, slot, now, s, e));
        let now = self.node.now;
        let model = self.model(id);
        model.expire(now, false, Seq::MAX);
        let first = model.order().first().copied();
        if got.as_ref().map(|g| g.seq) != first {
            return Err(format!("got {got:?}, expected number {first:?}"));
        }
        if let (Some(got), Some(seq)) = (&got, first) {
            let m = model.msgs.get_mut(&seq).expect("there");
            let counts = model.settings.count_deliveries && m.returns > 0;
            let expected = (m.id, m.redelivered, counts.then_some(m.returns));
            if (id_of(&got.message), got.redelivered, got.delivery_count) != expected {
                return Err(format!("{got:?} should be {expected:?}"));
            }
            model.delivered_end = model.delivered_end.max(seq + 1);
            match key.filter(|_| ack) {
                Some(key) => {
                    m.place = Place::Held(key, got.number);
                    model
                        .takers
                        .get_mut(&key)
                        .expect("there")
                        .held
                        .insert(got.number, seq);
                }
                None => {
                    model.msgs.remove(&seq);
                }
            }
        }
        self.step(&[(id, Seq::MAX)], effects)?;
        let waiting = self.models[&id].ready().0;
        match got {
            Some(got) if got.remaining != waiting => {
                Err(format!("{} remain, the model has {waiting}", got.remaining))
            }
            _ => Ok(()),
        }
    }

    fn settle(&mut self, picks: &[(u8, u8, u8)], how: u8) -> Result<(), String> {
        let keys: Vec<Key> = self.slots.keys().copied().collect();
        let pick = picks.first().map_or(0, |p| usize::from(p.0));
        let Some(first) = keys.get(pick % keys.len().max(1)).copied() else {
            return Ok(());
        };
        let id = self.slots[&first].0;
        let mine: Vec<Key> = keys.into_iter().filter(|k| self.slots[k].0 == id).collect();
        if !self.models.contains_key(&id) {
            return Ok(());
        }
        let mut ranges = Vec::new();
        let mut taken = Vec::new();
        for (at, (pick, from, count)) in picks.iter().enumerate() {
            let key = if at == 0 {
                first
            } else {
                mine[usize::from(*pick) % mine.len()]
            };
            let held = self.models[&id].takers.get(&key);
            let base = held
                .and_then(|t| t.held.keys().next())
                .copied()
                .unwrap_or(1);
            let range = UnackedRange {
                slot: self.slots[&key].1,
                first: base + u64::from(*from / 4),
                count: u32::from(*count),
            };
            ranges.push(range);
            taken.extend(self.model(id).take_held(key, range.first, range.count));
        }
        let model = self.model(id);
        match how {
            0 | 1 => taken.iter().for_each(|seq| {
                model.msgs.remove(seq);
            }),
            2 => {
                for seq in taken {
                    model.discard(seq, DeadReason::Rejected);
                }
            }
            _ => model.come_back(taken),
        }
        self.call(id, |m, now, s, e| match how {
            0 | 1 => m.ack(id, &ranges, now, s, e),
            _ => m.reject(id, &ranges, how == 3, now, s, e),
        })
    }

    fn pick(&self, at: u8) -> Option<(Key, QueueId, ConsumerSlot)> {
        let mine: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, (q, _))| self.models.contains_key(q))
            .collect();
        let (key, (id, slot)) = mine.get(usize::from(at) % mine.len().max(1))?;
        Some((**key, *id, *slot))
    }

    fn remove(&mut self, at: u8) -> Result<(), String> {
        let id = self.id(at);
        let model = self.models.remove(&id).expect("there");
        let removed = self
            .node
            .machine
            .remove(id, &*self.node.store)
            .ok_or("not there")?;
        if removed.depth.ready != model.ready().0 {
            return Err(format!("{removed:?}"));
        }
        let mut told: BTreeSet<u64> = BTreeSet::new();
        for connection in &self.connections {
            told.extend(connection.link.take_cancelled());
        }
        let attached = model.takers.iter().filter(|(_, t)| t.attached);
        if told != attached.map(|(k, _)| *k).collect() {
            return Err(format!("cancelled {told:?}"));
        }
        self.node.queues.remove(&id);
        self.limbo.retain(|(q, ..)| *q != id);
        self.holders.retain(|(q, _), _| *q != id);
        self.create(usize::from(at) % QUEUES, model.settings);
        for waiter in removed.wakes {
            let (ran, effects) = self.resume(waiter);
            self.step(&ran, effects)?;
        }
        Ok(())
    }

    fn crash(&mut self, use_checkpoint: bool, clean: bool) -> Result<(), String> {
        // Segments that were deleted cannot be replayed; a clean stop ends with a checkpoint.
        if clean {
            self.node.take_checkpoint();
        }
        let use_checkpoint = use_checkpoint || self.node.checkpoint.is_some();
        let effects = self.node.crash(use_checkpoint, clean);
        self.connections = (0..CONNECTIONS).map(|_| Connection::new()).collect();
        self.slots.clear();
        self.holders.clear();
        self.limbo.clear();
        self.first_deliveries.clear();
        let mut ran = Vec::new();
        for (id, model) in &mut self.models {
            model.restart(clean);
            ran.push((*id, Seq::MAX));
        }
        self.step(&ran, effects)
    }

    pub fn apply(&mut self, command: Command) -> Result<(), String> {
        match command {
            Command::Publish(messages, delay) => self.publish(&messages, delay),
            Command::Bulk(queue, count, persistent) => {
                let one = Publish {
                    queues: 1 << queue,
                    persistent,
                    size: 12,
                    priority: 0,
                    expiration: None,
                };
                (0..count / 50).try_for_each(|_| self.publish(&vec![one.clone(); 50], 0))
            }
            Command::Consume {
                queue,
                conn,
                no_ack,
                exclusive,
                priority,
                prefetch,
                limited,
            } => {
                let conn = usize::from(conn);
                let taker = Taker {
                    no_ack,
                    exclusive,
                    priority: i32::from(priority),
                    prefetch: u32::from(prefetch),
                    limited,
                    ..taker(conn)
                };
                self.consume(self.id(queue), conn, taker)
            }
            Command::Cancel(at) => match self.pick(at) {
                Some((key, id, slot)) if !self.holders.values().any(|k| *k == key) => {
                    self.model(id).detach(key);
                    self.call(id, |m, now, s, e| m.cancel(id, slot, now, s, e))
                }
                _ => Ok(()),
            },
            Command::Release(at) => match self.pick(at) {
                Some((key, id, slot)) => {
                    let model = self.model(id);
                    let held = model.take_held(key, 0, u32::MAX);
                    model.come_back(held);
                    model.detach(key);
                    self.holders.retain(|_, k| *k != key);
                    self.call(id, |m, now, s, e| m.release(id, slot, now, s, e))
                }
                None => Ok(()),
            },
            Command::Get(queue, conn, ack) => self.get(self.id(queue), usize::from(conn), ack),
            Command::Settle(picks, how) => self.settle(&picks, how),
            Command::Purge(queue) => {
                let id = self.id(queue);
                let (n, effects) = self.node.call(|m, now, s, e| m.purge(id, now, s, e));
                let model = self.model(id);
                if n != model.ready().0 {
                    return Err(format!("purged {n}"));
                }
                model.msgs.retain(|_, m| m.place != Place::Ready);
                self.step(&[], effects)
            }
            Command::Tick(by) => {
                self.node.now += u64::from(by);
                let ((), effects) = self.node.call(|m, now, s, e| m.tick(now, 1000, s, e));
                // Whoever had nothing due did nothing, and nothing is what the model does then.
                let ran: Vec<_> = self.models.keys().map(|id| (*id, Seq::MAX)).collect();
                self.step(&ran, effects)
            }
            Command::Drain(conn) => {
                for waiter in self.connections[usize::from(conn)].link.drain() {
                    let (ran, effects) = self.resume(waiter);
                    self.step(&ran, effects)?;
                }
                Ok(())
            }
            Command::Capacity(conn, bytes) => {
                let link = &self.connections[usize::from(conn)].link;
                link.capacity.store(usize::from(bytes), Ordering::SeqCst);
                self.apply(Command::Drain(conn))
            }
            Command::Limit(conn, limit) => {
                let connection = &mut self.connections[usize::from(conn)];
                connection.limit = u32::from(limit);
                connection.limiter.set_limit(u32::from(limit));
                for waiter in connection.limiter.take_waiters() {
                    let (ran, effects) = self.resume(waiter);
                    self.step(&ran, effects)?;
                }
                Ok(())
            }
            Command::Tight(on) => {
                self.node.store.tight.store(on, Ordering::SeqCst);
                Ok(())
            }
            Command::FailPage(on) => {
                self.node.store.fail_page.store(on, Ordering::SeqCst);
                Ok(())
            }
            Command::Remove(queue) => self.remove(queue),
            Command::Update(queue, bits) => {
                let id = self.id(queue);
                let model = self.model(id);
                model.settings = policy(model.settings, bits);
                let settings = model.settings;
                self.node.queues.insert(id, settings);
                self.call(id, |m, now, s, e| m.update(id, settings, now, s, e))
            }
            Command::DeadLettered(at) => {
                if self.limbo.is_empty() {
                    return Ok(());
                }
                let at = usize::from(at) % self.limbo.len();
                let (id, seq, reason) = self.limbo.swap_remove(at);
                self.model(id).msgs.remove(&seq);
                let ((), effects) = self
                    .node
                    .call(|m, _, s, e| m.dead_lettered(id, seq, reason, s, e));
                self.step(&[], effects)
            }
            Command::Unpin => {
                self.node.machine.unpin();
                Ok(())
            }
            Command::Checkpoint => {
                self.node.take_checkpoint();
                Ok(())
            }
            Command::Crash {
                use_checkpoint,
                clean,
            } => self.crash(use_checkpoint, clean),
            Command::Relocate(segment, batch) => {
                let current = self.node.store.current_segment();
                if current > 0 {
                    self.node
                        .relocate(u32::from(segment) % current, usize::from(batch));
                }
                Ok(())
            }
        }
    }
}

fn taker(conn: usize) -> Taker {
    Taker {
        conn,
        no_ack: false,
        exclusive: false,
        passive: false,
        attached: true,
        priority: 0,
        prefetch: 0,
        limited: false,
        held: BTreeMap::new(),
        next_number: 1,
    }
}
