//! Property flags and property list. Run it with `cargo +nightly fuzz run properties`.

#![no_main]

use leveret_protocol::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::properties(data));
