//! DEL: everything that may be there goes, whatever else is missing.

use weft_cni::{Code, Failure};
use weft_model::Endpoint;
use weft_netns::Netns;
use weft_plan::{Kernel, Lifetime, Link, Peer, Plan, Removal};
use weft_state::attachment::{Record, Records};

use super::{Alone, Driver, Leases};
use crate::{Attachment, Call, Verb, delegate};

/// Disconnects a container.
///
/// Nothing needed here comes from the namespace: it may be gone, its path empty or a plain file
/// left over from before a reboot. A broken configuration costs only what it alone could name.
pub(super) fn del<D: Driver>(driver: &D, attachment: &Attachment) -> Result<(), Failure> {
    let records = Records::new(&attachment.root);
    let endpoint = &attachment.endpoint;
    // Without a lock, on a full disk say, DEL still does what it can.
    let _alone = driver.keeps_records().then(|| Alone::with(attachment, &endpoint.container).ok());
    let record =
        records.get(&endpoint.container, &endpoint.ifname).filter(|record| record.endpoint == *endpoint);
    let netns = attachment.netns.as_deref().and_then(|path| Netns::open(path).ok());

    // The IPAM plugin gets ready meanwhile, but gives an address free only when nobody has it any more.
    let ipam = attachment.conf.ipam_type().map(|_| delegate::prepare(attachment, Verb::Del));
    let mut problems = remove_links(driver, attachment, endpoint, record.as_ref(), netns.as_ref());
    let released = ipam.map(|ipam| ipam.and_then(delegate::finish));
    problems.extend(released.and_then(Result::err));
    if problems.is_empty()
        && driver.keeps_records()
        && let Err(error) = records.remove(endpoint)
    {
        problems.push(Failure::new(Code::Io, error));
    }
    Failure::all(problems)
}

/// Takes apart what the plan of this endpoint would have built.
pub(super) fn remove_links<D: Driver>(
    driver: &D,
    call: &Call,
    endpoint: &Endpoint,
    record: Option<&Record>,
    netns: Option<&Netns>,
) -> Vec<Failure> {
    let mut kernel = match Kernel::open(netns) {
        Ok(kernel) => kernel,
        Err(error) => return vec![Failure::new(Code::Internal, error)],
    };
    let leases = known_leases(call, endpoint, record);
    let plan = match driver.settings(call) {
        Ok(settings) => {
            let mut plan = driver.links(&settings, endpoint);
            plan.extend(driver.addresses(&settings, endpoint, &leases).steps);
            plan.of_lifetime(Lifetime::Attachment)
        }
        Err(_) => {
            let mut plan = Plan::new();
            plan.host(Link::veth(&endpoint.host_ifname(), Peer::container(&endpoint.ifname)));
            plan
        }
    };
    let removal = if wants_sync(call) { Removal::Synchronous } else { Removal::Announced };
    kernel.remove(&plan, removal).into_iter().map(|problem| Failure::new(Code::Internal, problem)).collect()
}

/// The addresses the endpoint had: from our record, else from the runtime's cached result.
fn known_leases(call: &Call, endpoint: &Endpoint, record: Option<&Record>) -> Leases {
    match record {
        Some(record) if !record.addresses.is_empty() => Leases::of_addresses(&record.addresses),
        _ => match call.conf.prev_result() {
            Ok(Some(result)) => Leases::of_result(&result, &endpoint.ifname),
            _ => Leases::default(),
        },
    }
}

/// KERNEL: removing a link ends in a wait of 14 to 20 ms for all CPUs (netdev_run_todo, rcu_barrier).
/// A forked child sits it out; a host whose PID 1 does not reap asks us to wait ourselves.
fn wants_sync(call: &Call) -> bool {
    weft_cni::json::get(&call.conf.raw, "syncDelete").and_then(serde_json::Value::as_bool).unwrap_or(false)
}
