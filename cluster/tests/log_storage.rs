//! Groups' logs in one journal, on a simulated disk whose power is cut at every operation: what was answered is there, what is there
//! was written, and all groups are as they were at one moment.

mod common;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use common::*;
use leveret_cluster::raft::checkpoint::Head;
use leveret_cluster::raft::log_storage::{LogStorage, RaftLog};
use leveret_cluster::raft::state_machine::StateMachine;
use leveret_cluster::raft::types::{Body, Entry, LogId, Payload, TokioTypes, Vote, log_id};
use leveret_cluster::{GroupId, LogStore, OpenError, RecoveredGroup, is_durable};
use leveret_storage::disk::sim::{Fault, SimDisk};
use leveret_storage::{Location, RecordKind};
use openraft::rt::{AsyncRuntime, Oneshot, Watch};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft_rt_tokio::TokioRuntime;

type Storage = LogStorage<TokioRuntime>;
type Answer = <<TokioRuntime as AsyncRuntime>::Oneshot as Oneshot>::Receiver<std::io::Result<()>>;

const GROUPS: [GroupId; 3] = [0, 256, 512];

/// A small random number generator; the same seed gives the same run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What a group's log is.
#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<(LogId, Bytes)>,
}

impl State {
    fn next_index(&self) -> u64 {
        let last = self.entries.last().map(|(id, _)| *id).or(self.purged);
        last.map_or(0, |id| id.index + 1)
    }
}

/// One future to its end, with the journal's work done in between. Nothing if the power is cut before.
fn drive<T>(store: &LogStore, disk: &SimDisk, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        if !store.step(false) || disk.power_is_cut() {
            // A failure is told to whoever waits.
            return match future.as_mut().poll(&mut context) {
                Poll::Ready(value) => Some(value),
                Poll::Pending => None,
            };
        }
    }
}

struct Run {
    disk: SimDisk,
    store: Arc<LogStore>,
    logs: Vec<Storage>,
    states: Vec<State>,
    /// The states of all groups after each record, in the order of the journal.
    history: Vec<Vec<State>>,
    /// Appends that are not answered yet: group, and what the history must have once they are.
    open: Vec<(usize, usize, Answer)>,
    /// The history is at least this long after a power cut, and after a kill.
    durable: usize,
    written: usize,
    failed: bool,
}

impl Run {
    fn begin(disk: SimDisk) -> Result<Run, OpenError> {
        let (store, mut recovered) = try_open(&sim(&disk), Path::new("n"), true)?;
        let logs: Vec<Storage> = GROUPS
            .iter()
            .map(|group| storage(&store, *group, recovered.take_raft(*group)))
            .collect();
        let states: Vec<State> = logs.iter().map(state_of).collect();
        Ok(Run {
            disk,
            store,
            logs,
            history: vec![states.clone()],
            states,
            open: Vec::new(),
            durable: 0,
            written: 0,
            failed: false,
        })
    }

    fn note(&mut self) {
        self.history.push(self.states.clone());
    }

    /// Hears who was answered.
    fn answers(&mut self) {
        let mut context = Context::from_waker(Waker::noop());
        let (mut durable, mut written) = (self.durable, self.written);
        self.open.retain_mut(|(group, at, answer)| {
            let Poll::Ready(answer) = pin!(answer).poll(&mut context) else {
                return true;
            };
            if matches!(answer, Ok(Ok(()))) {
                written = written.max(*at);
                if is_durable(GROUPS[*group]) {
                    durable = durable.max(*at);
                }
            }
            false
        });
        (self.durable, self.written) = (durable, written);
    }

    fn step(&mut self, random: &mut Random) {
        let group = random.below(3) as usize;
        let Run {
            disk, store, logs, ..
        } = self;
        let log = &mut logs[group];
        let state = &mut self.states[group];
        match random.below(20) {
            0..=8 => {
                let term = state.vote.map_or(1, |vote| vote.leader_id.term);
                let first = state.next_index();
                let count = 1 + random.below(4);
                let mut entries = Vec::new();
                for index in first..first + count {
                    let len = match random.below(8) {
                        0 => 3000 + random.below(3000),
                        _ => random.below(120),
                    };
                    let data = vec![random.next() as u8; len as usize];
                    let body = Body::Normal(Payload::copied(&data));
                    let (log_id, location) = (log_id(term, index), Location::ZERO);
                    entries.push(Entry {
                        log_id,
                        body,
                        location,
                    });
                }
                let (tell, told) = <TokioRuntime as AsyncRuntime>::Oneshot::channel();
                let appended = drive(
                    store,
                    disk,
                    log.append(entries.clone(), IOFlushed::signal(tell)),
                );
                let Some(Ok(())) = appended else {
                    self.failed = true;
                    return;
                };
                for entry in entries {
                    let Body::Normal(payload) = entry.body else {
                        continue;
                    };
                    self.states[group]
                        .entries
                        .push((entry.log_id, payload.data()));
                    self.note();
                }
                self.open.push((group, self.history.len() - 1, told));
            }
            9..=11 => {
                let term = state.vote.map_or(1, |vote| vote.leader_id.term);
                let vote = Vote {
                    committed: random.below(2) == 0,
                    ..Vote::new(term + random.below(3), random.below(4))
                };
                state.vote = Some(vote);
                self.note();
                let Run {
                    disk, store, logs, ..
                } = self;
                match drive(store, disk, logs[group].save_vote(&vote)) {
                    // Of every group, and so of all that is before it.
                    Some(Ok(())) => {
                        self.durable = self.history.len() - 1;
                        self.written = self.durable;
                    }
                    _ => self.failed = true,
                }
            }
            12..=13 => {
                let kept = random.below(state.entries.len() as u64 + 1) as usize;
                let last = match kept {
                    0 => state.purged,
                    kept => Some(state.entries[kept - 1].0),
                };
                state.entries.truncate(kept);
                self.failed |=
                    !matches!(drive(store, disk, log.truncate_after(last)), Some(Ok(())));
                self.note();
            }
            14 => {
                let past = random.below(30) == 0;
                let upto = match (past, state.entries.len()) {
                    (true, _) => log_id(
                        state.vote.map_or(1, |vote| vote.leader_id.term),
                        state.next_index() + 5,
                    ),
                    (false, 0) => return,
                    (false, len) => state.entries[random.below(len as u64) as usize].0,
                };
                state.entries.retain(|(id, _)| id.index > upto.index);
                state.purged = Some(upto);
                self.failed |= !matches!(drive(store, disk, log.purge(upto)), Some(Ok(())));
                self.note();
            }
            15 => self.checkpoint(group),
            16 => self.reclaim(),
            _ => {
                store.step(random.below(2) == 0);
            }
        }
    }

    /// What the state machine's checkpoints do: everything durable first.
    fn checkpoint(&mut self, group: usize) {
        let log = self.logs[group].log();
        let position = log.position();
        let head = Head {
            vote: position.vote,
            purged: position.purged,
            ..Head::default()
        };
        let journal = self.store.journal();
        if journal.wait_durable(position.end).is_err() {
            self.failed = true;
            return;
        }
        self.durable = self.history.len() - 1;
        self.written = self.durable;
        let data = head.encode(b"");
        let written =
            self.store
                .write_raft_checkpoint(GROUPS[group], position.replay_from, None, &data);
        self.failed |= written.is_err();
    }

    /// Checkpoints of all, and away with the segments before them.
    fn reclaim(&mut self) {
        for group in 0..GROUPS.len() {
            self.checkpoint(group);
        }
        if self.failed || self.store.finish_round().is_err() {
            self.failed = true;
            return;
        }
        // Nothing moved since the checkpoints.
        let covered = self.logs.iter().map(|log| log.log().position().replay_from);
        let first = covered.min().map_or(0, |first| first.segment());
        for segment in self.store.journal().segments() {
            if segment.sealed && segment.id < first {
                let _ = self.store.journal().remove_segment(segment.id);
            }
        }
    }

    /// The store is gone, and opened again: it is as at one moment of the history, `least` or later.
    fn check(self, least: usize, context: &str) -> Run {
        let Run {
            disk,
            store,
            logs,
            history,
            ..
        } = self;
        drop(logs);
        drop(store);
        let run = Run::begin(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
        let found = &history[history.len().min(least)..]
            .iter()
            .position(|states| *states == run.states);
        if found.is_none() {
            let before = history.iter().rposition(|states| *states == run.states);
            panic!(
                "{context}: not one of the {} last states of {}; one before: {before:?}\n{:#?}\n{:#?}",
                history.len() - least,
                history.len(),
                run.states,
                history[least]
            );
        }
        for log in &run.logs {
            check_walk(log.log(), context);
        }
        run
    }
}

fn storage(store: &Arc<LogStore>, group: GroupId, recovered: RecoveredGroup) -> Storage {
    LogStorage::new(RaftLog::new(
        group,
        is_durable(group),
        Arc::clone(store.journal()),
        Arc::clone(store.flushes()),
        recovered.index,
    ))
}

fn state_of(storage: &Storage) -> State {
    let log = storage.log();
    let entries = log
        .entries(0, u64::MAX, u64::MAX)
        .expect("entries are read");
    State {
        vote: log.with_index(|index| index.vote()),
        purged: log.with_index(|index| index.purged()),
        entries: entries
            .into_iter()
            .map(|entry| match entry.body {
                Body::Normal(payload) => (entry.log_id, payload.data()),
                other => panic!("{other:?}"),
            })
            .collect(),
    }
}

/// Where an entry is said to follow the one before, a walk of the journal meets no other entry of the group between them.
fn check_walk(log: &RaftLog, context: &str) {
    let (first, next) = log.with_index(|index| (index.first_index(), index.next_index()));
    for index in first + 1..next {
        let (before, here, follows) = log.with_index(|known| {
            let before = known.location_of(index - 1).unwrap();
            (
                before,
                known.location_of(index).unwrap(),
                known.follows(index),
            )
        });
        let met = log
            .journal()
            .walk(before)
            .map(|record| record.expect("a record"))
            .filter(|record| {
                record.header.group == log.group() && record.header.kind == RecordKind::Entry
            })
            .nth(1)
            .expect("the entry itself");
        if follows {
            assert_eq!(
                met.location,
                here,
                "{context}: group {} entry {index}",
                log.group()
            );
        }
        // A barrier that parts two entries which follow each other would only cost.
        let barrier = log.barrier();
        assert!(follows || barrier.is_some_and(|barrier| barrier > before));
    }
}

/// One run of `steps`; the power goes at operation `cut`, if there is one. Returns operations done.
fn run(seed: u64, steps: usize, cut: Option<u64>) -> u64 {
    let context = format!("seed {seed}, cut at {cut:?}");
    let mut random = Random(seed);
    let disk = SimDisk::new();
    let mut run = Run::begin(disk.clone()).expect("a new store");
    let before = disk.operations();
    if let Some(cut) = cut {
        disk.fail(cut, Fault::PowerCut);
    }
    for _ in 0..steps {
        run.step(&mut random);
        run.answers();
        if run.failed || disk.power_is_cut() {
            break;
        }
        for (storage, state) in run.logs.iter().zip(&run.states) {
            assert_eq!(state_of(storage), *state, "{context}");
        }
    }
    assert!(cut.is_some() || !run.failed, "{context}");
    run.answers();
    let done = disk.operations() - before;
    let (durable, written) = (run.durable, run.written);
    if cut.is_some() {
        disk.crash(seed ^ cut.unwrap_or(0));
        run = run.check(durable, &context);
    } else {
        run = run.check(written, &context);
    }
    // And it goes on from there, and is killed without a power cut.
    for _ in 0..20 {
        run.step(&mut random);
        run.answers();
        assert!(!run.failed, "{context}");
    }
    let written = run.written;
    let context = format!("{context}, again");
    run.check(written, &context);
    done
}

#[test]
fn a_power_cut_at_every_operation_leaves_what_was_answered() {
    let mut cuts = 0;
    for seed in 0..3 {
        let operations = run(seed, 120, None);
        for cut in 1..=operations {
            run(seed, 120, Some(cut));
            cuts += 1;
        }
    }
    println!("{cuts} power cuts");
    assert!(cuts > 300, "{cuts}");
}

#[test]
fn many_histories_survive_a_cut_somewhere() {
    for seed in 1000..1100 {
        let operations = run(seed, 200, None);
        run(seed, 200, Some(1 + seed * 7919 % operations));
    }
}

#[test]
fn a_segment_that_was_removed_is_not_needed() {
    // So that the runs above mean something: they do remove segments.
    let mut random = Random(3);
    let mut run = Run::begin(SimDisk::new()).expect("a new store");
    for _ in 0..1500 {
        run.step(&mut random);
        run.answers();
    }
    let first = run.store.journal().segments().first().map(|s| s.id);
    assert!(first.is_some_and(|first| first > 3), "{first:?}");
    let written = run.written;
    run.check(written, "after removals");
}

#[test]
fn a_read_has_at_least_one_entry_and_about_a_mebibyte() {
    let disk = SimDisk::new();
    let mut run = Run::begin(disk).expect("a new store");
    let big = |index| Entry {
        log_id: log_id(1, index),
        body: Body::Normal(Payload::copied(&vec![1; 600 << 10])),
        location: Location::ZERO,
    };
    let log = &mut run.logs[1];
    let append = |log: &mut Storage, entries: Vec<Entry>| {
        let appended = log.append(entries, IOFlushed::<TokioTypes>::noop());
        drive(&run.store, &run.disk, appended)
            .expect("at once")
            .expect("appended");
    };
    append(log, (0..4).map(big).collect());
    append(
        log,
        vec![Entry {
            body: Body::Normal(Payload::copied(&vec![2; 3 << 20])),
            ..big(4)
        }],
    );
    let mut read = |start, end| {
        let read = drive(
            &run.store,
            &run.disk,
            log.limited_get_log_entries(start, end),
        );
        let read = read.expect("at once").expect("read");
        read.iter()
            .map(|entry| entry.log_id.index)
            .collect::<Vec<_>>()
    };
    for written in [false, true] {
        assert_eq!(read(0, 5), [0]);
        assert_eq!(read(3, 5), [3]);
        assert_eq!(read(4, 5), [4]);
        assert_eq!(read(5, 9), [0; 0]);
        if !written {
            run.store.step(true);
        }
    }
}

#[test]
fn a_transient_group_is_answered_when_it_is_written() {
    let mut run = Run::begin(SimDisk::new()).expect("a new store");
    let before = run.disk.operations();
    let mut answers = Vec::new();
    for group in [1, 2] {
        let entry = Entry {
            log_id: log_id(1, 0),
            body: Body::Blank,
            location: Location::ZERO,
        };
        let (tell, told) = <TokioRuntime as AsyncRuntime>::Oneshot::channel();
        let appended = run.logs[group].append([entry], IOFlushed::signal(tell));
        drive(&run.store, &run.disk, appended)
            .expect("at once")
            .expect("appended");
        answers.push(told);
        if group == 2 {
            break;
        }
        // The durable group's goes first, so that the transient one's has to be written alone.
        run.store.step(false);
    }
    let journal = run.store.journal();
    let durable = journal.durable();
    run.store.step(false);
    assert_eq!(journal.durable(), durable, "nobody waits for the sync");
    assert_eq!(journal.written(), journal.end());
    for told in &mut answers {
        assert!(matches!(told.try_recv(), Ok(Ok(()))));
    }
    assert!(run.disk.operations() > before);
}

/// What a walk of the journal comes past between two entries of the machine matters also where entries that are not for it lie between: a new
/// leader's first entry is blank.
#[test]
fn an_entry_behind_a_blank_one_that_replaced_others_does_not_follow() {
    let disk = SimDisk::new();
    let (store, _) = open(&sim(&disk), Path::new("n"), true);
    let mut log = storage(&store, 256, RecoveredGroup::default());
    let seen = Remember::default();
    let entry = |term, index, data: Option<&[u8]>| Entry {
        log_id: log_id(term, index),
        body: data.map_or(Body::Blank, |data| Body::Normal(Payload::copied(data))),
        location: Location::ZERO,
    };
    let lists = [
        vec![entry(1, 0, Some(b"a")), entry(1, 1, Some(b"lost"))],
        vec![
            entry(2, 1, None),
            entry(2, 2, Some(b"b")),
            entry(2, 3, Some(b"c")),
        ],
    ];
    for entries in lists {
        let first = entries[0].log_id.index;
        drive(&store, &disk, async {
            if first > 0 {
                let last = Some(log_id(1, first - 1));
                log.truncate_after(last).await.expect("truncated");
            }
            let callback = IOFlushed::noop();
            log.append(entries, callback).await.expect("appended");
        })
        .expect("no fault");
    }
    let (term, _) = <TokioRuntime as AsyncRuntime>::Watch::channel(None);
    let machine = StateMachine::<TokioRuntime, Remember>::new(
        seen.clone(),
        0,
        None,
        Location::ZERO,
        Arc::clone(&store),
        Arc::clone(log.log()),
        term,
    );
    let (mut machine, _) = drive(&store, &disk, machine)
        .expect("no fault")
        .expect("a new machine");
    // One by one, as they may come.
    for entry in log.log().entries(0, 4, u64::MAX).expect("there") {
        let one = futures_util::stream::iter([Ok((entry, None))]);
        drive(&store, &disk, machine.apply(one))
            .expect("no fault")
            .expect("applied");
    }
    assert_eq!(seen.data(), ["a", "b", "c"]);
    let follows: Vec<bool> = seen.0.lock().places.iter().map(|(_, f)| *f).collect();
    assert_eq!(follows, [false, false, true]);
}
