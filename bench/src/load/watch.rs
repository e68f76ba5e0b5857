//! Watching a scenario while it runs, and the figures that come of it.
//!
//! The watcher sleeps most of the time: it reads counters that the load threads store, notes CPU
//! times at the borders of the measured span, and says when all is drained.

use std::io::Write;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counters::{Counts, Shared};
use crate::clock::{now_ns, seconds};
use crate::integrity::Verdict;
use crate::stats::procfs::{Broker, Cpu, Memory, own_cpu};
use crate::stats::{Latency, LatencySummary};

/// How often the watcher looks.
const WATCH: Duration = Duration::from_millis(10);
/// Length of a sample.
const SAMPLE_NS: u64 = 100_000_000;
/// A progress line is shown for so many samples together.
const SAMPLES_SHOWN: usize = 10;

/// A tenth of a second of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Its end, in seconds since the start.
    pub at_s: f64,
    /// Messages since the sample before.
    pub counts: Counts,
}

/// Figures of a run. Rates are messages per second; the warm-up is in none of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// From the end of the warm-up to the last progress, drain included, seconds.
    pub elapsed_s: f64,
    /// Messages in that time.
    pub counts: Counts,
    /// Messages of the whole run, warm-up included.
    pub totals: Counts,
    /// While publishing.
    pub sent_per_s: f64,
    /// While publishing.
    pub confirmed_per_s: f64,
    /// Over `elapsed_s`.
    pub received_per_s: f64,
    /// The figure that counts: delivered, or confirmed, or sent, whichever is last in the scenario.
    pub rate_per_s: f64,
    /// Publish to confirm.
    pub confirm: Option<LatencySummary>,
    /// Publish to delivery.
    pub end_to_end: Option<LatencySummary>,
    /// `None` if nothing consumed or messages are too small to be numbered.
    pub integrity: Option<Verdict>,
    /// CPU of the broker over `elapsed_s`; `None` if its processes are unknown.
    pub broker_cpu: Option<Cpu>,
    /// CPU seconds of the broker per million messages.
    pub broker_cpu_per_million: Option<f64>,
    /// Memory of the broker at the end.
    pub broker_memory: Option<Memory>,
    /// CPU of the generator over `elapsed_s`.
    pub generator_cpu: Cpu,
    /// CPU seconds of the generator per million messages.
    pub generator_cpu_per_million: f64,
    /// Of the CPU time that generator and broker used together; `None` if the broker's is unknown.
    pub generator_share: Option<f64>,
    /// Seconds in which the broker had at least one connection blocked.
    pub blocked_s: f64,
    /// From the start, a sample each tenth of a second.
    pub series: Vec<Sample>,
}

/// Which counter says how many messages went the whole way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Nothing consumes, nothing is confirmed.
    Sent,
    /// Nothing consumes.
    Confirmed,
    /// Consumers or callers are there.
    Received,
}

/// What the watcher must know of a scenario.
pub struct Watch<'a> {
    /// Its broker.
    pub broker: &'a Broker,
    /// Messages that are counted.
    pub goal: Goal,
    /// False for a mere drain.
    pub publishes: bool,
    /// Deliveries that each sent message leads to.
    pub copies: u64,
    /// Deliveries that are due from earlier scenarios.
    pub prior: u64,
    /// Seconds without progress, after publishing, that end the run.
    pub drain_s: f64,
    /// A line each second on stderr.
    pub progress: bool,
}

/// What the watcher noted.
pub struct Watched {
    measured: Snapshot,
    published: Snapshot,
    end: Snapshot,
    memory: Memory,
    blocked_s: f64,
    series: Vec<Sample>,
    goal: Goal,
}

#[derive(Clone, Copy)]
struct Snapshot {
    at_ns: u64,
    counts: Counts,
    broker: Cpu,
    own: Cpu,
}

impl Snapshot {
    fn take(shared: &Shared, broker: &Broker, at_ns: u64) -> Self {
        Snapshot {
            at_ns,
            counts: shared.counts(),
            broker: broker.cpu(),
            own: own_cpu(),
        }
    }
}

impl Watch<'_> {
    /// Looks on until publishing has ended and all is drained, or `dead` says that a thread failed.
    pub fn run(&self, shared: &Shared, dead: impl Fn() -> bool) -> Watched {
        let mut measured = Snapshot::take(shared, self.broker, shared.start_ns);
        let mut warming = shared.measure_from_ns > shared.start_ns;
        let mut published = None;
        let mut series = Series::new(shared.start_ns, self.progress);
        let mut blocked_s = 0.0;
        loop {
            thread::sleep(WATCH);
            let now = now_ns();
            blocked_s += if shared.blocked() > 0 {
                WATCH.as_secs_f64()
            } else {
                0.0
            };
            if warming && now >= shared.measure_from_ns {
                warming = false;
                measured = Snapshot::take(shared, self.broker, now);
            }
            series.look(shared, now);
            let sending = shared.active() > 0;
            let over = now >= shared.deadline_ns || !sending;
            if self.publishes && published.is_none() && over {
                published = Some(Snapshot::take(shared, self.broker, now));
            }
            let all_sent = published.is_some() || !self.publishes;
            if dead() || (all_sent && self.is_over(shared, sending, now)) {
                break;
            }
        }
        let at_ns = shared.progress_last_ns().max(measured.at_ns + 1);
        let end = Snapshot::take(shared, self.broker, at_ns);
        Watched {
            measured,
            published: published.unwrap_or(end),
            end,
            memory: self.broker.memory(),
            blocked_s,
            series: series.samples,
            goal: self.goal,
        }
    }

    /// Publishing has ended: is all there, or has nothing moved for too long?
    fn is_over(&self, shared: &Shared, waiting_for_confirms: bool, now: u64) -> bool {
        let counts = shared.counts();
        let refused = counts.nacked + counts.returned;
        let wanted = self.prior + (counts.sent * self.copies).saturating_sub(refused);
        let drained = self.goal != Goal::Received || counts.received >= wanted;
        let last_ns = shared.progress_last_ns().max(shared.start_ns);
        let idle_s = seconds(now.saturating_sub(last_ns));
        // What was refused may have been delivered all the same, and a duplicate may be under way
        // instead of a loss: both get a moment.
        let quiet = if refused > 0 {
            idle_s > 1.0
        } else {
            idle_s > 0.05
        };
        (!waiting_for_confirms && drained && quiet) || idle_s > self.drain_s
    }
}

/// The samples, and a line each second for people.
struct Series {
    start_ns: u64,
    next_ns: u64,
    last: Counts,
    progress: bool,
    shown: Counts,
    samples: Vec<Sample>,
}

impl Series {
    fn new(start_ns: u64, progress: bool) -> Self {
        Series {
            start_ns,
            next_ns: start_ns + SAMPLE_NS,
            last: Counts::default(),
            progress,
            shown: Counts::default(),
            samples: Vec::new(),
        }
    }

    fn look(&mut self, shared: &Shared, now: u64) {
        if now < self.next_ns {
            return;
        }
        let total = shared.counts();
        let at_s = seconds(now - self.start_ns);
        self.samples.push(Sample {
            at_s,
            counts: total.since(self.last),
        });
        self.last = total;
        self.next_ns += SAMPLE_NS;
        if self.progress && self.samples.len().is_multiple_of(SAMPLES_SHOWN) {
            let counts = total.since(self.shown);
            show_progress(&Sample { at_s, counts }, &total, shared.blocked());
            self.shown = total;
        }
    }
}

fn show_progress(second: &Sample, total: &Counts, blocked: u64) {
    let blocked = if blocked > 0 {
        format!("  BLOCKED {blocked}")
    } else {
        String::new()
    };
    let line = format!(
        "{:6.1} s  sent {:>9}/s  confirmed {:>9}/s  received {:>9}/s  total {} / {}{blocked}\n",
        second.at_s,
        second.counts.sent,
        second.counts.confirmed,
        second.counts.received,
        total.sent,
        total.received
    );
    // Progress is for people; a closed stderr is no reason to stop.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

impl Watched {
    /// The figures.
    pub fn outcome(
        self,
        totals: Counts,
        confirm: Latency,
        end_to_end: Latency,
        integrity: Option<Verdict>,
    ) -> Outcome {
        let Watched {
            measured,
            published,
            end,
            ..
        } = self;
        let counts = end.counts.since(measured.counts);
        let publishing = published.counts.since(measured.counts);
        let publishing_s = seconds(published.at_ns.saturating_sub(measured.at_ns)).max(1e-9);
        let elapsed_s = seconds(end.at_ns - measured.at_ns);
        let counted = match self.goal {
            Goal::Sent => counts.sent,
            Goal::Confirmed => counts.confirmed,
            Goal::Received => counts.received,
        };
        let per_million = |cpu: Cpu| cpu.total_s() * 1e6 / counted.max(1) as f64;
        let broker_known = end.broker.total_s() > 0.0;
        let broker_cpu = broker_known.then(|| end.broker.since(measured.broker));
        let generator_cpu = end.own.since(measured.own);
        Outcome {
            elapsed_s,
            counts,
            totals,
            sent_per_s: publishing.sent as f64 / publishing_s,
            confirmed_per_s: publishing.confirmed as f64 / publishing_s,
            received_per_s: counts.received as f64 / elapsed_s,
            rate_per_s: counted as f64 / elapsed_s,
            confirm: confirm.summary(),
            end_to_end: end_to_end.summary(),
            integrity,
            broker_cpu,
            broker_cpu_per_million: broker_cpu.map(per_million),
            broker_memory: broker_known.then_some(self.memory),
            generator_cpu,
            generator_cpu_per_million: per_million(generator_cpu),
            generator_share: broker_cpu
                .map(|broker| {
                    generator_cpu.total_s() / (generator_cpu.total_s() + broker.total_s())
                })
                .filter(|share| share.is_finite()),
            blocked_s: self.blocked_s,
            series: self.series,
        }
    }
}
