//! A namespace that plays a container.

use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use serde_json::Value;
use weft_netns::Netns;

use crate::lab::{aside, json_of_ip};
use crate::{Output, Program};

/// A namespace pinned at `/run/netns/NAME`.
#[derive(Clone, Debug)]
pub struct Container {
    name: String,
}

impl Container {
    pub(crate) fn create(name: &str) -> Self {
        weft_netns::create(name).unwrap_or_else(|error| panic!("container {name}: {error}"));
        Self { name: name.to_string() }
    }

    /// Returns the name, which is also the container id in calls of plugins.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the path of the namespace.
    pub fn netns(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Runs `work` inside the namespace.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = Netns::open(self.netns()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        // The thread inside has a small stack: a test's work gets one of the usual size.
        netns.run(|| aside(work)).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// Runs `ip` inside the namespace.
    ///
    /// # Panics
    ///
    /// If it does not succeed.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        self.run("ip", words).expect_ok().to_string()
    }

    /// Runs `ip` inside the namespace and returns its JSON.
    #[track_caller]
    pub fn ip_json(&self, words: &str) -> Value {
        self.inside(|| json_of_ip(words))
    }

    /// Runs a program inside the namespace.
    pub fn run(&self, program: &str, words: &str) -> Output {
        self.inside(|| Program::new(program).args(words.split_whitespace()).run())
    }

    /// Returns the addresses of an interface that are of universe scope, as `address/prefix`.
    pub fn addresses(&self, ifname: &str) -> Vec<String> {
        let listing = self.run("ip", &format!("-json address show dev {ifname} scope global"));
        let listing: Value = serde_json::from_str(&listing.stdout).unwrap_or_default();
        let infos = listing[0]["addr_info"].as_array().cloned().unwrap_or_default();
        let text =
            |info: &Value| Some(format!("{}/{}", info["local"].as_str()?, info["prefixlen"].as_u64()?));
        infos.iter().filter_map(text).collect()
    }

    /// Says whether the namespace has a link of this name.
    pub fn has_link(&self, ifname: &str) -> bool {
        self.run("ip", &format!("link show dev {ifname}")).code == 0
    }

    /// Returns what `ip -json -details link` says of one link.
    #[track_caller]
    pub fn link(&self, ifname: &str) -> Value {
        self.ip_json(&format!("link show dev {ifname}"))[0].take()
    }

    /// Says whether the container's link of this name is set up.
    pub fn is_up(&self, ifname: &str) -> bool {
        self.link(ifname)["flags"].as_array().is_some_and(|flags| flags.contains(&"UP".into()))
    }

    /// Reads a value under `/proc/sys/net` inside the namespace.
    pub fn sysctl(&self, key: &str) -> String {
        let path = Path::new("/proc/sys/net").join(key);
        let text = self.inside(|| std::fs::read_to_string(&path));
        text.unwrap_or_else(|error| panic!("{key}: {error}")).trim().to_string()
    }

    /// Writes a value under `/proc/sys/net` inside the namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(key);
        self.inside(|| std::fs::write(&path, value)).unwrap_or_else(|error| panic!("{key}: {error}"));
    }

    /// Says whether one ping to `address` is answered.
    ///
    /// One packet and no second try: what is lost is lost.
    pub fn ping(&self, address: &str) -> bool {
        self.run("ping", &format!("-n -c 1 -W 2 {address}")).code == 0
    }

    /// Takes the namespace away, as the end of its last process would, and leaves nothing at its path.
    pub fn vanish(&self) {
        weft_netns::unpin(self.netns()).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// Takes the namespace away and leaves a plain file at its path, as a reboot does.
    pub fn vanish_leaving_a_file(&self) {
        umount2(&self.netns(), MntFlags::MNT_DETACH).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }
}
