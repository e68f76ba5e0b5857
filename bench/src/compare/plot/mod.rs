//! The plots of a report: throughput over time and latency by percentile of each load, and the rate over what a series varies.
//!
//! Scenarios whose names end in `:NUMBER` and are the same before it are a series (`size:16`, `size:1024`).

mod svg;

use serde_json::Value;

use super::record::Record;
use svg::{Chart, Line, Scale};

/// A plot and where it goes.
pub struct Plot {
    /// Of the file, without folder.
    pub file: String,
    /// What it shows.
    pub title: String,
    /// The document.
    pub svg: String,
}

/// Percentiles as reports have them, and the share of messages above each.
const PERCENTILES: [(&str, f64, &str); 5] = [
    ("p50_us", 0.5, "50 %"),
    ("p90_us", 0.1, "90 %"),
    ("p99_us", 0.01, "99 %"),
    ("p999_us", 0.001, "99.9 %"),
    ("p9999_us", 0.0001, "99.99 %"),
];
/// Where a rate stands in the reports of the subcommands, and what of it is shown.
const RATES: [(&str, &str); 3] = [
    ("outcome.rate_per_s", ""),
    ("fill.rate_per_s", ", fill"),
    ("drain.rate_per_s", ", drain"),
];

/// All plots that `records` give, limits left out.
pub fn plots(records: &[Record]) -> Vec<Plot> {
    let mut scenarios: Vec<&str> = Vec::new();
    let mut series: Vec<&str> = Vec::new();
    let measured = || {
        records
            .iter()
            .filter(|r| !r.scenario.is_empty() && !r.broker.starts_with("limit"))
    };
    for record in measured() {
        match parts(&record.scenario) {
            Some((name, _)) if !series.contains(&name) => series.push(name),
            None if !scenarios.contains(&record.scenario.as_str()) => {
                scenarios.push(&record.scenario);
            }
            _ => {}
        }
    }
    let mut plots = Vec::new();
    for name in series {
        let of = measured().filter(|r| parts(&r.scenario).is_some_and(|(n, _)| n == name));
        let chart = rate_over(name, &of.collect::<Vec<_>>());
        plots.extend(plot(name, "series", chart));
    }
    for name in scenarios {
        let of: Vec<&Record> = measured().filter(|r| r.scenario == name).collect();
        plots.extend(plot(name, "throughput", throughput(name, &of)));
        plots.extend(plot(name, "latency", latency(name, &of)));
    }
    plots
}

/// Name and value of a member of a series.
pub fn parts(scenario: &str) -> Option<(&str, f64)> {
    let (name, value) = scenario.rsplit_once(':')?;
    Some((name, crate::flags::parse_count(value)? as f64))
}

fn plot(name: &str, kind: &str, chart: Chart) -> Option<Plot> {
    let safe = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let file = name.chars().map(safe).collect::<String>();
    Some(Plot {
        file: format!("{file}-{kind}.svg"),
        svg: chart.svg()?,
        title: chart.title,
    })
}

/// A line for each broker, of what `points` finds in its records.
fn lines(records: &[&Record], points: impl Fn(&[&Record]) -> Vec<(f64, f64)>) -> Vec<Line> {
    let mut brokers: Vec<&str> = Vec::new();
    for record in records {
        if !brokers.contains(&record.broker.as_str()) {
            brokers.push(&record.broker);
        }
    }
    // In the order of names, so that a broker has the same colour whoever was first in a round.
    brokers.sort_unstable();
    let line = |broker: &str| {
        let mine: Vec<&Record> = records
            .iter()
            .filter(|r| r.broker == broker)
            .copied()
            .collect();
        Line {
            name: broker.to_owned(),
            points: points(&mine),
        }
    };
    brokers.into_iter().map(line).collect()
}

/// Deliveries a second, of the first round.
fn throughput(name: &str, records: &[&Record]) -> Chart {
    let points = |records: &[&Record]| {
        let series = records.iter().find_map(|r| r.value("outcome.series"));
        let mut points = Vec::new();
        let mut before = 0.0;
        for sample in series.and_then(Value::as_array).into_iter().flatten() {
            let number = |key: &str| sample.get(key).and_then(Value::as_f64);
            let counts = sample.get("counts");
            let received = counts.and_then(|c| c.get("received")?.as_f64());
            if let (Some(at), Some(received)) = (number("at_s"), received)
                && at > before
            {
                points.push((at, received / (at - before)));
                before = at;
            }
        }
        points
    };
    Chart {
        title: format!("{name}: throughput"),
        x_label: "seconds, warm-up included".into(),
        y_label: "deliveries a second".into(),
        x: Scale::Linear,
        y: Scale::Log,
        x_ticks: Vec::new(),
        lines: lines(records, points),
    }
}

/// Medians of the rounds.
fn latency(name: &str, records: &[&Record]) -> Chart {
    let is_rpc = records.iter().any(|r| r.command.starts_with("rpc"));
    let confirmed = records
        .iter()
        .any(|r| r.value("outcome.confirm").is_some_and(Value::is_object));
    let (what, words) = match (is_rpc, confirmed) {
        (false, true) => ("confirm", "publish to confirm"),
        (true, _) => ("end_to_end", "call to reply"),
        (false, false) => ("end_to_end", "publish to delivery"),
    };
    let points = |records: &[&Record]| {
        let at = |key: &str| {
            let path = format!("outcome.{what}.{key}");
            median(records.iter().filter_map(|r| r.number(&path)).collect())
        };
        let all = PERCENTILES.iter();
        all.filter_map(|(key, above, _)| Some((1.0 / above, at(key)?)))
            .collect()
    };
    Chart {
        title: format!("{name}: {words}"),
        x_label: "share of messages that were as fast".into(),
        y_label: "µs".into(),
        x: Scale::Log,
        y: Scale::Log,
        x_ticks: PERCENTILES
            .iter()
            .map(|(_, above, text)| (1.0 / above, (*text).to_owned()))
            .collect(),
        lines: lines(records, points),
    }
}

/// Medians of the rounds.
fn rate_over(name: &str, records: &[&Record]) -> Chart {
    let mut all = Vec::new();
    for (path, words) in RATES {
        let points = |records: &[&Record]| {
            let mut values: Vec<f64> = records
                .iter()
                .filter_map(|r| Some(parts(&r.scenario)?.1))
                .collect();
            values.sort_by(f64::total_cmp);
            values.dedup();
            let rate = |value: f64| {
                let of = records
                    .iter()
                    .filter(|r| parts(&r.scenario).is_some_and(|(_, v)| v == value));
                median(of.filter_map(|r| r.number(path)).collect())
            };
            values
                .into_iter()
                .filter_map(|value| Some((value, rate(value)?)))
                .collect()
        };
        let found = lines(records, points);
        all.extend(
            found
                .into_iter()
                .filter(|line| !line.points.is_empty())
                .map(|line| Line {
                    name: line.name + words,
                    ..line
                }),
        );
    }
    Chart {
        title: format!("{name}: messages a second"),
        x_label: name.to_owned(),
        y_label: "messages a second".into(),
        x: Scale::Log,
        y: Scale::Log,
        x_ticks: Vec::new(),
        lines: all,
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn record(broker: &str, scenario: &str, report: Value) -> Record {
        Record {
            broker: broker.into(),
            scenario: scenario.into(),
            command: "run".into(),
            round: 0,
            report,
            error: None,
        }
    }

    #[test]
    fn loads_get_two_plots_and_series_one() {
        let load = json!({"outcome": {
            "rate_per_s": 100.0,
            "confirm": {"p50_us": 10.0, "p90_us": 20.0, "p99_us": 40.0},
            "series": [{"at_s": 0.1, "counts": {"received": 10}}, {"at_s": 0.2, "counts": {"received": 20}}],
        }});
        let mut records = vec![
            record("A", "a load", load.clone()),
            record("B", "a load", load.clone()),
            record("limit: disk", "a load", load.clone()),
            record("A", "fails", Value::Null),
        ];
        for size in ["16", "1Ki"] {
            records.push(record("A", &format!("size:{size}"), load.clone()));
        }
        let plots = plots(&records);
        let files: Vec<&str> = plots.iter().map(|p| p.file.as_str()).collect();
        assert_eq!(
            files,
            [
                "size-series.svg",
                "a-load-throughput.svg",
                "a-load-latency.svg"
            ]
        );
        assert!(plots[2].title.ends_with("publish to confirm"));
        assert!(plots.iter().all(|p| !p.svg.contains("limit")));
        // 10 messages in 0.1 s, 20 in the next: both brokers' lines have two points.
        assert_eq!(plots[1].svg.matches("<circle").count(), 4);
        assert_eq!(plots[2].svg.matches("<circle").count(), 6);
    }

    #[test]
    fn series_are_told_by_their_names() {
        assert_eq!(parts("size:16Ki"), Some(("size", 16_384.0)));
        assert_eq!(parts("size"), None);
        assert_eq!(parts("size:big"), None);
    }
}
