//! RPC shaped like oslo.messaging over AMQP 0-9-1.
//!
//! - The request goes through a topic exchange to the one queue of all servers: persistent,
//!   with an expiration, confirmed; the caller waits for the confirm and for the reply.
//! - Servers take requests from a listening connection and acknowledge each at once. Replies leave
//!   on connections of their own, a pool per server; each carries one reply at a time and waits for
//!   its confirm: persistent, mandatory, through the default exchange.
//! - A caller has a reply queue of its own, not durable unless it is a quorum queue, with `x-expires`, read on a connection of
//!   its own; it acknowledges the reply and makes the next call.

mod caller;
mod content;
mod driver;
mod plan;
mod server;
#[cfg(test)]
mod tests;

use std::thread;

use crate::clock::now_ns;
use crate::error::{Error, Result};
use crate::integrity::Verdict;
use crate::load::{Counts, Goal, Outcome, Shared, Watch};
use crate::net::{Client, QueueOptions};
use crate::stats::Latency;
use crate::stats::procfs::Broker;
use crate::wire::{FieldValue, Table};
use caller::Caller;
use driver::{Peer, PeerThread};
pub use plan::RpcPlan;
use server::Server;

/// `rabbit_transient_queues_ttl` of oslo.messaging, ms.
const REPLY_EXPIRES_MS: i64 = 1_800_000;

/// Runs `plan`. The outcome's `end_to_end` is the latency of calls.
///
/// # Errors
/// A connection failed, or the broker broke the protocol.
pub fn run(plan: &RpcPlan, broker: &Broker, progress: bool) -> Result<Outcome> {
    let mut control = Client::open(plan.uri(0))?;
    declare(plan, &mut control)?;
    let mut servers = Vec::new();
    for n in 0..plan.servers {
        servers.push(Peer::Server(Server::connect(plan, n)?));
    }
    let mut callers = Vec::new();
    for n in 0..plan.callers {
        callers.push(Peer::Caller(Caller::connect(plan, n)?));
    }
    broker.reset_peaks();
    let start_ns = now_ns();
    let after = |s: f64| start_ns + (s * 1e9) as u64;
    let mut shares = vec![callers, servers];
    if plan.threads == 1 {
        let servers = shares.pop().unwrap_or_default();
        shares[0].extend(servers);
    }
    let shared = Shared::new(
        shares.len(),
        start_ns,
        after(plan.warmup_s),
        after(plan.time_s),
    );
    let (watched, ends) = thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .enumerate()
            .map(|(n, peers)| {
                let shared = &shared;
                scope.spawn(move || PeerThread::new(peers)?.run(n, shared))
            })
            .collect();
        let watch = Watch {
            broker,
            goal: Goal::Received,
            publishes: true,
            copies: 1,
            prior: 0,
            drain_s: plan.timeout_s + 1.0,
            progress,
        };
        let watched = watch.run(&shared, || threads.iter().any(|t| t.is_finished()));
        shared.finish();
        let ends: Result<Vec<_>> = threads
            .into_iter()
            .map(|t| {
                t.join()
                    .map_err(|_| Error::Failed("a load thread panicked".into()))?
            })
            .collect();
        (watched, ends)
    });
    let (mut confirm, mut calls) = (Latency::new(), Latency::new());
    let mut totals = Counts::default();
    let mut verdict = Verdict::default();
    for end in ends? {
        totals.add(&end.counts);
        confirm.add(end.confirm);
        calls.add(end.calls);
        verdict.duplicated += end.duplicated;
        verdict.misrouted += end.misrouted;
    }
    verdict.expected = totals.sent;
    verdict.lost = totals.sent.saturating_sub(totals.received);
    let outcome = watched.outcome(totals, confirm, calls, Some(verdict));
    delete(plan, &mut control)?;
    control.close()?;
    Ok(outcome)
}

fn declare(plan: &RpcPlan, control: &mut Client) -> Result<()> {
    delete(plan, control)?;
    // RabbitMQ's quorum queues have to be durable.
    let quorum = |(name, value): &(String, FieldValue)| {
        name == "x-queue-type" && *value == FieldValue::Text("quorum".into())
    };
    let quorum = plan.queue_arguments.iter().any(quorum);
    let requests = QueueOptions {
        durable: plan.durable || quorum,
        arguments: plan.queue_arguments.clone(),
        ..QueueOptions::default()
    };
    control.declare_exchange(&plan.exchange(), "topic", plan.durable)?;
    control.declare_queue(&plan.request_queue(), &requests)?;
    control.bind_queue(
        &plan.request_queue(),
        &plan.exchange(),
        &plan.request_queue(),
    )?;
    let mut arguments: Table = vec![("x-expires".into(), FieldValue::Int(REPLY_EXPIRES_MS))];
    arguments.extend(plan.queue_arguments.iter().cloned());
    let replies = QueueOptions {
        durable: quorum,
        arguments,
        ..QueueOptions::default()
    };
    for n in 0..plan.callers {
        control.declare_queue(&plan.reply_queue(n), &replies)?;
    }
    Ok(())
}

fn delete(plan: &RpcPlan, control: &mut Client) -> Result<()> {
    control.delete_queue(&plan.request_queue())?;
    for n in 0..plan.callers {
        control.delete_queue(&plan.reply_queue(n))?;
    }
    control.delete_exchange(&plan.exchange())
}
