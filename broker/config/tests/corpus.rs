//! The fuzzer's corpus, run as a test.

use std::fs;
use std::path::Path;

use proptest::prelude::*;

#[test]
fn corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/config");
    let mut files = 0;
    for entry in fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        leveret_config::fuzzing::config(&fs::read(&path).unwrap());
        files += 1;
    }
    assert!(files >= 10, "{files} files in {}", directory.display());
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        leveret_config::fuzzing::config(&bytes);
    }

    #[test]
    fn lines_that_are_nearly_right(
        lines in prop::collection::vec(
            ("(listeners\\.tcp\\.|heartbeat|include |ssl_options\\.)[a-z.\\\\]{0,6}", "[ =#']{0,4}[0-9a-zA-Z:'#.]{0,8}"),
            0..6,
        ),
    ) {
        let text: String = lines.iter().map(|(key, rest)| format!("{key}{rest}\n")).collect();
        leveret_config::fuzzing::config(text.as_bytes());
    }
}
