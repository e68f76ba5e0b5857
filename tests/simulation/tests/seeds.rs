//! Runs of the simulated cluster, one for each seed.
//!
//! - By default as many seeds as are done in about a minute, at most 3000; without optimisation (openraft checks itself after every step then)
//!   a few. The release profile is what `tests/run` uses.
//! - `LEVERET_SIM_SEEDS=20000`: so many, however long they take; `LEVERET_SIM_FIRST=5000`: from this one on.
//! - `LEVERET_SIM_SEED=17`: this one, with everything that happens printed. A failure prints the command.
//!
//! The code was broken on purpose, to see what is found, and by which seed from 1 on:
//!
//! | broken | found |
//! |---|---|
//! | a start takes all of its log for committed, and applies it | 4 |
//! | a truncation leaves no record in the journal | 17 |
//! | a truncation is no barrier for runs of messages | 17 |
//! | the same, but only where a blank entry comes first (a fault that seeds found) | 17 |
//! | a vote is not synced | 52 |
//! | a checkpoint does not wait for the journal | not in 400 |
//! | an append counts when it is written, before the sync | not in 170 s: the simulated writer does both in one step, so that only a power cut within it parts them |
//! | the replica forgets the numbers of sessions | not in 170 s: the leader of this simulation looks at them before it proposes |

use std::time::{Duration, Instant};

use leveret_simulation::run::{Report, run};

/// Seeds of the default test at most.
const SEEDS: u64 = if cfg!(debug_assertions) { 3 } else { 3000 };
/// The default test begins no further seed after so long.
const LASTS: Duration = Duration::from_secs(60);

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
    )
}

fn checked(seed: u64) -> Report {
    match run(seed, false) {
        Ok(report) => report,
        Err(violation) => panic!("{violation}"),
    }
}

#[test]
fn seeds() {
    if let Some(seed) = number("LEVERET_SIM_SEED") {
        match run(seed, true) {
            Ok(report) => println!("{report:#?}"),
            Err(violation) => panic!("{violation}"),
        }
        return;
    }
    let asked = number("LEVERET_SIM_SEEDS");
    let first = number("LEVERET_SIM_FIRST").unwrap_or(1);
    let start = Instant::now();
    let (mut done, mut sum, mut slowest) = (0, Report::default(), 0);
    for seed in first..first + asked.unwrap_or(SEEDS) {
        if asked.is_none() && start.elapsed() > LASTS {
            break;
        }
        let report = checked(seed);
        done += 1;
        slowest = slowest.max(report.healed_ms);
        sum.add(&report);
    }
    println!(
        "{done} seeds in {:?}, healed within {slowest} ms: {sum:#?}",
        start.elapsed()
    );
    // A simulation that does nothing finds nothing.
    assert!(sum.messages.1 > 0 && sum.entries > 0);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3] {
        assert_eq!(checked(seed), checked(seed), "seed {seed}");
        if cfg!(debug_assertions) {
            return;
        }
    }
}
