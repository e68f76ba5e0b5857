//! Whole RPC runs against the relay.

use std::net::TcpListener;
use std::sync::Arc;
use std::thread;

use super::{RpcPlan, run};
use crate::flags::Flags;
use crate::load::Outcome;
use crate::relay::{Fault, Relay};
use crate::stats::procfs::Broker;

/// Runs `line` for a short time against a relay that commits `fault`.
fn relayed(line: &str, fault: Option<(Fault, u64)>) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || Arc::new(Relay::new(fault)).serve(&listener));
    let line = format!("--uri amqp://{address} --time 1 {line}");
    let mut flags = Flags::new(Flags::from_line(&line));
    let plan = RpcPlan::take(&mut flags).unwrap();
    flags.finish().unwrap();
    run(&plan, &Broker::default(), false).unwrap()
}

#[test]
fn every_call_gets_its_reply() {
    for line in [
        "",
        "--callers 8 --servers 3 --threads 1",
        "--callers 20 --reply-connections 1",
    ] {
        let outcome = relayed(line, None);
        let verdict = outcome.integrity.unwrap();
        assert!(
            verdict.is_clean() && verdict.expected > 10,
            "{line}: {verdict:?}"
        );
        assert_eq!(outcome.totals.received, outcome.totals.sent);
        assert_eq!(outcome.totals.confirmed, outcome.totals.sent);
        assert_eq!(outcome.end_to_end.unwrap().count, outcome.totals.sent);
    }
}

#[test]
fn a_lost_message_is_a_lost_call_and_calling_goes_on() {
    let outcome = relayed("--timeout 0.1", Some((Fault::Lose, 10)));
    let verdict = outcome.integrity.unwrap();
    assert!(verdict.lost >= 2 && !verdict.is_clean(), "{verdict:?}");
    assert!(outcome.totals.received > 10, "{:?}", outcome.totals);
}

#[test]
fn a_duplicated_message_is_noticed() {
    let verdict = relayed("", Some((Fault::Duplicate, 5))).integrity.unwrap();
    assert!(verdict.duplicated > 0 && verdict.lost == 0, "{verdict:?}");
}
