//! WireGuard in a process of its own, for kernels without.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use weft_netlink::{Error, Socket};
use weft_overlay::ids::PublicKey;
use weft_overlay::records::Slots;
use weft_runtime::exec::{self, Invocation};
use weft_state::{Root, StateError};

use crate::config::Config;
use crate::control::{self, Answer, Request};
use crate::device;
use crate::keys;
use crate::mesh::{Device, Implementation, Mesh, MeshError, Peer, PeerDiff, PeerStats};
use crate::slot::Slot;

/// How long a tunnel may take to begin.
const START: Duration = Duration::from_secs(10);
/// How long it may take to end.
const END: Duration = Duration::from_secs(10);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Tells the path of a program that is started at once.
pub type Program = fn() -> io::Result<PathBuf>;

/// A mesh of tunnel processes, in the network namespace it was opened in.
#[derive(Debug)]
pub struct UserspaceMesh {
    root: Root,
    weftd: Program,
    socket: Socket,
    /// Which versions answered last.
    versions: Slots<Option<String>>,
}

impl UserspaceMesh {
    /// Opens it; what `weftd` tells is started as `weftd tunnel`.
    ///
    /// # Errors
    ///
    /// When there is no netlink socket to be had.
    pub fn open(root: Root, weftd: Program) -> Result<Self, Error> {
        Ok(Self { root, weftd, socket: Socket::open()?, versions: Slots::default() })
    }

    fn ask(&self, slot: Slot, request: &Request) -> Result<Answer, MeshError> {
        let socket = slot.socket(&self.root);
        let answer = control::ask(&socket, request).map_err(|error| MeshError::NoAnswer {
            slot,
            socket: socket.display().to_string(),
            reason: error.to_string(),
        })?;
        match answer.error {
            Some(reason) => Err(MeshError::Answer { slot, reason }),
            None => Ok(answer),
        }
    }

    fn forget(&self, path: &Path) -> Result<(), MeshError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StateError::io("remove", path)(error).into())
            }
            _ => Ok(()),
        }
    }

    /// Waits until the processes of a slot have ended.
    fn wait(&self, slot: Slot) -> Result<(), MeshError> {
        let path = slot.lock_file(&self.root);
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(StateError::io("open", &path)(error).into()),
        };
        let begun = Instant::now();
        while lock.try_lock().is_err() {
            if begun.elapsed() > END {
                let socket = slot.socket(&self.root).display().to_string();
                return Err(MeshError::NoAnswer { slot, socket, reason: "it does not end".into() });
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Starts a tunnel that stays when we go.
    fn start(&self, slot: Slot) -> Result<(), MeshError> {
        let failed = |reason: String| MeshError::NotStarted { slot, reason };
        // Not before: an upgrade may have replaced the file since the last one was started.
        let weftd = (self.weftd)().map_err(|error| failed(error.to_string()))?;
        let mut invocation = Invocation::new(weftd);
        let slot_text = slot.to_string();
        invocation.args = vec!["--root".into(), self.root.path().into()];
        invocation.args.extend(["tunnel", "--detach", "--slot", &slot_text].map(Into::into));
        invocation.timeout = START;
        let output = exec::run(invocation).map_err(|error| failed(error.to_string()))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(failed(said.trim().trim_start_matches("weftd: ").to_string()))
    }
}

impl Mesh for UserspaceMesh {
    fn implementation(&self) -> Implementation {
        Implementation::Userspace
    }

    fn ensure_device(&mut self, slot: Slot, device: &Device) -> Result<bool, MeshError> {
        keys::load(&self.root, slot)?.ok_or(MeshError::NoKey(slot))?;
        device::close(&mut self.socket, slot, device.prefix)?;
        let mut config = Config::load(&self.root, slot)?.unwrap_or_else(|| Config::new(device.clone()));
        let link = device::find(&mut self.socket, slot)?;
        if link.is_some_and(|link| link.kind.as_deref() != Some("tun")) {
            return Err(MeshError::Taken { device: slot.device().to_string() });
        }
        let known = slot.config_file(&self.root).exists() && config.device == *device;
        if !known {
            config.device = device.clone();
            config.store(&self.root, slot)?;
        }
        *slot.of_mut(&mut self.versions) = None;
        match self.ask(slot, &if known { Request::Stats } else { Request::Reload }) {
            Ok(answer) => {
                *slot.of_mut(&mut self.versions) = Some(answer.version.into_owned());
                Ok(device::raise(&mut self.socket, slot, device)? || !known)
            }
            Err(MeshError::NoAnswer { .. }) => self.start(slot).map(|()| true),
            Err(error) => Err(error),
        }
    }

    fn peers(&mut self, slot: Slot) -> Result<Vec<PublicKey>, MeshError> {
        let config = Config::load(&self.root, slot)?;
        Ok(config.into_iter().flat_map(|config| config.peers).map(|peer| peer.public_key).collect())
    }

    fn strays(&mut self, slot: Slot, told: &[Peer]) -> Result<Vec<String>, MeshError> {
        // The process takes over whatever the file says.
        let present = Config::load(&self.root, slot)?.map(|config| config.peers).unwrap_or_default();
        Ok(PeerDiff::between(&present, told).lines())
    }

    fn version(&self, slot: Slot) -> Option<&str> {
        slot.of(&self.versions).as_deref()
    }

    fn set_peers(&mut self, slot: Slot, diff: &PeerDiff) -> Result<(), MeshError> {
        let missing = || MeshError::NoAnswer {
            slot,
            socket: slot.socket(&self.root).display().to_string(),
            reason: "it was never made".into(),
        };
        let mut config = Config::load(&self.root, slot)?.ok_or_else(missing)?;
        config.apply(diff);
        config.store(&self.root, slot)?;
        self.ask(slot, &Request::Reload).map(drop)
    }

    fn stats(&mut self, slot: Slot) -> Result<Vec<PeerStats>, MeshError> {
        self.ask(slot, &Request::Stats).map(|answer| answer.peers)
    }

    fn force_handshake(&mut self, slot: Slot, peer: &PublicKey) -> Result<(), MeshError> {
        self.ask(slot, &Request::Handshake { peer: *peer }).map(drop)
    }

    fn remove(&mut self, slot: Slot) -> Result<(), MeshError> {
        match self.ask(slot, &Request::Stop) {
            Ok(_) | Err(MeshError::NoAnswer { .. }) => {}
            Err(error) => return Err(error),
        }
        // Without it the process ends that starts workers, too, and nobody makes the device anew.
        self.forget(&slot.config_file(&self.root))?;
        self.wait(slot)?;
        device::remove(&mut self.socket, slot)?;
        self.forget(&slot.socket(&self.root))?;
        self.forget(&slot.why_file(&self.root))
    }
}
