//! Groups of three members in one process, on real time: who leads, what is applied, what comes back after a restart.

mod common;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::network::Router;
use common::*;
use leveret_cluster::raft::group::{GroupConfig, ProposeError, RaftGroup, Role, Timing};
use leveret_cluster::raft::reconcile::{Step, Wanted};
use leveret_cluster::raft::types::{MemberId, Payload, Term, member_id, node_of};
use leveret_cluster::{GroupId, LogStore, Recovered};
use leveret_storage::disk::sim::SimDisk;
use openraft_rt_tokio::TokioRuntime;
use tokio::sync::mpsc;

type Group = Arc<RaftGroup<TokioRuntime, Remember>>;

const DURABLE: GroupId = 256;
const TRANSIENT: GroupId = 512;

/// Longer than any test should wait.
const PATIENCE: Duration = Duration::from_secs(30);

async fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

struct Node {
    id: u64,
    disk: SimDisk,
    store: Arc<LogStore>,
    groups: Vec<(Group, Remember)>,
}

/// Some nodes with the same groups.
struct Cluster {
    router: Router<TokioRuntime>,
    kinds: Vec<GroupId>,
    timing: Timing,
    log_keep_bytes: u64,
    nodes: Vec<Node>,
}

fn dir(node: u64) -> PathBuf {
    PathBuf::from(format!("node-{node}"))
}

impl Cluster {
    fn new(kinds: &[GroupId], timing: Timing) -> Cluster {
        Cluster {
            router: Router::default(),
            kinds: kinds.to_vec(),
            timing,
            log_keep_bytes: 0,
            nodes: Vec::new(),
        }
    }

    /// Three nodes, and their groups founded.
    async fn founded(kinds: &[GroupId], timing: Timing) -> Cluster {
        let mut cluster = Cluster::new(kinds, timing);
        for id in 1..=3 {
            cluster.start(id, SimDisk::new()).await;
        }
        let members: BTreeSet<MemberId> = (1..=3).map(|id| member_id(id, 0)).collect();
        for node in &cluster.nodes {
            for (group, _) in &node.groups {
                // Every founder does; one of them may be told first by another that won already.
                let _ = group.initialize(members.clone()).await;
            }
        }
        cluster
    }

    async fn start(&mut self, id: u64, disk: SimDisk) {
        self.start_as(id, disk, 0).await;
    }

    /// Starts a node with the logs of an epoch.
    async fn start_as(&mut self, id: u64, disk: SimDisk, epoch: u16) {
        let (store, mut recovered): (_, Recovered) = open(&sim(&disk), &dir(id), false);
        let mut groups = Vec::new();
        for kind in &self.kinds {
            let machine = Remember::default();
            let member = member_id(id, epoch);
            let mut config = GroupConfig::new(*kind, member);
            config.timing = self.timing;
            config.log_keep_bytes = self.log_keep_bytes;
            let group: Group = RaftGroup::start(
                config,
                Arc::clone(&store),
                recovered.take_raft(*kind),
                machine.clone(),
                self.router.factory(*kind, member),
            )
            .await
            .expect("the group starts");
            let inbound: Group = Arc::clone(&group);
            self.router.add(inbound);
            groups.push((group, machine));
        }
        self.nodes.push(Node {
            id,
            disk,
            store,
            groups,
        });
    }

    /// Takes a node out as a kill does: nothing more of it is heard; what it wrote stays.
    async fn kill(&mut self, id: u64) -> SimDisk {
        let at = self.nodes.iter().position(|node| node.id == id).unwrap();
        let node = self.nodes.remove(at);
        for (group, _) in &node.groups {
            self.router.remove(group.log().group(), group.member());
        }
        for (group, _) in node.groups {
            group.shutdown().await;
        }
        node.store.close();
        let journal = Arc::downgrade(node.store.journal());
        drop(node.store);
        // openraft's tasks end by themselves; the directory is in use until then.
        until("the end of the tasks", || {
            (journal.strong_count() == 0).then_some(())
        })
        .await;
        node.disk
    }

    fn node(&self, id: u64) -> &Node {
        self.nodes.iter().find(|node| node.id == id).unwrap()
    }

    fn alive(&self) -> BTreeSet<u64> {
        self.nodes.iter().map(|node| node.id).collect()
    }

    /// Who leads a group, and in which term.
    fn leader(&self, kind: usize) -> Option<(&Group, Term)> {
        self.nodes.iter().find_map(|node| {
            let group = &node.groups[kind].0;
            match group.role() {
                Role::Leading { term, .. } => Some((group, term)),
                _ => None,
            }
        })
    }

    async fn led(&self, kind: usize) -> (Group, Term) {
        until("a leader", || {
            self.leader(kind)
                .map(|(group, term)| (Arc::clone(group), term))
        })
        .await
    }

    /// Proposes with retries until it is applied at the leader.
    async fn propose(&self, kind: usize, data: &str) {
        let start = Instant::now();
        loop {
            assert!(start.elapsed() < PATIENCE, "proposed {data} for ever");
            let (group, term) = self.led(kind).await;
            if propose(&group, term, data).await.is_ok() {
                return;
            }
        }
    }

    /// Waits until every node has applied the same, at least `count` entries.
    async fn agreed(&self, kind: usize, count: usize) -> Vec<Bytes> {
        until("agreement", || {
            let all: Vec<_> = self
                .nodes
                .iter()
                .map(|node| node.groups[kind].1.entries())
                .collect();
            (all[0].len() >= count && all.iter().all(|entries| *entries == all[0])).then_some(())
        })
        .await;
        self.nodes[0].groups[kind].1.data()
    }
}

async fn propose(group: &Group, term: Term, data: &str) -> Result<(), ProposeError> {
    let (tell, mut told) = mpsc::unbounded_channel();
    group.propose(term, Payload::copied(data.as_bytes()), move |result| {
        let _ = tell.send(result);
    })?;
    let answer = tokio::time::timeout(PATIENCE, told.recv()).await;
    answer.expect("an answer").expect("an answer").map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_groups_of_one_journal_replicate_each_its_own() {
    let cluster = Cluster::founded(&[0, DURABLE, TRANSIENT], Timing::default()).await;
    for kind in 0..3 {
        let (group, term) = cluster.led(kind).await;
        let (tell, mut told) = mpsc::unbounded_channel();
        for number in 0..60 {
            let tell = tell.clone();
            let payload = Payload::copied(format!("{kind} {number}").as_bytes());
            group
                .propose(term, payload, move |result| {
                    let _ = tell.send((number, result));
                })
                .expect("room for sixty");
        }
        for number in 0..60 {
            let (told, result) = told.recv().await.unwrap();
            assert_eq!(told, number, "answers come in order");
            result.expect("applied");
        }
    }
    for kind in 0..3 {
        let expected: Vec<Bytes> = (0..60).map(|n| format!("{kind} {n}").into()).collect();
        assert_eq!(cluster.agreed(kind, 60).await, expected);
    }
    // One journal has them all.
    assert!(cluster.nodes[0].store.journal().end().to_u64() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leaders_death_that_is_noticed_elects_at_once() {
    let mut cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    let mut written = 0;
    let mut times = Vec::new();
    for _round in 0..5 {
        let (leader, term) = cluster.led(0).await;
        for _ in 0..10 {
            cluster.propose(0, &format!("{written}")).await;
            written += 1;
        }
        let dead = node_of(leader.member());
        drop(leader);
        cluster.router.cut(member_id(dead, 0), true);
        let start = Instant::now();
        let alive: BTreeSet<u64> = cluster
            .alive()
            .into_iter()
            .filter(|id| *id != dead)
            .collect();
        for node in cluster.nodes.iter().filter(|node| node.id != dead) {
            let (group, alive) = (Arc::clone(&node.groups[0].0), alive.clone());
            tokio::spawn(async move { group.leader_is_gone(dead, &alive).await });
        }
        until("the next leader", || {
            let mut others = cluster.nodes.iter().filter(|node| node.id != dead);
            others.find_map(|node| match node.groups[0].0.role() {
                Role::Leading { term: now, .. } if now > term => Some(()),
                _ => None,
            })
        })
        .await;
        let took = start.elapsed();
        println!("elected after {took:?}");
        times.push(took);
        let disk = cluster.kill(dead).await;
        cluster.propose(0, &format!("{written}")).await;
        written += 1;
        cluster.router.cut(member_id(dead, 0), false);
        cluster.start(dead, disk).await;
    }
    // By timers alone it takes at least the lease and half of it again, 1.5 s. A busy machine may make one slow.
    times.sort_unstable();
    assert!(times[2] < Duration::from_millis(300), "{times:?}");
    assert!(times[4] < Duration::from_millis(1500), "{times:?}");
    let expected: Vec<Bytes> = (0..written).map(|n| n.to_string().into()).collect();
    assert_eq!(cluster.agreed(0, written).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_report_of_a_death_harms_nothing() {
    let cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    for round in 0..5 {
        cluster.propose(0, &format!("{round}")).await;
        let (leader, _) = cluster.led(0).await;
        let dead = node_of(leader.member());
        let alive: BTreeSet<u64> = cluster
            .alive()
            .into_iter()
            .filter(|id| *id != dead)
            .collect();
        for node in cluster.nodes.iter().filter(|node| node.id != dead) {
            node.groups[0].0.leader_is_gone(dead, &alive).await.unwrap();
        }
    }
    cluster.propose(0, "5").await;
    let expected: Vec<Bytes> = (0..6).map(|n| n.to_string().into()).collect();
    assert_eq!(cluster.agreed(0, 6).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deposed_leaders_proposals_are_refused() {
    let cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    cluster.propose(0, "a").await;
    let (old, term) = cluster.led(0).await;
    let follower = cluster
        .nodes
        .iter()
        .find(|node| member_id(node.id, 0) != old.member())
        .unwrap();
    let to = follower.groups[0].0.member();
    old.transfer_leader(to).await.unwrap();
    until("the transfer", || {
        matches!(follower.groups[0].0.role(), Role::Leading { .. }).then_some(())
    })
    .await;
    until("the old leader to know", || {
        matches!(old.role(), Role::Following { .. }).then_some(())
    })
    .await;
    let refused = propose(&old, term, "stale").await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { leader }) if leader == Some(to)));
    // Elected again, but the proposal is for the term before.
    follower.groups[0]
        .0
        .transfer_leader(old.member())
        .await
        .unwrap();
    let newer = until("the transfer back", || match old.role() {
        Role::Leading { term, .. } => Some(term),
        _ => None,
    })
    .await;
    assert!(newer > term);
    let refused = propose(&old, term, "stale").await;
    assert!(
        matches!(refused, Err(ProposeError::NotLeader { .. })),
        "{refused:?}"
    );
    propose(&old, newer, "b").await.expect("of this term");
    assert_eq!(cluster.agreed(0, 2).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proposals_in_flight_are_bounded() {
    let cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    let (leader, term) = cluster.led(0).await;
    // Nobody answers the leader, so nothing is committed.
    for node in &cluster.nodes {
        let member = member_id(node.id, 0);
        cluster.router.cut(member, member != leader.member());
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut taken = 0;
    let full = loop {
        let tell = tell.clone();
        let payload = Payload::copied(b"x");
        match leader.propose(term, payload, move |result| {
            let _ = tell.send(result);
        }) {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken <= 64);
    };
    assert_eq!((full, taken), (ProposeError::Full, 64));
    leader.shutdown().await;
    for _ in 0..64 {
        told.recv()
            .await
            .unwrap()
            .expect_err("nothing was committed");
    }
    until("the role", || {
        (leader.role() == Role::Stopped).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_gets_the_log_or_a_snapshot() {
    let mut cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    cluster.propose(0, "0").await;
    cluster.agreed(0, 1).await;
    let away = |cluster: &Cluster| {
        let leader = cluster.leader(0).map(|(group, _)| node_of(group.member()));
        cluster
            .alive()
            .into_iter()
            .find(|id| Some(*id) != leader)
            .unwrap()
    };
    // The log is still there.
    let id = away(&cluster);
    let disk = cluster.kill(id).await;
    for number in 1..50 {
        cluster.propose(0, &number.to_string()).await;
    }
    cluster.start(id, disk).await;
    cluster.agreed(0, 50).await;
    assert_eq!(cluster.router.snapshots(), 0);
    // The log is purged.
    let id = away(&cluster);
    let disk = cluster.kill(id).await;
    for number in 50..300 {
        cluster.propose(0, &number.to_string()).await;
    }
    for node in &cluster.nodes {
        let (group, machine) = &node.groups[0];
        until("all of it", || (machine.count() == 300).then_some(())).await;
        let covered = group.checkpoint().await.unwrap();
        assert!(covered.applied.is_some_and(|id| id.index >= 300));
        let purged = group.purge().await.unwrap();
        assert_eq!(purged, covered.applied);
        until("the purge", || {
            group
                .log()
                .with_index(|index| index.purged() == purged)
                .then_some(())
        })
        .await;
    }
    cluster.propose(0, "300").await;
    cluster.start(id, disk).await;
    let data = cluster.agreed(0, 301).await;
    let expected: Vec<Bytes> = (0..301).map(|n| n.to_string().into()).collect();
    assert_eq!(data, expected);
    assert!(cluster.router.snapshots() >= 1);
    let installed = cluster.node(id).groups[0].1.0.lock().installed;
    assert!(installed >= 1);
    // What was installed is there after a restart, without another snapshot.
    let (leader, _) = cluster.led(0).await;
    until("the leader to hear of it", || {
        leader.lag(member_id(id, 0)).filter(|lag| *lag == 0)
    })
    .await;
    drop(leader);
    let sent = cluster.router.snapshots();
    let disk = cluster.kill(id).await;
    cluster.start(id, disk).await;
    cluster.propose(0, "301").await;
    assert_eq!(cluster.agreed(0, 302).await.len(), 302);
    let installed = cluster.node(id).groups[0].1.0.lock().installed;
    assert_eq!((installed, cluster.router.snapshots()), (0, sent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_is_back_after_all_were_down() {
    let mut cluster = Cluster::founded(&[0, DURABLE], Timing::default()).await;
    for number in 0..40 {
        cluster.propose(number % 2, &number.to_string()).await;
        if number == 20 {
            for node in &cluster.nodes {
                node.groups[0].0.checkpoint().await.unwrap();
            }
        }
    }
    for round in 0..2 {
        let mut disks = Vec::new();
        for id in 1..=3 {
            disks.push((id, cluster.kill(id).await));
        }
        for (id, disk) in disks {
            // Power is cut: what was not synced may be gone.
            disk.crash(7 * id + round);
            cluster.start(id, disk).await;
        }
        for kind in 0..2 {
            let expected: Vec<Bytes> = (0..40)
                .filter(|n| n % 2 == kind)
                .map(|n| n.to_string().into())
                .collect();
            assert_eq!(cluster.agreed(kind, 20).await, expected);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go() {
    let mut cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    cluster.propose(0, "a").await;
    cluster.start(4, SimDisk::new()).await;
    let new = member_id(4, 0);
    let (leader, _) = cluster.led(0).await;
    leader.add_learner(new).await.expect("a learner");
    until("the learner to be near", || {
        leader.lag(new).filter(|lag| *lag == 0)
    })
    .await;
    leader.promote(new).await.expect("a voter");
    let out = cluster
        .nodes
        .iter()
        .map(|node| member_id(node.id, 0))
        .find(|id| *id != leader.member() && *id != new)
        .unwrap();
    leader.remove(out).await.expect("removed");
    let voters: BTreeSet<MemberId> = leader.membership().voter_ids().collect();
    assert!(voters.contains(&new) && !voters.contains(&out) && voters.len() == 3);
    assert!(leader.membership().nodes().all(|(id, ())| *id != out));
    cluster.kill(node_of(out)).await;
    cluster.propose(0, "b").await;
    assert_eq!(cluster.agreed(0, 2).await, ["a", "b"]);
    // A follower refuses, and says who leads.
    let follower = cluster
        .nodes
        .iter()
        .find(|node| member_id(node.id, 0) != leader.member())
        .unwrap();
    let refused = follower.groups[0].0.remove(leader.member()).await;
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wanted_members_are_reached_whoever_leads_on_the_way() {
    let mut cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    cluster.propose(0, "a").await;
    cluster.start(4, SimDisk::new()).await;
    // The leader itself is to go.
    let out = cluster.led(0).await.0.member();
    let stay = (1..=4).map(|id| member_id(id, 0)).filter(|id| *id != out);
    let wanted = Wanted {
        voters: stay.collect(),
        gone: BTreeSet::from([out]),
    };
    let mut steps = Vec::new();
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "not there after {steps:?}");
        let (leader, _) = cluster.led(0).await;
        match leader.next_step(&wanted) {
            Step::Done => break,
            Step::Wait => tokio::time::sleep(Duration::from_millis(2)).await,
            step => {
                // Whoever asks may be gone before it is done, and so may the leader: a change of voters stays half way.
                let step_taken = leader.take_step(step);
                let _ = tokio::time::timeout(Duration::from_millis(1), step_taken).await;
                let mut others = wanted
                    .voters
                    .intersection(&leader.membership().voter_ids().collect())
                    .copied()
                    .collect::<Vec<_>>();
                others.retain(|member| *member != leader.member());
                if let Some(other) = others.get(steps.len() % others.len().max(1)) {
                    let _ = leader.transfer_leader(*other).await;
                }
                steps.push(step);
            }
        }
        let voters: BTreeSet<MemberId> = leader.membership().voter_ids().collect();
        assert!(voters.len() >= 3, "{voters:?} after {steps:?}");
    }
    assert_eq!(steps[0], Step::Add(member_id(4, 0)));
    let (leader, _) = cluster.led(0).await;
    let members: BTreeSet<MemberId> = leader.membership().nodes().map(|(id, ())| *id).collect();
    assert_eq!(members, wanted.voters);
    cluster.kill(node_of(out)).await;
    cluster.propose(0, "b").await;
    assert_eq!(cluster.agreed(0, 2).await, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_one_members_only() {
    let mut cluster = Cluster::founded(&[DURABLE], Timing::default()).await;
    cluster.propose(0, "a").await;
    cluster.agreed(0, 1).await;
    let disk = cluster.kill(2).await;
    let (store, mut recovered) = open(&sim(&disk), &dir(2), false);
    let start = RaftGroup::<TokioRuntime, Remember>::start(
        GroupConfig::new(DURABLE, member_id(2, 1)),
        Arc::clone(&store),
        recovered.take_raft(DURABLE),
        Remember::default(),
        cluster.router.factory(DURABLE, member_id(2, 1)),
    );
    let refused = start
        .await
        .expect_err("another epoch has no claim to the log");
    assert!(refused.to_string().contains("node 2, epoch 0"), "{refused}");
    store.close();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_lost_its_log_begins_with_nothing_and_votes_again_in_its_own_place() {
    let mut cluster = Cluster::founded(&[TRANSIENT], Timing::default()).await;
    for data in ["a", "b"] {
        cluster.propose(0, data).await;
    }
    cluster.agreed(0, 2).await;
    let leader = cluster.led(0).await.0.member();
    let lost = (1..=3).find(|id| *id != node_of(leader)).unwrap();
    // It must not come back by the checkpoint either.
    cluster.node(lost).groups[0].0.checkpoint().await.unwrap();
    let disk = cluster.kill(lost).await;
    cluster.start_as(lost, disk, 1).await;
    let (again, machine) = &cluster.node(lost).groups[0];
    assert!(again.log().with_index(|index| index.is_empty()));
    assert_eq!(machine.count(), 0);
    let (old, new) = (member_id(lost, 0), again.member());
    let mut voters: BTreeSet<MemberId> = (1..=3).map(|id| member_id(id, 0)).collect();
    voters.remove(&old);
    voters.insert(new);
    let wanted = Wanted {
        voters: voters.clone(),
        gone: [old].into(),
    };
    let mut taken = Vec::new();
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "after {taken:?}");
        let (leader, _) = cluster.led(0).await;
        match leader.next_step(&wanted) {
            Step::Done => break,
            Step::Wait => tokio::time::sleep(Duration::from_millis(2)).await,
            step => {
                if leader.take_step(step).await.is_ok() {
                    taken.push(step);
                }
            }
        }
    }
    assert_eq!(taken, [Step::Add(new), Step::Replace(old, new)]);
    assert_eq!(cluster.agreed(0, 2).await, ["a", "b"]);
    let members = cluster.led(0).await.0.committed_membership();
    let members = members.expect("committed");
    assert_eq!(members.voter_ids().collect::<BTreeSet<_>>(), voters);
    // Its vote counts: without another one there is still a majority.
    let other = (1..=3).find(|id| *id != lost).unwrap();
    cluster.kill(other).await;
    cluster.propose(0, "c").await;
    assert_eq!(cluster.agreed(0, 3).await, ["a", "b", "c"]);
    // What it dropped does not come back with its next start, and what it learned does.
    let disk = cluster.kill(lost).await;
    cluster.start_as(lost, disk, 1).await;
    assert_eq!(cluster.agreed(0, 3).await, ["a", "b", "c"]);
}
