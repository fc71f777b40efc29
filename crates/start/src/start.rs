//! What runs before `main`: the start of a static glibc 2.36 without what a plugin has no use for.
//!
//! glibc asks CPUID some seventy times which caches and instructions there are, and in a virtual machine every answer
//! leaves the guest: 0.1 ms, a third of a plugin's start (docs/adr/0013-what-a-start-costs.md). It asks so
//! that `memcpy` and its like can be chosen. A plugin copies a few kilobytes: the choice of any x86-64 will do.
//! And it makes ready to load libraries, which a plugin never does (ADR 1).
//!
//! These names stand in for the objects `libc-start.o` and `dl-early_allocate.o` of `libc.a`, all of them, so that the linker leaves
//! them out; with a library that is made otherwise, linking fails with a name defined twice. `build.rs` says when it is used.
//!
//! Source: glibc 2.36, `csu/libc-start.c` (`LIBC_START_MAIN`, the part without `SHARED`), `csu/init-first.c`,
//! `elf/dl-support.c` (`_dl_non_dynamic_init`), `sysdeps/x86/cacheinfo.h`.

#![expect(unsafe_code, reason = "this is the C library's part of a start, by its own interfaces")]

use std::arch::asm;
use std::ffi::{c_char, c_int, c_long, c_void};
use std::ptr;

/// The names that the string functions of the library read (`cacheinfo.h`); values are bytes, and those the library
/// has before it knows better.
#[rustfmt::skip]
mod caches {
    use super::{c_int, c_long};

    #[unsafe(no_mangle)] static __x86_data_cache_size_half: c_long = 16 * 1024;
    #[unsafe(no_mangle)] static __x86_data_cache_size: c_long = 32 * 1024;
    #[unsafe(no_mangle)] static __x86_shared_cache_size_half: c_long = 512 * 1024;
    #[unsafe(no_mangle)] static __x86_shared_cache_size: c_long = 1024 * 1024;
    #[unsafe(no_mangle)] static __x86_shared_non_temporal_threshold: c_long = 768 * 1024;
    #[unsafe(no_mangle)] static __x86_rep_movsb_threshold: c_long = 2048;
    #[unsafe(no_mangle)] static __x86_rep_stosb_threshold: c_long = 2048;
    #[unsafe(no_mangle)] static __x86_rep_movsb_stop_threshold: c_long = 768 * 1024;
    #[unsafe(no_mangle)] static __x86_string_control: c_int = 0;
}

/// A constructor, and `main`.
type Entry = unsafe extern "C" fn(c_int, *mut *mut c_char, *mut *mut c_char) -> c_int;

/// A relocation of the kind the linker leaves in a static program: `*place = resolver()` (ELF-64, `Elf64_Rela`).
#[repr(C)]
struct Relocation {
    place: *mut usize,
    kind: u64,
    resolver: unsafe extern "C" fn() -> usize,
}

/// A program header (ELF-64, `Elf64_Phdr`).
#[repr(C)]
struct Segment {
    kind: u32,
    flags: c_int,
    offset: usize,
    address: usize,
    physical_address: usize,
    size_in_file: usize,
    size: usize,
    alignment: usize,
}

impl Segment {
    /// PT_GNU_STACK and PT_GNU_RELRO (`elf.h`).
    const STACK: u32 = 0x6474_e551;
    const READ_ONLY_AFTER_START: u32 = 0x6474_e552;
}

/// The bits within a page.
const PAGE: usize = 4095;
/// PROT_READ (`asm-generic/mman-common.h`).
const READ: c_int = 1;
unsafe extern "C" {
    static mut __environ: *mut *mut c_char;
    static mut __libc_stack_end: *mut c_void;
    static __libc_enable_secure: c_int;
    static mut __libc_argv: *mut *mut c_char;
    static _dl_random: *const usize;
    static _dl_phdr: *const Segment;
    static _dl_phnum: usize;
    static mut _dl_stack_flags: c_int;
    static __rela_iplt_start: [Relocation; 0];
    static __rela_iplt_end: [Relocation; 0];
    static __preinit_array_start: [Entry; 0];
    static __preinit_array_end: [Entry; 0];
    static __init_array_start: [Entry; 0];
    static __init_array_end: [Entry; 0];

    fn _dl_aux_init(auxiliary: *const c_void);
    fn __libc_setup_tls();
    fn __libc_early_init(initial: bool);
    fn __init_misc(count: c_int, arguments: *mut *mut c_char, environment: *mut *mut c_char);
    fn __libc_check_standard_fds();
    fn mprotect(start: usize, length: usize, protection: c_int) -> c_int;
    fn _init();
    fn exit(code: c_int) -> !;
    fn _exit(code: c_int) -> !;
}

/// The memory that `__libc_setup_tls` asks for, once: what the first thread has of its own. The library's own function moves the end of
/// the data segment for it: two system calls, and a mapping to be taken down again (`elf/dl-early_allocate.c`). Here it lies
/// with what is written anyway. Null ends the process with the library's words.
#[unsafe(no_mangle)]
extern "C" fn _dl_early_allocate(size: usize) -> *mut c_void {
    crate::HEAP.lasting(size).cast()
}

/// What `_start` calls, with the kernel's stack. The last four are of other kinds of programs, but for the end of the stack.
#[unsafe(no_mangle)]
unsafe extern "C" fn __libc_start_main(
    main: Entry,
    count: c_int,
    arguments: *mut *mut c_char,
    _init_before_2_34: *const c_void,
    _fini_before_2_34: *const c_void,
    _loader_fini: *const c_void,
    stack_end: *mut c_void,
) -> c_int {
    // SAFETY: the order is the library's own. Until the relocations are done nothing here may copy memory by a call,
    // and until `__libc_setup_tls` nothing may touch a thread's own data: neither does.
    unsafe {
        let environment = arguments.offset(count as isize + 1);
        __environ = environment;
        __libc_stack_end = stack_end;
        let mut end = environment;
        while !(*end).is_null() {
            end = end.add(1);
        }
        _dl_aux_init(end.add(1).cast());
        relocate();
        __libc_setup_tls();
        guard();
        __libc_early_init(true);
        __libc_argv = arguments;
        protect();
        __init_misc(count, arguments, environment);
        if __libc_enable_secure != 0 {
            __libc_check_standard_fds();
        }
        let construct = |mut entry: *const Entry, end: *const Entry| {
            while entry < end {
                (*entry)(count, arguments, environment);
                entry = entry.add(1);
            }
        };
        construct((&raw const __preinit_array_start).cast(), (&raw const __preinit_array_end).cast());
        _init();
        construct((&raw const __init_array_start).cast(), (&raw const __init_array_end).cast());
        // Nothing is left to be done at the end: nobody here writes by the library's streams.
        _exit(main(count, arguments, environment))
    }
}

/// Makes what is only written at the start read-only, and the stacks of threads as the linker says: not executable.
///
/// # Safety
///
/// After the relocations, which write there.
unsafe fn protect() {
    // SAFETY: the kernel tells where the program headers are, and the linker placed what they describe.
    unsafe {
        let mut segment = _dl_phdr;
        let end = _dl_phdr.add(_dl_phnum);
        while segment < end {
            let Segment { kind, flags, address, size, .. } = &*segment;
            match *kind {
                Segment::STACK => _dl_stack_flags = *flags,
                Segment::READ_ONLY_AFTER_START => {
                    let (first, last) = (address & !PAGE, (address + size) & !PAGE);
                    if first < last && mprotect(first, last - first, READ) != 0 {
                        // As the library does: it is a second line of defence.
                        exit(127);
                    }
                }
                _ => {}
            }
            segment = segment.add(1);
        }
    }
}

/// Lets every function of which the library has several choose one.
///
/// # Safety
///
/// Once, before any of them is called.
unsafe fn relocate() {
    let mut relocation: *const Relocation = (&raw const __rela_iplt_start).cast();
    let end: *const Relocation = (&raw const __rela_iplt_end).cast();
    while relocation < end {
        // SAFETY: the linker made the table, and `R_X86_64_IRELATIVE` is the one kind it has without a loader.
        unsafe {
            ptr::write_volatile((*relocation).place, ((*relocation).resolver)());
            relocation = relocation.add(1);
        }
    }
}

/// Puts the kernel's random bytes where compiled C looks for them: the guard of stacks and the one of saved pointers
/// (`tcbhead_t` of `sysdeps/x86_64/nptl/tls.h`).
///
/// # Safety
///
/// Once the thread's own block is there.
unsafe fn guard() {
    // SAFETY: the kernel gives sixteen bytes (AT_RANDOM), at any address, and the block of the thread has these two fields.
    unsafe {
        // A guard begins with a zero byte, at which a copied string ends.
        let stack = ptr::read_unaligned(_dl_random) & !0xff;
        let pointers = ptr::read_unaligned(_dl_random.add(1));
        asm!("mov fs:[0x28], {}", in(reg) stack, options(nostack, preserves_flags));
        asm!("mov fs:[0x30], {}", in(reg) pointers, options(nostack, preserves_flags));
    }
}
