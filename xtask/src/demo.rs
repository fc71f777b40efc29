//! `demo`: what weft does, in ten seconds, as the commands a person would type.
//!
//! Everything happens in network and mount namespaces of its own. The demo ends by showing that
//! what it built is gone, inside as well as on the host.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{is_root, output, program, run as execute, search_path};
use crate::{setup, stage};

const INSIDE: &str = "--inside";
const ROOT: &str = "/run/weft-demo";

/// Runs the demo; `words` is how it calls itself again inside its namespaces.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if words.iter().any(|word| word == INSIDE) {
        return inside();
    }
    setup::run()?;
    stage::all()?;
    let before = trace(Path::new("/"))?;
    let mut again = program("unshare");
    again.args(["--mount", "--net"]);
    if !is_root() {
        again.args(["--user", "--map-root-user"]);
    }
    execute(again.arg(std::env::current_exe().context("cannot find myself")?).args(["demo", INSIDE]))?;
    same("this machine", &before, &trace(Path::new("/"))?)
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
    let before = trace(Path::new(ROOT))?;

    show(&BUILD)?;
    show(&PROVE)?;
    no_way_back()?;
    show(&CLEAR)?;

    println!("\n# what is left: links, addresses, routes, rules, firewall, namespaces, files");
    same("the demo's host", &before, &trace(Path::new(ROOT))?)?;
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
    match output(&mut shell(NO_WAY_BACK)) {
        Ok(route) => bail!("the outside has a route to the containers, so the ping proved nothing: {route}"),
        Err(_) => println!("  RTNETLINK answers: Network is unreachable"),
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

/// Collects what a network tool can leave behind, as text.
fn trace(root: &Path) -> Result<String> {
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
        let listing = output(program(words[0]).args(&words[1..]));
        // An ordinary user may not list the host's firewall, and cannot have changed it either.
        text += &listing.unwrap_or_default();
    }
    for folder in ["etc/weft", "run/weft", "var/lib/weft", "var/lib/cni"] {
        text += &output(program("find").arg(root.join(folder)).args(FILES)).unwrap_or_default();
    }
    Ok(text)
}

fn same(place: &str, before: &str, after: &str) -> Result<()> {
    if before == after {
        return Ok(());
    }
    let fresh = after
        .lines()
        .filter(|line| !before.lines().any(|old| old == *line))
        .map(|line| format!("\n+ {line}"));
    let gone = before
        .lines()
        .filter(|line| !after.lines().any(|new| new == *line))
        .map(|line| format!("\n- {line}"));
    bail!("{place} is not as it was:{}{}", gone.collect::<String>(), fresh.collect::<String>());
}
