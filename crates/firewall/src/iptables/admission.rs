//! Letting containers through in the chains of upstream's `firewall` plugin.
//!
//! CNI: plugins/meta/firewall/iptables.go, ingresspolicy.go.
//!
//! ```text
//! -A FORWARD -j CNI-ISOLATION-STAGE-1                  with an ingress policy; before the next one
//! -A FORWARD -j CNI-FORWARD
//! -A CNI-FORWARD -j CNI-ADMIN                          the administrator's, never touched by us
//! -A CNI-FORWARD -d 10.0.0.2/32 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
//! -A CNI-FORWARD -s 10.0.0.2/32 -j ACCEPT
//! -A CNI-ISOLATION-STAGE-1 -i br0 -o br0 -j DROP       ingressPolicy: isolated
//! -A CNI-ISOLATION-STAGE-1 -i br0 ! -o br0 -j CNI-ISOLATION-STAGE-2
//! -A CNI-ISOLATION-STAGE-1 -j RETURN
//! -A CNI-ISOLATION-STAGE-2 -o br0 -j DROP
//! -A CNI-ISOLATION-STAGE-2 -j RETURN
//! ```
//!
//! One listing and one `iptables-restore` for each family that the container has an address of;
//! upstream starts ten programs. Unlike upstream's, a bridge's rules go with its last container.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_nft::{Family, Socket};

use super::lock::Writer;
use super::part::{Part, Scripts, deletion};
use super::restore::Listing;
use super::tool::{Rules, Saved, Table, Tool};
use crate::{FirewallError, Ingress};

const FORWARD: &str = "FORWARD";
const PRIVATE: &str = "CNI-FORWARD";
const STAGE_1: &str = "CNI-ISOLATION-STAGE-1";
const STAGE_2: &str = "CNI-ISOLATION-STAGE-2";
const SHARED: &str =
    r#"-m comment --comment "CNI firewall plugin rules (ingressPolicy: same-bridge|isolated)""#;
/// The chain for the administrator's own rules, unless the configuration names another.
pub const ADMIN_CHAIN: &str = "CNI-ADMIN";

/// What one container needs of these chains.
pub(crate) struct Wanted<'a> {
    pub(crate) admin_chain: &'a str,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) ingress: Option<&'a Ingress>,
}

impl Wanted<'_> {
    fn of(&self, tool: Tool) -> Vec<IpAddr> {
        self.addresses.iter().copied().filter(|addr| addr.is_ipv6() == tool.is_v6()).collect()
    }
}

impl Part for Wanted<'_> {
    fn name(&self) -> String {
        let list: Vec<_> = self.addresses.iter().map(ToString::to_string).collect();
        format!("what lets {} pass", list.join(" and "))
    }

    fn tables(&self) -> &'static [Table] {
        &[Table::Filter]
    }

    fn is_in(&self, tool: Tool) -> bool {
        !self.of(tool).is_empty()
    }

    fn may_leave(&self, _tool: Tool) -> bool {
        false
    }

    fn scripts(&self, there: &Saved, tool: Tool) -> Scripts {
        let addresses = self.of(tool);
        let mut scripts = Scripts::default();
        if !addresses.is_empty() {
            let there = there.table(Table::Filter);
            scripts.filter = admission(there, self.admin_chain, &addresses);
            scripts.filter.extend(self.ingress.into_iter().flat_map(|ingress| policy(there, ingress)));
        }
        scripts
    }
}

/// Removes these addresses, and the policy of these bridges. A program that is not installed has no rules.
pub(crate) fn remove(
    _writer: &Writer,
    addresses: &[IpAddr],
    bridges: &[IfName],
) -> Result<(), FirewallError> {
    for tool in Tool::usable().filter(|tool| tool.is_installed()) {
        let mine: Vec<_> = addresses.iter().copied().filter(|addr| addr.is_ipv6() == tool.is_v6()).collect();
        if mine.is_empty() && bridges.is_empty() {
            continue;
        }
        let there = tool.saved(Table::Filter)?;
        let mut script = removal(&there, &mine);
        script.extend(retirement(&there, bridges));
        tool.restore(Table::Filter, &script)?;
    }
    Ok(())
}

/// Returns whether upstream's chains may be in the kernel. Starts nothing.
pub(crate) fn may_be_there(socket: Option<&mut Socket>) -> bool {
    let tables = [weft_nft::Table::new(Family::Ip, "filter"), weft_nft::Table::new(Family::Ip6, "filter")];
    let has_chain = |socket: &mut Socket| {
        tables.into_iter().any(|table| socket.has_chain(table, PRIVATE).unwrap_or_default())
    };
    socket.is_some_and(has_chain) || Tool::BOTH.iter().any(|tool| tool.has_legacy(Table::Filter))
}

/// Returns what is missing, in upstream's words.
pub(crate) fn missing(wanted: &Wanted<'_>, listing: &mut Listing) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    for tool in Tool::BOTH.into_iter().filter(|tool| wanted.is_in(*tool)) {
        missing.extend(missing_in(wanted, listing.of(tool)?.table(Table::Filter), tool));
    }
    Ok(missing)
}

/// Returns what is missing of one family in what was saved.
fn missing_in(wanted: &Wanted<'_>, there: &Rules, tool: Tool) -> Vec<String> {
    let mut missing = Vec::new();
    let mut expect = |chain: &str, rule: String| {
        if !there.has(chain, &rule) {
            missing.push(format!("expected {chain} rule [{}] not found", words(&rule, chain)));
        }
    };
    expect(FORWARD, jump());
    expect(PRIVATE, admin_jump(wanted.admin_chain));
    for rule in wanted.of(tool).into_iter().flat_map(accepting) {
        expect(PRIVATE, rule);
    }
    if let Some(ingress) = wanted.ingress {
        expect(FORWARD, stage_jump());
        for (chain, rule) in stages(ingress) {
            expect(chain, rule);
        }
    }
    missing
}

/// A rule without its chain and quotes, as upstream prints one.
fn words(rule: &str, chain: &str) -> String {
    rule.trim_start_matches(&format!("-A {chain} ")).replace('"', "")
}

fn jump() -> String {
    format!(r#"-A {FORWARD} -m comment --comment "CNI firewall plugin rules" -j {PRIVATE}"#)
}

fn admin_jump(admin: &str) -> String {
    format!(r#"-A {PRIVATE} -m comment --comment "CNI firewall plugin admin overrides" -j {admin}"#)
}

fn stage_jump() -> String {
    format!("-A {FORWARD} {SHARED} -j {STAGE_1}")
}

fn accepting(addr: IpAddr) -> [String; 2] {
    let host = IpNetwork::from(addr);
    [
        format!("-A {PRIVATE} -d {host} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"),
        format!("-A {PRIVATE} -s {host} -j ACCEPT"),
    ]
}

/// The rules of a bridge's policy, in the order in which they stand.
fn stages(ingress: &Ingress) -> Vec<(&'static str, String)> {
    let bridge = &ingress.bridge;
    let policy = if ingress.closed { "isolated" } else { "same-bridge" };
    let comment = format!(r#"-m comment --comment "CNI firewall plugin rules (ingressPolicy: {policy})""#);
    let mut rules = Vec::new();
    if ingress.closed {
        rules.push((STAGE_1, format!("-A {STAGE_1} -i {bridge} -o {bridge} {comment} -j DROP")));
    }
    rules.extend([
        (STAGE_1, format!("-A {STAGE_1} -i {bridge} ! -o {bridge} {comment} -j {STAGE_2}")),
        (STAGE_2, format!("-A {STAGE_2} -o {bridge} {SHARED} -j DROP")),
    ]);
    rules
}

fn returning(stage: &str) -> String {
    format!("-A {stage} {SHARED} -j RETURN")
}

/// An insertion at the head of a chain instead of at its end.
fn first(rule: &str, chain: &str) -> String {
    rule.replacen(&format!("-A {chain} "), &format!("-I {chain} 1 "), 1)
}

/// The lines that let addresses through.
fn admission(there: &Rules, admin: &str, addresses: &[IpAddr]) -> Vec<String> {
    let mut lines = Vec::new();
    for chain in [PRIVATE, admin] {
        // Naming a chain empties it.
        if there.chain(chain).is_none() {
            lines.push(format!(":{chain} - [0:0]"));
        }
    }
    if !there.has(FORWARD, &jump()) {
        lines.push(first(&jump(), FORWARD));
        // The policies come first: what they drop must not have been accepted.
        for stage in stage_jumps(there) {
            lines.extend([deletion(stage), first(stage, FORWARD)]);
        }
    }
    if !there.has(PRIVATE, &admin_jump(admin)) {
        lines.push(first(&admin_jump(admin), PRIVATE));
    }
    let rules = addresses.iter().copied().flat_map(accepting);
    lines.extend(rules.filter(|rule| !there.has(PRIVATE, rule)));
    lines
}

/// The rules of FORWARD that lead to the policies. Older versions of upstream gave them other comments.
fn stage_jumps(there: &Rules) -> impl Iterator<Item = &String> {
    let end = format!(" -j {STAGE_1}");
    there.chain(FORWARD).unwrap_or_default().iter().filter(move |rule| rule.ends_with(&end))
}

/// The lines that make a bridge's policy so.
fn policy(there: &Rules, ingress: &Ingress) -> Vec<String> {
    let mut lines = Vec::new();
    for stage in [STAGE_1, STAGE_2] {
        if there.chain(stage).is_none() {
            lines.push(format!(":{stage} - [0:0]"));
        }
        if !there.has(stage, &returning(stage)) {
            lines.push(returning(stage));
        }
    }
    if stage_jumps(there).next().is_none() {
        lines.push(first(&stage_jump(), FORWARD));
    }
    let wanted = stages(ingress);
    let present = of_bridge(there, &ingress.bridge);
    let same = present.len() == wanted.len() && wanted.iter().all(|(chain, rule)| there.has(chain, rule));
    if !same {
        lines.extend(present.iter().map(|rule| deletion(rule)));
        // Inserted one before the other, so the last one first.
        lines.extend(wanted.iter().rev().map(|(chain, rule)| first(rule, chain)));
    }
    lines
}

/// The rules that some version of upstream or we have written for a bridge.
fn of_bridge<'a>(there: &'a Rules, bridge: &IfName) -> Vec<&'a String> {
    let starts = [format!("-A {STAGE_1} -i {bridge} "), format!("-A {STAGE_2} -o {bridge} ")];
    let rules = [STAGE_1, STAGE_2].into_iter().flat_map(|stage| there.chain(stage).unwrap_or_default());
    rules.filter(|rule| starts.iter().any(|start| rule.starts_with(start))).collect()
}

/// The lines that let addresses through no longer. A rule may be there more than once.
fn removal(there: &Rules, addresses: &[IpAddr]) -> Vec<String> {
    let rules: Vec<_> = addresses.iter().copied().flat_map(accepting).collect();
    let present = there.chain(PRIVATE).unwrap_or_default().iter();
    present.filter(|line| rules.contains(line)).map(|line| deletion(line)).collect()
}

/// The lines that take the policy of bridges away, and the stages with the last of them.
fn retirement(there: &Rules, bridges: &[IfName]) -> Vec<String> {
    let leaving: Vec<_> = bridges.iter().flat_map(|bridge| of_bridge(there, bridge)).collect();
    if leaving.is_empty() {
        return Vec::new();
    }
    let mut lines: Vec<_> = leaving.iter().map(|rule| deletion(rule)).collect();
    let stays = |rule: &&String| !leaving.contains(rule) && !rule.ends_with(" -j RETURN");
    if [STAGE_1, STAGE_2].iter().any(|stage| there.chain(stage).unwrap_or_default().iter().any(|r| stays(&r)))
    {
        return lines;
    }
    lines.extend(stage_jumps(there).map(|jump| deletion(jump)));
    for stage in [STAGE_1, STAGE_2] {
        if there.chain(stage).is_some() {
            lines.extend([format!("-F {stage}"), format!("-X {stage}")]);
        }
    }
    lines
}

#[cfg(test)]
mod tests;
