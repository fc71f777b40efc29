//! A host with a container runtime's surroundings, and what is asked of it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use weft_testkit::{Lab, Snapshot, Surroundings, skipped, staged_folder, until_none};

use crate::image;

/// A host whose runtimes keep everything below `/run/client`.
///
/// Its fields go in this order: first what runs, then where.
pub(crate) struct Host {
    pub(crate) surroundings: Surroundings,
    pub(crate) lab: Lab,
    /// The image, and its file system alone.
    pub(crate) image: [PathBuf; 2],
}

impl Host {
    /// Makes it, or says what is lacking.
    pub(crate) fn new() -> Option<Self> {
        let lab = Lab::new();
        // Otherwise the first container turns it on, and nobody turns it off.
        lab.set_sysctl("ipv4/ip_forward", "1");
        lab.set_sysctl("ipv6/conf/all/forwarding", "1");
        // containerd's client knows no other folders.
        let surroundings = match lab.surroundings(&["/etc", "/opt", "/var/lib"]) {
            Ok(surroundings) => surroundings,
            Err(lacking) => {
                skipped(format_args!("a container runtime's surroundings: {lacking}"));
                return None;
            }
        };
        std::fs::create_dir_all("/run/client/image").unwrap();
        let image = image::make(Path::new("/run/client/image"))?;
        Some(Self { surroundings, lab, image })
    }

    /// Lets the folder where runtimes look for plugins be ours.
    pub(crate) fn install(&self) {
        std::fs::create_dir_all("/opt/cni").unwrap();
        std::os::unix::fs::symlink(staged_folder(), "/opt/cni/bin").unwrap();
    }

    /// Writes a file outside of weft's root, making its folder.
    pub(crate) fn put(&self, path: &str, text: &str) {
        std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Fetches the page of a container's web server.
    pub(crate) fn fetch(&self, address: &str, port: u16) -> Result<String, std::io::Error> {
        let to = SocketAddr::new(address.parse::<IpAddr>().unwrap(), port);
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_string())
    }

    /// Asserts that the web server answers, as soon as its process has got so far.
    #[track_caller]
    pub(crate) fn reaches(&self, address: &str, port: u16) {
        let answers = || self.fetch(address, port).is_ok_and(|page| page == image::PAGE);
        weft_testkit::until(&format!("the web server at {address} port {port}"), answers);
    }

    /// Asserts that nobody answers there.
    #[track_caller]
    pub(crate) fn does_not_reach(&self, address: &str, port: u16) {
        assert!(self.fetch(address, port).is_err(), "{address} port {port} still answers");
    }

    /// Calls every plugin of a list to collect what belongs to no attachment, as a runtime does that knows GC.
    ///
    /// Which of them may be asked depends on the version that the list declares; a runtime asks in the newest.
    pub(crate) fn collect_garbage(&self, list: &str) {
        let list: Value = serde_json::from_str(list).unwrap();
        for plugin in list["plugins"].as_array().unwrap().iter().rev() {
            let mut conf = plugin.clone();
            conf["cniVersion"] = "1.1.0".into();
            conf["name"] = list["name"].clone();
            self.lab.plugin(plugin["type"].as_str().unwrap()).json(&conf).gc(&[]).expect_ok();
        }
    }

    /// Asserts that containers which had these addresses have left nothing, before anybody collects garbage. What is there
    /// and was not before is the network's: its bridge, and what the firewall has once for all of its containers.
    #[track_caller]
    pub(crate) fn assert_containers_left_nothing(&self, before: &Snapshot, addresses: &[&str]) {
        assert_eq!(results(), Vec::<String>::new(), "libcni's results");
        // Some of it the kernel clears away on its own.
        until_none("the containers have left", || self.of_containers(before, addresses));
    }

    /// Returns what has changed on the host and is no network's.
    fn of_containers(&self, before: &Snapshot, addresses: &[&str]) -> Vec<String> {
        let difference = before.difference(&self.lab.snapshot());
        let theirs = |line: &&str| {
            let networks = match line.split(' ').collect::<Vec<_>>()[..] {
                ["+", "link", _, kind, ..] => kind == "bridge",
                ["+", "file", path, ..] => path.starts_with("run/weft/masquerade/"),
                ["+", ..] => true,
                _ => false,
            };
            let is_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':');
            let named = line.split(|c| !is_part(c)).any(|word| addresses.contains(&word));
            !networks || named
        };
        difference.lines().filter(theirs).map(String::from).collect()
    }

    /// Asserts that the host is as it was, and that no runtime has a result left.
    #[track_caller]
    pub(crate) fn assert_restored(&self, before: &Snapshot) {
        assert_eq!(results(), Vec::<String>::new(), "libcni's results");
        self.lab.assert_restored(before);
    }
}

/// Returns the names of libcni's cached results.
pub(crate) fn results() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir("/var/lib/cni/results") else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
