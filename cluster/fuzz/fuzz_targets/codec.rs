//! Bytes of votes, memberships, entries and checkpoints. Run it with `cargo +nightly fuzz run codec`.

#![no_main]

use leveret_cluster::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::codec(data));
