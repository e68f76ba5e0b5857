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
