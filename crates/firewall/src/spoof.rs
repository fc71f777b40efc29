//! The spoof check: frames from a guarded bridge port carry the container's address or are dropped.

use nix::errno::Errno;
use weft_model::{IfName, Mac};
use weft_nft::{Error, FoundElement, Socket, Transaction};

use crate::apart::is_without_bridges;
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
        // The same port with another address: its old guard and allowance go in the same moment.
        if let Some(found) = found {
            transaction.delete_elements(&bridge::guarded(), vec![bridge::guard(port, mac)]);
            if let Some(old) = allowed(&found).filter(|old| *old != mac) {
                transaction.delete_elements(&bridge::allowed(), vec![bridge::allowance(port, old)]);
            }
        }
        transaction
            .elements(&bridge::guarded(), vec![bridge::guard(port, mac)])
            .elements(&bridge::allowed(), vec![bridge::allowance(port, mac)]);
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

/// Returns whether the chains are there. The table may be there for something else.
fn has_check(socket: &mut Socket) -> Result<bool, FirewallError> {
    let there = table::state(socket, layout::BRIDGE)? != State::Absent;
    Ok(there && socket.has_chain(layout::BRIDGE, bridge::PREROUTING).map_err(wrap)?)
}

/// Stops guarding the port. The port's name is enough: the guard's comment knows the address.
pub(crate) fn remove(socket: &mut Socket, check: &SpoofCheck) -> Result<(), FirewallError> {
    let port = &check.host_ifname;
    let ours = match guard(socket, port) {
        Ok(None) => Ok(()),
        Ok(Some(found)) => expire(socket, port, allowed(&found).or(check.mac)).map_err(wrap),
        // A kernel without the bridge family has no such rule, of nobody's.
        Err(error) if is_without_bridges(&error) => return Ok(()),
        Err(error) => Err(error),
    };
    ours.and(upstream::remove_spoof_check(socket, &check.endpoint))
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
    let mut missing = Vec::new();
    let chains =
        [(bridge::PREROUTING, bridge::PREROUTING_RULES), (bridge::SPOOF_CHECK, bridge::SPOOF_CHECK_RULES)];
    for (chain, rules) in chains {
        if socket.rules(layout::BRIDGE, chain).map_err(wrap)?.len() != rules {
            missing.push(format!("rules of chain {} {chain}", layout::BRIDGE));
        }
    }
    let port = &check.host_ifname;
    let guard = guard(socket, port)?.filter(|found| found.expires.is_none());
    match guard.as_ref().map(allowed) {
        None => missing.push(format!("element {port} of {}", bridge::guarded())),
        Some(mac) if check.mac.is_some() && mac != check.mac => {
            missing.push(format!("element {port} of {} for the interface's address", bridge::guarded()));
        }
        Some(Some(mac)) => {
            let key = bridge::guard_key(port).ether(mac.0);
            let found = socket.element(&bridge::allowed(), &key).map_err(wrap)?;
            if found.is_none_or(|found| found.expires.is_some()) {
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

/// Returns the address that the guard's comment names.
fn allowed(guard: &FoundElement) -> Option<Mac> {
    guard.comment.as_deref()?.parse().ok()
}
