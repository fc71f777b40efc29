//! What a container runtime needs of a host besides its network.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::Lab;
use crate::lab::make;
use crate::leftovers::{self, Identity};

const CGROUPS: &str = "/sys/fs/cgroup";

/// Processes that a test has started, by way of other programs, and their control groups.
///
/// Dropped, it ends what is left of them: a runtime's containers outlive the runtime.
#[derive(Debug)]
pub struct Surroundings {
    /// A word that all names of the control groups have in them.
    name: String,
    /// The lab's network namespace.
    netns: Identity,
}

impl Lab {
    /// Gives the host control groups, and lets it write below these folders of the machine without the machine noticing.
    ///
    /// Whatever is started from here on and is left when the returned value is dropped is ended.
    ///
    /// # Errors
    ///
    /// If the kernel refuses to mount something, with what it was.
    pub fn surroundings(&self, folders: &[&str]) -> Result<Surroundings, String> {
        control_groups()?;
        for folder in folders {
            overlay(Path::new(folder))?;
        }
        Ok(Surroundings { name: format!("weft-{}-test", std::process::id()), netns: self.netns() })
    }
}

impl Surroundings {
    /// Returns the name under which control groups are to be made.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the control groups with our name in theirs, the innermost first.
    fn groups(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(Path::new(CGROUPS), &mut found);
        found.retain(|path| path.to_string_lossy().contains(&self.name));
        found.reverse();
        found
    }

    /// Returns the processes in our control groups and those in this host's network namespace, but for this one.
    fn processes(&self) -> BTreeSet<i32> {
        let mut found = leftovers::inhabitants(&BTreeSet::from([self.netns]));
        for group in self.groups() {
            let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            found.extend(members.lines().filter_map(|line| line.parse::<i32>().ok()));
        }
        found.remove(&std::process::id().cast_signed());
        found
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        leftovers::end(|| self.processes());
        for group in self.groups() {
            fs::remove_dir(group).ok();
        }
    }
}

/// Mounts the machine's control groups, which a new /sys has not: version 1 where the machine uses it, else 2.
fn control_groups() -> Result<(), String> {
    let text =
        fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    // hierarchy:controllers:path; version 2 has no controllers in its line.
    let first: Vec<&str> =
        text.lines().filter_map(|line| line.split(':').nth(1)).filter(|it| !it.is_empty()).collect();
    if first.is_empty() {
        return attach("cgroup2", Path::new(CGROUPS), None);
    }
    attach("tmpfs", Path::new(CGROUPS), None)?;
    for controllers in first {
        let folder = Path::new(CGROUPS).join(controllers.trim_start_matches("name="));
        make(&folder);
        let named = controllers.starts_with("name=");
        let options = if named { format!("none,{controllers}") } else { controllers.to_owned() };
        attach("cgroup", &folder, Some(&options))?;
    }
    Ok(())
}

/// Puts a layer in memory over a folder. What is not there is made in memory, too, if its parent is covered already.
fn overlay(folder: &Path) -> Result<(), String> {
    let layers = Path::new("/run/layers").join(folder.strip_prefix("/").unwrap_or(folder));
    let (upper, work) = (layers.join("upper"), layers.join("work"));
    [&upper, &work].into_iter().for_each(|path| make(path));
    let options =
        format!("lowerdir={},upperdir={},workdir={}", folder.display(), upper.display(), work.display());
    attach("overlay", folder, Some(&options))
}

fn attach(kind: &str, folder: &Path, options: Option<&str>) -> Result<(), String> {
    mount(Some(kind), folder, Some(kind), MsFlags::empty(), options)
        .map_err(|error| format!("{kind} at {}: {error}", folder.display()))
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.push(entry.path());
            walk(&entry.path(), found);
        }
    }
}
