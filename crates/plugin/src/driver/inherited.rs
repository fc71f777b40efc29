//! Attachments that the reference plugins have made, on a host where we have taken over from them.
//!
//! Of those we have no record. What they are is told by names, comments, `host-local`'s files and the runtime's cached
//! results, which are the same for both ([`weft_firewall::collect`]).

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_cni::{AttachmentId, Code, Failure, NetworkResult};
use weft_firewall::{Departed, Firewall, Fragment, SpoofCheck, Survivors};
use weft_model::{Endpoint, IfName};
use weft_plan::{Kernel, Link, LinkKind, Peer, Plan, Removal, Resource, Step, Traffic};
use weft_runtime::cache::Cache;
use weft_state::attachment::Records;
use weft_state::{Root, file};

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
pub(super) fn sweep(call: &Call, valid: &[AttachmentId]) -> Vec<Failure> {
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
    let claims = call.root.masquerade_dir();
    let mut firewall = Firewall::new();
    let collected = weft_firewall::collect(&mut firewall, &claims, &call.conf.name, &survivors, &departed);
    let mut problems: Vec<Failure> =
        collected.err().map(|error| Failure::new(Code::Internal, error)).into_iter().collect();
    let names: BTreeSet<_> = stale.iter().filter_map(|held| held.endpoint(call)).collect();
    for endpoint in &names {
        problems.extend(forget(call, &mut firewall, endpoint));
    }
    let stays = |container: &&str| survivors.attachments.iter().any(|(stays, _)| stays == container);
    let gone = stale.iter().map(|held| held.container.as_str()).filter(|container| !stays(container));
    problems.extend(unshape(call, &gone.collect()));
    problems
}

/// Removes what is known by the names of an attachment alone.
fn forget(call: &Call, firewall: &mut Firewall, endpoint: &Endpoint) -> Option<Failure> {
    // CNI: plugins/meta/tuning keeps what an interface was there, and leaves it when the namespace goes first.
    fs::remove_file(Root::tuning_backup(&call.root.cni_tuning_dir(), endpoint)).ok();
    let removed = firewall.remove(&spoof_check(call, endpoint));
    removed.err().map(|error| Failure::new(Code::Internal, error))
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

/// An attachment that is written down, by `host-local` of either kind or by the runtime.
struct Held {
    container: String,
    /// Before version 0.8 of the reference `host-local` only the container was written.
    ifname: Option<String>,
    address: Option<IpAddr>,
}

impl Held {
    fn is_of(&self, attachments: &[(&str, &str)]) -> bool {
        attachments.iter().any(|(container, ifname)| {
            self.container == *container && self.ifname.as_deref().is_none_or(|own| own == *ifname)
        })
    }

    fn departed(&self) -> Option<Departed<'_>> {
        Some(Departed { container: &self.container, address: self.address? })
    }

    fn endpoint(&self, call: &Call) -> Option<Endpoint> {
        let (container, ifname) = (self.container.parse().ok()?, self.ifname.as_deref()?.parse().ok()?);
        Some(Endpoint { network: call.conf.name.clone(), container, ifname })
    }
}

/// Returns the attachments, container and interface, that are written down anywhere on the host: by us, by the runtime, by
/// `host-local` of either kind in its usual directory. Of the call's own network only those that are valid, or that we
/// have a record of: what GC could not take apart.
///
/// # Errors
///
/// If the call has no list of valid attachments.
pub fn known_attachments(call: &Call) -> Result<BTreeSet<(String, String)>, Failure> {
    let valid = call.valid_attachments()?;
    let mut known: BTreeSet<_> =
        valid.iter().map(|id| (id.container_id.clone(), id.ifname.clone())).collect();
    for records in [Records::new(&call.root), Records::of_plugin(&call.root, "tuning")] {
        let names = |endpoint: &Endpoint| (endpoint.container.to_string(), endpoint.ifname.to_string());
        known.extend(records.all().iter().map(|record| names(&record.endpoint)));
        let damaged = records.all_damaged();
        known.extend(damaged.iter().map(|(container, ifname)| (container.to_string(), ifname.to_string())));
    }
    let own = call.conf.name.as_str();
    for made in Cache::new(call.root.cni_results_dir()).everybody() {
        if made.network != own {
            known.insert((made.id.container_id, made.id.ifname));
        }
    }
    let networks = fs::read_dir(call.root.cni_networks_dir()).into_iter().flatten().flatten();
    for network in networks.filter(|entry| entry.file_name() != own) {
        let leases = fs::read_dir(network.path()).into_iter().flatten().flatten();
        let leases = leases.filter_map(|entry| read(&entry.path()));
        known.extend(leases.filter_map(|lease| Some((lease.container, lease.ifname?))));
    }
    Ok(known)
}

/// Returns what is written down of the call's network.
fn held(call: &Call) -> Vec<Held> {
    let mut held = leased(call);
    held.extend(answered(call));
    held
}

/// Returns what `host-local` has given away, if that is where the network's addresses come from.
fn leased(call: &Call) -> Vec<Held> {
    if call.conf.ipam_type() != Some("host-local") {
        return Vec::new();
    }
    let given = call.conf.ipam.as_ref().and_then(|ipam| weft_cni::json::get(ipam, "dataDir"));
    let given = given.and_then(serde_json::Value::as_str).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folder = given.unwrap_or_else(|| call.root.cni_networks_dir()).join(call.conf.name.as_str());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| read(&entry.path())).collect()
}

fn read(path: &Path) -> Option<Held> {
    /// Two names and a line's end; a file that has more is no lease.
    const LONGEST: u64 = 4096;
    let address = path.file_name()?.to_str()?.parse().ok()?;
    if fs::metadata(path).ok()?.len() > LONGEST {
        return None;
    }
    let text = file::read_text(path).ok()?;
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (container, ifname) = (lines.next()?.to_owned(), lines.next().map(str::to_owned));
    Some(Held { container, ifname, address: Some(address) })
}

/// Returns what the runtime was told when it connected containers, as far as it keeps that in the reference library's
/// way: with it the addresses are known whoever gave them.
fn answered(call: &Call) -> Vec<Held> {
    let cache = Cache::new(call.root.cni_results_dir());
    let mut held = Vec::new();
    for cached in cache.of_network(call.conf.name.as_str()) {
        let (container, ifname) = (cached.id.container_id, Some(cached.id.ifname));
        let one = Held { container, ifname, address: None };
        let result = one.endpoint(call).and_then(|endpoint| cache.result(&endpoint));
        let result = result.and_then(|result| NetworkResult::from_value(&result, call.conf.version).ok());
        let result = result.unwrap_or_default();
        for ip in &result.ips {
            let (container, ifname) = (one.container.clone(), one.ifname.clone());
            held.push(Held { container, ifname, address: Some(ip.address.ip()) });
        }
        held.push(one);
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_at_a_pipe_among_the_leases() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("10.0.0.4")).unwrap();
        nix::unistd::mkfifo(&path("10.0.0.2"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        weft_state::atomic::write(
            &path("10.0.0.3"),
            b"red\r\neth0",
            weft_state::atomic::Durability::Boot,
            0o600,
        )
        .unwrap();
        let container = |name: &str| read(&path(name)).map(|held| held.container);
        assert_eq!(["10.0.0.2", "10.0.0.3", "10.0.0.4"].map(container), [None, Some("red".into()), None]);
    }
}
