//! The entry format: it is on disk, so its bytes are frozen here; and nothing that is not an entry makes it panic.

use std::sync::Arc;

use bytes::Bytes;
use leveret_queue::entry::{EntryReader, Op, SETTLED_ACKED, SeqReturn, SettledRange};
use leveret_queue::{
    EntryBuf, EntryBuilder, EntryError, Location, Machine, Message, NewMessage, NoStore,
    QueueState, RunSet, Settings, checkpoint, fuzzing,
};
use proptest::prelude::*;

const MESSAGE: NewMessage<'static> = NewMessage {
    exchange: b"ex",
    routing_key: b"key",
    properties: &[0x10, 0, 2],
    body: &[b"he", b"llo"],
    persistent: true,
    expiration_ms: Some(0x0102_0304),
    priority: 7,
    time_ms: 0x1122_3344_5566_7788,
};

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks(2).filter_map(byte).collect()
}

fn shared(bytes: &[u8]) -> Arc<EntryBuf> {
    EntryBuf::shared(Bytes::copy_from_slice(bytes))
}

fn enqueue() -> EntryBuilder {
    let mut builder = EntryBuilder::default();
    builder.enqueue(&[0x0a0b, 3], &MESSAGE, true);
    builder
}

fn settle() -> EntryBuilder {
    let mut builder = EntryBuilder::default();
    builder.settle(5, SETTLED_ACKED, 9, 100);
    builder.settle(5, SETTLED_ACKED, 10, 1);
    builder.settle(5, SETTLED_ACKED, 12, 2);
    builder.settle(5, 4, 13, 3);
    builder
}

fn returned() -> EntryBuilder {
    let mut builder = EntryBuilder::default();
    builder.returned(6, &[(1, 2), (0x0101_0101_0101, 3)]);
    builder
}

fn relocated() -> EntryBuilder {
    let entry = enqueue().finish(None);
    let reader = EntryReader::new(&entry).expect("good");
    let op = reader.ops().next().expect("one").expect("good");
    let mut builder = EntryBuilder::default();
    builder.relocated(&[(3, 77), (8, 0x0102)], &reader.message(&op));
    builder
}

const ENQUEUE: &str = "
    01 00 0200 01000000 48000000 00000000
    01 03 0200 38000000 05000000 03000000 02 03 07 00 04030201 8877665544332211
    0000 0100 6578 6b6579 100002 68656c6c6f 00000000000000
    0b0a000000000000 0000000000000000 0300000000000000 0000000000000000";
const SETTLE: &str = "
    01 00 0100 02000000 60000000 00000000
    02 00 0100 30000000 0000 00 0000000000
    0900000000000000 02000000 65000000 0c00000000000000 01000000 02000000
    02 00 0100 20000000 0000 04 0000000000
    0d00000000000000 01000000 03000000
    0500000000000000 0000000000000000";
const RETURN: &str = "
    01 00 0100 01000000 40000000 00000000
    03 00 0100 30000000 0000 000000000000
    0100000000000000 02000000 00000000 0101010101010000 03000000 00000000
    0600000000000000 0000000000000000";
const RELOCATED: &str = "
    01 00 0200 01000000 58000000 00000000
    04 03 0200 48000000 05000000 03000000 02 03 07 00 04030201 8877665544332211
    0000 0100 00000000 4d00000000000000 0201000000000000
    6578 6b6579 100002 68656c6c6f 000000
    0300000000000000 0000000000000000 0800000000000000 0000000000000000";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[test]
fn the_bytes_of_each_op_are_frozen() {
    let cases = [
        (enqueue(), ENQUEUE),
        (settle(), SETTLE),
        (returned(), RETURN),
        (relocated(), RELOCATED),
    ];
    for (builder, golden) in cases {
        let entry = builder.finish(None);
        assert_eq!(hex(&entry), hex(&unhex(golden)));
    }
}

#[test]
fn the_frozen_bytes_read() {
    let entry = shared(&unhex(ENQUEUE));
    let reader = EntryReader::new(&entry).expect("good");
    assert_eq!(reader.queues().collect::<Vec<_>>(), [(0x0a0b, 0), (3, 0)]);
    assert_eq!(reader.slot_of(3), Some((1, 0)));
    let op = reader.ops().next().expect("one").expect("good");
    assert_eq!(
        (op.op, op.slots().collect::<Vec<_>>()),
        (Op::Enqueue, vec![0, 1])
    );
    is_the_message(&reader.message(&op));

    let entry = shared(&unhex(SETTLE));
    let reader = EntryReader::new(&entry).expect("good");
    let ops: Vec<_> = reader.ops().map(|op| op.expect("good")).collect();
    let range = |first, count, bytes| SettledRange {
        first,
        count,
        bytes,
    };
    assert_eq!(ops[0].op, Op::Settle(0, SETTLED_ACKED));
    assert_eq!(
        ops[0].ranges().collect::<Vec<_>>(),
        [range(9, 2, 101), range(12, 1, 2)]
    );
    assert_eq!(ops[1].op, Op::Settle(0, 4));
    assert_eq!(ops[1].ranges().collect::<Vec<_>>(), [range(13, 1, 3)]);

    let entry = shared(&unhex(RETURN));
    let reader = EntryReader::new(&entry).expect("good");
    let op = reader.ops().next().expect("one").expect("good");
    let back = |seq, delivery_count| SeqReturn {
        seq,
        delivery_count,
    };
    assert_eq!(op.op, Op::Return(0));
    assert_eq!(
        op.seqs().collect::<Vec<_>>(),
        [back(1, 2), back(0x0101_0101_0101, 3)]
    );

    let entry = shared(&unhex(RELOCATED));
    let reader = EntryReader::new(&entry).expect("good");
    let op = reader.ops().next().expect("one").expect("good");
    assert_eq!(op.op, Op::Relocated);
    assert_eq!(op.places().collect::<Vec<_>>(), [(0, 77), (1, 0x0102)]);
    is_the_message(&reader.message(&op));
}

/// What does not fit 32 bits of milliseconds is kept in seconds, rounded up, as far as those fit.
fn kept(expiration_ms: u64) -> u64 {
    match expiration_ms {
        0..=0xffff_ffff => expiration_ms,
        _ => expiration_ms.div_ceil(1000).min(0xffff_ffff) * 1000,
    }
}

#[test]
fn a_long_expiration_is_kept_in_seconds() {
    let mut builder = EntryBuilder::default();
    let long = NewMessage {
        expiration_ms: Some(0x1_0000_0001),
        ..MESSAGE
    };
    builder.enqueue(&[1], &long, false);
    let entry = builder.finish(None);
    // Flags 7, and 4294968 seconds.
    assert_eq!((entry[17], &entry[36..40]), (7, &[0x38, 0x89, 0x41, 0][..]));
    let reader = EntryReader::new(&entry).expect("good");
    let op = reader.ops().next().expect("one").expect("good");
    assert_eq!(reader.message(&op).expiration_ms(), Some(4_294_968_000));
    let single = EntryBuilder::single(&long).expect("a message");
    assert_eq!(single.expiration_ms(), Some(kept(0x1_0000_0001)));
}

/// Settles and returns that two calls made are journaled as one entry.
#[test]
fn settles_of_two_entries_become_one() {
    let mut first = settle();
    let mut second = EntryBuilder::default();
    second.settle(6, SETTLED_ACKED, 1, 7);
    second.returned(5, &[(14, 2), (16, 3)]);
    second.settle(5, 4, 20, 9);
    first.append_settles(second);
    let mut same = settle();
    same.settle(6, SETTLED_ACKED, 1, 7);
    same.returned(5, &[(14, 2), (16, 3)]);
    same.settle(5, 4, 20, 9);
    assert_eq!(hex(&first.finish(None)), hex(&same.finish(None)));
}

fn is_the_message(message: &Message) {
    assert_eq!(
        message.content(),
        (&b"ex"[..], &b"key"[..], &[0x10, 0, 2][..], &b"hello"[..])
    );
    assert_eq!((message.priority(), message.is_persistent()), (7, true));
    assert_eq!(message.expiration_ms(), Some(0x0102_0304));
    assert_eq!(message.time_ms(), 0x1122_3344_5566_7788);
    assert_eq!(message.body_len(), 5);
}

/// A refused queue stays in the entry as a slot that is nobody's.
#[test]
fn a_refused_slot_is_not_read() {
    let mut machine = Machine::new(0);
    let full = Settings {
        max_length: Some(0),
        overflow: leveret_queue::Overflow::RejectPublish,
        ..Settings::default()
    };
    machine.create(0x0a0b, full, 0);
    machine.create(3, Settings::default(), 0);
    let mut builder = enqueue();
    let outcome = machine.admit(&mut builder, 0, &NoStore, &mut Default::default());
    assert_eq!(outcome.refused, [0]);
    let entry = builder.finish(None);
    let reader = EntryReader::new(&entry).expect("good");
    let op = reader.ops().next().expect("one").expect("good");
    assert_eq!(op.slots().collect::<Vec<_>>(), [1]);
    assert_eq!(reader.queues().collect::<Vec<_>>(), [(0x0a0b, 1), (3, 1)]);
    is_the_message(&reader.message(&op));
}

#[test]
fn other_versions_and_wrong_lengths_are_errors() {
    let read = |bytes: &[u8]| {
        let entry = shared(bytes);
        let reader = EntryReader::new(&entry)?;
        reader.ops().try_for_each(|op| op.map(|_| ()))
    };
    let good = unhex(SETTLE);
    assert_eq!(read(&good), Ok(()));
    let mut newer = good.clone();
    newer[0] = 2;
    assert_eq!(read(&newer), Err(EntryError::Version(2)));
    // Fewer ops than there are.
    let mut fewer = good.clone();
    fewer[4] = 1;
    assert_eq!(read(&fewer), Err(EntryError::Malformed(64)));
    // Half a range.
    let mut half = unhex(SETTLE);
    half[64 + 4] = 24;
    half.drain(64 + 24..64 + 32);
    half[8] -= 8;
    assert_eq!(read(&half), Err(EntryError::Malformed(64)));
    // Slots that are not in the table.
    let mut slot = unhex(RETURN);
    slot[24] = 1;
    assert_eq!(read(&slot), Err(EntryError::Malformed(16)));
    let mut slot = unhex(ENQUEUE);
    slot[48] = 2;
    assert_eq!(read(&slot), Err(EntryError::Malformed(16)));
}

#[test]
fn every_truncation_is_an_error_and_no_flipped_byte_panics() {
    for golden in [ENQUEUE, SETTLE, RETURN, RELOCATED] {
        let good = unhex(golden);
        for end in 0..good.len() {
            assert!(
                EntryReader::new(&shared(&good[..end])).is_err(),
                "{end} bytes of {golden}"
            );
        }
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                fuzzing::entry(&bad);
            }
            for value in [0, 0x7f, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                fuzzing::entry(&bad);
            }
        }
    }
}

fn restored() -> Vec<(u64, QueueState)> {
    let mut level = RunSet::default();
    for seq in [1u64, 2, 3, 7, 8] {
        level.insert(seq, Location(seq * 100));
    }
    let state = QueueState {
        next_seq: 9,
        delivered_end: 4,
        bytes: 500,
        levels: vec![level, RunSet::default()],
        returns: [(2, 1), (8, 4)].into(),
    };
    vec![(5, state), (6, QueueState::default())]
}

#[test]
fn a_damaged_checkpoint_is_an_error_or_another_checkpoint() {
    let state = restored();
    let good = checkpoint::encode(&state);
    assert_eq!(
        hex(&good),
        hex(&unhex(
            "01000000 02000000
            0500000000000000 0900000000000000 0400000000000000 f401000000000000 02000000 02000000
            02000000 00000000
            0100000000000000 6400000000000000 03000000 c8000000
            0700000000000000 bc02000000000000 02000000 64000000
            00000000 00000000
            0200000000000000 01000000 00000000 0800000000000000 04000000 00000000
            0600000000000000 0000000000000000 0000000000000000 0000000000000000 00000000 00000000"
        ))
    );
    assert_eq!(checkpoint::decode(&good), Ok(state));
    for end in 0..good.len() {
        assert!(checkpoint::decode(&good[..end]).is_err(), "{end} bytes");
    }
    let longer = [&good[..], &[0]].concat();
    assert!(checkpoint::decode(&longer).is_err());
    for at in 0..good.len() {
        for value in (0..8).map(|bit| good[at] ^ 1 << bit).chain([0, 0x7f, 0xff]) {
            let mut bad = good.clone();
            bad[at] = value;
            fuzzing::checkpoint(&bad);
        }
    }
}

#[test]
fn the_corpus_holds() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus");
    type Target = (&'static str, fn(&[u8]));
    let targets: [Target; 2] = [
        ("entry", fuzzing::entry),
        ("checkpoint", fuzzing::checkpoint),
    ];
    for (target, check) in targets {
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
    write("entry/enqueue", &unhex(ENQUEUE));
    write("entry/settle", &unhex(SETTLE));
    write("entry/return", &unhex(RETURN));
    write("entry/relocated", &unhex(RELOCATED));
    let mut last = unhex(ENQUEUE);
    let at = last.len() - 8;
    last[at..].fill(0xff);
    write("entry/last_number", &last);
    let mut far = unhex(SETTLE);
    far[32..40].fill(0xff);
    write("entry/range_past_the_end", &far);
    let good = checkpoint::encode(&restored());
    write("checkpoint/two_queues", &good);
    write("checkpoint/empty", &checkpoint::encode(&[]));
    let mut far = good.clone();
    far[56..64].fill(0xff);
    write("checkpoint/run_past_the_end", &far);
}

#[derive(Clone, Debug)]
enum AnyOp {
    Enqueue(Vec<u64>, Vec<u8>, Vec<u8>, Vec<u8>, bool, Option<u64>, u8),
    Settle(u64, u8, Vec<(u64, u32, u32)>),
    Return(u64, Vec<(u64, u32)>),
}

fn any_op() -> impl Strategy<Value = AnyOp> {
    let bytes = |max| prop::collection::vec(any::<u8>(), 0..max);
    let queues = prop::collection::btree_set(0u64..40, 1..20);
    prop_oneof![
        (
            queues,
            bytes(256),
            bytes(30),
            bytes(300),
            any::<bool>(),
            any::<Option<u64>>(),
            any::<u8>()
        )
            .prop_map(|(q, k, p, b, persistent, e, n)| {
                AnyOp::Enqueue(q.into_iter().collect(), k, p, b, persistent, e, n)
            }),
        (
            0u64..40,
            any::<u8>(),
            prop::collection::vec((any::<u32>(), 1u32..9, any::<u32>()), 1..9)
        )
            .prop_map(|(q, r, v)| {
                AnyOp::Settle(
                    q,
                    r,
                    v.into_iter()
                        .map(|(f, n, b)| (u64::from(f), n, b))
                        .collect(),
                )
            }),
        (0u64..40, prop::collection::vec(any::<(u64, u32)>(), 1..9))
            .prop_map(|(q, v)| AnyOp::Return(q, v)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_the_same(ops in prop::collection::vec(any_op(), 0..20)) {
        let mut builder = EntryBuilder::default();
        for op in &ops {
            match op {
                AnyOp::Enqueue(queues, key, props, body, persistent, expiration_ms, priority) => {
                    let message = NewMessage {
                        exchange: &key[..key.len() / 2],
                        routing_key: &key[key.len() / 2..],
                        properties: props,
                        body: &[&body[..body.len() / 3], &body[body.len() / 3..]],
                        persistent: *persistent,
                        expiration_ms: *expiration_ms,
                        priority: *priority,
                        time_ms: 5,
                    };
                    builder.enqueue(queues, &message, *persistent);
                }
                AnyOp::Settle(queue, reason, ranges) => {
                    for (first, count, bytes) in ranges {
                        builder.settle_range(*queue, *reason, *first, *count, *bytes);
                    }
                }
                AnyOp::Return(queue, seqs) => builder.returned(*queue, seqs),
            }
        }
        let entry = builder.finish(None);
        fuzzing::entry(&entry);
        let reader = EntryReader::new(&entry).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let table: Vec<u64> = reader.queues().map(|(id, _)| id).collect();
        let id = |slot: u16| table[usize::from(slot)];
        // Neighbours are merged: what is settled is compared as a whole.
        let (mut wanted, mut wanted_bytes) = (Vec::new(), 0);
        let (mut settled, mut settled_bytes) = (Vec::new(), 0);
        for op in reader.ops().map(|op| op.expect("good")) {
            let Op::Settle(slot, reason) = op.op else { continue };
            for range in op.ranges() {
                let end = range.first + u64::from(range.count);
                settled.extend((range.first..end).map(|n| (id(slot), reason, n)));
                settled_bytes += u64::from(range.bytes);
            }
        }
        let is_settle = |op: &leveret_queue::entry::OpRef<'_>| matches!(op.op, Op::Settle(..));
        let mut read = reader.ops().map(|op| op.expect("good")).filter(|op| !is_settle(op));
        for op in &ops {
            match op {
                AnyOp::Enqueue(queues, key, props, body, persistent, expiration_ms, priority) => {
                    let op = read.next().expect("there");
                    let message = reader.message(&op);
                    prop_assert_eq!(op.slots().map(id).collect::<Vec<_>>(), queues.clone());
                    prop_assert_eq!([message.exchange(), message.routing_key()].concat(), key.clone());
                    prop_assert_eq!(message.properties(), &props[..]);
                    prop_assert_eq!(message.body(), &body[..]);
                    prop_assert_eq!(message.is_persistent(), *persistent);
                    prop_assert_eq!(message.expiration_ms(), expiration_ms.map(kept));
                    prop_assert_eq!(message.priority(), *priority);
                }
                AnyOp::Settle(queue, reason, ranges) => {
                    for (first, count, bytes) in ranges {
                        wanted.extend((*first..*first + u64::from(*count)).map(|n| (*queue, *reason, n)));
                        wanted_bytes += u64::from(*bytes);
                    }
                }
                AnyOp::Return(queue, seqs) => {
                    let op = read.next().expect("there");
                    let Op::Return(slot) = op.op else {
                        return Err(TestCaseError::fail("a Return is something else"));
                    };
                    prop_assert_eq!(id(slot), *queue);
                    prop_assert_eq!(op.seqs().map(|s| (s.seq, s.delivery_count)).collect::<Vec<_>>(), seqs.clone());
                }
            }
        }
        prop_assert_eq!((settled, settled_bytes), (wanted, wanted_bytes));
        prop_assert!(read.next().is_none());
    }

    #[test]
    fn no_bytes_panic(data in prop::collection::vec(any::<u8>(), 0..200)) {
        fuzzing::entry(&data);
        fuzzing::checkpoint(&data);
    }
}
