//! Choosing an address from a range set.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::address::{address, number, same_family};
use crate::{Range, RangeSet};

/// Knows which addresses are taken.
///
/// The question is about a whole run of addresses, so that whoever answers from a bitmap passes over
/// a full stretch at once and a nearly full network costs what an empty one does.
pub trait Taken {
    /// What may go wrong with looking.
    type Error;

    /// Returns the first address of `first..=last` that is free. Both are of one family, in order.
    ///
    /// # Errors
    ///
    /// When it is not known what is taken.
    fn first_free(&mut self, first: IpAddr, last: IpAddr) -> Result<Option<IpAddr>, Self::Error>;
}

/// Which addresses may be asked for by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requestable {
    /// Those of the ranges.
    #[default]
    Range,
    /// Any that a host may have in the ranges' subnets.
    Subnet,
}

/// What holds besides the ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Never given to anybody.
    pub reserved: BTreeSet<IpAddr>,
    /// Given to somebody who did not ask for them only when nothing else is left.
    pub avoid: BTreeSet<IpAddr>,
    /// Which addresses may be asked for.
    pub requestable: Requestable,
}

/// An address that somebody may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The address with its subnet's prefix length.
    pub address: IpNetwork,
    /// The subnet's gateway.
    pub gateway: IpAddr,
}

/// Why nobody may have the address that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// It is the gateway's.
    #[error("requested ip {0} is subnet's gateway")]
    Gateway(IpAddr),
    /// It is on the list of reserved addresses.
    #[error("requested IP address {0} is reserved")]
    Reserved(IpAddr),
    /// It names the whole subnet.
    #[error("requested IP address {0} is the network or broadcast address of {1}")]
    Edge(IpAddr, IpNetwork),
    /// It lies elsewhere.
    #[error("{0} not in range set {1}")]
    Outside(IpAddr, RangeSet),
}

/// Addresses from the first to the last, in one range.
struct Stretch<'set> {
    range: &'set Range,
    first: IpAddr,
    last: IpAddr,
}

impl RangeSet {
    /// Returns whether a request for this address is for this set.
    pub fn is_asked_for(&self, ip: IpAddr, policy: &Policy) -> bool {
        self.range_asked_for(ip, policy).is_some()
    }

    /// Returns the choice that was asked for. Whether it is taken is for the caller to find out.
    ///
    /// # Errors
    ///
    /// When nobody may have that address.
    pub fn request(&self, ip: IpAddr, policy: &Policy) -> Result<Choice, RequestError> {
        let range =
            self.range_asked_for(ip, policy).ok_or_else(|| RequestError::Outside(ip, self.clone()))?;
        if self.ranges().iter().any(|range| range.gateway() == ip) {
            Err(RequestError::Gateway(ip))
        } else if policy.reserved.contains(&ip) {
            Err(RequestError::Reserved(ip))
        } else if range.is_edge(ip) && !range.contains(ip) {
            Err(RequestError::Edge(ip, range.subnet()))
        } else {
            Ok(range.choice(ip))
        }
    }

    /// Returns the next free address after the last one that was handed out, or `None` when all are taken.
    ///
    /// The search goes once around the set, so that an address that came back rests as long as possible.
    /// A `last` outside the set is as none: the search begins at the first range's start.
    ///
    /// # Errors
    ///
    /// Those of `taken`.
    pub fn next<T: Taken>(
        &self,
        last: Option<IpAddr>,
        policy: &Policy,
        taken: &mut T,
    ) -> Result<Option<Choice>, T::Error> {
        let round = self.round(last);
        let gateways = self.ranges().iter().map(Range::gateway);
        let never: BTreeSet<IpAddr> = gateways.chain(policy.reserved.iter().copied()).collect();
        let rather_not: Vec<IpAddr> = policy.avoid.difference(&never).copied().collect();
        let skipped: BTreeSet<IpAddr> = never.iter().chain(&rather_not).copied().collect();
        for stretch in &round {
            if let Some(ip) = stretch.first_free(&skipped, taken)? {
                return Ok(Some(stretch.range.choice(ip)));
            }
        }
        for stretch in &round {
            for ip in rather_not.iter().copied().filter(|ip| stretch.contains(*ip)) {
                if taken.first_free(ip, ip)?.is_some() {
                    return Ok(Some(stretch.range.choice(ip)));
                }
            }
        }
        Ok(None)
    }

    fn range_asked_for(&self, ip: IpAddr, policy: &Policy) -> Option<&Range> {
        let within = |range: &&Range| match policy.requestable {
            Requestable::Range => range.contains(ip),
            Requestable::Subnet => range.subnet().contains(ip),
        };
        // A range that holds the address itself comes before a neighbour in the same subnet.
        self.ranges().iter().find(|range| range.contains(ip)).or_else(|| self.ranges().iter().find(within))
    }

    /// Returns the whole set in the order of search.
    fn round(&self, last: Option<IpAddr>) -> Vec<Stretch<'_>> {
        let whole = |range| Stretch { range, first: Range::start(range), last: Range::end(range) };
        let found =
            last.and_then(|ip| Some((ip, self.ranges().iter().position(|range| range.contains(ip))?)));
        let Some((last, index)) = found else {
            return self.ranges().iter().map(whole).collect();
        };
        let (before, from) = self.ranges().split_at(index);
        let (range, after) = (&from[0], &from[1..]);
        let rest = (last < range.end()).then(|| Stretch {
            range,
            first: address(number(last) + 1, last),
            last: range.end(),
        });
        let again = Stretch { range, first: range.start(), last };
        rest.into_iter().chain(after.iter().chain(before).map(whole)).chain([again]).collect()
    }
}

impl Range {
    fn choice(&self, ip: IpAddr) -> Choice {
        // The prefix is a subnet's of the same family, so it always fits.
        let address = IpNetwork::new(ip, self.subnet().prefix()).unwrap_or_else(|_| ip.into());
        Choice { address, gateway: self.gateway() }
    }
}

impl Stretch<'_> {
    fn contains(&self, ip: IpAddr) -> bool {
        same_family(ip, self.first) && self.first <= ip && ip <= self.last
    }

    /// Returns the first address that is free and not to be skipped.
    fn first_free<T: Taken>(
        &self,
        skipped: &BTreeSet<IpAddr>,
        taken: &mut T,
    ) -> Result<Option<IpAddr>, T::Error> {
        let (mut first, last) = (number(self.first), number(self.last));
        let at = |number| address(number, self.first);
        for hole in skipped.range(self.first..=self.last).map(|ip| number(*ip)) {
            if first < hole
                && let Some(ip) = taken.first_free(at(first), at(hole - 1))?
            {
                return Ok(Some(ip));
            }
            if hole == last {
                return Ok(None);
            }
            first = hole + 1;
        }
        taken.first_free(at(first), at(last))
    }
}
