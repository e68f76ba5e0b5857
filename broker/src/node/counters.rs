//! What the node has done, in numbers.
//!
//! A connection counts in plain fields ([`Counts`]) and adds them to the node's atomics once a turn, so that the hot path
//! touches no shared memory for them.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Numbers of one connection since they were last added to the node's.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
        }

        /// The node's numbers since its start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            /// Adds a connection's numbers and sets them back.
            pub fn add(&self, counts: &mut Counts) {
                $(if counts.$name > 0 {
                    self.$name.fetch_add(counts.$name, Ordering::Relaxed);
                    counts.$name = 0;
                })*
            }

            /// All numbers now.
            pub fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Messages published.
    messages_received,
    /// Of these, on channels in confirm mode.
    messages_received_confirm,
    /// Publishes confirmed.
    messages_confirmed,
    /// Messages routed to at least one queue.
    messages_routed,
    /// Messages that no queue took, dropped.
    messages_unroutable_dropped,
    /// Messages that no queue took, returned.
    messages_unroutable_returned,
    /// Deliveries without acknowledgement.
    messages_delivered_auto_ack,
    /// Deliveries with acknowledgement.
    messages_delivered_manual_ack,
    /// basic.get without acknowledgement.
    messages_got_auto_ack,
    /// basic.get with acknowledgement.
    messages_got_manual_ack,
    /// basic.get on an empty queue.
    messages_get_empty,
    /// Deliveries of messages that may have been delivered before.
    messages_redelivered,
    /// Messages acknowledged.
    messages_acknowledged,
    /// Connections opened.
    connections_opened,
    /// Connections closed.
    connections_closed,
    /// Channels opened.
    channels_opened,
    /// Channels closed.
    channels_closed,
    /// Queues declared (also when they were there).
    queues_declared,
    /// Queues created.
    queues_created,
    /// Queues deleted.
    queues_deleted,
}

impl Counts {
    /// A publish.
    #[inline]
    pub fn received(&mut self, confirm: bool) {
        self.messages_received += 1;
        self.messages_received_confirm += u64::from(confirm);
    }

    /// A publish that no queue takes.
    pub fn unroutable(&mut self, returned: bool) {
        if returned {
            self.messages_unroutable_returned += 1;
        } else {
            self.messages_unroutable_dropped += 1;
        }
    }

    /// A delivery.
    #[inline]
    pub fn delivered(&mut self, no_ack: bool, redelivered: bool) {
        if no_ack {
            self.messages_delivered_auto_ack += 1;
        } else {
            self.messages_delivered_manual_ack += 1;
        }
        self.messages_redelivered += u64::from(redelivered);
    }

    /// A message fetched by basic.get.
    pub fn got(&mut self, no_ack: bool, redelivered: bool) {
        if no_ack {
            self.messages_got_auto_ack += 1;
        } else {
            self.messages_got_manual_ack += 1;
        }
        self.messages_redelivered += u64::from(redelivered);
    }

    /// basic.get on an empty queue.
    pub fn get_empty(&mut self) {
        self.messages_get_empty += 1;
    }
}
