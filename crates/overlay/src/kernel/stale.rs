//! What is left of blocks that this host has lost.

use ipnetwork::IpNetwork;
use weft_netlink::route::{self, RouteKind};
use weft_netlink::{Socket, address, link};
use weft_state::Root;

use super::PROTOCOL;
use super::error::KernelError;
use super::reconcile::{Report, Trouble};
use crate::blocks::overlap;
use crate::desired::{Desired, DesiredNetwork};
use crate::local::LocalNetwork;

/// Takes blocks that are not this host's any more out of what an ADD reads, so that it gives nothing out of them, whatever else cannot
/// be done.
pub(super) fn give_up_lost_blocks(desired: &Desired, root: &Root, report: &mut Report) {
    for DesiredNetwork { local, .. } in &desired.networks {
        // One that cannot be read is of no use to an ADD either.
        let Ok(Some(mut found)) = LocalNetwork::load(root, &local.name) else { continue };
        let before = found.blocks.len();
        found.blocks.retain(|had| local.blocks.iter().any(|block| block.cidr == had.cidr));
        if found.blocks.len() < before
            && let Err(error) = found.save(root)
        {
            report.troubles.push(Trouble { network: Some(local.name.clone()), error: error.into() });
        }
    }
}

/// Takes the bridge's addresses and black holes of blocks away that are not this host's any more. Those that containers have
/// addresses of stay, and are told.
pub(super) fn drop_lost_blocks(
    local: &LocalNetwork,
    root: &Root,
    socket: &mut Socket,
    report: &mut Report,
) -> Result<(), KernelError> {
    let Some(bridge) = socket.link(link::get(&local.bridge))? else { return Ok(()) };
    let ours = |cidr: IpNetwork| local.subnets.iter().any(|subnet| overlap(*subnet, cidr));
    let had = |cidr: IpNetwork| {
        let network = IpNetwork::new(cidr.network(), cidr.prefix()).unwrap_or(cidr);
        ours(network) && !local.blocks.iter().any(|block| block.cidr == network)
    };
    let addresses = address::of_link(socket, bridge.index)?.into_iter().map(|found| found.address);
    let addresses: Vec<IpNetwork> = addresses.filter(|address| had(*address)).collect();
    let routes = route::of_protocol(socket, PROTOCOL)?.into_iter();
    let holes: Vec<_> = routes.filter(|route| route.kind == RouteKind::Blackhole && had(route.dst)).collect();
    let mut leases = None;
    for address in addresses {
        let count = in_block(leases.get_or_insert_with(|| leases_of(local, root)), address);
        if count > 0 {
            let block = IpNetwork::new(address.network(), address.prefix()).unwrap_or(address);
            let error = KernelError::InUse { network: local.name.clone(), block, count };
            report.troubles.push(Trouble { network: None, error });
            continue;
        }
        remove(socket, address::delete(bridge.index, address), format!("address {address}"), report)?;
    }
    for hole in holes {
        if in_block(leases.get_or_insert_with(|| leases_of(local, root)), hole.dst) == 0 {
            remove(socket, route::delete(&hole), format!("route {}", hole.dst), report)?;
        }
    }
    Ok(())
}

fn remove(
    socket: &mut Socket,
    request: weft_netlink::Request,
    what: String,
    report: &mut Report,
) -> Result<(), KernelError> {
    match socket.request(request) {
        Err(error) if !error.is_missing() => Err(error.into()),
        _ => {
            report.removed += 1;
            report.steps.push(format!("no {what}"));
            Ok(())
        }
    }
}

/// Returns the addresses that containers of this host have: the names of `host-local`'s files.
fn leases_of(local: &LocalNetwork, root: &Root) -> Vec<std::net::IpAddr> {
    let entries = std::fs::read_dir(root.cni_networks_dir().join(local.name.as_str())).into_iter().flatten();
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn in_block(leases: &[std::net::IpAddr], block: IpNetwork) -> usize {
    leases.iter().filter(|lease| block.contains(**lease)).count()
}
