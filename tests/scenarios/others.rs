//! The other masters of a host's firewall, each of the lab's own: docker and firewalld.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_testkit::{Background, Lab, Output, Program, skipped};

/// Where `cargo xtask setup` unpacks what is not installed.
fn unpacked() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers")
}

/// Returns where a program is, given its place in an installed system; says so if it is nowhere.
fn find(program: &str) -> Option<PathBuf> {
    let places = [PathBuf::from(program), unpacked().join(program.trim_start_matches('/'))];
    let found = places.into_iter().find(|path| path.is_file());
    if found.is_none() {
        skipped(program);
    }
    found
}

/// A program that finds its libraries and companions where it was unpacked.
fn program(path: &Path) -> Program {
    let top = unpacked().display().to_string();
    let libraries = format!("{top}/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    Program::new(path)
        .env("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{top}/usr/sbin:{top}/usr/bin"))
        .env("LD_LIBRARY_PATH", &libraries)
        .env("GI_TYPELIB_PATH", format!("{libraries}/girepository-1.0"))
        .env("PYTHONPATH", format!("{top}/usr/lib/python3/dist-packages"))
}

/// Waits for what another program does in its own time.
#[track_caller]
fn until(what: &str, there: impl Fn() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !there() {
        assert!(Instant::now() < limit, "{what} takes more than a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A docker daemon whose data, sockets and rules are the lab's.
pub(crate) struct Docker {
    daemon: Option<Background>,
    server: PathBuf,
    client: PathBuf,
    folder: PathBuf,
}

impl Docker {
    /// Starts it, or says what is lacking.
    pub(crate) fn start(lab: &Lab) -> Option<Self> {
        let (server, client) = (find("/usr/sbin/dockerd")?, find("/usr/bin/docker")?);
        let folder = lab.path("run/docker");
        lab.write("run/docker/daemon.json", "{}");
        // Control groups to see, and an /opt that is nobody's.
        let seen = lab.sh("mount -t cgroup2 cgroup2 /sys/fs/cgroup && mount -t tmpfs tmpfs /opt");
        if seen.code != 0 {
            skipped(format_args!("control groups for docker: {seen}"));
            return None;
        }
        let mut docker = Self { daemon: None, server, client, folder };
        docker.up();
        Some(docker)
    }

    /// Starts the daemon and waits until it answers.
    fn up(&mut self) {
        let path = |name: &str| self.folder.join(name).display().to_string();
        let socket = format!("unix://{}", path("socket"));
        let words = ["--data-root", &path("data"), "--exec-root", &path("exec"), "--pidfile", &path("pid")]
            .map(String::from);
        let more = ["--config-file", &path("daemon.json"), "--host", &socket, "--storage-driver", "vfs"]
            .map(String::from);
        self.daemon = Some(program(&self.server).args(words).args(more).background());
        until("dockerd", || self.run("version").code == 0);
    }

    /// Ends the daemon and starts it again.
    pub(crate) fn restart(&mut self) {
        self.down();
        self.up();
    }

    fn down(&mut self) {
        let Some(daemon) = self.daemon.take() else { return };
        Program::new("kill").args([daemon.id().to_string()]).run();
        let pid = self.folder.join("pid");
        until("the end of dockerd", || !pid.exists());
    }

    pub(crate) fn run(&self, words: &str) -> Output {
        let socket = format!("unix://{}", self.folder.join("socket").display());
        program(&self.client)
            .env("DOCKER_HOST", socket)
            .env("HOME", "/nonexistent")
            .args(words.split(' '))
            .run()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.down();
    }
}

/// A firewalld on a bus of its own.
pub(crate) struct Firewalld {
    _bus: Background,
    _daemon: Background,
    client: PathBuf,
    /// The bus.
    pub(crate) address: String,
}

impl Firewalld {
    /// Starts it, or says what is lacking.
    pub(crate) fn start(lab: &Lab) -> Option<Self> {
        let bus = find("/usr/bin/dbus-daemon")?;
        let (server, client) = (find("/usr/sbin/firewalld")?, find("/usr/bin/firewall-cmd")?);
        let folder = lab.path("run/dbus");
        let address = format!("unix:path={}/bus", folder.display());
        let config = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
            "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
            <busconfig><type>system</type><listen>{address}</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow own="*"/><allow send_destination="*" eavesdrop="true"/>
            <allow receive_sender="*"/></policy></busconfig>"#
        );
        lab.write("run/dbus/bus.conf", config);
        let configured = format!("--config-file={}", lab.path("run/dbus/bus.conf").display());
        let bus = Program::new(bus).args([configured.as_str(), "--nofork", "--nopidfile"]).background();
        until("the bus", || folder.join("bus").exists());
        let places = [PathBuf::from("/usr/lib/firewalld"), unpacked().join("usr/lib/firewalld")];
        let defaults = places.into_iter().find(|path| path.is_dir()).unwrap_or_default();
        let daemon = program(&server)
            .args(["--nofork", "--nopid", "--log-target", "console"])
            .args(["--system-config", &lab.path("etc/firewalld").display().to_string()])
            .args(["--default-config", &defaults.display().to_string()])
            .env("DBUS_SYSTEM_BUS_ADDRESS", &address)
            .background();
        let firewalld = Self { _bus: bus, _daemon: daemon, client, address };
        until("firewalld", || firewalld.command("--state").code == 0);
        Some(firewalld)
    }

    pub(crate) fn command(&self, words: &str) -> Output {
        let client = program(&self.client).env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        client.args(words.split(' ')).run()
    }
}
