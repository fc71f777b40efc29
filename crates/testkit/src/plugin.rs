//! Calling a CNI plugin as a runtime does.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::{Container, Output, Program};

/// A call of one plugin, about to be made.
#[derive(Debug)]
pub struct PluginCall<'lab> {
    root: &'lab Path,
    /// The host that the plugin runs on, if it is not the calling thread's.
    host: Option<&'lab Container>,
    kind: String,
    folder: PathBuf,
    stdin: String,
    env: Vec<(String, String)>,
}

impl<'lab> PluginCall<'lab> {
    pub(crate) fn new(root: &'lab Path, kind: &str, folder: PathBuf) -> Self {
        Self { root, host: None, kind: kind.into(), folder, stdin: String::new(), env: Vec::new() }
    }

    pub(crate) fn on(self, host: &'lab Container) -> Self {
        Self { host: Some(host), ..self }
    }

    /// Gives the configuration as text, which may be as bad as the test likes.
    #[must_use]
    pub fn conf(mut self, text: impl Into<String>) -> Self {
        self.stdin = text.into();
        self
    }

    /// Gives the configuration.
    #[must_use]
    pub fn json(self, conf: &Value) -> Self {
        self.conf(conf.to_string())
    }

    /// Adds `prevResult` to the configuration.
    #[must_use]
    pub fn prev_result(self, result: &Value) -> Self {
        let mut conf: Value =
            serde_json::from_str(&self.stdin).unwrap_or_else(|error| panic!("the conf: {error}"));
        conf["prevResult"] = result.clone();
        self.json(&conf)
    }

    /// Adds or overrides an environment variable of the call; the last one given counts.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl Into<String>) -> Self {
        self.env.push((key.into(), value.into()));
        self
    }

    /// Sets `CNI_IFNAME`, which is `eth0`.
    #[must_use]
    pub fn ifname(self, name: &str) -> Self {
        self.env("CNI_IFNAME", name)
    }

    /// Sets `CNI_CONTAINERID`, which is the container's name.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.env("CNI_CONTAINERID", id)
    }

    /// Sets `CNI_NETNS`, which is the container's.
    #[must_use]
    pub fn netns(self, path: &str) -> Self {
        self.env("CNI_NETNS", path)
    }

    /// Sets `CNI_ARGS`.
    #[must_use]
    pub fn args(self, args: &str) -> Self {
        self.env("CNI_ARGS", args)
    }

    /// Makes the call ADD.
    pub fn add(&self, container: &Container) -> Output {
        self.attachment("ADD", container)
    }

    /// Makes the call DEL.
    pub fn del(&self, container: &Container) -> Output {
        self.attachment("DEL", container)
    }

    /// Makes the call CHECK.
    pub fn check(&self, container: &Container) -> Output {
        self.attachment("CHECK", container)
    }

    /// Makes the call GC with these attachments valid.
    pub fn gc(&self, valid: &[(&str, &str)]) -> Output {
        let mut conf: Value =
            serde_json::from_str(&self.stdin).unwrap_or_else(|error| panic!("the conf: {error}"));
        let valid = valid.iter().map(|(id, ifname)| json!({"containerID": id, "ifname": ifname}));
        conf["cni.dev/valid-attachments"] = valid.collect();
        self.call("GC", &[], &conf.to_string())
    }

    /// Makes the call STATUS.
    pub fn status(&self) -> Output {
        self.call("STATUS", &[], &self.stdin)
    }

    /// Makes the call VERSION, with the environment that libcni gives.
    pub fn version(&self) -> Output {
        let dummy = [("CNI_NETNS", "dummy"), ("CNI_IFNAME", "dummy"), ("CNI_PATH", "dummy")];
        self.call("VERSION", &dummy, &self.stdin)
    }

    /// Makes a call with exactly the environment variables given by [`PluginCall::env`] and no others of CNI's.
    pub fn bare(&self) -> Output {
        self.program().stdin(self.stdin.clone()).run()
    }

    fn attachment(&self, verb: &str, container: &Container) -> Output {
        let netns = container.netns();
        let env =
            [("CNI_CONTAINERID", container.name()), ("CNI_NETNS", path_text(&netns)), ("CNI_IFNAME", "eth0")];
        self.call(verb, &env, &self.stdin)
    }

    fn call(&self, verb: &str, env: &[(&str, &str)], stdin: &str) -> Output {
        let mut program = self.start().env("CNI_COMMAND", verb).env("CNI_PATH", &self.folder);
        for (key, value) in env {
            program = program.env(key, value);
        }
        for (key, value) in &self.env {
            program = program.env(key, value);
        }
        program.stdin(stdin).run()
    }

    fn program(&self) -> Program {
        let mut program = self.start();
        for (key, value) in &self.env {
            program = program.env(key, value);
        }
        program
    }

    fn start(&self) -> Program {
        let program = Program::new(self.path()).env_clear().env("WEFT_ROOT", self.root);
        match self.host {
            Some(host) => program.inside(host),
            None => program,
        }
    }

    fn path(&self) -> PathBuf {
        let path = self.folder.join(&self.kind);
        assert!(path.is_file(), "{} is not there: run cargo xtask stage", path.display());
        path
    }
}

fn path_text(path: &Path) -> &str {
    path.to_str().unwrap_or_else(|| panic!("{} is no text", path.display()))
}
