//! What sessions say: in which order it is taken, and what waits.

use std::sync::atomic::Ordering;

use leveret_queue::entry::EntryReader;
use leveret_queue::{EntryBuf, Replica};

use super::leading::Leading;
use super::{MirrorGroup, Reign};
use crate::mirror::message::{Down, SessionId, Up};
use crate::mirror::session::Leader;

impl MirrorGroup {
    /// Takes what a session of another node or of this one wants of `leader`.
    pub fn receive(&self, session: SessionId, leader: Leader, up: Up, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let reign = Reign {
            term: leader.term,
            era: leader.era,
        };
        let Some(leading) = state.leading.as_mut().filter(|l| l.reign == reign) else {
            drop(guard);
            // Void for who has heard of another leader meanwhile.
            self.surroundings
                .tell(session, self.id, leader, Down::NotLeading);
            return;
        };
        if !self.take(leading, &state.replica, session, up, now_ms) {
            drop(guard);
            return self.step_down();
        }
        self.finish(guard, now_ms);
    }

    /// Handles what a session says, or holds it back with all that follows until the metadata have what it names. `false`: this
    /// leader has to begin anew.
    pub(super) fn take(
        &self,
        leading: &mut Leading,
        replica: &Replica,
        session: SessionId,
        up: Up,
        now_ms: u64,
    ) -> bool {
        if leading.is_over(session) {
            // Sent before its process ended: what was applied of it is not known here any more.
            return true;
        }
        let is_claim = matches!(up, Up::Claim { .. });
        if is_claim {
            // Its link broke and came back; what it said before it says again.
            let holds = leading.holds(session);
            self.release_all(leading, session, now_ms);
            if holds {
                tracing::info!(group = self.id, ?session, "claims again; beginning anew");
                return false;
            }
        }
        match leading.peers.get_mut(&session) {
            Some(peer) if !peer.held_back.is_empty() => {
                peer.held_back.push_back(up);
                return true;
            }
            Some(_) => {}
            None if is_claim => {}
            None => {
                // It could not be heard for a while, and what it held went back: it has to begin anew.
                self.tell(leading, session, Down::NotLeading);
                return true;
            }
        }
        if self.names_unknown(&up) {
            self.waits.store(true, Ordering::SeqCst);
            // Again: the metadata may have come between.
            if self.names_unknown(&up) {
                let peer = leading.peers.entry(session).or_default();
                peer.held_back.push_back(up);
                return true;
            }
        }
        self.handle(leading, replica, session, up, now_ms);
        // What it has settled must not be given to anybody: its batches are awaited too.
        let complete = leading.peers.get_mut(&session);
        if let Some(peer) = complete.filter(|peer| peer.received >= peer.last) {
            if let Some(claims) = peer.claims.take() {
                self.claim(leading, session, claims, now_ms);
            }
            self.await_no_more(leading, replica, session.node, now_ms);
        }
        true
    }

    /// A node has claimed, or will not.
    pub(super) fn await_no_more(
        &self,
        leading: &mut Leading,
        replica: &Replica,
        node: u64,
        now_ms: u64,
    ) {
        if leading.awaited.remove(&node)
            && leading.awaited.is_empty()
            && !leading.machine.is_armed()
        {
            leading.machine.left(&mut leading.effects);
        }
        self.go_if_ready(leading, replica, now_ms);
    }

    /// Whether something names a queue that the metadata here does not have yet: its id is the index of the command that made it.
    pub(super) fn names_unknown(&self, up: &Up) -> bool {
        let known = self.metadata.load(Ordering::SeqCst);
        match up {
            Up::Claim { claims, .. } => claims.iter().any(|claim| claim.attach.queue > known),
            Up::Batch { entry, settles, .. } => {
                settles.iter().any(|settle| settle.queue > known)
                    || (!entry.is_empty()
                        && EntryReader::new(&EntryBuf::shared(entry.clone()))
                            .is_ok_and(|r| r.queues().any(|(id, _)| id > known)))
            }
            Up::Attach { attach, .. } => attach.queue > known,
            Up::Get { queue, .. }
            | Up::Purge { queue, .. }
            | Up::Counts { queue, .. }
            | Up::DeadLettered { queue, .. } => *queue > known,
            Up::Cancel { .. }
            | Up::Release { .. }
            | Up::Credit { .. }
            | Up::Grant { .. }
            | Up::Share { .. } => false,
        }
    }

    pub(super) fn go_if_ready(&self, leading: &mut Leading, replica: &Replica, now_ms: u64) {
        if !leading.machine.is_armed() || !leading.proven {
            return;
        }
        if !leading.awaited.is_empty() {
            if now_ms < leading.until_ms {
                return;
            }
            let nodes = &leading.awaited;
            tracing::warn!(
                group = self.id,
                ?nodes,
                "goes without the claims of nodes that are up"
            );
        }
        leading
            .machine
            .go(now_ms, &*self.store, &mut leading.effects);
        if leading.awaited.is_empty() {
            leading.machine.left(&mut leading.effects);
        }
        for (session, up) in std::mem::take(&mut leading.deferred) {
            self.handle(leading, replica, session, up, now_ms);
        }
    }
}
