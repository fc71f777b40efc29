//! What the fuzzer has found so far, and what it started from, is read without a panic.

use std::path::Path;

use weft_harness::TARGETS;

#[test]
fn every_corpus_is_read_without_a_panic() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        let files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty(), "{name} has no corpus");
        for file in files {
            eprintln!("{}", file.display());
            target(&std::fs::read(file).unwrap());
        }
    }
}

#[test]
fn what_is_cut_off_anywhere_is_read_without_a_panic() {
    for (name, target) in TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
        for file in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
            let bytes = std::fs::read(&file).unwrap();
            for length in (0..bytes.len()).step_by(7) {
                target(&bytes[..length]);
            }
        }
    }
}
