//! Hosts that have joined: an underlay, a real etcd on `ctl` and an agent on each host.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Authority, Background, Etcd, Host, Output, Underlay, staged};

/// Much longer than anything takes that an agent does by itself, on an emulated machine, too.
const DEADLINE: Duration = Duration::from_secs(60);

/// Much longer than agents wait for anything.
const MINUTES: Duration = Duration::from_secs(480);

/// How often a host tries again to join when the store does not answer.
const AGAIN: u32 = 5;

/// Hosts `h1` and so on, each with a running agent that has joined.
#[derive(Debug)]
pub struct Cluster {
    agents: Vec<Option<Agent>>,
    /// The store.
    pub etcd: Etcd,
    /// Who signed the certificates.
    pub authority: Authority,
    /// The hosts.
    pub underlay: Underlay,
}

/// A running agent, and the socket it reports to.
#[derive(Debug)]
struct Agent {
    program: Background,
    _reports: UnixDatagram,
}

impl Cluster {
    /// Makes hosts that have joined, one after another.
    ///
    /// # Panics
    ///
    /// When one does not.
    pub fn new(hosts: u8) -> Self {
        let mut cluster = Self::unjoined(hosts);
        for number in 1..=hosts {
            cluster.start(number);
            // An emulated machine's etcd may have its first answer ready later than anybody waits for it. Then people do as the hint says.
            let silent = |said: &Output| said.stderr.contains("try again when the store answers");
            let mut joined = cluster.join(number);
            for _ in 0..AGAIN {
                if !silent(&joined) {
                    break;
                }
                joined = cluster.join(number);
            }
            joined.expect_ok();
        }
        cluster
    }

    /// Makes hosts and a store, and starts nothing on the hosts.
    ///
    /// # Panics
    ///
    /// When etcd does not answer.
    pub fn unjoined(hosts: u8) -> Self {
        let underlay = Underlay::new(hosts);
        let dir = underlay.lab().path("etcd");
        let authority = Authority::new(&underlay.lab().path("tls"));
        let address = std::net::Ipv4Addr::new(192, 0, 2, 250).into();
        let etcd = Etcd::start_with_tls(underlay.ctl(), address, &dir, &authority);
        Self { agents: (0..=hosts).map(|_| None).collect(), etcd, authority, underlay }
    }

    /// Returns a host.
    ///
    /// # Panics
    ///
    /// When there is none of this number.
    pub fn host(&self, number: u8) -> &Host {
        self.underlay.host(number)
    }

    /// Starts a host's agent, and returns when it says that it is ready.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start(&mut self, number: u8) {
        self.start_from(number, &staged("weftd"));
    }

    /// As [`Cluster::start`], from another file than what is staged.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn start_from(&mut self, number: u8, program: &Path) {
        let host = self.underlay.host(number);
        let path = host.path("run/notify");
        std::fs::create_dir_all(host.path("run"))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        std::fs::remove_file(&path).ok();
        let reports = UnixDatagram::bind(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        reports.set_read_timeout(Some(DEADLINE)).unwrap_or_else(|error| panic!("{error}"));
        let program = host.program(program).args(["agent"]).env("NOTIFY_SOCKET", &path).background();
        let mut state = [0; 256];
        // Whoever stops this process and lets it go on interrupts the call.
        let received = std::iter::repeat_with(|| reports.recv(&mut state))
            .find(|received| !matches!(received, Err(error) if error.kind() == ErrorKind::Interrupted));
        let length = match received {
            Some(Ok(length)) => length,
            failed => panic!("h{number}'s agent: {failed:?}"),
        };
        let state = String::from_utf8_lossy(&state[..length]).into_owned();
        assert!(state.starts_with("READY=1\n"), "{state}");
        self.agents[usize::from(number)] = Some(Agent { program, _reports: reports });
    }

    /// Has a host join. Its agent runs.
    pub fn join(&self, number: u8) -> Output {
        self.join_with(number, &[])
    }

    /// As [`Cluster::join`], with more options.
    pub fn join_with(&self, number: u8, more: &[&str]) -> Output {
        let certificate = self.authority.certificate(&format!("h{number}"), &[]);
        let path = |path: &Path| path.display().to_string();
        let (ca, cert, key) = (path(&self.authority.file()), path(&certificate.file), path(&certificate.key));
        let (url, name) = (self.etcd.url(), format!("h{number}"));
        let mut words = vec!["overlay", "join", "--etcd", &url, "--ca", &ca, "--cert", &cert, "--key", &key];
        words.extend(["--name", &name]);
        words.extend(more);
        // The first host makes the cluster's secret, the others get it as people would bring it.
        let secret =
            self.underlay.hosts().iter().map(|host| host.path("var/lib/weft/overlay/keys/cluster.secret"));
        let secret = secret.into_iter().find(|path| path.exists()).map(|found| path(&found));
        if let Some(secret) = &secret {
            words.extend(["--secret", secret]);
        }
        self.host(number).weft(words)
    }

    /// Kills a host's agent (SIGKILL).
    ///
    /// # Panics
    ///
    /// When none runs.
    pub fn kill(&mut self, number: u8) {
        assert!(self.agents[usize::from(number)].take().is_some(), "no agent runs on h{number}");
    }

    /// Sends a signal to a host's agent.
    ///
    /// # Panics
    ///
    /// When none runs.
    pub fn signal(&self, number: u8, signal: Signal) {
        let id = Pid::from_raw(self.agent(number).program.id().cast_signed());
        kill(id, signal).unwrap_or_else(|error| panic!("h{number}'s agent: {error}"));
    }

    /// Returns the process id of a host's agent.
    ///
    /// # Panics
    ///
    /// When none runs.
    pub fn agent_id(&self, number: u8) -> u32 {
        self.agent(number).program.id()
    }

    /// Tells a host's agent to end, and returns what it has said.
    ///
    /// # Panics
    ///
    /// When none runs, or it does not end.
    pub fn end(&mut self, number: u8) -> Output {
        match self.agents[usize::from(number)].take() {
            Some(agent) => agent.program.end(),
            None => panic!("no agent runs on h{number}"),
        }
    }

    fn agent(&self, number: u8) -> &Agent {
        self.agents[usize::from(number)].as_ref().unwrap_or_else(|| panic!("no agent runs on h{number}"))
    }

    /// Returns what `weft overlay status` says on a host.
    pub fn status(&self, number: u8) -> Value {
        self.host(number).weft(["overlay", "status", "--format", "json"]).expect_json()
    }

    /// Creates an overlay network on a host, and waits until every host with an agent has it.
    ///
    /// # Panics
    ///
    /// When that does not happen.
    pub fn network(&self, number: u8, words: &[&str]) {
        let create = ["network", "create", "-d", "overlay"];
        self.host(number).weft(create.iter().chain(words).copied()).expect_ok();
        let name = words.last().copied().unwrap_or_default();
        for host in self.underlay.hosts() {
            // A host that was added later is no member.
            if self.agents.get(usize::from(host.number())).is_some_and(Option::is_some) {
                self.eventually(&format!("{name} on {}", host.name()), || {
                    host.weft(["network", "exists", name]).code == 0
                });
            }
        }
    }

    /// Waits until something is so.
    ///
    /// # Panics
    ///
    /// When that takes much longer than anything does.
    #[track_caller]
    pub fn eventually(&self, what: &str, there: impl Fn() -> bool) {
        within(DEADLINE, what, there);
    }

    /// Waits until something is so that agents wait minutes for: the end of an old key, of a lease.
    ///
    /// # Panics
    ///
    /// When that takes much longer than they do.
    #[track_caller]
    pub fn in_the_end(&self, what: &str, there: impl Fn() -> bool) {
        within(MINUTES, what, there);
    }
}

#[track_caller]
fn within(limit: Duration, what: &str, there: impl Fn() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
