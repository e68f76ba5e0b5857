#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| leveret_queue::fuzzing::replica(data));
