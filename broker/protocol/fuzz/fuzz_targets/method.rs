//! The payload of a method frame. Run it with `cargo +nightly fuzz run method`.

#![no_main]

use leveret_protocol::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::method(data));
