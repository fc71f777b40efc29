//! Published ports in the chains of upstream's `portmap`, with what upstream lacks in chains of our own.
//!
//! CNI: plugins/meta/portmap/portmap_iptables.go.
//!
//! ```text
//! nat     PREROUTING, OUTPUT -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
//!         CNI-HOSTPORT-DNAT -p tcp -m multiport --dports 8080,8081 -j CNI-DN-<21 hex digits>
//!         CNI-DN-... -s 10.1.0.0/16 -p tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//!         CNI-DN-... -s 127.0.0.1 -p tcp --dport 8080 -j CNI-HOSTPORT-SETMARK
//!         CNI-DN-... -p tcp --dport 8080 -j DNAT --to-destination 10.1.0.2:80
//!         POSTROUTING -j CNI-HOSTPORT-MASQ, which masquerades what SETMARK has marked
//! filter  INPUT -j WEFT-INPUT: who is not on a port's list of sources
//!         WEFT-FORWARD ... -j WEFT-ROUTED: ports of networks that are routed
//! raw     PREROUTING ! -i lo -d 127.0.0.0/8 -j DROP, and the same for -s, since route_localnet lets them in
//! ```
//!
//! An attachment's rules are one chain in `nat`, which is written as a whole, and rules elsewhere that carry
//! the chain's name as a comment. One listing and one `iptables-restore` for each family.

mod rules;
mod unknown;

use std::path::Path;

use weft_model::Endpoint;
use weft_state::ports::Owner;

use super::lock::Writer;
use super::part::{self, Part, Scripts, deletion};
use super::restore::Listing;
use super::tool::{Rules, Saved, Table, Tool};
use crate::claim::Claims;
use crate::{Change, FirewallError, entry};

use rules::{Family, chain_name};
pub(crate) use unknown::Unknown;

const DNAT: &str = "CNI-HOSTPORT-DNAT";
/// What upstream had before it marked packets.
const SNAT: &str = "CNI-HOSTPORT-SNAT";
const SETMARK: &str = "CNI-HOSTPORT-SETMARK";
const MASQ: &str = "CNI-HOSTPORT-MASQ";
/// What every attachment's chain starts with.
const OWN: &str = "CNI-DN-";
/// What its second chain started with.
const OWN_MASQUERADING: &str = "CNI-SN-";
/// The rules for hosts that are not on a port's list.
pub(crate) const INPUT: &str = "WEFT-INPUT";
/// The rules for ports of routed networks.
pub(crate) const ROUTED: &str = "WEFT-ROUTED";

/// What an attachment publishes.
pub(crate) struct Ports<'a> {
    pub(crate) owner: &'a Owner,
    /// Whether a link routes loopback addresses by claim of a network, whether or not a port is published.
    pub(crate) keeps_localhost: bool,
}

impl Part for Ports<'_> {
    fn name(&self) -> String {
        format!("what {} publishes", self.owner.endpoint)
    }

    fn tables(&self) -> &'static [Table] {
        &[Table::Raw, Table::Filter, Table::Nat]
    }

    fn is_in(&self, tool: Tool) -> bool {
        !Family::of(self.owner, tool).is_empty()
    }

    fn may_leave(&self, _tool: Tool) -> bool {
        true
    }

    fn scripts(&self, there: &Saved, tool: Tool) -> Scripts {
        scripts(there, self.owner, &Family::of(self.owner, tool), self.keeps_localhost)
    }
}

/// Keeps others from the host's loopback addresses.
pub(crate) struct Protection;

impl Part for Protection {
    fn name(&self) -> String {
        "what keeps others from the host's 127.0.0.1".into()
    }

    fn tables(&self) -> &'static [Table] {
        &[Table::Raw]
    }

    fn is_in(&self, tool: Tool) -> bool {
        !tool.is_v6()
    }

    fn may_leave(&self, _tool: Tool) -> bool {
        false
    }

    fn scripts(&self, there: &Saved, tool: Tool) -> Scripts {
        let mut scripts = Scripts::default();
        if self.is_in(tool) {
            let raw = there.table(Table::Raw);
            let rules = rules::LOCALHOST_ONLY.iter();
            rules.for_each(|rule| jump(&mut scripts.raw, raw, "PREROUTING", rule, false));
        }
        scripts
    }
}

/// Brings an attachment from whatever it had to exactly what the books say.
pub(crate) fn ensure(claims: &Path, owner: &Owner) -> Result<Change, FirewallError> {
    let writer = Writer::alone(claims)?;
    let keeps_localhost = keeps_localhost(claims)?;
    part::write(&writer, &[&Ports { owner, keeps_localhost }])
}

/// Takes back everything of an attachment that we wrote.
pub(crate) fn remove(claims: &Path, endpoint: &Endpoint) -> Result<(), FirewallError> {
    let _writer = Writer::alone(claims)?;
    let keeps = keeps_localhost(claims)?;
    for tool in Tool::usable().filter(|tool| tool.is_ready()) {
        tool.restore_all(&retirement(&tool.saved_all()?, &[&chain_name(endpoint)], keeps).as_tables())?;
    }
    Ok(())
}

/// Whether a link routes loopback addresses by claim of a network, whether or not a port is published.
pub(crate) fn keeps_localhost(claims: &Path) -> Result<bool, FirewallError> {
    Claims(claims).any(&entry::IPTABLES_LOCALNET)
}

/// Keeps others from the host's loopback addresses.
pub(crate) fn protect(claims: &Path) -> Result<(), FirewallError> {
    part::write(&Writer::alone(claims)?, &[&Protection]).map(drop)
}

/// Takes that back with the last claim, unless ports are published: then it goes with the last of them.
pub(crate) fn unprotect(claims: &Path) -> Result<(), FirewallError> {
    let _writer = Writer::alone(claims)?;
    if keeps_localhost(claims)? || !Tool::V4.is_ready() {
        return Ok(());
    }
    let saved = Tool::V4.saved_all()?;
    let is_published = saved.table(Table::Nat).chains_from(OWN).next().is_some();
    let lines = if is_published { Vec::new() } else { unprotection(&saved) };
    if lines.is_empty() { Ok(()) } else { Tool::V4.restore(Table::Raw, &lines) }
}

fn unprotection(saved: &Saved) -> Vec<String> {
    let raw = saved.table(Table::Raw);
    let there = rules::LOCALHOST_ONLY.iter().filter(|rule| raw.has("PREROUTING", rule));
    there.map(|rule| deletion(rule)).collect()
}

/// Returns which of the rules are missing that keep others from the host's loopback addresses.
pub(crate) fn unprotected(listing: &mut Listing) -> Result<Vec<String>, FirewallError> {
    let raw = listing.of(Tool::V4)?.table(Table::Raw);
    let missing = rules::LOCALHOST_ONLY.iter().filter(|rule| !raw.has("PREROUTING", rule));
    Ok(missing.map(|rule| format!("{} raw rule {rule}", Tool::V4.program())).collect())
}

/// Returns what is missing, a chain in place of its rules.
pub(crate) fn observe(owner: &Owner, listing: &mut Listing) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    for tool in Tool::BOTH.into_iter().filter(|tool| !Family::of(owner, *tool).is_empty()) {
        missing.extend(missing_of(owner, listing.of(tool)?, tool)?);
    }
    Ok(missing)
}

/// Returns what is missing of one family in what was saved.
fn missing_of(owner: &Owner, there: &Saved, tool: Tool) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    let is_worded = !if tool.is_v6() { &owner.conditions_v6 } else { &owner.conditions_v4 }.is_empty();
    let scripts = scripts(there, owner, &Family::of(owner, tool), true);
    let additions = scripts.all().filter(|(_, line)| line.starts_with("-A ") || line.starts_with("-I "));
    for (table, line) in additions {
        let rule = line.replacen("-I ", "-A ", 1).replacen(" 1 ", " ", usize::from(line.starts_with("-I ")));
        let chain = rule.split(' ').nth(1).unwrap_or_default();
        let has_chain = there.table(table).chain(chain).is_some();
        // Somebody's own conditions may be printed in other words than they were written in: then the program compares.
        if !has_chain || !is_worded || !tool.has_all(table, std::slice::from_ref(&rule))? {
            missing.push(not_found(table, chain, has_chain.then_some(&rule)));
        }
    }
    missing.dedup();
    Ok(missing)
}

/// CNI: the words are those of the reference plugin, for both families.
fn not_found(table: Table, chain: &str, rule: Option<&String>) -> String {
    match rule {
        None => format!("chain {chain} not found in iptables table {table}"),
        Some(rule) => format!("rule {rule} in chain {chain} not found in table {table}"),
    }
}

/// Returns the lines that lead from what is there to what the books say; none if that is the same.
fn scripts(saved: &Saved, owner: &Owner, family: &Family<'_>, keeps_localhost: bool) -> Scripts {
    let chain = chain_name(&owner.endpoint);
    if family.is_empty() {
        return retirement(saved, &[&chain], keeps_localhost);
    }
    let mut scripts = Scripts::default();
    if family.translates() {
        scripts.nat = translation(saved.table(Table::Nat), owner, family, &chain);
    } else {
        scripts.nat = without_chain(saved.table(Table::Nat), &chain);
    }
    let filter = saved.table(Table::Filter);
    commented(&mut scripts.filter, filter, INPUT, &chain, &family.refusals(&chain));
    commented(&mut scripts.filter, filter, ROUTED, &chain, &family.routed(&chain));
    if !family.refusals(&chain).is_empty() {
        jump(&mut scripts.filter, filter, "INPUT", &format!("-A INPUT -j {INPUT}"), true);
    }
    if family.needs_localhost() {
        let raw = saved.table(Table::Raw);
        for rule in rules::LOCALHOST_ONLY {
            jump(&mut scripts.raw, raw, "PREROUTING", rule, false);
        }
    }
    scripts
}

/// The lines for `nat`.
fn translation(there: &Rules, owner: &Owner, family: &Family<'_>, chain: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let set_mark = family.set_mark_chain();
    create(&mut lines, there, DNAT);
    if let Some(bit) = family.mark_bit() {
        for (name, rule) in [(SETMARK, rules::set_mark(bit)), (MASQ, rules::masquerade(bit))] {
            create(&mut lines, there, name);
            if !there.has(name, &rule) {
                lines.push(rule);
            }
        }
        jump(&mut lines, there, "POSTROUTING", &rules::requiring_masquerade(), true);
    }
    let wanted = family.chain(chain, set_mark);
    if there.chain(chain) != Some(&wanted) {
        // Naming a chain empties it.
        lines.push(format!(":{chain} - [0:0]"));
        lines.extend(wanted);
    }
    let entries = family.entries(owner, chain);
    let present = leading_to(there, DNAT, chain);
    if !rules::same(&present, &entries) {
        lines.extend(present.iter().map(|rule| deletion(rule)));
        lines.extend(entries);
    }
    for builtin in ["PREROUTING", "OUTPUT"] {
        jump(&mut lines, there, builtin, &rules::for_local(builtin), false);
    }
    lines
}

/// Brings the rules of one attachment in a chain that many share to what is wanted.
fn commented(lines: &mut Vec<String>, there: &Rules, shared: &str, chain: &str, wanted: &[String]) {
    let present = with_comment(there, shared, chain);
    if present.iter().copied().eq(wanted) {
        return;
    }
    if !wanted.is_empty() {
        create(lines, there, shared);
    }
    lines.extend(present.into_iter().map(|rule| deletion(rule)));
    lines.extend_from_slice(wanted);
}

/// Returns the lines that take back everything of an attachment, and what is there for any attachment with the last.
fn retirement(saved: &Saved, chains: &[&str], keeps_localhost: bool) -> Scripts {
    let (nat, filter) = (saved.table(Table::Nat), saved.table(Table::Filter));
    let mut scripts = Scripts {
        nat: chains.iter().flat_map(|chain| without_chain(nat, chain)).collect(),
        filter: chains.iter().flat_map(|chain| without_comment(filter, chain)).collect(),
        raw: Vec::new(),
    };
    let others = nat.chains_from(OWN).any(|name| !chains.contains(&name));
    if !others && !keeps_localhost && !scripts.nat.is_empty() {
        scripts.raw = unprotection(saved);
    }
    scripts
}

fn without_chain(there: &Rules, chain: &str) -> Vec<String> {
    let leading = [DNAT, SNAT].into_iter().flat_map(|shared| leading_to(there, shared, chain));
    let mut lines: Vec<_> = leading.map(|rule| deletion(rule)).collect();
    if there.chain(chain).is_some() {
        lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    lines
}

/// The lines that take an attachment's rules out of the shared chains, and away these chains with the last rule.
fn without_comment(there: &Rules, chain: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for (shared, builtin) in [(INPUT, Some("INPUT")), (ROUTED, None)] {
        let leaving = with_comment(there, shared, chain);
        if leaving.is_empty() {
            continue;
        }
        lines.extend(leaving.iter().map(|rule| deletion(rule)));
        if leaving.len() < there.chain(shared).unwrap_or_default().len() {
            continue;
        }
        let jumps = builtin.map(|builtin| leading_to(there, builtin, shared)).unwrap_or_default();
        // A network may still lead here, and then keeps the chain.
        if there.jumps_to(shared) == jumps.len() {
            lines.extend(jumps.into_iter().map(|rule| deletion(rule)));
            lines.push(format!("-X {shared}"));
        }
    }
    lines
}

fn create(lines: &mut Vec<String>, there: &Rules, chain: &str) {
    // Naming a chain that is there would empty it.
    if there.chain(chain).is_none() {
        lines.push(format!(":{chain} - [0:0]"));
    }
}

fn jump(lines: &mut Vec<String>, there: &Rules, builtin: &str, rule: &str, first: bool) {
    if there.has(builtin, rule) {
        return;
    }
    let at = if first { format!("-I {builtin} 1 ") } else { format!("-A {builtin} ") };
    lines.push(rule.replacen(&format!("-A {builtin} "), &at, 1));
}

fn leading_to<'a>(there: &'a Rules, from: &str, chain: &str) -> Vec<&'a String> {
    let end = format!(" -j {chain}");
    there.chain(from).unwrap_or_default().iter().filter(|rule| rule.ends_with(&end)).collect()
}

fn with_comment<'a>(there: &'a Rules, shared: &str, chain: &str) -> Vec<&'a String> {
    let comment = format!(" --comment {chain} ");
    there.chain(shared).unwrap_or_default().iter().filter(|rule| rule.contains(&comment)).collect()
}

#[cfg(test)]
mod tests;
