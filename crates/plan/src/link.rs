//! Links: bridges, veth pairs, and links that are there already.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};
use weft_model::{IfName, Mac, Mtu};
use weft_netlink::Kind;

use crate::Place;

/// A link and the state it should be in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The link's name.
    pub name: IfName,
    /// What the link is.
    pub kind: LinkKind,
    /// The MTU; absent leaves it to the kernel. A bridge that exists already keeps its own.
    pub mtu: Option<Mtu>,
    /// The Ethernet address; absent means one is chosen when the link is created.
    pub mac: Option<Mac>,
    /// Whether the link should be up. `false` leaves the state alone.
    pub up: bool,
    /// The bridge the link should be a port of.
    pub port: Option<Port>,
    /// Whether it gets a link-local IPv6 address when it goes up; `addrgenmode` of ip-link(8). A port never does.
    pub link_local: bool,
}

/// What a link is, and what only a link of that kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A link that somebody else created.
    Existing,
    /// A bridge.
    Bridge(BridgeOptions),
    /// A pair of Ethernet devices; the step's link is one end.
    Veth(Peer),
    /// A link that one request makes, on another link or on none.
    Made(Made),
    /// A VXLAN device that neither learns nor floods.
    Vxlan(VxlanOptions),
    /// A link of the host, lent to the container. Where things are taken apart, nobody may know any more what it
    /// was.
    Lent(Option<Box<Lent>>),
    /// A device that a program drives past the kernel: there is no link to work on, and yet it is the container's.
    Unseen,
}

/// The options of a VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanOptions {
    /// The network identifier.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The host's address on outer packets, in the namespace we were started in.
    pub local: IpAddr,
    /// Whether outer packets have a checksum over their contents.
    pub checksum: bool,
    /// Whose device it is, which the kernel keeps with it as alias. Others' are never changed or removed.
    pub alias: String,
}

/// A link that one request makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// What it is.
    pub kind: Kind,
    /// The link it is on. Absent for a kind that is on none and, where things are only compared or taken apart, if
    /// nobody knows any more.
    pub over: Option<Over>,
}

/// The link that another one is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Where it is.
    pub place: Place,
    /// Its name there.
    pub name: IfName,
}

impl Over {
    /// Returns a link of the host.
    pub fn host(name: &IfName) -> Self {
        Self { place: Place::Host, name: name.clone() }
    }

    /// Returns a link of the container.
    pub fn container(name: &IfName) -> Self {
        Self { place: Place::Container, name: name.clone() }
    }
}

/// A link of the host before it was lent to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lent {
    /// Its name in the host.
    pub name: IfName,
    /// Its alias.
    #[serde(default)]
    pub alias: Option<String>,
    /// Its Ethernet address.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it was up.
    pub up: bool,
    /// Its addresses, those aside that follow from its Ethernet address.
    #[serde(default)]
    pub addresses: Vec<IpNetwork>,
}

/// The options of a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Whether ports are told apart by VLAN. `false` leaves an existing bridge alone.
    pub vlan_filtering: bool,
    /// Whether the bridge takes frames meant for other stations. `false` leaves an existing bridge alone.
    pub promisc: bool,
}

/// The other end of a veth pair, born where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Where the end lives.
    pub place: Place,
    /// The end's name there.
    pub name: IfName,
    /// The end's Ethernet address; absent means a random one.
    pub mac: Option<Mac>,
}

/// A link's membership in a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The bridge.
    pub bridge: IfName,
    /// Whether frames may leave through the port they came in by.
    pub hairpin: bool,
    /// Whether the port is kept from other isolated ports.
    pub isolated: bool,
    /// The group it is put into, a number by which rules of the firewall know it; none leaves it where it is.
    pub group: Option<u32>,
}

impl Port {
    /// Returns a plain membership in `bridge`.
    pub fn of(bridge: &IfName) -> Self {
        Self { bridge: bridge.clone(), hairpin: false, isolated: false, group: None }
    }
}

impl Peer {
    /// Returns an end in the container, named `name`.
    pub fn container(name: &IfName) -> Self {
        Self { place: Place::Container, name: name.clone(), mac: None }
    }

    /// Returns an end in the host, named `name`.
    pub fn host(name: &IfName) -> Self {
        Self { place: Place::Host, name: name.clone(), mac: None }
    }

    /// Sets the end's Ethernet address.
    #[must_use]
    pub fn mac(self, mac: Option<Mac>) -> Self {
        Self { mac, ..self }
    }
}

impl Link {
    fn new(name: &IfName, kind: LinkKind) -> Self {
        Self { name: name.clone(), kind, mtu: None, mac: None, up: false, port: None, link_local: true }
    }

    /// Returns a bridge.
    pub fn bridge(name: &IfName) -> Self {
        Self::new(name, LinkKind::Bridge(BridgeOptions::default()))
    }

    /// Returns the end `name` of a veth pair whose other end is `peer`.
    pub fn veth(name: &IfName, peer: Peer) -> Self {
        Self::new(name, LinkKind::Veth(peer))
    }

    /// Returns a link of this kind, on another one or on none.
    pub fn made(name: &IfName, kind: Kind, over: Option<Over>) -> Self {
        Self::new(name, LinkKind::Made(Made { kind, over }))
    }

    /// Returns a VXLAN device. It gets no link-local address.
    pub fn vxlan(name: &IfName, options: VxlanOptions) -> Self {
        Self::new(name, LinkKind::Vxlan(options)).link_local(false)
    }

    /// Returns a link of the host that the container is lent.
    pub fn lent(name: &IfName, lent: Option<Lent>) -> Self {
        Self::new(name, LinkKind::Lent(lent.map(Box::new)))
    }

    /// Returns a device that no link stands for.
    pub fn unseen(name: &IfName) -> Self {
        Self::new(name, LinkKind::Unseen)
    }

    /// Returns a link that exists already, such as `lo`.
    pub fn existing(name: &IfName) -> Self {
        Self::new(name, LinkKind::Existing)
    }

    /// Makes a bridge tell its ports apart by VLAN; without effect on other links.
    #[must_use]
    pub fn vlan_filtering(mut self, on: bool) -> Self {
        if let LinkKind::Bridge(options) = &mut self.kind {
            options.vlan_filtering = on;
        }
        self
    }

    /// Makes a bridge promiscuous; without effect on other links.
    #[must_use]
    pub fn promisc(mut self, on: bool) -> Self {
        if let LinkKind::Bridge(options) = &mut self.kind {
            options.promisc = on;
        }
        self
    }

    /// Sets the MTU.
    #[must_use]
    pub fn mtu(self, mtu: Option<Mtu>) -> Self {
        Self { mtu, ..self }
    }

    /// Sets the Ethernet address.
    #[must_use]
    pub fn mac(self, mac: Option<Mac>) -> Self {
        Self { mac, ..self }
    }

    /// Sets whether the link should be up.
    #[must_use]
    pub fn up(self, up: bool) -> Self {
        Self { up, ..self }
    }

    /// Sets whether the link gets a link-local IPv6 address when it goes up.
    #[must_use]
    pub fn link_local(self, link_local: bool) -> Self {
        Self { link_local, ..self }
    }

    /// Makes the link a port of a bridge.
    #[must_use]
    pub fn port(self, port: Port) -> Self {
        Self { port: Some(port), ..self }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, " type {}", self.kind)?;
        match &self.over {
            Some(over) => write!(out, " over {}:{}", over.place, over.name),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "link {}", self.name)?;
        match &self.kind {
            LinkKind::Existing => {}
            LinkKind::Bridge(_) => out.write_str(" type bridge")?,
            LinkKind::Veth(peer) => write!(out, " peer {}:{}", peer.place, peer.name)?,
            LinkKind::Made(made) => made.fmt(out)?,
            LinkKind::Vxlan(VxlanOptions { vni, port, local, checksum, .. }) => {
                write!(out, " type vxlan id {vni} local {local} dstport {port} nolearning")?;
                flag(out, " noudpcsum", !checksum)?;
            }
            LinkKind::Lent(Some(lent)) => write!(out, " from host:{}", lent.name)?,
            LinkKind::Lent(None) => out.write_str(" from host")?,
            LinkKind::Unseen => out.write_str(" unseen")?,
        }
        match (&self.kind, self.mtu) {
            (_, Some(mtu)) => write!(out, " mtu {mtu}")?,
            (LinkKind::Bridge(_), None) => out.write_str(" mtu auto")?,
            _ => {}
        }
        if let Some(mac) = self.mac {
            write!(out, " mac {mac}")?;
        }
        match &self.kind {
            LinkKind::Bridge(options) => {
                flag(out, " vlan-filtering", options.vlan_filtering)?;
                flag(out, " promisc", options.promisc)?;
            }
            LinkKind::Veth(Peer { mac: Some(mac), .. }) => write!(out, " peer-mac {mac}")?,
            _ => {}
        }
        if let Some(port) = &self.port {
            write!(out, " master {}", port.bridge)?;
            flag(out, " hairpin", port.hairpin)?;
            flag(out, " isolated", port.isolated)?;
            port.group.map_or(Ok(()), |group| write!(out, " group {group}"))?;
        }
        flag(out, " addrgenmode none", !self.link_local)?;
        flag(out, " up", self.up)
    }
}

fn flag(out: &mut fmt::Formatter<'_>, word: &str, on: bool) -> fmt::Result {
    if on { out.write_str(word) } else { Ok(()) }
}
