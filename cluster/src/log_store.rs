//! Opening a node's journal, its checkpoints and its pager.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use leveret_storage::checkpoint::{self, CheckpointError, Covers};
use leveret_storage::disk::Disk;
use leveret_storage::{
    Failure, Journal, JournalConfig, JournalError, Location, Record, RecordKind, RecoveryReport,
    ReplayError, SyncPolicy,
};

use crate::raft::checkpoint::Head;
use crate::raft::flush::FlushQueue;
use crate::raft::log_index::LogIndex;
use crate::raft::types::{LogId, MemberId};
use crate::{DurableWatch, GroupId, GroupLog, is_raft};

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
    raft: HashMap<GroupId, RecoveredGroup>,
}

impl Recovered {
    /// Whether anything of a Raft group was found.
    pub fn has_raft(&self, group: GroupId) -> bool {
        self.raft.contains_key(&group)
    }

    /// Whose log of a Raft group was found.
    pub fn raft_member(&self, group: GroupId) -> Option<MemberId> {
        self.raft.get(&group).and_then(|found| found.index.member())
    }

    /// What was found of a Raft group, to start it with; nothing of a group that is new here.
    pub fn take_raft(&mut self, group: GroupId) -> RecoveredGroup {
        self.raft.remove(&group).unwrap_or_default()
    }
}

/// What start-up found of a Raft group.
#[derive(Clone, Debug, Default)]
pub struct RecoveredGroup {
    /// Its log and its vote.
    pub index: LogIndex,
    /// Its last checkpoint: the group's part, and the state machine's.
    pub checkpoint: Option<(Head, Bytes)>,
    /// Where replay begins because of it.
    pub replay_from: Location,
}

/// How a store is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mode {
    /// The metadata group and the mirrored groups are Raft groups ([`is_raft`]); otherwise no group is.
    pub clustered: bool,
    /// The journals have no threads and no clock: [`LogStore::step`] does their work. For simulation.
    pub manual: bool,
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
    flushes: Arc<FlushQueue>,
    disk: Arc<dyn Disk>,
    checkpoints: PathBuf,
    mode: Mode,
    /// Whether [`LogStore::finish_round`] has been called, ever.
    round: AtomicBool,
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
        LogStore::open_as(config, Mode::default(), disk, replica, failed)
    }

    /// Like [`LogStore::open`], of a node that may be one of several. The records and checkpoints of Raft groups are not given to
    /// `replica`, but for [`RecordKind::Relocated`]: [`Recovered::take_raft`] has them.
    ///
    /// # Errors
    /// As [`LogStore::open`].
    pub fn open_as(
        config: &LogStoreConfig,
        mode: Mode,
        disk: Arc<dyn Disk>,
        replica: &mut dyn Replica,
        failed: Box<dyn Fn(&Failure) + Send + Sync>,
    ) -> Result<(LogStore, Recovered), OpenError> {
        let checkpoints = config.dir.join("checkpoints");
        let raft_group = |group| mode.clustered && is_raft(group);
        let mut raft = HashMap::new();
        let (restored, round) = restore(&checkpoints, &disk, &raft_group, replica, &mut raft)?;
        let mut next_index: HashMap<GroupId, u64> =
            restored.iter().map(|c| (c.group, c.index + 1)).collect();
        let covers: HashMap<GroupId, Location> =
            restored.iter().map(|c| (c.group, c.location)).collect();
        // A group without a checkpoint needs everything. Every group has one after the first round: metadata's is the last that a
        // round writes where it is not a Raft group, and a Raft group writes one before it begins.
        let all_have_one = match mode.clustered {
            true => round,
            false => covers.contains_key(&crate::METADATA_GROUP),
        };
        let from = if all_have_one {
            covers.values().copied().min().unwrap_or(Location::ZERO)
        } else {
            Location::ZERO
        };
        let watch = Arc::new(DurableWatch::default());
        let flushes = Arc::new(FlushQueue::default());
        let (told, flushed) = (Arc::clone(&watch), Arc::clone(&flushes));
        let events = Box::new(move |progress: leveret_storage::Progress| {
            told.advance(progress.durable);
            flushed.advance(progress.written, progress.durable);
            if let Some(failure) = &progress.failed {
                failed(failure);
                told.abandon();
                flushed.fail(failure);
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
            let covered = covers.get(&group).copied().unwrap_or(Location::ZERO);
            if raft_group(group) {
                if record.location < covered {
                    return Ok(());
                }
                let found: &mut RecoveredGroup = raft.entry(group).or_default();
                found.index.replay(&record)?;
                if record.header.kind == RecordKind::GroupDropped {
                    found.checkpoint = None;
                }
                return match record.header.kind {
                    RecordKind::Relocated => replica.replay(group, record),
                    _ => Ok(()),
                };
            }
            if record.header.kind != RecordKind::Entry {
                return Ok(());
            }
            let next = next_index.entry(group).or_insert(1);
            *next = (*next).max(record.header.index + 1);
            // A transaction's records come whole or not at all: the journal sees to that.
            if record.location < covered {
                return Ok(());
            }
            replica.replay(group, record)
        };
        let open = match mode.manual {
            true => Journal::open_manual,
            false => Journal::open,
        };
        let (journal, report) = open(journal_config, Arc::clone(&disk), events, from, &mut replay)?;
        if let Some(other) = restored.iter().find(|c| c.journal != journal.uuid()) {
            return Err(OpenError::OtherJournal(other.group));
        }
        // What was read at start is on disk; the first event comes with the first write.
        flushes.advance(journal.written(), journal.durable());
        let pager_config = JournalConfig {
            segment_size_bytes: config.segment_size_bytes,
            sync: SyncPolicy::Never,
            ..JournalConfig::new(config.dir.join("paging"))
        };
        let (pager, _) = open(
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
            flushes,
            disk,
            checkpoints,
            mode,
            round: AtomicBool::new(round),
        };
        let recovered = Recovered {
            report,
            next_index,
            raft,
        };
        Ok((store, recovered))
    }

    /// How it was opened.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// One cycle of the journals' writers in a store of [`Mode::manual`]: writes and syncs what is waited for, everything if `force`.
    /// Whether there was anything to do.
    pub fn step(&self, force: bool) -> bool {
        self.journal.step(force) | self.pager.step(force)
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

    /// Who waits for the journal's writer, in order.
    pub fn flushes(&self) -> &Arc<FlushQueue> {
        &self.flushes
    }

    /// Writes a Raft group's checkpoint: `data` is a [`Head`] and the state as of `applied`, and replay goes on at `replay_from`.
    /// All of the journal that they know of must be durable. Blocks for two fsyncs.
    ///
    /// # Errors
    /// The system's; the earlier checkpoint stays.
    pub fn write_raft_checkpoint(
        &self,
        group: GroupId,
        replay_from: Location,
        applied: Option<LogId>,
        data: &[u8],
    ) -> Result<(), CheckpointError> {
        let covers = Covers {
            journal: self.journal.uuid(),
            location: replay_from,
            group,
            index: applied.map_or(0, |id| id.index),
            term: applied.map_or(0, |id| id.leader_id.term),
        };
        let name = checkpoint_name(group);
        checkpoint::write(&*self.disk, &self.checkpoints, &name, &covers, data)
    }

    /// Says for good that every group has a checkpoint, so that replay need not begin with the journal. Cheap after the first time.
    ///
    /// # Errors
    /// The system's.
    pub fn finish_round(&self) -> Result<(), CheckpointError> {
        if !self.mode.clustered || self.round.load(Ordering::Relaxed) {
            return Ok(());
        }
        let covers = Covers {
            journal: self.journal.uuid(),
            location: Location::ZERO,
            group: 0,
            index: 0,
            term: 0,
        };
        checkpoint::write(&*self.disk, &self.checkpoints, ROUND_NAME, &covers, &[])?;
        self.round.store(true, Ordering::Relaxed);
        Ok(())
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

/// Name of the checkpoint that says that every group has one.
const ROUND_NAME: &str = "round";

fn checkpoint_name(group: GroupId) -> String {
    format!("group-{group}")
}

/// Restores every checkpoint there is; metadata first, as the queues of the other groups are in it. And whether there has been a round.
fn restore(
    dir: &std::path::Path,
    disk: &Arc<dyn Disk>,
    raft_group: &dyn Fn(GroupId) -> bool,
    replica: &mut dyn Replica,
    raft: &mut HashMap<GroupId, RecoveredGroup>,
) -> Result<(Vec<Covers>, bool), OpenError> {
    disk.create_dir_all(dir)
        .map_err(|source| JournalError::Io {
            action: "create",
            path: dir.to_path_buf(),
            source,
        })?;
    let names = checkpoint::list(&**disk, dir)?;
    let round = names.iter().any(|name| name == ROUND_NAME);
    let mut groups: Vec<GroupId> = names
        .iter()
        .filter_map(|name| name.strip_prefix("group-")?.parse().ok())
        .collect();
    groups.sort_unstable();
    let mut restored = Vec::with_capacity(groups.len());
    for group in groups {
        let read = checkpoint::read(&**disk, dir, &checkpoint_name(group))?;
        let Some(checkpoint) = read else { continue };
        let refused = |source| OpenError::Restore { group, source };
        if raft_group(group) {
            let (head, state) = Head::decode(&checkpoint.data).map_err(|e| refused(Box::new(e)))?;
            let found = RecoveredGroup {
                index: LogIndex::restored(Some(head.member), head.vote, head.purged),
                checkpoint: Some((head, state)),
                replay_from: checkpoint.covers.location,
            };
            raft.insert(group, found);
        } else {
            replica.restore(group, &checkpoint.data).map_err(refused)?;
        }
        restored.push(checkpoint.covers);
    }
    Ok((restored, round))
}
