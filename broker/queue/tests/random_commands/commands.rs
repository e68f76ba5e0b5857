//! What may happen to a group of queues, at random.

use leveret_queue::{Overflow, Settings};
use proptest::prelude::*;

pub const CONNECTIONS: usize = 3;
pub const QUEUES: usize = 4;

#[derive(Clone, Debug)]
pub struct Publish {
    pub queues: u8,
    pub persistent: bool,
    pub size: u8,
    pub priority: u8,
    pub expiration: Option<u8>,
}

#[derive(Clone, Debug)]
pub enum Command {
    Publish(Vec<Publish>, u8),
    Bulk(u8, u16, bool),
    Consume {
        queue: u8,
        conn: u8,
        no_ack: bool,
        exclusive: bool,
        priority: i8,
        prefetch: u8,
        limited: bool,
    },
    Cancel(u8),
    Release(u8),
    Get(u8, u8, bool),
    Settle(Vec<(u8, u8, u8)>, u8),
    Purge(u8),
    Tick(u16),
    Drain(u8),
    Capacity(u8, u16),
    Limit(u8, u8),
    Tight(bool),
    FailPage(bool),
    Remove(u8),
    Update(u8, u8),
    DeadLettered(u8),
    Unpin,
    Checkpoint,
    Crash {
        use_checkpoint: bool,
        clean: bool,
    },
    Relocate(u8, u8),
}

pub fn publish() -> impl Strategy<Value = Publish> {
    let expiration = proptest::option::weighted(0.15, 0u8..40);
    (1u8..16, any::<bool>(), 8u8..60, 0u8..6, expiration).prop_map(
        |(queues, persistent, size, priority, expiration)| Publish {
            queues,
            persistent,
            size,
            priority,
            expiration,
        },
    )
}

pub fn command() -> impl Strategy<Value = Command> {
    use Command as C;
    let q = 0u8..QUEUES as u8;
    let c = 0u8..CONNECTIONS as u8;
    prop_oneof![
        8 => (prop::collection::vec(publish(), 1..12), 0u8..30).prop_map(|(m, d)| C::Publish(m, d)),
        2 => (q.clone(), 100u16..400, any::<bool>()).prop_map(|(q, n, p)| C::Bulk(q, n, p)),
        6 => (q.clone(), c.clone(), prop::bool::weighted(0.2), prop::bool::weighted(0.1), -1i8..2,
              0u8..6, prop::bool::weighted(0.4))
            .prop_map(|(queue, conn, no_ack, exclusive, priority, prefetch, limited)| C::Consume {
                queue, conn, no_ack, exclusive, priority, prefetch, limited,
            }),
        1 => any::<u8>().prop_map(C::Cancel),
        2 => any::<u8>().prop_map(C::Release),
        4 => (q.clone(), c.clone(), any::<bool>()).prop_map(|(q, c, a)| C::Get(q, c, a)),
        10 => (prop::collection::vec((any::<u8>(), 0u8..20, 1u8..30), 1..4), 0u8..4)
            .prop_map(|(r, how)| C::Settle(r, how)),
        1 => q.clone().prop_map(C::Purge),
        // A timer that is set for what a slice left over rings one millisecond later.
        3 => (1u16..60).prop_map(C::Tick),
        4 => c.clone().prop_map(C::Drain),
        1 => (c.clone(), 0u16..20_000).prop_map(|(c, n)| C::Capacity(c, n)),
        1 => (c.clone(), 0u8..12).prop_map(|(c, n)| C::Limit(c, n)),
        2 => any::<bool>().prop_map(C::Tight),
        1 => prop::bool::weighted(0.3).prop_map(C::FailPage),
        1 => q.clone().prop_map(C::Remove),
        1 => (q, any::<u8>()).prop_map(|(q, s)| C::Update(q, s)),
        2 => any::<u8>().prop_map(C::DeadLettered),
        1 => Just(C::Unpin),
        2 => Just(C::Checkpoint),
        1 => (any::<bool>(), any::<bool>())
            .prop_map(|(use_checkpoint, clean)| C::Crash { use_checkpoint, clean }),
        2 => (any::<u8>(), 1u8..5).prop_map(|(s, b)| C::Relocate(s, b)),
    ]
}

/// What may change by a policy, from a few bits.
pub fn policy(base: Settings, bits: u8) -> Settings {
    Settings {
        message_ttl_ms: [None, None, Some(0), Some(25)][usize::from(bits & 3)],
        max_length: [None, Some(0), Some(3), Some(150)][usize::from(bits >> 2 & 3)],
        max_length_bytes: [None, Some(500)][usize::from(bits >> 4 & 1)],
        overflow: [
            Overflow::DropHead,
            Overflow::DropHead,
            Overflow::RejectPublish,
            Overflow::RejectPublishDlx,
        ][usize::from(bits >> 5 & 3)],
        dead_letter: bits >> 7 == 1,
        ..base
    }
}

pub fn settings() -> impl Strategy<Value = Settings> {
    let policies = prop_oneof![3 => 0u8..1, 1 => 0u8..4, 2 => any::<u8>()];
    let limit = proptest::option::weighted(0.25, 0u32..3);
    let flags = (prop::bool::weighted(0.75), any::<bool>(), any::<bool>());
    (policies, limit, flags, 0u8..4, prop::bool::weighted(0.2)).prop_map(
        |(bits, delivery_limit, (durable, auto_delete, count), levels, single)| {
            let base = Settings {
                durable,
                auto_delete,
                delivery_limit,
                count_deliveries: count,
                single_active_consumer: single,
                max_priority: [0, 0, 3, 4][usize::from(levels)],
                ..Settings::default()
            };
            policy(base, bits)
        },
    )
}
