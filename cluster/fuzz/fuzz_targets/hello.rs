//! Bytes as a hello. Run it with `cargo +nightly fuzz run hello`.

#![no_main]

use leveret_cluster::wire::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| _ = fuzzing::hello(data));
