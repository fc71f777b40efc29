//! Calling the plugin that manages addresses.
//!
//! CNI: a delegate is run with our environment and our input, and its answer is ours to interpret (SPEC 1.1.0,
//! section 4). Starting and finishing are two steps, so that the kernel can be busy in between.
//!
//! When the file found for the type is this very binary, its code is here already: it is called instead of started
//! (docs/adr/0002-ipam-runs-beside-the-kernel.md).

use std::borrow::Cow;
use std::io::Write;
use std::time::Duration;

use weft_cni::{Code, Failure, NetworkResult, Verb, Version, json};
use weft_runtime::exec::{self, Invocation, Output};
use weft_runtime::find::find;

use crate::{Attachment, Call, Plugin};

/// How long a delegate may take. Two of them, ADD and the DEL that takes it back, are shorter than a runtime's patience with us
/// (`weft_runtime::exec::TIMEOUT`), so that it is we who name the culprit, and take back what we did.
const LIMIT: Duration = Duration::from_secs(25);

/// What came of asking for an address.
#[derive(Debug)]
pub struct Outcome {
    /// The addresses, or why there are none.
    pub result: Result<NetworkResult, Failure>,
    /// Whether there may be a lease to give back all the same. A delegate that failed and said so has given none; one
    /// that hung, or printed what nobody understands, may have.
    pub held: bool,
}

/// What a delegate is called about.
#[derive(Clone, Copy, Debug)]
pub enum Subject<'call> {
    /// One container's interface.
    Attachment(&'call Attachment),
    /// The network.
    Network(&'call Call),
}

impl<'call> From<&'call Attachment> for Subject<'call> {
    fn from(attachment: &'call Attachment) -> Self {
        Self::Attachment(attachment)
    }
}

impl<'call> From<&'call Call> for Subject<'call> {
    fn from(call: &'call Call) -> Self {
        Self::Network(call)
    }
}

impl<'call> Subject<'call> {
    fn call(self) -> &'call Call {
        match self {
            Self::Attachment(attachment) => &attachment.call,
            Self::Network(call) => call,
        }
    }
}

/// A delegate under way. Dropping it kills it: finish it, and undo what it did.
pub struct Running<'call> {
    way: Way<'call>,
    version: Version,
}

/// How a delegate does its work.
enum Way<'call> {
    /// As a process, of the plugin of this type.
    Process(exec::Running, String),
    /// As a part of this one, when it is asked for its outcome.
    Linked { plugin: &'static dyn Plugin, subject: Subject<'call>, verb: Verb },
}

/// Starts the delegate for addresses.
///
/// # Errors
///
/// Code 999 when it cannot be found or started.
pub fn start<'call>(subject: impl Into<Subject<'call>>, verb: Verb) -> Result<Running<'call>, Failure> {
    spawn(subject.into(), verb, false)
}

/// Starts the delegate for addresses, which gets ready and does nothing before [`begin`] or [`finish`]. Dropping it
/// until then leaves no trace.
///
/// # Errors
///
/// As [`start`].
pub fn prepare<'call>(subject: impl Into<Subject<'call>>, verb: Verb) -> Result<Running<'call>, Failure> {
    spawn(subject.into(), verb, true)
}

/// Returns whether the plugin for addresses gives them back over the interface that has them.
///
/// A plugin of that type which is not this binary is taken to work as ours does; one of a type we do not have is
/// taken not to (docs/adr/0017-links-before-addresses.md).
pub fn needs_link(call: &Call) -> bool {
    let plugin = call.conf.ipam_type().and_then(|kind| call.linked.get(kind));
    plugin.is_some_and(Plugin::needs_link)
}

/// Lets a delegate that was prepared do its work.
///
/// # Errors
///
/// Code 999 when it is not there any more.
pub fn begin(running: &mut Running<'_>) -> Result<(), Failure> {
    match &mut running.way {
        Way::Process(process, _) => process.begin().map_err(internal),
        Way::Linked { .. } => Ok(()),
    }
}

fn spawn(subject: Subject<'_>, verb: Verb, held: bool) -> Result<Running<'_>, Failure> {
    let call = subject.call();
    let version = call.conf.version;
    let kind = call.conf.ipam_type().unwrap_or_default();
    let program = find(kind, &call.paths).map_err(internal)?;
    if let Some(plugin) = call.linked.behind(kind, &program) {
        return Ok(Running { way: Way::Linked { plugin, subject, verb }, version });
    }
    let process = exec::start(Invocation {
        env: vec![("CNI_COMMAND".into(), verb.as_str().into())],
        stdin: call.stdin.clone(),
        held,
        timeout: LIMIT,
        ..Invocation::new(program)
    });
    Ok(Running { way: Way::Process(process.map_err(internal)?, kind.into()), version })
}

/// Waits until the delegate has printed a result with addresses, and returns it. The delegate may not have ended yet:
/// the result is good only once [`finish`] has returned the same. `None` means that only `finish` can tell.
///
/// # Errors
///
/// The delegate's own failure with its own code, or what went wrong in between.
pub fn answer(running: &mut Running<'_>) -> Result<Option<NetworkResult>, Failure> {
    let Way::Process(process, _) = &mut running.way else { return Ok(None) };
    let printed = process.answer(|bytes| json::parse(bytes).is_ok()).map_err(internal)?;
    let result =
        json::parse(printed).ok().and_then(|value| NetworkResult::from_value(&value, running.version).ok());
    // What has no addresses may be an error object: `finish` tells.
    Ok(result.filter(|result| !result.ips.is_empty()))
}

/// Waits for the delegate's end and returns its answer. Only ADD has one; that of other verbs is empty.
///
/// # Errors
///
/// The delegate's own failure with its own code, or what went wrong in between.
pub fn finish(running: Running<'_>) -> Result<NetworkResult, Failure> {
    outcome(running).result
}

/// Waits for the delegate's end and returns its answer, and whether there may be a lease.
pub fn outcome(running: Running<'_>) -> Outcome {
    let version = running.version;
    let (process, kind) = match running.way {
        Way::Process(process, kind) => (process, kind),
        Way::Linked { plugin, subject, verb } => {
            let result = perform(plugin, subject, verb);
            return Outcome { held: result.is_ok(), result };
        }
    };
    let output = match process.finish() {
        Ok(output) if output.status.success() => output,
        Ok(output) => return Outcome { result: Err(failure(&output)), held: false },
        Err(error) => return Outcome { result: Err(internal(error)), held: true },
    };
    pass_on(&output.stderr);
    if output.stdout.trim_ascii().is_empty() {
        return Outcome { result: Ok(NetworkResult::default()), held: true };
    }
    let value = json::parse(&output.stdout).map_err(|error| Failure::new(Code::Decode, error));
    let result = value.and_then(|value| NetworkResult::from_value(&value, version));
    let result = result
        .map_err(|failure| failure.while_doing(format!("cannot read the result of IPAM plugin {kind:?}")));
    Outcome { result, held: true }
}

/// Runs the delegate for addresses to its end.
///
/// # Errors
///
/// As [`start`] and [`finish`].
pub fn run<'call>(subject: impl Into<Subject<'call>>, verb: Verb) -> Result<NetworkResult, Failure> {
    finish(start(subject, verb)?)
}

/// Does in this process what the delegate would do in its own.
fn perform(plugin: &dyn Plugin, subject: Subject<'_>, verb: Verb) -> Result<NetworkResult, Failure> {
    let nothing = |()| NetworkResult::default();
    let mut call = Cow::Borrowed(subject.call());
    if call.verb != verb {
        call.to_mut().verb = verb;
    }
    let Subject::Attachment(attachment) = subject else {
        return match verb {
            Verb::Gc => plugin.gc(&call).map(nothing),
            _ => plugin.status(&call).map(nothing),
        };
    };
    let attachment = match call {
        Cow::Borrowed(_) => Cow::Borrowed(attachment),
        Cow::Owned(call) => Cow::Owned(Attachment { call, ..attachment.clone() }),
    };
    match verb {
        Verb::Add => plugin.add(&attachment),
        Verb::Check => plugin.check(&attachment).map(nothing),
        _ => plugin.del(&attachment).map(nothing),
    }
}

fn internal(error: impl std::error::Error) -> Failure {
    Failure::new(Code::Internal, error)
}

/// Returns what a delegate that failed has to say. The texts are the reference implementation's.
fn failure(output: &Output) -> Failure {
    let status = output.status.to_string().replace("exit status: ", "exit status ");
    if output.stdout.is_empty() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Failure::text(
            Code::Internal,
            match stderr.as_ref() {
                "" => format!("netplugin failed with no error message: {status}"),
                stderr => format!("netplugin failed: {stderr:?}: {status}"),
            },
        );
    }
    pass_on(&output.stderr);
    Failure::from_json(&output.stdout).unwrap_or_else(|| {
        let has = |key| json::parse(&output.stdout).is_ok_and(|value| json::get(&value, key).is_some());
        if has("ips") || has("ip4") {
            return Failure::text(
                Code::Internal,
                format!("netplugin failed after it printed a result: {status}"),
            );
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let why =
            json::parse(&output.stdout).err().map_or("no error object".into(), |error| error.to_string());
        let msg = format!("netplugin failed but error parsing its diagnostic message {stdout:?}: {why}");
        Failure::text(Code::Internal, msg)
    })
}

/// Hands on what the delegate wrote for people to read.
fn pass_on(stderr: &[u8]) {
    if !stderr.is_empty() {
        // Whoever closed stderr does not want to know.
        drop(std::io::stderr().write_all(stderr));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;

    use tempfile::TempDir;
    use weft_cni::NetConf;
    use weft_state::Root;

    use super::*;

    /// Returns a directory with an IPAM plugin `ipam` that is this shell script.
    fn plugin(script: &str) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut file = OpenOptions::new();
        let mut file = file.write(true).create(true).mode(0o755).open(dir.path().join("ipam")).unwrap();
        file.write_all(format!("#!/bin/sh\n{script}\n").as_bytes()).unwrap();
        dir
    }

    fn call(version: &str, paths: &[&Path]) -> Call {
        let stdin = format!(r#"{{"cniVersion":"{version}","name":"n","type":"x","ipam":{{"type":"ipam"}}}}"#);
        Call {
            verb: Verb::Add,
            conf: NetConf::parse(stdin.as_bytes()).unwrap(),
            stdin: stdin.into_bytes(),
            paths: paths.iter().map(|path| path.to_path_buf()).collect(),
            root: Root::new(None),
            args: String::new(),
            linked: crate::Linked::default(),
        }
    }

    fn outcome(script: &str) -> Result<NetworkResult, (u32, String)> {
        let dir = plugin(script);
        run(&call("1.0.0", &[dir.path()]), Verb::Add).map_err(|failure| (failure.code.number(), failure.msg))
    }

    #[test]
    fn a_delegate_gets_our_input_and_another_command() {
        let dir = plugin(r#"cat > "$0.stdin"; echo "$CNI_COMMAND" > "$0.command""#);
        let call = call("0.4.0", &[Path::new("/nonexistent"), dir.path()]);
        for verb in [Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status] {
            assert_eq!(run(&call, verb).unwrap(), NetworkResult::default());
            let read = |what: &str| fs::read(dir.path().join(what)).unwrap();
            assert_eq!(read("ipam.stdin"), call.stdin);
            assert_eq!(read("ipam.command"), format!("{verb}\n").as_bytes());
        }
    }

    #[test]
    fn a_result_is_read_in_the_configurations_version_unless_it_has_its_own() {
        let ip = r#"{"ip4":{"ip":"10.0.0.2/8"}}"#;
        let dir = plugin(&format!("echo '{ip}'"));
        let result = run(&call("0.2.0", &[dir.path()]), Verb::Add).unwrap();
        assert_eq!(result.ips[0].address, "10.0.0.2/8".parse().unwrap());
        assert_eq!(run(&call("1.0.0", &[dir.path()]), Verb::Add).unwrap().ips, []);
        let own = outcome(r#"echo '{"cniVersion":"0.2.0","ip4":{"ip":"10.0.0.2/8"}}'"#).unwrap();
        assert_eq!(own.ips.len(), 1);
        for nothing in ["", "echo", "echo null"] {
            assert_eq!(outcome(nothing), Ok(NetworkResult::default()));
        }
    }

    #[test]
    fn a_failure_keeps_its_code() {
        let script = r#"echo '{"code":11,"msg":"later","details":"d"}'; exit 1"#;
        assert_eq!(outcome(script), Err((11, "later".into())));
    }

    #[test]
    fn a_delegate_that_fails_without_an_error_object_is_quoted() {
        let quoted = "netplugin failed but error parsing its diagnostic message";
        for (script, msg) in [
            ("exit 1", "netplugin failed with no error message: exit status 1".into()),
            ("echo oops >&2; exit 3", r#"netplugin failed: "oops\n": exit status 3"#.into()),
            ("printf garbage; exit 1", format!("{quoted} \"garbage\": expected value at line 1 column 1")),
            ("printf '{}'; exit 1", format!("{quoted} \"{{}}\": no error object")),
            (
                r#"echo '{"ips":[]}'; exit 1"#,
                "netplugin failed after it printed a result: exit status 1".into(),
            ),
            ("kill -9 $$", "netplugin failed with no error message: signal: 9 (SIGKILL)".into()),
        ] {
            assert_eq!(outcome(script), Err((999, msg)), "{script}");
        }
        let (code, msg) = outcome("echo garbage").unwrap_err();
        assert_eq!(code, 6);
        assert!(msg.starts_with("cannot read the result of IPAM plugin \"ipam\": expected value"), "{msg}");
    }

    #[test]
    fn a_delegate_that_hangs_is_named_and_may_hold_a_lease() {
        let dir = plugin("exec sleep 300");
        let program = dir.path().join("ipam");
        let limited = Invocation { timeout: Duration::from_millis(50), ..Invocation::new(program.clone()) };
        let way = Way::Process(exec::start(limited).unwrap(), "ipam".into());
        let outcome = super::outcome(Running { way, version: Version::ALL[0] });
        assert!(outcome.held);
        let msg = outcome.result.unwrap_err().msg;
        assert!(msg.contains(program.to_str().unwrap()) && msg.contains("within"), "{msg}");
    }

    #[test]
    fn a_delegate_that_is_not_there_is_told_with_the_path() {
        let told = |call: &Call| run(call, Verb::Add).unwrap_err().msg;
        let mut without = call("1.0.0", &[Path::new("/a"), Path::new("/b")]);
        assert_eq!(told(&without), r#"failed to find plugin "ipam" in path [/a /b]"#);
        without.conf.ipam = None;
        assert_eq!(told(&without), "no plugin name provided");
        assert_eq!(told(&call("1.0.0", &[])), "no paths provided");
    }

    // https://github.com/containernetworking/cni: the reference implementation takes a binary that stays busy for
    // one that succeeded without a word.
    #[test]
    fn a_binary_that_is_being_written_is_waited_for_and_then_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ipam");
        fs::copy("/bin/true", &path).unwrap();
        let busy = OpenOptions::new().append(true).open(&path).unwrap();
        let failure = run(&call("1.0.0", &[dir.path()]), Verb::Add).unwrap_err();
        assert!(failure.msg.contains("Text file busy"), "{failure}");
        drop(busy);
        run(&call("1.0.0", &[dir.path()]), Verb::Add).unwrap();
    }

    #[test]
    fn much_input_and_output_pass() {
        let dir = plugin("cat > \"$0.stdin\"; head -c 200000 /dev/zero | tr '\\0' ' '; echo '{}'");
        let mut call = call("1.0.0", &[dir.path()]);
        call.stdin = vec![b' '; 300_000];
        assert_eq!(run(&call, Verb::Add).unwrap(), NetworkResult::default());
        let mut stdin = Vec::new();
        fs::File::open(dir.path().join("ipam.stdin")).unwrap().read_to_end(&mut stdin).unwrap();
        assert_eq!(stdin.len(), 300_000);
    }
}
