//! Runs: many neighbouring messages as one small record.

use std::collections::VecDeque;

use crate::{Location, Seq};

/// `count` messages with consecutive numbers, found by walking the store from `location`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First number.
    pub first: Seq,
    /// Record of the first message, or of an earlier one of the same run.
    pub location: Location,
    /// How many, at least 1.
    pub count: u32,
    /// Distance in bytes from `location` to the record of the last message.
    pub span: u32,
}

impl Run {
    /// One past the last number.
    #[inline]
    pub fn end(&self) -> Seq {
        self.first.saturating_add(u64::from(self.count))
    }

    /// Whether a walk through it comes past a record behind its first.
    pub(crate) fn passes(&self, location: Location) -> bool {
        location.segment() == self.location.segment()
            && location.offset() > self.location.offset()
            && location.offset() - self.location.offset() <= self.span
    }

    /// Whether a record is one of those that a walk through it comes past.
    pub fn covers(&self, location: Location) -> bool {
        location == self.location || self.passes(location)
    }

    /// Foreign bytes that a run may step over between two of its messages: bounds the cost of reading it.
    pub const GAP_BYTES_MAX: u32 = 64 * 1024;
    /// A longer step is taken as long as the run has no more bytes a message than this.
    pub const BYTES_PER_MESSAGE_MAX: u64 = 4096;

    /// Adds a message if it is this run's neighbour.
    #[inline]
    pub fn extend(&mut self, seq: Seq, location: Location) -> bool {
        if seq != self.end()
            || location.segment() != self.location.segment()
            || location.offset() < self.location.offset()
            || self.count == u32::MAX
        {
            return false;
        }
        let span = location.offset() - self.location.offset();
        // Large records may be far apart without anything foreign between them.
        let dense = u64::from(span) <= u64::from(self.count) * Self::BYTES_PER_MESSAGE_MAX;
        if span < self.span || (span - self.span > Self::GAP_BYTES_MAX && !dense) {
            return false;
        }
        self.span = span;
        self.count += 1;
        true
    }
}

/// Live messages as runs in the order of their numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSet {
    runs: VecDeque<Run>,
    count: u64,
}

impl RunSet {
    /// Messages in it.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// No message.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Runs in it.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &Run> + ExactSizeIterator {
        self.runs.iter()
    }

    /// The first run.
    pub fn front(&self) -> Option<&Run> {
        self.runs.front()
    }

    /// Adds a message behind all others, or in its place if it is not the last (a message that moved).
    pub fn insert(&mut self, seq: Seq, location: Location) {
        self.insert_behind(seq, location, Location::START);
    }

    /// As [`RunSet::insert`]; no run that begins before `barrier` is extended, because between it and the message
    /// there may be records that a walk must not read.
    pub fn insert_behind(&mut self, seq: Seq, location: Location, barrier: Location) {
        self.count += 1;
        match self.runs.back_mut() {
            Some(last) if seq >= last.end() => {
                if last.location < barrier || !last.extend(seq, location) {
                    self.runs.push_back(Run {
                        first: seq,
                        location,
                        count: 1,
                        span: 0,
                    });
                }
            }
            None => self.runs.push_back(Run {
                first: seq,
                location,
                count: 1,
                span: 0,
            }),
            Some(_) => {
                let at = self.runs.partition_point(|r| r.first < seq);
                if self.runs.get(at).is_some_and(|r| r.first == seq) {
                    self.count -= 1; // already there
                    return;
                }
                if at > 0
                    && let Some(before) = self.runs.get_mut(at - 1)
                {
                    if before.end() > seq {
                        self.count -= 1; // already there
                        return;
                    }
                    if before.location >= barrier && before.extend(seq, location) {
                        return;
                    }
                }
                self.runs.insert(
                    at,
                    Run {
                        first: seq,
                        location,
                        count: 1,
                        span: 0,
                    },
                );
            }
        }
    }

    /// Adds a whole run behind all others.
    pub fn push_run(&mut self, run: Run) {
        if run.count > 0 {
            self.count += u64::from(run.count);
            self.runs.push_back(run);
        }
    }

    /// Adds the runs of another set, which has no number of this one.
    pub fn merge(&mut self, other: RunSet) {
        self.count += other.count;
        if self.runs.is_empty() {
            self.runs = other.runs;
        } else {
            self.runs.extend(other.runs);
            self.runs
                .make_contiguous()
                .sort_unstable_by_key(|r| r.first);
        }
    }

    /// Takes `seq` messages in `first..first + count` out; says how many were there.
    pub fn remove(&mut self, first: Seq, count: u32) -> u64 {
        let end = first.saturating_add(u64::from(count));
        let mut removed = 0;
        let mut at = self.runs.partition_point(|r| r.end() <= first);
        while let Some(run) = self.runs.get_mut(at) {
            if run.first >= end {
                break;
            }
            let from = run.first.max(first);
            let to = run.end().min(end);
            removed += to - from;
            let tail = Run {
                first: to,
                count: (run.end() - to) as u32,
                ..*run
            };
            run.count = (from - run.first) as u32;
            match (run.count, tail.count) {
                (0, 0) => {
                    self.runs.remove(at);
                }
                (0, _) => {
                    *run = tail;
                    at += 1;
                }
                (_, 0) => at += 1,
                (_, _) => {
                    self.runs.insert(at + 1, tail);
                    at += 2;
                }
            }
        }
        self.count -= removed;
        removed
    }

    /// Takes up to `max` messages from the front: the range to read and where.
    pub fn take_front(&mut self, max: u32) -> Option<Run> {
        let run = self.runs.front_mut()?;
        let taken = Run {
            count: run.count.min(max),
            ..*run
        };
        self.count -= u64::from(taken.count);
        if taken.count == run.count {
            self.runs.pop_front();
        } else {
            run.first = taken.end();
            run.count -= taken.count;
        }
        Some(taken)
    }

    /// The rest of the first run, of which some was taken, begins no earlier than here: shortens the next read's walk.
    pub fn advance_front(&mut self, location: Location) {
        if let Some(run) = self.runs.front_mut()
            && run.passes(location)
        {
            run.span -= location.offset() - run.location.offset();
            run.location = location;
        }
    }

    /// Whether a message is in it.
    pub fn contains(&self, seq: Seq) -> bool {
        self.find(seq).is_some()
    }

    /// The run that a message is in.
    pub fn find(&self, seq: Seq) -> Option<&Run> {
        let at = self.runs.partition_point(|r| r.end() <= seq);
        self.runs.get(at).filter(|r| r.first <= seq)
    }

    /// The first messages of one run with numbers in `first..end`.
    pub fn first_in(&self, first: Seq, end: Seq) -> Option<Run> {
        let at = self.runs.partition_point(|r| r.end() <= first);
        let run = self.runs.get(at).filter(|r| r.first < end)?;
        let from = run.first.max(first);
        Some(Run {
            first: from,
            count: (run.end().min(end) - from) as u32,
            ..*run
        })
    }

    /// Empties it.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.count = 0;
    }
}
