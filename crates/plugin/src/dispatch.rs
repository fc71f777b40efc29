//! From a process's inputs to its outputs. Everything a plugin binary does that its author need not think of.

use std::ffi::OsString;
use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use weft_cni::{Code, ComposeRequest, Failure, Findings, MendRequest, NetConf, Verb, Version, json};
use weft_model::Endpoint;
use weft_netns::Netns;
use weft_state::Root;

use crate::env::Environment;
use crate::{About, Attachment, Call, Linked, Plugin};

/// A process's inputs.
pub(crate) struct Inputs<'a> {
    pub(crate) variable: &'a dyn Fn(&str) -> Option<OsString>,
    /// The first command line argument: looked at only when no runtime is calling.
    pub(crate) argument: &'a dyn Fn() -> Option<OsString>,
    pub(crate) stdin: &'a mut dyn Read,
    /// The plugins in this binary.
    pub(crate) linked: Linked,
}

/// A process's outputs.
#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) ok: bool,
}

impl Reply {
    fn printed(stdout: String) -> Self {
        Self { stdout, stderr: String::new(), ok: true }
    }

    fn failed(failure: &Failure, version: Version) -> Self {
        Self { stdout: failure.to_json(version), stderr: String::new(), ok: false }
    }
}

/// Does what the inputs ask for.
pub(crate) fn answer(plugin: &dyn Plugin, inputs: Inputs<'_>) -> Reply {
    let env = match Environment::read(inputs.variable) {
        Ok(Some(env)) => env,
        Ok(None) => return without_runtime(plugin, inputs),
        Err(failure) => return Reply::failed(&failure, Version::LATEST),
    };
    if env.verb == Some(Verb::Version) {
        return Reply::printed(versions(plugin.about()));
    }
    let stdin = match read(inputs.stdin) {
        Ok(stdin) => stdin,
        Err(failure) => return Reply::failed(&failure, Version::LATEST),
    };
    // Kept for the error object: the configuration itself may turn out to be the error.
    let fallback = |stdin: &[u8]| NetConf::version_of(stdin).unwrap_or(Version::LATEST);
    let verb = match env.known_verb() {
        Ok(verb) => verb,
        // CNI: a configuration that cannot be read is told before a command that is unknown.
        Err(unknown) => {
            let failure =
                NetConf::parse(&stdin).err().filter(|failure| failure.code != Code::IncompatibleVersion);
            return Reply::failed(&failure.unwrap_or(unknown), fallback(&stdin));
        }
    };
    let conf = match NetConf::parse_for(&stdin, verb, plugin.about().versions) {
        Ok(conf) => conf,
        Err(failure) => return Reply::failed(&failure, fallback(&stdin)),
    };
    let version = conf.version;
    let root = root(&inputs);
    match perform(plugin, verb, env, conf, stdin, root, inputs.linked) {
        Ok(stdout) => Reply::printed(stdout),
        Err(failure) => Reply::failed(&failure, version),
    }
}

/// Answers for a process that was not started under the name of a plugin.
pub(crate) fn unnamed(name: &str, inputs: Inputs<'_>) -> Reply {
    let names = inputs.linked.names();
    let text = format!("{name:?} is no plugin: start this binary under the name of one, which are {names}");
    if (inputs.variable)("CNI_COMMAND").is_some() {
        return Reply::failed(&Failure::text(Code::InvalidEnvironment, text), Version::LATEST);
    }
    Reply { stdout: String::new(), stderr: format!("{text}\n"), ok: false }
}

/// Runs a verb and returns what it prints.
fn perform(
    plugin: &dyn Plugin,
    verb: Verb,
    env: Environment,
    conf: NetConf,
    stdin: Vec<u8>,
    root: Root,
    linked: Linked,
) -> Result<String, Failure> {
    let Environment { container, netns, ifname, args, paths, own_netns_allowed, .. } = env;
    let call = Call { verb, conf, stdin, paths, root, args, linked };
    let silent = |()| String::new();
    let (Some(container), Some(ifname)) = (container, ifname) else {
        return match verb {
            Verb::Gc => plugin.gc(&call).map(silent),
            Verb::Status => plugin.status(&call).map(silent),
            // INVARIANT: the environment of every other verb has been checked for both.
            _ => Err(Failure::text(Code::Internal, format!("{verb} without a container"))),
        };
    };
    // CNI: the reference implementation looks after the work is done; the host's interfaces are changed by then.
    if verb != Verb::Check && !own_netns_allowed && !plugin.shares_host_namespace() {
        refuse_own_netns(netns.as_deref())?;
    }
    let endpoint = Endpoint { network: call.conf.name.clone(), container, ifname };
    let attachment = Attachment { endpoint, netns, call };
    match verb {
        Verb::Add => plugin.add(&attachment)?.to_json(attachment.conf.version),
        Verb::Check => plugin.check(&attachment).map(silent),
        _ => plugin.del(&attachment).map(silent),
    }
}

fn root(inputs: &Inputs<'_>) -> Root {
    Root::new((inputs.variable)(Root::VARIABLE).filter(|dir| !dir.is_empty()).map(Into::into))
}

fn refuse_own_netns(netns: Option<&Path>) -> Result<(), Failure> {
    // A namespace that cannot be looked at is not ours: ours is there.
    let is_ours = |path| Netns::current().is_ok_and(|own| own.is_at(path));
    if netns.is_some_and(is_ours) {
        let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
        return Err(Failure::text(Code::InvalidNetns, msg));
    }
    Ok(())
}

fn read(stdin: &mut dyn Read) -> Result<Vec<u8>, Failure> {
    // Most fit, and share a page with what is read from them.
    let mut bytes = Vec::with_capacity(1024);
    match stdin.read_to_end(&mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(Failure::text(Code::Io, format!("error reading from stdin: {error}"))),
    }
}

/// Returns the answer to VERSION. CNI: the version is ours, whatever the caller's.
fn versions(about: &About) -> String {
    let list: Vec<&str> = about.versions.iter().map(|version| version.as_str()).collect();
    let list = list.join("\",\"");
    format!("{{\"cniVersion\":\"{}\",\"supportedVersions\":[\"{list}\"]}}\n", Version::LATEST)
}

/// Serves the manager and people: there is no `CNI_COMMAND`.
fn without_runtime(plugin: &dyn Plugin, inputs: Inputs<'_>) -> Reply {
    let argument = (inputs.argument)();
    let outcome = match argument.as_ref().and_then(|argument| argument.to_str()) {
        Some("describe") => Ok(json::pretty(plugin.about()) + "\n"),
        Some("compose") => compose(plugin, inputs),
        Some("reload") => reload(plugin, inputs),
        Some("doctor") => doctor(plugin, inputs),
        _ => return Reply { stdout: String::new(), stderr: introduction(plugin.about()), ok: true },
    };
    match outcome {
        Ok(stdout) => Reply::printed(stdout),
        Err(failure) => Reply::failed(&failure, Version::LATEST),
    }
}

fn compose(plugin: &dyn Plugin, inputs: Inputs<'_>) -> Result<String, Failure> {
    #[derive(Serialize)]
    struct Composed {
        plugins: Vec<Value>,
    }
    let root = root(&inputs);
    let request: ComposeRequest = json::from_slice(&read(inputs.stdin)?)
        .map_err(|error| Failure::new(Code::Decode, error).while_doing("cannot read the request"))?;
    let plugins = plugin.compose(&request, &root)?;
    Ok(json::pretty(&Composed { plugins }) + "\n")
}

fn reload(plugin: &dyn Plugin, inputs: Inputs<'_>) -> Result<String, Failure> {
    let (root, networks) = networks(plugin, inputs)?;
    plugin.reload(&root, &networks).map(|()| String::new())
}

fn doctor(plugin: &dyn Plugin, inputs: Inputs<'_>) -> Result<String, Failure> {
    let (root, networks) = networks(plugin, inputs)?;
    let problems = plugin.doctor(&root, &networks)?;
    Ok(json::pretty(&Findings { problems }) + "\n")
}

/// Reads which networks to look after, as calls that change nothing by themselves.
fn networks(plugin: &dyn Plugin, inputs: Inputs<'_>) -> Result<(Root, Vec<Call>), Failure> {
    let environment = root(&inputs);
    let request: MendRequest = json::from_slice(&read(inputs.stdin)?)
        .map_err(|error| Failure::new(Code::Decode, error).while_doing("cannot read the request"))?;
    let root = request.root.map_or(environment, |dir| Root::new(Some(dir)));
    let call = |entry: &Value| {
        let stdin = entry.to_string().into_bytes();
        let conf = NetConf::parse_for(&stdin, Verb::Add, plugin.about().versions)?;
        let (root, linked) = (root.clone(), inputs.linked);
        Ok(Call { verb: Verb::Check, conf, stdin, paths: Vec::new(), root, args: String::new(), linked })
    };
    let networks = request.networks.iter().map(call).collect::<Result<_, Failure>>()?;
    Ok((root, networks))
}

fn introduction(about: &About) -> String {
    let list: Vec<&str> = about.versions.iter().map(|version| version.as_str()).collect();
    let (kind, version) = (about.kind, env!("CARGO_PKG_VERSION"));
    format!("CNI {kind} plugin weft {version}\nCNI protocol versions supported: {}\n", list.join(", "))
}

#[cfg(test)]
mod tests;
