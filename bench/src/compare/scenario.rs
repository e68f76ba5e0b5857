//! Scenario files.

use super::broker::Clients;
use crate::error::{Error, Result};
use crate::flags::{Flags, parse_count};

/// One line of a scenario file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Shown in the report.
    pub name: String,
    /// The broker starts empty.
    pub fresh: bool,
    /// First round only.
    pub once: bool,
    /// Where its connections go, if the broker is a cluster.
    pub clients: Clients,
    /// What is done.
    pub step: Step,
}

/// What a scenario does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A subcommand with flags.
    Command(Vec<String>),
    /// Stop, start, and see that a queue has its messages.
    Startup {
        /// Its name.
        queue: String,
        /// Messages in it.
        expect: u64,
    },
}

impl Scenario {
    /// The command line without what compare adds.
    pub fn words(&self) -> &[String] {
        match &self.step {
            Step::Command(words) => words,
            Step::Startup { .. } => &[],
        }
    }
}

/// Reads a scenario file; `only` keeps lines whose name contains one of its comma-separated parts.
///
/// # Errors
/// A line that is not of the form.
pub fn parse(text: &str, only: Option<&str>) -> Result<Vec<Scenario>> {
    let mut scenarios = Vec::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let scenario = parse_line(line)
            .ok_or_else(|| Error::Usage(format!("scenario line not understood: {line:?}")))?;
        if only.is_none_or(|only| only.split(',').any(|part| scenario.name.contains(part))) {
            scenarios.push(scenario);
        }
    }
    if scenarios.is_empty() {
        return Err(Error::Usage("no scenario is left".into()));
    }
    Ok(scenarios)
}

fn parse_line(line: &str) -> Option<Scenario> {
    let (name, rest) = line.split_once('|')?;
    let mut words = Flags::from_line(rest);
    let mut marked = |mark: &str| {
        let before = words.len();
        words.retain(|w| w != mark);
        words.len() < before
    };
    let (fresh, once) = (marked("@fresh"), marked("@once"));
    let clients = [
        ("@spread", Clients::Spread),
        ("@leader", Clients::Leader),
        ("@off-leader", Clients::OffLeader),
    ];
    let clients = clients.into_iter().find(|(mark, _)| marked(mark));
    let step = match words.first()?.as_str() {
        "startup" => {
            let mut flags = Flags::new(words.drain(1..));
            let queue = flags.text("queue").ok()??;
            let expect = parse_count(&flags.text("expect").ok()??)?;
            flags.finish().ok()?;
            Step::Startup { queue, expect }
        }
        "run" | "rpc" | "idle" | "backlog" | "churn" => Step::Command(words),
        _ => return None,
    };
    Some(Scenario {
        name: name.trim().to_owned(),
        fresh,
        once,
        clients: clients.map_or(Clients::First, |(_, clients)| clients),
        step,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{SINGLE_NODE, THREE_NODES};
    use crate::load::Plan;
    use crate::rpc::RpcPlan;

    #[test]
    fn marks_and_startup() {
        let list = parse(
            "# no\n a | @once @fresh run --size 1\nb|startup --queue q --expect 2k",
            None,
        );
        let list = list.unwrap();
        assert!(list[0].fresh && list[0].once && list[0].words() == ["run", "--size", "1"]);
        assert_eq!(
            list[1].step,
            Step::Startup {
                queue: "q".into(),
                expect: 2000
            }
        );
        for bad in ["a run", "a | walk", "b | startup --queue q", "a |"] {
            assert!(parse(bad, None).is_err(), "{bad}");
        }
        assert!(parse("a | run", Some("z")).is_err());
    }

    #[test]
    fn the_built_in_lines_are_valid_plans() {
        let cliffs = include_str!("../../scenarios/cliffs.txt");
        let all = [SINGLE_NODE, THREE_NODES, cliffs].concat();
        for scenario in parse(&all, None).unwrap() {
            let words = scenario.words();
            let mut flags = Flags::new(words.iter().skip(1).cloned());
            match words.first().map(String::as_str) {
                Some("run") => drop(Plan::take(&mut flags).unwrap()),
                Some("rpc") => drop(RpcPlan::take(&mut flags).unwrap()),
                _ => continue,
            }
            flags.finish().unwrap();
        }
    }
}
