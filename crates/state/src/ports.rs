//! The books of published ports: who publishes what, true for this boot only.
//!
//! ```text
//! owners/<container>,<ifname>.json              what an attachment publishes, as it is in the kernel
//! owners/<container>,<ifname>.intent            the same as it is about to be
//! owners/<container>,<ifname>.gone              the same while it is taken back
//! claims/<protocol>/<host address>/<port/256>/<port>
//! claims/<protocol>/<host address>/ranges/<first>-<last>
//! claims/routed-<protocol>/<container address>/...   as above, for ports that are let in untranslated
//! claims/addresses/<container address>          who has what goes by the address alone
//! cursor-<protocol>                             the last port that was chosen for somebody
//! moving/<container>.json                       what is on its way from one attachment to another
//! waiting/<container>/<ifname>                  an attachment whose ports another one of the container has
//! ```
//!
//! A claim is a file with its owner's container, interface and network, a line each. A port of the host is
//! claimed by one attachment at a time, and an unspecified address (`0.0.0.0`, `::`) is every address of its
//! family. What goes by the container's address belongs to whoever claimed it last: addresses are the IPAM
//! plugin's to give, and the former owner's DEL may come late.
//!
//! INVARIANT: the intent is written before the first claim, the claim is made before the kernel is
//! changed, and both are dropped after. A claim is void when its owner's files do not list it, or when only an intent does
//! and nobody holds the owner's lock: then the process was killed. Whoever meets a void claim takes it over.
//!
//! Claims are looked at and made under one short lock (`locks/ports`). Finding out whether a port is free costs the
//! same whatever is published: one look per host address in use, and one at the ranges.

mod change;
mod choice;
mod claims;
mod damaged;
mod judge;
mod moving;
mod orphans;
mod owner;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use weft_model::port::{PortRange, Protocol};
use weft_model::{ContainerId, Endpoint, IfName, NetworkName};

use crate::lock::FileLock;
use crate::{Root, StateError, atomic, boot, document, file};

use claims::Claims;

pub use change::{Change, Claimed, Taken};
pub use choice::{Binding, Choice, Chosen, ephemeral_ports};
pub use claims::Claim;
pub use damaged::Damaged;
pub use moving::{Asked, Moving};
pub use orphans::Orphan;
pub use owner::{Mark, Owner};

/// How the names of an owner's files end.
const DONE: &str = ".json";
const INTENT: &str = ".intent";
const GONE: &str = ".gone";

/// Why ports were not claimed.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// A file could not be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Somebody else has it.
    #[error("port {ports}/{protocol} of {host} is published by {} on {}", holder.container, holder.network)]
    Taken {
        /// The protocol.
        protocol: Protocol,
        /// The host's address that is in use.
        host: IpAddr,
        /// The ports that are published there, at least one of which was asked for.
        ports: PortRange,
        /// Who publishes them.
        holder: Endpoint,
    },
    /// One request asks for a port twice.
    #[error("port {ports}/{protocol} of {host} is asked for twice")]
    Twice {
        /// The protocol.
        protocol: Protocol,
        /// The host's address.
        host: IpAddr,
        /// The ports.
        ports: PortRange,
    },
    /// None of the ports to choose from is free.
    #[error("no {protocol} port of {among} is free on {host}")]
    NoneFree {
        /// The protocol.
        protocol: Protocol,
        /// The host's address.
        host: IpAddr,
        /// The ports.
        among: PortRange,
    },
}

/// The directory of books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    dir: PathBuf,
    locks: PathBuf,
}

impl Books {
    /// Returns the books below `root`.
    pub fn new(root: &Root) -> Self {
        Self { dir: root.ports_dir(), locks: root.locks_dir() }
    }

    /// Returns the books in a directory, whose locks are in another.
    pub fn at(dir: &Path, locks: &Path) -> Self {
        Self { dir: dir.into(), locks: locks.into() }
    }

    /// Returns what an attachment publishes, as far as that is in place.
    pub fn owner(&self, container: &ContainerId, ifname: &IfName) -> Option<Owner> {
        read(&self.file(container, ifname, DONE)).ok().flatten()
    }

    /// Tells whether there is anything about an attachment, be it half done or damaged.
    pub fn knows(&self, container: &ContainerId, ifname: &IfName) -> bool {
        [DONE, INTENT, GONE].iter().any(|ending| self.file(container, ifname, ending).exists())
    }

    /// Returns what every attachment of this boot publishes, in order. What cannot be read is left out.
    pub fn owners(&self) -> Vec<Owner> {
        self.files(DONE).unwrap_or_default().iter().filter_map(|path| read(path).ok().flatten()).collect()
    }

    /// Returns the same as [`Books::owners`], but for those whose ports are being changed what they will be: what others may write
    /// into the kernel meanwhile.
    pub fn owners_as_changed(&self) -> Vec<Owner> {
        let mut changes = self.changes().unwrap_or_default();
        let files = self.files(DONE).unwrap_or_default();
        let owner = |path: PathBuf| match changes.remove(&path.with_extension("")) {
            None => read(&path).ok().flatten(),
            change => change,
        };
        files.into_iter().filter_map(owner).collect()
    }

    /// Returns what is being published or changed at this moment, by the files' names. To be read before what is published: a
    /// change that is complete a moment later is found there as what it has become.
    fn changes(&self) -> Result<BTreeMap<PathBuf, Owner>, StateError> {
        let files = self.files(INTENT)?;
        let owners =
            files.into_iter().filter_map(|path| Some((path.with_extension(""), read(&path).ok().flatten()?)));
        Ok(owners.filter(|(_, owner)| self.is_at_work(&owner.endpoint)).collect())
    }

    /// Returns the same as [`Books::owners`] for people, who would take an empty list for the truth. What is left out
    /// is in [`Books::damaged`].
    ///
    /// # Errors
    ///
    /// When the directory or a file is there and must not be read, or a newer version wrote it.
    pub fn list(&self) -> Result<Vec<Owner>, StateError> {
        let mut owners = Vec::new();
        for path in self.files(DONE)? {
            match read(&path) {
                Err(StateError::Damaged { .. }) => {}
                found => owners.extend(found?),
            }
        }
        Ok(owners)
    }

    /// Returns what the attachments to a network publish.
    pub fn of_network(&self, network: &NetworkName) -> Vec<Owner> {
        let mut owners = self.owners();
        owners.retain(|owner| owner.endpoint.network == *network);
        owners
    }

    /// Returns the attachments to a network that we have anything about, be it half done.
    pub fn holders(&self, network: &NetworkName) -> Vec<Endpoint> {
        let files = [DONE, INTENT, GONE].map(|ending| self.files(ending).unwrap_or_default()).concat();
        let owners = files.iter().filter_map(|path| read(path).ok().flatten()).map(|owner| owner.endpoint);
        let damaged = self.damaged().into_iter().filter_map(|damaged| damaged.endpoint);
        let mut endpoints: Vec<_> = owners.chain(damaged).filter(|one| one.network == *network).collect();
        endpoints.sort();
        endpoints.dedup();
        endpoints
    }

    /// Returns what processes that were killed had meant to publish, or were taking back.
    pub fn interrupted_changes(&self) -> Vec<Owner> {
        let files = [INTENT, GONE].map(|ending| self.files(ending).unwrap_or_default()).concat();
        let mut owners: Vec<_> = files.iter().filter_map(|path| read(path).ok().flatten()).collect();
        owners.retain(|owner| !self.is_at_work(&owner.endpoint));
        owners
    }

    /// Returns everything that is published or about to be, with the claims on it that still stand: what has to be in
    /// the kernel. What is just being taken back is not.
    ///
    /// # Errors
    ///
    /// When the directory or a claim cannot be read.
    pub fn standing(&self) -> Result<Vec<(Owner, Vec<Claim>)>, StateError> {
        let mut owners = self.changes()?;
        for path in self.files(DONE)? {
            if let Some(owner) = read(&path).ok().flatten() {
                owners.entry(path.with_extension("")).or_insert(owner);
            }
        }
        for path in self.files(GONE)? {
            owners.remove(&path.with_extension(""));
        }
        if owners.is_empty() {
            return Ok(Vec::new());
        }
        let _lock = self.lock()?;
        let claims = self.claims();
        let mut standing = Vec::new();
        for owner in owners.into_values() {
            let mut held = Vec::new();
            for claim in owner.claims() {
                let holder = claims.holder(&claim)?;
                if holder.is_some_and(|holder| is_same(&holder, &owner.endpoint)) {
                    held.push(claim);
                }
            }
            standing.push((owner, held));
        }
        Ok(standing)
    }

    /// Tells whether nobody publishes anything.
    pub fn is_empty(&self) -> bool {
        fs::read_dir(self.owners_dir()).map_or(true, |mut entries| entries.next().is_none())
    }

    /// Returns who publishes a port of the host's, if somebody does.
    ///
    /// # Errors
    ///
    /// When the claims cannot be read.
    pub fn holder(
        &self,
        protocol: Protocol,
        host: IpAddr,
        port: u16,
    ) -> Result<Option<Endpoint>, StateError> {
        let Ok(ports) = PortRange::single(port) else { return Ok(None) };
        for found in self.claims().colliding(&Claim::Host(protocol, host, ports))? {
            if let Some(holder) = found.holder.filter(|holder| self.is_alive(holder, &found.claim)) {
                return Ok(Some(holder));
            }
        }
        Ok(None)
    }

    /// Tells whether a claim still means something: what is in place lists it, or what somebody is putting there.
    fn is_alive(&self, holder: &Endpoint, claim: &Claim) -> bool {
        let lists = |owner: &Owner| owner.claims().contains(claim);
        self.is_confirmed(holder, claim)
            || self.interrupted(&holder.container, &holder.ifname).iter().any(lists)
                && self.is_at_work(holder)
    }

    /// Tells whether what is in place lists a claim.
    fn is_confirmed(&self, holder: &Endpoint, claim: &Claim) -> bool {
        let owner = self.owner(&holder.container, &holder.ifname);
        owner.is_some_and(|owner| owner.claims().contains(claim))
    }

    /// Tells whether somebody is changing what an attachment publishes.
    fn is_at_work(&self, endpoint: &Endpoint) -> bool {
        match FileLock::try_exclusive(&self.lock_of(endpoint)) {
            Ok(Some(free)) => {
                drop(free.unlink());
                false
            }
            // What cannot be found out is not taken from anybody.
            Ok(None) | Err(_) => true,
        }
    }

    fn interrupted(&self, container: &ContainerId, ifname: &IfName) -> Vec<Owner> {
        let endings = [INTENT, GONE].iter();
        endings.filter_map(|ending| read(&self.file(container, ifname, ending)).ok().flatten()).collect()
    }

    fn taken(&self, claim: Claim, holder: Option<Endpoint>) -> Taken {
        let mut owners = Vec::new();
        if let Some(Endpoint { container, ifname, .. }) = &holder {
            owners.extend(self.owner(container, ifname));
            owners.extend(self.interrupted(container, ifname));
        }
        Taken { claim, owners }
    }

    fn claims(&self) -> Claims {
        Claims::at(self.dir.join("claims"))
    }

    fn lock(&self) -> Result<FileLock, StateError> {
        FileLock::exclusive(&self.locks.join("ports"))
    }

    fn lock_of(&self, endpoint: &Endpoint) -> PathBuf {
        self.locks.join(format!("ports-{}", endpoint.container))
    }

    fn file(&self, container: &ContainerId, ifname: &IfName, ending: &str) -> PathBuf {
        self.owners_dir().join(format!("{container},{ifname}{ending}"))
    }

    fn owners_dir(&self) -> PathBuf {
        self.dir.join("owners")
    }

    /// Returns the owners' files of one kind, in order.
    fn files(&self, ending: &str) -> Result<Vec<PathBuf>, StateError> {
        let dir = self.owners_dir();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StateError::io("read", &dir)(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(StateError::io("read", &dir))?.path();
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if name.ends_with(ending) && !name.starts_with(atomic::TEMPORARY) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Returns the last port that was chosen for somebody.
    fn cursor(&self, protocol: Protocol) -> Option<u16> {
        file::read_text(&self.dir.join(format!("cursor-{protocol}"))).ok()?.trim().parse().ok()
    }

    /// Whatever becomes of this, the next choice is a good one; it may only be the same again.
    fn set_cursor(&self, protocol: Protocol, port: u16) {
        let path = self.dir.join(format!("cursor-{protocol}"));
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path);
        drop(file.and_then(|mut file| file.write_all(port.to_string().as_bytes())));
    }
}

/// Reads a file of this boot.
fn read(path: &Path) -> Result<Option<Owner>, StateError> {
    let Some(owner) = document::read::<Owner>(path)? else { return Ok(None) };
    Ok((owner.boot == boot::id()?).then_some(owner))
}

fn is_same(one: &Endpoint, other: &Endpoint) -> bool {
    (&one.container, &one.ifname) == (&other.container, &other.ifname)
}

fn remove_file(path: &Path) -> Result<(), StateError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
