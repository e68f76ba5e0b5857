//! openraft's own tests of a log and a state machine, on ours.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::*;
use leveret_cluster::raft::log_storage::{LogStorage, RaftLog};
use leveret_cluster::raft::state_machine::StateMachine;
use leveret_cluster::raft::types::TokioTypes;
use leveret_cluster::{GroupId, LogStore, is_durable};
use leveret_storage::disk::sim::SimDisk;
use openraft::StorageError;
use openraft::rt::{AsyncRuntime, Watch};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft_rt_tokio::TokioRuntime;

type Log = LogStorage<TokioRuntime>;
type Machine = StateMachine<TokioRuntime, Remember>;

struct Builder(GroupId);

struct Guard(Arc<LogStore>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl StoreBuilder<TokioTypes, Log, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, Log, Machine), StorageError<TokioTypes>> {
        let disk = sim(&SimDisk::new());
        let (store, _) = open(&disk, Path::new("n"), false);
        let log = RaftLog::new(
            self.0,
            is_durable(self.0),
            Arc::clone(store.journal()),
            Arc::clone(store.flushes()),
            Default::default(),
        );
        let (term, _) = <TokioRuntime as AsyncRuntime>::Watch::channel(None);
        let (machine, _) = Machine::new(
            Remember::default(),
            0,
            None,
            Default::default(),
            Arc::clone(&store),
            Arc::clone(&log),
            term,
        )
        .await
        .expect("a new machine");
        Ok((Guard(store), Log::new(log), machine))
    }
}

#[test]
fn a_durable_group_passes_the_suite() {
    TokioRuntime::run(Suite::test_all(Builder(256))).expect("the suite");
}

#[test]
fn a_transient_group_passes_the_suite() {
    TokioRuntime::run(Suite::test_all(Builder(512))).expect("the suite");
}
