//! `reload` and `doctor`: what others took away comes back, or is told.
//!
//! Links, addresses and routes go with their namespace or by somebody's hand, and are not made anew while a
//! container runs: only what is written into the host's firewall and settings is.

use serde_json::json;
use weft_cni::{Code, Failure, Finding, NetworkResult};
use weft_firewall::Problem;
use weft_model::NetworkName;
use weft_netns::Netns;
use weft_plan::{Journal, Kernel, Lifetime, Link, LinkKind, Place, Plan, Resource, Step};
use weft_state::Root;
use weft_state::attachment::{Record, Records, State};

use super::{Alone, ContainerRequest, Driver, Keeps, Leases};
use crate::Call;

/// Writes the firewall and the host's settings again, for every recorded attachment.
pub(super) fn reload<D: Driver>(driver: &D, root: &Root, networks: &[Call]) -> Result<(), Failure> {
    let mut problems: Vec<Failure> = driver.restore(root).err().into_iter().collect();
    for (call, record) in attached(driver, root, networks) {
        let failure = in_turn(call, &record, || restore(driver, call, &record)).err();
        // What attachments share fails once, and not once for each.
        let told = |failure: &Failure| {
            let is_it = |told: &str| told == failure.msg;
            problems.iter().any(|one| is_it(&one.msg) || one.msg.split("; ").any(is_it))
        };
        let failure = failure.filter(|failure| !told(failure));
        problems.extend(failure);
    }
    Failure::all(problems)
}

/// Writes everything that weft has in the host's firewall again, for [`Driver::restore`].
///
/// # Errors
///
/// If the kernel or iptables refuses, or the records cannot be read: all that could not be restored is named.
pub fn restore_firewall(root: &Root) -> Result<(), Failure> {
    let Err(refused) = weft_firewall::reload(root) else { return Ok(()) };
    Failure::all(refused.into_iter().map(|error| super::kernel_says(error.into())).collect())
}

/// Gives up the ports that are kept for attachments of which no book knows anything else, for [`Driver::give_up`].
///
/// # Errors
///
/// If the books cannot be read or written, or the kernel refuses.
pub fn release_ports(root: &Root, network: &NetworkName) -> Result<(), Failure> {
    weft_firewall::release(root, network).map_err(|error| super::kernel_says(error.into()))
}

/// Says what is missing of everything that weft has in the host's firewall, for [`Driver::diagnose`].
///
/// # Errors
///
/// If the kernel or iptables does not tell, or the records cannot be read.
pub fn examine_firewall(root: &Root) -> Result<Vec<Finding>, Failure> {
    let problems = weft_firewall::diagnose(root).map_err(|error| super::kernel_says(error.into()))?;
    let finding = |problem: Problem| Finding { what: problem.what, why: problem.why, mend: problem.mend };
    Ok(problems.into_iter().map(finding).collect())
}

/// Says what is missing of every recorded attachment.
pub(super) fn doctor<D: Driver>(driver: &D, root: &Root, networks: &[Call]) -> Result<Vec<Finding>, Failure> {
    // A firewall that does not tell what it has hides no other ill.
    let mut findings = driver.diagnose(root).unwrap_or_else(|failure| vec![silent(failure)]);
    let shared = findings.len();
    for (call, record) in attached(driver, root, networks) {
        let found = in_turn(call, &record, || examine(driver, call, &record));
        let unknown = |failure: Failure| vec![unexamined(&record, failure)];
        let mut found = found.map(Option::unwrap_or_default).unwrap_or_else(unknown);
        // What attachments share is missing once, and not once for each.
        found.retain(|one| !findings[..shared].iter().any(|told| is_of(&told.what, &told.why, &one.why)));
        findings.extend(found);
    }
    Ok(findings)
}

/// Tells whether what is missing of an attachment has been told of something shared, which may lack several things.
fn is_of(what: &str, why: &str, missing: &str) -> bool {
    let listed = why.strip_prefix("lacks ").unwrap_or_default();
    missing == why || missing == lacks(what) || listed.split(", ").any(|one| missing == lacks(one))
}

/// What is said of something that the firewall does not have.
fn lacks(what: &str) -> String {
    format!("lacks {what}")
}

/// The attachments of these networks that are complete and whose containers are there.
fn attached<'call, D: Driver>(
    driver: &D,
    root: &Root,
    networks: &'call [Call],
) -> Vec<(&'call Call, Record)> {
    if networks.is_empty() || driver.keeps() != Keeps::Attachment {
        return Vec::new();
    }
    let records = Records::new(root).all();
    let complete = |record: &&Record| record.state == State::Done && record.same_netns().is_some();
    let of = |call: &'call Call| {
        let own = records.iter().filter(|record| record.endpoint.network == call.conf.name);
        own.filter(complete).map(move |record| (call, record.clone()))
    };
    networks.iter().flat_map(of).collect()
}

/// Works on an attachment while nobody else does; `None` if it changed before that.
fn in_turn<T>(
    call: &Call,
    record: &Record,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<Option<T>, Failure> {
    let endpoint = &record.endpoint;
    let _alone = Alone::with(call, &endpoint.container)?;
    let now = Records::new(&call.root).get(&endpoint.container, &endpoint.ifname);
    if now.as_ref() == Some(record) { work().map(Some) } else { Ok(None) }
}

fn restore<D: Driver>(driver: &D, call: &Call, record: &Record) -> Result<(), Failure> {
    let plan = plan_of(driver, call, record)?;
    let mut kernel = super::kernel(driver, call, None)?;
    if let Some(up) = raised(&mut kernel, &plan)? {
        kernel.ensure(&up, &mut Journal::default()).map_err(super::refused)?;
    }
    let plan = only(plan, is_restored);
    // Where a step fails, those before it stay: they were there before somebody took them.
    kernel.ensure(&plan, &mut Journal::default()).map_err(super::refused)
}

fn examine<D: Driver>(driver: &D, call: &Call, record: &Record) -> Result<Vec<Finding>, Failure> {
    let Some(netns) = record.same_netns().map(Netns::open) else { return Ok(Vec::new()) };
    let netns = netns.map_err(|error| Failure::new(Code::Internal, error))?;
    let mut kernel = super::kernel(driver, call, Some(&netns))?;
    let plan = plan_of(driver, call, record)?;
    let mut findings = Vec::new();
    let mut look =
        |part: fn(&Step) -> bool| kernel.observe(&only(plan.clone(), part)).map_err(super::kernel_says);
    let network = format!("network {}", record.endpoint.network);
    let reload = format!("weft network reload {}", record.endpoint.network);
    for rule in look(is_rule)? {
        findings.push(finding(record, lacks(&rule.to_string()), &reload));
    }
    for setting in look(is_setting)? {
        findings.push(Finding { what: network.clone(), why: setting.to_string(), mend: reload.clone() });
    }
    let lost = match look(is_lowered)? {
        down if down.is_empty() || raised(&mut kernel, &plan)?.is_none() => {
            kernel.observe(&only(plan, is_built))
        }
        down => {
            let told = down.into_iter().map(|down| down.to_string());
            findings.extend(told.map(|why| Finding { what: network.clone(), why, mend: reload.clone() }));
            kernel.observe(&only(plan, |step| is_built(step) && !is_lowered(step)))
        }
    };
    let lost = lost.map_err(super::kernel_says)?.into_iter();
    findings.extend(lost.map(|lost| Finding::renewed(&record.endpoint, lost.to_string())));
    Ok(findings)
}

/// Returns what raises the network's bridge and gives it its addresses again, which go with it when it is taken
/// down; nothing if it is up, or not there.
fn raised(kernel: &mut Kernel, plan: &Plan) -> Result<Option<Plan>, Failure> {
    let mut up = Plan::new();
    for step in plan.steps().iter().filter(|step| is_lowered(step)) {
        match &step.resource {
            Resource::Link(link) => up.network(Link::existing(&link.name).up(true)),
            other => up.network(other.clone()),
        };
    }
    let links = only(up.clone(), |step| matches!(step.resource, Resource::Link(_)));
    let found = kernel.observe(&links).map_err(super::kernel_says)?;
    let down = found.iter().any(|found| found.to_string().ends_with("is down"));
    Ok(down.then_some(up))
}

/// What a bridge that is taken down loses: its being up, and addresses.
fn is_lowered(step: &Step) -> bool {
    step.place == Place::Host
        && step.lifetime == Lifetime::Network
        && match &step.resource {
            Resource::Link(link) => link.up && matches!(link.kind, LinkKind::Bridge(_)),
            Resource::Address(_) => true,
            _ => false,
        }
}

/// Says why an attachment could not be looked at.
fn unexamined(record: &Record, failure: Failure) -> Finding {
    match failure.code {
        Code::InvalidConfig => Finding::misconfigured(&record.endpoint.network, failure.msg),
        _ => {
            let renewed = Finding::renewed(&record.endpoint, failure.msg);
            Finding { mend: failure.details.unwrap_or(renewed.mend), ..renewed }
        }
    }
}

/// Says why what networks share could not be looked at.
fn silent(failure: Failure) -> Finding {
    let mend = failure.details.unwrap_or_else(|| "mend the cause, then weft doctor".into());
    Finding { what: "the host's firewall".into(), why: failure.msg, mend }
}

/// What ADD wanted, as far as the record tells.
fn plan_of<D: Driver>(driver: &D, call: &Call, record: &Record) -> Result<Plan, Failure> {
    let endpoint = &record.endpoint;
    let (result, call) = recalled(call, record)?;
    let leases = match &result {
        Some(result) => Leases::of_result(result, &endpoint.ifname),
        None => Leases::of_addresses(&record.addresses),
    };
    let mut settings = driver.settings(&call)?;
    driver.recall(&mut settings, &record.memory);
    driver.fit(&mut settings, endpoint)?;
    let (request, _) = ContainerRequest::of(&call)?;
    let mut plan = driver.links(&settings, endpoint);
    plan.extend(driver.addresses(&settings, endpoint, &leases).steps);
    request.configure(&mut plan, &endpoint.ifname);
    Ok(plan)
}

/// Returns the call that ADD was, with what was chosen then: the container's MAC address and the manager's words.
fn recalled(call: &Call, record: &Record) -> Result<(Option<NetworkResult>, Call), Failure> {
    let mut call = call.clone();
    let result = record.result.as_ref();
    let result = result.map(|result| NetworkResult::from_value(result, call.conf.version)).transpose()?;
    let inside = |result: &NetworkResult| {
        let name = record.endpoint.ifname.as_str();
        let inside = |link: &&weft_cni::Interface| link.name == name && link.sandbox.is_some();
        result.interfaces.iter().find(inside)?.mac.clone()
    };
    if let Some(mac) = result.as_ref().and_then(inside) {
        call.conf.runtime_config = json!({"mac": mac});
    }
    call.conf.args = json!({"weft": record.attach});
    call.conf.prev_result = record.result.clone();
    Ok((result, call))
}

fn only(plan: Plan, which: impl Fn(&Step) -> bool) -> Plan {
    Plan { steps: plan.steps.into_iter().filter(which).collect() }
}

/// What `reload` writes.
fn is_restored(step: &Step) -> bool {
    is_rule(step) || is_setting(step)
}

/// Rules of which the firewall's own books know nothing: those that they know are restored and looked at by the books, all
/// at once.
fn is_rule(step: &Step) -> bool {
    matches!(&step.resource, Resource::Firewall(fragment) if !weft_firewall::is_on_record(fragment))
}

/// Settings of the host. Those inside a container may be the container's own choice by now.
fn is_setting(step: &Step) -> bool {
    step.place == Place::Host && matches!(step.resource, Resource::Sysctl(_))
}

/// What only a new connection makes.
fn is_built(step: &Step) -> bool {
    !matches!(step.resource, Resource::Firewall(_) | Resource::Sysctl(_))
}

fn finding(record: &Record, why: String, mend: &str) -> Finding {
    Finding { what: record.endpoint.to_string(), why, mend: mend.into() }
}
