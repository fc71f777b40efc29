//! Spec versions, and the choice of one between a configuration and a plugin.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;

use crate::{Code, Failure, Verb, json};

/// A version of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Version {
    /// 0.1.0
    V0_1_0,
    /// 0.2.0: VERSION
    V0_2_0,
    /// 0.3.0: several addresses, interfaces in the result
    V0_3_0,
    /// 0.3.1
    V0_3_1,
    /// 0.4.0: CHECK, prevResult on DEL
    V0_4_0,
    /// 1.0.0: no address family in the result
    V1_0_0,
    /// 1.1.0: GC, STATUS
    V1_1_0,
}

/// A text is not one of the spec versions.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a CNI version")]
pub struct VersionError(String);

impl Version {
    /// Every version, oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The newest version.
    pub const LATEST: Self = Self::V1_1_0;

    /// Returns the version as a configuration spells it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// Returns the versions whose results look like this one's but for the version string.
    pub const fn same_result(self) -> &'static [Self] {
        match self {
            Self::V0_1_0 | Self::V0_2_0 => &[Self::V0_1_0, Self::V0_2_0],
            Self::V0_3_0 | Self::V0_3_1 | Self::V0_4_0 => &[Self::V0_3_0, Self::V0_3_1, Self::V0_4_0],
            Self::V1_0_0 | Self::V1_1_0 => &[Self::V1_0_0, Self::V1_1_0],
        }
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let found = Self::ALL.into_iter().find(|version| version.as_str() == text);
        found.ok_or_else(|| VersionError(text.into()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The `cniVersion` of a configuration: well-formed, but perhaps none that we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    text: String,
    numbers: [u32; 3],
}

impl Written {
    /// Reads up to three numbers with dots between them.
    ///
    /// # Errors
    ///
    /// Code 6 when the text is anything else.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        // CNI: a configuration without a version is of version 0.1.0 (SPEC 0.1.0 had no such key).
        let text = if text.is_empty() { Version::V0_1_0.as_str() } else { text };
        let mut numbers = [0; 3];
        let mut parts = text.split('.');
        for number in &mut numbers {
            match parts.next().map(digits) {
                Some(Some(value)) => *number = value,
                Some(None) => return Err(garbage(text)),
                None => break,
            }
        }
        if parts.next().is_some() {
            return Err(garbage(text));
        }
        Ok(Self { text: text.into(), numbers })
    }

    /// Reads the `cniVersion` key of a configuration.
    ///
    /// # Errors
    ///
    /// Code 6 when it is not a string or not a version.
    pub fn of(conf: &Value) -> Result<Self, Failure> {
        match json::get(conf, "cniVersion") {
            None => Self::parse(""),
            Some(Value::String(text)) => Self::parse(text),
            Some(other) => Err(garbage(&other.to_string())),
        }
    }

    /// Returns the version both sides speak.
    ///
    /// # Errors
    ///
    /// Code 1 when `supported` does not have it.
    pub fn negotiate(&self, supported: &[Version]) -> Result<Version, Failure> {
        let found = supported.iter().find(|version| version.as_str() == self.text);
        found.copied().ok_or_else(|| {
            let list: Vec<&str> = supported.iter().map(|version| version.as_str()).collect();
            let list = list.join("\" \"");
            Failure::text(Code::IncompatibleVersion, "incompatible CNI versions")
                .with_details(format!("config is {:?}, plugin supports [\"{list}\"]", self.text))
        })
    }

    /// Returns whether a configuration of this version may be used with `verb` on a plugin of `supported` versions.
    ///
    /// # Errors
    ///
    /// Code 1 when the verb is younger than the configuration, or the configuration than the plugin.
    pub fn allows(&self, verb: Verb, supported: &[Version]) -> Result<(), Failure> {
        let refuse = |who: &str| {
            Err(Failure::text(Code::IncompatibleVersion, format!("{who} version does not allow {verb}")))
        };
        if verb.since() == Version::V0_1_0 {
            Ok(())
        } else if self.numbers < numbers(verb.since()) {
            refuse("config")
        } else if supported.iter().all(|version| numbers(*version) < self.numbers) {
            refuse("plugin")
        } else {
            Ok(())
        }
    }

    /// Returns whether this version is newer than any we know.
    pub fn is_from_the_future(&self) -> bool {
        self.numbers > numbers(Version::LATEST)
    }
}

fn digits(part: &str) -> Option<u32> {
    if part.bytes().all(|byte| byte.is_ascii_digit()) { part.parse().ok() } else { None }
}

fn numbers(version: Version) -> [u32; 3] {
    match version {
        Version::V0_1_0 => [0, 1, 0],
        Version::V0_2_0 => [0, 2, 0],
        Version::V0_3_0 => [0, 3, 0],
        Version::V0_3_1 => [0, 3, 1],
        Version::V0_4_0 => [0, 4, 0],
        Version::V1_0_0 => [1, 0, 0],
        Version::V1_1_0 => [1, 1, 0],
    }
}

fn garbage(text: &str) -> Failure {
    Failure::text(
        Code::Decode,
        format!("cniVersion {text:?} is not up to three numbers with dots between them"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_version_survives_printing_and_is_in_order() {
        for version in Version::ALL {
            assert_eq!(version.to_string().parse(), Ok(version));
            assert_eq!(Written::parse(version.as_str()).unwrap().numbers, numbers(version));
            assert!(version.same_result().contains(&version));
        }
        assert!(Version::ALL.is_sorted());
        for bad in ["", "1.0", "1.1.0 ", "v1.0.0", "1.2.0"] {
            assert!(bad.parse::<Version>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_version_has_up_to_three_numbers() {
        for (text, numbers) in
            [("", [0, 1, 0]), ("1", [1, 0, 0]), ("0.3", [0, 3, 0]), ("10.20.30", [10, 20, 30])]
        {
            assert_eq!(Written::parse(text).unwrap().numbers, numbers, "{text:?}");
        }
        for bad in
            ["1.2.3.4", "a", "1.x", "1..0", ".", "1.", "-1", "+1.0.0", " 1.0.0", "1.0.0-rc1", "99999999999"]
        {
            assert_eq!(Written::parse(bad).unwrap_err().code, Code::Decode, "{bad:?}");
        }
        let number = serde_json::json!({ "cniVersion": 1 });
        assert_eq!(Written::of(&number).unwrap_err().code, Code::Decode);
    }

    #[test]
    fn a_missing_version_is_the_first() {
        for conf in ["{}", r#"{"cniVersion":null}"#, r#"{"cniVersion":""}"#] {
            let conf = serde_json::from_str(conf).unwrap();
            assert_eq!(Written::of(&conf).unwrap().negotiate(&Version::ALL), Ok(Version::V0_1_0));
        }
        let conf = serde_json::json!({ "CNIVersion": "0.4.0" });
        assert_eq!(Written::of(&conf).unwrap().negotiate(&Version::ALL), Ok(Version::V0_4_0));
    }

    #[test]
    fn an_unsupported_version_is_refused_with_the_list() {
        let failure = Written::parse("1.2.0").unwrap().negotiate(&Version::ALL[4..]).unwrap_err();
        assert_eq!(failure.code, Code::IncompatibleVersion);
        assert_eq!(failure.msg, "incompatible CNI versions");
        let details = r#"config is "1.2.0", plugin supports ["0.4.0" "1.0.0" "1.1.0"]"#;
        assert_eq!(failure.details.unwrap(), details);
        // "1.0" means 1.0.0 when compared, but versions are negotiated as text.
        assert!(Written::parse("1.0").unwrap().negotiate(&Version::ALL).is_err());
    }

    #[test]
    fn verbs_are_as_old_as_the_spec_says() {
        let msg = |written: &str, verb, supported: &[Version]| match Written::parse(written)
            .unwrap()
            .allows(verb, supported)
        {
            Ok(()) => "ok".into(),
            Err(failure) => {
                assert_eq!(failure.code, Code::IncompatibleVersion);
                failure.msg
            }
        };
        for (written, verb, supported, expected) in [
            ("0.1.0", Verb::Add, &Version::ALL[..], "ok"),
            ("9.0.0", Verb::Del, &Version::ALL, "ok"),
            ("0.3.1", Verb::Check, &Version::ALL, "config version does not allow CHECK"),
            ("0.4.0", Verb::Check, &Version::ALL, "ok"),
            ("1.0.0", Verb::Gc, &Version::ALL, "config version does not allow GC"),
            ("1.0.0", Verb::Status, &Version::ALL, "config version does not allow STATUS"),
            ("1.1.0", Verb::Gc, &Version::ALL, "ok"),
            ("1.1.0", Verb::Status, &Version::ALL, "ok"),
            ("0.4.0", Verb::Check, &Version::ALL[..4], "plugin version does not allow CHECK"),
            ("1.1.0", Verb::Gc, &Version::ALL[..6], "plugin version does not allow GC"),
            ("1.1.0", Verb::Status, &Version::ALL[..6], "plugin version does not allow STATUS"),
        ] {
            assert_eq!(msg(written, verb, supported), expected, "{written} {verb}");
        }
    }
}
