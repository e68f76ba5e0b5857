//! The nodes of a cluster, and what goes with one: the exclusive queues of its connections.

use crate::command::{AdmitNode, ChangeNode, FormGroup, NodeDown, NodeUp, SetMaintenance};
use crate::model::{ForgottenNode, Formed, NodeInfo, NodeState, OwnerId};
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::state::Topology;

/// Nodes that were members once and are remembered. An older one that comes back is a stranger, and refused as such.
pub const FORGOTTEN_MAX: usize = 1024;

fn changed(changed: bool) -> Outcome {
    Outcome {
        changed,
        ..Outcome::default()
    }
}

fn forgotten(name: &str) -> Refusal {
    Refusal::precondition(format!(
        "{name} was removed from this cluster (forget_cluster_node): it may join again with an empty data folder"
    ))
}

fn other_disk(name: &str) -> String {
    format!(
        "{name} is a member with another disk: leveret ctl forget_cluster_node {name} on a member first"
    )
}

impl Topology {
    /// The nodes that are members, or on their way in or out, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// A node.
    pub fn node(&self, id: u64) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    /// The nodes that were members once, by id; at most 1,024, the last ones.
    pub fn forgotten_nodes(&self) -> impl Iterator<Item = &ForgottenNode> {
        self.forgotten.values()
    }

    /// A node that was a member once.
    pub fn forgotten_node(&self, id: u64) -> Option<&ForgottenNode> {
        self.forgotten.get(&id)
    }

    /// The largest id that a node has or had, as far as the metadata know.
    pub fn last_node(&self) -> u64 {
        let last = |ids: Option<&u64>| ids.copied().unwrap_or(0);
        last(self.nodes.keys().next_back()).max(last(self.forgotten.keys().next_back()))
    }

    pub(super) fn apply_node_up(&mut self, up: &NodeUp) -> Result<Outcome, Refusal> {
        if self.forgotten.contains_key(&up.node) {
            return Err(forgotten(&up.name));
        }
        let known = self.nodes.get(&up.node);
        let (disk, state) = known.map_or((0, NodeState::Member), |n| (n.disk, n.state));
        if disk != 0 && up.disk != 0 && disk != up.disk {
            return Err(Refusal::precondition(other_disk(&up.name)));
        }
        let address = match known {
            Some(known) if up.address.is_empty() => known.address.clone(),
            _ => up.address.clone(),
        };
        let info = NodeInfo {
            id: up.node,
            name: up.name.clone(),
            incarnation: up.incarnation,
            up: true,
            disk: if up.disk == 0 { disk } else { up.disk },
            address,
            state,
            // Until its process starts anew.
            maintenance: known.is_some_and(|n| n.maintenance && n.incarnation == up.incarnation),
            epoch: up.epoch.max(known.map_or(0, |n| n.epoch)),
        };
        let mut outcome = Outcome::default();
        let known = self.nodes.get(&up.node);
        if known.is_some_and(|known| known.incarnation > up.incarnation) {
            // Said late: that life is over. Incarnations of a node only grow.
            return Ok(outcome);
        }
        if known != Some(&info) {
            self.nodes.insert(up.node, info);
            outcome.changed = true;
        }
        // Connections of an earlier life of its process are gone, whether or not anybody saw it end.
        self.close_connections_where(
            |owner| owner.node() == up.node && owner.incarnation() != up.incarnation,
            &mut outcome,
        )?;
        Ok(outcome)
    }

    pub(super) fn apply_node_down(&mut self, down: &NodeDown) -> Result<Outcome, Refusal> {
        let mut outcome = Outcome::default();
        if let Some(info) = self.nodes.get_mut(&down.node)
            && info.incarnation == down.incarnation
            && info.up
        {
            info.up = false;
            outcome.changed = true;
        }
        self.close_connections_where(
            |owner| owner.node() == down.node && owner.incarnation() == down.incarnation,
            &mut outcome,
        )?;
        Ok(outcome)
    }

    pub(super) fn apply_admit_node(&mut self, admit: &AdmitNode) -> Result<Outcome, Refusal> {
        if let Some(known) = self.nodes.values().find(|n| n.name == admit.name) {
            return match known.state {
                NodeState::Leaving => Err(Refusal::precondition(format!(
                    "{} is being removed from the cluster",
                    admit.name
                ))),
                // Asked twice: it has its place.
                _ if known.disk == admit.disk => Ok(Outcome::default()),
                _ => Err(Refusal::precondition(other_disk(&admit.name))),
            };
        }
        if self.forgotten.values().any(|n| n.disk == admit.disk) {
            return Err(forgotten(&admit.name));
        }
        if admit.node <= self.last_node() {
            return Err(Refusal::precondition(format!(
                "the id {} was given to another node",
                admit.node
            )));
        }
        let info = NodeInfo {
            id: admit.node,
            name: admit.name.clone(),
            incarnation: 0,
            up: false,
            disk: admit.disk,
            address: admit.address.clone(),
            state: NodeState::Joining,
            maintenance: false,
            epoch: 0,
        };
        self.nodes.insert(admit.node, info);
        Ok(changed(true))
    }

    pub(super) fn apply_node_joined(&mut self, joined: &ChangeNode) -> Result<Outcome, Refusal> {
        match self.nodes.get_mut(&joined.node) {
            Some(info) if info.state == NodeState::Joining => {
                info.state = NodeState::Member;
                Ok(changed(true))
            }
            _ => Ok(changed(false)),
        }
    }

    pub(super) fn apply_forget_node(&mut self, forget: &ChangeNode) -> Result<Outcome, Refusal> {
        let stay = |n: &&NodeInfo| n.id != forget.node && n.state == NodeState::Member;
        if self.nodes.values().find(stay).is_none() {
            return Err(Refusal::precondition("it is the only node"));
        }
        match self.nodes.get_mut(&forget.node) {
            Some(info) => {
                let first = info.state != NodeState::Leaving;
                info.state = NodeState::Leaving;
                Ok(changed(first))
            }
            None => Err(Refusal::precondition("it is no member")),
        }
    }

    pub(super) fn apply_node_removed(&mut self, removed: &ChangeNode) -> Result<Outcome, Refusal> {
        let leaving = |n: &NodeInfo| n.state == NodeState::Leaving;
        if !self.nodes.get(&removed.node).is_some_and(leaving) {
            return Ok(changed(false));
        }
        let mut outcome = changed(true);
        self.close_connections_where(|owner| owner.node() == removed.node, &mut outcome)?;
        if let Some(info) = self.nodes.remove(&removed.node) {
            let node = ForgottenNode {
                id: info.id,
                name: info.name,
                disk: info.disk,
            };
            self.forgotten.insert(info.id, node);
        }
        while self.forgotten.len() > FORGOTTEN_MAX {
            self.forgotten.pop_first();
        }
        Ok(outcome)
    }

    pub(super) fn apply_set_maintenance(
        &mut self,
        set: &SetMaintenance,
    ) -> Result<Outcome, Refusal> {
        match self.nodes.get_mut(&set.node) {
            Some(info) => {
                let differs = info.maintenance != set.on;
                info.maintenance = set.on;
                Ok(changed(differs))
            }
            None => Err(Refusal::precondition("it is no member")),
        }
    }

    /// What is known of a group that was formed anew; `None`: it is in its first generation.
    pub fn formed(&self, group: u32) -> Option<&Formed> {
        self.formed.get(&group)
    }

    pub(super) fn apply_form_group(&mut self, form: &FormGroup) -> Result<Outcome, Refusal> {
        let before = self.formed.get(&form.group).map_or(0, |f| f.generation);
        if before.checked_add(1) != Some(form.generation) || form.members.is_empty() {
            return Ok(changed(false));
        }
        let formed = Formed {
            generation: form.generation,
            members: form.members.clone(),
        };
        self.formed.insert(form.group, formed);
        Ok(changed(true))
    }

    fn close_connections_where(
        &mut self,
        gone: impl Fn(OwnerId) -> bool,
        outcome: &mut Outcome,
    ) -> Result<(), Refusal> {
        let mut owners: Vec<OwnerId> = self.queues_by_owner.keys().copied().collect();
        owners.retain(|owner| gone(*owner));
        owners.sort_unstable();
        for owner in owners {
            for id in self
                .queues_by_owner
                .get(&owner)
                .cloned()
                .unwrap_or_default()
            {
                if let Some(queue) = self.queues_by_id.get(&id).cloned() {
                    let vhost = self.expect_vhost_mut(&queue.vhost)?;
                    vhost.remove_queue(&queue.name, outcome);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::command::{AdmitNode, ChangeNode, Command, DeclareQueue, NodeDown, NodeUp};
    use crate::model::{NodeState, OwnerId};
    use crate::state::Topology;

    fn up(node: u64, incarnation: u64) -> Command {
        Command::NodeUp(NodeUp {
            node,
            name: "leveret@host".into(),
            incarnation,
            disk: 0,
            address: "".into(),
            epoch: 0,
        })
    }

    fn with_queues() -> Topology {
        let mut topology = Topology::new();
        let vhost = crate::command::PutVhost {
            name: "/".into(),
            description: String::new(),
            tags: Vec::new(),
            default_queue_type: None,
            tracing: None,
            user: None,
        };
        topology.apply(1, &Command::PutVhost(vhost)).unwrap();
        let owners = [(1, 7, 1), (1, 7, 2), (1, 8, 1), (2, 7, 1)];
        for (index, (node, incarnation, number)) in (2..).zip(owners) {
            let declare = DeclareQueue {
                exclusive_owner: Some(OwnerId::of_node(node, incarnation, number)),
                ..DeclareQueue::new("/", &format!("q{index}"))
            };
            topology
                .apply(index, &Command::DeclareQueue(declare))
                .unwrap();
        }
        topology
    }

    fn names(topology: &Topology) -> Vec<String> {
        let mut names: Vec<String> = topology.queues().map(|q| q.name.to_string()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_node_that_is_down_takes_its_exclusive_queues_along() {
        let mut topology = with_queues();
        let down = Command::NodeDown(NodeDown {
            node: 1,
            incarnation: 7,
        });
        let outcome = topology.apply(10, &down).unwrap();
        assert_eq!(outcome.queues_deleted.len(), 2);
        assert_eq!(names(&topology), ["q4", "q5"]);
        topology.check_invariants();
    }

    #[test]
    fn a_new_life_of_a_node_ends_what_the_earlier_ones_had() {
        let mut topology = with_queues();
        topology.apply(10, &up(1, 8)).unwrap();
        assert_eq!(names(&topology), ["q4", "q5"]);
        assert!(topology.node(1).is_some_and(|n| n.up));
        // Nor does an earlier life come back.
        assert!(!topology.apply(11, &up(1, 7)).unwrap().changed);
        assert_eq!(topology.node(1).map(|n| n.incarnation), Some(8));
        // The end of an earlier life, told late, is nothing new.
        let late = Command::NodeDown(NodeDown {
            node: 1,
            incarnation: 7,
        });
        assert!(!topology.apply(11, &late).unwrap().changed);
        assert!(topology.node(1).is_some_and(|n| n.up));
        assert!(!topology.apply(12, &up(1, 8)).unwrap().changed);
    }

    #[test]
    fn nodes_are_in_the_snapshot() {
        let mut topology = with_queues();
        topology.apply(10, &up(3, 9)).unwrap();
        let again = Topology::restore(&topology.snapshot()).unwrap();
        assert_eq!(again.node(3), topology.node(3));
        assert_eq!(again.snapshot(), topology.snapshot());
    }

    fn admit(node: u64, name: &str, disk: u64) -> Command {
        Command::AdmitNode(AdmitNode {
            node,
            name: name.into(),
            address: format!("{name}:1").as_str().into(),
            disk,
        })
    }

    #[test]
    fn a_node_joins_once_leaves_once_and_never_comes_back() {
        let mut topology = with_queues();
        topology.apply(10, &up(1, 7)).unwrap();
        assert!(topology.apply(11, &admit(4, "d@h", 40)).unwrap().changed);
        assert!(!topology.apply(12, &admit(5, "d@h", 40)).unwrap().changed);
        let other = topology.apply(13, &admit(5, "d@h", 41)).unwrap_err();
        assert!(other.text.contains("forget_cluster_node d@h"), "{other}");
        assert!(topology.apply(14, &admit(4, "e@h", 50)).is_err());
        let node = ChangeNode { node: 4 };
        topology
            .apply(15, &Command::NodeJoined(node.clone()))
            .unwrap();
        assert_eq!(topology.node(4).unwrap().state, NodeState::Member);
        // Only what is leaving is removed.
        let removed = Command::NodeRemoved(node.clone());
        assert!(!topology.apply(16, &removed).unwrap().changed);
        topology.apply(17, &Command::ForgetNode(node)).unwrap();
        assert!(topology.apply(18, &admit(5, "d@h", 41)).is_err());
        assert!(topology.apply(19, &removed).unwrap().changed);
        assert!(topology.node(4).is_none());
        let again = Topology::restore(&topology.snapshot()).unwrap();
        assert_eq!(again.snapshot(), topology.snapshot());
        assert_eq!(again.last_node(), 4);
        // Neither the id nor the disk; the name may.
        assert!(topology.apply(20, &up(4, 9)).is_err());
        assert!(topology.apply(21, &admit(5, "d@h", 40)).is_err());
        assert!(topology.apply(22, &admit(4, "d@h", 41)).is_err());
        assert!(topology.apply(23, &admit(5, "d@h", 41)).unwrap().changed);
        let last = Command::ForgetNode(ChangeNode { node: 1 });
        assert!(topology.apply(24, &last).is_err());
    }

    #[test]
    fn an_epoch_of_a_nodes_logs_never_falls() {
        let mut topology = Topology::new();
        let said = |incarnation, epoch| match up(1, incarnation) {
            Command::NodeUp(up) => Command::NodeUp(NodeUp { epoch, ..up }),
            other => other,
        };
        for (index, (incarnation, epoch)) in (1..).zip([(7, 0), (8, 2), (8, 0), (9, 1)]) {
            topology.apply(index, &said(incarnation, epoch)).unwrap();
        }
        assert_eq!(topology.node(1).map(|n| n.epoch), Some(2));
        let restored = Topology::restore(&topology.snapshot()).unwrap();
        assert_eq!(restored.node(1).map(|n| n.epoch), Some(2));
    }

    #[test]
    fn a_generation_is_formed_once_by_whom_the_first_said() {
        let mut topology = Topology::new();
        let form = |generation, members: &[u64]| {
            Command::FormGroup(crate::command::FormGroup {
                group: 512,
                generation,
                members: members.to_vec(),
            })
        };
        let mut changed = |index, command| topology.apply(index, &command).unwrap().changed;
        assert!(!changed(1, form(2, &[1, 2])));
        assert!(!changed(1, form(1, &[])));
        assert!(changed(2, form(1, &[1, 2])));
        assert!(!changed(3, form(1, &[3, 4])));
        assert!(changed(4, form(2, &[3])));
        let restored = Topology::restore(&topology.snapshot()).unwrap();
        for topology in [&topology, &restored] {
            let formed = topology.formed(512).expect("formed");
            assert_eq!((formed.generation, &formed.members[..]), (2, &[3][..]));
            assert!(topology.formed(513).is_none());
        }
    }
}
