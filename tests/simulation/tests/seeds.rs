//! Runs of the simulated cluster, one for each seed.
//!
//! - By default as many seeds of each level as are done in 45 s, with an upper bound; without optimisation (openraft checks itself after every step then)
//!   a few. The release profile is what `tests/run` uses.
//! - `LEVERET_SIM_SEEDS=20000`: so many, however long they take; `LEVERET_SIM_FIRST=5000`: from this one on.
//! - `LEVERET_SIM_SEED=17`: this one, with everything that happens printed. A failure prints the command.
//!
//! The code was broken on purpose, to see what level one finds, and by which seed from 1 on (of longer histories than now):
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

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leveret_simulation::node::Level;
use leveret_simulation::run::{Report, Violation, run};

/// Seeds of the default test at most.
fn seeds_max(level: Level) -> u64 {
    match level {
        _ if cfg!(debug_assertions) => 3,
        Level::Model => 4000,
        Level::Broker => 1000,
    }
}
/// The default test begins no further seed after so long.
const LASTS: Duration = Duration::from_secs(45);
/// Each level has all cores to itself.
static ONE: Mutex<()> = Mutex::new(());

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number")),
    )
}

fn checked(level: Level, seed: u64) -> Report {
    match run(level, seed, false) {
        Ok(report) => report,
        Err(violation) => panic!("{violation}"),
    }
}

/// What came of all seeds.
#[derive(Default)]
struct Sum {
    done: u64,
    slowest_ms: u64,
    report: Report,
    violation: Option<Box<Violation>>,
}

/// A thread for each core; each takes the next seed.
fn all(level: Level, first: u64, count: u64, lasts: Option<Duration>) -> Sum {
    let (start, next) = (Instant::now(), AtomicU64::new(first));
    let (sum, over) = (Mutex::new(Sum::default()), AtomicBool::new(false));
    let work = || {
        while lasts.is_none_or(|lasts| start.elapsed() < lasts) && !over.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed - first >= count {
                return;
            }
            let result = run(level, seed, false);
            let mut sum = sum.lock().expect("no thread panics with it");
            match result {
                Ok(report) => {
                    sum.done += 1;
                    sum.slowest_ms = sum.slowest_ms.max(report.healed_ms);
                    sum.report.add(&report);
                }
                Err(violation) => {
                    over.store(true, Ordering::Relaxed);
                    sum.violation.get_or_insert(violation);
                }
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(work);
        }
    });
    sum.into_inner().expect("no thread panics with it")
}

fn seeds(level: Level) {
    let _one = ONE.lock();
    if let Some(seed) = number("LEVERET_SIM_SEED") {
        match run(level, seed, true) {
            Ok(report) => println!("{report:#?}"),
            Err(violation) => panic!("{violation}"),
        }
        return;
    }
    let asked = number("LEVERET_SIM_SEEDS");
    let first = number("LEVERET_SIM_FIRST").unwrap_or(1);
    let start = Instant::now();
    let lasts = asked.is_none().then_some(LASTS);
    let sum = all(
        level,
        first,
        asked.unwrap_or_else(|| seeds_max(level)),
        lasts,
    );
    if let Some(violation) = sum.violation {
        panic!("{violation}");
    }
    let (done, slowest) = (sum.done, sum.slowest_ms);
    println!(
        "{done} seeds ({level:?}) in {:?}, healed within {slowest} ms: {:#?}",
        start.elapsed(),
        sum.report
    );
    // A simulation that does nothing finds nothing.
    assert!(sum.report.messages.1 > 0 && sum.report.entries > 0);
}

#[test]
fn seeds_of_the_model() {
    seeds(Level::Model);
}

#[test]
fn seeds_of_the_broker() {
    seeds(Level::Broker);
}

/// Also on another thread, beside others.
#[test]
fn the_same_seed_is_the_same_run() {
    let count = if cfg!(debug_assertions) { 1 } else { 3 };
    let runs = || {
        let both = |seed| [Level::Model, Level::Broker].map(|level| checked(level, seed));
        (1..=count).map(both).collect::<Vec<_>>()
    };
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(runs);
        (runs(), other.join().expect("it ends"))
    });
    assert_eq!(one, other);
}
