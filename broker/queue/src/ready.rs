//! What waits in a queue: a head in memory, a tail of runs, and what came after a failed page-out.
//!
//! Invariant per level: numbers in `head` < numbers in `tail` and in `beside` < numbers in `late`; each ascending. What is delivered
//! has a smaller number than anything in the tail, because deliveries leave from the head only; but a consumer may claim
//! what it held under another leader out of the tail, and what of that comes back is kept `beside` it.

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
    /// It was live when this leader began and was not delivered since: who held it before may claim it.
    pub claimable: bool,
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
    /// The last message that was read for the tail, and its record.
    walked: Option<(Seq, Location)>,
    /// Came back, and their places are among those of the tail.
    beside: VecDeque<Hot>,
    late: VecDeque<Hot>,
}

impl Level {
    fn len(&self) -> u64 {
        (self.head.len() + self.beside.len() + self.late.len()) as u64 + self.tail.len()
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

    /// `barrier`: no run that begins before it is extended.
    fn push(&mut self, queue: QueueId, mut hot: Hot, store: &dyn Store, barrier: Location) {
        if self.late.is_empty() {
            if self.tail.is_empty()
                && self.beside.is_empty()
                && !self.spills(hot.location.is_some(), store)
            {
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
                self.tail.insert_behind(hot.seq, hot.location, barrier);
                return;
            }
        }
        if self.tail.is_empty() && self.beside.is_empty() && self.late.is_empty() {
            self.head_bytes += u64::from(hot.size);
            self.head.push_back(hot);
        } else {
            self.late.push_back(hot);
        }
    }

    /// Reads messages from a run's front, at least one and at most `max`.
    fn read_run(
        &mut self,
        ctx: &Refill<'_>,
        run: &Run,
        max: u32,
    ) -> Result<Vec<Stored>, StoreError> {
        let count = run.count.min(max);
        let stored = self.walk_run(ctx, run, count)?;
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
        self.walked = stored.last().map(|last| (last.seq, last.location));
        if !run.location.is_journaled() {
            ctx.store.release(run.location, stored.len() as u32);
        }
        Ok(stored)
    }

    fn walk_run(&self, ctx: &Refill<'_>, run: &Run, count: u32) -> Result<Vec<Stored>, StoreError> {
        let mut stored = Vec::with_capacity(count as usize);
        let (first, max) = (run.first, count as usize);
        // The pieces of a run that was split all point to where it began: try where the piece before it ended.
        // Another run's records may lie there too, so it need not be right.
        let near = self
            .walked
            .filter(|(seq, at)| *seq < first && run.passes(*at));
        if let Some((_, near)) = near {
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
            let run = self.tail.front().copied();
            // Up to the next one beside.
            let next = self.beside.front().map_or(Seq::MAX, |hot| hot.seq);
            if let Some(run) = run.filter(|run| run.first < next) {
                let max = u64::from(REFILL_MESSAGES).min(next - run.first) as u32;
                let stored = self.read_run(ctx, &run, max)?;
                self.tail.take_front(stored.len() as u32);
                if let Some((_, last)) = self.walked
                    && stored.len() < run.count as usize
                {
                    self.tail.advance_front(last);
                }
                for s in stored {
                    let hot = ctx.hot(s, level);
                    self.head_bytes += u64::from(hot.size);
                    self.head.push_back(hot);
                }
            } else if let Some(hot) = self.beside.pop_front() {
                self.head_bytes += u64::from(hot.size);
                self.head.push_back(hot);
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

    /// Numbers below it go into the head, others beside the tail.
    fn head_end(&self) -> Seq {
        let tail = self.tail.front().map_or(Seq::MAX, |run| run.first);
        let beside = self.beside.front().map_or(Seq::MAX, |hot| hot.seq);
        tail.min(beside)
    }

    fn put_back(&mut self, hot: Hot) {
        if hot.seq >= self.head_end() {
            let at = self.beside.partition_point(|h| h.seq < hot.seq);
            return self.beside.insert(at, hot);
        }
        self.head_bytes += u64::from(hot.size);
        match self.head.front() {
            Some(front) if front.seq < hot.seq => {
                let at = self.head.partition_point(|h| h.seq < hot.seq);
                self.head.insert(at, hot);
            }
            _ => self.head.push_front(hot),
        }
    }

    /// Takes the messages with numbers in `first..end` out; of those in memory, only what `may_take` allows.
    fn take(
        &mut self,
        ctx: &Refill<'_>,
        level: u8,
        mut first: Seq,
        end: Seq,
        may_take: &dyn Fn(&Hot) -> bool,
        out: &mut Vec<Hot>,
    ) -> Result<(), StoreError> {
        let before = out.len();
        take_from(&mut self.head, first, end, may_take, out);
        let taken = out.iter().skip(before);
        self.head_bytes -= taken.map(|hot| u64::from(hot.size)).sum::<u64>();
        take_from(&mut self.beside, first, end, may_take, out);
        take_from(&mut self.late, first, end, may_take, out);
        while let Some(run) = self.tail.first_in(first, end) {
            let stored = self.read_run(ctx, &run, REFILL_MESSAGES)?;
            self.tail.remove(run.first, stored.len() as u32);
            first = run.first + stored.len() as u64;
            out.extend(stored.into_iter().map(|s| ctx.hot(s, level)));
        }
        Ok(())
    }

    /// As `put_back` for each, but every message that has to make room moves once.
    fn put_all_back(&mut self, mut back: Vec<Hot>) {
        let end = self.head_end();
        if back.last().is_some_and(|hot| hot.seq >= end) {
            let beside = back.split_off(back.partition_point(|hot| hot.seq < end));
            self.beside.extend(beside);
            self.beside.make_contiguous().sort_by_key(|hot| hot.seq);
        }
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

/// Takes messages out of an ascending list.
fn take_from(
    list: &mut VecDeque<Hot>,
    first: Seq,
    end: Seq,
    may_take: &dyn Fn(&Hot) -> bool,
    out: &mut Vec<Hot>,
) {
    let from = list.partition_point(|hot| hot.seq < first);
    let to = list.partition_point(|hot| hot.seq < end);
    if from >= to {
        return;
    }
    let (taken, left): (Vec<Hot>, Vec<Hot>) = list.drain(from..to).partition(|hot| may_take(hot));
    out.extend(taken);
    for hot in left.into_iter().rev() {
        list.insert(from, hot);
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
    /// A message that was read back.
    fn hot(&self, stored: Stored, level: u8) -> Hot {
        let paged = !stored.location.is_journaled();
        let restored = stored.seq < self.redelivered_below;
        Hot {
            seq: stored.seq,
            size: stored.message.body_len(),
            location: if paged {
                Location::NONE
            } else {
                stored.location
            },
            returns: self.returns_of(stored.seq),
            redelivered: restored,
            claimable: restored,
            message: Some(stored.message),
            level,
        }
    }

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
    /// No run that begins before it is extended.
    barrier: Location,
}

impl Ready {
    pub fn new(max_priority: u8) -> Self {
        Ready {
            levels: Vec::new(),
            max_level: max_priority,
            messages: 0,
            bytes: 0,
            barrier: Location::START,
        }
    }

    /// From now on no run that begins before `barrier` is extended: records that a walk must not read may lie before it.
    pub fn set_barrier(&mut self, barrier: Location) {
        self.barrier = barrier;
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
        let barrier = self.barrier;
        self.level_mut(hot.level).push(queue, hot, store, barrier);
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

    /// Takes waiting messages with numbers in `first..end` out; of those in memory, only what `may_take` allows. On an error `out`
    /// has what was taken before.
    pub fn take(
        &mut self,
        ctx: &Refill<'_>,
        first: Seq,
        end: Seq,
        may_take: &dyn Fn(&Hot) -> bool,
        out: &mut Vec<Hot>,
    ) -> Result<(), StoreError> {
        let before = out.len();
        let mut result = Ok(());
        for (i, level) in self.levels.iter_mut().enumerate() {
            result = result.and_then(|()| level.take(ctx, i as u8, first, end, may_take, out));
        }
        let taken = out.get(before..).unwrap_or_default();
        self.messages -= taken.len() as u64;
        let bytes: u64 = taken.iter().map(|hot| u64::from(hot.size)).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        result
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
            hot.extend(level.beside.drain(..));
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
            .map(|(i, l)| (i, l.head.iter().chain(&l.beside).chain(&l.late), &l.tail))
    }

    /// Points to where a message is now.
    pub fn relocate(&mut self, seq: Seq, to: Location) -> bool {
        let barrier = self.barrier;
        for level in &mut self.levels {
            for part in [&mut level.head, &mut level.beside, &mut level.late] {
                if let Ok(at) = part.binary_search_by_key(&seq, |h| h.seq)
                    && let Some(hot) = part.get_mut(at)
                {
                    hot.location = to;
                    return true;
                }
            }
            if level.tail.contains(seq) {
                level.tail.remove(seq, 1);
                level.tail.insert_behind(seq, to, barrier);
                return true;
            }
        }
        false
    }

    /// The messages in memory.
    pub fn hot_mut(&mut self) -> impl Iterator<Item = &mut Hot> {
        self.levels
            .iter_mut()
            .flat_map(|level| [&mut level.head, &mut level.beside, &mut level.late])
            .flatten()
    }
}
