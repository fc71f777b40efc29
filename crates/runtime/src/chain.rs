//! The verbs of a network: its plugins one after another, and what happens when one of them fails.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use weft_cni::{AttachmentId, Conflist, Failure, NetworkResult, Verb, Version};
use weft_model::{Endpoint, NetworkName};
use weft_state::{Root, StateError};

use crate::cache::Cache;
use crate::call::{CallError, Caller, Ready, Target, object};
use crate::exec::TIMEOUT;
use crate::request::{Attachment, Extra, kind};
use crate::turns::Turns;

/// A plugin of a network that did not do what it was asked.
#[derive(Debug)]
pub struct Problem {
    /// The network.
    pub network: NetworkName,
    /// The plugin's type.
    pub kind: String,
    /// What it was asked.
    pub verb: Verb,
    /// Why it did not.
    pub cause: CallError,
}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "plugin {} on network {}", self.kind, self.network)?;
        if self.verb != Verb::Add {
            write!(out, " ({})", self.verb)?;
        }
        write!(out, ": {}", self.cause)
    }
}

impl std::error::Error for Problem {}

/// Why a verb of a network failed.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// A plugin failed. What could not be undone afterwards is in `left`.
    #[error("{problem}{}", Left(left))]
    Plugin {
        /// The plugin that failed.
        problem: Box<Problem>,
        /// What is left because a plugin could not undo its part either.
        left: Vec<Problem>,
    },
    /// The result of an ADD could not be kept.
    #[error("network {network}: {source}{}", Left(left))]
    Cache {
        /// The network.
        network: NetworkName,
        /// Why not.
        source: StateError,
        /// What is left because a plugin could not undo its part.
        left: Vec<Problem>,
    },
    /// The conflist's version has no such verb.
    #[error("network {network} has cniVersion {}, which does not allow {verb}", version.as_str())]
    TooOld {
        /// The network.
        network: NetworkName,
        /// Its version.
        version: Version,
        /// The verb.
        verb: Verb,
    },
    /// There is nothing to compare with.
    #[error("nothing is known about {0}: its result is not cached")]
    Unknown(Endpoint),
}

/// The tail of a message about what could not be undone.
struct Left<'a>(&'a [Problem]);

impl fmt::Display for Left<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|problem| write!(out, "; not undone: {problem}"))
    }
}

/// The first plugin of a network, started before it is its turn. Dropping it ends it, and it has done nothing.
#[derive(Debug, Default)]
pub struct Ahead(Option<Ready>);

/// A CNI runtime: where plugins are, how long they may take, where results are kept.
#[derive(Clone, Debug)]
pub struct Runtime {
    paths: Vec<PathBuf>,
    env: Vec<(OsString, OsString)>,
    timeout: Duration,
    cache: Cache,
}

impl Runtime {
    /// Returns a runtime that looks for plugins in `paths` and keeps its state below `root`.
    pub fn new(root: &Root, paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            env: vec![(Root::VARIABLE.into(), root.path().into())],
            timeout: TIMEOUT,
            cache: Cache::new(root.cni_results_dir()),
        }
    }

    /// Returns the same runtime with another limit on how long one plugin may take.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Returns what ADD was asked to attach and DEL was not asked to detach.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Returns the directories plugins are looked for in.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Attaches a container and returns the chain's result.
    ///
    /// Unlike the reference library this leaves nothing behind on failure: the whole chain is asked to DEL.
    ///
    /// # Errors
    ///
    /// Names the plugin that failed, and whatever could not be undone.
    pub fn add(&self, list: &Conflist, attachment: &Attachment) -> Result<Value, ChainError> {
        let endpoint = endpoint(list, attachment);
        let result = self.add_each(list, attachment, Ahead::default()).map_err(|problem| {
            let mut left = self.del(list, attachment);
            // A plugin that cannot be run has done nothing, and one that fails at both for the same reason
            // did not get to do anything.
            left.retain(|left| {
                let same = left.kind == problem.kind && left.cause.to_string() == problem.cause.to_string();
                !same && !left.cause.never_ran()
            });
            ChainError::Plugin { problem: problem.into(), left }
        })?;
        self.cache.put(&endpoint, &list.raw, attachment, &result).map_err(|source| {
            let left = self.del(list, attachment);
            ChainError::Cache { network: list.name.clone(), source, left }
        })?;
        Ok(result)
    }

    /// Starts the first plugin of a network for [`Runtime::raise`] while another network is at work: if it is the same
    /// program as the first one of that network.
    pub fn ahead(&self, list: &Conflist, attachment: &Attachment, meanwhile: &Conflist) -> Ahead {
        let [Some(first), Some(other)] = [list.plugins.first(), meanwhile.plugins.first()] else {
            return Ahead::default();
        };
        let args = attachment.joined_args();
        Ahead(self.caller().meanwhile(kind(first), Verb::Add, attachment.target(&args), kind(other)))
    }

    /// Attaches a container by an interface that was there before and that nobody will ask to remove: the result is not
    /// kept, and what fails is not asked to DEL, which would lower an interface that was up. `ahead` was started for the
    /// same network and attachment.
    ///
    /// # Errors
    ///
    /// Names the plugin that failed.
    pub fn raise(&self, list: &Conflist, attachment: &Attachment, ahead: Ahead) -> Result<Value, ChainError> {
        self.add_each(list, attachment, ahead)
            .map_err(|problem| ChainError::Plugin { problem: problem.into(), left: Vec::new() })
    }

    fn add_each(
        &self,
        list: &Conflist,
        attachment: &Attachment,
        Ahead(ready): Ahead,
    ) -> Result<Value, Problem> {
        let mut result = None;
        let mut turns =
            self.turns(list, list.plugins.iter(), Verb::Add, Some(attachment)).beginning_with(ready);
        let extra = Extra { attachment: Some(attachment), ..Extra::default() };
        while let Some((plugin, stdout)) = turns.next(Extra { prev_result: result.as_ref(), ..extra }) {
            let answer = stdout.and_then(|stdout| checked(&stdout, list.version));
            result = Some(answer.map_err(|cause| problem(list, plugin, Verb::Add, cause))?);
        }
        // A conflist has at least one plugin: `Conflist::parse` sees to that.
        Ok(result.unwrap_or_default())
    }

    /// Detaches a container and returns what went wrong, which never keeps the rest from being done.
    ///
    /// CNI: plugins go in reverse order. The cached result is forgotten once all of them are content, so
    /// that another DEL still has it.
    pub fn del(&self, list: &Conflist, attachment: &Attachment) -> Vec<Problem> {
        let endpoint = endpoint(list, attachment);
        let prev = match list.version >= Version::V0_4_0 {
            true => self.cache.result(&endpoint),
            false => None,
        };
        let extra = Extra { prev_result: prev.as_ref(), attachment: Some(attachment), valid: None };
        let problems = self.each(list, list.plugins.iter().rev(), Verb::Del, extra);
        if problems.is_empty() {
            // A file that stays is overwritten by the next ADD, and GC asks for this DEL again.
            self.cache.forget(&endpoint).ok();
        }
        problems
    }

    /// Asks one plugin of an attached container's network once more for what `attachment` asks for now: ADD, or DEL
    /// if nothing is wanted of it any more. The plugin sees the chain's result as that of the plugins before it,
    /// and answers with the same; the arguments are kept for DEL and GC.
    ///
    /// # Errors
    ///
    /// Names the plugin if it fails. It has what it had before then, and so has the cache.
    pub fn renew(
        &self,
        list: &Conflist,
        plugin: &Value,
        verb: Verb,
        attachment: &Attachment,
        result: &Value,
    ) -> Result<(), ChainError> {
        let extra = Extra { prev_result: Some(result), attachment: Some(attachment), valid: None };
        let mut turns = self.turns(list, std::iter::once(plugin), verb, extra.attachment);
        let Some((_, stdout)) = turns.next(extra) else { return Ok(()) };
        let answer = stdout.and_then(|stdout| match verb {
            Verb::Add => checked(&stdout, list.version).map(drop),
            _ => Ok(()),
        });
        answer.map_err(|cause| ChainError::Plugin {
            problem: problem(list, plugin, verb, cause).into(),
            left: Vec::new(),
        })?;
        let kept = self.cache.put(&endpoint(list, attachment), &list.raw, attachment, result);
        kept.map_err(|source| ChainError::Cache { network: list.name.clone(), source, left: Vec::new() })
    }

    /// Verifies an attachment against what ADD answered.
    ///
    /// # Errors
    ///
    /// Names the first plugin that is not content.
    pub fn check(&self, list: &Conflist, attachment: &Attachment) -> Result<(), ChainError> {
        if list.version < Version::V0_4_0 {
            return Err(too_old(list, Verb::Check));
        }
        if list.disable_check {
            return Ok(());
        }
        let endpoint = endpoint(list, attachment);
        let prev = self.cache.result(&endpoint).ok_or(ChainError::Unknown(endpoint))?;
        let extra = Extra { prev_result: Some(&prev), attachment: Some(attachment), valid: None };
        self.first_problem(list, Verb::Check, extra)
    }

    /// Says whether ADD would work.
    ///
    /// # Errors
    ///
    /// Names the first plugin that is not ready.
    pub fn status(&self, list: &Conflist) -> Result<(), ChainError> {
        match list.version < Version::V1_1_0 {
            // CNI: what has no STATUS is taken to be ready.
            true => Ok(()),
            false => self.first_problem(list, Verb::Status, Extra::default()),
        }
    }

    /// Removes what belongs to no attachment in `valid`, and returns what went wrong.
    ///
    /// CNI: first DEL for every cached attachment of this network that is not in the list, then GC for
    /// every plugin. Does nothing for a conflist that says `disableGC` or is older than 1.1.0.
    pub fn gc(&self, list: &Conflist, valid: &[AttachmentId]) -> Vec<Problem> {
        if list.disable_gc || list.version < Version::V1_1_0 {
            return Vec::new();
        }
        let mut problems = Vec::new();
        for cached in self.cache.of_network(list.name.as_str()) {
            let (Ok(container), Ok(ifname)) = (cached.id.container_id.parse(), cached.id.ifname.parse())
            else {
                continue;
            };
            if !valid.contains(&cached.id) {
                let mut attachment = Attachment::new(container, cached.netns, ifname);
                attachment.capability_args = cached.capability_args;
                problems.extend(self.del(list, &attachment));
            }
        }
        let extra = Extra { valid: Some(valid), ..Extra::default() };
        problems.extend(self.each(list, list.plugins.iter(), Verb::Gc, extra));
        problems
    }

    /// Asks a plugin which versions it understands.
    ///
    /// # Errors
    ///
    /// When there is no such plugin, or it does not answer as CNI asks for.
    pub fn versions(&self, kind: &str) -> Result<Vec<String>, CallError> {
        let request = format!("{{\"cniVersion\":{:?}}}", Version::LATEST.as_str());
        let stdout = self.caller().call(kind, Verb::Version, Target::default(), request.into_bytes())?;
        let answer = object(&stdout, "versions")?;
        let listed = weft_cni::json::get(&answer, "supportedVersions").and_then(Value::as_array);
        let texts = listed.into_iter().flatten().filter_map(Value::as_str).map(String::from);
        Ok(texts.collect())
    }

    fn caller(&self) -> Caller<'_> {
        Caller { paths: &self.paths, env: &self.env, timeout: self.timeout }
    }

    /// The calls of a verb, for which the plugins take turns.
    fn turns<'a, I: Iterator<Item = &'a Value>>(
        &'a self,
        list: &'a Conflist,
        plugins: I,
        verb: Verb,
        attachment: Option<&'a Attachment>,
    ) -> Turns<'a, I> {
        Turns::new(self.caller(), list, plugins, verb, attachment)
    }

    fn each<'a>(
        &'a self,
        list: &'a Conflist,
        plugins: impl Iterator<Item = &'a Value>,
        verb: Verb,
        extra: Extra<'a>,
    ) -> Vec<Problem> {
        let mut turns = self.turns(list, plugins, verb, extra.attachment);
        std::iter::from_fn(|| turns.next(extra))
            .filter_map(|(plugin, outcome)| Some(problem(list, plugin, verb, outcome.err()?)))
            .collect()
    }

    fn first_problem(&self, list: &Conflist, verb: Verb, extra: Extra<'_>) -> Result<(), ChainError> {
        let mut turns = self.turns(list, list.plugins.iter(), verb, extra.attachment);
        while let Some((plugin, outcome)) = turns.next(extra) {
            outcome.map_err(|cause| ChainError::Plugin {
                problem: problem(list, plugin, verb, cause).into(),
                left: Vec::new(),
            })?;
        }
        Ok(())
    }
}

fn endpoint(list: &Conflist, attachment: &Attachment) -> Endpoint {
    Endpoint {
        network: list.name.clone(),
        container: attachment.container.clone(),
        ifname: attachment.ifname.clone(),
    }
}

fn problem(list: &Conflist, plugin: &Value, verb: Verb, cause: CallError) -> Problem {
    Problem { network: list.name.clone(), kind: kind(plugin).into(), verb, cause }
}

fn too_old(list: &Conflist, verb: Verb) -> ChainError {
    ChainError::TooOld { network: list.name.clone(), version: list.version, verb }
}

/// Reads a result and makes sure that it is one.
fn checked(stdout: &[u8], version: Version) -> Result<Value, CallError> {
    let value = object(stdout, "result")?;
    NetworkResult::from_value(&value, version)
        .map_err(|Failure { msg, .. }| CallError::Garbage(format!("printed a result that is none: {msg}")))?;
    Ok(value)
}
