//! The journal: one directory of segments, one writer, one address space.
//!
//! Owns the segments of its directory and the threads that write them and make them ready. Called by the group runtime:
//! it appends under its own group lock, hears of the watermarks on the writer's thread, reads by location.
//!
//! Invariants: `durable <= written <= end`; a location given by [`Journal::append`] is never given again; what lies below
//! `written` is in a file and does not change; what lies below `durable` survives a power cut; after a failure no watermark moves.
//!
//! Deliberately absent: what records mean, and which segments are still needed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, RwLock};

use crate::disk::{Advice, DirLock, Disk, Space};
use crate::error::{AppendError, Failure, JournalError, ReadError, ReplayError};
use crate::location::Location;
use crate::record::{self, PAYLOAD_BYTES_MAX, Record, RecordHeader, RecordKind};
use append::Wait;
use config::{JournalConfig, SyncPolicy};
use recovery::RecoveryReport;
use segment::{Identity, Segment, SegmentInfo};
use stats::{Counters, JournalStats};
use supply::{Retired, Supply};
use tail::{Pending, Tail};
use walk::{Verify, Walk};
use writer::Writer;

pub(crate) mod append;
pub(crate) mod config;
pub(crate) mod recovery;
mod scan;
pub(crate) mod segment;
pub(crate) mod stats;
mod supply;
mod tail;
pub(crate) mod walk;
mod writer;

/// What the writer reports after each write and each sync, on its own thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Everything below is in a file.
    pub written: Location,
    /// Everything below survives a power cut.
    pub durable: Location,
    /// Set once, in the last report: the journal is poisoned and the node must stop.
    pub failed: Option<Failure>,
}

/// Called by the writer after each write and sync. Must not block, and must not call [`Journal::wait_durable`] or
/// [`Journal::close`].
pub type Events = Box<dyn Fn(Progress) + Send + Sync>;

/// What is given every record at start-up.
pub type Replay<'a> = &'a mut dyn FnMut(Record) -> Result<(), ReplayError>;

/// What the journal, its writer and its readers share.
pub(crate) struct Shared {
    config: JournalConfig,
    disk: Arc<dyn Disk>,
    identity: Identity,
    tail: Mutex<Tail>,
    /// Signals room in the tail, with its lock.
    room: Condvar,
    written: AtomicU64,
    durable: AtomicU64,
    segments: RwLock<BTreeMap<u32, Arc<Segment>>>,
    supply: Supply,
    counters: Counters,
    events: Events,
    waiters: Mutex<usize>,
    waiters_changed: Condvar,
}

impl Shared {
    fn written(&self) -> Location {
        Location::from_u64(self.written.load(Ordering::Acquire))
    }

    fn durable(&self) -> Location {
        Location::from_u64(self.durable.load(Ordering::Acquire))
    }

    fn segment(&self, id: u32) -> Option<Arc<Segment>> {
        self.segments.read().get(&id).cloned()
    }

    fn add_segment(&self, id: u32, file_bytes: u64) -> Arc<Segment> {
        let segment = Arc::new(Segment::new(
            &self.config.dir,
            id,
            file_bytes,
            &self.identity.uuid,
        ));
        self.segments.write().insert(id, Arc::clone(&segment));
        segment
    }

    fn wake_waiters(&self) {
        if *self.waiters.lock() > 0 {
            self.waiters_changed.notify_all();
        }
    }
}

/// The journal of a node, or its pager.
pub struct Journal {
    shared: Arc<Shared>,
    /// The writer's thread, to be woken; `None` where [`Journal::step`] does its work.
    writer_thread: Option<Thread>,
    manual_writer: Option<Mutex<Writer>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    closed: AtomicBool,
    _lock: Box<dyn DirLock>,
}

impl Journal {
    /// Opens the journal in `config.dir`, or makes a new one, and replays every record from `from` on. `from` is
    /// [`Location::ZERO`] or what a durable checkpoint covers; records below it are not replayed.
    ///
    /// # Errors
    /// Damage, a missing segment, another format, a directory in use, the system's errors, and the first error of `replay`. Nothing
    /// on disk is changed before all of it was read and judged.
    pub fn open(
        config: JournalConfig,
        disk: Arc<dyn Disk>,
        events: Events,
        from: Location,
        replay: Replay<'_>,
    ) -> Result<(Arc<Journal>, RecoveryReport), JournalError> {
        Journal::open_with(config, disk, events, from, replay, true)
    }

    /// Like [`Journal::open`], without threads and without a clock: nothing is written until [`Journal::step`] is called. For tests
    /// that decide what happens when.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_manual(
        config: JournalConfig,
        disk: Arc<dyn Disk>,
        events: Events,
        from: Location,
        replay: Replay<'_>,
    ) -> Result<(Arc<Journal>, RecoveryReport), JournalError> {
        Journal::open_with(config, disk, events, from, replay, false)
    }

    fn open_with(
        config: JournalConfig,
        disk: Arc<dyn Disk>,
        events: Events,
        from: Location,
        replay: Replay<'_>,
        threaded: bool,
    ) -> Result<(Arc<Journal>, RecoveryReport), JournalError> {
        config.check()?;
        let recovered = recovery::recover(&config, &disk, from, replay)?;
        let end = recovered.report.end;
        let active = recovered.active;
        let capacity = u32::try_from(active.file_bytes).unwrap_or(u32::MAX);
        let shared = Arc::new(Shared {
            tail: Mutex::new(Tail::new(end, capacity, &config)),
            room: Condvar::new(),
            written: AtomicU64::new(end.to_u64()),
            durable: AtomicU64::new(end.to_u64()),
            segments: RwLock::new(recovered.segments),
            supply: recovered.supply,
            counters: Counters::default(),
            events,
            waiters: Mutex::new(0),
            waiters_changed: Condvar::new(),
            identity: recovered.identity,
            disk,
            config,
        });
        let writer = Writer::new(
            active,
            recovered.active_file,
            end,
            recovered.report.clean,
            threaded,
        );
        let mut journal = Journal {
            shared,
            writer_thread: None,
            manual_writer: None,
            threads: Mutex::new(Vec::new()),
            closed: AtomicBool::new(false),
            _lock: recovered.lock,
        };
        if threaded {
            journal.start(writer)?;
        } else {
            journal.manual_writer = Some(Mutex::new(writer));
        }
        Ok((Arc::new(journal), recovered.report))
    }

    fn start(&mut self, mut writer: Writer) -> Result<(), JournalError> {
        let failed = JournalError::io("start the threads of", &self.shared.config.dir);
        let spawn = || {
            let shared = Arc::clone(&self.shared);
            let supply = thread::Builder::new()
                .name("journal-supply".into())
                .spawn(move || shared.supply.run())?;
            let shared = Arc::clone(&self.shared);
            let writer = thread::Builder::new()
                .name("journal-writer".into())
                .spawn(move || {
                    let guard = PanicGuard(&shared);
                    writer.run(&shared);
                    std::mem::forget(guard);
                });
            if writer.is_err() {
                self.shared.supply.close();
            }
            Ok((writer?, supply))
        };
        let (writer, supply) = spawn().map_err(failed)?;
        self.writer_thread = Some(writer.thread().clone());
        *self.threads.get_mut() = vec![writer, supply];
        Ok(())
    }

    /// Takes a record and gives its location; nothing is written yet. Appends of one caller keep their order. With
    /// `sync` somebody waits for its durability; without, it is synced with the next record that is waited for, or when the sync interval is over.
    ///
    /// Cheap: a short lock, at most one wake-up of the writer. Waits only while the tail is full.
    ///
    /// # Errors
    /// The journal is poisoned or closed, or the payload is too large.
    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of a record, all of them plain"
    )]
    pub fn append(
        &self,
        kind: RecordKind,
        flags: u8,
        group: u32,
        index: u64,
        term: u64,
        payload: Bytes,
        sync: bool,
    ) -> Result<Location, AppendError> {
        if kind.is_internal() {
            return Err(AppendError::ReservedKind(kind as u8));
        }
        if flags & record::FLAGS_RESERVED != 0 {
            return Err(AppendError::ReservedFlags(flags));
        }
        let location = Location::ZERO;
        let record = Pending {
            payload,
            location,
            index,
            term,
            group,
            kind,
            flags,
        };
        let shared = &*self.shared;
        let mut tail = shared.tail.lock();
        if tail.bytes >= shared.config.tail_bytes_max {
            self.wait_for_room(&mut tail);
        }
        let (location, wake) = tail.append(record, Wait::of(sync))?;
        drop(tail);
        if wake {
            self.wake_writer();
        }
        Ok(location)
    }

    /// Takes several records as one unit: they follow each other with no other record between, and carry
    /// [`record::FLAG_MORE`] and [`record::FLAG_CONTINUES`]. After a crash all of them are there, or none: recovery cuts
    /// a unit off that is not complete. Each is (group, index, payload); all are entries of term 0. Gives the location of each.
    ///
    /// # Errors
    /// As [`Journal::append`]; then none of them is in the journal.
    pub fn append_unit(
        &self,
        records: Vec<(u32, u64, Bytes)>,
        sync: bool,
    ) -> Result<Vec<Location>, AppendError> {
        let shared = &*self.shared;
        let count = records.len();
        let largest = records
            .iter()
            .map(|(_, _, payload)| payload.len())
            .max()
            .unwrap_or(0);
        if largest > PAYLOAD_BYTES_MAX {
            return Err(AppendError::TooLarge(largest));
        }
        let mut locations = Vec::with_capacity(count);
        let mut wake = false;
        let mut tail = shared.tail.lock();
        if tail.bytes >= shared.config.tail_bytes_max {
            self.wait_for_room(&mut tail);
        }
        for (at, (group, index, payload)) in records.into_iter().enumerate() {
            let continues = if at > 0 { record::FLAG_CONTINUES } else { 0 };
            let more = if at + 1 < count { record::FLAG_MORE } else { 0 };
            let flags = continues | more;
            let (location, kind) = (Location::ZERO, RecordKind::Entry);
            let pending = Pending {
                payload,
                location,
                index,
                term: 0,
                group,
                kind,
                flags,
            };
            let (location, woken) = tail.append(pending, Wait::of(sync))?;
            locations.push(location);
            wake |= woken;
        }
        drop(tail);
        if wake {
            self.wake_writer();
        }
        Ok(locations)
    }

    #[cold]
    fn wait_for_room(&self, tail: &mut parking_lot::MutexGuard<'_, Tail>) {
        self.shared
            .counters
            .tail_waits
            .fetch_add(1, Ordering::Relaxed);
        while self.writer_thread.is_some()
            && tail.bytes >= self.shared.config.tail_bytes_max
            && tail.check().is_ok()
        {
            tail.waiting_for_room = true;
            self.shared.room.wait(tail);
        }
    }

    fn wake_writer(&self) {
        if let Some(thread) = &self.writer_thread {
            thread.unpark();
        }
    }

    /// Exclusive end of what was appended so far.
    pub fn end(&self) -> Location {
        self.shared.tail.lock().end()
    }

    /// Exclusive end of what is in files.
    pub fn written(&self) -> Location {
        self.shared.written()
    }

    /// Exclusive end of what survives a power cut; in a pager, of what is written.
    pub fn durable(&self) -> Location {
        self.shared.durable()
    }

    /// Somebody waits for the durability of all that was appended so far.
    pub fn request_sync(&self) {
        let mut tail = self.shared.tail.lock();
        let end = tail.end();
        if end > self.durable() && tail.want_sync(end) {
            drop(tail);
            self.wake_writer();
        }
    }

    /// Blocks until everything below `location` (at most the present end) is durable; asks for the sync itself. Not for the hot path.
    ///
    /// # Errors
    /// The journal is poisoned, or closed before that.
    pub fn wait_durable(&self, location: Location) -> Result<(), AppendError> {
        let location = location.min(self.end());
        if self.durable() >= location {
            return Ok(());
        }
        if self.manual_writer.is_some() {
            while self.durable() < location {
                self.shared.tail.lock().want_sync(location);
                if !self.step(false) {
                    self.shared.tail.lock().check()?;
                }
            }
            return Ok(());
        }
        let mut waiters = self.shared.waiters.lock();
        *waiters += 1;
        if self.shared.tail.lock().want_sync(location) {
            self.wake_writer();
        }
        let result = loop {
            if self.durable() >= location {
                break Ok(());
            }
            if let Some(failure) = self.shared.tail.lock().failure() {
                break Err(AppendError::Poisoned(failure));
            }
            if self.closed.load(Ordering::Acquire) {
                break Err(AppendError::Closed);
            }
            self.shared.waiters_changed.wait(&mut waiters);
        };
        *waiters -= 1;
        result
    }

    /// Bytes that were appended and are not written yet: what the journal holds in memory.
    pub fn pending_bytes(&self) -> u64 {
        self.shared.tail.lock().bytes
    }

    /// One cycle of the writer in a journal of [`Journal::open_manual`]: writes what is waited for, and syncs it; all that was appended if
    /// `force`, as if the sync interval were over. Whether anything was done. Does nothing in a journal that has a thread.
    pub fn step(&self, force: bool) -> bool {
        let Some(writer) = &self.manual_writer else {
            return false;
        };
        let did = writer.lock().step(&self.shared, force);
        self.shared.supply.work();
        did
    }

    /// The record at `location`, its checksums verified.
    ///
    /// # Errors
    /// Damage, a removed segment, a location where no record starts.
    pub fn read(&self, location: Location) -> Result<Record, ReadError> {
        if location >= self.written()
            && let Some(record) = self.read_tail(location)?
        {
            return Ok(record);
        }
        let segment = self.shared.segment(location.segment());
        let segment = segment.ok_or(ReadError::NoSegment(location))?;
        let limit = self.readable_end(&segment);
        let offset = location.offset() as usize;
        if offset >= limit {
            return Err(ReadError::NotARecord(location));
        }
        let bytes = segment.slice(&*self.shared.disk, 0..limit)?;
        match record::parse(&bytes, segment.id, offset, segment.seed) {
            Ok(parsed) if parsed.header.kind.is_internal() => Err(ReadError::NotARecord(location)),
            Ok(parsed) => {
                let len = parsed.header.len as usize;
                let payload = bytes.slice(parsed.payload_start..parsed.payload_start + len);
                Ok(Record {
                    header: parsed.header,
                    location,
                    payload,
                })
            }
            Err(fault) => Err(ReadError::Damaged(
                segment.damage(offset as u64, fault.to_string()),
            )),
        }
    }

    /// The record at `location` if it is in memory; `None` if it was written meanwhile.
    fn read_tail(&self, location: Location) -> Result<Option<Record>, ReadError> {
        let mut found = Vec::with_capacity(1);
        let tail = self.shared.tail.lock();
        tail.records_from(location, 1, &mut found);
        let written = self.written();
        let end = tail.end();
        drop(tail);
        match found.pop() {
            Some(record) if record.location == location => Ok(Some(record.into_record())),
            _ if location < written => Ok(None),
            _ if location >= end => Err(ReadError::PastEnd(location)),
            _ => Err(ReadError::NotARecord(location)),
        }
    }

    /// End of the bytes of a segment that will not change any more.
    fn readable_end(&self, segment: &Segment) -> usize {
        let written = self.written();
        if let Some(end) = segment.sealed_end() {
            end as usize
        } else if written.segment() == segment.id {
            written.offset() as usize
        } else {
            segment.file_bytes as usize
        }
    }

    /// The records from `from` on, in order, across segments, up to the end at the time it is reached. `from` is a record's
    /// location, a former end, or [`Location::ZERO`] for the first record there is.
    pub fn walk(&self, from: Location) -> Walk<'_> {
        Walk::new(self, from, u32::MAX, Verify::All)
    }

    /// Like [`Journal::walk`], but ends with the segment of `from`: the segments behind it may have been removed.
    pub fn walk_segment(&self, from: Location) -> Walk<'_> {
        Walk::new(self, from, from.segment(), Verify::All)
    }

    /// Like [`Journal::walk`], with a choice of what is verified.
    pub fn walk_with(&self, from: Location, verify: Verify) -> Walk<'_> {
        Walk::new(self, from, u32::MAX, verify)
    }

    /// Starts reading `bytes` bytes from `location` on into memory; a hint, does not wait. Ends with the segment.
    pub fn prefetch(&self, location: Location, bytes: usize) {
        if let Some(segment) = self.shared.segment(location.segment()) {
            let start = location.offset() as usize;
            let range = start..start.saturating_add(bytes);
            let _ = segment.advise(&*self.shared.disk, range, Advice::WillNeed);
        }
    }

    /// Gives the memory of a segment's mapped pages back; they stay readable.
    pub fn release(&self, segment: u32) {
        if let Some(segment) = self.shared.segment(segment) {
            let _ = segment.advise(&*self.shared.disk, 0..usize::MAX, Advice::DontNeed);
        }
    }

    /// All segments that have, or had, records; in order.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let segments: Vec<_> = self.shared.segments.read().values().cloned().collect();
        let active = self.written().segment();
        let info = |segment: &Arc<Segment>| SegmentInfo {
            id: segment.id,
            bytes_used: self.readable_end(segment) as u64,
            file_bytes: segment.file_bytes,
            sealed: segment.id < active,
        };
        segments.iter().map(info).collect()
    }

    /// Removes a sealed segment. Bytes of it that readers hold stay valid; its file is reused if nobody holds any. The removal itself
    /// is not durable at once: after a crash the segment may be there again.
    ///
    /// # Errors
    /// [`JournalError::NotSealed`] for the segment in use and for one that is not there.
    pub fn remove_segment(&self, id: u32) -> Result<(), JournalError> {
        if id >= self.written().segment() {
            return Err(JournalError::NotSealed(id));
        }
        let removed = self.shared.segments.write().remove(&id);
        let segment = removed.ok_or(JournalError::NotSealed(id))?;
        let path = segment.path.clone();
        let file_bytes = segment.file_bytes;
        let reusable = Arc::into_inner(segment).is_some_and(|segment| !segment.in_use());
        self.shared
            .counters
            .segments_removed
            .fetch_add(1, Ordering::Relaxed);
        self.shared.supply.retire(Retired {
            path,
            file_bytes,
            reusable,
        });
        Ok(())
    }

    /// Reads a sealed segment from one end to the other and verifies all of it.
    ///
    /// # Errors
    /// The first damage, with file and offset.
    pub fn verify(&self, id: u32) -> Result<(), JournalError> {
        let sealed = id < self.written().segment();
        let segment = self.shared.segment(id).filter(|_| sealed);
        let segment = segment.ok_or(JournalError::NotSealed(id))?;
        recovery::verify_sealed(&segment, &*self.shared.disk)
    }

    /// What the journal did since it was opened.
    pub fn stats(&self) -> JournalStats {
        let mut stats = self.shared.counters.read();
        (stats.appends, stats.append_bytes) = self.shared.tail.lock().appended();
        stats
    }

    /// The space of the file system that the journal is on.
    ///
    /// # Errors
    /// The system's.
    pub fn space(&self) -> std::io::Result<Space> {
        self.shared.disk.space(&self.shared.config.dir)
    }

    /// There was no room for the next segment when it was last tried: when the current one is full, the journal fails.
    pub fn is_starved(&self) -> bool {
        self.shared.supply.is_starved()
    }

    /// Calls `hook` after each try to make the next segment ready, that is whenever the journal took room of the disk or found
    /// none. It is called by a thread of the journal, which it must not hold up for long. Only the first hook counts.
    pub fn on_segment(&self, hook: impl Fn() + Send + Sync + 'static) {
        self.shared.supply.on_try(Box::new(hook));
    }

    /// Identity of the journal, the same in all its segments and in the checkpoints that belong to it.
    pub fn uuid(&self) -> [u8; 16] {
        self.shared.identity.uuid
    }

    /// Writes and syncs all that was appended, and ends the threads. Appends fail from now on; reads still work.
    pub fn close(&self) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        self.shared.tail.lock().close();
        self.shared.room.notify_all();
        self.wake_writer();
        if let Some(writer) = &self.manual_writer {
            writer.lock().step(&self.shared, true);
        }
        // The writer first: it may need one more segment.
        let mut threads = std::mem::take(&mut *self.threads.lock()).into_iter();
        join(threads.next());
        self.shared.supply.close();
        threads.for_each(|thread| join(Some(thread)));
        self.shared.waiters_changed.notify_all();
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // A journal without threads is dropped as a crash would drop it: tests decide what was written.
        if self.manual_writer.is_none() {
            self.close();
        }
    }
}

/// Waits for a thread, unless it is this one: the events may have held the last handle of the journal.
fn join(thread: Option<JoinHandle<()>>) {
    if let Some(thread) = thread.filter(|t| t.thread().id() != thread::current().id()) {
        // A panic was reported as a failure by the thread itself.
        let _ = thread.join();
    }
}

/// Poisons the journal if the writer's thread dies of a panic: nobody may wait for it for ever.
struct PanicGuard<'a>(&'a Shared);

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        let error = std::io::Error::other("the journal's writer panicked");
        let failure_path = self.0.config.dir.clone();
        self.0.fail("write to", &failure_path, &error);
    }
}

impl Pending {
    fn header(&self) -> RecordHeader {
        RecordHeader {
            kind: self.kind,
            flags: self.flags,
            group: self.group,
            index: self.index,
            term: self.term,
            len: self.payload.len() as u32,
            durable: Location::ZERO,
        }
    }

    fn into_record(self) -> Record {
        Record {
            header: self.header(),
            location: self.location,
            payload: self.payload,
        }
    }
}
