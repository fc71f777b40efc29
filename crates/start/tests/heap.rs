//! The plugins' allocator, with all of this program's memory in it.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use weft_start::Heap;

/// A row of numbers that is the same each time (Marsaglia, xorshift).
fn shake(state: &mut usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state >> 33
}

/// Makes, changes and drops vectors of all sizes; each is filled with its own byte, which must be all that is in it.
fn churn(seed: usize, rounds: usize) {
    let mut state = seed;
    let mut kept: BTreeMap<usize, (u8, Vec<u8>)> = BTreeMap::new();
    for round in 0..rounds {
        let size = 1 << (shake(&mut state) % 18);
        let size = size + shake(&mut state) % size;
        let [byte, ..] = round.to_le_bytes();
        match shake(&mut state) % 4 {
            0 => drop(kept.insert(shake(&mut state) % 64, (byte, vec![byte; size]))),
            1 => {
                let zeroed = vec![0u8; size];
                assert!(zeroed.iter().all(|one| *one == 0), "{size} bytes that should be zero");
                kept.insert(shake(&mut state) % 64, (0, zeroed));
            }
            2 => {
                if let Some((byte, grown)) = kept.get_mut(&(shake(&mut state) % 64)) {
                    grown.resize(size, *byte);
                    grown.shrink_to_fit();
                }
            }
            _ => drop(kept.remove(&(shake(&mut state) % 64))),
        }
        if round % 64 == 0 {
            for (byte, held) in kept.values() {
                assert!(held.iter().all(|one| one == byte), "{} bytes are not all {byte}", held.len());
            }
        }
    }
}

#[test]
fn what_is_held_is_nobody_elses() {
    churn(7, 20_000);
}

#[test]
fn threads_share_it() {
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for seed in 1..=4 {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                churn(seed * 1001, 10_000);
            });
        }
    });
}

#[test]
fn rare_alignments_and_empty_sizes_are_served() {
    #[repr(align(256))]
    struct Wide(u8);
    let wide: Vec<Box<Wide>> = (0..100).map(|number| Box::new(Wide(number))).collect();
    for (number, one) in (0u8..).zip(&wide) {
        assert_eq!((one.0, std::ptr::from_ref::<Wide>(one).addr() % 256), (number, 0));
    }
    let nothing: Vec<u8> = Vec::with_capacity(0);
    assert!(nothing.is_empty());
}

#[test]
fn what_lasts_is_zero_and_nobody_elses() {
    static OTHER: Heap = Heap::new();
    let two = [OTHER.lasting(5000), OTHER.lasting(3)];
    assert!(two[0].addr().abs_diff(two[1].addr()) >= 5000 && two.iter().all(|one| one.addr() % 16 == 0));
    #[expect(unsafe_code, reason = "it is memory by its address")]
    // SAFETY: so many bytes are there, and nobody has them.
    let held = unsafe { std::slice::from_raw_parts_mut(two[0], 5000) };
    assert!(held.iter().all(|one| *one == 0));
    held.fill(7);
    // All that is left but for less than that.
    let rest = std::iter::repeat_with(|| OTHER.lasting(60_000)).take_while(|one| !one.is_null()).count();
    assert!((15..=17).contains(&rest), "{rest} times 60,000 bytes");
    assert!(held.iter().all(|one| *one == 7));
    assert!(OTHER.lasting(1 << 20).is_null());
}

#[test]
fn more_than_the_arena_is_the_c_librarys() {
    let many: Vec<Vec<u8>> = (0..64).map(|byte| vec![byte; 60_000]).collect();
    for (byte, one) in (0u8..).zip(&many) {
        assert!(one.iter().all(|held| *held == byte));
    }
}
