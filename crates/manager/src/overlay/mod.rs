//! The cluster that this host is one of, as far as the agent tells: `weft overlay ...`.
//!
//! What a cluster is, the manager does not know. It asks `weftd agent`, over a socket below the state directory.

mod networks;
pub mod protocol;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use weft_runtime::exec::{self, Invocation};
use weft_state::Root;

use crate::{Error, Kind, Manager};
pub use networks::Shared;
use protocol::{Answer, LONGEST_ANSWER, Question, Refusal, Request, VERSION};

/// How long the agent may be silent. It tells what it waits for more often than that.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the way to an address may take to be walked.
const WALK: Duration = Duration::from_secs(60);
/// Starts the agent and keeps it for the next boot.
pub const START: &str = "systemctl enable --now weft-agent, or run weftd agent";

/// The agent of this host, from the outside.
#[derive(Clone, Debug)]
pub struct Agent {
    root: Root,
    socket: PathBuf,
    membership: PathBuf,
}

/// Why the agent did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Nobody listens.
    #[error("weftd agent does not run on this host: {}: {cause}", socket.display())]
    Absent {
        /// Its socket.
        socket: PathBuf,
        /// What connecting to it gave.
        cause: std::io::Error,
    },
    /// The agent said no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The agent is of another version, died, or is none.
    #[error("weftd agent: {}: {why}", socket.display())]
    Garbled {
        /// Its socket.
        socket: PathBuf,
        /// What it did.
        why: String,
    },
}

impl AgentError {
    /// Returns what kind of failure this is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Refused(refusal) => refusal.kind,
            Self::Absent { .. } | Self::Garbled { .. } => Kind::Failed,
        }
    }

    /// Returns the next command to type.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Refused(refusal) => refusal.hint.clone(),
            Self::Absent { cause, .. } if cause.kind() == std::io::ErrorKind::PermissionDenied => {
                Some("run it as root".into())
            }
            Self::Absent { .. } => Some(START.into()),
            Self::Garbled { .. } => {
                Some("systemctl restart weft-agent: containers keep their connections".into())
            }
        }
    }
}

/// Returns where the agent listens.
pub fn socket(root: &Root) -> PathBuf {
    root.path().join("run/weft/overlay/agent.sock")
}

/// Returns the file that says which cluster this host is one of. It is there from `join` to `leave`.
pub fn membership(root: &Root) -> PathBuf {
    root.path().join("var/lib/weft/overlay/membership.json")
}

impl Manager {
    /// Returns the agent of this host, whether it runs or not.
    pub fn agent(&self) -> Agent {
        Agent { root: self.root.clone(), socket: socket(&self.root), membership: membership(&self.root) }
    }
}

impl Agent {
    /// Returns whether this host is one of a cluster, whether the agent runs or not.
    pub fn has_joined(&self) -> bool {
        self.membership.exists()
    }

    /// Asks the agent and returns its answer. `said` is told what it does meanwhile.
    ///
    /// # Errors
    ///
    /// [`AgentError`], when nobody listens, or the agent cannot do it.
    pub fn ask<T: DeserializeOwned>(&self, request: Request, said: &mut dyn FnMut(&str)) -> Result<T, Error> {
        let value = self.answer(request, said).map_err(Box::new)?;
        serde_json::from_value(value).map_err(|error| Error::Agent(Box::new(self.garbled(error))))
    }

    /// Walks the way to an address: the agent does, or `weftd` itself when none runs.
    ///
    /// # Errors
    ///
    /// [`AgentError`], when nobody can tell.
    pub fn diag(
        &self,
        weftd: &Path,
        address: IpAddr,
        network: Option<String>,
        said: &mut dyn FnMut(&str),
    ) -> Result<Vec<protocol::Link>, Error> {
        let request = Request::Diag { address, network: network.clone() };
        let answer = match self.answer(request, said) {
            Err(absent @ AgentError::Absent { .. }) if self.has_joined() && weftd.exists() => {
                said(&format!("{absent}: what it knew last is gone by"));
                self.walked(weftd, address, network)
            }
            answer => answer,
        };
        let value = answer.map_err(Box::new)?;
        serde_json::from_value(value).map_err(|error| Error::Agent(Box::new(self.garbled(error))))
    }

    /// Has `weftd` walk the way, which answers in one line as the agent does.
    fn walked(&self, weftd: &Path, address: IpAddr, network: Option<String>) -> Result<Value, AgentError> {
        let mut invocation = Invocation::new(weftd);
        invocation.args = vec!["--root".into(), self.root.path().into(), "diag".into()];
        invocation.args.push(address.to_string().into());
        invocation.args.extend(network.into_iter().flat_map(|name| ["--network".into(), name.into()]));
        invocation.timeout = WALK;
        let output = exec::run(invocation).map_err(|error| self.garbled(error))?;
        match serde_json::from_slice(&output.stdout) {
            Ok(Answer::Done(value)) => Ok(value),
            Ok(Answer::Refused(refusal)) => Err(refusal.into()),
            Ok(Answer::Progress(_)) | Err(_) => {
                Err(self.garbled(String::from_utf8_lossy(&output.stderr).trim()))
            }
        }
    }

    fn answer(&self, request: Request, said: &mut dyn FnMut(&str)) -> Result<Value, AgentError> {
        let absent = |cause| AgentError::Absent { socket: self.socket.clone(), cause };
        let mut stream = UnixStream::connect(&self.socket).map_err(absent)?;
        let io = |error: std::io::Error| self.garbled(error);
        stream.set_read_timeout(Some(SILENCE)).map_err(io)?;
        stream.set_write_timeout(Some(SILENCE)).map_err(io)?;
        let question = Question { version: VERSION, request };
        let mut line = serde_json::to_vec(&question).map_err(|error| self.garbled(error))?;
        line.push(b'\n');
        stream.write_all(&line).map_err(io)?;
        let mut lines = BufReader::new(stream);
        loop {
            match self.read(&mut lines)? {
                Answer::Progress(text) => said(&text),
                Answer::Done(value) => return Ok(value),
                Answer::Refused(refusal) => return Err(refusal.into()),
            }
        }
    }

    fn read(&self, lines: &mut impl BufRead) -> Result<Answer, AgentError> {
        let mut line = Vec::new();
        lines.by_ref().take(LONGEST_ANSWER).read_until(b'\n', &mut line).map_err(|error| {
            match error.kind() {
                std::io::ErrorKind::WouldBlock => {
                    self.garbled(format!("no answer within {} s", SILENCE.as_secs()))
                }
                _ => self.garbled(error),
            }
        })?;
        match line.last() {
            None => Err(self.garbled("it went away without an answer")),
            Some(b'\n') => serde_json::from_slice(&line).map_err(|error| self.garbled(error)),
            Some(_) => Err(self.garbled("half an answer")),
        }
    }

    fn garbled(&self, why: impl ToString) -> AgentError {
        AgentError::Garbled { socket: self.socket.clone(), why: why.to_string() }
    }

    /// Returns where the agent listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}
