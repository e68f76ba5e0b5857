//! What a mirror has already of a snapshot that is to come: the live messages of its own replica, and those that came with a transfer that broke.
//!
//! A message is known by its queue and number: what is applied is committed, so the two name the same message on every mirror.
//! What was staged is in this node's journal, and stays there until a snapshot is installed, or nothing came for [`KEEP`].
//!
//! What a receiver has, as the sender is told: for each queue `queue u64 | count u32`, then `count` times `first u64 | length u32`, little-endian.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use leveret_cluster::reclaim::Live;
use leveret_queue::{Location, QueueId, Replica, Run, Seq};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// How long what was staged waits for the next transfer.
const KEEP: Duration = Duration::from_secs(600);
/// Bytes of what a receiver says that it has. What is beyond is sent again.
const HAVE_BYTES_MAX: usize = 16 << 20;
/// About what a staged message takes in its segment, for the decision which segments are mostly dead.
const MESSAGE_BYTES: u64 = 64;

/// Numbers that are there, in their order, none twice.
pub type Ranges = Vec<Range<Seq>>;

/// Adds a range to ranges that end before or in it.
fn add(ranges: &mut Ranges, range: Range<Seq>) {
    match ranges.last_mut() {
        Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
        _ => ranges.push(range),
    }
}

/// In order, each number once.
fn merged(mut ranges: Ranges) -> Ranges {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out = Ranges::new();
    for range in ranges {
        add(&mut out, range);
    }
    out
}

/// What of `range` is not in `known`, which is in order.
pub fn without(range: Range<Seq>, known: &[Range<Seq>]) -> Ranges {
    let mut out = Ranges::new();
    let mut from = range.start;
    let first = known.partition_point(|k| k.end <= range.start);
    for k in known.iter().skip(first) {
        if k.start >= range.end {
            break;
        }
        if from < k.start {
            out.push(from..k.start);
        }
        from = k.end;
    }
    if from < range.end {
        out.push(from..range.end);
    }
    out
}

/// The runs of a queue's live messages.
pub fn runs(replica: &Replica, queue: QueueId) -> impl Iterator<Item = Run> + '_ {
    let levels = replica.queue(queue).map(|state| state.levels.iter());
    levels
        .into_iter()
        .flatten()
        .flat_map(|level| level.runs())
        .copied()
}

/// What was staged of one group.
#[derive(Default)]
struct Staged {
    places: FxHashMap<QueueId, BTreeMap<Seq, Location>>,
    touched: Option<Instant>,
    last: Option<leveret_storage::Location>,
    /// What was said to be there was not: the next snapshot is to come whole.
    whole: bool,
}

/// See the module.
#[derive(Default)]
pub struct Staging(Mutex<Staged>);

impl Staging {
    /// A message is in the record at `at`.
    pub fn put(&self, queue: QueueId, seq: Seq, at: leveret_storage::Location) {
        let mut staged = self.0.lock();
        let place = Location(at.to_u64());
        staged.places.entry(queue).or_default().insert(seq, place);
        staged.touched = Some(Instant::now());
        staged.last = staged.last.max(Some(at));
    }

    /// The last record that was staged.
    pub fn last(&self) -> Option<leveret_storage::Location> {
        self.0.lock().last
    }

    /// Where the messages of a queue with these numbers are, of those that were staged.
    pub fn places(&self, queue: QueueId, range: Range<Seq>) -> Vec<(Seq, Location)> {
        let staged = self.0.lock();
        let of = staged.places.get(&queue);
        let of = of
            .into_iter()
            .flat_map(|places| places.range(range.clone()));
        of.map(|(seq, place)| (*seq, *place)).collect()
    }

    /// A snapshot was installed: nothing of it is needed any more.
    pub fn clear(&self) {
        *self.0.lock() = Staged::default();
    }

    /// Something was not there: the next snapshot is to come whole.
    pub fn distrust(&self) {
        *self.0.lock() = Staged {
            whole: true,
            ..Staged::default()
        };
    }

    /// Adds the segments that what was staged is in.
    pub fn live(&self, out: &mut BTreeMap<u32, Live>) {
        let mut staged = self.0.lock();
        if staged.touched.is_some_and(|at| at.elapsed() >= KEEP) {
            *staged = Staged::default();
        }
        for place in staged.places.values().flat_map(|places| places.values()) {
            let live = out.entry(place.segment()).or_default();
            live.messages += 1;
            live.bytes += MESSAGE_BYTES;
        }
    }

    /// What is here already, of the own replica and of what was staged.
    pub fn have(&self, own: &Replica) -> Bytes {
        let staged = self.0.lock();
        let mut queues: BTreeMap<QueueId, Ranges> = BTreeMap::new();
        if !staged.whole {
            for (queue, _) in own.queues() {
                let ranges: Ranges = runs(own, queue).map(|run| run.first..run.end()).collect();
                queues.insert(queue, ranges);
            }
            for (queue, places) in &staged.places {
                let ranges = queues.entry(*queue).or_default();
                ranges.extend(places.keys().map(|seq| *seq..*seq + 1));
            }
        }
        encode(queues)
    }
}

fn encode(queues: BTreeMap<QueueId, Ranges>) -> Bytes {
    let mut out = Vec::new();
    for (queue, ranges) in queues {
        let mut ranges = merged(ranges);
        let room = (HAVE_BYTES_MAX - out.len().min(HAVE_BYTES_MAX)) / 12;
        ranges.truncate(room.saturating_sub(1));
        ranges.retain(|range| u32::try_from(range.end - range.start).is_ok());
        if ranges.is_empty() {
            continue;
        }
        out.extend_from_slice(&queue.to_le_bytes());
        out.extend_from_slice(&(ranges.len() as u32).to_le_bytes());
        for range in ranges {
            out.extend_from_slice(&range.start.to_le_bytes());
            out.extend_from_slice(&((range.end - range.start) as u32).to_le_bytes());
        }
    }
    Bytes::from(out)
}

/// What a receiver has.
///
/// # Errors
/// These bytes do not say.
pub fn decode(have: &[u8]) -> io::Result<FxHashMap<QueueId, Ranges>> {
    let short = || io::Error::other("what a mirror has cannot be understood");
    let mut queues = FxHashMap::default();
    let mut rest = have;
    while !rest.is_empty() {
        let (queue, behind) = rest.split_first_chunk::<8>().ok_or_else(short)?;
        let (count, behind) = behind.split_first_chunk::<4>().ok_or_else(short)?;
        rest = behind;
        let mut ranges = Ranges::new();
        for _ in 0..u32::from_le_bytes(*count) {
            let (first, behind) = rest.split_first_chunk::<8>().ok_or_else(short)?;
            let (length, behind) = behind.split_first_chunk::<4>().ok_or_else(short)?;
            rest = behind;
            let first = u64::from_le_bytes(*first);
            let end = first.checked_add(u64::from(u32::from_le_bytes(*length)));
            ranges.push(first..end.ok_or_else(short)?);
        }
        queues.insert(u64::from_le_bytes(*queue), merged(ranges));
    }
    Ok(queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u32) -> leveret_storage::Location {
        leveret_storage::Location::new(7, offset)
    }

    #[test]
    fn what_is_had_is_told_and_left_out() {
        let staging = Staging::default();
        for seq in [4, 5, 9, 6] {
            staging.put(1, seq, at(seq as u32 * 8));
        }
        staging.put(3, 1, at(8));
        let have = staging.have(&Replica::new());
        let queues = decode(&have).expect("ranges");
        assert_eq!(queues[&1], vec![4..7, 9..10]);
        assert_eq!(queues[&3], vec![1..2]);
        assert_eq!(without(0..12, &queues[&1]), vec![0..4, 7..9, 10..12]);
        assert_eq!(without(5..7, &queues[&1]), Ranges::new());
        assert_eq!(without(7..9, &queues[&1]), vec![7..9]);
        assert_eq!(without(2..3, &[]), vec![2..3]);
        for cut in 1..have.len() {
            assert!(decode(&have[..cut]).is_err() || cut == 36, "{cut}");
        }
    }

    #[test]
    fn what_was_staged_stays_until_it_is_installed_or_found_wrong() {
        let staging = Staging::default();
        staging.put(1, 4, at(64));
        assert_eq!(staging.places(1, 0..9), [(4, Location(at(64).to_u64()))]);
        let mut live = BTreeMap::new();
        staging.live(&mut live);
        assert_eq!(live.keys().copied().collect::<Vec<_>>(), [7]);
        assert_eq!(staging.last(), Some(at(64)));
        staging.distrust();
        staging.put(1, 5, at(72));
        assert!(staging.have(&Replica::new()).is_empty());
        staging.clear();
        staging.put(1, 5, at(72));
        assert!(!staging.have(&Replica::new()).is_empty());
    }
}
