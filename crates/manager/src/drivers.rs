//! What plugins say about themselves, and the conflists they compose.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_cni::{ComposeRequest, Failure, Finding, Findings, MendRequest};
use weft_runtime::exec::{self, Invocation};
use weft_runtime::find::{FindError, find};
use weft_state::Root;

use crate::{Error, predefined};

/// How long a question may take at most that touches nothing. Nearly all of it is the program's start, which takes 10 s where a busy,
/// emulated machine reads it over a network for the first time.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A plugin's description of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct About {
    /// Its CNI type.
    #[serde(rename = "type")]
    pub kind: String,
    /// What it is for.
    pub summary: String,
    /// The CNI versions it understands.
    #[serde(default)]
    pub versions: Vec<String>,
    /// The options of its networks.
    #[serde(default)]
    pub options: Vec<OptionAbout>,
    /// What kind of driver it is, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverAbout>,
}

/// An option of a driver's networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptionAbout {
    /// Its name.
    pub name: String,
    /// Other names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// What values look like.
    #[serde(default)]
    pub value: String,
    /// What holds when it is not given.
    #[serde(default)]
    pub default: String,
    /// What it does.
    #[serde(default)]
    pub help: String,
}

/// What kind of driver a plugin is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DriverAbout {
    /// Whether its networks have subnets.
    pub addressing: bool,
    /// Whether containers can be connected while they run.
    pub attachable: bool,
    /// Whether its networks are those of all hosts of a cluster, on a host that has joined one.
    pub clustered: bool,
    /// How many networks of it there can be.
    pub instances: Option<usize>,
    /// Why containers cannot be connected.
    pub refusal: Option<String>,
    /// What to do instead.
    pub hint: Option<String>,
}

impl About {
    /// Returns options under the names the driver knows them by. Unknown ones stay: the driver names them.
    pub fn canonical(&self, options: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let canonical = |key: &String| {
            let known =
                self.options.iter().find(|option| option.name == *key || option.aliases.contains(key));
            known.map_or(key, |option| &option.name).clone()
        };
        options.iter().map(|(key, value)| (canonical(key), value.clone())).collect()
    }

    /// Returns whether there is such an option.
    pub fn has_option(&self, name: &str) -> bool {
        self.options.iter().any(|option| option.name == name)
    }
}

/// The plugins there are.
#[derive(Clone, Debug)]
pub struct Drivers {
    root: Root,
    paths: Vec<PathBuf>,
    /// How long work on the kernel may take.
    timeout: Duration,
}

/// Returns the plugin of a driver people may call otherwise.
///
/// DOCKER: the driver of the network `none` is called `null`.
pub fn plugin_of(driver: &str) -> &str {
    if driver == "null" { predefined::PRIVATE } else { driver }
}

impl Drivers {
    /// Returns the plugins in `paths`, which work below `root`.
    pub fn new(root: &Root, paths: Vec<PathBuf>) -> Self {
        Self { root: root.clone(), paths, timeout: exec::TIMEOUT }
    }

    /// Returns the same plugins with another limit on how long a call may take.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// How long a question may take that touches nothing.
    fn short(&self) -> Duration {
        TIMEOUT.min(self.timeout)
    }

    /// Asks a plugin to describe itself; `None` if it does not know the question.
    ///
    /// # Errors
    ///
    /// When there is no such plugin or it cannot be run.
    pub fn describe(&self, kind: &str) -> Result<Option<About>, Error> {
        let output = self.ask(kind, "describe", Vec::new(), self.short())?;
        Ok(serde_json::from_slice(&output.stdout).ok())
    }

    /// Asks a plugin that must be a driver of networks to describe itself.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or it is no driver.
    pub fn driver(&self, kind: &str) -> Result<(About, DriverAbout), Error> {
        let not = |why| Error::NotADriver { kind: kind.into(), why };
        let about = self
            .describe(kind)?
            .ok_or_else(|| not("it is not one of weft's; write a conflist by hand for it"))?;
        match about.driver.clone() {
            Some(driver) => Ok((about, driver)),
            None => Err(not("it is made for use by other plugins")),
        }
    }

    /// Asks a driver for the plugins of a network.
    ///
    /// # Errors
    ///
    /// When the driver refuses, or gives no plugins.
    pub fn compose(&self, kind: &str, request: &ComposeRequest) -> Result<Vec<Value>, Error> {
        let garbage = |why: &str| Error::Plugin { kind: kind.into(), why: why.into() };
        let output = self.ask(kind, "compose", json!(request).to_string().into_bytes(), self.short())?;
        let output = content(kind, "compose", output)?;
        let composed: Composed =
            serde_json::from_slice(&output.stdout).map_err(|_| garbage("compose printed no plugins"))?;
        match composed.plugins.is_empty() {
            true => Err(garbage("compose printed an empty list of plugins")),
            false => Ok(composed.plugins),
        }
    }

    /// Has a plugin write its networks' rules again.
    ///
    /// # Errors
    ///
    /// When the plugin cannot be run, or says that something could not be put back.
    pub fn reload(&self, kind: &str, request: &MendRequest) -> Result<(), Error> {
        let output = self.ask(kind, "reload", json!(request).to_string().into_bytes(), self.timeout)?;
        content(kind, "reload", output).map(drop)
    }

    /// Asks a plugin what is missing of its networks.
    ///
    /// # Errors
    ///
    /// When the plugin cannot be run or gives no answer.
    pub fn doctor(&self, kind: &str, request: &MendRequest) -> Result<Vec<Finding>, Error> {
        let output = self.ask(kind, "doctor", json!(request).to_string().into_bytes(), self.timeout)?;
        let output = content(kind, "doctor", output)?;
        let findings: Result<Findings, _> = serde_json::from_slice(&output.stdout);
        let garbage = |_| Error::Plugin { kind: kind.into(), why: "doctor printed no findings".into() };
        findings.map(|findings| findings.problems).map_err(garbage)
    }

    fn ask(
        &self,
        kind: &str,
        question: &str,
        stdin: Vec<u8>,
        timeout: Duration,
    ) -> Result<exec::Output, Error> {
        let program = find(kind, &self.paths).map_err(|why| match why {
            FindError::Missing { .. } | FindError::NoPaths => Error::NoDriver { kind: kind.into(), why },
            bad => Error::BadName { what: "driver", name: kind.into(), why: bad.to_string() },
        })?;
        // Without a command a plugin takes its arguments for the question; ours may have been left to us.
        let env = vec![("CNI_COMMAND".into(), "".into()), (Root::VARIABLE.into(), self.root.path().into())];
        let invocation =
            Invocation { args: vec![question.into()], env, stdin, timeout, ..Invocation::new(program) };
        exec::run(invocation).map_err(|error| Error::exec(kind, &error))
    }
}

/// Returns what a plugin printed if it was content, and else why it was not.
fn content(kind: &str, question: &str, output: exec::Output) -> Result<exec::Output, Error> {
    if output.status.success() {
        return Ok(output);
    }
    Err(match Failure::from_json(&output.stdout) {
        Some(failure) => Error::Refused { kind: kind.into(), failure },
        None => {
            let why = format!("{question} ended with {} and no reason", output.status);
            Error::Plugin { kind: kind.into(), why }
        }
    })
}

/// What a driver composes.
#[derive(Deserialize)]
struct Composed {
    plugins: Vec<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_mapped_to_the_drivers_names() {
        let about: About = serde_json::from_value(json!({
            "type": "bridge", "summary": "", "versions": [],
            "options": [{"name": "mtu", "aliases": ["com.docker.network.driver.mtu"]}],
        }))
        .unwrap();
        let given = [("com.docker.network.driver.mtu", "1400"), ("other", "x")];
        let given = given.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let expected = [("mtu", "1400"), ("other", "x")];
        let expected: BTreeMap<String, String> =
            expected.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        assert_eq!(about.canonical(&given), expected);
        assert!(about.has_option("mtu") && !about.has_option("other"));
    }
}
