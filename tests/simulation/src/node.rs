//! A node: its disk, and its lives.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use leveret::mirror::QueueMachine;
use leveret_cluster::raft::group::{GroupConfig, Inbound, RaftGroup, Role};
use leveret_cluster::raft::node::AnyMachine;
use leveret_cluster::raft::types::{MemberId, member_id};
use leveret_cluster::{GroupId, LogStore, LogStoreConfig, Mode, Recovered, Replica};
use leveret_queue::SessionId;
use leveret_storage::disk::sim::SimDisk;
use leveret_storage::{Journal, Record, ReplayError};
use openraft::rt::AsyncRuntime;
use parking_lot::Mutex;

use crate::broker::client::Phase;
use crate::broker::host::{Host, Making};
use crate::broker::machine::Watched;
use crate::hosted::{Client, Group, Hosted};
use crate::judge::{Judge, SeenLog};
use crate::leader::{GroupState, Modelled, Tell, queues};
use crate::network::{Net, Take};
use crate::random::Random;
use crate::runtime::{NodeRuntime, Process};
use crate::session::{Frame, Session};

/// Bytes of a segment.
const SEGMENT_BYTES: u32 = 32 << 10;
/// Milliseconds that an append without a waiter may stay unsynced.
const SYNC_MS: u64 = 50;
/// How often a node looks at what there is to do.
const LOOK: Duration = Duration::from_millis(10);

/// What runs on the groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A model of leaders and sessions.
    Model,
    /// The broker's own, with consumers.
    Broker,
}

/// What all nodes of a run have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// What runs on the groups.
    pub level: Level,
    /// The groups.
    pub groups: Vec<GroupId>,
    /// The founders.
    pub nodes: Vec<u64>,
    /// Of 1000 looks, how many let a client publish, or consume.
    pub load: (u64, u64),
    /// Bytes of log that stay behind a checkpoint.
    pub log_keep_bytes: u64,
}

impl Common {
    fn members(&self) -> BTreeSet<MemberId> {
        self.nodes.iter().map(|node| member_id(*node, 0)).collect()
    }
}

/// How a node's disk is at the moment.
#[derive(Debug)]
pub struct DiskWeather {
    /// Microseconds between two looks of the journal's writer, at least and at most.
    pub delay_us: Mutex<(u64, u64)>,
    /// It does nothing.
    pub hung: AtomicBool,
}

impl Default for DiskWeather {
    fn default() -> Self {
        DiskWeather {
            delay_us: Mutex::new(DiskWeather::FINE),
            hung: AtomicBool::new(false),
        }
    }
}

impl DiskWeather {
    /// A disk that is well.
    pub const FINE: (u64, u64) = (300, 2500);
}

/// A process of a node.
pub struct Life {
    /// Its tasks.
    pub process: Arc<Process>,
    /// Its groups, once they run.
    pub groups: Arc<Mutex<Vec<Arc<dyn Hosted>>>>,
    /// Its clients.
    pub clients: Arc<Mutex<Vec<Arc<dyn Client>>>>,
    /// What it has besides at the broker's level.
    pub host: Arc<Mutex<Option<Arc<Host>>>>,
    /// The journal failed: the process has to end.
    pub failed: Arc<AtomicBool>,
    journal: Arc<Mutex<Weak<Journal>>>,
}

/// A node.
pub struct Node {
    /// Its id, from 1 on.
    pub id: u64,
    /// Its disk.
    pub disk: SimDisk,
    /// How that is.
    pub weather: Arc<DiskWeather>,
    /// How far its clock is off.
    pub clock_ms: Arc<AtomicI64>,
    /// Its process.
    pub life: Option<Life>,
    lives: u64,
}

struct NoReplica;

impl Replica for NoReplica {
    fn restore(&mut self, _: GroupId, _: &[u8]) -> Result<(), ReplayError> {
        Err("there are no local groups".into())
    }

    fn replay(&mut self, _: GroupId, _: Record) -> Result<(), ReplayError> {
        // Messages of a snapshot: the checkpoint that came with them says where they are.
        Ok(())
    }
}

impl Node {
    /// With an empty disk.
    pub fn new(id: u64) -> Node {
        Node {
            id,
            disk: SimDisk::new(),
            weather: Arc::default(),
            clock_ms: Arc::default(),
            life: None,
            lives: 0,
        }
    }

    /// Begins a process.
    pub fn start(
        &mut self,
        common: &Arc<Common>,
        net: &Net,
        judge: &Arc<Judge>,
        phase: &Arc<Mutex<Phase>>,
        random: &mut Random,
    ) {
        self.lives += 1;
        judge.note(format_args!("node {} starts, life {}", self.id, self.lives));
        let life = Life {
            process: Arc::default(),
            groups: Arc::default(),
            clients: Arc::default(),
            host: Arc::default(),
            failed: Arc::default(),
            journal: Arc::default(),
        };
        net.join(self.id, &life.process);
        let start = Start {
            id: self.id,
            incarnation: self.lives,
            disk: self.disk.clone(),
            weather: Arc::clone(&self.weather),
            clock_ms: Arc::clone(&self.clock_ms),
            common: Arc::clone(common),
            net: net.clone(),
            judge: Arc::clone(judge),
            phase: Arc::clone(phase),
            process: Arc::clone(&life.process),
            groups: Arc::clone(&life.groups),
            clients: Arc::clone(&life.clients),
            host: Arc::clone(&life.host),
            failed: Arc::clone(&life.failed),
            journal: Arc::clone(&life.journal),
        };
        let random = random.fork();
        drop(life.process.spawn(start.run(random)));
        self.life = Some(life);
    }

    /// Ends the process where it stands. `power`: as the power goes, and what was not synced is lost or torn by this seed.
    pub async fn kill(&mut self, net: &Net, judge: &Judge, power: Option<u64>) {
        let Some(life) = self.life.take() else {
            return;
        };
        let how = if power.is_some() {
            "loses power"
        } else {
            "is killed"
        };
        judge.note(format_args!("node {} {how}", self.id));
        net.leave(self.id);
        match power {
            Some(seed) => self.disk.crash(seed),
            None => self.disk.kill(),
        }
        life.process.kill();
        let journal = life.journal.lock().clone();
        drop(life);
        for _ in 0..1000 {
            if journal.strong_count() == 0 {
                return;
            }
            NodeRuntime::sleep(Duration::from_micros(10)).await;
        }
        judge.fail(format_args!(
            "the journal of node {} outlives its process",
            self.id
        ));
    }
}

/// Whether an error comes from a fault that was set for the disk, and is not a finding of whoever read it.
fn is_the_disks(error: &str) -> bool {
    let faults = [
        "the power is cut",
        "simulated I/O error",
        "no storage space",
        "other error",
    ];
    faults.iter().any(|fault| error.contains(fault))
}

/// What a process begins with.
struct Start {
    id: u64,
    incarnation: u64,
    disk: SimDisk,
    weather: Arc<DiskWeather>,
    clock_ms: Arc<AtomicI64>,
    common: Arc<Common>,
    net: Net,
    judge: Arc<Judge>,
    phase: Arc<Mutex<Phase>>,
    process: Arc<Process>,
    groups: Arc<Mutex<Vec<Arc<dyn Hosted>>>>,
    clients: Arc<Mutex<Vec<Arc<dyn Client>>>>,
    host: Arc<Mutex<Option<Arc<Host>>>>,
    failed: Arc<AtomicBool>,
    journal: Arc<Mutex<Weak<Journal>>>,
}

impl Start {
    fn open(&self) -> Result<(Arc<LogStore>, Recovered), leveret_cluster::OpenError> {
        let config = LogStoreConfig {
            dir: PathBuf::from("data"),
            segment_size_bytes: SEGMENT_BYTES,
            sync_interval_ms: SYNC_MS,
        };
        let mode = Mode {
            clustered: true,
            manual: true,
        };
        let failed = Arc::clone(&self.failed);
        let (store, recovered) = LogStore::open_as(
            &config,
            mode,
            Arc::new(self.disk.clone()),
            &mut NoReplica,
            Box::new(move |_| failed.store(true, Ordering::Relaxed)),
        )?;
        Ok((Arc::new(store), recovered))
    }

    /// The process has to end.
    fn fails(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    async fn run(self, mut random: Random) {
        let (id, judge) = (self.id, &self.judge);
        let (store, recovered) = match self.open() {
            Ok(opened) => opened,
            Err(error) if is_the_disks(&error.to_string()) => return self.fails(),
            Err(error) => return judge.fail(format_args!("node {id} does not open: {error}")),
        };
        *self.journal.lock() = Arc::downgrade(store.journal());
        let (weather, writer_random) = (Arc::clone(&self.weather), random.fork());
        drop(NodeRuntime::spawn(write(
            Arc::clone(&store),
            weather,
            writer_random,
        )));
        match self.common.level {
            Level::Model => self.model(&store, recovered, &mut random).await,
            Level::Broker => self.broker(&store, recovered, &mut random).await,
        }
    }

    fn session(&self) -> SessionId {
        SessionId {
            node: self.id,
            incarnation: self.incarnation,
        }
    }

    async fn model(&self, store: &Arc<LogStore>, mut recovered: Recovered, random: &mut Random) {
        let (id, judge) = (self.id, &self.judge);
        let (mut states, sessions) = (Vec::new(), Arc::new(Mutex::new(Vec::new())));
        for group in &self.common.groups {
            let tell = self.tell(*group, &sessions);
            let state = GroupState::new(*group, id, store, judge, &self.clock_ms, tell);
            let machine = AnyMachine(Box::new(Modelled(Arc::clone(&state))));
            let hosted = Arc::clone(&state) as Arc<dyn Hosted>;
            if !self
                .start_group(hosted, machine, store, &mut recovered)
                .await
            {
                return;
            }
            let session = Session::new(self.session(), *group, &self.net, judge);
            self.clients.lock().push(session.clone());
            sessions.lock().push(session);
            states.push(state);
        }
        let sessions = sessions.lock().clone();
        self.net.set_take(id, self.take(&states, &sessions));
        self.watch();
        self.work(&states, &sessions, random).await;
    }

    async fn broker(&self, store: &Arc<LogStore>, mut recovered: Recovered, random: &mut Random) {
        let host = Host::new(Making {
            id: self.session(),
            nodes: self.common.nodes.clone(),
            groups: self.common.groups.clone(),
            judge: Arc::clone(&self.judge),
            net: self.net.clone(),
            clock_ms: self.clock_ms.load(Ordering::Relaxed),
            store: Arc::clone(store),
            failed: Arc::clone(&self.failed),
            random: random.fork(),
        });
        for kept in host.groups() {
            let clock = Arc::downgrade(&host);
            let now_ms = Box::new(move || clock.upgrade().map_or(0, |host| host.now_ms()));
            let machine = QueueMachine::new(Arc::clone(&kept.group), now_ms, 0);
            let machine = AnyMachine(Box::new(Watched::new(machine, kept, &self.judge)));
            let hosted = Arc::clone(kept) as Arc<dyn Hosted>;
            if !self
                .start_group(hosted, machine, store, &mut recovered)
                .await
            {
                return;
            }
        }
        let Some(clients) = host.clients().cloned() else {
            return;
        };
        self.clients.lock().push(clients.clone());
        *self.host.lock() = Some(Arc::clone(&host));
        let listener = Arc::clone(&host);
        self.net.set_accept(
            self.id,
            Arc::new(move |from, mut arrived| {
                let host = Arc::clone(&listener);
                Box::pin(async move {
                    let on = host.accepted();
                    while let Some(frame) = arrived.recv().await {
                        host.take(from, on, &frame);
                    }
                })
            }),
        );
        let heard = Arc::clone(&host);
        self.net.set_take(
            self.id,
            Arc::new(move |from, beat| {
                if let Some(boot) = beat.first_chunk::<8>() {
                    heard.heard(from, u64::from_le_bytes(*boot));
                }
            }),
        );
        self.watch();
        loop {
            NodeRuntime::sleep(LOOK).await;
            if !host.look() {
                return self.fails();
            }
            let phase = *self.phase.lock();
            for kept in host.groups() {
                clients.work(kept, random, phase, self.common.load);
            }
        }
    }

    /// What the leaders of a group of the model tell sessions.
    fn tell(&self, group: GroupId, sessions: &Arc<Mutex<Vec<Arc<Session>>>>) -> Tell {
        let (id, net, sessions) = (self.id, self.net.clone(), Arc::clone(sessions));
        Box::new(move |to: SessionId, term, number| {
            if to.node != id {
                let frame = Frame::Committed {
                    group,
                    term,
                    incarnation: to.incarnation,
                    number,
                };
                return net.push(id, to.node, frame.encode());
            }
            let found = sessions.lock().iter().find(|s| s.is(to, group)).cloned();
            if let Some(session) = found {
                session.committed(number);
            }
        })
    }

    /// `false`: it did not start.
    async fn start_group(
        &self,
        state: Arc<dyn Hosted>,
        machine: AnyMachine,
        store: &Arc<LogStore>,
        recovered: &mut Recovered,
    ) -> bool {
        let (id, judge, group) = (self.id, &self.judge, state.group());
        let member = member_id(id, 0);
        let mut config = GroupConfig::new(group, member);
        config.log_keep_bytes = self.common.log_keep_bytes;
        let found = recovered.take_raft(group);
        let is_new = found.index.is_empty();
        let started = RaftGroup::start(
            config,
            Arc::clone(store),
            found,
            machine,
            self.net.factory(group, member),
        );
        let raft: Arc<Group> = match started.await {
            Ok(raft) => raft,
            Err(error) if is_the_disks(&error.to_string()) => {
                self.fails();
                return false;
            }
            Err(error) => {
                judge.fail(format_args!("node {id} does not start: {error}"));
                return false;
            }
        };
        state.begin(Arc::clone(&raft));
        self.net
            .add_group(Arc::clone(&raft) as Arc<dyn Inbound<NodeRuntime>>);
        if is_new {
            let members = self.common.members();
            drop(NodeRuntime::spawn(async move {
                // Refused where another founder came first.
                let _ = raft.initialize(members).await;
            }));
        }
        self.groups.lock().push(state);
        true
    }

    /// What comes from other nodes.
    fn take(&self, groups: &[Arc<GroupState>], sessions: &[Arc<Session>]) -> Take {
        let (groups, sessions) = (groups.to_vec(), sessions.to_vec());
        let (judge, id, incarnation) = (Arc::clone(&self.judge), self.id, self.incarnation);
        Arc::new(move |from, frame| {
            let group_of = |group: GroupId| groups.iter().find(|g| g.group() == group).cloned();
            let session_of = |group: GroupId| sessions.iter().find(|s| s.group() == group).cloned();
            match Frame::decode(&frame) {
                Some(Frame::Leads { group, term }) => {
                    if let Some(session) = session_of(group) {
                        session.led_by(from, term);
                    }
                }
                Some(Frame::Batch {
                    group,
                    term,
                    incarnation,
                    number,
                    entry,
                }) => {
                    let session = SessionId {
                        node: from,
                        incarnation,
                    };
                    if let Some(state) = group_of(group) {
                        state.receive(session, term, number, entry);
                        state.propose();
                    }
                }
                Some(Frame::Committed {
                    group,
                    incarnation: to,
                    number,
                    ..
                }) => {
                    // What was meant for a process before this one.
                    if to == incarnation
                        && let Some(session) = session_of(group)
                    {
                        session.committed(number);
                    }
                }
                None => judge.fail(format_args!("node {id} got a malformed frame")),
            }
        })
    }

    /// Has everything looked at after each step of the process.
    fn watch(&self) {
        struct Seen {
            raft: Arc<Group>,
            log: SeenLog,
            term: u64,
        }
        let groups = self.groups.lock();
        let seen = groups.iter().filter_map(|state| state.raft().cloned());
        let seen = seen.map(|raft| Seen {
            raft,
            log: SeenLog::default(),
            term: 0,
        });
        let seen = Mutex::new(seen.collect::<Vec<Seen>>());
        let judge = Arc::clone(&self.judge);
        self.process.after_step(Box::new(move || {
            for Seen { raft, log, term } in &mut *seen.lock() {
                judge.log_changed(raft.log(), log);
                let leads = match raft.role() {
                    Role::Elected { term } | Role::Leading { term, .. } => term,
                    _ => 0,
                };
                if leads > *term {
                    *term = leads;
                    judge.elected(raft.group(), leads, raft.member(), raft.log());
                }
            }
        }));
    }

    /// Clients publish and consume; leaders are looked for.
    async fn work(
        &self,
        groups: &[Arc<GroupState>],
        sessions: &[Arc<Session>],
        random: &mut Random,
    ) {
        let (publish, consume) = self.common.load;
        let announced = AtomicU64::new(0);
        loop {
            NodeRuntime::sleep(LOOK).await;
            let now = self.judge.now_ms();
            let announces = now >= announced.load(Ordering::Relaxed) + 100;
            if announces {
                announced.store(now, Ordering::Relaxed);
            }
            let quiet = *self.phase.lock() != Phase::Busy;
            for (state, session) in groups.iter().zip(sessions) {
                let stopped = state
                    .raft()
                    .is_some_and(|raft| raft.role() == Role::Stopped);
                if stopped {
                    // Its storage failed: a node does not go on with some of its groups.
                    return self.fails();
                }
                let led = state.leads();
                state.look();
                let leads = state.leads();
                if let Some(term) = leads {
                    session.led_by(self.id, term);
                    if announces || leads != led {
                        let group = state.group();
                        let frame = Frame::Leads { group, term }.encode();
                        for node in self.common.nodes.iter().filter(|node| **node != self.id) {
                            self.net.push(self.id, *node, frame.clone());
                        }
                    }
                    let queues = queues(state.group());
                    if random.permille(consume)
                        && !quiet
                        && let Some((queue, _)) = random.pick(&queues)
                    {
                        state.consume(*queue);
                    }
                }
                if random.permille(publish) && !quiet {
                    session.publish(random);
                }
                session.look();
                state.propose();
            }
        }
    }
}

/// The journal's writer.
async fn write(store: Arc<LogStore>, weather: Arc<DiskWeather>, mut random: Random) {
    let mut since = 0;
    loop {
        let (low, high) = *weather.delay_us.lock();
        let delay = random.skewed(low, high);
        NodeRuntime::sleep(Duration::from_micros(delay)).await;
        since += delay;
        if weather.hung.load(Ordering::Relaxed) {
            continue;
        }
        let force = since >= SYNC_MS * 1000;
        store.step(force);
        if force {
            since = 0;
        }
    }
}

impl DiskWeather {
    /// The disk is well again.
    pub fn mend(&self) {
        self.hung.store(false, Ordering::Relaxed);
        *self.delay_us.lock() = DiskWeather::FINE;
    }
}
