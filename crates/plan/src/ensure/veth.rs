//! Veth pairs.

use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use weft_model::Mac;
use weft_netlink::link::{self, Change, LinkInfo, NewVeth};
use weft_netlink::{Batch, Error, Replies, Request, Ticket};

use super::existing::{inverse, options};
use super::made::no_kind;
use super::{Ensure, Meaning, Pending, at};
use crate::journal::Undo;
use crate::kernel::Known;
use crate::{ApplyError, Cause, Lifetime, Link, Peer, Place, Step};

/// How long the kernel may take to clear away a namespace that nobody holds, and how often we look.
const GOING_LIMIT: Duration = Duration::from_secs(1);
const GOING_INTERVAL: Duration = Duration::from_millis(5);

/// A pair on its way to the kernel.
pub(super) struct Pair<'a> {
    link: &'a Link,
    peer: &'a Peer,
    mac: Mac,
    peer_mac: Mac,
    master: Option<u32>,
    /// The requests behind it that must not be refused.
    required: Vec<Ticket>,
    /// Whether this is the second attempt.
    again: bool,
}

impl<'a> Ensure<'a> {
    pub(super) fn veth(&mut self, step: &'a Step, link: &'a Link, peer: &'a Peer) -> Result<(), ApplyError> {
        let master = match &link.port {
            Some(port) => Some(self.index(step, step.place, &port.bridge)?),
            None => None,
        };
        if step.lifetime == Lifetime::Network {
            self.flush()?;
            if let Some(found) = self.kernel.look(step.place, &link.name).map_err(at(step))? {
                return self.adopt_pair(step, link, peer, master, &found).map_err(at(step));
            }
        }
        let mut pair = Pair {
            link,
            peer,
            mac: link.mac.unwrap_or_else(Mac::random),
            peer_mac: peer.mac.unwrap_or_else(Mac::random),
            master,
            required: Vec::new(),
            again: false,
        };
        let request = self.create(step.place, &pair).map_err(at(step))?;
        let ticket = self.push(step.place, request)?;
        for follower in followers(link) {
            let ticket = self.push(step.place, follower.request)?;
            pair.required.extend(follower.required.then_some(ticket));
        }
        self.pending.push(Pending { step, ticket, meaning: Meaning::Veth(Box::new(pair)) });
        Ok(())
    }

    fn create(&mut self, place: Place, pair: &Pair<'_>) -> Result<Request, Cause> {
        let netns = if pair.peer.place == place { None } else { Some(self.kernel.netns(pair.peer.place)?) };
        let request = link::create_veth(&NewVeth {
            name: &pair.link.name,
            mac: Some(pair.mac),
            mtu: pair.link.mtu.map(|mtu| mtu.get()),
            master: pair.master,
            up: pair.link.up && pair.link.port.is_none(),
            peer: &pair.peer.name,
            peer_mac: Some(pair.peer_mac),
            peer_netns: netns.as_ref().map(AsFd::as_fd),
        });
        self.held.extend(netns);
        Ok(request)
    }

    pub(super) fn veth_answered(
        &mut self,
        step: &'a Step,
        pair: Pair<'a>,
        ticket: Ticket,
        replies: &Replies,
    ) -> Result<(), Cause> {
        let created = match replies.of(ticket) {
            Ok(reply) => self.kernel.socket(step.place)?.created(reply, &pair.link.name)?,
            Err(error) if error.is_exists() && !pair.again => return self.taken(step, pair),
            Err(error) => return Err(pair.refused(error)),
        };
        let known = Known { fresh: true, master: pair.master, ..Known::from(&created) };
        self.kernel.learn(step.place, &pair.link.name, known);
        if let Some(index) = created.peer {
            let mut other = Known { master: None, ..known };
            other.facts.index = index;
            other.facts.mac = pair.peer_mac;
            self.kernel.learn(pair.peer.place, &pair.peer.name, other);
        }
        let name = pair.link.name.clone();
        self.note(step, Undo::DeleteLink { place: step.place, name, index: created.index });
        pair.required.iter().try_for_each(|ticket| replies.of(*ticket).map(drop))?;
        Ok(())
    }

    /// One of the two names is taken. The container's is somebody else's. The host's is derived from the
    /// container's id and the interface's name, so it is ours: left by an ADD that was killed.
    fn taken(&mut self, step: &'a Step, pair: Pair<'a>) -> Result<(), Cause> {
        let Pair { link, peer, .. } = &pair;
        match self.kernel.look(step.place, &link.name)? {
            None if self.kernel.exists(peer.place, &peer.name)? => {
                return Err(Cause::NameTaken { name: link.name.clone(), peer: peer.name.clone() });
            }
            // Whatever it was has gone since.
            None => {}
            Some(found) if !found.is_veth() => {
                return Err(Cause::OtherKind { name: link.name.clone(), wanted: "veth" });
            }
            Some(found) => {
                if self.is_at_work(step.place, &found, peer)? {
                    return Err(match self.kernel.exists(peer.place, &peer.name)? {
                        true => Cause::NameTaken { name: link.name.clone(), peer: peer.name.clone() },
                        false => Cause::InUse { name: link.name.clone() },
                    });
                }
                self.kernel.forget(step.place, &link.name);
                self.kernel.ask_away(step.place, link::delete_index(found.index))?;
            }
        }
        self.again(step, pair)
    }

    fn again(&mut self, step: &'a Step, pair: Pair<'a>) -> Result<(), Cause> {
        let mut batch = Batch::new();
        let created = batch.push(self.create(step.place, &pair)?);
        let mut required = Vec::new();
        for follower in followers(pair.link) {
            let ticket = batch.push(follower.request);
            required.extend(follower.required.then_some(ticket));
        }
        let replies = self.kernel.socket(step.place)?.call(&mut batch)?;
        self.held.clear();
        self.veth_answered(step, Pair { again: true, required, ..pair }, created, &replies)
    }

    /// Returns whether a pair we find under our name is at work, giving a namespace that is on its way
    /// out the time to go.
    fn is_at_work(&mut self, place: Place, found: &LinkInfo, peer: &Peer) -> Result<bool, Cause> {
        let deadline = Instant::now() + GOING_LIMIT;
        loop {
            if !self.is_in_use(place, found)? {
                return Ok(false);
            }
            // In our own container nothing is on its way out.
            if Instant::now() > deadline || self.kernel.exists(peer.place, &peer.name)? {
                return Ok(true);
            }
            thread::sleep(GOING_INTERVAL);
        }
    }

    /// Returns whether a pair we find under our name is at work.
    ///
    /// An ADD raises the container's end last, so one that was killed has left it down, and frames pass
    /// only with both ends up. Or the end is up in a namespace that is being taken down, which the
    /// kernel does later and in its own time: then its id leads nowhere. Whatever else is up is in use,
    /// and taking it away would cut off a container that is none of this ADD's business.
    fn is_in_use(&mut self, place: Place, found: &LinkInfo) -> Result<bool, Cause> {
        let Some(now) = self.kernel.socket(place)?.link(link::get_index(found.index))? else {
            return Ok(false);
        };
        if !now.operational {
            return Ok(false);
        }
        match (now.peer_netns, now.peer) {
            (None, _) => Ok(true),
            (Some(id), Some(index)) if id >= 0 => {
                Ok(self.kernel.socket(place)?.request(link::get_elsewhere(id, index)).is_ok())
            }
            _ => Ok(false),
        }
    }

    /// A pair that the network's attachments share and that is there already.
    fn adopt_pair(
        &mut self,
        step: &Step,
        link: &Link,
        peer: &Peer,
        master: Option<u32>,
        found: &LinkInfo,
    ) -> Result<(), Cause> {
        let other = if found.is_veth() { self.kernel.look(peer.place, &peer.name)? } else { None };
        if other.is_none_or(|other| found.peer != Some(other.index)) {
            return Err(Cause::OtherKind { name: link.name.clone(), wanted: "veth" });
        }
        let change = Change {
            up: (link.up && !found.up).then_some(true),
            master: master.filter(|index| found.master != Some(*index)),
            ..Change::default()
        };
        if change == Change::default() {
            return Ok(());
        }
        self.kernel.socket(step.place)?.request(link::change(found.index, &change))?;
        let back = inverse(found, &change);
        let undo =
            Undo::ChangeLink { place: step.place, name: link.name.clone(), index: found.index, change: back };
        self.note(step, undo);
        Ok(())
    }
}

/// A request that travels behind the one that creates a pair.
struct Follower {
    request: Request,
    required: bool,
}

/// What a bridge port needs before and while it goes up.
///
/// A port is the bridge's ear: whatever it hears goes to the bridge, so an IPv6 address of its own would
/// never be spoken to. Announcing one goes to every other port all the same, and that is what would make
/// the thousandth container's ADD dearer than the first one's. So the port gets none, which has to be said
/// before it goes up. Where IPv6 is off there is nothing to say, and the kernel refuses to listen.
fn followers(link: &Link) -> Vec<Follower> {
    let Some(port) = &link.port else { return Vec::new() };
    let mut followers = Vec::new();
    if port.hairpin || port.isolated || port.group.is_some() {
        let request = link::set_port(&link.name, options(port), port.group);
        followers.push(Follower { request, required: true });
    }
    followers.push(Follower { request: link::without_ipv6_address(&link.name), required: false });
    if link.up {
        let change = Change { up: Some(true), ..Change::default() };
        followers.push(Follower { request: link::change_named(&link.name, &change), required: true });
    }
    followers
}

impl Pair<'_> {
    fn refused(&self, error: Error) -> Cause {
        match (error.errno(), &self.link.port) {
            // KERNEL: port numbers have ten bits, and number 0 is no port (BR_PORT_BITS, net/bridge/br_private.h).
            (Some(Errno::EXFULL), Some(port)) => Cause::BridgeFull(port.bridge.clone()),
            (Some(Errno::EEXIST), _) => {
                Cause::NameTaken { name: self.link.name.clone(), peer: self.peer.name.clone() }
            }
            _ => no_kind(error, "veth"),
        }
    }
}
