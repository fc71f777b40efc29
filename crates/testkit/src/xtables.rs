//! iptables' two sets of programs, of which a host has chosen one.

use std::fmt::Debug;
use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::thread;

use crate::{Lab, Output, Program};

/// The programs behind the names `iptables`, `ip6tables`, `-save` and `-restore` in a lab, as `update-alternatives` would
/// choose them.
#[derive(Clone, Debug)]
pub struct Xtables {
    folder: PathBuf,
    program: String,
}

impl Xtables {
    /// What the names may lead to: the programs for nf_tables, and those for the kernel's older tables.
    pub const PROGRAMS: [&str; 2] = ["xtables-nft-multi", "xtables-legacy-multi"];

    /// Chooses one of the programs for a lab.
    ///
    /// # Panics
    ///
    /// If the links to it cannot be made.
    pub fn choose(lab: &Lab, program: &str) -> Self {
        let folder = lab.path("programs");
        let link = |name: String| symlink(format!("/usr/sbin/{program}"), folder.join(name));
        let mut all = ["iptables", "ip6tables"]
            .into_iter()
            .flat_map(|family| ["", "-save", "-restore"].map(|end| format!("{family}{end}")));
        std::fs::create_dir_all(&folder)
            .and_then(|()| all.try_for_each(link))
            .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        Self { folder, program: program.into() }
    }

    /// Returns a `PATH` that finds them first.
    pub fn path(&self) -> String {
        format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.folder.display())
    }

    /// Has every run of `iptables-restore` noted from now on: for [`Xtables::restored`].
    ///
    /// # Panics
    ///
    /// If the wrappers cannot be written.
    pub fn watch_restores(&self) {
        for name in ["iptables-restore", "ip6tables-restore"] {
            let path = self.folder.join(name);
            let log = self.log();
            let script = format!(
                "#!/bin/sh\nscript=$(cat)\n\
                 echo {name} $(printf '%s\\n' \"$script\" | sed -n 's/^[*]//p') >>{}\n\
                 printf '%s\\n' \"$script\" | exec /usr/sbin/{} {name} \"$@\"\n",
                log.display(),
                self.program
            );
            std::fs::remove_file(&path)
                .and_then(|()| std::fs::write(&path, script))
                .and_then(|()| std::fs::set_permissions(&path, Permissions::from_mode(0o755)))
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }

    /// Returns the runs since then, each with the tables that it wrote to.
    pub fn restored(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    fn log(&self) -> PathBuf {
        self.folder.join("restores")
    }

    /// Runs one of the names with these words.
    pub fn run(&self, name: &str, words: &str) -> Output {
        Program::new(self.folder.join(name)).args(words.split(' ')).run()
    }

    /// Says whether both families' programs work here.
    pub fn work(&self) -> bool {
        self.run("iptables", "-t nat -S").code == 0 && self.run("ip6tables", "-S").code == 0
    }
}

/// Tells a story once for each variant of a host, each on a thread of its own: a lab stays with its thread.
///
/// # Panics
///
/// If one of them does, which is then named.
#[track_caller]
pub fn on_each<T: Copy + Debug + Send>(variants: &[T], story: impl Fn(T) + Sync) {
    for variant in variants.iter().copied() {
        let story = &story;
        thread::scope(|scope| {
            let told = scope.spawn(move || story(variant));
            told.join().unwrap_or_else(|_| panic!("with {variant:?}"));
        });
    }
}
