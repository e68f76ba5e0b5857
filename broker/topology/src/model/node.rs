//! A node of a cluster.

use serde::{Deserialize, Serialize};

use super::Name;

/// A node that is or was a member.
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
}
