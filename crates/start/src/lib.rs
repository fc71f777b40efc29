//! What the programs that live for a millisecond have in place of the C library's own: the plugins and `weft`.
//!
//! Whoever links this crate has its memory, and starts by it where `build.rs` knows the C library; elsewhere the library's own
//! start is linked.

mod heap;
#[cfg(own_start)]
mod start;

pub use heap::Heap;

/// The memory of this process.
#[global_allocator]
static HEAP: Heap = Heap::new();
