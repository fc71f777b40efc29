//! What the corpora become when they are cut, joined and written over: the same inputs in every run.
//!
//! It measures nothing, as a fuzzer does (`cargo xtask fuzz`); it is what every run of the tests can afford.

#![cfg(test)]

use std::panic::catch_unwind;
use std::path::Path;

use weft_harness::TARGETS;

/// Inputs made for each target. Those that write files cost a thousand times what the others do.
const FEW: usize = 400;
const MANY: usize = 6000;
/// No input grows beyond this, in bytes.
const LONGEST: usize = 8192;
/// What parsers stumble over.
const WORDS: [&[u8]; 24] = [
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"9223372036854775807",
    b"4294967296",
    b"65536",
    b"true",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\"\\ud800\"",
    b"\0",
    b"../..",
    b"0.0.0.0/0",
    b"::/0",
    b"10.0.0.1/33",
    b"::ffff:10.0.0.1",
    b"\n\r\n",
    b"{\"a\":",
    b"\"prevResult\":",
];

/// Numbers that follow from a seed (xorshift64, Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Returns a number below `end`, or 0.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 16).unwrap().checked_rem(end).unwrap_or_default()
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(name);
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}

/// Changes an input once.
fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], numbers: &mut Numbers) {
    let at = numbers.below(bytes.len() + 1);
    let end = at + numbers.below((bytes.len() - at).min(64) + 1);
    match numbers.below(7) {
        0 => drop(bytes.drain(at..end)),
        1 => bytes.truncate(at),
        2 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        3 => drop(bytes.splice(at..end, WORDS[numbers.below(WORDS.len())].iter().copied())),
        4 => {
            let other = &corpus[numbers.below(corpus.len())];
            let from = numbers.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend(&other[from..]);
        }
        5 => bytes[at..end].iter_mut().for_each(|byte| *byte ^= 1 << numbers.below(8)),
        _ => {
            if let Some(byte) = bytes.get_mut(at) {
                *byte = u8::try_from(numbers.below(256)).unwrap();
            }
        }
    }
    bytes.truncate(LONGEST);
}

#[test]
fn what_the_corpora_become_is_read_without_a_panic() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
        let count = if matches!(name, "ipam" | "state") { FEW } else { MANY };
        for _ in 0..count {
            let mut bytes = corpus[numbers.below(corpus.len())].clone();
            for _ in 0..=numbers.below(6) {
                change(&mut bytes, &corpus, &mut numbers);
            }
            let read = catch_unwind(|| target(&bytes));
            assert!(read.is_ok(), "target {name} panics at {:?}", bytes.escape_ascii().to_string());
        }
    }
}
