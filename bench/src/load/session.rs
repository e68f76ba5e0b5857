//! One load scenario from declaration to verdict.

use std::thread;

use super::consumer::Consumer;
use super::counters::{Counts, Shared};
use super::driver::{Link, LinkEnd, ThreadEnd, run_thread};
use super::pace::Pace;
use super::plan::Plan;
use super::producer::{Producer, Refused};
use super::topology::Topology;
use super::watch::{Goal, Outcome, Watch, Watched};
use crate::clock::now_ns;
use crate::error::{Error, Result};
use crate::integrity::{SentStream, judge};
use crate::net::Client;
use crate::stats::Latency;
use crate::stats::procfs::Broker;
use crate::wire::STAMP_BYTES;

/// What was sent to which queue: what a later drain is judged by.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Streams that feed each queue.
    pub routes: Vec<Vec<u32>>,
    /// Messages of each stream.
    pub sent: Vec<SentStream>,
}

impl Ledger {
    /// Nothing sent yet on the streams of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let topology = Topology::new(plan);
        Ledger {
            routes: topology.streams_by_queue(),
            sent: vec![SentStream::default(); topology.streams()],
        }
    }

    /// Deliveries that must happen.
    fn expected(&self) -> u64 {
        self.routes
            .iter()
            .flatten()
            .map(|&s| &self.sent[s as usize])
            .map(|s| s.sent - s.refused.len() as u64)
            .sum()
    }
}

/// Runs `plan` against the broker whose processes are `broker`.
///
/// # Errors
/// A connection failed, or the broker broke the protocol.
pub fn run(plan: &Plan, broker: &Broker, ledger: &mut Ledger, progress: bool) -> Result<Outcome> {
    let topology = Topology::new(plan);
    let mut control = Client::open(&plan.setup_uri)?;
    if !plan.reuse {
        topology.declare(&mut control)?;
    }
    let links = connect(plan, &topology)?;
    broker.reset_peaks();
    let start_ns = now_ns();
    let after = |s: f64| start_ns + (s * 1e9) as u64;
    let deadline_ns = if plan.time_s > 0.0 {
        after(plan.time_s)
    } else {
        u64::MAX
    };
    let mut shares: Vec<Vec<Link>> = (0..plan.threads).map(|_| Vec::new()).collect();
    share_out(plan, links, start_ns, &mut shares);
    shares.retain(|links| !links.is_empty());
    let shared = Shared::new(shares.len(), start_ns, after(plan.warmup_s), deadline_ns);
    let (watched, ends) = thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(n, links)| {
                let shared = &shared;
                scope.spawn(move || run_thread(n, links, shared))
            })
            .collect();
        let dead = || threads.iter().any(|t| t.is_finished());
        let watch = Watch {
            broker,
            goal: match (plan.consumers, plan.confirm_window) {
                (0, 0) => Goal::Sent,
                (0, _) => Goal::Confirmed,
                _ => Goal::Received,
            },
            publishes: plan.producers > 0,
            copies: topology.copies(),
            prior: ledger.expected(),
            drain_s: plan.drain_s,
            progress,
        };
        let watched = watch.run(&shared, dead);
        shared.finish();
        let ends: Result<Vec<ThreadEnd>> = threads
            .into_iter()
            .map(|t| {
                t.join()
                    .map_err(|_| Error::Failed("a load thread panicked".into()))?
            })
            .collect();
        (watched, ends)
    });
    let outcome = conclude(plan, ledger, watched, ends?);
    if !plan.keep {
        topology.delete(&mut control)?;
    }
    control.close()?;
    Ok(outcome)
}

fn connect(plan: &Plan, topology: &Topology<'_>) -> Result<Vec<Link>> {
    let mut links = Vec::with_capacity(plan.producers + plan.consumers);
    for c in 0..plan.consumers {
        let queues: Vec<(usize, String)> = topology
            .subscriptions(c)
            .into_iter()
            .map(|q| (q, topology.queue(q)))
            .collect();
        let client = Client::open(plan.uri(c))?;
        links.push(Link::Consumer(Box::new(Consumer::new(
            client, plan, &queues,
        )?)));
    }
    for p in 0..plan.producers {
        let client = Client::open(plan.uri(p))?;
        let producer = Producer::new(client, plan, p, &topology.routes(p))?;
        links.push(Link::Producer(Box::new(producer)));
    }
    Ok(links)
}

/// Producers to the first half of the threads, consumers to the second; one thread takes all.
fn share_out(plan: &Plan, links: Vec<Link>, start_ns: u64, shares: &mut [Vec<Link>]) {
    let threads = shares.len();
    let for_producers = if plan.consumers == 0 {
        threads
    } else {
        (threads / 2).max(1)
    };
    let first_consumer = if threads == 1 || plan.producers == 0 {
        0
    } else {
        for_producers
    };
    let (mut producers, mut consumers) = (0, 0);
    for mut link in links {
        let thread = match &mut link {
            Link::Producer(p) => {
                if plan.rate > 0.0 {
                    let phase = producers as f64 / plan.producers as f64;
                    p.set_pace(Pace::new(
                        start_ns,
                        plan.rate / plan.producers as f64,
                        phase,
                    ));
                }
                producers += 1;
                (producers - 1) % for_producers
            }
            Link::Consumer(_) => {
                consumers += 1;
                first_consumer + (consumers - 1) % (threads - first_consumer)
            }
        };
        shares[thread].push(link);
    }
}

fn conclude(plan: &Plan, ledger: &mut Ledger, watched: Watched, ends: Vec<ThreadEnd>) -> Outcome {
    let (mut confirm, mut end_to_end) = (Latency::new(), Latency::new());
    let mut logs = Vec::new();
    let mut totals = Counts::default();
    for end in ends {
        totals.add(&end.local.counts);
        confirm.add(end.local.confirm);
        end_to_end.add(end.local.end_to_end);
        for link in end.links {
            match link {
                LinkEnd::Consumer(seen) => logs.extend(seen),
                LinkEnd::Producer { sent, refused } => enter(ledger, sent, refused),
            }
        }
    }
    let judged = plan.consumers > 0 && plan.size >= STAMP_BYTES;
    let verdict = judged.then(|| judge(&ledger.routes, &ledger.sent, logs));
    watched.outcome(totals, confirm, end_to_end, verdict)
}

fn enter(ledger: &mut Ledger, sent: Vec<(u32, u64)>, refused: Refused) {
    for (stream, count) in sent {
        if let Some(entry) = ledger.sent.get_mut(stream as usize) {
            entry.sent += count;
        }
    }
    for (stream, seq) in refused {
        if let Some(entry) = ledger.sent.get_mut(stream as usize) {
            entry.refused.insert(seq);
        }
    }
}
