//! Who leads what: this node's own roles, what others announce, and leaderships that go to a node that is fitter or has fewer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use leveret_cluster::raft::group::Role;
use leveret_cluster::raft::node::NodeGroup;
use leveret_cluster::raft::types::{Payload, node_of};
use leveret_cluster::{GroupId, METADATA_GROUP, MIRRORED_TRANSIENT};
use leveret_queue::Location;

use super::frames::kind;
use super::presence::LOOK;
use super::{Mirror, Mirrored};
use crate::mirror::generations::lasting;
use crate::mirror::lead::Beginning;
use crate::mirror::proposals::Numbered;
use crate::mirror::session::Leader;

/// Members elect nobody else for so long after they have heard of their leader.
const LEASE: Duration = Duration::from_millis(500);
/// How long the answers to an era's last proposals are awaited between two looks.
const ANSWERS: Duration = Duration::from_millis(2);

impl Mirror {
    /// This node as leader of group 0; `None`: it does not lead it.
    pub(super) fn metadata_leader(&self) -> Option<Leader> {
        let term = self.leads_metadata.load(Ordering::Acquire);
        (term > 0).then_some(Leader {
            node: self.id,
            term,
            era: 0,
        })
    }

    /// This node as leader of a group; `None`: it does not lead it.
    pub(super) fn own_leader(&self, group: GroupId) -> Option<Leader> {
        match self.mirrored(group) {
            Some(mirrored) => mirrored.group.leader(),
            None if group == METADATA_GROUP => self.metadata_leader(),
            None => None,
        }
    }

    /// Asks who leads the groups of which no leader is known: an announcement may have been lost, or come before the end of an
    /// earlier one.
    pub(super) fn ask_for_leaders(&self) {
        let ask = |group: GroupId| match self.own_leader(group) {
            Some(own) => self.led_by(group, own, 0),
            None => self.broadcast(kind::WHO_LEADS_IT, group, &[]),
        };
        if self.proposals.leader().is_none() {
            ask(METADATA_GROUP);
        }
        for mirrored in &self.groups {
            if mirrored.session.leader().is_none() {
                ask(mirrored.group.id());
            }
        }
    }

    /// Whether nobody else can lead a group that this node leads.
    pub(in crate::mirror) fn is_sure(&self, mirrored: &Mirrored) -> bool {
        let now_ms = self.started.elapsed().as_millis() as u64;
        if now_ms < mirrored.sure_until_ms.load(Ordering::Relaxed) {
            return true;
        }
        let age = mirrored.raft.get().and_then(|raft| raft.quorum_age());
        let Some(left) = age.and_then(|age| LEASE.checked_sub(age)) else {
            return false;
        };
        let until_ms = now_ms + left.as_millis() as u64;
        mirrored.sure_until_ms.store(until_ms, Ordering::Relaxed);
        now_ms < until_ms
    }

    /// Somebody announces that he leads. An earlier leader's announcement may come late; the same one again means that something may
    /// have been lost.
    pub(super) fn led_by(&self, group: GroupId, leader: Leader, on: u64) {
        let earlier = |known: Option<Leader>| {
            known.is_some_and(|l| (l.term, l.era) > (leader.term, leader.era))
        };
        if group == METADATA_GROUP {
            if !earlier(self.proposals.leader()) {
                self.proposals.lead_by(None);
                self.proposals.lead_by(Some(leader));
            }
        } else if let Some(Mirrored {
            session,
            via,
            changes,
            ..
        }) = self.mirrored(group)
            && !earlier(session.leader())
        {
            let to = self.outbound.lock().get(&leader.node).copied();
            let over = (on, to.unwrap_or(0));
            if std::mem::replace(&mut *via.lock(), over) == over && session.leader() == Some(leader)
            {
                // It has claimed on these very connections.
                return;
            }
            changes.led(leader.node, leader.term, Instant::now());
            session.lead_by(None);
            session.lead_by(Some(leader));
        }
    }

    pub(super) fn propose_metadata(&self, term: u64, payload: Bytes) {
        let led = self.leads_metadata.load(Ordering::Acquire);
        let (Some(raft), Some(payload)) = (self.metadata.get(), Payload::new(payload)) else {
            return;
        };
        if led != term || Numbered::head(payload.encoded()).is_none() {
            return;
        }
        // What is not applied is sent again by its session: to the next leader, or when this one announces itself again, as
        // it does when it was refused for want of a majority.
        let refused = Arc::clone(&self.refused);
        let told = move |result: Result<_, _>| {
            if result.is_err() {
                refused.store(true, Ordering::Release);
            }
        };
        if raft.propose(term, payload, told).is_err() {
            self.refused.store(true, Ordering::Release);
        }
    }

    /// Follows what a group's Raft says of this node's role in it.
    pub(super) async fn follow_role(self: Arc<Self>, at: usize) {
        let Some(mirrored) = self.groups.get(at) else {
            return;
        };
        loop {
            // None between two generations.
            match mirrored.raft.get() {
                Some(raft) => self.follow_role_of(mirrored, &raft).await,
                None => tokio::time::sleep(LOOK).await,
            }
            if self.stopping.load(Ordering::Acquire) {
                return;
            }
        }
    }

    /// Until the group's Raft ends.
    async fn follow_role_of(&self, mirrored: &Mirrored, raft: &Arc<NodeGroup>) {
        use openraft_watch::changed;
        let mut roles = raft.watch_role();
        loop {
            let mut patience = LOOK;
            match raft.role() {
                _ if !mirrored.raft.is(raft) => return,
                Role::Leading { term, .. }
                    if mirrored.group.leads() != lasting(raft, term)
                        && self.ready.load(Ordering::Acquire) =>
                {
                    if mirrored.group.leads() > 0 {
                        mirrored.group.step_down();
                    }
                    if mirrored.group.is_quiet() {
                        self.begin_to_lead(mirrored, lasting(raft, term));
                    } else {
                        patience = ANSWERS;
                    }
                }
                Role::Leading { .. } => {}
                Role::Stopped => {
                    self.ended(raft.group());
                    return tokio::time::sleep(LOOK).await;
                }
                _ if mirrored.group.leads() > 0 => {
                    mirrored.group.step_down();
                    if mirrored.session.leader().is_some_and(|l| l.node == self.id) {
                        mirrored.not_led();
                    }
                }
                _ => {}
            }
            // A group that began to lead too early, or has to begin anew, is looked at again.
            if let Ok(false) = tokio::time::timeout(patience, changed(&mut roles)).await {
                return tokio::time::sleep(LOOK).await;
            }
        }
    }

    /// A group's Raft has ended: in order, or because something could not be written. Then the node cannot go on, as with a journal
    /// that has failed.
    pub(super) fn ended(&self, group: GroupId) {
        if !self.stopping.load(Ordering::Acquire)
            && let Some(node) = self.node()
        {
            node.stop().now(&format!(
                "group {group} has ended: something of it could not be written"
            ));
        }
    }

    pub(super) fn begin_to_lead(&self, mirrored: &Mirrored, term: u64) {
        let Some(node) = self.node() else { return };
        let id = mirrored.group.id();
        let nodes = self.up_nodes();
        let leader = node.lead_group(id, |known| {
            mirrored.group.lead(Beginning {
                term,
                nodes,
                queues: known.queues,
                metadata: known.index,
                lives: known.lives,
                end: Location(node.store().journal().end().to_u64()),
                now_ms: node.now_ms(),
            })
        });
        tracing::info!(group = id, term, era = leader.era, "leading");
        self.announce(id, leader);
        self.led_by(id, leader, 0);
    }

    pub(super) async fn follow_metadata_role(self: Arc<Self>) {
        use openraft_watch::changed;
        let Some(raft) = self.metadata.get().cloned() else {
            return;
        };
        let mut roles = raft.watch_role();
        loop {
            match raft.role() {
                Role::Leading { term, .. } => {
                    if self.leads_metadata.swap(term, Ordering::AcqRel) != term {
                        tracing::info!(group = METADATA_GROUP, term, "leading");
                        let leader = Leader {
                            node: self.id,
                            term,
                            era: 0,
                        };
                        self.announce(METADATA_GROUP, leader);
                        self.led_by(METADATA_GROUP, leader, 0);
                    }
                }
                Role::Stopped => return self.ended(raft.group()),
                _ => {
                    if self.leads_metadata.swap(0, Ordering::AcqRel) > 0
                        && self.proposals.leader().is_some_and(|l| l.node == self.id)
                    {
                        self.proposals.lead_by(None);
                    }
                }
            }
            if !changed(&mut roles).await {
                return;
            }
        }
    }

    /// A leader's process is gone: nobody waits for its lease to run out.
    pub(super) fn end_leases(self: &Arc<Self>, node: u64) {
        let alive = self.up_nodes();
        if let Some(raft) = self.metadata.get().cloned() {
            let alive = alive.clone();
            tokio::spawn(async move {
                if let Err(error) = raft.leader_is_gone(node, &alive).await {
                    tracing::debug!(%error, "no election");
                }
            });
        }
        for mirrored in &self.groups {
            let Some(raft) = mirrored.raft.get() else {
                continue;
            };
            let alive = alive.clone();
            tokio::spawn(async move {
                if let Err(error) = raft.leader_is_gone(node, &alive).await {
                    tracing::debug!(%error, "no election");
                }
            });
        }
    }

    pub(super) async fn leave_to(self: Arc<Self>, node: u64) {
        let rafts = self.groups.iter().filter_map(|m| m.raft.get());
        for raft in self.metadata.get().cloned().into_iter().chain(rafts) {
            let member = raft.membership().voter_ids().find(|m| node_of(*m) == node);
            if let (Role::Leading { .. }, Some(to)) = (raft.role(), member) {
                tracing::info!(
                    group = raft.group(),
                    to = node,
                    "leaving it to a node that hears more nodes"
                );
                if let Err(error) = raft.transfer_leader(to).await {
                    tracing::debug!(%error, "leadership stays");
                }
            }
        }
    }

    /// Hands one leadership to a node that has fewer: of the groups of durable queues, of the others, of all.
    pub(super) async fn spread(&self) {
        let (up, voters) = (self.up_nodes(), self.voters());
        // Who leads what, by kind; who is drained, or hears less than this node, gets nothing.
        let mut led: [BTreeMap<u64, Vec<Arc<NodeGroup>>>; 2] = Default::default();
        for node in up.intersection(&voters) {
            let fit = *node == self.id || self.reach(*node).is_superset(&up);
            if fit && !self.is_drained_node(*node) {
                led.iter_mut().for_each(|kind| {
                    kind.insert(*node, Vec::new());
                });
            }
        }
        for mirrored in &self.groups {
            let Some(raft) = mirrored.raft.get() else {
                return;
            };
            let leader = match raft.role() {
                Role::Leading { .. } => self.id,
                Role::Following { leader, .. } => node_of(leader),
                // Not while somebody is being elected.
                _ => return,
            };
            let kind = usize::from(mirrored.group.id() >= MIRRORED_TRANSIENT);
            if let Some(groups) = led.get_mut(kind).and_then(|kind| kind.get_mut(&leader)) {
                groups.push(raft);
            }
        }
        let [durable, transient] = &led;
        let of = |kind: &BTreeMap<u64, Vec<_>>, node: u64| kind.get(&node).map_or(0, Vec::len);
        let total = |node: u64| of(durable, node) + of(transient, node);
        for (kind, all) in [
            (durable, false),
            (transient, false),
            (durable, true),
            (transient, true),
        ] {
            let count = |node: u64| if all { total(node) } else { of(kind, node) };
            let nodes = || kind.keys().copied();
            // One at a time: who has the most, the first of them.
            let most = nodes().max_by_key(|node| (count(*node), std::cmp::Reverse(*node)));
            let Some(fewest) = nodes().min_by_key(|node| count(*node)) else {
                return;
            };
            let uneven = most == Some(self.id) && count(self.id) >= count(fewest) + 2;
            if !uneven || of(kind, self.id) <= of(kind, fewest) {
                continue;
            }
            let Some(raft) = kind.get(&self.id).and_then(|groups| groups.last()) else {
                continue;
            };
            let mut members = raft
                .membership()
                .voter_ids()
                .collect::<Vec<_>>()
                .into_iter();
            // A member that is far behind would only make the group wait.
            if let Some(to) = members.find(|member| node_of(*member) == fewest)
                && raft.lag(to).is_some_and(|lag| lag < 64)
                && let Err(error) = raft.transfer_leader(to).await
            {
                tracing::debug!(%error, "leadership stays");
            }
            return;
        }
    }

    /// Gives a group's leadership away before this node stops.
    pub(super) async fn hand_over(&self) {
        let up = self.up_nodes();
        for mirrored in &self.groups {
            let Some(raft) = mirrored.raft.get() else {
                continue;
            };
            if mirrored.group.leads() == 0 {
                continue;
            }
            let mut voters: Vec<_> = raft
                .membership()
                .voter_ids()
                .filter(|m| node_of(*m) != self.id && up.contains(&node_of(*m)))
                .collect();
            voters.sort_unstable_by_key(|m| raft.lag(*m).unwrap_or(u64::MAX));
            if let Some(to) = voters.first() {
                let _ = raft.transfer_leader(*to).await;
            }
        }
    }
}

/// Waiting for a change of a watch of openraft's.
mod openraft_watch {
    use openraft::async_runtime::watch::WatchReceiver;

    /// `false`: there will be none.
    pub async fn changed<W, T>(watch: &mut impl WatchReceiver<W, T>) -> bool
    where
        W: openraft::async_runtime::watch::Watch,
        T: openraft::OptionalSend + openraft::OptionalSync,
    {
        watch.changed().await.is_ok()
    }
}
