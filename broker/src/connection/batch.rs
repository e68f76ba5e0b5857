//! What one read of a socket adds up to, before it is submitted.

use std::sync::Arc;

use leveret_cluster::GroupId;
use leveret_queue::entry::MemoryGauge;
use leveret_queue::{EntryBuilder, QueueId, UnackedRange};
use leveret_storage::Location;

use crate::mirror::session::Refused;
use crate::node::{Settle, SettleRange};

/// An entry is submitted when it has grown to this size.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;

/// A publish in confirm mode, to find its tag when a queue refuses it.
#[derive(Clone, Copy, Debug)]
pub struct Mark {
    /// The op in its group's entry.
    pub op: u32,
    /// The channel that it came on.
    pub channel: u16,
    /// Its confirm tag.
    pub tag: u64,
}

/// A part of a batch that a session has taken: it is safe once the session is committed up to the number.
#[derive(Clone, Debug)]
pub struct InSession {
    /// The group.
    pub group: GroupId,
    /// The number of the part.
    pub number: u64,
    /// Publishes in it that are to be confirmed, in the order of their ops.
    pub marks: Arc<[Mark]>,
    /// Ops among them that queues refused, once it is safe.
    pub refused: Refused,
}

/// What is collected for one group.
#[derive(Debug, Default)]
pub struct GroupBatch {
    /// Messages.
    pub entry: Option<EntryBuilder>,
    /// Publishes of the entry that are to be confirmed, in the order of their ops.
    pub marks: Vec<Mark>,
    /// Settled deliveries.
    pub settles: Vec<SettleRange>,
    size_hint: usize,
}

impl GroupBatch {
    /// The entry, begun if need be.
    #[inline]
    pub fn entry(&mut self, gauge: &MemoryGauge) -> &mut EntryBuilder {
        let hint = self.size_hint;
        self.entry
            .get_or_insert_with(|| EntryBuilder::with_buffer(gauge.take_buffer(hint)))
    }

    /// Remembers the size for the next entry.
    pub fn taken(&mut self, bytes: usize) {
        // Follows growth at once and shrinking slowly.
        self.size_hint = bytes
            .max(self.size_hint - self.size_hint / 4)
            .min(ENTRY_BYTES_MAX);
    }
}

/// The tags of a channel in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Confirmed {
    /// The channel.
    pub channel: u16,
    /// The first.
    pub first: u64,
    /// The last.
    pub tag: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Batch {
    /// One for each group that the connection has used: a handful, in the order of their first use.
    groups: Vec<(GroupId, GroupBatch)>,
    /// Groups with something in them.
    pub touched: Vec<GroupId>,
    /// What is to be confirmed once the batch is safe.
    pub confirms: Vec<Confirmed>,
    /// Tags that a queue refused: (channel, tag).
    pub nacks: Vec<(u16, u64)>,
    /// The last record of messages that the batch appended so far.
    pub at: Option<Location>,
    /// Parts of it that sessions have taken.
    pub sessions: Vec<InSession>,
    /// The last record of acknowledgements likewise.
    pub settled: Option<Location>,
    /// Bytes that it appended.
    pub bytes: usize,
    /// The journal refused a part of it.
    pub failed: bool,
}

impl Batch {
    /// Nothing to submit or confirm.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.touched.is_empty() && self.confirms.is_empty()
    }

    /// The part of a group.
    #[inline]
    pub fn group(&mut self, id: GroupId) -> &mut GroupBatch {
        let at = self.place(id);
        let group = &mut self.groups[at].1;
        if group.entry.is_none() && group.settles.is_empty() && !self.touched.contains(&id) {
            self.touched.push(id);
        }
        group
    }

    /// The part of a group that is being submitted.
    pub fn submitting(&mut self, id: GroupId) -> &mut GroupBatch {
        let at = self.place(id);
        &mut self.groups[at].1
    }

    #[inline]
    fn place(&mut self, id: GroupId) -> usize {
        let found = self.groups.iter().position(|(group, _)| *group == id);
        found.unwrap_or_else(|| {
            self.groups.push((id, GroupBatch::default()));
            self.groups.len() - 1
        })
    }

    /// Takes the emptied vectors of a submitted part back, for their room.
    pub fn give_back(&mut self, id: GroupId, mut marks: Vec<Mark>, mut settles: Vec<SettleRange>) {
        marks.clear();
        settles.clear();
        let group = self.submitting(id);
        if marks.capacity() <= 1024 {
            group.marks = marks;
        }
        if settles.capacity() <= 1024 {
            group.settles = settles;
        }
    }

    /// Notes a record that a part of the batch was appended as.
    pub fn note(&mut self, at: Location, bytes: usize) {
        self.at = self.at.max(Some(at));
        self.bytes += bytes;
    }

    /// Adds a settled delivery; neighbours become ranges.
    #[inline]
    pub fn settle(&mut self, group: GroupId, queue: QueueId, how: Settle, range: UnackedRange) {
        let settles = &mut self.group(group).settles;
        if let Some(last) = settles.last_mut()
            && last.queue == queue
            && last.how == how
            && last.range.slot == range.slot
            && last.range.first + u64::from(last.range.count) == range.first
        {
            last.range.count += range.count;
            return;
        }
        settles.push(SettleRange { queue, how, range });
    }

    /// Notes a publish of a channel in confirm mode.
    #[inline]
    pub fn confirm(&mut self, channel: u16, tag: u64) {
        match self
            .confirms
            .iter_mut()
            .rev()
            .find(|c| c.channel == channel)
        {
            Some(confirmed) => confirmed.tag = tag,
            None => self.confirms.push(Confirmed {
                channel,
                first: tag,
                tag,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leveret_queue::{ConsumerSlot, ConsumerSpec, Machine, Settings};

    use super::*;

    fn slots<const N: usize>() -> [ConsumerSlot; N] {
        let mut machine = Machine::new(1);
        machine.create(1, Settings::default(), 0);
        std::array::from_fn(|_| {
            let spec = ConsumerSpec {
                link: Arc::new(()),
                handle: 0,
                no_ack: false,
                exclusive: false,
                priority: 0,
                prefetch: 0,
                limiter: None,
                passive: true,
            };
            machine.consume(1, spec, 0).expect("the queue is there")
        })
    }

    fn range(slot: ConsumerSlot, first: u64) -> UnackedRange {
        UnackedRange {
            slot,
            first,
            count: 1,
        }
    }

    #[test]
    fn neighbours_that_are_settled_alike_become_one_range() {
        let [a, b] = slots();
        let mut batch = Batch::default();
        for (queue, how, slot, number) in [
            (1, Settle::Ack, a, 1),
            (1, Settle::Ack, a, 2),
            (1, Settle::Ack, a, 3),
            // A gap, another holder, another way, another queue.
            (1, Settle::Ack, a, 5),
            (1, Settle::Ack, b, 6),
            (1, Settle::Drop, b, 7),
            (2, Settle::Drop, b, 8),
        ] {
            batch.settle(3, queue, how, range(slot, number));
        }
        let settles = &batch.group(3).settles;
        let ranges: Vec<_> = settles
            .iter()
            .map(|s| (s.range.first, s.range.count))
            .collect();
        assert_eq!(ranges, [(1, 3), (5, 1), (6, 1), (7, 1), (8, 1)]);
        assert_eq!(batch.touched, [3]);
    }

    #[test]
    fn a_group_is_submitted_once_however_often_it_is_used() {
        let [slot] = slots();
        let gauge = MemoryGauge::default();
        let mut batch = Batch::default();
        assert!(batch.is_empty());
        batch.group(2).entry(&gauge);
        batch.settle(2, 1, Settle::Ack, range(slot, 1));
        batch.settle(1, 1, Settle::Ack, range(slot, 1));
        batch.group(2).entry(&gauge);
        // Its full entry was submitted before the rest of the batch.
        batch.group(2).entry.take();
        batch.group(2).settles.clear();
        batch.group(2).entry(&gauge);
        assert_eq!(batch.touched, [2, 1]);
        assert!(!batch.is_empty());
    }

    #[test]
    fn only_groups_that_are_used_have_a_place() {
        let gauge = MemoryGauge::default();
        let mut batch = Batch::default();
        for group in [767, 256, 767, 511] {
            batch.group(group).entry(&gauge);
        }
        assert_eq!(batch.groups.len(), 3);
        assert_eq!(batch.touched, [767, 256, 511]);
    }

    #[test]
    fn tags_of_a_channel_are_one_range() {
        let mut batch = Batch::default();
        for (channel, tag) in [(1, 1), (1, 2), (2, 9), (1, 3), (2, 10)] {
            batch.confirm(channel, tag);
        }
        let ranges: Vec<_> = batch
            .confirms
            .iter()
            .map(|c| (c.channel, c.first, c.tag))
            .collect();
        assert_eq!(ranges, [(1, 1, 3), (2, 9, 10)]);
    }

    #[test]
    fn the_last_place_counts() {
        let mut batch = Batch::default();
        let (early, late) = (Location::new(1, 64), Location::new(2, 64));
        batch.note(late, 10);
        batch.note(early, 5);
        assert_eq!((batch.at, batch.bytes), (Some(late), 15));
    }
}
