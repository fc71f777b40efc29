//! The outer packets of overlays: who may send them, and what is not done to them.
//!
//! `table inet weft_tunnels` holds only this, so that nothing else that is written anew takes it away:
//!
//! ```text
//! arriving  not UDP?                           -> no_datagram   from the mesh, and no ICMP? drop
//!           plain port?                        -> plain         from the mesh? drop; not from a known host, and an
//!                                                               identifier of ours? drop
//!           secure port?                       -> secure        not from the mesh? drop
//!           the mesh's own ports?              -> carrier       from the mesh? drop
//!           from the mesh?                     drop
//! leaving   plain port, or the mesh's own?     -> untracked
//!           secure port?                       -> into_mesh     not into the mesh? drop
//! outside   from a network's own uplink?       masquerade
//! inside    into an uplink, and no answer?     drop
//!           from an uplink to another network? drop
//! ```
//!
//! What hides its identifier goes the way of ours, to `stranger`. All chains that end with a tunnel's packet leave it untracked.
//!
//! Every packet of every container comes by here, so most of them are asked little, and cheaply (docs/adr/0018): the name of
//! an interface takes five times as long to load as the family, and what comes from the mesh is of IPv6; a port is
//! a port of UDP, once everything else has gone another way; and what a known host has sent need not be read further.
//!
//! KERNEL: a VXLAN device takes packets from anybody and by any interface: `local` is what it sends with (vxlan_rcv and
//! vxlan_create_sock, drivers/net/vxlan/vxlan_core.c), so what it must not take has to be dropped before.
//!
//! KERNEL: unless somebody tracks connections, what arrives here may be fragments, and what cannot be read does not match
//! (nft_payload_eval). A datagram is put together only if its first fragment passes, which has the ports: at least 8 bytes,
//! or nothing is put together (ip_frag_queue; ip6_frag_queue, and ipv6frag_thdr_truncated since Linux 5.11). It is
//! cut down to a multiple of 8, so an identifier counts as read when the byte behind it, the sixteenth, is there, too.
//!
//! What is not tracked is not translated: masquerading a packet with a zero checksum was what broke VXLAN for years
//! (ea64d8d6c675 in Linux 5.7), and tracking it only costs.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};

use nix::errno::Errno;
use weft_nft::expr::{Comparison, Conntrack, Field, Found, Header, Meta, Reg, Verdict, has_bits, is_family};
use weft_nft::{
    Base, Chain, ChainKind, Element, Error, Expr, Family, Hook, Key, Policy, Rule, Set, Socket, Table,
    Transaction, Type,
};

use crate::layout::forward::AT_FORWARD;
use crate::layout::{ANY, AT_POSTROUTING};
use crate::{Change, FirewallError, table};

/// Our table.
const TABLE: Table = Table::new(Family::Inet, "weft_tunnels");
/// What the comment of every version of it starts with.
const OURS: &str = "weft tunnels ";
/// Its comment.
const VERSION: &str = "weft tunnels 5";
/// What the names of links start with by which networks with a namespace of their own reach the outside.
pub const UPLINKS: &str = "ovu";
/// What the names of all of an overlay's links start with.
const OVERLAYS: &str = "ov";
/// The addresses of networks' own ends of such links, 169.254.64.0/18 and fd77:6566::/32: the first four bytes tell.
const ENDS: [(IpAddr, [u8; 4], [u8; 4]); 2] =
    [(ANY[0], [0xa9, 0xfe, 0x40, 0], [0xff, 0xff, 0xc0, 0]), (ANY[1], [0xfd, 0x77, 0x65, 0x66], [0xff; 4])];
const OUTSIDE: &str = "outside";
const INSIDE: &str = "inside";
/// What connection tracking calls a packet of a connection that it knows (nf_conntrack_common.h).
const KNOWN: u32 = 1 << 1 | 1 << 2;
const STRANGER: &str = "stranger";
const NO_DATAGRAM: &str = "no_datagram";
const PLAIN: &str = "plain";
const SECURE: &str = "secure";
const CARRIER: &str = "carrier";
const UNTRACKED: &str = "untracked";
const INTO_MESH: &str = "into_mesh";
const ARRIVING: &str = "arriving";
const LEAVING: &str = "leaving";
/// Before connection tracking looks (NF_IP_PRI_RAW).
const RAW: i32 = -300;
const UDP: u8 = 17;
/// The family of all addresses inside the mesh. Whoever drives it takes packets of no others out of a tunnel: the one address of the peer
/// that sent them is such a one.
const INSIDE_MESH: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
/// What else the mesh carries: ICMP of either family.
const ICMP: [u8; 2] = [1, 58];
/// The VNI in a VXLAN header, behind the UDP header and four bytes of flags (RFC 7348, section 5).
const VNI: Field = Field { header: Header::Transport, offset: 12, len: 3 };
/// The same with the reserved byte behind it, the header's last.
const LAST_WORD: Field = Field { len: 4, ..VNI };
/// Counted, so that an operator sees that something is dropped.
const DROP: [Expr; 2] = [Expr::Counter, Expr::Verdict(Verdict::Drop)];
/// How often a lost race is tried again.
const ATTEMPTS: usize = 4;

/// What overlays send and receive, as the firewall has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// The UDP port of plain VXLAN.
    pub plain_port: u16,
    /// The UDP port of VXLAN inside the mesh, which is never seen outside it.
    pub secure_port: u16,
    /// The UDP ports of the mesh itself.
    pub mesh_ports: BTreeSet<u16>,
    /// What the names of the mesh's interfaces start with.
    pub mesh_links: &'static str,
    /// The identifiers of plain networks. Others on the same port are somebody else's.
    pub vnis: BTreeSet<u32>,
    /// Whether there are networks that reach the outside by a link whose name starts with [`UPLINKS`].
    pub uplinks: bool,
    /// The hosts that may send plain VXLAN.
    pub hosts: BTreeSet<IpAddr>,
}

fn wrap(source: Error) -> FirewallError {
    table::refused(TABLE, source)
}

impl Tunnels {
    pub(crate) const TABLE: Table = TABLE;

    /// Returns what makes all of it.
    pub(crate) fn whole(&self) -> Transaction {
        self.transaction(false, Some(VERSION))
    }

    /// Makes it so. The rules are replaced in one transaction, or only the hosts if nothing else changed: there is no
    /// moment without rules.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the table is somebody else's.
    pub fn ensure(&self) -> Result<Change, FirewallError> {
        let mut socket = Socket::open().map_err(wrap)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let there = self.is_there(&mut socket)?;
            if there && admitted(&mut socket)? == self.hosts {
                return Ok(Change::AlreadyThere);
            }
            match socket.commit(&self.transaction(there, Some(VERSION))) {
                Ok(()) => return Ok(Change::Made),
                Err(Error::Refused { errno: Errno::EEXIST | Errno::ENOENT, .. }) if attempts < ATTEMPTS => {}
                Err(error) => return Err(wrap(error)),
            }
        }
    }

    /// Returns what is missing, and who is let in and should not be, a line each.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer, or the table is somebody else's.
    pub fn observe(&self) -> Result<Vec<String>, FirewallError> {
        let mut socket = Socket::open().map_err(wrap)?;
        if !self.is_there(&mut socket)? {
            return Ok(vec![format!("table {TABLE} as this version of weft writes it")]);
        }
        let admitted = admitted(&mut socket)?;
        let missing = self.hosts.difference(&admitted);
        let missing = missing.map(|host| format!("host {host} among those of table {TABLE}"));
        let surplus =
            admitted.difference(&self.hosts).map(|host| format!("table {TABLE} without host {host}"));
        Ok(missing.chain(surplus).collect())
    }

    /// Takes it back. Nothing there is no error.
    ///
    /// # Errors
    ///
    /// When the kernel refuses, or the table is somebody else's.
    pub fn remove() -> Result<(), FirewallError> {
        let mut socket = Socket::open().map_err(wrap)?;
        if comment(&mut socket)?.is_none() {
            return Ok(());
        }
        let mut transaction = Transaction::new();
        transaction.delete_table(TABLE);
        socket.commit(&transaction).map_err(wrap)
    }

    /// Returns whether the rules are there; who is in the sets is another question.
    fn is_there(&self, socket: &mut Socket) -> Result<bool, FirewallError> {
        if comment(socket)?.is_none() || socket.element(&marks(), &self.mark()).map_err(wrap)?.is_none() {
            return Ok(false);
        }
        let mut rules = Transaction::new();
        self.write(&mut rules);
        socket.has_all(&rules, |_| false).map_err(wrap)
    }

    /// Adds the chains and their rules.
    fn write(&self, transaction: &mut Transaction) {
        let base = |hook| Base { kind: ChainKind::Filter, hook, priority: RAW, policy: Policy::Accept };
        for name in [STRANGER, NO_DATAGRAM, PLAIN, SECURE, CARRIER, UNTRACKED, INTO_MESH] {
            transaction.chain(&TABLE.chain(name));
        }
        transaction.chain(&TABLE.base_chain(ARRIVING, base(Hook::Prerouting)));
        transaction.chain(&TABLE.base_chain(LEAVING, base(Hook::Output)));
        if self.uplinks {
            transaction.chain(&TABLE.base_chain(OUTSIDE, AT_POSTROUTING));
            transaction.chain(&TABLE.base_chain(INSIDE, AT_FORWARD));
        }
        for rule in self.chains().into_iter().flat_map(|(_, rules)| rules) {
            transaction.rule(rule);
        }
    }

    fn transaction(&self, only_hosts: bool, comment: Option<&str>) -> Transaction {
        let mut transaction = Transaction::new();
        if only_hosts {
            let [v4, v6] = ANY.map(hosts);
            transaction.flush_set(&v4).flush_set(&v6);
        } else {
            // To delete a table, it has to be there.
            transaction.table(TABLE, None).delete_table(TABLE).table(TABLE, comment);
            let [v4, v6] = ANY.map(hosts);
            transaction.set(&v4).set(&v6).set(&marks());
            transaction.elements(&marks(), vec![Element::new(self.mark())]);
            self.write(&mut transaction);
        }
        for family in ANY {
            let of_family = self.hosts.iter().filter(|host| host.is_ipv4() == family.is_ipv4());
            let elements: Vec<_> = of_family.map(|host| Element::new(Key::new().addr(*host))).collect();
            if !elements.is_empty() {
                transaction.elements(&hosts(family), elements);
            }
        }
        transaction
    }

    /// Returns the chains with their rules.
    fn chains(&self) -> Vec<(&'static str, Vec<Rule>)> {
        let chain = |name: &'static str| TABLE.chain(name);
        let (arriving, leaving) = (chain(ARRIVING), chain(LEAVING));
        let of_mesh =
            |chains: &Chain, name| self.mesh_ports.iter().map(|port| to_port(chains, *port, name)).collect();
        let carried: Vec<Rule> = of_mesh(&arriving, CARRIER);
        let sent: Vec<Rule> = of_mesh(&leaving, UNTRACKED);
        // What a chain does not drop is not tracked.
        let untracked = |name: &'static str, rules: Vec<Rule>| {
            let rules = rules.into_iter().chain([chain(name).rule([Expr::NoTrack])]);
            (name, rules.collect())
        };
        let no_mesh = |name| self.drop_from_mesh(&chain(name), &[]);
        let mut chains = vec![
            (STRANGER, vec![chain(STRANGER).rule(DROP)]),
            (NO_DATAGRAM, vec![self.drop_from_mesh(&chain(NO_DATAGRAM), &no_icmp())]),
            untracked(PLAIN, self.plain()),
            untracked(SECURE, vec![self.drop_elsewhere(&chain(SECURE), Meta::InputName)]),
            untracked(CARRIER, vec![no_mesh(CARRIER)]),
            untracked(UNTRACKED, Vec::new()),
            untracked(INTO_MESH, vec![self.drop_elsewhere(&chain(INTO_MESH), Meta::OutputName)]),
        ];
        let ports =
            [to_port(&arriving, self.plain_port, PLAIN), to_port(&arriving, self.secure_port, SECURE)];
        let others = unless_udp(&arriving, Verdict::Goto(NO_DATAGRAM.into()));
        chains.push((
            ARRIVING,
            [others].into_iter().chain(ports).chain(carried).chain([no_mesh(ARRIVING)]).collect(),
        ));
        let ports =
            [to_port(&leaving, self.plain_port, UNTRACKED), to_port(&leaving, self.secure_port, INTO_MESH)];
        let others = unless_udp(&leaving, Verdict::Accept);
        chains.push((LEAVING, [others].into_iter().chain(ports).chain(sent).collect()));
        if self.uplinks {
            chains.extend([(OUTSIDE, outside()), (INSIDE, inside())]);
        }
        chains
    }

    /// Plain VXLAN: what a known host sends passes, and of what others send that with an identifier of none of ours.
    fn plain(&self) -> Vec<Rule> {
        let chain = TABLE.chain(PLAIN);
        let mut rules = vec![self.drop_from_mesh(&chain, &[])];
        rules.extend(ANY.map(|family| known_host(&chain, family)));
        rules.extend(self.vnis.iter().map(|vni| {
            let number = vni.to_be_bytes()[1..].to_vec();
            let is_ours = [Expr::Payload(VNI, Reg(0)), Expr::Compare(Reg(0), Comparison::Equal, number)];
            chain.rule(is_ours.into_iter().chain([goto(STRANGER)]))
        }));
        if let Some(vni) = self.vnis.first() {
            // None of ours gets here, so whatever can be read is not this one.
            let word = (vni << 8).to_be_bytes().to_vec();
            let is_another =
                [Expr::Payload(LAST_WORD, Reg(0)), Expr::Compare(Reg(0), Comparison::NotEqual, word)];
            rules.push(chain.rule(is_another.into_iter().chain([goto(UNTRACKED)])));
            rules.push(chain.rule([goto(STRANGER)]));
        }
        rules
    }

    /// Drops what comes from the mesh, if the other steps say so, too.
    fn drop_from_mesh(&self, chain: &Chain, more: &[Expr]) -> Rule {
        let mesh = self.is_mesh(Meta::InputName, Comparison::Equal);
        chain.rule([&is_family(INSIDE_MESH)[..], &mesh, more, &DROP].concat())
    }

    /// Drops what passes another interface than the mesh's.
    fn drop_elsewhere(&self, chain: &Chain, way: Meta) -> Rule {
        chain.rule([&self.is_mesh(way, Comparison::NotEqual)[..], &DROP].concat())
    }

    fn is_mesh(&self, way: Meta, comparison: Comparison) -> [Expr; 2] {
        // Fewer bytes than a name has are a prefix.
        [Expr::Meta(way, Reg(0)), Expr::Compare(Reg(0), comparison, self.mesh_links.as_bytes().to_vec())]
    }

    /// Returns what the set of marks has when the rules are these.
    fn mark(&self) -> Key {
        // KERNEL: tables have comments since Linux 5.10, so what the rules depend on is not told by one.
        let rules = (
            VERSION,
            self.plain_port,
            self.secure_port,
            &self.mesh_ports,
            self.mesh_links,
            &self.vnis,
            self.uplinks,
        );
        let [a, b, c, d, ..] = hash(&rules).to_be_bytes();
        Key::new().addr(IpAddr::from([a, b, c, d]))
    }
}

/// Returns the hosts that are let in.
fn admitted(socket: &mut Socket) -> Result<BTreeSet<IpAddr>, FirewallError> {
    let mut found = BTreeSet::new();
    for family in ANY {
        let keys = socket.keys(&hosts(family)).map_err(wrap)?;
        let v4 = |key: &[u8]| <[u8; 4]>::try_from(key).map(IpAddr::from);
        let v6 = |key: &[u8]| <[u8; 16]>::try_from(key).map(IpAddr::from);
        found.extend(keys.iter().filter_map(|key| v4(key).or_else(|_| v6(key)).ok()));
    }
    Ok(found)
}

/// A number that differs when the thing does, also between two processes of one version.
fn hash(thing: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    thing.hash(&mut hasher);
    hasher.finish()
}

fn comment(socket: &mut Socket) -> Result<Option<String>, FirewallError> {
    match socket.table(TABLE).map_err(wrap)? {
        None => Ok(None),
        // KERNEL: tables have comments since Linux 5.10.
        Some(None) => Ok(Some(String::new())),
        Some(Some(comment)) if comment.starts_with(OURS) => Ok(Some(comment)),
        Some(Some(comment)) => Err(FirewallError::NotOurs { table: TABLE, comment }),
    }
}

fn hosts(family: IpAddr) -> Set {
    let (name, key): (_, &'static [Type]) =
        if family.is_ipv4() { ("hosts4", &[Type::Ipv4Addr]) } else { ("hosts6", &[Type::Ipv6Addr]) };
    Set::new(TABLE, name, key)
}

fn marks() -> Set {
    Set::new(TABLE, "marks", &[Type::Ipv4Addr])
}

fn goto(chain: &'static str) -> Expr {
    Expr::Verdict(Verdict::Goto(chain.into()))
}

/// What leaves a network by such a link leaves the host with the host's address.
fn outside() -> Vec<Rule> {
    let chain = TABLE.chain(OUTSIDE);
    let rule = |(family, prefix, mask): (IpAddr, [u8; 4], [u8; 4])| {
        let source = Field { len: 4, ..Field::source_of(family) };
        let steps = [
            Expr::Payload(source, Reg(0)),
            Expr::Mask(Reg(0), mask.to_vec()),
            Expr::Compare(Reg(0), Comparison::Equal, prefix.to_vec()),
            Expr::Masquerade,
        ];
        chain.rule(is_family(family).into_iter().chain(steps))
    };
    ENDS.map(rule).into()
}

/// Nothing enters by such a link but answers, and nothing that came by it goes to another network of the overlay's.
fn inside() -> Vec<Rule> {
    let chain = TABLE.chain(INSIDE);
    let is = |way, name: &str| {
        [Expr::Meta(way, Reg(0)), Expr::Compare(Reg(0), Comparison::Equal, name.as_bytes().to_vec())]
    };
    let (from, to) = (Meta::InputName, Meta::OutputName);
    let answer = has_bits(Conntrack::State, KNOWN).into_iter().chain([Expr::Verdict(Verdict::Accept)]);
    vec![
        chain.rule(is(to, UPLINKS).into_iter().chain(answer)),
        chain.rule(is(to, UPLINKS).into_iter().chain(DROP)),
        chain.rule(is(from, UPLINKS).into_iter().chain(is(to, OVERLAYS)).chain(DROP)),
    ]
}

/// Decides what is no UDP, before anybody asks for ports.
fn unless_udp(chain: &Chain, verdict: Verdict) -> Rule {
    chain.rule([
        Expr::Meta(Meta::Transport, Reg(0)),
        Expr::Compare(Reg(0), Comparison::NotEqual, vec![UDP]),
        Expr::Verdict(verdict),
    ])
}

/// Sends what goes to a port on to another chain; behind [`unless_udp`].
fn to_port(chain: &Chain, port: u16, target: &'static str) -> Rule {
    chain.rule([
        Expr::Payload(Field::PORT_DESTINATION, Reg(0)),
        Expr::Compare(Reg(0), Comparison::Equal, port.to_be_bytes().to_vec()),
        goto(target),
    ])
}

/// Lets pass what a host of the cluster has sent.
fn known_host(chain: &Chain, family: IpAddr) -> Rule {
    let source = [
        Expr::Payload(Field::source_of(family), Reg(0)),
        Expr::Lookup(hosts(family).name, Reg(0), Found::Match),
        goto(UNTRACKED),
    ];
    chain.rule([&is_family(family)[..], &source].concat())
}

/// The steps that go on only for what is not ICMP.
fn no_icmp() -> Vec<Expr> {
    let other = |number| Expr::Compare(Reg(0), Comparison::NotEqual, vec![number]);
    std::iter::once(Expr::Meta(Meta::Transport, Reg(0))).chain(ICMP.map(other)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kernels before 5.10 have it.
    #[test]
    fn a_table_without_a_comment_is_not_written_again() {
        weft_netns::isolate().unwrap();
        let vnis = BTreeSet::from([5000]);
        let wanted =
            Tunnels { plain_port: 4789, mesh_links: "weftwg", vnis, uplinks: true, ..Tunnels::default() };
        Socket::open().unwrap().commit(&wanted.transaction(false, None)).unwrap();
        assert_eq!(wanted.ensure().unwrap(), Change::AlreadyThere);
        let other = Tunnels { plain_port: 4790, ..wanted };
        assert_eq!(other.ensure().unwrap(), Change::Made, "other rules are");
    }
}
