//! Taking a plan apart.

use std::collections::BTreeSet;

use weft_model::IfName;
use weft_netlink::link::{self, Change, LinkInfo};
use weft_netlink::{Removed, Socket, address, bridge_vlan, delete_announced, route};

use crate::ensure::{MADE_BY_WEFT, blackhole, passing_name, route_info, vlan_side, vlans_of};
use crate::kernel::visit;
use crate::{
    Cause, Kernel, Lifetime, Link, LinkKind, Made, Place, Plan, Problem, Resource, Step, VxlanOptions,
};

/// How a veth pair is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// Return as soon as the kernel has announced that the link is gone; a child process of ours waits
    /// for the rest, some 20 ms. For processes that end soon.
    Announced,
    /// Wait for everything.
    Synchronous,
}

impl Kernel {
    /// Removes everything in a plan, the last step first. What is not there is fine; the container
    /// need not be there either. Nothing stops it: all that could not be removed is returned.
    ///
    /// Give it the part of a plan that should go ([`Plan::of_lifetime`]). A bridge that has ports is in
    /// use and stays, with its addresses; so does one that no plan created. Sysctls stay: what they were
    /// before is not known any more.
    pub fn remove(&mut self, plan: &Plan, removal: Removal) -> Vec<Problem> {
        let going = going(plan);
        let mut problems = Vec::new();
        for step in plan.steps().iter().rev() {
            if let Err(cause) = self.remove_step(step, &going, removal) {
                problems.push(Problem { resource: step.resource.clone(), cause });
            }
        }
        problems
    }

    fn remove_step(
        &mut self,
        step: &Step,
        going: &BTreeSet<(Place, &IfName)>,
        removal: Removal,
    ) -> Result<(), Cause> {
        let place = step.place;
        let dev = match &step.resource {
            Resource::Link(link) => match &link.kind {
                LinkKind::Veth(_) => return self.remove_veth(step, link, removal),
                LinkKind::Bridge(_) => return self.remove_bridge(place, &link.name),
                LinkKind::Made(made) => return self.remove_made(place, link, made, removal),
                LinkKind::Vxlan(options) => return self.remove_vxlan(place, &link.name, options),
                LinkKind::Lent(lent) => return self.take_back(&link.name, lent.as_deref()),
                LinkKind::Unseen => return Ok(()),
                LinkKind::Existing => &link.name,
            },
            Resource::Address(address) => &address.dev,
            Resource::Route(route) => &route.dev,
            Resource::BridgeVlan(vlan) => &vlan.dev,
            Resource::Blackhole(hole) => return self.ask_away(place, route::delete(&blackhole(hole))),
            Resource::Firewall(fragment) => return Ok(self.firewall(|one| one.remove(fragment))??),
            Resource::Tuning(tuning) => return self.untune(place, tuning),
            Resource::Traffic(traffic) => return self.remove_traffic(place, traffic),
            Resource::Routing(routing) => return self.remove_routing(place, routing),
            Resource::Sysctl(_) | Resource::Shortcut(_) => return Ok(()),
        };
        // It goes with its link, or went with its namespace.
        if going.contains(&(place, dev)) || (place == Place::Container && !self.has_container()) {
            return Ok(());
        }
        if let Resource::Link(wanted) = &step.resource {
            return match let_go(place, wanted) {
                Some(change) => self.ask_away(place, link::change_named(dev, &change)),
                None => Ok(()),
            };
        }
        let Some(link) = self.look(place, dev)? else { return Ok(()) };
        let request = match &step.resource {
            Resource::Address(wanted) => address::delete(link.index, wanted.address),
            Resource::Route(wanted) => route::delete(&route_info(wanted, link.index)),
            Resource::BridgeVlan(wanted) => {
                let vlans: Vec<_> = wanted.vlans.iter().map(vlans_of).collect();
                bridge_vlan::delete(link.index, vlan_side(wanted.side), &vlans)
            }
            Resource::Link(_)
            | Resource::Blackhole(_)
            | Resource::Firewall(_)
            | Resource::Sysctl(_)
            | Resource::Shortcut(_)
            | Resource::Tuning(_)
            | Resource::Traffic(_)
            | Resource::Routing(_) => return Ok(()),
        };
        self.ask_away(place, request)
    }

    /// The name is derived from what we were asked to remove, so the pair is ours; but nothing else is.
    fn remove_veth(&mut self, step: &Step, link: &Link, removal: Removal) -> Result<(), Cause> {
        let (place, name) = (step.place, &link.name);
        if place == Place::Container && !self.has_container() {
            return Ok(());
        }
        let Some(found) = self.look(place, name)? else { return Ok(()) };
        if !found.is_veth() {
            return Err(Cause::OtherKind { name: name.clone(), wanted: "veth" });
        }
        if step.lifetime == Lifetime::Network && self.has_containers(place, &found)? {
            return Ok(());
        }
        self.forget(place, name);
        match removal {
            Removal::Announced if place == Place::Host => {
                let home = self.home()?;
                let socket = self.socket(place)?;
                let (Removed::Gone | Removed::Absent) =
                    visit(home.as_ref(), || delete_announced(socket, &found))??;
                Ok(())
            }
            _ => self.ask_away(place, link::delete_index(found.index)),
        }
    }

    /// Returns whether the bridge of a pair that a network's containers share has containers. Other pairs of
    /// that kind do not count, or two networks' would keep each other.
    fn has_containers(&mut self, place: Place, pair: &LinkInfo) -> Result<bool, Cause> {
        let Some(bridge) = pair.master else { return Ok(false) };
        let ports = link::ports(self.socket(place)?, bridge)?;
        Ok(ports.iter().any(|port| port.index != pair.index && (!port.is_veth() || port.leads_away())))
    }

    /// Returns the host's end of the pair whose other end is `ifname` in the container, if it is a port of `bridge`,
    /// or of none where there is none.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub fn host_end(&mut self, ifname: &IfName, bridge: Option<&IfName>) -> Result<Option<IfName>, Cause> {
        if !self.has_container() {
            return Ok(None);
        }
        let Some(inside) = self.look(Place::Container, ifname)?.filter(LinkInfo::is_veth) else {
            return Ok(None);
        };
        let master = match bridge {
            Some(bridge) => match self.look(Place::Host, bridge)?.filter(LinkInfo::is_bridge) {
                Some(bridge) => Some(bridge.index),
                None => return Ok(None),
            },
            None => None,
        };
        let Some(index) = inside.peer else { return Ok(None) };
        let end = self.socket(Place::Host)?.link(link::get_index(index))?;
        // Indexes are a namespace's own: another link of the host may have the number.
        let ours = end.filter(|end| end.is_veth() && end.master == master && end.peer == Some(inside.index));
        Ok(ours.and_then(|end| end.name.parse().ok()))
    }

    /// Returns whether a link of the host is a port of `bridge`.
    ///
    /// # Errors
    ///
    /// When the kernel cannot be asked.
    pub fn is_port(&mut self, name: &IfName, bridge: &IfName) -> Result<bool, Cause> {
        let master = self.look(Place::Host, name)?.and_then(|link| link.master);
        let bridge = self.look(Place::Host, bridge)?.filter(LinkInfo::is_bridge);
        Ok(bridge.is_some_and(|bridge| master == Some(bridge.index)))
    }

    /// What is in a container under our name and of another kind is not ours, and not in the way either.
    fn remove_made(&mut self, place: Place, link: &Link, made: &Made, removal: Removal) -> Result<(), Cause> {
        if place == Place::Container && !self.has_container() {
            return Ok(());
        }
        let ours = |found: &LinkInfo| found.kind.as_deref() == Some(made.kind.name());
        let mut found = self.look(place, &link.name)?;
        if found.is_none() {
            // An ADD that was killed may not have come so far as to give it its name.
            found = self.look(place, &passing_name(&link.name))?;
        }
        let Some(found) = found.filter(ours) else { return Ok(()) };
        self.forget(place, &link.name);
        match removal {
            Removal::Announced => {
                let (Removed::Gone | Removed::Absent) = self.run(place, || {
                    let mut socket = Socket::open()?;
                    delete_announced(&mut socket, &found)
                })??;
                Ok(())
            }
            Removal::Synchronous => self.ask_away(place, link::delete_index(found.index)),
        }
    }

    fn remove_vxlan(&mut self, place: Place, name: &IfName, options: &VxlanOptions) -> Result<(), Cause> {
        let Some(found) = self.look(place, name)?.filter(|found| options.is_owner_of(found)) else {
            return Ok(());
        };
        self.forget(place, name);
        self.ask_away(place, link::delete_index(found.index))
    }

    fn remove_bridge(&mut self, place: Place, name: &IfName) -> Result<(), Cause> {
        // A link of another kind was there before us: no bridge was ever made.
        let Some(found) = self.look(place, name)?.filter(LinkInfo::is_bridge) else { return Ok(()) };
        let ours = found.alias.as_deref() == Some(MADE_BY_WEFT);
        if !ours || !link::ports(self.socket(place)?, found.index)?.is_empty() {
            return Ok(());
        }
        self.ask_away(place, link::delete_index(found.index))?;
        self.forget(place, name);
        Ok(())
    }
}

/// What is left to do about a link that somebody else created: out of its bridge, and in the container down.
fn let_go(place: Place, link: &Link) -> Option<Change> {
    let change = Change {
        up: (link.up && place == Place::Container).then_some(false),
        master: link.port.is_some().then_some(0),
        ..Change::default()
    };
    (change != Change::default()).then_some(change)
}

/// The links that a plan created: with them goes what is on them.
fn going(plan: &Plan) -> BTreeSet<(Place, &IfName)> {
    let links = plan.steps().iter().filter_map(|step| match &step.resource {
        Resource::Link(link) => Some((step.place, link)),
        _ => None,
    });
    links
        .flat_map(|(place, link)| match &link.kind {
            LinkKind::Veth(peer) => vec![(place, &link.name), (peer.place, &peer.name)],
            LinkKind::Bridge(_) | LinkKind::Made(_) | LinkKind::Vxlan(_) | LinkKind::Lent(_) => {
                vec![(place, &link.name)]
            }
            LinkKind::Existing | LinkKind::Unseen => Vec::new(),
        })
        .collect()
}
