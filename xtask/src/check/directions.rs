//! Which crate may depend on which. docs/architecture.md lists what is here.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::{cargo, output};
use crate::stage;

/// What each library may use of ours, besides itself. `plan` reaches the firewall because a
/// firewall fragment is a step of a plan; a plugin reaches the runtime to call its IPAM plugin.
const LIBRARIES: [(&str, &[&str]); 18] = [
    ("weft-model", &[]),
    ("weft-start", &[]),
    ("weft-cni", &["weft-model"]),
    ("weft-ipam", &["weft-model"]),
    ("weft-state", &["weft-model"]),
    ("weft-netns", &["weft-model"]),
    ("weft-netlink", &["weft-model", "weft-netns"]),
    ("weft-nft", &["weft-model", "weft-netns", "weft-netlink"]),
    ("weft-firewall", &["weft-model", "weft-netlink", "weft-nft", "weft-netns", "weft-state"]),
    ("weft-plan", &["weft-model", "weft-netlink", "weft-netns", "weft-nft", "weft-firewall", "weft-state"]),
    (
        "weft-overlay",
        &["weft-model", "weft-state", "weft-firewall", "weft-netlink", "weft-netns", "weft-nft", "weft-plan"],
    ),
    (
        "weft-tunnel",
        &["weft-model", "weft-netlink", "weft-netns", "weft-overlay", "weft-runtime", "weft-state"],
    ),
    ("weft-store", &["weft-model", "weft-netlink", "weft-overlay", "weft-state"]),
    ("weft-runtime", &["weft-cni", "weft-model", "weft-state"]),
    (
        "weft-plugin",
        &[
            "weft-cni",
            "weft-model",
            "weft-netlink",
            "weft-netns",
            "weft-plan",
            "weft-runtime",
            "weft-state",
            "weft-firewall",
        ],
    ),
    ("weft-manager", &["weft-runtime", "weft-cni", "weft-model", "weft-state", "weft-ipam"]),
    (
        "weft-daemon",
        &[
            "weft-firewall",
            "weft-manager",
            "weft-model",
            "weft-netlink",
            "weft-netns",
            "weft-nft",
            "weft-overlay",
            "weft-state",
            "weft-store",
            "weft-tunnel",
        ],
    ),
    ("weft-cli", &["weft-manager", "weft-cni", "weft-model", "weft-start", "weft-state"]),
];

/// What a plugin may use of ours: everything below it, never the manager and never a neighbour.
const PLUGIN: [&str; 12] = [
    "weft-plugin",
    "weft-runtime",
    "weft-cni",
    "weft-plan",
    "weft-netlink",
    "weft-netns",
    "weft-nft",
    "weft-model",
    "weft-firewall",
    "weft-ipam",
    "weft-overlay",
    "weft-state",
];

/// Packages for developers, which may use what they like and which nothing that ships may use.
const DEVELOPERS: [&str; 5] = ["weft-testkit", "weft-tests", "weft-bench", "weft-harness", "xtask"];

/// The package that is all plugins in one binary, and nothing else.
const MULTICALL: &str = "weft-multicall";

/// What plugins do without, however it may come: a runtime and an argument parser are most of what a start would cost.
const HEAVY: [&str; 2] = ["tokio", "clap"];

/// Returns the tables above as docs/architecture.md has them.
pub(crate) fn table() -> String {
    let line = |who: &str, may: &[&str]| {
        let may: Vec<String> = may.iter().map(|name| format!("`{}`", short(name))).collect();
        format!("| {who} | {} |\n", if may.is_empty() { "nothing of ours".into() } else { may.join(", ") })
    };
    let libraries = LIBRARIES.iter().map(|(who, may)| line(&format!("`{}`", short(who)), may));
    let rows: String = libraries.chain([line("a plugin", &PLUGIN)]).collect();
    format!("| who | may use |\n|---|---|\n{rows}")
}

fn short(package: &str) -> &str {
    package.trim_start_matches("weft-")
}

/// Returns whether a package of cargo's metadata has this dependency.
fn depends_on(package: &Value, name: &str) -> bool {
    package["dependencies"].as_array().into_iter().flatten().any(|dependency| dependency["name"] == name)
}

/// Names what the plugins link that they do without.
fn heavy() -> Result<Vec<String>> {
    let tree = ["tree", "--offline", "--package", MULTICALL, "--edges", "normal", "--prefix", "none"];
    let tree = output(cargo().args(tree))?;
    let linked = |name: &&str| tree.lines().any(|line| line.split(' ').next() == Some(*name));
    Ok(HEAVY.into_iter().filter(linked).map(|name| format!("{MULTICALL} links {name}")).collect())
}

/// Compares the manifests with the tables above.
pub(crate) fn check() -> Result<()> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--no-deps", "--offline"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata printed no JSON")?;
    let plugins = stage::packages()?;
    let mut wrong = heavy()?;
    for package in metadata["packages"].as_array().context("cargo metadata names no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        if DEVELOPERS.contains(&name) {
            continue;
        }
        if name == MULTICALL {
            wrong.extend(plugins.iter().filter(|plugin| !depends_on(package, plugin)).map(|plugin| {
                format!("{MULTICALL} lacks {plugin}: a line in cni/Cargo.toml and one in cni/src/main.rs")
            }));
            continue;
        }
        let library = LIBRARIES.iter().find(|(library, _)| *library == name).map(|(_, may)| *may);
        let is_plugin = plugins.iter().any(|plugin| plugin == name);
        let Some(may) = library.or(is_plugin.then_some(&PLUGIN[..])) else {
            wrong.push(format!("{name}: not in the table of xtask/src/check/directions.rs"));
            continue;
        };
        let own =
            package["dependencies"].as_array().into_iter().flatten().filter(|dep| dep["path"].is_string());
        for dependency in own {
            let target = dependency["name"].as_str().unwrap_or_default();
            let for_tests = dependency["kind"] == "dev";
            let allowed =
                may.contains(&target) || (for_tests && !plugins.iter().any(|plugin| plugin == target));
            if !allowed {
                wrong.push(format!("{name} must not depend on {target}"));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}
