//! What a host is at one moment, as text that can be compared and read.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::Program;
use crate::lab::json_of_ip;

/// The host's links, addresses, routes, rules, switches, firewall, and the files under the lab's root.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    lines: Vec<String>,
}

impl Snapshot {
    pub(crate) fn take(root: &Path) -> Self {
        let mut lines = links();
        lines.extend(routes());
        lines.extend(plain("rule", "ip", &["rule"]));
        lines.extend(plain("rule6", "ip", &["-6", "rule"]));
        lines.extend(switches());
        lines.extend(firewall());
        lines.extend(files(root));
        Self { lines }
    }

    /// Returns the lines that are in one and not in the other, marked - and +.
    pub fn difference(&self, later: &Self) -> String {
        let mut text = String::new();
        for line in self.lines.iter().filter(|line| !later.lines.contains(line)) {
            let _ = writeln!(text, "- {line}");
        }
        for line in later.lines.iter().filter(|line| !self.lines.contains(line)) {
            let _ = writeln!(text, "+ {line}");
        }
        if text.is_empty() && self != later {
            text.push_str("the same lines in another order or number\n");
        }
        text
    }

    /// Returns the lines that contain `words`.
    pub fn lines_with(&self, words: &str) -> Vec<&str> {
        self.lines.iter().map(String::as_str).filter(|line| line.contains(words)).collect()
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

/// One line per link and one per address. Link-local addresses come and go with carrier: the kernel's.
fn links() -> Vec<String> {
    let mut lines = Vec::new();
    for link in json_of_ip("address show").as_array().cloned().unwrap_or_default() {
        let name = link["ifname"].as_str().unwrap_or_default();
        let info = &link["linkinfo"];
        let up = link["flags"].as_array().is_some_and(|flags| flags.contains(&Value::from("UP")));
        lines.push(format!(
            "link {name} {} mac {} mtu {} master {} up {up} promiscuous {} settings {} port {}",
            word(&info["info_kind"]),
            word(&link["address"]),
            link["mtu"],
            word(&link["master"]),
            link["promiscuity"],
            steady(&info["info_data"]),
            steady(&info["info_slave_data"]),
        ));
        for address in
            link["addr_info"].as_array().into_iter().flatten().filter(|address| address["scope"] != "link")
        {
            lines.push(format!("address {name} {}/{}", word(&address["local"]), address["prefixlen"]));
        }
    }
    lines.sort();
    lines
}

/// The settings of a bridge or a port that are chosen, not counted by the kernel.
fn steady(settings: &Value) -> String {
    let chosen = ["vlan_filtering", "hairpin", "isolated", "mode"];
    let there = chosen.iter().filter(|key| !settings[**key].is_null());
    there.map(|key| format!("{key}={}", settings[*key])).collect::<Vec<_>>().join(",")
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn routes() -> Vec<String> {
    let mut lines = Vec::new();
    for family in ["-4", "-6"] {
        let listing = Program::new("ip").args([family, "route", "show", "table", "all"]).run();
        for line in listing.expect_ok().lines().filter(|line| !is_the_kernels(line)) {
            let words = line.split_whitespace().filter(|word| !matches!(*word, "linkdown" | "dead"));
            lines.push(format!("route {}", words.collect::<Vec<_>>().join(" ")));
        }
    }
    lines.sort();
    lines
}

/// Tells what the kernel makes in its own time: link-local routes with carrier, and the way to an IPv6 address a moment after the
/// address, which is a line of its own.
fn is_the_kernels(route: &str) -> bool {
    let to_itself = ["local ", "anycast "].iter().any(|kind| route.starts_with(kind))
        && route.contains("proto kernel metric");
    to_itself || route.contains("fe80::") || route.contains("ff00::")
}

/// Every line of a listing that must succeed: one that fails looks like a host with nothing in it.
fn plain(name: &str, program: &str, words: &[&str]) -> Vec<String> {
    let listing = Program::new(program).args(words).run();
    listing.expect_ok().lines().map(|line| format!("{name} {}", line.trim_end())).collect()
}

/// The switches of the kernel that a network tool may turn, for every interface.
fn switches() -> Vec<String> {
    let mut lines = Vec::new();
    for key in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        lines.push(switch(key));
    }
    let each = [
        ("ipv4", &["forwarding", "rp_filter", "route_localnet", "proxy_arp", "arp_notify"][..]),
        ("ipv6", &["forwarding", "accept_ra", "accept_dad", "disable_ipv6", "proxy_ndp"][..]),
    ];
    for (family, keys) in each {
        let folder = Path::new("/proc/sys/net").join(family).join("conf");
        let Ok(entries) = std::fs::read_dir(folder) else { continue };
        for interface in entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()) {
            lines.extend(keys.iter().map(|key| switch(&format!("{family}/conf/{interface}/{key}"))));
        }
    }
    lines.sort();
    lines
}

fn switch(key: &str) -> String {
    let value = std::fs::read_to_string(Path::new("/proc/sys/net").join(key)).unwrap_or_default();
    format!("switch {key} = {}", value.trim())
}

/// The nftables ruleset, and iptables' view of the tables it keeps elsewhere.
fn firewall() -> Vec<String> {
    let mut lines = plain("nft", "nft", &["-s", "list", "ruleset"]);
    lines.retain(|line| !line.starts_with("nft #"));
    for line in &mut lines {
        *line = without_countdown(line);
    }
    for program in ["iptables-save", "ip6tables-save"] {
        let saved = Program::new(program).run();
        let rules = saved
            .expect_ok()
            .lines()
            .filter(|line| line.starts_with("-A") || line.starts_with(":CNI") || line.starts_with(":WEFT"));
        lines.extend(
            rules.map(|line| format!("{program} {}", line.split('[').next().unwrap_or(line).trim_end())),
        );
    }
    lines
}

/// Returns the line without how long an element has left, which is another at every look.
fn without_countdown(line: &str) -> String {
    let mut parts = line.split(" expires ");
    let mut kept = parts.next().unwrap_or_default().to_string();
    for part in parts {
        kept += part.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
    }
    kept
}

/// Every file under the root with its mode and content, but for what is meant to stay: locks, and the
/// allocator's own memory (its index and where it was). A network's note that it was swept this boot and the
/// copy of its list are meant to stay as long as the network.
fn files(root: &Path) -> Vec<String> {
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    let there = |network: &str| root.join("etc/weft/networks.d").join(network).exists();
    found.retain(|name, _| {
        let copied = name.strip_prefix("run/weft/networks/").is_some_and(there);
        let swept = name.strip_prefix("run/weft/sweeps/");
        !copied && !swept.is_some_and(|network| there(&format!("{network}.conflist")))
    });
    found.into_iter().map(|(name, content)| format!("file {name} {content}")).collect()
}

fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let last = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if last != ".index" {
                walk(root, &path, found);
            }
            continue;
        }
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if last == "lock" || last.starts_with("last_reserved_ip.") || name.starts_with("run/weft/locks/") {
            continue;
        }
        let mode = path.metadata().map(|data| data.permissions().mode() & 0o777).unwrap_or_default();
        let bytes = std::fs::read(&path).unwrap_or_default();
        found.insert(name, format!("{mode:o} {:?}", String::from_utf8_lossy(&bytes)));
    }
}

#[cfg(test)]
mod tests {
    use super::without_countdown;

    #[test]
    fn an_element_stays_and_its_countdown_goes() {
        let line = "elements = { 10.0.0.2 timeout 5s expires 4s996ms, 10.0.0.3 expires 1m2s }";
        assert_eq!(without_countdown(line), "elements = { 10.0.0.2 timeout 5s, 10.0.0.3 }");
        assert_eq!(without_countdown("elements = { 10.0.0.2 }"), "elements = { 10.0.0.2 }");
    }
}
