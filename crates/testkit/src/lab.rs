//! A host of its own for one test.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use tempfile::TempDir;

use crate::leftovers::{Identity, end, identity, inhabitants};
use crate::{Capture, Container, Output, PluginCall, Program, Snapshot, reaches, staged, staged_folder};

const MOUNTS: &str = "/proc/thread-self/ns/mnt";
const NETNS: &str = "/proc/thread-self/ns/net";

/// A host of its own: the calling thread's network and mount namespaces are private from here on.
#[derive(Debug)]
pub struct Lab {
    // Held for its end: the folder goes when the lab goes.
    _folder: TempDir,
    root: PathBuf,
    addresses: (String, String),
    netns: Identity,
    // Held for its number: the kernel gives that of a namespace that is gone to the next one, which is another lab's.
    _held: File,
    /// The mount namespace, in which containers are pinned.
    mounts: Option<Identity>,
}

impl Lab {
    /// Makes a host with a loopback interface that is up and nothing else.
    ///
    /// The thread never goes back: nextest gives each test a process, libtest a thread.
    ///
    /// # Panics
    ///
    /// If we may not: tests run as root, or as root of a user namespace (`cargo xtask test` sees to it).
    #[expect(clippy::new_without_default, reason = "what it does to its thread should be seen at the call")]
    pub fn new() -> Self {
        let folder =
            TempDir::with_prefix("weft-lab").unwrap_or_else(|error| panic!("no folder for the lab: {error}"));
        isolate().unwrap_or_else(|error| {
            panic!("the lab cannot leave the machine's namespaces ({error}): be root")
        });
        let root = folder.path().join("root");
        make_root(&root);
        // Plugins of others know no root: the machine's own leases must not be what they find.
        let leases = Path::new("/var/lib/cni");
        if leases.is_dir() {
            in_memory(leases, "mode=755");
        }
        let addresses = ("192.0.2".to_string(), "2001:db8:ffff".to_string());
        let netns = identity(NETNS).unwrap_or_else(|| panic!("/proc is not mounted"));
        let mounts = identity(MOUNTS);
        let held = File::open(NETNS).unwrap_or_else(|error| panic!("{NETNS}: {error}"));
        Self { _folder: folder, root, addresses, netns, _held: held, mounts }
    }

    /// Returns the lab's network namespace.
    pub(crate) fn netns(&self) -> Identity {
        self.netns
    }

    /// Returns the folder that stands for `/` in all of weft's paths.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns a path under [`Lab::root`].
    pub fn path(&self, below: &str) -> PathBuf {
        self.root.join(below.trim_start_matches('/'))
    }

    /// Writes a file under [`Lab::root`], making its folders.
    pub fn write(&self, below: &str, bytes: impl AsRef<[u8]>) {
        write(&self.path(below), bytes);
    }

    /// Reads a file under [`Lab::root`].
    pub fn read(&self, below: &str) -> String {
        read(&self.path(below))
    }

    /// Makes a container: a namespace pinned at `/run/netns/NAME`.
    pub fn container(&self, name: &str) -> Container {
        Container::create(name)
    }

    /// Makes a namespace that plays the outside world, and the uplink to it.
    ///
    /// The host has 192.0.2.1 and 2001:db8:ffff::1 on `uplink0`, the outside .2 and ::2 on `eth0`. The
    /// host's default routes lead outside; the outside knows nobody but the host.
    pub fn uplink(&self) -> Container {
        let outside = self.container("outside");
        let (v4, v6) = &self.addresses;
        self.ip("link add uplink0 type veth peer name eth0 netns outside");
        self.ip(&format!("address add {v4}.1/24 dev uplink0"));
        self.ip(&format!("address add {v6}::1/64 dev uplink0 nodad"));
        self.ip("link set uplink0 up");
        outside.ip(&format!("address add {v4}.2/24 dev eth0"));
        outside.ip(&format!("address add {v6}::2/64 dev eth0 nodad"));
        outside.ip("link set eth0 up");
        self.ip(&format!("route add default via {v4}.2"));
        self.ip(&format!("route add default via {v6}::2"));
        outside
    }

    /// Makes a namespace at the other end of the host's link `up0`, which has no addresses. The station there has
    /// 10.1.2.1 and 2001:db8:1::1 on `eth0`: others on the wire may be containers, straight on the host's link.
    pub fn wire(&self) -> Container {
        let far = self.container("far");
        self.ip("link add up0 type veth peer name eth0 netns far");
        self.ip("link set up0 up");
        far.ip("address add 10.1.2.1/24 dev eth0");
        far.ip("address add 2001:db8:1::1/64 dev eth0 nodad");
        far.ip("link set eth0 up");
        far
    }

    /// As [`Lab::uplink`], and waits until it carries packets of both families: a new link's link-local addresses are
    /// probed for a second or two.
    pub fn uplink_that_answers(&self) -> Container {
        let outside = self.uplink();
        reaches(&outside, [format!("{}::1", self.addresses.1)]);
        outside
    }

    /// Prepares a call of a staged plugin.
    pub fn plugin(&self, kind: &str) -> PluginCall<'_> {
        PluginCall::new(&self.root, kind, staged_folder())
    }

    /// Prepares a call of a plugin in some other folder.
    pub fn plugin_in(&self, folder: &Path, kind: &str) -> PluginCall<'_> {
        PluginCall::new(&self.root, kind, folder.to_path_buf())
    }

    /// Runs the staged `weft` in this lab.
    pub fn weft<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Output {
        self.weft_program(words).run()
    }

    /// Prepares a run of the staged `weft`, for a test that changes its surroundings.
    pub fn weft_program<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Program {
        let program = Program::new(staged("weft")).args(words);
        program.env("WEFT_ROOT", &self.root).env("CNI_PATH", staged_folder())
    }

    /// Runs `ip` with these words.
    ///
    /// # Panics
    ///
    /// If it does not succeed.
    #[track_caller]
    pub fn ip(&self, words: &str) -> String {
        Program::new("ip").args(words.split_whitespace()).run().expect_ok().to_string()
    }

    /// Runs `ip` with these words and returns its JSON.
    #[track_caller]
    pub fn ip_json(&self, words: &str) -> Value {
        json_of_ip(words)
    }

    /// Returns the ruleset as `nft` lists it.
    pub fn ruleset(&self) -> String {
        Program::new("nft").args(["-s", "list", "ruleset"]).run().expect_ok().to_string()
    }

    /// Runs a command line of `sh`.
    pub fn sh(&self, line: &str) -> Output {
        let path = format!("{}:{}", staged_folder().display(), std::env::var("PATH").unwrap_or_default());
        Program::new("sh").args(["-c", line]).env("WEFT_ROOT", &self.root).env("PATH", path).run()
    }

    /// Starts to keep every frame that passes the host.
    pub fn capture(&self) -> Capture {
        Capture::start(Ipv4Addr::LOCALHOST.into())
    }

    /// Reads a value under `/proc/sys/net` of the host.
    pub fn sysctl(&self, key: &str) -> String {
        let text = std::fs::read_to_string(Path::new("/proc/sys/net").join(key));
        text.unwrap_or_else(|error| panic!("{key}: {error}")).trim().to_string()
    }

    /// Writes a value under `/proc/sys/net` of the host.
    pub fn set_sysctl(&self, key: &str, value: &str) {
        let path = Path::new("/proc/sys/net").join(key);
        std::fs::write(path, value).unwrap_or_else(|error| panic!("{key}: {error}"));
    }

    /// Says whether the host has a link of this name.
    pub fn has_link(&self, name: &str) -> bool {
        Program::new("ip").args(["link", "show", "dev", name]).run().code == 0
    }

    /// Says whether this kernel makes links of this type (with these further words of `ip link add`).
    pub fn has_link_type(&self, words: &str) -> bool {
        let made =
            Program::new("ip").args("link add name probe0 type".split(' ')).args(words.split(' ')).run().code
                == 0;
        if made {
            self.ip("link delete probe0");
        }
        made
    }

    /// Says whether this kernel makes links of this type (with these further words of `ip link add`) on the link
    /// `lower`.
    pub fn has_link_type_on(&self, lower: &str, words: &str) -> bool {
        let make = format!("link add link {lower} name probe0 type {words}");
        let made = Program::new("ip").args(make.split(' ')).run().code == 0;
        if made {
            self.ip("link delete probe0");
        }
        made
    }

    /// Collects the host's state and our files.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.root)
    }

    /// Asserts that the host is as it was.
    ///
    /// What the kernel clears away on its own (an expired set element, a link on its way out) is given
    /// two seconds.
    #[track_caller]
    pub fn assert_restored(&self, before: &Snapshot) {
        let mut now = self.snapshot();
        for _ in 0..20 {
            if now == *before {
                return;
            }
            thread::sleep(std::time::Duration::from_millis(100));
            now = self.snapshot();
        }
        panic!("the host is not as it was:\n{}", before.difference(&now));
    }

    /// Mounts a file system of `bytes` bytes in memory on a folder under [`Lab::root`].
    pub fn small_disk(&self, below: &str, bytes: usize) {
        let path = self.path(below);
        make(&path);
        in_memory(&path, &format!("size={bytes}"));
    }
}

/// Runs `ip -json` in the calling thread's namespace.
#[track_caller]
pub(crate) fn json_of_ip(words: &str) -> Value {
    let output = Program::new("ip").args(["-json", "-details"]).args(words.split_whitespace()).run();
    let text = output.expect_ok();
    if text.trim().is_empty() {
        return Value::Array(Vec::new());
    }
    serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {output}"))
}

/// Makes the folder that stands for `/` of a host.
///
/// As on a real one, what is true for this boot alone is in memory. Leases are kept there too, as those of plugins of
/// others are in a lab, so that the two can be compared.
pub(crate) fn make_root(root: &Path) {
    for below in ["run", "var/lib/cni"] {
        make(&root.join(below));
        in_memory(&root.join(below), "mode=755");
    }
}

/// Writes a file, making its folders.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    make(path.parent().unwrap_or(path));
    std::fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Reads a file.
pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn make(folder: &Path) {
    std::fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

impl Drop for Lab {
    /// What was started on the lab's hosts and in its containers ends with them. A folder cannot be removed while something
    /// is mounted in it.
    fn drop(&mut self) {
        let mut namespaces = BTreeSet::from([self.netns]);
        // On another thread /run is not the lab's.
        if self.mounts.is_some() && identity(MOUNTS) == self.mounts {
            let pinned = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
            namespaces.extend(pinned.filter_map(|entry| identity(entry.path())));
        }
        end(|| inhabitants(&namespaces));
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        let mut ours: Vec<&str> = points.filter(|point| Path::new(point).starts_with(&self.root)).collect();
        ours.reverse();
        for point in ours {
            umount2(point, MntFlags::MNT_DETACH).ok();
        }
    }
}

fn in_memory(folder: &Path, options: &str) {
    mount(Some("tmpfs"), folder, Some("tmpfs"), MsFlags::empty(), Some(options))
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
}

fn isolate() -> Result<(), Box<dyn std::error::Error>> {
    weft_netns::isolate()?;
    // KERNEL: /sys/class/net shows the namespace of whoever mounted it.
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), None::<&str>)?;
    Ok(())
}

/// Runs `work` on a thread of its own and hands back its value, or its panic.
pub(crate) fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        let worker = scope.spawn(move || send.send(work()).ok());
        if let Err(panic) = worker.join() {
            std::panic::resume_unwind(panic);
        }
    });
    receive.recv().unwrap_or_else(|_| panic!("a worker ended without its value"))
}
