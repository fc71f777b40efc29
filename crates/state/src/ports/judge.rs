//! Who keeps a port, and which one is chosen.

use std::collections::HashMap;
use std::net::IpAddr;

use weft_model::Endpoint;
use weft_model::port::{PortRange, Protocol, Publication};

use super::claims::{Claims, Found};
use super::{Change, Choice, Claim, Owner, PortsError, choice};
use crate::StateError;

impl Change {
    /// Tells whether the claim is the attachment's already, and which claims of others are in its way.
    pub(super) fn judge(&self, claims: &Claims, claim: &Claim) -> Result<(bool, Vec<Judged>), StateError> {
        let mut mine = false;
        let mut others = Vec::new();
        for Found { claim: found, holder } in claims.colliding(claim)? {
            match holder {
                Some(holder) if self.is_mine(&holder) => {
                    // What is left of another of the attachment's own publications goes when this one is confirmed.
                    mine |= found == *claim;
                }
                holder => {
                    let is_kept = |holder: &&Endpoint| claim.is_kept() && self.is_alive(holder, &found);
                    let keeper = holder.as_ref().filter(is_kept).cloned();
                    others.push(Judged { claim: found, holder, keeper });
                }
            }
        }
        Ok((mine, others))
    }

    /// Tells whether another interface of the container publishes just what is wanted.
    ///
    /// CNI: runtimes ask every network of a container for the same ports (libcni passes `portMappings` to each), and with
    /// the reference plugin the first one gets them.
    pub(super) fn is_done_by(&self, holder: &Endpoint, claim: &Claim, wanted: &Owner) -> bool {
        if holder.container != self.endpoint.container {
            return false;
        }
        let Some(sibling) = self.books.owner(&holder.container, &holder.ifname) else { return false };
        let of_claim = |one: &&Publication| host_claim(one) == *claim;
        let theirs = sibling.publications.iter().find(of_claim);
        let ours = wanted.publications.iter().find(of_claim);
        theirs.zip(ours).is_some_and(|(theirs, ours)| {
            (theirs.target_ports, &theirs.from) == (ours.target_ports, &ours.from)
        })
    }

    /// As [`Books::is_alive`]. Whoever has begun something at another interface of this container has been killed: the
    /// container's lock is ours.
    fn is_alive(&self, holder: &Endpoint, claim: &Claim) -> bool {
        if holder.container == self.endpoint.container {
            self.books.is_confirmed(holder, claim)
        } else {
            self.books.is_alive(holder, claim)
        }
    }

    /// Returns what the attachment got when it asked for the same before, if it has that still.
    pub(super) fn chosen_before(
        &self,
        choice: &Choice,
        wanted: &Owner,
        claims: &Claims,
    ) -> Result<Option<u16>, StateError> {
        let known = self.confirmed.iter().flat_map(|owner| &owner.chosen);
        let mut ports = known.filter(|one| one.choice == *choice);
        // The same may be asked for several times, and gets another port each time.
        ports
            .find(|one| !wanted.chosen.contains(one))
            .map(|one| self.is_open(choice, one.port, wanted, claims).map(|open| open.then_some(one.port)))
            .transpose()
            .map(Option::flatten)
    }

    pub(super) fn choose(
        &self,
        choice: &Choice,
        wanted: &Owner,
        claims: &Claims,
        is_free: &mut dyn FnMut(Protocol, IpAddr, u16) -> bool,
        cursors: &mut Vec<(Protocol, u16)>,
    ) -> Result<u16, PortsError> {
        let (among, reserved, start) = match choice.among {
            Some(among) => (among, Vec::new(), among.first()),
            None => {
                let (among, reserved) = choice::ephemeral_ports();
                let last = cursors.iter().rev().find(|(protocol, _)| *protocol == choice.protocol);
                let last = last.map(|(_, port)| *port).or_else(|| self.books.cursor(choice.protocol));
                (among, reserved, last.and_then(|last| last.checked_add(1)).unwrap_or(among.first()))
            }
        };
        let start = if among.contains(start) { start } else { among.first() };
        for port in (start..=among.last()).chain(among.first()..start) {
            if reserved.iter().any(|range| range.contains(port)) {
                continue;
            }
            if self.is_open(choice, port, wanted, claims)?
                && choice.bindings.iter().all(|one| is_free(choice.protocol, one.host, port))
            {
                if choice.among.is_none() {
                    cursors.push((choice.protocol, port));
                }
                return Ok(port);
            }
        }
        let host = choice.bindings.first().map_or(IpAddr::from([0, 0, 0, 0]), |binding| binding.host);
        Err(PortsError::NoneFree { protocol: choice.protocol, host, among })
    }

    /// Tells whether the books let the attachment have this port.
    fn is_open(
        &self,
        choice: &Choice,
        port: u16,
        wanted: &Owner,
        claims: &Claims,
    ) -> Result<bool, StateError> {
        for one in choice.at(port) {
            if wanted.publications.iter().any(|other| other.collides(&one)) {
                return Ok(false);
            }
            for claim in wanted.claims_of(&one) {
                let (_, others) = self.judge(claims, &claim)?;
                if others.iter().any(|found| found.keeper.is_some()) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
}

/// A claim in the way of another, who made it, and who keeps it; `None` if it is void.
pub(super) struct Judged {
    pub(super) claim: Claim,
    pub(super) holder: Option<Endpoint>,
    pub(super) keeper: Option<Endpoint>,
}

pub(super) fn host_claim(one: &Publication) -> Claim {
    Claim::Host(one.protocol, one.host, one.host_ports)
}

/// Refuses more choices from the same ports than there are, before any of them is made.
pub(super) fn refuse_too_many(choices: &[Choice]) -> Result<(), PortsError> {
    let mut alike: HashMap<(Protocol, Option<PortRange>, Option<IpAddr>), usize> = HashMap::new();
    for choice in choices {
        let host = choice.bindings.first().map(|binding| binding.host);
        *alike.entry((choice.protocol, choice.among, host)).or_default() += 1;
    }
    for ((protocol, among, host), count) in alike {
        let (among, reserved) = among.map_or_else(choice::ephemeral_ports, |among| (among, Vec::new()));
        let never = |port: &u16| reserved.iter().any(|range| range.contains(*port));
        // Fewer may do as well; how many are free is seen one by one.
        if count > usize::from(among.len()) || count > among.ports().filter(|port| !never(port)).count() {
            let host = host.unwrap_or(IpAddr::from([0, 0, 0, 0]));
            return Err(PortsError::NoneFree { protocol, host, among });
        }
    }
    Ok(())
}

pub(super) fn refuse_twice(publications: &[Publication]) -> Result<(), PortsError> {
    let mut sorted: Vec<_> = publications.iter().collect();
    sorted.sort_by_key(|one| (one.protocol, one.host.is_ipv4(), one.host_ports));
    let mut latest: Vec<&Publication> = Vec::new();
    for one in sorted {
        latest.retain(|other| {
            other.host_ports.last() >= one.host_ports.first() && other.protocol == one.protocol
        });
        if latest.iter().any(|other| other.collides(one)) {
            let Publication { protocol, host, host_ports: ports, .. } = *one;
            return Err(PortsError::Twice { protocol, host, ports });
        }
        latest.push(one);
    }
    Ok(())
}
