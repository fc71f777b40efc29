//! Routing of its own for a link.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
use weft_netlink::link::{self, Change, LinkInfo};
use weft_netlink::route::{self, RouteInfo, RouteKind};
use weft_netlink::{Batch, address, rule};

use super::Ensure;
use crate::journal::Undo;
use crate::kernel::Known;
use crate::routing::BY_SOURCE;
use crate::{Cause, Place, Routing, SourceRouting, Step, Vrf};

impl Ensure<'_> {
    pub(super) fn routing(&mut self, step: &Step, routing: &Routing) -> Result<(), Cause> {
        match routing {
            Routing::Source(source) => self.source_routing(step, source),
            Routing::Vrf(vrf) => self.join_vrf(step, vrf),
        }
    }

    fn present(&mut self, place: Place, name: &weft_model::IfName) -> Result<LinkInfo, Cause> {
        self.kernel.look(place, name)?.ok_or_else(|| Cause::NoLink { place, name: name.clone() })
    }

    /// The link's routes go from the main table into one for each address, which the address's rule leads to.
    fn source_routing(&mut self, step: &Step, source: &SourceRouting) -> Result<(), Cause> {
        let place = step.place;
        let link = self.present(place, &source.dev)?;
        let routes = self.kernel.movable(place, link.index)?;
        for (address, gateway) in &source.addresses {
            let (table, known) = match source.table {
                Some(table) => (table, false),
                None => self.kernel.source_table(place, address.ip())?,
            };
            if !known {
                self.add_rule(step, address.ip(), table)?;
            }
            if source.table.is_some() {
                continue;
            }
            // The gateway of the address is the default route's, whatever the main table's was.
            let is_other_default = |one: &&RouteInfo| {
                one.dst.prefix() == 0 && gateway.is_some_and(|gateway| one.gateway != Some(gateway))
            };
            let own = routes.iter().filter(|one| belongs(one, address) && !is_other_default(one));
            let mut own: Vec<_> = own.map(|one| RouteInfo { table, ..*one }).collect();
            if let Some(gateway) = gateway {
                let there = route::of_link(self.kernel.socket(place)?, table, link.index)?;
                let is_default = |one: &RouteInfo| one.dst.prefix() == 0 && one.gateway == Some(*gateway);
                if !own.iter().chain(&there).any(is_default) {
                    own.push(default_route(*gateway, link.index, table));
                }
            }
            // KERNEL: a gateway is looked for in the route's own table, so the way to it comes first.
            own.sort_by_key(|route| route.gateway.is_some());
            self.put_routes(step, &own)?;
        }
        if source.table.is_none() {
            self.clear_main(step, source, &routes)?;
        }
        Ok(())
    }

    fn add_rule(&mut self, step: &Step, from: IpAddr, table: u32) -> Result<(), Cause> {
        match self.kernel.socket(step.place)?.request(rule::add(from, table, BY_SOURCE)) {
            Err(error) if error.is_exists() => Ok(()),
            Err(error) => Err(error.into()),
            Ok(_) => {
                self.note(step, Undo::DeleteRule { place: step.place, from, table });
                Ok(())
            }
        }
    }

    fn put_routes(&mut self, step: &Step, routes: &[RouteInfo]) -> Result<(), Cause> {
        let mut batch = Batch::new();
        for one in routes {
            batch.push(route::replace(one));
        }
        let replies = self.kernel.socket(step.place)?.call(&mut batch)?;
        for (route, _) in routes.iter().zip(replies.each()).filter(|(_, put)| put.is_ok()) {
            self.note(step, Undo::DeleteRoute { place: step.place, route: *route });
        }
        Ok(replies.all()?)
    }

    /// Takes the link's routes out of the main table; with hints, what is on the link stays, with its source.
    fn clear_main(&mut self, step: &Step, source: &SourceRouting, routes: &[RouteInfo]) -> Result<(), Cause> {
        let mut batch = Batch::new();
        let mut going = Vec::new();
        for one in routes {
            let own = source.addresses.iter().find(|(address, _)| belongs(one, address));
            let stays = source.hints && one.gateway.is_none();
            match own.filter(|_| stays) {
                Some((address, _)) if one.src.is_none() && one.dst.is_ipv4() == address.is_ipv4() => {
                    let hinted = RouteInfo { src: Some(address.ip()), ..*one };
                    batch.push(route::replace(&hinted));
                }
                Some(_) => {}
                None => {
                    batch.push(route::delete(one));
                    going.push((batch.len() - 1, one));
                }
            }
        }
        let replies = self.kernel.socket(step.place)?.call(&mut batch)?;
        let mut refused = Ok(());
        for (number, reply) in replies.each().enumerate() {
            let gone = going.iter().find(|(own, _)| *own == number);
            match (gone, reply) {
                (Some((_, one)), Ok(())) => {
                    self.note(step, Undo::AddRoute { place: step.place, route: **one });
                }
                // What is not there need not go.
                (Some(_), Err(error)) if error.is_missing() => {}
                (_, reply) => refused = refused.and(reply),
            }
        }
        Ok(refused?)
    }

    /// KERNEL: a link that joins a VRF goes down and up again (cycle_netdev, drivers/net/vrf.c): its routes and, unless
    /// `keep_addr_on_down` is set, its IPv6 addresses are gone then.
    fn join_vrf(&mut self, step: &Step, vrf: &Vrf) -> Result<(), Cause> {
        let place = step.place;
        let member = self.present(place, &vrf.dev)?;
        let domain = self.vrf(step, vrf)?;
        let table = domain.table.unwrap_or_default();
        match member.master {
            Some(master) if master == domain.index => return Ok(()),
            Some(master) => {
                let found = self.kernel.socket(place)?.link(link::get_index(master))?;
                let master = found.map_or_else(|| master.to_string(), |link| link.name);
                return Err(Cause::HasMaster { name: vrf.dev.clone(), master });
            }
            None => {}
        }
        let mut routes = self.kernel.movable(place, member.index)?;
        // KERNEL: a gateway is looked for in the route's own table, so the way to it comes first; and when undone, too.
        routes.sort_by_key(|route| route.gateway.is_some());
        let addresses = address::of_link(self.kernel.socket(place)?, member.index)?;
        for route in routes.iter().rev() {
            self.note(step, Undo::AddRoute { place, route: *route });
        }
        let join = Change { master: Some(domain.index), ..Change::default() };
        self.kernel.socket(place)?.request(link::change(member.index, &join))?;
        let leave = Change { master: Some(0), ..Change::default() };
        self.note(
            step,
            Undo::ChangeLink { place, name: vrf.dev.clone(), index: member.index, change: leave },
        );
        self.restore_addresses(place, member.index, addresses.iter().map(|one| one.address))?;
        for route in routes.iter().filter(|route| route.scope == 0 || route.protocol != route::BY_KERNEL) {
            self.kernel.socket(place)?.request(route::replace(&RouteInfo { table, ..*route }))?;
        }
        Ok(())
    }

    fn restore_addresses(
        &mut self,
        place: Place,
        index: u32,
        wanted: impl Iterator<Item = IpNetwork>,
    ) -> Result<(), Cause> {
        let socket = self.kernel.socket(place)?;
        let is_link_local =
            |one: &IpNetwork| matches!(one, IpNetwork::V6(one) if one.ip().is_unicast_link_local());
        for lost in wanted.filter(|one| !is_link_local(one)) {
            match socket.request(address::add(index, lost, false)) {
                Err(error) if !error.is_exists() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Returns the domain, which is made if it is not there.
    fn vrf(&mut self, step: &Step, vrf: &Vrf) -> Result<LinkInfo, Cause> {
        let place = step.place;
        if let Some(found) = self.kernel.look(place, &vrf.name)? {
            let Some(table) = found.table else {
                return Err(Cause::OtherKind { name: vrf.name.clone(), wanted: "vrf" });
            };
            if vrf.table.is_some_and(|wanted| wanted != table) {
                return Err(Cause::OtherTable { name: vrf.name.clone(), table });
            }
            return Ok(found);
        }
        let table = match vrf.table {
            Some(table) => table,
            None => {
                let links = link::all(self.kernel.socket(place)?)?;
                let taken: Vec<u32> = links.iter().filter_map(|link| link.table).collect();
                let rules = rule::all(self.kernel.socket(place)?)?;
                self.kernel.free_table(place, 1, &taken, &rules)?
            }
        };
        let reply = self.kernel.socket(place)?.request(link::create_vrf(&vrf.name, table));
        let reply = reply.map_err(|error| match error.is_unknown_kind() {
            true => Cause::NoKind { kind: "vrf", option: "CONFIG_NET_VRF" },
            false => error.into(),
        })?;
        let created = self.kernel.socket(place)?.created(&reply, &vrf.name)?;
        self.kernel.learn(place, &vrf.name, Known { fresh: true, ..Known::from(&created) });
        self.note(step, Undo::DeleteLink { place, name: vrf.name.clone(), index: created.index });
        Ok(created)
    }
}

fn default_route(gateway: IpAddr, index: u32, table: u32) -> RouteInfo {
    // INVARIANT: a prefix of length 0 is one in either family; a host's own address stands in for what cannot be.
    let any = |any: IpAddr| IpNetwork::new(any, 0).unwrap_or_else(|_| any.into());
    let dst = match gateway {
        IpAddr::V4(_) => any(Ipv4Addr::UNSPECIFIED.into()),
        IpAddr::V6(_) => any(Ipv6Addr::UNSPECIFIED.into()),
    };
    RouteInfo {
        dst,
        gateway: Some(gateway),
        src: None,
        index,
        metric: None,
        table,
        scope: 0,
        mtu: None,
        mtu_locked: false,
        advmss: None,
        kind: RouteKind::Unicast,
        protocol: BY_SOURCE,
        onlink: false,
    }
}

/// CNI: a route goes into an address's table if its source or its gateway is in the address's subnet, or it has neither.
fn belongs(route: &RouteInfo, address: &IpNetwork) -> bool {
    if route.dst.is_ipv4() != address.is_ipv4() {
        return false;
    }
    match (route.src, route.gateway) {
        (None, None) => true,
        (src, gateway) => [src, gateway].into_iter().flatten().any(|one| address.contains(one)),
    }
}
