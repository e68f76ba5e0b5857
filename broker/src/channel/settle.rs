//! basic.ack, basic.nack, basic.reject, basic.recover.

use leveret_queue::UnackedRange;

use super::Channel;
use crate::connection::core::{Core, Fault};
use crate::connection::unacked::Unacked;
use crate::node::Settle;

impl Channel {
    /// Settles one delivery, or all up to it.
    #[inline]
    pub(super) fn settle(
        &mut self,
        core: &mut Core,
        tag: u64,
        multiple: bool,
        how: Settle,
    ) -> Result<(), Fault> {
        if let Some(tx) = &mut self.tx {
            return tx.settle(&mut self.tags, tag, multiple, how);
        }
        if !multiple {
            let Some(unacked) = self.tags.take(tag) else {
                return Err(unknown(tag));
            };
            put(core, how, &unacked);
            return Ok(());
        }
        // Zero means all there are, even none; any other tag must itself be waiting, as in RabbitMQ.
        let known = self
            .tags
            .take_up_to(tag, |_, unacked| put(core, how, &unacked));
        if known { Ok(()) } else { Err(unknown(tag)) }
    }

    /// basic.recover: everything unacknowledged returns to its queue. RabbitMQ knows only requeue=true.
    pub(super) fn recover(&mut self, core: &mut Core, requeue: bool) -> Result<(), Fault> {
        if !requeue {
            return Err(Fault::new(
                leveret_protocol::ReplyCode::NotImplemented,
                "requeue=false",
            ));
        }
        self.tags
            .take_up_to(0, |_, unacked| put(core, Settle::Requeue, &unacked));
        Ok(())
    }
}

#[inline]
pub(super) fn put(core: &mut Core, how: Settle, unacked: &Unacked) {
    let range = UnackedRange {
        slot: unacked.slot,
        first: unacked.number,
        count: 1,
    };
    core.batch.settle(unacked.group, unacked.queue, how, range);
}

#[cold]
pub(super) fn unknown(tag: u64) -> Fault {
    Fault::precondition(format!("unknown delivery tag {tag}"))
}
