//! Where a plugin's binary is.

use std::path::{Path, PathBuf};

/// Why there is no binary for a plugin type. The texts are those of the CNI reference library.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// The type is empty.
    #[error("no plugin name provided")]
    NoName,
    /// There is nowhere to look.
    #[error("no paths provided")]
    NoPaths,
    /// The type would lead out of the search path.
    #[error("invalid plugin name: {0}")]
    InvalidName(String),
    /// No directory of the search path has such a file.
    #[error("failed to find plugin {kind:?} in path [{}]", Listed(.paths))]
    Missing {
        /// The plugin type looked for.
        kind: String,
        /// The directories looked into.
        paths: Vec<PathBuf>,
    },
}

/// A list of paths with blanks between, as Go prints one.
struct Listed<'a>(&'a [PathBuf]);

impl std::fmt::Display for Listed<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut blank = "";
        for path in self.0 {
            write!(out, "{blank}{}", path.display())?;
            blank = " ";
        }
        Ok(())
    }
}

/// Returns the first regular file named `kind` in `paths`.
///
/// CNI: symbolic links are followed and the execute permission is not looked at, as in the
/// reference library; a file that cannot be executed is reported by whoever tries.
pub fn find(kind: &str, paths: &[PathBuf]) -> Result<PathBuf, FindError> {
    if kind.is_empty() {
        return Err(FindError::NoName);
    }
    if kind.contains('/') || kind.contains('\0') {
        return Err(FindError::InvalidName(kind.into()));
    }
    if paths.is_empty() {
        return Err(FindError::NoPaths);
    }
    let missing = || FindError::Missing { kind: kind.into(), paths: paths.to_vec() };
    paths.iter().map(|dir| dir.join(kind)).find(|file| is_file(file)).ok_or_else(missing)
}

fn is_file(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_regular_file_wins() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::create_dir_all(a.join("bridge")).unwrap();
        std::fs::create_dir_all(&b).unwrap();
        std::fs::File::create(b.join("bridge")).unwrap();
        std::os::unix::fs::symlink(b.join("bridge"), b.join("alias")).unwrap();

        let paths = [a, b.clone()];
        assert_eq!(find("bridge", &paths), Ok(b.join("bridge")));
        assert_eq!(find("alias", &paths), Ok(b.join("alias")));
    }

    #[test]
    fn errors_read_as_the_reference_librarys() {
        let paths = ["/nonexistent/a", "/nonexistent/b"].map(PathBuf::from);
        let text = |kind: &str, paths: &[PathBuf]| find(kind, paths).unwrap_err().to_string();
        assert_eq!(text("", &paths), "no plugin name provided");
        assert_eq!(text("x", &[]), "no paths provided");
        assert_eq!(text("../x", &paths), "invalid plugin name: ../x");
        assert_eq!(text("x", &paths), "failed to find plugin \"x\" in path [/nonexistent/a /nonexistent/b]");
    }
}
