//! A stream of frames. Run it with `cargo +nightly fuzz run frames`.

#![no_main]

use leveret_protocol::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::frames(data));
