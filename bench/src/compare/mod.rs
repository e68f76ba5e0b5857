//! `compare`: brokers side by side, scenario by scenario, in several rounds.
//!
//! Every broker that this starts gets a folder of its own and is stopped (SIGSTOP) while another is
//! measured. Each scenario runs in a process of its own, so that the generator's CPU and memory are
//! its own too. Results go to a JSON-lines file as they come; the report is made from that file.

mod broker;
mod limits;
mod plot;
mod record;
mod report;
mod scenario;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::clock::{now_ns, seconds};
use crate::error::{Context, Error, Result};
use crate::flags::Flags;
use crate::load::bounded;
use broker::Candidate;
pub use limits::limit;
use record::Record;
use scenario::{Scenario, Step};

/// A queue that has not all its messages by then, after a start, has lost some.
const FILLED_S: f64 = 120.0;
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Where a report goes without `--out`.
const RESULTS: &str = "bench/results";

/// Brokers that together take no more than this share of one processor are quiet.
const QUIET_SHARE: f64 = 0.15;
const QUIET_LOOK: Duration = Duration::from_millis(500);
/// Whoever is not quiet by then stays so.
const QUIET_MAX_S: f64 = 15.0;

/// The scenarios without `--scenarios`.
const SINGLE_NODE: &str = include_str!("../../scenarios/single-node.txt");

/// The scenarios without `--scenarios` if there is a cluster among the brokers.
const THREE_NODES: &str = include_str!("../../scenarios/three-nodes.txt");

struct Compare {
    scenarios: Vec<Scenario>,
    rounds: usize,
    time_s: f64,
    warmup_s: f64,
    limits: bool,
    folder: PathBuf,
    log: File,
    records: Vec<Record>,
}

/// Takes its flags, measures, and writes the report.
///
/// # Errors
/// A broker does not start, or a file cannot be written. A scenario that fails is noted and the
/// comparison goes on.
pub fn compare(mut flags: Flags) -> Result<bool> {
    let out = flags.text("out")?.map_or_else(
        || PathBuf::from(RESULTS).join(today() + ".md"),
        PathBuf::from,
    );
    if let Some(folder) = out.parent() {
        fs::create_dir_all(folder).context(format!("creating {}", folder.display()))?;
    }
    let log_path = out.with_extension("jsonl");
    if flags.switch("report-only") {
        let more = flags.all("results")?;
        flags.finish()?;
        let mut records = match more.as_slice() {
            [] => record::read(&log_path)?,
            _ => Vec::new(),
        };
        for path in more {
            records.extend(record::read(Path::new(&path))?);
        }
        return write_report(&out, &record::once(records)).map(|()| true);
    }
    let parent = flags
        .text("work")?
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let folder = tempfile::Builder::new()
        .prefix("leveret-bench-")
        .tempdir_in(&parent)
        .context("temporary folder")?;
    let mut brokers = Candidate::take(&mut flags, folder.path())?;
    let text = match flags.text("scenarios")? {
        None if brokers.iter().any(Candidate::is_cluster) => THREE_NODES.to_owned(),
        None => SINGLE_NODE.to_owned(),
        Some(path) => fs::read_to_string(&path).context(format!("reading {path}"))?,
    };
    let only = flags.text("only")?;
    let mut compare = Compare {
        scenarios: scenario::parse(&text, only.as_deref())?,
        rounds: bounded(&mut flags, "rounds", 3, 100)?,
        time_s: flags.seconds("time", 8.0)?,
        warmup_s: flags.seconds("warmup", 2.0)?,
        limits: !flags.switch("no-limits"),
        folder: folder.path().to_owned(),
        log: File::create(&log_path).context(format!("creating {}", log_path.display()))?,
        records: Vec::new(),
    };
    flags.finish()?;
    if brokers.is_empty() {
        return Err(Error::Usage(
            "compare needs --leveret, --rabbitmq, --leveret-cluster, --rabbitmq-mirrored, --rabbitmq-quorum, --command or --address".into(),
        ));
    }
    let outcome = compare.run(&mut brokers);
    for broker in &mut brokers {
        broker.stop();
    }
    outcome?;
    write_report(&out, &compare.records)?;
    Ok(compare.records.iter().all(|r| r.error.is_none()))
}

/// Waits until no broker works any more: those that are not paused, clusters, write and clean up for a while after a load.
fn quiet(brokers: &[Candidate]) {
    let cpu = || -> f64 {
        let running = brokers.iter().filter(|broker| broker.is_cluster());
        running.map(|broker| broker.cpu().total_s()).sum()
    };
    let begin = now_ns();
    let mut before = cpu();
    while seconds(now_ns() - begin) < QUIET_MAX_S {
        thread::sleep(QUIET_LOOK);
        let after = cpu();
        if after - before <= QUIET_SHARE * QUIET_LOOK.as_secs_f64() {
            return;
        }
        before = after;
    }
}

/// Writes the report, and its plots into a folder beside it.
fn write_report(out: &Path, records: &[Record]) -> Result<()> {
    let stem = out.file_stem().unwrap_or_default().to_string_lossy();
    let folder = format!("{stem}-plots");
    let plots = plot::plots(records);
    let text = report::markdown(records, &plots, &folder);
    let folder = out.with_file_name(folder);
    if !plots.is_empty() {
        fs::create_dir_all(&folder).context(format!("creating {}", folder.display()))?;
    }
    for plot in plots {
        fs::write(folder.join(plot.file), plot.svg).context("writing a plot")?;
    }
    fs::write(out, text).context(format!("writing {}", out.display()))?;
    eprintln!("report in {}", out.display());
    Ok(())
}

/// Today in UTC as year-month-day.
fn today() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let days = since.map_or(0, |since| since.as_secs() / 86_400) as i64;
    date(days)
}

/// The day so many days after 1970-01-01, in the Gregorian calendar: years are counted from March, so that leap days come last
/// (Howard Hinnant, chrono-Compatible Low-Level Date Algorithms).
fn date(days: i64) -> String {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

impl Compare {
    fn run(&mut self, brokers: &mut [Candidate]) -> Result<()> {
        for broker in brokers.iter_mut() {
            let seconds = broker.start()?;
            let version = broker.version()?;
            eprintln!("{}: {version}, started in {seconds:.2} s", broker.name);
            let settings = broker.settings();
            self.note(Record::about(
                &broker.name,
                &version,
                &settings,
                broker.confirm(),
            ))?;
            broker.pause();
        }
        self.note(Record::machine(&self.folder))?;
        for round in 0..self.rounds {
            for index in 0..self.scenarios.len() {
                let scenario = self.scenarios[index].clone();
                if scenario.once && round > 0 {
                    continue;
                }
                // Another broker begins in each round.
                for turn in 0..brokers.len() {
                    quiet(brokers);
                    let broker = &mut brokers[(turn + round) % brokers.len()];
                    let record = self.measure(broker, &scenario, round);
                    eprintln!("{}", record.line());
                    self.note(record)?;
                }
                if self.limits {
                    for record in limits::beside(&scenario, round, &self.folder, self.time_s) {
                        eprintln!("{}", record.line());
                        self.note(record)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, record: Record) -> Result<()> {
        let line = serde_json::to_string(&record).map_err(|e| Error::Failed(e.to_string()))?;
        writeln!(self.log, "{line}").context("writing results")?;
        self.records.push(record);
        Ok(())
    }

    /// One scenario on one broker; a failure becomes part of the record.
    fn measure(&self, broker: &mut Candidate, scenario: &Scenario, round: usize) -> Record {
        let outcome = self.measure_or_fail(broker, scenario);
        broker.pause();
        Record::measured(&broker.name, scenario, round, outcome)
    }

    fn measure_or_fail(
        &self,
        broker: &mut Candidate,
        scenario: &Scenario,
    ) -> Result<serde_json::Value> {
        if scenario.fresh {
            broker.restart_empty()?;
        }
        broker.resume()?;
        match &scenario.step {
            Step::Startup { queue, expect } => startup(broker, queue, *expect),
            Step::Command(words) => {
                let mut words = words.clone();
                if matches!(words.first().map(String::as_str), Some("run" | "rpc")) {
                    let timed = words.iter().any(|w| w == "--time" || w == "--messages");
                    if !timed {
                        words.extend(["--time".into(), self.time_s.to_string()]);
                        words.extend(["--warmup".into(), self.warmup_s.to_string()]);
                    }
                }
                let durable = words.iter().any(|w| w == "--durable");
                words.extend(broker.flags());
                words.extend(broker.addresses(scenario.clients, durable)?);
                words.extend(["--broker-pid".into(), broker.pids()]);
                run_self(&words, &self.folder)
            }
        }
    }
}

/// Runs a subcommand of this program and reads its report.
fn run_self(words: &[String], folder: &Path) -> Result<serde_json::Value> {
    let program = std::env::current_exe().context("own path")?;
    let json = folder.join("report.json");
    // A report of the run before must not be taken for this one's.
    let _ = fs::remove_file(&json);
    let output = Command::new(program)
        .args(words)
        .arg("--json")
        .arg(&json)
        .args((words.first().is_some_and(|w| w != "limit")).then_some("--quiet"))
        .output()
        .context("running the scenario")?;
    let fault = output.status.code() == Some(3);
    if !output.status.success() && !fault {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(Error::Failed(format!("{}: {said}", output.status)));
    }
    let text = fs::read_to_string(&json).context("reading the report")?;
    serde_json::from_str(&text).map_err(|e| Error::Failed(format!("report: {e}")))
}

/// Stops a broker, starts it again, and waits until the queue has its messages.
fn startup(broker: &mut Candidate, queue: &str, expect: u64) -> Result<serde_json::Value> {
    broker.stop();
    let begin = now_ns();
    let accepts_s = broker.start()?;
    let uri = crate::uri::Uri::parse(&broker.uri())?;
    // The leader of a mirrored queue may not be there yet, which some brokers answer by an error.
    let depth = loop {
        let found = crate::net::Client::open(&uri).and_then(|mut client| {
            let depth = client.queue_depth(queue)?;
            client.close()?;
            Ok(u64::from(depth))
        });
        match found {
            Ok(depth) if depth == expect => break depth,
            _ if seconds(now_ns() - begin) < FILLED_S => thread::sleep(LOOK_AGAIN),
            Ok(depth) => {
                let text = format!("{depth} messages after the start, not {expect}");
                return Err(Error::Failed(text));
            }
            Err(failure) => return Err(failure),
        }
    };
    let ready_s = seconds(now_ns() - begin);
    let memory = broker.memory();
    Ok(serde_json::json!({
        "scenario": "startup",
        "accepts_s": accepts_s,
        "ready_s": ready_s,
        "depth": depth,
        "memory": memory,
    }))
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(19_782), "2024-02-29");
        assert_eq!(date(19_783), "2024-03-01");
        assert_eq!(date(20_453), "2025-12-31");
        assert_eq!(date(20_454), "2026-01-01");
    }
}
