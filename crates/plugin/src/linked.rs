//! The plugins that are in this binary, and how to tell that a file is this binary.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::Plugin;

/// The plugins linked into this binary.
#[derive(Clone, Copy, Default)]
pub struct Linked {
    /// The plugins.
    pub plugins: &'static [&'static dyn Plugin],
    /// How the file begins that this binary was started from.
    pub head: Option<&'static Head>,
}

/// As much of a file as holds the program headers and the notes, which linkers place first.
pub type Head = [u8; 1024];

impl Linked {
    /// Returns the plugin of this type.
    pub fn get(self, kind: &str) -> Option<&'static dyn Plugin> {
        self.plugins.iter().copied().find(|plugin| plugin.about().kind == kind)
    }

    /// Returns the plugin that would run if `program` were started under the name `kind`, when that is sure to be
    /// the code in this process: the file has this binary's build id.
    pub fn behind(self, kind: &str, program: &Path) -> Option<&'static dyn Plugin> {
        let plugin = self.get(kind)?;
        self.head.is_some_and(|head| begins_like(program, head)).then_some(plugin)
    }

    /// Returns the types, for people.
    pub fn names(self) -> String {
        let names: Vec<_> = self.plugins.iter().map(|plugin| plugin.about().kind).collect();
        names.join(", ")
    }
}

impl fmt::Debug for Linked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Linked({})", self.names())
    }
}

/// The header of the note with the build id: lengths of name and hash, type NT_GNU_BUILD_ID, and the name
/// (elf.h). The hash is over the whole output (ld(1), --build-id).
const BUILD_ID: [u8; 16] = [4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0, b'G', b'N', b'U', 0];

/// Returns whether the file has the same build id as the binary that begins with `head`, and so the same content.
///
/// Links and copies both do: what `/opt/cni/bin` holds is often a copy. A binary without a build id is
/// never the same.
fn begins_like(program: &Path, head: &Head) -> bool {
    let has_build_id = || head.windows(BUILD_ID.len()).any(|at| at == BUILD_ID);
    let mut theirs = [0; size_of::<Head>()];
    let read = File::open(program).and_then(|file| file.read_exact_at(&mut theirs, 0));
    read.is_ok() && theirs == *head && has_build_id()
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
        let head: Head = fs::read(&ours).unwrap()[..size_of::<Head>()].try_into().unwrap();
        let has = head.windows(BUILD_ID.len()).any(|at| at == BUILD_ID);
        assert_eq!([&copy, &link].map(|path| begins_like(path, &head)), [has; 2]);
        for other in [&script, &dir.path().join("nothing"), dir.path()] {
            assert!(!begins_like(other, &head), "{other:?}");
        }
        // One that starts with the same bytes and ends early is a file cut short, not another build.
        File::create(&script).unwrap().write_all(&head[..100]).unwrap();
        assert!(!begins_like(&script, &head));
    }
}
