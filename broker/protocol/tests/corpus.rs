//! Every file of the fuzz corpus through the function that its target fuzzes.

use std::fs;
use std::path::Path;

use leveret_protocol::fuzzing;

#[track_caller]
fn run(target: &str, function: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the crate") {
        let path = entry.expect("a corpus file").path();
        let octets = fs::read(&path).expect("a corpus file");
        println!("{}", path.display());
        function(&octets);
        files += 1;
    }
    assert!(files >= 10, "{files} files in {}", folder.display());
}

#[test]
fn frames() {
    run("frames", fuzzing::frames);
}

#[test]
fn method() {
    run("method", fuzzing::method);
}

#[test]
fn table() {
    run("table", fuzzing::table);
}

#[test]
fn properties() {
    run("properties", fuzzing::properties);
}
