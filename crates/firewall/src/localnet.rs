//! Published ports called from `127.0.0.1`: a link's `route_localnet`, and the rules without which others would reach
//! the host's loopback addresses by it.
//!
//! INVARIANT: the switch is turned only after the claim and the rules are there, and the claim is dropped, and with the
//! last one the rules, only after it was turned back. So whenever a process is killed, a link that routes loopback
//! addresses has rules and a claim that brings them back.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};

use weft_model::{IfName, NetworkName};

use crate::claim::Claims;
use crate::entry::{self, Entry};
use crate::fragment::Localnet;
use crate::iptables::publish as iptables;
use crate::iptables::restore::Listing;
use crate::{Backend, Change, Firewall, FirewallError, weft};

/// Has a link route loopback addresses. In the steady state that is one question, and none to iptables.
pub(crate) fn ensure(firewall: &mut Firewall, wanted: &Localnet) -> Result<Change, FirewallError> {
    let Some(link) = &wanted.link else { return Ok(Change::AlreadyThere) };
    let demand = wanted.demand();
    let change = if wanted.backend == Backend::Iptables {
        let mut change = Change::AlreadyThere;
        for entry in &demand.entries {
            change = demand.claims.take(&wanted.network, entry)?;
        }
        // Whoever publishes has just written them; what is claimed is not taken away by others.
        if change == Change::Made {
            iptables::protect(&wanted.claims)?;
        }
        change
    } else {
        weft::ensure(firewall.inet()?, &demand)?
    };
    Ok(if turn(link, true)? { Change::Made } else { change })
}

/// Takes back what the network has wanted of the link, or of all links, but for those that another network wants.
pub(crate) fn remove(firewall: &mut Firewall, wanted: &Localnet) -> Result<(), FirewallError> {
    let claims = Claims(&wanted.claims);
    let network = &wanted.network;
    let entries = claims.wanted_of(network, wanted.link.as_ref(), &entry::LOCALNET)?;
    let links: BTreeSet<_> = entries.iter().filter_map(link_of).cloned().collect();
    for link in &links {
        if !is_wanted(&claims, link, Some(network))? {
            turn_if_there(link, false)?;
        }
    }
    claims.drop_these(network, &entries)?;
    // Someone may have claimed it since, and have found it turned, or have turned it.
    for link in &links {
        turn_if_there(link, is_wanted(&claims, link, None)?)?;
    }
    let (ours, theirs): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| entry.kind() == entry::OWN_LOCALNET);
    let outcome = if theirs.is_empty() { Ok(()) } else { iptables::unprotect(&wanted.claims) };
    if ours.is_empty() { outcome } else { weft::remove(firewall.inet()?, &claims, &ours).and(outcome) }
}

/// Returns what is missing.
pub(crate) fn observe(firewall: &mut Firewall, wanted: &Localnet) -> Result<Vec<String>, FirewallError> {
    let Some(link) = &wanted.link else { return Ok(Vec::new()) };
    let demand = wanted.demand();
    let mut missing = if wanted.backend == Backend::Iptables {
        let mut missing = iptables::unprotected(&mut Listing::default())?;
        let unclaimed = demand.entries.iter().filter(|entry| !demand.claims.has(&wanted.network, entry));
        missing.extend(unclaimed.map(|entry| format!("claim of {} on {entry}", wanted.network)));
        missing
    } else {
        weft::observe(firewall.inet()?, &demand)?
    };
    missing.extend(turned_off(link));
    Ok(missing)
}

/// Turns the switches again that are claimed, in our own table, which has been written.
pub(crate) fn restore(claims: &Claims<'_>) -> Result<(), FirewallError> {
    restore_kind(claims, entry::OWN_LOCALNET)
}

/// The same for links whose rules are in iptables, and have been written.
pub(crate) fn restore_iptables(claims: &Claims<'_>) -> Result<(), FirewallError> {
    restore_kind(claims, entry::IPTABLES_LOCALNET[0])
}

fn restore_kind(claims: &Claims<'_>, kind: &str) -> Result<(), FirewallError> {
    for entry in claims.all(&[kind])? {
        link_of(&entry).map_or(Ok(()), |link| turn_if_there(link, true))?;
    }
    Ok(())
}

/// Returns what is missing by the claims: of a link whose claim is in our own table only the switch.
pub(crate) fn missing(
    claims: &Claims<'_>,
    listing: &mut Listing,
) -> Result<Vec<(NetworkName, String)>, FirewallError> {
    let mut missing = Vec::new();
    for entry in claims.all(&entry::LOCALNET)? {
        let Some(link) = link_of(&entry) else { continue };
        let by_iptables = entry.kind() != entry::OWN_LOCALNET;
        let rules = if by_iptables { iptables::unprotected(listing)? } else { Vec::new() };
        let lacking: Vec<_> = rules.into_iter().chain(turned_off(link)).collect();
        for network in claims.networks(&entry)? {
            missing.extend(lacking.iter().map(|what| (network.clone(), what.clone())));
        }
    }
    Ok(missing)
}

fn link_of(entry: &Entry) -> Option<&IfName> {
    match entry {
        Entry::Localnet(link) | Entry::LocalnetByIptables(link) => Some(link),
        _ => None,
    }
}

/// Tells whether a network wants the link, in either place, not counting one.
fn is_wanted(
    claims: &Claims<'_>,
    link: &IfName,
    but_for: Option<&NetworkName>,
) -> Result<bool, FirewallError> {
    for entry in [Entry::Localnet(link.clone()), Entry::LocalnetByIptables(link.clone())] {
        if claims.networks(&entry)?.iter().any(|network| Some(network) != but_for) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn key(link: &IfName) -> String {
    format!("net/ipv4/conf/{link}/route_localnet")
}

/// Says that a link does not route loopback addresses. One that is gone need not.
fn turned_off(link: &IfName) -> Option<String> {
    let key = key(link);
    let value = fs::read_to_string(format!("/proc/sys/{key}")).ok()?;
    (value.trim() != "1").then(|| format!("sysctl {key} is {}, not 1", value.trim()))
}

/// Turns a link's switch and returns whether it was not so. `/proc/sys` may be read-only and right.
fn turn(link: &IfName, on: bool) -> Result<bool, FirewallError> {
    let key = key(link);
    let (path, value) = (format!("/proc/sys/{key}"), if on { "1" } else { "0" });
    let write = || OpenOptions::new().write(true).open(&path)?.write_all(value.as_bytes());
    let outcome = match fs::read_to_string(&path) {
        Ok(before) if before.trim() == value => Ok(false),
        Ok(_) => write().map(|()| true),
        Err(error) => Err(error),
    };
    outcome.map_err(|source| FirewallError::Switch { key, source })
}

/// A link that is gone has no switch.
fn turn_if_there(link: &IfName, on: bool) -> Result<(), FirewallError> {
    match turn(link, on) {
        Err(FirewallError::Switch { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome.map(drop),
    }
}
