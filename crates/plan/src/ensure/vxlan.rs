//! VXLAN devices.

use std::net::IpAddr;

use nix::errno::Errno;
use weft_netlink::link::{self, Change, LinkInfo};
use weft_netlink::vxlan::{self, NewVxlan, VxlanInfo};
use weft_netlink::{Batch, Error, Socket, address, merging};

use super::Ensure;
use super::existing::inverse;
use crate::journal::Undo;
use crate::kernel::{Known, visit};
use crate::{Cause, Link, Step, VxlanOptions};

/// How often a device may appear or vanish between the question and the request.
const ATTEMPTS: usize = 3;

impl Ensure<'_> {
    /// A device of ours that differs in what cannot be changed is made anew, without its forwarding table.
    ///
    /// KERNEL: identifier, port and checksums stay as they were at birth (vxlan_nl2conf, drivers/net/vxlan/vxlan_core.c).
    pub(super) fn vxlan(&mut self, step: &Step, link: &Link, options: &VxlanOptions) -> Result<(), Cause> {
        let mut last = Cause::NoLink { place: step.place, name: link.name.clone() };
        for _ in 0..ATTEMPTS {
            let result = match self.kernel.look(step.place, &link.name)? {
                None => self.create_vxlan(step, link, options),
                Some(found) if options.is_met_by(&found) => self.adopt_vxlan(step, link, options, &found),
                Some(found) if options.is_unsigned(&found, link) => self
                    .sign(step, link, options, &found)
                    .and_then(|()| self.adopt_vxlan(step, link, options, &LinkInfo { up: true, ..found })),
                Some(found) if options.is_owner_of(&found) => {
                    self.kernel.forget(step.place, &link.name);
                    self.kernel.socket(step.place)?.request(link::delete_index(found.index))?;
                    self.create_vxlan(step, link, options)
                }
                Some(_) => {
                    return Err(Cause::OtherKind {
                        name: link.name.clone(),
                        wanted: "VXLAN device of weft's",
                    });
                }
            };
            match result {
                Err(Cause::Netlink(error)) if error.is_exists() || error.is_missing() => last = error.into(),
                other => return other,
            }
        }
        Err(last)
    }

    fn create_vxlan(&mut self, step: &Step, link: &Link, options: &VxlanOptions) -> Result<(), Cause> {
        let home = self.kernel.home()?;
        let new = NewVxlan {
            name: &link.name,
            mac: link.mac.unwrap_or_else(weft_model::Mac::random),
            mtu: link.mtu.map(weft_model::Mtu::get),
            options: options.info(),
            netns: home.as_ref().map(std::os::fd::AsFd::as_fd),
        };
        // The UDP socket is in the namespace that the request comes from: where the underlay is.
        let created = Socket::open()?.request(vxlan::create(&new));
        created.map_err(|error| self.diagnosed(error, step, link, options))?;
        let found = self
            .kernel
            .look(step.place, &link.name)?
            .ok_or(Cause::NoLink { place: step.place, name: link.name.clone() })?;
        self.sign(step, link, options, &found)
    }

    /// Signs a device that was made just now, and does what is left to do. Two may do that at the same time.
    ///
    /// KERNEL: a request for a link takes no alias. So a device is there before it is signed, and stays so if whoever makes it is killed.
    fn sign(
        &mut self,
        step: &Step,
        link: &Link,
        options: &VxlanOptions,
        found: &LinkInfo,
    ) -> Result<(), Cause> {
        let known = Known { fresh: true, ..Known::from(found) };
        self.kernel.learn(step.place, &link.name, known);
        self.note(step, Undo::DeleteLink { place: step.place, name: link.name.clone(), index: found.index });
        let mut batch = Batch::new();
        let owned = batch.push(link::set_alias(found.index, &options.alias));
        // Nobody speaks to the device's own addresses, and what it would announce goes nowhere.
        batch.push(link::without_ipv6_address(&link.name));
        let raised = batch.push(link::change(found.index, &Change { up: Some(true), ..Change::default() }));
        let replies = self.kernel.socket(step.place)?.call(&mut batch)?;
        replies.of(owned)?;
        replies.of(raised).map_err(|error| self.diagnosed(error, step, link, options))?;
        if arrives_merged(options.local) {
            // Without it everything is as it was, and a little slower.
            visit(self.kernel.home()?.as_ref(), || merging::set(&link.name, false))?.ok();
        }
        Ok(())
    }

    /// Finds out who has what we wanted.
    fn diagnosed(&mut self, error: Error, step: &Step, link: &Link, options: &VxlanOptions) -> Cause {
        let VxlanOptions { vni, port, .. } = *options;
        match error.errno() {
            Some(Errno::EADDRINUSE) => Cause::PortTaken { name: link.name.clone(), port },
            Some(Errno::EOPNOTSUPP) => Cause::NoVxlan,
            Some(Errno::EEXIST) => {
                if self.kernel.look(step.place, &link.name).is_ok_and(|found| found.is_some()) {
                    return error.into();
                }
                let links = Socket::open().and_then(|mut socket| link::all(&mut socket)).unwrap_or_default();
                let same = |other: &VxlanInfo| (other.vni, other.port) == (vni, port);
                let holder = links.into_iter().find(|other| other.vxlan.as_ref().is_some_and(same));
                Cause::VniTaken { vni, port, holder: holder.map(|holder| holder.name) }
            }
            _ => error.into(),
        }
    }

    fn adopt_vxlan(
        &mut self,
        step: &Step,
        link: &Link,
        options: &VxlanOptions,
        found: &LinkInfo,
    ) -> Result<(), Cause> {
        let change = Change {
            up: (link.up && !found.up).then_some(true),
            mtu: link.mtu.map(weft_model::Mtu::get).filter(|mtu| *mtu != found.mtu),
            mac: link.mac.filter(|mac| found.mac != Some(*mac)),
            ..Change::default()
        };
        if change == Change::default() {
            return Ok(());
        }
        let changed = self.kernel.socket(step.place)?.request(link::change(found.index, &change));
        changed.map_err(|error| self.diagnosed(error, step, link, options))?;
        self.kernel.look(step.place, &link.name)?;
        let change = inverse(found, &change);
        let undo =
            Undo::ChangeLink { place: step.place, name: link.name.clone(), index: found.index, change };
        self.note(step, undo);
        Ok(())
    }
}

/// Returns whether segments that arrive at an address of the host have been merged already, where they came in.
///
/// KERNEL: a driver's packets are merged with what is in the tunnel looked at (vxlan_gro_receive), and hardly anything is left to do
/// for the device, which takes every packet through one queue more for it (gro_cells_receive). It is what a stream lives on where
/// the packets come from a program: what has no Ethernet address, or comes from a TAP, is left as it is, and so is
/// a link that has been told not to merge. A veth pair is born so: it hands on what it is given.
fn arrives_merged(local: IpAddr) -> bool {
    let underlay = || -> Result<Option<LinkInfo>, Error> {
        let mut socket = Socket::open()?;
        let Some(index) = address::holder(&mut socket, local)? else { return Ok(None) };
        socket.link(link::get_index(index))
    };
    let Ok(Some(link)) = underlay() else { return false };
    let is_driven = link.mac.is_some() && link.kind.as_deref() != Some("tun");
    let merges = || link.name.parse().is_ok_and(|name| merging::is_on(&name).unwrap_or_default());
    is_driven && (link.is_veth() || merges())
}

impl VxlanOptions {
    /// Returns the options as the kernel has them.
    pub(crate) fn info(&self) -> VxlanInfo {
        let Self { vni, port, local, checksum, .. } = *self;
        VxlanInfo { vni, port, local: Some(local), checksum, learning: false }
    }

    /// Returns whether a link has these options and this owner.
    pub(crate) fn is_met_by(&self, found: &LinkInfo) -> bool {
        self.is_owner_of(found) && found.vxlan == Some(self.info())
    }

    /// Returns whether a link was made for this owner.
    pub(crate) fn is_owner_of(&self, found: &LinkInfo) -> bool {
        found.vxlan.is_some() && found.alias.as_deref() == Some(&self.alias)
    }

    /// Returns whether a link was made with these options and our Ethernet address, and nobody has signed it.
    fn is_unsigned(&self, found: &LinkInfo, link: &Link) -> bool {
        let is_alike = found.vxlan == Some(self.info()) && link.mac.is_some() && found.mac == link.mac;
        found.alias.is_none() && is_alike
    }
}
