//! Attachments that the reference plugins have made, on a host where we have taken over from them.
//!
//! Of those we have no record. What they are is told by names, comments and `host-local`'s files, which
//! are the same for both ([`weft_firewall::collect`]).

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_cni::{AttachmentId, Code, Failure};
use weft_firewall::{Firewall, Fragment, SpoofCheck, Survivors};
use weft_model::{Endpoint, IfName};
use weft_plan::{Kernel, Link, LinkKind, Peer, Plan, Resource, Step};
use weft_state::Root;
use weft_state::attachment::Records;

use super::Leases;
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
    let Some(name) = host_end(kernel, plan, endpoint) else { return };
    plan.rename(&endpoint.host_ifname(), &name);
    plan.steps.retain(|step| !matches!(step.resource, Resource::Sysctl(_)));
}

/// Takes back what the reference plugins made in the firewall for an attachment.
pub(super) fn disinherit(call: &Call, endpoint: &Endpoint, leases: &Leases) -> Option<Failure> {
    let claims = call.root.masquerade_dir();
    let outcome = weft_firewall::disinherit(&mut Firewall::new(), &claims, endpoint, &leases.addresses());
    outcome.err().map(|error| Failure::new(Code::Internal, error))
}

/// Removes what the reference plugins have left of attachments that are not valid. Before the IPAM plugin does the same:
/// its files tell whose which address was.
pub(super) fn sweep(call: &Call, valid: &[AttachmentId]) -> Vec<Failure> {
    // What we have a record of is connected still: it could not be taken apart.
    let records = Records::new(&call.root).of_network(&call.conf.name);
    let connected =
        records.iter().map(|record| (record.endpoint.container.as_str(), record.endpoint.ifname.as_str()));
    let attachments: Vec<_> =
        valid.iter().map(|id| (id.container_id.as_str(), id.ifname.as_str())).chain(connected).collect();
    let (kept, stale): (Vec<_>, Vec<_>) = held(call).into_iter().partition(|lease| lease.is_of(&attachments));
    let survivors = Survivors { attachments, addresses: kept.iter().map(|lease| lease.address).collect() };
    let leaving: Vec<IpAddr> = stale.iter().map(|lease| lease.address).collect();
    let claims = call.root.masquerade_dir();
    let mut firewall = Firewall::new();
    let collected = weft_firewall::collect(&mut firewall, &claims, &call.conf.name, &survivors, &leaving);
    let mut problems: Vec<Failure> =
        collected.err().map(|error| Failure::new(Code::Internal, error)).into_iter().collect();
    for lease in &stale {
        problems.extend(forget(call, &mut firewall, lease));
    }
    problems
}

/// Removes what is known by the names of an attachment alone.
fn forget(call: &Call, firewall: &mut Firewall, lease: &Lease) -> Option<Failure> {
    let endpoint = Endpoint {
        network: call.conf.name.clone(),
        container: lease.container.parse().ok()?,
        ifname: lease.ifname.as_deref()?.parse().ok()?,
    };
    // CNI: plugins/meta/tuning keeps what an interface was there, and leaves it when the namespace goes first.
    fs::remove_file(Root::tuning_backup(&call.root.cni_tuning_dir(), &endpoint)).ok();
    let check = SpoofCheck { host_ifname: endpoint.host_ifname(), mac: None, endpoint };
    let removed = firewall.remove(&Fragment::SpoofCheck(check));
    removed.err().map(|error| Failure::new(Code::Internal, error))
}

/// An address that `host-local` of either kind has written down.
struct Lease {
    address: IpAddr,
    container: String,
    /// Before version 0.8 of the reference plugin only the container was written.
    ifname: Option<String>,
}

impl Lease {
    fn is_of(&self, attachments: &[(&str, &str)]) -> bool {
        attachments.iter().any(|(container, ifname)| {
            self.container == *container && self.ifname.as_deref().is_none_or(|own| own == *ifname)
        })
    }
}

/// Returns what `host-local` has given away on the call's network, if that is where its addresses come from.
fn held(call: &Call) -> Vec<Lease> {
    if call.conf.ipam_type() != Some("host-local") {
        return Vec::new();
    }
    let given = call.conf.ipam.as_ref().and_then(|ipam| weft_cni::json::get(ipam, "dataDir"));
    let given = given.and_then(serde_json::Value::as_str).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = given.unwrap_or_else(|| call.root.cni_networks_dir()).join(call.conf.name.as_str());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

fn read(path: &Path) -> Option<Lease> {
    /// Two names and a line's end; a file that has more is no lease.
    const LONGEST: u64 = 4096;
    let address = path.file_name()?.to_str()?.parse().ok()?;
    if fs::metadata(path).ok()?.len() > LONGEST {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Some(Lease { address, container: lines.next()?.to_owned(), ifname: lines.next().map(str::to_owned) })
}
