//! CHECK compares the plan with the kernel; STATUS says whether an ADD could work at all.

use std::path::Path;

use weft_cni::{Code, Failure, Interface, NetworkResult};
use weft_model::Endpoint;
use weft_plan::{Kernel, Place, Plan};
use weft_runtime::find::find;

use super::{ContainerRequest, Driver, Keeps, Leases, inherited, later, result};
use crate::{Attachment, Call, Verb, delegate};

/// Compares what should be there with what is.
pub(super) fn check<D: Driver>(driver: &D, attachment: &Attachment) -> Result<(), Failure> {
    let mut settings = driver.settings(attachment)?;
    driver.fit(&mut settings, &attachment.endpoint)?;
    let (request, _) = ContainerRequest::of(attachment)?;
    let mut previous = match attachment.conf.prev_result()? {
        None if driver.is_chained() => None,
        _ => Some(attachment.conf.required_prev_result()?),
    };
    let path = attachment.required_netns()?;
    let netns = super::open(path)?;
    if attachment.conf.ipam_type().is_some() {
        delegate::run(attachment, Verb::Check)?;
    }
    let endpoint = &attachment.endpoint;
    let records = driver.keeps().records(&attachment.root, driver.about().kind);
    let record = records.get(&endpoint.container, &endpoint.ifname);
    record.iter().for_each(|record| driver.recall(&mut settings, &record.memory));
    let leases =
        previous.as_ref().map(|result| Leases::of_result(result, &endpoint.ifname)).unwrap_or_default();
    let mut kernel = super::kernel(driver, attachment, Some(&netns))?;
    driver.locate(&mut settings, endpoint, &mut kernel)?;
    let mut plan = driver.links(&settings, endpoint);
    plan.extend(driver.addresses(&settings, endpoint, &leases).steps);
    request.configure(&mut plan, &endpoint.ifname);

    if driver.keeps() == Keeps::Attachment && record.is_none() {
        inherited::adapt(&mut kernel, &mut plan, endpoint);
    }
    previous = previous.filter(|_| !driver.is_chained());
    if let Some(previous) = &mut previous {
        later::concede(&mut plan, previous, attachment);
    }
    let observed = kernel.observe(&plan).map_err(super::kernel_says)?;
    let mut differences: Vec<String> = observed.iter().map(ToString::to_string).collect();
    if let Some(previous) = previous {
        differences.extend(interface_differences(&kernel, &plan, &previous, endpoint, path));
    }
    if differences.is_empty() { Ok(()) } else { Err(Failure::text(Code::Internal, differences.join("; "))) }
}

/// Compares the interfaces of the result with the links of the plan.
fn interface_differences(
    kernel: &Kernel,
    plan: &Plan,
    previous: &NetworkResult,
    endpoint: &Endpoint,
    netns: &Path,
) -> Vec<String> {
    let netns = netns.to_string_lossy();
    let mut differences = Vec::new();
    for (place, name) in result::links(plan) {
        let sandboxed = |link: &&Interface| link.sandbox.as_deref().is_some_and(|s| !s.is_empty());
        let told = previous
            .interfaces
            .iter()
            .find(|link| link.name == name.as_str() && sandboxed(link) == (place == Place::Container));
        let Some(told) = told else {
            if place == Place::Container && *name == endpoint.ifname {
                differences.push(format!("CNI created interface in container {name} not found"));
            }
            continue;
        };
        if let Some(sandbox) = told.sandbox.as_deref().filter(|s| !s.is_empty() && *s != netns) {
            differences
                .push(format!("Sandbox in prevResult {sandbox} doesn't match configured netns: {netns}"));
        }
        let Some(facts) = kernel.link(place, name) else { continue };
        let mac = facts.mac.to_string();
        if let Some(told) = told.mac.as_deref().filter(|told| !told.is_empty())
            && !told.eq_ignore_ascii_case(&mac)
        {
            differences.push(format!("interface {name} Mac {told} doesn't match container Mac: {mac}"));
        }
        // A bridge's follows its ports unless somebody set it; a host end's is in the plan.
        if let Some(told) =
            told.mtu.filter(|told| *told != 0 && *told != facts.mtu && place == Place::Container)
        {
            differences.push(format!("{place} interface {name} has MTU {}, not {told}", facts.mtu));
        }
    }
    differences
}

/// Says whether this plugin could serve an ADD now.
pub(super) fn status<D: Driver>(driver: &D, call: &Call) -> Result<(), Failure> {
    let mut settings = driver.settings(call)?;
    if !may_administer() {
        let text = "this process has no CAP_NET_ADMIN, so no link can be made";
        return Err(Failure::text(Code::NotAvailable, text).with_hint(Some("run the runtime as root".into())));
    }
    let mut kernel = super::kernel(driver, call, None)?;
    kernel.allows(&driver.network(&settings)).map_err(super::kernel_says)?;
    let unavailable = |failure: Failure| Failure { code: Code::NotAvailable, ..failure };
    driver.survey(&mut settings, &mut kernel).map_err(unavailable)?;
    if let Some(endpoint) = anybody(call) {
        let links = driver.links(&settings, &endpoint);
        kernel.offers(&links).map_err(|cause| unavailable(super::kernel_says(cause)))?;
    }
    if let Some(kind) = call.conf.ipam_type() {
        find(kind, &call.paths).map_err(|error| Failure::new(Code::NotAvailable, error))?;
        delegate::run(call, Verb::Status)?;
    }
    driver.ready(&settings)
}

/// Stands for whoever may come.
fn anybody(call: &Call) -> Option<Endpoint> {
    let network = call.conf.name.clone();
    Some(Endpoint { network, container: "anybody".parse().ok()?, ifname: "eth0".parse().ok()? })
}

/// Returns whether this process has CAP_NET_ADMIN, bit 12 of the effective set (capabilities(7)).
fn may_administer() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set >> 12 & 1 == 1)
}
