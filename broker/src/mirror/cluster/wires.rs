//! What sessions, leaders and proposers of the metadata reach each other with: a call if the other is this node, a frame otherwise.

use std::sync::{Arc, OnceLock, Weak};

use bytes::Bytes;
use leveret_cluster::raft::types::{Payload, raft_term};
use leveret_cluster::{GroupId, METADATA_GROUP};
use leveret_queue::{DeadLetter, QueueId, SessionId};

use super::Mirror;
use super::frames::kind;
use crate::mirror::generations::lasting;
use crate::mirror::lead::Surroundings;
use crate::mirror::message::{Down, Up};
use crate::mirror::proposals::Carrier;
use crate::mirror::session::{Leader, Transport};

/// Term and era, as frames begin with.
pub(super) fn reign(leader: Leader) -> Vec<u8> {
    let mut out = leader.term.to_le_bytes().to_vec();
    out.extend_from_slice(&leader.era.to_le_bytes());
    out
}

/// Carries what sessions and leaders say, here or to another node.
pub(super) struct Wires(pub(super) OnceLock<Weak<Mirror>>);

impl Wires {
    fn mirror(&self) -> Option<Arc<Mirror>> {
        self.0.get()?.upgrade()
    }
}

impl Transport for Wires {
    fn send(&self, to: Leader, group: GroupId, from: SessionId, up: Up) {
        let Some(mirror) = self.mirror() else { return };
        if to.node == mirror.id {
            if let Some(mirrored) = mirror.mirrored(group) {
                mirrored.group.receive(from, to, up, mirror.now_ms());
            }
            return;
        }
        let mut head = reign(to);
        let tail = up.encode(&mut head);
        mirror.push(to.node, kind::UP, group, head, tail);
    }

    fn wake(&self, waiters: Vec<leveret_queue::Waiter>) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            let now_ms = node.now_ms();
            node.resume(waiters, now_ms);
        }
    }
}

impl Carrier for Wires {
    fn carry(&self, to: Leader, payload: Bytes) {
        let Some(mirror) = self.mirror() else { return };
        if to.node == mirror.id {
            return mirror.propose_metadata(to.term, payload);
        }
        let head = to.term.to_le_bytes().to_vec();
        mirror.push(to.node, kind::PROPOSE, METADATA_GROUP, head, Some(payload));
    }
}

impl Surroundings for Wires {
    fn propose(&self, group: GroupId, term: u64, payload: Bytes) {
        let Some(mirror) = self.mirror() else { return };
        let Some(mirrored) = mirror.mirrored(group) else {
            return;
        };
        let (Some(raft), Some(payload)) = (mirrored.raft.get(), Payload::new(payload)) else {
            return mirrored.group.proposal_ended();
        };
        let state = Arc::clone(&mirrored.group);
        if lasting(&raft, raft_term(term)) != term {
            // Of an earlier generation.
            return mirrored.group.proposal_ended();
        }
        let refused = raft.propose(raft_term(term), payload, move |result| {
            // Applied: the state machine has told. Otherwise this node leads no more, which the role says too.
            if result.is_err() && state.leads() == term {
                state.step_down();
            }
            state.proposal_ended();
        });
        if refused.is_err() {
            // More in flight than this node ever proposes: it cannot go on in this era.
            tracing::error!(group, "a proposal was not taken");
            mirrored.group.step_down();
            mirrored.group.proposal_ended();
        }
    }

    fn tell(&self, to: SessionId, group: GroupId, from: Leader, down: Down) {
        let Some(mirror) = self.mirror() else { return };
        if to.node == mirror.id {
            if to == mirror.session
                && let Some(mirrored) = mirror.mirrored(group)
            {
                mirrored.session.receive(from, down);
            }
            return;
        }
        let mut head = reign(from);
        head.extend_from_slice(&to.incarnation.to_le_bytes());
        down.encode(&mut head);
        mirror.push(to.node, kind::DOWN, group, head, None);
    }

    fn dead_letter(&self, group: GroupId, dead: DeadLetter) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            node.dead_letter_mirrored(group, dead);
        }
    }

    fn unused(&self, queue: QueueId) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            node.delete_unused(queue);
        }
    }

    fn is_sure(&self, group: GroupId) -> bool {
        let Some(mirror) = self.mirror() else {
            return false;
        };
        mirror.mirrored(group).is_some_and(|m| mirror.is_sure(m))
    }

    fn timer(&self, _: GroupId, _: u64) {
        if let Some(node) = self.mirror().and_then(|m| m.node()) {
            node.ring_timer();
        }
    }
}
