//! Bodies that are not in memory: read from the journal or the pager.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use leveret_cluster::reclaim::ReclaimError;
use leveret_cluster::{GroupId, METADATA_GROUP};
use leveret_queue::entry::batch::{self, read_messages};
use leveret_queue::entry::{EntryReader, MemoryGauge, Op};
use leveret_queue::{
    EntryBuf, EntryBuilder, Location, Message, QueueId, QueueState, Seq, Store, StoreError, Stored,
};
use leveret_storage::{Journal, Record, RecordKind};
use parking_lot::Mutex;

/// The group of all records in the pager.
const PAGER_GROUP: u32 = 1;

/// Why the node must stop, once.
pub type Fatal = Box<dyn Fn(&str) + Send + Sync>;

/// The journal and the pager, as the queue machines see them.
pub struct BodyStore {
    journal: Arc<Journal>,
    pager: Arc<Journal>,
    gauge: Arc<MemoryGauge>,
    budget_bytes: AtomicU64,
    failed: AtomicBool,
    fatal: Fatal,
    /// Messages in each segment of the pager.
    paged: Mutex<HashMap<u32, u64>>,
}

impl std::fmt::Debug for BodyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BodyStore({} bytes in memory)", self.gauge.bytes())
    }
}

impl BodyStore {
    /// `budget_bytes`: bodies that may be in memory before waiting messages go to disk.
    pub fn new(
        journal: Arc<Journal>,
        pager: Arc<Journal>,
        gauge: Arc<MemoryGauge>,
        budget_bytes: u64,
        fatal: Fatal,
    ) -> Self {
        BodyStore {
            journal,
            pager,
            gauge,
            budget_bytes: AtomicU64::new(budget_bytes),
            failed: AtomicBool::new(false),
            fatal,
            paged: Mutex::default(),
        }
    }

    /// Counts bodies in memory.
    pub fn gauge(&self) -> &Arc<MemoryGauge> {
        &self.gauge
    }

    /// The node's journal.
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// Changes the memory budget.
    pub fn set_budget(&self, bytes: u64) {
        self.budget_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Messages in the pager.
    pub fn paged_messages(&self) -> u64 {
        self.paged.lock().values().sum()
    }

    /// A body cannot be read, or an entry is not what was written: the node must stop.
    pub fn failed(&self, error: &StoreError) {
        if !self.failed.swap(true, Ordering::AcqRel) {
            (self.fatal)(&error.0);
        }
    }

    fn split(&self, location: Location) -> (&Journal, leveret_storage::Location) {
        let journal = if location.is_journaled() {
            &self.journal
        } else {
            &self.pager
        };
        (
            journal,
            leveret_storage::Location::from_u64(location.0 & !Location::PAGED),
        )
    }

    /// Removes segments of the pager that nothing is in.
    pub fn trim_pager(&self) {
        for segment in self.pager.segments() {
            let mut paged = self.paged.lock();
            if segment.sealed && paged.get(&segment.id).copied().unwrap_or(0) == 0 {
                paged.remove(&segment.id);
                drop(paged);
                if let Err(error) = self.pager.remove_segment(segment.id) {
                    tracing::warn!(%error, "segment of the pager was not removed");
                }
            }
        }
    }
}

impl Store for BodyStore {
    fn read(
        &self,
        queue: QueueId,
        first: Seq,
        count: u32,
        from: Location,
        max: usize,
        out: &mut Vec<Stored>,
    ) -> Result<(), StoreError> {
        /// Read ahead while a backlog is drained.
        const PREFETCH_BYTES: usize = 1 << 20;
        let (journal, at) = self.split(from);
        let mark = from.0 & Location::PAGED;
        let wanted = first..first + u64::from(count);
        if count > 1 {
            journal.prefetch(at, PREFETCH_BYTES);
        }
        for record in journal.walk_segment(at) {
            let record = record.map_err(|e| StoreError(e.to_string()))?;
            // Metadata records lie between those of the queues, and mean something else.
            let messages = matches!(
                record.header.kind,
                RecordKind::Entry | RecordKind::Relocated
            );
            if !messages || record.header.group == METADATA_GROUP {
                continue;
            }
            let location = Location(record.location.to_u64() | mark);
            read_messages(&record.payload, location, queue, &wanted, max, out)
                .map_err(|e| StoreError(format!("record at {}: {e}", record.location)))?;
            if out.len() >= max || out.last().is_some_and(|last| last.seq + 1 >= wanted.end) {
                break;
            }
        }
        Ok(())
    }

    fn page_out(
        &self,
        queue: QueueId,
        seq: Seq,
        message: &Message,
    ) -> Result<Location, StoreError> {
        let mut entry = EntryBuilder::with_capacity(message.encoded_len() + 128);
        entry.relocated(&[(queue, seq)], message);
        let entry = entry.finish(None);
        let at = self
            .pager
            .append(
                RecordKind::Entry,
                0,
                PAGER_GROUP,
                0,
                0,
                entry.to_bytes(),
                false,
            )
            .map_err(|e| StoreError(e.to_string()))?;
        *self.paged.lock().entry(at.segment()).or_default() += 1;
        Ok(Location(at.to_u64() | Location::PAGED))
    }

    fn release(&self, location: Location, count: u32) {
        let segment = location.segment() & 0x7fff_ffff;
        if let Some(messages) = self.paged.lock().get_mut(&segment) {
            *messages = messages.saturating_sub(u64::from(count));
        }
    }

    fn memory_tight(&self) -> bool {
        self.gauge.bytes() > self.budget_bytes.load(Ordering::Relaxed) as i64
    }
}

/// Messages of one group that are to move out of segments.
pub struct Relocate<'a> {
    /// Where they are.
    pub journal: &'a Journal,
    /// Whose.
    pub group: GroupId,
    /// What lives, sorted by id.
    pub queues: &'a [(QueueId, QueueState)],
}

impl Relocate<'_> {
    /// Has `write` append what lives in these segments, an entry at a time, with the places of its messages; ends behind the segment in
    /// which about `bytes_max` bytes are reached. Answers how many bytes there were.
    ///
    /// # Errors
    /// A segment cannot be read, or what `write` says.
    pub fn run(
        &self,
        segments: &[u32],
        bytes_max: u64,
        mut write: impl FnMut(Bytes, Vec<(QueueId, Seq)>) -> Result<(), ReclaimError>,
    ) -> Result<u64, ReclaimError> {
        /// An entry of relocated messages is written when it is this large.
        const ENTRY_BYTES: usize = 256 << 10;
        let mut written = 0;
        let mut entry = EntryBuilder::default();
        let mut moved = Vec::new();
        let mut flush = |entry: &mut EntryBuilder, moved: &mut Vec<_>| {
            if moved.is_empty() {
                return Ok(0);
            }
            let bytes = std::mem::take(entry).finish(None).to_bytes();
            let len = bytes.len() as u64;
            write(bytes, std::mem::take(moved)).map(|()| len)
        };
        for &segment in segments {
            if self.queues.is_empty() || written >= bytes_max {
                break;
            }
            let start = leveret_storage::Location::new(segment, 0);
            for record in self.journal.walk_segment(start) {
                let record = record?;
                if record.header.group != self.group {
                    continue;
                }
                for (places, message) in live_messages(&record, self.queues) {
                    entry.relocated(&places, &message);
                    moved.extend(places);
                    if entry.len() >= ENTRY_BYTES {
                        written += flush(&mut entry, &mut moved)?;
                    }
                }
            }
            written += flush(&mut entry, &mut moved)?;
        }
        Ok(written)
    }
}

/// The messages of a record that live according to `queues` (sorted by id), each with the places where it does.
fn live_messages(
    record: &Record,
    queues: &[(QueueId, QueueState)],
) -> Vec<(Vec<(QueueId, Seq)>, Message)> {
    let entries = batch::entries(&record.payload).unwrap_or_default();
    let location = Location(record.location.to_u64());
    let mut live = Vec::new();
    for entry in &entries {
        live_in_entry(entry, location, queues, &mut live);
    }
    live
}

fn live_in_entry(
    entry: &Arc<EntryBuf>,
    location: Location,
    queues: &[(QueueId, QueueState)],
    live: &mut Vec<(Vec<(QueueId, Seq)>, Message)>,
) {
    let Ok(reader) = EntryReader::new(entry) else {
        return;
    };
    let mut table: Vec<(QueueId, Seq)> = reader.queues().collect();
    let lives = |queue: QueueId, seq: Seq| {
        let Ok(at) = queues.binary_search_by_key(&queue, |(id, _)| *id) else {
            return false;
        };
        queues.get(at).is_some_and(|(_, state)| {
            // An earlier copy, or a truncated entry that gave somebody the number, is not where the run is.
            state.find(seq).is_some_and(|run| run.covers(location))
        })
    };
    for op in reader.ops().map_while(Result::ok) {
        let mut places = Vec::new();
        match op.op {
            Op::Enqueue => {
                for slot in op.slots() {
                    let Some((queue, next)) = table.get_mut(usize::from(slot)) else {
                        continue;
                    };
                    let seq = *next;
                    *next = next.saturating_add(1);
                    if lives(*queue, seq) {
                        places.push((*queue, seq));
                    }
                }
            }
            Op::Relocated => {
                for (slot, seq) in op.places() {
                    let Some((queue, _)) = table.get(usize::from(slot)) else {
                        continue;
                    };
                    if lives(*queue, seq) {
                        places.push((*queue, seq));
                    }
                }
            }
            Op::Settle(..) | Op::Return(_) => continue,
        }
        if !places.is_empty() {
            live.push((places, reader.message(&op)));
        }
    }
}
