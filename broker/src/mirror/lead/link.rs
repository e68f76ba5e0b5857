//! A consumer of a session, as the machine delivers to it, and the way out of the group's lock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use leveret_queue::{ConsumerSlot, DeadLetter, Delivery, Limiter, Link, QueueId, Waiter};
use parking_lot::Mutex;

use super::Reign;
use crate::mirror::message::{ConsumerKey, Down, Item, SessionId};

/// What left the lock and is to be done.
pub(super) enum Done {
    Tell(Reign, SessionId, Down),
    Deliver(Staged),
    Propose(u64, Bytes),
    Dead(DeadLetter),
    Unused(QueueId),
}

pub(super) type Outgoing = Arc<Mutex<VecDeque<Done>>>;

/// Deliveries of one queue to one session, by their turns: a connection with several consumers gets them in the queue's order.
pub(super) struct Staged {
    pub(super) reign: Reign,
    pub(super) session: SessionId,
    pub(super) queue: QueueId,
    pub(super) bytes: i64,
    pub(super) items: Vec<(u64, ConsumerKey, Item)>,
}

/// Bytes that are gathered for one message to a session.
pub(super) const STAGED_BYTES_MAX: i64 = 1 << 20;

/// A session's consumer, as the machine sees it.
pub(super) struct PeerLink {
    pub(super) reign: Reign,
    pub(super) session: SessionId,
    pub(super) queue: QueueId,
    pub(super) key: ConsumerKey,
    pub(super) credit: AtomicI64,
    pub(super) waiter: Mutex<Option<Waiter>>,
    pub(super) out: Outgoing,
}

impl Link for PeerLink {
    fn room(&self) -> usize {
        usize::try_from(self.credit.load(Ordering::Acquire)).unwrap_or(0)
    }

    fn deliver(&self, deliveries: &mut Vec<Delivery>) {
        let mut bytes = 0;
        let items = deliveries.drain(..).map(|delivery| {
            bytes += delivery.message.encoded_len() as i64;
            let item = Item {
                number: delivery.number,
                seq: delivery.seq,
                redelivered: delivery.redelivered,
                delivery_count: delivery.delivery_count,
                message: delivery.message,
            };
            (delivery.turn, self.key, item)
        });
        let mut items: Vec<_> = items.collect();
        self.credit.fetch_sub(bytes, Ordering::AcqRel);
        let mut out = self.out.lock();
        if let Some(Done::Deliver(last)) = out.back_mut()
            && (last.reign, last.session, last.queue) == (self.reign, self.session, self.queue)
            && last.bytes < STAGED_BYTES_MAX
        {
            last.bytes += bytes;
            last.items.append(&mut items);
            last.items.sort_by_key(|(turn, ..)| *turn);
            return;
        }
        out.push_back(Done::Deliver(Staged {
            reign: self.reign,
            session: self.session,
            queue: self.queue,
            bytes,
            items,
        }));
    }

    fn wait_room(&self, waiter: Waiter) -> bool {
        // Credit comes under the group's lock, as this call does.
        if self.room() > 0 {
            return false;
        }
        *self.waiter.lock() = Some(waiter);
        true
    }

    fn cancelled(&self, _: u64) {
        self.tell(Down::Cancelled { key: self.key });
    }

    fn active(&self, _: u64, active: bool) {
        let key = self.key;
        self.tell(Down::Active { key, active });
    }
}

impl PeerLink {
    /// It takes nothing more.
    pub(super) fn close(&self) {
        self.credit.store(i64::MIN / 2, Ordering::Release);
    }

    pub(super) fn tell(&self, down: Down) {
        let done = Done::Tell(self.reign, self.session, down);
        self.out.lock().push_back(done);
    }
}

pub(super) struct Attached {
    pub(super) queue: QueueId,
    pub(super) slot: ConsumerSlot,
    pub(super) link: Arc<PeerLink>,
    /// Places in its channel's window that its session has granted.
    pub(super) window: Option<Arc<Limiter>>,
}

/// A window that asks the consumer's session for places.
pub(super) fn granted(link: &Arc<PeerLink>) -> Arc<Limiter> {
    let asker = Arc::downgrade(link);
    Arc::new(Limiter::granted(Box::new(move || {
        if let Some(link) = asker.upgrade() {
            link.tell(Down::Wanted { key: link.key });
        }
    })))
}
