//! ADD: everything the plan says, or nothing.

use serde_json::Value;
use weft_cni::{Code, Dns, Failure, NetworkResult};
use weft_netns::Netns;
use weft_plan::{Journal, Kernel, Place};
use weft_state::attachment::{Begun, Record, Records, State};

use super::apart::{remove_links, take_apart};
use super::lease::Lease;
use super::{Alone, ContainerRequest, Driver, Keeps, Leases, result};
use crate::delegate::{self, Running};
use crate::{Attachment, Verb};

/// Connects a container, and takes back every change if any step fails.
pub(super) fn add<D: Driver>(driver: &D, attachment: &Attachment) -> Result<NetworkResult, Failure> {
    // The IPAM plugin gets ready on the other CPU, and gives an address once the links are there.
    let ipam = attachment.conf.ipam_type().map(|_| delegate::prepare(attachment, Verb::Add));
    let mut settings = driver.settings(attachment)?;
    let (request, attach) = ContainerRequest::of(attachment)?;
    driver.fit(&mut settings, &attachment.endpoint)?;
    let path = attachment.required_netns()?;
    let netns = super::open(path)?;
    let mut kernel = super::kernel(driver, attachment, Some(&netns))?;

    let mut change = Change::begin(driver, attachment);
    let records = driver.keeps() != Keeps::Nothing;
    let _alone = records.then(|| Alone::with(attachment, &attachment.endpoint.container)).transpose()?;
    if records {
        change.heal(driver, &netns)?;
    }
    driver.locate(&mut settings, &attachment.endpoint, &mut kernel)?;
    if records {
        change.record = Some(intent(driver, attachment, attach)?);
    }
    let outcome =
        ipam.transpose().and_then(|ipam| connect(driver, settings, &request, ipam, &mut kernel, &mut change));
    match outcome {
        Ok(result) => Ok(result),
        Err(failure) => Err(change.take_back(&mut kernel, failure)),
    }
}

fn intent<D: Driver>(driver: &D, attachment: &Attachment, attach: Value) -> Result<Record, Failure> {
    let record = Record::intent(attachment.endpoint.clone(), attachment.netns.clone(), driver.about().kind)
        .map_err(|error| Failure::new(Code::Io, error))?;
    Ok(Record { attach, ..record })
}

fn connect<D: Driver>(
    driver: &D,
    mut settings: D::Settings,
    request: &ContainerRequest,
    mut ipam: Option<Running<'_>>,
    kernel: &mut Kernel,
    change: &mut Change<'_>,
) -> Result<NetworkResult, Failure> {
    let attachment = change.attachment;
    let endpoint = &attachment.endpoint;

    driver.survey(&mut settings, kernel)?;
    driver.establish(&mut settings, kernel)?;
    let links = driver.links(&settings, endpoint);
    change.announce(driver.remember(&settings))?;
    kernel.ensure(&links, &mut change.journal).map_err(super::refused)?;
    ipam.as_mut().map_or(Ok(()), delegate::begin)?;
    let mut lease = Lease::await_of(ipam);
    change.leased = lease.held;
    let taken = lease.take().map_err(|failure| driver.unleased(&settings, failure))?;
    let mut leases = Leases::from(taken);
    if attachment.conf.ipam_type().is_some() {
        leases.required()?;
    }
    let previous = if driver.is_chained() { attachment.conf.prev_result()? } else { None };
    if let Some(previous) = &previous {
        leases = Leases::of_result(previous, &endpoint.ifname);
    }
    let mut leases = driver.resolve(&settings, endpoint, leases)?;
    // A network's own resolver settings win over the IPAM plugin's; an empty list is a choice too.
    if attachment.conf.dns != Dns::default() {
        leases.dns = attachment.conf.dns.clone();
    }
    request.adjust(&mut leases);
    let mut addresses = driver.addresses(&settings, endpoint, &leases);
    request.configure(&mut addresses, &endpoint.ifname);
    kernel.ensure(&addresses, &mut change.journal).map_err(super::refused)?;

    // KERNEL: a bridge port forwards only once linkwatch has seen its carrier; a container's first
    // packet would be lost and repeated a second later.
    let host_end = endpoint.host_ifname();
    if kernel.link(Place::Host, &host_end).is_some() && addresses.raises(Place::Container, &endpoint.ifname) {
        kernel.wait_up(&host_end).map_err(super::kernel_says)?;
    }
    let netns = attachment.required_netns()?;
    let mut result = result::build(kernel, &[&links, &addresses], netns, leases, &endpoint.ifname);
    driver.report(kernel, &mut result)?;
    if let Some(previous) = previous {
        result = previous;
        driver.amend(&settings, endpoint, kernel, &mut result)?;
    }
    lease.confirm()?;
    change.commit(&result)?;
    Ok(result)
}

/// An ADD under way: what to take back if it fails.
struct Change<'call> {
    attachment: &'call Attachment,
    records: Records,
    record: Option<Record>,
    /// The record as it was announced.
    begun: Option<Begun>,
    /// What was on record before: a second ADD of a chained plugin, which fails, leaves what the first has made.
    earlier: Option<Record>,
    journal: Journal,
    leased: bool,
}

impl<'call> Change<'call> {
    fn begin<D: Driver>(driver: &D, attachment: &'call Attachment) -> Self {
        let records = driver.keeps().records(&attachment.root, driver.about().kind);
        Self {
            attachment,
            records,
            record: None,
            begun: None,
            earlier: None,
            journal: Journal::default(),
            leased: false,
        }
    }

    /// Refuses if the interface is connected already. Takes away what an ADD that was killed, or an
    /// attachment whose namespace went without DEL, has left.
    fn heal<D: Driver>(&mut self, driver: &D, netns: &Netns) -> Result<(), Failure> {
        let endpoint = &self.attachment.endpoint;
        let Some(earlier) = self.records.get(&endpoint.container, &endpoint.ifname) else { return Ok(()) };
        if driver.keeps() == Keeps::Own && earlier.state == State::Done && self.is_of_here(&earlier) {
            self.earlier = Some(earlier);
            return Ok(());
        }
        let then = earlier.same_netns().and_then(|path| Netns::open(path).ok());
        let there = driver.keeps() != Keeps::Own
            && super::is_connected(driver, self.attachment, endpoint, then.as_ref())?;
        if earlier.state == State::Done && there {
            let network = &earlier.endpoint.network;
            let text =
                format!("{} of {} is already connected to {network}", endpoint.ifname, endpoint.container);
            return Err(Failure::text(Code::TAKEN, text).with_hint(Some("call DEL first".into())));
        }
        // We hold the lock, so whoever wrote an intent and no result is dead. What was complete has gone with its
        // namespace, and what is in the namespace now is not ours.
        let inside = Some(netns).filter(|_| earlier.state == State::Intent);
        let links = || remove_links(driver, self.attachment, endpoint, Some(&earlier), inside);
        if earlier.endpoint != *endpoint {
            return Failure::all(links());
        }
        let (mut problems, address) = take_apart(self.attachment, links, || true);
        problems.extend(address);
        Failure::all(problems)
    }

    /// Returns whether a record is about this very interface: the same network, the same namespace.
    fn is_of_here(&self, earlier: &Record) -> bool {
        earlier.endpoint == self.attachment.endpoint
            && earlier.same_netns().is_some_and(|path| Some(path) == self.attachment.netns.as_deref())
    }

    /// Writes the intent. From here on the kernel may be touched.
    fn announce(&mut self, memory: Value) -> Result<(), Failure> {
        // What an earlier ADD has made is on record; this one adds nothing to be taken apart.
        let Some(record) = self.record.as_mut().filter(|_| self.earlier.is_none()) else { return Ok(()) };
        record.memory = memory;
        self.begun = Some(self.records.begin(record).map_err(|error| Failure::new(Code::Io, error))?);
        Ok(())
    }

    /// Confirms the record. The attachment is complete from here on.
    fn commit(&mut self, result: &NetworkResult) -> Result<(), Failure> {
        // Shown before it is written: a version that cannot hold the result fails the ADD.
        let shown = result.shown(self.attachment.conf.version)?;
        let Some(record) = &self.record else { return Ok(()) };
        let addresses = Leases::of_result(result, &record.endpoint.ifname).addresses();
        let done = record.done(addresses, shown);
        match self.begun.take() {
            Some(begun) => begun.advance(&done),
            None => self.records.write(&done),
        }
        .map_err(|error| Failure::new(Code::Io, error))
    }

    /// Undoes every step and names what could not be undone.
    fn take_back(self, kernel: &mut Kernel, failure: Failure) -> Failure {
        let mut journal = self.journal;
        let mut undo = || journal.undo(kernel).iter().map(ToString::to_string).collect();
        let (mut left, address): (Vec<String>, _) =
            if self.leased { take_apart(self.attachment, undo, || false) } else { (undo(), None) };
        left.extend(address.map(|error| format!("the address lease: {error}")));
        if self.record.is_some()
            && self.earlier.is_none()
            && let Err(error) = self.records.remove(&self.attachment.endpoint)
        {
            left.push(error.to_string());
        }
        if left.is_empty() {
            failure
        } else {
            failure.with_details(format!("left behind: {}", left.join("; ")))
        }
    }
}
