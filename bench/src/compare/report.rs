//! The report: medians, spreads and ratios, as Markdown.

use std::fmt::Write;

use serde_json::Value;

use super::plot::Plot;
use super::record::Record;

/// What is shown of each scenario: title, where it stands in a report, and whether more is better.
type Metric = (&'static str, &'static str, bool);

/// Of idle, backlog, startup and churn lines.
const OTHER: [Metric; 20] = [
    ("memory before, KiB", "before.rss_kib", false),
    ("memory after, KiB", "after.rss_kib", false),
    ("each, KiB", "rss_kib_each", false),
    ("each, anonymous KiB", "anon_kib_each", false),
    ("queues", "queues", true),
    ("set up, s", "setup_s", false),
    ("set up, each second", "setup_per_s", true),
    ("fill, msg/s", "fill.rate_per_s", true),
    (
        "fill, broker CPU s/million",
        "fill.broker_cpu_per_million",
        false,
    ),
    ("memory when full, KiB", "full.rss_kib", false),
    ("memory per message, B", "rss_bytes_per_message", false),
    (
        "anonymous memory per message, B",
        "anon_bytes_per_message",
        false,
    ),
    ("drain, msg/s", "drain.rate_per_s", true),
    (
        "drain, broker CPU s/million",
        "drain.broker_cpu_per_million",
        false,
    ),
    ("accepts connections after, s", "accepts_s", false),
    ("queue is there after, s", "ready_s", false),
    ("memory after the start, KiB", "memory.rss_kib", false),
    ("lost", "drain.integrity.lost", false),
    ("duplicated", "drain.integrity.duplicated", false),
    ("reordered", "drain.integrity.reordered", false),
];

/// What the others are compared with, if it takes part; else the last broker is.
const REFERENCE: &str = "RabbitMQ";

/// Median, lowest and highest of several rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = match values.len() % 2 {
            1 => values[middle],
            _ => (values[middle - 1] + values[middle]) / 2.0,
        };
        Some(Spread { median, low, high })
    }

    fn text(self) -> String {
        if self.low == self.high {
            return short(self.median);
        }
        format!(
            "{} ({}–{})",
            short(self.median),
            short(self.low),
            short(self.high)
        )
    }
}

/// A number with as many digits as mean something.
fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

struct Report<'a> {
    records: &'a [Record],
    out: String,
}

/// The report on `records`, with links to `plots`, which are in a folder beside it.
pub fn markdown(records: &[Record], plots: &[Plot], folder: &str) -> String {
    let mut report = Report {
        records,
        out: String::new(),
    };
    report.head();
    report.throughput();
    report.others();
    report.churn();
    report.failures();
    report.plots(plots, folder);
    report.commands();
    report.out
}

impl Report<'_> {
    fn line(&mut self, text: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.out, "{text}");
    }

    fn head(&mut self) {
        self.line("# Brokers side by side\n");
        self.line(
            "Broker and load generator share the machine. Figures are medians over the rounds, with \
             the lowest and highest in brackets; ratios are of medians, against \
             RabbitMQ, or without it against the last broker; above 1 is better. CPU is user and system time of all the broker's processes.\n",
        );
        let records = self.records;
        for record in records.iter().filter(|r| r.scenario.is_empty()) {
            let text = |key| match record.report.get(key) {
                Some(Value::String(s)) => s.clone(),
                Some(other) => other
                    .as_f64()
                    .map_or(other.to_string(), |n| format!("{n:.0}")),
                None => String::new(),
            };
            if record.broker.is_empty() {
                self.line(&format!(
                    "- Machine: {} × {}, {} GiB, Linux {}, {}; leveret-bench {}",
                    text("cores"),
                    text("processor"),
                    text("memory_gib"),
                    text("kernel"),
                    text("file_system"),
                    text("generator")
                ));
            } else {
                let (version, settings) = (text("version"), text("settings"));
                self.line(&format!("- {}: {version}; {settings}", record.broker));
            }
        }
        self.line("");
        self.line("What a confirm means stands in each row that has confirms:\n");
        self.line(
            "- synced: on disk, fdatasync has returned (a persistent message on a durable queue), or delivered and acknowledged \
             before that; Leveret by its journal, RabbitMQ by its message store and queue index.\n\
             - synced by 2 of 3: the same on a majority of the nodes; synced by all mirrors: on every node that is there.\n\
             - written by 2 of 3: in the files of a majority, where it survives the processes; routed: the queues have the message in \
             memory; routed by all mirrors: on every node.\n\
             - limit: relay: nothing at all. It passes bytes on and keeps none.\n\
             - limit: socket: publishes of the same size, one way, through one loopback connection. \
             A broker moves each message twice.\n\
             - limit: disk: bodies written over a preallocated file, one fdatasync for as many as \
             all confirm windows together hold. Of three nodes on one disk each writes all of them.\n",
        );
    }

    /// What a confirm of `broker` means in a scenario.
    fn confirm(&self, scenario: &str, broker: &str) -> String {
        let mut of = self.records.iter().filter(|r| r.scenario == scenario);
        let command = of.next().map(|r| r.command.clone()).unwrap_or_default();
        let has = |word: &str| command.split_whitespace().any(|w| w == word);
        let none = has("--confirm-window") && command.contains("--confirm-window 0");
        if broker.starts_with("limit") || none || !(has("--confirm-window") || has("rpc")) {
            return String::new();
        }
        let which = usize::from(!(has("--durable") && has("--persistent")));
        let about = |r: &&Record| r.scenario.is_empty() && r.broker == broker;
        let about = self.records.iter().find(about);
        let words = about.and_then(|r| r.value("confirm")?.get(which)?.as_str());
        words.unwrap_or_default().to_owned()
    }

    /// Names of scenarios whose reports satisfy `of`, in order of appearance.
    fn scenarios(&self, of: impl Fn(&Record) -> bool) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for record in self
            .records
            .iter()
            .filter(|r| !r.scenario.is_empty() && of(r))
        {
            if !names.contains(&record.scenario) {
                names.push(record.scenario.clone());
            }
        }
        names
    }

    /// Brokers first as they were given, limits after.
    fn brokers(&self, scenario: &str) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for fact in self
            .records
            .iter()
            .filter(|r| r.scenario.is_empty() && !r.broker.is_empty())
        {
            names.push(fact.broker.clone());
        }
        for record in self.records.iter().filter(|r| r.scenario == scenario) {
            if !names.contains(&record.broker) {
                names.push(record.broker.clone());
            }
        }
        names
    }

    fn baseline(&self) -> Option<String> {
        let mut brokers: Vec<&str> = Vec::new();
        let fact = |r: &&Record| r.scenario.is_empty() && !r.broker.is_empty();
        brokers.extend(self.records.iter().filter(fact).map(|r| r.broker.as_str()));
        let reference = brokers
            .iter()
            .find(|b| **b == REFERENCE)
            .or(brokers.last())?;
        Some((*reference).to_owned())
    }

    fn spread(&self, scenario: &str, broker: &str, paths: &[&str]) -> Option<Spread> {
        let mine = |r: &&Record| r.scenario == scenario && r.broker == broker;
        let number = |r: &Record| paths.iter().find_map(|path| r.number(path));
        Spread::of(
            self.records
                .iter()
                .filter(mine)
                .filter_map(number)
                .collect(),
        )
    }

    fn throughput(&mut self) {
        let loads =
            self.scenarios(|r| r.command.starts_with("run") || r.command.starts_with("rpc"));
        if loads.is_empty() {
            return;
        }
        self.line("## Throughput and latency\n");
        self.line(
            "| scenario | broker | a confirm | msg/s or calls/s | × | broker CPU s/million | ÷ | p50 µs | p99 µs \
             | of the limits | peak MiB | generator CPU s/million | integrity |",
        );
        self.line("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
        for scenario in loads {
            let rate = ["outcome.rate_per_s", "rate_per_s"];
            let cpu = ["outcome.broker_cpu_per_million", "cpu_per_million"];
            let base = self.baseline().unwrap_or_default();
            let base_rate = self.spread(&scenario, &base, &rate);
            let base_cpu = self.spread(&scenario, &base, &cpu);
            for broker in self.brokers(&scenario) {
                let get = |paths: &[&str]| self.spread(&scenario, &broker, paths);
                let (my_rate, my_cpu) = (get(&rate), get(&cpu));
                let latency = |p: &str| {
                    // What the last party waits for: the call, or the confirm, or the delivery.
                    let call = format!("outcome.end_to_end.{p}");
                    let confirm = format!("outcome.confirm.{p}");
                    let sync = format!("sync.{p}");
                    let is_rpc = scenario.starts_with("rpc");
                    let first = if is_rpc {
                        [&call, &confirm]
                    } else {
                        [&confirm, &call]
                    };
                    cell(get(&[first[0], first[1], &sync]))
                };
                let row = format!(
                    "| {scenario} | {broker} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    self.confirm(&scenario, &broker),
                    cell(my_rate),
                    ratio(my_rate, base_rate),
                    cell(my_cpu),
                    ratio(base_cpu, my_cpu),
                    latency("p50_us"),
                    latency("p99_us"),
                    self.shares(&scenario, &broker, my_rate),
                    cell(get(&["outcome.broker_memory.peak_kib"]).map(kib_to_mib)),
                    cell(get(&["outcome.generator_cpu_per_million"])),
                    self.integrity(&scenario, &broker)
                );
                self.line(&row);
            }
        }
        self.line("");
        self.line("Latency is publish to confirm where there are confirms, else publish to delivery; of a call for RPC; of one write with its fdatasync for the disk.\n");
    }

    /// The rate as a share of each limit that was measured beside it.
    fn shares(&self, scenario: &str, broker: &str, rate: Option<Spread>) -> String {
        let Some(rate) = rate.filter(|_| !broker.starts_with("limit")) else {
            return String::new();
        };
        let share = |limit: &str| {
            let paths = ["outcome.rate_per_s", "rate_per_s"];
            let most = self.spread(scenario, &format!("limit: {limit}"), &paths)?;
            let percent = 100.0 * rate.median / most.median;
            Some(format!("{limit} {} %", short(percent)))
        };
        ["socket", "relay", "disk"]
            .into_iter()
            .filter_map(share)
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn integrity(&self, scenario: &str, broker: &str) -> String {
        let mine = |r: &&Record| r.scenario == scenario && r.broker == broker;
        let mut seen = "";
        for record in self.records.iter().filter(mine) {
            let Some(verdict) = record.value("outcome.integrity").filter(|v| !v.is_null()) else {
                continue;
            };
            seen = "clean";
            for fault in ["lost", "duplicated", "reordered", "misrouted", "corrupted"] {
                if verdict.get(fault).and_then(Value::as_u64) != Some(0) {
                    return format!("FAULTY: {verdict}");
                }
            }
        }
        seen.to_owned()
    }

    fn others(&mut self) {
        let others = self.scenarios(|r| {
            let known = ["run", "rpc", "churn"]
                .iter()
                .any(|c| r.command.starts_with(c));
            !known && !r.broker.starts_with("limit")
        });
        if others.is_empty() {
            return;
        }
        self.line("## Memory, backlog, start-up\n");
        self.line("| scenario | figure | broker | value | × |");
        self.line("|---|---|---|---|---|");
        for scenario in others {
            let base = self.baseline().unwrap_or_default();
            for (title, path, more_is_better) in OTHER {
                let base = self.spread(&scenario, &base, &[path]);
                for broker in self.brokers(&scenario) {
                    let Some(value) = self.spread(&scenario, &broker, &[path]) else {
                        continue;
                    };
                    let ratio = match more_is_better {
                        true => ratio(Some(value), base),
                        false => ratio(base, Some(value)),
                    };
                    let text = value.text();
                    self.line(&format!(
                        "| {scenario} | {title} | {broker} | {text} | {ratio} |"
                    ));
                }
            }
        }
        self.line("");
    }

    fn churn(&mut self) {
        let records = self.records;
        let rows: Vec<(&str, &Value)> = records
            .iter()
            .filter(|r| r.command.starts_with("churn"))
            .filter_map(|r| Some((r.broker.as_str(), r.value("rows")?.as_array()?)))
            .flat_map(|(broker, rows)| rows.iter().map(move |row| (broker, row)))
            .collect();
        if rows.is_empty() {
            return;
        }
        self.line("## Churn\n");
        self.line(
            "| what is made and unmade | broker | per second | p99 µs | broker CPU s/million |",
        );
        self.line("|---|---|---|---|---|");
        let mut kinds: Vec<&str> = Vec::new();
        for (_, row) in &rows {
            let kind = row.get("kind").and_then(Value::as_str).unwrap_or_default();
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        for kind in kinds {
            for (broker, row) in rows
                .iter()
                .filter(|(_, r)| r.get("kind") == Some(&kind.into()))
            {
                let number = |value: Option<&Value>| {
                    value.and_then(Value::as_f64).map_or(String::new(), short)
                };
                let p99 = row.get("latency").and_then(|l| l.get("p99_us"));
                self.line(&format!(
                    "| {kind} | {broker} | {} | {} | {} |",
                    number(row.get("per_s")),
                    number(p99),
                    number(row.get("broker_cpu_per_million"))
                ));
            }
        }
        self.line("");
    }

    fn failures(&mut self) {
        let records = self.records;
        for record in records.iter().filter(|r| r.error.is_some()) {
            let error = record.error.clone().unwrap_or_default();
            let (scenario, broker) = (&record.scenario, &record.broker);
            let round = record.round + 1;
            self.line(&format!(
                "- FAILED: {scenario} on {broker}, round {round}: {error}"
            ));
        }
    }

    fn plots(&mut self, plots: &[Plot], folder: &str) {
        if plots.is_empty() {
            return;
        }
        self.line("\n## Plots\n");
        for Plot { file, title, .. } in plots {
            self.line(&format!("![{title}]({folder}/{file})"));
        }
    }

    fn commands(&mut self) {
        self.line("\n## Commands\n");
        self.line("```");
        for scenario in self.scenarios(|r| !r.command.is_empty()) {
            let command = self.records.iter().find(|r| r.scenario == scenario);
            let command = command.map(|r| r.command.clone()).unwrap_or_default();
            self.line(&format!("{scenario:<28} leveret-bench {command}"));
        }
        self.line("```");
    }
}

fn cell(spread: Option<Spread>) -> String {
    spread.map_or(String::new(), Spread::text)
}

fn ratio(a: Option<Spread>, b: Option<Spread>) -> String {
    match (a, b) {
        (Some(a), Some(b)) if b.median > 0.0 => format!("{}×", short(a.median / b.median)),
        _ => String::new(),
    }
}

fn kib_to_mib(s: Spread) -> Spread {
    Spread {
        median: s.median / 1024.0,
        low: s.low / 1024.0,
        high: s.high / 1024.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(broker: &str, round: usize, rate: f64, cpu: f64, lost: u64) -> Record {
        let integrity = json!({"lost": lost, "duplicated": 0, "reordered": 0, "misrouted": 0,
            "corrupted": 0});
        Record {
            broker: broker.into(),
            scenario: "s".into(),
            command: "run --size 16 --durable --persistent --confirm-window 1".into(),
            round,
            report: json!({"outcome": {"rate_per_s": rate, "broker_cpu_per_million": cpu,
                "integrity": integrity}}),
            error: None,
        }
    }

    #[test]
    fn medians_spreads_ratios_and_faults() {
        let mut records = vec![
            Record::about("A", "1", "", ["synced", ""]),
            Record::about("B", "2", "", ["", ""]),
        ];
        for (round, rate) in [3000.0, 1000.0, 2000.0].into_iter().enumerate() {
            records.push(record("A", round, rate, 2.0, 0));
            records.push(record("B", round, 500.0, 8.0, u64::from(round == 1)));
        }
        let text = markdown(&records, &[], "");
        assert!(
            text.contains("| s | A | synced | 2000 (1000–3000) | 4.00× | 2.00 | 4.00× |"),
            "{text}"
        );
        assert!(
            text.contains("| s | B |  | 500 | 1.00× | 8.00 | 1.00× |"),
            "{text}"
        );
        assert_eq!(text.matches("FAULTY").count(), 1, "{text}");
        assert_eq!(text.matches("| clean |").count(), 1, "{text}");
    }

    #[test]
    fn spreads() {
        assert_eq!(Spread::of(vec![]), None);
        let even = Spread::of(vec![4.0, 1.0, 2.0, 3.0]).unwrap();
        assert_eq!(
            even,
            Spread {
                median: 2.5,
                low: 1.0,
                high: 4.0
            }
        );
        assert_eq!(short(1234.5), "1234");
    }
}
