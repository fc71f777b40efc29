//! Links that one request makes, on another link or on none.

use std::os::fd::AsFd;

use weft_model::{IfName, Mtu};
use weft_netlink::kind::{self, Kind, NewLink};
use weft_netlink::link::{self, LinkInfo};
use weft_netlink::tun::{self, Tap};
use weft_netlink::{Error, Request};

use super::{Ensure, at};
use crate::journal::Undo;
use crate::kernel::Known;
use crate::{ApplyError, Cause, Link, Made, Place, Step};

impl Ensure<'_> {
    /// Makes a link. One that is born in another namespace than its lower link's comes there under a name of its
    /// own and takes the wanted one there: the other may be taken where the lower link is.
    pub(super) fn made(&mut self, step: &Step, link: &Link, made: &Made) -> Result<(), ApplyError> {
        self.flush()?;
        let lower = match &made.over {
            Some(over) => Some(self.index(step, over.place, &over.name)?),
            None => None,
        };
        if let Kind::Tap(tap) = &made.kind {
            return self.opened(step, link, made, tap).map_err(at(step));
        }
        let from = made.over.as_ref().map_or(step.place, |over| over.place);
        if from == step.place {
            self.born_here(step, link, made, lower)
        } else {
            self.born_elsewhere(step, link, made, from, lower)
        }
        .map_err(at(step))
    }

    /// Makes a link that only its own device file makes, and then what that cannot say.
    fn opened(&mut self, step: &Step, link: &Link, made: &Made, tap: &Tap) -> Result<(), Cause> {
        let opened = self.kernel.run(step.place, || tun::create(&link.name, tap))?;
        opened.map_err(|error| self.refused(error, step.place, link, made))?;
        let gone = || Cause::NoLink { place: step.place, name: link.name.clone() };
        let created = self.kernel.socket(step.place)?.link(link::get(&link.name))?.ok_or_else(gone)?;
        self.note_made(step, link, &created);
        let master = match &link.port {
            Some(port) => Some(self.kernel.index(step.place, &port.bridge)?),
            None => None,
        };
        let change = link::Change {
            mtu: link.mtu.map(Mtu::get),
            mac: link.mac,
            master,
            up: link.up.then_some(true),
            ..link::Change::default()
        };
        if change != link::Change::default() {
            self.kernel.socket(step.place)?.request(link::change(created.index, &change))?;
            self.kernel.look(step.place, &link.name)?;
        }
        Ok(())
    }

    fn born_here(&mut self, step: &Step, link: &Link, made: &Made, lower: Option<u32>) -> Result<(), Cause> {
        let socket = self.kernel.socket(step.place)?;
        let asked = socket.request(request(&link.name, link, made, lower));
        let reply = match asked {
            Ok(reply) => reply,
            Err(error) => return Err(self.refused(error, step.place, link, made)),
        };
        let socket = self.kernel.socket(step.place)?;
        let created = socket.created(&reply, &link.name)?;
        self.note_made(step, link, &created);
        self.raise_made(step, link, &created)
    }

    fn born_elsewhere(
        &mut self,
        step: &Step,
        link: &Link,
        made: &Made,
        from: Place,
        lower: Option<u32>,
    ) -> Result<(), Cause> {
        if self.kernel.exists(step.place, &link.name)? {
            return Err(taken(made, step.place, &link.name));
        }
        let passing = passing_name(&link.name);
        let netns = self.kernel.netns(step.place)?;
        let mut asked = Ok(());
        for again in [false, true] {
            let request = request_in(&passing, link, made, lower, &netns);
            asked = self.kernel.socket(from)?.request(request).map(drop);
            match &asked {
                // An ADD that was killed has left it, before it could take its name.
                Err(error) if error.is_exists() && !again => self.clear(step.place, &passing)?,
                _ => break,
            }
        }
        asked.map_err(|error| self.refused(error, step.place, link, made))?;
        let gone = || Cause::NoLink { place: step.place, name: passing.clone() };
        let socket = self.kernel.socket(step.place)?;
        let created = socket.link(link::get(&passing))?.ok_or_else(gone)?;
        let renamed = socket.request(link::rename(created.index, &link.name));
        self.note_made(step, link, &created);
        renamed.map_err(|error| self.refused(error, step.place, link, made))?;
        self.raise_made(step, link, &created)
    }

    fn note_made(&mut self, step: &Step, link: &Link, created: &LinkInfo) {
        self.kernel.learn(step.place, &link.name, Known { fresh: true, ..Known::from(created) });
        let undo = Undo::DeleteLink { place: step.place, name: link.name.clone(), index: created.index };
        self.note(step, undo);
    }

    fn raise_made(&mut self, step: &Step, link: &Link, created: &LinkInfo) -> Result<(), Cause> {
        if link.up {
            let up = link::Change { up: Some(true), ..link::Change::default() };
            self.kernel.socket(step.place)?.request(link::change(created.index, &up))?;
        }
        Ok(())
    }

    /// Says what is there already, or what the kernel lacks.
    fn refused(&mut self, error: Error, place: Place, link: &Link, made: &Made) -> Cause {
        if !error.is_exists() {
            return no_kind(error, made.kind.name());
        }
        match (&made.over, self.kernel.exists(place, &link.name)) {
            // KERNEL: a tag of a link has one link at most (register_vlan_dev, net/8021q/vlan.c).
            (Some(over), Ok(false)) => Cause::Again { kind: made.kind.clone(), over: over.clone() },
            _ => taken(made, place, &link.name),
        }
    }

    fn clear(&mut self, place: Place, name: &IfName) -> Result<(), Cause> {
        match self.kernel.socket(place)?.link(link::get(name))? {
            Some(left) => self.kernel.ask_away(place, link::delete_index(left.index)),
            None => Ok(()),
        }
    }
}

/// The name under which a link comes into its namespace, until it has the one it is to have.
pub(crate) fn passing_name(name: &IfName) -> IfName {
    IfName::derived(&["passing", name.as_str()])
}

fn new_link<'a>(name: &'a IfName, link: &Link, made: &'a Made) -> NewLink<'a> {
    NewLink { name, kind: &made.kind, lower: None, netns: None, mac: link.mac, mtu: link.mtu.map(Mtu::get) }
}

fn request(name: &IfName, link: &Link, made: &Made, lower: Option<u32>) -> Request {
    kind::create(&NewLink { lower, ..new_link(name, link, made) })
}

fn request_in(
    name: &IfName,
    link: &Link,
    made: &Made,
    lower: Option<u32>,
    netns: &weft_netns::Netns,
) -> Request {
    kind::create(&NewLink { lower, netns: Some(netns.as_fd()), ..new_link(name, link, made) })
}

fn taken(made: &Made, place: Place, name: &IfName) -> Cause {
    Cause::Taken { kind: made.kind.name(), place, name: name.clone() }
}

/// Says what the kernel lacks, if it lacks the kind of link.
pub(crate) fn no_kind(error: Error, kind: &'static str) -> Cause {
    match kind::kernel_option(kind) {
        Some(option) if error.is_unknown_kind() => Cause::NoKind { kind, option },
        _ => error.into(),
    }
}
