//! Ports of a bridge that are kept apart while IP sees their frames: what [`crate::layout::bridge::create_apart`] says.

use std::fs;

use nix::errno::Errno;
use weft_nft::{Error, Socket, Transaction};

use crate::claim::Claims;
use crate::entry;
use crate::error::is_lacking;
use crate::layout::{BRIDGE, bridge};
use crate::table;
use crate::{Firewall, FirewallError};

/// Sees to it that the rule is there. A kernel without the family of bridges has none: there the ports stay isolated.
pub(crate) fn ensure(socket: &mut Socket) -> Result<(), FirewallError> {
    if is_whole(socket)? {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    create(socket, &mut transaction)?;
    match socket.commit(&transaction) {
        // Of two processes that do this at once one is told that the chain is there.
        Err(Error::Refused { errno: Errno::EEXIST | Errno::ENOENT | Errno::EOPNOTSUPP, .. }) => Ok(()),
        outcome => outcome.map_err(refused),
    }
}

fn create(socket: &mut Socket, transaction: &mut Transaction) -> Result<(), FirewallError> {
    table::state(socket, BRIDGE)?;
    if is_there(socket)? {
        transaction.flush_chain(BRIDGE, bridge::FORWARD).delete_chain(BRIDGE, bridge::FORWARD);
    }
    bridge::create_apart(transaction);
    Ok(())
}

/// Takes the rule away with the last network that wants it.
pub(crate) fn retire(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    let generation = socket.generation().map_err(refused)?;
    if claims.any_in_our_table(&entry::APART)? || !is_there(socket)? {
        return Ok(());
    }
    let others = socket.chains(BRIDGE).map_err(refused)?.iter().any(|chain| chain != bridge::FORWARD);
    let mut transaction = Transaction::new();
    transaction.only_if_generation(generation);
    if others {
        transaction.flush_chain(BRIDGE, bridge::FORWARD).delete_chain(BRIDGE, bridge::FORWARD);
    } else {
        transaction.delete_table(BRIDGE);
    }
    match socket.commit(&transaction) {
        // Whoever changed something has claimed it, or takes it away.
        Err(Error::Refused { errno: Errno::ERESTART | Errno::ENOENT, .. }) => Ok(()),
        outcome => outcome.map_err(refused),
    }
}

/// Notes the rule where a network wants it and it is missing.
pub(crate) fn restore(
    socket: &mut Socket,
    claims: &Claims<'_>,
    transaction: &mut Transaction,
) -> Result<(), FirewallError> {
    let is_wanted = claims.any_in_our_table(&entry::APART)?;
    if is_wanted && !is_whole(socket)? { create(socket, transaction) } else { Ok(()) }
}

/// Returns what is missing, where it would be asked.
pub(crate) fn missing(socket: &mut Socket) -> Result<Option<String>, FirewallError> {
    let is_missing = sees_bridged_frames() && !is_whole(socket)?;
    Ok(is_missing.then(|| format!("rules of chain {BRIDGE} {}", bridge::FORWARD)))
}

/// Returns whether the rule is there, as far as this kernel can have it.
fn is_whole(socket: &mut Socket) -> Result<bool, FirewallError> {
    match socket.rules(BRIDGE, bridge::FORWARD).map_err(refused) {
        Ok(rules) => Ok(rules.len() == bridge::FORWARD_RULES),
        Err(error) if is_without_bridges(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

impl Firewall {
    /// Returns whether ports of the group [`crate::APART`] are kept apart by a rule, so that they need not be isolated.
    ///
    /// # Errors
    ///
    /// When the kernel does not answer.
    pub fn keeps_ports_apart(&mut self) -> Result<bool, FirewallError> {
        match self.socket(BRIDGE) {
            Ok(socket) => is_there(socket),
            Err(error) => crate::without_nftables(error).map(|()| false),
        }
    }
}

fn is_there(socket: &mut Socket) -> Result<bool, FirewallError> {
    match socket.has_chain(BRIDGE, bridge::FORWARD).map_err(refused) {
        Err(error) if is_without_bridges(&error) => Ok(false),
        outcome => outcome,
    }
}

/// Tells whether the kernel refused because it has no rules for bridges.
pub(crate) fn is_without_bridges(error: &FirewallError) -> bool {
    let FirewallError::Nft { source, .. } = error else { return false };
    source.errno().is_some_and(|errno| is_lacking(errno) || errno == Errno::EINVAL)
}

/// Tells whether IP's filters see frames that pass a bridge.
fn sees_bridged_frames() -> bool {
    let is_on = |program: &&str| {
        let switch = fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{program}"));
        switch.is_ok_and(|switch| switch.trim() != "0")
    };
    ["iptables", "ip6tables"].iter().any(is_on)
}

fn refused(source: Error) -> FirewallError {
    table::refused(BRIDGE, source)
}
