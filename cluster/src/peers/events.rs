//! What is known of the peers, and who is told when it changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::link::PeerId;
use crate::wire::hello::NodeId;

/// Events that wait for a subscriber; one that is further behind gets the present states instead.
const EVENTS_MAX: usize = 1024;

/// How a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// This node never reached it since it started.
    Unknown,
    /// Reached, and heard of within the last 1.5 s.
    Up,
    /// Nothing was heard of it for 1.5 s: it hangs, or the network between is cut.
    Silent,
    /// Its process has ended: it said goodbye, or its connection broke and nobody listens there any more.
    Gone,
}

/// A change. `boot` is that of the process that it is about; one that is gone never comes back under the same boot unless the guess
/// was wrong, which another `Up` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEvent {
    /// It can be reached.
    Up {
        /// The peer's number.
        node: NodeId,
        /// Of its disk.
        incarnation: u64,
        /// Of its process.
        boot: u64,
    },
    /// It is not heard of.
    Silent {
        /// The peer's number.
        node: NodeId,
        /// Of its disk.
        incarnation: u64,
        /// Of its process.
        boot: u64,
    },
    /// Its process has ended.
    Gone {
        /// The peer's number.
        node: NodeId,
        /// Of its disk.
        incarnation: u64,
        /// Of its process.
        boot: u64,
    },
}

impl PeerEvent {
    /// The peer.
    pub fn node(&self) -> NodeId {
        match self {
            Self::Up { node, .. } | Self::Silent { node, .. } | Self::Gone { node, .. } => *node,
        }
    }

    /// The process.
    pub fn boot(&self) -> u64 {
        match self {
            Self::Up { boot, .. } | Self::Silent { boot, .. } | Self::Gone { boot, .. } => *boot,
        }
    }

    fn new(state: PeerState, peer: &PeerId) -> Option<PeerEvent> {
        let (node, incarnation, boot) = (peer.node, peer.incarnation, peer.boot);
        match state {
            PeerState::Unknown => None,
            PeerState::Up => Some(Self::Up {
                node,
                incarnation,
                boot,
            }),
            PeerState::Silent => Some(Self::Silent {
                node,
                incarnation,
                boot,
            }),
            PeerState::Gone => Some(Self::Gone {
                node,
                incarnation,
                boot,
            }),
        }
    }
}

/// What a peer last said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The process that said it.
    pub boot: u64,
    /// What its owner set.
    pub blob: Bytes,
}

#[derive(Default)]
struct Known {
    state: Option<(PeerState, PeerId)>,
    status: Option<Status>,
}

/// The states of all peers, and the events of their changes.
pub(super) struct Board {
    known: Mutex<BTreeMap<NodeId, Known>>,
    events: broadcast::Sender<PeerEvent>,
}

impl Board {
    pub(super) fn new() -> Board {
        Board {
            known: Mutex::default(),
            events: broadcast::Sender::new(EVENTS_MAX),
        }
    }

    /// A process of the node is in this state. One that another process has replaced is gone first, and one that is
    /// gone does not become silent.
    pub(super) fn set(&self, state: PeerState, peer: &PeerId) {
        let mut known = self.known.lock();
        let entry = known.entry(peer.node).or_default();
        if let Some((before, old)) = &entry.state {
            let same = old.boot == peer.boot;
            match (state, same) {
                (_, true) if *before == state => return,
                (PeerState::Silent, _) if !same || *before != PeerState::Up => return,
                (PeerState::Gone, false) => return,
                (PeerState::Up, false) if *before != PeerState::Gone => {
                    self.tell(PeerState::Gone, old);
                }
                _ => {}
            }
        } else if state != PeerState::Up {
            return;
        }
        entry.state = Some((state, peer.clone()));
        // Under the lock: events come in the order of the changes.
        self.tell(state, peer);
    }

    fn tell(&self, state: PeerState, peer: &PeerId) {
        tracing::info!(peer = %peer.name, node = peer.node, ?state, "peer");
        if let Some(event) = PeerEvent::new(state, peer) {
            // Nobody may listen.
            let _ = self.events.send(event);
        }
    }

    /// Its state, and the process that it is about.
    pub(super) fn state(&self, node: NodeId) -> (PeerState, Option<PeerId>) {
        match self.known.lock().get(&node).and_then(|k| k.state.as_ref()) {
            Some((state, peer)) => (*state, Some(peer.clone())),
            None => (PeerState::Unknown, None),
        }
    }

    pub(super) fn set_status(&self, node: NodeId, status: Status) {
        self.known.lock().entry(node).or_default().status = Some(status);
    }

    pub(super) fn status(&self, node: NodeId) -> Option<Status> {
        self.known.lock().get(&node)?.status.clone()
    }

    /// Forgets a node that is no peer any more.
    pub(super) fn forget(&self, node: NodeId) {
        self.known.lock().remove(&node);
    }

    fn present(&self) -> Vec<PeerEvent> {
        let known = self.known.lock();
        let states = known.values().filter_map(|known| known.state.as_ref());
        states
            .filter_map(|(state, peer)| PeerEvent::new(*state, peer))
            .collect()
    }

    pub(super) fn subscribe(self: &Arc<Self>) -> PeerEvents {
        // First the subscription: an event may come twice, none is missed.
        let receiver = self.events.subscribe();
        let mut first = self.present();
        first.reverse();
        PeerEvents {
            board: Arc::clone(self),
            receiver,
            first,
        }
    }
}

/// The changes of peers, from the present states on. Who falls behind gets the present states again.
pub struct PeerEvents {
    board: Arc<Board>,
    receiver: broadcast::Receiver<PeerEvent>,
    /// To be given first, the last one first.
    first: Vec<PeerEvent>,
}

impl PeerEvents {
    /// The next change. The same state may be told twice. Cancel safe.
    pub async fn next(&mut self) -> PeerEvent {
        loop {
            if let Some(event) = self.first.pop() {
                return event;
            }
            match self.receiver.recv().await {
                Ok(event) => return event,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    self.first = self.board.present();
                    self.first.reverse();
                }
                // The board holds a sender.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::NodeName;
    use futures_util::FutureExt;

    fn peer(boot: u64) -> PeerId {
        PeerId {
            node: 2,
            name: NodeName::parse("b@h").expect("a name"),
            incarnation: 7,
            boot,
        }
    }

    fn told(events: &mut PeerEvents) -> Vec<(char, u64)> {
        let mut all = Vec::new();
        while let Some(event) = events.next().now_or_never() {
            let letter = format!("{event:?}").chars().next().unwrap_or_default();
            all.push((letter, event.boot()));
        }
        all
    }

    #[test]
    fn only_changes_are_told_and_a_new_process_ends_the_old_one() {
        let board = Arc::new(Board::new());
        let mut events = board.subscribe();
        board.set(PeerState::Silent, &peer(1));
        board.set(PeerState::Gone, &peer(1));
        assert_eq!(told(&mut events), []);
        board.set(PeerState::Up, &peer(1));
        board.set(PeerState::Up, &peer(1));
        board.set(PeerState::Silent, &peer(1));
        board.set(PeerState::Up, &peer(2));
        board.set(PeerState::Silent, &peer(1));
        board.set(PeerState::Gone, &peer(1));
        let expected = [('U', 1), ('S', 1), ('G', 1), ('U', 2)];
        assert_eq!(told(&mut events), expected);
        board.set(PeerState::Gone, &peer(2));
        board.set(PeerState::Silent, &peer(2));
        board.set(PeerState::Up, &peer(3));
        assert_eq!(told(&mut events), [('G', 2), ('U', 3)]);
        assert_eq!(told(&mut board.subscribe()), [('U', 3)]);
    }

    #[test]
    fn who_falls_behind_gets_the_present_states() {
        let board = Arc::new(Board::new());
        let mut events = board.subscribe();
        for boot in 1..2000 {
            board.set(PeerState::Up, &peer(boot));
        }
        let told = told(&mut events);
        assert!(told.len() <= EVENTS_MAX + 1);
        assert_eq!(told.last(), Some(&('U', 1999)));
    }
}
