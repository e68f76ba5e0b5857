//! Bytes as the body of a frame. Run it with `cargo +nightly fuzz run messages`.

#![no_main]

use leveret_cluster::wire::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| _ = fuzzing::messages(data));
