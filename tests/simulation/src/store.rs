//! Messages in a node's journal, as the machine reads them.

use std::sync::Arc;

use leveret_cluster::METADATA_GROUP;
use leveret_queue::entry::batch::read_messages;
use leveret_queue::{Location, Message, QueueId, Seq, Store, StoreError, Stored};
use leveret_storage::{Journal, RecordKind};

/// Reads bodies by walking the journal; nothing is paged out.
pub struct Bodies(pub Arc<Journal>);

impl Store for Bodies {
    fn read(
        &self,
        queue: QueueId,
        first: Seq,
        count: u32,
        from: Location,
        max: usize,
        out: &mut Vec<Stored>,
    ) -> Result<(), StoreError> {
        let at = leveret_storage::Location::from_u64(from.0);
        let wanted = first..first + u64::from(count);
        for record in self.0.walk_segment(at) {
            let record = record.map_err(|e| StoreError(e.to_string()))?;
            let kind = record.header.kind;
            if !matches!(kind, RecordKind::Entry | RecordKind::Relocated)
                || record.header.group == METADATA_GROUP
            {
                continue;
            }
            let location = Location(record.location.to_u64());
            read_messages(&record.payload, location, queue, &wanted, max, out)
                .map_err(|e| StoreError(format!("record at {}: {e}", record.location)))?;
            if out.len() >= max || out.last().is_some_and(|last| last.seq + 1 >= wanted.end) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn page_out(&self, _: QueueId, _: Seq, _: &Message) -> Result<Location, StoreError> {
        Err(StoreError("nothing is paged out".into()))
    }

    fn memory_tight(&self) -> bool {
        false
    }
}
