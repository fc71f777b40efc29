//! Running a plugin: never a deadlock, never a process left behind, never longer than allowed.
//!
//! Standard input is written while standard output and error are read, so neither side waits for the
//! other. The call is over when the process has exited, even if something it left in the background
//! still holds its standard output: a plugin may well start a daemon.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// How long a plugin may take unless configured otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// How often a file that is being written is tried, with pauses of 25 ms doubled each time (1.6 s in all).
const BUSY_TRIES: u32 = 7;

/// More than this of either output is no CNI conversation.
const OUTPUT_LIMIT: usize = 16 << 20;

/// A process to run.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The binary.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Variables added to our environment, or overriding it.
    pub env: Vec<(OsString, OsString)>,
    /// What it reads.
    pub stdin: Vec<u8>,
    /// When it is killed.
    pub timeout: Duration,
    /// Whether it leads a process group: a runtime's plugins do, so that an interrupt from the terminal
    /// lets them finish and a timeout takes their delegates along; a plugin's delegates do not.
    pub leader: bool,
    /// Whether its input waits for [`Running::begin`] or [`Running::finish`]: the process gets ready, and no more.
    pub held: bool,
}

impl Invocation {
    /// Returns an invocation of `program` with nothing to read, within [`TIMEOUT`], in our process group.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Vec::new(),
            timeout: TIMEOUT,
            leader: false,
            held: false,
        }
    }
}

/// What a process said, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Everything written to standard output.
    pub stdout: Vec<u8>,
    /// Everything written to standard error.
    pub stderr: Vec<u8>,
    /// How the process ended.
    pub status: ExitStatus,
}

/// Why a process did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The binary could not be started.
    #[error("cannot run {}", program.display())]
    Start {
        /// The binary.
        program: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The process was killed because it took too long.
    #[error("{} gave no answer within {} and was killed", program.display(), Span(*.after))]
    Timeout {
        /// The binary.
        program: PathBuf,
        /// The time it had.
        after: Duration,
    },
    /// The process was killed because it would not stop talking.
    #[error("{} wrote more than {} MiB and was killed", program.display(), OUTPUT_LIMIT >> 20)]
    TooMuch {
        /// The binary.
        program: PathBuf,
    },
    /// The conversation broke down.
    #[error("cannot talk to {}", program.display())]
    Talk {
        /// The binary.
        program: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// A duration as people write one.
struct Span(Duration);

impl std::fmt::Display for Span {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.as_secs() {
            0 => write!(out, "{} ms", self.0.as_millis()),
            seconds => write!(out, "{seconds} s"),
        }
    }
}

/// A process that has been started and not been waited for. Dropping it kills it.
#[derive(Debug)]
pub struct Running {
    child: Child,
    exit: OwnedFd,
    program: PathBuf,
    input: Vec<u8>,
    written: usize,
    stdin: Option<ChildStdin>,
    stdout: Sink<ChildStdout>,
    stderr: Sink<ChildStderr>,
    started: Instant,
    timeout: Duration,
    leader: bool,
    reaped: bool,
}

/// One of the process's outputs: what was read, and whence more comes.
#[derive(Debug)]
struct Sink<P> {
    pipe: Option<P>,
    bytes: Vec<u8>,
}

impl<P: Read> Sink<P> {
    /// Reads what is there; forgets the pipe at its end.
    fn drain(&mut self) -> std::io::Result<()> {
        let mut chunk = [0; 4096];
        while let Some(pipe) = &mut self.pipe {
            match pipe.read(&mut chunk) {
                Ok(0) => self.pipe = None,
                Ok(_) if self.bytes.len() > OUTPUT_LIMIT => return Err(ErrorKind::FileTooLarge.into()),
                Ok(read) => self.bytes.extend_from_slice(&chunk[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Runs a process to its end.
///
/// # Errors
///
/// When the process cannot be started, takes too long or the conversation breaks down. A process that
/// ends with a failure is no error here: look at [`Output::status`].
pub fn run(invocation: Invocation) -> Result<Output, ExecError> {
    start(invocation)?.finish()
}

/// Starts a process and, unless its input is held back, hands it as much of that as fits into the pipe.
///
/// # Errors
///
/// When the process cannot be started.
pub fn start(invocation: Invocation) -> Result<Running, ExecError> {
    let Invocation { program, args, env, stdin, timeout, leader, held } = invocation;
    let failed = |source| ExecError::Start { program: program.clone(), source };
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts processes")]
    let mut command = Command::new(&program);
    command.args(args).envs(env).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if leader {
        command.process_group(0);
    }
    let started = Instant::now();
    let mut child = spawn(&mut command).map_err(failed)?;
    let exit = match watch(&child) {
        Ok(exit) => exit,
        Err(source) => {
            drop(child.kill().and_then(|()| child.wait()));
            return Err(failed(source));
        }
    };
    let mut running = Running {
        exit,
        stdin: child.stdin.take(),
        stdout: Sink { pipe: child.stdout.take(), bytes: Vec::new() },
        stderr: Sink { pipe: child.stderr.take(), bytes: Vec::new() },
        child,
        program,
        input: stdin,
        written: 0,
        started,
        timeout,
        leader,
        reaped: false,
    };
    let begin = |running: &mut Running| if held { Ok(()) } else { running.feed() };
    running.unblock().and_then(|()| begin(&mut running)).map_err(|source| running.broken(source))?;
    Ok(running)
}

/// Spawns, and waits for whoever still writes the binary.
fn spawn(command: &mut Command) -> std::io::Result<Child> {
    let mut pause = Duration::from_millis(25);
    for _ in 1..BUSY_TRIES {
        match command.spawn() {
            // KERNEL: execve refuses a file that any process has open for writing (ETXTBSY), which is what a
            // package manager's copy or another thread's fork between open and close looks like.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => std::thread::sleep(pause),
            outcome => return outcome,
        }
        pause *= 2;
    }
    command.spawn()
}

/// Returns a descriptor that becomes readable when the process has exited.
fn watch(child: &Child) -> std::io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(ErrorKind::InvalidData)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

impl Running {
    /// Hands a process whose input was held back as much of it as fits into the pipe. Its time counts from now.
    ///
    /// # Errors
    ///
    /// When the pipe breaks.
    pub fn begin(&mut self) -> Result<(), ExecError> {
        self.started = Instant::now();
        self.feed().map_err(|source| self.broken(source))
    }

    /// As [`begin`](Self::begin), with an input that was not known when the process was started.
    ///
    /// # Errors
    ///
    /// When the pipe breaks.
    pub fn begin_with(&mut self, stdin: Vec<u8>) -> Result<(), ExecError> {
        self.input = stdin;
        self.begin()
    }

    /// Waits for the process to end and returns what it said.
    ///
    /// # Errors
    ///
    /// When the process takes too long or the conversation breaks down. The process is gone either way.
    pub fn finish(mut self) -> Result<Output, ExecError> {
        while !self.step()? {}
        let status = self.child.wait().map_err(|source| self.broken(source))?;
        self.reaped = true;
        Ok(Output {
            stdout: std::mem::take(&mut self.stdout.bytes),
            stderr: std::mem::take(&mut self.stderr.bytes),
            status,
        })
    }

    /// Waits until what the process has printed is `complete`, or the process has ended, and returns what
    /// it has printed so far.
    ///
    /// A process that has said everything still takes a while to end. Whoever uses its answer before has to
    /// [`finish`](Self::finish) and look at the status all the same.
    ///
    /// # Errors
    ///
    /// When the process takes too long or the conversation breaks down.
    pub fn answer(&mut self, complete: impl Fn(&[u8]) -> bool) -> Result<&[u8], ExecError> {
        while !self.step()? && !complete(&self.stdout.bytes) {}
        Ok(&self.stdout.bytes)
    }

    /// Moves what can be moved; returns whether the process has exited.
    fn step(&mut self) -> Result<bool, ExecError> {
        let left = self.timeout.saturating_sub(self.started.elapsed());
        if left.is_zero() {
            return Err(ExecError::Timeout { program: self.program.clone(), after: self.timeout });
        }
        let exited = self.wait(left).map_err(|source| self.broken(source))?;
        self.feed()
            .and_then(|()| self.stdout.drain())
            .and_then(|()| self.stderr.drain())
            .map_err(|source| self.broken(source))?;
        Ok(exited)
    }

    /// Waits until something can be moved or the process has exited; returns whether the latter.
    fn wait(&self, left: Duration) -> std::io::Result<bool> {
        let mut fds = vec![PollFd::new(self.exit.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.stdin.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)));
        fds.extend(self.stdout.pipe.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        fds.extend(self.stderr.pipe.as_ref().map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
        // A wait that ends a millisecond early is asked for again; one rounded down to zero would spin.
        let patience = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, patience) {
            Ok(_) => Ok(fds[0].any().unwrap_or(false)),
            Err(Errno::EINTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes as much input as fits; closes the pipe once all is written or nobody reads.
    fn feed(&mut self) -> std::io::Result<()> {
        while let Some(pipe) = &mut self.stdin {
            match pipe.write(&self.input[self.written..]) {
                Ok(0) => self.stdin = None,
                Ok(written) => self.written += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Not reading its input is the process's right: VERSION does not.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => self.stdin = None,
                Err(error) => return Err(error),
            }
            if self.written == self.input.len() {
                self.stdin = None;
            }
        }
        Ok(())
    }

    /// Makes our ends of the pipes return instead of wait.
    fn unblock(&self) -> std::io::Result<()> {
        let pipes = [
            self.stdin.as_ref().map(AsFd::as_fd),
            self.stdout.pipe.as_ref().map(AsFd::as_fd),
            self.stderr.pipe.as_ref().map(AsFd::as_fd),
        ];
        for pipe in pipes.into_iter().flatten() {
            fcntl(pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        Ok(())
    }

    fn broken(&self, source: std::io::Error) -> ExecError {
        let program = self.program.clone();
        match source.kind() {
            ErrorKind::FileTooLarge => ExecError::TooMuch { program },
            _ => ExecError::Talk { program, source },
        }
    }
}

impl Drop for Running {
    /// Kills what was not waited for, its delegates included, so that neither it nor a zombie stays.
    fn drop(&mut self) {
        if self.reaped {
            return;
        }
        if self.leader
            && let Ok(group) = i32::try_from(self.child.id())
        {
            let _ = killpg(nix::unistd::Pid::from_raw(group), Signal::SIGKILL);
        }
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Invocation {
        Invocation { args: vec!["-c".into(), script.into()], ..Invocation::new("/bin/sh") }
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn input_output_and_status_are_carried() {
        let env = vec![("WORD".into(), "said".into())];
        let output =
            run(Invocation { stdin: b"this".to_vec(), env, ..sh("cat; echo $WORD >&2; exit 3") }).unwrap();
        assert_eq!(text(&output.stdout), "this");
        assert_eq!(text(&output.stderr), "said\n");
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn an_answer_is_there_before_the_process_ends() {
        let mut running = start(sh("echo one; echo two; read line; exit 4")).unwrap();
        let said = running.answer(|bytes| bytes.ends_with(b"two\n")).unwrap();
        assert_eq!(text(said), "one\ntwo\n");
        let output = running.finish().unwrap();
        assert_eq!((text(&output.stdout), output.status.code()), ("one\ntwo\n", Some(4)));

        let mut silent = start(sh("exit 5")).unwrap();
        assert_eq!(silent.answer(|_| false).unwrap(), b"");
        assert_eq!(silent.finish().unwrap().status.code(), Some(5));
    }

    #[test]
    fn a_held_process_begins_when_it_is_told() {
        let held = || Invocation { stdin: b"go".to_vec(), held: true, ..sh("cat; exit 6") };
        let mut running = start(held()).unwrap();
        assert_eq!(running.stdout.bytes, b"");
        running.begin().unwrap();
        assert_eq!(running.answer(|bytes| bytes == b"go").unwrap(), b"go");
        assert_eq!(running.finish().unwrap().status.code(), Some(6));
        assert_eq!(start(held()).unwrap().finish().unwrap().stdout, b"go");
        drop(start(held()).unwrap());

        let mut later = start(Invocation { stdin: Vec::new(), ..held() }).unwrap();
        later.begin_with(b"later".to_vec()).unwrap();
        assert_eq!(later.finish().unwrap().stdout, b"later");
    }

    #[test]
    fn a_process_that_talks_before_it_reads_does_not_deadlock() {
        let script = "head -c 300000 /dev/zero; head -c 300000 /dev/zero >&2; cat";
        let output = run(Invocation { stdin: vec![b'x'; 1_000_000], ..sh(script) }).unwrap();
        assert_eq!(output.stdout.len(), 1_300_000);
        assert_eq!(output.stderr.len(), 300_000);
    }

    #[test]
    fn a_process_that_does_not_read_is_no_error() {
        let output = run(Invocation { stdin: vec![b'x'; 1_000_000], ..sh("exec true") }).unwrap();
        assert!(output.status.success());
    }

    #[test]
    fn what_a_process_leaves_in_the_background_is_not_waited_for() {
        let output = run(sh("echo done; sleep 300 & echo $! >&2")).unwrap();
        assert_eq!(text(&output.stdout), "done\n");
        let pid: i32 = text(&output.stderr).trim().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn a_process_that_hangs_is_killed_with_its_group() {
        let timeout = Duration::from_millis(300);
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let script = format!("sleep 300 & echo $! > {}; wait", note.display());
        let error = run(Invocation { timeout, leader: true, ..sh(&script) }).unwrap_err();
        assert_eq!(error.to_string(), "/bin/sh gave no answer within 300 ms and was killed");

        let pid: i32 = std::fs::read_to_string(note).unwrap().trim().parse().unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while !(state().is_empty() || state().contains(") Z ")) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_process_that_closed_its_outputs_still_has_a_deadline() {
        let timeout = Duration::from_millis(100);
        let error = run(Invocation { timeout, ..sh("exec sleep 300 >&- 2>&-") }).unwrap_err();
        assert!(matches!(error, ExecError::Timeout { .. }), "{error}");
    }

    #[test]
    fn endless_output_ends() {
        let error = run(sh("exec cat /dev/zero")).unwrap_err();
        assert!(matches!(error, ExecError::TooMuch { .. }), "{error}");
    }

    #[test]
    fn a_missing_binary_is_named() {
        let error = run(Invocation::new("/nonexistent/plugin")).unwrap_err();
        assert_eq!(error.to_string(), "cannot run /nonexistent/plugin");
        assert!(matches!(error, ExecError::Start { source, .. } if source.kind() == ErrorKind::NotFound));
    }

    #[test]
    fn a_binary_that_is_being_written_is_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("true");
        std::fs::copy("/bin/true", &program).unwrap();
        let writer = std::fs::File::options().append(true).open(&program).unwrap();
        let closer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            drop(writer);
        });
        assert!(run(Invocation::new(program)).unwrap().status.success());
        closer.join().unwrap();
    }

    #[test]
    fn no_descriptor_is_left_open() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        run(sh("true")).unwrap();
        let before = open();
        run(sh("true")).unwrap();
        drop(run(Invocation::new("/nonexistent/plugin")));
        drop(start(sh("sleep 300")).unwrap());
        assert_eq!(open(), before);
    }
}
