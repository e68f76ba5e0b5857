//! What is done to the nodes of a run, and when it ends.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use leveret_cluster::LogStore;
use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::types::node_of;
use leveret_storage::Location;
use leveret_storage::disk::sim::Fault;
use openraft::rt::AsyncRuntime;

use crate::hosted::Hosted;
use crate::judge::Judge;
use crate::network::Weather;
use crate::run::World;
use crate::runtime::NodeRuntime;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The power of a node goes, between two steps.
    Power,
    /// The power goes in one of the disk's next operations.
    PowerAtOperation,
    /// The power of all nodes goes.
    PowerOfAll,
    /// A process is killed.
    Kill,
    /// A process stands still for a while.
    Stop,
    /// Ways between nodes are cut.
    Cut,
    /// Packets are lost, doubled, late.
    Weather,
    /// A disk is slow, or hangs.
    SlowDisk,
    /// A write or a sync fails.
    FailingDisk,
    /// A checkpoint is written, the log is purged, segments go.
    Checkpoint,
    /// A leader hands over.
    Transfer,
    /// Nodes are told that one is gone, rightly or not.
    Report,
    /// A node's clock leaps.
    Clock,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 13] = [
        Kind::Power,
        Kind::PowerAtOperation,
        Kind::PowerOfAll,
        Kind::Kill,
        Kind::Stop,
        Kind::Cut,
        Kind::Weather,
        Kind::SlowDisk,
        Kind::FailingDisk,
        Kind::Checkpoint,
        Kind::Transfer,
        Kind::Report,
        Kind::Clock,
    ];

    /// Whether something that was written may be lost by it.
    pub fn loses_power(self) -> bool {
        matches!(
            self,
            Kind::Power | Kind::PowerAtOperation | Kind::PowerOfAll
        )
    }
}

/// What ends a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Undo {
    /// A node starts.
    Start(u64),
    /// A process goes on.
    Resume(u64),
    /// A way is open again.
    Open(u64, u64),
    /// All ways have other weather.
    Calm,
    /// A disk is well.
    Disk(u64),
}

impl World {
    /// Does one thing to the nodes.
    pub async fn inflict(&mut self, kind: Kind) {
        let count = self.nodes.len() as u64;
        let node = self.random.between(1, count);
        match kind {
            Kind::Power | Kind::Kill => self.end(node, kind == Kind::Power).await,
            Kind::PowerOfAll => {
                for node in 1..=count {
                    self.end(node, true).await;
                }
            }
            Kind::PowerAtOperation => {
                let after = self.random.skewed(1, 40);
                self.disk(node).fail(after, Fault::PowerCut);
            }
            Kind::Stop => {
                let running = self.node(node).life.as_ref();
                if let Some(life) = running.filter(|life| !life.process.is_stopped()) {
                    life.process.stop(true);
                    self.judge.note(format_args!("node {node} stands still"));
                    self.later(50, 3000, Undo::Resume(node));
                }
            }
            Kind::Cut => self.cut(),
            Kind::Weather => {
                let weather = self.some_weather();
                self.judge.note(format_args!("weather: {weather:?}"));
                for from in 1..=count {
                    for to in (1..=count).filter(|to| *to != from) {
                        if self.random.one_in(2) {
                            self.net.set_weather(from, to, |way| {
                                *way = Weather {
                                    cut: way.cut,
                                    ..weather
                                };
                            });
                        }
                    }
                }
                self.later(100, 3000, Undo::Calm);
            }
            Kind::SlowDisk => {
                let disk = Arc::clone(&self.node(node).weather);
                if self.random.one_in(3) {
                    disk.hung.store(true, Ordering::Relaxed);
                } else {
                    let slow = self.random.skewed(3000, 300_000);
                    *disk.delay_us.lock() = (slow / 3, slow);
                }
                self.judge
                    .note(format_args!("the disk of node {node}: {disk:?}"));
                self.later(100, 2500, Undo::Disk(node));
            }
            Kind::FailingDisk => {
                let after = self.random.skewed(1, 20);
                let fault = match self.random.below(3) {
                    0 => Fault::Sync,
                    1 => Fault::Write(io::ErrorKind::StorageFull),
                    _ => Fault::Write(io::ErrorKind::Other),
                };
                self.disk(node).fail(after, fault);
            }
            Kind::Checkpoint => {
                for state in self.groups(node) {
                    let judge = Arc::clone(&self.judge);
                    let Some(life) = &self.node(node).life else {
                        return;
                    };
                    let groups = self.groups(node);
                    drop(life.process.spawn(checkpoint(state, groups, node, judge)));
                }
            }
            Kind::Transfer => {
                let Some(state) = self.groups(node).into_iter().find(|s| s.leads().is_some())
                else {
                    return;
                };
                let Some(raft) = state.raft().cloned() else {
                    return;
                };
                let voters: Vec<u64> = raft.membership().voter_ids().collect();
                if let (Some(to), Some(life)) =
                    (self.random.pick(&voters).copied(), &self.node(node).life)
                {
                    drop(life.process.spawn(async move {
                        let _ = raft.transfer_leader(to).await;
                    }));
                }
            }
            Kind::Report => self.report(node),
            Kind::Clock => {
                let leap = self.random.between(0, 20_000) as i64 - 10_000;
                self.node(node).clock_ms.fetch_add(leap, Ordering::Relaxed);
                self.judge
                    .note(format_args!("clock of node {node}: {leap} ms"));
            }
        }
    }

    /// A node's process ends, and begins again later.
    pub async fn end(&mut self, node: u64, power: bool) {
        if self.node(node).life.is_none() {
            return;
        }
        let seed = self.random.draw();
        let (net, judge) = (self.net.clone(), Arc::clone(&self.judge));
        let power = power.then_some(seed);
        judge.session_over(node);
        self.node_mut(node).kill(&net, &judge, power).await;
        self.later(10, 3000, Undo::Start(node));
        // A death is noticed by those who had connections, as a rule.
        if self.random.one_in(2) {
            self.report(node);
        }
    }

    /// The others are told that a node is gone.
    fn report(&mut self, gone: u64) {
        self.judge
            .note(format_args!("node {gone} is said to be gone"));
        let alive: BTreeSet<u64> = self
            .nodes
            .iter()
            .filter(|node| node.id != gone && node.life.is_some())
            .map(|node| node.id)
            .collect();
        for node in &alive {
            let life = self.node(*node).life.as_ref();
            let host = life.and_then(|life| life.host.lock().clone());
            if let Some(host) = host.filter(|_| self.node(gone).life.is_none()) {
                host.gone(gone);
            }
            for state in self.groups(*node) {
                let (Some(raft), Some(life)) = (state.raft().cloned(), &self.node(*node).life)
                else {
                    continue;
                };
                let alive = alive.clone();
                drop(life.process.spawn(async move {
                    let _ = raft.leader_is_gone(gone, &alive).await;
                }));
            }
        }
    }

    /// Ways are cut: one side from another, one node from all, or single ways.
    fn cut(&mut self) {
        let count = self.nodes.len() as u64;
        let mut ways: Vec<(u64, u64)> = Vec::new();
        let all = || (1..=count).flat_map(move |a| (1..=count).map(move |b| (a, b)));
        match self.random.below(4) {
            0 => {
                let alone = self.random.between(1, count);
                ways.extend(all().filter(|(a, b)| *a == alone || *b == alone));
            }
            1 => {
                let sides = self.random.draw();
                let side = |node: u64| sides >> node & 1;
                ways.extend(all().filter(|(a, b)| side(*a) != side(*b)));
            }
            2 => {
                // The leader of a group is heard, and hears nothing; or the other way round.
                let states = self.nodes.iter().flat_map(|node| self.groups(node.id));
                let raft = states.filter_map(|state| state.raft().cloned());
                let leader = raft.into_iter().find_map(|raft| match raft.role() {
                    Role::Following { leader, .. } => Some(node_of(leader)),
                    _ => None,
                });
                let alone = leader.unwrap_or(1);
                let deaf = self.random.one_in(2);
                ways.extend(all().filter(|(a, b)| match deaf {
                    true => *b == alone,
                    false => *a == alone,
                }));
            }
            _ => {
                for way in all() {
                    if self.random.one_in(3) {
                        ways.push(way);
                    }
                }
            }
        }
        ways.retain(|(a, b)| a != b);
        self.judge.note(format_args!("cut: {ways:?}"));
        let together = self.random.one_in(2).then(|| self.random.skewed(50, 5000));
        for (from, to) in ways {
            self.net.set_weather(from, to, |way| way.cut = true);
            let ms = match together {
                Some(ms) => ms,
                None => self.random.skewed(50, 5000),
            };
            self.at(ms, Undo::Open(from, to));
        }
    }

    fn some_weather(&mut self) -> Weather {
        let random = &mut self.random;
        let mut some = |high: u64| match random.one_in(2) {
            true => 0,
            false => random.skewed(1, high),
        };
        let (lost, twice, breaks) = (some(300), some(300), some(50));
        let high = match some(2) {
            0 => 2000,
            _ => some(400_000).max(2000),
        };
        Weather {
            cut: false,
            lost,
            twice,
            breaks,
            delay_us: (50, high),
        }
    }

    /// Ends a fault.
    pub fn undo(&mut self, undo: Undo) {
        match undo {
            Undo::Start(node) => {
                if self.node(node).life.is_none() {
                    self.start(node);
                }
            }
            Undo::Resume(node) => {
                if let Some(life) = &self.node(node).life {
                    life.process.stop(false);
                    self.judge.note(format_args!("node {node} goes on"));
                }
            }
            Undo::Open(from, to) => self.net.set_weather(from, to, |way| way.cut = false),
            Undo::Calm => self.calm(),
            Undo::Disk(node) => self.node(node).weather.mend(),
        }
    }

    fn calm(&self) {
        let count = self.nodes.len() as u64;
        for from in 1..=count {
            for to in 1..=count {
                self.net.set_weather(from, to, |way| {
                    *way = Weather {
                        cut: way.cut,
                        ..Weather::FINE
                    };
                });
            }
        }
    }

    /// All faults end.
    pub async fn heal(&mut self) {
        self.judge.note(format_args!("all faults end"));
        self.undos.clear();
        let count = self.nodes.len() as u64;
        for from in 1..=count {
            for to in 1..=count {
                self.net.set_weather(from, to, |way| *way = Weather::FINE);
            }
        }
        self.ends().await;
        self.undos.clear();
        for node in 1..=count {
            self.node(node).weather.mend();
            self.disk(node).calm();
            match &self.node(node).life {
                Some(life) => life.process.stop(false),
                None => self.start(node),
            }
        }
    }

    /// Processes whose disk has failed end.
    pub async fn ends(&mut self) {
        for node in 1..=self.nodes.len() as u64 {
            let power = self.disk(node).power_is_cut();
            let life = self.node(node).life.as_ref();
            if power || life.is_some_and(|life| life.failed.load(Ordering::Relaxed)) {
                self.end(node, power).await;
            }
        }
    }
}

/// Writes a checkpoint, purges the log, and removes segments that no group of the node needs.
async fn checkpoint(
    state: Arc<dyn Hosted>,
    groups: Vec<Arc<dyn Hosted>>,
    node: u64,
    judge: Arc<Judge>,
) {
    let Some(raft) = state.raft().cloned() else {
        return;
    };
    // Before and after: what a checkpoint was made of lies between.
    let mut live = BTreeSet::new();
    groups
        .iter()
        .for_each(|state| state.live_segments(&mut live));
    let covered = match raft.checkpoint().await {
        Ok(covered) => covered,
        // Its disk failed.
        Err(_) => return,
    };
    let (group, applied) = (state.group(), covered.applied);
    judge.note(format_args!(
        "node {node} group {group} has a checkpoint of {applied:?}"
    ));
    if raft.purge().await.is_err() {
        return;
    }
    // The purge itself comes a little later.
    NodeRuntime::sleep(Duration::from_millis(20)).await;
    remove_segments(raft.store(), &groups, live, node, &judge);
}

fn remove_segments(
    store: &Arc<LogStore>,
    groups: &[Arc<dyn Hosted>],
    mut live: BTreeSet<u32>,
    node: u64,
    judge: &Judge,
) {
    let mut needed = Location::NONE;
    for state in groups {
        let Some(raft) = state.raft() else { return };
        needed = needed.min(raft.covered().replay_from);
        state.live_segments(&mut live);
    }
    if store.finish_round().is_err() {
        return;
    }
    let mut kept = Vec::new();
    for segment in store.journal().segments() {
        if !segment.sealed || segment.id >= needed.segment() {
            continue;
        }
        let id = segment.id;
        if live.contains(&id) {
            kept.push(id);
        } else if store.journal().remove_segment(id).is_ok() {
            judge.note(format_args!("node {node} removed segment {id}"));
        }
    }
    for state in groups {
        if !kept.is_empty() && !state.relocate(&kept) {
            return;
        }
    }
}
