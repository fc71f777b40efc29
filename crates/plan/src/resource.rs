//! Addresses, routes, sysctls and VLANs of bridge ports.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::{IfName, VlanId};

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link that carries the address.
    pub dev: IfName,
    /// The address and the length of its network's prefix.
    pub address: IpNetwork,
    /// What to do about other addresses of the link.
    pub conflict: Conflict,
    /// Whether an IPv6 address is probed for duplicates, which takes a second or two.
    pub dad: bool,
    /// Whether the address's network is on the link, which is a route of its own.
    pub prefix_route: bool,
}

/// What to do when a link has an address that conflicts with the one it should have.
///
/// Any other IPv4 address conflicts; of IPv6 only those whose network overlaps, because a bridge
/// may be the gateway of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Conflict {
    /// Nothing conflicts.
    #[default]
    Allow,
    /// The step fails.
    Refuse,
    /// The other addresses are removed.
    Replace,
}

impl Address {
    /// Returns an address of `dev` that tolerates others and is usable at once.
    pub fn on(dev: &IfName, address: IpNetwork) -> Self {
        Self { dev: dev.clone(), address, conflict: Conflict::Allow, dad: false, prefix_route: true }
    }

    /// Sets what to do about other addresses of the link.
    #[must_use]
    pub fn conflict(self, conflict: Conflict) -> Self {
        Self { conflict, ..self }
    }

    /// Sets whether an IPv6 address is probed for duplicates.
    #[must_use]
    pub fn dad(self, dad: bool) -> Self {
        Self { dad, ..self }
    }

    /// Keeps the address's network from being taken for one that is on the link.
    #[must_use]
    pub fn without_prefix_route(self) -> Self {
        Self { prefix_route: false, ..self }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "addr {} dev {}", self.address, self.dev)?;
        match self.conflict {
            Conflict::Allow => {}
            Conflict::Refuse => out.write_str(" alone")?,
            Conflict::Replace => out.write_str(" replacing others")?,
        }
        if !self.prefix_route {
            out.write_str(" noprefixroute")?;
        }
        if self.dad { out.write_str(" dad") } else { Ok(()) }
    }
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination; a prefix of length 0 is the default route.
    pub dst: IpNetwork,
    /// The next hop; absent means the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The link packets leave by.
    pub dev: IfName,
    /// The metric: among routes to one destination the lowest wins.
    pub metric: Option<u32>,
    /// The table; absent means the main one.
    pub table: Option<u32>,
    /// The scope as `ip route` numbers it; absent means global with a gateway, link without.
    pub scope: Option<u8>,
    /// The path MTU.
    pub mtu: Option<u32>,
    /// The largest TCP segment advertised.
    pub advmss: Option<u32>,
    /// The address packets leave with, unless they have one.
    pub src: Option<IpAddr>,
    /// What to do about another route to the same destination.
    pub rivals: Rivals,
}

/// What to do when there is another route to the same destination with the same metric.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rivals {
    /// The step fails.
    #[default]
    Refuse,
    /// They stand side by side.
    Join,
    /// The other one goes: whom it led to cannot be there any more.
    Replace,
}

impl Route {
    /// Returns a route to `dst` by way of `dev`.
    pub fn to(dst: IpNetwork, dev: &IfName) -> Self {
        Self {
            dst,
            gateway: None,
            dev: dev.clone(),
            metric: None,
            table: None,
            scope: None,
            mtu: None,
            advmss: None,
            src: None,
            rivals: Rivals::Refuse,
        }
    }

    /// Sets the next hop.
    #[must_use]
    pub fn via(self, gateway: Option<IpAddr>) -> Self {
        Self { gateway, ..self }
    }

    /// Sets the metric.
    #[must_use]
    pub fn metric(self, metric: Option<u32>) -> Self {
        Self { metric, ..self }
    }

    /// Sets the table.
    #[must_use]
    pub fn table(self, table: Option<u32>) -> Self {
        Self { table, ..self }
    }

    /// Sets the scope.
    #[must_use]
    pub fn scope(self, scope: Option<u8>) -> Self {
        Self { scope, ..self }
    }

    /// Sets the path MTU.
    #[must_use]
    pub fn mtu(self, mtu: Option<u32>) -> Self {
        Self { mtu, ..self }
    }

    /// Sets the largest TCP segment advertised.
    #[must_use]
    pub fn advmss(self, advmss: Option<u32>) -> Self {
        Self { advmss, ..self }
    }

    /// Sets the address packets leave with.
    #[must_use]
    pub fn src(self, src: Option<IpAddr>) -> Self {
        Self { src, ..self }
    }

    /// Sets what to do about another route to the same destination.
    #[must_use]
    pub fn rivals(self, rivals: Rivals) -> Self {
        Self { rivals, ..self }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.dst.prefix(), self.gateway) {
            (0, Some(gateway)) => write!(out, "route default via {gateway}")?,
            (_, Some(gateway)) => write!(out, "route {} via {gateway}", self.dst)?,
            (_, None) => write!(out, "route {}", self.dst)?,
        }
        write!(out, " dev {}", self.dev)?;
        if let Some(src) = self.src {
            write!(out, " src {src}")?;
        }
        let numbers = [
            ("table", self.table),
            ("metric", self.metric),
            ("scope", self.scope.map(u32::from)),
            ("mtu", self.mtu),
            ("advmss", self.advmss),
        ];
        for (word, number) in numbers {
            if let Some(number) = number {
                write!(out, " {word} {number}")?;
            }
        }
        out.write_str(match self.rivals {
            Rivals::Refuse => "",
            Rivals::Join => " append",
            Rivals::Replace => " replacing others",
        })
    }
}

/// A destination that packets vanish at, unless another route leads there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blackhole {
    /// The destination.
    pub dst: IpNetwork,
    /// The metric: among routes to one destination the lowest wins.
    pub metric: u32,
    /// Who made it (rtm_protocol).
    pub protocol: u8,
}

impl fmt::Display for Blackhole {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "route blackhole {} metric {} proto {}", self.dst, self.metric, self.protocol)
    }
}

/// A kernel parameter of a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sysctl {
    /// The path below `/proc/sys`, such as `net/ipv6/conf/eth0/accept_dad`. A dot inside an
    /// interface name stays a dot: components are separated by slashes alone.
    pub key: String,
    /// The value as it is written.
    pub value: String,
    /// Whether its absence is an error. IPv6 parameters are absent where IPv6 is.
    pub required: bool,
}

impl Sysctl {
    /// Returns a parameter that must take the value.
    pub fn set(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.into(), required: true }
    }

    /// Returns a parameter that takes the value where the kernel has it.
    pub fn attempt(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self { required: false, ..Self::set(key, value) }
    }

    /// Returns the family, the link and the name of `net/FAMILY/conf/LINK/NAME`.
    pub(crate) fn of_link(&self) -> Option<(&str, IfName, &str)> {
        let mut parts = self.key.strip_prefix("net/")?.split('/');
        match [parts.next()?, parts.next()?, parts.next()?, parts.next()?] {
            [family, "conf", link, name] if parts.next().is_none() => {
                Some((family, link.parse().ok()?, name))
            }
            _ => None,
        }
    }

    /// Returns the name of the link whose parameter it is, if it is one of a link.
    pub(crate) fn link(&self) -> Option<&str> {
        let mut parts = self.key.split('/').skip(2);
        parts.next().filter(|part| matches!(*part, "conf" | "neigh"))?;
        parts.next()
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "sysctl {} = {}", self.key, self.value)?;
        if self.required { Ok(()) } else { out.write_str(" if present") }
    }
}

/// The VLANs of a bridge port, or of the bridge itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeVlan {
    /// The port, or the bridge.
    pub dev: IfName,
    /// Which of the two `dev` is.
    pub side: VlanSide,
    /// The VLANs to be in.
    pub vlans: Vec<VlanRange>,
    /// Whether the VLAN that the bridge gave the port when it joined stays.
    pub keep_default: bool,
}

/// Whose VLANs are meant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VlanSide {
    /// A port's: `bridge vlan add dev PORT vid N master`.
    #[default]
    Port,
    /// The bridge's own: `bridge vlan add dev BRIDGE vid N self`.
    Bridge,
}

/// VLANs that are treated alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanRange {
    /// The first VLAN.
    pub first: VlanId,
    /// The last VLAN, which may be the first.
    pub last: VlanId,
    /// Whether untagged frames that come in belong to it; one VLAN of a port at most.
    pub pvid: bool,
    /// Whether frames go out untagged.
    pub untagged: bool,
}

impl VlanRange {
    /// Returns the VLAN of an access port: untagged both ways.
    pub fn access(vlan: VlanId) -> Self {
        Self { first: vlan, last: vlan, pvid: true, untagged: true }
    }

    /// Returns VLANs of a trunk: tagged both ways.
    pub fn tagged(first: VlanId, last: VlanId) -> Self {
        Self { first, last, pvid: false, untagged: false }
    }
}

impl BridgeVlan {
    /// Returns the VLANs of the port `dev`, which leaves the VLAN it was born in.
    pub fn port(dev: &IfName, vlans: Vec<VlanRange>) -> Self {
        Self { dev: dev.clone(), side: VlanSide::Port, vlans, keep_default: false }
    }

    /// Returns the VLANs of the bridge `dev` itself.
    pub fn bridge(dev: &IfName, vlans: Vec<VlanRange>) -> Self {
        Self { dev: dev.clone(), side: VlanSide::Bridge, vlans, keep_default: true }
    }

    /// Sets whether the port stays in the VLAN the bridge gave it when it joined.
    #[must_use]
    pub fn keep_default(self, keep_default: bool) -> Self {
        Self { keep_default, ..self }
    }
}

impl fmt::Display for VlanRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(out)?;
        if self.first != self.last {
            write!(out, "-{}", self.last)?;
        }
        if self.pvid {
            out.write_str(" pvid")?;
        }
        out.write_str(if self.untagged { " untagged" } else { " tagged" })
    }
}

impl fmt::Display for BridgeVlan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "vlan dev {}", self.dev)?;
        if self.side == VlanSide::Bridge {
            out.write_str(" self")?;
        }
        for (position, range) in self.vlans.iter().enumerate() {
            write!(out, "{} {range}", if position == 0 { "" } else { "," })?;
        }
        match (self.side, self.keep_default) {
            (VlanSide::Port, true) => out.write_str(" and the default"),
            _ => Ok(()),
        }
    }
}
