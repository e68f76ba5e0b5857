//! A mirrored group whose leader changes at random: sessions publish, consume, settle and send again what was not committed.
//!
//! Raft is played by the test: logs of three mirrors, entries that reach a majority, suffixes that are truncated. What must hold is
//! checked by an oracle after every step (`oracle`): nothing committed is lost, nothing is enqueued twice, survivors keep what they
//! hold, what dead sessions held comes back marked redelivered, first deliveries keep their order, mirrors are equal.
//!
//! `SEED=n` runs one case, `CASES=n` that many.

#[path = "../common/mod.rs"]
mod common;
mod mirror;
mod oracle;
mod world;

use common::rng::seeds;
use world::World;

#[test]
fn a_group_keeps_its_promises_over_leader_changes() {
    seeds(800, |seed| World::new(seed).run());
}
