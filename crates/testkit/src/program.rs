//! Running programs: to their end with a time limit, or in the background until dropped.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use weft_netns::Netns;

use crate::Container;

/// The folder that holds the binaries under test: `WEFT_BIN_DIR`, or where `cargo xtask stage` puts them.
pub fn staged_folder() -> PathBuf {
    match std::env::var_os("WEFT_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/stage/bin").components().collect(),
    }
}

/// Returns the path of a staged binary.
///
/// # Panics
///
/// If it is not there, saying which command makes it.
pub fn staged(name: &str) -> PathBuf {
    let path = staged_folder().join(name);
    assert!(path.is_file(), "{} is not there: run cargo xtask stage", path.display());
    path
}

/// A program about to be run.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    cleared: bool,
    stdin: Vec<u8>,
    limit: Duration,
    netns: Option<PathBuf>,
}

impl Program {
    /// Names the program: a path, or a name to search for in `PATH`.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let limit = Duration::from_secs(60);
        let path = path.as_ref().to_path_buf();
        Self {
            path,
            args: Vec::new(),
            env: Vec::new(),
            cleared: false,
            stdin: Vec::new(),
            limit,
            netns: None,
        }
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_os_string()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_os_string(), value.as_ref().to_os_string()));
        self
    }

    /// Starts from an empty environment (with the usual `PATH`).
    pub fn env_clear(mut self) -> Self {
        self.cleared = true;
        self
    }

    /// Gives the program's standard input.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Changes the time limit, which is a minute.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts the program in the network namespace of a container or of another host.
    pub fn inside(mut self, netns: &Container) -> Self {
        self.netns = Some(netns.netns());
        self
    }

    /// Runs the program to its end.
    ///
    /// # Panics
    ///
    /// If it cannot be started or exceeds the time limit (it is killed then).
    pub fn run(self) -> Output {
        let line = self.line();
        let mut child = self.start();
        let stdin = child.stdin.take();
        let bytes = self.stdin;
        let feeder = thread::spawn(move || {
            if let Some(mut pipe) = stdin {
                // A program that ends without reading is no error: it may refuse on the environment alone.
                pipe.write_all(&bytes).ok();
            }
        });
        let output = collect(&mut child, &line, self.limit);
        feeder.join().ok();
        output
    }

    /// Starts the program and leaves it running until the returned value is dropped.
    pub fn background(self) -> Background {
        let mut child = self.start();
        drop(child.stdin.take());
        Background { child, line: self.line(), limit: self.limit }
    }

    fn start(&self) -> Child {
        let mut command = Command::new(&self.path);
        if self.cleared {
            command.env_clear();
        }
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
        command.args(&self.args).envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut spawn = || command.spawn();
        let spawned = match &self.netns {
            Some(path) => {
                let entered = Netns::open(path).and_then(|netns| netns.run(spawn));
                entered.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            }
            None => spawn(),
        };
        spawned.unwrap_or_else(|error| panic!("{}: cannot start: {error}", self.line()))
    }

    fn line(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        let args = self.args.iter().map(|arg| arg.to_string_lossy().into_owned());
        std::iter::once(name).chain(args).collect::<Vec<_>>().join(" ")
    }
}

/// Reads what a program says until it has ended.
fn collect(child: &mut Child, line: &str, limit: Duration) -> Output {
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let Ok(stdout) = out.recv_timeout(limit) else {
        child.kill().ok();
        child.wait().ok();
        panic!("{line}: not done after {limit:?}, killed");
    };
    let stderr = err.recv_timeout(limit).unwrap_or_default();
    let status = child.wait().unwrap_or_else(|error| panic!("{line}: cannot wait: {error}"));
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    Output { line: line.to_string(), stdout: text(stdout), stderr: text(stderr), code }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).ok();
        }
        send.send(bytes).ok();
    });
    receive
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A program that runs until this is dropped; then it is killed, by its id.
#[derive(Debug)]
pub struct Background {
    child: Child,
    line: String,
    limit: Duration,
}

impl Background {
    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Tells the program to end (SIGTERM) and returns what it has done.
    ///
    /// # Panics
    ///
    /// If it does not end within the time limit (it is killed then).
    pub fn end(mut self) -> Output {
        let id = Pid::from_raw(self.id().cast_signed());
        kill(id, Signal::SIGTERM)
            .unwrap_or_else(|error| panic!("{}: cannot be told to end: {error}", self.line));
        collect(&mut self.child, &self.line, self.limit)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What a program did.
#[derive(Clone, Debug)]
pub struct Output {
    line: String,
    /// What it printed.
    pub stdout: String,
    /// What it complained.
    pub stderr: String,
    /// Its exit code; 128 and the signal's number when a signal ended it.
    pub code: i32,
}

impl Output {
    /// Asserts success and returns what was printed.
    #[track_caller]
    pub fn expect_ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self}");
        &self.stdout
    }

    /// Asserts success and returns what was printed, read as JSON.
    #[track_caller]
    pub fn expect_json(&self) -> Value {
        let text = self.expect_ok();
        serde_json::from_str(text).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }

    /// Asserts this exit code and that stderr says each of `words`.
    #[track_caller]
    pub fn expect_failure(&self, code: i32, words: &[&str]) -> &str {
        assert_eq!(self.code, code, "{self}");
        for word in words {
            assert!(self.stderr.contains(word), "stderr does not say {word:?}: {self}");
        }
        &self.stderr
    }

    /// Asserts a CNI error object on stdout with this code, and returns it.
    #[track_caller]
    pub fn expect_error(&self, code: u64) -> Value {
        assert_ne!(self.code, 0, "{self}");
        let error: Value =
            serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"));
        assert_eq!(error["code"].as_u64(), Some(code), "{self}");
        error
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "{}: exit code {}\n--- stdout\n{}\n--- stderr\n{}",
            self.line, self.code, self.stdout, self.stderr
        )
    }
}
