//! The nodes of a cluster, and what goes with one: the exclusive queues of its connections.

use crate::command::{NodeDown, NodeUp};
use crate::model::{NodeInfo, OwnerId};
use crate::outcome::Outcome;
use crate::refusal::Refusal;
use crate::state::Topology;

impl Topology {
    /// The nodes that are or were members, by id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeInfo> {
        self.nodes.values()
    }

    /// A node.
    pub fn node(&self, id: u64) -> Option<&NodeInfo> {
        self.nodes.get(&id)
    }

    pub(super) fn apply_node_up(&mut self, up: &NodeUp) -> Result<Outcome, Refusal> {
        let info = NodeInfo {
            id: up.node,
            name: up.name.clone(),
            incarnation: up.incarnation,
            up: true,
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
    use crate::command::{Command, DeclareQueue, NodeDown, NodeUp};
    use crate::model::OwnerId;
    use crate::state::Topology;

    fn up(node: u64, incarnation: u64) -> Command {
        Command::NodeUp(NodeUp {
            node,
            name: "leveret@host".into(),
            incarnation,
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
}
