//! The words of the rules, as `iptables-save` prints them.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::IpNetwork;
use sha2::{Digest, Sha512};
use weft_model::Endpoint;
use weft_model::port::{PortRange, Protocol, Publication};
use weft_state::ports::{Mark, Owner};

use super::super::tool::Tool;
use super::{DNAT, INPUT, MASQ, OWN, OWN_MASQUERADING, ROUTED, SETMARK};
use crate::exact;

/// The longest name of a chain (XT_EXTENSION_MAXNAMELEN, less the final zero), as upstream uses it.
const LONGEST_CHAIN: usize = 28;
/// The most ports that one `multiport` takes; a range counts twice (XT_MULTI_PORTS).
const MULTIPORT: usize = 15;
/// The longest comment (XT_MAX_COMMENT_LEN, less the final zero).
const LONGEST_COMMENT: usize = 255;
/// The interface that upstream's chains are about, since their names do not know of any.
pub(super) const UPSTREAMS_INTERFACE: &str = "eth0";

/// Packets from outside to this host's own addresses, or as if from them: a route to them is there once route_localnet is on.
pub(super) const LOCALHOST_ONLY: [&str; 2] = [
    r#"-A PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment "weft: published ports on localhost" -j DROP"#,
    r#"-A PREROUTING -s 127.0.0.0/8 ! -i lo -m comment --comment "weft: published ports on localhost" -j DROP"#,
];

/// Returns the name of an attachment's chain: upstream's for a container's first interface. A further one
/// has a chain of its own, where upstream's would share and lose it.
pub(super) fn chain_name(endpoint: &Endpoint) -> String {
    let Endpoint { network, container, ifname } = endpoint;
    let mut text = format!("{network}{container}");
    if ifname.as_str() != UPSTREAMS_INTERFACE {
        // A name has no slash, so this is no other container's.
        text = format!("{text}/{ifname}");
    }
    hashed(OWN, &text)
}

/// Returns the name of the chain where upstream masqueraded for a container before version 0.7.
pub(super) fn masquerading_chain_name(endpoint: &Endpoint) -> String {
    hashed(OWN_MASQUERADING, &format!("{}{}", endpoint.network, endpoint.container))
}

fn hashed(start: &str, text: &str) -> String {
    let digits = hex::encode(Sha512::digest(text));
    format!("{start}{}", &digits[..LONGEST_CHAIN - start.len()])
}

pub(super) fn for_local(builtin: &str) -> String {
    format!("-A {builtin} -m addrtype --dst-type LOCAL -j {DNAT}")
}

pub(super) fn requiring_masquerade() -> String {
    format!(r#"-A POSTROUTING -m comment --comment "CNI portfwd requiring masquerade" -j {MASQ}"#)
}

pub(super) fn set_mark(bit: u8) -> String {
    let mark = mask(bit);
    format!(
        r#"-A {SETMARK} -m comment --comment "CNI portfwd masquerade mark" -j MARK --set-xmark {mark}/{mark}"#
    )
}

pub(super) fn masquerade(bit: u8) -> String {
    let mark = mask(bit);
    format!("-A {MASQ} -m mark --mark {mark}/{mark} -j MASQUERADE")
}

fn mask(bit: u8) -> String {
    format!("{:#x}", 1_u32 << bit.min(31))
}

/// Returns whether the rules are these. What iptables prints has other words than what was asked for where
/// somebody's own conditions are in it; so only their number is compared there.
pub(super) fn same(present: &[&String], wanted: &[String]) -> bool {
    present.len() == wanted.len() && present.iter().zip(wanted).all(|(one, other)| words(one) == words(other))
}

/// A rule's words in order, without quotes, for comparing rules whose words iptables may have moved.
fn words(rule: &str) -> Vec<&str> {
    let mut words: Vec<_> = rule.split(' ').map(|word| word.trim_matches('"')).collect();
    words.sort_unstable();
    words
}

/// What an attachment publishes of one family, as its rules need it.
pub(super) struct Family<'a> {
    owner: &'a Owner,
    tool: Tool,
    translated: Vec<&'a Publication>,
    routed: Vec<&'a Publication>,
}

impl<'a> Family<'a> {
    pub(super) fn of(owner: &'a Owner, tool: Tool) -> Self {
        let mut family = Self { owner, tool, translated: Vec::new(), routed: Vec::new() };
        for one in owner.publications.iter().filter(|one| one.target.is_ipv6() == tool.is_v6()) {
            match owner.gateways.of(one.target) {
                mode if mode.translates() => family.translated.push(one),
                weft_model::GatewayMode::Routed => family.routed.push(one),
                _ => {}
            }
        }
        family
    }

    pub(super) fn is_empty(&self) -> bool {
        self.translated.is_empty() && self.routed.is_empty()
    }

    pub(super) fn translates(&self) -> bool {
        !self.translated.is_empty()
    }

    /// Whether the host's own programs reach the ports at 127.0.0.1.
    pub(super) fn needs_localhost(&self) -> bool {
        self.translates() && !self.tool.is_v6() && self.marks()
    }

    fn marks(&self) -> bool {
        self.owner.snat || self.owner.masquerade_all
    }

    /// The bit that marks what needs the host's address, unless somebody else marks or nothing does.
    pub(super) fn mark_bit(&self) -> Option<u8> {
        match &self.owner.mark {
            Mark::Bit(bit) if self.marks() => Some(*bit),
            _ => None,
        }
    }

    pub(super) fn set_mark_chain(&self) -> Option<&'a str> {
        self.marks().then_some(match &self.owner.mark {
            Mark::Bit(_) => SETMARK,
            Mark::Chain(name) => name,
        })
    }

    /// The attachment's own chain.
    pub(super) fn chain(&self, chain: &str, set_mark: Option<&str>) -> Vec<String> {
        let mut rules = Vec::new();
        for one in self.translated.iter().flat_map(|one| self.exact(one)) {
            let (one, to) = (&one, destination(&one));
            if let Some(set_mark) = set_mark {
                rules.extend(self.marked().iter().map(|from| format!("-A {chain} {from}{to} -j {set_mark}")));
            }
            let target = format!("-j DNAT --to-destination {}", target(one));
            rules.extend(allowed(one).iter().map(|from| format!("-A {chain} {from}{to} {target}")));
            if !one.from.is_empty() {
                // The host itself is on every list.
                rules.push(format!("-A {chain} {to} -m addrtype --src-type LOCAL {target}"));
            }
        }
        rules
    }

    /// A range that does not move has no port to choose.
    fn exact(&self, one: &Publication) -> Vec<Publication> {
        match one.host_ports == one.target_ports {
            true => vec![one.clone()],
            false => exact::parts(&self.owner.publications, one),
        }
    }

    /// Whose connections get the host's address.
    fn marked(&self) -> Vec<String> {
        if self.owner.masquerade_all {
            return vec![String::new()];
        }
        let subnets = self.owner.subnets.iter().filter(|subnet| subnet.is_ipv6() == self.tool.is_v6());
        let mut from: Vec<_> = subnets.map(source).collect();
        if !self.tool.is_v6() {
            from.push(source(&IpNetwork::from(IpAddr::V4(Ipv4Addr::LOCALHOST))));
        }
        from
    }

    /// The rules that lead to the attachment's chain: one for each protocol and fifteen ports.
    pub(super) fn entries(&self, owner: &Owner, chain: &str) -> Vec<String> {
        let Endpoint { network, container, .. } = &owner.endpoint;
        let comment: String =
            format!(r#"dnat name: "{network}" id: "{container}""#).chars().take(LONGEST_COMMENT).collect();
        let comment = comment.replace('"', "\\\"");
        let conditions = if self.tool.is_v6() { &owner.conditions_v6 } else { &owner.conditions_v4 };
        let conditions: String = conditions.iter().map(|word| format!("{} ", quoted(word))).collect();
        let mut rules = Vec::new();
        for protocol in Protocol::ALL {
            let mut ports: Vec<_> = self
                .translated
                .iter()
                .filter(|one| one.protocol == protocol)
                .map(|one| one.host_ports)
                .collect();
            ports.dedup();
            for ports in groups(&ports) {
                let list: Vec<_> = ports.iter().map(|ports| range(*ports)).collect();
                rules.push(format!(
                    "-A {DNAT} -p {protocol} -m comment --comment \"{comment}\" -m multiport --dports {} \
                     {conditions}-j {chain}",
                    list.join(",")
                ));
            }
        }
        rules
    }

    /// The rules for connections from hosts that are not on a port's list: not translated, they reach the host.
    pub(super) fn refusals(&self, chain: &str) -> Vec<String> {
        let listed = self.translated.iter().filter(|one| !one.from.is_empty());
        listed
            .map(|one| {
                let (host, ports) = (host(one), matching(one.protocol, one.host_ports));
                let new = format!("-m conntrack --ctstate NEW -m comment --comment {chain} -j DROP");
                format!("-A {INPUT} {host}! -i lo {ports} {new}")
            })
            .collect()
    }

    /// The rules that let connections to a routed container's ports in.
    pub(super) fn routed(&self, chain: &str) -> Vec<String> {
        let rule = |one: &Publication, from: &str| {
            let to = format!("-d {}", IpNetwork::from(one.target));
            let ports = matching(one.protocol, one.target_ports);
            format!("-A {ROUTED} {from}{to} {ports} -m comment --comment {chain} -j ACCEPT")
        };
        self.routed.iter().flat_map(|one| allowed(one).into_iter().map(|from| rule(one, &from))).collect()
    }
}

/// The sources that a publication lets in, each as the beginning of a rule.
fn allowed(one: &Publication) -> Vec<String> {
    if one.from.is_empty() { vec![String::new()] } else { one.from.iter().map(source).collect() }
}

fn source(network: &IpNetwork) -> String {
    format!("-s {}/{} ", network.network(), network.prefix())
}

fn host(one: &Publication) -> String {
    if one.host.is_unspecified() { String::new() } else { format!("-d {} ", IpNetwork::from(one.host)) }
}

/// What a packet to a published port looks like.
fn destination(one: &Publication) -> String {
    format!("{}{}", host(one), matching(one.protocol, one.host_ports))
}

fn matching(protocol: Protocol, ports: PortRange) -> String {
    format!("-p {protocol} -m {protocol} --dport {}", range(ports))
}

fn range(ports: PortRange) -> String {
    if ports.is_single() { ports.first().to_string() } else { format!("{}:{}", ports.first(), ports.last()) }
}

/// Where a connection goes. A range keeps its order; without ports the port stays what it was.
///
/// KERNEL: what follows the slash is the port that the first one of the range stands for
/// (NF_NAT_RANGE_PROTO_OFFSET, since 4.18).
fn target(one: &Publication) -> String {
    let addr = match one.target {
        IpAddr::V4(addr) => addr.to_string(),
        IpAddr::V6(addr) => format!("[{addr}]"),
    };
    let (from, to) = (one.host_ports, one.target_ports);
    if to.is_single() {
        format!("{addr}:{}", to.first())
    } else if from == to {
        one.target.to_string()
    } else {
        format!("{addr}:{}-{}/{}", to.first(), to.last(), from.first())
    }
}

/// Ports in groups that one rule can name.
fn groups(ports: &[PortRange]) -> Vec<Vec<PortRange>> {
    let mut groups: Vec<Vec<PortRange>> = Vec::new();
    let mut room = 0;
    for ports in ports {
        let takes = if ports.is_single() { 1 } else { 2 };
        if takes > room {
            groups.push(Vec::new());
            room = MULTIPORT;
        }
        room -= takes;
        if let Some(group) = groups.last_mut() {
            group.push(*ports);
        }
    }
    groups
}

/// A word of somebody's own conditions, such that it stays one word.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.,:/!+=%@[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("\"{}\"", word.replace(['\n', '\r'], " ").replace('\\', "\\\\").replace('"', "\\\""))
}
