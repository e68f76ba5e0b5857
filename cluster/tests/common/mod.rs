//! What the tests of Raft groups share: a machine that remembers what was applied, nodes with a store, a network between them.

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod network;

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::raft::snapshot::{MemorySink, SnapshotSink, SnapshotSource, memory_source};
use leveret_cluster::raft::state_machine::{Committed, Machine};
use leveret_cluster::{GroupId, LogStore, LogStoreConfig, Mode, Recovered, Replica};
use leveret_storage::disk::Disk;
use leveret_storage::disk::sim::SimDisk;
use leveret_storage::{Location, Record, ReplayError};
use parking_lot::Mutex;

/// What a [`Remember`] has applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Index, term and data of every entry with data.
    pub entries: Vec<(u64, u64, Bytes)>,
    /// Where each lies in this node's journal, and whether it follows the one before; as far as it was applied by entry.
    pub places: Vec<(Location, bool)>,
    /// Snapshots that were installed.
    pub installed: usize,
}

/// A machine that keeps every entry, and lets the test look.
#[derive(Clone, Debug, Default)]
pub struct Remember(pub Arc<Mutex<Applied>>);

impl Remember {
    /// What was applied so far.
    pub fn entries(&self) -> Vec<(u64, u64, Bytes)> {
        self.0.lock().entries.clone()
    }

    /// Data of what was applied so far.
    pub fn data(&self) -> Vec<Bytes> {
        let applied = self.0.lock();
        applied
            .entries
            .iter()
            .map(|(.., data)| data.clone())
            .collect()
    }

    /// How many entries were applied.
    pub fn count(&self) -> usize {
        self.0.lock().entries.len()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (index, term, data) in &self.0.lock().entries {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&term.to_le_bytes());
            out.extend_from_slice(&(data.len() as u32).to_le_bytes());
            out.extend_from_slice(data);
        }
        out
    }

    fn decode(mut state: Bytes) -> io::Result<Vec<(u64, u64, Bytes)>> {
        let mut entries = Vec::new();
        while !state.is_empty() {
            if state.len() < 20 {
                return Err(io::Error::other("cut"));
            }
            let head = state.split_to(20);
            let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
            let len = u32::from_le_bytes(head[16..20].try_into().unwrap()) as usize;
            entries.push((u64_at(0), u64_at(8), state.split_to(len)));
        }
        Ok(entries)
    }
}

impl Machine for Remember {
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>) {
        let mut applied = self.0.lock();
        for entry in entries {
            let (index, term) = (entry.log_id.index, entry.log_id.leader_id.term);
            if let Some((last, ..)) = applied.entries.last() {
                assert!(index > *last, "entry {index} after {last}");
            }
            // Without the kind byte.
            applied.entries.push((index, term, entry.data.slice(1..)));
            applied.places.push((entry.location, entry.follows));
        }
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        self.encode()
    }

    fn restore(&mut self, state: Bytes) -> io::Result<()> {
        self.0.lock().entries = Remember::decode(state)?;
        Ok(())
    }

    fn snapshot(&mut self) -> Arc<dyn SnapshotSource> {
        memory_source(self.encode().into())
    }

    fn sink(&mut self) -> Box<dyn SnapshotSink> {
        Box::new(MemorySink::default())
    }

    fn install(&mut self, received: Box<dyn Any + Send>) -> io::Result<()> {
        let state = received
            .downcast::<Bytes>()
            .map_err(|_| io::Error::other("not ours"))?;
        let mut applied = self.0.lock();
        applied.entries = Remember::decode(*state)?;
        applied.places.clear();
        applied.installed += 1;
        Ok(())
    }
}

/// No local groups.
pub struct NoReplica;

impl Replica for NoReplica {
    fn restore(&mut self, _: GroupId, _: &[u8]) -> Result<(), ReplayError> {
        Err("no local group has a checkpoint here".into())
    }

    fn replay(&mut self, _: GroupId, _: Record) -> Result<(), ReplayError> {
        Err("no local group has entries here".into())
    }
}

/// Bytes of a segment in tests.
pub const SEGMENT_BYTES: u32 = 64 << 10;

/// Opens the store of a clustered node in `dir`.
pub fn open(disk: &Arc<dyn Disk>, dir: &Path, manual: bool) -> (Arc<LogStore>, Recovered) {
    try_open(disk, dir, manual).expect("the store opens")
}

/// Opens the store of a clustered node in `dir`.
pub fn try_open(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    manual: bool,
) -> Result<(Arc<LogStore>, Recovered), leveret_cluster::OpenError> {
    let config = LogStoreConfig {
        dir: dir.to_path_buf(),
        segment_size_bytes: SEGMENT_BYTES,
        sync_interval_ms: 50,
    };
    let mode = Mode {
        clustered: true,
        manual,
    };
    let (store, recovered) = LogStore::open_as(
        &config,
        mode,
        Arc::clone(disk),
        &mut NoReplica,
        Box::new(|_| {}),
    )?;
    Ok((Arc::new(store), recovered))
}

/// A simulated disk, as the store wants it.
pub fn sim(disk: &SimDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}
