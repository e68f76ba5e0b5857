//! Whole runs against the relay: clean ones, and one for each fault that the verdict must find.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use super::plan::Plan;
use super::session::{Ledger, run};
use super::watch::Outcome;
use crate::flags::Flags;
use crate::integrity::Verdict;
use crate::relay::{Fault, Relay};
use crate::stats::procfs::Broker;

const MESSAGES: u64 = 20_000;
const EVERY: u64 = 997;

/// Runs `line` against a relay that commits `fault` every [`EVERY`] messages.
fn relayed(line: &str, fault: Option<Fault>) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let relay = Relay::new(fault.map(|f| (f, EVERY)));
    thread::spawn(move || Arc::new(relay).serve(&listener));
    let line = format!("--uri amqp://{address} --messages {MESSAGES} --drain 1 {line}");
    let mut flags = Flags::new(Flags::from_line(&line));
    let plan = Plan::take(&mut flags).unwrap();
    flags.finish().unwrap();
    run(&plan, &Broker::default(), &mut Ledger::new(&plan), false).unwrap()
}

fn verdict(line: &str, fault: Fault) -> Verdict {
    let verdict = relayed(line, Some(fault)).integrity.unwrap();
    assert_eq!(verdict.expected + verdict.refused, MESSAGES);
    verdict
}

fn clean(expected: u64) -> Verdict {
    Verdict {
        expected,
        ..Verdict::default()
    }
}

#[test]
fn clean_runs_of_many_shapes_are_clean() {
    for line in [
        "",
        "--confirm-window 1 --messages 500",
        "--confirm-window 100 --ack-every 1 --prefetch 50 --size 1024 --verify-body",
        "--producers 5 --consumers 3 --queues 7 --confirm-window 10 --ack-every 5 --size 100",
        "--threads 1 --size 300000 --messages 50 --verify-body",
        "--rate 40000 --producers 3 --confirm-window 1000",
        "--size 16 --threads 4 --producers 4 --consumers 4",
    ] {
        let outcome = relayed(line, None);
        let verdict = outcome.integrity.unwrap();
        assert_eq!(verdict, clean(outcome.totals.sent), "{line}");
        assert_eq!(outcome.totals.received, outcome.totals.sent, "{line}");
        assert!(outcome.totals.sent > 0, "{line}");
        if line.contains("confirm") {
            assert_eq!(outcome.totals.confirmed, outcome.totals.sent, "{line}");
            assert_eq!(
                outcome.confirm.unwrap().count,
                outcome.totals.sent,
                "{line}"
            );
        }
        assert_eq!(
            outcome.end_to_end.unwrap().count,
            outcome.totals.sent,
            "{line}"
        );
    }
}

#[test]
fn a_losing_broker_is_found_out() {
    let lost = MESSAGES / EVERY;
    assert_eq!(
        verdict("", Fault::Lose),
        Verdict {
            lost,
            ..clean(MESSAGES)
        }
    );
}

#[test]
fn a_duplicating_broker_is_found_out() {
    let duplicated = MESSAGES / EVERY;
    assert_eq!(
        verdict("", Fault::Duplicate),
        Verdict {
            duplicated,
            ..clean(MESSAGES)
        }
    );
}

#[test]
fn a_reordering_broker_is_found_out() {
    let reordered = MESSAGES / EVERY;
    let found = verdict("--confirm-window 100", Fault::Swap);
    assert_eq!(
        found,
        Verdict {
            reordered,
            ..clean(MESSAGES)
        }
    );
}

#[test]
fn a_corrupting_broker_is_found_out() {
    let found = verdict("--size 100 --verify-body", Fault::Corrupt);
    let spoilt = MESSAGES / EVERY;
    assert_eq!(
        found,
        Verdict {
            corrupted: spoilt,
            lost: spoilt,
            ..clean(MESSAGES)
        }
    );
}

#[test]
fn nacked_messages_are_refused_and_not_lost() {
    let refused = MESSAGES / EVERY;
    let found = verdict("--confirm-window 100", Fault::Nack);
    assert_eq!(
        found,
        Verdict {
            refused,
            ..clean(MESSAGES - refused)
        }
    );
}

#[test]
fn a_rate_is_kept() {
    let outcome = relayed("--rate 10000 --messages 5000", None);
    assert!(
        (0.45..0.6).contains(&outcome.elapsed_s),
        "{}",
        outcome.elapsed_s
    );
}
