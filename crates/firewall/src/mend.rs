//! What others took away: writing it again, and saying what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::slice;

use weft_model::{Endpoint, NetworkName};
use weft_state::Root;
use weft_state::ports::{Books, Damaged, Owner};

use crate::claim::{Claims, Way};
use crate::entry::Entry;
use crate::fragment::Publish;
use crate::iptables::restore::Listing;
use crate::weft::{self, Piece, ports};
use crate::{
    Backend, Firewall, FirewallError, admission, apart, entry, foreign, iptables, localnet, loopback,
    publish, spoof, table, upstream, upstream_ports,
};

/// What mends everything here.
const RELOAD: &str = "weft network reload";
/// How much of what something lacks is named, as thousands of ports may be: its mend is the same for all of it.
const NAMED: usize = 32;

/// Something that is not as it was left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What it is about: a network, an attachment, somebody else's chain.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
    /// The command that mends it.
    pub mend: String,
}

/// Writes everything that is claimed or published again, whoever took it away: all of nf_tables in one transaction, and what is in
/// iptables by one run of each program that is concerned. What is there is not written. What processes that were
/// killed have left half done is undone first. The administrator's chain is kept.
///
/// # Errors
///
/// Everything that the kernel, a program or firewalld refuses, and records that cannot be read. As much as possible is
/// written all the same.
pub fn reload(root: &Root) -> Result<(), Vec<FirewallError>> {
    let claims = root.masquerade_dir();
    let books = Books::new(root);
    let mut firewall = Firewall::new();
    let mut refused = undo_interrupted(root, &books, &mut firewall);
    // Who has to be let through is in our table, too.
    let filters = foreign::Filters::of_host(&mut firewall, &Claims(&claims));
    let filters = filters.map_err(|error| refused.push(error)).unwrap_or_default();
    refused.extend(foreign::claim(&claims, &filters).err());
    refused.extend(restore_nftables(&mut firewall, &claims));
    refused.extend(iptables::restore::restore(&Claims(&claims), &filters.places));
    refused.extend(localnet::restore_iptables(&Claims(&claims)).err());
    refused.extend(upstream_ports::restore(&claims));
    refused.extend(admission::restore_firewalld(&claims));
    refused.extend(foreign::restore_firewalld(&claims, &filters));
    if refused.is_empty() { Ok(()) } else { Err(refused) }
}

/// Undoes what processes that were killed have left half done. Returns what could not be undone.
fn undo_interrupted(root: &Root, books: &Books, firewall: &mut Firewall) -> Vec<FirewallError> {
    let mut refused = Vec::new();
    for interrupted in books.interrupted_changes() {
        let backend = Backend::named(&interrupted.backend);
        refused.extend(publish::finish(firewall, &publish_of(root, &interrupted.endpoint, backend)).err());
    }
    for damaged in books.damaged() {
        let outcome = match &damaged.endpoint {
            Some(endpoint) => publish::finish(firewall, &publish_of(root, endpoint, Backend::Weft)),
            None => books.discard(&damaged).map_err(Into::into),
        };
        refused.extend(outcome.err());
    }
    refused.extend(books.drop_orphans(None).err().map(Into::into));
    refused
}

/// Returns everything that is missing of what is claimed and published; nothing when all is well.
///
/// # Errors
///
/// When the kernel or iptables refuses to answer, or the records cannot be read.
pub fn diagnose(root: &Root) -> Result<Vec<Problem>, FirewallError> {
    let claims = root.masquerade_dir();
    let books = Books::new(root);
    let mut firewall = Firewall::new();
    let mut problems = Vec::new();
    for interrupted in books.interrupted_changes() {
        let why = "a process was killed while it published ports";
        problems.push(problem(interrupted.endpoint.to_string(), why));
    }
    for Damaged { container, ifname, endpoint, error } in books.damaged() {
        let what =
            endpoint.map_or_else(|| format!("{ifname} of {container}"), |endpoint| endpoint.to_string());
        problems.push(problem(
            what,
            &format!("{error}: what it publishes is lost, and has to be published again"),
        ));
    }
    let orphans = books.orphans()?;
    if let Some(first) = orphans.first() {
        let whose = first.holder.as_ref().map_or_else(|| "nobody".into(), ToString::to_string);
        let count = orphans.len();
        let why = format!("{count} of them are kept for attachments that publish nothing, as {whose}");
        problems.push(problem("claims of ports".into(), &why));
    }
    if is_table_wanted(&claims)? && table::state(firewall.inet()?, crate::layout::INET)? != table::State::Ours
    {
        // What is in it need not be told one by one.
        let why = "is not there, or not as this version of weft writes it";
        problems.push(problem(format!("table {}", crate::layout::INET), why));
    } else {
        problems.extend(missing_rules(&mut firewall, &claims)?);
        problems.extend(missing_of_networks(&mut firewall, &claims)?);
        problems.extend(missing_of_ports(&mut firewall, &books)?);
    }
    if let Ok(socket) = firewall.inet() {
        let mut missing = upstream::missing(socket, &Claims(&claims))?;
        missing.extend(spoof::missing(socket, &Claims(&claims))?);
        for (endpoint, missing) in missing {
            problems.extend(lacking(endpoint.to_string(), missing));
        }
    }
    let mut listing = Listing::default();
    problems.extend(missing_of_iptables(&claims, &books, &mut listing)?);
    for (network, why) in localnet::missing(&Claims(&claims), &mut listing)? {
        problems.extend(lacking(format!("network {network}"), vec![why]));
    }
    for (endpoint, what) in admission::lacking(&claims, &mut listing)? {
        problems.push(problem(endpoint.to_string(), &format!("it is not let through any more: {what}")));
    }
    for obstacle in foreign::obstacles(&mut firewall, &claims)? {
        problems.push(Problem { what: obstacle.what, why: obstacle.why, mend: obstacle.mend });
    }
    Ok(problems)
}

/// Gives up the ports that are kept for attachments to a network of which the books know nothing else, with what the kernel
/// may have of them.
///
/// # Errors
///
/// When the books cannot be read or written, or the kernel refuses.
pub fn release(root: &Root, network: &NetworkName) -> Result<(), FirewallError> {
    if Books::new(root).drop_orphans(Some(network))? > 0 {
        rebuild(&mut Firewall::new(), &root.masquerade_dir())?;
    }
    Ok(())
}

/// Returns the attachments to a network for which the firewall has something by its own books.
pub fn holders(root: &Root, network: &NetworkName) -> Vec<Endpoint> {
    let mut holders = Books::new(root).holders(network);
    holders.extend(admission::holders(&root.masquerade_dir(), network));
    holders.sort();
    holders.dedup();
    holders
}

/// Writes what is missing of nf_tables again.
pub(crate) fn rebuild(firewall: &mut Firewall, claims: &Path) -> Result<(), FirewallError> {
    restore_nftables(firewall, claims).into_iter().next().map_or(Ok(()), Err)
}

/// Writes what is missing of nf_tables again, in one transaction, with the routes and switches that go with it. Returns what
/// was refused, of the records as of the kernel: it keeps nothing else from being written.
fn restore_nftables(firewall: &mut Firewall, claims: &Path) -> Vec<FirewallError> {
    let claimed = Claims(claims);
    let mut refused = Vec::new();
    let mut holds = |outcome: Result<bool, FirewallError>| tell(&mut refused, outcome).unwrap_or_default();
    let is_wanted = holds(is_table_wanted(claims));
    let has_upstream = holds(claimed.masqueraded(Way::Nftables).map(|all| !all.is_empty()));
    let has_guards = holds(claimed.spoof_checks().map(|all| !all.is_empty()));
    if !is_wanted && !has_upstream && !has_guards && !weft_nft::is_usable() {
        return refused;
    }
    let socket = match firewall.inet() {
        Ok(socket) => socket,
        Err(error) => {
            refused.push(error);
            return refused;
        }
    };
    let is_there = table::state(socket, crate::layout::INET).map(|state| state != table::State::Absent);
    let has_table = tell(&mut refused, is_there).unwrap_or_default() || is_wanted;
    let mut pieces = Vec::new();
    if has_table {
        pieces.extend([Piece::Ours, Piece::Detours, Piece::Apart]);
    }
    pieces.extend(has_guards.then_some(Piece::SpoofChecks));
    pieces.extend(has_upstream.then_some(Piece::Upstream));
    for error in weft::restore(socket, &claimed, &pieces) {
        tell(&mut refused, Err::<(), _>(error));
    }
    if has_table {
        tell(&mut refused, weft::retire(socket, &claimed));
        tell(&mut refused, loopback::restore_routes(&claimed));
        tell(&mut refused, localnet::restore(&claimed));
    }
    refused
}

/// Notes what was refused, unless that is told already: what is refused once is refused again.
fn tell<T>(refused: &mut Vec<FirewallError>, outcome: Result<T, FirewallError>) -> Option<T> {
    match outcome {
        Ok(value) => Some(value),
        Err(error) => {
            let is_told = refused.iter().any(|told| told.to_string() == error.to_string());
            refused.extend((!is_told).then_some(error));
            None
        }
    }
}

fn is_table_wanted(claims: &Path) -> Result<bool, FirewallError> {
    let claims = Claims(claims);
    let ours = |owner: &Owner| Backend::named(&owner.backend) == Backend::Weft;
    Ok(claims.any_in_our_table(&entry::ALL)? || claims.books().owners().iter().any(ours))
}

/// What all networks and attachments have their rules in is one thing that is not as it should be.
fn missing_rules(firewall: &mut Firewall, claims: &Path) -> Result<Option<Problem>, FirewallError> {
    let claims = Claims(claims);
    let mut parts: Vec<_> = claims.in_our_table(&entry::ALL)?.iter().map(Entry::part).collect();
    let owners = claims.books().owners();
    let ours = owners.iter().filter(|owner| Backend::named(&owner.backend) == Backend::Weft);
    parts.extend(ours.flat_map(ports::parts));
    let missing = weft::lacking_rules(firewall.inet()?, parts)?;
    Ok(lacking(format!("table {}", crate::layout::INET), missing))
}

fn missing_of_networks(firewall: &mut Firewall, claims: &Path) -> Result<Vec<Problem>, FirewallError> {
    let claims = Claims(claims);
    let mut missing: BTreeMap<NetworkName, Vec<String>> = BTreeMap::new();
    for entry in claims.in_our_table(&entry::ALL)? {
        for network in claims.networks(&entry)? {
            let lines = missing.entry(network.clone()).or_default();
            let socket = firewall.inet()?;
            lines.extend(weft::lacking_elements(socket, &network, &claims, slice::from_ref(&entry))?);
            if let Entry::Loopback(link) = &entry {
                lines.extend(loopback::missing_way(socket, link)?);
            }
            if let Entry::NoIcc(_) = &entry {
                lines.extend(apart::missing(socket)?);
            }
        }
    }
    Ok(missing
        .into_iter()
        .filter_map(|(network, lines)| lacking(format!("network {network}"), lines))
        .collect())
}

fn missing_of_ports(firewall: &mut Firewall, books: &Books) -> Result<Vec<Problem>, FirewallError> {
    let mut problems = Vec::new();
    for (owner, held) in books.standing()? {
        if Backend::named(&owner.backend) != Backend::Weft {
            continue;
        }
        let missing = ports::lacking_elements(firewall.inet()?, &owner, &held)?;
        problems.extend(lacking(owner.endpoint.to_string(), missing));
    }
    Ok(problems)
}

fn missing_of_iptables(
    claims: &Path,
    books: &Books,
    listing: &mut Listing,
) -> Result<Vec<Problem>, FirewallError> {
    let claims = Claims(claims);
    let mut problems = Vec::new();
    for (network, missing) in iptables::restore::missing_of_networks(&claims, listing)? {
        problems.extend(lacking(format!("network {network}"), missing));
    }
    for (endpoint, missing) in iptables::restore::missing_of_chains(&claims, listing)? {
        problems.extend(lacking(endpoint.to_string(), missing));
    }
    for owner in books.owners_as_changed() {
        let missing = match Backend::named(&owner.backend) {
            Backend::Weft => Vec::new(),
            Backend::Iptables => iptables::publish::observe(&owner, listing)?,
            Backend::UpstreamNftables => upstream_ports::observe(&owner)?,
        };
        problems.extend(lacking(owner.endpoint.to_string(), missing));
    }
    Ok(problems)
}

fn publish_of(root: &Root, endpoint: &Endpoint, backend: Backend) -> Publish {
    Publish::nothing(endpoint.clone(), backend, root.ports_dir(), root.locks_dir(), root.masquerade_dir())
}

fn problem(what: String, why: &str) -> Problem {
    Problem { what, why: why.into(), mend: RELOAD.into() }
}

/// Returns one problem for everything that something lacks; none if it lacks nothing.
fn lacking(what: String, mut missing: Vec<String>) -> Option<Problem> {
    let mut seen = BTreeSet::new();
    missing.retain(|one| seen.insert(one.clone()));
    let more = missing.len().saturating_sub(NAMED);
    missing.truncate(NAMED);
    let list = missing.join(", ");
    let why = if more == 0 { format!("lacks {list}") } else { format!("lacks {list}, and {more} more") };
    (!missing.is_empty()).then(|| problem(what, &why))
}
