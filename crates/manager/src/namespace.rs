//! Containers: network namespaces and how people name them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::statfs;
use weft_model::ContainerId;

use crate::Error;

/// Where `ip netns add` puts names.
const NAMED: &str = "/run/netns";

/// KERNEL: `NSFS_MAGIC` (include/uapi/linux/magic.h).
const NSFS: i64 = 0x6e73_6673;

/// What a person calls a container, and what follows from it.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// The container's id.
    pub id: ContainerId,
    /// Where its namespace is, or was.
    pub path: PathBuf,
}

impl Container {
    /// Reads a `NETNS` argument: a name below `/run/netns`, an absolute path, or `pid:N`. `id` overrides the
    /// container id that follows from it.
    ///
    /// # Errors
    ///
    /// When the argument is none of these, or no id follows from it.
    pub fn named(argument: &str, id: Option<&str>) -> Result<Self, Error> {
        let (path, derived) = if let Some(pid) = argument.strip_prefix("pid:") {
            let pid: u32 = pid.parse().map_err(|_| bad("process id", pid, "a number is expected"))?;
            (PathBuf::from(format!("/proc/{pid}/ns/net")), format!("pid-{pid}"))
        } else if argument.starts_with('/') {
            (PathBuf::from(argument), from_path(Path::new(argument)))
        } else {
            (Path::new(NAMED).join(argument), argument.to_owned())
        };
        let id = id.unwrap_or(&derived);
        let id = id.parse().map_err(|error| bad("container id", id, error))?;
        Ok(Self { id, path })
    }

    /// Makes sure that the namespace is there.
    ///
    /// # Errors
    ///
    /// When there is nothing, or something else.
    pub fn require(&self, argument: &str) -> Result<Identity, Error> {
        let missing = |why: String| Error::NoContainer { what: argument.into(), why };
        identity(&self.path).ok_or_else(|| match self.path.exists() {
            true => missing(format!("{} is no network namespace", self.path.display())),
            false => missing(format!("{} does not exist", self.path.display())),
        })
    }
}

fn bad(what: &'static str, name: &str, why: impl std::fmt::Display) -> Error {
    Error::BadName { what, name: name.into(), why: why.to_string() }
}

/// Returns the container id that follows from a path: its last part, and the process for one in `/proc`.
fn from_path(path: &Path) -> String {
    let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let parts: Vec<String> = path.components().map(|part| text(Some(part.as_os_str()))).collect();
    match &parts[..] {
        [_, proc, pid, ns, net] if proc == "proc" && ns == "ns" && net == "net" => format!("pid-{pid}"),
        _ => text(path.file_name()),
    }
}

/// Tells one namespace from the next one at the same path.
pub type Identity = String;

/// Returns which namespace is at a path; `None` if there is none.
///
/// KERNEL: inode numbers of namespaces are given out again at once (proc_alloc_inum), so the number alone
/// does not tell a namespace from its successor. The inode's birth does as long as a mount holds the inode;
/// below `/proc` nothing does, and the process's start time takes its place.
pub fn identity(path: &Path) -> Option<Identity> {
    if i128::from(statfs(path).ok()?.filesystem_type().0) != i128::from(NSFS) {
        return None;
    }
    let meta = path.metadata().ok()?;
    match process_start(path) {
        Some(start) => Some(format!("{}@{start}", meta.ino())),
        None => Some(format!("{}@{}.{:09}", meta.ino(), meta.ctime(), meta.ctime_nsec())),
    }
}

/// Returns when the process started whose namespace a path below `/proc` is.
fn process_start(path: &Path) -> Option<String> {
    let process = path.strip_prefix("/proc").ok()?.components().next()?;
    let stat = std::fs::read_to_string(Path::new("/proc").join(process).join("stat")).ok()?;
    // KERNEL: the command's name is in parentheses and may hold anything; the start is field 22.
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(format!("start-{}", fields.split(' ').nth(19)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(argument: &str) -> (String, String) {
        let container = Container::named(argument, None).unwrap();
        (container.id.to_string(), container.path.display().to_string())
    }

    #[test]
    fn names_paths_and_processes() {
        let pair = |id: &str, path: &str| (id.to_string(), path.to_string());
        assert_eq!(named("red"), pair("red", "/run/netns/red"));
        assert_eq!(named("pid:42"), pair("pid-42", "/proc/42/ns/net"));
        assert_eq!(named("/proc/42/ns/net"), pair("pid-42", "/proc/42/ns/net"));
        assert_eq!(named("/var/run/netns/blue"), pair("blue", "/var/run/netns/blue"));
        let given = Container::named("/x/@odd", Some("odd")).unwrap();
        assert_eq!(given.id.as_str(), "odd");

        for bad in ["", "pid:", "pid:x", "../red", "a b", "/", "/x/@odd"] {
            assert_eq!(Container::named(bad, None).unwrap_err().kind(), crate::Kind::Usage, "{bad:?}");
        }
    }

    #[test]
    fn our_own_namespace_has_an_identity_that_stays() {
        let path = Path::new("/proc/self/ns/net");
        assert!(identity(path).is_some());
        assert_eq!(identity(path), identity(path));
        assert_eq!(identity(Path::new("/proc/self/stat")), None);
        assert_eq!(identity(Path::new("/nonexistent")), None);
    }

    #[test]
    fn what_is_no_namespace_is_not_found() {
        let error =
            Container::named("no-such-namespace", None).unwrap().require("no-such-namespace").unwrap_err();
        assert_eq!(error.kind(), crate::Kind::NotFound);
        assert_eq!(error.hint().as_deref(), Some("ip netns add no-such-namespace"));
        let error = Container::named("/proc/self/stat", None).unwrap().require("x").unwrap_err();
        assert!(error.to_string().ends_with("/proc/self/stat is no network namespace"), "{error}");
    }
}
