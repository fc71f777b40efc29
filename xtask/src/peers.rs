//! The peers that the bench measures and tests run beside, besides the reference plugins: unpacked and not installed.
//!
//! Installing docker.io or firewalld would start a daemon that rules the machine's own forwarding, and etcd-server one that
//! listens: neither a measurement nor a test does that to anybody. What is installed already is used as it is.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::setup;
use crate::shell::{entries, have, output, program, top, write};

/// What must be there, and the Debian package that brings it.
const PEERS: [(&str, &str); 13] = [
    ("/usr/sbin/dockerd", "docker.io"),
    ("/usr/lib/podman/netavark", "netavark"),
    ("/usr/sbin/firewalld", "firewalld"),
    ("/usr/bin/wireguard-go", "wireguard-go"),
    ("/usr/sbin/dnsmasq", "dnsmasq-base"),
    ("/usr/bin/etcd", "etcd-server"),
    ("/usr/bin/etcdctl", "etcd-client"),
    ("/usr/bin/containerd", "containerd"),
    ("/usr/bin/podman", "podman"),
    ("/usr/bin/buildah", "buildah"),
    // What they start, and what is in the image that they start it from.
    ("/usr/bin/conmon", "conmon"),
    ("/usr/sbin/runc", "runc"),
    ("/usr/share/doc/busybox-static/copyright", "busybox-static"),
];

/// Unpacks those that are missing. A machine that cannot have them measures and tests without, and says so.
pub(crate) fn ensure() {
    for (file, package) in PEERS {
        let unpacked = folder().join(file.trim_start_matches('/'));
        if Path::new(file).exists() || unpacked.is_file() || !have("apt-get") {
            continue;
        }
        println!("unpacking {package}");
        if let Err(error) = unpack(package) {
            println!("going on without {package}: {error:#}");
        }
    }
}

/// Returns a busybox that needs no libraries.
pub(crate) fn busybox() -> Result<PathBuf> {
    ensure();
    let places =
        [folder().join("bin/busybox"), PathBuf::from("/usr/bin/busybox"), PathBuf::from("/bin/busybox")];
    places.into_iter().find(|path| path.is_file()).context("busybox-static is neither installed nor unpacked")
}

fn folder() -> PathBuf {
    top().join("target/peers")
}

/// Unpacks a package and those it needs that are not installed.
fn unpack(package: &str) -> Result<()> {
    let archives = folder().join("archives");
    std::fs::create_dir_all(&archives).context("cannot create target/peers")?;
    let list = || {
        output(program("apt-get").args([
            "install",
            "--print-uris",
            "-qq",
            "--no-install-recommends",
            package,
        ]))
    };
    let listing = list().or_else(|_| setup::look().and_then(|()| list()))?;
    // 'http://.../netavark_1.4.0-3_amd64.deb' netavark_1.4.0-3_amd64.deb 1036488 MD5Sum:...
    let names = listing.lines().filter_map(|line| line.split(' ').nth(1)?.split('_').next());
    let mut download = program("apt-get");
    download.current_dir(&archives).args(["download", "-qq", "-o", "APT::Sandbox::User=root"]);
    output(download.args(names))?;
    let mut versions = String::new();
    for archive in entries(&archives)? {
        output(program("dpkg-deb").arg("--extract").arg(&archive).arg(folder()))?;
        versions += &output(program("dpkg-deb").arg("--show").arg(&archive))?.replace('\t', " ");
    }
    write(&folder().join("versions"), &versions)
}
