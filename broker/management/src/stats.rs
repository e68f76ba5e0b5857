//! Numbers of messages and of what came and went, by RabbitMQ's names.

use serde::{Deserialize, Serialize};

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl $name {
            /// The names, in the order of [`Self::values`].
            pub const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// The numbers.
            pub fn values(&self) -> [u64; $name::NAMES.len()] {
                [$(self.$field),*]
            }

            /// Adds others.
            pub fn add(&mut self, other: &Self) {
                $(self.$field += other.$field;)*
            }
        }
    };
}

numbers! {
    /// What happened to messages, as `message_stats` has it.
    MessageStats {
        /// Acknowledged.
        ack,
        /// Confirmed to publishers.
        confirm,
        /// Delivered with acknowledgement.
        deliver,
        /// Delivered and fetched, with acknowledgement or without.
        deliver_get,
        /// Delivered without acknowledgement.
        deliver_no_ack,
        /// Dropped because no queue took them.
        drop_unroutable,
        /// Fetched with acknowledgement.
        get,
        /// Fetches from an empty queue.
        get_empty,
        /// Fetched without acknowledgement.
        get_no_ack,
        /// Published.
        publish,
        /// Delivered again.
        redeliver,
        /// Returned because no queue took them.
        return_unroutable,
    }
}

numbers! {
    /// What came and went, as `churn_rates` has it.
    Churn {
        /// Channels closed.
        channel_closed,
        /// Channels opened.
        channel_created,
        /// Connections closed.
        connection_closed,
        /// Connections opened.
        connection_created,
        /// Queues created.
        queue_created,
        /// Queues declared, also those that were there.
        queue_declared,
        /// Queues deleted.
        queue_deleted,
    }
}

impl MessageStats {
    /// Of these, the ones that a queue has in RabbitMQ.
    pub const OF_QUEUE: &'static [&'static str] = &[
        "ack",
        "deliver",
        "deliver_get",
        "deliver_no_ack",
        "get",
        "get_empty",
        "get_no_ack",
        "publish",
        "redeliver",
    ];
}
