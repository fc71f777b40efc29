//! The options of a network, and how their values are read.

use std::collections::BTreeMap;
use std::net::IpAddr;

use weft_cni::{Code, Failure};

use crate::About;

/// The options as given, read by name.
#[derive(Clone, Copy, Debug)]
pub struct Options<'request> {
    /// The driver they are for.
    pub about: &'request About,
    /// The options under the names its description gives them.
    pub given: &'request BTreeMap<String, String>,
}

impl Options<'_> {
    /// Refuses an option that the driver does not have.
    ///
    /// # Errors
    ///
    /// Code 7, naming it and those there are.
    pub fn refuse_unknown(&self) -> Result<(), Failure> {
        let options = self.about.options;
        let Some(unknown) = self.given.keys().find(|key| options.iter().all(|option| option.name != *key))
        else {
            return Ok(());
        };
        let known: Vec<_> = options.iter().map(|option| option.name).collect();
        let text = format!("the {} driver has no option {unknown:?}", self.about.kind);
        let hint = format!("its options are {}", known.join(", "));
        Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint)))
    }

    /// Returns an option's value as it was given.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.given.get(name).map(String::as_str)
    }

    /// Returns an option that is true or false.
    ///
    /// # Errors
    ///
    /// Code 7 if it is neither.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(default),
            // DOCKER: `-o key` alone means true; the words are those of Go's ParseBool.
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
            Some(other) => Err(bad(name, other, &"true or false is expected")),
        }
    }

    /// Returns an address of a family.
    ///
    /// # Errors
    ///
    /// Code 7 if it is none.
    pub fn address(&self, name: &str, v4: bool) -> Result<Option<IpAddr>, Failure> {
        let Some(text) = self.get(name) else { return Ok(None) };
        let address: IpAddr = text.parse().map_err(|error| bad(name, text, &error))?;
        match address.is_ipv4() == v4 {
            true => Ok(Some(address)),
            false => {
                Err(bad(name, text, &format!("an {} address is expected", if v4 { "IPv4" } else { "IPv6" })))
            }
        }
    }

    /// Returns a number of a kind that knows its range.
    ///
    /// # Errors
    ///
    /// Code 7 if it is none, or out of range.
    pub fn number<T>(&self, name: &str) -> Result<Option<T>, Failure>
    where
        T: TryFrom<i64>,
        T::Error: std::fmt::Display,
    {
        let Some(text) = self.get(name) else { return Ok(None) };
        let number: i64 = text.parse().map_err(|error| bad(name, text, &error))?;
        T::try_from(number).map(Some).map_err(|error| bad(name, text, &error))
    }

    /// Returns an option that is one of a few words.
    ///
    /// # Errors
    ///
    /// Code 7 if it is another one, with those there are.
    pub fn one_of(&self, name: &str, words: &[&str]) -> Result<Option<&str>, Failure> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        if words.contains(&text) {
            return Ok(Some(text));
        }
        let hint = format!("its values are {}", words.join(", "));
        Err(bad(name, text, &"no such value").with_hint(Some(hint)))
    }
}

/// Returns the error about one option's value.
pub fn bad(name: &str, value: &str, why: &dyn std::fmt::Display) -> Failure {
    Failure::text(Code::InvalidConfig, format!("option {name}={value}: {why}"))
}
