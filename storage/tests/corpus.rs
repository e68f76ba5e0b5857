//! Every file of the fuzz corpus through the function that its target fuzzes, and every single byte of it changed.

use std::fs;
use std::path::Path;

use leveret_storage::fuzzing;

#[track_caller]
fn run(target: &str, function: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut files = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is part of the crate") {
        let path = entry.expect("a corpus file").path();
        println!("{}", path.display());
        let bytes = fs::read(&path).expect("a corpus file");
        function(&bytes);
        for at in 0..bytes.len().min(400) {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            function(&changed);
        }
        files += 1;
    }
    assert!(files >= 6, "{files} files in {}", folder.display());
}

#[test]
fn records() {
    run("records", fuzzing::records);
}

#[test]
fn recovery() {
    run("recovery", fuzzing::recovery);
}

#[test]
fn checkpoint() {
    run("checkpoint", fuzzing::checkpoint);
}
