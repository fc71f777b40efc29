//! Everything of ours that the books say is in iptables: writing it again after a flush, as one transaction for each table
//! of each family, and saying what is missing.

use std::collections::HashMap;

use weft_model::{Endpoint, NetworkName};
use weft_state::ports::Owner;

use super::forward::Fences;
use super::lock::Writer;
use super::masquerade::Chain;
use super::part::{self, Part};
use super::publish::{self, Ports, Protection};
use super::tool::{Saved, Table, Tool};
use crate::admission::{self, Record};
use crate::claim::Claims;
use crate::foreign::{self, Place};
use crate::{Backend, FirewallError, entry};

/// What the programs say that there is: each family is asked once.
#[derive(Debug, Default)]
pub(crate) struct Listing(HashMap<Tool, Saved>);

impl Listing {
    /// Returns what one family has.
    pub(crate) fn of(&mut self, tool: Tool) -> Result<&Saved, FirewallError> {
        Ok(match self.0.entry(tool) {
            std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::hash_map::Entry::Vacant(unknown) => unknown.insert(tool.saved_all()?),
        })
    }
}

/// What the books say.
struct Recorded {
    fences: Option<Fences>,
    protection: Option<Protection>,
    keeps_localhost: bool,
    owners: Vec<Owner>,
    chains: Vec<(Endpoint, Chain)>,
    admissions: Vec<(Endpoint, Record)>,
}

impl Recorded {
    fn read(claims: &Claims<'_>) -> Result<Self, FirewallError> {
        let is_fenced = !claims.in_iptables(&entry::ALL)?.is_empty();
        let keeps_localhost = publish::keeps_localhost(claims.0)?;
        let owners = claims.books().owners_as_changed().into_iter();
        Ok(Self {
            fences: is_fenced.then(|| Fences::of(claims)).transpose()?,
            protection: keeps_localhost.then_some(Protection),
            keeps_localhost,
            owners: owners.filter(|owner| Backend::named(&owner.backend) == Backend::Iptables).collect(),
            chains: Chain::recorded(claims)?,
            admissions: admission::by_iptables(claims.0),
        })
    }

    fn is_empty(&self) -> bool {
        self.fences.is_none()
            && self.protection.is_none()
            && self.owners.is_empty()
            && self.chains.is_empty()
            && self.admissions.is_empty()
    }
}

/// Writes everything again, with what others' filters want of us. Starts nothing on a host where iptables carries nothing.
///
/// Where rules of some are refused, the others get theirs; returns everything that was refused.
pub(crate) fn restore(claims: &Claims<'_>, places: &[Place]) -> Vec<FirewallError> {
    let outcome = || -> Result<_, FirewallError> {
        let is_new = places.iter().any(|place| !place.is_done(claims));
        if !is_new && Recorded::read(claims)?.is_empty() {
            return Ok(Vec::new());
        }
        let writer = Writer::alone(claims.0)?;
        // Read again: what is given up is struck from the books before its writer lets others in, and does not come back.
        restore_these(claims, &writer, Recorded::read(claims)?, places)
    };
    outcome().unwrap_or_else(|error| vec![error])
}

fn restore_these(
    claims: &Claims<'_>,
    writer: &Writer,
    recorded: Recorded,
    places: &[Place],
) -> Result<Vec<FirewallError>, FirewallError> {
    let Recorded { fences, protection, keeps_localhost, owners, chains, admissions } = recorded;
    let places = foreign::still_wanted(claims, places)?;
    let ports: Vec<_> = owners.iter().map(|owner| Ports { owner, keeps_localhost }).collect();
    let admitted: Vec<_> = admissions.iter().filter_map(|(_, record)| record.chains()).collect();
    let mut parts: Vec<&dyn Part> = Vec::new();
    parts.extend(fences.iter().map(|part| part as &dyn Part));
    parts.extend(protection.iter().map(|part| part as &dyn Part));
    parts.extend(ports.iter().map(|part| part as &dyn Part));
    parts.extend(chains.iter().map(|(_, part)| part as &dyn Part));
    parts.extend(admitted.iter().map(|part| part as &dyn Part));
    parts.extend(places.iter().map(|part| part as &dyn Part));
    Ok(part::write_what_can_be(writer, &parts))
}

/// Returns which networks lack something, and what.
pub(crate) fn missing_of_networks(
    claims: &Claims<'_>,
    listing: &mut Listing,
) -> Result<Vec<(NetworkName, Vec<String>)>, FirewallError> {
    let mut networks = Vec::new();
    for entry in claims.in_iptables(&[entry::ISOLATION.as_slice(), entry::GUARD.as_slice()].concat())? {
        networks.extend(claims.networks(&entry)?);
    }
    networks.sort();
    networks.dedup();
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    let fences = Fences::of(claims)?;
    let mut missing = Vec::new();
    for tool in Tool::usable() {
        missing.extend(fences.missing(listing.of(tool)?.table(Table::Filter), tool));
    }
    Ok(networks.into_iter().map(|network| (network, missing.clone())).collect())
}

/// Returns which attachments lack something of their masquerading, and what.
pub(crate) fn missing_of_chains(
    claims: &Claims<'_>,
    listing: &mut Listing,
) -> Result<Vec<(Endpoint, Vec<String>)>, FirewallError> {
    let mut all = Vec::new();
    for (endpoint, chain) in Chain::recorded(claims)? {
        let mut missing = Vec::new();
        for tool in Tool::BOTH.into_iter().filter(|tool| chain.is_in(*tool)) {
            missing.extend(chain.missing(listing.of(tool)?.table(Table::Nat), tool));
        }
        all.push((endpoint, missing));
    }
    Ok(all)
}
