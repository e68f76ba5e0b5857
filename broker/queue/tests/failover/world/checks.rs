//! What must hold after every step, and when everything has healed.

use std::collections::BTreeSet;

use leveret_queue::{Effects, Machine, QueueId, Seq, SessionId};

use super::{GROUP, NODES, World, settings};

impl World {
    pub fn check(&mut self) -> Result<(), String> {
        self.leader.machine.check()?;
        self.oracle.check_confirmed()?;
        // What is attached and what the machine holds is the same.
        for (id, _) in settings() {
            let depth = self.leader.machine.queue(id).ok_or("gone")?.depth();
            let live = self.mirrors[self.leader.node].replica.queue(id);
            let live = live.map_or(0, |q| q.messages());
            // The replica still has what is settled and not committed.
            if depth.ready + depth.unacked > live {
                return Err(format!("queue {id}: {depth:?}, {live} live"));
            }
        }
        Ok(())
    }

    /// Everybody heals; then everything is committed, and what was not settled is still there.
    pub fn finish(mut self) -> Result<(), String> {
        self.elect(None)?;
        for node in 0..NODES {
            self.attach(node)?;
        }
        for _ in 0..3 {
            self.propose(true, None)?;
            for node in 0..NODES {
                self.replicate(node, usize::MAX)?;
            }
            self.commit()?;
        }
        for node in 0..NODES {
            while self.mirrors[node].applied < self.committed {
                self.follow(node)?;
            }
            if self.mirrors[node].live() != self.oracle.live() {
                return Err(format!("mirror {node} does not hold what is committed"));
            }
        }
        if let Some(session) = self.sessions.iter().find(|s| !s.sent.is_empty()) {
            return Err(format!("{:?} waits for its confirms", session.id));
        }
        let known: BTreeSet<SessionId> = self.mirrors[0].replica.sessions().map(|s| s.0).collect();
        if let Some(gone) = known
            .iter()
            .find(|id| !self.sessions.iter().any(|s| s.id == **id))
        {
            return Err(format!("{gone:?} is not forgotten"));
        }
        self.oracle.check_confirmed()?;
        // Held ones come back in their places.
        for session in &mut self.sessions {
            for (key, consumer) in std::mem::take(&mut session.consumers) {
                let leader = &mut self.leader;
                let store = &self.mirrors[leader.node].store;
                let held: BTreeSet<Seq> = consumer.held.iter().map(|(seq, _)| *seq).collect();
                if held.len() != consumer.held.len() {
                    return Err(format!("{:?} held twice", consumer.held));
                }
                // No deliveries from here on.
                leader
                    .link
                    .capacity
                    .store(0, std::sync::atomic::Ordering::SeqCst);
                if let Some(slot) = leader.slots.remove(&key) {
                    let (machine, effects) = (&mut leader.machine, &mut leader.effects);
                    machine.release(consumer.queue, slot, 0, store, effects);
                }
            }
        }
        self.leader.link.take();
        // What came back is counted on all mirrors.
        self.propose(true, None)?;
        for node in 0..NODES {
            self.replicate(node, usize::MAX)?;
        }
        self.commit()?;
        for node in 0..NODES {
            while self.mirrors[node].applied < self.committed {
                self.follow(node)?;
            }
        }
        // A machine that is made now from any mirror finds what the leader's has, which did everything.
        let node = self.leader.node;
        let expected = self.drain(node, None)?;
        for node in 0..NODES {
            let mirror = &self.mirrors[node];
            let replica = &mirror.replica;
            let mut machine = Machine::lead(GROUP, replica, settings(), mirror.store.end(), 0);
            machine.go(0, &mirror.store, &mut Effects::default());
            let found = self.drain(node, Some(machine))?;
            if found != expected {
                return Err(format!(
                    "mirror {node} leads with {found:?}, not {expected:?}"
                ));
            }
        }
        let mut left: Vec<(QueueId, Seq)> =
            expected.iter().map(|(id, seq, _)| (*id, *seq)).collect();
        left.sort_unstable();
        if left != self.oracle.live() {
            return Err(format!("{left:?} left, expected {:?}", self.oracle.live()));
        }
        self.leader.machine.check()
    }

    /// Fetches everything from a machine, or from the leader's: queue, number, delivery count.
    fn drain(
        &mut self,
        node: usize,
        other: Option<Machine>,
    ) -> Result<Vec<(QueueId, Seq, u32)>, String> {
        let mut other = other;
        let machine = other.as_mut().unwrap_or(&mut self.leader.machine);
        let store = &self.mirrors[node].store;
        let mut effects = Effects::default();
        let mut all = Vec::new();
        for (id, _) in settings() {
            let mut order = Vec::new();
            while let Some(got) = machine.get(id, None, 0, store, &mut effects) {
                let known = self.oracle.messages.get(&(id, got.seq)).copied();
                if known.map(|k| k.0) != Some(crate::common::id_of(&got.message)) {
                    return Err(format!("{got:?} should be {known:?}"));
                }
                order.push((std::cmp::Reverse(known.map_or(0, |k| k.1)), got.seq));
                all.push((id, got.seq, got.delivery_count.unwrap_or(0)));
            }
            if !order.is_sorted() {
                return Err(format!("queue {id}: {order:?}"));
            }
        }
        match effects.failure {
            Some(failure) => Err(format!("{failure:?}")),
            None => Ok(all),
        }
    }
}
