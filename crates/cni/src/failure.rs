//! What a plugin prints when it refuses or fails.

use std::error::Error;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Version, json};

/// The kind of a failure, as the spec numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// 1: the configuration's version is not supported.
    IncompatibleVersion,
    /// 2: a field has a value that is not supported.
    UnsupportedField,
    /// 3: the container is not known; the runtime need not call DEL.
    UnknownContainer,
    /// 4: an environment variable is missing or invalid.
    InvalidEnvironment,
    /// 5: reading or writing went wrong.
    Io,
    /// 6: something is not the JSON it should be.
    Decode,
    /// 7: the network configuration is invalid.
    InvalidConfig,
    /// 8: the namespace is not one to work in.
    InvalidNetns,
    /// 11: a passing condition is in the way.
    TryAgainLater,
    /// 50: STATUS: ADD cannot be served.
    NotAvailable,
    /// 51: STATUS: ADD cannot be served, and attached containers may be cut off.
    LimitedConnectivity,
    /// 999: everything else.
    Internal,
    /// A code of a plugin's own.
    Other(u32),
}

impl Code {
    /// 101, a code of our own plugins: what is asked for is somebody else's already.
    pub const TAKEN: Self = Self::Other(101);

    /// An IPAM plugin has no address left (`host-local`'s number).
    pub const EXHAUSTED: Self = Self::Other(100);
    /// 102, the same: what the runtime asks for at this call makes no sense here, whatever the configuration says.
    pub const UNFIT: Self = Self::Other(102);

    /// Returns the number.
    pub const fn number(self) -> u32 {
        match self {
            Self::IncompatibleVersion => 1,
            Self::UnsupportedField => 2,
            Self::UnknownContainer => 3,
            Self::InvalidEnvironment => 4,
            Self::Io => 5,
            Self::Decode => 6,
            Self::InvalidConfig => 7,
            Self::InvalidNetns => 8,
            Self::TryAgainLater => 11,
            Self::NotAvailable => 50,
            Self::LimitedConnectivity => 51,
            Self::Internal => 999,
            Self::Other(number) => number,
        }
    }
}

impl From<u32> for Code {
    fn from(number: u32) -> Self {
        match number {
            1 => Self::IncompatibleVersion,
            2 => Self::UnsupportedField,
            3 => Self::UnknownContainer,
            4 => Self::InvalidEnvironment,
            5 => Self::Io,
            6 => Self::Decode,
            7 => Self::InvalidConfig,
            8 => Self::InvalidNetns,
            11 => Self::TryAgainLater,
            50 => Self::NotAvailable,
            51 => Self::LimitedConnectivity,
            999 => Self::Internal,
            number => Self::Other(number),
        }
    }
}

/// A CNI error: the only thing a plugin says when a verb does not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind.
    pub code: Code,
    /// One line: what is wrong with which object, and why.
    pub msg: String,
    /// What helps to mend it.
    pub details: Option<String>,
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(rename = "cniVersion")]
    version: Version,
    code: u32,
    msg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<&'a str>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Printed {
    code: Option<u32>,
    msg: Option<String>,
    details: Option<String>,
}

impl Failure {
    /// Returns a failure that says what `error` and its causes say, with ": " between them.
    pub fn new(code: Code, error: impl Error) -> Self {
        let mut msg = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Some libraries print their cause themselves; saying it twice helps nobody.
            if !msg.ends_with(&text) {
                msg.push_str(": ");
                msg.push_str(&text);
            }
            cause = error.source();
        }
        Self { code, msg, details: None }
    }

    /// Returns a failure with this message.
    pub fn text(code: Code, msg: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: None }
    }

    /// Adds details; after a semicolon when there are some already.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        let details = details.into();
        self.details = match self.details.take() {
            Some(before) if !before.is_empty() => Some(format!("{before}; {details}")),
            _ => Some(details),
        };
        self
    }

    /// Adds a hint, if there is one, to the details.
    #[must_use]
    pub fn with_hint(self, hint: Option<String>) -> Self {
        match hint {
            Some(hint) => self.with_details(hint),
            None => self,
        }
    }

    /// Puts `what: ` in front of the message: what was being done when it went wrong.
    #[must_use]
    pub fn while_doing(mut self, what: impl fmt::Display) -> Self {
        self.msg = format!("{what}: {}", self.msg);
        self
    }

    /// Returns what several failures come to: nothing wrong, the only one, or one that says what all of them say.
    ///
    /// For verbs that do not stop at an error. The code is the first failure's.
    ///
    /// # Errors
    ///
    /// When there is any failure.
    pub fn all(failures: Vec<Self>) -> Result<(), Self> {
        let mut failures = failures.into_iter();
        let Some(mut all) = failures.next() else { return Ok(()) };
        for failure in failures {
            all.msg = format!("{}; {}", all.msg, failure.msg);
            if let Some(details) = failure.details {
                all = all.with_details(details);
            }
        }
        Err(all)
    }

    /// Returns the error object.
    pub fn to_json(&self, version: Version) -> String {
        json::pretty(&Wire {
            version,
            code: self.code.number(),
            msg: &self.msg,
            details: self.details.as_deref().filter(|details| !details.is_empty()),
        })
    }

    /// Reads an error object a plugin printed; `None` when `bytes` is no such thing.
    pub fn from_json(bytes: &[u8]) -> Option<Self> {
        let value: Value = json::parse(bytes).ok()?;
        let printed: Printed = json::from_value(&value).ok()?;
        if printed.code.is_none() && printed.msg.is_none() {
            return None;
        }
        Some(Self {
            code: printed.code.unwrap_or(999).into(),
            msg: printed.msg.unwrap_or_default(),
            details: printed.details.filter(|details| !details.is_empty()),
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.msg)
    }
}

impl Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    enum Chain {
        #[error("cannot write the lease")]
        Outer { source: Box<Chain> },
        #[error("disk: {0}")]
        Inlined(#[source] std::io::Error),
    }

    #[test]
    fn codes_have_the_numbers_of_the_spec() {
        for number in [1, 2, 3, 4, 5, 6, 7, 8, 11, 50, 51, 999] {
            let code = Code::from(number);
            assert!(!matches!(code, Code::Other(_)), "{number}");
            assert_eq!(code.number(), number);
        }
        assert_eq!(Code::from(100), Code::Other(100));
        assert_eq!(Code::Other(100).number(), 100);
    }

    #[test]
    fn causes_are_joined_and_not_repeated() {
        let disk = Chain::Inlined(std::io::Error::other("no space left"));
        let failure = Failure::new(Code::Io, Chain::Outer { source: Box::new(disk) });
        assert_eq!(failure.msg, "cannot write the lease: disk: no space left");
        assert_eq!(
            failure.while_doing("IPAM").to_string(),
            "IPAM: cannot write the lease: disk: no space left"
        );
    }

    #[test]
    fn several_failures_are_told_as_one() {
        let one = || Failure::text(Code::Io, "a").with_details("x");
        let two = || Failure::text(Code::Internal, "b").with_details("y");
        assert_eq!(Failure::all(vec![]), Ok(()));
        assert_eq!(Failure::all(vec![one()]), Err(one()));
        assert_eq!(
            Failure::all(vec![one(), two()]),
            Err(Failure::text(Code::Io, "a; b").with_details("x; y"))
        );
    }

    #[test]
    fn the_object_names_the_version_and_omits_empty_details() {
        let failure = Failure::text(Code::InvalidConfig, "missing network name");
        insta::assert_snapshot!(failure.to_json(Version::V1_0_0), @r#"
        {
            "cniVersion": "1.0.0",
            "code": 7,
            "msg": "missing network name"
        }
        "#);
        let failure = failure.with_hint(None).with_details("a <b>").with_hint(Some("try c".into()));
        insta::assert_snapshot!(failure.to_json(Version::LATEST), @r#"
        {
            "cniVersion": "1.1.0",
            "code": 7,
            "msg": "missing network name",
            "details": "a \u003cb\u003e; try c"
        }
        "#);
        assert_eq!(Failure::from_json(failure.to_json(Version::LATEST).as_bytes()), Some(failure));
    }

    #[test]
    fn only_error_objects_are_read_as_such() {
        for bad in ["", "null", "[]", "{}", "plain text", r#"{"code":"x"}"#, r#"{"code":1} x"#, "\u{0}"] {
            assert_eq!(Failure::from_json(bad.as_bytes()), None, "{bad:?}");
        }
        let failure = Failure::from_json(br#"{"Code":100,"MSG":"no","details":""}"#).unwrap();
        assert_eq!(failure, Failure::text(Code::Other(100), "no"));
        assert_eq!(Failure::from_json(br#"{"msg":"no"}"#).unwrap().code, Code::Internal);
    }
}
