//! Group 0: the metadata.
//!
//! A command is applied and journaled under the metadata lock; one that concerns something that survives a restart is
//! answered when its record is durable. Commands about transient things are journaled too, without waiting, because later ones may
//! depend on them; a start-up drops what they made and leaves a mark, so that the next replay does the same at the same place.
//! Queue machines follow under the same lock, so that they change in the order of the commands.
//!
//! A record's payload: `1 u8, index u64 LE, command` (JSON of the topology crate), or `2 u8`: the node was started.

use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::reclaim::{Live, Reclaim, ReclaimError, Snapshot};
use leveret_cluster::{GroupId, GroupLog, METADATA_GROUP};
use leveret_queue::{Overflow, SessionId, Settings};
use leveret_storage::{Location, Record, ReplayError};
use leveret_topology::{Command, Outcome, QueueInfo, QueueType, Refusal, Topology};
use rustc_hash::FxHasher;

use super::{After, Node};
use crate::mirror::proposals::Numbered;
use crate::ticket::{Answer, Ticket};

const COMMAND: u8 = 1;
const RESTARTED: u8 = 2;

/// See the module.
#[derive(Debug)]
pub struct Metadata {
    log: GroupLog,
    next_index: u64,
}

impl Metadata {
    /// After recovery: `next_index` is above every index that was used.
    pub fn new(log: GroupLog, next_index: u64) -> Metadata {
        Metadata {
            log,
            next_index: next_index.max(1),
        }
    }

    /// Marks a start-up: whatever was transient is gone.
    pub fn log_restart(&mut self) -> Result<Location, Refusal> {
        self.log
            .append(Bytes::from_static(&[RESTARTED]), true)
            .map_err(internal)
    }

    fn log(&mut self, index: u64, command: &Command, sync: bool) -> Result<Location, Refusal> {
        self.log
            .append(payload(index, command), sync)
            .map_err(internal)
    }
}

fn payload(index: u64, command: &Command) -> Bytes {
    Bytes::from([&[COMMAND][..], &index.to_le_bytes(), &command.encode()].concat())
}

fn internal(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(
        leveret_protocol::ReplyCode::InternalError,
        error.to_string(),
    )
}

/// The metadata as it is replayed.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    /// The state so far.
    pub topology: Topology,
    /// Above every index seen.
    pub next_index: u64,
}

impl Replayed {
    /// Starts from a checkpoint: `next_index u64 LE`, then the topology's snapshot.
    pub fn restore(&mut self, state: &[u8]) -> Result<(), ReplayError> {
        let (index, snapshot) = state
            .split_first_chunk::<8>()
            .ok_or("checkpoint is too short")?;
        self.next_index = u64::from_le_bytes(*index);
        self.topology = Topology::restore(snapshot)?;
        Ok(())
    }

    /// Applies a record.
    pub fn replay(&mut self, record: &Record) -> Result<Option<Outcome>, ReplayError> {
        let (kind, rest) = record
            .payload
            .split_first()
            .ok_or("empty metadata record")?;
        match *kind {
            COMMAND => {
                let (index, command) = rest
                    .split_first_chunk::<8>()
                    .ok_or("short metadata record")?;
                let index = u64::from_le_bytes(*index);
                self.next_index = self.next_index.max(index + 1);
                let command = Command::decode(command)?;
                match self.topology.apply(index, &command) {
                    Ok(outcome) => Ok(Some(outcome)),
                    Err(refusal) => Err(format!("command {index} is refused: {refusal}").into()),
                }
            }
            RESTARTED => Ok(Some(self.topology.drop_transient())),
            other => Err(format!("metadata record of unknown kind {other}").into()),
        }
    }
}

/// What the queue machine acts on, of a queue's record.
pub(super) fn settings(queue: &QueueInfo) -> Settings {
    let s = &queue.settings;
    Settings {
        durable: queue.durable && !queue.is_exclusive(),
        auto_delete: queue.auto_delete,
        message_ttl_ms: s.message_ttl_ms,
        expires_ms: s.expires_ms,
        max_length: s.max_length,
        max_length_bytes: s.max_length_bytes,
        overflow: match s.overflow {
            leveret_topology::Overflow::DropHead => Overflow::DropHead,
            leveret_topology::Overflow::RejectPublish => Overflow::RejectPublish,
            leveret_topology::Overflow::RejectPublishDlx => Overflow::RejectPublishDlx,
        },
        dead_letter: s.dead_letter_exchange.is_some(),
        max_priority: s.max_priority.unwrap_or(0),
        delivery_limit: s
            .delivery_limit
            .map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        count_deliveries: queue.kind == QueueType::Quorum,
        single_active_consumer: s.single_active_consumer,
    }
}

/// What the metadata say of a group.
#[derive(Debug)]
pub struct Known {
    /// Index of the last command that is applied here.
    pub index: u64,
    /// The group's queues.
    pub queues: Vec<(u64, Settings)>,
    /// The present life of each node that was ever there.
    pub lives: Vec<SessionId>,
}

impl Node {
    /// Applies a command. The location, if there is one, must be durable before anyone is told.
    ///
    /// # Errors
    /// The refusal of the metadata machine; nothing has changed.
    pub fn propose(&self, command: &Command) -> Result<(Outcome, Option<Location>), Refusal> {
        let mut after = After::default();
        let now_ms = self.now_ms();
        let mut metadata = self.metadata.lock();
        let index = metadata.next_index;
        let mut topology = self.topology.write();
        let durable = command.is_durable(&topology);
        let outcome = topology.apply(index, command)?;
        if outcome.changed {
            self.set_version(&topology);
        }
        drop(topology);
        let mut at = None;
        if outcome.changed {
            metadata.next_index += 1;
            let logged = metadata.log(index, command, durable)?;
            at = durable.then_some(logged);
        }
        self.follow(&outcome, &mut after, now_ms);
        drop(metadata);
        self.after(after, now_ms);
        self.tell_connections(&outcome);
        Ok((outcome, at))
    }

    /// [`Node::propose`] for a connection that may have to wait.
    pub fn propose_for(&self, command: &Command, ticket: &Arc<Ticket>) -> Option<Answer> {
        let Some(mirror) = self.mirror() else {
            return Some(Answer::Proposed(self.propose(command)));
        };
        let ticket = Arc::clone(ticket);
        let told = move |result: Result<Outcome, Refusal>| {
            // It is on a majority's disks by then.
            ticket.answer(Answer::Proposed(result.map(|outcome| (outcome, None))));
        };
        mirror.proposals().propose(command, Box::new(told));
        None
    }

    /// Proposes what nobody waits for.
    pub fn propose_quietly(&self, command: &Command) {
        let failed = |error: Refusal| tracing::debug!(%error, "a command was refused");
        match self.mirror() {
            Some(mirror) => {
                let told = move |result: Result<Outcome, Refusal>| {
                    result.err().into_iter().for_each(failed);
                };
                mirror.proposals().propose(command, Box::new(told));
            }
            None => self.propose(command).err().into_iter().for_each(failed),
        }
    }

    /// Proposes, and waits for what becomes of it. Not to be called on a thread that serves connections.
    ///
    /// # Errors
    /// The refusal of the metadata machine, or nobody has answered for a minute.
    pub fn propose_and_wait(
        &self,
        command: &Command,
    ) -> Result<(Outcome, Option<Location>), Refusal> {
        const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
        let Some(mirror) = self.mirror() else {
            return self.propose(command);
        };
        let (tell, told) = std::sync::mpsc::channel();
        let told_once = move |result| {
            // Whoever asked may have given up.
            let _ = tell.send(result);
        };
        mirror.proposals().propose(command, Box::new(told_once));
        match told.recv_timeout(PATIENCE) {
            Ok(result) => result.map(|outcome| (outcome, None)),
            Err(_) => Err(internal("the cluster has no majority")),
        }
    }

    /// Applies a committed command of the cluster.
    pub fn apply_command(&self, index: u64, numbered: &Numbered) {
        let mut after = After::default();
        let now_ms = self.now_ms();
        let mut metadata = self.metadata.lock();
        let mut topology = self.topology.write();
        let result = topology.apply(index, &numbered.command);
        metadata.next_index = index + 1;
        if result.as_ref().is_ok_and(|outcome| outcome.changed) {
            self.set_version(&topology);
        }
        drop(topology);
        if let Ok(outcome) = &result {
            self.follow(outcome, &mut after, now_ms);
        }
        drop(metadata);
        self.after(after, now_ms);
        if let Ok(outcome) = &result {
            self.tell_connections(outcome);
        }
        if let Some(mirror) = self.mirror() {
            mirror
                .proposals()
                .applied(index, numbered.session, numbered.number, result);
        }
    }

    /// Takes over the metadata of a checkpoint or of another node.
    /// `index`: of the last command in it.
    pub fn replace_topology(&self, index: u64, topology: Topology) {
        let mut metadata = self.metadata.lock();
        metadata.next_index = index + 1;
        let mut place = self.topology.write();
        *place = topology;
        // Whatever was cached before is void.
        self.version_epoch
            .fetch_add(1 << 40, std::sync::atomic::Ordering::AcqRel);
        self.set_version(&place);
    }

    /// The metadata is applied up to an index.
    pub fn metadata_applied(&self, index: u64) {
        if let Some(mirror) = self.mirror() {
            mirror.metadata_applied(index);
        }
    }

    /// Has `lead` called with what the metadata say of a group, before anything of it changes.
    pub fn lead_group<R>(&self, group: GroupId, lead: impl FnOnce(Known) -> R) -> R {
        let metadata = self.metadata.lock();
        let topology = self.topology();
        let queues = topology.queues().filter(|q| q.group == group);
        let known = Known {
            index: metadata.next_index.saturating_sub(1),
            queues: queues.map(|q| (q.id.0, settings(q))).collect(),
            lives: topology
                .nodes()
                .map(|node| SessionId {
                    node: node.id,
                    incarnation: node.incarnation,
                })
                .collect(),
        };
        drop(topology);
        lead(known)
    }

    /// Applies the first content of an empty store: all of it is there after a crash, or none, so that the next start finds the
    /// store empty again. It makes no queues.
    ///
    /// # Errors
    /// The refusal of the metadata machine.
    pub(super) fn propose_first(&self, commands: &[Command]) -> Result<(), Refusal> {
        let mut metadata = self.metadata.lock();
        let mut topology = self.topology.write();
        let mut unit = Vec::with_capacity(commands.len());
        for command in commands {
            let index = metadata.next_index;
            if topology.apply(index, command)?.changed {
                metadata.next_index += 1;
                let place = metadata.log.take_index();
                unit.push((METADATA_GROUP, place, payload(index, command)));
            }
        }
        self.set_version(&topology);
        drop(topology);
        let journal = self.store.journal();
        journal.append_unit(unit, true).map_err(internal)?;
        Ok(())
    }

    pub(super) fn set_version(&self, topology: &Topology) {
        // Both only grow, so their sum changes when either does.
        let epoch = self
            .version_epoch
            .load(std::sync::atomic::Ordering::Acquire);
        let version = epoch + topology.version() + topology.access_version();
        self.version
            .store(version, std::sync::atomic::Ordering::Release);
    }

    /// Makes, changes and removes queue machines as the metadata did.
    fn follow(&self, outcome: &Outcome, after: &mut After, now_ms: u64) {
        for queue in &outcome.queues_created {
            self.counters.add(&mut super::Counts {
                queues_created: 1,
                ..Default::default()
            });
            if let Some(mirrored) = self.mirrored(queue.group) {
                mirrored.group.create(queue.id.0, settings(queue), now_ms);
            } else if let Some(group) = self.group(queue.group) {
                after.merge(group.create(queue.id.0, settings(queue), now_ms));
            }
        }
        for change in &outcome.queues_changed {
            let (old, new) = (settings(&change.before), settings(&change.after));
            if old == new {
                continue;
            }
            if let Some(mirrored) = self.mirrored(change.after.group) {
                mirrored.group.update(change.after.id.0, new, now_ms);
            } else if let Some(group) = self.group(change.after.group) {
                after.merge(group.update(change.after.id.0, new, now_ms));
            }
        }
        for queue in &outcome.queues_deleted {
            self.counters.add(&mut super::Counts {
                queues_deleted: 1,
                ..Default::default()
            });
            if let Some(mirrored) = self.mirrored(queue.group) {
                mirrored.group.remove(queue.id.0);
            } else if let Some(group) = self.group(queue.group) {
                after.merge(group.remove(queue.id.0).1);
            }
        }
    }

    fn mirrored(&self, group: GroupId) -> Option<&crate::mirror::cluster::Mirrored> {
        self.mirror()?.mirrored(group)
    }

    /// Tells connections what concerns them of a change.
    fn tell_connections(&self, outcome: &Outcome) {
        if let Some(vhost) = &outcome.vhost_deleted {
            self.connections.close_where(
                |c| c.vhost == *vhost,
                &format!("vhost '{vhost}' is deleted"),
            );
        }
        if let Some(user) = &outcome.user_deleted {
            self.connections
                .close_where(|c| c.user == *user, &format!("user '{user}' is deleted"));
        }
    }

    /// The group of a new queue.
    pub fn place(&self, vhost: &str, name: &str, durable: bool) -> GroupId {
        use std::hash::Hasher;
        let mut hasher = FxHasher::default();
        hasher.write(vhost.as_bytes());
        hasher.write_u8(0);
        hasher.write(name.as_bytes());
        let groups = self.groups.len().max(1) as u64;
        // The upper half: the lower bits of this hash are weak.
        let hash = hasher.finish() >> 32;
        match self.mirror() {
            Some(mirror) => mirror.place(hash, durable),
            None => 1 + (hash % groups) as GroupId,
        }
    }
}

impl Reclaim for Node {
    fn group(&self) -> GroupId {
        METADATA_GROUP
    }

    fn snapshot(&self) -> Snapshot {
        let metadata = self.metadata.lock();
        let topology = self.topology.read();
        let mut state = metadata.next_index.to_le_bytes().to_vec();
        state.extend_from_slice(&topology.snapshot());
        Snapshot {
            state,
            covers: metadata.log.journal().end(),
            next_index: metadata.log.next_index(),
            live: std::collections::BTreeMap::<u32, Live>::new(),
        }
    }

    fn relocate(&self, _: &[u32], _: u64) -> Result<u64, ReclaimError> {
        Ok(0)
    }
}
