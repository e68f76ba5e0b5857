//! What a node tells an operator of its groups.

use leveret_cluster::raft::figures::Figures;
use leveret_cluster::{GroupId, METADATA_GROUP};

use super::Mirror;

impl Mirror {
    /// Where each group stands, as this node sees it: the number of each, 0 for the metadata.
    pub fn figures(&self) -> Vec<(GroupId, Figures)> {
        let metadata = self.metadata.get().map(|raft| (METADATA_GROUP, raft));
        let queues = self.groups.iter();
        let queues = queues.filter_map(|m| Some((m.group.id(), m.raft.get()?)));
        let all = metadata.into_iter().chain(queues);
        all.map(|(id, raft)| (id, raft.figures())).collect()
    }
}
