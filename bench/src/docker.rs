//! A docker daemon of our own, on one host of the measurement.
//!
//! Its data, its sockets and its view of control groups and /etc are that host's: the machine's own docker, if there
//! is one, is not spoken to.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use weft_netns::Netns;
use weft_testkit::{Lab, Program};

use crate::peers;
use crate::process::{self, Cost};

const DAEMON: &str = "/usr/sbin/dockerd";
const CLIENT: &str = "/usr/bin/docker";
/// The network that is connected and disconnected, and its bridge.
const NETWORK: &str = "blue";
/// Where the daemon has itself be reached once it is up, and gone once it is told to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon, and the containers it runs.
pub(crate) struct Docker {
    daemon: Child,
    client: PathBuf,
    socket: String,
    cgroup: String,
}

impl Docker {
    /// Says whether the programs are there.
    pub(crate) fn is_there() -> bool {
        peers::find(DAEMON).is_some() && peers::find(CLIENT).is_some()
    }

    /// Starts a daemon on the calling thread's host, with an image and two networks.
    pub(crate) fn start(lab: &Lab) -> Result<Self> {
        surround(lab)?;
        let docker = Self::launch(lab, "docker")?;
        docker.said(&["network", "create", "--internal", "inner"])?;
        docker.said(&["network", "create", "--subnet", "10.90.0.0/16", NETWORK])?;
        Ok(docker)
    }

    /// Starts a daemon in the calling thread's network namespace, with an image. Its files are in folders of this name; the
    /// lab was prepared for it ([`surround`]).
    pub(crate) fn launch(lab: &Lab, name: &str) -> Result<Self> {
        let (Some(program), Some(client)) = (peers::find(DAEMON), peers::find(CLIENT)) else {
            bail!("no {DAEMON}");
        };
        let folder = lab.path("run/docker").join(name);
        std::fs::create_dir_all(&folder)?;
        let path = |name: &str| folder.join(name).display().to_string();
        lab.write(&format!("run/docker/{name}/daemon.json"), "{}");
        let log = File::create(folder.join("log"))?;
        #[expect(clippy::disallowed_methods, reason = "a daemon runs until it is told to end")]
        let mut command = Command::new(program);
        command.args(["--data-root", &lab.path("var/lib/docker").join(name).display().to_string()]);
        command.args(["--exec-root", &path("exec"), "--pidfile", &path("pid")]);
        command.args([
            "--config-file",
            &path("daemon.json"),
            "--host",
            &format!("unix://{}", path("socket")),
        ]);
        command.args(["--storage-driver", "vfs", "--bridge", "none"]);
        command.env_clear().envs(peers::environment());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let daemon = command.spawn().context("cannot start dockerd")?;
        let socket = format!("unix://{}", path("socket"));
        let cgroup = format!("weft-bench-{}", daemon.id());
        let mut docker = Self { daemon, client, socket, cgroup };
        docker.wait_until_up(&folder.join("log"))?;
        docker.image(&folder)?;
        Ok(docker)
    }

    /// Starts a container that publishes its port 80.
    ///
    /// On an internal network nothing is published: that happens when the container is connected to another one.
    pub(crate) fn run_container(&self, number: usize, host_port: u16) -> Result<()> {
        let (name, published) = (name(number), format!("{host_port}:80"));
        let cgroup = format!("/{}", self.cgroup);
        let words = ["run", "--detach", "--network", "inner", "--cgroup-parent", &cgroup, "--name", &name];
        let command = ["--publish", &published, "bench", "/bin/sleep", "1000000"];
        self.said(&[&words[..], &command[..]].concat()).map(drop)
    }

    /// Starts a container on a network.
    pub(crate) fn run_on(&self, network: &str, number: usize) -> Result<()> {
        let (name, cgroup) = (name(number), format!("/{}", self.cgroup));
        let words = ["run", "--detach", "--network", network, "--cgroup-parent", &cgroup, "--name", &name];
        self.said(&[&words[..], &["bench", "/bin/sleep", "1000000"]].concat()).map(drop)
    }

    /// Removes a container, if it is there.
    pub(crate) fn remove(&self, number: usize) {
        self.said(&["rm", "--force", &name(number)]).ok();
    }

    /// Returns a container's address on its only network.
    pub(crate) fn address(&self, number: usize) -> Option<String> {
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
        self.said(&["inspect", "--format", format, &name(number)]).ok().filter(|text| !text.is_empty())
    }

    /// Connects a running container to a network, and with that publishes its port.
    pub(crate) fn connect(&self, number: usize) -> Result<Cost> {
        Ok(self.call(&["network", "connect", NETWORK, &name(number)])?.0)
    }

    /// Disconnects it.
    pub(crate) fn disconnect(&self, number: usize) -> Result<Cost> {
        Ok(self.call(&["network", "disconnect", NETWORK, &name(number)])?.0)
    }

    /// Returns the network namespace of a container.
    pub(crate) fn netns(&self, number: usize) -> Result<Netns> {
        let id = self.said(&["inspect", "--format", "{{.State.Pid}}", &name(number)])?;
        Ok(Netns::open(format!("/proc/{id}/ns/net"))?)
    }

    /// Returns the name of the bridge of the network that is connected.
    pub(crate) fn bridge(&self) -> Result<String> {
        let id = self.said(&["network", "inspect", "--format", "{{.Id}}", NETWORK])?;
        Ok(format!("br-{}", id.get(..12).context("docker's network has no id")?))
    }

    fn call(&self, words: &[&str]) -> Result<(Cost, String)> {
        let mut environment = vec![("DOCKER_HOST", self.socket.clone()), ("HOME", "/nonexistent".into())];
        environment.extend(peers::environment());
        let environment: Vec<(&str, &str)> =
            environment.iter().map(|(key, value)| (*key, value.as_str())).collect();
        process::run(&self.client, words, &environment, b"")
    }

    /// Runs the client, and returns what it printed.
    pub(crate) fn said(&self, words: &[&str]) -> Result<String> {
        Ok(self.call(words)?.1.trim().to_string())
    }

    fn wait_until_up(&mut self, log: &Path) -> Result<()> {
        let start = Instant::now();
        while self.call(&["version"]).is_err() {
            let ended = self.daemon.try_wait()?.is_some();
            if ended || start.elapsed() > PATIENCE {
                let said = std::fs::read_to_string(log).unwrap_or_default();
                bail!("dockerd does not start: {}", said.lines().last().unwrap_or("it does not say why"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Makes an image of a program that does nothing, from this machine's own.
    fn image(&self, folder: &Path) -> Result<()> {
        let archive = folder.join("image.tar").display().to_string();
        let libraries = Program::new("ldd").args(["/bin/sleep"]).run();
        let libraries = libraries.stdout.split_whitespace().filter(|word| word.starts_with('/'));
        let files = ["/bin/sleep"].into_iter().chain(libraries);
        Program::new("tar").args(["-chPf", &archive]).args(files).run().expect_ok();
        self.said(&["import", &archive, "bench"]).map(drop)
    }
}

impl Drop for Docker {
    /// Takes the containers along: their shims outlive the daemon otherwise.
    fn drop(&mut self) {
        if let Ok(all) = self.said(&["ps", "--all", "--quiet"]) {
            let ids: Vec<&str> = all.split_whitespace().collect();
            self.said(&[&["rm", "--force"], &ids[..]].concat()).ok();
        }
        kill(Pid::from_raw(self.daemon.id().cast_signed()), Signal::SIGTERM).ok();
        let start = Instant::now();
        while matches!(self.daemon.try_wait(), Ok(None)) {
            if start.elapsed() > PATIENCE {
                self.daemon.kill().ok();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(&self.cgroup)).ok();
    }
}

fn name(number: usize) -> String {
    format!("d{number}")
}

/// Gives the daemon what it changes: control groups to see, an /etc and an /opt to write to.
pub(crate) fn surround(lab: &Lab) -> Result<()> {
    let none = None::<&str>;
    let flags = MsFlags::empty();
    mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, none).context("cannot mount cgroup2")?;
    let folder = |name: &str| {
        let path = lab.path("run").join(name);
        std::fs::create_dir_all(&path).map(|()| path.display().to_string())
    };
    let layers = format!("lowerdir=/etc,upperdir={},workdir={}", folder("etc")?, folder("etc.work")?);
    mount(Some("overlay"), "/etc", Some("overlay"), flags, Some(layers.as_str()))
        .context("cannot lay an /etc over /etc")?;
    mount(Some("tmpfs"), "/opt", Some("tmpfs"), flags, none).context("cannot mount /opt")
}
