#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| leveret_config::fuzzing::config(data));
