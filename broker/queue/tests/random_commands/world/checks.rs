//! What must hold after every command.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use leveret_queue::{Link, QueueId, QueueState, Seq};

use super::World;
use crate::common::model::{Key, Place, Taker};
use crate::common::{Live, naive_live};

/// Each run's messages are where a walk along it passes.
fn runs_lead_to(live: &Live, id: QueueId, state: &QueueState) -> Result<(), String> {
    for run in state.levels.iter().flat_map(|l| l.runs()) {
        let mut last = run.location;
        for seq in run.first..run.end() {
            let place = live.get(&id).and_then(|q| q.get(&seq));
            let (at, ..) = *place.ok_or(format!("queue {id}: {seq} is not alive"))?;
            if at < last || at.0 > run.location.0 + u64::from(run.span) {
                return Err(format!("queue {id}: {seq} is at {at:?}, not in {run:?}"));
            }
            last = at;
        }
    }
    Ok(())
}

impl World {
    fn blocked(&self, id: QueueId, key: Key, taker: &Taker) -> bool {
        let connection = &self.connections[taker.conn];
        let limited_used: usize = self
            .models
            .values()
            .flat_map(|m| m.takers.values())
            .filter(|t| t.limited && t.conn == taker.conn)
            .map(|t| t.held.len())
            .sum();
        let model = &self.models[&id];
        let single = model
            .single
            .filter(|_| model.settings.single_active_consumer);
        single.is_some_and(|single| single != key)
            || connection.link.room() == 0
            || !taker.no_ack
                && (taker.prefetch > 0 && taker.held.len() >= taker.prefetch as usize
                    || taker.limited
                        && connection.limit > 0
                        && limited_used >= connection.limit as usize)
    }

    pub fn check(&self) -> Result<(), String> {
        self.node.machine.check()?;
        let live = naive_live(&self.node.log);
        let snapshot: BTreeMap<_, _> = self.node.machine.snapshot().into_iter().collect();
        for (id, model) in &self.models {
            let depth = self
                .node
                .machine
                .queue(*id)
                .ok_or("a queue is gone")?
                .depth();
            let (ready, ready_bytes) = model.ready();
            let (unacked, unacked_bytes) = model.place_count(|p| matches!(p, Place::Held(..)));
            let expected = (ready, unacked, ready_bytes, unacked_bytes);
            let got = (
                depth.ready,
                depth.unacked,
                depth.ready_bytes,
                depth.unacked_bytes,
            );
            if got != expected || depth.consumers as usize != model.attached() {
                return Err(format!("queue {id}: {depth:?}, expected {expected:?}"));
            }
            for (key, taker) in model.takers.iter().filter(|(_, t)| t.attached) {
                if ready > 0 && !self.blocked(*id, *key, taker) {
                    return Err(format!("queue {id}: consumer {key} waits beside {ready}"));
                }
            }
            let journaled = model.msgs.iter().filter(|(_, m)| m.journaled);
            let wanted: BTreeMap<Seq, (u32, u32)> = journaled
                .map(|(seq, m)| (*seq, (m.size, m.returns)))
                .collect();
            if !model.settings.durable {
                continue;
            }
            let logged: BTreeMap<Seq, (u32, u32)> = live
                .get(id)
                .into_iter()
                .flatten()
                .map(|(seq, (_, size, returns))| (*seq, (*size, *returns)))
                .collect();
            if logged != wanted {
                return Err(format!(
                    "queue {id}: the log has {logged:?}, not {wanted:?}"
                ));
            }
            let state = &snapshot[id];
            let kept: BTreeSet<Seq> = state
                .levels
                .iter()
                .flat_map(|l| l.runs())
                .flat_map(|r| r.first..r.end())
                .collect();
            if !kept.iter().eq(wanted.keys()) {
                return Err(format!("queue {id}: a checkpoint keeps {kept:?}"));
            }
            let returns: BTreeMap<Seq, u32> = wanted
                .iter()
                .filter(|(_, (_, n))| *n > 0)
                .map(|(seq, (_, n))| (*seq, *n))
                .collect();
            let bytes: u64 = wanted.values().map(|(size, _)| u64::from(*size)).sum();
            if state.returns != returns || state.bytes != bytes {
                return Err(format!("queue {id}: {state:?}, {returns:?}, {bytes} bytes"));
            }
            runs_lead_to(&live, *id, state)?;
        }
        Ok(())
    }

    /// The other ways to start would find the same.
    pub fn check_rebuilds(&self) -> Result<(), String> {
        let (one, _) = self.node.rebuild(true, self.node.log.len(), false);
        one.check()?;
        let live = naive_live(&self.node.log);
        for (id, state) in one.snapshot() {
            runs_lead_to(&live, id, &state)?;
        }
        for (id, model) in &self.models {
            if !model.settings.durable {
                continue;
            }
            let mut model = model.clone();
            model.restart(false);
            model.expire(self.node.now, false, Seq::MAX);
            let _ = model.run(self.node.now, Seq::MAX, &[]);
            let depth = one.queue(*id).ok_or("gone")?.depth();
            if (depth.ready, depth.ready_bytes) != model.ready() {
                return Err(format!(
                    "queue {id}: rebuilt {depth:?}, expected {:?}",
                    model.ready()
                ));
            }
        }
        Ok(())
    }

    /// Takes everything out; nothing may be left behind, in memory either.
    pub fn finish(mut self) -> Result<(), String> {
        self.node.store.fail_page.store(false, Ordering::SeqCst);
        for (key, (id, slot)) in self.slots.clone() {
            if let Some(model) = self.models.get_mut(&id) {
                let held = model.take_held(key, 0, u32::MAX);
                model.come_back(held);
                model.detach(key);
                self.call(id, |m, now, s, e| m.release(id, slot, now, s, e))?;
            }
        }
        for id in self.ids {
            while self.models[&id].ready().0 > 0 {
                self.get(id, 0, false)?;
                self.check_depth(id)?;
            }
        }
        for (id, seq, reason) in std::mem::take(&mut self.limbo) {
            self.model(id).msgs.remove(&seq);
            let ((), effects) = self
                .node
                .call(|m, _, s, e| m.dead_lettered(id, seq, reason, s, e));
            self.step(&[], effects)?;
        }
        self.check()?;
        if let Some((id, model)) = self.models.iter().find(|(_, m)| !m.msgs.is_empty()) {
            return Err(format!("queue {id} keeps {:?}", model.msgs));
        }
        match (self.node.gauge.bytes(), self.node.store.paged()) {
            (0, 0) => Ok(()),
            (bytes, 0) => Err(format!("{bytes} bytes of entries are still held")),
            (_, n) => Err(format!("{n} messages of the pager were not released")),
        }
    }

    fn check_depth(&self, id: QueueId) -> Result<(), String> {
        let depth = self.node.machine.queue(id).ok_or("gone")?.depth();
        match (depth.ready, depth.ready_bytes) == self.models[&id].ready() {
            true => self.node.machine.check(),
            false => Err(format!("{depth:?}")),
        }
    }
}
