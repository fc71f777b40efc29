//! A real etcd, with or without certificates, for tests of what goes by it.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::peer::{peer, peer_program};
use crate::{Background, Container, Output, Program};

/// How long etcd may take until it answers.
const LIMIT: Duration = Duration::from_secs(30);
const PORT: u16 = 2379;
/// Where it tells how it is, in its own namespace.
const METRICS: &str = "127.0.0.1:2381";

/// An etcd in a namespace, which keeps its data while it is stopped.
#[derive(Debug)]
pub struct Etcd {
    netns: Container,
    address: IpAddr,
    dir: PathBuf,
    authority: Option<Authority>,
    running: Option<Background>,
}

impl Etcd {
    /// Starts an etcd that asks for no certificate. `dir` is for its data, and empty.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn start(netns: &Container, address: IpAddr, dir: &Path) -> Self {
        Self::of(netns, address, dir, None)
    }

    /// Starts an etcd that takes only clients with a certificate of `authority`.
    ///
    /// # Panics
    ///
    /// When it does not answer.
    pub fn start_with_tls(netns: &Container, address: IpAddr, dir: &Path, authority: &Authority) -> Self {
        Self::of(netns, address, dir, Some(authority.clone()))
    }

    fn of(netns: &Container, address: IpAddr, dir: &Path, authority: Option<Authority>) -> Self {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        // It listens for peers there, although it has none.
        netns.ip("link set lo up");
        let mut etcd = Self { netns: netns.clone(), address, dir: dir.into(), authority, running: None };
        etcd.go_on();
        etcd
    }

    /// Returns where clients find it.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", std::net::SocketAddr::new(self.address, PORT))
    }

    /// Starts it again with the data it has, and waits until it answers.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn go_on(&mut self) {
        let url = self.url();
        let (data, log) = (self.dir.join("data"), self.dir.join("log"));
        let mut program = program("etcd").inside(&self.netns).args([
            "--name=etcd",
            "--logger=zap",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--listen-metrics-urls=http://127.0.0.1:2381",
            "--unsafe-no-fsync",
        ]);
        program = program.args(["--data-dir".as_ref(), data.as_os_str()]);
        // What is not read from a pipe would stop it some day.
        program = program.args(["--log-outputs".as_ref(), log.as_os_str()]);
        program = program.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        if let Some(authority) = &self.authority {
            let own = authority.certificate("etcd", &[self.address]);
            program = program.args([
                "--client-cert-auth".as_ref(),
                "--trusted-ca-file".as_ref(),
                authority.file().as_os_str(),
            ]);
            program = program.args(["--cert-file".as_ref(), own.file.as_os_str()]);
            program = program.args(["--key-file".as_ref(), own.key.as_os_str()]);
        }
        self.running = Some(program.background());
        let start = Instant::now();
        while self.ctl(["endpoint", "health"]).code != 0 {
            let log = || fs::read_to_string(&log).unwrap_or_default();
            assert!(start.elapsed() < LIMIT, "etcd does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns its process id.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn id(&self) -> u32 {
        self.running.as_ref().unwrap_or_else(|| panic!("etcd does not run")).id()
    }

    /// Returns how much memory it takes, in KiB.
    ///
    /// # Panics
    ///
    /// When it does not run.
    pub fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let size = line.and_then(|line| line.trim().strip_suffix(" kB")).and_then(|size| size.parse().ok());
        size.unwrap_or_else(|| panic!("etcd's memory is not told"))
    }

    /// Stops it. Its data stays.
    pub fn stop(&mut self) {
        self.running = None;
    }

    /// Stops it and takes its data away.
    ///
    /// # Panics
    ///
    /// When the data cannot be removed.
    pub fn wipe(&mut self) {
        self.stop();
        let data = self.dir.join("data");
        fs::remove_dir_all(&data).unwrap_or_else(|error| panic!("{}: {error}", data.display()));
    }

    /// Writes a backup under this name.
    ///
    /// # Panics
    ///
    /// When etcdctl cannot.
    pub fn back_up(&self, name: &str) {
        let file = self.dir.join(name).display().to_string();
        self.ctl(["snapshot", "save", &file]).expect_ok();
    }

    /// Stops it and puts a backup in the place of its data.
    ///
    /// # Panics
    ///
    /// When etcdctl cannot.
    pub fn restore(&mut self, name: &str) {
        self.wipe();
        let (file, data) = (self.dir.join(name), self.dir.join("data"));
        let program = program("etcdctl").inside(&self.netns).env("ETCDCTL_API", "3").args([
            "--name=etcd",
            "--initial-cluster=etcd=http://localhost:2380",
            "--initial-advertise-peer-urls=http://localhost:2380",
            "snapshot",
            "restore",
        ]);
        program.args([file.as_os_str(), "--data-dir".as_ref(), data.as_os_str()]).run().expect_ok();
    }

    /// Runs `etcdctl` with these words.
    pub fn ctl<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Output {
        self.client().args(words).run()
    }

    /// Deletes these keys at once, as one change.
    pub fn delete_together(&self, keys: &[&str]) {
        let requests: String = keys.iter().map(|key| format!("del {key}\n")).collect();
        // No comparison, these requests, no others: each part ends with an empty line.
        self.client().args(["txn"]).stdin(format!("\n{requests}\n\n")).run().expect_ok();
    }

    fn client(&self) -> Program {
        let mut program = program("etcdctl").inside(&self.netns).env("ETCDCTL_API", "3");
        program = program.args(["--endpoints", &self.url(), "--command-timeout=2s", "--dial-timeout=1s"]);
        if let Some(authority) = &self.authority {
            let own = authority.certificate("root", &[]);
            program = program.args(["--cacert".as_ref(), authority.file().as_os_str()]);
            program = program.args(["--cert".as_ref(), own.file.as_os_str()]);
            program = program.args(["--key".as_ref(), own.key.as_os_str()]);
        }
        program
    }

    /// Returns the keys below `/weft/v1/`, and their values, one after another.
    pub fn records(&self) -> String {
        self.ctl(["get", "--prefix", "/weft/v1/"]).expect_ok().to_owned()
    }

    /// Returns how often leases have been renewed.
    ///
    /// # Panics
    ///
    /// When etcd does not say.
    pub fn keep_alives(&self) -> u64 {
        self.count("etcd_debugging_lease_renewed_total")
    }

    /// Returns how many requests there have been: calls of whatever kind, and what was written and read by them.
    ///
    /// # Panics
    ///
    /// When etcd does not say.
    pub fn requests(&self) -> [u64; 3] {
        ["grpc_server_started_total", "etcd_debugging_mvcc_put_total", "etcd_debugging_mvcc_range_total"]
            .map(|name| self.count(name))
    }

    /// Returns the sum of what etcd has counted under a name, whatever its labels.
    fn count(&self, name: &str) -> u64 {
        let page = self.netns.inside(|| {
            let mut stream = TcpStream::connect(METRICS)?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut page = String::new();
            stream.read_to_string(&mut page).map(|_| page)
        });
        let page = page.unwrap_or_else(|error| panic!("{METRICS}: {error}"));
        let count = |line: &str| {
            let rest = line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '{']))?;
            rest.rsplit(' ').next()?.trim().parse::<f64>().ok()
        };
        let counts: Vec<f64> = page.lines().filter_map(count).collect();
        assert!(!counts.is_empty(), "no {name}: {page}");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it counts")]
        let sum = counts.into_iter().sum::<f64>() as u64;
        sum
    }

    /// Returns the store's revision.
    ///
    /// # Panics
    ///
    /// When etcdctl says something unheard of.
    pub fn revision(&self) -> i64 {
        let status = self.ctl(["get", "/", "--limit=1", "-w", "json"]).expect_json();
        status["header"]["revision"].as_i64().unwrap_or_else(|| panic!("no revision: {status}"))
    }
}

/// Returns a program of etcd's: installed, or unpacked by `cargo xtask setup`.
fn program(name: &str) -> Program {
    let found = peer(&format!("/usr/bin/{name}"));
    peer_program(&found.unwrap_or_else(|| panic!("there is no {name}: cargo xtask setup")))
}

/// Whoever signs certificates for a test, in a folder of its own.
#[derive(Clone, Debug)]
pub struct Authority {
    dir: PathBuf,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub file: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Authority {
    /// Makes an authority, with its files in `dir`.
    ///
    /// # Panics
    ///
    /// When openssl does not.
    pub fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
        let authority = Self { dir: dir.into() };
        let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=authority \
                    -keyout ca.key -out ca.crt";
        authority.openssl(make);
        authority
    }

    /// Returns its own certificate.
    pub fn file(&self) -> PathBuf {
        self.dir.join("ca.crt")
    }

    /// Returns the certificate of a name, made when it is first asked for.
    pub fn certificate(&self, name: &str, addresses: &[IpAddr]) -> Certificate {
        self.signed(name, addresses, 2)
    }

    /// Returns a certificate that was valid once.
    pub fn expired(&self, name: &str) -> Certificate {
        self.signed(name, &[], -1)
    }

    fn signed(&self, name: &str, addresses: &[IpAddr], days: i32) -> Certificate {
        let path = |suffix: &str| self.dir.join(format!("{name}.{suffix}"));
        let made = Certificate { file: path("crt"), key: path("key") };
        if made.file.exists() {
            return made;
        }
        let names: Vec<String> = std::iter::once(format!("DNS:{name}"))
            .chain(addresses.iter().map(|address| format!("IP:{address}")))
            .collect();
        let extensions =
            format!("subjectAltName={}\nextendedKeyUsage=serverAuth,clientAuth\n", names.join(","));
        let written = fs::write(path("ext"), extensions);
        written.unwrap_or_else(|error| panic!("{}: {error}", path("ext").display()));
        self.openssl(&format!(
            "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        self.openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -extfile {name}.ext \
             -out {name}.crt"
        ));
        made
    }

    fn openssl(&self, words: &str) {
        let line = format!("cd '{}' && openssl {words}", self.dir.display());
        Program::new("sh").args(["-c", &line]).run().expect_ok();
    }
}
