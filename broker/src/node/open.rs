//! Starting a node: the store is opened, metadata and queues are restored, and everything that was transient is dropped.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use leveret_cluster::{
    GroupId, LogStore, LogStoreConfig, METADATA_GROUP, Mode, OpenError, Recovered, Replica,
};
use leveret_config::Config;
use leveret_queue::entry::MemoryGauge;
use leveret_queue::{Effects, Machine, Settings, checkpoint};
use leveret_storage::disk::{Disk, RealDisk};
use leveret_storage::{Location, Record, RecoveryReport, ReplayError};
use leveret_topology::{Command, DefaultContent, ImportOptions, Outcome, Refusal, plan_import};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::group::{self, QueueGroup};
use super::metadata::{self, Metadata, Replayed};
use super::{Alarms, BodyStore, Connections, Counters, Node, ReplyRoutes, Stop};
use crate::clock::Clock;

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The first metadata could not be written.
    #[error("metadata: {0}")]
    Metadata(Refusal),
    /// A definitions file.
    #[error("definitions {}: {reason}", path.display())]
    Definitions {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A queue lies in a group that cannot be.
    #[error("queue '{0}' is in group {1}, which this node does not have")]
    Group(String, GroupId),
}

/// What an import did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Objects that are there now.
    pub count: usize,
    /// What must be durable before anyone is told.
    pub durable: Option<Location>,
}

/// What a start found.
#[derive(Debug)]
pub struct StartReport {
    /// The journal's part.
    pub recovery: RecoveryReport,
    /// Queues that were restored.
    pub queues: usize,
    /// Messages that were restored.
    pub messages: u64,
    /// The store was empty.
    pub fresh: bool,
}

/// Groups of local queues at least; a machine with more cores has one for each.
const GROUPS_MIN: usize = 4;
/// Groups at most: bounds what a damaged record could ask for.
const GROUPS_MAX: u32 = 1024;

/// The state machines while they are restored.
#[derive(Default)]
struct Restoring {
    metadata: Replayed,
    machines: BTreeMap<GroupId, Machine>,
}

impl Restoring {
    fn machine(&mut self, group: GroupId) -> Result<&mut Machine, ReplayError> {
        if group == METADATA_GROUP || group > GROUPS_MAX {
            return Err(format!("group {group} cannot hold queues").into());
        }
        Ok(self
            .machines
            .entry(group)
            .or_insert_with(|| Machine::new(group)))
    }

    fn create(&mut self, group: GroupId, id: u64, settings: Settings) -> Result<(), ReplayError> {
        self.machine(group)?.create(id, settings, 0);
        Ok(())
    }

    fn follow(&mut self, outcome: &Outcome) -> Result<(), ReplayError> {
        for queue in &outcome.queues_created {
            self.create(queue.group, queue.id.0, metadata::settings(queue))?;
        }
        for change in &outcome.queues_changed {
            let new = metadata::settings(&change.after);
            self.machine(change.after.group)?.update(
                change.after.id.0,
                new,
                0,
                &leveret_queue::NoStore,
                &mut Effects::default(),
            );
        }
        for queue in &outcome.queues_deleted {
            self.machine(queue.group)?
                .remove(queue.id.0, &leveret_queue::NoStore);
        }
        Ok(())
    }
}

impl Replica for Restoring {
    fn restore(&mut self, group: GroupId, state: &[u8]) -> Result<(), ReplayError> {
        if group == METADATA_GROUP {
            self.metadata.restore(state)?;
            let queues: Vec<_> = self
                .metadata
                .topology
                .queues()
                .map(|q| (q.group, q.id.0, metadata::settings(q)))
                .collect();
            for (group, id, settings) in queues {
                self.create(group, id, settings)?;
            }
            return Ok(());
        }
        let queues = checkpoint::decode(state)?;
        let machine = self.machine(group)?;
        for (id, state) in queues {
            machine.restore(id, state);
        }
        Ok(())
    }

    fn replay(&mut self, group: GroupId, record: Record) -> Result<(), ReplayError> {
        if group >= leveret_cluster::MIRRORED_DURABLE {
            // Messages that moved: the group's checkpoint knows where they are, or where they were.
            return Ok(());
        }
        if group == METADATA_GROUP {
            if let Some(outcome) = self.metadata.replay(&record)? {
                self.follow(&outcome)?;
            }
            return Ok(());
        }
        group::replay(self.machine(group)?, &record)?;
        Ok(())
    }
}

impl Node {
    /// Opens the data directory, restores what is there, and makes a node of it. Nothing runs yet.
    ///
    /// # Errors
    /// The store cannot be opened, or what is in it contradicts itself; definitions that cannot be imported.
    pub fn start(config: Config, memory_bytes: u64) -> Result<(Node, StartReport), StartError> {
        Self::start_on(config, memory_bytes, Arc::new(RealDisk))
    }

    /// A node of a cluster: its store is open, its groups are the caller's to start.
    ///
    /// # Errors
    /// As of [`Node::start`].
    pub fn start_member(
        config: Config,
        memory_bytes: u64,
    ) -> Result<(Node, StartReport, Recovered), StartError> {
        Self::open_on(config, memory_bytes, Arc::new(RealDisk), true)
    }

    /// [`Node::start`] on any disk: tests use a simulated one. (Definitions are read from the real one.)
    ///
    /// # Errors
    /// As of [`Node::start`].
    pub fn start_on(
        config: Config,
        memory_bytes: u64,
        disk: Arc<dyn Disk>,
    ) -> Result<(Node, StartReport), StartError> {
        let (node, report, _) = Self::open_on(config, memory_bytes, disk, false)?;
        node.settle_in(report.fresh)?;
        Ok((node, report))
    }

    fn open_on(
        config: Config,
        memory_bytes: u64,
        disk: Arc<dyn Disk>,
        clustered: bool,
    ) -> Result<(Node, StartReport, Recovered), StartError> {
        let clock = Clock::default();
        let stop = Arc::new(Stop::default());
        let told = Arc::clone(&stop);
        let mut restoring = Restoring::default();
        let store_config = LogStoreConfig {
            dir: config.node.data_dir.clone(),
            segment_size_bytes: u32::try_from(config.journal.segment_size_bytes)
                .unwrap_or(u32::MAX),
            sync_interval_ms: config.journal.sync_interval_ms,
        };
        let mode = Mode {
            clustered,
            manual: false,
        };
        let (store, recovered) = LogStore::open_as(
            &store_config,
            mode,
            disk,
            &mut restoring,
            Box::new(move |failure| told.now(&failure.to_string())),
        )?;
        let Restoring {
            metadata,
            mut machines,
        } = restoring;
        let Replayed {
            mut topology,
            next_index,
        } = metadata;
        let fresh = next_index == 0;
        for queue in topology.drop_transient().queues_deleted {
            if let Some(machine) = machines.get_mut(&queue.group) {
                machine.remove(queue.id.0, &leveret_queue::NoStore);
            }
        }
        let told = Arc::clone(&stop);
        let bodies = Arc::new(BodyStore::new(
            Arc::clone(store.journal()),
            Arc::clone(store.pager()),
            Arc::new(MemoryGauge::default()),
            config.resources.memory_budget(memory_bytes),
            Box::new(move |reason| told.now(reason)),
        ));
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let highest = machines.keys().next_back().copied().unwrap_or(0);
        let count = (GROUPS_MIN.max(cores) as u32).max(highest).min(GROUPS_MAX);
        let now_ms = clock.now_ms();
        let mut messages = 0;
        let mut groups = Vec::with_capacity(count as usize);
        for id in 1..=count {
            let mut machine = machines.remove(&id).unwrap_or_else(|| Machine::new(id));
            let log = store.group_log(id, &recovered);
            // What expired meanwhile leaves its mark in the effects; they are seen to once the node is whole.
            let mut effects = Effects::default();
            machine.finish_replay(recovered.report.clean, now_ms, &*bodies, &mut effects);
            messages += machine.queues().map(|q| q.depth().ready).sum::<u64>();
            groups.push(Arc::new(QueueGroup::new(
                machine,
                id,
                log,
                Arc::clone(&bodies),
                effects,
            )));
        }
        if let Some((id, _)) = machines.first_key_value() {
            return Err(StartError::Group(String::new(), *id));
        }
        let queues = topology.queues().count();
        let metadata = Metadata::new(store.group_log(METADATA_GROUP, &recovered), next_index);
        let name = config.node.name.clone().unwrap_or_else(default_name);
        let node = Node {
            name,
            clock,
            bodies,
            metadata: Mutex::new(metadata),
            topology: RwLock::new(topology),
            version: AtomicU64::new(1),
            version_epoch: AtomicU64::new(0),
            groups,
            counters: Counters::default(),
            reply_routes: ReplyRoutes::default(),
            connections: Connections::default(),
            alarms: Alarms::new(&config.resources, memory_bytes),
            mirror: OnceLock::new(),
            waiting: Mutex::default(),
            listeners: Mutex::default(),
            http_listeners: Mutex::default(),
            away: super::Away::default(),
            timer: Notify::new(),
            stop,
            names: AtomicU64::new(now_ms),
            name_seed: u64::from(std::process::id()) ^ now_ms.rotate_left(32),
            store: Arc::new(store),
            config,
        };
        let report = StartReport {
            recovery: recovered.report.clone(),
            queues,
            messages,
            fresh,
        };
        Ok((node, report, recovered))
    }

    /// The mark of the start, the first content of an empty store, and the configured definitions.
    fn settle_in(&self, fresh: bool) -> Result<(), StartError> {
        self.set_version(&self.topology.read());
        self.metadata
            .lock()
            .log_restart()
            .map_err(StartError::Metadata)?;
        for group in &self.groups {
            // What expired while the node was down goes now.
            let after = group.tick(self.now_ms());
            self.after(after, self.now_ms());
        }
        if fresh {
            let commands = self.first_content();
            self.propose_first(&commands)
                .map_err(StartError::Metadata)?;
        }
        if let Some(path) = self.config.definitions.path.clone() {
            self.load_definitions(&path)?;
        }
        Ok(())
    }

    /// What an empty node or cluster gets: a vhost and a user.
    fn first_content(&self) -> Vec<Command> {
        let access = &self.config.access;
        let content = DefaultContent {
            vhost: access.default_vhost.clone(),
            user: access.default_user.clone(),
            password: access.default_pass.clone(),
            tags: access.default_user_tags.clone(),
            configure: access.default_permissions.configure.clone(),
            write: access.default_permissions.write.clone(),
            read: access.default_permissions.read.clone(),
        };
        let salt = (self.name_seed as u32).to_le_bytes();
        content.commands(salt)
    }

    /// The first content of a new cluster, from its first node, and the configured definitions. Waits for a majority.
    ///
    /// # Errors
    /// There is none, or the definitions cannot be imported.
    pub fn settle_in_cluster(&self, first: bool) -> Result<(), StartError> {
        if first && self.topology().vhosts().next().is_none() {
            for command in self.first_content() {
                self.propose_and_wait(&command)
                    .map_err(StartError::Metadata)?;
            }
        }
        if let Some(path) = self.config.definitions.path.clone() {
            self.load_definitions(&path)?;
        }
        Ok(())
    }

    /// Imports a definitions file, or the files of a directory in the order of their names.
    fn load_definitions(&self, path: &std::path::Path) -> Result<(), StartError> {
        let failed = |path: &std::path::Path, reason: String| StartError::Definitions {
            path: path.to_path_buf(),
            reason,
        };
        let mut files = Vec::new();
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(|e| failed(path, e.to_string()))?;
            files.extend(
                entries
                    .flatten()
                    .map(|e| e.path())
                    .filter(|p| p.extension().is_some_and(|e| e == "json")),
            );
            files.sort();
        } else {
            files.push(path.to_path_buf());
        }
        for file in files {
            let bytes = std::fs::read(&file).map_err(|e| failed(&file, e.to_string()))?;
            self.import(&bytes, None, None)
                .map_err(|reason| failed(&file, reason))?;
            tracing::info!(file = %file.display(), "definitions imported");
        }
        Ok(())
    }

    /// Imports definitions (RabbitMQ's JSON), whole or into one vhost; `user` gets all permissions in new vhosts.
    ///
    /// # Errors
    /// The first object that is malformed or refused, by name; those before it are imported.
    pub fn import(
        &self,
        file: &[u8],
        vhost: Option<&str>,
        user: Option<&str>,
    ) -> Result<Imported, String> {
        let mut salt = || (self.next_number() as u32 ^ self.name_seed as u32).to_le_bytes();
        let options = ImportOptions {
            vhost,
            user,
            salt: &mut salt,
        };
        let steps = plan_import(file, options).map_err(|e| e.to_string())?;
        let mut imported = Imported::default();
        for mut step in steps {
            if let Command::DeclareQueue(declare) = &mut step.command {
                let durable = declare.durable && declare.exclusive_owner.is_none();
                let group = self.place(&declare.vhost, &declare.name, durable);
                declare.placement.local = group;
                declare.placement.mirrored = group;
            }
            match self.propose_and_wait(&step.command) {
                Ok((_, durable)) => {
                    imported.count += 1;
                    imported.durable = imported.durable.max(durable);
                }
                Err(refusal) if step.may_be_skipped(&refusal) => {
                    tracing::debug!(object = step.object, %refusal, "passed over");
                }
                Err(refusal) => return Err(format!("{}: {refusal}", step.object)),
            }
        }
        Ok(imported)
    }
}

fn default_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim().split('.').next().unwrap_or_default().to_owned();
    format!(
        "leveret@{}",
        if host.is_empty() { "localhost" } else { &host }
    )
}
