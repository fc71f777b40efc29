//! Masquerading in our own table: one element per subnet.

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use weft_nft::{Element, Error, Socket, Transaction};

use crate::claim::Claims;
use crate::table::{self, State};
use crate::{Change, FirewallError, Masquerade, layout};

/// How often a lost race is tried again. Each round another process has made progress.
const ATTEMPTS: usize = 16;

fn wrap(source: Error) -> FirewallError {
    table::refused(layout::INET, source)
}

/// Sees to it that every subnet has its element. In the steady state that is one question each.
pub(crate) fn ensure(socket: &mut Socket, masquerade: &Masquerade) -> Result<Change, FirewallError> {
    let claims = Claims(&masquerade.claims);
    let mut change = Change::AlreadyThere;
    for &subnet in &masquerade.subnets {
        claims.take_subnet(&masquerade.network, subnet)?;
        if !has(socket, subnet)? {
            install(socket, &claims, subnet)?;
            change = Change::Made;
        }
    }
    Ok(change)
}

/// Removes the elements of subnets that nobody claims any more.
pub(crate) fn remove(
    socket: &mut Socket,
    claims: &Claims<'_>,
    subnets: &[IpNetwork],
) -> Result<(), FirewallError> {
    for &subnet in subnets {
        if claims.is_wanted(subnet)? {
            continue;
        }
        let element = Element::new(layout::subnet_key(subnet));
        socket.expire(&layout::subnet_set(subnet), &element).map_err(wrap)?;
        // Someone may have claimed it since, and have found the element still there.
        if claims.is_wanted(subnet)? {
            install(socket, claims, subnet)?;
        }
    }
    retire(socket, claims)
}

/// Takes the table away with the last subnet.
///
/// The generation is read before the claims. Whoever claims a subnet after that either changes the
/// ruleset before us, which refuses this transaction, or finds no table and creates it.
fn retire(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    let generation = socket.generation().map_err(wrap)?;
    if !claims.all_subnets()?.is_empty() || table::state(socket, layout::INET)? == State::Absent {
        return Ok(());
    }
    let mut transaction = Transaction::new();
    transaction.only_if_generation(generation).delete_table(layout::INET);
    match socket.commit(&transaction) {
        Err(Error::Refused { errno: Errno::ERESTART | Errno::ENOENT, .. }) => Ok(()),
        outcome => outcome.map_err(wrap),
    }
}

/// Returns what is missing for these subnets, down to the static rules.
pub(crate) fn observe(socket: &mut Socket, masquerade: &Masquerade) -> Result<Vec<String>, FirewallError> {
    match table::state(socket, layout::INET)? {
        State::Absent => return Ok(vec![format!("table {}", layout::INET)]),
        State::Other => {
            return Ok(vec![format!("table {} has another layout than {:?}", layout::INET, layout::VERSION)]);
        }
        State::Ours => {}
    }
    let mut missing = Vec::new();
    let rules = socket.rules(layout::INET, layout::POSTROUTING).map_err(wrap)?;
    if rules.len() != layout::POSTROUTING_RULES {
        missing.push(format!("rules of chain {} {}", layout::INET, layout::POSTROUTING));
    }
    for &subnet in &masquerade.subnets {
        for chain in [layout::SAME_SUBNET, layout::OTHER_SUBNET] {
            let comment = layout::length_comment(subnet);
            let rules = socket.rules(layout::INET, chain).map_err(wrap)?;
            if !rules.iter().any(|rule| rule.comment.as_ref() == Some(&comment)) {
                missing.push(format!("rule of chain {} {chain} for {comment}", layout::INET));
            }
        }
        if !has(socket, subnet)? {
            missing.push(format!("element {subnet} of {}", layout::subnet_set(subnet)));
        }
        if !Claims(&masquerade.claims).has_subnet(&masquerade.network, subnet) {
            missing.push(format!("claim of {} on {subnet}", masquerade.network));
        }
    }
    Ok(missing)
}

/// Writes the table anew with everything that is claimed.
pub(crate) fn rebuild(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // Whatever another process adds after this line makes the transaction start over with its claim.
        let generation = socket.generation().map_err(wrap)?;
        table::state(socket, layout::INET)?;
        let mut transaction = Transaction::new();
        transaction.only_if_generation(generation);
        // A table is deleted only if it exists; creating it first makes sure of that.
        transaction.table(layout::INET, None).delete_table(layout::INET);
        layout::create_inet(&mut transaction);
        let mut lengths = Vec::new();
        for subnet in claims.all_subnets()? {
            let length = (subnet.is_ipv4(), subnet.prefix());
            if !lengths.contains(&length) {
                lengths.push(length);
                layout::create_length(&mut transaction, subnet);
            }
            transaction.elements(&layout::subnet_set(subnet), vec![Element::new(layout::subnet_key(subnet))]);
        }
        match socket.commit(&transaction) {
            Err(Error::Refused { errno: Errno::ERESTART, .. }) if attempts < ATTEMPTS => {}
            outcome => return outcome.map_err(wrap),
        }
    }
}

/// Returns whether the subnet has its element. One that is about to expire does not count.
fn has(socket: &mut Socket, subnet: IpNetwork) -> Result<bool, FirewallError> {
    let found = socket.element(&layout::subnet_set(subnet), &layout::subnet_key(subnet)).map_err(wrap)?;
    Ok(found.is_some_and(|element| element.expires.is_none()))
}

/// How much has to be created for an element.
#[derive(Clone, Copy)]
enum Missing {
    Element,
    Length,
    Table,
}

/// Adds a subnet's element and what it needs.
///
/// Each stage is one transaction that is refused as a whole if another process was faster (EEXIST)
/// or if the stage below is missing too (ENOENT), so rules are never there twice.
fn install(socket: &mut Socket, claims: &Claims<'_>, subnet: IpNetwork) -> Result<(), FirewallError> {
    let mut missing = match table::state(socket, layout::INET)? {
        State::Absent => Missing::Table,
        State::Ours => Missing::Element,
        State::Other => return rebuild(socket, claims),
    };
    let mut attempts = 0;
    loop {
        attempts += 1;
        let mut transaction = Transaction::new();
        if let Missing::Table = missing {
            layout::create_inet(&mut transaction);
        }
        if let Missing::Table | Missing::Length = missing {
            layout::create_length(&mut transaction, subnet);
        }
        transaction.elements(&layout::subnet_set(subnet), vec![Element::new(layout::subnet_key(subnet))]);
        missing = match (socket.commit(&transaction), missing) {
            (Ok(()), _) => return Ok(()),
            // This stage makes everything it refers to: what is missing is a part of the kernel.
            (
                Err(source @ Error::Refused { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. }),
                Missing::Table,
            ) => {
                return Err(FirewallError::Unsupported { table: layout::INET, source });
            }
            // Someone took pieces out of the table: no stage fits, and only a new table helps.
            (Err(Error::Refused { errno: Errno::EEXIST | Errno::ENOENT, .. }), _) if attempts == ATTEMPTS => {
                return rebuild(socket, claims);
            }
            (Err(Error::Refused { errno: Errno::EEXIST, .. }), _) => Missing::Element,
            (Err(Error::Refused { errno: Errno::ENOENT, .. }), Missing::Element) => Missing::Length,
            (Err(Error::Refused { errno: Errno::ENOENT, .. }), Missing::Length) => Missing::Table,
            (Err(error), _) => return Err(wrap(error)),
        };
    }
}
