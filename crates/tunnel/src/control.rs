//! How a tunnel process is asked: one line of JSON there, one back, over a socket that only root reaches.

use std::borrow::Cow;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use weft_overlay::ids::PublicKey;

use crate::mesh::PeerStats;

/// Which version answers.
pub(crate) const VERSION: &str = concat!("weftd tunnel ", env!("CARGO_PKG_VERSION"));

/// A longer line is none of ours.
const LINE: u64 = 4 << 20;
/// How long the other side has.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a tunnel is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", tag = "do")]
pub(crate) enum Request {
    /// How things stand.
    Stats,
    /// Begin a handshake with a peer.
    Handshake {
        /// Which.
        peer: PublicKey,
    },
    /// Read the configuration again, now.
    Reload,
    /// End, and do not come back.
    Stop,
}

/// What it answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Why not, if not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Its process.
    pub(crate) pid: u32,
    /// Its version; nothing from one that is older than versions are told.
    #[serde(default)]
    pub(crate) version: Cow<'static, str>,
    /// What the kernel does for it.
    #[serde(default)]
    pub(crate) offloads: Vec<String>,
    /// Its peers.
    #[serde(default)]
    pub(crate) peers: Vec<PeerStats>,
}

/// Asks the tunnel behind a socket.
pub(crate) fn ask(socket: &Path, request: &Request) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    say(&mut stream, request)?;
    hear(stream)
}

/// Answers one request on a connection.
pub(crate) fn answer(stream: UnixStream, reply: impl FnOnce(Request) -> Answer) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut back = stream.try_clone()?;
    let answer = match hear(stream) {
        Ok(request) => reply(request),
        Err(error) => Answer { error: Some(format!("that is no request: {error}")), ..Answer::default() },
    };
    say(&mut back, &answer)
}

fn say(stream: &mut UnixStream, what: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    stream.write_all(&line)
}

fn hear<T: DeserializeOwned>(stream: UnixStream) -> io::Result<T> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE)).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_answered_and_what_is_no_request_is_said_to_be_none() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        say(&mut ours, &Request::Handshake { peer: PublicKey([3; 32]) }).unwrap();
        let seen = |request| {
            assert_eq!(request, Request::Handshake { peer: PublicKey([3; 32]) });
            Answer { pid: 7, ..Answer::default() }
        };
        answer(theirs, seen).unwrap();
        assert_eq!(hear::<Answer>(ours).unwrap().pid, 7);
        for bad in ["", "\n", "{}\n", "{\"do\":\"nothing\"}\n", "\u{fffd}\n"] {
            let (mut ours, theirs) = UnixStream::pair().unwrap();
            ours.write_all(bad.as_bytes()).unwrap();
            ours.shutdown(std::net::Shutdown::Write).unwrap();
            answer(theirs, |_| panic!("{bad:?} is no request")).unwrap();
            assert!(hear::<Answer>(ours).unwrap().error.unwrap().starts_with("that is no request"));
        }
    }
}
