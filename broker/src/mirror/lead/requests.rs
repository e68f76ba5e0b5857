//! What is done for a session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use leveret_queue::{EntryBuilder, QueueId, Replica};
use rustc_hash::FxHashSet;

use super::leading::{Batch, Leading, Peer};
use super::link::{Done, granted};
use super::{BATCH_BYTES_MAX, MirrorGroup};
use crate::mirror::message::{Claim, Down, Item, SessionId, Up};

impl MirrorGroup {
    pub(super) fn handle(
        &self,
        leading: &mut Leading,
        replica: &Replica,
        session: SessionId,
        up: Up,
        now_ms: u64,
    ) {
        let store = &*self.store;
        match up {
            Up::Claim { next, last, claims } => {
                let before = next.saturating_sub(1);
                if self.was_formed_anew() && before > 0 && replica.last_number(session) == 0 {
                    // What came before was lost with the log of the generation before.
                    leading.batch.begin(session, before);
                    leading.hurry();
                }
                let peer = Peer {
                    received: next.saturating_sub(1),
                    last,
                    claims: Some(claims),
                    ..Peer::default()
                };
                leading.peers.insert(session, peer);
            }
            Up::Batch {
                number,
                settles,
                entry,
            } => {
                let repeated = number <= replica.last_number(session);
                let batch = Batch {
                    number,
                    repeated,
                    settles,
                    entry,
                };
                self.batch(leading, session, &batch, now_ms);
            }
            // What follows looks at what waits: not before it is known what is held.
            up if leading.machine.is_armed()
                && !matches!(up, Up::Credit { .. } | Up::Release { .. }) =>
            {
                leading.deferred.push((session, up));
            }
            // What a session published before, it sees.
            up if let Some(number) = leading.is_early(replica, session, &up) => {
                if let Some(peer) = leading.peers.get_mut(&session) {
                    peer.late.push_back((number, up));
                }
            }
            Up::Attach { request, attach } => {
                let slot = leading.attach(session, &attach, &self.out, now_ms);
                let arrival = slot.map(|slot| leading.machine.arrival(attach.queue, slot));
                self.tell(leading, session, Down::Attached { request, arrival });
                leading
                    .machine
                    .run(attach.queue, now_ms, store, &mut leading.effects);
            }
            Up::Cancel { request, key } => {
                let found = leading
                    .peers
                    .get(&session)
                    .and_then(|p| p.consumers.get(&key));
                if let Some((queue, slot)) = found.map(|c| (c.queue, c.slot)) {
                    leading
                        .machine
                        .cancel(queue, slot, now_ms, store, &mut leading.effects);
                }
                self.tell(leading, session, Down::Ended { request });
            }
            Up::Release { key } => {
                let peer = leading.peers.get_mut(&session);
                if let Some(gone) = peer.and_then(|p| p.consumers.remove(&key)) {
                    leading.machine.release(
                        gone.queue,
                        gone.slot,
                        now_ms,
                        store,
                        &mut leading.effects,
                    );
                }
            }
            Up::Credit { key, bytes } => {
                let found = leading
                    .peers
                    .get(&session)
                    .and_then(|p| p.consumers.get(&key));
                let Some(link) = found.map(|c| Arc::clone(&c.link)) else {
                    return;
                };
                link.credit.fetch_add(i64::from(bytes), Ordering::AcqRel);
                let waiter = link.waiter.lock().take();
                if let Some(waiter) = waiter {
                    leading
                        .machine
                        .resume(waiter, now_ms, store, &mut leading.effects);
                }
            }
            Up::Grant { key, places } => {
                let attached = leading
                    .peers
                    .get(&session)
                    .and_then(|p| p.consumers.get(&key));
                let Some(window) = attached.and_then(|c| c.window.clone()) else {
                    return;
                };
                window.grant(places);
                for waiter in window.take_waiters() {
                    let effects = &mut leading.effects;
                    leading.machine.resume(waiter, now_ms, store, effects);
                }
                let places = window.take_unused();
                if places > 0 {
                    self.tell(leading, session, Down::Unused { key, places });
                }
            }
            Up::Share { key } => {
                let peer = leading.peers.get_mut(&session);
                if let Some(shared) = peer.and_then(|p| p.consumers.get_mut(&key)) {
                    let window = granted(&shared.link);
                    let (queue, slot) = (shared.queue, shared.slot);
                    shared.window = Some(Arc::clone(&window));
                    leading.machine.share_window(queue, slot, &window);
                }
            }
            Up::Get {
                request,
                queue,
                holder,
            } => {
                let held = holder.map(|key| {
                    let peer = leading.peers.get(&session)?;
                    peer.consumers.get(&key).map(|c| c.slot)
                });
                let got = match held {
                    // Its holder is gone, and so is whoever asked.
                    Some(None) => None,
                    held => leading.machine.get(
                        queue,
                        held.flatten(),
                        now_ms,
                        store,
                        &mut leading.effects,
                    ),
                };
                let got = got.map(|got| {
                    let item = Item {
                        number: got.number,
                        seq: got.seq,
                        redelivered: got.redelivered,
                        delivery_count: got.delivery_count,
                        message: got.message,
                    };
                    (item, got.remaining)
                });
                self.tell(leading, session, Down::Got { request, got });
            }
            Up::Purge { request, queue } => {
                let effects = &mut leading.effects;
                let messages = leading.machine.purge(queue, now_ms, store, effects);
                leading.hurry();
                self.tell(leading, session, Down::Purged { request, messages });
            }
            Up::Counts {
                request,
                queue,
                touch,
            } => {
                if touch {
                    leading.machine.touch(queue, now_ms);
                }
                let (ready, consumers) = leading.machine.queue(queue).map_or((0, 0), |q| {
                    let depth = q.depth();
                    (depth.ready, depth.consumers)
                });
                let down = Down::Counts {
                    request,
                    ready,
                    consumers,
                };
                self.tell(leading, session, down);
            }
            Up::DeadLettered { queue, seq, reason } => {
                leading
                    .machine
                    .dead_lettered(queue, seq, reason, store, &mut leading.effects);
            }
        }
    }

    pub(super) fn tell(&self, leading: &Leading, session: SessionId, down: Down) {
        let done = Done::Tell(leading.reign, session, down);
        self.out.lock().push_back(done);
    }

    pub(super) fn claim(
        &self,
        leading: &mut Leading,
        session: SessionId,
        claims: Vec<Claim>,
        now_ms: u64,
    ) {
        let queues: FxHashSet<QueueId> = claims.iter().map(|claim| claim.attach.queue).collect();
        for Claim { attach, held } in claims {
            let key = attach.key;
            let queue = attach.queue;
            let Some(slot) = leading.attach(session, &attach, &self.out, now_ms) else {
                self.tell(leading, session, Down::Cancelled { key });
                continue;
            };
            let got = leading.machine.claim(
                queue,
                slot,
                &held,
                now_ms,
                &*self.store,
                &mut leading.effects,
            );
            // Both sides count what is held from 1 on; where the machine has left something out, the session is told.
            if got.contains(&None) {
                let numbers = got.iter().map(|n| n.unwrap_or(0)).collect();
                self.tell(leading, session, Down::Claimed { key, numbers });
            }
        }
        if !leading.machine.is_armed() {
            // It comes late: what waits goes to its consumers from now on.
            for queue in queues {
                leading
                    .machine
                    .run(queue, now_ms, &*self.store, &mut leading.effects);
            }
        }
    }

    pub(super) fn batch(
        &self,
        leading: &mut Leading,
        session: SessionId,
        batch: &Batch,
        now_ms: u64,
    ) {
        let Batch {
            number,
            settles,
            entry,
            ..
        } = batch;
        let number = *number;
        let Some(peer) = leading.peers.get_mut(&session) else {
            return;
        };
        if number != peer.received + 1 {
            // Out of order: the link between has lost something, and the session will begin anew.
            return;
        }
        peer.received = number;
        let mut builder = match entry.is_empty() {
            true => EntryBuilder::default(),
            false => match EntryBuilder::reopen(entry.to_vec()) {
                Ok(builder) => builder,
                Err(error) => {
                    tracing::error!(%error, ?session, "malformed entry of a session");
                    return;
                }
            },
        };
        if batch.repeated {
            // What was refused of it is known to the leader that is gone; if there can be something, none of it counts as safe.
            let refused = match leading.may_refuse(&builder) {
                true => vec![(number, (0..builder.ops()).collect())],
                false => Vec::new(),
            };
            self.tell(leading, session, Down::Committed { number, refused });
            return;
        }
        for settle in settles {
            leading.settle(session, settle, now_ms, &self.store);
        }
        if builder.ops() > 0
            && let Some(peer) = leading.peers.get_mut(&session)
        {
            peer.published = number;
        }
        let outcome =
            leading
                .machine
                .admit(&mut builder, now_ms, &*self.store, &mut leading.effects);
        self.collect(leading, now_ms);
        if !outcome.refused.is_empty()
            && let Some(peer) = leading.peers.get_mut(&session)
        {
            peer.refused.push_back((number, outcome.refused));
        }
        match builder.ops() {
            0 => leading.hold(now_ms),
            _ => leading.hurry(),
        }
        let entry = builder.finish(None);
        leading.batch.entry(session, number, &entry);
        if leading.batch.len() >= BATCH_BYTES_MAX {
            let done = leading.take_batch(&self.gauge);
            self.out.lock().push_back(done);
        }
    }
}
