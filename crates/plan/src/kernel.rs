//! The kernel, seen from the host and from one container.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;
use weft_firewall::Firewall;
use weft_model::{IfName, Mac, Mtu};
use weft_netlink::link::{BridgeInfo, LinkInfo};
use weft_netlink::netconf::Parameters;
use weft_netlink::{Request, Socket, address, link, route, wait_operational};
use weft_netns::Netns;

use crate::ensure::MADE_BY_WEFT;
use crate::{Cause, Place};

/// How long a port may take until frames pass it. It takes a tenth of a millisecond.
const OPERATIONAL_LIMIT: Duration = Duration::from_secs(5);

/// Applies plans: the sockets of the host and of one container, and what is known of their links.
#[derive(Debug)]
pub struct Kernel {
    /// What [`Place::Host`] is, when it is not the namespace we were started in.
    home: Option<Netns>,
    /// Opened when the first step in the host needs it: loopback and none have none.
    host: Option<Socket>,
    container: Option<Container>,
    firewall: Firewall,
    known: BTreeMap<(Place, IfName), Known>,
    /// A bridge of the host that was looked at just now, for the step that is about to.
    glimpse: Option<(IfName, LinkInfo)>,
}

#[derive(Debug)]
struct Container {
    netns: Netns,
    socket: Option<Socket>,
}

/// What the kernel said of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkFacts {
    /// The index.
    pub index: u32,
    /// The Ethernet address; all zeroes for a link without one.
    pub mac: Mac,
    /// The MTU.
    pub mtu: u32,
}

/// A link we have seen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) facts: LinkFacts,
    /// Whether we created it: nothing of it was there before, and all of it goes with it.
    pub(crate) fresh: bool,
    pub(crate) bridge: Option<BridgeInfo>,
    /// The bridge it is a port of.
    pub(crate) master: Option<u32>,
    /// For a bridge that may take its ports' Ethernet addresses, the one it had when we first saw it.
    pub(crate) follows: Option<Mac>,
    /// Its parameters, as they came with it.
    pub(crate) parameters: Parameters,
}

impl Known {
    /// What we remember of a link and look at again. What we did to it is true of that link only, not of a
    /// later one of the same name.
    fn again(self, found: &LinkInfo) -> Self {
        let now = Self::from(found);
        if self.facts.index != found.index {
            return now;
        }
        Self { fresh: self.fresh, follows: self.follows.filter(|_| now.follows.is_some()), ..now }
    }
}

impl From<&LinkInfo> for Known {
    fn from(link: &LinkInfo) -> Self {
        let mac = link.mac.unwrap_or(Mac([0; 6]));
        let facts = LinkFacts { index: link.index, mac, mtu: link.mtu };
        // Those we create are born with an address, and then keep it.
        let follows = link.is_bridge() && link.alias.as_deref() != Some(MADE_BY_WEFT);
        let follows = follows.then_some(mac);
        let LinkInfo { bridge, master, parameters, .. } = *link;
        Self { facts, fresh: false, bridge, master, follows, parameters }
    }
}

impl Kernel {
    /// Opens the host and, if given, a container. Nothing in either is touched before a step needs it.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn open(container: Option<&Netns>) -> Result<Self, Cause> {
        Self::at(None, container)
    }

    /// As [`Kernel::open`], for a network that has a namespace of its own in the host's place.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn at(home: Option<&Netns>, container: Option<&Netns>) -> Result<Self, Cause> {
        let home = home.map(Netns::try_clone).transpose()?;
        let container = match container {
            Some(netns) => Some(Container { netns: netns.try_clone()?, socket: None }),
            None => None,
        };
        Ok(Self {
            home,
            host: None,
            container,
            firewall: Firewall::new(),
            known: BTreeMap::new(),
            glimpse: None,
        })
    }

    /// Returns what the kernel said of a link while plans were ensured or observed. Asks nothing.
    pub fn link(&self, place: Place, name: &IfName) -> Option<LinkFacts> {
        self.known(place, name).map(|known| known.facts)
    }

    /// Returns whether a link exists.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn exists(&mut self, place: Place, name: &IfName) -> Result<bool, Cause> {
        Ok(self.look(place, name)?.is_some())
    }

    /// Returns a link's addresses.
    ///
    /// # Errors
    ///
    /// When there is no such link, or the kernel refuses to answer.
    pub fn addresses(&mut self, place: Place, name: &IfName) -> Result<Vec<IpNetwork>, Cause> {
        let index = self.index(place, name)?;
        let addresses = address::of_link(self.socket(place)?, index)?;
        Ok(addresses.into_iter().map(|found| found.address).collect())
    }

    /// Waits until frames pass a link of the host.
    ///
    /// # Errors
    ///
    /// When there is no such link, or when it takes longer than five seconds.
    pub fn wait_up(&mut self, name: &IfName) -> Result<(), Cause> {
        let index = self.index(Place::Host, name)?;
        let home = self.home()?;
        let socket = self.socket(Place::Host)?;
        visit(home.as_ref(), || wait_operational(socket, index, OPERATIONAL_LIMIT))??;
        Ok(())
    }

    /// Returns the MTU of a bridge of the host, if there is such a bridge and a plan created it.
    pub fn mtu_of_ours(&mut self, bridge: &IfName) -> Option<Mtu> {
        let found = self.look(Place::Host, bridge).ok().flatten()?;
        let mtu =
            Some(found.mtu).filter(|_| found.is_bridge() && found.alias.as_deref() == Some(MADE_BY_WEFT));
        self.glimpse = Some((bridge.clone(), found));
        Mtu::try_from(i64::from(mtu?)).ok()
    }

    /// Returns what [`Kernel::mtu_of_ours`] has just seen, or else looks.
    pub(crate) fn glimpse_or_look(&mut self, place: Place, name: &IfName) -> Result<Option<LinkInfo>, Cause> {
        match self.glimpse.take() {
            Some((seen, link)) if place == Place::Host && seen == *name => Ok(Some(link)),
            _ => self.look(place, name),
        }
    }

    /// Returns whether there is a container.
    pub fn has_container(&self) -> bool {
        self.container.is_some()
    }

    /// Returns the link that the default route of a place leaves by: IPv4's, else IPv6's.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn default_link(&mut self, place: Place) -> Result<Option<IfName>, Cause> {
        let Some(index) = self.run(place, route::default_link)?? else { return Ok(None) };
        let link = self.socket(place)?.link(link::get_index(index))?;
        Ok(link.and_then(|link| link.name.parse().ok()))
    }

    /// Returns a link's MTU, or nothing if there is no such link.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn mtu_of(&mut self, place: Place, name: &IfName) -> Result<Option<u32>, Cause> {
        Ok(self.look(place, name)?.map(|link| link.mtu))
    }

    /// Returns whether packets to an address are the host's own.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn is_own_address(&mut self, address: IpAddr) -> Result<bool, Cause> {
        let path = route::get(self.socket(Place::Host)?, address)?;
        Ok(path.is_some_and(|path| path.local))
    }

    /// Returns the MTU of the link that the host's default route leaves by: IPv4's, else IPv6's.
    pub fn uplink_mtu(&mut self) -> Option<Mtu> {
        let index = route::default_link().ok().flatten()?;
        let link = self.socket(Place::Host).ok()?.link(link::get_index(index)).ok().flatten()?;
        Mtu::try_from(i64::from(link.mtu)).ok()
    }

    pub(crate) fn known(&self, place: Place, name: &IfName) -> Option<Known> {
        self.known.get(&(place, name.clone())).copied()
    }

    /// Returns whether a link is a bridge that may take its ports' Ethernet addresses.
    pub(crate) fn follows(&self, place: Place, name: &IfName) -> bool {
        self.known(place, name).is_some_and(|known| known.follows.is_some())
    }

    /// Returns the bridge we have to do with, if we have seen one in the host.
    pub(crate) fn a_bridge(&self) -> Option<Known> {
        let mut hosts = self.known.iter().filter(|((place, _), _)| *place == Place::Host);
        hosts.find(|(_, known)| known.bridge.is_some()).map(|(_, known)| *known)
    }

    pub(crate) fn learn(&mut self, place: Place, name: &IfName, known: Known) {
        self.known.insert((place, name.clone()), known);
    }

    pub(crate) fn forget(&mut self, place: Place, name: &IfName) {
        self.known.remove(&(place, name.clone()));
    }

    /// Asks for a link, and remembers it.
    pub(crate) fn look(&mut self, place: Place, name: &IfName) -> Result<Option<LinkInfo>, Cause> {
        let found = self.socket(place)?.link(link::get(name))?;
        if let Some(link) = &found {
            let known = self.known(place, name).map_or_else(|| link.into(), |known| known.again(link));
            self.learn(place, name, known);
        }
        Ok(found)
    }

    /// Returns a link's index, asking only if the link was not seen yet.
    pub(crate) fn index(&mut self, place: Place, name: &IfName) -> Result<u32, Cause> {
        if let Some(known) = self.known(place, name) {
            return Ok(known.facts.index);
        }
        match self.look(place, name)? {
            Some(link) => Ok(link.index),
            None => Err(Cause::NoLink { place, name: name.clone() }),
        }
    }

    /// Asks for something to go, or to be as it was; what has gone already is fine.
    pub(crate) fn ask_away(&mut self, place: Place, request: Request) -> Result<(), Cause> {
        match self.socket(place)?.request(request) {
            Err(error) if !error.is_missing() => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn netns(&self, place: Place) -> Result<Netns, Cause> {
        match (place, &self.container) {
            (Place::Host, _) => Ok(self.home()?.map_or_else(Netns::current, Ok)?),
            (Place::Container, Some(container)) => Ok(container.netns.try_clone()?),
            (Place::Container, None) => Err(Cause::NoContainer),
        }
    }

    pub(crate) fn socket(&mut self, place: Place) -> Result<&mut Socket, Cause> {
        match place {
            Place::Host => match &mut self.host {
                Some(socket) => Ok(socket),
                none => Ok(none.insert(visit(self.home.as_ref(), Socket::open)??)),
            },
            Place::Container => self.container.as_mut().ok_or(Cause::NoContainer)?.socket(),
        }
    }

    /// Runs `work` in the place's namespace. The first visit to the container also opens its socket, so
    /// that an ADD pays for one visit.
    pub(crate) fn run<T: Send>(&mut self, place: Place, work: impl FnOnce() -> T + Send) -> Result<T, Cause> {
        match place {
            Place::Host => visit(self.home.as_ref(), work),
            Place::Container => self.container.as_mut().ok_or(Cause::NoContainer)?.run(work),
        }
    }

    /// Returns the namespace that the network has in the host's place.
    pub(crate) fn home(&self) -> Result<Option<Netns>, Cause> {
        Ok(self.home.as_ref().map(Netns::try_clone).transpose()?)
    }

    /// Works with the firewall of the host's place.
    pub(crate) fn firewall<T>(&mut self, work: impl FnOnce(&mut Firewall) -> T) -> Result<T, Cause> {
        let firewall = &mut self.firewall;
        visit(self.home.as_ref(), || work(firewall))
    }
}

/// Works in a namespace, or where we are.
pub(crate) fn visit<T>(home: Option<&Netns>, work: impl FnOnce() -> T) -> Result<T, Cause> {
    match home {
        Some(home) => Ok(home.run(work)?),
        None => Ok(work()),
    }
}

impl Container {
    fn socket(&mut self) -> Result<&mut Socket, Cause> {
        if self.socket.is_none() {
            self.run(|| ())?;
        }
        self.socket.as_mut().ok_or(Cause::NoContainer)
    }

    fn run<T: Send>(&mut self, work: impl FnOnce() -> T + Send) -> Result<T, Cause> {
        let missing = self.socket.is_none();
        let (socket, value) = self.netns.run(|| (missing.then(Socket::open), work()))?;
        if let Some(socket) = socket {
            self.socket = Some(socket?);
        }
        Ok(value)
    }
}
