//! What each stage of a message's way costs, alone: `cargo bench -p leveret-bench --bench stages`. `cargo test` runs each once, to see that it runs.
//!
//! - `frames`: AMQP frames in and out.
//! - `routing`: from exchange and routing key to queues.
//! - `entries`: log entries written and read.
//! - `queues`: the queue machine, a message in, out and acknowledged.
//! - `journal`: append, group commit, recovery, reading back.

mod entries;
mod frames;
mod journal;
mod queues;
mod routing;

criterion::criterion_main!(
    frames::stage,
    routing::stage,
    entries::stage,
    queues::stage,
    journal::stage
);
