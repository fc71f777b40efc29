//! What the kernel must have around a device of the mesh, whoever's WireGuard it is.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnetwork::{IpNetwork, Ipv6Network};
use weft_netlink::link::{self, Change, LinkInfo};
use weft_netlink::{Error, Socket, address, route, wireguard};

use crate::mesh::{Device, MeshError};
use crate::slot::Slot;
use crate::tun::STATION;

/// What marks a link as the mesh's.
pub(crate) const ALIAS: &str = "weft mesh";

/// How many packets may wait in the device: with the kernel's 500 a burst of one connection is lost already.
const QUEUE: u32 = 5000;

/// Adds to a refusal whose it is.
pub(crate) fn refused(slot: Slot, action: &'static str) -> impl Fn(Error) -> MeshError {
    move |cause| MeshError::Refused { device: slot.device().to_string(), action, cause }
}

/// Has no address of the mesh reached but through its devices: what has no route there is refused, and goes nowhere else.
pub(crate) fn close(socket: &mut Socket, slot: Slot, prefix: Ipv6Network) -> Result<(), MeshError> {
    match socket.request(wireguard::unreachable(prefix)) {
        Err(error) if !error.is_exists() => {
            Err(refused(slot, "keep the mesh's addresses from going elsewhere")(error))
        }
        _ => Ok(()),
    }
}

/// Returns whether no address of the mesh is reached but through its devices.
pub(crate) fn is_closed(socket: &mut Socket, prefix: Ipv6Network) -> Result<bool, MeshError> {
    wireguard::is_unreachable(socket, prefix).map_err(refused(Slot::A, "read its routes"))
}

/// Returns what the slot's link lacks, if it lacks something.
pub(crate) fn lack(socket: &mut Socket, slot: Slot, device: &Device) -> Result<Option<String>, MeshError> {
    let Some(link) = find(socket, slot)? else { return Ok(Some("it does not exist".into())) };
    if !matches!(link.kind.as_deref(), Some("wireguard" | "tun")) || link.alias.as_deref() != Some(ALIAS) {
        return Ok(Some("it is somebody else's".into()));
    }
    if !link.up {
        return Ok(Some("it is down".into()));
    }
    if link.mtu != device.mtu {
        return Ok(Some(format!("its mtu is {} instead of {}", link.mtu, device.mtu)));
    }
    let addresses = address::of_link(socket, link.index).map_err(refused(slot, "read its addresses"))?;
    let own = host(device.address);
    let addressed = addresses.iter().any(|address| address.address == own);
    Ok((!addressed).then(|| format!("it has no address {}", device.address)))
}

/// Returns the slot's link, if there is one.
pub(crate) fn find(socket: &mut Socket, slot: Slot) -> Result<Option<LinkInfo>, MeshError> {
    socket.link(link::get(&slot.device())).map_err(refused(slot, "look for it"))
}

/// Gives the slot's link what it needs and brings it up; returns whether anything was missing.
pub(crate) fn raise(socket: &mut Socket, slot: Slot, device: &Device) -> Result<bool, MeshError> {
    let name = slot.device();
    let found = find(socket, slot)?;
    let missing = || MeshError::Refused {
        device: name.to_string(),
        action: "bring it up",
        cause: Error::Malformed("it is not there"),
    };
    let link = found.ok_or_else(missing)?;
    let own = host(device.address);
    let addresses = address::of_link(socket, link.index).map_err(refused(slot, "read its addresses"))?;
    let addressed = addresses.iter().any(|address| address.address == own);
    if link.up && link.mtu == device.mtu && link.alias.as_deref() == Some(ALIAS) && addressed {
        return Ok(false);
    }
    // Before it is up, or the kernel gives it a link-local address that nobody asked for. Refused without IPv6.
    let mut say = |request, action| socket.request(request).map(drop).map_err(refused(slot, action));
    say(link::without_ipv6_address(&name), "keep it without an address of its own making")?;
    say(wireguard::set_up(link.index, QUEUE), "set its queue")?;
    // The kernel's WireGuard has no Ethernet address.
    let mac = link.mac.filter(|mac| *mac != STATION).map(|_| STATION);
    let change =
        Change { up: Some(true), mtu: Some(device.mtu), mac, alias: Some(ALIAS), ..Change::default() };
    say(link::change(link.index, &change), "bring it up")?;
    if !addressed {
        match socket.request(address::add(link.index, own, false)) {
            Ok(_) => {}
            Err(error) if error.is_exists() => {}
            Err(error) => return Err(refused(slot, "give it its address")(error)),
        }
    }
    Ok(true)
}

/// Removes the slot's link, if there is one.
pub(crate) fn remove(socket: &mut Socket, slot: Slot) -> Result<(), MeshError> {
    match socket.request(link::delete(&slot.device())) {
        Err(error) if !error.is_missing() => Err(refused(slot, "remove it")(error)),
        _ => Ok(()),
    }
}

/// Returns by which slot packets to addresses of the mesh leave.
pub(crate) fn routes(socket: &mut Socket) -> Result<BTreeMap<Ipv6Addr, Slot>, MeshError> {
    let mut found = BTreeMap::new();
    for slot in Slot::ALL {
        let Some(link) = find(socket, slot)? else { continue };
        let routes =
            route::of_link(socket, route::MAIN, link.index).map_err(refused(slot, "read its routes"))?;
        found.extend(routes.iter().filter_map(|route| match route.dst {
            IpNetwork::V6(to) if to.prefix() == 128 && route.protocol == wireguard::PROTOCOL => {
                Some((to.ip(), slot))
            }
            _ => None,
        }));
    }
    Ok(found)
}

/// Has packets to an address leave by a slot's device, from one packet to the next.
pub(crate) fn lead(socket: &mut Socket, to: Ipv6Addr, slot: Slot) -> Result<(), MeshError> {
    let Some(link) = find(socket, slot)? else { return Ok(()) };
    socket.request(wireguard::route(to, link.index)).map(drop).map_err(refused(slot, "send packets by it"))
}

/// Has packets to an address go nowhere.
pub(crate) fn unlead(socket: &mut Socket, to: Ipv6Addr, slot: Slot) -> Result<(), MeshError> {
    let Some(link) = find(socket, slot)? else { return Ok(()) };
    match socket.request(wireguard::unroute(to, link.index)) {
        Err(error) if !error.is_missing() => Err(refused(slot, "stop sending packets by it")(error)),
        _ => Ok(()),
    }
}

/// Returns an address as the network that holds nothing else.
pub(crate) fn host(address: Ipv6Addr) -> IpNetwork {
    Ipv6Network::from(address).into()
}
