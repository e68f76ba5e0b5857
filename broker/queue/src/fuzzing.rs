//! The functions behind the fuzz targets and the corpus test. They panic when an invariant of the formats does not
//! hold for the input.

use bytes::Bytes;

use crate::entry::{EntryReader, Op, batch};
use crate::{
    BatchBuilder, EntryBuf, EntryBuilder, Location, Machine, NewMessage, NoStore, Part, Replica,
    Seq, Settings, checkpoint,
};

/// An entry: what is read is within bounds, writes again to an entry that reads the same, and neither `apply` nor
/// `replay` panics on it.
pub fn entry(data: &[u8]) {
    let buf = EntryBuf::shared(Bytes::copy_from_slice(data));
    let Ok(reader) = EntryReader::new(&buf) else {
        return;
    };
    let Ok(ops) = reader.ops().collect::<Result<Vec<_>, _>>() else {
        replay(&buf);
        return;
    };
    assert_eq!(ops.len(), reader.ops_len() as usize);
    let queues: Vec<(u64, Seq)> = reader.queues().collect();
    let id = |slot: u16| {
        queues
            .get(usize::from(slot))
            .expect("slots are in the table")
            .0
    };
    let mut again = EntryBuilder::default();
    for op in &ops {
        let message = reader.message(op);
        let (exchange, routing_key, properties, body) = message.content();
        match op.op {
            Op::Enqueue => {
                let slots: Vec<u64> = op.slots().map(id).collect();
                let message = NewMessage {
                    exchange,
                    routing_key,
                    properties,
                    body: &[body],
                    persistent: message.is_persistent(),
                    expiration_ms: message.expiration_ms(),
                    priority: message.priority(),
                    time_ms: message.time_ms(),
                };
                again.enqueue(&slots, &message, true);
            }
            Op::Relocated => {
                let places: Vec<(u64, Seq)> = op
                    .places()
                    .filter_map(|(slot, seq)| Some((queues.get(usize::from(slot))?.0, seq)))
                    .collect();
                again.relocated(&places, &message);
            }
            Op::Settle(slot, reason) => {
                for range in op.ranges() {
                    again.settle_range(id(slot), reason, range.first, range.count, range.bytes);
                }
            }
            Op::Return(slot) => {
                let seqs: Vec<_> = op.seqs().map(|s| (s.seq, s.delivery_count)).collect();
                again.returned(id(slot), &seqs);
            }
        }
    }
    let written = again.finish(None);
    let read = EntryReader::new(&written).expect("written here");
    let messages = |reader: &EntryReader<'_>| {
        let ops = reader.ops().map(|op| op.expect("checked"));
        ops.filter(|op| matches!(op.op, Op::Enqueue | Op::Relocated))
            .map(|op| {
                let message = reader.message(&op);
                let (e, k, p, b) = message.content();
                let parts = [e, k, p, b].map(<[u8]>::to_vec);
                (
                    parts,
                    message.is_persistent(),
                    message.expiration_ms(),
                    message.priority(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(messages(&reader), messages(&read));
    let settled = |reader: &EntryReader<'_>| {
        let ops = reader.ops().map(|op| op.expect("checked"));
        let ranges = ops
            .filter(|op| matches!(op.op, Op::Settle(..)))
            .flat_map(|op| op.ranges());
        ranges.fold(0u64, |sum, range| sum.wrapping_add(u64::from(range.bytes)))
    };
    assert_eq!(settled(&reader), settled(&read));
    replay(&buf);
}

/// Machines take any entry that reads.
fn replay(buf: &std::sync::Arc<EntryBuf>) {
    let Ok(reader) = EntryReader::new(buf) else {
        return;
    };
    let mut ids: Vec<u64> = reader.queues().map(|(id, _)| id).take(64).collect();
    ids.sort_unstable();
    ids.dedup();
    let settings = Settings {
        durable: true,
        max_length: Some(100),
        max_priority: 3,
        ..Settings::default()
    };
    let mut machine = Machine::new(0);
    ids.iter().for_each(|id| machine.create(*id, settings, 0));
    let mut effects = crate::Effects::default();
    let applied = machine.apply(buf, Location(0), 0, &NoStore, &mut effects);
    assert_eq!(machine.check(), Ok(()));
    let mut second = Machine::new(0);
    ids.iter().for_each(|id| second.create(*id, settings, 0));
    assert_eq!(second.replay(buf, Location(0)), applied);
    second.finish_replay(false, 0, &NoStore, &mut crate::Effects::default());
    assert_eq!(second.check(), Ok(()));
    let state = second.snapshot();
    assert_eq!(checkpoint::decode(&checkpoint::encode(&state)), Ok(state));
}

/// A checkpoint: what decodes also encodes, to the same bytes, and restores.
pub fn checkpoint(data: &[u8]) {
    let Ok(state) = checkpoint::decode(data) else {
        return;
    };
    let again = checkpoint::encode(&state);
    assert_eq!(checkpoint::decode(&again).as_ref(), Ok(&state));
    let mut machine = Machine::new(0);
    for (id, state) in state {
        let settings = Settings {
            durable: true,
            ..Settings::default()
        };
        machine.create(id, settings, 0);
        machine.restore(id, state);
    }
    machine.finish_replay(true, 0, &NoStore, &mut crate::Effects::default());
    let _ = machine.snapshot();
}

/// A batch: what reads writes again to the same bytes; two replicas that apply it are equal wherever it lies, and a leader's
/// machine takes what they took.
pub fn batch(data: &[u8]) {
    let payload = Bytes::copy_from_slice(data);
    let mut found = Vec::new();
    for id in 0..4 {
        let read = batch::read_messages(&payload, Location(8), id, &(0..u64::MAX), 9, &mut found);
        found.clear();
        assert!(read.is_err() || batch::is_batch(&payload) || batch::parts(&payload).is_err());
    }
    let Ok(parts) = batch::parts(&payload) else {
        return;
    };
    let mut again = BatchBuilder::default();
    let mut ids = Vec::new();
    for part in &parts {
        match part {
            Part::Entry {
                session,
                number,
                entry,
            } => {
                again.entry(*session, *number, entry);
                if let Ok(reader) = EntryReader::new(entry) {
                    ids.extend(reader.queues().map(|(id, _)| id).take(64));
                }
            }
            Part::Forget(session) => again.forget(*session),
            Part::Create {
                queue,
                max_priority,
            } => again.create(*queue, *max_priority),
            Part::Remove(queue) => again.remove(*queue),
            Part::Used(queue) => again.used(*queue),
            Part::Begin { session, number } => again.begin(*session, *number),
        }
    }
    assert_eq!(again.finish(None), payload);
    let mut one = Replica::new();
    ids.iter().for_each(|id| one.create(*id, 3));
    let mut two = one.clone();
    let before = one.clone();
    let applied = one.apply(&payload, Location(8), Location::START);
    let other = two.apply(&payload, Location(1 << 32), Location(1 << 31));
    assert_eq!(
        applied.as_ref().map(|a| a.parts.len()),
        other.as_ref().map(|a| a.parts.len())
    );
    assert_eq!(one.digest(), two.digest());
    let encoded = one.encode();
    assert_eq!(
        Replica::decode(&encoded).map(|r| (r.encode(), r.digest())),
        Ok((encoded, two.digest()))
    );
    let settings = |id: &u64| (*id, Settings::default());
    let mut machine = Machine::lead(0, &before, ids.iter().map(settings), Location(9), 0);
    let mut effects = crate::Effects::default();
    machine.go(0, &NoStore, &mut effects);
    if let Ok(applied) = applied {
        assert_eq!(
            machine.apply_batch(&applied, Location(8), 0, &NoStore, &mut effects),
            Ok(())
        );
    }
    assert_eq!(machine.check(), Ok(()));
}

/// A replica's checkpoint: what decodes encodes to the same bytes, and leads.
pub fn replica(data: &[u8]) {
    let Ok(replica) = Replica::decode(data) else {
        return;
    };
    let again = replica.encode();
    assert_eq!(
        Replica::decode(&again).map(|r| r.digest()),
        Ok(replica.digest())
    );
    let queues = replica.queues().map(|(id, _)| (id, Settings::default()));
    let mut machine = Machine::lead(0, &replica, queues, Location(9), 0);
    machine.go(0, &NoStore, &mut crate::Effects::default());
    assert_eq!(machine.check(), Ok(()));
}
