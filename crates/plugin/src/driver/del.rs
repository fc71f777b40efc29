//! DEL: everything that may be there goes, whatever else is missing.

use weft_cni::{Code, Failure};
use weft_netns::Netns;
use weft_state::attachment::Record;

use super::apart::{give_back, remove_links, take_apart};
use super::{Alone, Driver, Keeps};
use crate::Attachment;

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
        Some(other) if keeps_records && other.endpoint.network != endpoint.network => {
            give_back(attachment).into_iter().collect()
        }
        _ => disconnect(driver, attachment, record.as_ref()),
    };
    if problems.is_empty() && keeps_records {
        records.remove_read(endpoint, record.as_ref()).map_err(|error| Failure::new(Code::Io, error))?;
    }
    Failure::all(problems)
}

fn disconnect<D: Driver>(driver: &D, attachment: &Attachment, record: Option<&Record>) -> Vec<Failure> {
    // A runtime that does not name the namespace may have it all the same.
    let known = || record.and_then(Record::same_netns);
    let netns = attachment.netns.as_deref().or_else(known).and_then(|path| Netns::open(path).ok());
    let endpoint = &attachment.endpoint;
    let links = || remove_links(driver, attachment, endpoint, record, netns.as_ref());
    let still = || super::is_connected(driver, attachment, endpoint, netns.as_ref()).unwrap_or(true);
    let (mut problems, address) = take_apart(attachment, links, still);
    problems.extend(address);
    problems
}
