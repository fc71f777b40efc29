//! The spoof check: frames from a guarded bridge port carry the container's address or are dropped. Which ports are guarded is
//! on record, so that the checks come back after a flush with everything else.

use std::path::Path;

use nix::errno::Errno;
use weft_model::{Endpoint, IfName, Mac, NetworkName};
use weft_nft::{Error, FoundElement, Socket, Transaction};

use crate::apart::is_without_bridges;
use crate::claim::Claims;
use crate::layout::bridge;
use crate::table::{self, State};
use crate::{Change, FirewallError, SpoofCheck, layout, upstream};

/// How often a lost race is tried again.
const ATTEMPTS: usize = 16;

fn wrap(source: Error) -> FirewallError {
    table::refused(layout::BRIDGE, source)
}

/// Guards the port. In the steady state that is one question.
pub(crate) fn ensure(socket: &mut Socket, check: &SpoofCheck) -> Result<Change, FirewallError> {
    let port = &check.host_ifname;
    let mac = check.mac.ok_or_else(|| FirewallError::NoMac(port.clone()))?;
    let claims = Claims(&check.claims);
    let before = claims.spoof_check_of(port);
    let noted = claims.take_spoof_check(port, &check.endpoint, mac)?;
    match write(socket, port, mac) {
        // A record is a change as well, and to be undone with what follows: by it the guard would be restored.
        Ok(Change::AlreadyThere) => Ok(noted),
        Ok(Change::Made) => Ok(Change::Made),
        // What was never there is not to be restored; what was there before is.
        Err(error) => match before {
            Some((endpoint, mac)) => claims.take_spoof_check(port, &endpoint, mac).and(Err(error)),
            None => claims.drop_spoof_check(port).and(Err(error)),
        },
    }
}

fn write(socket: &mut Socket, port: &IfName, mac: Mac) -> Result<Change, FirewallError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let found = guard(socket, port)?;
        if found.as_ref().is_some_and(|found| found.expires.is_none() && allowed(found) == Some(mac)) {
            return Ok(Change::AlreadyThere);
        }
        let mut transaction = Transaction::new();
        let creates = found.is_none() && !has_check(socket)?;
        if creates {
            bridge::create(&mut transaction);
        }
        replace(socket, &mut transaction, found.as_ref(), port, mac)?;
        match socket.commit(&transaction) {
            Ok(()) => return Ok(Change::Made),
            // Such a transaction makes everything it refers to: what is missing is a part of the kernel.
            Err(source @ Error::Refused { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }) if creates => {
                return Err(FirewallError::Unsupported { table: layout::BRIDGE, source });
            }
            // Another process made the table, or what we found has run out meanwhile.
            Err(Error::Refused { errno: Errno::EEXIST | Errno::ENOENT, .. }) if attempts < ATTEMPTS => {}
            Err(error) => return Err(wrap(error)),
        }
    }
}

/// Notes the guard of a port. The same port with another address: its old guard and allowance go in the same moment.
fn replace(
    socket: &mut Socket,
    transaction: &mut Transaction,
    found: Option<&FoundElement>,
    port: &IfName,
    mac: Mac,
) -> Result<(), FirewallError> {
    if let Some(found) = found {
        transaction.delete_elements(&bridge::guarded(), vec![bridge::guard(port, mac)]);
        // What somebody has deleted already would have the whole transaction refused.
        if let Some(old) = allowed(found).filter(|old| *old != mac)
            && allowance(socket, port, old)?.is_some()
        {
            transaction.delete_elements(&bridge::allowed(), vec![bridge::allowance(port, old)]);
        }
    }
    transaction
        .elements(&bridge::guarded(), vec![bridge::guard(port, mac)])
        .elements(&bridge::allowed(), vec![bridge::allowance(port, mac)]);
    Ok(())
}

/// Notes what leads from what is there to what is on record; nothing where that is the same. Returns whose guards are
/// written.
pub(crate) fn restore(
    socket: &mut Socket,
    claims: &Claims<'_>,
    transaction: &mut Transaction,
) -> Result<Vec<(IfName, Mac)>, FirewallError> {
    let all = claims.spoof_checks()?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    table::state(socket, layout::BRIDGE)?;
    if !missing_rules(socket)?.is_empty() {
        for (chain, _) in CHAINS {
            if socket.has_chain(layout::BRIDGE, chain).map_err(wrap)? {
                transaction.flush_chain(layout::BRIDGE, chain);
            }
        }
        for (chain, _) in CHAINS {
            if socket.has_chain(layout::BRIDGE, chain).map_err(wrap)? {
                transaction.delete_chain(layout::BRIDGE, chain);
            }
        }
        bridge::create(transaction);
    }
    let mut written = Vec::new();
    for (port, _, mac) in all {
        if !missing_elements(socket, &port, Some(mac))?.is_empty() {
            let found = guard(socket, &port)?;
            replace(socket, transaction, found.as_ref(), &port, mac)?;
            written.push((port, mac));
        }
    }
    Ok(written)
}

/// Takes back what was restored of ports that have been given up meanwhile. Returns whether none of them is wanted again by
/// now.
pub(crate) fn withdraw(
    socket: &mut Socket,
    claims: &Claims<'_>,
    written: &[(IfName, Mac)],
) -> Result<bool, FirewallError> {
    let is_gone = |port: &IfName| claims.spoof_check_of(port).is_none();
    let gone: Vec<_> = written.iter().filter(|(port, _)| is_gone(port)).collect();
    for (port, mac) in &gone {
        expire(socket, port, Some(*mac)).map_err(wrap)?;
    }
    Ok(gone.iter().all(|(port, _)| is_gone(port)))
}

/// Returns what is missing of all on record.
pub(crate) fn missing(
    socket: &mut Socket,
    claims: &Claims<'_>,
) -> Result<Vec<(Endpoint, Vec<String>)>, FirewallError> {
    let all = claims.spoof_checks()?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    if table::state(socket, layout::BRIDGE)? != State::Ours {
        let lost = vec![format!("table {}", layout::BRIDGE)];
        return Ok(all.into_iter().map(|(_, endpoint, _)| (endpoint, lost.clone())).collect());
    }
    let rules = missing_rules(socket)?;
    let mut missing = Vec::new();
    for (port, endpoint, mac) in all {
        let elements = missing_elements(socket, &port, Some(mac))?;
        missing.push((endpoint, rules.iter().cloned().chain(elements).collect()));
    }
    Ok(missing)
}

/// Returns whether the chains are there. The table may be there for something else.
fn has_check(socket: &mut Socket) -> Result<bool, FirewallError> {
    let there = table::state(socket, layout::BRIDGE)? != State::Absent;
    Ok(there && socket.has_chain(layout::BRIDGE, bridge::PREROUTING).map_err(wrap)?)
}

/// Stops guarding the port. The port's name is enough: the guard's comment knows the address.
pub(crate) fn remove(socket: &mut Socket, check: &SpoofCheck) -> Result<(), FirewallError> {
    let port = &check.host_ifname;
    Claims(&check.claims).drop_spoof_check(port)?;
    let ours = match guard(socket, port) {
        Ok(None) => Ok(()),
        Ok(Some(found)) => expire(socket, port, allowed(&found).or(check.mac)).map_err(wrap),
        // A kernel without the bridge family has no such rule, of nobody's.
        Err(error) if is_without_bridges(&error) => return Ok(()),
        Err(error) => Err(error),
    };
    ours.and(upstream::remove_spoof_check(socket, &check.endpoint))
}

/// Stops guarding the ports of a network's attachments that are not among `valid`, each a container and its interface.
pub(crate) fn collect(
    socket: &mut Socket,
    claims: &Path,
    network: &NetworkName,
    valid: &[(&str, &str)],
) -> Result<(), FirewallError> {
    let mut failed = None;
    for (host_ifname, endpoint, mac) in Claims(claims).spoof_checks()? {
        let stays = valid.contains(&(endpoint.container.as_str(), endpoint.ifname.as_str()));
        if endpoint.network == *network && !stays {
            let check = SpoofCheck { host_ifname, mac: Some(mac), endpoint, claims: claims.into() };
            failed = failed.or(remove(socket, &check).err());
        }
    }
    failed.map_or(Ok(()), Err)
}

/// The guard goes first: an allowance without a guard means nothing, the reverse blocks the port.
fn expire(socket: &mut Socket, port: &IfName, mac: Option<Mac>) -> Result<(), Error> {
    let Some(mac) = mac else { return Ok(()) };
    socket.expire(&bridge::guarded(), &bridge::guard(port, mac))?;
    socket.expire(&bridge::allowed(), &bridge::allowance(port, mac))
}

/// Returns what is missing, down to the static rules.
pub(crate) fn observe(socket: &mut Socket, check: &SpoofCheck) -> Result<Vec<String>, FirewallError> {
    if table::state(socket, layout::BRIDGE)? != State::Ours {
        return Ok(vec![format!("table {}", layout::BRIDGE)]);
    }
    let mut missing = missing_rules(socket)?;
    missing.extend(missing_elements(socket, &check.host_ifname, check.mac)?);
    Ok(missing)
}

/// The chains with their numbers of rules.
const CHAINS: [(&str, usize); 2] =
    [(bridge::PREROUTING, bridge::PREROUTING_RULES), (bridge::SPOOF_CHECK, bridge::SPOOF_CHECK_RULES)];

fn missing_rules(socket: &mut Socket) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    for (chain, rules) in CHAINS {
        if socket.rules(layout::BRIDGE, chain).map_err(wrap)?.len() != rules {
            missing.push(format!("rules of chain {} {chain}", layout::BRIDGE));
        }
    }
    Ok(missing)
}

fn missing_elements(
    socket: &mut Socket,
    port: &IfName,
    mac: Option<Mac>,
) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    let guard = guard(socket, port)?.filter(|found| found.expires.is_none());
    match guard.as_ref().map(allowed) {
        None => missing.push(format!("element {port} of {}", bridge::guarded())),
        Some(found) if mac.is_some() && found != mac => {
            missing.push(format!("element {port} of {} for the interface's address", bridge::guarded()));
        }
        Some(Some(mac)) => {
            if allowance(socket, port, mac)?.is_none_or(|found| found.expires.is_some()) {
                missing.push(format!("element {port} . {mac} of {}", bridge::allowed()));
            }
        }
        Some(None) => {}
    }
    Ok(missing)
}

fn guard(socket: &mut Socket, port: &IfName) -> Result<Option<FoundElement>, FirewallError> {
    socket.element(&bridge::guarded(), &bridge::guard_key(port)).map_err(wrap)
}

fn allowance(socket: &mut Socket, port: &IfName, mac: Mac) -> Result<Option<FoundElement>, FirewallError> {
    socket.element(&bridge::allowed(), &bridge::guard_key(port).ether(mac.0)).map_err(wrap)
}

/// Returns the address that the guard's comment names.
fn allowed(guard: &FoundElement) -> Option<Mac> {
    guard.comment.as_deref()?.parse().ok()
}
