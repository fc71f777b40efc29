//! Publishing: books first, then whoever carries the rules, then the books again.

use std::slice;

use weft_model::Endpoint;
use weft_state::ports::{Change as Ledger, Claim, Claimed, Owner};

use crate::claim::Claims;
use crate::fragment::Publish;
use crate::iptables::publish::Unknown;
use crate::iptables::restore::Listing;
use crate::weft::{self, Changes, Demand, ports};
use crate::{Backend, Change, Firewall, FirewallError, flows, iptables, mend, upstream_ports};

/// Brings an attachment from whatever it published to exactly what the fragment says.
pub(crate) fn ensure(firewall: &mut Firewall, publish: &Publish) -> Result<Change, FirewallError> {
    let mut ledger = publish.books().change(&publish.endpoint)?;
    if ledger.is_damaged() {
        clear_away(firewall, publish, &mut ledger)?;
    }
    settle(firewall, publish, &mut ledger)?;
    let before = ledger.confirmed().cloned();
    let is_free = &mut |protocol, host, port| publish.is_free(protocol, host, port);
    let claimed = ledger.claim(publish.owner()?, &publish.choices, is_free)?;
    if let Err(error) = write(firewall, publish, &mut ledger, before.as_ref(), &claimed) {
        // What could not be undone stays as an intent, for the next one to settle.
        if undo(firewall, publish, before.as_ref(), &claimed).is_ok() {
            ledger.abandon(&claimed)?;
        }
        return Err(error);
    }
    // Before the claims are dropped: nobody else can have these ports meanwhile.
    let owned = ledger.still_owned(&before.as_ref().map(Owner::claims).unwrap_or_default())?;
    flows::follow(firewall, &before.iter().collect::<Vec<_>>(), Some(&claimed.owner), &owned);
    ledger.confirm(&claimed)?;
    Ok(if before.as_ref() == Some(&claimed.owner) { Change::AlreadyThere } else { Change::Made })
}

/// Returns what would bring back what the attachment publishes now, if it publishes anything.
pub(crate) fn present(publish: &Publish) -> Option<Publish> {
    let Publish { endpoint, .. } = publish;
    let before = publish.books().owner(&endpoint.container, &endpoint.ifname)?;
    Some(publish.again(before))
}

fn write(
    firewall: &mut Firewall,
    publish: &Publish,
    ledger: &mut Ledger,
    before: Option<&Owner>,
    claimed: &Claimed,
) -> Result<(), FirewallError> {
    let after = &claimed.owner;
    let moved = before.filter(|before| before.backend != after.backend);
    if let Some(before) = moved {
        let owned = ledger.still_owned(&before.claims())?;
        take_back(firewall, publish, slice::from_ref(before), &owned)?;
    }
    let before = if moved.is_some() { None } else { before };
    match Backend::named(&after.backend) {
        Backend::Weft => {
            let mut changes = Changes::default();
            if let Some(before) = before {
                let owned = ledger.still_owned(&ports::leaving(before, Some(after)))?;
                ports::leave(before, Some(after), &owned, &mut changes);
            }
            claimed.taken.iter().for_each(|taken| ports::clear_taken(taken, &mut changes));
            let claims = Claims(&publish.claims);
            for entry in ports::hairpins(after) {
                claims.take(&after.endpoint.network, &entry)?;
            }
            ports::add(after, &mut changes);
            weft::commit(firewall.inet()?, &claims, &changes)
        }
        Backend::Iptables => iptables::publish::ensure(&publish.claims, after).map(drop),
        Backend::UpstreamNftables => upstream_ports::ensure(&publish.claims, before, after).map(drop),
    }
}

/// Brings the kernel back to what was there before a change that failed half-way: programs write one family after the
/// other, and a change of backend takes back before it writes.
fn undo(
    firewall: &mut Firewall,
    publish: &Publish,
    before: Option<&Owner>,
    claimed: &Claimed,
) -> Result<(), FirewallError> {
    let after = &claimed.owner;
    let backend = Backend::named(&after.backend);
    let stayed = before.filter(|before| before.backend == after.backend);
    match (backend, stayed) {
        // One transaction, which was not made. But whoever wrote the table anew meanwhile has taken our intent for granted.
        (Backend::Weft, _) => {
            if let Ok(socket) = firewall.inet() {
                drop(ports::remove(socket, &[after], claimed.made()));
            }
        }
        (Backend::Iptables, Some(before)) => {
            iptables::publish::ensure(&publish.claims, before)?;
        }
        (Backend::UpstreamNftables, Some(before)) => {
            upstream_ports::ensure(&publish.claims, Some(after), before)?;
        }
        (_, None) => take_back(firewall, publish, slice::from_ref(after), claimed.made())?,
    }
    let Some(before) = before.filter(|_| stayed.is_none()) else { return Ok(()) };
    if Backend::named(&before.backend) != Backend::Weft {
        return restore(publish, before);
    }
    let mut changes = Changes::default();
    ports::add(before, &mut changes);
    weft::commit(firewall.inet()?, &Claims(&publish.claims), &changes)
}

/// Undoes what a process that was killed has begun.
pub(crate) fn finish(firewall: &mut Firewall, publish: &Publish) -> Result<(), FirewallError> {
    let mut ledger = publish.books().change(&publish.endpoint)?;
    if ledger.is_damaged() {
        return clear_away(firewall, publish, &mut ledger);
    }
    settle(firewall, publish, &mut ledger)?;
    if ledger.confirmed().is_none() { Ok(ledger.forget().map(drop)?) } else { Ok(()) }
}

/// Brings the kernel back to what is confirmed, after processes that were killed in between.
fn settle(firewall: &mut Firewall, publish: &Publish, ledger: &mut Ledger) -> Result<(), FirewallError> {
    if ledger.interrupted().is_empty() {
        return Ok(());
    }
    let confirmed = ledger.confirmed().cloned();
    let known = ledger.known_claims();
    let owned = ledger.still_owned(&known)?;
    let mut changes = Changes::default();
    for interrupted in ledger.interrupted() {
        if Backend::named(&interrupted.backend) == Backend::Weft {
            ports::clear(interrupted, &owned, &mut changes);
        } else {
            take_back(firewall, publish, slice::from_ref(interrupted), &owned)?;
        }
    }
    if let Some(confirmed) = &confirmed {
        if Backend::named(&confirmed.backend) == Backend::Weft {
            ports::add(confirmed, &mut changes);
        } else {
            restore(publish, confirmed)?;
        }
    }
    if !changes.is_empty() {
        weft::commit(firewall.inet()?, &Claims(&publish.claims), &changes)?;
    }
    let interrupted: Vec<_> = ledger.interrupted().iter().collect();
    flows::follow(firewall, &interrupted, confirmed.as_ref(), &owned);
    Ok(ledger.settle()?)
}

/// Writes again, by others than our own table, what is confirmed.
fn restore(publish: &Publish, owner: &Owner) -> Result<(), FirewallError> {
    match Backend::named(&owner.backend) {
        Backend::Weft => Ok(()),
        Backend::Iptables => iptables::publish::ensure(&publish.claims, owner).map(drop),
        Backend::UpstreamNftables => upstream_ports::ensure(&publish.claims, None, owner).map(drop),
    }
}

/// Takes back everything that the attachment publishes.
pub(crate) fn remove(firewall: &mut Firewall, publish: &Publish) -> Result<(), FirewallError> {
    let mut ledger = publish.books().change(&publish.endpoint)?;
    let owners: Vec<Owner> = ledger.confirmed().into_iter().chain(ledger.interrupted()).cloned().collect();
    if owners.iter().any(|owner| owner.endpoint.network != publish.endpoint.network) {
        // The interface's name was given anew, and this is a late second DEL for its former owner.
        return Ok(());
    }
    if ledger.is_damaged() {
        let found = ledger.found_claims()?;
        let is_late = found.iter().any(|(_, holder)| holder.network != publish.endpoint.network);
        return if is_late { Ok(()) } else { clear_away(firewall, publish, &mut ledger) };
    }
    if owners.is_empty() {
        return remove_unknown(firewall, publish);
    }
    let claims: Vec<_> = owners.iter().flat_map(Owner::claims).collect();
    let owned = ledger.still_owned(&claims)?;
    ledger.withdraw()?;
    take_back(firewall, publish, &owners, &owned)?;
    flows::follow(firewall, &owners.iter().collect::<Vec<_>>(), None, &owned);
    let was_last = ledger.forget()?;
    drop(ledger);
    if was_last && owners.iter().any(|owner| Backend::named(&owner.backend) == Backend::Weft) {
        weft::retire(firewall.inet()?, &Claims(&publish.claims))?;
    }
    hand_over(firewall, publish);
    Ok(())
}

/// Publishes what other interfaces of the container asked for as well and did not get because this one had it. Whether
/// that works says nothing about the one that is taken apart; their own CHECK tells.
fn hand_over(firewall: &mut Firewall, publish: &Publish) {
    let Endpoint { container, ifname, .. } = &publish.endpoint;
    let books = publish.books();
    let others = books.waiting(container).into_iter().filter(|other| other != ifname);
    for owner in others.filter_map(|other| books.owner(container, &other)) {
        if !owner.elsewhere.is_empty() {
            drop(ensure(firewall, &publish.again(owner)));
        }
    }
}

/// Takes back everything that the attachment publishes where no file tells what that is: only the claims do, and not all of
/// it. So our table is written anew, with everything but that.
fn clear_away(firewall: &mut Firewall, publish: &Publish, ledger: &mut Ledger) -> Result<(), FirewallError> {
    let readable: Vec<Owner> = ledger.confirmed().into_iter().chain(ledger.interrupted()).cloned().collect();
    ledger.withdraw()?;
    let others = readable.into_iter().filter(|owner| Backend::named(&owner.backend) != Backend::Weft);
    take_back(firewall, publish, &others.collect::<Vec<_>>(), &[])?;
    remove_unknown(firewall, publish)?;
    mend::rebuild(firewall, &publish.claims)?;
    let was_last = ledger.forget()?;
    match firewall.inet() {
        Ok(socket) if was_last => weft::retire(socket, &Claims(&publish.claims)),
        Ok(_) => Ok(()),
        Err(error) => crate::without_nftables(error),
    }
}

/// What is not in the books may be what upstream's plugin wrote. Programs are started only where the configuration names
/// one of its layouts, or where a question to the kernel finds something.
fn remove_unknown(firewall: &mut Firewall, publish: &Publish) -> Result<(), FirewallError> {
    let Publish { endpoint, claims, backend, .. } = publish;
    let chains = Unknown::of(endpoint, &publish.books());
    chains.remove(firewall, claims, *backend == Backend::Iptables)?;
    if *backend == Backend::UpstreamNftables || has_rules_of_nft(firewall, endpoint) {
        remove_unknown_of_nft(publish)?;
    }
    Ok(())
}

fn has_rules_of_nft(firewall: &mut Firewall, endpoint: &Endpoint) -> bool {
    firewall.inet().is_ok_and(|socket| upstream_ports::is_there(socket, endpoint))
}

/// Upstream's rules there name the container alone. What the books have of its other interfaces is not meant.
fn remove_unknown_of_nft(publish: &Publish) -> Result<(), FirewallError> {
    let Publish { endpoint, claims, addresses, .. } = publish;
    let mut others = publish.books().owners();
    others.retain(|owner| owner.endpoint.container == endpoint.container);
    upstream_ports::remove_unknown(claims, endpoint, addresses, &others)
}

/// Removes what these say from whoever carries it, as far as it is still the attachment's.
fn take_back(
    firewall: &mut Firewall,
    publish: &Publish,
    owners: &[Owner],
    owned: &[Claim],
) -> Result<(), FirewallError> {
    let mut ours = Vec::new();
    for owner in owners {
        match Backend::named(&owner.backend) {
            Backend::Weft => ours.push(owner),
            Backend::Iptables => iptables::publish::remove(&publish.claims, &owner.endpoint)?,
            Backend::UpstreamNftables => upstream_ports::remove(&publish.claims, owner)?,
        }
    }
    if ours.is_empty() {
        return Ok(());
    }
    match firewall.inet() {
        Ok(socket) => ports::remove(socket, &ours, owned),
        Err(error) => crate::without_nftables(error),
    }
}

/// Returns what is missing.
pub(crate) fn observe(firewall: &mut Firewall, publish: &Publish) -> Result<Vec<String>, FirewallError> {
    let mut ledger = publish.books().change(&publish.endpoint)?;
    let Some(owner) = ledger.confirmed().cloned() else {
        return observe_unknown(firewall, publish);
    };
    let not_there = publish.publications.iter().filter(|one| !owner.publications.contains(one));
    let mut missing = Vec::new();
    for one in not_there {
        // What another interface of the container was first to publish counts as long as it does.
        let holder = publish.books().holder(one.protocol, one.host, one.host_ports.first())?;
        let is_here = holder.is_some_and(|holder| holder.container == owner.endpoint.container);
        if !is_here || !owner.elsewhere.contains(one) {
            missing.push(format!("publication {one}"));
        }
    }
    missing.extend(match Backend::named(&owner.backend) {
        Backend::Weft => observe_ours(firewall, publish, &mut ledger, &owner)?,
        Backend::Iptables => iptables::publish::observe(&owner, &mut Listing::default())?,
        Backend::UpstreamNftables => upstream_ports::observe(&owner)?,
    });
    Ok(missing)
}

/// What is not in the books may be published by upstream's plugin.
fn observe_unknown(firewall: &mut Firewall, publish: &Publish) -> Result<Vec<String>, FirewallError> {
    let Publish { endpoint, publications, .. } = publish;
    if let Some(missing) = Unknown::of(endpoint, &publish.books()).observe(firewall, publications)? {
        return Ok(missing);
    }
    if has_rules_of_nft(firewall, endpoint) {
        return upstream_ports::observe_upstream(endpoint, publications);
    }
    Ok(vec![format!("claims of {endpoint}")])
}

fn observe_ours(
    firewall: &mut Firewall,
    publish: &Publish,
    ledger: &mut Ledger,
    owner: &Owner,
) -> Result<Vec<String>, FirewallError> {
    let held = ledger.still_owned(&owner.claims())?;
    let entries = ports::hairpins(owner);
    let demand = Demand { network: &owner.endpoint.network, claims: Claims(&publish.claims), entries };
    let socket = firewall.inet()?;
    let mut missing = weft::observe(socket, &demand)?;
    missing.extend(ports::observe(socket, owner, &held)?);
    Ok(missing)
}
