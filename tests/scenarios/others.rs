//! The other masters of a host's firewall, each of the lab's own: docker and firewalld.

use std::path::PathBuf;

use weft_testkit::{Background, Lab, Output, Program, peer, peer_program, skipped, unpacked, until};

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
        let (server, client) = (peer("/usr/sbin/dockerd")?, peer("/usr/bin/docker")?);
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
        self.daemon = Some(peer_program(&self.server).args(words).args(more).background());
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
        peer_program(&self.client)
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
        let bus = peer("/usr/bin/dbus-daemon")?;
        let (server, client) = (peer("/usr/sbin/firewalld")?, peer("/usr/bin/firewall-cmd")?);
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
        let daemon = peer_program(&server)
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
        let client = peer_program(&self.client).env("DBUS_SYSTEM_BUS_ADDRESS", &self.address);
        client.args(words.split(' ')).run()
    }
}
