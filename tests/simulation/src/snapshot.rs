//! A group's state on its way to another member: the replica, then every live message, which the receiver puts into its own journal.

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::raft::snapshot::{SnapshotChunks, SnapshotSink, SnapshotSource};
use leveret_queue::entry::EntryReader;
use leveret_queue::{EntryBuf, EntryBuilder, Location, QueueId, Replica, Seq, Store, Stored};
use leveret_storage::RecordKind;

use crate::hosted::Hosted;
use crate::leader::GroupState;

/// Messages of a chunk.
const CHUNK_MESSAGES: usize = 8;

struct Source {
    group: Arc<GroupState>,
    replica: Replica,
}

/// The group's present state.
pub fn source(group: &Arc<GroupState>) -> Arc<dyn SnapshotSource> {
    Arc::new(Source {
        group: Arc::clone(group),
        replica: group.replica(),
    })
}

/// Every live message of a replica, read from the journal of its node.
///
/// # Errors
/// One of them cannot be read.
pub fn messages(store: &dyn Store, replica: &Replica) -> Result<Vec<(QueueId, Stored)>, String> {
    let mut all = Vec::new();
    for (queue, state) in replica.queues() {
        for run in state.levels.iter().flat_map(|level| level.runs()) {
            let mut read = Vec::new();
            let (count, at) = (run.count, run.location);
            store
                .read(queue, run.first, count, at, count as usize, &mut read)
                .map_err(|error| error.0)?;
            let numbers = read.iter().map(|stored| stored.seq);
            if !numbers.eq(run.first..run.end()) {
                return Err(format!(
                    "messages of queue {queue} in {run:?} are not there"
                ));
            }
            all.extend(read.into_iter().map(|stored| (queue, stored)));
        }
    }
    all.sort_by_key(|(queue, stored)| (*queue, stored.seq));
    Ok(all)
}

impl SnapshotSource for Source {
    fn open(&self, _have: &[u8]) -> io::Result<Box<dyn SnapshotChunks>> {
        let messages = messages(self.group.store(), &self.replica).map_err(io::Error::other)?;
        Ok(Box::new(Chunks {
            state: Some(Bytes::from(self.replica.encode())),
            messages: messages.into_iter(),
        }))
    }
}

struct Chunks {
    state: Option<Bytes>,
    messages: std::vec::IntoIter<(QueueId, Stored)>,
}

impl SnapshotChunks for Chunks {
    fn next_chunk(&mut self) -> io::Result<Option<Bytes>> {
        if let Some(state) = self.state.take() {
            return Ok(Some(state));
        }
        let mut entry = EntryBuilder::default();
        for (queue, stored) in self.messages.by_ref().take(CHUNK_MESSAGES) {
            entry.relocated(&[(queue, stored.seq)], &stored.message);
        }
        Ok((!entry.is_empty()).then(|| entry.finish(None).to_bytes()))
    }
}

struct Sink {
    group: Arc<GroupState>,
    replica: Option<Replica>,
    moved: Vec<(QueueId, Seq, Location)>,
}

/// Where another member's state is to be put.
pub fn sink(group: &Arc<GroupState>) -> Box<dyn SnapshotSink> {
    Box::new(Sink {
        group: Arc::clone(group),
        replica: None,
        moved: Vec::new(),
    })
}

impl SnapshotSink for Sink {
    fn have(&self) -> Bytes {
        Bytes::new()
    }

    fn chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        if self.replica.is_none() {
            self.replica = Some(Replica::decode(&chunk).map_err(io::Error::other)?);
            return Ok(());
        }
        let entry = EntryBuf::shared(chunk.clone());
        let reader = EntryReader::new(&entry).map_err(io::Error::other)?;
        let table: Vec<QueueId> = reader.queues().map(|(id, _)| id).collect();
        let group = self.group.group();
        let journal = &self.group.bodies().0;
        let at = journal
            .append(RecordKind::Relocated, 0, group, 0, 0, chunk, false)
            .map_err(io::Error::other)?;
        for op in reader.ops() {
            for (slot, seq) in op.map_err(io::Error::other)?.places() {
                let at = Location(at.to_u64());
                self.moved
                    .extend(table.get(usize::from(slot)).map(|queue| (*queue, seq, at)));
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> io::Result<Box<dyn Any + Send>> {
        let journal = &self.group.bodies().0;
        journal
            .wait_durable(journal.end())
            .map_err(io::Error::other)?;
        let mut replica = self.replica.ok_or_else(|| io::Error::other("no replica"))?;
        for (queue, seq, at) in self.moved {
            replica.relocated(queue, seq, at, at);
        }
        Ok(Box::new(replica))
    }
}

/// Takes what a sink gave in place of the group's state.
///
/// # Errors
/// It is not a sink's.
pub fn install(group: &GroupState, received: Box<dyn Any + Send>) -> io::Result<()> {
    let replica = received.downcast::<Replica>();
    group.replace(*replica.map_err(|_| io::Error::other("not a replica"))?);
    Ok(())
}
