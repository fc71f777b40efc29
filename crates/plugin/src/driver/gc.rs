//! GC: what no runtime knows any more goes.

use weft_cni::{Code, Failure};
use weft_model::{ContainerId, Endpoint, IfName};
use weft_netns::Netns;
use weft_plan::{Place, Removal};
use weft_state::attachment::{Record, Records};

use super::apart::remove_links;
use super::{Alone, Driver, Keeps, inherited};
use crate::{Call, Verb, delegate};

/// Removes every attachment of the network that is not in the list of valid ones. With an empty
/// list the network itself has no user left: its bridge and its rules go, too.
///
/// CNI: GC continues at an error and reports all of them (SPEC 1.1.0, section 4).
pub(super) fn gc<D: Driver>(driver: &D, call: &Call) -> Result<(), Failure> {
    let valid = call.valid_attachments()?;
    let records = driver.keeps().records(&call.root, driver.about().kind);
    let is_valid = |container: &ContainerId, ifname: &IfName| {
        valid.iter().any(|id| id.container_id == container.as_str() && id.ifname == ifname.as_str())
    };

    let mut stale = Stale { driver, call, records, connected: Vec::new(), problems: Vec::new() };
    let needs_link = delegate::needs_link(call);
    if needs_link {
        stale.problems.extend(collect_addresses(call));
    }
    // The records of a network belong to the plugin that keeps them, not to those chained behind it.
    if driver.keeps() != Keeps::Nothing {
        for record in stale.records.of_network(&call.conf.name) {
            if !is_valid(&record.endpoint.container, &record.endpoint.ifname) {
                stale.collect(&record);
            }
        }
        for (container, ifname) in stale.records.all_damaged() {
            if !is_valid(&container, &ifname) {
                stale.collect_damaged(Endpoint { network: call.conf.name.clone(), container, ifname });
            }
        }
    }
    for endpoint in driver.holds(call) {
        if !is_valid(&endpoint.container, &endpoint.ifname) {
            stale.collect_held(&endpoint);
        }
    }
    stale.problems.extend(driver.give_up(call).err());
    let Stale { connected, mut problems, .. } = stale;
    let bridge = |endpoint: &Endpoint| {
        let settings = driver.settings(call).ok()?;
        driver.links(&settings, endpoint).bridge_joined().cloned()
    };
    problems.extend(inherited::sweep(call, valid, bridge));
    // The IPAM plugin sees the list alone. It must not give away the address of what is still connected.
    if connected.is_empty() && !needs_link {
        problems.extend(collect_addresses(call));
    }
    problems.extend(connected);
    if valid.is_empty() && problems.is_empty() {
        problems.extend(remove_network(driver, call));
    }
    Failure::all(problems)
}

/// Has the IPAM plugin give back what nobody lists.
fn collect_addresses(call: &Call) -> Option<Failure> {
    let ipam = call.conf.ipam_type().map(|_| delegate::run(call, Verb::Gc));
    ipam.and_then(Result::err)
}

/// The attachments that nobody lists.
struct Stale<'call, D> {
    driver: &'call D,
    call: &'call Call,
    records: Records,
    /// Why some could not be taken apart.
    connected: Vec<Failure>,
    /// What else went wrong.
    problems: Vec<Failure>,
}

impl<D: Driver> Stale<'_, D> {
    fn collect(&mut self, record: &Record) {
        let endpoint = &record.endpoint;
        let Some(_alone) = self.alone(endpoint) else { return };
        // What has changed while we waited is at work, or gone.
        if self.records.get(&endpoint.container, &endpoint.ifname).as_ref() != Some(record) {
            return;
        }
        let netns = record.same_netns().and_then(|path| Netns::open(path).ok());
        let failed = remove_links(self.driver, self.call, endpoint, Some(record), netns.as_ref());
        self.forget(endpoint, failed);
    }

    /// Of a record that cannot be read only the names are known, not the network. It is ours if its interface is a
    /// port of our bridge, and nobody's if the interface has gone.
    fn collect_damaged(&mut self, endpoint: Endpoint) {
        let Some(_alone) = self.alone(&endpoint) else { return };
        if self.records.inspect(&endpoint.container, &endpoint.ifname).is_ok() {
            return;
        }
        match self.is_ours(&endpoint) {
            Ok(true) => {
                let failed = remove_links(self.driver, self.call, &endpoint, None, None);
                self.forget(&endpoint, failed);
            }
            Ok(false) => {}
            Err(failure) => self.problems.push(failure),
        }
    }

    /// What a plugin keeps by its own books, it also forgets there.
    fn collect_held(&mut self, endpoint: &Endpoint) {
        let Some(_alone) = self.alone(endpoint) else { return };
        let failed = remove_links(self.driver, self.call, endpoint, None, None);
        self.connected.extend(failed);
    }

    fn is_ours(&self, endpoint: &Endpoint) -> Result<bool, Failure> {
        let mut kernel = super::kernel(self.driver, self.call, None)?;
        let host_end = endpoint.host_ifname();
        if !kernel.exists(Place::Host, &host_end).map_err(super::kernel_says)? {
            return Ok(true);
        }
        let plan = self.driver.links(&self.driver.settings(self.call)?, endpoint);
        match plan.bridge_joined() {
            Some(bridge) => kernel.is_port(&host_end, bridge).map_err(super::kernel_says),
            None => Ok(false),
        }
    }

    fn alone(&mut self, endpoint: &Endpoint) -> Option<Alone> {
        Alone::with(self.call, &endpoint.container).map_err(|failure| self.connected.push(failure)).ok()
    }

    /// Forgets what was taken apart. The record of what was not stays, so that the next GC finds it.
    fn forget(&mut self, endpoint: &Endpoint, failed: Vec<Failure>) {
        if !failed.is_empty() {
            self.connected.extend(failed);
        } else if let Err(error) = self.records.remove(endpoint) {
            self.problems.push(Failure::new(Code::Io, error));
        }
    }
}

/// Removes what belongs to the network and to no attachment.
fn remove_network<D: Driver>(driver: &D, call: &Call) -> Vec<Failure> {
    let settings = match driver.settings(call) {
        Ok(settings) => settings,
        Err(failure) => return vec![failure],
    };
    let mut kernel = match super::kernel(driver, call, None) {
        Ok(kernel) => kernel,
        Err(failure) => return vec![failure],
    };
    let plan = driver.network(&settings);
    let home = driver.home(call).ok().flatten();
    let problems = kernel.remove(&plan, Removal::Synchronous);
    let mut failures: Vec<Failure> =
        problems.into_iter().map(|problem| Failure::new(Code::Internal, problem)).collect();
    // A namespace of the network's own goes with it; the runtime has said that nobody is in it.
    if let Some(home) = home.filter(|_| failures.is_empty())
        && let Err(error) = weft_netns::unpin(home.path())
    {
        failures.push(Failure::new(Code::Internal, error));
    }
    failures.extend(driver.removed(call).err());
    failures
}
