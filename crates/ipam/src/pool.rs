//! A pool: the range sets of one network, which give one address each.

use crate::{RangeSet, SetError};

/// Range sets without overlaps between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool(Vec<RangeSet>);

/// Why a pool is refused. The texts are those of the CNI reference implementation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// There is no set.
    #[error("no IP ranges specified")]
    Empty,
    /// One of the sets is refused.
    #[error("invalid range set {index}: {cause}")]
    Set {
        /// Which one.
        index: usize,
        /// Why.
        cause: SetError,
    },
    /// An address is in two sets.
    #[error("range set {0} overlaps with {1}")]
    Overlap(usize, usize),
}

impl Pool {
    /// Returns the pool of these sets, each of which comes with its own verdict.
    ///
    /// # Errors
    ///
    /// When there is no set, one is refused, or two overlap.
    pub fn new(sets: impl IntoIterator<Item = Result<RangeSet, SetError>>) -> Result<Self, PoolError> {
        let number = |(index, set): (usize, Result<RangeSet, SetError>)| {
            set.map_err(|cause| PoolError::Set { index, cause })
        };
        let sets: Vec<RangeSet> = sets.into_iter().enumerate().map(number).collect::<Result<_, _>>()?;
        if sets.is_empty() {
            return Err(PoolError::Empty);
        }
        for (index, one) in sets.iter().enumerate() {
            if let Some(distance) = sets[index + 1..].iter().position(|two| one.overlaps(two)) {
                return Err(PoolError::Overlap(index, index + 1 + distance));
            }
        }
        Ok(Self(sets))
    }

    /// Returns the sets.
    pub fn sets(&self) -> &[RangeSet] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Range;

    fn pool(sets: &[&str]) -> Result<Pool, PoolError> {
        let make = |text: &&str| {
            let ranges: Result<Vec<Range>, _> = text
                .split_whitespace()
                .map(|one| Range::new(one.parse().unwrap(), None, None, None))
                .collect();
            RangeSet::new(ranges?)
        };
        Pool::new(sets.iter().map(make))
    }

    #[test]
    fn pools_are_checked() {
        let text = |sets| pool(sets).unwrap_err().to_string();
        assert_eq!(text(&[]), "no IP ranges specified");
        assert_eq!(text(&["10.0.0.0/24", ""]), "invalid range set 1: empty range set");
        assert_eq!(
            text(&["10.0.0.0/31"]),
            "invalid range set 0: Network 10.0.0.0/31 too small to allocate from"
        );
        assert_eq!(text(&["10.0.0.0/24", "10.1.0.0/24", "10.0.0.0/16"]), "range set 0 overlaps with 2");
        assert_eq!(pool(&["10.0.0.0/24", "2001:db8::/64"]).unwrap().sets().len(), 2);
    }
}
