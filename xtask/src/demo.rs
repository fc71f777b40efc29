//! `demo`: what weft does, in ten seconds, as the commands a person would type.
//!
//! Everything happens in network and mount namespaces of its own. The demo ends by showing that
//! what it built is gone inside, and that nothing of it ever reached the machine.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::shell::{complaint, is_root, output, program, run as execute, search_path, top, write};
use crate::{setup, stage};

const INSIDE: &str = "--inside";
const ROOT: &str = "/run/weft-demo";

/// Where weft keeps files, below its root.
const FOLDERS: [&str; 4] = ["etc/weft", "run/weft", "var/lib/weft", "var/lib/cni"];

/// Runs the demo; `words` is how it calls itself again inside its namespaces.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if words.iter().any(|word| word == INSIDE) {
        return inside();
    }
    setup::run()?;
    stage::all()?;
    let before = names(Path::new("/"))?;
    let mut again = program("unshare");
    again.args(["--mount", "--net"]);
    if !is_root() {
        again.args(["--user", "--map-root-user"]);
    }
    execute(again.arg(std::env::current_exe().context("cannot find myself")?).args(["demo", INSIDE]))?;
    escaped(&before, &names(Path::new("/"))?)
}

/// One thing the demo shows.
struct Step {
    say: &'static str,
    commands: &'static [&'static str],
}

const BUILD: [Step; 5] = [
    Step {
        say: "a namespace that plays the outside world: 192.0.2.2, behind this host's uplink",
        commands: &[
            "ip netns add outside",
            "ip link add uplink0 type veth peer name eth0 netns outside",
            "ip address add 192.0.2.1/24 dev uplink0",
            "ip link set uplink0 up",
            "ip route add default via 192.0.2.2",
            "ip -n outside address add 192.0.2.2/24 dev eth0",
            "ip -n outside link set eth0 up",
        ],
    },
    Step { say: "a network", commands: &["weft network create --subnet 10.90.0.0/24 blue"] },
    Step {
        say: "two containers: a container is a network namespace",
        commands: &["ip netns add red", "ip netns add green"],
    },
    Step {
        say: "both join the network",
        commands: &["weft network connect blue red", "weft network connect --ip 10.90.0.20 blue green"],
    },
    Step { say: "who is where", commands: &["weft network ls", "weft ps"] },
];

const PROVE: [Step; 2] = [
    Step { say: "red reaches green", commands: &["ip netns exec red ping -n -c 1 -W 2 10.90.0.20"] },
    Step { say: "red reaches the outside", commands: &["ip netns exec red ping -n -c 1 -W 2 192.0.2.2"] },
];

const NO_WAY_BACK: &str = "ip -n outside route get 10.90.0.20";

const CLEAR: [Step; 2] = [
    Step {
        say: "everything goes",
        commands: &[
            "weft network disconnect blue red",
            "weft network disconnect blue green",
            "weft network rm blue",
        ],
    },
    Step {
        say: "and so do the namespaces and the uplink",
        commands: &[
            "ip netns delete red",
            "ip netns delete green",
            "ip link delete uplink0",
            "ip netns delete outside",
        ],
    },
];

fn inside() -> Result<()> {
    output(program("mount").args(["-t", "tmpfs", "tmpfs", "/run"]))?;
    std::fs::create_dir(ROOT).context("cannot create the demo's root folder")?;
    println!("(in namespaces of its own, with WEFT_ROOT={ROOT}: this machine's network is not touched)");
    output(program("ip").args(["link", "set", "lo", "up"]))?;
    let before = trace()?;
    let named_before = names(Path::new(ROOT))?;

    show(&BUILD)?;
    show(&PROVE)?;
    let made: Vec<String> = names(Path::new(ROOT))?.difference(&named_before).cloned().collect();
    write(&made_by_the_demo(), made.join("\n"))?;
    no_way_back()?;
    show(&CLEAR)?;

    println!("\n# what is left: links, addresses, routes, rules, firewall, namespaces, files");
    same(&before, &trace()?)?;
    println!("  nothing");
    Ok(())
}

fn show(steps: &[Step]) -> Result<()> {
    for step in steps {
        println!("\n# {}", step.say);
        for command in step.commands {
            println!("$ {command}");
            for line in output(&mut shell(command))?.lines().filter(|line| !line.trim().is_empty()) {
                println!("  {line}");
            }
        }
    }
    Ok(())
}

/// Shows that the answer from outside came through masquerading.
fn no_way_back() -> Result<()> {
    println!(
        "\n# the outside knows no way back to 10.90.0.0/24: the answer came to the host's own address, masqueraded"
    );
    println!("$ {NO_WAY_BACK}");
    let answer = complaint(&mut shell(NO_WAY_BACK))
        .context("the outside has a route to the containers, so the ping proved nothing")?;
    println!("  {answer}");
    if !answer.contains("unreachable") {
        bail!("the outside was to have no route to the containers, and said something else");
    }
    Ok(())
}

fn shell(command: &str) -> std::process::Command {
    let mut shell = program("sh");
    let path = format!("{}:{}", stage::folder().display(), search_path());
    shell.args(["-c", command]).env("PATH", path).env("WEFT_ROOT", ROOT).env("CNI_PATH", stage::folder());
    shell
}

/// Every file but locks, which are empty and meant to stay until the next boot.
const FILES: [&str; 5] = ["-type", "f", "-not", "-path", "*/locks/*"];

/// Collects what a network tool can leave behind in the demo's own host, as text.
///
/// Nobody else is in there, so that every difference is weft's.
fn trace() -> Result<String> {
    let commands: [&[&str]; 6] = [
        &["ip", "-brief", "link"],
        &["ip", "-brief", "address"],
        &["ip", "route", "show", "table", "all"],
        &["ip", "rule"],
        &["ip", "netns", "list"],
        &["nft", "-s", "list", "ruleset"],
    ];
    let mut text = String::new();
    for words in commands {
        text += &output(program(words[0]).args(&words[1..]))?;
    }
    for file in files(Path::new(ROOT))? {
        text += &format!("{}\n", file.display());
    }
    Ok(text)
}

/// Collects the names of all that the demo makes something of: links, namespaces, tables, files.
fn names(root: &Path) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    let first = |line: &str| line.split([' ', '@']).next().unwrap_or_default().to_string();
    for line in output(program("ip").args(["-brief", "link"]))?.lines() {
        names.insert(format!("link {}", first(line)));
    }
    for line in output(program("ip").args(["netns", "list"]))?.lines() {
        names.insert(format!("namespace {}", first(line)));
    }
    // An ordinary user may not list the machine's firewall, and cannot have changed it either.
    let tables = output(program("nft").args(["list", "tables"])).unwrap_or_default();
    names.extend(tables.lines().map(String::from));
    for file in files(root)? {
        names.insert(format!("file {}", file.display()));
    }
    Ok(names)
}

/// Lists weft's files, by their paths below its root.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for folder in FOLDERS.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir()) {
        // What an ordinary user may not look into, the demo cannot have written.
        let listing = output(program("find").arg(folder).args(FILES)).unwrap_or_default();
        let below = listing.lines().filter_map(|line| Path::new(line).strip_prefix(root).ok());
        found.extend(below.map(Path::to_path_buf));
    }
    found.sort();
    Ok(found)
}

/// The names of what the inside made, for the outside to look for.
fn made_by_the_demo() -> PathBuf {
    top().join("target/demo.made")
}

/// Says whether something the demo made appeared on this machine while it ran.
///
/// Only the demo's own names count: the machine's leases, routes and other people's links come and go.
fn escaped(before: &BTreeSet<String>, after: &BTreeSet<String>) -> Result<()> {
    let made = std::fs::read_to_string(made_by_the_demo()).context("the demo did not say what it made")?;
    if made.is_empty() {
        bail!("the demo made nothing, so it proved nothing");
    }
    let left: Vec<&str> =
        made.lines().filter(|name| after.contains(*name) && !before.contains(*name)).collect();
    if !left.is_empty() {
        bail!("the demo reached this machine: {}", left.join(", "));
    }
    if Path::new(ROOT).exists() {
        bail!("the demo reached this machine: folder {ROOT}");
    }
    Ok(())
}

fn same(before: &str, after: &str) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let only_in = |one: &str, other: &str, sign: char| -> String {
        let lines = one.lines().filter(|line| !other.lines().any(|there| there == *line));
        lines.map(|line| format!("\n{sign} {line}")).collect()
    };
    bail!("the demo's host is not as it was:{}{}", only_in(before, after, '-'), only_in(after, before, '+'));
}
