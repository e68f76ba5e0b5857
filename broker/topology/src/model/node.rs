//! A node of a cluster.

use serde::{Deserialize, Serialize};

use super::Name;

/// How far a node's membership has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It was let in; not all groups have it as a voter yet.
    Joining,
    /// It votes in all groups.
    #[default]
    Member,
    /// It is to be forgotten; some groups may still have it.
    Leaving,
}

/// A node that is a member, or on its way in or out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id: given once, never again.
    pub id: u64,
    /// Its name, `name@host`.
    pub name: Name,
    /// Which life of its process was seen last.
    pub incarnation: u64,
    /// Whether it was not seen to end since.
    pub up: bool,
    /// Which disk: random, new for each empty one; zero if it never told.
    #[serde(default)]
    pub disk: u64,
    /// Where the others reach it, `name@host:port`; empty if it never told.
    #[serde(default)]
    pub address: Name,
    /// How far it has come.
    #[serde(default)]
    pub state: NodeState,
    /// It was drained: it leads nothing, and serves no clients until it is started again.
    #[serde(default)]
    pub maintenance: bool,
    /// The epoch of its logs that do not wait for the disk: it grows when the machine may have lost what was written. Never falls.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u16,
}

fn is_zero(epoch: &u16) -> bool {
    *epoch == 0
}

/// A group that was formed anew, because a majority of its members had lost its log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Formed {
    /// How often.
    pub generation: u32,
    /// Who votes in it at first. Whatever becomes of the nodes later, it is these.
    pub members: Vec<u64>,
}

/// A node that was a member once. Its id and its disk never come back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForgottenNode {
    /// Its id.
    pub id: u64,
    /// Its name, which another node may have by now.
    pub name: Name,
    /// Its disk.
    pub disk: u64,
}
