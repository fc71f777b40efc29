//! Published ports called from `::1`: what [`crate::layout::loopback`] says, and the route it needs.

use std::fs;

use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use weft_model::IfName;
use weft_netlink::route;
use weft_nft::{Error, Socket, Transaction};

use crate::claim::Claims;
use crate::entry::{self, Entry};
use crate::fragment::Loopback;
use crate::layout::loopback::{NETDEV, create_detour};
use crate::layout::masquerade;
use crate::table::{self, State};
use crate::{Backend, Change, Firewall, FirewallError, weft};

/// Behind the route of `lo` itself.
const METRIC: u32 = 4096;

/// Opens a link for answers to `::1`. In the steady state that is three questions.
pub(crate) fn ensure(firewall: &mut Firewall, wanted: &Loopback) -> Result<Change, FirewallError> {
    let Some(link) = link_of(wanted) else { return Ok(Change::AlreadyThere) };
    let index = index_of(link)?;
    let socket = firewall.inet()?;
    let mut change = weft::ensure(socket, &wanted.demand())?;
    // A link that was made anew under its name has the element, and not the route.
    if accept(link, index)? == Change::Made {
        change = Change::Made;
    }
    if detours() && !socket.has_chain(NETDEV, link.as_str()).map_err(refused)? {
        open_detour(socket, link)?;
    }
    Ok(change)
}

/// Returns the link if our own table carries the rules: iptables cannot.
fn link_of(wanted: &Loopback) -> Option<&IfName> {
    wanted.link.as_ref().filter(|_| wanted.backend == Backend::Weft)
}

/// Takes back what the network has wanted of the link, or of all links, but for those that another network wants.
pub(crate) fn remove(firewall: &mut Firewall, wanted: &Loopback) -> Result<(), FirewallError> {
    let claims = Claims(&wanted.claims);
    let entries = claims.wanted_of(&wanted.network, wanted.link.as_ref(), &entry::LOOPBACK)?;
    claims.drop_these(&wanted.network, &entries)?;
    if entries.is_empty() {
        return Ok(());
    }
    let socket = firewall.inet()?;
    for entry in &entries {
        if let Entry::Loopback(link) = entry
            && !claims.is_wanted(entry)?
        {
            close(socket, link)?;
        }
    }
    weft::remove(socket, &claims, &entries)
}

/// Returns what is missing.
pub(crate) fn observe(firewall: &mut Firewall, wanted: &Loopback) -> Result<Vec<String>, FirewallError> {
    let Some(link) = link_of(wanted) else { return Ok(Vec::new()) };
    let socket = firewall.inet()?;
    let mut missing = weft::observe(socket, &wanted.demand())?;
    missing.extend(missing_way(socket, link)?);
    Ok(missing)
}

/// Notes what sends answers round where that is missing, of every link that is claimed.
pub(crate) fn restore(
    socket: &mut Socket,
    claims: &Claims<'_>,
    transaction: &mut Transaction,
) -> Result<(), FirewallError> {
    for entry in claims.in_our_table(&entry::LOOPBACK)? {
        let Entry::Loopback(link) = entry else { continue };
        if missing_detour(socket, &link)?.is_some() {
            table::state(socket, NETDEV)?;
            create_detour(transaction, &link);
        }
    }
    Ok(())
}

/// Has the host take answers again by every link that is claimed.
pub(crate) fn restore_routes(claims: &Claims<'_>) -> Result<(), FirewallError> {
    for entry in claims.in_our_table(&entry::LOOPBACK)? {
        let Entry::Loopback(link) = entry else { continue };
        // A link that is gone has no answers.
        let Ok(index) = index_of(&link) else { continue };
        accept(&link, index)?;
    }
    Ok(())
}

/// Returns what is missing of the way from a link to `::1`: the route and the detour. One that is gone needs none.
pub(crate) fn missing_way(socket: &mut Socket, link: &IfName) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    if let Ok(index) = index_of(link) {
        let is_accepted =
            routes().and_then(|mut routes| route::is_accepted_at(&mut routes, address(), index));
        if !is_accepted.map_err(|error| no_route(link, error))? {
            missing.push(format!("route local {} dev {link}", address().ip()));
        }
    }
    missing.extend(missing_detour(socket, link)?);
    Ok(missing)
}

/// Returns what is missing of a link's detour.
fn missing_detour(socket: &mut Socket, link: &IfName) -> Result<Option<String>, FirewallError> {
    let missing =
        detours() && index_of(link).is_ok() && !socket.has_chain(NETDEV, link.as_str()).map_err(refused)?;
    Ok(missing.then(|| format!("chain {NETDEV} {link}")))
}

/// Tells whether bridged frames pass through the hooks of IPv6.
fn detours() -> bool {
    fs::read_to_string("/proc/sys/net/bridge/bridge-nf-call-ip6tables").is_ok_and(|text| text.trim() == "1")
}

/// Of two processes that do this at once one is told that the chain is there.
fn open_detour(socket: &mut Socket, link: &IfName) -> Result<(), FirewallError> {
    table::state(socket, NETDEV)?;
    let mut transaction = Transaction::new();
    create_detour(&mut transaction, link);
    match socket.commit(&transaction) {
        Err(Error::Refused { errno: Errno::EEXIST, .. }) => Ok(()),
        outcome => outcome.map_err(refused),
    }
}

fn close(socket: &mut Socket, link: &IfName) -> Result<(), FirewallError> {
    if let Ok(index) = index_of(link) {
        match routes().and_then(|mut routes| routes.request(route::refuse_at(address(), index, METRIC))) {
            Err(error) if !error.is_missing() => return Err(no_route(link, error)),
            _ => {}
        }
    }
    // KERNEL: older kernels take the chain away with the interface and leave the table (nf_tables_netdev_event).
    if table::state(socket, NETDEV)? == State::Absent {
        return Ok(());
    }
    let name = link.to_string();
    let chains = socket.chains(NETDEV).map_err(refused)?;
    let mut transaction = Transaction::new();
    if chains.iter().all(|chain| *chain == name) {
        transaction.delete_table(NETDEV);
    } else if chains.contains(&name) {
        transaction.flush_chain(NETDEV, name.clone()).delete_chain(NETDEV, name);
    }
    match socket.commit(&transaction) {
        Err(Error::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
        outcome => outcome.map_err(refused),
    }
}

/// Has the host take packets to `::1` that come in by a link.
fn accept(link: &IfName, index: u32) -> Result<Change, FirewallError> {
    match routes().and_then(|mut routes| routes.request(route::accept_at(address(), index, METRIC))) {
        Ok(_) => Ok(Change::Made),
        Err(error) if error.is_exists() => Ok(Change::AlreadyThere),
        Err(error) => Err(no_route(link, error)),
    }
}

fn index_of(link: &IfName) -> Result<u32, FirewallError> {
    if_nametoindex(link.as_str()).map_err(|errno| FirewallError::NoLink(link.clone(), errno))
}

fn routes() -> Result<weft_netlink::Socket, weft_netlink::Error> {
    weft_netlink::Socket::open()
}

fn address() -> ipnetwork::IpNetwork {
    masquerade::loopback()[1]
}

fn no_route(link: &IfName, source: weft_netlink::Error) -> FirewallError {
    FirewallError::Route { link: link.clone(), source }
}

fn refused(source: Error) -> FirewallError {
    table::refused(NETDEV, source)
}
