//! Links that the host lends to a container, and how they come back.

use std::os::fd::AsFd;

use weft_model::IfName;
use weft_netlink::link::{self, Change, LinkInfo};
use weft_netlink::{Batch, address};

use super::{Ensure, at};
use crate::journal::Undo;
use crate::{ApplyError, Cause, Kernel, Lent, Link, Place, Step};

impl Ensure<'_> {
    /// Moves a link of the host into the container, under its name there. The name it had becomes its alias, by which
    /// the reference plugin finds it, too.
    pub(super) fn lent(&mut self, step: &Step, link: &Link, lent: Option<&Lent>) -> Result<(), ApplyError> {
        self.flush()?;
        // Which link it is was asked before the plan was made.
        let Some(lent) = lent else { return Ok(()) };
        self.lend(step, link, lent).map_err(at(step))
    }

    fn lend(&mut self, step: &Step, link: &Link, lent: &Lent) -> Result<(), Cause> {
        let missing = || Cause::NoLink { place: Place::Host, name: lent.name.clone() };
        let found = self.kernel.look(Place::Host, &lent.name)?.ok_or_else(missing)?;
        if self.kernel.exists(step.place, &link.name)? {
            return Err(Cause::Taken { kind: "device", place: step.place, name: link.name.clone() });
        }
        let netns = self.kernel.netns(step.place)?;
        let alias = lent.name.as_str();
        let request = link::move_to(found.index, netns.as_fd(), &link.name, alias);
        let moved = self.kernel.socket(Place::Host)?.request(request);
        self.kernel.forget(Place::Host, &lent.name);
        // Also when it is refused: the kernel moves first, and then gives the name and the alias.
        self.note(step, Undo::TakeBack { ifname: link.name.clone(), lent: lent.clone() });
        moved?;
        self.kernel.forget(step.place, &link.name);
        let index = self.kernel.index(step.place, &link.name)?;
        if link.up {
            let up = Change { up: Some(true), ..Change::default() };
            self.kernel.socket(step.place)?.request(link::change(index, &up))?;
        }
        Ok(())
    }
}

impl Kernel {
    /// Takes a link back that the host has lent, with the name, the addresses and the state it had. One that has gone
    /// stays gone. What is not known any more is as the kernel leaves it.
    ///
    /// KERNEL: a device of the machine whose namespace goes comes back by itself, under the name it had there
    /// (default_device_exit_net, net/core/dev.c). One that is moved is announced where it goes only when the kernel has waited for all
    /// that had to do with it where it was (rcu_barrier, __dev_change_net_namespace, the same): 12 to 19 ms that no child can sit out
    /// for us, as it does when a link is deleted. So there is one such wait: name and alias go with the request that moves.
    pub(crate) fn take_back(&mut self, ifname: &IfName, lent: Option<&Lent>) -> Result<(), Cause> {
        if self.has_container() && self.bring_home(ifname, lent)? {
            return Ok(());
        }
        let Some(lent) = lent else { return Ok(()) };
        let ours = |link: &LinkInfo| {
            link.alias.as_deref() == Some(lent.name.as_str()) && link.mac == lent.mac && lent.mac.is_some()
        };
        let socket = self.socket(Place::Host)?;
        let Some(stray) = link::all(socket)?.into_iter().find(ours) else { return Ok(()) };
        let mut batch = Batch::new();
        if stray.name != lent.name.as_str() {
            batch.push(link::change(stray.index, &Change { up: Some(false), ..Change::default() }));
            batch.push(link::rename(stray.index, &lent.name));
        }
        batch.push(link::set_alias(stray.index, lent.alias.as_deref().unwrap_or_default()));
        socket.call(&mut batch)?.all()?;
        self.restore(lent)
    }

    /// Moves the link out of the container; returns whether there was one.
    fn bring_home(&mut self, ifname: &IfName, lent: Option<&Lent>) -> Result<bool, Cause> {
        let ours = |found: &LinkInfo| match (&found.alias, lent) {
            (Some(alias), Some(lent)) => *alias == lent.name.as_str(),
            (None, Some(_)) => false,
            (_, None) => true,
        };
        let mut found = self.look(Place::Container, ifname)?.filter(ours);
        if let (None, Some(lent)) = (&found, lent) {
            // It was moved and could not be given its name.
            let same = |link: &LinkInfo| lent.mac.is_some() && link.mac == lent.mac;
            found = self.look(Place::Container, &lent.name)?.filter(same);
        }
        let Some(found) = found else { return Ok(false) };
        let name = match lent {
            Some(lent) => lent.name.clone(),
            None => match found.alias.as_deref().filter(|alias| !alias.is_empty()).map(str::parse) {
                Some(Ok(name)) => name,
                _ => return Err(Cause::NotLent(ifname.clone())),
            },
        };
        if self.exists(Place::Host, &name)? {
            return Err(Cause::HomeTaken { ifname: ifname.clone(), name });
        }
        let home = self.netns(Place::Host)?;
        let alias = lent.and_then(|lent| lent.alias.as_deref()).unwrap_or_default();
        let request = link::move_to(found.index, home.as_fd(), &name, alias);
        self.forget(Place::Container, ifname);
        self.socket(Place::Container)?.request(request)?;
        if let Some(lent) = lent {
            self.restore(lent)?;
        }
        Ok(true)
    }

    /// Gives a link that is back what moving it has cost.
    fn restore(&mut self, lent: &Lent) -> Result<(), Cause> {
        let missing = || Cause::NoLink { place: Place::Host, name: lent.name.clone() };
        let back = self.look(Place::Host, &lent.name)?.ok_or_else(missing)?;
        let mut batch = Batch::new();
        let change = Change { mtu: (back.mtu != lent.mtu).then_some(lent.mtu), ..Change::default() };
        if change != Change::default() {
            batch.push(link::change(back.index, &change));
        }
        if lent.up {
            batch.push(link::change(back.index, &Change { up: Some(true), ..Change::default() }));
        }
        for address in &lent.addresses {
            batch.push(address::add(back.index, *address, false));
        }
        if batch.is_empty() {
            return Ok(());
        }
        match self.socket(Place::Host)?.call(&mut batch)?.all() {
            Err(error) if !error.is_exists() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Returns what has to be known of a link of the host to lend it, if there is one of that name.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn lendable(&mut self, name: &IfName) -> Result<Option<Lent>, Cause> {
        let Some(found) = self.look(Place::Host, name)? else { return Ok(None) };
        let addresses = address::of_link(self.socket(Place::Host)?, found.index)?;
        // What follows from the MAC address comes back by itself.
        let own = |one: &address::AddressInfo| one.global;
        Ok(Some(Lent {
            name: name.clone(),
            alias: found.alias,
            mac: found.mac,
            mtu: found.mtu,
            up: found.up,
            addresses: addresses.into_iter().filter(own).map(|one| one.address).collect(),
        }))
    }

    /// Returns the names of the host's links that have this MAC address, or of all.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn hosts_links(&mut self, mac: Option<weft_model::Mac>) -> Result<Vec<IfName>, Cause> {
        let mut links = link::all(self.socket(Place::Host)?)?;
        links.retain(|link| mac.is_none() || link.mac == mac);
        Ok(links.into_iter().filter_map(|link| link.name.parse().ok()).collect())
    }
}
