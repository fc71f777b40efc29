//! The socket that `weft overlay` and the manager ask at: JSON lines, as `weft_manager::overlay::protocol` has them.
//!
//! Whoever asks may be slow, talk nonsense or go away: that costs its own task and nobody else's.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use weft_manager::Kind;
use weft_manager::overlay::protocol::{Answer, LONGEST_QUESTION, Question, Refusal, Request, VERSION};

/// How long a question may take to arrive, and an answer to be taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody who waits is told that we are still there.
const STILL_THERE: Duration = Duration::from_secs(2);
/// How many may ask at a time.
const MOST: usize = 64;

/// A question, and the way back.
#[derive(Debug)]
pub(crate) struct Call {
    /// What is asked for.
    pub(crate) request: Request,
    /// Where the answer goes.
    pub(crate) reply: Reply,
}

/// The way back to somebody who has asked. Whether they are still there is no matter to whoever answers.
#[derive(Clone, Debug)]
pub(crate) struct Reply(mpsc::UnboundedSender<Answer>);

impl Reply {
    /// Tells what is being done meanwhile.
    pub(crate) fn progress(&self, what: impl Into<String>) {
        self.0.send(Answer::Progress(what.into())).ok();
    }

    /// Gives the answer.
    pub(crate) fn answer(&self, outcome: Result<impl Serialize, Refusal>) {
        let answer = match outcome {
            Ok(value) => Answer::Done(json!(value)),
            Err(refusal) => Answer::Refused(refusal),
        };
        self.0.send(answer).ok();
    }
}

/// Listens. The caller has the lock that says that no other agent does.
///
/// # Errors
///
/// When the socket cannot be made.
pub(crate) fn listen(path: &Path) -> Result<UnixListener> {
    let context = || path.display().to_string();
    if let Some(dir) = path.parent() {
        weft_state::atomic::create_dir(dir, 0o755).with_context(context)?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(context)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).with_context(context)?;
    Ok(listener)
}

/// Takes questions until the process ends.
pub(crate) async fn serve(listener: UnixListener, calls: mpsc::Sender<Call>) {
    let seats = Rc::new(Semaphore::new(MOST));
    loop {
        match listener.accept().await {
            Ok((stream, _)) if seats.available_permits() > 0 => {
                let (seats, calls) = (seats.clone(), calls.clone());
                tokio::task::spawn_local(async move {
                    let Ok(_seat) = seats.acquire().await else { return };
                    // Whoever went away needs no answer, and nobody else does.
                    converse(stream, &calls).await.ok();
                });
            }
            // So many ask at once that one is turned away: it sees the end of the stream.
            Ok(_) => {}
            // Descriptors are short: those who hold some finish meanwhile.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn converse(stream: UnixStream, calls: &mpsc::Sender<Call>) -> Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(LONGEST_QUESTION));
    timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await.context("no question")??;
    let request = match read(&line) {
        Ok(request) => request,
        Err(refusal) => return tell(&mut writer, &Answer::Refused(refusal)).await,
    };
    let (sender, mut answers) = mpsc::unbounded_channel();
    calls.send(Call { request, reply: Reply(sender) }).await.context("nobody answers any more")?;
    let mut last = String::from("at work");
    loop {
        let (answer, news) = match timeout(STILL_THERE, answers.recv()).await {
            Ok(Some(answer)) => (answer, true),
            Ok(None) => (Answer::Refused(Refusal::new(Kind::Failed, "weftd agent was told to end")), true),
            Err(_) => (Answer::Progress(format!("still {last}")), false),
        };
        tell(&mut writer, &answer).await?;
        match answer {
            Answer::Progress(what) if news => last = what,
            Answer::Progress(_) => {}
            Answer::Done(_) | Answer::Refused(_) => return Ok(()),
        }
    }
}

async fn tell(writer: &mut OwnedWriteHalf, answer: &Answer) -> Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(PATIENCE, writer.write_all(&line)).await.context("nobody reads the answer")??;
    Ok(())
}

/// Reads a question that may be anything.
fn read(line: &[u8]) -> Result<Request, Refusal> {
    let usage = |why: String| Refusal::new(Kind::Usage, why);
    if line.last() != Some(&b'\n') {
        return Err(usage(format!("a question is a line of at most {LONGEST_QUESTION} bytes")));
    }
    let garbled = |error: serde_json::Error| usage(format!("no question: {error}"));
    let version = serde_json::from_slice::<Version>(line).map_err(garbled)?.version;
    if version != VERSION {
        let why = format!("the question has version {version}, the agent speaks {VERSION}");
        return Err(usage(why).hint("systemctl restart weft-agent: weft was upgraded and the agent was not"));
    }
    serde_json::from_slice::<Question>(line).map(|question| question.request).map_err(garbled)
}

/// What every question has, of whatever version.
#[derive(serde::Deserialize)]
struct Version {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_said_is_understood_or_refused() {
        assert_eq!(read(b"{\"version\":1,\"request\":\"status\"}\n").unwrap(), Request::Status);
        for (line, part) in [
            (&b""[..], "a line of at most"),
            (b"{\"version\":1,\"request\":\"status\"}", "a line of at most"),
            (b"\n", "no question"),
            (b"\xff\xfe\n", "no question"),
            (b"{\"version\":2,\"request\":\"status\"}\n", "version 2"),
            (b"{\"version\":1,\"request\":\"sing\"}\n", "no question"),
            (
                b"{\"version\":1,\"request\":{\"diag\":{\"address\":\"10.1.0.0/16\",\"network\":null}}}\n",
                "no question",
            ),
        ] {
            let refusal = read(line).unwrap_err();
            assert!(refusal.why.contains(part) && refusal.kind == Kind::Usage, "{refusal:?}");
        }
        let deep = [b"{\"version\":1,\"request\":".to_vec(), vec![b'['; 60_000], vec![b'\n']].concat();
        assert!(read(&deep).is_err());
    }
}
