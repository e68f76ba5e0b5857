//! Nodes that come and go: who is let in, what each group's members are to be, and where the others are.
//!
//! What is wanted is in the metadata: a node is joining, a member, or leaving ([`NodeState`]). One of them is under way at a time,
//! those that join before those that leave; each group's leader takes the steps of its own group towards it
//! ([`leveret_cluster::raft::reconcile`]), and the leader of group 0 says in the metadata when all groups are there. Whoever leads next goes
//! on from what the metadata and the groups say, so nothing is lost with a leader.
//!
//! The other nodes' addresses are those of the metadata, but what this node's own configuration says of a name counts. They are kept in a file
//! too, for the next start ([`leveret_cluster::address_book`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use leveret_cluster::GroupId;
use leveret_cluster::address_book;
use leveret_cluster::founding::Member;
use leveret_cluster::founding::driver::{Host, is_forgotten};
use leveret_cluster::founding::message::{Joined, Joiner};
use leveret_cluster::identity::Identity;
use leveret_cluster::name::{NodeAddress, NodeName};
use leveret_cluster::peers::Peer;
use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::node::NodeGroup;
use leveret_cluster::raft::reconcile::{Step, Wanted};
use leveret_cluster::raft::types::node_of;
use leveret_storage::disk::Disk;
use leveret_topology::{
    AdmitNode, ChangeNode, Command, NodeInfo, NodeState, Outcome, Refusal, Topology,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::cluster::{FENCE, Mirror};
use super::generations::member;

/// How often the groups are compared with what is wanted, if nobody says that something changed.
const LOOK: Duration = Duration::from_millis(100);
/// A command that was proposed and has not come is proposed again.
const AGAIN: Duration = Duration::from_secs(3);
/// Between two questions whether this node was forgotten.
const ASK: Duration = Duration::from_secs(2);
/// How long a joiner waits for its place to be committed.
const ADMIT: Duration = Duration::from_secs(20);
/// Nothing is tried in a group for this long after a leadership was handed over, or a step could not be taken.
const PAUSE: Duration = Duration::from_millis(500);
/// Ids end here: the identity of a connection has so many bits for its node's.
const NODE_MAX: u64 = u16::MAX as u64;

/// What a node says when it finds that it was removed.
pub const FORGOTTEN: &str = "this node was removed from the cluster (forget_cluster_node): it may join again with an empty data folder";

/// What is proposed for the nodes at most once in a while.
#[derive(Default)]
struct Proposed(Mutex<Option<(Command, Instant)>>);

impl Proposed {
    fn is_new(&self, command: &Command) -> bool {
        let mut last = self.0.lock();
        let known = |(seen, at): &(Command, Instant)| seen == command && at.elapsed() < AGAIN;
        let new = !last.as_ref().is_some_and(known);
        if new {
            *last = Some((command.clone(), Instant::now()));
        }
        new
    }
}

/// Where this node keeps what it knows of the others.
pub struct Places {
    /// The real one, or a test's.
    pub disk: Arc<dyn Disk>,
    /// The folder `cluster` of the data.
    pub dir: PathBuf,
    /// What the configuration says of nodes.
    pub configured: Vec<NodeAddress>,
    /// The members as this node knew them at its start.
    pub known: Vec<Peer>,
}

/// See the module.
#[derive(Default)]
pub struct Membership {
    places: OnceLock<Places>,
    identity: OnceLock<Identity>,
    changed: Notify,
    /// Groups of which a change is under way.
    busy: Mutex<BTreeSet<GroupId>>,
    proposed: Proposed,
    forgotten: AtomicBool,
    /// This node is drained.
    pub(super) drained: AtomicBool,
}

impl Membership {
    /// Once, at the start.
    pub fn begin(&self, places: Places, identity: Identity) {
        let _ = self.places.set(places);
        let _ = self.identity.set(identity);
    }

    /// The nodes in the metadata may be others.
    pub fn changed(&self) {
        self.changed.notify_one();
    }

    /// The members, by the metadata and by what was known before.
    fn peers(&self, topology: &Topology) -> Vec<Peer> {
        let Some(places) = self.places.get() else {
            return Vec::new();
        };
        let mut peers: BTreeMap<u64, Peer> = places
            .known
            .iter()
            .filter(|peer| topology.forgotten_node(peer.node).is_none())
            .map(|peer| (peer.node, peer.clone()))
            .collect();
        for node in topology.nodes() {
            let configured = |a: &&NodeAddress| node.name == a.name.as_str();
            let address = match places.configured.iter().find(configured) {
                Some(configured) => Some(configured.clone()),
                None => NodeAddress::parse(&node.address, super::start::PORT_DEFAULT).ok(),
            };
            let before = peers.get(&node.id);
            let Some(address) = address.or_else(|| before.map(|p| p.address.clone())) else {
                continue;
            };
            let disk = Some(node.disk).filter(|disk| *disk > 0);
            let incarnation = disk.or_else(|| before.and_then(|p| p.incarnation));
            let peer = Peer {
                node: node.id,
                incarnation,
                address,
            };
            peers.insert(node.id, peer);
        }
        peers.into_values().collect()
    }
}

/// The change that is under way.
fn current(topology: &Topology) -> Option<&NodeInfo> {
    let first = |state| topology.nodes().find(|node| node.state == state);
    first(NodeState::Joining).or_else(|| first(NodeState::Leaving))
}

/// What the members of a group that has these are to be.
fn wanted(topology: &Topology, group: GroupId, present: impl Iterator<Item = u64>) -> Wanted {
    let current = current(topology).map(|node| node.id);
    let votes = |node: &&NodeInfo| match node.state {
        NodeState::Member => true,
        NodeState::Joining => Some(node.id) == current,
        NodeState::Leaving => false,
    };
    let goes = |id: &u64| {
        let node = node_of(*id);
        // It lost its log, and comes as another member.
        let known = topology.node(node);
        topology.forgotten_node(node).is_some()
            || known.is_some_and(|n| member(topology, group, n) > *id)
            || (Some(node) == current
                && topology
                    .node(node)
                    .is_some_and(|n| n.state == NodeState::Leaving))
    };
    Wanted {
        voters: topology
            .nodes()
            .filter(votes)
            .map(|n| member(topology, group, n))
            .collect(),
        gone: present.filter(goes).collect(),
    }
}

impl Mirror {
    /// The nodes whose votes count in group 0; none before this node has heard of them.
    pub fn voters(&self) -> BTreeSet<u64> {
        let metadata = self.metadata.get();
        metadata.map_or_else(BTreeSet::new, |raft| {
            raft.membership().voter_ids().map(node_of).collect()
        })
    }

    /// All groups that run here.
    pub fn rafts(&self) -> impl Iterator<Item = Arc<NodeGroup>> {
        let queues = self.groups().iter().filter_map(|m| m.raft.get());
        self.metadata.get().cloned().into_iter().chain(queues)
    }

    /// Why nothing can be changed now, if this node does not hear a majority.
    pub fn minority(&self) -> Option<String> {
        let (up, voters) = (self.up_nodes(), self.voters());
        let heard = voters.intersection(&up).count();
        if heard * 2 > voters.len() {
            return None;
        }
        let missing: Vec<String> = voters
            .difference(&up)
            .map(|node| self.name_of(*node))
            .collect();
        Some(format!(
            "this node hears no majority of the cluster: {heard} of {} nodes, not {}",
            voters.len(),
            missing.join(", ")
        ))
    }

    /// What a node is called, for people.
    pub fn name_of(&self, id: u64) -> String {
        let node = self.node();
        let known = node
            .as_ref()
            .and_then(|n| n.topology().node(id).map(|i| i.name.to_string()));
        known.unwrap_or_else(|| format!("node {id}"))
    }

    /// The nodes in the metadata may be others.
    pub fn nodes_changed(&self) {
        self.membership.changed();
    }

    /// Follows the metadata: who the peers are, and what the groups' members are to be.
    pub async fn keep_members(self: Arc<Self>) {
        let mut told: Option<Vec<Peer>> = None;
        let mut written: Option<Vec<Peer>> = None;
        let (mut asked, mut gave) = (Instant::now(), Instant::now());
        loop {
            let waited = tokio::time::timeout(LOOK, self.membership.changed.notified());
            let _ = waited.await;
            let Some(node) = self.node() else { return };
            let (peers, forgotten) = {
                let topology = node.topology();
                let gone: BTreeSet<u64> = topology.forgotten_nodes().map(|n| n.id).collect();
                (self.membership.peers(&topology), gone)
            };
            if forgotten.contains(&self.id()) {
                self.is_forgotten();
            }
            let drained = self.is_drained_node(self.id());
            self.membership.drained.store(drained, Ordering::Release);
            if drained && gave.elapsed() >= PAUSE {
                gave = Instant::now();
                self.give_away().await;
            }
            if told.as_ref() != Some(&peers) {
                self.tell_peers(&peers, forgotten, told.as_deref().unwrap_or_default());
                told = Some(peers.clone());
            }
            if written.as_ref() != Some(&peers) && self.write_peers(peers.clone()).await {
                written = Some(peers);
            }
            self.follow_generations();
            self.drive();
            if self.without_majority() >= FENCE && asked.elapsed() >= ASK {
                asked = Instant::now();
                self.ask_whether_forgotten().await;
            }
        }
    }

    fn tell_peers(&self, peers: &[Peer], forgotten: BTreeSet<u64>, before: &[Peer]) {
        let Some(connections) = self.peers.get() else {
            return;
        };
        connections.set_forgotten(forgotten);
        connections.set_peers(peers.iter().cloned());
        for peer in before {
            if !peers.iter().any(|p| p.node == peer.node) {
                tracing::info!(peer = peer.node, name = %peer.address.name, "node was removed from the cluster");
                self.lost(peer.node);
            }
        }
    }

    async fn write_peers(self: &Arc<Self>, peers: Vec<Peer>) -> bool {
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || match this.membership.places.get() {
            Some(places) => address_book::write(&*places.disk, &places.dir, &peers),
            None => Ok(()),
        });
        match written.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the list of members was not written");
                false
            }
            Err(_) => false,
        }
    }

    /// Nobody answers: perhaps because they know this node no more.
    async fn ask_whether_forgotten(&self) {
        let (Some(peers), Some(identity), Some(places), Some(node)) = (
            self.peers.get(),
            self.membership.identity.get(),
            self.membership.places.get(),
            self.node(),
        ) else {
            return;
        };
        let known = self.membership.peers(&node.topology());
        let mut addresses: Vec<NodeAddress> = known.into_iter().map(|p| p.address).collect();
        addresses.extend(places.configured.iter().cloned());
        if is_forgotten(peers, identity, &addresses).await {
            self.is_forgotten();
        }
    }

    fn is_forgotten(&self) {
        if !self.membership.forgotten.swap(true, Ordering::AcqRel)
            && let Some(node) = self.node()
        {
            tracing::error!("{FORGOTTEN}");
            node.stop().now(FORGOTTEN);
        }
    }

    /// Whether this node was removed from its cluster.
    pub fn was_forgotten(&self) -> bool {
        self.membership.forgotten.load(Ordering::Acquire)
    }

    /// Takes the next step in each group that this node leads.
    fn drive(self: &Arc<Self>) {
        let Some(node) = self.node() else { return };
        let topology = node.topology();
        for raft in self.rafts() {
            if !matches!(raft.role(), Role::Leading { .. }) {
                continue;
            }
            let members: Vec<u64> = raft.membership().nodes().map(|(id, ())| *id).collect();
            let wanted = wanted(&topology, raft.group(), members.into_iter());
            let step = raft.next_step(&wanted);
            if matches!(step, Step::Done | Step::Wait) {
                continue;
            }
            let group = raft.group();
            if !self.membership.busy.lock().insert(group) {
                continue;
            }
            let this = Arc::clone(self);
            tokio::spawn(async move {
                tracing::info!(group, ?step, "members change");
                let taken = raft.take_step(step).await;
                if let Err(error) = &taken {
                    tracing::debug!(group, ?step, %error, "membership: later again");
                }
                if taken.is_err() || matches!(step, Step::HandOver(_)) {
                    tokio::time::sleep(PAUSE).await;
                }
                this.membership.busy.lock().remove(&group);
                this.membership.changed();
            });
        }
        let command = self.finished(&topology);
        drop(topology);
        if let Some(command) = command
            && self.membership.proposed.is_new(&command)
        {
            node.propose_quietly(&command);
        }
    }

    /// What the leader of group 0 has to say: the change that is under way is done in all groups.
    fn finished(&self, topology: &Topology) -> Option<Command> {
        if self.leads_metadata.load(Ordering::Acquire) == 0 {
            return None;
        }
        let current = current(topology)?;
        for raft in self.rafts() {
            let membership = raft.committed_membership()?;
            let uniform = membership.get_joint_config().len() == 1;
            let done = uniform
                && match current.state {
                    NodeState::Leaving => !membership
                        .nodes()
                        .any(|(id, ())| node_of(*id) == current.id),
                    _ => {
                        let member = member(topology, raft.group(), current);
                        membership.voter_ids().any(|id| id == member)
                    }
                };
            if !done {
                return None;
            }
        }
        let change = ChangeNode { node: current.id };
        Some(match current.state {
            NodeState::Leaving => Command::NodeRemoved(change),
            _ => Command::NodeJoined(change),
        })
    }

    /// Proposes a command of the metadata, and waits for what becomes of it.
    pub async fn propose(&self, command: &Command, patience: Duration) -> Result<Outcome, Refusal> {
        let (tell, told) = oneshot::channel();
        let told_once = move |result| {
            // Whoever asked may have given up.
            let _ = tell.send(result);
        };
        self.proposals().propose(command, Box::new(told_once));
        match tokio::time::timeout(patience, told).await {
            Ok(Ok(result)) => result,
            _ => Err(Refusal::precondition("the cluster did not decide in time")),
        }
    }

    /// Lets a node in: it is in the metadata when this ends.
    pub async fn admit(&self, joiner: Joiner) -> Result<Joined, String> {
        if !self.ready.load(Ordering::Acquire) {
            return Err("the member that was asked is not there yet itself".into());
        }
        if let Some(reason) = self.minority() {
            return Err(reason);
        }
        let name = joiner.address.name.as_str();
        loop {
            let node = self.node().ok_or("the node stops")?;
            let id = {
                let topology = node.topology();
                let known = topology.nodes().find(|n| n.name == name);
                if let Some(known) = known
                    && known.disk == joiner.incarnation
                    && known.state != NodeState::Leaving
                {
                    return self.joined(&topology, known.id);
                }
                // Founders that never came up are in the groups only.
                let members = self.rafts().flat_map(|raft| {
                    let members = raft.membership();
                    let ids: Vec<u64> = members.nodes().map(|(id, ())| node_of(*id)).collect();
                    ids
                });
                members.max().unwrap_or(0).max(topology.last_node()) + 1
            };
            if id > NODE_MAX {
                return Err("all ids of nodes were given".into());
            }
            let admit = Command::AdmitNode(AdmitNode {
                node: id,
                name: name.into(),
                address: joiner.address.to_string().as_str().into(),
                disk: joiner.incarnation,
            });
            match self.propose(&admit, ADMIT).await {
                Ok(_) => tracing::info!(node = id, name, "let into the cluster"),
                Err(refusal) if refusal.text.starts_with("the id ") => {}
                Err(refusal) => return Err(refusal.text),
            }
        }
    }

    fn joined(&self, topology: &Topology, node: u64) -> Result<Joined, String> {
        let cluster = self.peers.get().ok_or("the node starts")?.me().cluster;
        let mut joined = Joined {
            cluster,
            node,
            members: Vec::new(),
            places: Vec::new(),
        };
        for peer in self.membership.peers(topology) {
            joined.members.push(Member {
                node: peer.node,
                name: peer.address.name,
                incarnation: peer.incarnation.unwrap_or(0),
            });
            joined.places.push((peer.address.host, peer.address.port));
        }
        Ok(joined)
    }

    /// The node that is called so.
    pub fn node_named(&self, name: &str) -> Option<NodeInfo> {
        let node = self.node()?;
        let topology = node.topology();
        topology.nodes().find(|n| n.name == name).cloned()
    }

    /// Removes a node for good, and waits until no group has it. Not to be called on a thread of the runtime.
    ///
    /// # Errors
    /// The text says why not, or what is waited for.
    pub fn forget(&self, name: &str, patience: Duration) -> Result<(), String> {
        let node = self.node().ok_or("the node stops")?;
        let known = self.node_named(name);
        let known = known.ok_or_else(|| format!("{name} is no member of this cluster"))?;
        if known.id == self.id() {
            return Err(format!(
                "{name} cannot remove itself: use another member of the cluster"
            ));
        }
        if let Some(reason) = self.minority() {
            return Err(reason);
        }
        let (up, mut stay) = (self.up_nodes(), self.voters());
        stay.remove(&known.id);
        if stay.intersection(&up).count() * 2 <= stay.len() {
            let missing = stay.difference(&up).map(|id| self.name_of(*id));
            let missing: Vec<String> = missing.collect();
            return Err(format!(
                "without {name} the cluster would have {} nodes and no majority of them is there: start {} first",
                stay.len(),
                missing.join(", ")
            ));
        }
        let forget = Command::ForgetNode(ChangeNode { node: known.id });
        node.propose_and_wait(&forget)
            .map_err(|refusal| refusal.text)?;
        let until = Instant::now() + patience;
        while node.topology().node(known.id).is_some() {
            if Instant::now() >= until {
                let under_way = current(&node.topology()).map(|n| (n.name.clone(), n.state));
                return Err(match under_way {
                    Some((other, NodeState::Joining)) => format!(
                        "{name} goes when {other} has joined: start that node, or forget it too"
                    ),
                    _ => format!("{name} is being removed; the groups have not all let it go yet"),
                });
            }
            std::thread::sleep(LOOK / 5);
        }
        Ok(())
    }
}

/// What a node of a cluster says to others that want to join, before and after it is a member itself.
pub struct ClusterHost {
    /// There is a log of group 0 here.
    pub initialised: bool,
    /// For the address book.
    pub disk: Arc<dyn Disk>,
    /// The folder `cluster` of the data.
    pub dir: PathBuf,
    /// Once this node has its place.
    pub mirror: OnceLock<Arc<Mirror>>,
}

impl Host for ClusterHost {
    fn members(&self) -> Vec<Member> {
        let Some(mirror) = self.mirror.get() else {
            return Vec::new();
        };
        let Some(node) = mirror.node() else {
            return Vec::new();
        };
        let topology = node.topology();
        let named = topology.nodes().filter_map(|node| {
            Some(Member {
                node: node.id,
                name: NodeName::parse(&node.name).ok()?,
                incarnation: node.disk,
            })
        });
        named.collect()
    }

    fn initialised(&self) -> bool {
        self.initialised
    }

    fn admit(&self, joiner: Joiner) -> BoxFuture<'static, Result<Joined, String>> {
        let mirror = self.mirror.get().cloned();
        Box::pin(async move {
            match mirror {
                Some(mirror) => mirror.admit(joiner).await,
                None => Err("the member that was asked is not there yet itself".to_owned()),
            }
        })
    }

    fn joined(&self, joined: &Joined) -> Result<(), String> {
        let peers: Vec<Peer> = joined
            .addresses()
            .map(|(member, address)| Peer {
                node: member.node,
                incarnation: Some(member.incarnation).filter(|i| *i > 0),
                address,
            })
            .collect();
        address_book::write(&*self.disk, &self.dir, &peers).map_err(|e| e.to_string())
    }

    fn forgotten(&self, node: u64, incarnation: u64) -> bool {
        let Some(node_here) = self.mirror.get().and_then(|m| m.node()) else {
            return false;
        };
        let topology = node_here.topology();
        let known = topology.forgotten_node(node);
        known.is_some_and(|n| n.disk == 0 || n.disk == incarnation)
    }
}

#[cfg(test)]
mod tests {
    use leveret_cluster::MIRRORED_TRANSIENT;
    use leveret_cluster::raft::types::{member_id, member_of};
    use leveret_topology::{FormGroup, NodeUp};

    use super::*;

    fn topology(commands: &[Command]) -> Topology {
        let mut topology = Topology::new();
        for (index, command) in (1..).zip(commands) {
            topology.apply(index, command).expect("applied");
        }
        topology
    }

    fn up(node: u64) -> Command {
        Command::NodeUp(NodeUp {
            node,
            name: format!("n{node}@h").as_str().into(),
            incarnation: 1,
            disk: node,
            address: "".into(),
            epoch: 0,
        })
    }

    fn admit(node: u64) -> Command {
        Command::AdmitNode(AdmitNode {
            node,
            name: format!("n{node}@h").as_str().into(),
            address: format!("n{node}@h:1").as_str().into(),
            disk: node,
        })
    }

    fn of(topology: &Topology, present: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let members = present.iter().map(|n| member_id(*n, 0));
        let wanted = wanted(topology, MIRRORED_TRANSIENT, members);
        let nodes = |members: BTreeSet<u64>| members.into_iter().map(node_of).collect();
        (nodes(wanted.voters), nodes(wanted.gone))
    }

    #[test]
    fn one_node_comes_or_goes_at_a_time_and_those_that_come_first() {
        let change = |node| ChangeNode { node };
        let mut commands = vec![up(1), up(2), up(3), admit(4), admit(5)];
        commands.push(Command::ForgetNode(change(2)));
        commands.push(Command::ForgetNode(change(3)));
        let all = [1, 2, 3, 4, 5];
        assert_eq!(of(&topology(&commands), &all), (vec![1, 4], vec![]));
        commands.push(Command::NodeJoined(change(4)));
        assert_eq!(of(&topology(&commands), &all), (vec![1, 4, 5], vec![]));
        commands.push(Command::NodeJoined(change(5)));
        assert_eq!(of(&topology(&commands), &all), (vec![1, 4, 5], vec![2]));
        commands.push(Command::NodeRemoved(change(2)));
        // A group that still has one that was removed lets it go.
        assert_eq!(of(&topology(&commands), &all), (vec![1, 4, 5], vec![2, 3]));
    }

    #[test]
    fn who_lost_its_logs_comes_as_another_member_where_nobody_waits_for_the_disk() {
        let lost = |node, epoch| match up(node) {
            Command::NodeUp(up) => Command::NodeUp(NodeUp { epoch, ..up }),
            other => other,
        };
        let mut commands = vec![up(1), up(2), lost(3, 1)];
        let present = [1, 2, 3].map(|node| member_id(node, 0));
        let of = |commands: &[Command], group: GroupId, present: &[u64]| {
            let wanted = wanted(&topology(commands), group, present.iter().copied());
            let list = |members: BTreeSet<u64>| members.into_iter().collect::<Vec<_>>();
            (list(wanted.voters), list(wanted.gone))
        };
        let [one, two, three] = present;
        let again = member_id(3, 1);
        let both = (vec![one, two, again], vec![three]);
        assert_eq!(of(&commands, MIRRORED_TRANSIENT, &present), both);
        for group in [0, leveret_cluster::MIRRORED_DURABLE] {
            let all = (present.to_vec(), vec![]);
            assert_eq!(of(&commands, group, &present), all);
        }
        // In another generation everybody is another member.
        commands.push(Command::FormGroup(FormGroup {
            group: MIRRORED_TRANSIENT,
            generation: 1,
            members: vec![1],
        }));
        let next = [(1, 0), (2, 0), (3, 1)].map(|(node, epoch)| member_of(1, node, epoch));
        let wanted = of(&commands, MIRRORED_TRANSIENT, &next);
        assert_eq!(wanted, (next.to_vec(), vec![]));
        assert_eq!(of(&commands, MIRRORED_TRANSIENT + 1, &present), both);
    }

    #[test]
    fn founders_that_never_came_up_stay() {
        assert_eq!(of(&topology(&[up(1)]), &[1, 2, 3]), (vec![1], vec![]));
    }
}
