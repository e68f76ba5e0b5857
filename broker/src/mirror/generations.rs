//! Logs that a power cut took: nodes that take part again under the next epoch, and groups that are formed anew.
//!
//! A group of queues that are not durable counts what is written, so a machine that starts again may lack some of what its node has
//! acknowledged ([`leveret_cluster::power`]). The node says its epoch when it comes up; the group's leader takes the new member in as a
//! learner, and lets it vote in the place of the old one ([`super::membership`]).
//!
//! If a majority has lost the log, nothing can be committed any more. Each node that does not vote in a group as far as its own log goes says so to
//! all, and so does a leader that a majority follows. When a majority of the nodes has nothing of a group and nobody leads it for `FORM`, the
//! leader of group 0 proposes the group's next generation: empty, with first
//! members that the command names. Whoever applies that stops the old member, drops its log for good and starts the new one. So no two halves can
//! form it: the metadata's log is the judge, and once a majority has applied the command the old generation has no majority.
//!
//! In a later generation terms are later ([`lasting_term`]), messages have numbers that no earlier one gave, and a session that the
//! group does not know goes on where it is: sessions on live nodes notice nothing but a leader without their messages.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use leveret_cluster::power::Power;
use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::network::{Network, RaftService};
use leveret_cluster::raft::node::{NodeGroup, start_group};
use leveret_cluster::raft::types::{
    GENERATION_MAX, MemberId, generation_of, lasting_term, member_of,
};
use leveret_cluster::{GroupId, METADATA_GROUP, RecoveredGroup, is_durable};
use leveret_topology::{Command, FormGroup, NodeInfo, NodeState, Topology};
use parking_lot::{Mutex, RwLock};

use super::cluster::{Mirror, Mirrored};
use super::machines::QueueMachine;
use crate::node::Node;

/// How long a majority of the nodes has to be without a group's log, and without a leader of it, before the group is formed anew.
const FORM: Duration = Duration::from_secs(5);
/// What a node said of a group counts for so long.
const SAID: Duration = Duration::from_secs(2);
/// A generation that was proposed and has not come is proposed again.
const AGAIN: Duration = Duration::from_secs(3);
/// How long the tasks of a group that was stopped may take to end.
const END: Duration = Duration::from_secs(30);
/// Between two looks at them.
const LOOK: Duration = Duration::from_millis(5);

struct Running {
    raft: Arc<NodeGroup>,
    /// Gone when the state machine is.
    machine: Weak<()>,
}

/// The Raft of a group: another one for each generation, none between two.
#[derive(Default)]
pub struct Slot(RwLock<Option<Running>>);

impl Slot {
    /// The one that runs.
    pub fn get(&self) -> Option<Arc<NodeGroup>> {
        self.0.read().as_ref().map(|now| Arc::clone(&now.raft))
    }

    /// Whether that one runs, and not one of another generation.
    pub fn is(&self, raft: &Arc<NodeGroup>) -> bool {
        let now = self.0.read();
        now.as_ref().is_some_and(|now| Arc::ptr_eq(&now.raft, raft))
    }

    /// This one runs from now on. `machine`: see [`QueueMachine::life`].
    pub fn set(&self, raft: Arc<NodeGroup>, machine: Weak<()>) {
        *self.0.write() = Some(Running { raft, machine });
    }

    fn take(&self) -> Option<Running> {
        self.0.write().take()
    }
}

/// What a node said of a generation of a group, and when.
type Said = (Word, u32, Instant);

/// What nodes say of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// That they have nothing of its log that counts.
    Nothing,
    /// That they lead it, and that a majority follows.
    Led,
}

/// See the module.
#[derive(Default)]
pub struct Generations {
    power: OnceLock<Power>,
    network: OnceLock<(Network, Arc<RaftService>)>,
    said: Mutex<BTreeMap<(GroupId, u64), Said>>,
    /// Since when a majority has nothing of a group.
    lost: Mutex<BTreeMap<GroupId, Instant>>,
    proposed: Mutex<BTreeMap<GroupId, Instant>>,
    /// Groups that are between two generations.
    switching: Mutex<BTreeSet<GroupId>>,
    /// How many: while there are any, no segment of the journal goes.
    between: AtomicU32,
}

impl Generations {
    /// Once, at the start.
    pub fn begin(&self, power: Power) {
        let _ = self.power.set(power);
    }

    /// What groups reach other nodes with; once, at the start.
    pub fn connect(&self, network: Network, service: Arc<RaftService>) {
        let _ = self.network.set((network, service));
    }

    /// The epoch of this node's logs that do not wait for the disk.
    pub fn epoch(&self) -> u16 {
        self.power.get().map_or(0, Power::epoch)
    }

    /// Everything that this process wrote is synced, and it writes no more.
    pub fn end_clean(&self) {
        if let Some(power) = self.power.get()
            && let Err(error) = power.end_clean()
        {
            tracing::warn!(%error, "that this node ended in order is not on disk");
        }
    }

    /// A group is between two generations.
    pub fn any_between(&self) -> bool {
        self.between.load(Ordering::Acquire) > 0
    }

    /// Somebody says that it has nothing of a group.
    fn lacks(&self, group: GroupId) -> bool {
        let said = self.said.lock();
        said.range((group, 0)..=(group, u64::MAX))
            .any(|(_, (word, _, at))| *word == Word::Nothing && at.elapsed() < SAID)
    }

    /// A node said something of a generation of a group.
    pub fn heard(&self, group: GroupId, node: u64, generation: u32, word: Word) {
        let said = (word, generation, Instant::now());
        self.said.lock().insert((group, node), said);
    }
}

/// The generation that the metadata here know of a group.
pub fn generation(topology: &Topology, group: GroupId) -> u32 {
    topology.formed(group).map_or(0, |formed| formed.generation)
}

/// Which member a node is in a group.
pub fn member(topology: &Topology, group: GroupId, node: &NodeInfo) -> MemberId {
    match group == METADATA_GROUP || is_durable(group) {
        true => member_of(0, node.id, 0),
        false => member_of(generation(topology, group), node.id, node.epoch),
    }
}

/// This node has nothing of the group's log that counts: it learns, or has not even begun, or is only about to vote.
fn has_nothing(raft: &NodeGroup) -> bool {
    let membership = raft.membership();
    let configs = membership.get_joint_config();
    configs.is_empty() || !configs.iter().all(|voters| voters.contains(&raft.member()))
}

fn transient(mirror: &Mirror) -> impl Iterator<Item = &Mirrored> {
    let groups = mirror.groups().iter();
    groups.filter(|mirrored| !is_durable(mirrored.group.id()))
}

impl Mirror {
    /// Which member this node is in a group, in a generation of it.
    pub fn own_member(&self, group: GroupId, generation: u32) -> MemberId {
        match group == METADATA_GROUP || is_durable(group) {
            true => member_of(0, self.id(), 0),
            false => member_of(generation, self.id(), self.generations.epoch()),
        }
    }

    /// Says of which groups this node has nothing and which it leads, and, as the leader of group 0, forms anew what a majority has
    /// nothing of.
    pub(super) fn keep_generations(self: &Arc<Self>, tell: impl Fn(GroupId, u32, Word)) {
        let Some(node) = self.node() else { return };
        if !self.ready.load(Ordering::Acquire) {
            // The metadata here may be those of before.
            return;
        }
        for mirrored in transient(self) {
            let group = mirrored.group.id();
            let Some(raft) = mirrored.raft.get() else {
                continue;
            };
            let leads = matches!(raft.role(), Role::Leading { .. } | Role::Elected { .. });
            let word = match has_nothing(&raft) {
                true => Some(Word::Nothing),
                // Only if somebody wonders.
                false => (leads && self.generations.lacks(group) && self.is_sure(mirrored))
                    .then_some(Word::Led),
            };
            if let Some(word) = word {
                let generation = generation_of(raft.member());
                self.generations.heard(group, self.id(), generation, word);
                tell(group, generation, word);
            }
            self.form(&node, group);
        }
    }

    fn form(&self, node: &Arc<Node>, group: GroupId) {
        let known = &self.generations;
        let command = {
            let topology = node.topology();
            let now = generation(&topology, group);
            let there = |n: &&NodeInfo| n.state != NodeState::Joining;
            let nodes: Vec<&NodeInfo> = topology.nodes().filter(there).collect();
            let said = known.said.lock();
            let say = |n: &NodeInfo, word: Word| {
                let said = said.get(&(group, n.id));
                said.is_some_and(|(what, of, at)| {
                    *what == word && *of == now && at.elapsed() < SAID
                })
            };
            let lost = nodes.iter().filter(|n| say(n, Word::Nothing)).count();
            let majority = lost * 2 > nodes.len();
            let led = nodes.iter().any(|n| say(n, Word::Led));
            drop(said);
            let leads = self.leads_metadata.load(Ordering::Acquire) > 0;
            let mut since = known.lost.lock();
            if led || !majority || !leads || now >= GENERATION_MAX {
                since.remove(&group);
                return;
            }
            if since.entry(group).or_insert_with(Instant::now).elapsed() < FORM {
                return;
            }
            let stay = nodes.iter().filter(|n| n.state == NodeState::Member);
            FormGroup {
                group,
                generation: now + 1,
                members: stay.map(|n| member_of(now + 1, n.id, n.epoch)).collect(),
            }
        };
        let mut proposed = known.proposed.lock();
        if proposed.get(&group).is_some_and(|at| at.elapsed() < AGAIN) {
            return;
        }
        proposed.insert(group, Instant::now());
        drop(proposed);
        tracing::warn!(
            group,
            generation = command.generation,
            "a majority of the nodes lost the log of a group in a power cut: it is formed anew, without messages"
        );
        node.propose_quietly(&Command::FormGroup(command));
    }

    /// Starts what the metadata have formed anew.
    pub(super) fn follow_generations(self: &Arc<Self>) {
        let Some(node) = self.node() else { return };
        for (at, mirrored) in self.groups().iter().enumerate() {
            let group = mirrored.group.id();
            let formed = node.topology().formed(group).cloned();
            let (Some(formed), Some(raft)) = (formed, mirrored.raft.get()) else {
                continue;
            };
            let now = generation_of(raft.member());
            let begins = formed.members.contains(&raft.member())
                && raft.log().with_index(|index| index.is_empty());
            if (formed.generation > now || (formed.generation == now && begins))
                && self.generations.switching.lock().insert(group)
            {
                let (this, node) = (Arc::clone(self), Arc::clone(&node));
                tokio::spawn(async move {
                    if formed.generation > now {
                        this.generations.between.fetch_add(1, Ordering::AcqRel);
                        let switched = this.switch(&node, at, formed.generation).await;
                        this.generations.between.fetch_sub(1, Ordering::AcqRel);
                        if let Err(reason) = switched {
                            node.stop().now(&format!("group {group}: {reason}"));
                        }
                    }
                    this.initialise(at, formed.members.into_iter().collect())
                        .await;
                    this.generations.switching.lock().remove(&group);
                });
            }
        }
    }

    /// Everybody whom the command names says the same; who has a log already refuses.
    async fn initialise(&self, at: usize, members: BTreeSet<MemberId>) {
        let raft = self.groups().get(at).and_then(|m| m.raft.get());
        if let Some(raft) = raft.filter(|raft| members.contains(&raft.member())) {
            let _ = raft.initialize(members).await;
        }
    }

    /// Ends the group's generation here, and begins a later one.
    async fn switch(&self, node: &Arc<Node>, at: usize, generation: u32) -> Result<(), String> {
        let mirrored = self.groups().get(at).ok_or("no such group")?;
        let (network, service) = self.generations.network.get().ok_or("the node starts")?;
        let group = mirrored.group.id();
        let Some(old) = mirrored.raft.take() else {
            return Ok(());
        };
        tracing::warn!(group, generation, "the group is formed anew");
        service.remove(u16::try_from(group).unwrap_or(u16::MAX));
        mirrored.group.step_down();
        mirrored.session.lead_by(None);
        mirrored.unsure();
        old.raft.shutdown().await;
        let until = Instant::now() + END;
        while old.machine.strong_count() > 0 {
            if Instant::now() >= until {
                return Err("its tasks do not end".to_owned());
            }
            tokio::time::sleep(LOOK).await;
        }
        // Not before: nothing may be applied or appended behind it.
        old.raft.log().drop_log().map_err(|e| e.to_string())?;
        drop(old);
        mirrored.group.begin_anew(generation);
        let me = self.own_member(group, generation);
        self.run_group(
            node,
            mirrored,
            me,
            RecoveredGroup::default(),
            network,
            service,
        )
        .await
    }

    /// Starts this node's member of a group of queues.
    pub(super) async fn run_group(
        &self,
        node: &Arc<Node>,
        mirrored: &Mirrored,
        me: MemberId,
        recovered: RecoveredGroup,
        network: &Network,
        service: &Arc<RaftService>,
    ) -> Result<(), String> {
        let group = mirrored.group.id();
        let generation = generation_of(me);
        mirrored.group.in_generation(generation);
        let clock = Arc::downgrade(node);
        let now_ms = Box::new(move || clock.upgrade().map_or(0, |node| node.now_ms()));
        let machine = QueueMachine::new(Arc::clone(&mirrored.group), now_ms, generation);
        let life = machine.life();
        let raft = start_group(
            super::start::config_of(node, group, me),
            Arc::clone(node.store()),
            recovered,
            Box::new(machine),
            network.group(group, me),
        )
        .await
        .map_err(|e| e.to_string())?;
        service.add(raft.clone());
        mirrored.raft.set(raft, life);
        Ok(())
    }
}

/// A term of a group's Raft, as sessions and leaders compare it with those of other generations.
pub fn lasting(raft: &NodeGroup, term: u64) -> u64 {
    lasting_term(generation_of(raft.member()), term)
}
