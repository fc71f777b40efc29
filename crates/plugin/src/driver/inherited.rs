//! Attachments that the reference plugins have made, on a host where we have taken over from them.
//!
//! Of those we have no record. What they are is told by names, comments, `host-local`'s files and the runtime's cached
//! results, which are the same for both ([`weft_firewall::collect`]).

use std::cell::LazyCell;
use std::collections::BTreeSet;
use std::fs;

use weft_cni::{AttachmentId, Code, Failure};
use weft_firewall::{Firewall, Fragment, SpoofCheck, Survivors};
use weft_model::{Endpoint, IfName};
use weft_plan::{Kernel, Link, LinkKind, Peer, Plan, Removal, Resource, Step, Traffic, forget_backup};
use weft_state::Root;
use weft_state::attachment::Records;

use super::Leases;
use super::elsewhere::{Configured, Elsewhere};
use super::held::{Held, held};
use crate::Call;

/// Returns the host's end of the pair that another implementation made for this attachment, under a name of its own
/// choice: one end is the container's interface, the other a port of our bridge, or of none where we use none. Anything
/// else in the container is not ours to take.
fn host_end(kernel: &mut Kernel, plan: &Plan, endpoint: &Endpoint) -> Option<IfName> {
    let port = plan.steps().iter().find_map(|step| match &step.resource {
        Resource::Link(Link { kind: LinkKind::Veth(peer), port, .. }) if peer.name == endpoint.ifname => {
            Some(port)
        }
        _ => None,
    })?;
    let bridge = port.as_ref().map(|port| &port.bridge);
    kernel.host_end(&endpoint.ifname, bridge).ok().flatten()
}

/// Returns the step that takes that pair.
pub(super) fn pair(kernel: &mut Kernel, plan: &Plan, endpoint: &Endpoint) -> Option<Step> {
    let name = host_end(kernel, plan, endpoint)?;
    let mut plan = Plan::new();
    plan.host(Link::veth(&name, Peer::container(&endpoint.ifname)));
    plan.steps.pop()
}

/// Makes a plan one that another implementation's attachment can meet: under its name for the host's end, and without
/// the switches that only we turn.
pub(super) fn adapt(kernel: &mut Kernel, plan: &mut Plan, endpoint: &Endpoint) {
    plan.steps.retain(|step| !matches!(step.resource, Resource::Sysctl(_)));
    let Some(name) = host_end(kernel, plan, endpoint) else { return };
    plan.rename(&endpoint.host_ifname(), &name);
}

/// Takes back what the reference plugins made in the firewall for an attachment.
pub(super) fn disinherit(call: &Call, endpoint: &Endpoint, leases: &Leases) -> Option<Failure> {
    let claims = call.root.masquerade_dir();
    let outcome = weft_firewall::disinherit(&mut Firewall::new(), &claims, endpoint, &leases.addresses());
    outcome.err().map(|error| Failure::new(Code::Internal, error))
}

/// Removes what the reference plugins have left of attachments that are not valid. Before the IPAM plugin does the same:
/// its files tell whose which address was.
///
/// What bears no network's name, such as an address among firewalld's sources, goes only if it is written down that one of
/// this network's attachments had it, and if no other network of the host has it now. `bridge` tells the network's own.
pub(super) fn sweep(
    call: &Call,
    valid: &[AttachmentId],
    bridge: impl Fn(&Endpoint) -> Option<IfName>,
) -> Vec<Failure> {
    // What we have a record of is connected still: it could not be taken apart.
    let records = Records::new(&call.root).of_network(&call.conf.name);
    let connected =
        records.iter().map(|record| (record.endpoint.container.as_str(), record.endpoint.ifname.as_str()));
    let attachments: Vec<_> =
        valid.iter().map(|id| (id.container_id.as_str(), id.ifname.as_str())).chain(connected).collect();
    let (kept, stale): (Vec<_>, Vec<_>) = held(call).into_iter().partition(|held| held.is_of(&attachments));
    let addresses = kept.iter().filter_map(|held| held.address).collect();
    let survivors = Survivors { attachments, addresses };
    let departed: Vec<_> = stale.iter().filter_map(Held::departed).collect();
    let names: BTreeSet<_> = stale.iter().filter_map(|held| held.endpoint(call)).collect();
    // Much is read for these, of all networks, and mostly there is nothing to collect.
    let configured = LazyCell::new(|| Configured::read(call));
    let elsewhere = LazyCell::new(|| Elsewhere::read(call, &configured));
    let mut problems = Vec::new();
    let claims = call.root.masquerade_dir();
    let mut firewall = Firewall::new();
    let network = &call.conf.name;
    let taken = || match elsewhere.addresses(names.first().and_then(&bridge).as_ref()) {
        Ok(taken) => Some(taken),
        Err(cause) => {
            problems.push(super::kernel_says(cause));
            None
        }
    };
    let collected = weft_firewall::collect(&mut firewall, &claims, network, &survivors, &departed, taken);
    problems.extend(collected.err().map(|error| Failure::new(Code::Internal, error)));
    for endpoint in names.iter().filter(|endpoint| !elsewhere.knows(endpoint)) {
        problems.extend(forget(call, &mut firewall, endpoint, &configured));
    }
    let stays = |container: &&str| survivors.attachments.iter().any(|(stays, _)| stays == container);
    let gone = stale.iter().map(|held| held.container.as_str()).filter(|container| !stays(container));
    problems.extend(unshape(call, &gone.collect()));
    problems
}

/// Removes what is known by the names of an attachment alone.
fn forget(
    call: &Call,
    firewall: &mut Firewall,
    endpoint: &Endpoint,
    configured: &Configured,
) -> Vec<Failure> {
    // CNI: plugins/meta/tuning keeps what an interface was there, and leaves it when the namespace goes first.
    let mut problems = Vec::new();
    // What our own has a record of it puts back itself.
    if Records::of_plugin(&call.root, "tuning").get(&endpoint.container, &endpoint.ifname).is_none() {
        fs::remove_file(Root::tuning_backup(&call.root.cni_tuning_dir(), endpoint)).ok();
        let backups = configured.tuning_dirs(call).into_iter().map(|dir| Root::tuning_backup(&dir, endpoint));
        let refused = backups.filter_map(|backup| forget_backup(&backup).err());
        problems.extend(refused.map(|cause| Failure::new(Code::Io, cause)));
    }
    let removed = firewall.remove(&spoof_check(call, endpoint));
    problems.extend(removed.err().map(|error| Failure::new(Code::Internal, error)));
    problems
}

/// The spoof check of an attachment, as far as its names tell.
pub(super) fn spoof_check(call: &Call, endpoint: &Endpoint) -> Fragment {
    Fragment::SpoofCheck(SpoofCheck {
        host_ifname: endpoint.host_ifname(),
        mac: None,
        endpoint: endpoint.clone(),
        claims: call.root.masquerade_dir(),
    })
}

/// Removes the links that what containers sent has passed. CNI: plugins/meta/bandwidth, which names them after network
/// and container.
fn unshape(call: &Call, containers: &BTreeSet<&str>) -> Vec<Failure> {
    let mut plan = Plan::new();
    for container in containers {
        plan.host(Traffic::Ifb { name: IfName::ifb(&format!("{}{container}", call.conf.name)), of: None });
    }
    if plan.steps().is_empty() {
        return Vec::new();
    }
    match Kernel::open(None) {
        Ok(mut kernel) => {
            let stayed = kernel.remove(&plan, Removal::Announced);
            stayed.into_iter().map(|problem| Failure::new(Code::Internal, problem)).collect()
        }
        Err(cause) => vec![super::kernel_says(cause)],
    }
}
