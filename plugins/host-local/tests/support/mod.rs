//! Running plugin binaries, ours or the reference's, on a data directory of the test's own.
#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The plugin under test, as it was staged.
pub(crate) const OURS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/stage/bin/host-local");
/// The reference plugin, where the distribution's package is installed.
pub(crate) const REFERENCE: &str = "/usr/lib/cni/host-local";

/// Returns whether the reference plugin is there; says so when it is not.
pub(crate) fn has_reference() -> bool {
    let found = Path::new(REFERENCE).exists();
    if !found {
        weft_testkit::skipped(format_args!("{REFERENCE} (Debian: containernetworking-plugins)"));
    }
    found
}

/// A data directory with the leases of network `n1`.
pub(crate) struct Data(TempDir);

impl Data {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir().join("n1").join(name)
    }

    /// The lease files with their contents.
    pub(crate) fn leases(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.dir().join("n1")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let leases = names.filter(|name| name.parse::<std::net::IpAddr>().is_ok());
        leases.map(|name| (name.clone(), fs::read_to_string(self.path(&name)).unwrap())).collect()
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.leases().into_keys().collect()
    }

    pub(crate) fn conf(&self, ipam: Value) -> Value {
        let mut ipam = ipam;
        ipam["type"] = "host-local".into();
        ipam["dataDir"] = self.dir().to_str().into();
        json!({"cniVersion": "1.0.0", "name": "n1", "type": "bridge", "ipam": ipam})
    }

    pub(crate) fn subnet(&self, subnet: &str) -> Value {
        self.conf(json!({"ranges": [[{"subnet": subnet}]]}))
    }
}

/// One call of a plugin.
pub(crate) struct Call {
    program: String,
    env: BTreeMap<&'static str, String>,
    conf: String,
}

/// What came out of it.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) ok: bool,
    pub(crate) stdout: String,
}

pub(crate) fn call(program: &str, conf: &Value, container: &str) -> Call {
    let env = [
        ("CNI_CONTAINERID", container),
        ("CNI_IFNAME", "eth0"),
        ("CNI_NETNS", "/nonexistent/netns"),
        ("CNI_PATH", "/nonexistent"),
    ];
    let env = env.into_iter().map(|(key, value)| (key, value.to_string())).collect();
    Call { program: program.into(), env, conf: conf.to_string() }
}

pub(crate) fn ours(conf: &Value, container: &str) -> Call {
    call(OURS, conf, container)
}

impl Call {
    pub(crate) fn with(mut self, key: &'static str, value: &str) -> Self {
        self.env.insert(key, value.into());
        self
    }

    pub(crate) fn start(&self, verb: &str) -> Child {
        #[expect(clippy::disallowed_methods, reason = "the test itself decides when the process dies")]
        let mut command = Command::new(&self.program);
        command.env_clear().envs(&self.env).env("CNI_COMMAND", verb);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().unwrap();
        // A process that was killed or refuses early does not read all of it.
        drop(child.stdin.take().unwrap().write_all(self.conf.as_bytes()));
        child
    }

    pub(crate) fn run(&self, verb: &str) -> Output {
        let output = self.start(verb).wait_with_output().unwrap();
        Output { ok: output.status.success(), stdout: String::from_utf8(output.stdout).unwrap() }
    }

    pub(crate) fn add(&self) -> Output {
        self.run("ADD")
    }

    #[track_caller]
    pub(crate) fn del(&self) {
        self.run("DEL").expect_silence();
    }
}

impl Output {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        assert!(self.ok, "{}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// The addresses of a result.
    #[track_caller]
    pub(crate) fn ips(&self) -> Vec<String> {
        let result = self.json();
        let ips = result["ips"].as_array().unwrap();
        ips.iter().map(|ip| ip["address"].as_str().unwrap().to_string()).collect()
    }

    #[track_caller]
    pub(crate) fn expect_silence(&self) {
        assert!(self.ok && self.stdout.is_empty(), "{}", self.stdout);
    }

    /// The code and the message of an error.
    #[track_caller]
    pub(crate) fn error(&self) -> (u64, String) {
        assert!(!self.ok, "it succeeded: {}", self.stdout);
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        (error["code"].as_u64().unwrap(), error["msg"].as_str().unwrap().to_string())
    }

    #[track_caller]
    pub(crate) fn details(&self) -> String {
        let error: Value = serde_json::from_str(&self.stdout).unwrap();
        error["details"].as_str().unwrap_or_default().to_string()
    }
}
