//! Tables, chains and rules.

use std::borrow::Cow;
use std::fmt;

use netlink_packet_netfilter::NetfilterProtoFamily;

use crate::Expr;

/// The packets a table sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4 and IPv6.
    Inet,
    /// IPv4.
    Ip,
    /// IPv6.
    Ip6,
    /// Ethernet frames that pass a bridge.
    Bridge,
    /// Frames as one interface receives them.
    Netdev,
}

impl From<Family> for NetfilterProtoFamily {
    fn from(family: Family) -> Self {
        match family {
            Family::Inet => Self::Inet,
            Family::Ip => Self::IPv4,
            Family::Ip6 => Self::IPv6,
            Family::Bridge => Self::Bridge,
            Family::Netdev => Self::NetDev,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
        })
    }
}

/// A table, by family and name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Table {
    /// The packets it sees.
    pub family: Family,
    /// Its name within the family.
    pub name: &'static str,
}

impl Table {
    /// Returns the table of this family and name.
    pub const fn new(family: Family, name: &'static str) -> Self {
        Self { family, name }
    }

    /// Returns a chain that is only reached by jumps.
    pub fn chain(self, name: impl Into<Cow<'static, str>>) -> Chain {
        Chain { table: self, name: name.into(), base: None, device: None, comment: None }
    }

    /// Returns a chain that the kernel calls at a hook.
    pub fn base_chain(self, name: impl Into<Cow<'static, str>>, base: Base) -> Chain {
        Chain { base: Some(base), ..self.chain(name) }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.family, self.name)
    }
}

/// What a base chain may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// Judge packets.
    Filter,
    /// Translate addresses: sees only the first packet of a connection.
    Nat,
}

/// Where in a packet's way a base chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// Delivered to the host.
    Input,
    /// Passing through.
    Forward,
    /// Sent by the host.
    Output,
    /// About to leave.
    Postrouting,
    /// Received by an interface, before anything else looks at it.
    Ingress,
}

/// What happens to a packet that reaches the end of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// It passes.
    Accept,
    /// It is gone.
    Drop,
}

/// The properties a chain has when the kernel calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// What the chain may do.
    pub kind: ChainKind,
    /// Where it is called.
    pub hook: Hook,
    /// Its turn among the chains of the same hook; lower is earlier.
    pub priority: i32,
    /// What happens at its end.
    pub policy: Policy,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The table it is in.
    pub table: Table,
    /// Its name within the table.
    pub name: Cow<'static, str>,
    /// Where the kernel calls it, or `None` if only jumps lead here.
    pub base: Option<Base>,
    /// The interface, for a chain at [`Hook::Ingress`].
    pub device: Option<String>,
    /// A comment for people.
    pub comment: Option<String>,
}

impl Chain {
    /// Returns the chain with a comment.
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }

    /// Returns the chain for what one interface receives.
    pub fn device(mut self, name: impl Into<String>) -> Self {
        self.device = Some(name.into());
        self
    }

    /// Returns a rule of this chain.
    pub fn rule(&self, exprs: impl IntoIterator<Item = Expr>) -> Rule {
        Rule {
            table: self.table,
            chain: self.name.clone(),
            exprs: exprs.into_iter().collect(),
            comment: None,
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "chain {} {}", self.table, self.name)
    }
}

/// A rule: expressions that are evaluated in turn until one does not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The table.
    pub table: Table,
    /// The chain.
    pub chain: Cow<'static, str>,
    /// What it does.
    pub exprs: Vec<Expr>,
    /// A comment, by which upstream finds its rules again.
    pub comment: Option<String>,
}

impl Rule {
    /// Returns the rule with a comment.
    pub fn comment(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(comment.into());
        self
    }
}

/// A rule as the kernel lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The number that names it in its table.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// What it does, as the kernel lists it: the attributes of its expressions.
    pub(crate) steps: Vec<u8>,
}
