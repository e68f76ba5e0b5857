//! Bytes as a checkpoint. Run it with `cargo +nightly fuzz run checkpoint`.

#![no_main]

use leveret_storage::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::checkpoint(data));
