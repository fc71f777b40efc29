//! An image of one program, busybox, in the format that all runtimes import.

use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};
use weft_testkit::{Program, peer};

/// What the image is called.
pub(crate) const NAME: &str = "docker.io/weft/busybox:1";
/// What its web server answers.
pub(crate) const PAGE: &str = "reached\n";
/// The web server's command line: what a container is reached by.
pub(crate) const SERVE: [&str; 7] = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"];

/// Returns the file of busybox, or says that it is lacking.
fn busybox() -> Option<PathBuf> {
    // The one that is installed may need libraries, which the image has not.
    let unpacked = weft_testkit::unpacked().join("bin/busybox");
    if unpacked.is_file() { Some(unpacked) } else { peer("/usr/bin/busybox") }
}

/// Makes the image in a folder, or says what is lacking: an archive as `docker save` writes it, and its file system
/// alone.
pub(crate) fn make(folder: &Path) -> Option<[PathBuf; 2]> {
    let busybox = busybox()?;
    let root = folder.join("root");
    for below in ["bin", "etc", "tmp", "www", "proc", "sys", "dev"] {
        std::fs::create_dir_all(root.join(below)).unwrap();
    }
    std::fs::copy(busybox, root.join("bin/busybox")).unwrap();
    std::fs::write(root.join("www/index.html"), PAGE).unwrap();
    for name in ["sh", "cat", "ip", "ping", "sleep", "wget"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    let layer = folder.join("layer.tar");
    pack(&root, &layer, &["."]);
    let digest: String =
        Sha256::digest(std::fs::read(&layer).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sleep", "100000"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = folder.join("image.tar");
    pack(folder, &archive, &["manifest.json", "config.json", "layer.tar"]);
    Some([archive, layer])
}

fn pack(folder: &Path, archive: &Path, names: &[&str]) {
    let words = ["-C", folder.to_str().unwrap(), "-cf", archive.to_str().unwrap()];
    Program::new("tar").args(words).args(names).run().expect_ok();
}
