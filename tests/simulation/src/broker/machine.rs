//! A group's state machine, watched: beside the broker's replica another one applies the same entries, and the two stay equal.

use std::any::Any;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use leveret::mirror::QueueMachine;
use leveret_cluster::raft::snapshot::{SnapshotSink, SnapshotSource};
use leveret_cluster::raft::state_machine::{Committed, Machine};
use leveret_queue::{Location, Replica};

use super::host::Kept;
use crate::judge::Judge;

/// See the module.
pub struct Watched {
    machine: QueueMachine,
    kept: Arc<Kept>,
    judge: Arc<Judge>,
    replica: Replica,
    barrier: Location,
}

impl Watched {
    /// Of a mirror that has applied nothing.
    pub fn new(machine: QueueMachine, kept: &Arc<Kept>, judge: &Arc<Judge>) -> Watched {
        Watched {
            machine,
            kept: Arc::clone(kept),
            judge: Arc::clone(judge),
            replica: Replica::new(),
            barrier: Location(0),
        }
    }
}

impl Machine for Watched {
    fn apply(&mut self, entries: &mut dyn Iterator<Item = Committed>) {
        let who = (self.kept.group.id(), self.kept.node());
        for entry in entries {
            let location = Location(entry.location.to_u64());
            if !entry.follows {
                self.barrier = location;
            }
            let id = entry.log_id;
            match self.replica.apply(&entry.data, location, self.barrier) {
                // Before the broker does it, and tells sessions.
                Ok(applied) => {
                    let digest = self.replica.digest();
                    self.judge.applied(who, id, &entry.data, &applied, &digest);
                    if applied.has_gap() {
                        self.judge
                            .note(format_args!("{who:?} applied a gap at {id}"));
                    }
                }
                Err(error) => self
                    .judge
                    .fail(format_args!("entry {id} is malformed: {error}")),
            }
            self.machine.apply(&mut std::iter::once(entry));
            if self.kept.group.lend().digest() != self.replica.digest() {
                self.judge
                    .fail(format_args!("{who:?} has another replica at {id}"));
            }
        }
    }

    fn checkpoint(&mut self) -> Vec<u8> {
        self.machine.checkpoint()
    }

    fn restore(&mut self, state: Bytes) -> io::Result<()> {
        self.machine.restore(state)?;
        self.replica = Replica::clone(&self.kept.group.lend());
        Ok(())
    }

    fn snapshot(&mut self) -> Arc<dyn SnapshotSource> {
        self.machine.snapshot()
    }

    fn sink(&mut self) -> Box<dyn SnapshotSink> {
        self.machine.sink()
    }

    fn install(&mut self, received: Box<dyn Any + Send>) -> io::Result<()> {
        self.machine.install(received)?;
        self.replica = Replica::clone(&self.kept.group.lend());
        Ok(())
    }
}
