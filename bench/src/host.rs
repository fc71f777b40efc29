//! A host of its own for one side of the comparison.
//!
//! Namespaces belong to threads: each host lives on one, and runs what it is given there, so that
//! several hosts can take turns in one program.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow};
use serde_json::{Value, json};
use weft_testkit::{Container, Lab, staged, staged_folder};

use crate::docker::Docker;
use crate::process::{self, Cost};
use crate::write;

/// Where Debian's package has its plugins.
const DEBIAN: &str = "/usr/lib/cni";

/// Where a copy of them is, beside ours.
fn reference() -> PathBuf {
    staged_folder().with_file_name("reference")
}

/// Writes both sides' programs anew, at the same moment and in one piece each: how a file was written, and whether the kernel has taken it
/// out of the page cache since and read it back in small pieces, decides what a start costs that maps it.
pub(crate) fn place_programs() -> Result<()> {
    std::fs::create_dir_all(reference())?;
    place(Path::new(DEBIAN), &reference())?;
    place(&staged_folder(), &staged_folder())
}

/// Writes a folder's files anew into another, or into itself; the names of one file are those of one file again.
fn place(from: &Path, to: &Path) -> Result<()> {
    let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let listed = from.read_dir().with_context(|| format!("cannot list {}", from.display()))?;
    // All of them first: what is renamed into a folder while it is listed may be listed again.
    for entry in listed.collect::<Result<Vec<_>, _>>()? {
        let (old, meta) = (entry.path(), entry.metadata()?);
        let (name, fresh) = (to.join(entry.file_name()), to.join(".fresh"));
        std::fs::remove_file(&fresh).ok();
        if let Some(same) = first.get(&meta.ino()) {
            std::fs::hard_link(same, &fresh)?;
        } else {
            write(&fresh, std::fs::read(&old).with_context(|| format!("cannot read {}", old.display()))?)?;
            std::fs::set_permissions(&fresh, meta.permissions())?;
            first.insert(meta.ino(), name.clone());
        }
        std::fs::rename(&fresh, &name).with_context(|| format!("cannot place {}", name.display()))?;
    }
    Ok(())
}

/// Whose programs a host uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    /// Our plugins, called one by one.
    Weft,
    /// The `weft` command, which calls them.
    Command,
    Debian,
    Docker,
    Netavark,
}

impl std::fmt::Display for Side {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Weft => "weft",
            Self::Command => "weft network",
            Self::Debian => "Debian",
            Self::Docker => "docker",
            Self::Netavark => "netavark",
        })
    }
}

/// What a job works with: the lab and its containers.
pub(crate) struct Ground {
    /// Ends before the lab, which it runs in.
    pub(crate) docker: Option<Docker>,
    pub(crate) lab: Lab,
    /// The world on the other side of the uplink.
    pub(crate) outside: Container,
    pub(crate) containers: Vec<Container>,
    /// What a container's ADD has printed, for the plugins behind it and for DEL.
    pub(crate) results: BTreeMap<usize, Value>,
    pub(crate) side: Side,
    /// How a plugin is run: measured, unless somebody wants to know more.
    pub(crate) run: Run,
}

/// Runs a program with these arguments, this environment and this input, and returns what it cost and printed.
pub(crate) type Run = fn(&Path, &[&str], &[(&str, &str)], &[u8]) -> Result<(Cost, String)>;

type Job = Box<dyn FnOnce(&mut Ground) + Send>;

/// A handle to a host's thread.
pub(crate) struct Host {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    /// Makes a host with an uplink and this many containers.
    pub(crate) fn start(side: Side, containers: usize) -> Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = thread::Builder::new().spawn(move || {
            let lab = Lab::new();
            let outside = lab.uplink();
            let mut ground = Ground {
                docker: None,
                lab,
                outside,
                containers: Vec::new(),
                results: BTreeMap::new(),
                side,
                run: process::run,
            };
            ground.grow(containers);
            for job in queue {
                job(&mut ground);
            }
        })?;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Runs a job on the host and waits for its value.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Ground) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = mpsc::channel();
        let job: Job = Box::new(move |ground| drop(send.send(job(ground))));
        let jobs = self.jobs.as_ref().context("a host's thread has ended")?;
        jobs.send(job).map_err(|_| anyhow!("a host's thread has ended"))?;
        receive.recv().context("a host's thread has ended")?
    }
}

impl Drop for Host {
    /// Waits until the host has cleared up after itself.
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Ground {
    /// Makes containers until there are this many.
    pub(crate) fn grow(&mut self, containers: usize) {
        for number in self.containers.len()..containers {
            self.containers.push(self.lab.container(&format!("c{number}")));
        }
    }

    /// Calls ADD or DEL of `bridge` with `host-local` and masquerading for a container.
    pub(crate) fn bridge(&self, verb: &str, container: usize) -> Result<Cost> {
        self.plugin("bridge", verb, container, "eth0", &self.bridge_conf())
    }

    /// Calls ADD or DEL of `loopback` for a container.
    pub(crate) fn loopback(&self, verb: &str, container: usize) -> Result<Cost> {
        let conf = json!({"cniVersion": "1.0.0", "name": "cni-loopback", "type": "loopback"});
        self.plugin("loopback", verb, container, "lo", &conf)
    }

    /// Calls VERSION of `bridge`: what is left is the process.
    pub(crate) fn version(&self) -> Result<Cost> {
        let program = self.folder().join("bridge");
        Ok((self.run)(&program, &[], &[("CNI_COMMAND", "VERSION"), ("CNI_PATH", "dummy")], b"{}")?.0)
    }

    /// Runs `weft` with these words.
    pub(crate) fn weft(&self, words: &[&str]) -> Result<Cost> {
        let root = self.lab.root().to_string_lossy().into_owned();
        let path = staged_folder().to_string_lossy().into_owned();
        Ok(process::run(&staged("weft"), words, &[("WEFT_ROOT", &root), ("CNI_PATH", &path)], b"")?.0)
    }

    fn plugin(&self, kind: &str, verb: &str, container: usize, ifname: &str, conf: &Value) -> Result<Cost> {
        Ok(self.call(kind, verb, container, ifname, conf)?.0)
    }

    /// Calls a plugin and returns what it cost and printed.
    pub(crate) fn call(
        &self,
        kind: &str,
        verb: &str,
        container: usize,
        ifname: &str,
        conf: &Value,
    ) -> Result<(Cost, String)> {
        let container = &self.containers[container];
        let (root, netns) = (self.lab.root().to_string_lossy(), container.netns());
        let (folder, netns) = (self.folder(), netns.to_string_lossy());
        let env = [
            ("CNI_COMMAND", verb),
            ("CNI_CONTAINERID", container.name()),
            ("CNI_NETNS", &netns),
            ("CNI_IFNAME", ifname),
            ("CNI_PATH", &folder.to_string_lossy()),
            ("WEFT_ROOT", &root),
        ];
        (self.run)(&folder.join(kind), &[], &env, conf.to_string().as_bytes())
    }

    fn folder(&self) -> PathBuf {
        match self.side {
            Side::Weft | Side::Command => staged_folder(),
            Side::Debian | Side::Docker | Side::Netavark => reference(),
        }
    }

    /// The configuration of `bridge` with `host-local` and masquerading.
    pub(crate) fn bridge_conf(&self) -> Value {
        json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "bench0",
            "isDefaultGateway": true, "ipMasq": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "ranges": [[{"subnet": "10.90.0.0/16"}]],
                "dataDir": self.lab.path("var/lib/cni/networks"),
            },
        })
    }
}
