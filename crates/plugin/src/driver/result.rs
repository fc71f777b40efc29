//! The result of ADD, from the plan and what the kernel answered while it was applied.

use std::path::Path;

use weft_cni::{Interface, NetworkResult};
use weft_model::IfName;
use weft_plan::{Kernel, LinkKind, Place, Plan, Resource};

use super::Leases;

/// Builds the result of an ADD.
pub(super) fn build(
    kernel: &Kernel,
    plans: &[&Plan],
    netns: &Path,
    leases: Leases,
    ifname: &IfName,
) -> NetworkResult {
    let sandbox = netns.to_string_lossy().into_owned();
    let mut interfaces: Vec<_> = plans
        .iter()
        .flat_map(|plan| links(plan))
        .map(|(place, name)| interface(kernel, place, name, &sandbox))
        .collect();
    interfaces.dedup_by(|again, first| again.name == first.name && again.sandbox == first.sandbox);
    let index = interfaces.iter().position(|link| link.sandbox.is_some() && link.name == ifname.as_str());
    let Leases { mut ips, routes, dns } = leases;
    for ip in &mut ips {
        ip.interface = index;
    }
    NetworkResult { interfaces, ips, routes, dns }
}

/// The links a plan makes, in its order; a link that a later step only changes shows once, in its first place.
pub(super) fn links(plan: &Plan) -> Vec<(Place, &IfName)> {
    let mut links: Vec<(Place, &IfName)> = Vec::new();
    let mut add = |place, name| {
        if !links.contains(&(place, name)) {
            links.push((place, name));
        }
    };
    for step in plan.steps() {
        let Resource::Link(link) = &step.resource else { continue };
        match &link.kind {
            // CNI: of a pair inside the host the reference plugins tell the end that carries the addresses.
            LinkKind::Veth(peer) if peer.place == step.place => add(peer.place, &peer.name),
            LinkKind::Veth(peer) if peer.place == Place::Container => {
                add(step.place, &link.name);
                add(peer.place, &peer.name);
            }
            _ => add(step.place, &link.name),
        }
    }
    links
}

fn interface(kernel: &Kernel, place: Place, name: &IfName, sandbox: &str) -> Interface {
    let facts = kernel.link(place, name);
    Interface {
        name: name.to_string(),
        mac: facts.map(|facts| facts.mac.to_string()),
        mtu: facts.map(|facts| facts.mtu),
        sandbox: (place == Place::Container).then(|| sandbox.to_owned()),
        ..Interface::default()
    }
}
