//! GC: what no runtime knows any more goes.

use weft_cni::{Code, Failure};
use weft_model::Endpoint;
use weft_netns::Netns;
use weft_plan::{Kernel, Removal};
use weft_state::attachment::Records;

use super::Driver;
use super::del::remove_links;
use crate::{Call, Verb, delegate};

/// Removes every attachment of the network that is not in the list of valid ones. With an empty
/// list the network itself has no user left: its bridge and its rules go, too.
///
/// CNI: GC continues at an error and reports all of them (SPEC 1.1.0, section 4).
pub(super) fn gc<D: Driver>(driver: &D, call: &Call) -> Result<(), Failure> {
    let valid = call.valid_attachments()?;
    let records = Records::new(&call.root);
    let is_valid = |endpoint: &Endpoint| {
        valid
            .iter()
            .any(|id| id.container_id == endpoint.container.as_str() && id.ifname == endpoint.ifname.as_str())
    };

    let mut problems = Vec::new();
    for record in records.of_network(&call.conf.name) {
        if is_valid(&record.endpoint) {
            continue;
        }
        let netns = record.netns.as_deref().and_then(|path| Netns::open(path).ok());
        let failed = remove_links(driver, call, &record.endpoint, Some(&record), netns.as_ref());
        if failed.is_empty()
            && let Err(error) = records.remove(&record.endpoint)
        {
            problems.push(Failure::new(Code::Io, error));
        }
        problems.extend(failed);
    }
    if call.conf.ipam_type().is_some()
        && let Err(failure) = delegate::run(call, Verb::Gc)
    {
        problems.push(failure);
    }
    if valid.is_empty() && problems.is_empty() {
        problems.extend(remove_network(driver, call));
    }
    Failure::all(problems)
}

/// Removes what belongs to the network and to no attachment.
fn remove_network<D: Driver>(driver: &D, call: &Call) -> Vec<Failure> {
    let settings = match driver.settings(call) {
        Ok(settings) => settings,
        Err(failure) => return vec![failure],
    };
    let mut kernel = match Kernel::open(None) {
        Ok(kernel) => kernel,
        Err(error) => return vec![Failure::new(Code::Internal, error)],
    };
    let plan = driver.network(&settings);
    kernel.remove(&plan, Removal::Synchronous).into_iter().map(|p| Failure::new(Code::Internal, p)).collect()
}
