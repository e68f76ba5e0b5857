//! What the node says: metadata, timers, nodes that come and go.

use std::sync::atomic::Ordering;

use leveret_queue::{QueueId, Settings};

use super::MirrorGroup;
use super::leading::{Leading, forget_before};
use crate::mirror::message::{Down, SessionId};

impl MirrorGroup {
    /// The metadata has a new queue.
    pub fn create(&self, id: QueueId, settings: Settings, now_ms: u64) {
        let mut guard = self.state.lock();
        if guard.replica.queue(id).is_some() && guard.leading.is_some() {
            // An earlier leader has served it already. This one begins anew, with what the replica has of it.
            drop(guard);
            return self.step_down();
        }
        if let Some(leading) = guard.leading.as_mut() {
            leading.machine.create(id, settings, now_ms);
        }
        self.finish(guard, now_ms);
    }

    /// A queue's settings have changed.
    pub fn update(&self, id: QueueId, settings: Settings, now_ms: u64) {
        let mut guard = self.state.lock();
        if let Some(leading) = guard.leading.as_mut() {
            let effects = &mut leading.effects;
            leading
                .machine
                .update(id, settings, now_ms, &*self.store, effects);
        }
        self.finish(guard, now_ms);
    }

    /// The metadata has the queue no more.
    pub fn remove(&self, id: QueueId) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            let gone = leading.machine.remove(id, &*self.store);
            for peer in leading.peers.values_mut() {
                peer.consumers.retain(|_, c| c.queue != id);
            }
            if gone.is_some() || state.replica.queue(id).is_some() {
                // What was settled or admitted before is applied before, or to nothing.
                self.collect(leading, 0);
                leading.batch.remove(id);
                leading.hurry();
            }
        }
        self.finish(guard, 0);
    }

    /// Whether a queue has no consumers; `false` if this node cannot tell.
    pub fn is_unused(&self, id: QueueId) -> bool {
        let state = self.state.lock();
        // Nor while a node's consumers may come to claim.
        let leading = state.leading.as_ref();
        let leading = leading.filter(|l| !l.machine.is_armed() && l.awaited.is_empty());
        leading.is_some_and(|l| l.machine.is_unused(id))
    }

    /// Timers that are due, and claims that are not awaited any longer.
    pub fn tick(&self, now_ms: u64) {
        /// Queues handled before others get the lock.
        const TIMERS_MAX: usize = 256;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.go_if_ready(leading, &state.replica, now_ms);
            let effects = &mut leading.effects;
            leading
                .machine
                .tick(now_ms, TIMERS_MAX, &*self.store, effects);
        }
        self.finish(guard, now_ms);
    }

    /// The metadata here has everything up to an index: who waited for a queue goes on.
    pub fn metadata_applied(&self, index: u64, now_ms: u64) {
        self.metadata.fetch_max(index, Ordering::SeqCst);
        if !self.waits.load(Ordering::SeqCst) {
            return;
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.waits.store(false, Ordering::SeqCst);
            let sessions: Vec<SessionId> = leading
                .peers
                .iter()
                .filter(|(_, peer)| !peer.held_back.is_empty())
                .map(|(session, _)| *session)
                .collect();
            for session in sessions {
                let waited = leading.peers.get_mut(&session);
                let waited = waited.map(|peer| std::mem::take(&mut peer.held_back));
                for up in waited.unwrap_or_default() {
                    if !self.take(leading, &state.replica, session, up, now_ms) {
                        drop(guard);
                        return self.step_down();
                    }
                }
            }
        }
        self.finish(guard, now_ms);
    }

    /// A new life of a node has begun: what its earlier ones held returns, and what was applied of them need not be known any more.
    pub fn node_up(&self, life: SessionId, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.release_where(leading, now_ms, |session| {
                session.node == life.node && session.incarnation < life.incarnation
            });
            forget_before(&state.replica, &mut leading.batch, life);
            leading.hold(now_ms);
            leading.begins(life);
        }
        self.finish(guard, now_ms);
    }

    /// A node cannot be heard: nobody waits for its claims.
    pub fn not_awaited(&self, node: u64, now_ms: u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let Some(leading) = state.leading.as_mut() {
            self.await_no_more(leading, &state.replica, node, now_ms);
        }
        self.finish(guard, now_ms);
    }

    /// A node cannot be heard, and a majority can: what its connections hold returns.
    pub fn node_down(&self, node: u64, now_ms: u64) {
        let mut guard = self.state.lock();
        if let Some(leading) = guard.leading.as_mut() {
            let released = self.release_where(leading, now_ms, |session| session.node == node);
            for session in released {
                // Once it is heard again it has to begin anew.
                self.tell(leading, session, Down::NotLeading);
            }
        }
        self.finish(guard, now_ms);
    }

    pub(super) fn release_where(
        &self,
        leading: &mut Leading,
        now_ms: u64,
        over: impl Fn(&SessionId) -> bool,
    ) -> Vec<SessionId> {
        let sessions: Vec<SessionId> = leading.peers.keys().copied().filter(over).collect();
        for session in &sessions {
            self.release_all(leading, *session, now_ms);
        }
        sessions
    }

    pub(super) fn release_all(&self, leading: &mut Leading, session: SessionId, now_ms: u64) {
        // Nobody is there for the answers, and what a consumer got would be held by nobody.
        leading.deferred.retain(|(who, _)| *who != session);
        let Some(peer) = leading.peers.remove(&session) else {
            return;
        };
        // What one of them leaves is not for the next, which goes too.
        for going in peer.consumers.values() {
            going.link.close();
        }
        for gone in peer.consumers.into_values() {
            leading.machine.release(
                gone.queue,
                gone.slot,
                now_ms,
                &*self.store,
                &mut leading.effects,
            );
        }
    }
}
