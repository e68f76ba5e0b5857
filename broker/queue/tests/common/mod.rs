//! The machine's surroundings, in memory: a journal with a pager ([`FakeStore`]), connections ([`FakeLink`]), and the
//! driver that logs and applies entries as a group does ([`Node`]).
#![allow(dead_code)]

pub mod model;
pub mod rng;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use leveret_queue::entry::{EntryReader, MemoryGauge, Op, batch};
use leveret_queue::{
    ConsumerSpec, Delivery, Effects, EntryBuf, EntryBuilder, Limiter, Link, Location, Machine,
    Message, NewMessage, Outcome, QueueId, QueueState, Seq, Settings, Store, StoreError, Stored,
    Waiter, checkpoint,
};

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test thread panics with it")
}

/// Small, so that runs end often.
pub const SEGMENT_BYTES: u32 = 16 * 1024;

#[derive(Default)]
struct Disk {
    records: BTreeMap<u64, Arc<EntryBuf>>,
    pages: BTreeMap<u64, (QueueId, Seq, Message)>,
    next: u64,
    next_page: u64,
    /// Messages of each segment of the pager that are still wanted.
    wanted_pages: BTreeMap<u32, u32>,
}

/// A journal and a pager: entries by location, read by walking forward within a segment.
#[derive(Default)]
pub struct FakeStore {
    disk: Mutex<Disk>,
    pub tight: AtomicBool,
    pub fail_read: AtomicBool,
    pub fail_page: AtomicBool,
    /// Records that reads stepped over or read.
    pub walked: AtomicU64,
}

fn reserve(next: &mut u64, bytes: usize) -> u64 {
    let bytes = bytes as u64 + 24;
    if (*next & 0xffff_ffff) + bytes > u64::from(SEGMENT_BYTES) && *next & 0xffff_ffff != 0 {
        *next = ((*next >> 32) + 1) << 32;
    }
    let at = *next;
    *next += bytes;
    at
}

impl FakeStore {
    /// Keeps a copy of an entry, as the disk would.
    pub fn append(&self, entry: &[u8]) -> (Location, Arc<EntryBuf>) {
        let mut disk = lock(&self.disk);
        let at = reserve(&mut disk.next, entry.len());
        let copy = EntryBuf::shared(Bytes::copy_from_slice(entry));
        disk.records.insert(at, copy.clone());
        (Location(at), copy)
    }

    /// Where the next record goes, or a little behind.
    pub fn end(&self) -> Location {
        Location(lock(&self.disk).next)
    }

    pub fn current_segment(&self) -> u32 {
        (lock(&self.disk).next >> 32) as u32
    }

    /// Forgets a segment; reading from it fails from now on.
    pub fn delete_segment(&self, segment: u32) {
        lock(&self.disk)
            .records
            .retain(|at, _| (at >> 32) as u32 != segment);
    }

    /// What the pager's folder is at start.
    pub fn empty_pager(&self) {
        let mut disk = lock(&self.disk);
        disk.pages.clear();
        disk.wanted_pages.clear();
    }

    /// Messages in the pager that the machine has not released.
    pub fn paged(&self) -> u32 {
        lock(&self.disk).wanted_pages.values().sum()
    }
}

/// The messages of `queue` in an entry, with their numbers.
pub fn messages_of(entry: &Arc<EntryBuf>, queue: QueueId) -> Vec<(Seq, Message)> {
    let reader = EntryReader::new(entry).expect("a good entry");
    let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
    let mut found = Vec::new();
    for op in reader.ops() {
        let op = op.expect("a good op");
        for slot in op.slots().filter(|_| op.op == Op::Enqueue) {
            let (id, seq) = &mut table[usize::from(slot)];
            if *id == queue {
                found.push((*seq, reader.message(&op)));
            }
            *seq = seq.saturating_add(1);
        }
        for (slot, seq) in op.places() {
            if table[usize::from(slot)].0 == queue {
                found.push((seq, reader.message(&op)));
            }
        }
    }
    found
}

impl Store for FakeStore {
    fn read(
        &self,
        queue: QueueId,
        first: Seq,
        count: u32,
        from: Location,
        max: usize,
        out: &mut Vec<Stored>,
    ) -> Result<(), StoreError> {
        if self.fail_read.load(Ordering::SeqCst) {
            return Err(StoreError("injected".into()));
        }
        let disk = lock(&self.disk);
        let range = from.0..(u64::from(from.segment()) + 1) << 32;
        let mut next = first;
        let wanted = |next: Seq, taken: usize| next < first + u64::from(count) && taken < max;
        let mut taken = 0;
        let mut take = |next: &mut Seq, seq: Seq, message: Message, at: u64| {
            if seq == *next && wanted(*next, taken) {
                taken += 1;
                *next += 1;
                out.push(Stored {
                    seq,
                    message,
                    location: Location(at),
                });
            }
            wanted(*next, taken)
        };
        if from.is_journaled() {
            for (at, entry) in disk.records.range(range) {
                self.walked.fetch_add(1, Ordering::Relaxed);
                let mut more = true;
                for entry in batch::entries(&entry.to_bytes()).expect("a good record") {
                    for (seq, message) in messages_of(&entry, queue) {
                        more = take(&mut next, seq, message, *at);
                    }
                }
                if !more {
                    break;
                }
            }
        } else {
            for (at, (id, seq, message)) in disk.pages.range(range) {
                self.walked.fetch_add(1, Ordering::Relaxed);
                if *id == queue && !take(&mut next, *seq, message.clone(), *at) {
                    break;
                }
            }
        }
        if next == first {
            return Err(StoreError(format!(
                "message {first} of queue {queue} is not behind {from:?}"
            )));
        }
        Ok(())
    }

    fn page_out(
        &self,
        queue: QueueId,
        seq: Seq,
        message: &Message,
    ) -> Result<Location, StoreError> {
        if self.fail_page.load(Ordering::SeqCst) {
            return Err(StoreError("the pager's disk is full".into()));
        }
        let mut disk = lock(&self.disk);
        let at = reserve(&mut disk.next_page, message.encoded_len()) | Location::PAGED;
        let copy = copy_of(message);
        disk.pages.insert(at, (queue, seq, copy));
        *disk.wanted_pages.entry(Location(at).segment()).or_default() += 1;
        Ok(Location(at))
    }

    fn release(&self, location: Location, count: u32) {
        assert!(!location.is_journaled(), "the journal releases nothing");
        let mut disk = lock(&self.disk);
        let segment = location.segment();
        let left = disk
            .wanted_pages
            .get_mut(&segment)
            .expect("a segment of the pager");
        *left = left
            .checked_sub(count)
            .expect("released more than was paged out");
        if *left == 0 {
            disk.wanted_pages.remove(&segment);
            disk.pages
                .retain(|at, _| Location(*at).segment() != segment);
        }
    }

    fn memory_tight(&self) -> bool {
        self.tight.load(Ordering::SeqCst)
    }
}

/// The same message in bytes of its own.
pub fn copy_of(message: &Message) -> Message {
    let mut builder = EntryBuilder::default();
    let (exchange, routing_key, properties, body) = message.content();
    builder.enqueue(
        &[0],
        &NewMessage {
            exchange,
            routing_key,
            properties,
            body: &[body],
            persistent: message.is_persistent(),
            expiration_ms: message.expiration_ms(),
            priority: message.priority(),
            time_ms: message.time_ms(),
        },
        false,
    );
    let entry = EntryBuf::shared(builder.finish(None).to_bytes());
    let reader = EntryReader::new(&entry).expect("good");
    let op = reader.ops().next().expect("one op").expect("good");
    reader.message(&op)
}

/// A connection with bounded room; it forgets nothing until it is drained.
#[derive(Default)]
pub struct FakeLink {
    pub capacity: AtomicUsize,
    used: AtomicUsize,
    got: Mutex<Vec<Delivery>>,
    waiters: Mutex<Vec<Waiter>>,
    cancelled: Mutex<Vec<u64>>,
    /// Times that deliveries were passed on.
    pub batches: AtomicUsize,
}

impl FakeLink {
    pub fn new(capacity: usize) -> Arc<Self> {
        let link = FakeLink::default();
        link.capacity.store(capacity, Ordering::SeqCst);
        Arc::new(link)
    }

    /// Deliveries since the last call.
    pub fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut *lock(&self.got))
    }

    pub fn take_cancelled(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.cancelled))
    }

    /// The socket took everything: there is room again.
    pub fn drain(&self) -> Vec<Waiter> {
        self.used.store(0, Ordering::SeqCst);
        std::mem::take(&mut *lock(&self.waiters))
    }
}

impl Link for FakeLink {
    fn room(&self) -> usize {
        let capacity = self.capacity.load(Ordering::SeqCst);
        capacity.saturating_sub(self.used.load(Ordering::SeqCst))
    }

    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        let bytes: usize = deliveries.iter().map(|d| d.message.encoded_len()).sum();
        self.used
            .fetch_add(bytes + 160 * deliveries.len(), Ordering::SeqCst);
        self.batches.fetch_add(1, Ordering::SeqCst);
        lock(&self.got).append(deliveries);
    }

    fn wait_room(&self, waiter: Waiter) -> bool {
        if self.room() > 0 {
            return false;
        }
        lock(&self.waiters).push(waiter);
        true
    }

    fn cancelled(&self, handle: u64) {
        lock(&self.cancelled).push(handle);
    }
}

/// A consumer with acknowledgements and no limits.
pub fn spec(link: &Arc<FakeLink>, handle: u64) -> ConsumerSpec {
    ConsumerSpec {
        link: link.clone(),
        handle,
        no_ack: false,
        exclusive: false,
        priority: 0,
        prefetch: 0,
        limiter: None,
        passive: false,
    }
}

/// A holder for basic.get.
pub fn holder(link: &Arc<FakeLink>, handle: u64) -> ConsumerSpec {
    ConsumerSpec {
        passive: true,
        ..spec(link, handle)
    }
}

pub fn limited(mut spec: ConsumerSpec, limiter: &Arc<Limiter>) -> ConsumerSpec {
    spec.limiter = Some(limiter.clone());
    spec
}

pub fn durable() -> Settings {
    Settings {
        durable: true,
        ..Settings::default()
    }
}

/// A message whose body begins with `id`.
pub fn body_of(id: u64, size: usize) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    body.resize(size.max(8), id as u8);
    body
}

pub fn id_of(message: &Message) -> u64 {
    u64::from_le_bytes(message.body()[..8].try_into().expect("eight bytes"))
}

pub fn message<'a>(body: &'a [&'a [u8]]) -> NewMessage<'a> {
    NewMessage {
        exchange: b"",
        routing_key: b"q",
        properties: &[0, 0],
        body,
        persistent: true,
        expiration_ms: None,
        priority: 0,
        time_ms: 1000,
    }
}

/// What a naive reader of the whole log finds alive: (location, bytes of the body, returns).
pub type Live = BTreeMap<QueueId, BTreeMap<Seq, (Location, u32, u32)>>;

pub fn naive_live(log: &[(Location, Arc<EntryBuf>)]) -> Live {
    let mut live = Live::new();
    for (location, entry) in log {
        let reader = EntryReader::new(entry).expect("good");
        let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
        for op in reader.ops() {
            let op = op.expect("good");
            match op.op {
                Op::Enqueue => {
                    for slot in op.slots() {
                        let (id, seq) = &mut table[usize::from(slot)];
                        if op.is_persistent() {
                            let place = (*location, op.body_len(), 0);
                            live.entry(*id).or_default().insert(*seq, place);
                        }
                        *seq += 1;
                    }
                }
                Op::Settle(slot, _) => {
                    let queue = live.entry(table[usize::from(slot)].0).or_default();
                    for range in op.ranges() {
                        for seq in range.first..range.first + u64::from(range.count) {
                            assert!(
                                queue.remove(&seq).is_some(),
                                "settled {seq}, which is not alive"
                            );
                        }
                    }
                }
                Op::Return(slot) => {
                    let queue = live.entry(table[usize::from(slot)].0).or_default();
                    for back in op.seqs() {
                        if let Some(message) = queue.get_mut(&back.seq) {
                            message.2 = back.delivery_count;
                        }
                    }
                }
                Op::Relocated => {
                    for (slot, seq) in op.places() {
                        let queue = live.entry(table[usize::from(slot)].0).or_default();
                        if let Some(message) = queue.get_mut(&seq) {
                            message.0 = *location;
                        }
                    }
                }
            }
        }
    }
    live
}

/// A group's driver: logs what must be logged, in order, and applies it.
pub struct Node {
    pub machine: Machine,
    pub store: Arc<FakeStore>,
    pub gauge: Arc<MemoryGauge>,
    /// Everything that was ever journaled.
    pub log: Vec<(Location, Arc<EntryBuf>)>,
    /// The metadata: what exists.
    pub queues: BTreeMap<QueueId, Settings>,
    /// The last checkpoint: entries of the log that it covers, and its bytes.
    pub checkpoint: Option<(usize, Vec<u8>)>,
    /// Segments whose live messages moved; they go with the next checkpoint.
    pub moved: BTreeSet<u32>,
    pub now: u64,
}

impl Default for Node {
    fn default() -> Self {
        Node {
            machine: Machine::new(7),
            store: Arc::default(),
            gauge: Arc::default(),
            log: Vec::new(),
            queues: BTreeMap::new(),
            checkpoint: None,
            moved: BTreeSet::new(),
            now: 1000,
        }
    }
}

impl Node {
    pub fn create(&mut self, id: QueueId, settings: Settings) {
        self.queues.insert(id, settings);
        self.machine.create(id, settings, self.now);
    }

    fn write(&mut self, entry: &[u8]) -> Location {
        let (location, copy) = self.store.append(entry);
        self.log.push((location, copy));
        location
    }

    /// Whether the log has `entry` at `at`.
    pub fn is_logged(&self, at: usize, entry: &[u8]) -> bool {
        self.log
            .get(at)
            .is_some_and(|(_, logged)| logged[..] == *entry)
    }

    /// Journals what the machine settled by itself.
    pub fn finish(&mut self, effects: &mut Effects) {
        let journal = std::mem::take(&mut effects.journal);
        if !journal.is_empty() {
            assert!(journal.is_durable());
            let entry = journal.finish(None);
            self.write(&entry);
        }
    }

    /// Admits, logs and applies.
    pub fn submit(&mut self, mut builder: EntryBuilder) -> (Outcome, Effects, Arc<EntryBuf>) {
        let mut effects = Effects::default();
        let outcome = self
            .machine
            .admit(&mut builder, self.now, &*self.store, &mut effects);
        let is_durable = builder.is_durable();
        let entry = builder.finish(Some(self.gauge.clone()));
        let location = match is_durable {
            true => self.write(&entry),
            false => Location::NONE,
        };
        self.machine
            .apply(&entry, location, self.now, &*self.store, &mut effects)
            .expect("a good entry");
        self.finish(&mut effects);
        (outcome, effects, entry)
    }

    /// Publishes one message.
    pub fn publish(&mut self, queues: &[QueueId], message: &NewMessage<'_>) -> Effects {
        let mut builder = EntryBuilder::default();
        builder.enqueue(queues, message, message.persistent);
        self.submit(builder).1
    }

    /// Publishes `count` small messages to one queue, one entry each.
    pub fn publish_ids(&mut self, queue: QueueId, ids: std::ops::Range<u64>, persistent: bool) {
        for id in ids {
            let body = body_of(id, 16);
            let message = NewMessage {
                body: &[&body],
                persistent,
                time_ms: self.now,
                ..message(&[])
            };
            let effects = self.publish(&[queue], &message);
            assert_eq!(effects.failure, None);
        }
    }

    /// A call of the machine with its effects journaled.
    pub fn call<R>(
        &mut self,
        f: impl FnOnce(&mut Machine, u64, &dyn Store, &mut Effects) -> R,
    ) -> (R, Effects) {
        let mut effects = Effects::default();
        let store = self.store.clone();
        let result = f(&mut self.machine, self.now, &*store, &mut effects);
        self.finish(&mut effects);
        (result, effects)
    }

    /// basic.get without acknowledgement: the ids of all that waits.
    pub fn drain(&mut self, id: QueueId) -> Vec<u64> {
        let mut ids = Vec::new();
        loop {
            let (got, effects) = self.call(|m, now, s, e| m.get(id, None, now, s, e));
            assert_eq!(effects.failure, None);
            match got {
                Some(got) => ids.push(id_of(&got.message)),
                None => return ids,
            }
        }
    }

    pub fn take_checkpoint(&mut self) {
        let snapshot = self.machine.snapshot();
        let bytes = checkpoint::encode(&snapshot);
        assert_eq!(checkpoint::decode(&bytes).as_ref(), Ok(&snapshot));
        self.checkpoint = Some((self.log.len(), bytes));
        for segment in std::mem::take(&mut self.moved) {
            self.store.delete_segment(segment);
        }
    }

    /// A machine from the checkpoint (if `use_checkpoint`) and the first `upto` entries of the log.
    pub fn rebuild(&self, use_checkpoint: bool, upto: usize, clean: bool) -> (Machine, Effects) {
        let mut machine = Machine::new(7);
        for (id, settings) in &self.queues {
            machine.create(*id, *settings, self.now);
        }
        let mut from = 0;
        if let Some((covered, bytes)) = self.checkpoint.as_ref().filter(|_| use_checkpoint) {
            from = *covered;
            let states: Vec<(QueueId, QueueState)> =
                checkpoint::decode(bytes).expect("encoded here");
            for (id, state) in states {
                if self.queues.contains_key(&id) {
                    machine.restore(id, state);
                }
            }
        }
        for (location, entry) in &self.log[from..upto] {
            machine.replay(entry, *location).expect("a good entry");
        }
        let mut effects = Effects::default();
        machine.finish_replay(clean, self.now, &*self.store, &mut effects);
        (machine, effects)
    }

    /// The process dies and starts again.
    pub fn crash(&mut self, use_checkpoint: bool, clean: bool) -> Effects {
        self.store.empty_pager();
        let (machine, mut effects) = self.rebuild(use_checkpoint, self.log.len(), clean);
        self.machine = machine;
        self.finish(&mut effects);
        effects
    }

    /// Moves all live messages of a segment to the journal's head, `batch` to an entry.
    pub fn relocate(&mut self, segment: u32, batch: usize) {
        type Moving = (Message, Vec<(QueueId, Seq)>);
        let mut found: BTreeMap<(u64, usize), Moving> = BTreeMap::new();
        for (id, messages) in naive_live(&self.log) {
            if !self.queues.get(&id).is_some_and(|s| s.durable) {
                continue;
            }
            for (seq, (location, ..)) in messages {
                if location.segment() != segment {
                    continue;
                }
                let record = &self.log[self
                    .log
                    .iter()
                    .position(|(l, _)| *l == location)
                    .expect("in the log")]
                .1;
                let (_, message) = messages_of(record, id)
                    .into_iter()
                    .find(|(s, _)| *s == seq)
                    .expect("in its record");
                let key = (location.0, message.body().as_ptr() as usize);
                let place = found.entry(key).or_insert((message, Vec::new()));
                place.1.push((id, seq));
            }
        }
        let moving: Vec<_> = found.into_values().collect();
        for chunk in moving.chunks(batch.max(1)) {
            let mut builder = EntryBuilder::default();
            for (message, places) in chunk {
                builder.relocated(places, message);
            }
            let location = self.write(&builder.finish(None));
            for (id, seq) in chunk.iter().flat_map(|(_, places)| places) {
                self.machine.relocated(*id, *seq, location);
            }
        }
        self.moved.insert(segment);
    }
}
