//! Masquerading, for the drivers that are their containers' gateway.

use std::path::Path;

use ipnetwork::IpNetwork;
use weft_firewall::{Backend, FirewallError, Fragment, Masquerade};
use weft_model::{Endpoint, NetworkName};

/// Whose packets are masqueraded, by whom, and where that is written down.
#[derive(Clone, Copy, Debug)]
pub struct Masqueraded<'a> {
    /// The network.
    pub network: &'a NetworkName,
    /// Where the firewall keeps its ownership records.
    pub claims: &'a Path,
    /// Who does it.
    pub backend: Backend,
}

impl Masqueraded<'_> {
    /// Returns what the firewall does for these addresses of one container or, without `endpoint`, for the network.
    pub fn fragment(&self, endpoint: Option<&Endpoint>, addresses: &[IpNetwork]) -> Fragment {
        Fragment::Masquerade(Masquerade {
            network: self.network.clone(),
            subnets: addresses.iter().map(subnet).collect(),
            endpoint: endpoint.cloned(),
            addresses: addresses.to_vec(),
            backend: self.backend,
            claims: self.claims.to_path_buf(),
        })
    }
}

/// Returns who masquerades, if anybody does. `asked` is the key `ipMasqBackend`, `wanted` the key `ipMasq`; `usual` says who does
/// it when nobody is asked for, and may have to ask the kernel.
///
/// # Errors
///
/// If the backend is unknown.
pub fn masquerade_backend(
    asked: Option<&str>,
    wanted: bool,
    addressed: bool,
    dismantles: bool,
    usual: impl FnOnce() -> Backend,
) -> Result<Option<Backend>, FirewallError> {
    let asked = asked.filter(|name| !name.is_empty());
    let needed = addressed && (wanted || dismantles);
    if asked.is_none() && !needed {
        return Ok(None);
    }
    let backend = match asked.map(str::parse) {
        None => usual(),
        Some(Err(_)) if dismantles => usual(),
        Some(chosen) => chosen?,
    };
    // Where there are no nf_tables, only a configuration that says `ipMasq` is worth starting iptables for.
    let idle = !wanted && asked.is_none() && backend == Backend::Iptables;
    Ok(Some(backend).filter(|_| needed && !idle))
}

/// The network an address is in.
fn subnet(address: &IpNetwork) -> IpNetwork {
    IpNetwork::new(address.network(), address.prefix()).unwrap_or(*address)
}
