//! A group's log over the node's journal, as openraft wants it.
//!
//! [`RaftLog`] is what the core, its readers, the state machine and the checkpoints share: the index, and the bodies that were appended last.
//! [`LogStorage`] is openraft's handle of it. Order is the contract: the core is the only one that appends for a group, and the
//! journal is one stream; so a vote is before the entries of its term, a truncation before what replaces it, and a crash takes
//! away the end of all of it.
//!
//! - `append` returns when the entries can be read. openraft hears of them when the journal's watermark has passed the last:
//!   durable, or written for a group that does not wait for the fsync.
//! - `save_vote` waits until the vote is durable, in every group, without blocking its thread.
//! - `truncate_after` and `purge` write a record and wait for nothing: what must not overtake them comes later in the stream.
//! - `save_committed` is a hint for the next start, written at most once for each [`COMMIT_HINT_ENTRIES`] entries.
//!
//! Reading copies nothing: a body is the proposer's bytes, the frame's it came in, or a slice of the mapped segment. Bodies are held
//! until they are applied, at most [`RECENT_BYTES_MAX`] of a group.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds, RangeInclusive};
use std::sync::Arc;

use futures_util::stream::{self, Stream};
use leveret_storage::{Journal, Location, NewRecord, RecordKind, Wait};
use openraft::OptionalSend;
use openraft::rt::{AsyncRuntime, Oneshot, OneshotSender};
use openraft::storage::{
    IOFlushed, LeaderBoundedStreamError, LeaderBoundedStreamResult, LogState, RaftLogReader,
    RaftLogStorage,
};
use parking_lot::Mutex;

use super::codec;
use super::flush::FlushQueue;
use super::log_index::{LogIndex, TRUNCATE_ALL, encode_vote};
use super::types::{Body, Entry, LeaderId, LogId, MemberId, Types, Vote, epoch_of, node_of};
use crate::GroupId;

/// Payload bytes of one read for replication, unless one entry is larger.
pub const READ_BYTES_MAX: u64 = 1 << 20;
/// Bytes of bodies that a group holds in memory for its readers; the others are read from the journal.
pub const RECENT_BYTES_MAX: usize = 4 << 20;
/// Bodies of that.
const RECENT_ENTRIES_MAX: usize = 4096;
/// Entries between two hints of what is committed.
pub const COMMIT_HINT_ENTRIES: u64 = 1024;

/// The bodies of the last entries of the log.
#[derive(Default)]
struct Recent {
    bodies: VecDeque<Body>,
    bytes: usize,
}

impl Recent {
    fn size(body: &Body) -> usize {
        match body {
            Body::Normal(payload) => payload.len(),
            _ => 64,
        }
    }

    fn push(&mut self, body: Body) {
        self.bytes += Self::size(&body);
        self.bodies.push_back(body);
        while self.bytes > RECENT_BYTES_MAX || self.bodies.len() > RECENT_ENTRIES_MAX {
            self.pop_front();
        }
    }

    fn pop_front(&mut self) {
        if let Some(body) = self.bodies.pop_front() {
            self.bytes -= Self::size(&body);
        }
    }

    /// The body of the entry that is `from_end` before the end of the log.
    fn get(&self, from_end: u64) -> Option<&Body> {
        let at = (self.bodies.len() as u64).checked_sub(from_end)?;
        self.bodies.get(at as usize)
    }

    fn truncate(&mut self, count: u64) {
        for _ in 0..count {
            if let Some(body) = self.bodies.pop_back() {
                self.bytes -= Self::size(&body);
            }
        }
    }

    /// Keeps the last `count`.
    fn keep(&mut self, count: u64) {
        while self.bodies.len() as u64 > count {
            self.pop_front();
        }
        if self.bodies.is_empty() {
            self.bodies = VecDeque::new();
        }
    }
}

struct Inner {
    index: LogIndex,
    recent: Recent,
    /// What the last hint in the journal says.
    hinted: Option<LogId>,
}

/// The log of one group on this node.
pub struct RaftLog {
    group: GroupId,
    /// What an append waits for before it counts.
    wait: Wait,
    journal: Arc<Journal>,
    flushes: Arc<FlushQueue>,
    inner: Mutex<Inner>,
}

impl fmt::Debug for RaftLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.lock();
        let (first, next) = (inner.index.first_index(), inner.index.next_index());
        write!(f, "RaftLog(group {}, {first}..{next})", self.group)
    }
}

/// What a checkpoint must know of the log; see [`RaftLog::position`].
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// The vote.
    pub vote: Option<Vote>,
    /// Up to where the log is purged.
    pub purged: Option<LogId>,
    /// Nothing of the log is before.
    pub replay_from: Location,
    /// The end of the journal.
    pub end: Location,
}

/// A body, or where it is.
type Found = (LogId, Location, Option<Body>);

impl RaftLog {
    /// The log that `index` is about. `durable`: an entry counts once it is durable, not when it is written.
    pub fn new(
        group: GroupId,
        durable: bool,
        journal: Arc<Journal>,
        flushes: Arc<FlushQueue>,
        index: LogIndex,
    ) -> Arc<RaftLog> {
        let wait = if durable {
            Wait::Durable
        } else {
            Wait::Written
        };
        let hinted = index.committed();
        let recent = Recent::default();
        Arc::new(RaftLog {
            group,
            wait,
            journal,
            flushes,
            inner: Mutex::new(Inner {
                index,
                recent,
                hinted,
            }),
        })
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The node's journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Looks at the index, under its lock: `look` must be quick.
    pub fn with_index<T>(&self, look: impl FnOnce(&LogIndex) -> T) -> T {
        look(&self.inner.lock().index)
    }

    /// Place of the last truncation; nothing that begins before it may be read on behind it.
    pub fn barrier(&self) -> Option<Location> {
        self.with_index(LogIndex::barrier)
    }

    /// Says in the journal whose log this is, before anything else of it. Does nothing if it is said.
    ///
    /// # Errors
    /// It is another member's, or the journal takes nothing more.
    pub fn claim(&self, member: MemberId) -> io::Result<()> {
        let mut inner = self.inner.lock();
        match inner.index.member {
            Some(known) if known == member => return Ok(()),
            Some(known) => {
                let (group, node) = (self.group, node_of(known));
                let epoch = epoch_of(known);
                return Err(io::Error::other(format!(
                    "the log of group {group} is that of node {node}, epoch {epoch}"
                )));
            }
            None => {}
        }
        let payload = member.to_le_bytes().to_vec().into();
        self.append_record(RecordKind::GroupCreated, 0, 0, payload, Wait::Nobody)?;
        inner.index.member = Some(member);
        Ok(())
    }

    /// Forgets the whole log, vote and all: its member never takes part again. For a group that lost entries which it had
    /// acknowledged, before it takes part under the next epoch.
    ///
    /// # Errors
    /// The journal takes nothing more.
    pub fn drop_log(&self) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let payload = bytes::Bytes::new();
        self.append_record(RecordKind::GroupDropped, 0, 0, payload, Wait::Durable)?;
        inner.index = LogIndex::default();
        inner.recent = Recent::default();
        inner.hinted = None;
        Ok(())
    }

    /// Vote, purged id, and where replay must begin to find all else again; everything up to the last location must be
    /// durable before a checkpoint says so.
    pub fn position(&self) -> Position {
        let inner = self.inner.lock();
        let end = self.journal.end();
        Position {
            vote: inner.index.vote,
            purged: inner.index.purged(),
            replay_from: inner.index.replay_from(end),
            end,
        }
    }

    /// Bodies of entries up to `applied` need not be in memory any more.
    pub fn applied(&self, applied: u64) {
        let mut inner = self.inner.lock();
        let left = inner.index.next_index().saturating_sub(applied + 1);
        inner.recent.keep(left);
    }

    fn append_record(
        &self,
        kind: RecordKind,
        term: u64,
        index: u64,
        payload: bytes::Bytes,
        wait: Wait,
    ) -> io::Result<Location> {
        let record = NewRecord {
            kind,
            flags: 0,
            group: self.group,
            index,
            term,
            payload,
        };
        let mut locations = Vec::with_capacity(1);
        self.journal
            .append_all([record], wait, &mut locations)
            .map_err(io::Error::other)?;
        locations
            .pop()
            .ok_or_else(|| io::Error::other("the journal gave no location"))
    }

    fn append_entries(&self, entries: Vec<Entry>) -> io::Result<Option<Location>> {
        let record = |entry: &Entry| NewRecord {
            kind: RecordKind::Entry,
            flags: 0,
            group: self.group,
            index: entry.log_id.index,
            term: entry.log_id.leader_id.term,
            payload: codec::encode_body(&entry.body),
        };
        // Held throughout: whoever asks where replay must begin sees the entries in the index or not yet in the journal.
        let mut inner = self.inner.lock();
        let committed = inner.index.committed;
        let hinted = inner.hinted.map_or(0, |id| id.index);
        let hint = committed.filter(|id| id.index >= hinted + COMMIT_HINT_ENTRIES);
        if hint.is_some() {
            inner.hinted = hint;
        }
        let hint = hint.map(|id| NewRecord {
            kind: RecordKind::Commit,
            flags: 0,
            group: self.group,
            index: id.index,
            term: id.leader_id.term,
            payload: bytes::Bytes::new(),
        });
        let hints = usize::from(hint.is_some());
        let records = hint.into_iter().chain(entries.iter().map(record));
        let mut locations = Vec::with_capacity(entries.len() + 1);
        self.journal
            .append_all(records, self.wait, &mut locations)
            .map_err(io::Error::other)?;
        for (entry, location) in entries.into_iter().zip(locations.iter().skip(hints)) {
            if !inner.index.is_next(entry.log_id.index) {
                return Err(io::Error::other(format!(
                    "entry {} where {} is due",
                    entry.log_id,
                    inner.index.next_index()
                )));
            }
            let bytes = match &entry.body {
                Body::Normal(payload) => payload.len(),
                other => codec::encode_body(other).len(),
            };
            inner.index.push(entry.log_id, *location, bytes);
            inner.recent.push(entry.body);
        }
        Ok(locations.last().copied())
    }

    /// What is known of the entries from `start` up to `end`, exclusive: until about `bytes_max`, at least one if there is one.
    fn find(&self, start: u64, end: u64, bytes_max: u64) -> Vec<Found> {
        let inner = self.inner.lock();
        let index = &inner.index;
        let (start, next) = (start.max(index.first_index()), index.next_index());
        let end = end.min(next);
        let mut found = Vec::with_capacity(end.saturating_sub(start).min(1024) as usize);
        let mut bytes = 0;
        for at in start..end {
            let (Some(id), Some(location)) = (index.id_of(at), index.location_of(at)) else {
                break;
            };
            bytes += index.bytes_of(at).unwrap_or(0);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            found.push((id, location, inner.recent.get(next - at).cloned()));
        }
        found
    }

    fn load(&self, (log_id, location, body): Found) -> io::Result<Entry> {
        let body = match body {
            Some(body) => body,
            None => {
                let record = self.journal.read(location).map_err(io::Error::other)?;
                let header = &record.header;
                if (header.kind, header.group, header.index)
                    != (RecordKind::Entry, self.group, log_id.index)
                {
                    return Err(io::Error::other(format!(
                        "entry {log_id} of group {} is not at {location}",
                        self.group
                    )));
                }
                codec::decode_body(record.payload).map_err(io::Error::other)?
            }
        };
        Ok(Entry {
            log_id,
            body,
            location,
        })
    }

    /// Entries from `start` up to `end`, exclusive, as far as they are there: until about `bytes_max`.
    ///
    /// # Errors
    /// An entry that is there cannot be read.
    pub fn entries(&self, start: u64, end: u64, bytes_max: u64) -> io::Result<Vec<Entry>> {
        loop {
            let found = self.find(start, end, bytes_max);
            let first = found.first().map(|(id, ..)| id.index);
            let loaded: io::Result<Vec<Entry>> =
                found.into_iter().map(|found| self.load(found)).collect();
            // Purged while it was read, and its segment removed: not an error.
            let now = self.with_index(LogIndex::first_index);
            if loaded.is_err() && first.is_some_and(|first| first < now) {
                continue;
            }
            return loaded;
        }
    }
}

/// openraft's handle of a group's log, and of its readers.
pub struct LogStorage<R> {
    log: Arc<RaftLog>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> LogStorage<R> {
    /// The log, for openraft.
    pub fn new(log: Arc<RaftLog>) -> Self {
        LogStorage {
            log,
            runtime: PhantomData,
        }
    }

    /// The log.
    pub fn log(&self) -> &Arc<RaftLog> {
        &self.log
    }
}

/// A range as its first index and the one behind its last.
fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

/// Reads a range piece by piece as it is asked for.
struct Pieces {
    log: Arc<RaftLog>,
    next: u64,
    end: u64,
    read: std::vec::IntoIter<Entry>,
}

impl Pieces {
    fn new(log: &Arc<RaftLog>, range: &impl RangeBounds<u64>) -> Pieces {
        let (start, end) = bounds(range);
        let log = Arc::clone(log);
        let next = start.max(log.with_index(LogIndex::first_index));
        let end = end.min(log.with_index(LogIndex::next_index));
        Pieces {
            log,
            next,
            end,
            read: Vec::new().into_iter(),
        }
    }

    fn next(&mut self) -> io::Result<Option<Entry>> {
        if let Some(entry) = self.read.next() {
            return Ok(Some(entry));
        }
        if self.next >= self.end {
            return Ok(None);
        }
        let entries = self.log.entries(self.next, self.end, READ_BYTES_MAX)?;
        match entries.first() {
            Some(first) if first.log_id.index == self.next => {}
            _ => {
                let (group, next) = (self.log.group, self.next);
                self.end = self.next;
                return Err(io::Error::other(format!(
                    "entry {next} of group {group} is gone while it is read"
                )));
            }
        }
        self.next += entries.len() as u64;
        self.read = entries.into_iter();
        Ok(self.read.next())
    }
}

impl<R: AsyncRuntime> RaftLogReader<Types<R>> for LogStorage<R> {
    async fn leader_bounded_stream<RB>(
        &mut self,
        leader: LeaderId,
        range: RB,
    ) -> impl Stream<Item = LeaderBoundedStreamResult<Types<R>>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        let mut pieces = Pieces::new(&self.log, &range);
        let mut ended = false;
        stream::iter(std::iter::from_fn(move || {
            if ended {
                return None;
            }
            let next = pieces.next();
            // After the read: what was read before a change of the vote was the leader's log.
            let vote = pieces.log.with_index(LogIndex::vote);
            if !vote.is_some_and(|vote| vote.committed && vote.leader_id == leader) {
                ended = true;
                let changed = openraft::errors::LeaderChanged::new(leader, vote);
                return Some(Err(LeaderBoundedStreamError::LeaderChanged(changed)));
            }
            ended = next.is_err();
            next.map_err(LeaderBoundedStreamError::IoError).transpose()
        }))
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        let mut pieces = Pieces::new(&self.log, &range);
        stream::iter(std::iter::from_fn(move || pieces.next().transpose()))
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + fmt::Debug + OptionalSend,
    {
        let (start, end) = bounds(&range);
        self.log.entries(start, end, u64::MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.log.with_index(LogIndex::vote))
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        self.log.entries(start, end, READ_BYTES_MAX)
    }

    async fn get_key_log_ids(
        &mut self,
        range: RangeInclusive<LogId>,
    ) -> Result<Vec<LogId>, io::Error> {
        Ok(self.log.with_index(|index| index.key_log_ids(range)))
    }
}

impl<R: AsyncRuntime> RaftLogStorage<Types<R>> for LogStorage<R> {
    type LogReader = LogStorage<R>;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        Ok(self.log.with_index(|index| LogState {
            last_purged_log_id: index.purged(),
            last_log_id: index.last(),
        }))
    }

    async fn get_log_reader(&mut self) -> LogStorage<R> {
        LogStorage::new(Arc::clone(&self.log))
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (told, waits) = R::Oneshot::channel();
        {
            let mut inner = self.log.inner.lock();
            let term = vote.leader_id.term;
            let payload = encode_vote(vote);
            let location =
                self.log
                    .append_record(RecordKind::Vote, term, 0, payload, Wait::Durable)?;
            inner.index.vote = Some(*vote);
            drop(inner);
            let flushed = Box::new(move |result| {
                let _ = told.send(result);
            });
            self.log.flushes.push(location, Wait::Durable, flushed);
        }
        waits
            .await
            .unwrap_or_else(|_| Err(io::Error::other("the journal is closed")))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.inner.lock().index.committed = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log.with_index(LogIndex::committed))
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: IOFlushed<Types<R>>,
    ) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let last = self.log.append_entries(entries.into_iter().collect())?;
        let wait = if last.is_some() {
            self.log.wait
        } else {
            Wait::Nobody
        };
        let flushed = Box::new(move |result| callback.io_completed(result));
        let last = last.unwrap_or(Location::ZERO);
        self.log.flushes.push(last, wait, flushed);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let mut inner = self.log.inner.lock();
        let (term, index, payload) = match &last_log_id {
            Some(id) => (id.leader_id.term, id.index, bytes::Bytes::new()),
            None => (0, 0, bytes::Bytes::from_static(TRUNCATE_ALL)),
        };
        let place =
            self.log
                .append_record(RecordKind::Truncate, term, index, payload, Wait::Nobody)?;
        let before = inner.index.next_index();
        inner
            .index
            .truncate_after(last_log_id.map(|id| id.index), place);
        let gone = before - inner.index.next_index();
        inner.recent.truncate(gone);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut inner = self.log.inner.lock();
        let (term, index) = (log_id.leader_id.term, log_id.index);
        let payload = bytes::Bytes::new();
        self.log
            .append_record(RecordKind::Purge, term, index, payload, Wait::Nobody)?;
        inner.index.purge(log_id);
        let left = inner.index.next_index() - inner.index.first_index();
        inner.recent.keep(left);
        Ok(())
    }
}
