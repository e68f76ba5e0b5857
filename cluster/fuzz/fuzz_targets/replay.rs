//! Bytes as the records of one group. Run it with `cargo +nightly fuzz run replay`.

#![no_main]

use leveret_cluster::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::replay(data));
