//! `idle`: what connections and queues cost a broker while nothing happens.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::run::Common;
use crate::clock::{now_ns, seconds};
use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::load::{bounded, take_arguments, take_uris};
use crate::net::{Client, QueueOptions};
use crate::stats::procfs::{Broker, Memory};

/// The broker's memory before and after.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IdleReport {
    /// "idle".
    pub scenario: String,
    /// Connections opened.
    pub connections: usize,
    /// Channels opened on each of them.
    pub channels: usize,
    /// Queues declared: fewer than were wanted if that took too long.
    pub queues: usize,
    /// Seconds that opening and declaring took.
    pub setup_s: f64,
    /// Connections and queues in a second of that.
    pub setup_per_s: f64,
    /// With nothing but one connection.
    pub before: Memory,
    /// With all of it, after the hold.
    pub after: Memory,
    /// Growth of resident memory per connection or queue, KiB; `None` without any.
    pub rss_kib_each: Option<f64>,
    /// Growth of memory not backed by files per connection or queue, KiB; `None` without any.
    pub anon_kib_each: Option<f64>,
    /// CPU seconds that the broker used during the hold.
    pub hold_cpu_s: f64,
    /// Length of the hold.
    pub hold_s: f64,
}

/// Takes its flags and runs.
///
/// # Errors
/// See [`Error`].
pub fn idle(mut flags: Flags) -> Result<bool> {
    let uris = take_uris(&mut flags)?;
    let connections = bounded(&mut flags, "connections", 0, 60_000)?;
    let channels = bounded(&mut flags, "channels", 1, 2047)?;
    let queues = bounded(&mut flags, "queues", 0, 1_000_000)?;
    let options = QueueOptions {
        durable: flags.switch("durable"),
        arguments: take_arguments(&mut flags)?,
        ..QueueOptions::default()
    };
    let keep = flags.switch("keep");
    let give_up_s = flags.seconds("give-up", f64::INFINITY)?;
    let hold_s = flags.seconds("hold", 5.0)?;
    let common = Common::take(&mut flags, &uris)?;
    flags.finish()?;
    if common.broker.pids.is_empty() {
        return Err(Error::Usage(
            "idle needs the broker's process: --broker-pid".into(),
        ));
    }
    raise_descriptor_limit();
    let mut control = Client::open(&uris[0])?;
    let queue = |n: usize| format!("bench-idle-{n:07}");
    thread::sleep(Duration::from_secs_f64(hold_s));
    let before = common.broker.memory();
    let start = now_ns();
    let mut open = Vec::with_capacity(connections);
    for n in 0..connections {
        let mut client = Client::open(&uris[n % uris.len()])?;
        for channel in 2..=channels {
            client.open_channel(channel as u16)?;
        }
        open.push(client);
    }
    let wanted = queues;
    let mut queues = 0;
    while queues < wanted && seconds(now_ns() - start) < give_up_s {
        control.declare_queue(&queue(queues), &options)?;
        queues += 1;
    }
    let setup_s = seconds(now_ns() - start);
    let (after, hold_cpu_s) = hold(&common.broker, hold_s);
    let each = |before: u64, after: u64| {
        let objects = connections + queues;
        (objects > 0).then(|| (after as f64 - before as f64) / objects as f64)
    };
    let report = IdleReport {
        scenario: "idle".into(),
        connections,
        channels,
        queues,
        setup_s,
        setup_per_s: (connections + queues) as f64 / setup_s,
        before,
        after,
        rss_kib_each: each(before.rss_kib, after.rss_kib),
        anon_kib_each: each(before.anon_kib, after.anon_kib),
        hold_cpu_s,
        hold_s,
    };
    if !keep {
        for n in 0..queues {
            control.delete_queue(&queue(n))?;
        }
    }
    for client in open {
        client.close()?;
    }
    control.close()?;
    print!("{}", table(&report));
    common.write(&report)?;
    Ok(true)
}

fn hold(broker: &Broker, hold_s: f64) -> (Memory, f64) {
    let cpu = broker.cpu();
    thread::sleep(Duration::from_secs_f64(hold_s));
    (broker.memory(), broker.cpu().since(cpu).total_s())
}

/// Many connections need many descriptors; what the system does not give shows as an error later.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
}

fn table(r: &IdleReport) -> String {
    let mib = |m: Memory| {
        format!(
            "{:.1} MiB ({:.1} anonymous)",
            m.rss_kib as f64 / 1024.0,
            m.anon_kib as f64 / 1024.0
        )
    };
    let each = |kib: Option<f64>| kib.map_or("-".into(), |kib| format!("{kib:.2} KiB"));
    format!(
        "objects          {} connections of {} channels, {} queues, in {:.2} s\n\
         before           {}\n\
         after            {}\n\
         each             {} ({} anonymous)\n\
         CPU              {:.2} s in {:.1} s of idling\n",
        r.connections,
        r.channels,
        r.queues,
        r.setup_s,
        mib(r.before),
        mib(r.after),
        each(r.rss_kib_each),
        each(r.anon_kib_each),
        r.hold_cpu_s,
        r.hold_s
    )
}
