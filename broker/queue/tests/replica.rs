//! What a mirrored group replicates: the bytes of batches and checkpoints, parts that come twice or too early, runs beside
//! truncated entries, and that mirrors stay equal under random streams.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use common::rng::{Rng, seeds};
use common::{FakeStore, body_of, id_of, message};
use leveret_queue::entry::{EntryReader, SETTLED_ACKED, batch};
use leveret_queue::{
    Barriers, BatchBuilder, Effects, EntryBuf, EntryBuilder, EntryError, Location, Machine,
    NewMessage, Outcome, Overflow, Part, PartOutcome, QueueId, Replica, Seq, SessionId, Settings,
    Store, fuzzing,
};

const Q: QueueId = 5;
const ONE: SessionId = SessionId {
    node: 1,
    incarnation: 0x0102_0304,
};
const TWO: SessionId = SessionId {
    node: 2,
    incarnation: 9,
};

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).filter_map(byte).collect()
}

/// An entry with messages `(queue, id, priority)` that got the numbers that `next` has for their queues.
fn entry_of(messages: &[(QueueId, u64, u8)], next: &BTreeMap<QueueId, Seq>) -> Arc<EntryBuf> {
    let mut builder = EntryBuilder::default();
    let mut queues: Vec<QueueId> = Vec::new();
    for (queue, id, priority) in messages {
        let body = body_of(*id, 8 + (*id % 40) as usize);
        let message = NewMessage {
            priority: *priority,
            persistent: id % 2 == 0,
            body: &[&body],
            ..message(&[])
        };
        builder.enqueue(&[*queue], &message, false);
        if !queues.contains(queue) {
            queues.push(*queue);
        }
    }
    // What a machine does at admission.
    let mut bytes = builder.finish(None).to_vec();
    let table = bytes.len() - 16 * queues.len();
    for (at, queue) in queues.iter().enumerate() {
        let place = table + at * 16 + 8;
        bytes[place..place + 8].copy_from_slice(&next[queue].to_le_bytes());
    }
    EntryBuf::shared(bytes.into())
}

fn numbered(first: Seq, ids: std::ops::Range<u64>) -> Arc<EntryBuf> {
    let messages: Vec<_> = ids.map(|id| (Q, id, 0)).collect();
    entry_of(&messages, &[(Q, first)].into())
}

fn part(session: SessionId, number: u64, entry: &EntryBuf) -> Bytes {
    let mut batch = BatchBuilder::default();
    batch.entry(session, number, entry);
    batch.finish(None)
}

fn created() -> Replica {
    let mut replica = Replica::new();
    replica.create(Q, 0);
    replica
}

fn live(replica: &Replica, queue: QueueId) -> Vec<Seq> {
    let levels = replica.queue(queue).into_iter().flat_map(|q| &q.levels);
    let runs = levels.flat_map(|level| level.runs());
    let mut seqs: Vec<Seq> = runs.flat_map(|run| run.first..run.end()).collect();
    seqs.sort_unstable();
    seqs
}

// ---------------------------------------------------------------------- bytes

const BATCH: &str = "
    01 81 0000 05000000
    0000000000000000 0000000000000000 0500000000000000 00000000 02 07 0000
    0100000000000000 0403020100000000 0300000000000000 10000000 00 00 0000
    01 00 0000 00000000 10000000 00000000
    0200000000000000 0900000000000000 0000000000000000 00000000 01 00 0000
    0000000000000000 0000000000000000 0600000000000000 00000000 03 00 0000
    0000000000000000 0000000000000000 0500000000000000 00000000 04 00 0000";

fn batch() -> BatchBuilder {
    let mut batch = BatchBuilder::default();
    batch.create(5, 7);
    batch.entry(ONE, 3, &EntryBuilder::default().finish(None));
    batch.forget(TWO);
    batch.own(EntryBuilder::default());
    batch.remove(6);
    batch.used(5);
    batch
}

/// In a group that was formed anew, sessions are further than it knows.
#[test]
fn an_unknown_session_begins_where_it_is_and_a_known_one_stays() {
    let begin = |session, number| {
        let mut batch = BatchBuilder::default();
        batch.begin(session, number);
        let bytes = batch.finish(None);
        fuzzing::batch(&bytes);
        bytes
    };
    let mut replica = created();
    let apply = |replica: &mut Replica, batch: &Bytes| {
        let applied = replica.apply(batch, Location(8), Location::START);
        applied.expect("good").parts.pop().expect("one part").1
    };
    let late = part(ONE, 8, &numbered(1, 0..1));
    let gap = PartOutcome::Gap { last: 0 };
    assert_eq!(apply(&mut replica, &late), gap);
    apply(&mut replica, &begin(ONE, 7));
    assert_eq!(replica.last_number(ONE), 7);
    assert_eq!(apply(&mut replica, &late), PartOutcome::Applied);
    // Said twice, it says nothing: numbers that were applied are not applied again.
    apply(&mut replica, &begin(ONE, 3));
    assert_eq!(apply(&mut replica, &late), PartOutcome::Repeated);
    let mut bad = begin(TWO, 1).to_vec();
    bad[24] = 0;
    assert!(batch::parts(&bad.into()).is_err());
}

/// Clients may hold messages of a generation before.
#[test]
fn no_number_of_an_earlier_generation_is_given_again() {
    let first = 1 << 40 | 1;
    let settings = || [(Q, Settings::default()), (Q + 1, Settings::default())];
    let mut machine = Machine::lead(512, &created(), settings(), Location::START, 0);
    machine.number_from(first);
    machine.number_from(1);
    let mut entry = EntryBuilder::default();
    entry.enqueue(&[Q, Q + 1], &message(&[]), false);
    machine.admit(
        &mut entry,
        0,
        &FakeStore::default(),
        &mut Effects::default(),
    );
    let entry = EntryBuf::shared(entry.finish(None).to_bytes());
    let reader = EntryReader::new(&entry).expect("good");
    let numbers: Vec<_> = reader.queues().collect();
    assert_eq!(numbers, [(Q, first), (Q + 1, first)]);
}

#[test]
fn the_bytes_of_a_batch_are_frozen() {
    assert_eq!(batch().parts(), 5);
    assert_eq!(batch().finish(None)[..], unhex(BATCH)[..]);
    let parts = batch::parts(&unhex(BATCH).into()).expect("good");
    assert!(matches!(
        parts[..],
        [
            Part::Create {
                queue: 5,
                max_priority: 7
            },
            Part::Entry {
                session: ONE,
                number: 3,
                ..
            },
            Part::Forget(TWO),
            Part::Remove(6),
            Part::Used(5),
        ]
    ));
}

/// Messages are read in place, so entries stay aligned.
#[test]
fn entries_in_a_batch_are_aligned() {
    let payload = part(ONE, 1, &numbered(1, 0..3));
    for entry in batch::entries(&payload).expect("good") {
        assert_eq!((entry.as_ptr() as usize - payload.as_ptr() as usize) % 8, 0);
    }
}

#[test]
fn malformed_batches_are_errors_and_no_byte_panics() {
    let mut with_messages = BatchBuilder::default();
    with_messages.create(Q, 3);
    with_messages.entry(ONE, 1, &numbered(1, 0..2));
    with_messages.entry(ONE, 2, &numbered(3, 2..3));
    let mut settles = EntryBuilder::default();
    settles.settle(Q, SETTLED_ACKED, 1, 8);
    settles.returned(Q, &[(2, 1)]);
    with_messages.own(settles);
    for good in [
        unhex(BATCH),
        with_messages.finish(None).to_vec(),
        batch_of_garbage(),
    ] {
        fuzzing::batch(&good);
        for end in 0..good.len() {
            let cut = Bytes::copy_from_slice(&good[..end]);
            assert!(batch::parts(&cut).is_err(), "{end} bytes");
        }
        for at in 0..good.len() {
            for value in (0..8).map(|bit| good[at] ^ 1 << bit).chain([0, 0x7f, 0xff]) {
                let mut bad = good.clone();
                bad[at] = value;
                fuzzing::batch(&bad);
            }
        }
    }
    let version = |v: u8| {
        let mut bytes = unhex(BATCH);
        bytes[1] = v;
        batch::parts(&bytes.into()).map(|_| ())
    };
    assert_eq!(version(0x82), Err(EntryError::Version(0x82)));
    assert_eq!(version(0), Err(EntryError::Version(0)));
}

fn batch_of_garbage() -> Vec<u8> {
    let entry = EntryBuf::shared(Bytes::from_static(&[0xff; 64]));
    part(ONE, 1, &entry).to_vec()
}

const CHECKPOINT: &str = "
    4c565250 01000000 01000000 01000000
    0100000000000000 0403020100000000 0100000000000000
    0500000000000000 00000000 00000000
    0300000000000000 0000000000000000 1100000000000000 01000000 01000000
    01000000 00000000
    0100000000000000 2003000000000000 02000000 00000000
    0200000000000000 04000000 00000000";

fn two_messages() -> Replica {
    let mut replica = created();
    let payload = part(ONE, 1, &numbered(1, 0..2));
    replica
        .apply(&payload, Location(0x320), Location::START)
        .expect("good");
    let mut returned = EntryBuilder::default();
    returned.returned(Q, &[(2, 4), (9, 1)]);
    let mut batch = BatchBuilder::default();
    batch.own(returned);
    replica
        .apply(&batch.finish(None), Location(0x400), Location::START)
        .expect("good");
    replica
}

#[test]
fn the_bytes_of_a_replica_are_frozen_and_damaged_ones_are_errors() {
    let good = two_messages().encode();
    assert_eq!(good, unhex(CHECKPOINT));
    assert_eq!(Replica::decode(&good).map(|r| r.encode()), Ok(good.clone()));
    for end in 0..good.len() {
        assert!(Replica::decode(&good[..end]).is_err(), "{end} bytes");
    }
    for at in 0..good.len() {
        for value in (0..8).map(|bit| good[at] ^ 1 << bit).chain([0, 0x7f, 0xff]) {
            let mut bad = good.clone();
            bad[at] = value;
            fuzzing::replica(&bad);
        }
    }
}

#[test]
fn the_corpus_holds() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
    type Target = (&'static str, fn(&[u8]));
    for (target, check) in [
        ("batch", fuzzing::batch as fn(&[u8])),
        ("replica", fuzzing::replica),
    ] as [Target; 2]
    {
        let mut files = 0;
        for file in std::fs::read_dir(format!("{root}/{target}")).expect("the corpus is there") {
            let data = std::fs::read(file.expect("readable").path()).expect("readable");
            check(&data);
            files += 1;
        }
        assert!(files >= 3, "{files} inputs for {target}");
    }
}

/// Writes the first inputs of the fuzz targets' corpus.
#[test]
#[ignore = "writes fuzz/corpus"]
fn write_the_corpus() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
    let write = |name: &str, data: &[u8]| {
        let path = format!("{root}/{name}");
        let folder = std::path::Path::new(&path).parent().expect("a folder");
        std::fs::create_dir_all(folder).expect("writable");
        std::fs::write(path, data).expect("writable");
    };
    write("batch/every_part", &unhex(BATCH));
    write("batch/messages", &part(ONE, 1, &numbered(1, 0..5)));
    write("batch/garbage_entry", &batch_of_garbage());
    write("batch/gap", &part(ONE, 7, &numbered(u64::MAX - 1, 0..3)));
    write("replica/two_messages", &two_messages().encode());
    write("replica/empty", &Replica::new().encode());
    let mut far = two_messages().encode();
    let at = far.len() - 40;
    far[at..at + 8].fill(0xff);
    write("replica/run_past_the_end", &far);
}

// ---------------------------------------------------------------------- sessions

#[test]
fn a_part_is_applied_once_and_only_behind_the_one_before() {
    let mut replica = created();
    let apply = |replica: &mut Replica, session, number, first: Seq| {
        let payload = part(session, number, &numbered(first, 0..1));
        let applied = replica.apply(&payload, Location(first * 100), Location::START);
        let applied = applied.expect("good");
        (applied.parts[0].1, applied.has_gap())
    };
    assert_eq!(
        apply(&mut replica, ONE, 1, 1),
        (PartOutcome::Applied, false)
    );
    assert_eq!(
        apply(&mut replica, ONE, 1, 2),
        (PartOutcome::Repeated, false)
    );
    assert_eq!(
        apply(&mut replica, ONE, 3, 3),
        (PartOutcome::Gap { last: 1 }, true)
    );
    assert_eq!(
        apply(&mut replica, TWO, 2, 4),
        (PartOutcome::Gap { last: 0 }, true)
    );
    assert_eq!(
        apply(&mut replica, ONE, 2, 5),
        (PartOutcome::Applied, false)
    );
    assert_eq!(
        apply(&mut replica, TWO, 1, 6),
        (PartOutcome::Applied, false)
    );
    assert_eq!(live(&replica, Q), [1, 5, 6]);
    assert_eq!(replica.last_number(ONE), 2);
    // A forgotten session is as one that never was.
    let mut batch = BatchBuilder::default();
    batch.forget(ONE);
    let forgot = replica.apply(&batch.finish(None), Location(900), Location::START);
    assert_eq!(forgot.map(|a| a.parts.len()), Ok(1));
    assert_eq!(replica.sessions().collect::<Vec<_>>(), [(TWO, 1)]);
}

/// A walk would find the skipped part's messages under these numbers, so nobody else may get them.
#[test]
fn numbers_of_skipped_parts_are_used_up() {
    let mut replica = created();
    for (number, first) in [(1, 1), (1, 2), (5, 4)] {
        let payload = part(ONE, number, &numbered(first, 0..2));
        replica
            .apply(&payload, Location(first), Location::START)
            .expect("good");
    }
    assert_eq!(live(&replica, Q), [1, 2]);
    assert_eq!(replica.queue(Q).map(|q| q.next_seq), Some(6));
}

#[test]
fn unknown_and_removed_queues_are_skipped_everywhere_alike() {
    let mut replica = Replica::new();
    let mut batch = BatchBuilder::default();
    batch.entry(ONE, 1, &numbered(1, 0..2));
    batch.create(Q, 2);
    batch.entry(ONE, 2, &numbered(3, 2..4));
    replica
        .apply(&batch.finish(None), Location(8), Location::START)
        .expect("good");
    assert_eq!(live(&replica, Q), [3, 4]);
    assert_eq!(replica.max_priority(Q), Some(2));
    let mut batch = BatchBuilder::default();
    batch.remove(Q);
    batch.entry(ONE, 3, &numbered(5, 4..6));
    replica
        .apply(&batch.finish(None), Location(9), Location::START)
        .expect("good");
    assert!(replica.queue(Q).is_none());
    assert_eq!(replica.last_number(ONE), 3);
}

// ---------------------------------------------------------------------- barriers

#[test]
fn the_last_barrier_before_a_record_counts() {
    let mut barriers = Barriers::default();
    assert_eq!(barriers.before(Location(50)), Location::START);
    for at in [10, 20, 20, 30] {
        barriers.set(Location(at));
    }
    let before = |at: u64| barriers.before(Location(at)).0;
    assert_eq!([5, 10, 19, 20, 99].map(before), [0, 10, 10, 20, 30]);
    barriers.forget(Location(25));
    assert_eq!(barriers.len(), 2);
    assert_eq!(barriers.before(Location(26)), Location(20));
}

/// What a machine that leads from `replica` finds in a queue: (number, id).
fn drained(replica: &Replica, store: &FakeStore, settings: Settings) -> Vec<(Seq, u64)> {
    let mut effects = Effects::default();
    let queues = replica.queues().map(|(id, _)| (id, settings));
    let mut machine = Machine::lead(300, replica, queues, store.end(), 0);
    assert!(machine.get(Q, None, 0, store, &mut effects).is_none());
    machine.go(0, store, &mut effects);
    let mut found = Vec::new();
    while let Some(got) = machine.get(Q, None, 0, store, &mut effects) {
        assert!(got.redelivered);
        found.push((got.seq, id_of(&got.message)));
    }
    assert_eq!(effects.failure, None);
    found
}

const GARBAGE: u64 = 1 << 40;

/// A mirror: a journal in which truncated entries gave the numbers of the next ones to other messages.
#[derive(Default)]
struct Mirror {
    store: FakeStore,
    barriers: Barriers,
    replica: Replica,
}

impl Mirror {
    fn append(&self, payload: &[u8]) -> Location {
        self.store.append(payload).0
    }

    /// An entry that lost its place.
    fn truncated(&mut self, payload: &[u8]) {
        self.append(payload);
        self.barriers.set(self.store.end());
    }

    fn apply(&mut self, payload: &Bytes) -> Location {
        let at = self.append(payload);
        let barrier = self.barriers.before(at);
        self.replica.apply(payload, at, barrier).expect("good");
        at
    }

    fn relocate(&mut self, seq: Seq) {
        let run = *self
            .replica
            .queue(Q)
            .and_then(|q| q.find(seq))
            .expect("live");
        let mut found = Vec::new();
        let read = self.store.read(Q, seq, 1, run.location, 1, &mut found);
        assert_eq!(read, Ok(()));
        let mut moved = EntryBuilder::default();
        moved.relocated(&[(Q, seq)], &found[0].message);
        let at = self.append(&moved.finish(None));
        let barrier = self.barriers.before(at);
        self.replica.relocated(Q, seq, at, barrier);
    }
}

#[test]
fn a_walk_never_reads_truncated_entries() {
    let mut mirror = Mirror {
        replica: created(),
        ..Mirror::default()
    };
    for id in 0..20 {
        if id % 3 == 1 {
            mirror.truncated(&part(TWO, 1, &numbered(id + 1, GARBAGE..GARBAGE + 3)));
        }
        let payload = part(ONE, id + 1, &numbered(id + 1, id..id + 1));
        mirror.apply(&payload);
    }
    let expected: Vec<(Seq, u64)> = (0..20).map(|id| (id + 1, id)).collect();
    assert_eq!(
        drained(&mirror.replica, &mirror.store, Settings::default()),
        expected
    );
}

/// The barrier of an entry is the one before its record, not the last there is when it is applied.
#[test]
fn entries_that_are_applied_late_keep_their_barriers() {
    let mut mirror = Mirror {
        replica: created(),
        ..Mirror::default()
    };
    let mut appended = Vec::new();
    for id in 0..3 {
        let payload = part(ONE, id + 1, &numbered(id + 1, id..id + 1));
        appended.push((mirror.append(&payload), payload));
        mirror.truncated(&part(TWO, 1, &numbered(id + 2, GARBAGE..GARBAGE + 1)));
    }
    for (at, payload) in appended {
        let barrier = mirror.barriers.before(at);
        mirror.replica.apply(&payload, at, barrier).expect("good");
    }
    assert_eq!(
        drained(&mirror.replica, &mirror.store, Settings::default()),
        [(1, 0), (2, 1), (3, 2)]
    );
}

/// After a restart the log before the checkpoint's runs is not known: they end there.
#[test]
fn runs_of_a_checkpoint_are_not_extended() {
    let mut mirror = Mirror {
        replica: created(),
        ..Mirror::default()
    };
    mirror.apply(&part(ONE, 1, &numbered(1, 0..2)));
    mirror.truncated(&part(ONE, 2, &numbered(3, GARBAGE..GARBAGE + 1)));
    mirror.replica = Replica::decode(&mirror.replica.encode()).expect("good");
    mirror.barriers = Barriers::default();
    mirror.apply(&part(ONE, 2, &numbered(3, 2..3)));
    mirror.apply(&part(ONE, 3, &numbered(4, 3..4)));
    assert_eq!(
        drained(&mirror.replica, &mirror.store, Settings::default()),
        [(1, 0), (2, 1), (3, 2), (4, 3)]
    );
}

#[test]
fn moved_messages_do_not_pull_truncated_entries_into_a_run() {
    let mut mirror = Mirror {
        replica: created(),
        ..Mirror::default()
    };
    mirror.apply(&part(ONE, 1, &numbered(1, 0..1)));
    mirror.relocate(1);
    mirror.truncated(&part(ONE, 2, &numbered(2, GARBAGE..GARBAGE + 1)));
    mirror.apply(&part(ONE, 2, &numbered(2, 1..2)));
    mirror.relocate(2);
    assert_eq!(
        drained(&mirror.replica, &mirror.store, Settings::default()),
        [(1, 0), (2, 1)]
    );
}

/// The leader's machine has runs of its own: those that it took over are not extended either.
#[test]
fn the_leaders_machine_does_not_extend_runs_over_truncated_entries() {
    let mut mirror = Mirror {
        replica: created(),
        ..Mirror::default()
    };
    mirror.apply(&part(ONE, 1, &numbered(1, 0..1)));
    mirror.truncated(&part(ONE, 2, &numbered(2, GARBAGE..GARBAGE + 1)));
    let mut effects = Effects::default();
    let queues = [(Q, Settings::default())];
    let end = mirror.store.end();
    let mut machine = Machine::lead(300, &mirror.replica, queues, end, 0);
    let payload = part(ONE, 2, &numbered(2, 1..2));
    let at = mirror.append(&payload);
    let barrier = mirror.barriers.before(at);
    let applied = mirror.replica.apply(&payload, at, barrier).expect("good");
    machine
        .apply_batch(&applied, at, 0, &mirror.store, &mut effects)
        .expect("good");
    // What it took over is still on disk only: to go it is read.
    machine.go(0, &mirror.store, &mut effects);
    for id in 0..2 {
        let got = machine.get(Q, None, 0, &mirror.store, &mut effects);
        assert_eq!(got.map(|g| id_of(&g.message)), Some(id));
    }
    assert_eq!(effects.failure, None);
}

// ---------------------------------------------------------------------- limits

fn publish(machine: &mut Machine, ids: std::ops::Range<u64>) -> (Outcome, EntryBuilder, Effects) {
    let mut builder = EntryBuilder::default();
    for id in ids {
        let body = body_of(id, 10);
        builder.enqueue(&[Q], &message(&[&body]), false);
    }
    // As if it came from another node.
    let sent = builder.finish(None).to_vec();
    let mut builder = EntryBuilder::reopen(sent).expect("good");
    let mut effects = Effects::default();
    let outcome = machine.admit(&mut builder, 0, &FakeStore::default(), &mut effects);
    (outcome, builder, effects)
}

/// Proposals in flight count for `x-max-length` and `x-max-length-bytes` with reject-publish.
#[test]
fn admitted_messages_count_for_limits_before_they_are_applied() {
    for (max_length, max_length_bytes) in [(Some(5), None), (None, Some(59))] {
        let settings = Settings {
            max_length,
            max_length_bytes,
            overflow: Overflow::RejectPublish,
            ..Settings::default()
        };
        let store = FakeStore::default();
        let mut replica = Replica::new();
        let mut machine = Machine::lead(300, &replica, [(Q, settings)], store.end(), 0);
        machine.go(0, &store, &mut Effects::default());
        let mut flying = Vec::new();
        for (number, ids) in [(1u64, 0..3), (2, 3..6), (3, 6..8)] {
            let first = ids.start;
            let (outcome, builder, effects) = publish(&mut machine, ids);
            let wanted: &[u32] = match first {
                0 => &[],
                3 => &[2],
                _ => &[0, 1],
            };
            assert_eq!(outcome.refused, wanted);
            let mut batch = BatchBuilder::default();
            for (queue, levels) in &effects.created {
                batch.create(*queue, *levels);
            }
            assert_eq!(effects.created.len(), usize::from(number == 1));
            batch.entry(ONE, number, &builder.finish(None));
            flying.push(batch.finish(None));
        }
        for payload in flying {
            let (at, _) = store.append(&payload);
            let applied = replica.apply(&payload, at, Location::START).expect("good");
            machine
                .apply_batch(&applied, at, 0, &store, &mut Effects::default())
                .expect("good");
        }
        assert_eq!(live(&replica, Q), [1, 2, 3, 4, 5]);
        assert_eq!(machine.queue(Q).map(|q| q.depth().ready), Some(5));
        // A place comes free, and is counted once.
        let mut effects = Effects::default();
        assert!(machine.get(Q, None, 0, &store, &mut effects).is_some());
        assert_eq!(publish(&mut machine, 8..10).0.refused, [1]);
    }
}

#[test]
fn only_enqueues_are_taken_from_a_session() {
    let mut settles = EntryBuilder::default();
    settles.settle(Q, SETTLED_ACKED, 1, 1);
    assert!(EntryBuilder::reopen(settles.finish(None).to_vec()).is_err());
    assert!(EntryBuilder::reopen(vec![1; 40]).is_err());
    let sent = numbered(7, 0..3);
    let again = EntryBuilder::reopen(sent.to_vec()).expect("good");
    let replaced = again.finish(None);
    // The same but for the numbers.
    assert_eq!(sent[..sent.len() - 8], replaced[..replaced.len() - 8]);
    assert_eq!(replaced[replaced.len() - 8..], [0; 8]);
}

// ---------------------------------------------------------------------- random streams

/// A queue as a naive reader has it: levels, next number, and number → (id, level, bytes, returns).
#[derive(Default)]
struct Naive {
    levels: u8,
    next: Seq,
    messages: BTreeMap<Seq, (u64, u8, u32)>,
}

/// What a leader gives next; nothing to queues that are not there.
fn next_of(ids: [QueueId; 4], naive: &BTreeMap<QueueId, Naive>) -> BTreeMap<QueueId, Seq> {
    let next = |id: QueueId| (id, naive.get(&id).map_or(Seq::MAX, |q| q.next));
    ids.map(next).into()
}

fn random_stream(seed: u64) -> Result<(), String> {
    let mut rng = Rng(seed);
    let mut mirrors: Vec<Mirror> = (0..3).map(|_| Mirror::default()).collect();
    let mut naive: BTreeMap<QueueId, Naive> = BTreeMap::new();
    let mut last: BTreeMap<SessionId, u64> = BTreeMap::new();
    let mut waiting: Vec<Vec<(Location, Bytes)>> = vec![Vec::new(); 3];
    let mut next_id = 0;
    // Ids are not used again.
    let mut ids: [QueueId; 4] = [1, 2, 3, 4];
    for _ in 0..rng.below(25) + 1 {
        let mut batch = BatchBuilder::default();
        for _ in 0..rng.below(4) + 1 {
            let place = rng.below(4);
            let queue = ids[place];
            match rng.below(12) {
                0 | 1 => {
                    let levels = rng.below(3) as u8;
                    batch.create(queue, levels);
                    naive.entry(queue).or_insert(Naive {
                        levels,
                        next: 1,
                        messages: BTreeMap::new(),
                    });
                }
                2 if rng.once_in(3) => {
                    batch.remove(queue);
                    naive.remove(&queue);
                    ids[place] += 4;
                }
                3 if rng.once_in(3) => {
                    let session = [ONE, TWO][rng.below(2)];
                    batch.forget(session);
                    last.remove(&session);
                }
                4..=6 => {
                    let mut own = EntryBuilder::default();
                    if let Some(q) = naive.get_mut(&queue) {
                        settle_some(&mut rng, queue, q, &mut own);
                    }
                    batch.own(own);
                }
                _ => {
                    let session = [ONE, TWO][rng.below(2)];
                    let known = last.get(&session).copied().unwrap_or(0);
                    let number = (known + 1 + rng.below(12).saturating_sub(9) as u64)
                        .saturating_sub(u64::from(rng.once_in(6)))
                        .max(1);
                    let applies = number == known + 1;
                    let messages: Vec<(QueueId, u64, u8)> = (0..rng.below(5) + 1)
                        .map(|_| {
                            next_id += 1;
                            (ids[rng.below(4)], next_id, rng.below(5) as u8)
                        })
                        .collect();
                    batch.entry(session, number, &entry_of(&messages, &next_of(ids, &naive)));
                    if applies {
                        last.insert(session, number);
                    }
                    for (queue, id, priority) in messages {
                        let Some(q) = naive.get_mut(&queue) else {
                            continue;
                        };
                        if applies {
                            let level = priority.min(q.levels);
                            q.messages.insert(q.next, (id, level, 0));
                        }
                        q.next += 1;
                    }
                }
            }
        }
        let payload = batch.finish(None);
        for (mirror, waiting) in mirrors.iter_mut().zip(&mut waiting) {
            if rng.once_in(3) {
                let mut next = next_of(ids, &naive);
                for next in next.values_mut() {
                    *next = next.saturating_sub(rng.below(3) as u64).max(1);
                }
                let lies: Vec<_> = (0..6)
                    .map(|n| (ids[n % 4], GARBAGE + n as u64, 0))
                    .collect();
                // The numbers of what follows, and of what is there: the first lie before it, the others are not asked for.
                if waiting.is_empty() {
                    mirror.truncated(&part(ONE, 1, &entry_of(&lies, &next)));
                }
            }
            if rng.once_in(3) {
                mirror.append(&entry_of(&[(77, 1, 0)], &[(77, 1)].into()));
            }
            waiting.push((mirror.append(&payload), payload.clone()));
            // Some mirrors lag.
            while !waiting.is_empty() && !rng.once_in(3) {
                let (at, payload) = waiting.remove(0);
                let barrier = mirror.barriers.before(at);
                let applied = mirror.replica.apply(&payload, at, barrier);
                applied.map_err(|e| e.to_string())?;
                let encoded = mirror.replica.encode();
                let again = Replica::decode(&encoded).map_err(|e| e.to_string())?;
                if again.encode() != encoded || again.digest() != mirror.replica.digest() {
                    return Err("a checkpoint does not hold what it was made of".into());
                }
                if rng.once_in(4) {
                    mirror.replica = again;
                }
            }
        }
    }
    for (mirror, waiting) in mirrors.iter_mut().zip(waiting) {
        for (at, payload) in waiting {
            let barrier = mirror.barriers.before(at);
            let applied = mirror.replica.apply(&payload, at, barrier);
            applied.map_err(|e| e.to_string())?;
        }
    }
    let digests: BTreeSet<Vec<u8>> = mirrors.iter().map(|m| m.replica.digest()).collect();
    if digests.len() != 1 {
        return Err("mirrors differ".into());
    }
    let sessions: BTreeMap<SessionId, u64> = mirrors[0].replica.sessions().collect();
    if sessions != last {
        return Err(format!("sessions {sessions:?}, expected {last:?}"));
    }
    mirrors.iter().try_for_each(|m| compare(m, &naive))
}

fn settle_some(rng: &mut Rng, queue: QueueId, q: &mut Naive, own: &mut EntryBuilder) {
    let seqs: Vec<Seq> = q.messages.keys().copied().collect();
    for seq in seqs {
        match rng.below(6) {
            0 | 1 => {
                let (id, ..) = q.messages[&seq];
                let bytes = 8 + (id % 40) as u32;
                own.settle(queue, SETTLED_ACKED, seq, bytes);
                q.messages.remove(&seq);
            }
            2 => {
                let count = rng.below(3) as u32 + 1;
                own.returned(queue, &[(seq, count)]);
                if let Some(message) = q.messages.get_mut(&seq) {
                    message.2 = count;
                }
            }
            _ => {}
        }
    }
    // One that is not there.
    own.returned(queue, &[(1 << 50, 3)]);
}

/// The replica holds what the naive reader has, and a machine made from it delivers that in order.
fn compare(mirror: &Mirror, naive: &BTreeMap<QueueId, Naive>) -> Result<(), String> {
    let replica = &mirror.replica;
    let ids: BTreeSet<QueueId> = replica.queues().map(|(id, _)| id).collect();
    if !ids.iter().eq(naive.keys()) {
        return Err(format!("queues {ids:?}"));
    }
    let mut effects = Effects::default();
    let settings = Settings {
        count_deliveries: true,
        ..Settings::default()
    };
    let queues = ids.iter().map(|id| (*id, settings));
    let mut machine = Machine::lead(300, replica, queues, mirror.store.end(), 0);
    machine.go(0, &mirror.store, &mut effects);
    for (id, q) in naive {
        let state = replica.queue(*id).ok_or("gone")?;
        let bytes: u64 = q.messages.values().map(|(id, ..)| 8 + id % 40).sum();
        if (state.next_seq, state.bytes) != (q.next, bytes) {
            return Err(format!("queue {id}: {state:?}, expected {bytes} bytes"));
        }
        let mut expected: Vec<_> = q.messages.iter().collect();
        expected.sort_by_key(|(seq, (_, level, _))| (std::cmp::Reverse(*level), **seq));
        for (seq, (message, _, returns)) in expected {
            let got = machine.get(*id, None, 0, &mirror.store, &mut effects);
            let got = got.ok_or(format!("queue {id}: {seq} is missing: {effects:?}"))?;
            let count = got.delivery_count.unwrap_or(0);
            if (got.seq, id_of(&got.message), count) != (*seq, *message, *returns) {
                return Err(format!(
                    "queue {id}: {got:?} with {:x}, expected {seq} {message}",
                    id_of(&got.message)
                ));
            }
        }
        if let Some(got) = machine.get(*id, None, 0, &mirror.store, &mut effects) {
            return Err(format!("queue {id}: {got:?} too many"));
        }
        machine.check()?;
    }
    Ok(())
}

#[test]
fn mirrors_are_equal_and_hold_what_was_committed() {
    seeds(1000, random_stream);
}
