//! What the reference plugins have left in the host's firewall, where we have taken over from them.
//!
//! CNI: plugins/pkg/ip/ipmasq_iptables_linux.go, plugins/meta/portmap, plugins/meta/firewall, section "comments". Whose a
//! rule is stands in its comment:
//!
//! ```text
//! -A POSTROUTING -s 10.0.0.2/32 -m comment --comment "name: \"blue\" id: \"red\"" -j CNI-<24 digits>
//! -A CNI-HOSTPORT-DNAT ... --comment "dnat name: \"blue\" id: \"red\"" ... -j CNI-DN-<21 digits>
//! -A CNI-HOSTPORT-SNAT ... --comment "snat name: \"blue\" id: \"red\"" -j CNI-SN-<21 digits>, before version 0.7
//! ```
//!
//! Nothing is started unless a question to the kernel says that there is something to find.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use weft_model::{Endpoint, NetworkName};
use weft_nft::{Family, Socket};

use crate::claim::Claims;
use crate::iptables::lock::Writer;
use crate::iptables::tool::{Rules, Table, Tool};
use crate::iptables::{admission as chains, masquerade};
use crate::{Carrier, Firewall, FirewallError, admission, spoof, upstream, upstream_ports};

/// What begins the name of a chain of a container's.
const OWN: &str = "CNI-";

/// Who is still connected to a network, and which addresses are whose.
#[derive(Clone, Debug, Default)]
pub struct Survivors<'a> {
    /// The attachments that stay: container and interface, as plain text.
    pub attachments: Vec<(&'a str, &'a str)>,
    /// Addresses that somebody still has.
    pub addresses: Vec<IpAddr>,
}

/// An address that a container had on a network, which it has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departed<'a> {
    /// The container's id, as plain text.
    pub container: &'a str,
    /// The address.
    pub address: IpAddr,
}

impl Survivors<'_> {
    fn has(&self, container: &str) -> bool {
        self.attachments.iter().any(|(stays, _)| *stays == container)
    }
}

/// Takes away the masquerading that upstream's plugins made for an attachment of which we have no record. Where there is
/// none, that is two questions to the kernel, and more only if the host has tables of the older kind.
///
/// Upstream's chain is a container's, whatever its interfaces: it stays as long as another address leads there.
///
/// # Errors
///
/// When the kernel or iptables refuses.
pub fn disinherit(
    firewall: &mut Firewall,
    claims: &Path,
    endpoint: &Endpoint,
    addresses: &[IpNetwork],
) -> Result<(), FirewallError> {
    let chain = masquerade::chain_of(endpoint);
    let tools = tools(firewall, |socket, table| socket.has_chain(table, &chain).unwrap_or_default());
    if tools.is_empty() {
        return Ok(());
    }
    let _writer = Writer::alone(claims)?;
    tools.into_iter().try_for_each(|tool| masquerade::disinherit(tool, claims, endpoint, addresses))
}

/// Returns whether upstream's `bridge` or `ptp` masquerades for an attachment, as far as that can be told without
/// starting anything.
pub(crate) fn masquerades(socket: &mut Socket, endpoint: &Endpoint) -> bool {
    let chain = masquerade::chain_of(endpoint);
    let has_chain =
        |family| socket.has_chain(weft_nft::Table::new(family, "nat"), &chain).unwrap_or_default();
    [Family::Ip, Family::Ip6].into_iter().any(has_chain)
        || Tool::BOTH.iter().any(|tool| tool.has_legacy(Table::Nat))
}

/// Takes away everything of a network that upstream's plugins made for attachments that do not survive: chains of
/// masquerading and of published ports, rules of the nf_tables backends, and what let addresses through, firewalld's
/// sources as well. What our books have of such attachments in upstream's ways, and their spoof checks, go as well.
///
/// `departed` are addresses of such attachments that the caller knows; others are found in the rules of iptables. `taken`
/// is asked for the addresses that other networks have, if there is anything to take away that tells an address alone;
/// without an answer all of that stays.
///
/// # Errors
///
/// When the kernel or iptables refuses. As much as possible is removed all the same, and the first
/// refusal is returned.
pub fn collect(
    firewall: &mut Firewall,
    claims: &Path,
    network: &NetworkName,
    survivors: &Survivors<'_>,
    departed: &[Departed<'_>],
    taken: impl FnOnce() -> Option<BTreeSet<IpAddr>>,
) -> Result<(), FirewallError> {
    let mut departed = departed.to_vec();
    departed.retain(|one| !survivors.addresses.contains(&one.address));
    let mut leaving: BTreeSet<IpAddr> = departed.iter().map(|one| one.address).collect();
    let chains = collect_chains(firewall, claims, network, survivors, &mut leaving);
    let rules = match firewall.inet() {
        Ok(socket) => upstream::collect(socket, &Claims(claims), network, &survivors.attachments)
            .and(spoof::collect(socket, claims, network, &survivors.attachments))
            .and(upstream_ports::collect(socket, claims, &departed)),
        Err(error) => crate::without_nftables(error),
    };
    leaving.retain(|addr| !survivors.addresses.contains(addr));
    if leaving.is_empty() {
        return chains.and(rules);
    }
    let Some(taken) = taken() else { return chains.and(rules) };
    let leaving: Vec<IpAddr> = leaving.difference(&taken).copied().collect();
    let rules_of_addresses = expel(firewall, claims, &leaving);
    chains.and(rules).and(rules_of_addresses).and(admission::expel_sources(claims, &leaving))
}

fn collect_chains(
    firewall: &mut Firewall,
    claims: &Path,
    network: &NetworkName,
    survivors: &Survivors<'_>,
    leaving: &mut BTreeSet<IpAddr>,
) -> Result<(), FirewallError> {
    let tools = tools(firewall, |socket, table| socket.table(table).is_ok_and(|found| found.is_some()));
    if tools.is_empty() {
        return Ok(());
    }
    let _writer = Writer::alone(claims)?;
    let mut failed = None;
    for tool in tools {
        let outcome = tool.saved(Table::Nat).and_then(|there| {
            let (chains, addresses) = stale(&there, network.as_str(), survivors);
            leaving.extend(addresses);
            tool.restore(Table::Nat, &without(&there, &chains))
        });
        failed = failed.or(outcome.err());
    }
    failed.map_or(Ok(()), Err)
}

/// Takes away the rules that let addresses through, unless an attachment of ours wants them.
fn expel(firewall: &mut Firewall, claims: &Path, addresses: &[IpAddr]) -> Result<(), FirewallError> {
    if addresses.is_empty() || !chains::may_be_there(firewall.inet().ok()) {
        return Ok(());
    }
    let writer = Writer::alone(claims)?;
    let wanted = admission::wanted(claims, Carrier::Iptables, addresses)?;
    let free: Vec<_> = addresses.iter().copied().filter(|addr| !wanted.contains(addr)).collect();
    chains::remove(&writer, &free, &[])
}

/// The programs for the tables of either kind that `is_there` finds something in; of the older kind the list of the
/// kernel's tables tells only that there may be something.
pub(crate) fn tools(
    firewall: &mut Firewall,
    is_there: impl Fn(&mut Socket, weft_nft::Table) -> bool,
) -> Vec<Tool> {
    let mut found = Vec::new();
    for tool in Tool::BOTH {
        let family = if tool.is_v6() { Family::Ip6 } else { Family::Ip };
        let of_nft = |socket: &mut Socket| is_there(socket, weft_nft::Table::new(family, "nat"));
        if firewall.inet().is_ok_and(of_nft) {
            found.push(tool.nft());
        }
        if tool.has_legacy(Table::Nat) {
            found.push(tool.legacy());
        }
    }
    found.retain(|tool| tool.is_installed());
    found
}

/// The chains of a network's containers that do not survive, and the addresses that led to them.
fn stale(there: &Rules, network: &str, survivors: &Survivors<'_>) -> (BTreeSet<String>, Vec<IpAddr>) {
    let mut chains = BTreeSet::new();
    let mut addresses = Vec::new();
    for rule in there.all() {
        let Some((of, container)) = attribution(rule) else { continue };
        if of != network || survivors.has(container) {
            continue;
        }
        // A chain's own rules have the comment, too: it may have lost the rule that leads to it.
        let (within, target) = (after(rule, "-A "), after(rule, " -j "));
        let named = [within, target].into_iter().flatten().filter(|chain| is_own(chain));
        chains.extend(named.map(str::to_owned));
        if within == Some("POSTROUTING") {
            let source = after(rule, " -s ").and_then(|source| source.parse::<IpNetwork>().ok());
            addresses.extend(source.map(|source| source.ip()));
        }
    }
    (chains, addresses)
}

/// Returns whether a chain is one container's: `CNI-` and 24 digits, `CNI-DN-` and `CNI-SN-` and 21.
fn is_own(chain: &str) -> bool {
    let digits = chain.strip_prefix(OWN).map(|rest| rest.trim_start_matches("DN-").trim_start_matches("SN-"));
    digits.is_some_and(|digits| digits.len() >= 21 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Returns the network and the container that a rule's comment names, in `iptables-save`'s quoting. Only the words that
/// upstream writes count: another's comment may have these in it.
fn attribution(rule: &str) -> Option<(&str, &str)> {
    let comment = rule.split(r#"--comment ""#).nth(1)?;
    let kind = ["dnat ", "snat "].into_iter().find_map(|kind| comment.strip_prefix(kind));
    let rest = kind.unwrap_or(comment).strip_prefix(r#"name: \""#)?;
    let (network, rest) = rest.split_once(r#"\" id: \""#)?;
    let (container, _) = rest.split_once(r#"\""#)?;
    Some((network, container))
}

/// Returns the word behind some others.
fn after<'a>(rule: &'a str, words: &str) -> Option<&'a str> {
    rule.split_once(words)?.1.split(' ').next()
}

/// The lines that take chains away, with every rule that leads there.
fn without(there: &Rules, chains: &BTreeSet<String>) -> Vec<String> {
    let leads_there = |rule: &&String| {
        after(rule, " -j ").is_some_and(|target| chains.contains(target))
            && after(rule, "-A ").is_some_and(|within| !chains.contains(within))
    };
    let mut lines: Vec<_> =
        there.all().filter(leads_there).map(|rule| rule.replacen("-A ", "-D ", 1)).collect();
    let present: Vec<_> = chains.iter().filter(|chain| there.chain(chain).is_some()).collect();
    lines.extend(present.iter().map(|chain| format!("-F {chain}")));
    lines.extend(present.iter().map(|chain| format!("-X {chain}")));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAVED: &str = r#"*nat
:POSTROUTING ACCEPT [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-aaaaaaaaaaaaaaaaaaaaaaaa - [0:0]
:CNI-bbbbbbbbbbbbbbbbbbbbbbbb - [0:0]
:CNI-cccccccccccccccccccccccc - [0:0]
:CNI-DN-aaaaaaaaaaaaaaaaaaaaa - [0:0]
-A POSTROUTING -s 10.0.0.2/32 -m comment --comment "name: \"blue\" id: \"red\"" -j CNI-aaaaaaaaaaaaaaaaaaaaaaaa
-A POSTROUTING -s 10.0.0.3/32 -m comment --comment "name: \"blue\" id: \"stays\"" -j CNI-bbbbbbbbbbbbbbbbbbbbbbbb
-A POSTROUTING -s 10.0.1.2/32 -m comment --comment "name: \"other\" id: \"red\"" -j CNI-cccccccccccccccccccccccc
-A POSTROUTING -m comment --comment "an own name: \"blue\" id: \"red\"" -j MASQUERADE
-A CNI-HOSTPORT-DNAT -p tcp -m comment --comment "dnat name: \"blue\" id: \"red\"" -m multiport --dports 80 -j CNI-DN-aaaaaaaaaaaaaaaaaaaaa
-A CNI-aaaaaaaaaaaaaaaaaaaaaaaa -d 10.0.0.0/24 -m comment --comment "name: \"blue\" id: \"red\"" -j ACCEPT
COMMIT
"#;

    #[test]
    fn what_does_not_survive_is_known_by_its_comment() {
        let there = Rules::parse(SAVED);
        let survivors = Survivors { attachments: vec![("stays", "eth0")], addresses: Vec::new() };
        let (chains, addresses) = stale(&there, "blue", &survivors);
        assert_eq!(
            chains.iter().map(String::as_str).collect::<Vec<_>>(),
            ["CNI-DN-aaaaaaaaaaaaaaaaaaaaa", "CNI-aaaaaaaaaaaaaaaaaaaaaaaa"]
        );
        assert_eq!(addresses, ["10.0.0.2".parse::<IpAddr>().unwrap()]);
        let mut lines = without(&there, &chains);
        lines.sort();
        assert_eq!(lines.len(), 6, "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.starts_with("-D ")).count(), 2);
        assert!(!lines.iter().any(|line| line.contains("stays") || line.contains("other")));
    }

    #[test]
    fn a_shared_chain_is_nobodys_own() {
        for shared in ["CNI-HOSTPORT-DNAT", "CNI-FORWARD", "CNI-ADMIN", "CNI-DN-", "CNI-", "POSTROUTING"] {
            assert!(!is_own(shared), "{shared}");
        }
        assert!(is_own("CNI-2bbe0c48b91a7d1b8a6753a8") && is_own("CNI-DN-bfd599665540dd91d5d28"));
    }

    #[test]
    fn other_comments_are_nobodys() {
        for rule in [
            "-A POSTROUTING -j MASQUERADE",
            r#"-A X --comment "name: \"blue\"" -j Y"#,
            r#"-A X --comment "kubernetes name: \"blue\" id: \"red\"" -j Y"#,
        ] {
            assert_eq!(attribution(rule), None, "{rule}");
        }
    }
}
