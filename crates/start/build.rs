//! Whether the binary starts by `src/start.rs`, which knows the parts of one C library: static glibc 2.36 for x86-64.

use std::ffi::{CStr, c_char};

/// The release whose `csu/libc-start.c` is what `src/start.rs` does.
const KNOWN: &CStr = c"2.36";

#[expect(unsafe_code, reason = "the C library's own name for its release has no safe wrapper")]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(own_start)");
    let target = |name: &str| std::env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    let fits = target("ARCH") == "x86_64"
        && target("ENV") == "gnu"
        && target("FEATURE").split(',').any(|feature| feature == "crt-static")
        && std::env::var("HOST") == std::env::var("TARGET");
    unsafe extern "C" {
        safe fn gnu_get_libc_version() -> *const c_char;
    }
    // SAFETY: the C library answers with a string of its own that never goes away.
    if fits && unsafe { CStr::from_ptr(gnu_get_libc_version()) } == KNOWN {
        println!("cargo::rustc-cfg=own_start");
    }
}
