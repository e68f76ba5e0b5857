//! Level two: the broker's own leaders and sessions (`leveret::mirror`), with clients that have consumers.
//!
//! Real: `MirrorGroup`, `Session`, their messages on the wire, the queues' machine, the state machine with its checkpoints, snapshots
//! and relocation. By docs/cluster.md, sections 5 and 8: what goes between nodes, who is heard, and how leaders are found ([`host`]); lives of
//! processes, which the metadata would have; connections ([`client`]).

pub mod client;
pub mod host;
pub mod machine;
pub mod wire;
