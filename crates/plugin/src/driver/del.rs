//! DEL: everything that may be there goes, whatever else is missing.

use weft_cni::{Code, Failure, NetworkResult};
use weft_model::Endpoint;
use weft_netns::Netns;
use weft_plan::{Lifetime, Link, Peer, Plan, Removal};
use weft_state::attachment::Record;

use super::{Alone, Driver, Keeps, Leases, inherited};
use crate::{Attachment, Call, Verb, delegate};

/// Disconnects a container.
///
/// Nothing needed here comes from the namespace: it may be gone, its path empty or a plain file
/// left over from before a reboot. A broken configuration costs only what it alone could name.
pub(super) fn del<D: Driver>(driver: &D, attachment: &Attachment) -> Result<(), Failure> {
    let keeps = driver.keeps();
    let records = keeps.records(&attachment.root, driver.about().kind);
    let keeps_records = keeps != Keeps::Nothing;
    let endpoint = &attachment.endpoint;
    // Without a lock, on a full disk say, DEL still does what it can.
    let _alone = keeps_records.then(|| Alone::with(attachment, &endpoint.container).ok());
    let record = records.get(&endpoint.container, &endpoint.ifname);
    // A DEL for a network that lost the interface's name to another must not take the other's interface.
    let problems = match &record {
        Some(other) if keeps_records && other.endpoint.network != endpoint.network => release(attachment),
        _ => disconnect(driver, attachment, record.as_ref()),
    };
    if problems.is_empty() && keeps_records {
        records.remove(endpoint).map_err(|error| Failure::new(Code::Io, error))?;
    }
    Failure::all(problems)
}

fn disconnect<D: Driver>(driver: &D, attachment: &Attachment, record: Option<&Record>) -> Vec<Failure> {
    // A runtime that does not name the namespace may have it all the same.
    let known = || record.and_then(Record::same_netns);
    let netns = attachment.netns.as_deref().or_else(known).and_then(|path| Netns::open(path).ok());
    // The IPAM plugin gets ready meanwhile, but gives an address free only when nobody has it any more.
    let after = |kind: &String| !speaks_over_link(kind);
    let ipam = attachment
        .conf
        .ipam_type()
        .map(String::from)
        .filter(after)
        .map(|_| delegate::prepare(attachment, Verb::Del));
    let mut problems = if ipam.is_some() { Vec::new() } else { release(attachment) };
    problems.extend(remove_links(driver, attachment, &attachment.endpoint, record, netns.as_ref()));
    let still =
        || super::is_connected(driver, attachment, &attachment.endpoint, netns.as_ref()).unwrap_or(true);
    // An address stays taken while its interface is there.
    if problems.is_empty() || !still() {
        problems.extend(ipam.and_then(|ipam| ipam.and_then(delegate::finish).err()));
    }
    problems
}

/// Whether an IPAM plugin, whoever's it is, gives addresses back over the interface that has them: a DHCP server is told
/// from it, so the interface goes after that.
fn speaks_over_link(ipam: &str) -> bool {
    ipam == "dhcp"
}

/// Gives the address free.
fn release(attachment: &Attachment) -> Vec<Failure> {
    let ipam = attachment.conf.ipam_type().map(|_| delegate::run(attachment, Verb::Del));
    ipam.and_then(Result::err).into_iter().collect()
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
        problems.extend(inherited::release(call, endpoint, &leases));
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
