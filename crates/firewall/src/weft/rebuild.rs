//! Everything that the books say of nf_tables, written again as one transaction: our own tables, and the reference plugins' with
//! what we have in it.

use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use weft_model::{Endpoint, IfName, Mac};
use weft_nft::{Chain, Element, Error, Set, Socket, Transaction};

use super::{Changes, ports, wrap};
use crate::claim::Claims;
use crate::entry;
use crate::error::all_but_refused;
use crate::layout::{INET, forward, masquerade};
use crate::table::{self, State};
use crate::{FirewallError, apart, layout, loopback, spoof, upstream};

const ATTEMPTS: usize = 16;

/// What is written at once, and apart from the others only where they are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// `table inet weft`.
    Ours,
    /// What sends answers to `::1` round by `lo`: `table netdev weft`.
    Detours,
    /// What keeps ports of a bridge apart: in `table bridge weft`.
    Apart,
    /// The spoof check: in `table bridge weft`.
    SpoofChecks,
    /// Masquerading in the reference plugins' table.
    Upstream,
}

/// What a transaction writes, for what has to be looked at once more when it has happened.
#[derive(Default)]
struct Written {
    ours: Option<Changes>,
    upstream: Vec<Endpoint>,
    guarded: Vec<(IfName, Mac)>,
}

/// Writes our table anew with everything that is claimed and published, unless that is just what is there. The
/// administrator's chain is kept.
pub(crate) fn rebuild(socket: &mut Socket, claims: &Claims<'_>) -> Result<(), FirewallError> {
    write(socket, claims, &[Piece::Ours])
}

/// Writes all of these again, whatever is missing of them, in one transaction; where the kernel refuses that, as many as it
/// accepts. Returns what it refused.
pub(crate) fn restore(socket: &mut Socket, claims: &Claims<'_>, pieces: &[Piece]) -> Vec<FirewallError> {
    // What the kernel refuses names its table.
    let refused = all_but_refused(pieces, &mut |pieces| write(socket, claims, pieces));
    refused.into_iter().map(|(_, error)| error).collect()
}

fn write(socket: &mut Socket, claims: &Claims<'_>, pieces: &[Piece]) -> Result<(), FirewallError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        // Whatever another process adds after this line makes the transaction start over with its claim.
        let generation = socket.generation().map_err(wrap)?;
        let mut transaction = Transaction::new();
        let mut written = Written::default();
        for piece in pieces {
            match piece {
                Piece::Ours => written.ours = anew(socket, claims, &mut transaction)?,
                Piece::Detours => loopback::restore(socket, claims, &mut transaction)?,
                Piece::Apart => apart::restore(socket, claims, &mut transaction)?,
                Piece::SpoofChecks => written.guarded = spoof::restore(socket, claims, &mut transaction)?,
                Piece::Upstream => {
                    written.upstream = upstream::restore(socket, claims, &mut transaction)?;
                }
            }
        }
        if transaction.is_empty() {
            return Ok(());
        }
        transaction.only_if_generation(generation);
        match socket.commit(&transaction) {
            Ok(()) if is_settled(socket, claims, &written)? || attempts == ATTEMPTS => return Ok(()),
            Ok(()) => {}
            Err(Error::Refused { errno: Errno::ERESTART, .. }) if attempts < ATTEMPTS => {}
            // A kernel that cannot have it has none: there the ports stay isolated.
            Err(Error::Refused { errno: Errno::ENOENT | Errno::EOPNOTSUPP, .. })
                if *pieces == [Piece::Apart] =>
            {
                return Ok(());
            }
            outcome => return outcome.map_err(wrap),
        }
    }
}

/// Takes back what has been given up since it was looked up. Returns whether nothing has been wanted again since.
fn is_settled(socket: &mut Socket, claims: &Claims<'_>, written: &Written) -> Result<bool, FirewallError> {
    let upstream = upstream::withdraw(socket, claims, &written.upstream)?;
    let guards = spoof::withdraw(socket, claims, &written.guarded)?;
    let ours = written.ours.as_ref().map_or(Ok(true), |ours| withdraw(socket, claims, ours))?;
    Ok(upstream && guards && ours)
}

/// Notes what makes our table anew, and what will be in it; nothing where that is what is there.
fn anew(
    socket: &mut Socket,
    claims: &Claims<'_>,
    transaction: &mut Transaction,
) -> Result<Option<Changes>, FirewallError> {
    let wanted = wanted(claims)?;
    let mut table = Transaction::new();
    masquerade::create(&mut table);
    for part in wanted.parts() {
        part.create(&mut table);
    }
    for (set, elements) in wanted.by_set() {
        table.elements(&set, elements);
    }
    if is_there(socket, &table)? {
        return Ok(None);
    }
    clear(socket, transaction)?;
    transaction.append(table);
    Ok(Some(wanted))
}

/// Returns whether our table is just that.
fn is_there(socket: &mut Socket, wanted: &Transaction) -> Result<bool, FirewallError> {
    if table::state(socket, INET)? != State::Ours {
        return Ok(false);
    }
    let known: BTreeSet<_> = wanted.sets().map(|set| set.name.to_string()).collect();
    let stray = |name: &String| layout::is_set(name) && !known.contains(name);
    if socket.sets(INET).map_err(wrap)?.iter().any(stray) {
        return Ok(false);
    }
    let theirs = |chain: &Chain| chain.name == forward::USER;
    socket.has_all(wanted, theirs).map_err(wrap)
}

/// Takes back what was written and has been given up meanwhile: whoever did that may have found nothing to remove. Returns
/// whether none of it is wanted again by now.
fn withdraw(socket: &mut Socket, claims: &Claims<'_>, written: &Changes) -> Result<bool, FirewallError> {
    let gone = lacking(&wanted(claims)?, written.added());
    if gone.is_empty() {
        return Ok(true);
    }
    socket.expire_all(&gone).map_err(wrap)?;
    Ok(lacking(&wanted(claims)?, &gone).len() == gone.len())
}

/// Returns those of the elements that are not wanted.
fn lacking(wanted: &Changes, elements: &[(Set, Element)]) -> Vec<(Set, Element)> {
    let wanted: BTreeSet<_> =
        wanted.added().iter().map(|(set, element)| (&set.name, element.key())).collect();
    elements.iter().filter(|(set, element)| !wanted.contains(&(&set.name, element.key()))).cloned().collect()
}

/// Takes everything of ours away, but for the administrator's chain if it has rules.
pub(super) fn clear(socket: &mut Socket, transaction: &mut Transaction) -> Result<(), FirewallError> {
    let state = table::state(socket, INET)?;
    if state == State::Absent {
        return Ok(());
    }
    if socket.rules(INET, forward::USER).map_err(wrap)?.is_empty() {
        transaction.delete_table(INET);
        return Ok(());
    }
    // What is not ours in there is the administrator's: sets and chains that the rules refer to.
    let mut chains = socket.chains(INET).map_err(wrap)?;
    chains.retain(|name| name != forward::USER && layout::is_chain(name));
    let mut sets = socket.sets(INET).map_err(wrap)?;
    sets.retain(|name| layout::is_set(name));
    for chain in &chains {
        transaction.flush_chain(INET, chain.clone());
    }
    for set in sets {
        transaction.delete_set(INET, set);
    }
    for chain in chains {
        transaction.delete_chain(INET, chain);
    }
    Ok(())
}

/// Returns everything that should be there.
fn wanted(claims: &Claims<'_>) -> Result<Changes, FirewallError> {
    let mut changes = Changes::default();
    for entry in claims.in_our_table(&entry::ALL)? {
        changes.entry(&entry);
    }
    if claims.any_in_our_table(&[entry::ISOLATION.as_slice(), &entry::GUARD].concat())? {
        claims.in_iptables(&entry::INSIDE)?.iter().for_each(|entry| changes.entry(entry));
    }
    ports::add_all(&claims.books(), &mut changes)?;
    Ok(changes)
}

impl Changes {
    fn by_set(&self) -> Vec<(Set, Vec<Element>)> {
        let mut sets: BTreeMap<String, (Set, Vec<Element>)> = BTreeMap::new();
        for (set, element) in self.added() {
            let entry = sets.entry(set.name.to_string()).or_insert_with(|| (set.clone(), Vec::new()));
            entry.1.push(element.clone());
        }
        sets.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Family;
    use crate::layout::masquerade::Kind;
    use crate::part::Part;

    /// A part that the kernel would list in other words than we write it would be written anew by each reload.
    #[test]
    fn the_kernel_lists_every_part_as_it_was_written() {
        weft_netns::isolate().unwrap();
        let mut socket = Socket::open().unwrap();
        let parts = [
            Part::Forward,
            Part::Internal,
            Part::NoIcc,
            Part::LocalOnly,
            Part::Published,
            Part::MasqueradeAll(Family::V4),
            Part::MasqueradeAll(Family::V6),
            Part::Ranges(Family::V4),
            Part::Ranges(Family::V6),
            Part::From,
            Part::Loopback,
            Part::Passage,
        ];
        let lengths = ["10.1.0.0/16", "fd00:1::/64"].map(|text| text.parse().unwrap());
        let of_length = |length| {
            let kinds = [Kind::Masquerade, Kind::Hairpin, Kind::Source];
            kinds.map(|kind| Part::length(kind, length)).into_iter().chain([Part::from_length(length)])
        };
        for part in parts.into_iter().chain(lengths.into_iter().flat_map(of_length)) {
            let mut table = Transaction::new();
            masquerade::create(&mut table);
            let needed: Vec<_> = std::iter::successors(part.needs(), |needed| needed.needs()).collect();
            needed.into_iter().rev().chain([part]).for_each(|part| part.create(&mut table));
            assert!(!socket.has_all(&table, |_| false).unwrap(), "{part:?}");
            socket.commit(&table).unwrap();
            assert!(socket.has_all(&table, |_| false).unwrap(), "{part:?}");
            socket.commit(Transaction::new().delete_table(INET)).unwrap();
        }
    }
}
