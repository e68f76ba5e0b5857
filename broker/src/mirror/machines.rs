//! The state machines of the groups, as `leveret-cluster` drives them.

use std::any::Any;
use std::io;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use leveret_cluster::raft::snapshot::{MemorySink, SnapshotSink, SnapshotSource, memory_source};
use leveret_cluster::raft::state_machine::{Committed, Machine};
use leveret_cluster::raft::types::lasting_term;
use leveret_queue::{Location, SessionId};
use leveret_topology::{Command, Topology};

use super::lead::MirrorGroup;
use super::proposals::{Applied, Numbered};
use crate::node::Node;

/// Group 0: the metadata. Its state is the node's topology; what is here is what only group 0 has.
pub struct MetadataMachine {
    node: Weak<Node>,
    sessions: Applied,
    /// The last index that was applied.
    index: u64,
}

impl MetadataMachine {
    /// Of a node without metadata.
    pub fn new(node: &Arc<Node>) -> MetadataMachine {
        MetadataMachine {
            node: Arc::downgrade(node),
            sessions: Applied::default(),
            index: 0,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = self.index.to_le_bytes().to_vec();
        self.sessions.encode(&mut out);
        if let Some(node) = self.node.upgrade() {
            out.extend_from_slice(&node.topology().snapshot());
        }
        out
    }

    fn take(&mut self, state: &[u8]) -> io::Result<()> {
        let short = || io::Error::other("a metadata checkpoint is too short");
        let (index, rest) = state.split_first_chunk::<8>().ok_or_else(short)?;
        let (sessions, rest) = Applied::decode(rest).ok_or_else(short)?;
        let topology = Topology::restore(rest).map_err(io::Error::other)?;
        self.index = u64::from_le_bytes(*index);
        self.sessions = sessions;
        if let Some(node) = self.node.upgrade() {
            node.replace_topology(self.index, topology);
            node.metadata_applied(self.index);
            if let Some(mirror) = node.mirror() {
                mirror.nodes_changed();
                let last = self.sessions.last(mirror.session_id());
                mirror.proposals().replaced(self.index, last);
            }
        }
        Ok(())
    }
}

impl Machine for MetadataMachine {
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>) {
        let Some(node) = self.node.upgrade() else {
            return;
        };
        for entry in entries {
            self.index = entry.log_id.index;
            let numbered = match Numbered::decode(&entry.data) {
                Ok(numbered) => numbered,
                Err(error) => {
                    // The same bytes on every node: none of them applies it.
                    tracing::error!(index = self.index, %error, "passed over in the metadata's log");
                    continue;
                }
            };
            if self.sessions.take(numbered.session, numbered.number) {
                node.apply_command(self.index, &numbered);
                if let Command::NodeDown(down) = &numbered.command
                    && let Some(mirror) = node.mirror()
                    && down.node == mirror.id()
                    && down.incarnation == mirror.session_id().incarnation
                {
                    mirror.told_down();
                }
                if let Command::NodeUp(up) = &numbered.command {
                    let life = SessionId {
                        node: up.node,
                        incarnation: up.incarnation,
                    };
                    self.sessions.forget_before(life);
                    if let Some(mirror) = node.mirror() {
                        mirror.node_up(life);
                    }
                }
                if let Command::NodeRemoved(removed) = &numbered.command {
                    self.sessions.forget_before(SessionId {
                        node: removed.node,
                        incarnation: u64::MAX,
                    });
                }
                if numbered.command.is_about_nodes()
                    && let Some(mirror) = node.mirror()
                {
                    mirror.nodes_changed();
                }
            }
        }
        node.metadata_applied(self.index);
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        self.encode()
    }

    fn restore(&mut self, state: Bytes) -> io::Result<()> {
        self.take(&state)
    }

    fn snapshot(&mut self) -> Arc<dyn SnapshotSource> {
        memory_source(Bytes::from(self.encode()))
    }

    fn sink(&mut self) -> Box<dyn SnapshotSink> {
        Box::new(MemorySink::default())
    }

    fn install(&mut self, received: Box<dyn Any + Send>) -> io::Result<()> {
        let state = received
            .downcast::<Bytes>()
            .map_err(|_| io::Error::other("not a snapshot of the metadata"))?;
        self.take(&state)
    }
}

/// Milliseconds since 1970, as the node counts them.
pub type NowMs = Box<dyn Fn() -> u64 + Send + Sync>;

/// A group of mirrored queues.
pub struct QueueMachine {
    group: Arc<MirrorGroup>,
    now_ms: NowMs,
    generation: u32,
    barrier: Location,
    life: Arc<()>,
}

impl QueueMachine {
    /// Of this mirror, in this generation of its group.
    pub fn new(group: Arc<MirrorGroup>, now_ms: NowMs, generation: u32) -> QueueMachine {
        QueueMachine {
            group,
            now_ms,
            generation,
            barrier: Location(0),
            life: Arc::default(),
        }
    }

    /// Gone when the machine is: nothing more is applied then.
    pub fn life(&self) -> Weak<()> {
        Arc::downgrade(&self.life)
    }
}

impl Machine for QueueMachine {
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>) {
        let now_ms = (self.now_ms)();
        for entry in entries {
            let location = Location(entry.location.to_u64());
            if !entry.follows {
                // Something was truncated between the entry before and this one: no run goes on across.
                self.barrier = location;
            }
            let index = entry.log_id.index;
            let term = lasting_term(self.generation, entry.log_id.leader_id.term);
            let at = (term, index);
            let applied = self
                .group
                .apply(at, &entry.data, location, self.barrier, now_ms);
            if let Err(error) = applied {
                tracing::error!(group = self.group.id(), index, %error, "malformed entry in a group's log");
            }
        }
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        self.group.checkpoint()
    }

    fn restore(&mut self, state: Bytes) -> io::Result<()> {
        self.group.restore(&state)
    }

    fn snapshot(&mut self) -> Arc<dyn SnapshotSource> {
        super::transfer::source(&self.group)
    }

    fn sink(&mut self) -> Box<dyn SnapshotSink> {
        super::transfer::sink(&self.group)
    }

    fn install(&mut self, received: Box<dyn Any + Send>) -> io::Result<()> {
        super::transfer::install(&self.group, received)
    }
}
