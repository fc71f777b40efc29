//! Who has a say about packets within a network, so that they may not be led past.

use std::fmt;
use std::net::IpAddr;

use weft_firewall::Stranger;
use weft_netlink::bpf::NetfilterLink;

/// Why packets within a network go by whatever this host asks of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody's rules of nf_tables.
    Rules(Stranger),
    /// A table of the old iptables.
    Iptables {
        /// Its command, such as `iptables-legacy`.
        program: &'static str,
        /// The table.
        table: String,
    },
    /// The old filter of bridges: a module of it.
    Ebtables(String),
    /// A program that is called as rules of netfilter are.
    Program(NetfilterLink),
    /// IPVS has services.
    Ipvs,
    /// IPsec has so many policies.
    Ipsec(u32),
    /// IPsec lets nothing pass that no policy is about.
    IpsecDefault,
    /// A rule of routing asks for ports or labels.
    Routing,
    /// A filter of `tc` on what the bridge receives.
    Filter {
        /// The bridge.
        link: String,
        /// The filter's kind and name.
        filter: String,
    },
    /// The bridge, or one of its ports, does not pass on all it receives.
    Setting {
        /// The bridge or the port.
        link: String,
        /// What it does, as the end of a sentence that begins with its name.
        setting: &'static str,
    },
    /// A program on what the bridge receives, without `tc` (TCX).
    Tcx(String),
    /// A program on what the bridge receives, before anything else (XDP).
    Xdp(String),
    /// Connections that nobody saw begin would be no connections.
    Strict,
    /// A connection whose addresses somebody has translated and goes on translating.
    Translated([IpAddr; 2]),
    /// The ruleset has changed just now.
    Changed,
    /// The network's devices are not there.
    Devices,
    /// The kernel has no fast path.
    Incapable(String),
    /// It is not known.
    Unknown(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rules(stranger) => stranger.fmt(out),
            Self::Iptables { program, table } => {
                write!(out, "table {table} of {program} is there: {program} -t {table} -S")
            }
            Self::Ebtables(module) => write!(
                out,
                "module {module} is loaded, by which frames on bridges are filtered: ebtables-legacy -L, and modprobe -r {module}"
            ),
            Self::Program(NetfilterLink { id, program }) => write!(
                out,
                "program {program} is attached to netfilter: bpftool link show id {id}, bpftool prog show id {program}"
            ),
            Self::Ipvs => out.write_str("IPVS has services: ipvsadm -Ln"),
            Self::Ipsec(count) => write!(out, "IPsec has {count} policies: ip xfrm policy"),
            Self::IpsecDefault => {
                out.write_str("IPsec blocks what no policy is about: ip xfrm policy getdefault")
            }
            Self::Routing => out.write_str("a rule asks for ports or labels of packets: ip rule"),
            Self::Filter { link, filter } => write!(
                out,
                "a filter ({filter}) decides about what {link} receives: tc filter show dev {link} ingress"
            ),
            Self::Setting { link, setting } => write!(out, "{link} {setting}: ip -d link show dev {link}"),
            Self::Tcx(link) => {
                write!(out, "a program decides about what {link} receives (TCX): bpftool net show dev {link}")
            }
            Self::Xdp(link) => {
                write!(out, "a program decides about what {link} receives (XDP): ip link show dev {link}")
            }
            Self::Strict => out.write_str(
                "connections that did not begin before its eyes are none to the host: \
                 sysctl net.netfilter.nf_conntrack_tcp_loose=1",
            ),
            Self::Translated([from, to]) => write!(
                out,
                "the addresses of a connection from {from} to {to} are translated: conntrack -L -s {from} -d {to}"
            ),
            Self::Changed => out.write_str("the ruleset has changed just now"),
            Self::Devices => out.write_str("its devices are not there: weft overlay status"),
            Self::Incapable(why) => write!(out, "packets go the slow way, by the firewall: {why}"),
            Self::Unknown(why) => write!(out, "who has a say is not known: {why}"),
        }
    }
}
