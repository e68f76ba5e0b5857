//! Did every message arrive, once, in order?
//!
//! Producers number their messages within *streams* (one producer on one route). Each subscription
//! keeps, per stream, a bit for every number it has seen and the highest one. At the end the
//! subscriptions of a queue are laid over each other and compared with what was sent.
//!
//! Order is judged per subscription: on a queue with several consumers each of them must see a
//! rising sequence. What the broker marks as redelivered is neither late nor a duplicate.

use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};

use crate::wire::Stamp;

/// Numbers in one lazily allocated piece of a [`Seen`] set.
const CHUNK: usize = 4096;
const WORDS: usize = CHUNK / 64;
/// Numbers from here on are no stamps of ours. Bounds the directory of a [`Seen`] set.
const SEQ_LIMIT: u64 = 1 << 36;

/// A set of sequence numbers, one bit each.
#[derive(Debug, Default)]
struct Seen {
    chunks: Vec<Option<Box<[u64; WORDS]>>>,
    count: u64,
}

impl Seen {
    /// Adds `seq`, which is below [`SEQ_LIMIT`]; false if it was there.
    #[inline]
    fn insert(&mut self, seq: u64) -> bool {
        let (chunk, bit) = ((seq / CHUNK as u64) as usize, seq as usize % CHUNK);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let words = self.chunks[chunk].get_or_insert_with(|| Box::new([0; WORDS]));
        let mask = 1u64 << (bit % 64);
        let fresh = words[bit / 64] & mask == 0;
        words[bit / 64] |= mask;
        self.count += u64::from(fresh);
        fresh
    }

    fn contains(&self, seq: u64) -> bool {
        let (chunk, bit) = ((seq / CHUNK as u64) as usize, seq as usize % CHUNK);
        self.chunks
            .get(chunk)
            .and_then(Option::as_ref)
            .is_some_and(|words| words[bit / 64] >> (bit % 64) & 1 == 1)
    }

    /// Adds all of `other`; says how many were there already.
    fn merge(&mut self, other: &Seen) -> u64 {
        let mut both = 0;
        if self.chunks.len() < other.chunks.len() {
            self.chunks.resize_with(other.chunks.len(), || None);
        }
        for (mine, theirs) in self.chunks.iter_mut().zip(&other.chunks) {
            let Some(theirs) = theirs else { continue };
            let mine = mine.get_or_insert_with(|| Box::new([0; WORDS]));
            for (m, t) in mine.iter_mut().zip(theirs.iter()) {
                both += u64::from((*m & t).count_ones());
                *m |= t;
            }
        }
        self.count += other.count - both;
        both
    }
}

/// What one subscription saw of one stream.
#[derive(Debug, Default)]
struct StreamLog {
    seen: Seen,
    /// One past the highest number delivered for the first time.
    next: u64,
    duplicated: u64,
    reordered: u64,
    redelivered: u64,
    /// Redelivered and not seen by this subscription before.
    redelivered_fresh: u64,
}

/// What one subscription saw. Lives in the consumer that owns the subscription.
#[derive(Debug, Default)]
pub struct SubscriptionLog {
    slots: FxHashMap<u32, usize>,
    streams: Vec<StreamLog>,
    last: Option<(u32, usize)>,
    corrupted: u64,
}

impl SubscriptionLog {
    /// Notes one delivery.
    #[inline]
    pub fn record(&mut self, stamp: Stamp, redelivered: bool) {
        if stamp.seq >= SEQ_LIMIT {
            self.corrupted += 1;
            return;
        }
        let slot = match self.last {
            Some((stream, slot)) if stream == stamp.stream => slot,
            _ => self.slot_of(stamp.stream),
        };
        let log = &mut self.streams[slot];
        let fresh = log.seen.insert(stamp.seq);
        if redelivered {
            log.redelivered += 1;
            log.redelivered_fresh += u64::from(fresh);
        } else if !fresh {
            log.duplicated += 1;
        } else if stamp.seq < log.next {
            log.reordered += 1;
        } else {
            log.next = stamp.seq + 1;
        }
    }

    /// Notes a delivery whose body is not what was sent.
    pub fn record_corrupted(&mut self) {
        self.corrupted += 1;
    }

    fn slot_of(&mut self, stream: u32) -> usize {
        let streams = &mut self.streams;
        let slot = *self.slots.entry(stream).or_insert_with(|| {
            streams.push(StreamLog::default());
            streams.len() - 1
        });
        self.last = Some((stream, slot));
        slot
    }
}

/// What was sent on one stream.
#[derive(Debug, Default, Clone)]
pub struct SentStream {
    /// Numbers `0..sent` were published.
    pub sent: u64,
    /// Those that the broker returned or nacked: they may be missing.
    pub refused: FxHashSet<u64>,
}

/// The finding over all queues. Counts are messages.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Deliveries that should have happened.
    pub expected: u64,
    /// Sent, not refused, and never delivered.
    pub lost: u64,
    /// Delivered again without the redelivered mark.
    pub duplicated: u64,
    /// Delivered after a later one of the same producer, queue and consumer.
    pub reordered: u64,
    /// Delivered with the redelivered mark. No fault by itself.
    pub redelivered: u64,
    /// Delivered from a queue that they were not sent to, or never sent at all.
    pub misrouted: u64,
    /// Body of the wrong length or content.
    pub corrupted: u64,
    /// Returned or nacked by the broker, and not delivered. No fault by itself.
    pub refused: u64,
}

impl Verdict {
    /// True if no fault was found.
    pub fn is_clean(&self) -> bool {
        [
            self.lost,
            self.duplicated,
            self.reordered,
            self.misrouted,
            self.corrupted,
        ]
        .iter()
        .all(|&n| n == 0)
    }
}

/// Compares what the subscriptions of each queue saw with what was sent to it.
///
/// `routes[q]` lists the streams that feed queue `q`; `logs` pairs each subscription with its queue;
/// `sent` is indexed by stream.
pub fn judge(
    routes: &[Vec<u32>],
    sent: &[SentStream],
    logs: Vec<(usize, SubscriptionLog)>,
) -> Verdict {
    let mut verdict = Verdict::default();
    let mut per_queue: Vec<FxHashMap<u32, StreamLog>> =
        routes.iter().map(|_| FxHashMap::default()).collect();
    for (queue, log) in logs {
        verdict.corrupted += log.corrupted;
        let mut streams: Vec<Option<StreamLog>> = log.streams.into_iter().map(Some).collect();
        for (stream, slot) in log.slots {
            let Some(log) = streams[slot].take() else {
                continue;
            };
            match per_queue[queue].entry(stream) {
                std::collections::hash_map::Entry::Vacant(e) => drop(e.insert(log)),
                std::collections::hash_map::Entry::Occupied(mut e) => merge(e.get_mut(), &log),
            }
        }
    }
    for (streams, mut logs) in routes.iter().zip(per_queue) {
        for &stream in streams {
            let sent = &sent[stream as usize];
            let log = logs.remove(&stream).unwrap_or_default();
            add_stream(&mut verdict, sent, &log);
        }
        verdict.misrouted += logs
            .values()
            .map(|log| log.seen.count + log.duplicated)
            .sum::<u64>();
    }
    verdict
}

fn merge(into: &mut StreamLog, from: &StreamLog) {
    let both = into.seen.merge(&from.seen);
    into.redelivered += from.redelivered;
    into.redelivered_fresh += from.redelivered_fresh;
    // A message that went to one consumer first and was redelivered to another is in both sets.
    let explained = both.min(into.redelivered_fresh);
    into.redelivered_fresh -= explained;
    into.duplicated += from.duplicated + both - explained;
    into.reordered += from.reordered;
}

fn add_stream(verdict: &mut Verdict, sent: &SentStream, log: &StreamLog) {
    let refused_missing = sent
        .refused
        .iter()
        .filter(|&&seq| seq < sent.sent && !log.seen.contains(seq))
        .count() as u64;
    let past_the_end = log.seen.count - count_below(&log.seen, sent.sent);
    verdict.expected += sent.sent - refused_missing;
    verdict.refused += refused_missing;
    verdict.misrouted += past_the_end;
    verdict.lost += sent.sent - refused_missing - (log.seen.count - past_the_end);
    verdict.duplicated += log.duplicated;
    verdict.reordered += log.reordered;
    verdict.redelivered += log.redelivered;
}

fn count_below(seen: &Seen, limit: u64) -> u64 {
    let highest = seen.chunks.len() as u64 * CHUNK as u64;
    if highest <= limit {
        return seen.count;
    }
    let past = (limit..highest).filter(|&seq| seen.contains(seq)).count() as u64;
    seen.count - past
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One queue, one stream of `sent` messages, and what each of its consumers saw.
    fn check(sent: u64, seen: &[&[u64]]) -> Verdict {
        let seen: Vec<Vec<(u64, bool)>> = seen
            .iter()
            .map(|s| s.iter().map(|&n| (n, false)).collect())
            .collect();
        check_marked(sent, &[], &seen)
    }

    fn check_marked(sent: u64, refused: &[u64], seen: &[Vec<(u64, bool)>]) -> Verdict {
        let logs = seen
            .iter()
            .map(|numbers| {
                let mut log = SubscriptionLog::default();
                for &(seq, redelivered) in numbers {
                    log.record(
                        Stamp {
                            stream: 0,
                            seq,
                            time_ns: 0,
                        },
                        redelivered,
                    );
                }
                (0, log)
            })
            .collect();
        let sent = SentStream {
            sent,
            refused: refused.iter().copied().collect(),
        };
        judge(&[vec![0]], &[sent], logs)
    }

    fn clean(expected: u64) -> Verdict {
        Verdict {
            expected,
            ..Verdict::default()
        }
    }

    #[test]
    fn all_in_order_is_clean() {
        let v = check(10_000, &[&(0..10_000).collect::<Vec<_>>()]);
        assert_eq!(v, clean(10_000));
        assert!(v.is_clean());
    }

    #[test]
    fn nothing_arrived_is_all_lost() {
        assert_eq!(
            check(5, &[&[]]),
            Verdict {
                lost: 5,
                ..clean(5)
            }
        );
        assert_eq!(
            check(5, &[]),
            Verdict {
                lost: 5,
                ..clean(5)
            }
        );
    }

    #[test]
    fn a_gap_and_a_missing_tail_are_lost() {
        let v = check(6, &[&[0, 1, 3, 4]]);
        assert_eq!(
            v,
            Verdict {
                lost: 2,
                ..clean(6)
            }
        );
        assert!(!v.is_clean());
    }

    #[test]
    fn a_loss_does_not_hide_behind_a_duplicate() {
        let v = check(4, &[&[0, 1, 1, 3]]);
        assert_eq!(
            v,
            Verdict {
                lost: 1,
                duplicated: 1,
                ..clean(4)
            }
        );
        assert!(!v.is_clean());
    }

    #[test]
    fn duplicates_within_and_across_consumers() {
        assert_eq!(
            check(3, &[&[0, 0, 1, 2]]),
            Verdict {
                duplicated: 1,
                ..clean(3)
            }
        );
        let v = check(3, &[&[0, 1], &[1, 2]]);
        assert_eq!(
            v,
            Verdict {
                duplicated: 1,
                ..clean(3)
            }
        );
        assert!(!v.is_clean());
    }

    #[test]
    fn late_messages_are_reordered() {
        let v = check(4, &[&[0, 2, 1, 3]]);
        assert_eq!(
            v,
            Verdict {
                reordered: 1,
                ..clean(4)
            }
        );
        assert!(!v.is_clean());
        assert_eq!(
            check(4, &[&[3, 2, 1, 0]]),
            Verdict {
                reordered: 3,
                ..clean(4)
            }
        );
    }

    #[test]
    fn competing_consumers_each_see_a_rising_part() {
        assert_eq!(check(6, &[&[0, 2, 4], &[1, 3, 5]]), clean(6));
    }

    #[test]
    fn marked_redelivery_is_no_fault_but_unmarked_is() {
        let v = check_marked(
            3,
            &[],
            &[vec![(0, false), (1, false), (0, true), (2, false)]],
        );
        assert_eq!(
            v,
            Verdict {
                redelivered: 1,
                ..clean(3)
            }
        );
        let v = check_marked(
            3,
            &[],
            &[vec![(0, false), (1, false)], vec![(1, true), (2, false)]],
        );
        assert_eq!(
            v,
            Verdict {
                redelivered: 1,
                ..clean(3)
            }
        );
        assert!(v.is_clean());
        let v = check_marked(
            3,
            &[],
            &[
                vec![(0, false), (1, false)],
                vec![(0, false), (1, true), (2, false)],
            ],
        );
        assert_eq!(
            v,
            Verdict {
                redelivered: 1,
                duplicated: 1,
                ..clean(3)
            }
        );
    }

    #[test]
    fn refused_may_be_missing_and_the_others_not() {
        let v = check_marked(4, &[1, 2], &[vec![(0, false), (2, false)]]);
        assert_eq!(
            v,
            Verdict {
                expected: 3,
                lost: 1,
                refused: 1,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn never_sent_or_sent_elsewhere_is_misrouted() {
        assert_eq!(
            check(2, &[&[0, 1, 2]]),
            Verdict {
                misrouted: 1,
                ..clean(2)
            }
        );
        let mut log = SubscriptionLog::default();
        log.record(
            Stamp {
                stream: 1,
                seq: 0,
                time_ns: 0,
            },
            false,
        );
        let one = SentStream {
            sent: 1,
            ..SentStream::default()
        };
        let v = judge(&[vec![0], vec![1]], &[one.clone(), one], vec![(0, log)]);
        assert_eq!(
            v,
            Verdict {
                lost: 2,
                misrouted: 1,
                ..clean(2)
            }
        );
        assert!(!v.is_clean());
    }

    #[test]
    fn garbage_numbers_are_corruption_not_memory() {
        let mut log = SubscriptionLog::default();
        log.record(
            Stamp {
                stream: 0,
                seq: SEQ_LIMIT,
                time_ns: 0,
            },
            false,
        );
        log.record_corrupted();
        let v = judge(&[vec![0]], &[SentStream::default()], vec![(0, log)]);
        assert_eq!(
            v,
            Verdict {
                corrupted: 2,
                ..Verdict::default()
            }
        );
        assert!(!v.is_clean());
    }

    #[test]
    fn every_queue_of_a_fanout_must_get_every_message() {
        let mut logs = Vec::new();
        for (queue, upto) in [(0, 3u64), (1, 2)] {
            let mut log = SubscriptionLog::default();
            for seq in 0..upto {
                log.record(
                    Stamp {
                        stream: 0,
                        seq,
                        time_ns: 0,
                    },
                    false,
                );
            }
            logs.push((queue, log));
        }
        let sent = SentStream {
            sent: 3,
            ..SentStream::default()
        };
        let v = judge(&[vec![0], vec![0]], &[sent], logs);
        assert_eq!(
            v,
            Verdict {
                lost: 1,
                ..clean(6)
            }
        );
    }
}
