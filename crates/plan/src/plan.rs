//! Plans and their steps.

use std::fmt;

use weft_firewall::Fragment;
use weft_model::IfName;

use crate::{Address, Blackhole, BridgeVlan, Link, Route, Routing, Shortcut, Sysctl, Traffic, Tuning};

/// What should exist, in the order in which it is made. Removal goes the other way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// The steps.
    pub steps: Vec<Step>,
}

/// One resource of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Where it exists.
    pub place: Place,
    /// How long it exists.
    pub lifetime: Lifetime,
    /// What it is.
    pub resource: Resource,
}

/// The namespace a resource is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The namespace we were started in.
    Host,
    /// The container's namespace.
    Container,
}

/// How long a resource exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as the container is attached: DEL removes it.
    Attachment,
    /// As long as the network is in use: DEL keeps it.
    Network,
}

/// Something that should exist in the kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Resource {
    /// A link.
    Link(Link),
    /// An address of a link.
    Address(Address),
    /// A route.
    Route(Route),
    /// A destination that leads nowhere.
    Blackhole(Blackhole),
    /// A kernel parameter.
    Sysctl(Sysctl),
    /// VLANs of a bridge port.
    BridgeVlan(BridgeVlan),
    /// Attributes of a link that somebody else made.
    Tuning(Tuning),
    /// How fast a link sends and receives.
    Traffic(Traffic),
    /// Packets of a link that are not asked what others are.
    Shortcut(Shortcut),
    /// Routing of its own for a link.
    Routing(Routing),
    /// Something the firewall does.
    Firewall(Fragment),
}

impl Plan {
    /// Returns a plan without steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends something of the attachment's in the host.
    pub fn host(&mut self, resource: impl Into<Resource>) -> &mut Self {
        self.push(Place::Host, Lifetime::Attachment, resource)
    }

    /// Appends something of the attachment's in the container.
    pub fn container(&mut self, resource: impl Into<Resource>) -> &mut Self {
        self.push(Place::Container, Lifetime::Attachment, resource)
    }

    /// Appends something in the host that all attachments of the network share.
    pub fn network(&mut self, resource: impl Into<Resource>) -> &mut Self {
        self.push(Place::Host, Lifetime::Network, resource)
    }

    /// Returns the steps in order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Returns the steps that live that long.
    #[must_use]
    pub fn of_lifetime(&self, lifetime: Lifetime) -> Self {
        Self { steps: self.steps.iter().filter(|step| step.lifetime == lifetime).cloned().collect() }
    }

    /// Gives a link of the host another name in every step that makes it or is on it.
    pub fn rename(&mut self, from: &IfName, to: &IfName) {
        for step in self.steps.iter_mut().filter(|step| step.place == Place::Host) {
            let name = match &mut step.resource {
                Resource::Link(link) => &mut link.name,
                Resource::Address(address) => &mut address.dev,
                Resource::Route(route) => &mut route.dev,
                Resource::BridgeVlan(vlan) => &mut vlan.dev,
                Resource::Firewall(Fragment::SpoofCheck(check)) => &mut check.host_ifname,
                _ => continue,
            };
            if name == from {
                name.clone_from(to);
            }
        }
    }

    /// Returns whether a step brings this link up.
    pub fn raises(&self, place: Place, name: &IfName) -> bool {
        self.steps.iter().any(|step| {
            step.place == place
                && matches!(&step.resource, Resource::Link(link) if link.up && link.name == *name)
        })
    }

    /// Returns the bridge that a link of the plan is a port of.
    pub fn bridge_joined(&self) -> Option<&IfName> {
        self.steps.iter().find_map(|step| match &step.resource {
            Resource::Link(link) => link.port.as_ref().map(|port| &port.bridge),
            _ => None,
        })
    }

    fn push(&mut self, place: Place, lifetime: Lifetime, resource: impl Into<Resource>) -> &mut Self {
        self.steps.push(Step { place, lifetime, resource: resource.into() });
        self
    }
}

impl Extend<Step> for Plan {
    fn extend<I: IntoIterator<Item = Step>>(&mut self, steps: I) {
        self.steps.extend(steps);
    }
}

impl IntoIterator for Plan {
    type Item = Step;
    type IntoIter = std::vec::IntoIter<Step>;

    fn into_iter(self) -> Self::IntoIter {
        self.steps.into_iter()
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Host => "host",
            Self::Container => "container",
        })
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(link) => link.fmt(out),
            Self::Address(address) => address.fmt(out),
            Self::Route(route) => route.fmt(out),
            Self::Blackhole(hole) => hole.fmt(out),
            Self::Sysctl(sysctl) => sysctl.fmt(out),
            Self::BridgeVlan(vlan) => vlan.fmt(out),
            Self::Tuning(tuning) => tuning.fmt(out),
            Self::Traffic(traffic) => traffic.fmt(out),
            Self::Shortcut(shortcut) => shortcut.fmt(out),
            Self::Routing(routing) => routing.fmt(out),
            Self::Firewall(fragment) => fragment.fmt(out),
        }
    }
}

/// One line: `host`, `container` or, for what the network's attachments share, `network`; then the resource.
impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.lifetime, self.place) {
            (Lifetime::Network, Place::Host) => write!(out, "{:<11}{}", "network", self.resource),
            (_, place) => write!(out, "{place:<11}{}", self.resource),
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.steps.iter().try_for_each(|step| writeln!(out, "{step}"))
    }
}

macro_rules! resource_from {
    ($($kind:ident),*) => {
        $(impl From<$kind> for Resource {
            fn from(resource: $kind) -> Self {
                Self::$kind(resource)
            }
        })*
    };
}

resource_from!(Link, Address, Route, Blackhole, Sysctl, BridgeVlan, Tuning, Traffic, Shortcut, Routing);

impl From<Fragment> for Resource {
    fn from(fragment: Fragment) -> Self {
        Self::Firewall(fragment)
    }
}
