//! The way to etcd must not lead through what etcd tells how to build.

use std::net::{IpAddr, ToSocketAddrs};

use weft_netlink::{Socket, link, route};

use super::settings::host_of;
use crate::StoreError;

/// What the aliases of devices begin with whose way is made of what etcd tells: VXLAN devices, and those of the mesh.
const ALIASES: [&str; 2] = [weft_overlay::kernel::ALIAS, "weft mesh"];

/// Refuses endpoints that would be reached through an overlay's device in the calling thread's namespace.
///
/// A host that lost such a route could not learn how to mend it.
///
/// # Errors
///
/// Names the endpoint and the device.
pub(super) async fn refuse_overlays(endpoints: &[String]) -> Result<(), StoreError> {
    let endpoints = endpoints.to_vec();
    let looked = tokio::task::spawn_blocking(move || endpoints.iter().try_for_each(|text| look(text)));
    looked.await.unwrap_or(Ok(()))
}

fn look(text: &str) -> Result<(), StoreError> {
    let host = host_of(text)?;
    let addresses: Vec<IpAddr> = match host.parse() {
        Ok(address) => vec![address],
        // A name that cannot be resolved is the connection's to complain about.
        Err(_) => (host, 0).to_socket_addrs().into_iter().flatten().map(|address| address.ip()).collect(),
    };
    for address in addresses {
        if let Some(device) = overlay_to(address) {
            return Err(StoreError::Setting {
                what: text.into(),
                reason: format!(
                    "the way there leads through {device}, a device of the overlay that etcd is needed for: give an address outside"
                ),
                hint: "ip route get ADDRESS tells which link leads to an address",
            });
        }
    }
    Ok(())
}

/// Returns the overlay's device that leads to an address. A question the kernel does not answer is no reason to refuse.
fn overlay_to(address: IpAddr) -> Option<String> {
    let mut socket = Socket::open().ok()?;
    let path = route::get(&mut socket, address).ok()??;
    let found = socket.link(link::get_index(path.index)).ok()??;
    let is_ours =
        found.alias.as_deref().is_some_and(|alias| ALIASES.iter().any(|ours| alias.starts_with(ours)));
    (is_ours && !path.local).then(|| found.name.to_string())
}
