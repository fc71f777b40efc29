//! The addresses that other hosts reach this one under.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;
use tokio::task::{spawn_blocking, spawn_local};
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Join, Refusal};
use weft_model::IfName;
use weft_netlink::{Socket, link};
use weft_overlay::desired::least_underlay;
use weft_overlay::records::Underlay;

use super::agent::Agent;
use super::known::Inner;

/// An address of one of this host's interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    interface: String,
    address: IpAddr,
}

/// This host's place on the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The interface.
    pub(crate) interface: String,
    /// Its addresses that others are told.
    pub(crate) underlay: Underlay,
    /// Its MTU.
    pub(crate) mtu: u32,
}

/// Under what it is noted that this host is nowhere.
pub(crate) const ABOUT: &str = "underlay";
/// An address that goes and leaves one of the other family may come back: a link that was down for a moment has lost those of
/// IPv6.
const GRACE: Duration = Duration::from_secs(30);

/// Looks whether this host is where it was, and has others told if it is not.
///
/// A host that is nowhere keeps its record: it may be between two leases.
pub(crate) async fn look(agent: &Agent) {
    let Ok(membership) = agent.membership() else { return };
    let found = spawn_blocking(move || find(&membership.join)).await;
    let found = found.unwrap_or_else(|error| Err(Refusal::new(Kind::Failed, error)));
    let why = found.as_ref().err().map(|refusal| match &refusal.hint {
        Some(hint) => format!("{refusal}: {hint}"),
        None => refusal.to_string(),
    });
    agent.trouble(ABOUT, why);
    let Ok(found) = found else { return };
    let Some(place) = agent.change(|inner| inner.moved_to(found)) else { return };
    let addresses: Vec<String> = place.underlay.addresses().map(|address| address.to_string()).collect();
    eprintln!("weftd: this host is at {} now ({}, mtu {})", addresses.join(", "), place.interface, place.mtu);
    agent.tell();
    agent.touch();
}

/// Looks again for a host that was nowhere, or is about to lose an address: not every link that may appear is listened to.
pub(crate) fn look_again(agent: &Rc<Agent>) {
    if agent.with(|inner| inner.leaving.is_some() || inner.troubles.contains_key(ABOUT)) {
        let agent = agent.clone();
        spawn_local(async move { look(&agent).await });
    }
}

impl Inner {
    /// Takes note of where this host is; returns its place if that is another than before.
    fn moved_to(&mut self, mut found: Place) -> Option<Place> {
        if let Some(known) = self.place.as_ref().map(|place| place.underlay) {
            let all = Underlay { v4: found.underlay.v4.or(known.v4), v6: found.underlay.v6.or(known.v6) };
            if all == found.underlay {
                self.leaving = None;
            } else if self.leaving.get_or_insert_with(Instant::now).elapsed() < GRACE {
                found.underlay = all;
            } else {
                self.leaving = None;
            }
        }
        if self.place.as_ref() == Some(&found) {
            return None;
        }
        self.place = Some(found.clone());
        Some(found)
    }
}

/// Finds this host's place: what was asked for, or else the interface that leads to the store.
///
/// # Errors
///
/// When there is no such interface or address, or none leads to the store.
pub(crate) fn find(join: &Join) -> Result<Place, Refusal> {
    let own = own()?;
    let usage = |why: String| Refusal::new(Kind::Usage, why).hint("ip -brief address");
    let (interface, wanted) = match (&join.underlay_interface, &join.underlay[..]) {
        (Some(interface), _) => (interface.clone(), Vec::new()),
        (None, []) => (towards(join, &own)?, Vec::new()),
        (None, wanted) => {
            let holder = |address: &IpAddr| own.iter().find(|own| own.address == *address);
            let missing = wanted.iter().find(|address| holder(address).is_none());
            if let Some(missing) = missing {
                return Err(usage(format!("no interface of this host has the address {missing}")));
            }
            let interface = wanted.first().and_then(holder).map(|own| own.interface.clone());
            (interface.unwrap_or_default(), wanted.to_vec())
        }
    };
    let mtu = mtu_of(&interface).ok_or_else(|| usage(format!("there is no interface {interface:?}")))?;
    let candidates: Vec<IpAddr> = match wanted.is_empty() {
        true => own.iter().filter(|own| own.interface == interface).map(|own| own.address).collect(),
        false => wanted,
    };
    let underlay = chosen(&candidates);
    match underlay.addresses().next() {
        Some(_) => Ok(Place { interface, underlay, mtu }),
        None => Err(usage(format!("interface {interface} has no address that other hosts could reach"))),
    }
}

/// Refuses a place that no network could be had at.
///
/// # Errors
///
/// When nothing of a network's packets fits into the link's.
pub(crate) fn carries_networks(place: &Place) -> Result<(), Refusal> {
    let least = least_underlay(place.underlay.v4.is_some());
    if place.mtu >= least {
        return Ok(());
    }
    let Place { interface, mtu, .. } = place;
    let why = format!("interface {interface} has an MTU of {mtu}, and networks need at least {least} of it");
    Err(Refusal::new(Kind::Failed, why).hint(format!("ip link set {interface} mtu 1500")))
}

/// Returns the MTU of an interface of this network namespace; `None` if there is no such interface.
pub(crate) fn mtu_of(interface: &str) -> Option<u32> {
    let name: IfName = interface.parse().ok()?;
    let link = Socket::open().ok()?.link(link::get(&name)).ok()??;
    Some(link.mtu)
}

/// Returns the addresses of endpoints, as far as they can be known now.
pub(crate) fn addresses_of(endpoints: &[String]) -> Vec<SocketAddr> {
    let authority = |endpoint: &String| {
        let rest = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, rest)| rest);
        rest.split('/').next().unwrap_or_default().to_owned()
    };
    endpoints.iter().map(authority).filter_map(|at| at.to_socket_addrs().ok()).flatten().collect()
}

/// Returns the interface that a packet to the store leaves by.
fn towards(join: &Join, own: &[Own]) -> Result<String, Refusal> {
    let leaves_by = |to: &SocketAddr| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        // Nothing is sent: the kernel looks the route up and chooses the address.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(to).ok()?;
        let local = socket.local_addr().ok()?.ip();
        own.iter().find(|own| own.address == local).map(|own| own.interface.clone())
    };
    addresses_of(&join.endpoints).iter().find_map(leaves_by).ok_or_else(|| {
        let why = match join.dir {
            Some(_) => "cannot tell which interface leads to other hosts".into(),
            None => format!("cannot tell which interface leads to {}", join.endpoints.join(",")),
        };
        Refusal::new(Kind::Failed, why).hint("name it with --underlay-if")
    })
}

/// Returns one address of each family. An address only this link knows is of no use to hosts behind a router.
fn chosen(candidates: &[IpAddr]) -> Underlay {
    let mut underlay = Underlay::default();
    for address in candidates {
        match address {
            IpAddr::V4(v4) if underlay.v4.is_none() && !v4.is_loopback() && !v4.is_link_local() => {
                underlay.v4 = Some(*v4);
            }
            IpAddr::V6(v6) if underlay.v6.is_none() && !v6.is_loopback() && !v6.is_unicast_link_local() => {
                underlay.v6 = Some(*v6);
            }
            _ => {}
        }
    }
    underlay
}

fn own() -> Result<Vec<Own>, Refusal> {
    let addresses = getifaddrs()
        .map_err(|error| Refusal::new(Kind::Failed, format!("cannot read this host's addresses: {error}")))?;
    let address = |entry: nix::ifaddrs::InterfaceAddress| {
        let storage = entry.address?;
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        let v6 = storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip()));
        Some(Own { interface: entry.interface_name, address: v4.or(v6)? })
    };
    Ok(addresses.filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_others_cannot_reach_are_passed_over() {
        let all = ["169.254.1.1", "fe80::1", "192.0.2.1", "192.0.2.9", "2001:db8::1"]
            .map(|text| text.parse().unwrap());
        let underlay = chosen(&all);
        assert_eq!(underlay.v4, Some([192, 0, 2, 1].into()));
        assert_eq!(underlay.v6, Some("2001:db8::1".parse().unwrap()));
        assert_eq!(chosen(&all[..2]), Underlay::default());
    }

    /// A link that was down for a moment loses its IPv6 addresses, and has them again.
    #[test]
    fn an_address_that_goes_is_told_later_than_one_that_comes() {
        let place = |v4: &str, v6: Option<&str>| Place {
            interface: "u0".into(),
            underlay: Underlay { v4: v4.parse().ok(), v6: v6.and_then(|v6| v6.parse().ok()) },
            mtu: 1500,
        };
        let dir = tempfile::tempdir().unwrap();
        let mut inner = Inner::new(&weft_state::Root::new(Some(dir.path().into())));
        let both = place("192.0.2.1", Some("2001:db8::1"));
        assert_eq!(inner.moved_to(both.clone()), Some(both.clone()));
        assert_eq!(inner.moved_to(both), None);
        assert_eq!(inner.moved_to(place("192.0.2.1", None)), None, "not yet");
        assert!(inner.leaving.is_some());
        let moved = place("192.0.2.9", Some("2001:db8::1"));
        assert_eq!(inner.moved_to(place("192.0.2.9", None)), Some(moved), "what comes is told at once");
        inner.leaving = Instant::now().checked_sub(GRACE);
        let less = place("192.0.2.9", None);
        assert_eq!(inner.moved_to(less.clone()), Some(less));
        assert!(inner.leaving.is_none());
    }

    #[test]
    fn endpoints_are_read_as_far_as_they_go() {
        let endpoints =
            ["https://192.0.2.250:2379", "http://[2001:db8::1]:2379/", "nonsense"].map(String::from);
        let addresses = addresses_of(&endpoints);
        assert_eq!(addresses, ["192.0.2.250:2379", "[2001:db8::1]:2379"].map(|text| text.parse().unwrap()));
    }
}
