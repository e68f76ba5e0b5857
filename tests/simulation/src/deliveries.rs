//! What must hold of deliveries, by what clients get and settle.
//!
//! - A message is delivered once at most without the redelivered mark, and those of a consumer without it come in the queue's order.
//! - What a consumer holds is given to nobody else, unless its node could not be heard for so long that a leader went without it
//!   (*forfeited*): then it is not safe any more, and its settles may be void.
//! - A settle that was safe and is committed is in the log, and the message never comes again.
//! - Nothing goes that no client asked to go, from queues without limits and expiry.
//!
//! A delivery that left before its receiver forfeited, or of a leader that another has followed since, may still arrive: what is held by it
//! is not safe from the beginning.

use std::collections::{BTreeMap, BTreeSet};

use leveret_cluster::GroupId;
use leveret_cluster::raft::types::Term;
use leveret_queue::{QueueId, Seq, SessionId};

use crate::judge::{Judge, id_of};

/// Term and era of a leader.
pub type Reign = (Term, u64);

/// A consumer of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its process.
    pub session: SessionId,
    /// Its number there.
    pub consumer: u64,
}

/// A message on its way to a client.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The leader that gave it.
    pub from: Reign,
    /// To whom.
    pub who: Holder,
    /// From where.
    pub queue: QueueId,
    /// Its number there.
    pub seq: Seq,
    /// It may have been delivered before.
    pub redelivered: bool,
    /// The queue gives what came first first.
    pub in_order: bool,
    /// It has to be settled.
    pub is_held: bool,
    /// Its body.
    pub body: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Holding {
    who: Holder,
    /// Nobody else may get it.
    safe: bool,
}

/// What clients of a group got.
#[derive(Default)]
pub(crate) struct Given {
    newest: Reign,
    /// How often each node has forfeited, and how often when a message left for a process.
    forfeits: BTreeMap<u64, u64>,
    left: BTreeMap<(u64, SessionId), u64>,
    /// Delivered without the mark.
    unmarked: BTreeMap<u64, Holder>,
    held: BTreeMap<u64, Holding>,
    /// Acknowledged or dropped; not known to be committed.
    settling: BTreeMap<u64, Holding>,
    /// That was committed.
    over: BTreeSet<u64>,
    /// A client wanted it to go.
    asked: BTreeSet<u64>,
    last: BTreeMap<(Holder, QueueId), Seq>,
    arrived: u64,
    again: u64,
}

impl Given {
    /// Deliveries, and how many of them were marked.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.arrived, self.again)
    }

    /// Whether a client wanted a message to go.
    pub(crate) fn was_asked(&self, id: u64) -> bool {
        self.asked.contains(&id)
    }

    fn arrive(&mut self, id: u64, arrival: &Arrival<'_>) -> Result<(), String> {
        let Arrival {
            from,
            who,
            queue,
            seq,
            redelivered,
            in_order,
            is_held,
            ..
        } = *arrival;
        let forfeits = self.forfeits.get(&who.session.node);
        let stale = from < self.newest || self.left.get(&(id, who.session)) != forfeits;
        self.arrived += 1;
        self.again += u64::from(redelivered);
        if !redelivered && let Some(before) = self.unmarked.insert(id, who) {
            return Err(format!(
                "message {id} ({queue}:{seq}) came to {who:?} unmarked, as to {before:?} before"
            ));
        }
        if !redelivered && in_order && self.last.insert((who, queue), seq) > Some(seq) {
            return Err(format!(
                "message {id} ({queue}:{seq}) came to {who:?} too late"
            ));
        }
        if !stale {
            if self.over.contains(&id) {
                return Err(format!(
                    "message {id} came to {who:?} after its settle was committed"
                ));
            }
            let safe = |holding: Option<&Holding>| holding.filter(|h| h.safe).map(|h| h.who);
            if let Some(holder) = safe(self.held.get(&id)) {
                return Err(format!(
                    "message {id} came to {who:?}, and {holder:?} holds it"
                ));
            }
            if let Some(holder) = safe(self.settling.get(&id)) {
                return Err(format!(
                    "message {id} came to {who:?}, and {holder:?} has settled it"
                ));
            }
        }
        match is_held {
            true => {
                let safe = !stale;
                self.held.insert(id, Holding { who, safe });
            }
            // It goes as it leaves.
            false => {
                self.asked.insert(id);
            }
        }
        Ok(())
    }
}

impl Judge {
    /// A leader begins.
    pub fn begins(&self, group: GroupId, reign: Reign) {
        self.given(group, |given| {
            given.newest = given.newest.max(reign);
            Ok(())
        });
    }

    /// Leaders of the group do not wait for a node any longer, or had no reason to: what it holds is not safe.
    pub fn forfeit(&self, group: GroupId, node: u64) {
        self.note(format_args!("group {group}: node {node} forfeits"));
        self.given(group, |given| {
            *given.forfeits.entry(node).or_default() += 1;
            for holding in given.held.values_mut().chain(given.settling.values_mut()) {
                holding.safe &= holding.who.session.node != node;
            }
            Ok(())
        });
    }

    /// A leader gives a message to a process.
    pub fn leaves(&self, group: GroupId, to: SessionId, body: &[u8]) {
        let Some(id) = id_of(body) else { return };
        self.given(group, |given| {
            match given.forfeits.get(&to.node).copied() {
                Some(forfeits) => given.left.insert((id, to), forfeits),
                None => given.left.remove(&(id, to)),
            };
            Ok(())
        });
    }

    /// A message came to a client. Answers its id.
    pub fn arrived(&self, group: GroupId, arrival: &Arrival<'_>) -> Option<u64> {
        let Arrival {
            from,
            who,
            queue,
            seq,
            redelivered,
            body,
            ..
        } = *arrival;
        self.consumed(group, queue, seq, body);
        let id = id_of(body)?;
        let mark = if redelivered { " again" } else { "" };
        self.note(format_args!(
            "{who:?} got {id} ({queue}:{seq}) of {from:?}{mark}"
        ));
        self.given(group, |given| given.arrive(id, arrival));
        Some(id)
    }

    /// A client has sent a settle; `goes`: unless it is void, the message goes by it.
    pub fn settles(&self, group: GroupId, who: Holder, id: u64, goes: bool) {
        self.given(group, |given| {
            // It may be another's by now.
            let own = given.held.get(&id).is_some_and(|held| held.who == who);
            let holding = own.then(|| given.held.remove(&id)).flatten();
            if goes {
                given.asked.insert(id);
                given.settling.extend(holding.map(|holding| (id, holding)));
            }
            Ok(())
        });
    }

    /// A client wants a queue's messages to go.
    pub fn purges(&self, group: GroupId, queue: QueueId) {
        let live = self.live(group);
        let of_queue = live.iter().filter(|((of, _), _)| *of == queue);
        let ids: Vec<u64> = of_queue.map(|(_, id)| *id).collect();
        self.given(group, |given| {
            given.asked.extend(ids);
            Ok(())
        });
    }

    /// A session was told that the settles of these messages are committed.
    pub fn settled(&self, group: GroupId, session: SessionId, ids: &[u64]) {
        if ids.is_empty() {
            return;
        }
        self.note(format_args!("group {group} settled {ids:?}"));
        for id in ids {
            let gone = self.is_settled(group, *id);
            self.given(group, |given| {
                let own = given.settling.get(id);
                if own.is_none_or(|holding| holding.who.session != session) {
                    return Ok(());
                }
                let Some(holding) = given.settling.remove(id) else {
                    return Ok(());
                };
                if !holding.safe {
                    return Ok(());
                }
                given.over.insert(*id);
                match gone {
                    true => Ok(()),
                    false => Err(format!(
                        "{:?} was told that its settle of message {id} is committed, and it is in no log",
                        holding.who
                    )),
                }
            });
        }
    }

    /// A consumer is no more: what it holds returns.
    pub fn released(&self, group: GroupId, who: Holder) {
        self.given(group, |given| {
            given.held.retain(|_, holding| holding.who != who);
            Ok(())
        });
    }

    /// A process has ended.
    pub fn session_over(&self, node: u64) {
        for group in self.groups() {
            self.given(group, |given| {
                given.held.retain(|_, h| h.who.session.node != node);
                given.settling.retain(|_, h| h.who.session.node != node);
                Ok(())
            });
        }
    }
}
