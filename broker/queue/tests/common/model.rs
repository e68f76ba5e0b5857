//! The reference: a queue as a sorted list of messages, slow and obvious. It takes what the machine's links saw and
//! says whether that was right.

use std::collections::BTreeMap;

use leveret_queue::{DeadReason, Overflow, Seq, Settings};

pub type Key = u64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Ready,
    Held(Key, u64),
    /// On its way to the dead-letter exchange.
    Limbo,
}

#[derive(Clone, Debug)]
pub struct Msg {
    pub id: u64,
    pub size: u32,
    pub level: u8,
    pub journaled: bool,
    pub time_ms: u64,
    pub expiration: Option<u64>,
    /// The queue's, when it came.
    pub ttl: Option<u64>,
    pub returns: u32,
    pub redelivered: bool,
    pub place: Place,
}

#[derive(Clone, Debug)]
pub struct Taker {
    pub conn: usize,
    pub no_ack: bool,
    pub exclusive: bool,
    pub passive: bool,
    pub attached: bool,
    pub priority: i32,
    pub prefetch: u32,
    pub limited: bool,
    pub held: BTreeMap<u64, Seq>,
    pub next_number: u64,
}

/// What a link saw, by the consumer's key.
#[derive(Clone, Debug)]
pub struct Seen {
    pub key: Key,
    pub number: u64,
    pub seq: Seq,
    pub id: u64,
    pub redelivered: bool,
    pub delivery_count: Option<u32>,
}

#[derive(Clone, Debug, Default)]
pub struct Model {
    pub settings: Settings,
    pub msgs: BTreeMap<Seq, Msg>,
    pub takers: BTreeMap<Key, Taker>,
    pub delivered_end: Seq,
    /// The highest number ever given, and the highest that a restart knows of.
    pub last_seq: Seq,
    pub journaled_seq: Seq,
    /// Expected effects of the step: (number, reason, held).
    pub dead: Vec<(Seq, DeadReason, bool)>,
    had_consumer: bool,
    pub unused: bool,
    /// Who gets everything, with single active consumer.
    pub single: Option<Key>,
}

impl Model {
    pub fn new(settings: Settings) -> Self {
        Model {
            settings,
            ..Model::default()
        }
    }

    pub fn attached(&self) -> usize {
        self.takers.values().filter(|t| t.attached).count()
    }

    pub fn place_count(&self, f: impl Fn(Place) -> bool) -> (u64, u64) {
        let found = self.msgs.values().filter(|m| f(m.place));
        found.fold((0, 0), |(n, b), m| (n + 1, b + u64::from(m.size)))
    }

    pub fn ready(&self) -> (u64, u64) {
        self.place_count(|p| p == Place::Ready)
    }

    /// Numbers that wait, in the order of delivery.
    pub fn order(&self) -> Vec<Seq> {
        let mut ready: Vec<_> = self
            .msgs
            .iter()
            .filter(|(_, m)| m.place == Place::Ready)
            .map(|(seq, m)| (std::cmp::Reverse(m.level), *seq))
            .collect();
        ready.sort_unstable();
        ready.into_iter().map(|(_, seq)| seq).collect()
    }

    pub fn attach(&mut self, key: Key, taker: Taker) -> bool {
        if !taker.passive {
            let exclusive = self.takers.values().any(|t| t.attached && t.exclusive);
            let alone = self.attached() == 0 && !self.settings.single_active_consumer;
            if exclusive || (taker.exclusive && !alone) {
                return false;
            }
            self.had_consumer = true;
            self.single.get_or_insert(key);
        }
        self.takers.insert(key, taker);
        true
    }

    pub fn detach(&mut self, key: Key) {
        if let Some(taker) = self.takers.get_mut(&key) {
            let was = std::mem::replace(&mut taker.attached, false);
            if taker.held.is_empty() {
                self.takers.remove(&key);
            }
            if self.single == Some(key) {
                // The highest priority, then who came first.
                let attached = self.takers.iter().filter(|(_, t)| t.attached);
                let next = attached.max_by_key(|(key, t)| (t.priority, std::cmp::Reverse(**key)));
                self.single = next.map(|(key, _)| *key);
            }
            self.unused |=
                was && self.attached() == 0 && self.settings.auto_delete && self.had_consumer;
        }
    }

    /// Takes held messages away from a consumer, in the order of their numbers.
    pub fn take_held(&mut self, key: Key, first: u64, count: u32) -> Vec<Seq> {
        let Some(taker) = self.takers.get_mut(&key) else {
            return Vec::new();
        };
        let numbers: Vec<u64> = taker
            .held
            .range(first..first + u64::from(count))
            .map(|(n, _)| *n)
            .collect();
        let seqs = numbers
            .iter()
            .filter_map(|n| taker.held.remove(n))
            .collect();
        if !taker.attached && !taker.passive && taker.held.is_empty() {
            self.takers.remove(&key);
        }
        seqs
    }

    pub fn discard(&mut self, seq: Seq, reason: DeadReason) {
        let journaled = self.msgs[&seq].journaled;
        if self.settings.dead_letter {
            self.dead.push((seq, reason, journaled));
            if journaled {
                self.msgs.get_mut(&seq).expect("there").place = Place::Limbo;
                return;
            }
        }
        self.msgs.remove(&seq);
    }

    /// Messages that come back to the queue.
    pub fn come_back(&mut self, mut seqs: Vec<Seq>) {
        seqs.sort_unstable();
        let limit = self.settings.delivery_limit;
        for seq in seqs {
            let counts = self.settings.count_deliveries || limit.is_some();
            let message = self.msgs.get_mut(&seq).expect("held messages are there");
            message.redelivered = true;
            message.place = Place::Ready;
            message.returns += u32::from(counts);
            if counts && limit.is_some_and(|limit| message.returns > limit) {
                self.discard(seq, DeadReason::DeliveryLimit);
            }
        }
    }

    fn deadline(&self, m: &Msg) -> Option<u64> {
        [m.ttl, m.expiration]
            .into_iter()
            .flatten()
            .min()
            .map(|ttl| m.time_ms + ttl)
    }

    /// Expired messages go from the front of their level only. `fresh`: numbers from here on arrived in this step.
    pub fn expire(&mut self, now: u64, strictly: bool, fresh: Seq) {
        loop {
            let mut fronts: Vec<(u8, Seq)> = Vec::new();
            for seq in self.order() {
                let level = self.msgs[&seq].level;
                if fronts.last().is_none_or(|(l, _)| *l != level) {
                    fronts.push((level, seq));
                }
            }
            let due = fronts.into_iter().find(|(_, seq)| {
                let deadline = self.deadline(&self.msgs[seq]);
                deadline.is_some_and(|at| match strictly {
                    true => at < now && *seq < fresh,
                    false => at <= now,
                })
            });
            match due {
                Some((_, seq)) => self.discard(seq, DeadReason::Expired),
                None => return,
            }
        }
    }

    /// What a step of the machine does at its end, given what it delivered.
    pub fn run(&mut self, now: u64, fresh: Seq, seen: &[Seen]) -> Result<(), String> {
        let mut left: BTreeMap<Seq, &Seen> = seen.iter().map(|s| (s.seq, s)).collect();
        let mut given: Vec<Seq> = Vec::new();
        while !left.is_empty() {
            self.expire(now, true, fresh);
            let first = self.order().first().copied();
            let Some(s) = first.and_then(|first| left.remove(&first)) else {
                let order = self.order();
                return Err(format!("delivered {left:?}, but {order:?} waits"));
            };
            self.hand_over(s)?;
            given.push(s.seq);
        }
        // Over one connection they come in the order of the queue, whichever consumers they are for.
        let rank = |seq: &Seq| given.iter().position(|s| s == seq);
        let mut ranks: BTreeMap<usize, Option<usize>> = BTreeMap::new();
        for s in seen {
            let conn = self.takers.get(&s.key).map_or(0, |taker| taker.conn);
            let last = ranks.insert(conn, rank(&s.seq));
            if last.is_some_and(|last| last >= rank(&s.seq)) {
                return Err(format!("connection {conn} got {} out of order", s.seq));
            }
        }
        self.expire(now, false, Seq::MAX);
        if self.settings.overflow == Overflow::DropHead {
            let max = self.settings.max_length.unwrap_or(u64::MAX);
            let max_bytes = self.settings.max_length_bytes.unwrap_or(u64::MAX);
            while self.ready().0 > max || self.ready().1 > max_bytes {
                let first = self.order()[0];
                self.discard(first, DeadReason::MaxLen);
            }
        }
        Ok(())
    }

    fn hand_over(&mut self, s: &Seen) -> Result<(), String> {
        let m = self.msgs.get_mut(&s.seq).expect("in order");
        let counts = self.settings.count_deliveries && m.returns > 0;
        let expected = (m.id, m.redelivered, counts.then_some(m.returns));
        if (s.id, s.redelivered, s.delivery_count) != expected {
            return Err(format!("{s:?} should be {expected:?}"));
        }
        self.delivered_end = self.delivered_end.max(s.seq + 1);
        let taker = self.takers.get_mut(&s.key).ok_or("an unknown consumer")?;
        if !taker.attached {
            return Err(format!("consumer {} is cancelled", s.key));
        }
        if taker.no_ack {
            self.msgs.remove(&s.seq);
            return Ok(());
        }
        if s.number != taker.next_number {
            return Err(format!("{s:?}: expected number {}", taker.next_number));
        }
        taker.next_number += 1;
        taker.held.insert(s.number, s.seq);
        m.place = Place::Held(s.key, s.number);
        if taker.prefetch > 0 && taker.held.len() > taker.prefetch as usize {
            return Err(format!("consumer {} holds more than its prefetch", s.key));
        }
        Ok(())
    }

    /// The node died: what was journaled waits again.
    pub fn restart(&mut self, clean: bool) {
        self.takers.clear();
        self.msgs.retain(|_, m| m.journaled);
        for (seq, m) in &mut self.msgs {
            m.place = Place::Ready;
            m.ttl = self.settings.message_ttl_ms;
            m.redelivered = !clean || *seq < self.delivered_end;
        }
        self.last_seq = if self.settings.durable {
            self.journaled_seq
        } else {
            0
        };
        if !clean {
            self.delivered_end = self.last_seq + 1;
        }
        self.had_consumer = false;
        self.single = None;
    }
}
