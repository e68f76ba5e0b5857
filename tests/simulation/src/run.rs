//! One run: nodes start, faults are done to them, faults end, and then everything must be well within a bound.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Once};
use std::time::Duration;

use leveret_cluster::{GroupId, MIRRORED_DURABLE, MIRRORED_TRANSIENT};
use leveret_queue::{QueueId, Seq};
use leveret_storage::disk::sim::SimDisk;
use openraft::rt::AsyncRuntime;
use parking_lot::Mutex;

use crate::broker::client::Phase;
use crate::faults::{Kind, Undo};
use crate::hosted::Hosted;
use crate::judge::{Judge, id_of};
use crate::network::Net;
use crate::node::{Common, Level, Node};
use crate::random::Random;
use crate::runtime::NodeRuntime;
use crate::snapshot;

/// After the last fault has ended everything is well within so long, in milliseconds of simulated time.
pub const HEAL_MS: u64 = 20_000;
/// A step of the run.
const STEP: Duration = Duration::from_millis(5);

/// A cluster under faults.
pub struct World {
    /// The nodes, by their ids.
    pub nodes: Vec<Node>,
    /// Between them.
    pub net: Net,
    /// Sees everything.
    pub judge: Arc<Judge>,
    /// Of the faults.
    pub random: Random,
    /// What is to end when.
    pub undos: Vec<(u64, Undo)>,
    common: Arc<Common>,
    phase: Arc<Mutex<Phase>>,
}

/// What came of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash and number of everything that happened.
    pub trace: (u64, u64),
    /// Messages enqueued, confirmed, settled.
    pub messages: (usize, usize, usize),
    /// Deliveries to clients, and how many of them were marked as redelivered.
    pub deliveries: (u64, u64),
    /// Entries applied.
    pub entries: u64,
    /// Snapshots installed.
    pub snapshots: u64,
    /// Milliseconds until everything was well.
    pub healed_ms: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
}

impl Report {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Report) {
        let (enqueued, confirmed, settled) = other.messages;
        self.messages.0 += enqueued;
        self.messages.1 += confirmed;
        self.messages.2 += settled;
        self.trace.1 += other.trace.1;
        self.deliveries.0 += other.deliveries.0;
        self.deliveries.1 += other.deliveries.1;
        self.entries += other.entries;
        self.snapshots += other.snapshots;
        self.healed_ms += other.healed_ms;
        for (kind, count) in &other.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
    }
}

/// A run that showed something that must not be.
#[derive(Clone, Debug)]
pub struct Violation {
    /// What ran.
    pub level: Level,
    /// The seed.
    pub seed: u64,
    /// What.
    pub what: String,
    /// What happened before.
    pub recent: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.recent {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        write!(
            f,
            "again: LEVERET_SIM_SEED={} cargo test --release -p leveret-simulation --test seeds {} -- --nocapture",
            self.seed,
            match self.level {
                Level::Model => "seeds_of_the_model",
                Level::Broker => "seeds_of_the_broker",
            }
        )
    }
}

impl World {
    /// A node.
    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// A node.
    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// A node's disk.
    pub fn disk(&self, id: u64) -> &SimDisk {
        &self.node(id).disk
    }

    /// A node's groups; none if it is down or has not come so far.
    pub fn groups(&self, id: u64) -> Vec<Arc<dyn Hosted>> {
        let life = self.node(id).life.as_ref();
        life.map(|life| life.groups.lock().clone())
            .unwrap_or_default()
    }

    /// Begins a node's process.
    pub fn start(&mut self, id: u64) {
        let (common, net) = (Arc::clone(&self.common), self.net.clone());
        let (judge, phase) = (Arc::clone(&self.judge), Arc::clone(&self.phase));
        let mut random = self.random.fork();
        self.node_mut(id)
            .start(&common, &net, &judge, &phase, &mut random);
    }

    /// Ends a fault after so many milliseconds.
    pub fn at(&mut self, ms: u64, undo: Undo) {
        self.undos.push((self.judge.now_ms() + ms, undo));
    }

    /// Ends a fault after a random time, in milliseconds.
    pub fn later(&mut self, low: u64, high: u64, undo: Undo) {
        let ms = self.random.skewed(low, high);
        self.at(ms, undo);
    }

    /// Lets time pass.
    async fn pass(&mut self, ms: u64) {
        let until = self.judge.now_ms() + ms;
        while self.judge.now_ms() < until && self.judge.failure().is_none() {
            NodeRuntime::sleep(STEP).await;
            let now = self.judge.now_ms();
            while let Some(at) = self.undos.iter().position(|(at, _)| *at <= now) {
                let (_, undo) = self.undos.remove(at);
                self.undo(undo);
            }
            self.ends().await;
        }
    }

    /// What Raft says of itself, for the report.
    fn show(&self) {
        for node in &self.nodes {
            for state in self.groups(node.id) {
                let Some(raft) = state.raft() else { continue };
                let metrics = raft.raft().metrics();
                let metrics = openraft::rt::WatchReceiver::borrow_watched(&metrics).clone();
                let (id, group) = (node.id, state.group());
                self.judge
                    .note(format_args!("node {id} group {group}: {metrics:?}"));
            }
        }
    }

    /// Whether every group has a leader.
    fn is_led(&self) -> bool {
        let led = |at: usize| {
            let mut states = self
                .nodes
                .iter()
                .flat_map(|n| self.groups(n.id).into_iter().nth(at));
            states.any(|state| state.leads().is_some())
        };
        (0..self.common.groups.len()).all(led)
    }

    /// Ends all processes: what they hold of each other would outlive the run.
    async fn end_all(&mut self) {
        let (net, judge) = (self.net.clone(), Arc::clone(&self.judge));
        for node in &mut self.nodes {
            node.kill(&net, &judge, None).await;
        }
    }

    /// Waits until nothing ails, at most until then.
    async fn be_well(&mut self, until_ms: u64) {
        while self.judge.failure().is_none() {
            self.pass(20).await;
            let Some(ails) = self.ails() else { return };
            if self.judge.now_ms() > until_ms {
                self.show();
                self.judge
                    .fail(format_args!("not well after {HEAL_MS} ms: {ails}"));
            }
        }
    }

    /// What is stuck: every queue with a consumer is to be empty, and all of them when clients consume from all.
    fn stuck(&self) -> Option<String> {
        if self.common.level == Level::Model {
            return None;
        }
        let phase = *self.phase.lock();
        let hosts = self.nodes.iter().filter_map(|node| {
            let life = node.life.as_ref()?;
            life.host.lock().clone()?.clients().cloned()
        });
        let clients: Vec<_> = hosts.collect();
        for group in &self.common.groups {
            for ((queue, seq), id) in self.judge.live(*group) {
                let consumers: usize = clients.iter().map(|c| c.consumers(*group, queue)).sum();
                if phase == Phase::Drain || consumers > 0 {
                    return Some(format!(
                        "message {id} ({queue}:{seq}) waits, and there are {consumers} consumers"
                    ));
                }
            }
        }
        None
    }

    /// What keeps the cluster from being well.
    fn ails(&self) -> Option<String> {
        for (at, group) in self.common.groups.iter().enumerate() {
            let last = self.judge.last_applied(*group);
            let mut leaders = 0;
            let mut digests = Vec::new();
            for node in &self.nodes {
                let groups = self.groups(node.id);
                let Some(state) = groups.get(at) else {
                    return Some(format!("node {} has not started group {group}", node.id));
                };
                leaders += usize::from(state.leads().is_some());
                let raft = state.raft();
                let applied = raft.map_or(0, |raft| {
                    let metrics = raft.raft().data_metrics();
                    let metrics = openraft::rt::WatchReceiver::borrow_watched(&metrics);
                    metrics.last_applied.map_or(0, |id| id.index)
                });
                if applied < last {
                    let id = node.id;
                    return Some(format!(
                        "node {id} has applied {applied} of {last} in {group}"
                    ));
                }
                digests.push(state.replica().digest());
            }
            if leaders != 1 {
                return Some(format!("group {group} has {leaders} leaders"));
            }
            if digests.windows(2).any(|two| two[0] != two[1]) {
                return Some(format!("group {group} differs"));
            }
        }
        for node in &self.nodes {
            let clients = node.life.as_ref().map(|life| life.clients.lock().clone());
            if !clients.iter().flatten().all(|client| client.is_idle()) {
                let host = node.life.as_ref().and_then(|life| life.host.lock().clone());
                let waits = host.and_then(|host| host.clients()?.waits());
                return Some(format!("node {} waits: {waits:?}", node.id));
            }
        }
        self.stuck()
    }

    /// Every node can read what lives, and nothing else is there.
    fn everything_is_readable(&self) {
        for node in &self.nodes {
            for state in self.groups(node.id) {
                let (id, group) = (node.id, state.group());
                let mut found: BTreeMap<(QueueId, Seq), u64> = BTreeMap::new();
                match snapshot::messages(state.store(), &state.replica()) {
                    Ok(messages) => {
                        for (queue, stored) in messages {
                            let message = id_of(stored.message.content().3).unwrap_or(0);
                            found.insert((queue, stored.seq), message);
                        }
                    }
                    Err(error) => self
                        .judge
                        .fail(format_args!("node {id} group {group}: {error}")),
                }
                let live = self.judge.live(group);
                if found != live {
                    let differs = live.iter().find(|(at, id)| found.get(at) != Some(id));
                    let there = differs.and_then(|(at, _)| found.get(at));
                    let more = found.iter().find(|(at, _)| !live.contains_key(at));
                    self.judge.fail(format_args!(
                        "node {id} group {group} holds other messages than its log: {differs:?} is {there:?}, and {more:?}"
                    ));
                }
            }
        }
    }
}

/// What a seed decides before anything happens.
struct Plan {
    level: Level,
    nodes: u64,
    groups: Vec<GroupId>,
    kinds: Vec<Kind>,
    /// Faults begin when every group has a leader.
    led_first: bool,
    lasts_ms: u64,
    pause_ms: u64,
    load: (u64, u64),
    log_keep_bytes: u64,
}

impl Plan {
    fn new(level: Level, random: &mut Random) -> Plan {
        // A group that does not wait for the disk stands no loss of power: its node would have to come back as another member.
        let transient = random.one_in(4);
        let groups = match (transient, random.one_in(2)) {
            (true, _) => vec![MIRRORED_DURABLE, MIRRORED_TRANSIENT],
            (false, true) => vec![MIRRORED_DURABLE, MIRRORED_DURABLE + 1],
            (false, false) => vec![MIRRORED_DURABLE],
        };
        let possible = Kind::ALL
            .into_iter()
            .filter(|kind| !(transient && kind.loses_power()));
        let share = random.between(2, 6);
        let mut kinds: Vec<Kind> = possible.filter(|_| random.below(6) < share).collect();
        if kinds.is_empty() {
            kinds.push(Kind::Kill);
        }
        // Many short histories and few long ones: most of what goes wrong needs few faults, close together.
        let (led_first, lasts_ms, pause_ms) = match random.one_in(5) {
            true => (
                random.one_in(4),
                random.skewed(1500, 8000),
                random.skewed(40, 800),
            ),
            false => (
                !random.one_in(4),
                random.skewed(300, 1600),
                random.skewed(20, 300),
            ),
        };
        Plan {
            level,
            nodes: if random.one_in(6) { 5 } else { 3 },
            groups,
            kinds,
            led_first,
            lasts_ms,
            pause_ms,
            load: (random.skewed(20, 500), random.skewed(10, 500)),
            log_keep_bytes: if random.one_in(2) { 0 } else { 20_000 },
        }
    }
}

/// Runs a seed; `loud` prints everything that happens.
///
/// # Errors
/// Something was seen that must not be.
pub fn run(level: Level, seed: u64, loud: bool) -> Result<Report, Box<Violation>> {
    name_seed_in_panics(seed);
    let mut runtime = NodeRuntime::with_seed(seed);
    runtime.block_on(simulate(level, seed, loud))
}

thread_local! {
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// A panic anywhere says which seed it was. One of the runtime itself (tasks that go round without time passing) is under its lock,
/// and would stay there: it ends the process.
fn name_seed_in_panics(seed: u64) {
    static HOOK: Once = Once::new();
    SEED.set(seed);
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            eprintln!("seed {}", SEED.get());
            let text = info.payload().downcast_ref::<String>();
            if text.is_some_and(|text| text.starts_with("rt-sim:")) {
                std::process::exit(101);
            }
        }));
    });
}

async fn simulate(level: Level, seed: u64, loud: bool) -> Result<Report, Box<Violation>> {
    let mut random = Random::new(seed);
    let plan = Plan::new(level, &mut random);
    let judge = Arc::new(Judge::new(loud));
    let net = Net::new(random.fork(), Arc::clone(&judge));
    let mut world = World {
        nodes: (1..=plan.nodes).map(Node::new).collect(),
        net,
        judge: Arc::clone(&judge),
        random,
        undos: Vec::new(),
        common: Arc::new(Common {
            level: plan.level,
            groups: plan.groups,
            nodes: (1..=plan.nodes).collect(),
            load: plan.load,
            log_keep_bytes: plan.log_keep_bytes,
        }),
        phase: Arc::new(Mutex::new(Phase::Busy)),
    };
    judge.note(format_args!(
        "{} nodes, groups {:?}, {:?} for {} ms, one each {} ms",
        plan.nodes, world.common.groups, plan.kinds, plan.lasts_ms, plan.pause_ms
    ));
    for node in 1..=plan.nodes {
        world.start(node);
    }
    let mut faults: BTreeMap<Kind, u64> = BTreeMap::new();
    // Faults from the start on, in some runs.
    while plan.led_first && judge.failure().is_none() && judge.now_ms() < HEAL_MS && !world.is_led()
    {
        world.pass(100).await;
    }
    let until = judge.now_ms() + plan.lasts_ms;
    while judge.now_ms() < until && judge.failure().is_none() {
        let pause = world.random.skewed(plan.pause_ms / 4, plan.pause_ms * 4);
        world.pass(pause).await;
        if let Some(kind) = world.random.pick(&plan.kinds).copied() {
            *faults.entry(kind).or_default() += 1;
            world.inflict(kind).await;
        }
    }
    world.heal().await;
    let healing = judge.now_ms();
    // Clients go on for a moment, and are served.
    world.pass(300).await;
    *world.phase.lock() = Phase::Quiet;
    world.be_well(healing + HEAL_MS).await;
    if plan.level == Level::Broker {
        *world.phase.lock() = Phase::Drain;
        world.be_well(judge.now_ms() + HEAL_MS).await;
    }
    let healed_ms = judge.now_ms() - healing;
    if judge.failure().is_none() {
        judge.nothing_is_lost();
        world.everything_is_readable();
    }
    world.end_all().await;
    if let Some(what) = judge.failure() {
        return Err(Box::new(Violation {
            level,
            seed,
            what,
            recent: judge.recent(),
        }));
    }
    let groups = &world.common.groups;
    Ok(Report {
        trace: judge.trace(),
        messages: judge.counts(),
        deliveries: judge.deliveries(),
        entries: groups.iter().map(|group| judge.last_applied(*group)).sum(),
        snapshots: world.net.snapshots(),
        healed_ms,
        faults,
    })
}
