//! The addresses that other hosts reach this one under.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};

use nix::ifaddrs::getifaddrs;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Join, Refusal};
use weft_model::IfName;
use weft_netlink::{Socket, link};
use weft_overlay::records::Underlay;

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
        (None, []) => (towards(&join.endpoints, &own)?, Vec::new()),
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
fn towards(endpoints: &[String], own: &[Own]) -> Result<String, Refusal> {
    let leaves_by = |to: &SocketAddr| {
        let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        // Nothing is sent: the kernel looks the route up and chooses the address.
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(to).ok()?;
        let local = socket.local_addr().ok()?.ip();
        own.iter().find(|own| own.address == local).map(|own| own.interface.clone())
    };
    addresses_of(endpoints).iter().find_map(leaves_by).ok_or_else(|| {
        let why = format!("cannot tell which interface leads to {}", endpoints.join(","));
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

    #[test]
    fn endpoints_are_read_as_far_as_they_go() {
        let endpoints =
            ["https://192.0.2.250:2379", "http://[2001:db8::1]:2379/", "nonsense"].map(String::from);
        let addresses = addresses_of(&endpoints);
        assert_eq!(addresses, ["192.0.2.250:2379", "[2001:db8::1]:2379"].map(|text| text.parse().unwrap()));
    }
}
