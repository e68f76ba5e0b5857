//! Every file of the fuzz corpus through the function that its target fuzzes, and every single byte of it changed; and bytes at random.

use std::fs;
use std::path::Path;

use leveret_cluster::fuzzing;

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
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                function(&changed);
            }
            function(&bytes[..at]);
        }
        files += 1;
    }
    assert!(files >= 5, "{files} files in {}", folder.display());
    let mut random: u64 = 1;
    for _ in 0..20_000 {
        let mut bytes = Vec::new();
        for _ in 0..random % 60 {
            random = random
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            bytes.push((random >> 33) as u8 % 9);
        }
        random = random.wrapping_add(0x9e37_79b9_7f4a_7c15).rotate_left(7);
        function(&bytes);
    }
}

#[test]
fn codec() {
    run("codec", fuzzing::codec);
}

#[test]
fn replay() {
    run("replay", fuzzing::replay);
}
