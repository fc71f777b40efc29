//! Ranges of ports.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One port or several in a row: never empty, never 0. Written `80` or `80-90`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Why a text is no range of ports.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortRangeError {
    /// Not a number from 0 to 65535, nor two of them.
    #[error("{0:?} is neither a port (1 to 65535) nor a range of ports")]
    NotAPort(String),
    /// Port 0.
    #[error("port 0 cannot be published")]
    Zero,
    /// The first port is behind the last one.
    #[error("the range {0}-{1} is reversed")]
    Reversed(u16, u16),
    /// The range goes past the last port.
    #[error("{count} ports from {first} go past port 65535")]
    TooLong {
        /// The first port.
        first: u16,
        /// How many were asked for.
        count: u64,
    },
}

impl PortRange {
    /// Returns the ports from `first` to `last`, both included.
    ///
    /// # Errors
    ///
    /// Port 0; `first` after `last`.
    pub const fn new(first: u16, last: u16) -> Result<Self, PortRangeError> {
        match (first, last) {
            (0, _) => Err(PortRangeError::Zero),
            (first, last) if first > last => Err(PortRangeError::Reversed(first, last)),
            (first, last) => Ok(Self { first, last }),
        }
    }

    /// Returns one port.
    ///
    /// # Errors
    ///
    /// Port 0.
    pub const fn single(port: u16) -> Result<Self, PortRangeError> {
        Self::new(port, port)
    }

    /// Returns `count` ports from `first` on.
    ///
    /// # Errors
    ///
    /// Port 0; no port at all; past the last port.
    pub fn from_count(first: u16, count: u64) -> Result<Self, PortRangeError> {
        let too_long = PortRangeError::TooLong { first, count };
        let more =
            count.checked_sub(1).and_then(|more| u16::try_from(more).ok()).ok_or_else(|| too_long.clone())?;
        Self::new(first, first.checked_add(more).ok_or(too_long)?)
    }

    /// Returns the first port.
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Returns the last port.
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Returns the number of ports.
    #[expect(clippy::len_without_is_empty, reason = "a range has at least one port")]
    pub const fn len(self) -> u16 {
        // From 1 to 65535 there are 65535 ports.
        self.last - self.first + 1
    }

    /// Tells whether this is one port.
    pub const fn is_single(self) -> bool {
        self.first == self.last
    }

    /// Returns all ports, in order.
    pub const fn ports(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }

    /// Tells whether `port` is in the range.
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Tells whether the two have a port in common.
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;

    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        // `u16::from_str` takes a plus sign.
        let port = |part: &str| match part.parse::<u16>() {
            Ok(port) if part.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
            _ => Err(PortRangeError::NotAPort(text.into())),
        };
        match text.split_once('-') {
            None => Self::single(port(text)?),
            Some((first, last)) => Self::new(port(first)?, port(last)?),
        }
    }
}

impl TryFrom<String> for PortRange {
    type Error = PortRangeError;

    fn try_from(text: String) -> Result<Self, PortRangeError> {
        text.parse()
    }
}

impl From<PortRange> for String {
    fn from(range: PortRange) -> Self {
        range.to_string()
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            write!(out, "{}", self.first)
        } else {
            write!(out, "{}-{}", self.first, self.last)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_range_says_why() {
        let table = [
            ("", "\"\" is neither a port (1 to 65535) nor a range of ports"),
            ("http", "\"http\" is neither a port (1 to 65535) nor a range of ports"),
            ("65536", "\"65536\" is neither a port (1 to 65535) nor a range of ports"),
            ("+80", "\"+80\" is neither a port (1 to 65535) nor a range of ports"),
            ("-1", "\"-1\" is neither a port (1 to 65535) nor a range of ports"),
            ("80-", "\"80-\" is neither a port (1 to 65535) nor a range of ports"),
            ("80-90-99", "\"80-90-99\" is neither a port (1 to 65535) nor a range of ports"),
            ("8000-65536", "\"8000-65536\" is neither a port (1 to 65535) nor a range of ports"),
            ("0", "port 0 cannot be published"),
            ("0-5", "port 0 cannot be published"),
            ("90-80", "the range 90-80 is reversed"),
        ];
        for (text, why) in table {
            assert_eq!(text.parse::<PortRange>().unwrap_err().to_string(), why, "{text:?}");
        }
    }

    #[test]
    fn a_count_stays_within_the_ports() {
        assert_eq!(PortRange::from_count(1, 65_535).unwrap().to_string(), "1-65535");
        assert_eq!(PortRange::from_count(80, 1).unwrap().to_string(), "80");
        for (first, count) in [(80, 0), (2, 65_535), (65_535, 2), (1, u64::MAX)] {
            let why = format!("{count} ports from {first} go past port 65535");
            assert_eq!(PortRange::from_count(first, count).unwrap_err().to_string(), why);
        }
        assert_eq!(PortRange::from_count(0, 3), Err(PortRangeError::Zero));
    }

    fn range() -> impl Strategy<Value = PortRange> {
        (1..=u16::MAX, 1..=u16::MAX).prop_map(|(a, b)| PortRange::new(a.min(b), a.max(b)).unwrap())
    }

    proptest! {
        #[test]
        fn a_range_reads_back_as_it_was_written(range in range()) {
            prop_assert_eq!(range.to_string().parse::<PortRange>().unwrap(), range);
            prop_assert_eq!(PortRange::from_count(range.first(), range.len().into()).unwrap(), range);
        }

        #[test]
        fn ranges_overlap_when_an_end_of_one_is_in_the_other(a in range(), b in range()) {
            let shared = a.contains(b.first()) || b.contains(a.first());
            prop_assert_eq!(a.overlaps(b), shared);
            prop_assert_eq!(b.overlaps(a), shared);
        }

        #[test]
        fn no_text_is_more_than_an_error(text in ".{0,12}") {
            if let Ok(range) = text.parse::<PortRange>() {
                prop_assert!(range.first() > 0 && range.first() <= range.last());
            }
        }
    }
}
