//! One file for each thing that only one attachment can have.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use weft_model::port::{PortRange, Protocol};
use weft_model::{ContainerId, Endpoint, IfName};

use crate::{StateError, atomic, file};

/// Something that one attachment has and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Claim {
    /// Ports of a host address.
    Host(Protocol, IpAddr, PortRange),
    /// Ports of a container address that are let in as they are.
    Target(Protocol, IpAddr, PortRange),
    /// What goes by a container's address alone.
    Address(IpAddr),
}

impl Claim {
    /// Returns whether another attachment that has it keeps it: the address of a container is the IPAM
    /// plugin's to give, and whoever has it last is right.
    pub(super) const fn is_kept(&self) -> bool {
        matches!(self, Self::Host(..))
    }

    /// Returns the addresses whose claims may be in the way of this one; `None` for all of its family.
    fn addresses(&self) -> Option<Vec<IpAddr>> {
        match *self {
            Self::Host(_, host, _) if host.is_unspecified() => None,
            Self::Host(_, host, _) => Some(vec![host, any(host)]),
            Self::Target(_, target, _) | Self::Address(target) => Some(vec![target]),
        }
    }

    /// Returns the directory of the claims of its kind, below that of all claims.
    fn kind(&self) -> String {
        match self {
            Self::Host(protocol, ..) => protocol.to_string(),
            Self::Target(protocol, ..) => routed(*protocol),
            Self::Address(_) => ADDRESSES.into(),
        }
    }

    const fn address(&self) -> IpAddr {
        match *self {
            Self::Host(_, address, _) | Self::Target(_, address, _) | Self::Address(address) => address,
        }
    }

    pub(super) const fn ports(&self) -> Option<PortRange> {
        match *self {
            Self::Host(_, _, ports) | Self::Target(_, _, ports) => Some(ports),
            Self::Address(_) => None,
        }
    }

    /// Returns the same with another address and other ports.
    const fn moved(self, address: IpAddr, ports: PortRange) -> Self {
        match self {
            Self::Host(protocol, ..) => Self::Host(protocol, address, ports),
            Self::Target(protocol, ..) => Self::Target(protocol, address, ports),
            Self::Address(_) => Self::Address(address),
        }
    }
}

type Make = fn(Protocol, IpAddr, PortRange) -> Claim;

fn routed(protocol: Protocol) -> String {
    format!("routed-{protocol}")
}

/// A claim that somebody made.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) claim: Claim,
    /// Who made it; `None` if the file does not say, as one that is cut short.
    pub(super) holder: Option<Endpoint>,
}

/// The directory of claims.
pub(super) struct Claims {
    dir: PathBuf,
    /// What was listed and has not been changed since. Whoever asks for thousands of ports looks at the same few
    /// directories for each, and everybody else waits meanwhile.
    listed: RefCell<Listed>,
}

#[derive(Default)]
struct Listed {
    addresses: HashMap<String, Vec<IpAddr>>,
    ranges: HashMap<PathBuf, Vec<PortRange>>,
}

impl Claims {
    /// Returns the claims in a directory, for as long as the lock of the books is held or nothing is changed.
    pub(super) fn at(dir: PathBuf) -> Self {
        Self { dir, listed: RefCell::default() }
    }

    /// Returns the claims that cannot stand beside this one, whoever made them.
    pub(super) fn colliding(&self, claim: &Claim) -> Result<Vec<Found>, StateError> {
        let mut found = Vec::new();
        let Some(ports) = claim.ports() else {
            found.extend(self.found(*claim)?);
            return Ok(found);
        };
        for address in self.relevant(claim)? {
            let dir = self.dir.join(claim.kind()).join(address.to_string());
            for range in self.ranges(&dir)?.into_iter().filter(|range| range.overlaps(ports)) {
                found.extend(self.found(claim.moved(address, range))?);
            }
            for port in single_ports(&dir, ports)? {
                found.extend(self.found(claim.moved(address, port))?);
            }
        }
        Ok(found)
    }

    /// Makes a claim, which nobody must have.
    pub(super) fn make(&self, claim: &Claim, owner: &Endpoint) -> Result<(), StateError> {
        self.listed.take();
        let path = self.path(claim);
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let created = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                atomic::create_dir(path.parent().unwrap_or(&self.dir), 0o755)?;
                open()
            }
            outcome => outcome,
        };
        let text = format!("{}\n{}\n{}\n", owner.container, owner.ifname, owner.network);
        created.and_then(|mut file| file.write_all(text.as_bytes())).map_err(StateError::io("write", &path))
    }

    /// Returns who has made exactly this claim.
    pub(super) fn holder(&self, claim: &Claim) -> Result<Option<Endpoint>, StateError> {
        Ok(self.found(*claim)?.and_then(|found| found.holder))
    }

    /// Returns every claim that a container has made at an interface. This reads all there are, and is for when the
    /// list of them is lost.
    pub(super) fn of(&self, container: &ContainerId, ifname: &IfName) -> Result<Vec<Found>, StateError> {
        let mut found = self.all()?;
        let has = |holder: &Endpoint| (&holder.container, &holder.ifname) == (container, ifname);
        found.retain(|one| one.holder.as_ref().is_some_and(has));
        Ok(found)
    }

    /// Returns every claim there is.
    pub(super) fn all(&self) -> Result<Vec<Found>, StateError> {
        let mut claims = Vec::new();
        for protocol in Protocol::ALL {
            let kinds: [(String, Make); 2] =
                [(protocol.to_string(), Claim::Host), (routed(protocol), Claim::Target)];
            for (kind, make) in kinds {
                let dir = self.dir.join(kind);
                for address in listed::<IpAddr>(&dir)? {
                    let ports = all_ports(&dir.join(address.to_string()))?;
                    claims.extend(ports.into_iter().map(|ports| make(protocol, address, ports)));
                }
            }
        }
        let addresses = listed(&self.dir.join(ADDRESSES))?;
        claims.extend(addresses.into_iter().map(Claim::Address));
        let mut found = Vec::new();
        for claim in claims {
            found.extend(self.found(claim)?);
        }
        Ok(found)
    }

    /// Drops a claim, whoever made it, with the directories that it leaves empty.
    pub(super) fn drop(&self, claim: &Claim) -> Result<(), StateError> {
        self.listed.take();
        let path = self.path(claim);
        match fs::remove_file(&path) {
            Err(error) if !is_absent(&error) => return Err(StateError::io("remove", &path)(error)),
            _ => {}
        }
        for dir in path.ancestors().skip(1).take_while(|dir| *dir != self.dir) {
            // Another claim keeps the directory.
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn found(&self, claim: Claim) -> Result<Option<Found>, StateError> {
        let path = self.path(&claim);
        match file::read_text(&path) {
            Ok(text) => Ok(Some(Found { claim, holder: endpoint(&text) })),
            Err(error) if is_absent(&error) => Ok(None),
            // What is there and says nothing: no text, or no file.
            Err(error) if file::is_refused(&error) => Ok(Some(Found { claim, holder: None })),
            Err(error) => Err(StateError::io("read", &path)(error)),
        }
    }

    /// Returns the addresses whose claims may be in the way of this one.
    fn relevant(&self, claim: &Claim) -> Result<Vec<IpAddr>, StateError> {
        let family = claim.address();
        match claim.addresses() {
            Some(addresses) => Ok(addresses),
            None => {
                let kind = claim.kind();
                let known = self.listed.borrow().addresses.get(&kind).cloned();
                let mut addresses = match known {
                    Some(known) => known,
                    None => {
                        let addresses = listed::<IpAddr>(&self.dir.join(&kind))?;
                        self.listed.borrow_mut().addresses.insert(kind, addresses.clone());
                        addresses
                    }
                };
                addresses.retain(|address| address.is_ipv4() == family.is_ipv4());
                Ok(addresses)
            }
        }
    }

    /// Returns the ranges that are claimed in an address's directory.
    fn ranges(&self, dir: &Path) -> Result<Vec<PortRange>, StateError> {
        if let Some(known) = self.listed.borrow().ranges.get(dir) {
            return Ok(known.clone());
        }
        let ranges = listed::<PortRange>(&dir.join(RANGES))?;
        self.listed.borrow_mut().ranges.insert(dir.into(), ranges.clone());
        Ok(ranges)
    }

    fn path(&self, claim: &Claim) -> PathBuf {
        let path = self.dir.join(claim.kind());
        match claim.ports() {
            None => path.join(claim.address().to_string()),
            Some(ports) => {
                let dir = path.join(claim.address().to_string());
                if ports.is_single() {
                    dir.join(block(ports.first())).join(ports.to_string())
                } else {
                    dir.join(RANGES).join(ports.to_string())
                }
            }
        }
    }
}

/// The directory of the claims of what goes by an address alone.
const ADDRESSES: &str = "addresses";

/// The directory of the claims of several ports at once.
const RANGES: &str = "ranges";

/// Returns the name of the directory that a port is in, with up to 255 others.
fn block(port: u16) -> String {
    (port >> 8).to_string()
}

/// Returns the single ports in a directory that are among these. What this costs depends on how many are
/// asked for and how many of them are there.
fn single_ports(dir: &Path, ports: PortRange) -> Result<Vec<PortRange>, StateError> {
    if ports.is_single() {
        let there = dir.join(block(ports.first())).join(ports.to_string()).exists();
        return Ok(if there { vec![ports] } else { Vec::new() });
    }
    let blocks = (ports.first() >> 8)..=(ports.last() >> 8);
    let mut found = Vec::new();
    // A directory that has fewer blocks than are asked for is read once instead.
    for name in listed::<u16>(dir)?.into_iter().filter(|number| blocks.contains(number)) {
        found.extend(listed::<PortRange>(&dir.join(name.to_string()))?);
    }
    found.retain(|port| port.is_single() && ports.overlaps(*port));
    Ok(found)
}

/// Returns all ports that are claimed in an address's directory, single ones and ranges.
fn all_ports(dir: &Path) -> Result<Vec<PortRange>, StateError> {
    let mut found = listed::<PortRange>(&dir.join(RANGES))?;
    for number in listed::<u16>(dir)? {
        found.extend(listed::<PortRange>(&dir.join(number.to_string()))?);
    }
    Ok(found)
}

/// Returns the names in a directory that are what we put there.
fn listed<T: std::str::FromStr>(dir: &Path) -> Result<Vec<T>, StateError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(StateError::io("read", dir)(error)),
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    let names: io::Result<Vec<_>> = names.collect();
    let names = names.map_err(StateError::io("read", dir))?;
    Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
}

fn endpoint(text: &str) -> Option<Endpoint> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let (container, ifname) = (lines.next()?.parse().ok()?, lines.next()?.parse().ok()?);
    Some(Endpoint { network: lines.next()?.parse().ok()?, container, ifname })
}

const fn any(family: IpAddr) -> IpAddr {
    match family {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
