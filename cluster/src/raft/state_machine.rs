//! What applies a group's entries, and its checkpoints.
//!
//! [`Machine`] is ours: it knows nothing of Raft but indexes and terms. [`StateMachine`] adapts it to openraft. All calls
//! come from one task, so a machine needs no lock of its own against them.
//!
//! A machine begins as its last checkpoint left it; openraft applies the entries behind that again as soon as it knows that they are
//! committed. A checkpoint is what openraft calls building a snapshot. A snapshot for another member is a different thing: it is made of
//! the present state when it is asked for ([`snapshot`](super::snapshot)).

use std::any::Any;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use leveret_storage::checkpoint::CheckpointError;
use leveret_storage::{Location, Wait};
use openraft::OptionalSend;
use openraft::rt::{AsyncRuntime, Oneshot, OneshotSender, Watch, WatchSender};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use parking_lot::Mutex;

use super::checkpoint::Head;
use super::log_storage::{Position, RaftLog};
use super::snapshot::{Outgoing, Sending, SnapshotHandle, SnapshotSink, SnapshotSource, copy};
use super::types::{
    Body, CommittedLeaderId, LogId, MemberId, SnapshotMeta, StoredMembership, Types,
};
use crate::LogStore;

/// Entries that are applied in one call.
pub const BATCH_ENTRIES_MAX: usize = 256;

/// An entry that is committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// Its term and index.
    pub log_id: LogId,
    /// Where it is in this node's journal.
    pub location: Location,
    /// A walk of the journal from the entry that the machine was given before comes to this one with nothing between that is not in the
    /// log. Otherwise something was truncated between them, and no run may go on from there to here.
    pub follows: bool,
    /// The payload of the record, which begins with the kind byte.
    pub data: Bytes,
}

/// What a group replicates. Deterministic: the same entries give the same state on every member, but for locations.
pub trait Machine: Send + 'static {
    /// Applies entries in order; must not fail, an entry that makes no sense changes nothing. Blank entries and memberships are not
    /// given to it, so indexes may leap.
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>);

    /// All of its state, with this node's locations; at most 1 GiB.
    fn checkpoint(&mut self) -> Vec<u8>;

    /// Begins as [`Machine::checkpoint`] left it. Called at most once, before anything else.
    ///
    /// # Errors
    /// The state cannot be understood.
    fn restore(&mut self, state: Bytes) -> io::Result<()>;

    /// Its present state, for another member. What comes after does not change it.
    fn snapshot(&mut self) -> Arc<dyn SnapshotSource>;

    /// Where another member's snapshot is to be put.
    fn sink(&mut self) -> Box<dyn SnapshotSink>;

    /// Takes what its sink gave in place of its state.
    ///
    /// # Errors
    /// It cannot be understood.
    fn install(&mut self, received: Box<dyn Any + Send>) -> io::Result<()>;
}

/// What is known of a group's checkpoints; shared by the state machine and the group's handle.
#[derive(Debug, Default)]
pub struct CheckpointState {
    inner: Mutex<Covered>,
    /// Checkpoints of which the state was taken, and the number of the last of them that is durable.
    begun: AtomicU64,
    written: AtomicU64,
    /// Held while one is written: they share a file.
    writing: Mutex<()>,
    pub(super) sending: Arc<Sending>,
}

/// The last checkpoint.
#[derive(Clone, Copy, Debug, Default)]
pub struct Covered {
    /// The last entry that is in it.
    pub applied: Option<LogId>,
    /// Replay of the group goes on here; nothing of its log is in earlier segments.
    pub replay_from: Location,
}

impl CheckpointState {
    /// The last durable checkpoint.
    pub fn covered(&self) -> Covered {
        *self.inner.lock()
    }

    /// Number of the last checkpoint of which the state was taken.
    pub(super) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Acquire)
    }

    /// Number of the last checkpoint that is durable.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    fn begin(&self) -> u64 {
        self.begun.fetch_add(1, Ordering::AcqRel) + 1
    }
}

/// Writes a group's checkpoints.
struct Writer<R> {
    store: Arc<LogStore>,
    log: Arc<RaftLog>,
    state: Arc<CheckpointState>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Clone for Writer<R> {
    fn clone(&self) -> Self {
        Writer {
            store: Arc::clone(&self.store),
            log: Arc::clone(&self.log),
            state: Arc::clone(&self.state),
            runtime: PhantomData,
        }
    }
}

impl<R: AsyncRuntime> Writer<R> {
    /// Waits until all that the checkpoint knows of is durable, and writes it.
    async fn write(
        &self,
        number: u64,
        head: Head,
        state: Vec<u8>,
        position: Position,
    ) -> io::Result<()> {
        let (told, waits) = R::Oneshot::channel();
        let last = Location::from_u64(position.end.to_u64().saturating_sub(1));
        if self.store.journal().durable() < position.end {
            let flushed = Box::new(move |result| {
                let _ = told.send(result);
            });
            self.store.flushes().push(last, Wait::Durable, flushed);
            self.store.journal().request_sync();
            waits
                .await
                .unwrap_or_else(|_| Err(io::Error::other("the journal is closed")))?;
        }
        let covered = Covered {
            applied: head.applied,
            replay_from: position.replay_from,
        };
        let (store, group) = (Arc::clone(&self.store), self.log.group());
        let manual = store.mode().manual;
        let known = Arc::clone(&self.state);
        let write = move || {
            let data = head.encode(&state);
            let _one = known.writing.lock();
            if known.covered().applied > covered.applied {
                // A snapshot was installed meanwhile, and what this one needs of the log may be gone.
                return Ok(());
            }
            store.write_raft_checkpoint(group, covered.replay_from, covered.applied, &data)?;
            *known.inner.lock() = covered;
            Ok(())
        };
        let written = if manual {
            write()
        } else {
            R::spawn_blocking(write).await?
        };
        written.map_err(|error: CheckpointError| io::Error::other(error))?;
        self.state.written.fetch_max(number, Ordering::AcqRel);
        Ok(())
    }
}

/// A [`Machine`] as openraft wants it.
pub struct StateMachine<R: AsyncRuntime, M> {
    /// In a mutex for openraft, which wants to share it; it is never locked.
    machine: Mutex<M>,
    member: MemberId,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Something was truncated behind the last entry that the machine was given, before one that is not for it.
    parted: bool,
    writer: Writer<R>,
    /// Tells the term of the last applied entry when it changes.
    term: Mutex<<R::Watch as Watch>::Sender<Option<LogId>>>,
    /// openraft has read what it needs to begin.
    started: bool,
}

impl<R: AsyncRuntime, M> fmt::Debug for StateMachine<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StateMachine({:?})", self.applied)
    }
}

impl<R: AsyncRuntime, M: Machine> StateMachine<R, M> {
    /// `machine` as of the checkpoint, if there is one. Without one, an empty one is written before this returns, so that replay need not
    /// look for the group in what is before.
    ///
    /// `term` is told the first applied entry of each term.
    ///
    /// # Errors
    /// The checkpoint cannot be understood, is another member's, or the first one cannot be written.
    pub async fn new(
        mut machine: M,
        member: MemberId,
        checkpoint: Option<(Head, Bytes)>,
        replay_from: Location,
        store: Arc<LogStore>,
        log: Arc<RaftLog>,
        term: <R::Watch as Watch>::Sender<Option<LogId>>,
    ) -> io::Result<(Self, Arc<CheckpointState>)> {
        let state = Arc::new(CheckpointState::default());
        let writer = Writer {
            store,
            log,
            state: Arc::clone(&state),
            runtime: PhantomData,
        };
        let (applied, membership) = match checkpoint {
            Some((head, bytes)) => {
                if head.member != member {
                    return Err(io::Error::other("the checkpoint is another member's"));
                }
                // The first checkpoint is of nothing.
                if head.applied.is_some() {
                    machine.restore(bytes)?;
                }
                *state.inner.lock() = Covered {
                    applied: head.applied,
                    replay_from,
                };
                (head.applied, head.membership)
            }
            None => {
                let position = writer.log.position();
                let head = Head {
                    member,
                    vote: position.vote,
                    purged: position.purged,
                    ..Head::default()
                };
                let number = state.begin();
                writer.write(number, head, Vec::new(), position).await?;
                (None, StoredMembership::default())
            }
        };
        let (machine, term) = (Mutex::new(machine), Mutex::new(term));
        let machine = StateMachine {
            machine,
            member,
            applied,
            membership,
            parted: false,
            writer,
            term,
            started: false,
        };
        Ok((machine, state))
    }

    /// The machine.
    pub fn machine(&mut self) -> &mut M {
        self.machine.get_mut()
    }

    /// The last applied entry.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// openraft has begun: snapshots are made of the present state from now on.
    pub(super) fn start(&mut self) {
        self.started = true;
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        }
    }

    fn head(&self, position: &Position) -> Head {
        Head {
            member: self.member,
            vote: position.vote,
            purged: position.purged,
            applied: self.applied,
            membership: self.membership.clone(),
        }
    }

    fn outgoing(&mut self) -> SnapshotHandle {
        let index = self.applied.map_or(0, |id| id.index);
        SnapshotHandle::Outgoing(Outgoing {
            source: self.machine.get_mut().snapshot(),
            _sending: self.writer.state.sending.hold(index),
        })
    }

    fn builder(&mut self, with_source: bool) -> Builder<R> {
        // Before the state: what is applied meanwhile is behind it.
        let position = self.writer.log.position();
        let handle = match with_source {
            true => self.outgoing(),
            false => SnapshotHandle::Local,
        };
        Builder {
            number: self.writer.state.begin(),
            head: self.head(&position),
            meta: self.meta(),
            state: self.machine.get_mut().checkpoint(),
            position,
            handle,
            writer: self.writer.clone(),
        }
    }

    fn apply_batch(
        &mut self,
        batch: &mut Vec<super::types::Entry>,
        responders: &mut Vec<openraft::storage::ApplyResponder<Types<R>>>,
    ) {
        let Some(last) = batch.last().map(|entry| entry.log_id) else {
            return;
        };
        let follows: Vec<bool> = self.writer.log.with_index(|index| {
            let of = |entry: &super::types::Entry| index.follows(entry.log_id.index);
            batch.iter().map(of).collect()
        });
        let before = self.applied.map(|id| id.leader_id);
        let first = batch
            .iter()
            .map(|entry| entry.log_id)
            .find(|id| Some(id.leader_id) != before);
        let (membership, parted) = (&mut self.membership, &mut self.parted);
        let mut entries = batch.drain(..).zip(follows).filter_map(|(entry, follows)| {
            *parted |= !follows;
            match entry.body {
                Body::Normal(payload) => Some(Committed {
                    log_id: entry.log_id,
                    location: entry.location,
                    follows: !std::mem::take(parted),
                    data: payload.encoded().clone(),
                }),
                Body::Membership(new) => {
                    *membership = StoredMembership::new(Some(entry.log_id), new);
                    None
                }
                Body::Blank => None,
            }
        });
        self.machine.get_mut().apply(&mut entries);
        // A machine that does not want all of them has them applied nevertheless.
        entries.for_each(drop);
        self.applied = Some(last);
        self.writer.log.applied(last.index);
        for responder in responders.drain(..) {
            responder.send(());
        }
        if first.is_some() {
            // Several terms in one batch: the last one's first entry is not after `last`.
            self.term.get_mut().send_if_modified(|seen| {
                let newer = seen.map(|id| id.leader_id) < Some(last.leader_id);
                if newer {
                    *seen = first
                        .filter(|id| id.leader_id == last.leader_id)
                        .or(Some(last));
                }
                newer
            });
        }
    }
}

impl<R: AsyncRuntime, M: Machine> RaftStateMachine<Types<R>> for StateMachine<R, M> {
    type SnapshotData = SnapshotHandle;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        let mut responders = Vec::new();
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            batch.push(entry);
            responders.extend(responder);
            if batch.len() >= BATCH_ENTRIES_MAX {
                self.apply_batch(&mut batch, &mut responders);
            }
        }
        self.apply_batch(&mut batch, &mut responders);
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<R>> {
        Some(self.builder(force))
    }

    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        self.builder(true)
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotHandle,
    ) -> Result<(), io::Error> {
        let received = match snapshot {
            SnapshotHandle::Received(received) => received.into_inner(),
            SnapshotHandle::Outgoing(outgoing) => {
                let sink = self.machine.get_mut().sink();
                copy(&*outgoing.source, sink)?
            }
            SnapshotHandle::Local => {
                return Err(io::Error::other("a local checkpoint cannot be installed"));
            }
        };
        self.machine.get_mut().install(received)?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        let position = self.writer.log.position();
        let mut head = self.head(&position);
        // openraft purges up to here next; a start before that must not believe the old entries.
        head.purged = head.purged.max(meta.last_log_id);
        let state = self.machine.get_mut().checkpoint();
        let number = self.writer.state.begin();
        self.writer.write(number, head, state, position).await?;
        if let Some(last) = meta.last_log_id {
            self.writer.log.applied(last.index);
            self.term.get_mut().send_if_modified(|seen| {
                let newer = *seen < Some(last);
                if newer {
                    *seen = Some(last);
                }
                newer
            });
        }
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> Result<Option<Snapshot<CommittedLeaderId, MemberId, (), SnapshotHandle>>, io::Error> {
        if self.applied.is_none() {
            return Ok(None);
        }
        if self.started || self.applied == self.writer.state.covered().applied {
            let (meta, snapshot) = (self.meta(), self.outgoing());
            return Ok(Some(Snapshot { meta, snapshot }));
        }
        // What openraft takes to be on disk when it begins, and so purgeable.
        let covered = self.writer.state.covered();
        let Some(applied) = covered.applied else {
            return Ok(None);
        };
        let meta = SnapshotMeta {
            last_log_id: Some(applied),
            last_membership: self.membership.clone(),
        };
        let snapshot = SnapshotHandle::Local;
        Ok(Some(Snapshot { meta, snapshot }))
    }
}

/// Writes one checkpoint, beside the state machine's work.
pub struct Builder<R> {
    number: u64,
    head: Head,
    meta: SnapshotMeta,
    state: Vec<u8>,
    position: Position,
    handle: SnapshotHandle,
    writer: Writer<R>,
}

impl<R> fmt::Debug for Builder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builder({:?})", self.meta.last_log_id)
    }
}

impl<R: AsyncRuntime> RaftSnapshotBuilder<Types<R>> for Builder<R> {
    type SnapshotData = SnapshotHandle;

    async fn build_snapshot(
        &mut self,
    ) -> Result<Snapshot<CommittedLeaderId, MemberId, (), SnapshotHandle>, io::Error> {
        let state = std::mem::take(&mut self.state);
        let head = self.head.clone();
        let number = self.number;
        self.writer
            .write(number, head, state, self.position)
            .await?;
        let snapshot = std::mem::replace(&mut self.handle, SnapshotHandle::Local);
        let meta = self.meta.clone();
        Ok(Snapshot { meta, snapshot })
    }
}
