//! How fast numbers grow: samples of every five seconds, kept for ten minutes.
//!
//! Node-wide numbers are kept in full. Those of queues are kept only where they changed, and all together at most
//! [`QUEUE_SAMPLES_MAX`] of them, so that ten thousand idle queues cost next to nothing.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use serde_json::{Map, Value, json};

use crate::broker::{Broker, NodeReport, QueueReport, Reach};
use crate::reply::{Failure, Result};
use crate::stats::{Churn, MessageStats};

/// Between samples; RabbitMQ's `collect_statistics_interval`.
pub const INTERVAL_MS: u64 = 5_000;
/// Samples that are kept of a number: ten minutes.
const SAMPLES_MAX: usize = 121;
/// Samples of all queues together: some 25 MB.
const QUEUE_SAMPLES_MAX: usize = 200_000;
/// Most samples of an answer.
const RANGE_MAX: u64 = 500;

/// Numbers over time: each sample holds from its time on, until the next one.
#[derive(Debug)]
pub struct Series<const N: usize> {
    samples: VecDeque<(u64, [u64; N])>,
    /// When it was looked at last, whatever was seen.
    seen_ms: u64,
    /// And the time before that; 0: never.
    seen_before_ms: u64,
}

impl<const N: usize> Default for Series<N> {
    fn default() -> Self {
        Series {
            samples: VecDeque::new(),
            seen_ms: 0,
            seen_before_ms: 0,
        }
    }
}

/// The window that an answer is to cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Seconds back.
    age_s: u64,
    /// Seconds between samples.
    incr_s: u64,
}

impl Range {
    /// What `msg_rates_age` and `msg_rates_incr` (and so on) say; `None` if they say nothing.
    ///
    /// # Errors
    /// 400 for windows without length and those of too many samples.
    pub fn of(query: &[(String, String)], kind: &str) -> Result<Option<Range>> {
        let number = |end: &str| -> Option<i64> {
            let name = format!("{kind}_{end}");
            let (_, text) = query.iter().find(|(key, _)| *key == name)?;
            text.parse().ok()
        };
        let (Some(age), Some(incr)) = (number("age"), number("incr")) else {
            return Ok(None);
        };
        match (u64::try_from(age), u64::try_from(incr)) {
            (Ok(age_s @ 1..), Ok(incr_s @ 1..)) if age_s / incr_s <= RANGE_MAX => {
                Ok(Some(Range { age_s, incr_s }))
            }
            _ => {
                let reason = format!("Invalid range parameters: age {age}, incr {incr}");
                Err(Failure::bad_request(reason))
            }
        }
    }
}

impl<const N: usize> Series<N> {
    /// What was seen now. A sample that equals the one before is not kept.
    fn push(&mut self, now_ms: u64, values: [u64; N], samples_max: usize) {
        (self.seen_before_ms, self.seen_ms) = (self.seen_ms, now_ms);
        if self.samples.back().is_some_and(|(_, last)| *last == values) {
            return;
        }
        self.samples.push_back((now_ms, values));
        while self.samples.len() > samples_max.max(2) {
            self.samples.pop_front();
        }
    }

    /// The number `at` this time; the earliest that is known for what was before.
    fn at(&self, ms: u64, at: usize) -> u64 {
        let after = self.samples.partition_point(|(when, _)| *when <= ms);
        let sample = self.samples.get(after.saturating_sub(1));
        sample.map_or(0, |(_, values)| values.get(at).copied().unwrap_or(0))
    }

    /// Growth a second between the last two looks.
    pub fn rate(&self, at: usize) -> f64 {
        let span_ms = self.seen_ms.saturating_sub(self.seen_before_ms);
        if span_ms == 0 || self.seen_before_ms == 0 {
            return 0.0;
        }
        let last = self.at(self.seen_ms, at) as f64;
        let before = self.at(self.seen_before_ms, at) as f64;
        (last - before) / (span_ms as f64 / 1000.0)
    }

    /// RabbitMQ's `..._details`.
    pub fn details(&self, at: usize, range: Option<Range>) -> Value {
        self.details_with(at, range, false)
    }

    /// The same of what only grows: where it shrank, it began anew elsewhere.
    fn growing_details(&self, at: usize, range: Option<Range>) -> Value {
        self.details_with(at, range, true)
    }

    fn details_with(&self, at: usize, range: Option<Range>, grows: bool) -> Value {
        let least = if grows { 0.0 } else { f64::NEG_INFINITY };
        let rate = self.rate(at).max(least);
        let Some(range) = range else {
            return json!({"rate": rate});
        };
        let incr_ms = range.incr_s * 1000;
        let last_ms = self.seen_ms / incr_ms * incr_ms;
        let count = range.age_s / range.incr_s + 1;
        let mut samples = Vec::with_capacity(count as usize);
        for back in 0..count {
            let Some(ms) = last_ms.checked_sub(back * incr_ms) else {
                break;
            };
            samples.push((ms, self.at(ms, at)));
        }
        let (newest, oldest) = (samples.first().copied(), samples.last().copied());
        let grown = match (newest, oldest) {
            (Some((_, new)), Some((_, old))) => new as f64 - old as f64,
            _ => 0.0,
        };
        let sum: u64 = samples.iter().map(|(_, value)| *value).sum();
        let list: Vec<Value> = samples
            .iter()
            .map(|(ms, value)| json!({"sample": value, "timestamp": ms}))
            .collect();
        json!({
            "rate": rate,
            "samples": list,
            "avg_rate": grown.max(least) / range.age_s as f64,
            "avg": sum as f64 / samples.len().max(1) as f64,
        })
    }
}

/// Messages of a queue: all, ready, unacknowledged.
pub const DEPTHS: &[&str] = &["messages", "messages_ready", "messages_unacknowledged"];

const STATS: usize = MessageStats::NAMES.len();
const WITH_DEPTHS: usize = STATS + 3;
const CHURN: usize = Churn::NAMES.len();

fn with_depths(stats: [u64; STATS], ready: u64, unacked: u64) -> [u64; WITH_DEPTHS] {
    let mut all = [0; WITH_DEPTHS];
    all[..STATS].copy_from_slice(&stats);
    all[STATS..].copy_from_slice(&[ready + unacked, ready, unacked]);
    all
}

/// Messages by what happened to them, then [`DEPTHS`].
pub type Messages = Series<WITH_DEPTHS>;

/// Adds `name` and `name_details` of a message's numbers; those of `names` only.
pub fn put_stats(
    out: &mut Map<String, Value>,
    stats: &MessageStats,
    series: Option<&Messages>,
    range: Option<Range>,
    names: &[&str],
) {
    let values = stats.values();
    for (at, name) in MessageStats::NAMES.iter().enumerate() {
        if !names.contains(name) {
            continue;
        }
        let value = values.get(at).copied().unwrap_or(0);
        out.insert((*name).to_owned(), json!(value));
        let details = match series {
            Some(series) => series.growing_details(at, range),
            None => Messages::default().growing_details(at, range),
        };
        out.insert(format!("{name}_details"), details);
    }
}

/// Adds the depths and how they change.
pub fn put_depths(
    out: &mut Map<String, Value>,
    (ready, unacked): (u64, u64),
    series: Option<&Messages>,
    range: Option<Range>,
) {
    let values = [ready + unacked, ready, unacked];
    for ((at, name), value) in DEPTHS.iter().enumerate().zip(values) {
        out.insert((*name).to_owned(), json!(value));
        out.insert(
            format!("{name}_details"),
            details(series, STATS + at, range),
        );
    }
}

fn details<const N: usize>(series: Option<&Series<N>>, at: usize, range: Option<Range>) -> Value {
    match series {
        Some(series) => series.details(at, range),
        None => Series::<N>::default().details(at, range),
    }
}

/// What was seen at a time.
#[derive(Debug)]
pub struct Seen {
    now_ms: u64,
    queues: FxHashMap<u64, QueueReport>,
    nodes: Vec<NodeReport>,
}

/// Sums of counters of all nodes. They never shrink: a node that is down, or was started again, takes nothing away.
#[derive(Debug)]
struct Sums<const N: usize> {
    seen: FxHashMap<String, [u64; N]>,
    sums: [u64; N],
}

impl<const N: usize> Default for Sums<N> {
    fn default() -> Self {
        Sums {
            seen: FxHashMap::default(),
            sums: [0; N],
        }
    }
}

impl<const N: usize> Sums<N> {
    /// What a node counts now. What it had counted when it was seen for the first time happened before.
    fn add(&mut self, node: &str, now: [u64; N]) {
        let Some(before) = self.seen.insert(node.to_owned(), now) else {
            return;
        };
        for ((sum, now), before) in self.sums.iter_mut().zip(now).zip(before) {
            *sum += now.checked_sub(before).unwrap_or(now);
        }
    }
}

/// The samples of a cluster.
#[derive(Debug, Default)]
pub struct Samples {
    /// Of all nodes together.
    pub messages: Messages,
    message_sums: Sums<STATS>,
    churn: Series<CHURN>,
    churn_sums: Sums<CHURN>,
    queues: FxHashMap<u64, Messages>,
    /// Bytes of memory, bytes of free disk, file descriptors, by node.
    nodes: FxHashMap<String, Series<3>>,
}

impl Samples {
    /// Looks at everything: may take a moment, so nothing is held meanwhile.
    pub fn look(broker: &dyn Broker) -> Seen {
        broker.sample();
        Seen {
            now_ms: broker.now_ms(),
            queues: broker.queues(Reach::Everywhere),
            nodes: broker.nodes(),
        }
    }

    /// Adds what was seen.
    pub fn take(&mut self, seen: Seen) {
        let Seen {
            now_ms,
            queues,
            nodes,
        } = seen;
        for node in nodes.iter().filter(|node| node.running) {
            self.message_sums.add(&node.name, node.stats.values());
            self.churn_sums.add(&node.name, node.churn.values());
            let series = self.nodes.entry(node.name.clone()).or_default();
            let values = [node.mem_used, node.disk_free, node.fd_used];
            series.push(now_ms, values, SAMPLES_MAX);
        }
        let (ready, unacked) = depths(queues.values());
        let values = with_depths(self.message_sums.sums, ready, unacked);
        self.messages.push(now_ms, values, SAMPLES_MAX);
        self.churn.push(now_ms, self.churn_sums.sums, SAMPLES_MAX);
        let samples_max = (QUEUE_SAMPLES_MAX / queues.len().max(1)).min(SAMPLES_MAX);
        self.queues.retain(|id, _| queues.contains_key(id));
        for (id, queue) in &queues {
            let values = with_depths(queue.stats.values(), queue.ready, queue.unacked);
            let series = self.queues.entry(*id).or_default();
            series.push(now_ms, values, samples_max);
        }
    }

    /// A queue's.
    pub fn queue(&self, id: u64) -> Option<&Messages> {
        self.queues.get(&id)
    }

    /// Adds what came and went.
    pub fn put_churn(&self, out: &mut Map<String, Value>, churn: &Churn, range: Option<Range>) {
        let values = churn.values();
        for ((at, name), value) in Churn::NAMES.iter().enumerate().zip(values) {
            out.insert((*name).to_owned(), json!(value));
            out.insert(format!("{name}_details"), self.churn.details(at, range));
        }
    }

    /// Adds how a node's resources change.
    pub fn put_node(&self, out: &mut Map<String, Value>, name: &str, range: Option<Range>) {
        let series = self.nodes.get(name);
        for (at, name) in ["mem_used", "disk_free", "fd_used"].iter().enumerate() {
            out.insert(format!("{name}_details"), details(series, at, range));
        }
    }
}

/// Ready and unacknowledged messages of all of them.
pub fn depths<'a>(queues: impl Iterator<Item = &'a QueueReport>) -> (u64, u64) {
    queues.fold((0, 0), |(ready, unacked), queue| {
        (ready + queue.ready, unacked + queue.unacked)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_the_last_interval() {
        let mut series = Series::<1>::default();
        assert_eq!(series.rate(0), 0.0);
        series.push(10_000, [0], SAMPLES_MAX);
        assert_eq!(series.rate(0), 0.0);
        series.push(15_000, [100], SAMPLES_MAX);
        assert_eq!(series.rate(0), 20.0);
        series.push(20_000, [600], SAMPLES_MAX);
        assert_eq!(series.rate(0), 100.0);
        // Nothing more comes.
        series.push(25_000, [600], SAMPLES_MAX);
        assert_eq!(series.rate(0), 0.0);
        assert_eq!(series.samples.len(), 3);
    }

    #[test]
    fn windows_have_a_sample_for_each_step() {
        let mut series = Series::<1>::default();
        for step in 0..=12 {
            series.push(step * 5_000, [step * 10], SAMPLES_MAX);
        }
        let query = crate::text::query("msg_rates_age=60&msg_rates_incr=5");
        let range = Range::of(&query, "msg_rates").unwrap();
        let details = series.details(0, range);
        let samples = details["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 13);
        assert_eq!(samples[0], json!({"sample": 120, "timestamp": 60_000}));
        assert_eq!(samples[12], json!({"sample": 0, "timestamp": 0}));
        assert_eq!(details["avg_rate"], 2.0);
    }

    #[test]
    fn windows_are_bounded() {
        let of = |text: &str| Range::of(&crate::text::query(text), "lengths");
        assert_eq!(of("msg_rates_age=1&msg_rates_incr=1").unwrap(), None);
        assert!(of("lengths_age=500&lengths_incr=1").unwrap().is_some());
        for bad in [
            "age=10&lengths_incr=0",
            "age=0&lengths_incr=1",
            "age=502&lengths_incr=1",
        ] {
            assert_eq!(of(&format!("lengths_{bad}")).unwrap_err().status, 400);
        }
    }

    #[test]
    fn sums_outlive_nodes() {
        let mut sums = Sums::<1>::default();
        for (node, now, sum) in [
            ("a", 100, 0),
            ("b", 50, 0),
            ("a", 110, 10),
            // It began anew.
            ("b", 7, 17),
            ("a", 110, 17),
        ] {
            sums.add(node, [now]);
            assert_eq!(sums.sums, [sum], "{node} {now}");
        }
    }

    #[test]
    fn what_only_grows_has_no_negative_rate() {
        let mut series = Messages::default();
        for (ms, count) in [(5_000, 900), (10_000, 3)] {
            series.push(ms, [count; WITH_DEPTHS], SAMPLES_MAX);
        }
        let mut out = Map::new();
        put_stats(
            &mut out,
            &MessageStats::default(),
            Some(&series),
            None,
            &["ack"],
        );
        assert_eq!(out["ack_details"]["rate"], 0.0);
        put_depths(&mut out, (1, 2), Some(&series), None);
        assert!(out["messages_details"]["rate"].as_f64().unwrap() < 0.0);
    }

    #[test]
    fn old_samples_go() {
        let mut series = Series::<1>::default();
        for n in 0..1000 {
            series.push(n * INTERVAL_MS, [n], 10);
        }
        assert_eq!(series.samples.len(), 10);
        assert_eq!(series.at(0, 0), 990);
    }
}
