//! `run`: producers, consumers, queues.

use std::fs;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::flags::Flags;
use crate::load::{Ledger, Outcome, Plan, run as run_load};
use crate::stats::procfs::{Broker, listener_of};
use crate::uri::Uri;

/// Takes its flags and runs; false if the verdict finds a fault.
///
/// # Errors
/// See [`Error`].
pub fn run(mut flags: Flags) -> Result<bool> {
    let plan = Plan::take(&mut flags)?;
    let common = Common::take(&mut flags, &plan.uris)?;
    flags.finish()?;
    let mut ledger = Ledger::new(&plan);
    let outcome = run_load(&plan, &common.broker, &mut ledger, !common.quiet)?;
    let report = Report {
        scenario: "run".into(),
        plan: plan_json(&plan),
        outcome,
    };
    common.write(&report)?;
    print!("{}", table(&report.outcome));
    Ok(report
        .outcome
        .integrity
        .as_ref()
        .is_none_or(|v| v.is_clean()))
}

/// Flags that every scenario has.
pub struct Common {
    /// `--broker-pid`.
    pub broker: Broker,
    /// `--json`.
    json: Option<String>,
    /// `--quiet`: no progress.
    pub quiet: bool,
}

impl Common {
    /// `--broker-pid auto` (the default) looks for who listens on the ports of loopback URIs.
    ///
    /// # Errors
    /// A malformed value.
    pub fn take(flags: &mut Flags, uris: &[Uri]) -> Result<Common> {
        let pids = match flags.text("broker-pid")?.as_deref() {
            None | Some("auto") => listeners(uris),
            Some("none") => Vec::new(),
            Some(list) => list
                .split(',')
                .map(|pid| {
                    pid.parse()
                        .map_err(|_| Error::Usage(format!("--broker-pid {list:?}")))
                })
                .collect::<Result<_>>()?,
        };
        let broker = Broker { pids };
        if !broker.is_alive() {
            return Err(Error::Usage(format!(
                "--broker-pid: no such process {:?}",
                broker.pids
            )));
        }
        Ok(Common {
            broker,
            json: flags.text("json")?,
            quiet: flags.switch("quiet"),
        })
    }

    /// Writes the report where `--json` says.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, report: &impl Serialize) -> Result<()> {
        let Some(path) = &self.json else {
            return Ok(());
        };
        let text = serde_json::to_string_pretty(report)
            .map_err(|e| Error::Failed(format!("cannot write the report: {e}")))?;
        if path == "-" {
            println!("{text}");
            return Ok(());
        }
        fs::write(path, text).context(format!("writing {path}"))
    }
}

fn listeners(uris: &[Uri]) -> Vec<u32> {
    let local = |uri: &&Uri| ["127.0.0.1", "::1", "localhost"].contains(&uri.host.as_str());
    let mut pids: Vec<u32> = uris
        .iter()
        .filter(local)
        .filter_map(|uri| listener_of(uri.port))
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// What `--json` writes.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// Name of the subcommand.
    pub scenario: String,
    /// The flags as understood.
    pub plan: serde_json::Value,
    /// The figures.
    pub outcome: Outcome,
}

/// A plan for a report.
pub fn plan_json(plan: &Plan) -> serde_json::Value {
    serde_json::to_value(plan).unwrap_or_default()
}

/// The figures for people.
pub fn table(o: &Outcome) -> String {
    let mut rows = vec![
        (
            "rate",
            format!("{:.0} msg/s over {:.2} s", o.rate_per_s, o.elapsed_s),
        ),
        (
            "sent",
            format!(
                "{}  ({:.0}/s while publishing; confirmed {:.0}/s)",
                o.totals.sent, o.sent_per_s, o.confirmed_per_s
            ),
        ),
        (
            "received",
            format!("{}  ({:.0}/s)", o.totals.received, o.received_per_s),
        ),
    ];
    if let Some(l) = &o.confirm {
        rows.push(("confirm latency", l.line()));
    }
    if let Some(l) = &o.end_to_end {
        rows.push(("end to end", l.line()));
    }
    if let (Some(cpu), Some(per)) = (o.broker_cpu, o.broker_cpu_per_million) {
        rows.push((
            "broker CPU",
            format!(
                "{per:.2} s/million  ({:.2} s user, {:.2} s system)",
                cpu.user_s, cpu.system_s
            ),
        ));
    }
    if let Some(m) = o.broker_memory {
        rows.push((
            "broker memory",
            format!(
                "peak {} MiB, now {} MiB",
                m.peak_kib / 1024,
                m.rss_kib / 1024
            ),
        ));
    }
    rows.push((
        "generator CPU",
        format!(
            "{:.2} s/million  ({:.2} s user, {:.2} s system{})",
            o.generator_cpu_per_million,
            o.generator_cpu.user_s,
            o.generator_cpu.system_s,
            o.generator_share.map_or(String::new(), |s| format!(
                "; {:.0} % of what both used",
                100.0 * s
            ))
        ),
    ));
    if o.blocked_s > 0.0 {
        rows.push((
            "blocked",
            format!("{:.1} s by connection.blocked", o.blocked_s),
        ));
    }
    let verdict = match &o.integrity {
        None => "not judged".to_owned(),
        Some(v) => format!(
            "{}: {} expected, {} lost, {} duplicated, {} reordered, {} misrouted, {} corrupted \
             ({} redelivered, {} refused)",
            if v.is_clean() { "CLEAN" } else { "FAULTY" },
            v.expected,
            v.lost,
            v.duplicated,
            v.reordered,
            v.misrouted,
            v.corrupted,
            v.redelivered,
            v.refused
        ),
    };
    rows.push(("integrity", verdict));
    rows.iter()
        .map(|(name, value)| format!("{name:<16} {value}\n"))
        .collect()
}
