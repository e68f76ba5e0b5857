//! A field table without its length field. Run it with `cargo +nightly fuzz run table`.

#![no_main]

use leveret_protocol::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::table(data));
