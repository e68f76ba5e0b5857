//! The frames of `session` connections: what other nodes are told, and what is done with what they say.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use leveret_cluster::peers::{Handler, Inbound, Link};
use leveret_cluster::wire::frame::Frame;
use leveret_cluster::wire::hello::Purpose;
use leveret_cluster::wire::sender::Lane;
use leveret_cluster::{GroupId, METADATA_GROUP};
use leveret_queue::SessionId;

use super::Mirror;
use super::wires::reign;
use crate::mirror::generations::Word;
use crate::mirror::message::{Down, Up};
use crate::mirror::remote;
use crate::mirror::session::Leader;

/// Kinds of frames on `session` connections.
pub(super) mod kind {
    /// From a session: `term u64, era u64`, then an [`crate::mirror::message::Up`].
    pub const UP: u8 = 1;
    /// To a session: `term u64, era u64, incarnation u64`, then a [`crate::mirror::message::Down`].
    pub const DOWN: u8 = 2;
    /// A command for the leader of group 0: `term u64`, then its payload.
    pub const PROPOSE: u8 = 3;
    /// The sender has applied the metadata: `index u64`.
    pub const APPLIED: u8 = 4;
    /// The sender leads: `term u64, era u64`.
    pub const LEADS: u8 = 5;
    /// The sender wants to know what the receiver leads.
    pub const WHO_LEADS: u8 = 6;
    /// The sender knows no leader of the group.
    pub const WHO_LEADS_IT: u8 = 7;
    /// The sender has nothing of the group's log that counts: `generation u64`.
    pub const HAS_NOTHING: u8 = 8;
    /// The sender leads the group, and a majority follows: `generation u64`.
    pub const LEADS_MANY: u8 = 9;
}

impl Mirror {
    pub(in crate::mirror) fn push(
        &self,
        to: u64,
        kind: u8,
        group: GroupId,
        head: Vec<u8>,
        tail: Option<Bytes>,
    ) {
        if let Some(link) = self.peers.get().and_then(|p| p.link(to, Purpose::Session)) {
            self.push_on(&link, kind, group, head, tail);
        }
    }

    pub(in crate::mirror) fn push_on(
        &self,
        link: &Link,
        kind: u8,
        group: GroupId,
        head: Vec<u8>,
        tail: Option<Bytes>,
    ) {
        let mut parts = vec![Bytes::from(head)];
        parts.extend(tail.filter(|t| !t.is_empty()));
        if let Err(error) = link.push(Lane::Bulk, kind, group as u16, parts) {
            // What is missing now would never be noticed otherwise: both ends begin anew with the next connection.
            tracing::warn!(peer = link.peer().node, %error, "a session connection is given up");
            link.sender().abort();
        }
    }

    pub(in crate::mirror) fn broadcast(&self, kind: u8, group: GroupId, body: &[u8]) {
        let Some(peers) = self.peers.get() else {
            return;
        };
        for node in peers.nodes() {
            self.push(node, kind, group, body.to_vec(), None);
        }
    }

    /// This node has applied the metadata up to an index.
    pub fn metadata_applied(&self, index: u64) {
        self.applied.fetch_max(index, Ordering::AcqRel);
        let now_ms = self.now_ms();
        for mirrored in &self.groups {
            mirrored.group.metadata_applied(index, now_ms);
        }
        self.broadcast(kind::APPLIED, METADATA_GROUP, &index.to_le_bytes());
    }

    /// Index of the last command of the metadata that was applied here.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    pub(super) fn announce(&self, group: GroupId, leader: Leader) {
        self.broadcast(kind::LEADS, group, &reign(leader));
    }

    /// Tells one node everything that this one leads.
    pub(super) fn announce_all(&self, to: &Link) {
        let tell = |group: GroupId, leader: Option<Leader>| {
            if let Some(leader) = leader {
                self.push_on(to, kind::LEADS, group, reign(leader), None);
            }
        };
        tell(METADATA_GROUP, self.metadata_leader());
        for mirrored in &self.groups {
            tell(mirrored.group.id(), mirrored.group.leader());
        }
    }

    /// Takes a frame of the `session` connection `on` of a node.
    pub(super) fn take(&self, from: SessionId, on: u64, frame: &Frame) -> Result<(), &'static str> {
        let SessionId {
            node: from,
            incarnation,
        } = from;
        let group = GroupId::from(frame.header.group);
        let word = |at: usize| {
            let bytes = frame.body.get(at..at + 8).ok_or("a frame is too short")?;
            Ok::<u64, &'static str>(u64::from_le_bytes(
                bytes.try_into().map_err(|_| "a frame is too short")?,
            ))
        };
        match frame.header.kind {
            kind::UP => {
                let leader = Leader {
                    node: self.id,
                    term: word(0)?,
                    era: word(8)?,
                };
                let up = Up::decode(&frame.body.slice(16..)).map_err(|_| "malformed up")?;
                let mirrored = self.mirrored(group).ok_or("unknown group")?;
                let session = SessionId {
                    node: from,
                    incarnation,
                };
                mirrored.group.receive(session, leader, up, self.now_ms());
            }
            kind::DOWN => {
                let (term, era, to) = (word(0)?, word(8)?, word(16)?);
                if to != self.session.incarnation {
                    // For an earlier life of this process.
                    return Ok(());
                }
                let down = Down::decode(&frame.body.slice(24..)).map_err(|_| "malformed down")?;
                let mirrored = self.mirrored(group).ok_or("unknown group")?;
                let leader = Leader {
                    node: from,
                    term,
                    era,
                };
                mirrored.session.receive(leader, down);
            }
            kind::PROPOSE => self.propose_metadata(word(0)?, frame.body.slice(8..)),
            kind::APPLIED => self.proposals.other_applied(from, word(0)?),
            kind::LEADS => {
                let leader = Leader {
                    node: from,
                    term: word(0)?,
                    era: word(8)?,
                };
                self.led_by(group, leader, on);
            }
            kind::WHO_LEADS => {
                let peers = self.peers.get();
                if let Some(link) = peers.and_then(|p| p.link(from, Purpose::Session)) {
                    self.announce_all(&link);
                }
            }
            kind::WHO_LEADS_IT => {
                let peers = self.peers.get();
                if let Some(leader) = self.own_leader(group)
                    && let Some(link) = peers.and_then(|p| p.link(from, Purpose::Session))
                {
                    self.push_on(&link, kind::LEADS, group, reign(leader), None);
                }
            }
            kind::HAS_NOTHING | kind::LEADS_MANY => {
                let generation = u32::try_from(word(0)?).unwrap_or(u32::MAX);
                let word = match frame.header.kind {
                    kind::HAS_NOTHING => Word::Nothing,
                    _ => Word::Led,
                };
                if self.mirrored(group).is_some() {
                    self.generations.heard(group, from, generation, word);
                }
            }
            remote::kind::ASK..=remote::kind::REPLY => self.take_remote(from, frame)?,
            _ => return Err("a frame of an unknown kind"),
        }
        Ok(())
    }
}

/// Serves the `session` connections of this node, once it has its place in the cluster.
#[derive(Default)]
pub struct SessionService(pub OnceLock<Arc<Mirror>>);

impl Handler for SessionService {
    fn serve(self: Arc<Self>, mut inbound: Inbound) -> BoxFuture<'static, ()> {
        let mirror = self.0.get().cloned();
        Box::pin(async move {
            // Who dials too early dials again.
            let Some(mirror) = mirror else { return };
            let node = inbound.peer().node;
            let session = SessionId {
                node,
                incarnation: inbound.peer().boot,
            };
            let on = mirror.connections.fetch_add(1, Ordering::Relaxed) + 1;
            loop {
                match inbound.next().await {
                    Ok(Some(frame)) => {
                        if let Err(error) = mirror.take(session, on, &frame) {
                            tracing::error!(peer = node, error, "a session connection is closed");
                            return mirror.answers_lost(node);
                        }
                    }
                    Ok(None) => return mirror.answers_lost(node),
                    Err(error) => {
                        tracing::info!(peer = node, %error, "a session connection ended");
                        return mirror.answers_lost(node);
                    }
                }
            }
        })
    }

    fn connected(&self, link: &Link) {
        let Some(mirror) = self.0.get() else { return };
        let number = mirror.connections.fetch_add(1, Ordering::Relaxed) + 1;
        mirror.outbound.lock().insert(link.peer().node, number);
        mirror.announce_all(link);
        if let Some(node) = mirror.node() {
            let alarms = node.alarms();
            let alarms = vec![u8::from(alarms.memory()), u8::from(alarms.disk())];
            mirror.push_on(link, remote::kind::ALARMS, METADATA_GROUP, alarms, None);
        }
        let index = mirror.applied().to_le_bytes();
        mirror.push_on(link, kind::APPLIED, METADATA_GROUP, index.to_vec(), None);
        mirror.push_on(link, kind::WHO_LEADS, METADATA_GROUP, Vec::new(), None);
    }

    fn disconnected(&self, link: &Link) {
        let node = link.peer().node;
        let Some(mirror) = self.0.get() else { return };
        mirror.answers_lost(node);
        for mirrored in &mirror.groups {
            if mirrored.session.leader().is_some_and(|l| l.node == node) {
                mirrored.not_led();
            }
        }
    }
}
