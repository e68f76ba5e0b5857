//! Opening a node's journal, its checkpoints and its pager.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use leveret_storage::checkpoint::{self, CheckpointError, Covers};
use leveret_storage::disk::Disk;
use leveret_storage::{
    Failure, Journal, JournalConfig, JournalError, Location, Record, RecordKind, RecoveryReport,
    ReplayError, SyncPolicy,
};

use crate::{DurableWatch, GroupId, GroupLog};

/// Where a node keeps its data, and how.
#[derive(Debug, Clone)]
pub struct LogStoreConfig {
    /// The data directory; `journal`, `paging` and `checkpoints` are made in it.
    pub dir: PathBuf,
    /// Size of a segment in bytes, a multiple of 4096.
    pub segment_size_bytes: u32,
    /// Milliseconds that an append without a waiter may stay unsynced.
    pub sync_interval_ms: u64,
}

/// What the state machines of a node are given at start-up.
pub trait Replica {
    /// The state of a group as its checkpoint has it. Called for all groups before any entry is replayed.
    ///
    /// # Errors
    /// The state cannot be understood.
    fn restore(&mut self, group: GroupId, state: &[u8]) -> Result<(), ReplayError>;

    /// An entry that no checkpoint covers; in the order of the journal.
    ///
    /// # Errors
    /// The entry cannot be understood.
    fn replay(&mut self, group: GroupId, record: Record) -> Result<(), ReplayError>;
}

/// What start-up found.
#[derive(Debug)]
pub struct Recovered {
    /// The journal's report.
    pub report: RecoveryReport,
    /// Next index of every group that has been seen.
    next_index: HashMap<GroupId, u64>,
}

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The journal or the pager.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A checkpoint's state was refused.
    #[error("checkpoint of group {group}: {source}")]
    Restore {
        /// The group.
        group: GroupId,
        /// Why.
        source: ReplayError,
    },
    /// A checkpoint's file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// Files of two nodes, or of two lives of one, were mixed.
    #[error("the checkpoint of group {0} belongs to another journal than the one beside it")]
    OtherJournal(GroupId),
}

/// The open store of a node.
pub struct LogStore {
    journal: Arc<Journal>,
    pager: Arc<Journal>,
    watch: Arc<DurableWatch>,
    disk: Arc<dyn Disk>,
    checkpoints: PathBuf,
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LogStore({})", self.checkpoints.display())
    }
}

impl LogStore {
    /// Opens the store, restores every group's checkpoint and replays what follows.
    ///
    /// `failed` is called once, on the journal's writer thread, when the journal is poisoned: the node must stop.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing was changed on disk if the journal is damaged.
    pub fn open(
        config: &LogStoreConfig,
        disk: Arc<dyn Disk>,
        replica: &mut dyn Replica,
        failed: Box<dyn Fn(&Failure) + Send + Sync>,
    ) -> Result<(LogStore, Recovered), OpenError> {
        let checkpoints = config.dir.join("checkpoints");
        let restored = restore(&checkpoints, &disk, replica)?;
        let mut next_index: HashMap<GroupId, u64> =
            restored.iter().map(|c| (c.group, c.index + 1)).collect();
        let covers: HashMap<GroupId, Location> =
            restored.iter().map(|c| (c.group, c.location)).collect();
        // A group without a checkpoint needs everything; metadata's is the last that a round writes.
        let from = if covers.contains_key(&crate::METADATA_GROUP) {
            covers.values().copied().min().unwrap_or(Location::ZERO)
        } else {
            Location::ZERO
        };
        let watch = Arc::new(DurableWatch::default());
        let told = Arc::clone(&watch);
        let events = Box::new(move |progress: leveret_storage::Progress| {
            told.advance(progress.durable);
            if let Some(failure) = &progress.failed {
                failed(failure);
                told.abandon();
            }
        });
        let journal_config = JournalConfig {
            segment_size_bytes: config.segment_size_bytes,
            sync: SyncPolicy::Always {
                interval_ms: config.sync_interval_ms.max(1),
            },
            ..JournalConfig::new(config.dir.join("journal"))
        };
        let mut replay = |record: Record| {
            let group = record.header.group;
            if record.header.kind != RecordKind::Entry {
                return Ok(());
            }
            let next = next_index.entry(group).or_insert(1);
            *next = (*next).max(record.header.index + 1);
            // A transaction's records come whole or not at all: the journal sees to that.
            match covers.get(&group) {
                Some(covered) if record.location < *covered => Ok(()),
                _ => replica.replay(group, record),
            }
        };
        let (journal, report) =
            Journal::open(journal_config, Arc::clone(&disk), events, from, &mut replay)?;
        if let Some(other) = restored.iter().find(|c| c.journal != journal.uuid()) {
            return Err(OpenError::OtherJournal(other.group));
        }
        let pager_config = JournalConfig {
            segment_size_bytes: config.segment_size_bytes,
            sync: SyncPolicy::Never,
            ..JournalConfig::new(config.dir.join("paging"))
        };
        let (pager, _) = Journal::open(
            pager_config,
            Arc::clone(&disk),
            Box::new(|_| {}),
            Location::ZERO,
            &mut |_| Ok(()),
        )?;
        let store = LogStore {
            journal,
            pager,
            watch,
            disk,
            checkpoints,
        };
        Ok((store, Recovered { report, next_index }))
    }

    /// The log of a group, to be owned by the group.
    pub fn group_log(&self, group: GroupId, recovered: &Recovered) -> GroupLog {
        let next = recovered.next_index.get(&group).copied().unwrap_or(1);
        GroupLog::new(group, next, Arc::clone(&self.journal))
    }

    /// The journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// The pager: a journal that never syncs and is empty at start-up.
    pub fn pager(&self) -> &Arc<Journal> {
        &self.pager
    }

    /// Who waits for durability.
    pub fn watch(&self) -> &Arc<DurableWatch> {
        &self.watch
    }

    /// Writes a group's checkpoint: everything below `covers` is in `state`, `next_index` is the index of the entry after it. What is
    /// covered must be durable.
    ///
    /// # Errors
    /// The system's; the earlier checkpoint stays.
    pub fn write_checkpoint(
        &self,
        group: GroupId,
        covers: Location,
        next_index: u64,
        state: &[u8],
    ) -> Result<(), CheckpointError> {
        let covers = Covers {
            journal: self.journal.uuid(),
            location: covers,
            group,
            index: next_index.saturating_sub(1),
            term: 0,
        };
        checkpoint::write(
            &*self.disk,
            &self.checkpoints,
            &checkpoint_name(group),
            &covers,
            state,
        )
    }

    /// Writes and syncs what is pending, and ends the journal's threads.
    pub fn close(&self) {
        self.journal.close();
        self.pager.close();
    }
}

fn checkpoint_name(group: GroupId) -> String {
    format!("group-{group}")
}

/// Restores every checkpoint there is; metadata first, as the queues of the other groups are in it.
fn restore(
    dir: &std::path::Path,
    disk: &Arc<dyn Disk>,
    replica: &mut dyn Replica,
) -> Result<Vec<Covers>, OpenError> {
    disk.create_dir_all(dir)
        .map_err(|source| JournalError::Io {
            action: "create",
            path: dir.to_path_buf(),
            source,
        })?;
    let mut groups: Vec<GroupId> = checkpoint::list(&**disk, dir)?
        .iter()
        .filter_map(|name| name.strip_prefix("group-")?.parse().ok())
        .collect();
    groups.sort_unstable();
    let mut restored = Vec::with_capacity(groups.len());
    for group in groups {
        let read = checkpoint::read(&**disk, dir, &checkpoint_name(group))?;
        let Some(checkpoint) = read else { continue };
        replica
            .restore(group, &checkpoint.data)
            .map_err(|source| OpenError::Restore { group, source })?;
        restored.push(checkpoint.covers);
    }
    Ok(restored)
}
