//! A range set: the ranges that one address is chosen from.

use std::fmt;
use std::net::IpAddr;

use crate::{Range, RangeError};

/// Ranges of one family without overlaps, in the order in which they are used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeSet(Vec<Range>);

/// Why a range set is refused. The texts are those of the CNI reference implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// There is no range in it.
    #[error("empty range set")]
    Empty,
    /// IPv4 and IPv6 are together in it.
    #[error("mixed address families")]
    Mixed,
    /// An address is in two of its ranges.
    #[error("subnets {} and {} overlap", .0[0], .0[1])]
    Overlap(Box<[Range; 2]>),
    /// One of its ranges is refused.
    #[error(transparent)]
    Range(#[from] RangeError),
}

impl RangeSet {
    /// Returns the set of these ranges.
    ///
    /// # Errors
    ///
    /// When there is none, when the families differ, or when two ranges overlap.
    pub fn new(ranges: Vec<Range>) -> Result<Self, SetError> {
        let first = ranges.first().ok_or(SetError::Empty)?;
        if ranges.iter().any(|range| range.start().is_ipv4() != first.start().is_ipv4()) {
            return Err(SetError::Mixed);
        }
        for (index, one) in ranges.iter().enumerate() {
            if let Some(two) = ranges[index + 1..].iter().find(|two| one.overlaps(two)) {
                return Err(SetError::Overlap(Box::new([one.clone(), two.clone()])));
            }
        }
        Ok(Self(ranges))
    }

    /// Returns the ranges.
    pub fn ranges(&self) -> &[Range] {
        &self.0
    }

    /// Returns whether the set is of IPv4 addresses.
    pub fn is_ipv4(&self) -> bool {
        self.0.iter().all(|range| range.start().is_ipv4())
    }

    /// Returns whether an address lies in one of the ranges.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(ip))
    }

    /// Returns whether two sets have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.0.iter().any(|one| other.0.iter().any(|two| one.overlaps(two)))
    }
}

impl fmt::Display for RangeSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            write!(out, "{}{range}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(subnets: &[&str]) -> Result<RangeSet, SetError> {
        RangeSet::new(
            subnets.iter().map(|text| Range::new(text.parse().unwrap(), None, None, None).unwrap()).collect(),
        )
    }

    #[test]
    fn sets_are_checked() {
        let good = set(&["10.0.0.0/24", "10.0.1.0/24"]).unwrap();
        assert_eq!(good.to_string(), "10.0.0.1-10.0.0.254,10.0.1.1-10.0.1.254");
        assert!(good.is_ipv4() && good.contains("10.0.1.7".parse().unwrap()));
        assert!(!good.contains("10.0.2.7".parse().unwrap()) && !good.contains("::1".parse().unwrap()));
        let text = |subnets| set(subnets).unwrap_err().to_string();
        assert_eq!(text(&[]), "empty range set");
        assert_eq!(text(&["10.0.0.0/24", "2001:db8::/64"]), "mixed address families");
        assert_eq!(
            text(&["10.0.0.0/20", "10.0.9.0/24", "10.8.0.0/24"]),
            "subnets 10.0.0.1-10.0.15.254 and 10.0.9.1-10.0.9.254 overlap"
        );
    }
}
