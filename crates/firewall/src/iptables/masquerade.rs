//! Masquerading in the chains of the CNI reference plugins, for hosts that are ruled by iptables.
//!
//! CNI: plugins/pkg/ip/ipmasq_iptables_linux.go. A container has one chain per network; every
//! address of it has a jump there from POSTROUTING. Upstream's chain does not know about
//! interfaces, so deleting one of two attachments takes the other's chain away. Here a record says
//! which interface brought which addresses ([`Claims`]), and the chain goes with the last of them.
//!
//! One listing and one `iptables-restore --noflush` for each family make a change as a whole.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha512};
use weft_model::{Endpoint, NetworkName};

use super::lock::Writer;
use super::part::{self, Part, Scripts};
use super::tool::{Rules, Saved, Table, Tool};
use crate::claim::{ChainUser, Claims, Way};
use crate::entry::{Entry, SOURCE};
use crate::{Backend, Change, FirewallError, Masquerade};

const POSTROUTING: &str = "POSTROUTING";

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

/// A container's chain on a network, with the rules that lead there.
pub(crate) struct Chain {
    name: String,
    comment: String,
    /// The addresses of all attachments that use it.
    addresses: Vec<IpNetwork>,
    /// Addresses that no longer lead there.
    leaving: Vec<IpNetwork>,
    /// The addresses that packets leave with, if any were named.
    sources: Vec<IpAddr>,
}

impl Chain {
    fn of(
        endpoint: &Endpoint,
        claims: &Claims<'_>,
        addresses: Vec<IpNetwork>,
    ) -> Result<Self, FirewallError> {
        Ok(Self {
            name: chain_of(endpoint),
            comment: comment(endpoint),
            addresses,
            leaving: Vec::new(),
            sources: sources(claims, &endpoint.network)?,
        })
    }

    /// Returns the chains on record. One of which the record does not say whose it is, is left to the container's plan.
    pub(crate) fn recorded(claims: &Claims<'_>) -> Result<Vec<(Endpoint, Self)>, FirewallError> {
        let mut chains: Vec<(Endpoint, Self)> = Vec::new();
        for (endpoint, addresses) in claims.masqueraded(Way::Iptables)? {
            match chains.last_mut().filter(|(_, chain)| chain.name == chain_of(&endpoint)) {
                Some((_, chain)) => chain.addresses.extend(addresses),
                None => {
                    let chain = Self::of(&endpoint, claims, addresses)?;
                    chains.push((endpoint, chain));
                }
            }
        }
        Ok(chains)
    }

    /// Returns the chain's rules. Multicast is not masqueraded, nor is what stays in the container's subnet.
    fn body(&self, tool: Tool) -> Vec<String> {
        let Self { name, comment, .. } = self;
        let addresses = tool.addresses(&self.addresses);
        let subnets: BTreeSet<_> =
            addresses.iter().map(|address| (address.network(), address.prefix())).collect();
        let stays =
            subnets.iter().map(|(network, len)| format!("-A {name} -d {network}/{len} {comment} -j ACCEPT"));
        let source = self.sources.iter().find(|addr| addr.is_ipv6() == tool.is_v6());
        let outcome = source.map_or("MASQUERADE".to_owned(), |addr| format!("SNAT --to-source {addr}"));
        let rest = format!("-A {name} ! -d {} {comment} -j {outcome}", tool.multicast());
        stays.chain([rest]).collect()
    }

    fn jump(&self, address: IpNetwork) -> String {
        let host = IpNetwork::from(address.ip());
        format!("-A {POSTROUTING} -s {host} {} -j {}", self.comment, self.name)
    }

    /// Returns the addresses of one family from which no rule leads to the chain.
    fn not_led(&self, there: &Rules, tool: Tool) -> Vec<IpNetwork> {
        let jumps = jumps(there, &self.name);
        let is_led = |address: &IpNetwork| jumps.iter().any(|jump| jump.is_from(&[*address]));
        tool.addresses(&self.addresses).into_iter().filter(|address| !is_led(address)).collect()
    }

    /// Returns what is missing of one family in what was saved.
    pub(crate) fn missing(&self, there: &Rules, tool: Tool) -> Vec<String> {
        if !self.is_in(tool) {
            return Vec::new();
        }
        let (name, program) = (&self.name, tool.program());
        let jumps = self.not_led(there, tool).into_iter();
        let jumps = jumps.map(|address| format!("{program} rule from {} to chain {name}", address.ip()));
        let present = there.chain(name).unwrap_or_default();
        let body = self.body(tool).into_iter().filter(|rule| !present.contains(rule));
        jumps.chain(body.map(|rule| format!("{program} rule {rule}"))).collect()
    }
}

impl Part for Chain {
    fn name(&self) -> String {
        format!("chain {}, {}", self.name, self.comment)
    }

    fn tables(&self) -> &'static [Table] {
        &[Table::Nat]
    }

    fn is_in(&self, tool: Tool) -> bool {
        !tool.addresses(&self.addresses).is_empty()
    }

    fn may_leave(&self, tool: Tool) -> bool {
        !tool.addresses(&self.leaving).is_empty()
    }

    /// With `--noflush` naming a chain empties it.
    fn scripts(&self, there: &Saved, tool: Tool) -> Scripts {
        let there = there.table(Table::Nat);
        if !self.is_in(tool) {
            return Scripts { nat: retirement(there, &self.name), ..Scripts::default() };
        }
        let mut nat = Vec::new();
        let body = self.body(tool);
        if there.chain(&self.name) != Some(&body) {
            nat.push(format!(":{} - [0:0]", self.name));
            nat.extend(body);
        }
        // An address that two attachments share keeps its jump.
        let leaving: Vec<_> =
            self.leaving.iter().copied().filter(|address| !self.addresses.contains(address)).collect();
        let gone = jumps(there, &self.name).into_iter().filter(|jump| jump.is_from(&leaving));
        nat.extend(gone.map(|jump| jump.deletion()));
        nat.extend(self.not_led(there, tool).into_iter().map(|address| self.jump(address)));
        Scripts { nat, ..Scripts::default() }
    }
}

/// The lines that take a chain away with all that leads there.
fn retirement(there: &Rules, chain: &str) -> Vec<String> {
    let jumps = jumps(there, chain);
    let mut lines: Vec<_> = jumps.iter().map(Jump::deletion).collect();
    if there.chain(chain).is_some() {
        lines.extend([format!("-F {chain}"), format!("-X {chain}")]);
    }
    lines
}

/// Writes the attachment's chain and jumps.
pub(crate) fn ensure(masquerade: &Masquerade) -> Result<Change, FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(Change::AlreadyThere) };
    let claims = Claims(&masquerade.claims);
    let writer = Writer::alone(claims.0)?;
    let (mine, others) = split(claims.chain_users(Way::Iptables, &chain_of(endpoint))?, endpoint);
    claims.take_chain(Way::Iptables, endpoint, &masquerade.addresses)?;
    let everyone = [others.as_slice(), &masquerade.addresses].concat();
    let is_new = mine.is_empty();
    let chain = Chain { leaving: mine, ..Chain::of(endpoint, &claims, everyone)? };
    let change = part::write(&writer, &[&chain])?;
    // A record is a change as well, and to be undone with what follows: by it the chain would be restored.
    Ok(if is_new { Change::Made } else { change })
}

/// Removes the attachment's jumps, and the chain unless another attachment of the container needs it.
///
/// Does nothing when neither the configuration nor our records speak of iptables.
pub(crate) fn remove(masquerade: &Masquerade) -> Result<(), FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(()) };
    let claims = Claims(&masquerade.claims);
    let name = chain_of(endpoint);
    let ifname = endpoint.ifname.as_str();
    let is_claimed = |users: &[ChainUser]| users.iter().any(|user| user.ifname == ifname);
    if masquerade.backend != Backend::Iptables && !is_claimed(&claims.chain_users(Way::Iptables, &name)?) {
        return Ok(());
    }
    // Until the record is gone nobody restores by it.
    let writer = Writer::alone(claims.0)?;
    let (mut mine, others) = split(claims.chain_users(Way::Iptables, &name)?, endpoint);
    mine.extend(&masquerade.addresses);
    let chain = Chain { leaving: mine, ..Chain::of(endpoint, &claims, others)? };
    for tool in Tool::BOTH {
        // Without any address we cannot know the family. A program that is not installed has no rules.
        let known = !chain.leaving.is_empty();
        if known && tool.addresses(&chain.leaving).is_empty() {
            continue;
        }
        match part::write_family(&writer, &[&chain], tool) {
            Err(FirewallError::Iptables { .. }) if !known && !tool.is_installed() => {}
            outcome => drop(outcome?),
        }
    }
    claims.drop_chain(Way::Iptables, endpoint)
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
    let users = Claims(claims).chain_users(Way::Iptables, &chain)?;
    let claimed: Vec<_> = users.into_iter().flat_map(|user| user.addresses).collect();
    let there = tool.saved(Table::Nat)?;
    let jumps = jumps(&there, &chain);
    let is_leaving = |jump: &&Jump<'_>| {
        if addresses.is_empty() { !jump.is_from(&claimed) } else { jump.is_from(addresses) }
    };
    let leaving: Vec<_> = jumps.iter().filter(is_leaving).collect();
    let script = match leaving.len() == jumps.len() {
        true => retirement(&there, &chain),
        false => leaving.iter().map(|jump| jump.deletion()).collect(),
    };
    tool.restore(Table::Nat, &script)
}

/// Returns what is missing of the attachment's masquerading. Of a chain that is in no record, and so may be upstream's, only
/// what leads there.
pub(crate) fn observe(masquerade: &Masquerade) -> Result<Vec<String>, FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(Vec::new()) };
    let claims = Claims(&masquerade.claims);
    let chain = Chain::of(endpoint, &claims, masquerade.addresses.clone())?;
    let mut missing = Vec::new();
    for tool in Tool::BOTH.into_iter().filter(|tool| chain.is_in(*tool)) {
        let mut found = chain.missing(&tool.saved(Table::Nat)?, tool);
        if !claims.is_masqueraded(Way::Iptables, endpoint, &masquerade.addresses) {
            found.retain(|what| what.contains(" to chain "));
        }
        missing.extend(found);
    }
    Ok(missing)
}

/// Separates an attachment's addresses from those of its container's other attachments.
fn split(users: Vec<ChainUser>, endpoint: &Endpoint) -> (Vec<IpNetwork>, Vec<IpNetwork>) {
    let (mine, others): (Vec<_>, Vec<_>) =
        users.into_iter().partition(|user| user.ifname == endpoint.ifname.as_str());
    let flat = |users: Vec<ChainUser>| users.into_iter().flat_map(|user| user.addresses).collect();
    (flat(mine), flat(others))
}

/// Returns the addresses that a network's packets leave with, if any were named ([`crate::SourceAddress`]).
fn sources(claims: &Claims<'_>, network: &NetworkName) -> Result<Vec<IpAddr>, FirewallError> {
    let claimed = claims.of_network(network, &SOURCE)?.into_iter();
    let address = |entry| match entry {
        Entry::Source(_, addr) => Some(addr),
        _ => None,
    };
    Ok(claimed.filter_map(address).collect())
}

/// Returns the rules of POSTROUTING that lead to a chain.
fn jumps<'a>(there: &'a Rules, chain: &str) -> Vec<Jump<'a>> {
    let end = format!(" -j {chain}");
    let rules = there.chain(POSTROUTING).unwrap_or_default();
    rules.iter().filter(|line| line.ends_with(&end)).map(|line| Jump(line)).collect()
}

/// A rule of POSTROUTING that leads to one of our chains, as `iptables-save` prints it.
struct Jump<'a>(&'a str);

impl Jump<'_> {
    fn deletion(&self) -> String {
        part::deletion(self.0)
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
        let rule = |source: &str| {
            format!(r#"-A POSTROUTING -s {source} -m comment --comment "name: \"n\" id: \"c\"" -j CNI-1"#)
        };
        let mine = ["10.1.0.5/16".parse().unwrap()];
        let is_from = |source: &str, addresses: &[IpNetwork]| Jump(&rule(source)).is_from(addresses);
        assert!(is_from("10.1.0.5/32", &mine));
        assert!(is_from("10.1.0.0/16", &mine));
        assert!(!is_from("10.1.0.6/32", &mine));
        assert!(!is_from("10.1.0.5/32", &[]));
        assert!(
            Jump(&rule("10.1.0.5/32")).deletion().starts_with("-D POSTROUTING -s 10.1.0.5/32 -m comment")
        );
    }
}
