//! The memory of a program with a short life: a thousand small pieces.
//!
//! The C library's allocator merges what is freed and splits it again, so that a program may run for months: a third of all
//! instructions of an ADD. Here a freed piece waits in a list for the next of its size, and that is all. What does not fit
//! into the arena, as of a plugin that stays (`dhcp`) or has much to do (GC), is the C library's.
//!
//! What a page costs is its first touch. So small pieces lie next to each other, and the buffers, of which little is used, elsewhere.

#![expect(unsafe_code, reason = "an allocator is made of addresses")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::ptr::{self, null_mut};
use std::sync::atomic::{AtomicBool, AtomicI8, Ordering};

/// The bytes of the arena. Pages that nobody touches cost nothing.
const ARENA: usize = 1 << 20;
/// Small pieces have sizes that are a multiple of this, and every piece begins at such an address.
const STEP: usize = 16;
/// From here on sizes are powers of two.
const SMALL: usize = 1024;
/// From here on a piece is a buffer, and begins a page.
const BUFFER: usize = 4096;
/// The bytes that small pieces have for themselves, until they have to go where the buffers are.
const FRONT: usize = 128 * 1024;
/// The largest piece.
const LARGEST: usize = 64 * 1024;
/// How many sizes there are: the small ones, and 2 KiB to 64 KiB.
const SIZES: usize = SMALL / STEP + 6;

/// The heap of this process. What is written first lies together, on one page.
#[repr(C)]
pub struct Heap {
    busy: AtomicBool,
    pieces: UnsafeCell<Pieces>,
    arena: Arena,
}

#[repr(align(16))]
struct Arena(UnsafeCell<[u8; ARENA]>);

struct Pieces {
    /// The bytes of the front that were ever handed out: what is behind them is zero.
    used: usize,
    /// The same of the rest, which begins with a page.
    used_behind: usize,
    /// The freed pieces of each size: the first; each holds the address of the next.
    freed: [*mut u8; SIZES],
}

unsafe extern "C" {
    /// Not 0 as long as the process has one thread (glibc, `<sys/single_threaded.h>`).
    static __libc_single_threaded: AtomicI8;
}

// SAFETY: whoever touches the pieces is the only thread or has set `busy`, and a piece belongs to one owner.
unsafe impl Sync for Heap {}

impl Heap {
    /// Returns an empty one.
    #[expect(
        clippy::new_without_default,
        reason = "a program's memory is a static, which no default can make"
    )]
    pub const fn new() -> Self {
        Self {
            busy: AtomicBool::new(false),
            pieces: UnsafeCell::new(Pieces { used: 0, used_behind: 0, freed: [null_mut(); SIZES] }),
            arena: Arena(UnsafeCell::new([0; ARENA])),
        }
    }

    /// Works with the pieces, alone.
    fn alone<T>(&self, work: impl FnOnce(&mut Pieces) -> T) -> T {
        // SAFETY: only the thread that makes the second one changes it.
        let shared = unsafe { __libc_single_threaded.load(Ordering::Relaxed) } == 0;
        // A lock costs more than the work, and most plugins have one thread.
        while shared && self.busy.swap(true, Ordering::Acquire) {
            spin_loop();
        }
        // SAFETY: there is no other thread, or `busy` was not set: nobody else is here.
        let done = work(unsafe { &mut *self.pieces.get() });
        if shared {
            self.busy.store(false, Ordering::Release);
        }
        done
    }

    fn owns(&self, piece: *mut u8) -> bool {
        piece.addr().wrapping_sub(self.arena.0.get().addr()) < ARENA
    }

    /// Returns a piece of the arena, and whether it was never used; null when there is none.
    fn take(&self, layout: Layout) -> (*mut u8, bool) {
        let Some((index, size)) = size_for(layout) else { return (null_mut(), false) };
        self.alone(|pieces| {
            let freed = pieces.freed[index];
            if !freed.is_null() {
                // SAFETY: a freed piece of ours holds the address of the next, and has room for it.
                pieces.freed[index] = unsafe { freed.cast::<*mut u8>().read() };
                return (freed, false);
            }
            (self.fresh(pieces, size, size < BUFFER), true)
        })
    }

    /// Returns bytes that were never handed out, which are zero; at the front if there is room. Null when there are not as many.
    fn fresh(&self, pieces: &mut Pieces, size: usize, at_front: bool) -> *mut u8 {
        let arena = self.arena.0.get().cast::<u8>();
        let behind = FRONT - arena.addr() % BUFFER;
        let at = if at_front && size <= behind - pieces.used {
            pieces.used += size;
            pieces.used - size
        } else if size <= ARENA - behind - pieces.used_behind {
            pieces.used_behind += size;
            behind + pieces.used_behind - size
        } else {
            return null_mut();
        };
        // SAFETY: it ends within the arena.
        unsafe { arena.add(at) }
    }

    /// Returns zeroed memory that is never given back, among the small pieces. Null when there is not as much.
    pub fn lasting(&self, size: usize) -> *mut u8 {
        if size > LARGEST {
            return null_mut();
        }
        self.alone(|pieces| self.fresh(pieces, size.next_multiple_of(STEP), true))
    }
}

/// Returns which size a piece for this has, and how many bytes that is. None for what is too large, or begins at rarer
/// addresses than all pieces do.
fn size_for(layout: Layout) -> Option<(usize, usize)> {
    let wanted = layout.size().max(1);
    if layout.align() > STEP || wanted > LARGEST {
        return None;
    }
    if wanted <= SMALL {
        let steps = wanted.div_ceil(STEP);
        return Some((steps - 1, steps * STEP));
    }
    let power = wanted.next_power_of_two();
    Some((SMALL / STEP + (power / SMALL).trailing_zeros() as usize - 1, power))
}

// SAFETY: pieces are disjoint, aligned to STEP and as large as was asked for, and stay where they are until they are freed. What
// is not in the arena is the C library's, which keeps to the same.
// Not inlined: there are ten thousand places that ask for memory.
unsafe impl GlobalAlloc for Heap {
    #[inline(never)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            // SAFETY: the caller's layout, unchanged.
            (piece, _) if piece.is_null() => unsafe { System.alloc(layout) },
            (piece, _) => piece,
        }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.take(layout) {
            // SAFETY: the caller's layout, unchanged.
            (piece, _) if piece.is_null() => unsafe { System.alloc_zeroed(layout) },
            (piece, true) => piece,
            (piece, false) => {
                // SAFETY: the piece has at least this size.
                unsafe { ptr::write_bytes(piece, 0, layout.size()) };
                piece
            }
        }
    }

    #[inline(never)]
    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        match size_for(layout) {
            Some((index, _)) if self.owns(piece) => self.alone(|pieces| {
                // SAFETY: the piece is nobody's any more, begins at a multiple of STEP and has room for an address.
                unsafe { piece.cast::<*mut u8>().write(pieces.freed[index]) };
                pieces.freed[index] = piece;
            }),
            // SAFETY: what is not in the arena came from there, with this layout.
            _ => unsafe { System.dealloc(piece, layout) },
        }
    }

    #[inline(never)]
    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !self.owns(piece) {
            // SAFETY: what is not in the arena came from there, with this layout.
            return unsafe { System.realloc(piece, layout, size) };
        }
        // SAFETY: the caller answers for size and alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        if size_for(wanted) == size_for(layout) {
            return piece;
        }
        // SAFETY: two pieces of at least the lesser size that have nothing in common; the old one goes with its layout.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                ptr::copy_nonoverlapping(piece, moved, layout.size().min(size));
                self.dealloc(piece, layout);
            }
            moved
        }
    }
}
