//! What was changed, and how to change it back.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnetwork::IpNetwork;
use weft_firewall::Fragment;
use weft_model::IfName;
use weft_netlink::bridge_vlan::{self, Side, Vlans};
use weft_netlink::link::{self, Change, LinkInfo};
use weft_netlink::route::{self, RouteInfo};
use weft_netlink::{Request, address, rule, tc};

use crate::traffic::is_bare;
use crate::{Cause, Kernel, Lent, Place, sysctl, tuning};

/// The changes made so far, in order. Forgetting it makes them permanent.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Vec<Entry>,
    /// The ports of the network's bridge before the network was changed.
    pub(crate) ports: Option<Ports>,
}

/// The ports of a bridge at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ports {
    pub(crate) bridge: u32,
    pub(crate) indices: Vec<u32>,
}

#[derive(Debug)]
struct Entry {
    undo: Undo,
    /// Whether it belongs to all attachments of the network.
    shared: bool,
}

impl Entry {
    /// Returns the index of the link that was created.
    fn created(&self) -> Option<u32> {
        match self.undo {
            Undo::DeleteLink { index, .. } => Some(index),
            _ => None,
        }
    }
}

/// How to take back one change.
#[derive(Debug)]
pub(crate) enum Undo {
    DeleteLink {
        place: Place,
        name: IfName,
        index: u32,
    },
    ChangeLink {
        place: Place,
        name: IfName,
        index: u32,
        change: Change,
    },
    DeleteAddress {
        place: Place,
        dev: IfName,
        index: u32,
        address: IpNetwork,
    },
    AddAddresses {
        place: Place,
        dev: IfName,
        index: u32,
        addresses: Vec<IpNetwork>,
    },
    DeleteRoute {
        place: Place,
        route: RouteInfo,
    },
    AddRoute {
        place: Place,
        route: RouteInfo,
    },
    RestoreSysctl {
        place: Place,
        key: String,
        value: String,
    },
    DeleteVlans {
        place: Place,
        dev: IfName,
        index: u32,
        side: Side,
        vlans: Vec<Vlans>,
    },
    AddVlans {
        place: Place,
        dev: IfName,
        index: u32,
        side: Side,
        vlans: Vec<Vlans>,
    },
    /// A link that was lent comes back.
    TakeBack {
        ifname: IfName,
        lent: Lent,
    },
    RemoveFragment(Fragment),
    RestoreFragment(Fragment),
    RemoveFile(PathBuf),
    DeleteRule {
        place: Place,
        from: IpAddr,
        table: u32,
    },
    Unshape {
        place: Place,
        dev: IfName,
        index: u32,
    },
    IgnoreReceived {
        place: Place,
        dev: IfName,
        index: u32,
    },
}

/// A change that could not be taken back.
#[derive(Debug)]
pub struct Leftover {
    what: String,
    cause: Cause,
}

impl fmt::Display for Leftover {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} ({}", self.what, self.cause)?;
        let mut source = self.cause.source();
        while let Some(error) = source {
            write!(out, ": {error}")?;
            source = error.source();
        }
        out.write_str(")")
    }
}

impl Error for Leftover {}

impl Journal {
    pub(crate) fn push(&mut self, undo: Undo, shared: bool) {
        self.entries.push(Entry { undo, shared });
    }

    /// Returns whether nothing was changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes every change back, the last one first, and returns what is left.
    ///
    /// What belongs to the network stays when somebody has joined the network's bridge since: no lock
    /// is held between plugins, and another ADD may already count on the bridge, its address or
    /// forwarding that this one was first to set up. The network's firewall entries stay when any other
    /// container is on the bridge: an ADD that has joined before us may have found them there after us.
    pub fn undo(&mut self, kernel: &mut Kernel) -> Vec<Leftover> {
        let mut left = Vec::new();
        let created: Vec<u32> = self.entries.iter().filter_map(Entry::created).collect();
        for Entry { undo, shared } in std::mem::take(&mut self.entries).into_iter().rev() {
            if shared {
                // Asked each time: deleting a link takes as long as another ADD needs to join.
                let others = self.others(kernel, &created);
                if others.joined || others.present && matches!(undo, Undo::RemoveFragment(_)) {
                    continue;
                }
            }
            let what = undo.to_string();
            if let Err(cause) = undo.run(kernel) {
                left.push(Leftover { what, cause });
            }
        }
        left
    }

    /// Returns who is on the network's bridge besides the links we created.
    fn others(&self, kernel: &mut Kernel, created: &[u32]) -> Others {
        let Some(Ports { bridge, indices }) = &self.ports else { return Others::default() };
        let now = kernel.socket(Place::Host).and_then(|socket| Ok(link::ports(socket, *bridge)?));
        // In doubt somebody may be.
        let Ok(mut ports) = now else { return Others { joined: true, present: true } };
        ports.retain(|port| !created.contains(&port.index));
        Others {
            joined: ports.iter().any(|port| !indices.contains(&port.index)),
            present: ports.iter().any(LinkInfo::leads_away),
        }
    }
}

/// Who else is on the bridge.
#[derive(Clone, Copy, Debug, Default)]
struct Others {
    /// Somebody has joined since the network was changed.
    joined: bool,
    /// There is another container.
    present: bool,
}

impl Undo {
    fn run(self, kernel: &mut Kernel) -> Result<(), Cause> {
        match self {
            Self::DeleteLink { place, name, index } => {
                kernel.forget(place, &name);
                request(kernel, place, link::delete_index(index))
            }
            Self::ChangeLink { place, index, change, .. } => {
                request(kernel, place, link::change(index, &change))
            }
            Self::DeleteAddress { place, index, address, .. } => {
                request(kernel, place, address::delete(index, address))
            }
            Self::AddAddresses { place, index, addresses, .. } => addresses
                .into_iter()
                .try_for_each(|address| request(kernel, place, address::add(index, address, false))),
            Self::DeleteRoute { place, route } => request(kernel, place, route::delete(&route)),
            Self::AddRoute { place, route } => request(kernel, place, route::add(&route, false)),
            Self::RestoreSysctl { place, key, value } => {
                kernel.run(place, || sysctl::restore(&key, &value))?
            }
            Self::DeleteVlans { place, index, side, vlans, .. } => {
                request(kernel, place, bridge_vlan::delete(index, side, &vlans))
            }
            Self::AddVlans { place, index, side, vlans, .. } => {
                request(kernel, place, bridge_vlan::add(index, side, &vlans))
            }
            Self::RemoveFile(path) => tuning::forget(&path),
            Self::TakeBack { ifname, lent } => kernel.take_back(&ifname, Some(&lent)),
            Self::RemoveFragment(fragment) => Ok(kernel.firewall(|one| one.remove(&fragment))??),
            Self::RestoreFragment(fragment) => Ok(kernel.firewall(|one| one.ensure(&fragment))?.map(drop)?),
            Self::DeleteRule { place, from, table } => request(kernel, place, rule::delete(from, table)),
            Self::Unshape { place, index, .. } => bare(request(kernel, place, tc::unshape(index))),
            Self::IgnoreReceived { place, index, .. } => {
                bare(request(kernel, place, tc::ignore_received(index)))
            }
        }
    }
}

/// Sends a request whose object may have gone with another, or come back by itself.
fn request(kernel: &mut Kernel, place: Place, request: Request) -> Result<(), Cause> {
    match kernel.socket(place)?.request(request) {
        Err(error) if !error.is_missing() && !error.is_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

/// A link that has only what it was born with is bare.
fn bare(outcome: Result<(), Cause>) -> Result<(), Cause> {
    match outcome {
        Err(Cause::Netlink(error)) if is_bare(&error) => Ok(()),
        outcome => outcome,
    }
}

/// What is left when the undoing fails.
impl fmt::Display for Undo {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DeleteLink { place, name, .. } => write!(out, "{place} link {name}"),
            Self::ChangeLink { place, name, .. } => write!(out, "{place} link {name} changed"),
            Self::DeleteAddress { place, dev, address, .. } => {
                write!(out, "{place} addr {address} dev {dev}")
            }
            Self::AddAddresses { place, dev, addresses, .. } => {
                write!(out, "{place} dev {dev} without")?;
                addresses.iter().try_for_each(|address| write!(out, " {address}"))
            }
            Self::DeleteRoute { place, route } => write!(out, "{place} route {}", route.dst),
            Self::AddRoute { place, route, .. } => write!(out, "{place} no route {}", route.dst),
            Self::RestoreSysctl { place, key, value } => {
                write!(out, "{place} sysctl {key} no longer {value}")
            }
            Self::DeleteVlans { place, dev, .. } | Self::AddVlans { place, dev, .. } => {
                write!(out, "{place} vlans of {dev} changed")
            }
            Self::RemoveFile(path) => path.display().fmt(out),
            Self::TakeBack { ifname, lent } => {
                write!(out, "host link {} as {ifname} in the container", lent.name)
            }
            Self::DeleteRule { place, from, table } => write!(out, "{place} rule from {from} table {table}"),
            Self::Unshape { place, dev, .. } => write!(out, "{place} link {dev} shaped"),
            Self::IgnoreReceived { place, dev, .. } => {
                write!(out, "{place} link {dev} with filters on what it receives")
            }
            Self::RemoveFragment(fragment) => fragment.fmt(out),
            Self::RestoreFragment(fragment) => write!(out, "no longer {fragment}"),
        }
    }
}
