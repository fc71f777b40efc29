//! The program headers of the plugins' binary (ELF-64, `elf.h`): what is written is one mapping from the start on, not two.
//!
//! The linker gives what is read-only after the start a segment of its own. It ends within a page, the rest of which the kernel
//! clears, which makes a copy of it, at every start; and each segment is a mapping more to make and to take down.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::shell::write;

/// Where a file's header says where the program headers are, and how many.
const TABLE: usize = 32;
const COUNT: usize = 56;
/// The bytes of a program header, and where it has what.
const HEADER: usize = 56;
const OFFSET: usize = 8;
const ADDRESS: usize = 16;
const SIZE_IN_FILE: usize = 32;
const SIZE: usize = 40;
/// PT_NULL, and PT_LOAD with PF_R | PF_W.
const NOTHING: [u8; 4] = [0; 4];
const WRITTEN: [u8; 8] = [1, 0, 0, 0, 6, 0, 0, 0];

/// Joins the two segments that are written. What is read-only after the start stays so: that is another header.
pub(crate) fn join(binary: &Path) -> Result<()> {
    let mut bytes = std::fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    joined(&mut bytes).with_context(|| format!("cannot join the segments of {}", binary.display()))?;
    write(binary, bytes)
}

fn joined(bytes: &mut [u8]) -> Result<()> {
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "it is no ELF-64 file");
    let (table, count) = (number(bytes, TABLE)?, number(bytes, COUNT)? & 0xffff);
    let headers = (0..count).map(|index| table + index * HEADER);
    let written: Vec<usize> = headers.filter(|header| bytes[*header..].starts_with(&WRITTEN)).collect();
    let [first, second] = written[..] else { return Ok(()) };
    let of = |header: usize| -> Result<[usize; 4]> {
        let [offset, address, in_file, size] = [OFFSET, ADDRESS, SIZE_IN_FILE, SIZE];
        let number = |place| number(bytes, header + place);
        Ok([number(offset)?, number(address)?, number(in_file)?, number(size)?])
    };
    let [offset, address, in_file, _] = of(first)?;
    let [next, next_address, next_in_file, next_size] = of(second)?;
    // What lies between them in the file is what the kernel would put there.
    let between = bytes.get(offset + in_file..next);
    ensure!(
        between.is_some_and(|between| between.iter().all(|byte| *byte == 0))
            && next - offset == next_address.wrapping_sub(address),
        "they do not lie one behind the other: -z separate-loadable-segments is lacking"
    );
    let mut put = |place: usize, value: &[u8]| bytes[place..place + value.len()].copy_from_slice(value);
    put(first + SIZE_IN_FILE, &(next + next_in_file - offset).to_le_bytes());
    put(first + SIZE, &(next_address + next_size - address).to_le_bytes());
    put(second, &NOTHING);
    Ok(())
}

fn number(bytes: &[u8], place: usize) -> Result<usize> {
    let word = bytes.get(place..place + 8).and_then(|word| word.try_into().ok());
    Ok(usize::from_le_bytes(word.context("it ends too early")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with these program headers: kind and flags, where it begins in the file, its size there and in memory; an address is
    /// 0x20_0000 more than the place.
    fn file(headers: &[(u32, u32, u64, u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
        bytes[TABLE] = 64;
        bytes[COUNT] = u8::try_from(headers.len()).unwrap();
        for (index, &(kind, flags, offset, in_file, size)) in headers.iter().enumerate() {
            let words = [kind.into(), offset, offset + 0x20_0000, 0, in_file, size, 0x1000_u64];
            let mut header: Vec<u8> = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
            header[4..8].copy_from_slice(&flags.to_le_bytes());
            bytes[64 + index * HEADER..][..HEADER].copy_from_slice(&header);
        }
        bytes
    }

    #[test]
    fn what_is_written_is_one_segment() {
        let code = (1, 5, 0, 512, 512);
        let relro = (0x6474_e552, 4, 512, 100, 128);
        let before = file(&[code, (1, 6, 512, 100, 128), (1, 6, 640, 300, 4000), relro]);
        let after = file(&[code, (1, 6, 512, 428, 4128), (0, 6, 640, 300, 4000), relro]);
        let mut bytes = before;
        joined(&mut bytes).unwrap();
        assert_eq!(bytes, after);
        joined(&mut bytes).unwrap();
        assert_eq!(bytes, after, "once is enough");
    }

    #[test]
    fn segments_with_something_between_are_refused() {
        let mut bytes = file(&[(1, 6, 512, 100, 128), (1, 6, 640, 300, 4000)]);
        bytes[630] = 1;
        let told = joined(&mut bytes).unwrap_err().to_string();
        assert!(told.ends_with("separate-loadable-segments is lacking"), "{told}");
        assert!(joined(&mut b"#!/bin/sh".to_vec()).is_err());
    }
}
