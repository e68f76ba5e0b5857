//! The writer: takes what is pending, writes it, syncs when somebody waits, publishes the watermarks.
//!
//! One cycle from idle to idle is one `pwritev` and one `fdatasync`. Whatever arrives during the sync is the next cycle's batch.
//! The same code runs on the journal's thread and, without it, in line ([`super::Journal::step`]).
//!
//! Order is the contract: header and checksums are made from the bytes just before they are written; `written` moves after the write,
//! `durable` after the sync; the old segment is sealed and synced before the first byte of the next. The first error poisons.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, Release};
use std::time::{Duration, Instant};

use super::segment::{SEGMENT_HEADER_BYTES, Segment};
use super::tail::{Pending, Work};
use super::{Progress, Shared, SyncPolicy};
use crate::disk::DiskFile;
use crate::error::Failure;
use crate::location::Location;
use crate::record::{ALIGN_BYTES, HEADER_BYTES, RawHeader, RecordKind, payload_crc};

/// Payloads up to this are copied beside their headers; larger ones are written from where they are.
const COPY_BYTES_MAX: usize = 2048;
/// Bytes handed to one write call.
const WRITE_BYTES_MAX: usize = 2 << 20;
/// What the encode buffer keeps of its memory between cycles.
const BUFFER_KEPT_BYTES: usize = 1 << 20;
/// Sync interval of a journal that never syncs: when it writes what nobody waits for.
const PAGER_INTERVAL: Duration = Duration::from_millis(100);

/// A stretch of what is to be written.
enum Piece {
    /// Up to this end in the encode buffer.
    Encoded(usize),
    /// The payload of the record with this number in the batch.
    Payload(usize),
}

/// What only the writer touches.
pub(super) struct Writer {
    segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    /// Where the next write goes, and what is durable; the watermarks follow.
    written: Location,
    durable: Location,
    buffer: Vec<u8>,
    pieces: Vec<Piece>,
    pieces_bytes: usize,
    /// The end of an earlier session that was closed, behind its mark.
    marked: Option<Location>,
    threaded: bool,
    /// The vector of the batch before, to be used again.
    emptied: Vec<Pending>,
}

/// An I/O error with what was tried.
struct Failed(&'static str, io::Error);

impl Writer {
    pub(super) fn new(
        segment: Arc<Segment>,
        file: Arc<dyn DiskFile>,
        end: Location,
        clean: bool,
        threaded: bool,
    ) -> Writer {
        Writer {
            segment,
            file,
            written: end,
            durable: end,
            buffer: Vec::new(),
            pieces: Vec::new(),
            pieces_bytes: 0,
            marked: clean.then_some(end),
            threaded,
            emptied: Vec::new(),
        }
    }

    /// The thread's loop; returns after a close or a failure.
    pub(super) fn run(&mut self, shared: &Shared) {
        loop {
            match self.next_work(shared, Some(Instant::now()), false) {
                Work::Sleep(None) => std::thread::park(),
                Work::Sleep(Some(time)) => std::thread::park_timeout(time),
                Work::Cycle {
                    batch,
                    sync_below,
                    closing,
                } => {
                    if !self.cycle(shared, batch, sync_below, closing) || closing {
                        return;
                    }
                }
            }
        }
    }

    /// One cycle without a thread: writes what is due, everything if `force`. Whether there was anything to do.
    pub(super) fn step(&mut self, shared: &Shared, force: bool) -> bool {
        match self.next_work(shared, None, force) {
            Work::Sleep(_) => false,
            Work::Cycle {
                batch,
                sync_below,
                closing,
            } => self.cycle(shared, batch, sync_below, closing),
        }
    }

    fn next_work(&mut self, shared: &Shared, now: Option<Instant>, force: bool) -> Work {
        let interval = match shared.config.sync {
            SyncPolicy::Always { interval_ms } => Duration::from_millis(interval_ms),
            SyncPolicy::Never => PAGER_INTERVAL,
        };
        let mut tail = shared.tail.lock();
        if tail.failure().is_some() {
            return Work::Sleep(None);
        }
        tail.recycle(std::mem::take(&mut self.emptied));
        tail.next_work(self.durable, interval, now, force)
    }

    /// Writes and syncs a batch; `false` if that failed, and the journal is poisoned.
    fn cycle(
        &mut self,
        shared: &Shared,
        batch: Arc<Vec<Pending>>,
        sync_below: Location,
        closing: bool,
    ) -> bool {
        match self.try_cycle(shared, &batch, sync_below, closing) {
            Ok(()) => {
                // Nobody else holds it any more: readers take records out of it under the tail's lock.
                self.emptied = Arc::into_inner(batch).unwrap_or_default();
                self.emptied.clear();
                true
            }
            Err(Failed(action, error)) => {
                shared.fail(action, &self.segment.path, &error);
                false
            }
        }
    }

    fn try_cycle(
        &mut self,
        shared: &Shared,
        batch: &[Pending],
        sync_below: Location,
        closing: bool,
    ) -> Result<(), Failed> {
        if !batch.is_empty() {
            shared.counters.batch_records.record(batch.len() as u64);
            self.write_batch(shared, batch)?;
            shared.wrote(batch, self.written);
        }
        if closing {
            self.write_mark(shared)?;
        }
        if !shared.config.syncs() {
            self.durable = self.written;
            shared.publish(self.written, self.durable);
            return Ok(());
        }
        if !batch.is_empty() {
            shared.publish(self.written, self.durable);
        }
        if self.durable < self.written && (self.durable < sync_below || closing) {
            self.sync(shared)?;
            shared.publish(self.written, self.durable);
        }
        Ok(())
    }

    fn sync(&mut self, shared: &Shared) -> Result<(), Failed> {
        let start = Instant::now();
        self.file.sync_data().map_err(|e| Failed("sync", e))?;
        shared.counters.synced(start.elapsed());
        self.durable = self.written;
        Ok(())
    }

    fn write_batch(&mut self, shared: &Shared, batch: &[Pending]) -> Result<(), Failed> {
        for (number, record) in batch.iter().enumerate() {
            if record.location.segment() != self.segment.id {
                self.flush(shared, batch)?;
                self.roll(shared, record)?;
            }
            self.encode(record, number);
            if self.pieces_bytes >= WRITE_BYTES_MAX {
                self.flush(shared, batch)?;
            }
        }
        self.flush(shared, batch)
    }

    /// Puts a record behind what is to be written.
    fn encode(&mut self, record: &Pending, number: usize) {
        let durable_offset = if self.durable.segment() == self.segment.id {
            self.durable.offset()
        } else {
            SEGMENT_HEADER_BYTES
        };
        let header = RawHeader {
            kind: record.kind,
            flags: record.flags,
            group: record.group,
            index: record.index,
            term: record.term,
            len: record.payload.len() as u32,
            durable_offset,
        };
        let crc = payload_crc(&record.payload, self.segment.seed);
        self.buffer.extend_from_slice(&header.encode(
            self.segment.seed,
            record.location.offset(),
            crc,
        ));
        if record.payload.len() <= COPY_BYTES_MAX {
            self.buffer.extend_from_slice(&record.payload);
        } else {
            self.pieces.push(Piece::Encoded(self.buffer.len()));
            self.pieces.push(Piece::Payload(number));
        }
        let padding = record.stored() - HEADER_BYTES - record.payload.len();
        self.buffer.extend_from_slice(&[0; ALIGN_BYTES][..padding]);
        self.pieces_bytes += record.stored();
    }

    /// Writes what was encoded.
    fn flush(&mut self, shared: &Shared, batch: &[Pending]) -> Result<(), Failed> {
        if self.pieces_bytes == 0 {
            return Ok(());
        }
        let offset = u64::from(self.written.offset());
        let result = if self.pieces.is_empty() {
            self.file
                .write_all_at(&mut [IoSlice::new(&self.buffer)], offset)
        } else {
            let mut slices = Vec::with_capacity(self.pieces.len() + 1);
            let mut start = 0;
            for piece in &self.pieces {
                match *piece {
                    Piece::Encoded(end) => {
                        slices.push(IoSlice::new(
                            self.buffer.get(start..end).unwrap_or_default(),
                        ));
                        start = end;
                    }
                    Piece::Payload(number) => {
                        let payload = batch.get(number).map(|record| record.payload.as_ref());
                        slices.push(IoSlice::new(payload.unwrap_or_default()));
                    }
                }
            }
            slices.push(IoSlice::new(self.buffer.get(start..).unwrap_or_default()));
            self.file.write_all_at(&mut slices, offset)
        };
        result.map_err(|e| Failed("write", e))?;
        let bytes = self.pieces_bytes;
        shared.counters.writes.fetch_add(1, Relaxed);
        shared
            .counters
            .written_bytes
            .fetch_add(bytes as u64, Relaxed);
        self.written = Location::new(self.segment.id, self.written.offset() + bytes as u32);
        self.pieces.clear();
        self.pieces_bytes = 0;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        Ok(())
    }

    /// Seals and syncs the segment, and goes on in the next, which `first` is the first record of.
    fn roll(&mut self, shared: &Shared, first: &Pending) -> Result<(), Failed> {
        self.encode(&Pending::internal(RecordKind::Seal, self.written), 0);
        self.flush(shared, &[])?;
        if shared.config.syncs() {
            self.sync(shared)?;
        } else {
            self.durable = self.written;
        }
        self.segment.seal(self.written.offset());
        shared.publish(self.written, self.durable);

        let id = first.location.segment();
        let needed = SEGMENT_HEADER_BYTES as usize + first.stored() + HEADER_BYTES;
        let needed = needed.next_multiple_of(4096) as u64;
        let (ready, waited) = shared
            .supply
            .take(id, needed, self.threaded)
            .map_err(|e| Failed("make the segment after", e))?;
        let counters = &shared.counters;
        counters.segments_started.fetch_add(1, Relaxed);
        counters
            .segments_recycled
            .fetch_add(u64::from(ready.recycled), Relaxed);
        counters.segment_waits.fetch_add(u64::from(waited), Relaxed);
        self.segment = shared.add_segment(id, ready.file_bytes);
        self.file = ready.file;
        self.written = Location::new(id, SEGMENT_HEADER_BYTES);
        if let Some(next) = id.checked_add(1) {
            shared.supply.want(next);
        }
        Ok(())
    }

    /// Ends a session: a last record that proves all others durable.
    fn write_mark(&mut self, shared: &Shared) -> Result<(), Failed> {
        if self.marked == Some(self.written) {
            return Ok(());
        }
        if shared.config.syncs() && self.durable < self.written {
            self.sync(shared)?;
        }
        let Some(mark) = shared.tail.lock().append_mark() else {
            return Ok(());
        };
        self.encode(&mark, 0);
        self.flush(shared, &[])
    }
}

impl Shared {
    /// The batch is written: readers find it in the file, and its room is free for appenders. The watermark moves
    /// before the records leave memory, so that a reader finds them in one of the two.
    fn wrote(&self, batch: &[Pending], written: Location) {
        let bytes: usize = batch.iter().map(Pending::stored).sum();
        self.written.store(written.to_u64(), Release);
        let mut tail = self.tail.lock();
        tail.forget_inflight();
        tail.bytes = tail.bytes.saturating_sub(bytes as u64);
        if tail.waiting_for_room {
            tail.waiting_for_room = false;
            self.room.notify_all();
        }
    }

    fn publish(&self, written: Location, durable: Location) {
        self.written.store(written.to_u64(), Release);
        if self.durable.swap(durable.to_u64(), Release) != durable.to_u64() {
            self.wake_waiters();
        }
        (self.events)(Progress {
            written,
            durable,
            failed: None,
        });
    }

    /// Poisons the journal: the first failure is the one that stays.
    pub(super) fn fail(&self, action: &'static str, path: &Path, error: &io::Error) {
        let failure = Failure {
            action,
            path: Arc::from(path),
            message: Arc::from(error.to_string()),
        };
        tracing::error!("{failure}; nothing more is made durable");
        self.tail.lock().fail(failure.clone());
        self.room.notify_all();
        self.wake_waiters();
        (self.events)(Progress {
            written: self.written(),
            durable: self.durable(),
            failed: Some(failure),
        });
    }
}
