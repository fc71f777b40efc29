//! Masquerading in the chains of the CNI reference plugins, for hosts that are ruled by iptables.
//!
//! CNI: plugins/pkg/ip/ipmasq_iptables_linux.go. A container has one chain per network; every
//! address of it has a jump there from POSTROUTING. Upstream's chain does not know about
//! interfaces, so deleting one of two attachments takes the other's chain away. Here a record says
//! which interface brought which addresses ([`Claims`]), and the chain goes with the last of them.
//!
//! One `iptables-restore --noflush` makes each change as a whole.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha512};
use weft_model::Endpoint;

use super::tool::{Table, Tool};
use crate::claim::Claims;
use crate::entry::{Entry, SOURCE};
use crate::{Backend, Change, FirewallError, Masquerade};

/// The chain of a container on a network: `CNI-` and 24 hex digits.
fn chain_name(network: &str, container: &str) -> String {
    format!("CNI-{}", hex::encode(&Sha512::digest(format!("{network}{container}"))[..12]))
}

/// The same for an attachment, whatever its interface.
pub(crate) fn chain_of(endpoint: &Endpoint) -> String {
    chain_name(endpoint.network.as_str(), endpoint.container.as_str())
}

/// The comment on every rule, as upstream writes it, in `iptables-save`'s quoting.
fn comment(endpoint: &Endpoint) -> String {
    format!(r#"-m comment --comment "name: \"{}\" id: \"{}\"""#, endpoint.network, endpoint.container)
}

/// Writes the attachment's chain and jumps.
pub(crate) fn ensure(masquerade: &Masquerade) -> Result<Change, FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(Change::AlreadyThere) };
    let claims = Claims(&masquerade.claims);
    let chain = chain_name(masquerade.network.as_str(), endpoint.container.as_str());
    let ifname = endpoint.ifname.as_str();
    let (mine, others) = split(claims.chain_users(&chain)?, ifname);
    claims.take_chain(&chain, ifname, &masquerade.addresses)?;
    let stale: Vec<_> = mine.into_iter().filter(|address| !masquerade.addresses.contains(address)).collect();
    let everyone = [others.as_slice(), &masquerade.addresses].concat();
    for tool in Tool::BOTH {
        let wanted: Vec<_> = tool.addresses(&masquerade.addresses);
        let unwanted: Vec<_> = tool.addresses(&stale);
        if wanted.is_empty() && unwanted.is_empty() {
            continue;
        }
        let jumps = jumps(tool, &chain)?;
        let source = source(&claims, endpoint, tool)?;
        let mut script = chain_body(&chain, endpoint, &tool.addresses(&everyone), tool, source);
        script.extend(jumps.iter().filter(|jump| jump.is_from(&unwanted)).map(Jump::deletion));
        for address in wanted.iter().filter(|address| !jumps.iter().any(|jump| jump.is_from(&[**address]))) {
            script.push(format!("-A POSTROUTING -s {} {} -j {chain}", address.ip(), comment(endpoint)));
        }
        tool.restore(Table::Nat, &script)?;
    }
    Ok(Change::Made)
}

/// Removes the attachment's jumps, and the chain unless another attachment of the container needs it.
///
/// Does nothing when neither the configuration nor our records speak of iptables.
pub(crate) fn remove(masquerade: &Masquerade) -> Result<(), FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(()) };
    let claims = Claims(&masquerade.claims);
    let chain = chain_name(masquerade.network.as_str(), endpoint.container.as_str());
    let ifname = endpoint.ifname.as_str();
    let users = claims.chain_users(&chain)?;
    let claimed = users.iter().any(|(user, _)| user == ifname);
    if !claimed && masquerade.backend != Backend::Iptables {
        return Ok(());
    }
    let (mut mine, others) = split(users, ifname);
    mine.extend(&masquerade.addresses);
    for tool in Tool::BOTH {
        // Without any address we cannot know the family. A program that is not installed has no rules.
        let known = !mine.is_empty();
        if known && tool.addresses(&mine).is_empty() {
            continue;
        }
        match remove_family(&claims, tool, &chain, endpoint, &mine, &others) {
            Err(FirewallError::Iptables { .. }) if !known && !tool.is_installed() => {}
            outcome => outcome?,
        }
    }
    claims.drop_chain(&chain, ifname)
}

fn remove_family(
    claims: &Claims<'_>,
    tool: Tool,
    chain: &str,
    endpoint: &Endpoint,
    mine: &[IpNetwork],
    others: &[IpNetwork],
) -> Result<(), FirewallError> {
    let jumps = jumps(tool, chain)?;
    let others = tool.addresses(others);
    let mut script = Vec::new();
    if others.is_empty() {
        script.extend(jumps.iter().map(Jump::deletion));
        if !jumps.is_empty() || tool.chain(Table::Nat, chain)?.is_some() {
            script.extend([format!("-F {chain}"), format!("-X {chain}")]);
        }
    } else {
        // An address that two attachments share keeps its jump.
        let leaving: Vec<_> =
            tool.addresses(mine).into_iter().filter(|mine| !others.contains(mine)).collect();
        script.extend(jumps.iter().filter(|jump| jump.is_from(&leaving)).map(Jump::deletion));
        script.extend(chain_body(chain, endpoint, &others, tool, source(claims, endpoint, tool)?));
    }
    tool.restore(Table::Nat, &script)
}

/// Removes what upstream wrote for an attachment that is in no record: the jumps from its addresses, or, without any,
/// those from addresses that no attachment of ours has; and the chain when none is left.
pub(crate) fn disinherit(
    tool: Tool,
    claims: &Path,
    endpoint: &Endpoint,
    addresses: &[IpNetwork],
) -> Result<(), FirewallError> {
    let chain = chain_of(endpoint);
    let users = Claims(claims).chain_users(&chain)?;
    let claimed: Vec<_> = users.into_iter().flat_map(|(_, addresses)| addresses).collect();
    let jumps = jumps(tool, &chain)?;
    let is_leaving = |jump: &&Jump| {
        if addresses.is_empty() { !jump.is_from(&claimed) } else { jump.is_from(addresses) }
    };
    let leaving: Vec<_> = jumps.iter().filter(is_leaving).collect();
    let mut script: Vec<_> = leaving.iter().map(|jump| jump.deletion()).collect();
    if leaving.len() == jumps.len() && tool.chain(Table::Nat, &chain)?.is_some() {
        script.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    tool.restore(Table::Nat, &script)
}

/// Returns which of the attachment's addresses are not masqueraded.
pub(crate) fn observe(masquerade: &Masquerade) -> Result<Vec<String>, FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(Vec::new()) };
    let chain = chain_of(endpoint);
    let mut missing = Vec::new();
    for tool in Tool::BOTH {
        let addresses = tool.addresses(&masquerade.addresses);
        if addresses.is_empty() {
            continue;
        }
        let jumps = jumps(tool, &chain)?;
        for address in addresses {
            if !jumps.iter().any(|jump| jump.is_from(&[address])) {
                missing.push(format!("{} rule from {} to chain {chain}", tool.program(), address.ip()));
            }
        }
    }
    Ok(missing)
}

/// Separates an attachment's addresses from those of its container's other attachments.
fn split(users: Vec<(String, Vec<IpNetwork>)>, ifname: &str) -> (Vec<IpNetwork>, Vec<IpNetwork>) {
    let (mine, others): (Vec<_>, Vec<_>) = users.into_iter().partition(|(user, _)| user == ifname);
    let flat = |users: Vec<(String, Vec<IpNetwork>)>| users.into_iter().flat_map(|(_, list)| list).collect();
    (flat(mine), flat(others))
}

/// Returns the address that a network's packets leave with, if one was named ([`crate::SourceAddress`]).
fn source(claims: &Claims<'_>, endpoint: &Endpoint, tool: Tool) -> Result<Option<IpAddr>, FirewallError> {
    let claimed = claims.all(&SOURCE)?.into_iter().filter(|entry| claims.has(&endpoint.network, entry));
    let mut addresses = claimed.filter_map(|entry| match entry {
        Entry::Source(_, addr) => Some(addr),
        _ => None,
    });
    Ok(addresses.find(|addr| addr.is_ipv6() == tool.is_v6()))
}

/// Returns the lines that write the chain anew. With `--noflush` naming a chain empties it.
fn chain_body(
    chain: &str,
    endpoint: &Endpoint,
    addresses: &[IpNetwork],
    tool: Tool,
    source: Option<IpAddr>,
) -> Vec<String> {
    let comment = comment(endpoint);
    let subnets: BTreeSet<_> =
        addresses.iter().map(|address| (address.network(), address.prefix())).collect();
    let mut lines = vec![format!(":{chain} - [0:0]")];
    lines.extend(
        subnets.iter().map(|(network, len)| format!("-A {chain} -d {network}/{len} {comment} -j ACCEPT")),
    );
    let outcome = source.map_or("MASQUERADE".to_owned(), |addr| format!("SNAT --to-source {addr}"));
    lines.push(format!("-A {chain} ! -d {} {comment} -j {outcome}", tool.multicast()));
    lines
}

/// Returns the rules of POSTROUTING that lead to the chain.
fn jumps(tool: Tool, chain: &str) -> Result<Vec<Jump>, FirewallError> {
    let end = format!(" -j {chain}");
    let rules = tool.rules(Table::Nat, "POSTROUTING")?;
    Ok(rules.into_iter().filter(|line| line.ends_with(&end)).map(Jump).collect())
}

/// A rule of POSTROUTING that leads to one of our chains, as `iptables -S` prints it.
struct Jump(String);

impl Jump {
    fn deletion(&self) -> String {
        self.0.replacen("-A ", "-D ", 1)
    }

    /// Returns whether the jump is taken by one of these addresses. Old versions of upstream wrote
    /// the whole subnet as the source.
    fn is_from(&self, addresses: &[IpNetwork]) -> bool {
        let mut words = self.0.split(' ');
        let Some(source) = words.find(|word| *word == "-s").and_then(|_| words.next()) else { return false };
        let Ok(source) = source.parse::<IpNetwork>() else { return false };
        addresses.iter().any(|address| {
            let subnet = source.prefix() == address.prefix() && source.ip() == address.network();
            source == IpNetwork::from(address.ip()) || subnet
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_have_upstreams_names() {
        assert_eq!(chain_name("test", "1234"), "CNI-2bbe0c48b91a7d1b8a6753a8");
    }

    #[test]
    fn a_jump_is_known_by_its_source() {
        let jump = |source: &str| {
            Jump(format!(
                r#"-A POSTROUTING -s {source} -m comment --comment "name: \"n\" id: \"c\"" -j CNI-1"#
            ))
        };
        let mine = ["10.1.0.5/16".parse().unwrap()];
        assert!(jump("10.1.0.5/32").is_from(&mine));
        assert!(jump("10.1.0.0/16").is_from(&mine));
        assert!(!jump("10.1.0.6/32").is_from(&mine));
        assert!(!jump("10.1.0.5/32").is_from(&[]));
        assert!(jump("10.1.0.5/32").deletion().starts_with("-D POSTROUTING -s 10.1.0.5/32 -m comment"));
    }
}
