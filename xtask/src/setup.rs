//! `setup`: installs the programs that the other tasks call, when one is missing.

use anyhow::{Context, Result, bail};

use crate::shell::{have, is_root, output, program};

/// What must be there, and the Debian package that brings it.
const NEEDS: [(&str, &str); 17] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("ping", "iputils-ping"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("cc", "build-essential"),
    // The fuzzer's own library is C++.
    ("c++", "build-essential"),
    ("git", "git"),
    ("openssl", "openssl"),
    // etcd's protocol is compiled from its description, which includes some of Google's.
    ("protoc", "protobuf-compiler"),
    ("/usr/include/google/protobuf/empty.proto", "libprotobuf-dev"),
    ("strace", "strace"),
    ("ethtool", "ethtool"),
    ("shellcheck", "shellcheck"),
    ("wg", "wireguard-tools"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
];

/// Installs what is missing; says and does nothing when all is there.
pub(crate) fn run() -> Result<()> {
    let mut packages: Vec<&str> = Vec::new();
    for (wanted, package) in NEEDS {
        let there =
            if wanted.starts_with('/') { std::path::Path::new(wanted).exists() } else { have(wanted) };
        if !there && !packages.contains(&package) {
            packages.push(package);
        }
    }
    if packages.is_empty() {
        return Ok(());
    }
    install(&packages)
}

/// Installs Debian packages, after as many looks at the archive as it takes.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    if !have("apt-get") {
        bail!(
            "missing: {} (names of Debian packages); this system has no apt-get, install them its way",
            packages.join(" ")
        );
    }
    println!("installing {}", packages.join(" "));
    let mut attempt = 1;
    loop {
        let installed = look().and_then(|()| {
            output(apt().args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages))
        });
        match installed {
            Ok(_) => return Ok(()),
            Err(error) if attempt == 3 => {
                return Err(error).context("apt-get did not install what is missing");
            }
            Err(error) => eprintln!("xtask: {error:#}; trying again"),
        }
        attempt += 1;
        std::thread::sleep(std::time::Duration::from_secs(3));
    }
}

/// Looks at what the archive has by now.
pub(crate) fn look() -> Result<()> {
    output(apt().args(["update", "-qq"])).map(drop)
}

fn apt() -> std::process::Command {
    let mut command = if is_root() { program("apt-get") } else { program("sudo") };
    if !is_root() {
        command.arg("apt-get");
    }
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}
