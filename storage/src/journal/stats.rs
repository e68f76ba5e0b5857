//! Counters of a journal. Kept by the writer with plain atomics, those of appends by the tail; read by metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets of a [`Histogram`].
const BUCKETS: usize = 24;

/// Counts by powers of two: bucket `i` holds values from `2^(i-1)` up to, and not with, `2^i`; the last one all above.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Histogram {
    /// Values per bucket.
    pub counts: [u64; BUCKETS],
    /// Sum of the values.
    pub sum: u64,
}

impl Histogram {
    /// Adds another's values.
    pub fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Exclusive upper bound of bucket `i`; `None` for the last.
    pub fn bound(i: usize) -> Option<u64> {
        (i + 1 < BUCKETS).then(|| 1 << i)
    }

    /// Upper bound of the bucket in which the share `q` (0 to 1) of the values is reached.
    pub fn quantile_bound(&self, q: f64) -> u64 {
        let wanted = (self.count() as f64 * q).ceil() as u64;
        let mut seen = 0;
        for (i, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return 1 << i;
            }
        }
        1 << BUCKETS
    }
}

/// A [`Histogram`] that is being counted, by any number of threads.
#[derive(Debug, Default)]
pub struct HistogramCell {
    counts: [AtomicU64; BUCKETS],
    sum: AtomicU64,
}

impl HistogramCell {
    /// Counts a value.
    pub fn record(&self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        if let Some(count) = self.counts.get(bucket.min(BUCKETS - 1)) {
            count.fetch_add(1, Relaxed);
        }
        self.sum.fetch_add(value, Relaxed);
    }

    /// What was counted so far.
    pub fn read(&self) -> Histogram {
        let mut out = Histogram {
            counts: [0; BUCKETS],
            sum: self.sum.load(Relaxed),
        };
        for (to, from) in out.counts.iter_mut().zip(&self.counts) {
            *to = from.load(Relaxed);
        }
        out
    }
}

/// What a journal did since it was opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JournalStats {
    /// Records appended.
    pub appends: u64,
    /// Payload bytes appended.
    pub append_bytes: u64,
    /// Write calls.
    pub writes: u64,
    /// Bytes written, with headers and padding.
    pub written_bytes: u64,
    /// Sync calls.
    pub syncs: u64,
    /// Microseconds of a sync.
    pub sync_us: Histogram,
    /// Records written together.
    pub batch_records: Histogram,
    /// Segments taken into use.
    pub segments_started: u64,
    /// Of these, on a recycled file.
    pub segments_recycled: u64,
    /// Segments removed.
    pub segments_removed: u64,
    /// Times the writer had to wait for the next segment's file.
    pub segment_waits: u64,
    /// Times an append had to wait for room in the tail.
    pub tail_waits: u64,
}

#[derive(Default)]
pub(crate) struct Counters {
    pub writes: AtomicU64,
    pub written_bytes: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_us: HistogramCell,
    pub batch_records: HistogramCell,
    pub segments_started: AtomicU64,
    pub segments_recycled: AtomicU64,
    pub segments_removed: AtomicU64,
    pub segment_waits: AtomicU64,
    pub tail_waits: AtomicU64,
}

impl Counters {
    pub(crate) fn synced(&self, took: Duration) {
        self.syncs.fetch_add(1, Relaxed);
        self.sync_us
            .record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    }

    /// All but what the tail counts.
    pub(crate) fn read(&self) -> JournalStats {
        JournalStats {
            appends: 0,
            append_bytes: 0,
            writes: self.writes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            sync_us: self.sync_us.read(),
            batch_records: self.batch_records.read(),
            segments_started: self.segments_started.load(Relaxed),
            segments_recycled: self.segments_recycled.load(Relaxed),
            segments_removed: self.segments_removed.load(Relaxed),
            segment_waits: self.segment_waits.load(Relaxed),
            tail_waits: self.tail_waits.load(Relaxed),
        }
    }
}
