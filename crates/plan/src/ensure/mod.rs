//! Making a plan so.
//!
//! Steps are turned into requests in order, and requests gather until something has to be known that
//! only an answer tells: then they travel in one send. With the bridge there, a container is one
//! question for the bridge, one send for the pair of links, one for everything inside.

mod address;
mod bridge;
mod existing;
mod lent;
mod made;
mod route;
mod routing;
mod shortcut;
mod sysctl;
mod traffic;
mod tuning;
mod veth;
mod vlan;
mod vxlan;

use weft_firewall::{Backend, Change as FirewallChange, Firewall, Fragment, Masquerade};
use weft_model::IfName;
use weft_netlink::{Batch, Error, Replies, Request, Ticket, link};
use weft_netns::Netns;

use crate::journal::{Ports, Undo};
use crate::{ApplyError, Cause, Journal, Kernel, Lifetime, Place, Plan, Resource, Step};

use address::Probing;
use veth::Pair;

pub(crate) use bridge::MADE_BY_WEFT;
pub(crate) use made::{no_kind, passing_name};
pub(crate) use route::{blackhole, info as route_info};
pub(crate) use vlan::{side as vlan_side, vlans as vlans_of};

impl Kernel {
    /// Makes everything in a plan so. What is there already is left alone.
    ///
    /// Every change is in the journal, also when a later step fails: [`Journal::undo`] then brings back
    /// what was before.
    ///
    /// # Errors
    ///
    /// The first step that could not be made. Steps behind it may have been, if they travelled together.
    pub fn ensure(&mut self, plan: &Plan, journal: &mut Journal) -> Result<(), ApplyError> {
        let mut ensure = Ensure {
            kernel: self,
            journal,
            plan,
            place: Place::Host,
            batch: Batch::new(),
            pending: Vec::new(),
            held: Vec::new(),
            probing: Vec::new(),
        };
        ensure.all()
    }
}

/// A plan being made so.
struct Ensure<'a> {
    kernel: &'a mut Kernel,
    journal: &'a mut Journal,
    plan: &'a Plan,
    /// Where the gathered requests go.
    place: Place,
    batch: Batch,
    pending: Vec<Pending<'a>>,
    /// Namespaces that the gathered requests name by descriptor.
    held: Vec<Netns>,
    /// Addresses to wait for.
    probing: Vec<Probing<'a>>,
}

/// A request that was gathered, and what its answer means.
struct Pending<'a> {
    step: &'a Step,
    ticket: Ticket,
    meaning: Meaning<'a>,
}

enum Meaning<'a> {
    /// Granted means made; the undo is for the journal, unless there is nothing to undo.
    Made(Option<Undo>),
    /// Granted means made; so does that the kernel has no such thing.
    Attempted,
    /// Granted means made; somebody's having made it before is as well.
    MadeOrThere(Undo),
    /// The new address is there.
    Address(address::Wanted<'a>),
    /// The new route is there.
    Route { wanted: weft_netlink::route::RouteInfo, rivals: crate::Rivals },
    /// The new pair of links is there.
    Veth(Box<Pair<'a>>),
    /// The link is as it should be; `look` tells how it was.
    Existing { look: Ticket, name: &'a IfName, change: link::Change },
    /// The VLANs are right.
    Vlans(Option<Undo>),
}

fn at(step: &Step) -> impl Fn(Cause) -> ApplyError {
    move |cause| ApplyError { step: Box::new(step.clone()), cause }
}

impl<'a> Ensure<'a> {
    fn all(&mut self) -> Result<(), ApplyError> {
        let mut rest = self.plan.steps();
        while let Some((step, tail)) = rest.split_first() {
            rest = match &step.resource {
                Resource::Link(link) => {
                    self.link(step, link)?;
                    tail
                }
                Resource::Address(address) => {
                    self.address(step, address)?;
                    tail
                }
                Resource::Route(route) => {
                    self.route(step, route)?;
                    tail
                }
                Resource::Blackhole(hole) => {
                    self.blackhole(step, hole)?;
                    tail
                }
                Resource::BridgeVlan(vlan) => {
                    self.vlan(step, vlan)?;
                    tail
                }
                Resource::Sysctl(_) => self.sysctls(rest)?,
                Resource::Traffic(traffic) => {
                    self.flush()?;
                    self.traffic(step, traffic).map_err(at(step))?;
                    tail
                }
                Resource::Shortcut(shortcut) => {
                    self.flush()?;
                    self.shortcut(step, shortcut).map_err(at(step))?;
                    tail
                }
                Resource::Routing(routing) => {
                    self.flush()?;
                    self.routing(step, routing).map_err(at(step))?;
                    tail
                }
                Resource::Tuning(tuning) => {
                    self.flush()?;
                    self.tuning(step, tuning).map_err(at(step))?;
                    tail
                }
                Resource::Firewall(fragment) => {
                    self.fragment(step, fragment)?;
                    tail
                }
            };
        }
        self.flush()?;
        self.look_at_followers()?;
        self.wait_for_probes()
    }

    fn fragment(&mut self, step: &Step, fragment: &Fragment) -> Result<(), ApplyError> {
        self.flush()?;
        let work = |firewall: &mut Firewall| (firewall.present(fragment), firewall.ensure(fragment));
        let (before, change) = self.kernel.firewall(work).map_err(at(step))?;
        let change = change.map_err(|error| at(step)(error.into()))?;
        if change == FirewallChange::Made {
            // An attachment's fragment may have brought entries that are the network's.
            if let Some(shared) = of_network(fragment) {
                let network = Step { lifetime: Lifetime::Network, ..step.clone() };
                self.note(&network, Undo::RemoveFragment(shared));
            }
            self.note(
                step,
                match before {
                    Some(before) => Undo::RestoreFragment(before),
                    None => Undo::RemoveFragment(fragment.clone()),
                },
            );
        }
        Ok(())
    }

    /// Gathers a request.
    fn queue(&mut self, step: &'a Step, request: Request, meaning: Meaning<'a>) -> Result<(), ApplyError> {
        let ticket = self.push(step.place, request)?;
        self.pending.push(Pending { step, ticket, meaning });
        Ok(())
    }

    /// Gathers a request whose answer matters to another one.
    fn push(&mut self, place: Place, request: Request) -> Result<Ticket, ApplyError> {
        if place != self.place {
            self.flush()?;
            self.place = place;
        }
        Ok(self.batch.push(request))
    }

    /// Sends what has gathered and makes sense of the answers. All that was granted is in the journal
    /// before the first refusal is returned.
    fn flush(&mut self) -> Result<(), ApplyError> {
        let Some(first) = self.pending.first() else { return Ok(()) };
        let first = first.step;
        let mut batch = std::mem::take(&mut self.batch);
        let socket = self.kernel.socket(self.place).map_err(at(first))?;
        let replies = socket.call(&mut batch).map_err(|error| at(first)(error.into()))?;
        self.held.clear();
        let mut refused = Ok(());
        for Pending { step, ticket, meaning } in std::mem::take(&mut self.pending) {
            let result = self.answered(step, &replies, ticket, meaning).map_err(at(step));
            refused = refused.and(result);
        }
        refused
    }

    fn answered(
        &mut self,
        step: &'a Step,
        replies: &Replies,
        ticket: Ticket,
        meaning: Meaning<'a>,
    ) -> Result<(), Cause> {
        let reply = replies.of(ticket);
        match (meaning, reply) {
            (Meaning::Veth(pair), _) => self.veth_answered(step, *pair, ticket, replies),
            (Meaning::Existing { look, name, change }, reply) => {
                let before = replies.of(look).map_err(|error| no_link(error, step.place, name))?.link()?;
                reply?;
                self.existing_answered(step, name, &before, &change);
                Ok(())
            }
            (Meaning::Made(undo), reply) => {
                reply?;
                undo.into_iter().for_each(|undo| self.note(step, undo));
                Ok(())
            }
            (Meaning::Attempted, reply) => match reply {
                Err(error) if !error.is_unsupported() => Err(error.into()),
                _ => Ok(()),
            },
            (Meaning::MadeOrThere(undo), reply) => match reply {
                Err(error) if error.is_exists() => Ok(()),
                Err(error) => Err(error.into()),
                Ok(_) => {
                    self.note(step, undo);
                    Ok(())
                }
            },
            (Meaning::Vlans(undo), reply) => {
                reply.map_err(vlan::refused)?;
                undo.into_iter().for_each(|undo| self.note(step, undo));
                Ok(())
            }
            (Meaning::Address(wanted), reply) => self.address_answered(step, wanted, reply.err()),
            (Meaning::Route { wanted, rivals }, reply) => {
                self.route_answered(step, &wanted, rivals, reply.err())
            }
        }
    }

    /// Returns a link's index. What has gathered is sent first if it may create the link.
    fn index(&mut self, step: &Step, place: Place, name: &IfName) -> Result<u32, ApplyError> {
        if self.kernel.known(place, name).is_none() {
            self.flush()?;
        }
        self.kernel.index(place, name).map_err(at(step))
    }

    /// Returns whether we created the link in this plan or an earlier one.
    fn is_fresh(&self, place: Place, name: &IfName) -> bool {
        self.kernel.known(place, name).is_some_and(|known| known.fresh)
    }

    /// Writes a change into the journal.
    fn note(&mut self, step: &Step, undo: Undo) {
        let shared = step.lifetime == Lifetime::Network;
        if shared && self.journal.ports.is_none() {
            self.journal.ports = self.kernel.ports_of_bridge();
        }
        self.journal.push(undo, shared);
    }
}

impl Kernel {
    /// Returns the ports of the bridge we have to do with, if there is one.
    fn ports_of_bridge(&mut self) -> Option<Ports> {
        let bridge = self.a_bridge()?;
        let indices = if bridge.fresh {
            Vec::new()
        } else {
            let ports = link::ports(self.socket(Place::Host).ok()?, bridge.facts.index).ok()?;
            ports.into_iter().map(|port| port.index).collect()
        };
        Some(Ports { bridge: bridge.facts.index, indices })
    }
}

/// Returns the part of an attachment's fragment that stays for the network.
fn of_network(fragment: &Fragment) -> Option<Fragment> {
    match fragment {
        Fragment::Masquerade(one) if one.backend == Backend::Weft && one.endpoint.is_some() => {
            Some(Fragment::Masquerade(Masquerade { endpoint: None, ..one.clone() }))
        }
        _ => None,
    }
}

fn no_link(error: Error, place: Place, name: &IfName) -> Cause {
    if error.is_missing() { Cause::NoLink { place, name: name.clone() } } else { error.into() }
}
