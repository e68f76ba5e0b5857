//! What a crash left of a journal. Run it with `cargo +nightly fuzz run recovery`.

#![no_main]

use leveret_storage::fuzzing;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| fuzzing::recovery(data));
