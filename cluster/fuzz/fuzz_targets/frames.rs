//! Bytes as what came from a socket. Run it with `cargo +nightly fuzz run frames`.

#![no_main]

use leveret_cluster::wire::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| _ = fuzzing::frames(data));
