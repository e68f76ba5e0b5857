//! Power cuts on the simulated disk: what was durable is there, what is there is what was appended, nothing comes back.

mod common;

use std::collections::VecDeque;

use common::*;
use leveret_storage::disk::sim::{Fault, SimDisk};
use leveret_storage::record::{FLAG_CONTINUES, FLAG_MORE};
use leveret_storage::{Journal, Location};
use proptest::prelude::*;

/// What may be in the journal, against what is.
#[derive(Default)]
struct Model {
    /// Everything appended and not removed, in order.
    appended: VecDeque<Kept>,
    next: u64,
    /// Where replay starts: as a checkpoint would have it.
    from: Location,
}

impl Model {
    fn append(&mut self, journal: &Journal, len: usize, sync: bool) {
        if let Ok(kept) = append(journal, self.next, len, sync) {
            self.appended.push_back(kept);
        }
        self.next += 1;
    }

    fn append_unit(&mut self, journal: &Journal, lengths: &[usize], sync: bool) {
        if let Ok(kept) = append_unit(journal, self.next, lengths, sync) {
            self.appended.extend(kept);
        }
        self.next += lengths.len() as u64;
    }

    /// A durable checkpoint at the start of the second oldest segment, then the removal of the oldest.
    fn remove_oldest(&mut self, journal: &Journal) {
        let segments = journal.segments();
        let [oldest, next, ..] = segments.as_slice() else {
            return;
        };
        // A crash may have brought older ones back.
        let from = Location::new(next.id, 0);
        let first = self.appended.iter().find(|record| record.location >= from);
        if first.is_some_and(|record| record.flags & FLAG_CONTINUES != 0) {
            return; // A checkpoint covers a unit whole or not at all.
        }
        self.from = self.from.max(from);
        self.appended.retain(|record| record.location >= self.from);
        let _ = journal.remove_segment(oldest.id);
    }

    /// Checks what a reopened journal replayed, and forgets what a crash took.
    fn check(&mut self, replayed: &[Kept], durable: Location, context: &str) {
        let mut must = self
            .appended
            .iter()
            .filter(|record| record.end() <= durable)
            .count();
        // A unit is durable when its last record is.
        while must
            .checked_sub(1)
            .is_some_and(|last| self.appended[last].flags & FLAG_MORE != 0)
        {
            must -= 1;
        }
        assert!(
            replayed.len() >= must,
            "{context}: {} of {must} durable records",
            replayed.len()
        );
        assert!(
            replayed.len() <= self.appended.len(),
            "{context}: records from nowhere"
        );
        for (found, appended) in replayed.iter().zip(&self.appended) {
            assert_eq!(found, appended, "{context}");
        }
        if let Some(lost) = self.appended.get(replayed.len()) {
            assert_eq!(
                lost.flags & FLAG_CONTINUES,
                0,
                "{context}: a part of a unit"
            );
        }
        self.appended.truncate(replayed.len());
    }
}

#[derive(Debug, Clone)]
enum Op {
    AppendUnit {
        lengths: Vec<usize>,
        sync: bool,
    },
    Append {
        len: usize,
        sync: bool,
    },
    Step {
        force: bool,
    },
    RemoveOldest,
    CleanClose,
    /// Power cut at once, or at the n-th disk operation of what follows.
    Crash {
        seed: u64,
    },
    CutAfter {
        operations: u64,
    },
    FailSync {
        n: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let len = prop_oneof![
        8 => 0_usize..300,
        3 => 300_usize..4000,
        1 => (SEGMENT_BYTES as usize - 4300)..(SEGMENT_BYTES as usize + 3000),
    ];
    prop_oneof![
        30 => (len, any::<bool>()).prop_map(|(len, sync)| Op::Append { len, sync }),
        6 => (proptest::collection::vec(0_usize..5000, 2..7), any::<bool>())
            .prop_map(|(lengths, sync)| Op::AppendUnit { lengths, sync }),
        15 => any::<bool>().prop_map(|force| Op::Step { force }),
        2 => Just(Op::RemoveOldest),
        1 => Just(Op::CleanClose),
        4 => any::<u64>().prop_map(|seed| Op::Crash { seed }),
        3 => (1_u64..40).prop_map(|operations| Op::CutAfter { operations }),
        1 => (1_u64..6).prop_map(|n| Op::FailSync { n }),
    ]
}

/// Opens until it succeeds, cutting the power in the middle of recovery now and then.
fn reopen(
    disk: &SimDisk,
    model: &mut Model,
    durable: Location,
    seed: u64,
    context: &str,
) -> Opened {
    for attempt in 0_u64.. {
        disk.crash(seed.wrapping_add(attempt));
        if attempt < seed % 3 {
            disk.fail(1 + (seed >> 8) % 12, Fault::PowerCut);
        }
        match open_sim(disk, model.from) {
            Ok(opened) => {
                model.check(&opened.records, durable, context);
                let walk = opened.journal.walk(model.from);
                let walked: Vec<Kept> = walk.map(|record| record.unwrap().into()).collect();
                assert_eq!(
                    walked, opened.records,
                    "{context}: what is there is what was replayed"
                );
                return opened;
            }
            Err(error) => assert!(disk.power_is_cut(), "{context}: {error}"),
        }
    }
    unreachable!("the loop ends by returning")
}

fn run(ops: &[Op]) {
    let disk = SimDisk::new();
    let mut model = Model::default();
    let mut opened = open_sim(&disk, Location::ZERO).unwrap();
    for (number, op) in ops.iter().enumerate() {
        let context = format!("op {number} {op:?}");
        let journal = opened.journal.clone();
        match *op {
            Op::Append { len, sync } => model.append(&journal, len, sync),
            Op::AppendUnit { ref lengths, sync } => model.append_unit(&journal, lengths, sync),
            Op::Step { force } => drop(journal.step(force)),
            Op::RemoveOldest => model.remove_oldest(&journal),
            Op::CutAfter { operations } => disk.fail(operations, Fault::PowerCut),
            Op::FailSync { n } => disk.fail(n, Fault::Sync),
            Op::CleanClose => {
                journal.close();
                let durable = journal.durable();
                drop((journal, opened));
                opened = reopen(&disk, &mut model, durable, number as u64 * 3, &context);
            }
            Op::Crash { seed } => {
                let durable = journal.durable();
                drop((journal, opened));
                opened = reopen(&disk, &mut model, durable, seed, &context);
            }
        }
    }
    let durable = opened.journal.durable();
    drop(opened);
    reopen(&disk, &mut model, durable, 77, "the end");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn random_work_and_crashes(ops in proptest::collection::vec(op(), 1..120)) {
        run(&ops);
    }
}

/// One fixed piece of work: rolls, an oversize record, a recycled segment. Stops when the power does.
fn script(opened: &Opened, model: &mut Model) {
    let journal = &opened.journal;
    for round in 0..14 {
        for n in 0..5 {
            model.append(journal, (n * 331 + round * 97) % 1500, n == 3);
        }
        if round == 6 {
            model.append(journal, SEGMENT_BYTES as usize + 99, true);
        }
        if round % 3 == 1 {
            model.append_unit(journal, &[700, 10, 3000], round % 2 == 0);
        }
        journal.step(round % 4 == 0);
        if round == 9 || round == 11 {
            model.remove_oldest(journal);
        }
    }
}

#[test]
fn a_power_cut_at_every_operation() {
    let disk = SimDisk::new();
    let opened = open_sim(&disk, Location::ZERO).unwrap();
    let before = disk.operations();
    script(&opened, &mut Model::default());
    let operations = disk.operations() - before;
    assert!(operations > 60, "{operations}");
    drop(opened);
    for cut in 1..=operations {
        for seed in 0..6 {
            let context = format!("cut at {cut}, seed {seed}");
            let disk = SimDisk::new();
            let opened = open_sim(&disk, Location::ZERO).unwrap();
            let mut model = Model::default();
            disk.fail(cut, Fault::PowerCut);
            script(&opened, &mut model);
            let durable = opened.journal.durable();
            drop(opened);
            let opened = reopen(&disk, &mut model, durable, cut * 1000 + seed, &context);
            // It goes on, and what the crash took stays gone.
            script(&opened, &mut model);
            let durable = opened.journal.durable();
            drop(opened);
            reopen(&disk, &mut model, durable, seed, &context);
        }
    }
}

#[test]
fn a_power_cut_at_every_operation_of_recovery() {
    let base = SimDisk::new();
    let mut model = Model::default();
    let opened = open_sim(&base, Location::ZERO).unwrap();
    script(&opened, &mut model);
    for n in 0..20 {
        model.append(&opened.journal, n * 50, false);
    }
    let durable = opened.journal.durable();
    base.fail(2, Fault::PowerCut);
    opened.journal.step(true);
    drop(opened);
    let names: Vec<_> = (1..=40).map(|id| segment_file("j".as_ref(), id)).collect();
    for seed in 0..40 {
        base.crash(seed);
        let copy = || {
            let disk = SimDisk::new();
            for name in &names {
                if let Some(content) = base.content(name) {
                    disk.set_content(name, &content);
                }
            }
            disk
        };
        let disk = copy();
        let opened = open_sim(&disk, model.from).unwrap();
        let (all, operations) = (opened.records, disk.operations());
        for cut in 1..=operations {
            let disk = copy();
            disk.fail(cut, Fault::PowerCut);
            assert!(
                open_sim(&disk, model.from).is_err(),
                "cut at {cut} of {operations}"
            );
            disk.crash(seed + cut);
            let opened = open_sim(&disk, model.from).unwrap();
            assert_eq!(opened.records, all, "the same end every time");
        }
        let mut model = Model {
            appended: model.appended.clone(),
            ..Model::default()
        };
        model.check(&all, durable, "first recovery");
    }
}

#[test]
fn a_record_of_before_the_cut_never_follows_one_of_after_it() {
    // The tail's first record is lost and the next is kept; what is appended in its place has the same length, so that
    // the old record would be found right behind the new one.
    let mut cuts = 0;
    for seed in 0..300 {
        let disk = SimDisk::new();
        let mut model = Model::default();
        let opened = open_sim(&disk, Location::ZERO).unwrap();
        model.append(&opened.journal, 472, true);
        opened.journal.step(false);
        let durable = opened.journal.durable();
        for _ in 0..4 {
            model.append(&opened.journal, 472, false);
        }
        disk.fail(2, Fault::PowerCut);
        opened.journal.step(true);
        drop(opened);
        let opened = reopen(&disk, &mut model, durable, seed, "first");
        cuts += usize::from(opened.report.cut.is_some());
        model.append(&opened.journal, 472, true);
        opened.journal.step(false);
        let durable = opened.journal.durable();
        drop(opened);
        disk.crash(1);
        let opened = open_sim(&disk, Location::ZERO).unwrap();
        model.check(&opened.records, durable, "second");
    }
    assert!(cuts > 50, "{cuts}");
}

#[test]
fn a_unit_over_several_segments_is_there_whole_or_not_at_all() {
    let mut whole = 0;
    let mut wiped = 0;
    for cut in 1..30 {
        for seed in 0..8 {
            let context = format!("cut at {cut}, seed {seed}");
            let disk = SimDisk::new();
            let mut model = Model::default();
            let opened = open_sim(&disk, Location::ZERO).unwrap();
            model.append(&opened.journal, 100, true);
            opened.journal.step(false);
            let durable = opened.journal.durable();
            model.append_unit(&opened.journal, &[9000, 9000, 9000, 9000], true);
            disk.fail(cut, Fault::PowerCut);
            opened.journal.step(false);
            let durable_now = opened.journal.durable();
            let done = durable_now >= model.appended[4].end();
            drop(opened);
            let must = if done { durable_now } else { durable };
            let opened = reopen(&disk, &mut model, must, seed * 7 + cut, &context);
            whole += usize::from(opened.records.len() == 5);
            wiped += usize::from(durable_now.segment() > 2 && opened.records.len() == 1);
            // It goes on, and nothing of the unit that was cut comes back.
            for _ in 0..30 {
                model.append(&opened.journal, 1960, true);
                opened.journal.step(false);
            }
            let durable = opened.journal.durable();
            drop(opened);
            reopen(&disk, &mut model, durable, seed, &context);
        }
    }
    assert!(whole > 10 && wiped > 10, "{whole} {wiped}");
}
