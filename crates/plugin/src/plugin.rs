//! What the author of a plugin writes.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use serde_json::Value;
use weft_cni::{Code, ComposeRequest, Failure, Finding, NetworkResult, Version};
use weft_state::Root;

use crate::dispatch::{Inputs, answer, unnamed};
use crate::{About, Attachment, Call, Head, Linked};

/// A CNI plugin.
///
/// The environment has been checked, the configuration read and the version negotiated before any of
/// these is called. What they return is printed as the protocol has it.
pub trait Plugin: Sync {
    /// Returns what `describe` tells.
    fn about(&self) -> &'static About;

    /// Connects a container.
    ///
    /// # Errors
    ///
    /// When it cannot be; nothing is left behind then.
    fn add(&self, attachment: &Attachment) -> Result<NetworkResult, Failure>;

    /// Verifies a connection.
    ///
    /// # Errors
    ///
    /// When it is not as ADD left it.
    fn check(&self, attachment: &Attachment) -> Result<(), Failure>;

    /// Disconnects a container. Nothing to disconnect is no error.
    ///
    /// # Errors
    ///
    /// When something is left.
    fn del(&self, attachment: &Attachment) -> Result<(), Failure>;

    /// Removes what belongs to no attachment that is still valid.
    ///
    /// # Errors
    ///
    /// When something is left.
    fn gc(&self, call: &Call) -> Result<(), Failure>;

    /// Says whether ADD could be served.
    ///
    /// # Errors
    ///
    /// When it could not.
    fn status(&self, call: &Call) -> Result<(), Failure>;

    /// Returns the plugins of a conflist for a network of the manager.
    ///
    /// # Errors
    ///
    /// When the plugin makes no networks, or not this one.
    fn compose(&self, request: &ComposeRequest, _root: &Root) -> Result<Vec<Value>, Failure> {
        let msg = format!("{} is not a network driver: it cannot make {}", self.about().kind, request.name);
        Err(Failure::text(Code::InvalidConfig, msg))
    }

    /// Writes what somebody took away from the firewall and the kernel's settings again, for these networks and for
    /// whatever they share. Plugins that keep nothing there have nothing to do.
    ///
    /// # Errors
    ///
    /// When something could not be put back; the rest was.
    fn reload(&self, _root: &Root, _networks: &[Call]) -> Result<(), Failure> {
        Ok(())
    }

    /// Says what is missing of these networks and of what they share.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    fn doctor(&self, _root: &Root, _networks: &[Call]) -> Result<Vec<Finding>, Failure> {
        Ok(Vec::new())
    }

    /// Returns whether this is an IPAM plugin that gives an address back over the interface which has it: then it is
    /// asked before the interface is removed, and not after.
    fn needs_link(&self) -> bool {
        false
    }

    /// Runs a command of the plugin's own, such as a daemon, and returns its exit code; nothing for words that are none.
    fn command(&self, _words: &[String], _root: &Root) -> Option<i32> {
        None
    }

    /// Returns whether the container is meant to be in the host's namespace. For every other plugin, being called
    /// with its own namespace is an error.
    fn shares_host_namespace(&self) -> bool {
        false
    }
}

/// Runs one of the plugins as a process: the one whose name the process was started under. Reads the environment
/// and stdin, prints the outcome, and returns the exit code. Works without the standard library's own start-up.
pub fn main(plugins: &'static [&'static dyn Plugin], head: &'static Head) -> i32 {
    panic::set_hook(Box::new(report_panic));
    // Whoever stops listening is told by the error of the write, not by our death half-way. A child starts with none
    // blocked, as the standard library sees to.
    SigSet::from(Signal::SIGPIPE).thread_block().ok();
    let linked = Linked { plugins, head: Some(head) };
    let inputs = Inputs {
        linked,
        variable: &|name| std::env::var_os(name),
        argument: &|| -> Option<OsString> { std::env::args_os().nth(1) },
        stdin: &mut Descriptor(io::stdin()),
    };
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy();
    let reply = match linked.get(&name) {
        Some(plugin) => match own_command(plugin) {
            Some(code) => return code,
            None => answer(plugin, inputs),
        },
        None => unnamed(&name, inputs),
    };
    if !reply.stderr.is_empty() {
        // Whoever closed stderr does not want to know.
        drop(write_all(&io::stderr(), reply.stderr.as_bytes()));
    }
    let written = reply.stdout.is_empty() || write_all(&io::stdout(), reply.stdout.as_bytes()).is_ok();
    i32::from(!reply.ok || !written)
}

/// CNI: the reference `dhcp` plugin is told by its first word that it is a daemon, whatever the environment says.
fn own_command(plugin: &dyn Plugin) -> Option<i32> {
    let words: Vec<String> = std::env::args_os().skip(1).filter_map(|word| word.into_string().ok()).collect();
    if words.is_empty() { None } else { plugin.command(&words, &Root::from_env()) }
}

/// A descriptor read without a buffer between: the whole input goes into one vector anyway.
struct Descriptor<F>(F);

impl<F: AsFd> Read for Descriptor<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(self.0.as_fd(), buffer) {
                Err(Errno::EINTR) => {}
                outcome => return outcome.map_err(io::Error::from),
            }
        }
    }
}

/// Writes past the standard library's line buffer, which would turn one document into several writes.
fn write_all(file: &impl AsFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match nix::unistd::write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Tells the runtime about a bug of ours in the way it understands.
#[expect(
    clippy::exit,
    reason = "aborting, which is what follows otherwise, would look like a crash of the runtime's"
)]
fn report_panic(info: &PanicHookInfo<'_>) {
    let what = info.payload_as_str().unwrap_or("panic");
    let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
    let msg = format!("internal error: {what}{}", place.unwrap_or_default());
    let object = Failure::text(Code::Internal, msg).to_json(Version::LATEST);
    drop(write_all(&io::stdout(), object.as_bytes()));
    std::process::exit(1)
}

#[cfg(test)]
mod tests {
    use weft_runtime::exec::{self, Invocation};

    use super::*;

    struct Broken;

    impl Plugin for Broken {
        fn about(&self) -> &'static About {
            panic!("the {} is missing", "description")
        }

        fn add(&self, _: &Attachment) -> Result<NetworkResult, Failure> {
            unreachable!()
        }

        fn check(&self, _: &Attachment) -> Result<(), Failure> {
            unreachable!()
        }

        fn del(&self, _: &Attachment) -> Result<(), Failure> {
            unreachable!()
        }

        fn gc(&self, _: &Call) -> Result<(), Failure> {
            unreachable!()
        }

        fn status(&self, _: &Call) -> Result<(), Failure> {
            unreachable!()
        }
    }

    #[test]
    fn a_bug_is_told_as_an_error_object() {
        if std::env::var_os("CNI_COMMAND").is_some() {
            main(&[&Broken], &[0; 1024]);
            return;
        }
        // A panic ends the process, so this test is run once more as one that may.
        let this = "plugin::tests::a_bug_is_told_as_an_error_object";
        let output = exec::run(Invocation {
            args: vec![this.into(), "--exact".into(), "--nocapture".into()],
            env: vec![("CNI_COMMAND".into(), "VERSION".into())],
            ..Invocation::new(std::env::current_exe().unwrap())
        });
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1));
        let stdout = String::from_utf8(output.stdout).unwrap();
        let failure = Failure::from_json(&stdout.as_bytes()[stdout.find('{').unwrap()..]).unwrap();
        assert_eq!(failure.code, Code::Internal);
        assert!(failure.msg.starts_with("internal error: the description is missing at "), "{failure}");
    }
}
