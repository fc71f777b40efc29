//! Who besides us decides about packets that pass from one interface of a network to another.
//!
//! Whoever leads packets past netfilter has to know. What we write ourselves for any network says nothing about packets within
//! one, so everything in our tables that we could have written is passed over, and everything else counts.

use std::sync::OnceLock;

use weft_nft::{Called, Error, Family, Known, Policy, Socket, Table, Transaction};

use crate::entry::Family as OfAddresses;
use crate::layout::masquerade::Kind;
use crate::layout::{ANY, BRIDGE, INET, bridge, forward, masquerade};
use crate::part::Part;
use crate::{FirewallError, Tunnels, table};

/// Somebody who decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stranger {
    /// A chain that the kernel calls, with rules in it or the policy drop.
    Chain(Called),
    /// The administrator's own chain in our table has rules.
    User,
    /// A chain of ours has a rule that we did not write.
    Rule {
        /// The chain, as `nft list chain` takes it.
        chain: String,
    },
    /// A set of ours has an element by which packets within the network meet something else.
    Element {
        /// The set, as `nft list` takes it.
        set: String,
        /// The element.
        element: String,
    },
    /// A set of ours lacks an element of the network's.
    Missing {
        /// The set, as `nft list` takes it.
        set: String,
        /// The element.
        element: String,
    },
}

impl Stranger {
    /// Returns whether it decides about what these interfaces receive.
    pub fn concerns<'a>(&self, mut links: impl Iterator<Item = &'a str>) -> bool {
        match self {
            Self::Chain(called) => called.devices.is_empty() || links.any(|link| called.is_for(link)),
            Self::User | Self::Rule { .. } | Self::Element { .. } | Self::Missing { .. } => true,
        }
    }
}

impl std::fmt::Display for Stranger {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Chain(Called { chain, .. }) => {
                let at = format!("{} {} {}", chain.family, chain.table, chain.name);
                write!(out, "chain {at} has a say: nft list chain {at}")
            }
            Self::User => write!(out, "chain {INET} user has rules: nft list chain {INET} user"),
            Self::Rule { chain } => write!(
                out,
                "chain {chain} has a rule that is none of weft's: weft network reload, or move it to chain user"
            ),
            Self::Element { set, element } => {
                write!(out, "{set} has {element}, which is about packets within the network: nft list {set}")
            }
            Self::Missing { set, element } => write!(out, "{set} lacks {element}: weft network reload"),
        }
    }
}

/// Reads a datagram of netfilter as everything here reads it, whatever its bytes are, and compares the rules in it with some of ours.
pub fn read_answers(datagram: &[u8]) {
    static SOME: OnceLock<Known> = OnceLock::new();
    let some = || {
        let mut all = Transaction::new();
        masquerade::create(&mut all);
        Part::Forward.create(&mut all);
        let mut known = Known::default();
        known.add(&all);
        known
    };
    weft_nft::answers::read(datagram, SOME.get_or_init(some));
}

/// What we may have written, to tell others' rules from it.
#[derive(Debug)]
pub struct Ours(Known);

impl Default for Ours {
    fn default() -> Self {
        let mut known = Known::default();
        let mut all = Transaction::new();
        masquerade::create(&mut all);
        parts().for_each(|part| part.create(&mut all));
        bridge::create(&mut all);
        bridge::create_apart(&mut all);
        known.add(&all);
        Self(known)
    }
}

fn parts() -> impl Iterator<Item = Part> {
    let plain = [
        Part::Forward,
        Part::Internal,
        Part::NoIcc,
        Part::LocalOnly,
        Part::Published,
        Part::From,
        Part::Loopback,
        Part::Passage,
    ];
    let by_family =
        OfAddresses::BOTH.into_iter().flat_map(|family| [Part::MasqueradeAll(family), Part::Ranges(family)]);
    let lengths = ANY.into_iter().flat_map(|any| {
        let longest = if any.is_ipv4() { 32 } else { 128 };
        (0..=longest).filter_map(move |length| ipnetwork::IpNetwork::new(any, length).ok())
    });
    let by_length = lengths.flat_map(|length| {
        let kinds = [Kind::Masquerade, Kind::Hairpin, Kind::Source];
        kinds.map(|kind| Part::length(kind, length)).into_iter().chain([Part::from_length(length)])
    });
    plain.into_iter().chain(by_family).chain(by_length)
}

impl Ours {
    /// Returns who else decides about packets that pass from one interface to another, in the calling thread's network
    /// namespace. `tunnels` is what keeps strangers out of the tunnels there.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn strangers(
        &self,
        socket: &mut Socket,
        tunnels: Option<&Tunnels>,
    ) -> Result<Vec<Stranger>, FirewallError> {
        let mut guard = Known::default();
        tunnels.into_iter().for_each(|tunnels| guard.add(&tunnels.whole()));
        let known = [&self.0, &guard];
        let mut found = Vec::new();
        for family in [Family::Inet, Family::Ip, Family::Ip6, Family::Bridge, Family::Netdev] {
            for called in socket.called(family).map_err(wrap)? {
                let Called { chain, .. } = &called;
                // All of ours let pass what no rule of theirs is about.
                let ours = chain.policy == Policy::Accept
                    && known.iter().any(|known| known.has_base(family, &chain.table, &chain.name));
                if !ours && is_passed(&called) && decides(socket, &called).map_err(wrap)? {
                    found.push(Stranger::Chain(called));
                }
            }
        }
        for (known, table) in [(known[0], INET), (known[0], BRIDGE), (known[1], Tunnels::TABLE)] {
            found.extend(rules(socket, known, table).map_err(wrap)?);
        }
        if !socket.rules(INET, forward::USER).map_err(wrap)?.is_empty() {
            found.push(Stranger::User);
        }
        Ok(found)
    }
}

/// Whether packets within a network come by: those that are routed by IP's filters, by those of frames on the way from a port to
/// the host, and by what looks at what an interface receives or sends.
fn is_passed(called: &Called) -> bool {
    match called.chain.family {
        // Neither delivered to the host nor sent by it.
        Family::Inet | Family::Ip | Family::Ip6 => !matches!(called.hook, 1 | 3),
        // NF_BR_PRE_ROUTING, NF_BR_LOCAL_IN. What the host sends to a port it sends there by any way.
        Family::Bridge => matches!(called.hook, 0 | 1),
        // KERNEL: what is led on from where it was received skips the first egress hook (nf_skip_egress in
        // __netif_receive_skb_core), so neither hook sees what the slow path shows it.
        Family::Netdev => true,
    }
}

/// A chain without a rule that lets everything pass decides nothing.
fn decides(socket: &mut Socket, called: &Called) -> Result<bool, Error> {
    Ok(called.chain.policy == Policy::Drop || !socket.rules_of(&called.chain)?.is_empty())
}

/// Returns the chains of a table of ours with rules that are not.
fn rules(socket: &mut Socket, known: &Known, table: Table) -> Result<Vec<Stranger>, Error> {
    let mut found = Vec::new();
    let there = socket.chains(table)?;
    for chain in known.chains_of(table.family, table.name).filter(|chain| *chain != forward::USER) {
        if !there.iter().any(|name| name == chain) {
            continue;
        }
        let rules = socket.rules(table, chain)?;
        if !rules.iter().all(|rule| known.has_rule(table.family, table.name, chain, rule)) {
            found.push(Stranger::Rule { chain: format!("{table} {chain}") });
        }
    }
    Ok(found)
}

fn wrap(source: Error) -> FirewallError {
    table::refused(INET, source)
}

#[cfg(test)]
mod tests {
    use weft_nft::{Base, ChainKind, Expr, Hook, expr::Verdict};

    use super::*;

    const THEIRS: Table = Table::new(Family::Inet, "filter");

    fn base(hook: Hook, policy: Policy) -> Base {
        Base { kind: ChainKind::Filter, hook, priority: 7, policy }
    }

    #[test]
    fn whatever_is_not_ours_is_told() {
        weft_netns::isolate().unwrap();
        let mut socket = Socket::open().unwrap();
        let ours = Ours::default();
        let tunnels =
            Tunnels { plain_port: 4789, secure_port: 8473, mesh_links: "weftwg", ..Tunnels::default() };
        let mut told = |transaction: &mut Transaction| {
            socket.commit(transaction).unwrap();
            ours.strangers(&mut socket, Some(&tunnels)).unwrap()
        };
        let mut all = Transaction::new();
        masquerade::create(&mut all);
        parts().filter(|part| !matches!(part, Part::Length(..) | Part::FromLength(_))).for_each(|part| {
            part.create(&mut all);
        });
        let length = "10.1.0.0/16".parse().unwrap();
        Part::length(Kind::Masquerade, length).create(&mut all);
        Part::from_length(length).create(&mut all);
        bridge::create(&mut all);
        bridge::create_apart(&mut all);
        all.append(tunnels.whole());
        assert_eq!(told(&mut all), [], "all of it is ours");

        let (deaf, delivered) = (
            THEIRS.base_chain("forward", base(Hook::Forward, Policy::Accept)),
            THEIRS.base_chain("input", base(Hook::Input, Policy::Drop)),
        );
        let mut added = Transaction::new();
        added.table(THEIRS, None).chain(&deaf).chain(&delivered);
        assert_eq!(told(&mut added), [], "a chain without a rule, and one that the packets do not pass");

        let accept = || [Expr::Verdict(Verdict::Accept)];
        let found = told(Transaction::new().rule(deaf.rule(accept())));
        assert!(
            matches!(&found[..], [Stranger::Chain(called)] if called.chain.name == "forward"),
            "{found:?}"
        );
        assert!(found[0].to_string().contains("nft list chain inet filter forward"));
        assert_eq!(told(Transaction::new().flush_chain(THEIRS, "forward")), []);

        // In tables of ours.
        let mine = INET.base_chain("mine", base(Hook::Prerouting, Policy::Drop));
        let found = told(Transaction::new().chain(&mine));
        assert!(matches!(&found[..], [Stranger::Chain(called)] if called.chain.name == "mine"), "{found:?}");
        assert_eq!(told(Transaction::new().delete_chain(INET, "mine")), []);
        // One of ours that was told to drop what its rules say nothing about.
        let postrouting =
            |policy| INET.base_chain(masquerade::POSTROUTING, Base { policy, ..masquerade::AT_POSTROUTING });
        let found = told(Transaction::new().chain(&postrouting(Policy::Drop)));
        assert!(
            matches!(&found[..], [Stranger::Chain(called)] if called.chain.name == "postrouting"),
            "{found:?}"
        );
        assert_eq!(told(Transaction::new().chain(&postrouting(Policy::Accept))), []);
        for chain in [INET.chain(forward::FORWARD), Tunnels::TABLE.chain("arriving")] {
            let more = chain.rule([Expr::Counter, Expr::Verdict(Verdict::Drop)]);
            let found = told(Transaction::new().rule(more.clone().comment("theirs")));
            assert!(matches!(&found[..], [Stranger::Rule { chain }] if chain.starts_with("inet weft")));
            let handle = theirs(&mut Socket::open().unwrap(), chain.table, &chain.name);
            assert_eq!(told(Transaction::new().delete_rule(chain.table, chain.name.clone(), handle)), []);
        }
        let user = INET.chain(forward::USER);
        assert_eq!(told(Transaction::new().rule(user.rule(accept()))), [Stranger::User]);
    }

    /// Returns the number of the rule that somebody else has added.
    fn theirs(socket: &mut Socket, table: Table, chain: &str) -> u64 {
        let rules = socket.rules(table, chain).unwrap();
        rules.iter().find(|rule| rule.comment.as_deref() == Some("theirs")).unwrap().handle
    }

    #[test]
    fn what_is_for_one_interface_concerns_no_other() {
        let called = |devices: &[&str]| {
            let chain = weft_nft::Hooked {
                family: Family::Netdev,
                table: "t".into(),
                name: "c".into(),
                priority: 0,
                policy: Policy::Accept,
            };
            let devices = devices.iter().map(|name| (*name).to_owned()).collect();
            Stranger::Chain(Called { chain, hook: 0, devices })
        };
        let links = || ["ov1388", "ovb1388"].into_iter();
        assert!(called(&[]).concerns(links()));
        assert!(called(&["lo", "ovb1388"]).concerns(links()));
        assert!(called(&["ov*"]).concerns(links()));
        assert!(!called(&["lo", "eth*"]).concerns(links()));
        assert!(Stranger::User.concerns(links()));
    }
}
