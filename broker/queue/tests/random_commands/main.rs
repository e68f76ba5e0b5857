//! Random sequences of commands, the machine against the model; with crashes, checkpoints and relocation.
//!
//! `PROPTEST_CASES` sets how many sequences are tried.

mod commands;
#[path = "../common/mod.rs"]
mod common;
mod world;

use commands::{QUEUES, command, settings};
use proptest::prelude::*;
use world::World;

fn cases() -> u32 {
    let named = std::env::var("PROPTEST_CASES").ok();
    named.and_then(|n| n.parse().ok()).unwrap_or(150)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(), max_shrink_iters: 4000, failure_persistence: None, ..ProptestConfig::default()
    })]

    #[test]
    fn the_machine_does_what_the_model_does(
        settings in prop::collection::vec(settings(), QUEUES),
        commands in prop::collection::vec(command(), 1..60),
    ) {
        let mut world = World::new(&settings);
        for (at, command) in commands.into_iter().enumerate() {
            let text = format!("{command:?}");
            let result = world.apply(command).and_then(|()| world.check());
            prop_assert!(result.is_ok(), "command {at} {text}: {}", result.unwrap_err());
            if at % 8 == 7 {
                let result = world.check_rebuilds();
                prop_assert!(result.is_ok(), "after {at} {text}: {}", result.unwrap_err());
            }
        }
        let result = world.finish();
        prop_assert!(result.is_ok(), "at the end: {}", result.unwrap_err());
    }
}
