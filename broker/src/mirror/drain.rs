//! Draining a node before it is stopped: it sends its clients away and leads nothing, and all others know it.
//!
//! That it is drained is in the metadata, so nobody hands it a leadership, until it is started again or told to serve. It still has the
//! groups' logs and votes: what is drained counts for a majority.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::types::node_of;
use leveret_topology::{Command, SetMaintenance};

use super::cluster::Mirror;

/// How often it is looked whether everything is handed over.
const LOOK: Duration = Duration::from_millis(50);

impl Mirror {
    /// Whether this node is drained.
    pub fn is_drained(&self) -> bool {
        self.membership.drained.load(Ordering::Acquire)
    }

    /// Whether a node is drained, as the metadata have it.
    pub fn is_drained_node(&self, id: u64) -> bool {
        let node = self.node();
        node.is_some_and(|n| n.topology().node(id).is_some_and(|info| info.maintenance))
    }

    /// Groups that this node leads.
    pub fn leaderships(&self) -> usize {
        let leads = |role| matches!(role, Role::Leading { .. } | Role::Elected { .. });
        self.rafts().filter(|raft| leads(raft.role())).count()
    }

    /// Why there would be no majority without this node; `None`: there would be one.
    pub fn critical(&self) -> Option<String> {
        if let Some(reason) = self.minority() {
            return Some(reason);
        }
        let (mut up, voters) = (self.up_nodes(), self.voters());
        up.remove(&self.id());
        if up.intersection(&voters).count() * 2 > voters.len() {
            return None;
        }
        let missing = voters.difference(&up).filter(|id| **id != self.id());
        let missing: Vec<String> = missing.map(|id| self.name_of(*id)).collect();
        let missing = match missing.is_empty() {
            true => "there are too few nodes".to_owned(),
            false => format!("start {} first", missing.join(", ")),
        };
        Some(format!(
            "without this node there would be no majority of the cluster's {} nodes: {missing}",
            voters.len()
        ))
    }

    /// Sends clients away, hands over what this node leads, and waits until that is done. Not to be called on a thread of the runtime.
    ///
    /// # Errors
    /// The text says why the node must not be stopped now.
    pub fn drain(&self, patience: Duration) -> Result<(), String> {
        match self.critical() {
            Some(reason) => Err(reason),
            None => self.stand_back(patience, false),
        }
    }

    /// As [`Mirror::drain`], for a process that goes on and keeps its votes: whether the others are a majority without it does not matter,
    /// and what it leads stays with it if nobody can take it.
    ///
    /// # Errors
    /// The text says what is not done yet.
    pub fn stand_down(&self, patience: Duration) -> Result<(), String> {
        match self.minority() {
            // Its clients are gone already, and nobody could note that it is away.
            Some(_) => Ok(()),
            None => self.stand_back(patience, true),
        }
    }

    fn stand_back(&self, patience: Duration, may_lead: bool) -> Result<(), String> {
        self.set_maintenance(true)?;
        let node = self.node().ok_or("the node stops")?;
        let until = Instant::now() + patience;
        loop {
            let (clients, leads) = (node.connections().len(), self.leaderships());
            let handed_over = leads == 0 || (may_lead && !self.has_takers());
            if self.is_drained() && clients == 0 && handed_over {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(format!(
                    "the node is drained, but {clients} clients are still there and {leads} groups not handed over yet"
                ));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Whether another node that is there and not drained has a vote.
    fn has_takers(&self) -> bool {
        let up = self.up_nodes();
        let voters = self.voters();
        let takes = |id: &&u64| **id != self.id() && !self.is_drained_node(**id);
        voters.intersection(&up).any(|id| takes(&id))
    }

    /// Serves clients again.
    ///
    /// # Errors
    /// The text says why not.
    pub fn revive(&self) -> Result<(), String> {
        match self.minority() {
            Some(reason) => Err(reason),
            None => self.set_maintenance(false),
        }
    }

    fn set_maintenance(&self, on: bool) -> Result<(), String> {
        let node = self.node().ok_or("the node stops")?;
        let set = Command::SetMaintenance(SetMaintenance {
            node: self.id(),
            on,
        });
        let proposed = node.propose_and_wait(&set);
        proposed.map(drop).map_err(|refusal| refusal.text)
    }

    /// Hands each group that this node leads to the member that lacks the least.
    pub(super) async fn give_away(self: &Arc<Self>) {
        let up = self.up_nodes();
        for raft in self.rafts() {
            if !matches!(raft.role(), Role::Leading { .. }) {
                continue;
            }
            let takes = |member: &u64| {
                let node = node_of(*member);
                node != self.id() && up.contains(&node) && !self.is_drained_node(node)
            };
            let membership = raft.membership();
            let nearest = membership
                .voter_ids()
                .filter(takes)
                .min_by_key(|member| raft.lag(*member).unwrap_or(u64::MAX));
            if let Some(to) = nearest
                && let Err(error) = raft.transfer_leader(to).await
            {
                tracing::debug!(group = raft.group(), %error, "leadership stays");
            }
        }
    }
}
