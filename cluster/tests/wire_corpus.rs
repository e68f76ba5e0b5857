//! Every file of the fuzz corpus through the function that its target fuzzes, and every single byte of it changed.

use std::fs;
use std::path::Path;

use leveret_cluster::wire::fuzzing;

#[track_caller]
fn run(target: &str, function: fn(&[u8]) -> usize, refused: &[&str]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the crate") {
        let path = entry.expect("a corpus file").path();
        println!("{}", path.display());
        let bytes = fs::read(&path).expect("a corpus file");
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        assert_eq!(function(&bytes) == 0, refused.contains(&name), "{name}");
        for at in 0..bytes.len().min(400) {
            for change in [1 << (at % 8), 0xff] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                function(&changed);
            }
            function(&bytes[..at]);
        }
        files += 1;
    }
    assert!(files >= 6, "{files} files in {}", folder.display());
}

#[test]
fn hello() {
    let refused = [
        "http",
        "no-name",
        "port-in-name",
        "too-long-name",
        "version-2",
    ];
    run("hello", fuzzing::hello, &refused);
}

#[test]
fn frames() {
    run(
        "frames",
        fuzzing::frames,
        &["flags", "huge", "largest", "wrong-checksum"],
    );
}

#[test]
fn messages() {
    run(
        "messages",
        fuzzing::messages,
        &["append-cut", "append-wrong-body"],
    );
}
