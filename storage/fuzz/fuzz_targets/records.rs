//! Bytes in the place of records. Run it with `cargo +nightly fuzz run records`.

#![no_main]

use leveret_storage::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::records(data));
