//! `backlog`: fill a queue, see what that costs, drain it.

use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::run::{Common, table};
use crate::error::{Error, Result};
use crate::flags::Flags;
use crate::integrity::SentStream;
use crate::load::{Ledger, Outcome, Plan, run as run_load};
use crate::stats::procfs::Memory;

/// Fill and drain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BacklogReport {
    /// "backlog".
    pub scenario: String,
    /// The flags as understood.
    pub plan: serde_json::Value,
    /// Publishing; `None` with `--drain-only`.
    pub fill: Option<Outcome>,
    /// Before the first message.
    pub before: Memory,
    /// With all messages waiting, after the settling time.
    pub full: Memory,
    /// Growth of resident memory, octets per message; `None` if this did not fill.
    pub rss_bytes_per_message: Option<f64>,
    /// Growth of memory not backed by files, octets per message.
    pub anon_bytes_per_message: Option<f64>,
    /// Consuming; `None` without `--drain-all` or `--drain-only`.
    pub drain: Option<Outcome>,
    /// After the drain.
    pub after: Memory,
}

/// Takes its flags and runs; false if the drain's verdict finds a fault.
///
/// # Errors
/// See [`Error`].
pub fn backlog(mut flags: Flags) -> Result<bool> {
    let drain_only = flags.switch("drain-only");
    let drains = flags.switch("drain-all") || drain_only;
    let settle_s = flags.seconds("settle", 5.0)?;
    let base = Plan::take(&mut flags)?;
    let common = Common::take(&mut flags, &base.uris)?;
    flags.finish()?;
    if base.messages == 0 || base.producers == 0 {
        return Err(Error::Usage(
            "backlog needs --messages and a producer".into(),
        ));
    }
    let fill_plan = Plan {
        consumers: 0,
        keep: true,
        ..base.clone()
    };
    let before = common.broker.memory();
    let mut ledger = Ledger::new(&fill_plan);
    let fill = if drain_only {
        assume_filled(&base, &mut ledger);
        None
    } else {
        Some(run_load(
            &fill_plan,
            &common.broker,
            &mut ledger,
            !common.quiet,
        )?)
    };
    if let Some(fill) = &fill {
        print!("-- fill\n{}", table(fill));
        thread::sleep(Duration::from_secs_f64(settle_s));
    }
    let full = common.broker.memory();
    let drain = if drains {
        let plan = Plan {
            producers: 0,
            messages: 0,
            time_s: 0.0,
            reuse: true,
            rate: 0.0,
            ..base.clone()
        };
        let drain = run_load(&plan, &common.broker, &mut ledger, !common.quiet)?;
        print!("-- drain\n{}", table(&drain));
        Some(drain)
    } else {
        None
    };
    let filled = fill.is_some();
    let per_message = |from: u64, to: u64| {
        filled.then(|| (to as f64 - from as f64) * 1024.0 / base.messages as f64)
    };
    let report = BacklogReport {
        scenario: "backlog".into(),
        plan: serde_json::to_value(&base).unwrap_or_default(),
        fill,
        before,
        full,
        rss_bytes_per_message: per_message(before.rss_kib, full.rss_kib),
        anon_bytes_per_message: per_message(before.anon_kib, full.anon_kib),
        drain,
        after: common.broker.memory(),
    };
    print!("{}", memory_table(&report));
    common.write(&report)?;
    let verdict = report.drain.as_ref().and_then(|d| d.integrity.as_ref());
    Ok(verdict.is_none_or(|v| v.is_clean()))
}

/// The ledger that filling with `plan` leaves, when another process did the filling.
fn assume_filled(plan: &Plan, ledger: &mut Ledger) {
    let streams = ledger.sent.len().max(1) as u64;
    for (n, stream) in ledger.sent.iter_mut().enumerate() {
        let sent = plan.messages / streams + u64::from((n as u64) < plan.messages % streams);
        *stream = SentStream {
            sent,
            ..SentStream::default()
        };
    }
}

fn memory_table(r: &BacklogReport) -> String {
    let mib = |m: Memory| {
        format!(
            "{:.1} MiB ({:.1} anonymous)",
            m.rss_kib as f64 / 1024.0,
            m.anon_kib as f64 / 1024.0
        )
    };
    let each = |b: Option<f64>| b.map_or("-".into(), |b| format!("{b:.2} B"));
    format!(
        "-- broker memory\nbefore           {}\nfull             {}\nafter            {}\n\
         per message      {} ({} anonymous)\n",
        mib(r.before),
        mib(r.full),
        mib(r.after),
        each(r.rss_bytes_per_message),
        each(r.anon_bytes_per_message)
    )
}
