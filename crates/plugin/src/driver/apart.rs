//! Taking an attachment apart: its links and its address, in an order that is right for the IPAM plugin.

use weft_cni::{Code, Failure, NetworkResult};
use weft_model::Endpoint;
use weft_netns::Netns;
use weft_plan::{Lifetime, Link, Peer, Plan, Removal};
use weft_state::attachment::Record;

use super::{Driver, Keeps, Leases, inherited};
use crate::{Attachment, Call, Verb, delegate};

/// Removes links and gives the address back. Returns what could not be removed, and why the address is not free.
///
/// An address is given free when nobody has it any more, unless the IPAM plugin needs the interface for that. One whose
/// interface could not be removed stays taken for as long as that is `connected`.
pub(super) fn take_apart<T>(
    attachment: &Attachment,
    links: impl FnOnce() -> Vec<T>,
    connected: impl FnOnce() -> bool,
) -> (Vec<T>, Option<Failure>) {
    if delegate::needs_link(attachment) {
        let address = give_back(attachment);
        return (links(), address);
    }
    // The IPAM plugin gets ready meanwhile.
    let ipam = attachment.conf.ipam_type().map(|_| delegate::prepare(attachment, Verb::Del));
    let stayed = links();
    if !stayed.is_empty() && connected() {
        return (stayed, None);
    }
    (stayed, ipam.and_then(|ipam| ipam.and_then(delegate::finish).err()))
}

/// Gives the address back, and returns why it is not free.
pub(super) fn give_back(attachment: &Attachment) -> Option<Failure> {
    let ipam = attachment.conf.ipam_type().map(|_| delegate::run(attachment, Verb::Del));
    ipam.and_then(Result::err)
}

/// Takes apart what the plan of this endpoint would have built.
pub(super) fn remove_links<D: Driver>(
    driver: &D,
    call: &Call,
    endpoint: &Endpoint,
    record: Option<&Record>,
    netns: Option<&Netns>,
) -> Vec<Failure> {
    let mut kernel = match super::kernel(driver, call, netns) {
        Ok(kernel) => kernel,
        Err(failure) => return vec![failure],
    };
    let previous = call.conf.prev_result().ok().flatten();
    let leases = known_leases(previous.as_ref(), endpoint, record);
    let mut problems = Vec::new();
    if record.is_none() && driver.keeps() == Keeps::Attachment {
        problems.extend(inherited::disinherit(call, endpoint, &leases));
    }
    let plan = match driver.settings(call) {
        Ok(mut settings) => {
            record.iter().for_each(|record| driver.recall(&mut settings, &record.memory));
            // What is not found has gone.
            driver.locate(&mut settings, endpoint, &mut kernel).ok();
            let mut plan = driver.links(&settings, endpoint);
            plan.extend(driver.addresses(&settings, endpoint, &leases).steps);
            let mut plan = plan.of_lifetime(Lifetime::Attachment);
            if record.is_none() {
                plan.extend(inherited::pair(&mut kernel, &plan, endpoint));
            }
            plan
        }
        // The link is another plugin's.
        Err(failure) if driver.is_chained() => return vec![failure],
        Err(_) => {
            let mut plan = Plan::new();
            plan.host(Link::veth(&endpoint.host_ifname(), Peer::container(&endpoint.ifname)));
            plan.host(inherited::spoof_check(call, endpoint));
            plan
        }
    };
    let removal = if wants_sync(call) { Removal::Synchronous } else { Removal::Announced };
    let stayed = kernel.remove(&plan, removal);
    problems.extend(stayed.into_iter().map(|problem| Failure::new(Code::Internal, problem)));
    problems
}

/// The addresses the endpoint had: from our record, else from the runtime's cached result.
fn known_leases(previous: Option<&NetworkResult>, endpoint: &Endpoint, record: Option<&Record>) -> Leases {
    match record {
        Some(record) if !record.addresses.is_empty() => Leases::of_addresses(&record.addresses),
        _ => previous.map(|result| Leases::of_result(result, &endpoint.ifname)).unwrap_or_default(),
    }
}

/// KERNEL: removing a link ends in a wait of 14 to 20 ms for all CPUs (netdev_run_todo, rcu_barrier).
/// A forked child sits it out; a host whose PID 1 does not reap asks us to wait ourselves.
fn wants_sync(call: &Call) -> bool {
    weft_cni::json::get(&call.conf.raw, "syncDelete").and_then(serde_json::Value::as_bool).unwrap_or(false)
}
