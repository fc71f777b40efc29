//! Published ports in our own table.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use weft_model::GatewayMode;
use weft_model::port::{PortRange, Publication};
use weft_nft::{Element, Key, Set, Socket};
use weft_state::ports::{Books, Claim, Owner, Taken};

use super::{Changes, lacking_rules, wrap};
use crate::entry::{Entry, Family};
use crate::layout::published::{self, Lookup};
use crate::layout::{from, masquerade};
use crate::part::Part;
use crate::{Backend, FirewallError, exact, flows};

/// One element of an attachment's, and the claim that it stands on.
#[derive(Clone)]
struct Piece {
    claim: Claim,
    part: Part,
    set: Set,
    element: Element,
}

/// The name of a set, and a key in it.
type Place = (Cow<'static, str>, Key);

impl Piece {
    fn place(&self) -> Place {
        (self.set.name.clone(), self.element.key().clone())
    }
}

/// Returns what the network needs for its containers to reach the ports it publishes.
pub(crate) fn hairpins(owner: &Owner) -> Vec<Entry> {
    let translates = |subnet: &ipnetwork::IpNetwork| owner.gateways.of(subnet.ip()).translates();
    let subnets = owner.subnets.iter().filter(|subnet| owner.snat && translates(subnet));
    subnets.copied().map(Entry::Hairpin).collect()
}

/// Notes everything that an attachment publishes, and what its network needs for that.
pub(crate) fn add(owner: &Owner, changes: &mut Changes) {
    for entry in hairpins(owner) {
        changes.entry(&entry);
    }
    for piece in pieces(owner) {
        changes.part(piece.part);
        changes.add(piece.set, piece.element);
    }
}

/// Notes everything that stands in the books.
pub(crate) fn add_all(books: &Books, changes: &mut Changes) -> Result<(), FirewallError> {
    for (owner, held) in books.standing()? {
        if Backend::named(&owner.backend) != Backend::Weft {
            continue;
        }
        for entry in hairpins(&owner) {
            changes.entry(&entry);
        }
        let held: BTreeSet<_> = held.iter().collect();
        for piece in pieces(&owner).into_iter().filter(|piece| held.contains(&piece.claim)) {
            changes.part(piece.part);
            changes.add(piece.set, piece.element);
        }
    }
    Ok(())
}

/// Returns the claims of what an attachment published and publishes no longer, or not so.
pub(crate) fn leaving(before: &Owner, after: Option<&Owner>) -> Vec<Claim> {
    let mut claims: Vec<_> = left(before, after).into_iter().map(|piece| piece.claim).collect();
    claims.dedup();
    claims
}

/// Notes what an attachment published and publishes no longer, as far as it is still its own. What a key leads to instead
/// needs a look at the kernel.
pub(crate) fn leave(before: &Owner, after: Option<&Owner>, owned: &[Claim], changes: &mut Changes) {
    let stays = by_place(after);
    for piece in left(before, after).into_iter().filter(|piece| owned.contains(&piece.claim)) {
        if stays.contains_key(&piece.place()) {
            changes.clear(piece.set, piece.element);
        } else {
            changes.remove(piece.set, piece.element);
        }
    }
}

/// Notes what may be in the kernel of an attachment whose change was never finished.
pub(crate) fn clear(interrupted: &Owner, owned: &[Claim], changes: &mut Changes) {
    for piece in pieces(interrupted).into_iter().filter(|piece| owned.contains(&piece.claim)) {
        changes.clear(piece.set, piece.element);
    }
}

/// Notes what may be in the kernel by a claim that was void.
pub(crate) fn clear_taken(taken: &Taken, changes: &mut Changes) {
    for piece in taken.owners.iter().flat_map(pieces).filter(|piece| piece.claim == taken.claim) {
        changes.clear(piece.set, piece.element);
    }
    // If nobody knows what the port led to, its key is known.
    if let Claim::Host(protocol, host, ports) = taken.claim {
        let ranges = !ports.is_single();
        for lookup in [Lookup::Target, Lookup::Restricted] {
            changes.clear(published::ports(lookup, host, ranges), published::element(host, protocol, ports));
        }
    }
}

/// Removes everything of an attachment that it still owns.
pub(crate) fn remove(socket: &mut Socket, owners: &[&Owner], owned: &[Claim]) -> Result<(), FirewallError> {
    let owned: BTreeSet<_> = owned.iter().collect();
    let mut places = BTreeSet::new();
    let mut gone: Vec<_> = owners.iter().flat_map(|owner| pieces(owner)).collect();
    gone.retain(|piece| owned.contains(&piece.claim) && places.insert(piece.place()));
    let gone: Vec<_> = gone.into_iter().map(|piece| (piece.set, piece.element)).collect();
    socket.expire_all(&gone).map_err(wrap)
}

/// Waits until packets no longer meet what was removed of publications whose flows last.
///
/// KERNEL: an element that was told to expire is met until the next jiffy: 10 ms at most.
pub(crate) fn await_expiry(socket: &mut Socket, before: &[&Owner], after: Option<&Owner>, owned: &[Claim]) {
    let lasts = |claim: &Claim| matches!(claim, Claim::Host(protocol, ..) if flows::lasts(*protocol));
    let gone = before.iter().flat_map(|before| left(before, after));
    for piece in gone.filter(|piece| lasts(&piece.claim) && owned.contains(&piece.claim)) {
        let deadline = Instant::now() + Duration::from_millis(20);
        while Instant::now() < deadline {
            match socket.element(&piece.set, piece.element.key()) {
                Ok(Some(found)) if found.expires.is_some() => thread::sleep(Duration::from_micros(500)),
                _ => break,
            }
        }
    }
}

/// Returns what is missing of what an attachment publishes.
pub(crate) fn observe(
    socket: &mut Socket,
    owner: &Owner,
    held: &[Claim],
) -> Result<Vec<String>, FirewallError> {
    let mut missing = lacking_rules(socket, parts(owner))?;
    missing.extend(lacking_elements(socket, owner, held)?);
    Ok(missing)
}

/// Returns the parts that what an attachment publishes needs, each once.
pub(crate) fn parts(owner: &Owner) -> Vec<Part> {
    let mut parts = Vec::new();
    for piece in pieces(owner) {
        if !parts.contains(&piece.part) {
            parts.push(piece.part);
        }
    }
    parts
}

/// Returns what is missing of what an attachment publishes, but for the rules that give it a meaning.
pub(crate) fn lacking_elements(
    socket: &mut Socket,
    owner: &Owner,
    held: &[Claim],
) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    let mut note = |problem: String| {
        if !missing.contains(&problem) {
            missing.push(problem);
        }
    };
    for piece in pieces(owner) {
        if !held.contains(&piece.claim) {
            note(format!("claim of {} on {}", owner.endpoint, words(&piece.claim)));
            continue;
        }
        let found = socket.element(&piece.set, piece.element.key()).map_err(wrap)?;
        if !found.is_some_and(|found| found.expires.is_none() && piece.element.has_value_of(&found)) {
            note(format!("element {} of {}", words(&piece.claim), piece.set));
        }
    }
    Ok(missing)
}

fn words(claim: &Claim) -> String {
    match claim {
        Claim::Host(protocol, address, ports) | Claim::Target(protocol, address, ports) => {
            format!("{protocol} {address} {ports}")
        }
        Claim::Address(address) => address.to_string(),
    }
}

/// Returns what does not stay as it is.
fn left(before: &Owner, after: Option<&Owner>) -> Vec<Piece> {
    let stays = by_place(after);
    let mut left = pieces(before);
    left.retain(|piece| stays.get(&piece.place()) != Some(&piece.element));
    left
}

/// Returns an attachment's elements by where they are.
fn by_place(owner: Option<&Owner>) -> BTreeMap<Place, Element> {
    let pieces = owner.map(pieces).unwrap_or_default();
    pieces.into_iter().map(|piece| (piece.place(), piece.element)).collect()
}

/// Returns everything that an attachment publishes, each element once: what goes by the container's address is
/// the same for all of its ports.
fn pieces(owner: &Owner) -> Vec<Piece> {
    let mut places = BTreeSet::new();
    let mut pieces: Vec<_> = owner.publications.iter().flat_map(|one| pieces_of(owner, one)).collect();
    pieces.retain(|piece| places.insert(piece.place()));
    pieces
}

fn pieces_of(owner: &Owner, one: &Publication) -> Vec<Piece> {
    let Publication { protocol, host, host_ports, target, target_ports, .. } = *one;
    match owner.gateways.of(target) {
        GatewayMode::Nat | GatewayMode::NatUnprotected => {
            let claim = Claim::Host(protocol, host, host_ports);
            let parts = exact::parts(&owner.publications, one);
            let mut pieces: Vec<_> = parts.iter().flat_map(|part| leads(claim, part)).collect();
            if owner.masquerade_all {
                let (set, element) = masquerade::masquerading_all(target);
                pieces.push(Piece {
                    claim: Claim::Address(target),
                    part: Part::MasqueradeAll(Family::of(target)),
                    set,
                    element,
                });
            }
            pieces.extend(restrictions(claim, one, (host, host_ports)));
            pieces
        }
        GatewayMode::Routed => {
            let claim = Claim::Target(protocol, target, target_ports);
            let set = published::ports(Lookup::Routed, target, !target_ports.is_single());
            let element = published::element(target, protocol, target_ports);
            let mut pieces = vec![Piece { claim, part: Part::Forward, set, element }];
            pieces.extend(restrictions(claim, one, (target, target_ports)));
            pieces
        }
        GatewayMode::Isolated => Vec::new(),
    }
}

/// Returns what leads ports of the host to the container.
fn leads(claim: Claim, one: &Publication) -> Vec<Piece> {
    let Publication { protocol, host, host_ports, target, target_ports, .. } = *one;
    let targets = published::targets((host, host_ports), protocol, (target, target_ports));
    let part = if host_ports.is_single() { Part::Published } else { Part::Ranges(Family::of(host)) };
    targets.into_iter().map(|(set, element)| Piece { claim, part, set, element }).collect()
}

/// Returns what keeps everybody but those on the publication's list from ports of this address.
fn restrictions(claim: Claim, one: &Publication, (address, ports): (IpAddr, PortRange)) -> Vec<Piece> {
    let elements = from::elements(address, one.protocol, ports, &one.from);
    let of_part = |(set, element): (Set, Element)| Piece { claim, part: Part::From, set, element };
    let mut pieces: Vec<_> = elements.into_iter().map(of_part).collect();
    if ports.is_single() {
        // The first one says that there is a list, the others are the list.
        for (piece, network) in pieces.iter_mut().skip(1).zip(&one.from) {
            piece.part = Part::from_length(*network);
        }
    }
    pieces
}
