//! A group's state on its way to another mirror: the replica, and the messages that live in it.
//!
//! Chunks, each beginning with a kind byte: `1` and a piece of the replica's checkpoint (its locations mean nothing to the receiver),
//! then `2` and an entry of relocated messages. The receiver writes these into its own journal as they come, and takes their
//! places for those of the checkpoint. What it has already it says before, and is not sent ([`staging`]).

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use leveret_cluster::raft::snapshot::{
    CHUNK_BYTES_MAX, MEMORY_BYTES_MAX, SnapshotChunks, SnapshotSink, SnapshotSource,
};
use leveret_queue::entry::{EntryReader, Op};
use leveret_queue::{EntryBuf, EntryBuilder, Location, QueueId, Replica, Run, Seq, Store, Stored};
use leveret_storage::RecordKind;

use super::lead::MirrorGroup;
use super::staging;

const REPLICA: u8 = 1;
const MESSAGES: u8 = 2;
/// Messages read at a time.
const READ_MAX: usize = 256;

struct Source {
    group: Arc<MirrorGroup>,
    replica: Arc<Replica>,
}

/// The group's present state.
pub fn source(group: &Arc<MirrorGroup>) -> Arc<dyn SnapshotSource> {
    Arc::new(Source {
        group: Arc::clone(group),
        replica: group.lend(),
    })
}

impl SnapshotSource for Source {
    fn open(&self, have: &[u8]) -> io::Result<Box<dyn SnapshotChunks>> {
        let have = staging::decode(have)?;
        let mut runs: Vec<(QueueId, Run)> = Vec::new();
        for (id, _) in self.replica.queues() {
            let known = have.get(&id).map(Vec::as_slice).unwrap_or_default();
            for run in staging::runs(&self.replica, id) {
                let missing = staging::without(run.first..run.end(), known);
                // A walk from the run's begin comes past all of them.
                runs.extend(missing.into_iter().map(|range| {
                    let part = Run {
                        first: range.start,
                        count: (range.end - range.start) as u32,
                        ..run
                    };
                    (id, part)
                }));
            }
        }
        // In the order of the files; taken from the end.
        runs.sort_unstable_by_key(|(_, run)| std::cmp::Reverse(run.location));
        Ok(Box::new(Chunks {
            group: Arc::clone(&self.group),
            state: Bytes::from(self.replica.encode()),
            runs,
            _lent: Arc::clone(&self.replica),
        }))
    }
}

struct Chunks {
    group: Arc<MirrorGroup>,
    state: Bytes,
    runs: Vec<(QueueId, Run)>,
    /// Keeps what the runs point to.
    _lent: Arc<Replica>,
}

impl SnapshotChunks for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if !self.state.is_empty() {
            let len = self.state.len().min(CHUNK_BYTES_MAX);
            let piece = self.state.split_to(len);
            let mut chunk = BytesMut::with_capacity(len + 1);
            chunk.put_u8(REPLICA);
            chunk.extend_from_slice(&piece);
            return Ok(Some(chunk.freeze()));
        }
        let mut entry = EntryBuilder::default();
        while entry.len() < CHUNK_BYTES_MAX
            && let Some((queue, run)) = self.runs.pop()
        {
            let mut read: Vec<Stored> = Vec::new();
            let store = self.group.store();
            store
                .read(
                    queue,
                    run.first,
                    run.count,
                    run.location,
                    READ_MAX,
                    &mut read,
                )
                .map_err(|e| io::Error::other(e.0))?;
            for stored in &read {
                entry.relocated(&[(queue, stored.seq)], &stored.message);
            }
            let Some(last) = read.last() else {
                return Err(io::Error::other(format!(
                    "message {} of queue {queue} is not where it should be",
                    run.first
                )));
            };
            let end = run.first + u64::from(run.count);
            if last.seq + 1 < end {
                let rest = Run {
                    first: last.seq + 1,
                    count: (end - last.seq - 1) as u32,
                    location: last.location,
                    span: run.span,
                };
                self.runs.push((queue, rest));
            }
        }
        if entry.is_empty() {
            return Ok(None);
        }
        let entry = entry.finish(None);
        let mut chunk = BytesMut::with_capacity(entry.len() + 1);
        chunk.put_u8(MESSAGES);
        chunk.extend_from_slice(&entry);
        Ok(Some(chunk.freeze()))
    }
}

struct Sink {
    group: Arc<MirrorGroup>,
    state: BytesMut,
    /// Messages that came.
    came: usize,
}

/// Where another mirror's state is to be put.
pub fn sink(group: &Arc<MirrorGroup>) -> Box<dyn SnapshotSink> {
    Box::new(Sink {
        group: Arc::clone(group),
        state: BytesMut::new(),
        came: 0,
    })
}

/// Where messages are.
type Places = Vec<(QueueId, Seq, Location)>;

struct Received {
    replica: Replica,
    moved: Places,
    /// Keeps what the mirror had of it, until it is installed.
    _own: Arc<Replica>,
}

/// Where the messages of `replica` are that are in `own`, and not in `known`.
fn kept(
    group: &MirrorGroup,
    own: &Replica,
    queue: QueueId,
    missing: &[std::ops::Range<Seq>],
    moved: &mut Places,
) -> io::Result<()> {
    for run in staging::runs(own, queue) {
        for range in missing {
            let (mut first, end) = (range.start.max(run.first), range.end.min(run.end()));
            while first < end {
                let mut read: Vec<Stored> = Vec::new();
                let count = (end - first) as u32;
                let store = group.store();
                store
                    .read(queue, first, count, run.location, READ_MAX, &mut read)
                    .map_err(|e| io::Error::other(e.0))?;
                let Some(last) = read.last() else { break };
                first = last.seq + 1;
                moved.extend(
                    read.iter()
                        .map(|stored| (queue, stored.seq, stored.location)),
                );
            }
        }
    }
    Ok(())
}

impl Sink {
    /// The replica, and the place of each of its messages in this node's journal.
    fn places(&self, own: &Replica) -> io::Result<(Replica, Places)> {
        let replica = Replica::decode(&self.state).map_err(io::Error::other)?;
        let staging = self.group.staging();
        let mut moved = Vec::new();
        for (queue, _) in replica.queues() {
            let mut missing = Vec::new();
            for run in staging::runs(&replica, queue) {
                let staged = staging.places(queue, run.first..run.end());
                let known: Vec<_> = staged.iter().map(|(seq, _)| *seq..*seq + 1).collect();
                missing.extend(staging::without(run.first..run.end(), &known));
                moved.extend(staged.into_iter().map(|(seq, at)| (queue, seq, at)));
            }
            if !missing.is_empty() {
                kept(&self.group, own, queue, &missing, &mut moved)?;
            }
        }
        let wanted: u64 = replica.queues().map(|(_, q)| q.messages()).sum();
        if wanted != moved.len() as u64 {
            return Err(io::Error::other(format!(
                "a snapshot of {wanted} messages came with {}",
                moved.len()
            )));
        }
        if let Some(last) = staging.last() {
            let journal = self.group.store().journal();
            journal.wait_durable(last).map_err(io::Error::other)?;
        }
        Ok((replica, moved))
    }
}

impl SnapshotSink for Sink {
    fn have(&self) -> Bytes {
        self.group.staging().have(&self.group.lend())
    }

    fn chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        match chunk.first() {
            Some(&REPLICA) => {
                if self.state.len() + chunk.len() > MEMORY_BYTES_MAX {
                    return Err(io::Error::other("a replica over 1 GiB"));
                }
                self.state
                    .extend_from_slice(chunk.get(1..).unwrap_or_default());
                Ok(())
            }
            Some(&MESSAGES) => {
                let payload = Bytes::copy_from_slice(chunk.get(1..).unwrap_or_default());
                let entry = EntryBuf::shared(payload.clone());
                let reader = EntryReader::new(&entry).map_err(io::Error::other)?;
                let table: Vec<QueueId> = reader.queues().map(|(id, _)| id).collect();
                let mut places = Vec::new();
                for op in reader.ops() {
                    let op = op.map_err(io::Error::other)?;
                    if op.op != Op::Relocated {
                        return Err(io::Error::other("a snapshot has more than messages"));
                    }
                    places.extend(op.places());
                }
                let journal = self.group.store().journal();
                let at = journal
                    .append(
                        RecordKind::Relocated,
                        0,
                        self.group.id(),
                        0,
                        0,
                        payload,
                        false,
                    )
                    .map_err(io::Error::other)?;
                if self.came == 0 {
                    tracing::info!(group = self.group.id(), "messages of a snapshot come");
                }
                self.came += places.len();
                for (slot, seq) in places {
                    if let Some(queue) = table.get(usize::from(slot)) {
                        self.group.staging().put(*queue, seq, at);
                    }
                }
                Ok(())
            }
            _ => Err(io::Error::other("a chunk of an unknown kind")),
        }
    }

    fn finish(self: Box<Self>) -> io::Result<Box<dyn Any + Send>> {
        let own = self.group.lend();
        match self.places(&own) {
            Ok((replica, moved)) => {
                let (group, messages, came) = (self.group.id(), moved.len(), self.came);
                tracing::info!(group, messages, came, "snapshot received");
                Ok(Box::new(Received {
                    replica,
                    moved,
                    _own: own,
                }))
            }
            Err(error) => {
                self.group.staging().distrust();
                Err(error)
            }
        }
    }
}

/// Takes what a sink gave in place of the group's state.
pub fn install(group: &MirrorGroup, received: Box<dyn Any + Send>) -> io::Result<()> {
    let Ok(received) = received.downcast::<Received>() else {
        return Err(io::Error::other("not a snapshot of queues"));
    };
    let Received {
        mut replica,
        moved,
        _own,
    } = *received;
    for (queue, seq, location) in moved {
        // Each record is its own barrier: nothing is known of what lies between two of them.
        replica.relocated(queue, seq, location, location);
    }
    group.replace(replica);
    group.staging().clear();
    Ok(())
}
