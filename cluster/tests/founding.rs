//! A cluster is founded once, whatever happens on the way. The steps by exhaustive search over every order of events, the driver over
//! loopback and simulated disks.

mod nodes;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use leveret_cluster::founding::driver::{Founded, Founding, Host};
use leveret_cluster::founding::message::{Joined, Joiner};
use leveret_cluster::founding::{Answer, Founders, Member, Plan, Step, Waiting, decide, take_plan};
use leveret_cluster::identity::{Identity, Phase};
use leveret_cluster::name::NodeAddress;
use leveret_cluster::peers::{Handlers, Me, Peers, PeersConfig};
use leveret_cluster::wire::hello::Cookie;
use leveret_storage::disk::sim::{Fault, SimDisk};
use nodes::{LONG, address, bind, boot, name, soon, until};
use parking_lot::Mutex;
use tokio::net::TcpListener;

const NODES: usize = 3;

fn candidate(node: usize, incarnation: u64) -> Identity {
    Identity {
        phase: Phase::Candidate,
        cluster: [0; 16],
        node: 0,
        incarnation,
        name: name(1 + node as u64),
        journal: [0; 16],
    }
}

fn founders() -> Founders {
    Founders::new((1..=NODES as u64).map(name))
}

/// Everything there is, and everything that is under way. Messages under way stay there: they may come twice, late, or never.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    /// What is on the nodes' disks.
    disks: [Identity; NODES],
    /// Whether the metadata group has a log there.
    logs: [bool; NODES],
    /// What the first node has heard in its round.
    heard: BTreeMap<usize, Answer>,
    plans: BTreeSet<(usize, u64)>,
    sent: Vec<Plan>,
    /// The clusters whose metadata group was initialised, with whom.
    initialised: Vec<([u8; 16], Vec<Member>)>,
    /// A majority has the first entry, and so its members.
    created: bool,
    uuids: u8,
    wipes: u8,
}

impl World {
    fn new() -> World {
        World {
            disks: [candidate(0, 1), candidate(1, 2), candidate(2, 3)],
            logs: [false; NODES],
            heard: BTreeMap::new(),
            plans: BTreeSet::new(),
            sent: Vec::new(),
            initialised: Vec::new(),
            created: false,
            uuids: 0,
            wipes: 0,
        }
    }

    fn answer(&self, node: usize) -> Answer {
        let members = self
            .initialised
            .first()
            .map_or(&[][..], |(_, members)| members);
        Answer::of(&self.disks[node], &founders(), members)
    }

    fn is_member(&self, node: usize) -> bool {
        self.initialised.iter().any(|(cluster, members)| {
            *cluster == self.disks[node].cluster
                && members
                    .iter()
                    .any(|m| m.incarnation == self.disks[node].incarnation)
        })
    }

    /// The first node heard these, and does what follows.
    fn decide(&mut self, node: usize, heard: &BTreeMap<usize, Answer>) {
        let answers = heard
            .iter()
            .map(|(from, answer)| (name(1 + *from as u64), answer.clone()));
        let fresh = [self.uuids + 1; 16];
        let disk = &self.disks[node];
        match decide(
            disk,
            self.logs[node],
            &founders(),
            &answers.collect(),
            fresh,
        ) {
            Step::Write(identity) => {
                assert_eq!(identity.cluster, fresh);
                self.uuids += 1;
                self.disks[node] = identity;
            }
            Step::Propose { plan, to } => {
                let number = match self.sent.iter().position(|sent| *sent == plan) {
                    Some(number) => number,
                    None => {
                        self.sent.push(plan);
                        self.sent.len() - 1
                    }
                };
                for to in 0..NODES {
                    if to != node && to_has(&self.disks[to], &self.sent[number]) {
                        self.plans.insert((to, number as u64));
                    }
                }
                assert!(!to.is_empty());
            }
            Step::Initialise(members) => {
                let cluster = self.disks[node].cluster;
                assert!(!self.logs[node], "a log is never begun again");
                self.logs[node] = true;
                self.initialised.push((cluster, members));
            }
            Step::Join { .. } => panic!("a founder's name is a member's: {}", node + 1),
            Step::TakePart | Step::Wait(_) => {}
        }
    }

    /// All that may happen next.
    fn next(&self) -> Vec<World> {
        let mut all = Vec::new();
        let mut happens = |event: &dyn Fn(&mut World)| {
            let mut world = self.clone();
            event(&mut world);
            world.check();
            all.push(world);
        };
        for node in 1..NODES {
            let heard = self.answer(node);
            happens(&|world| _ = world.heard.insert(node, heard.clone()));
        }
        // Also a crash: what was heard is forgotten, without a step.
        happens(&|world| world.heard.clear());
        happens(&|world| {
            let heard = std::mem::take(&mut world.heard);
            world.decide(0, &heard);
        });
        for node in 1..NODES {
            for reached in [0b001, 0b111] {
                let others = (0..NODES).filter(|other| *other != node && reached & 1 << other != 0);
                let heard = others.map(|other| (other, self.answer(other))).collect();
                happens(&|world| world.decide(node, &heard));
            }
        }
        for (to, number) in &self.plans {
            let plan = &self.sent[*number as usize];
            let taken = take_plan(&self.disks[*to], &founders(), &name(1), plan);
            if let Ok(Some(identity)) = taken {
                happens(&|world| world.disks[*to] = identity.clone());
            }
        }
        for node in 0..NODES {
            let planned = self.disks[node].phase == Phase::Planned;
            if planned && self.is_member(node) && !self.logs[node] && !self.initialised.is_empty() {
                happens(&|world| world.logs[node] = true);
            }
            if planned && self.logs[node] && self.created {
                happens(&|world| world.disks[node].phase = Phase::Member);
            }
            if self.wipes < 2 {
                happens(&|world| {
                    world.wipes += 1;
                    world.disks[node] = candidate(node, 10 * u64::from(world.wipes));
                    world.logs[node] = false;
                    if node == 0 {
                        world.heard.clear();
                    }
                });
            }
        }
        if 2 * self.logs.iter().filter(|log| **log).count() > NODES && !self.created {
            happens(&|world| world.created = true);
        }
        all
    }

    /// What must hold always.
    fn check(&self) {
        assert!(self.initialised.len() <= 1, "founded twice");
        for disk in &self.disks {
            let member = disk.phase == Phase::Member;
            assert!(
                !member
                    || self
                        .initialised
                        .iter()
                        .any(|(cluster, _)| *cluster == disk.cluster)
            );
        }
        if let Some((cluster, members)) = self.initialised.first() {
            let names: Vec<_> = members.iter().map(|m| (m.node, m.name.clone())).collect();
            assert_eq!(names, [(1, name(1)), (2, name(2)), (3, name(3))]);
            for (disk, member) in self.disks.iter().zip(members) {
                // Whoever is among the voters had written it, unless its disk was replaced since.
                let same = disk.incarnation == member.incarnation;
                assert!(!same || (disk.cluster == *cluster && disk.node == member.node));
                // A disk that was replaced does not take part under the old number: it has lost the log.
                assert!(
                    same || disk.cluster != *cluster,
                    "a replaced disk takes part"
                );
            }
        }
        if self.wipes == 0 {
            assert!(self.uuids <= 1, "one disk, one uuid");
        }
    }

    /// Faults end: everything is asked, delivered and done in order.
    fn heal(mut self) {
        for _ in 0..8 {
            let heard = (1..NODES).map(|node| (node, self.answer(node))).collect();
            self.decide(0, &heard);
            for (to, number) in std::mem::take(&mut self.plans) {
                let plan = &self.sent[number as usize];
                if let Ok(Some(identity)) = take_plan(&self.disks[to], &founders(), &name(1), plan)
                {
                    self.disks[to] = identity;
                }
            }
            self.check();
            for node in 0..NODES {
                if self.is_member(node) && self.disks[node].phase == Phase::Planned {
                    self.logs[node] = true;
                    self.disks[node].phase = Phase::Member;
                }
            }
        }
        let phases = self.disks.map(|disk| disk.phase);
        assert_eq!(phases, [Phase::Member; NODES], "it never ends");
    }
}

fn to_has(disk: &Identity, plan: &Plan) -> bool {
    plan.members.iter().any(|member| member.name == disk.name)
}

#[test]
fn every_order_of_events_founds_at_most_one_cluster() {
    let mut seen = HashSet::new();
    let mut left = vec![World::new()];
    let (mut founded, mut healed) = (0, 0);
    while let Some(world) = left.pop() {
        if !seen.insert(world.clone()) {
            continue;
        }
        founded += usize::from(!world.initialised.is_empty());
        if world.wipes == 0 {
            healed += 1;
            world.clone().heal();
        }
        left.extend(world.next());
    }
    println!(
        "{} states, {founded} of them founded, {healed} healed",
        seen.len()
    );
    assert!(seen.len() > 1000 && founded > 100 && healed > 50);
}

fn answers(of: &[(u64, Answer)]) -> BTreeMap<leveret_cluster::name::NodeName, Answer> {
    of.iter()
        .map(|(node, answer)| (name(*node), answer.clone()))
        .collect()
}

fn waits(identity: &Identity, founders: &Founders, of: &[(u64, Answer)]) -> Waiting {
    match decide(identity, false, founders, &answers(of), [9; 16]) {
        Step::Wait(why) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn halves_of_the_list_found_nothing() {
    let founders = Founders::new((1..=4).map(name));
    let free = |incarnation| Answer::Candidate {
        incarnation,
        list: founders.hash(),
    };
    let why = waits(&candidate(0, 1), &founders, &[(2, free(2))]);
    assert_eq!(why, Waiting::Unreachable(vec![name(3), name(4)]));
    let why = waits(&candidate(2, 3), &founders, &[(4, free(4))]);
    assert_eq!(why, Waiting::Unreachable(vec![name(1), name(2)]));
    let why = waits(&candidate(0, 1), &founders, &[(2, free(2)), (3, free(3))]);
    assert!(why.to_string().contains("n4@127.0.0.1"), "{why}");
}

#[test]
fn lists_that_differ_found_nothing() {
    let ours = founders();
    let theirs = Founders::new([2, 3, 4].map(name));
    let free = |list: &Founders, incarnation| Answer::Candidate {
        incarnation,
        list: list.hash(),
    };
    let why = waits(
        &candidate(0, 1),
        &ours,
        &[(2, free(&theirs, 2)), (3, free(&ours, 3))],
    );
    assert_eq!(why, Waiting::OtherList(vec![name(2)]));
    assert_eq!(Founders::new([3, 1, 2, 1].map(name)), ours);
    // The founder of another list has no say.
    let plan = Plan {
        cluster: [5; 16],
        list: theirs.hash(),
        members: vec![Member {
            node: 1,
            name: name(2),
            incarnation: 2,
        }],
    };
    assert!(take_plan(&candidate(1, 2), &ours, &name(1), &plan).is_err());
    assert!(take_plan(&candidate(1, 2), &ours, &name(2), &plan).is_err());
    assert!(take_plan(&candidate(1, 2), &theirs, &name(2), &plan).is_ok());
    assert!(take_plan(&candidate(1, 3), &theirs, &name(2), &plan).is_err());
}

#[test]
fn a_member_is_joined_and_a_replaced_disk_is_not() {
    let member = |node: u64, incarnation| Member {
        node,
        name: name(node),
        incarnation,
    };
    let cluster = |members| Answer::Member {
        cluster: [7; 16],
        members,
    };
    let step = |identity: &Identity, of: &[(u64, Answer)]| {
        decide(identity, false, &founders(), &answers(of), [9; 16])
    };
    let old = cluster(vec![member(1, 1), member(2, 2)]);
    assert_eq!(
        step(&candidate(2, 3), &[(1, old.clone())]),
        Step::Join { via: name(1) }
    );
    // One that is no founder.
    assert_eq!(
        step(&candidate(6, 3), &[(2, old.clone())]),
        Step::Join { via: name(2) }
    );
    assert_eq!(step(&candidate(6, 3), &[]), Step::Wait(Waiting::NoCluster));
    let Step::Wait(Waiting::Replaced(replaced)) = step(&candidate(0, 99), &[(2, old.clone())])
    else {
        panic!("a replaced disk");
    };
    assert_eq!(replaced, name(1));
    // Let in, and stopped before it was written.
    assert_eq!(
        step(&candidate(0, 1), &[(2, old.clone())]),
        Step::Join { via: name(2) }
    );
    let other = Answer::Member {
        cluster: [8; 16],
        members: Vec::new(),
    };
    let two = step(&candidate(2, 3), &[(1, old), (2, other)]);
    assert_eq!(
        two,
        Step::Wait(Waiting::OtherCluster(vec![name(1), name(2)]))
    );
}

/// A node's part of the metadata, as the broker will have it.
#[derive(Default)]
struct Metadata {
    members: Mutex<Vec<Member>>,
    cluster: Mutex<[u8; 16]>,
    initialised: Mutex<bool>,
}

impl Host for Metadata {
    fn members(&self) -> Vec<Member> {
        self.members.lock().clone()
    }

    fn initialised(&self) -> bool {
        *self.initialised.lock()
    }

    fn admit(&self, joiner: Joiner) -> BoxFuture<'static, Result<Joined, String>> {
        let mut members = self.members.lock();
        let known = members
            .iter()
            .find(|member| member.name == joiner.address.name);
        let node = match known {
            Some(known) if known.incarnation == joiner.incarnation => known.node,
            Some(_) => return Box::pin(std::future::ready(Err("it is a member".into()))),
            None => 1 + members.len() as u64,
        };
        if known.is_none() {
            members.push(Member {
                node,
                name: joiner.address.name,
                incarnation: joiner.incarnation,
            });
        }
        let joined = Joined {
            cluster: *self.cluster.lock(),
            node,
            places: members.iter().map(|_| ("h".to_owned(), 1)).collect(),
            members: members.clone(),
        };
        Box::pin(std::future::ready(Ok(joined)))
    }
}

struct Node {
    disk: SimDisk,
    metadata: Arc<Metadata>,
    founding: Arc<Founding>,
    peers: Peers,
    me: NodeAddress,
    said: Arc<Mutex<Vec<Waiting>>>,
}

const DIR: &str = "data/cluster";

impl Node {
    async fn start(
        number: u64,
        listener: TcpListener,
        list: &[u64],
        disk: SimDisk,
    ) -> Option<Node> {
        let port = listener.local_addr().expect("an address").port();
        let opened = Identity::open(&disk, Path::new(DIR), &name(number), [1; 16]);
        let identity = opened.ok()?;
        let metadata = Arc::new(Metadata::default());
        let founding = Arc::new(Founding::new(
            identity.clone(),
            Founders::new(list.iter().map(|n| name(*n))),
            Arc::new(disk.clone()),
            DIR.into(),
            metadata.clone(),
        ));
        let me = Me {
            cluster: identity.cluster,
            node: identity.node,
            incarnation: identity.incarnation,
            boot: boot(),
            name: identity.name,
        };
        let handlers = Handlers {
            founding: founding.clone(),
            ..Handlers::default()
        };
        let peers = Peers::new(PeersConfig::new(me, Cookie::new("a secret")), handlers);
        peers.listen(listener);
        Some(Node {
            disk,
            metadata,
            founding,
            peers,
            me: address(number, port),
            said: Arc::default(),
        })
    }

    /// Founds, in a task.
    fn run(&self, addresses: &[NodeAddress]) -> tokio::task::JoinHandle<Option<Founded>> {
        let (founding, peers, me) = (
            Arc::clone(&self.founding),
            self.peers.clone(),
            self.me.clone(),
        );
        let (addresses, said) = (addresses.to_vec(), Arc::clone(&self.said));
        tokio::spawn(async move {
            let waiting = |why: &Waiting| said.lock().push(why.clone());
            founding.found(&peers, &me, &addresses, waiting).await.ok()
        })
    }

    /// It has become a member, with all of these.
    async fn becomes_member(&self, cluster: [u8; 16], members: &[Member]) {
        *self.metadata.members.lock() = members.to_vec();
        *self.metadata.cluster.lock() = cluster;
        *self.metadata.initialised.lock() = true;
        self.founding.mark_member().await.expect("a disk");
    }
}

async fn listeners(count: usize) -> (Vec<TcpListener>, Vec<NodeAddress>) {
    let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
    for number in 1..=count as u64 {
        let (listener, port) = bind().await;
        listeners.push(listener);
        addresses.push(address(number, port));
    }
    (listeners, addresses)
}

/// What became of each, and the members with whom the first was to initialise.
async fn all(runs: Vec<tokio::task::JoinHandle<Option<Founded>>>) -> (Vec<Identity>, Vec<Member>) {
    let (mut identities, mut initialise) = (Vec::new(), Vec::new());
    for run in runs {
        match soon(run).await.expect("the task").expect("a disk") {
            Founded::TakePart(identity) => identities.push(identity),
            Founded::Initialise(identity, members) => {
                assert_eq!(identity.node, 1);
                identities.push(identity);
                initialise.push(members);
            }
        }
    }
    assert_eq!(initialise.len(), 1, "one node initialises");
    (identities, initialise.remove(0))
}

#[tokio::test]
async fn founders_that_are_all_there_found_and_others_join() {
    let (mut listeners, addresses) = listeners(4).await;
    let fourth = listeners.pop().expect("four");
    let mut nodes = Vec::new();
    for (number, listener) in (1..).zip(listeners) {
        nodes.extend(Node::start(number, listener, &[1, 2, 3], SimDisk::new()).await);
    }
    let runs = nodes.iter().map(|node| node.run(&addresses[..3])).collect();
    let (identities, members) = all(runs).await;
    let cluster = identities[0].cluster;
    for (number, (identity, member)) in (1..).zip(identities.iter().zip(&members)) {
        assert_eq!((identity.cluster, identity.node), (cluster, number));
        let on_disk = Identity::read(&nodes[number as usize - 1].disk, Path::new(DIR));
        assert_eq!(on_disk.expect("whole").as_ref(), Some(identity));
        assert_eq!(
            (member.node, member.incarnation),
            (number, identity.incarnation)
        );
    }
    for node in &nodes {
        node.becomes_member(cluster, &members).await;
    }
    // A fourth one, and again: its place is the same.
    let disk = SimDisk::new();
    let four = Node::start(4, fourth, &[1, 2, 3], disk.clone())
        .await
        .expect("a node");
    let Some(Founded::TakePart(joined)) = soon(four.run(&addresses[..3])).await.expect("the task")
    else {
        panic!("it joins");
    };
    assert_eq!(
        (joined.phase, joined.cluster, joined.node),
        (Phase::Member, cluster, 4)
    );
    four.peers.stop().await;
    disk.crash(1);
    assert_eq!(
        Identity::read(&disk, Path::new(DIR)).expect("whole"),
        Some(joined)
    );
    // The first one's disk is replaced.
    nodes[0].peers.stop().await;
    let (listener, port) = bind().await;
    let wiped = Node::start(1, listener, &[1, 2, 3], SimDisk::new())
        .await
        .expect("a node");
    let mut addresses = addresses[..3].to_vec();
    addresses[0] = address(1, port);
    let run = wiped.run(&addresses);
    until("it is refused", || {
        wiped.said.lock().contains(&Waiting::Replaced(name(1)))
    })
    .await;
    // Until the others have forgotten it.
    for node in &nodes[1..] {
        node.metadata.members.lock().remove(0);
    }
    let founded = soon(run).await.expect("the task");
    assert!(
        matches!(founded, Some(Founded::TakePart(identity)) if identity.phase == Phase::Member)
    );
}

#[tokio::test]
async fn a_part_of_the_founders_waits_for_the_rest() {
    let (listeners, addresses) = listeners(3).await;
    let mut listeners = listeners.into_iter();
    let mut start = async |number| {
        let listener = listeners.next().expect("a listener");
        Node::start(number, listener, &[1, 2, 3], SimDisk::new())
            .await
            .expect("a node")
    };
    let (one, two) = (start(1).await, start(2).await);
    let runs = [one.run(&addresses), two.run(&addresses)];
    for node in [&one, &two] {
        until("it waits for the third", || {
            node.said
                .lock()
                .contains(&Waiting::Unreachable(vec![name(3)]))
        })
        .await;
        assert_eq!(node.founding.identity().phase, Phase::Candidate);
    }
    let three = start(3).await;
    let [first, second] = runs;
    let (identities, _) = all(vec![first, second, three.run(&addresses)]).await;
    assert!(
        identities
            .iter()
            .all(|identity| identity.cluster == identities[0].cluster)
    );
}

/// The power of the founder, or of another node, goes at each operation of its disk in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_between_any_two_steps_founds_the_same_cluster() {
    let mut cuts = 0;
    for dies in [1, 2] {
        for cut in 1..=12 {
            let (listeners, addresses) = listeners(3).await;
            let mut nodes = Vec::new();
            let mut late = None;
            for (number, listener) in (1..).zip(listeners) {
                let disk = SimDisk::new();
                if number == dies {
                    disk.fail(cut, Fault::PowerCut);
                }
                match Node::start(number, listener, &[1, 2, 3], disk.clone()).await {
                    Some(node) => nodes.push(node),
                    None => late = Some(disk),
                }
            }
            let mut runs = Vec::new();
            for node in &nodes {
                runs.push((node.me.name.clone(), node.run(&addresses)));
            }
            let disk = match late {
                Some(disk) => disk,
                None => {
                    let index = dies as usize - 1;
                    let disk = nodes[index].disk.clone();
                    let whole = || runs.iter().all(|(_, run)| run.is_finished());
                    until("the power goes, or all is done", || {
                        disk.power_is_cut() || whole()
                    })
                    .await;
                    nodes.remove(index).peers.stop().await;
                    let (_, run) = runs.remove(index);
                    run.abort();
                    disk
                }
            };
            cuts += usize::from(disk.power_is_cut());
            disk.crash(cut);
            let listener = listen_again(&addresses[dies as usize - 1]).await;
            let node = Node::start(dies, listener, &[1, 2, 3], disk)
                .await
                .expect("a disk");
            runs.push((node.me.name.clone(), node.run(&addresses)));
            let (identities, members) = all(runs.into_iter().map(|(_, run)| run).collect()).await;
            assert_eq!(members.len(), 3);
            for identity in &identities {
                assert_eq!(
                    identity.cluster, identities[0].cluster,
                    "cut {cut} of {dies}"
                );
                let member = &members[identity.node as usize - 1];
                assert_eq!(
                    member.incarnation, identity.incarnation,
                    "cut {cut} of {dies}"
                );
            }
            for node in nodes {
                node.peers.stop().await;
            }
            node.peers.stop().await;
        }
    }
    assert!(cuts > 12, "{cuts} power cuts");
}

async fn listen_again(address: &NodeAddress) -> TcpListener {
    let again = async {
        loop {
            match TcpListener::bind(("127.0.0.1", address.port)).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(LONG, again).await.expect("the port")
}
