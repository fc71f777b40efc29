//! One call of one plugin, and what became of it.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use weft_cni::{Failure, Verb};
use weft_model::{ContainerId, IfName};

use crate::exec::{self, ExecError, Invocation, Output, Running};
use crate::find::{FindError, find};

/// The attachment a call is about, as the environment carries it. Empty for GC, STATUS and VERSION.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Target<'a> {
    /// `CNI_CONTAINERID`.
    pub(crate) container: Option<&'a ContainerId>,
    /// `CNI_NETNS`.
    pub(crate) netns: Option<&'a Path>,
    /// `CNI_IFNAME`.
    pub(crate) ifname: Option<&'a IfName>,
    /// `CNI_ARGS`, joined.
    pub(crate) args: &'a str,
}

/// Why a call of a plugin did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// There is no such plugin.
    #[error(transparent)]
    Missing(#[from] FindError),
    /// The plugin did not run to its end.
    #[error("{}", with_source(.0))]
    Exec(#[from] ExecError),
    /// The plugin said what is wrong.
    #[error("{}", one_line(&.0.msg))]
    Refused(Failure),
    /// The plugin ended with a failure and did not say why in the way CNI asks for.
    #[error("{}", one_line(.0))]
    Crashed(String),
    /// The plugin ended well and did not say what CNI asks for.
    #[error("{}", one_line(.0))]
    Garbage(String),
}

impl CallError {
    /// Returns whether the plugin did not even begin.
    pub fn never_ran(&self) -> bool {
        matches!(self, Self::Missing(_) | Self::Exec(ExecError::Start { .. }))
    }

    /// Returns the error object the plugin printed, if it printed one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Refused(failure) => Some(failure),
            _ => None,
        }
    }
}

fn with_source(error: &ExecError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// Returns `text` on one line, with no control character left in it.
pub(crate) fn one_line(text: &str) -> String {
    let parts: Vec<&str> =
        text.split(|c: char| c.is_control()).map(str::trim).filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

/// Returns the start of what a plugin printed, fit for an error message.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN: usize = 200;
    let line = one_line(&String::from_utf8_lossy(bytes));
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// How plugins are found and run.
#[derive(Debug)]
pub(crate) struct Caller<'a> {
    pub(crate) paths: &'a [PathBuf],
    pub(crate) env: &'a [(OsString, OsString)],
    pub(crate) timeout: Duration,
}

impl Caller<'_> {
    /// Runs the plugin `kind` and returns what it printed, once it has ended well.
    pub(crate) fn call(
        &self,
        kind: &str,
        verb: Verb,
        target: Target<'_>,
        stdin: Vec<u8>,
    ) -> Result<Vec<u8>, CallError> {
        let mut ready = self.ready(kind, verb, target)?;
        ready.begin(stdin)?;
        ready.finish()
    }

    /// Starts the plugin `kind`, which waits for its configuration.
    pub(crate) fn ready(&self, kind: &str, verb: Verb, target: Target<'_>) -> Result<Ready, CallError> {
        self.start(find(kind, self.paths)?, verb, target)
    }

    /// Starts the plugin that comes after `before`, if it is the same program under another name.
    ///
    /// That one reads its configuration before it does anything, as the one before it did. Of others nobody knows what they do
    /// first: they are started when it is their turn. So is what cannot be started now.
    pub(crate) fn ahead(&self, kind: &str, verb: Verb, target: Target<'_>, before: &Ready) -> Option<Ready> {
        let program = find(kind, self.paths).ok()?;
        same(&program, &before.program).then(|| self.start(program, verb, target).ok())?
    }

    /// As [`ahead`](Self::ahead), for a plugin that waits while `other` works.
    pub(crate) fn meanwhile(&self, kind: &str, verb: Verb, target: Target<'_>, other: &str) -> Option<Ready> {
        let [program, other] = [find(kind, self.paths).ok()?, find(other, self.paths).ok()?];
        same(&program, &other).then(|| self.start(program, verb, target).ok())?
    }

    fn start(&self, program: PathBuf, verb: Verb, target: Target<'_>) -> Result<Ready, CallError> {
        let mut env = self.env.to_vec();
        // Variables that do not apply are set too, so that none of our own environment's leaks through.
        let text = |value: Option<&str>| OsString::from(value.unwrap_or_default());
        env.extend([
            ("CNI_COMMAND".into(), verb.as_str().into()),
            ("CNI_CONTAINERID".into(), text(target.container.map(ContainerId::as_str))),
            ("CNI_NETNS".into(), target.netns.map(OsString::from).unwrap_or_default()),
            ("CNI_IFNAME".into(), text(target.ifname.map(IfName::as_str))),
            ("CNI_ARGS".into(), target.args.into()),
            ("CNI_PATH".into(), joined(self.paths)),
        ]);
        let invocation =
            Invocation { env, timeout: self.timeout, leader: true, held: true, ..Invocation::new(&program) };
        Ok(Ready { running: exec::start(invocation)?, program })
    }
}

/// Returns whether two files are one program.
fn same(one: &Path, other: &Path) -> bool {
    let place = |path: &Path| path.metadata().ok().map(|meta| (meta.dev(), meta.ino()));
    place(one).is_some_and(|one| Some(one) == place(other))
}

/// A plugin that was started and waits for its configuration. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Ready {
    running: Running,
    program: PathBuf,
}

impl Ready {
    /// Hands it its configuration.
    pub(crate) fn begin(&mut self, stdin: Vec<u8>) -> Result<(), CallError> {
        Ok(self.running.begin_with(stdin)?)
    }

    /// Returns what it printed, once it has ended well.
    pub(crate) fn finish(self) -> Result<Vec<u8>, CallError> {
        outcome(self.running.finish()?)
    }
}

/// Returns the directories as `CNI_PATH` has them.
fn joined(paths: &[PathBuf]) -> OsString {
    // A directory with a colon in its name cannot be expressed; the plugin will say what it cannot find.
    std::env::join_paths(paths).unwrap_or_default()
}

/// Tells a plugin's answer from its failure.
pub(crate) fn outcome(output: Output) -> Result<Vec<u8>, CallError> {
    if output.status.success() {
        return Ok(output.stdout);
    }
    if let Some(failure) = Failure::from_json(&output.stdout) {
        return Err(CallError::Refused(failure));
    }
    // CNI: the texts of the reference library (pkg/invoke), less its newlines.
    let status = output.status.to_string().replace("exit status: ", "exit status ");
    let text = match (output.stdout.is_empty(), output.stderr.is_empty()) {
        (true, true) => format!("netplugin failed with no error message: {status}"),
        (true, false) => format!("netplugin failed: {:?}: {status}", excerpt(&output.stderr)),
        (false, _) => format!(
            "netplugin failed but its diagnostic message is no error object: {:?}: {status}",
            excerpt(&output.stdout)
        ),
    };
    Err(CallError::Crashed(text))
}

/// Reads the JSON object a plugin printed.
pub(crate) fn object(stdout: &[u8], what: &str) -> Result<Value, CallError> {
    if stdout.iter().all(u8::is_ascii_whitespace) {
        return Err(CallError::Garbage(format!("printed no {what}")));
    }
    match serde_json::from_slice(stdout) {
        Ok(value @ Value::Object(_)) => Ok(value),
        _ => Err(CallError::Garbage(format!("printed no {what} but {:?}", excerpt(stdout)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_on_one_line() {
        assert_eq!(one_line("a\n\n  b\r\n"), "a b");
        let long = "x".repeat(300);
        assert_eq!(excerpt(long.as_bytes()), format!("{}...", "x".repeat(200)));
    }
}
