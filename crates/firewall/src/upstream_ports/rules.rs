//! What the rules of upstream's tables look like, and which of them are whose.

use std::fmt::Write as _;
use std::net::IpAddr;

use weft_model::port::Publication;
use weft_state::ports::Owner;

use super::{ALL, BY_HOST, LOCALHOST, MASQUERADING, PORTS, SHARED, TABLE, attempt};
use crate::FirewallError;

/// A rule as nft(8) lists it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed<'a> {
    pub(super) chain: &'a str,
    pub(super) rule: &'a str,
    pub(super) handle: &'a str,
}

/// Returns those rules of a container that are meant.
pub(super) fn listed<'a>(
    listing: &'a str,
    container: &str,
    is_meant: impl Fn(&str) -> bool,
) -> Vec<Listed<'a>> {
    let comment = format!(" comment \"{container}\"");
    let mut chain = "";
    let mut rules = Vec::new();
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("chain ") {
            chain = name.split(' ').next().unwrap_or_default();
        }
        let Some((rule, handle)) = line.rsplit_once(" # handle ") else { continue };
        let Some(rule) = rule.strip_suffix(&comment) else { continue };
        if SHARED.contains(&chain) && is_meant(rule) {
            rules.push(Listed { chain, rule, handle });
        }
    }
    rules
}

pub(super) fn is_of_any(rule: &str, publications: &[&Publication]) -> bool {
    publications.iter().any(|one| is_of(rule, one))
}

/// Whether a publication brought this rule. It is known by the container's address, and a refusal by the host's port,
/// which is nobody else's.
pub(super) fn is_of(rule: &str, one: &Publication) -> bool {
    if is_refusal(rule) {
        let host = one.host.is_unspecified() || rule.contains(&format!(" daddr {} ", one.host));
        return host && rule.contains(&format!("{} dport {} ", one.protocol, one.host_ports));
    }
    leads_to(rule, one.target)
}

pub(super) fn is_refusal(rule: &str) -> bool {
    rule.ends_with(" drop")
}

/// Whether a rule of upstream's leads a port to where it should.
pub(super) fn translates(rule: &str, one: &Publication) -> bool {
    let host = one.host.is_unspecified() || rule.contains(&format!(" daddr {} ", one.host));
    host && rule.ends_with(&format!("{} dport {} dnat to {}", one.protocol, one.host_ports, target(one)))
}

/// Whether a rule translates for this address of a container: what comes after `to` or, for masquerading, the last
/// `daddr`.
pub(super) fn leads_to(rule: &str, target: IpAddr) -> bool {
    let after =
        |word: &str| rule.rsplit_once(word).map(|(_, rest)| rest.split(' ').next().unwrap_or_default());
    let Some(found) = after(" to ").or_else(|| after(" daddr ")) else { return false };
    let addr = target.to_string();
    let port = |rest: &str| rest.is_empty() || rest.starts_with(':');
    found.strip_prefix(&addr).is_some_and(port) || found.strip_prefix(&format!("[{addr}]")).is_some_and(port)
}

/// Whether the listed rules are those wanted. nft prints a rule in its own words, so somebody's conditions may
/// look different; then the rules are written again, which harms nobody.
pub(super) fn is_same(present: &[Listed<'_>], wanted: &[(&str, String)]) -> bool {
    let text = |rule: &str| rule.split(" comment ").next().unwrap_or_default().to_owned();
    present.len() == wanted.len()
        && wanted.iter().all(|(chain, rule)| {
            present.iter().any(|listed| listed.chain == *chain && listed.rule == text(rule))
        })
}

/// One of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    pub(super) fn is_of(self, one: &Publication) -> bool {
        one.target.is_ipv4() == (self == Self::V4)
    }

    /// Returns what is translated.
    pub(super) fn of(self, owner: &Owner) -> impl Iterator<Item = &Publication> + use<'_> {
        let own = owner.publications.iter().filter(move |one| self.is_of(one));
        own.filter(|one| owner.gateways.of(one.target).translates())
    }

    pub(super) fn targets(self, owner: &Owner) -> Vec<IpAddr> {
        let mut targets: Vec<_> = self.of(owner).map(|one| one.target).collect();
        targets.sort_unstable();
        targets.dedup();
        targets
    }

    /// Returns the table with its rules' handles, or `None` if there is none.
    pub(super) fn listing(self) -> Result<Option<String>, FirewallError> {
        let output = attempt(&["-a", "-n", "list", "table", self.name(), TABLE], None)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(output.status.success().then_some(text))
    }

    pub(super) fn has_hooks(self, listing: &str, owner: &Owner) -> bool {
        let jumps = listing.lines().filter(|line| line.contains(&format!(" jump {ALL} "))).count();
        let both = [BY_HOST, PORTS].iter().all(|chain| listing.contains(&format!("jump {chain} ")));
        let masquerading = listing.contains("hook postrouting");
        let closed = self == Self::V6
            || ["daddr", "saddr"]
                .iter()
                .all(|address| listing.contains(&format!("ip {address} 127.0.0.0/8 drop")));
        jumps == 2 && both && (!masquerades(owner) || masquerading && closed)
    }

    /// Returns what all attachments share. Adding a chain that is there changes nothing.
    pub(super) fn skeleton(self, owner: &Owner) -> String {
        let family = self.name();
        let mut script = format!(
            "add table {family} {TABLE} {{ comment \"CNI portmap plugin\" ; }}\n\
             add chain {family} {TABLE} {PORTS}\n\
             add chain {family} {TABLE} {BY_HOST}\n\
             add chain {family} {TABLE} {ALL}\n\
             flush chain {family} {TABLE} {ALL}\n\
             add rule {family} {TABLE} {ALL} jump {BY_HOST}\n\
             add rule {family} {TABLE} {ALL} jump {PORTS}\n"
        );
        for hook in ["prerouting", "output"] {
            writeln!(
                script,
                "add chain {family} {TABLE} {hook} {{ type nat hook {hook} priority -100 ; }}\n\
                 flush chain {family} {TABLE} {hook}\n\
                 add rule {family} {TABLE} {hook} fib daddr type local jump {ALL}"
            )
            .ok();
        }
        if masquerades(owner) {
            writeln!(
                script,
                "add chain {family} {TABLE} {MASQUERADING} {{ type nat hook postrouting priority 100 ; }}"
            )
            .ok();
        }
        if masquerades(owner) && self == Self::V4 {
            writeln!(
                script,
                "add chain {family} {TABLE} {LOCALHOST} {{ type filter hook prerouting priority -300 ; }}\n\
                 flush chain {family} {TABLE} {LOCALHOST}\n\
                 add rule {family} {TABLE} {LOCALHOST} iifname != \"lo\" ip daddr 127.0.0.0/8 drop\n\
                 add rule {family} {TABLE} {LOCALHOST} iifname != \"lo\" ip saddr 127.0.0.0/8 drop"
            )
            .ok();
        }
        script
    }

    /// Writes the commands that bring one attachment from what is listed to what it is to have; none if that is the same.
    pub(super) fn write(
        self,
        script: &mut String,
        listing: Option<&str>,
        before: Option<&Owner>,
        owner: &Owner,
    ) {
        let wanted = self.rules(owner);
        if wanted.is_empty() && listing.is_none() {
            return;
        }
        let listing = listing.unwrap_or_default();
        let known: Vec<_> = before.into_iter().chain([owner]).flat_map(|owner| self.of(owner)).collect();
        let present = listed(listing, owner.endpoint.container.as_str(), |rule| is_of_any(rule, &known));
        if is_same(&present, &wanted) && (wanted.is_empty() || self.has_hooks(listing, owner)) {
            return;
        }
        if !wanted.is_empty() {
            script.push_str(&self.skeleton(owner));
        }
        self.delete(script, &present);
        for (chain, rule) in wanted {
            writeln!(script, "add rule {} {TABLE} {chain} {rule}", self.name()).ok();
        }
    }

    pub(super) fn delete(self, script: &mut String, rules: &[Listed<'_>]) {
        for Listed { chain, handle, .. } in rules {
            writeln!(script, "delete rule {} {TABLE} {chain} handle {handle}", self.name()).ok();
        }
    }

    /// Returns an attachment's rules, in the words of nft(8).
    pub(super) fn rules(self, owner: &Owner) -> Vec<(&'static str, String)> {
        let family = self.name();
        let comment = format!("comment \"{}\"", owner.endpoint.container);
        let mut rules = Vec::new();
        for one in self.of(owner) {
            let chain = if one.host.is_unspecified() { PORTS } else { BY_HOST };
            let matches = self.matches(owner, one);
            if !one.from.is_empty() {
                let list: Vec<_> = one.from.iter().map(ToString::to_string).collect();
                let others = format!("{family} saddr != {{ {} }}", list.join(", "));
                // The host itself is on every list.
                rules.push((chain, format!("{matches}{others} fib saddr type != local drop {comment}")));
            }
            rules.push((chain, format!("{matches}dnat to {} {comment}", target(one))));
        }
        if masquerades(owner) {
            for addr in self.targets(owner) {
                rules.extend(
                    self.masquerading(owner, addr).map(|rule| (MASQUERADING, format!("{rule} {comment}"))),
                );
            }
        }
        rules
    }

    /// The conditions and the packets of a publication.
    pub(super) fn matches(self, owner: &Owner, one: &Publication) -> String {
        let conditions = if self == Self::V4 { &owner.conditions_v4 } else { &owner.conditions_v6 };
        // A line is a command.
        let mut text: String =
            conditions.iter().map(|word| format!("{} ", word.replace('\n', " "))).collect();
        if !one.host.is_unspecified() {
            write!(text, "{} daddr {} ", self.name(), one.host).ok();
        }
        write!(text, "{} dport {} ", one.protocol, one.host_ports).ok();
        text
    }

    pub(super) fn masquerading(self, owner: &Owner, addr: IpAddr) -> impl Iterator<Item = String> {
        let family = self.name();
        let all = owner.masquerade_all.then(|| format!("ct status dnat {family} daddr {addr} masquerade"));
        let own = (!owner.masquerade_all)
            .then(|| format!("{family} saddr {addr} {family} daddr {addr} masquerade"));
        let localhost = (!owner.masquerade_all && self == Self::V4)
            .then(|| format!("ip saddr 127.0.0.1 ip daddr {addr} masquerade"));
        [all, own, localhost].into_iter().flatten()
    }
}

pub(super) fn masquerades(owner: &Owner) -> bool {
    owner.snat || owner.masquerade_all
}

/// Where a connection goes. A range that is moved has each port spelled out: nft(8) would take any of them.
pub(super) fn target(one: &Publication) -> String {
    let addr = match one.target {
        IpAddr::V4(addr) => addr.to_string(),
        IpAddr::V6(addr) => format!("[{addr}]"),
    };
    let (from, to) = (one.host_ports, one.target_ports);
    if to.is_single() {
        return format!("{addr}:{}", to.first());
    }
    if from == to {
        return one.target.to_string();
    }
    let pairs: Vec<_> = from.ports().zip(to.ports()).map(|(from, to)| format!("{from} : {to}")).collect();
    format!("{} : {} dport map {{ {} }}", one.target, one.protocol, pairs.join(", "))
}
