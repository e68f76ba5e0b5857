//! What a node tells an operator of its groups.

use std::time::Instant;

use leveret_cluster::raft::figures::Figures;
use leveret_cluster::{GroupId, METADATA_GROUP};
use leveret_storage::Histogram;

use super::{Mirror, Mirrored};

impl Mirror {
    /// Where each group stands, as this node sees it: the number of each, 0 for the metadata.
    pub fn figures(&self) -> Vec<(GroupId, Figures)> {
        let metadata = self
            .metadata
            .get()
            .cloned()
            .map(|raft| (METADATA_GROUP, raft));
        let queues = self.groups.iter();
        let queues = queues.filter_map(|m| Some((m.group.id(), m.raft.get()?)));
        let all = metadata.into_iter().chain(queues);
        all.map(|(id, raft)| (id, raft.figures())).collect()
    }

    /// How often leaders of groups of queues changed since this process started, and the pauses in milliseconds, as this node saw them.
    pub fn changes(&self) -> (u64, Histogram) {
        let mut sum = (0, Histogram::default());
        for (count, pauses) in self.groups.iter().map(|m| m.changes.read()) {
            sum.0 += count;
            sum.1.add(&pauses);
        }
        sum
    }
}

impl Mirrored {
    /// The leader is lost.
    pub(super) fn not_led(&self) {
        self.changes.lost(Instant::now());
        self.session.lead_by(None);
    }
}
