//! Real container runtimes, with our plugins where they look for the reference's: a container is started, reached and
//! stopped, and the host is as before.
//!
//! The runtimes are Debian's, installed or unpacked by `cargo xtask setup`. Everything they keep is in the test's own
//! mounts; their containers are in control groups with the test's name.
#![expect(clippy::unwrap_used, reason = "a story that finds something else than it looks for ends there")]
#![expect(clippy::disallowed_methods, reason = "what a runtime is told is in files that are written once")]

mod buildah;
mod containerd;
mod containers;
mod cri;
mod ctr;
mod grpc;
mod host;
mod image;
mod podman;
