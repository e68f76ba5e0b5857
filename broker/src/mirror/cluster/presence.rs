//! Which nodes are there, as this node hears them, and what follows when one is not: for those who wait, for what its connections hold,
//! and for its place in the metadata.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use leveret_cluster::METADATA_GROUP;
use leveret_cluster::peers::{PeerEvent, PeerState};
use leveret_cluster::wire::hello::Purpose;
use leveret_topology::{Command, NodeDown, NodeUp};

use super::Mirror;
use super::frames::kind;
use crate::mirror::generations::Word;

/// How often the state of things is looked at, whatever was told.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// How long another node has to hear more nodes than this one before leaderships go to it.
const REACH: Duration = Duration::from_millis(300);
/// How often nodes are asked who leads what nobody seems to lead.
const ASK: Duration = Duration::from_millis(250);
/// How often leaderships are compared.
const SPREAD: Duration = Duration::from_secs(1);
/// A node that cannot be heard for so long counts as down: the exclusive queues of its connections go.
const AWAY: Duration = Duration::from_secs(10);
/// How long a command about a node that is down may take before it is proposed again.
const AGAIN: Duration = Duration::from_secs(2);
/// A node that cannot be heard for so long serves no publish: an answer need not wait for it.
pub const FENCE: Duration = Duration::from_millis(1000);
/// A node without a majority for so long sends its clients away.
pub const GRACE: Duration = Duration::from_millis(2000);
/// What clients are told when the others have counted this node as down.
const TOLD_DOWN: &str =
    "broker forced connection closure with reason 'the cluster counted this node as down'";

/// Nodes that cannot be heard, as the leader of group 0 sees them.
#[derive(Default)]
pub(super) struct Away {
    since: BTreeMap<u64, Instant>,
    /// When it was said last.
    told: BTreeMap<u64, Instant>,
    /// What their connections held has returned.
    released: BTreeSet<u64>,
    /// The nodes that the others know to be heard here.
    reach: BTreeSet<u64>,
    /// A node that hears more, and since when.
    better: Option<(u64, Instant)>,
}

impl Mirror {
    /// How long this node has been without a majority; zero if it has one.
    pub fn without_majority(&self) -> Duration {
        self.majority.lock().elapsed()
    }

    /// The nodes that this one hears, itself among them.
    pub fn up_nodes(&self) -> BTreeSet<u64> {
        let mut up = BTreeSet::from([self.id]);
        if let Some(peers) = self.peers.get() {
            let there = |node: &u64| {
                peers.state(*node).0 == PeerState::Up
                    && peers.link(*node, Purpose::Session).is_some()
            };
            up.extend(peers.nodes().into_iter().filter(there));
        }
        up
    }

    /// Follows what is known of the other nodes.
    pub(super) async fn follow_peers(self: Arc<Self>) {
        let Some(peers) = self.peers.get().cloned() else {
            return;
        };
        let mut events = peers.subscribe();
        loop {
            match events.next().await {
                PeerEvent::Up { node, .. } => {
                    tracing::info!(peer = node, "node is up");
                    // It serves again: answers wait for it, as soon as it says how far it is.
                    self.proposals.other_applied(node, 0);
                }
                PeerEvent::Silent { node, .. } => {
                    tracing::warn!(peer = node, "node is silent");
                    self.lost(node);
                }
                PeerEvent::Gone { node, .. } => {
                    tracing::warn!(peer = node, "node is gone");
                    self.end_leases(node);
                    self.lost(node);
                }
            }
        }
    }

    /// Nobody waits for a node any more.
    pub(in crate::mirror) fn lost(&self, node: u64) {
        self.proposals.other_gone(node);
        self.answers_lost(node);
        if let Some(own) = self.node() {
            own.set_alarms_of(node, false, false);
        }
        let now_ms = self.now_ms();
        for mirrored in &self.groups {
            if mirrored.session.leader().is_some_and(|l| l.node == node) {
                mirrored.not_led();
            }
            mirrored.group.not_awaited(node, now_ms);
        }
        if self.proposals.leader().is_some_and(|l| l.node == node) {
            self.proposals.lead_by(None);
        }
    }

    /// What connections of nodes hold that cannot be heard returns. Not while this node hears no majority: whoever leads by then gives
    /// the same to others.
    pub(super) fn release_lost(&self, away: &mut Away) {
        let Some(peers) = self.peers.get() else {
            return;
        };
        for node in peers.nodes() {
            if peers.state(node).0 == PeerState::Up {
                away.released.remove(&node);
            } else if away.released.insert(node) {
                let now_ms = self.now_ms();
                for mirrored in &self.groups {
                    mirrored.group.node_down(node, now_ms);
                }
            }
        }
    }

    /// The leader of group 0 says which nodes are down: those whose process is over at once, silent ones after a while.
    pub(super) fn tell_down(&self, away: &mut Away) {
        let (Some(peers), Some(node)) = (self.peers.get(), self.node()) else {
            return;
        };
        for id in peers.nodes() {
            let (state, peer) = peers.state(id);
            if state == PeerState::Up {
                away.since.remove(&id);
                away.told.remove(&id);
                continue;
            }
            let since = *away.since.entry(id).or_insert_with(Instant::now);
            let known = node
                .topology()
                .node(id)
                .filter(|n| n.up)
                .map(|n| n.incarnation);
            let Some(incarnation) = known.filter(|_| self.metadata_leader().is_some()) else {
                continue;
            };
            let over = state == PeerState::Gone && peer.is_some_and(|p| p.boot == incarnation);
            let told = away.told.get(&id);
            if (over || since.elapsed() >= AWAY) && told.is_none_or(|t| t.elapsed() >= AGAIN) {
                away.told.insert(id, Instant::now());
                let down = Command::NodeDown(NodeDown {
                    node: id,
                    incarnation,
                });
                self.proposals.propose(&down, Box::new(|_| ()));
            }
        }
    }

    /// The others have counted this node as down while it lived: its connections' exclusive queues are gone, and so they go too.
    pub fn told_down(&self) {
        let (Some(node), Some(runtime)) = (self.node(), self.runtime.get()) else {
            return;
        };
        tracing::warn!("the cluster counted this node as down: clients are sent away");
        node.connections().close_where(|_| true, TOLD_DOWN);
        let up = Command::NodeUp(NodeUp {
            node: self.id,
            name: node.name().into(),
            incarnation: self.session.incarnation,
            // As before.
            disk: 0,
            address: "".into(),
            epoch: self.generations.epoch(),
        });
        runtime.spawn(async move { node.propose_quietly(&up) });
    }

    /// What is looked at whatever was told: majorities, timers of groups.
    pub(super) async fn look(self: Arc<Self>) {
        let mut spread = Instant::now();
        let mut away = Away::default();
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            let voters = self.voters();
            if self.up_nodes().intersection(&voters).count() * 2 > voters.len() {
                *self.majority.lock() = Instant::now();
                self.release_lost(&mut away);
            }
            for mirrored in &self.groups {
                mirrored.group.retry();
            }
            self.tell_reach(&mut away);
            if asked.elapsed() >= ASK {
                asked = Instant::now();
                self.ask_for_leaders();
                self.keep_generations(|group, generation, word| {
                    let kind = match word {
                        Word::Nothing => kind::HAS_NOTHING,
                        Word::Led => kind::LEADS_MANY,
                    };
                    self.broadcast(kind, group, &u64::from(generation).to_le_bytes());
                });
            }
            let without = self.without_majority();
            let stalled = without >= FENCE;
            if self.stalled.swap(stalled, Ordering::AcqRel) != stalled
                && let Some(node) = self.node()
            {
                node.set_minority(stalled);
            }
            self.tell_down(&mut away);
            if let Some(leader) = self.metadata_leader()
                && self.refused.swap(false, Ordering::AcqRel)
            {
                self.announce(METADATA_GROUP, leader);
                self.led_by(METADATA_GROUP, leader, 0);
            }
            if spread.elapsed() >= SPREAD {
                spread = Instant::now();
                self.spread().await;
            }
        }
    }

    /// Tells the others whom this node hears, and leaves its leaderships to one that hears more, as it is with a cut between two nodes
    /// that both reach the third: their clients could not use what the other of them leads.
    pub(super) fn tell_reach(self: &Arc<Self>, away: &mut Away) {
        let Some(peers) = self.peers.get() else {
            return;
        };
        let up = self.up_nodes();
        if away.reach != up {
            away.reach.clone_from(&up);
            let words = up.iter().flat_map(|node| node.to_le_bytes());
            peers.set_status(words.collect::<Vec<u8>>().into());
        }
        let better = if up.len() <= peers.nodes().len() {
            up.iter().copied().find(|node| {
                let theirs = self.reach(*node);
                theirs.is_superset(&up) && theirs.len() > up.len()
            })
        } else {
            None
        };
        let Some(better) = better else {
            away.better = None;
            return;
        };
        match away.better {
            Some((node, since)) if node == better && since.elapsed() >= REACH => {
                away.better = None;
                tokio::spawn(Arc::clone(self).leave_to(better));
            }
            Some((node, _)) if node == better => {}
            _ => away.better = Some((better, Instant::now())),
        }
    }

    /// The nodes that another one said to hear.
    pub(super) fn reach(&self, node: u64) -> BTreeSet<u64> {
        let status = self.peers.get().and_then(|peers| peers.status(node));
        let blob = status.map(|status| status.blob).unwrap_or_default();
        let words = blob.chunks_exact(8);
        words
            .filter_map(|word| word.try_into().ok().map(u64::from_le_bytes))
            .collect()
    }
}
