//! A group on a node, of whichever level: the model's ([`crate::leader`]) or the broker's ([`crate::broker`]).

use std::collections::BTreeSet;
use std::sync::Arc;

use leveret_cluster::GroupId;
use leveret_cluster::raft::group::RaftGroup;
use leveret_cluster::raft::node::AnyMachine;
use leveret_cluster::raft::types::Term;
use leveret_queue::{Replica, Store};

use crate::runtime::NodeRuntime;

/// Raft of a group.
pub type Group = RaftGroup<NodeRuntime, AnyMachine>;

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
