//! House rules that a search can hold.

use std::path::Path;

use anyhow::{Result, bail};

use crate::shell::{top, tracked};
use crate::stage;

/// Text that may stand only in files under certain folders.
struct Confined {
    text: &'static str,
    folders: &'static [&'static str],
    why: &'static str,
}

const CONFINED: [Confined; 5] = [
    Confined {
        text: "unsafe {",
        folders: &[
            "crates/netns/",
            "crates/netlink/",
            "crates/nft/",
            "crates/tunnel/",
            "crates/start/",
            "bench/",
            // Programs of somebody else's, that only the kernel's own call attaches.
            "tests/scenarios/overlay_gate/",
        ],
        why: "unsafe code belongs to netns, netlink, nft, tunnel and the start of programs",
    },
    Confined {
        text: "Command::new(",
        folders: &[
            "crates/runtime/",
            "crates/firewall/",
            // A device of another SELinux context is made by a program that was started in it.
            "crates/netlink/src/tun.rs",
            "crates/testkit/",
            "bench/",
            "xtask/",
        ],
        why: "processes are started by weft_runtime::exec",
    },
    Confined { text: "setns(", folders: &["crates/netns/"], why: "only weft_netns enters namespaces" },
    Confined { text: "unshare(", folders: &["crates/netns/"], why: "only weft_netns leaves namespaces" },
    Confined {
        text: "println!(",
        folders: &["xtask/", "bench/", "crates/start/build.rs"],
        why: "stdout is the protocol: only the command prints",
    },
];

/// Words that mean unfinished work.
const UNFINISHED: [&str; 6] = ["todo!", "unimplemented!", "dbg!", "FIXME", "XXX", "TODO"];

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 4] = ["utils", "util", "helpers", "common"];

/// Files every plugin has.
const PLUGIN_FILES: [&str; 3] = ["Cargo.toml", "README.md", "src/lib.rs"];

/// Searches the tracked files.
pub(crate) fn check() -> Result<()> {
    let mut wrong = Vec::new();
    for path in tracked()? {
        let name = path.strip_prefix(top()).unwrap_or(&path).to_string_lossy().into_owned();
        if path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| EMPTY_NAMES.contains(&stem)) {
            wrong.push(format!("{name}: the name says nothing about what is inside"));
        }
        if name.ends_with(".rs") && name != "xtask/src/check/house.rs" {
            let text = std::fs::read_to_string(&path)?;
            wrong.extend(
                text.lines().enumerate().flat_map(|(index, line)| complaints(&name, index + 1, line)),
            );
        }
    }
    for kind in stage::types()? {
        let folder = Path::new("plugins").join(&kind);
        let missing = PLUGIN_FILES.iter().filter(|file| !top().join(&folder).join(file).is_file());
        wrong.extend(missing.map(|file| format!("{}: has no {file}", folder.display())));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

fn complaints(name: &str, number: usize, line: &str) -> Vec<String> {
    let code = line.trim_start();
    let mut found = Vec::new();
    for word in UNFINISHED.iter().filter(|word| code.contains(**word)) {
        found.push(format!("{name}:{number}: {word}: finish it or file it"));
    }
    if code.starts_with("//") {
        return found;
    }
    if code.contains("\"skipped: ") && !name.starts_with("crates/testkit/") {
        found.push(format!("{name}:{number}: a notice that nobody sees: use weft_testkit::skipped"));
    }
    if name.contains("/tests/") || name.ends_with("/testing.rs") {
        return found;
    }
    for rule in CONFINED.iter().filter(|rule| starts_word(code, rule.text)) {
        if !rule.folders.iter().any(|folder| name.starts_with(folder)) {
            found.push(format!("{name}:{number}: `{}`: {}", rule.text, rule.why));
        }
    }
    if code.starts_with("#[ignore]") {
        found.push(format!("{name}:{number}: an ignored test says why"));
    }
    found
}

/// Says whether `text` occurs in `line` as the start of a word: `eprintln!(` is no `println!(`.
fn starts_word(line: &str, text: &str) -> bool {
    let joins = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(text).any(|(at, _)| !line[..at].chars().next_back().is_some_and(joins))
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn a_rule_holds_outside_its_folders_only() {
        assert_eq!(complaints("crates/plan/src/lib.rs", 7, "    println!(\"x\");").len(), 1);
        assert!(complaints("xtask/src/main.rs", 7, "    println!(\"x\");").is_empty());
        assert!(complaints("crates/plan/tests/kernel.rs", 7, "    println!(\"x\");").is_empty());
        assert!(complaints("crates/plan/src/lib.rs", 7, "    eprintln!(\"x\");").is_empty());
        assert!(complaints("crates/plan/src/lib.rs", 7, "    // println!(\"x\")").is_empty());
    }
}
