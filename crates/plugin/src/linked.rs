//! The plugins that are in this binary, and how to tell that a file is this binary.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::Plugin;

/// The plugins linked into this binary.
#[derive(Clone, Copy, Default)]
pub struct Linked(pub &'static [&'static dyn Plugin]);

impl Linked {
    /// Returns the plugin of this type.
    pub fn get(self, kind: &str) -> Option<&'static dyn Plugin> {
        self.0.iter().copied().find(|plugin| plugin.about().kind == kind)
    }

    /// Returns the plugin that would run if `program` were started under the name `kind`, when that is sure to be
    /// the code in this process: the file has this binary's build id.
    pub fn behind(self, kind: &str, program: &Path) -> Option<&'static dyn Plugin> {
        let plugin = self.get(kind)?;
        is_this_binary(program).then_some(plugin)
    }

    /// Returns the types, for people.
    pub fn names(self) -> String {
        let names: Vec<_> = self.0.iter().map(|plugin| plugin.about().kind).collect();
        names.join(", ")
    }
}

impl fmt::Debug for Linked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Linked({})", self.names())
    }
}

/// As much of a file as holds the program headers and the notes, which linkers place first.
type Head = [u8; 1024];

/// The header of the note with the build id: lengths of name and hash, type NT_GNU_BUILD_ID, and the name
/// (elf.h). The hash is over the whole output (ld(1), --build-id).
const BUILD_ID: [u8; 16] = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];

/// The binary that runs (proc(5)).
const SELF: &str = "/proc/self/exe";

/// Returns whether the file is the binary that runs, or has the same build id and so the same content.
///
/// Links and copies both do: what `/opt/cni/bin` holds is often a copy. A copy of a binary without a build id
/// is never the same.
fn is_this_binary(program: &Path) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).map(|about| (about.dev(), about.ino())).ok();
    inode(program).is_some_and(|theirs| inode(Path::new(SELF)) == Some(theirs)) || has_this_build_id(program)
}

fn has_this_build_id(program: &Path) -> bool {
    let head = |path: &Path| -> io::Result<Head> {
        let mut head = [0; size_of::<Head>()];
        File::open(path)?.read_exact_at(&mut head, 0)?;
        Ok(head)
    };
    let ours = || {
        let head = head(Path::new(SELF)).ok()?;
        head.windows(BUILD_ID.len()).any(|at| at == BUILD_ID).then_some(head)
    };
    head(program).is_ok_and(|theirs| ours().is_some_and(|ours| ours == theirs))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn only_a_link_to_or_a_copy_of_this_binary_is_it() {
        let dir = tempfile::tempdir().unwrap();
        let [copy, link, script] = ["copy", "link", "script"].map(|name| dir.path().join(name));
        let ours = std::env::current_exe().unwrap();
        fs::copy(&ours, &copy).unwrap();
        std::os::unix::fs::symlink(&ours, &link).unwrap();
        fs::copy("/bin/sh", &script).unwrap();
        // Whether a test binary has a build id is the linker's choice.
        let head = fs::read(&ours).unwrap()[..size_of::<Head>()].to_vec();
        let has = head.windows(BUILD_ID.len()).any(|at| at == BUILD_ID);
        assert_eq!([&copy, &link].map(|path| is_this_binary(path)), [has, true]);
        for other in [&script, &dir.path().join("nothing"), dir.path()] {
            assert!(!is_this_binary(other), "{other:?}");
        }
        // One that starts with the same bytes and ends early is a file cut short, not another build.
        File::create(&script).unwrap().write_all(&head[..100]).unwrap();
        assert!(!is_this_binary(&script));
    }
}
