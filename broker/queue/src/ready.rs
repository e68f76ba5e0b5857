//! What waits in a queue: a head in memory, a tail of runs, and what came after a failed page-out.
//!
//! Invariant per level: numbers in `head` < numbers in `tail` < numbers in `late`; each ascending. Whatever was
//! delivered has a smaller number than anything in the tail, because deliveries leave from the head only.

use std::collections::VecDeque;

use crate::{Location, Message, QueueId, Run, RunSet, Seq, Store, StoreError, Stored};

/// A message that the machine handles one by one.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    pub seq: Seq,
    /// `None`: only on disk at `location`.
    pub message: Option<Message>,
    pub location: Location,
    /// Bytes of the body.
    pub size: u32,
    /// How often it came back to the queue.
    pub returns: u32,
    pub redelivered: bool,
    pub level: u8,
}

impl Hot {
    /// Copies a small message out of an entry that it alone keeps in memory, or lets go of the body if it is on disk.
    /// Says whether it did.
    pub fn unpin(&mut self) -> bool {
        let Some(message) = self.message.as_ref().filter(|m| m.pins_entry()) else {
            return false;
        };
        if self.location.is_some() {
            self.message = None;
            return true;
        }
        let copy = message.copied();
        let copied = copy.is_some();
        if copied {
            self.message = copy;
        }
        copied
    }
}

/// Bounds of a level's head; past them messages with a copy on disk are kept as runs.
const HEAD_MESSAGES_MAX: usize = 16 * 1024;
const HEAD_BYTES_MAX: u64 = 16 << 20;
/// Transient messages cost a write to leave memory, so they may stay longer.
const TRANSIENT_MESSAGES_MAX: usize = 256 * 1024;
const TRANSIENT_BYTES_MAX: u64 = 64 << 20;
/// What a queue keeps in memory even when the node's budget is exceeded.
const TIGHT_MESSAGES_MAX: usize = 128;
/// Fewer messages than these go back to their places one by one.
const MERGE_MIN: usize = 8;
/// Places that an empty head keeps for what comes next.
const HEAD_PLACES_KEPT: usize = 1024;
/// Messages read back at once.
const REFILL_MESSAGES: u32 = 512;

#[derive(Debug, Default)]
struct Level {
    head: VecDeque<Hot>,
    head_bytes: u64,
    tail: RunSet,
    /// The last record that was read for the tail.
    walked: Option<Location>,
    late: VecDeque<Hot>,
}

impl Level {
    fn len(&self) -> u64 {
        self.head.len() as u64 + self.tail.len() + self.late.len() as u64
    }

    fn spills(&self, journaled: bool, store: &dyn Store) -> bool {
        let n = self.head.len();
        if n < TIGHT_MESSAGES_MAX {
            return false;
        }
        let (messages, bytes) = if journaled {
            (HEAD_MESSAGES_MAX, HEAD_BYTES_MAX)
        } else {
            (TRANSIENT_MESSAGES_MAX, TRANSIENT_BYTES_MAX)
        };
        n >= messages || self.head_bytes >= bytes || store.memory_tight()
    }

    fn push(&mut self, queue: QueueId, mut hot: Hot, store: &dyn Store) {
        if self.late.is_empty() {
            if self.tail.is_empty() && !self.spills(hot.location.is_some(), store) {
                self.head_bytes += u64::from(hot.size);
                self.head.push_back(hot);
                return;
            }
            if !hot.location.is_some()
                && let Some(message) = &hot.message
                && let Ok(location) = store.page_out(queue, hot.seq, message)
            {
                hot.location = location;
            }
            // Marks that a run cannot carry keep the message out of it.
            if hot.location.is_some() && hot.returns == 0 {
                self.tail.insert(hot.seq, hot.location);
                return;
            }
        }
        if self.tail.is_empty() && self.late.is_empty() {
            self.head_bytes += u64::from(hot.size);
            self.head.push_back(hot);
        } else {
            self.late.push_back(hot);
        }
    }

    /// Reads the first `count` messages of a run.
    fn read_run(&self, ctx: &Refill<'_>, run: &Run, count: u32) -> Result<Vec<Stored>, StoreError> {
        let mut stored = Vec::with_capacity(count as usize);
        let (first, max) = (run.first, count as usize);
        // The pieces of a run that was split all point to where it began: try where the piece before it ended.
        // Another run's records may lie there too, so it need not be right.
        if let Some(near) = self.walked.filter(|at| run.passes(*at)) {
            let found = ctx
                .store
                .read(ctx.queue, first, count, near, max, &mut stored);
            if found.is_ok() && stored.first().is_some_and(|s| s.seq == first) {
                return Ok(stored);
            }
            stored.clear();
        }
        ctx.store
            .read(ctx.queue, first, count, run.location, max, &mut stored)?;
        Ok(stored)
    }

    /// Makes the head hold a message with its body, unless the level is empty.
    fn fill(&mut self, ctx: &Refill<'_>, level: u8) -> Result<(), StoreError> {
        while self.head.is_empty() {
            if let Some(run) = self.tail.front().copied() {
                let count = run.count.min(REFILL_MESSAGES);
                let stored = self.read_run(ctx, &run, count)?;
                if stored.is_empty() || stored.iter().zip(run.first..).any(|(s, n)| s.seq != n) {
                    return Err(StoreError(format!(
                        "messages {}..{} of queue {} are not where the index has them (segment {}, offset {})",
                        run.first,
                        run.first + u64::from(count),
                        ctx.queue,
                        run.location.segment() & 0x7fff_ffff,
                        run.location.offset()
                    )));
                }
                self.tail.take_front(stored.len() as u32);
                self.walked = stored.last().map(|last| last.location);
                if let Some(last) = self.walked
                    && stored.len() < run.count as usize
                {
                    self.tail.advance_front(last);
                }
                let paged = !run.location.is_journaled();
                if paged {
                    ctx.store.release(run.location, stored.len() as u32);
                }
                for s in stored {
                    let size = s.message.body_len();
                    self.head_bytes += u64::from(size);
                    self.head.push_back(Hot {
                        seq: s.seq,
                        size,
                        location: if paged { Location::NONE } else { s.location },
                        returns: ctx.returns_of(s.seq),
                        redelivered: s.seq < ctx.redelivered_below,
                        message: Some(s.message),
                        level,
                    });
                }
            } else if self.late.is_empty() {
                return Ok(());
            } else {
                self.head = std::mem::take(&mut self.late);
                self.head_bytes = self.head.iter().map(|h| u64::from(h.size)).sum();
            }
        }
        if let Some(front) = self.head.front_mut()
            && front.message.is_none()
        {
            let mut stored = Vec::with_capacity(1);
            ctx.store
                .read(ctx.queue, front.seq, 1, front.location, 1, &mut stored)?;
            match stored.pop() {
                Some(s) if s.seq == front.seq => front.message = Some(s.message),
                _ => {
                    return Err(StoreError(format!(
                        "message {} of queue {} is not where the index has it",
                        front.seq, ctx.queue
                    )));
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn pop(&mut self) -> Option<Hot> {
        let hot = self.head.pop_front()?;
        self.head_bytes -= u64::from(hot.size);
        if self.head.is_empty() && self.head.capacity() > HEAD_PLACES_KEPT {
            self.head = VecDeque::new();
        }
        Some(hot)
    }

    fn put_back(&mut self, hot: Hot) {
        self.head_bytes += u64::from(hot.size);
        match self.head.front() {
            Some(front) if front.seq < hot.seq => {
                let at = self.head.partition_point(|h| h.seq < hot.seq);
                self.head.insert(at, hot);
            }
            _ => self.head.push_front(hot),
        }
    }

    /// As `put_back` for each, but every message that has to make room moves once.
    fn put_all_back(&mut self, mut back: Vec<Hot>) {
        let last = match back.last() {
            Some(hot) if back.len() >= MERGE_MIN => hot.seq,
            _ => return back.into_iter().rev().for_each(|hot| self.put_back(hot)),
        };
        let before = self.head.partition_point(|hot| hot.seq < last);
        let mut earlier = self.head.drain(..before).rev().peekable();
        let mut merged = Vec::with_capacity(before + back.len());
        while let Some(hot) = back.pop() {
            self.head_bytes += u64::from(hot.size);
            while let Some(later) = earlier.next_if(|h| h.seq > hot.seq) {
                merged.push(later);
            }
            merged.push(hot);
        }
        merged.extend(earlier);
        for hot in merged {
            self.head.push_front(hot);
        }
    }
}

/// What reading messages back needs to know.
pub(crate) struct Refill<'a> {
    pub queue: QueueId,
    pub store: &'a dyn Store,
    pub redelivered_below: Seq,
    pub returns: &'a rustc_hash::FxHashMap<Seq, u32>,
}

impl Refill<'_> {
    fn returns_of(&self, seq: Seq) -> u32 {
        if self.returns.is_empty() {
            0
        } else {
            self.returns.get(&seq).copied().unwrap_or(0)
        }
    }
}

/// All waiting messages of a queue, by priority level.
#[derive(Debug)]
pub(crate) struct Ready {
    /// Up to the highest that was ever used.
    levels: Vec<Level>,
    max_level: u8,
    messages: u64,
    bytes: u64,
}

impl Ready {
    pub fn new(max_priority: u8) -> Self {
        Ready {
            levels: Vec::new(),
            max_level: max_priority,
            messages: 0,
            bytes: 0,
        }
    }

    pub fn messages(&self) -> u64 {
        self.messages
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    pub fn level_of(&self, priority: u8) -> u8 {
        priority.min(self.max_level)
    }

    fn level_mut(&mut self, level: u8) -> &mut Level {
        let at = usize::from(level.min(self.max_level));
        if at >= self.levels.len() {
            self.levels.resize_with(at + 1, Level::default);
        }
        &mut self.levels[at]
    }

    #[inline]
    pub fn push(&mut self, queue: QueueId, hot: Hot, store: &dyn Store) {
        self.messages += 1;
        self.bytes += u64::from(hot.size);
        self.level_mut(hot.level).push(queue, hot, store);
    }

    pub fn put_back(&mut self, hot: Hot) {
        self.messages += 1;
        self.bytes += u64::from(hot.size);
        self.level_mut(hot.level).put_back(hot);
    }

    /// Takes many messages back, ascending by number.
    pub fn put_all_back(&mut self, mut back: Vec<Hot>) {
        for (at, level) in self.levels.iter_mut().enumerate() {
            let here: Vec<Hot> = back
                .extract_if(.., |hot| usize::from(hot.level) == at)
                .collect();
            self.messages += here.len() as u64;
            self.bytes += here.iter().map(|hot| u64::from(hot.size)).sum::<u64>();
            level.put_all_back(here);
        }
        // Levels beyond those in use.
        back.into_iter().for_each(|hot| self.put_back(hot));
    }

    /// The next message, with its body.
    #[inline]
    pub fn front(&mut self, ctx: &Refill<'_>) -> Result<Option<&Hot>, StoreError> {
        for (i, level) in self.levels.iter_mut().enumerate().rev() {
            if level.len() > 0 {
                level.fill(ctx, i as u8)?;
                return Ok(level.head.front());
            }
        }
        Ok(None)
    }

    /// Takes what [`Ready::front`] showed.
    #[inline]
    pub fn pop(&mut self) -> Option<Hot> {
        let level = self.levels.iter_mut().rev().find(|l| l.len() > 0)?;
        let hot = level.pop()?;
        self.messages -= 1;
        self.bytes = self.bytes.saturating_sub(u64::from(hot.size));
        Some(hot)
    }

    /// Takes the first message of any level for which `expired` holds.
    pub fn pop_expired(
        &mut self,
        ctx: &Refill<'_>,
        mut expired: impl FnMut(&Hot) -> bool,
    ) -> Result<Option<Hot>, StoreError> {
        for (i, level) in self.levels.iter_mut().enumerate().rev() {
            if level.len() == 0 {
                continue;
            }
            level.fill(ctx, i as u8)?;
            if level.head.front().is_some_and(&mut expired) {
                let Some(hot) = level.pop() else {
                    continue;
                };
                self.messages -= 1;
                self.bytes = self.bytes.saturating_sub(u64::from(hot.size));
                return Ok(Some(hot));
            }
        }
        Ok(None)
    }

    /// The first message of each level.
    pub fn fronts(&mut self, ctx: &Refill<'_>) -> Result<impl Iterator<Item = &Hot>, StoreError> {
        for (i, level) in self.levels.iter_mut().enumerate() {
            if level.len() > 0 {
                level.fill(ctx, i as u8)?;
            }
        }
        Ok(self.levels.iter().filter_map(|l| l.head.front()))
    }

    /// Everything that waits, level by level; leaves it empty.
    pub fn drain(&mut self) -> (Vec<Hot>, Vec<RunSet>) {
        let mut hot = Vec::new();
        let mut tails = Vec::new();
        for level in &mut self.levels {
            hot.extend(level.head.drain(..));
            hot.extend(level.late.drain(..));
            tails.push(std::mem::take(&mut level.tail));
            *level = Level::default();
        }
        self.messages = 0;
        self.bytes = 0;
        (hot, tails)
    }

    /// Takes over restored messages of a level, whose bodies are on disk.
    pub fn restore(&mut self, level: usize, runs: RunSet) {
        if runs.is_empty() {
            return;
        }
        self.messages += runs.len();
        let level = self.level_mut(u8::try_from(level).unwrap_or(u8::MAX));
        level.tail.merge(runs);
    }

    pub fn set_bytes(&mut self, bytes: u64) {
        self.bytes = bytes;
    }

    /// Messages in memory and runs on disk, for a checkpoint: (level, hot messages, runs).
    pub fn parts(&self) -> impl Iterator<Item = (usize, impl Iterator<Item = &Hot>, &RunSet)> {
        self.levels
            .iter()
            .enumerate()
            .map(|(i, l)| (i, l.head.iter().chain(l.late.iter()), &l.tail))
    }

    /// Points to where a message is now.
    pub fn relocate(&mut self, seq: Seq, to: Location) -> bool {
        for level in &mut self.levels {
            for part in [&mut level.head, &mut level.late] {
                if let Ok(at) = part.binary_search_by_key(&seq, |h| h.seq)
                    && let Some(hot) = part.get_mut(at)
                {
                    hot.location = to;
                    return true;
                }
            }
            if level.tail.contains(seq) {
                level.tail.remove(seq, 1);
                level.tail.insert(seq, to);
                return true;
            }
        }
        false
    }

    /// The messages in memory.
    pub fn hot_mut(&mut self) -> impl Iterator<Item = &mut Hot> {
        self.levels
            .iter_mut()
            .flat_map(|level| level.head.iter_mut().chain(level.late.iter_mut()))
    }
}
