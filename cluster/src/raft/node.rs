//! The groups of a node, on tokio and over its peers. What openraft's types are made of is compiled here, once, and not with each
//! kind of state machine.

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use openraft_rt_tokio::TokioRuntime;

use super::group::{GroupConfig, RaftGroup, StartError};
use super::network::GroupNetwork;
use super::snapshot::{SnapshotSink, SnapshotSource};
use super::state_machine::{Committed, Machine};
use crate::{LogStore, RecoveredGroup};

/// A group of a node, whatever its state machine is.
pub type NodeGroup = RaftGroup<TokioRuntime, AnyMachine>;

/// A state machine of whatever kind. A type of its own: openraft's futures cannot be shown to be `Send` over a bare `Box<dyn Machine>`.
pub struct AnyMachine(pub Box<dyn Machine>);

impl Machine for AnyMachine {
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

/// [`RaftGroup::start`] for a node.
///
/// # Errors
/// See [`StartError`].
pub async fn start_group(
    config: GroupConfig,
    store: Arc<LogStore>,
    recovered: RecoveredGroup,
    machine: Box<dyn Machine>,
    network: GroupNetwork,
) -> Result<Arc<NodeGroup>, StartError> {
    RaftGroup::start(config, store, recovered, AnyMachine(machine), network).await
}
