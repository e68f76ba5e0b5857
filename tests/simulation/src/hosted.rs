//! A group on a node, of whichever level: the model's ([`crate::leader`]) or the broker's ([`crate::broker`]).

use std::any::Any;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use leveret_cluster::GroupId;
use leveret_cluster::raft::group::RaftGroup;
use leveret_cluster::raft::snapshot::{SnapshotSink, SnapshotSource};
use leveret_cluster::raft::state_machine::{Committed, Machine};
use leveret_cluster::raft::types::Term;
use leveret_queue::{Replica, Store};

use crate::runtime::NodeRuntime;

/// Raft of a group.
pub type Group = RaftGroup<NodeRuntime, Queues>;

/// What a run does with a group of a node.
pub trait Hosted: Send + Sync {
    /// Its number.
    fn group(&self) -> GroupId;

    /// Its Raft runs.
    fn begin(&self, raft: Arc<Group>);

    /// Its Raft.
    fn raft(&self) -> Option<&Arc<Group>>;

    /// The replica as it is.
    fn replica(&self) -> Replica;

    /// The term in which this node leads the group.
    fn leads(&self) -> Option<Term>;

    /// Where its messages are.
    fn store(&self) -> &dyn Store;

    /// Segments that live messages are in.
    fn live_segments(&self, out: &mut BTreeSet<u32>);

    /// Has what lives in these segments written again; `false` if the disk failed.
    fn relocate(&self, _segments: &[u32]) -> bool {
        true
    }
}

/// What a node's clients do with a group.
pub trait Client: Send + Sync {
    /// Nothing is waited for.
    fn is_idle(&self) -> bool;
}

/// The state machine of a group.
pub struct Queues(pub Box<dyn Machine>);

impl Machine for Queues {
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>) {
        self.0.apply(entries);
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        self.0.checkpoint()
    }

    fn restore(&mut self, state: Bytes) -> io::Result<()> {
        self.0.restore(state)
    }

    fn snapshot(&mut self) -> Arc<dyn SnapshotSource> {
        self.0.snapshot()
    }

    fn sink(&mut self) -> Box<dyn SnapshotSink> {
        self.0.sink()
    }

    fn install(&mut self, received: Box<dyn Any + Send>) -> io::Result<()> {
        self.0.install(received)
    }
}
