//! `churn`: how fast connections, channels, queues and bindings come and go.

use std::thread;

use serde::{Deserialize, Serialize};

use super::run::Common;
use crate::clock::{now_ns, seconds};
use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::load::{bounded, take_arguments, take_uris};
use crate::net::{Client, QueueOptions};
use crate::stats::procfs::{Broker, Cpu, own_cpu};
use crate::stats::{Latency, LatencySummary, human};
use crate::uri::Uri;

/// What is made and unmade. Each operation is one of both, each waiting for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// TCP connection, handshake, channel, close.
    Connections,
    /// channel.open and channel.close.
    Channels,
    /// queue.declare and queue.delete.
    Queues,
    /// queue.bind and queue.unbind on a topic exchange.
    Bindings,
    /// queue.declare of a queue that is there, as each reconnecting client does.
    Redeclares,
}

const KINDS: [Kind; 5] = [
    Kind::Connections,
    Kind::Channels,
    Kind::Queues,
    Kind::Bindings,
    Kind::Redeclares,
];

/// Figures of one kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChurnRow {
    /// Of what.
    pub kind: Kind,
    /// Made and unmade.
    pub operations: u64,
    /// Per second, over all threads.
    pub per_s: f64,
    /// Of one operation.
    pub latency: Option<LatencySummary>,
    /// CPU of the broker, if its processes are known.
    pub broker_cpu_per_million: Option<f64>,
    /// CPU of the generator.
    pub generator_cpu_per_million: f64,
}

/// What `--json` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChurnReport {
    /// "churn".
    pub scenario: String,
    /// Connections that work side by side.
    pub threads: usize,
    /// Queues and exchange survive a restart.
    pub durable: bool,
    /// One per kind.
    pub rows: Vec<ChurnRow>,
}

struct Churn {
    uris: Vec<Uri>,
    time_s: f64,
    options: QueueOptions,
}

/// Takes its flags and runs.
///
/// # Errors
/// See [`Error`].
pub fn churn(mut flags: Flags) -> Result<bool> {
    let kinds = match flags.text("kind")?.as_deref() {
        None | Some("all") => KINDS.to_vec(),
        Some(list) => list.split(',').map(kind).collect::<Result<_>>()?,
    };
    let threads = bounded(&mut flags, "threads", 4, 256)?.max(1);
    let churn = Churn {
        uris: take_uris(&mut flags)?,
        time_s: flags.seconds("time", 5.0)?,
        options: QueueOptions {
            durable: flags.switch("durable"),
            arguments: take_arguments(&mut flags)?,
            ..QueueOptions::default()
        },
    };
    let common = Common::take(&mut flags, &churn.uris)?;
    flags.finish()?;
    let mut rows = Vec::new();
    for kind in kinds {
        let row = churn.run(kind, threads, &common.broker)?;
        print!("{}", line(&row));
        rows.push(row);
    }
    let durable = churn.options.durable;
    common.write(&ChurnReport {
        scenario: "churn".into(),
        threads,
        durable,
        rows,
    })?;
    Ok(true)
}

fn kind(name: &str) -> Result<Kind> {
    serde_json::from_value(name.into()).map_err(|_| {
        Error::Usage(format!(
            "--kind {name:?}: connections, channels, queues, bindings, redeclares or all"
        ))
    })
}

impl Churn {
    fn run(&self, kind: Kind, threads: usize, broker: &Broker) -> Result<ChurnRow> {
        let (broker_before, own_before) = (broker.cpu(), own_cpu());
        let start = now_ns();
        let deadline = start + (self.time_s * 1e9) as u64;
        let parts: Result<Vec<(u64, Latency)>> = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|n| scope.spawn(move || self.work(kind, n, deadline)))
                .collect();
            let join = |w: thread::ScopedJoinHandle<'_, Result<(u64, Latency)>>| {
                w.join()
                    .map_err(|_| Error::Failed("a churn thread panicked".into()))?
            };
            workers.into_iter().map(join).collect()
        });
        let elapsed_s = seconds(now_ns() - start);
        let mut latency = Latency::new();
        let mut operations = 0;
        for (count, part) in parts? {
            operations += count;
            latency.add(part);
        }
        let per_million = |cpu: Cpu| cpu.total_s() * 1e6 / operations.max(1) as f64;
        let broker_cpu = (!broker.pids.is_empty()).then(|| broker.cpu().since(broker_before));
        Ok(ChurnRow {
            kind,
            operations,
            per_s: operations as f64 / elapsed_s,
            latency: latency.summary(),
            broker_cpu_per_million: broker_cpu.map(per_million),
            generator_cpu_per_million: per_million(own_cpu().since(own_before)),
        })
    }

    fn work(&self, kind: Kind, thread: usize, deadline: u64) -> Result<(u64, Latency)> {
        let uri = &self.uris[thread % self.uris.len()];
        let mut client = Client::open(uri)?;
        let queue = format!("bench-churn-{thread}");
        let exchange = format!("bench-churn-{thread}.topic");
        client.delete_queue(&queue)?;
        if matches!(kind, Kind::Bindings | Kind::Redeclares) {
            client.declare_queue(&queue, &self.options)?;
            client.declare_exchange(&exchange, "topic", self.options.durable)?;
        }
        let mut latency = Latency::new();
        let mut operations = 0;
        let mut before = now_ns();
        while before < deadline {
            match kind {
                Kind::Connections => Client::open(uri)?.close()?,
                Kind::Channels => {
                    client.open_channel(2)?;
                    client.close_channel(2)?;
                }
                Kind::Queues => {
                    client.declare_queue(&queue, &self.options)?;
                    client.delete_queue(&queue)?;
                }
                Kind::Bindings => {
                    let key = format!("key.{operations}.*");
                    client.bind_queue(&queue, &exchange, &key)?;
                    client.unbind_queue(&queue, &exchange, &key)?;
                }
                Kind::Redeclares => drop(client.declare_queue(&queue, &self.options)?),
            }
            operations += 1;
            let now = now_ns();
            latency.record(now - before);
            before = now;
        }
        client.delete_queue(&queue)?;
        client.delete_exchange(&exchange)?;
        client.close()?;
        Ok((operations, latency))
    }
}

fn line(row: &ChurnRow) -> String {
    let latency = row.latency.as_ref().map_or(String::new(), |l| {
        format!("p50 {}  p99 {}", human(l.p50_us), human(l.p99_us))
    });
    let cpu = row
        .broker_cpu_per_million
        .map_or(String::new(), |c| format!("  broker CPU {c:.0} s/million"));
    format!(
        "{:<12} {:>9.0}/s  {latency}{cpu}  generator {:.0}\n",
        format!("{:?}", row.kind).to_lowercase(),
        row.per_s,
        row.generator_cpu_per_million
    )
}
