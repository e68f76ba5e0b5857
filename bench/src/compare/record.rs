//! Results as they come, one JSON object a line.

use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::scenario::Scenario;
use crate::error::{Context, Error, Result};

/// One measurement, or one fact about a broker or the machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Broker or limit; empty for the machine.
    pub broker: String,
    /// Scenario; empty for facts.
    pub scenario: String,
    /// Its command line, for the report.
    pub command: String,
    /// From 0.
    pub round: usize,
    /// The scenario's report, or the facts.
    pub report: Value,
    /// Why there is no report.
    pub error: Option<String>,
}

impl Record {
    /// Version and settings of a broker, and what its confirm means: of a persistent message on a durable queue, and of any other.
    pub fn about(broker: &str, version: &str, settings: &str, confirm: [&str; 2]) -> Record {
        let report =
            serde_json::json!({ "version": version, "settings": settings, "confirm": confirm });
        Record::fact(broker, report)
    }

    /// Processor, memory, kernel, and the file system of `folder`.
    pub fn machine(folder: &Path) -> Record {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let value = |text: &str, key: &str| {
            let line = text
                .lines()
                .find(|l| l.starts_with(key))
                .unwrap_or_default();
            line.split_once(':')
                .map_or(String::new(), |(_, v)| v.trim().to_owned())
        };
        let memory_kib: u64 = value(&read("/proc/meminfo"), "MemTotal")
            .split_whitespace()
            .next()
            .and_then(|kib| kib.parse().ok())
            .unwrap_or(0);
        let report = serde_json::json!({
            "processor": value(&read("/proc/cpuinfo"), "model name"),
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "memory_gib": memory_kib as f64 / f64::from(1 << 20),
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "file_system": file_system(&read("/proc/mounts"), folder),
            "generator": env!("CARGO_PKG_VERSION"),
        });
        Record::fact("", report)
    }

    fn fact(broker: &str, report: Value) -> Record {
        Record {
            broker: broker.into(),
            scenario: String::new(),
            command: String::new(),
            round: 0,
            report,
            error: None,
        }
    }

    /// A measurement.
    pub fn measured(
        broker: &str,
        scenario: &Scenario,
        round: usize,
        outcome: Result<Value>,
    ) -> Record {
        let (report, error) = match outcome {
            Ok(report) => (report, None),
            Err(error) => (Value::Null, Some(error.to_string())),
        };
        Record {
            broker: broker.into(),
            scenario: scenario.name.clone(),
            command: scenario.words().join(" "),
            round,
            report,
            error,
        }
    }

    /// The number at `path` (keys with dots between) of the report.
    pub fn number(&self, path: &str) -> Option<f64> {
        self.value(path)?.as_f64()
    }

    /// What stands at `path` of the report.
    pub fn value(&self, path: &str) -> Option<&Value> {
        path.split('.')
            .try_fold(&self.report, |value, key| value.get(key))
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let what = format!(
            "round {} {:<28} {:<14}",
            self.round + 1,
            self.scenario,
            self.broker
        );
        if let Some(error) = &self.error {
            return format!("{what} FAILED: {error}");
        }
        let rate = [
            "outcome.rate_per_s",
            "rate_per_s",
            "fill.rate_per_s",
            "drain.rate_per_s",
        ];
        if let Some(rate) = rate.iter().find_map(|path| self.number(path)) {
            let cpu = ["outcome", "fill", "drain"]
                .iter()
                .find_map(|part| self.number(&format!("{part}.broker_cpu_per_million")));
            return format!(
                "{what} {rate:>10.0}/s {:>8.2} CPU s/million",
                cpu.unwrap_or(0.0)
            );
        }
        let figures = [("KiB each", "rss_kib_each"), ("s until ready", "ready_s")];
        let figures = figures
            .iter()
            .filter_map(|(unit, path)| Some((unit, self.number(path)?)));
        figures.fold(what, |line, (unit, value)| {
            format!("{line} {value:>10.2} {unit}")
        })
    }
}

/// Reads a results file.
///
/// # Errors
/// A line that is no record.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let text = fs::read_to_string(path).context(format!("reading {}", path.display()))?;
    text.lines()
        .map(|line| serde_json::from_str(line).map_err(|e| Error::Failed(format!("results: {e}"))))
        .collect()
}

/// Leaves the facts of several runs out that have been said already.
pub fn once(records: Vec<Record>) -> Vec<Record> {
    let mut said: Vec<(String, Value)> = Vec::new();
    let new = |record: &Record| {
        if !record.scenario.is_empty() {
            return true;
        }
        let fact = (record.broker.clone(), record.report.clone());
        let new = !said.contains(&fact);
        said.push(fact);
        new
    };
    let mut new = new;
    records.into_iter().filter(|record| new(record)).collect()
}

/// Type of the file system that holds `folder`.
fn file_system(mounts: &str, folder: &Path) -> String {
    let holds = |line: &&str| {
        line.split_whitespace()
            .nth(1)
            .is_some_and(|mount| folder.starts_with(mount))
    };
    let longest = |line: &&str| line.split_whitespace().nth(1).map_or(0, str::len);
    mounts
        .lines()
        .filter(holds)
        .max_by_key(longest)
        .and_then(|line| line.split_whitespace().nth(2))
        .unwrap_or("unknown")
        .to_owned()
}
