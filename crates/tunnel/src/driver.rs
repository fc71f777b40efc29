//! What the agent calls: it observes, asks [`rotation::plan`] what is to be done, and does it.

mod outcome;
mod verify;

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ipnetwork::Ipv6Network;
use serde::{Deserialize, Serialize};
use weft_netlink::Socket;
use weft_overlay::ids::PublicKey;
use weft_overlay::records::{self, SlotState, Slots};
use weft_state::atomic::Durability;
use weft_state::{Root, document};

use crate::control;
use crate::device::{self, refused};
use crate::kernel::KernelMesh;
use crate::keys::{self, ClusterSecret};
use crate::mesh::{Device, Implementation, Mesh, MeshError, Peer, PeerDiff, PeerStats};
use crate::rotation::{self, Observed, Own, Policy, Remote, Step};
use crate::slot::Slot;
use crate::userspace::{Program, UserspaceMesh};

pub use outcome::Outcome;

/// What this host is to the mesh, and who else is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The MTU of the mesh's devices: [`crate::device_mtu`] of the underlay's.
    pub mtu: u32,
    /// This host's address inside.
    pub address: Ipv6Addr,
    /// All addresses inside.
    pub prefix: Ipv6Network,
    /// The UDP port of the VXLAN inside.
    pub vxlan: u16,
    /// The UDP ports of the two slots.
    pub ports: Slots<u16>,
    /// The other hosts, without this one.
    pub remotes: Vec<Remote>,
}

impl View {
    fn device(&self, key: &records::Slot) -> Device {
        Device {
            port: key.port,
            mtu: self.mtu,
            address: self.address,
            prefix: self.prefix,
            vxlan: self.vxlan,
        }
    }

    fn peers(&self, slot: Slot, key: &records::Slot, secret: &ClusterSecret) -> Vec<Peer> {
        self.remotes.iter().filter_map(|remote| peer(slot, key, remote, secret)).collect()
    }
}

/// The mesh of this host.
pub struct Driver {
    root: Root,
    socket: Socket,
    mesh: Box<dyn Mesh>,
    policy: Policy,
    /// The peers each device was last told of.
    told: Slots<Option<Vec<Peer>>>,
    /// Whether a tunnel of another version was left for one of ours: once is enough, whatever is started.
    renewed: bool,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Driver").field("mesh", &self.mesh.implementation()).finish_non_exhaustive()
    }
}

fn path(root: &Root) -> PathBuf {
    root.path().join("var/lib/weft/overlay/wg.json")
}

/// What this host has of keys, on disk. The store is told; it does not tell.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Stored {
    schema: u64,
    #[serde(default)]
    wireguard: Slots<Option<records::Slot>>,
    /// Since when a slot is retiring, in milliseconds since 1970.
    #[serde(default)]
    retiring_since: Option<u64>,
}

impl Driver {
    /// Opens the mesh in the calling thread's network namespace: the kernel's if it has one, or what is asked for. `weftd` tells what is
    /// started as `weftd tunnel`, each time.
    ///
    /// # Errors
    ///
    /// When there is no netlink socket to be had, or the kernel refuses to say whether it has WireGuard.
    pub fn open(root: Root, weftd: Program, wanted: Option<Implementation>) -> Result<Self, MeshError> {
        let failed = refused(Slot::A, "reach the kernel");
        let mut kernel = KernelMesh::open(root.clone()).map_err(&failed)?;
        let implementation = match wanted {
            Some(implementation) => implementation,
            None if kernel.is_supported().map_err(&failed)? => Implementation::Kernel,
            None => Implementation::Userspace,
        };
        let mesh: Box<dyn Mesh> = match implementation {
            Implementation::Kernel => Box::new(kernel),
            Implementation::Userspace => Box::new(UserspaceMesh::open(root.clone(), weftd).map_err(&failed)?),
        };
        let socket = Socket::open().map_err(failed)?;
        Ok(Self { root, socket, mesh, policy: Policy::default(), told: Slots::default(), renewed: false })
    }

    /// Changes when old keys go.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Returns whose WireGuard it is.
    pub fn implementation(&self) -> Implementation {
        self.mesh.implementation()
    }

    /// Does what can be done now to have a tunnel to every host in view, by the newest keys.
    ///
    /// To be called whenever the view changes, and every second or so: a tunnel that died is started again, and a rotation
    /// goes on. What fails for one device does not keep the other from working.
    ///
    /// # Errors
    ///
    /// When nothing could be done. What failed for one device, or one host, is in the outcome.
    pub fn advance(&mut self, view: &View, secret: &ClusterSecret) -> Result<Outcome, MeshError> {
        let mut outcome = Outcome::default();
        let mut stored = self.stored()?;
        // Before any device, and also while there is none.
        device::close(&mut self.socket, Slot::A, view.prefix)?;
        for slot in Slot::ALL {
            let raised = match self.raise(slot, &stored, view, secret, &mut outcome) {
                Err(error) if error.is_without_key() => self.give_up(slot, &mut stored, &mut outcome),
                raised => raised,
            };
            *slot.of_mut(&mut outcome.down) = raised.is_err();
            outcome.note(raised);
        }
        let renewed = self.renew(view, &mut stored, &mut outcome);
        outcome.note(renewed);
        let observed = self.observe(&stored)?;
        let own = Own { wireguard: stored.wireguard, retiring_for: stored.retiring_for() };
        for step in rotation::plan(&own, &view.remotes, &observed, now(), self.policy) {
            let taken = self.take(&step, view, &mut stored, &mut outcome);
            outcome.note(taken);
        }
        outcome.wireguard = stored.wireguard;
        let named =
            |version: &str| if version.is_empty() { "an older weftd".into() } else { version.to_owned() };
        let version = |slot: Slot| Some((slot, named(self.mesh.version(slot)?)));
        outcome.versions = Slot::ALL.into_iter().filter_map(version).collect();
        Ok(outcome)
    }

    /// Makes a second key, which the others move to by and by. The next [`Driver::advance`] does the rest.
    ///
    /// Returns nothing if a key is being replaced already.
    ///
    /// # Errors
    ///
    /// When the key cannot be written.
    pub fn rotate(&mut self, view: &View) -> Result<Option<Slot>, MeshError> {
        let mut stored = self.stored()?;
        let slot = rotation::newest(&stored.wireguard).map_or(Slot::A, Slot::other);
        if slot.of(&stored.wireguard).is_some() {
            return Ok(None);
        }
        self.create(slot, view, &mut stored)?;
        Ok(Some(slot))
    }

    /// Returns how things stand with each peer of a slot; none of a slot that has no key, or no device.
    ///
    /// # Errors
    ///
    /// When the device cannot be asked: nobody works on it.
    pub fn stats(&mut self, slot: Slot) -> Result<Vec<PeerStats>, MeshError> {
        let has_key = slot.of(&self.stored()?.wireguard).is_some();
        match has_key && device::find(&mut self.socket, slot)?.is_some() {
            true => self.mesh.stats(slot),
            false => Ok(Vec::new()),
        }
    }

    /// Begins a handshake with a peer whose last one is so old, and returns whether there will be another one if the peer
    /// answers.
    ///
    /// KERNEL: the kernel's WireGuard begins none as long as it has a session.
    ///
    /// # Errors
    ///
    /// When the device cannot be asked, or does not know the peer.
    pub fn greet(&mut self, slot: Slot, peer: &PublicKey, age: Option<Duration>) -> Result<bool, MeshError> {
        let has_session = age.is_some_and(|age| age < rotation::SESSION);
        if has_session && self.implementation() == Implementation::Kernel {
            return Ok(false);
        }
        self.mesh.force_handshake(slot, peer).map(|()| true)
    }

    /// Returns by which slot packets to each host leave.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub fn routes(&mut self) -> Result<BTreeMap<Ipv6Addr, Slot>, MeshError> {
        device::routes(&mut self.socket)
    }

    /// Removes everything: devices, processes, keys, and at last the route that keeps the mesh's addresses from going
    /// elsewhere. The cluster's secret stays.
    ///
    /// # Errors
    ///
    /// When something stays.
    pub fn leave(&mut self, prefix: Ipv6Network) -> Result<(), MeshError> {
        for slot in Slot::ALL {
            self.remove(slot)?;
        }
        let path = self.path();
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(weft_state::StateError::io("remove", &path)(error).into());
            }
            _ => {}
        }
        match self.socket.request(weft_netlink::wireguard::not_unreachable(prefix)) {
            Err(error) if !error.is_missing() => Err(refused(Slot::A, "open the mesh's addresses")(error)),
            _ => Ok(()),
        }
    }

    /// Returns whether there is anything that [`Driver::leave`] removes: keys, or a device.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub fn is_there(root: &Root) -> Result<bool, MeshError> {
        if path(root).exists() {
            return Ok(true);
        }
        let mut socket = Socket::open().map_err(refused(Slot::A, "reach the kernel"))?;
        for slot in Slot::ALL {
            if device::find(&mut socket, slot)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn path(&self) -> PathBuf {
        path(&self.root)
    }

    fn stored(&self) -> Result<Stored, MeshError> {
        Ok(document::read(&self.path())?.unwrap_or_default())
    }

    fn store(&self, stored: &mut Stored) -> Result<(), MeshError> {
        stored.schema = document::SCHEMA;
        Ok(document::write(&self.path(), stored, Durability::Disk)?)
    }

    /// Has the slot's device, if there is a key for it, be as it should and know its peers.
    fn raise(
        &mut self,
        slot: Slot,
        stored: &Stored,
        view: &View,
        secret: &ClusterSecret,
        outcome: &mut Outcome,
    ) -> Result<(), MeshError> {
        let Some(key) = *slot.of(&stored.wireguard) else { return Ok(()) };
        if self.mesh.ensure_device(slot, &view.device(&key))? {
            // What a new device, or a new process, was told is not known.
            *slot.of_mut(&mut self.told) = None;
            outcome.say(format!("{slot}: the device is up on port {}", key.port));
        }
        let wanted = view.peers(slot, &key, secret);
        // Somebody else has been at it: it is told all again.
        if let Some(told) = slot.of(&self.told)
            && let strays = self.mesh.strays(slot, told)?
            && !strays.is_empty()
        {
            *slot.of_mut(&mut self.told) = None;
            strays.into_iter().for_each(|what| outcome.say(format!("{slot}: mended: {what}")));
        }
        let diff = match slot.of(&self.told) {
            Some(told) => PeerDiff::between(told, &wanted),
            None => {
                let strangers = self.mesh.peers(slot)?.into_iter();
                let is_wanted = |key: &PublicKey| wanted.iter().any(|peer| peer.public_key == *key);
                PeerDiff { set: wanted.clone(), remove: strangers.filter(|key| !is_wanted(key)).collect() }
            }
        };
        if !diff.is_empty() {
            self.mesh.set_peers(slot, &diff)?;
            outcome.say(format!("{slot}: {} peers set, {} removed", diff.set.len(), diff.remove.len()));
        }
        *slot.of_mut(&mut self.told) = Some(wanted);
        Ok(())
    }

    /// Forgets a slot whose private key is lost: nobody can speak by it again.
    fn give_up(&mut self, slot: Slot, stored: &mut Stored, outcome: &mut Outcome) -> Result<(), MeshError> {
        *slot.of_mut(&mut stored.wireguard) = None;
        self.store(stored)?;
        self.remove(slot)?;
        outcome.say(format!("{slot}: its private key is lost, so it is given up"));
        Ok(())
    }

    /// Leaves a tunnel of another version, as it is after an upgrade, for one that is started now: as a key is replaced.
    fn renew(&mut self, view: &View, stored: &mut Stored, outcome: &mut Outcome) -> Result<(), MeshError> {
        let Some(slot) = rotation::newest(&stored.wireguard) else { return Ok(()) };
        let old = self.mesh.version(slot).filter(|version| *version != control::VERSION);
        let (Some(old), false) = (old, self.renewed) else { return Ok(()) };
        let old = if old.is_empty() { "an older one".to_owned() } else { old.to_owned() };
        if slot.other().of(&stored.wireguard).is_some() {
            // The next time: a key is being replaced already.
            return Ok(());
        }
        self.create(slot.other(), view, stored)?;
        self.renewed = true;
        outcome.say(format!(
            "{slot}: its tunnel is {old}: {} takes over, as {}",
            slot.other(),
            control::VERSION
        ));
        Ok(())
    }

    fn observe(&mut self, stored: &Stored) -> Result<Observed, MeshError> {
        let mut observed = Observed { routes: device::routes(&mut self.socket)?, ..Observed::default() };
        for slot in Slot::ALL {
            if slot.of(&stored.wireguard).is_none() {
                continue;
            }
            // A device that does not answer has shaken no hands.
            let ages = self
                .mesh
                .stats(slot)
                .unwrap_or_default()
                .into_iter()
                .filter_map(|peer| Some((peer.public_key, peer.handshake?)));
            *slot.of_mut(&mut observed.handshakes) = ages.collect();
        }
        Ok(observed)
    }

    fn take(
        &mut self,
        step: &Step,
        view: &View,
        stored: &mut Stored,
        outcome: &mut Outcome,
    ) -> Result<(), MeshError> {
        match *step {
            Step::Create(slot) => {
                self.create(slot, view, stored)?;
                outcome.say(format!("{slot}: a new key"));
            }
            Step::Handshake(slot, peer) => self.mesh.force_handshake(slot, &peer)?,
            Step::Route(to, slot) => {
                device::lead(&mut self.socket, to, slot)?;
                outcome.say(format!("{slot}: {to} is reached by it"));
            }
            Step::Unroute(to, slot) => {
                device::unlead(&mut self.socket, to, slot)?;
                outcome.say(format!("{slot}: {to} is reached no more"));
            }
            Step::Retire(slot) => {
                if let Some(key) = slot.of_mut(&mut stored.wireguard) {
                    key.state = SlotState::Retiring;
                }
                stored.retiring_since = Some(now());
                self.store(stored)?;
                outcome.say(format!("{slot}: nobody that is alive needs it"));
            }
            Step::Remove(slot) => {
                *slot.of_mut(&mut stored.wireguard) = None;
                stored.retiring_since = None;
                // First it is not ours any more: what is interrupted here is finished by nobody needing it.
                self.store(stored)?;
                self.remove(slot)?;
                outcome.say(format!("{slot}: removed"));
            }
        }
        Ok(())
    }

    /// Makes a key, on disk before anybody is told of it.
    fn create(&mut self, slot: Slot, view: &View, stored: &mut Stored) -> Result<(), MeshError> {
        let key = keys::create(&self.root, slot)?;
        let known = [stored.wireguard.a, stored.wireguard.b].into_iter().flatten().map(|key| key.epoch).max();
        let epoch = known.map_or(0, |epoch| epoch + 1).max(now());
        let port = *slot.of(&view.ports);
        *slot.of_mut(&mut stored.wireguard) =
            Some(records::Slot { public_key: key.public(), port, epoch, state: SlotState::Active });
        self.store(stored)
    }

    fn remove(&mut self, slot: Slot) -> Result<(), MeshError> {
        *slot.of_mut(&mut self.told) = None;
        self.mesh.remove(slot)?;
        Ok(keys::forget(&self.root, slot)?)
    }
}

impl Stored {
    fn retiring_for(&self) -> Option<Duration> {
        self.retiring_since.map(|since| Duration::from_millis(now().saturating_sub(since)))
    }
}

/// Returns a host as the peer it is in a slot, if it has a key there.
fn peer(slot: Slot, own: &records::Slot, remote: &Remote, secret: &ClusterSecret) -> Option<Peer> {
    let theirs = (*slot.of(&remote.wireguard))?;
    (theirs.public_key != own.public_key).then(|| Peer {
        public_key: theirs.public_key,
        preshared_key: secret.of_pair(&own.public_key, &theirs.public_key),
        endpoint: SocketAddr::new(remote.underlay, theirs.port),
        address: remote.address,
    })
}

fn now() -> u64 {
    let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
}
