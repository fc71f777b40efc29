//! What plugin and daemon say to each other: one line of JSON each way.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use weft_cni::{Code, Failure, NetworkResult, Version};
use weft_model::Endpoint;

/// The longest line: a configuration with a long previous result has room in it.
const LINE: u64 = 4 << 20;
/// How long the daemon may take. It gives up by itself before that, unless it was told to take longer.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What a plugin asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    /// An address for an interface; the one it has, if it has one.
    Allocate(Box<Allocation>),
    /// Whether an interface's lease is alive.
    Check(Box<Allocation>),
    /// To give an interface's address back.
    Release(Box<Allocation>),
    /// To give all addresses of a network back but those of these containers' interfaces.
    Collect {
        /// The network.
        network: String,
        /// Containers and interfaces.
        valid: Vec<(String, String)>,
    },
    /// Whether anybody is there.
    Status,
}

/// An address that is asked for, or is there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Allocation {
    /// The interface.
    pub(crate) endpoint: Endpoint,
    /// The namespace it is in; empty when the runtime names none.
    pub(crate) netns: PathBuf,
    /// `CNI_ARGS`.
    pub(crate) args: String,
    /// The network configuration.
    pub(crate) conf: String,
    /// The address that it has by its previous result, whoever got it; absent when any will do.
    pub(crate) address: Option<Ipv4Addr>,
}

/// What the daemon answers: a result of the latest version, or an error object.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// The result of an allocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<Value>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Reads one line.
///
/// # Errors
///
/// When the other side stops before its end, says too much, or what is no JSON.
pub(crate) fn receive<T: for<'de> Deserialize<'de>>(stream: &UnixStream) -> io::Result<T> {
    let mut line = String::new();
    BufReader::new(stream.take(LINE)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::from)
}

/// Writes one line.
///
/// # Errors
///
/// When nobody listens any more.
pub(crate) fn send(mut stream: &UnixStream, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// Why the daemon did not help.
#[derive(Debug)]
pub(crate) enum Unserved {
    /// It is not there, or not ours. CNI: the words are those of the reference plugin.
    NoDaemon(Failure),
    /// It could not.
    Refused(Failure),
}

impl From<Unserved> for Failure {
    fn from(unserved: Unserved) -> Self {
        match unserved {
            Unserved::NoDaemon(failure) | Unserved::Refused(failure) => failure,
        }
    }
}

/// Asks the daemon.
///
/// # Errors
///
/// When it is not there, or could not do it.
pub(crate) fn call(socket: &Path, request: &Request) -> Result<Option<NetworkResult>, Unserved> {
    let method = match request {
        Request::Allocate(_) | Request::Check(_) => "Allocate",
        Request::Release(_) => "Release",
        Request::Collect { .. } => "Collect",
        Request::Status => "Status",
    };
    let stream = UnixStream::connect(socket).map_err(|error| {
        let text = format!("error dialing DHCP daemon: dial unix {}: connect: {error}", socket.display());
        Unserved::NoDaemon(
            Failure::text(Code::Internal, text).with_hint(Some("start it: dhcp daemon".into())),
        )
    })?;
    let failed = |why: String| {
        Unserved::Refused(Failure::text(Code::Internal, format!("error calling DHCP.{method}: {why}")))
    };
    let ask = || -> io::Result<Reply> {
        stream.set_read_timeout(Some(PATIENCE))?;
        send(&stream, request)?;
        receive(&stream)
    };
    let reply = ask().map_err(|error| match error.kind() {
        io::ErrorKind::InvalidData => {
            let text = format!("error dialing DHCP daemon: who answers at {} is not ours", socket.display());
            let hint = "the reference's daemon has to go: stop it, and start dhcp daemon";
            Unserved::NoDaemon(Failure::text(Code::Internal, text).with_hint(Some(hint.into())))
        }
        _ => failed(error.to_string()),
    })?;
    match (reply.error, reply.result) {
        (Some(error), _) => Err(failed(error)),
        (None, None) => Ok(None),
        (None, Some(value)) => {
            let result = NetworkResult::from_value(&value, Version::LATEST);
            result.map(Some).map_err(|failure| failed(failure.msg))
        }
    }
}
