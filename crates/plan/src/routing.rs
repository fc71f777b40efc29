//! Routing of its own for a link that somebody else made: tables by source address, and virtual routing domains.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_netlink::Batch;
use weft_netlink::link::{self, Change};
use weft_netlink::route::{self, RouteInfo};
use weft_netlink::rule::{self, RuleInfo};

use crate::{Cause, Kernel, Place};

/// The first table that is given to an address.
const FIRST_SOURCE_TABLE: u32 = 100;
/// What rules are signed with that lead to a table of an address, and a default route there that the main table did not have,
/// which is therefore not put back. Nobody else has the number (`/etc/iproute2/rt_protos`).
pub(crate) const BY_SOURCE: u8 = 203;
/// What such a route was signed with by versions that signed no rule (RTPROT_STATIC).
const EARLIER: u8 = 4;
/// The tables that are always in use: `default`, `main` and `local`.
const OWN_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

/// Routing of its own for a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// By source address.
    Source(SourceRouting),
    /// In a virtual routing domain.
    Vrf(Vrf),
}

/// A table for each address of a link, which holds the link's routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRouting {
    /// The link.
    pub dev: IfName,
    /// Its addresses, each with the gateway of its default route. Without any, on removal, those that it has.
    pub addresses: Vec<(IpNetwork, Option<IpAddr>)>,
    /// The table of all addresses, which somebody else fills.
    pub table: Option<u32>,
    /// Whether the main table keeps what is on the link, with the address as source.
    pub hints: bool,
}

/// A link in a virtual routing domain, which is made for its first member and goes with its last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vrf {
    /// The member.
    pub dev: IfName,
    /// The domain.
    pub name: IfName,
    /// Its table; absent means the first that is free.
    pub table: Option<u32>,
}

impl fmt::Display for Routing {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source(source) => {
                write!(out, "route {} by source", source.dev)?;
                for (address, gateway) in &source.addresses {
                    write!(out, " {}", address.ip())?;
                    gateway.map_or(Ok(()), |gateway| write!(out, " via {gateway}"))?;
                }
                source.table.map_or(Ok(()), |table| write!(out, " table {table}"))?;
                out.write_str(if source.hints { " with hints" } else { "" })
            }
            Self::Vrf(vrf) => {
                write!(out, "join {} to vrf {}", vrf.dev, vrf.name)?;
                vrf.table.map_or(Ok(()), |table| write!(out, " table {table}"))
            }
        }
    }
}

/// Link-local destinations belong to the link whatever its tables are.
pub(crate) fn moves(route: &RouteInfo) -> bool {
    match route.dst {
        IpNetwork::V4(_) => true,
        IpNetwork::V6(dst) => !dst.network().is_unicast_link_local() && !dst.network().is_multicast(),
    }
}

/// A route in a table of an address.
struct Moved {
    route: RouteInfo,
    /// Who made the rule that leads to the table.
    by: u8,
}

impl Moved {
    /// Returns whether the main table lacks the route that it had.
    fn is_needed(&self, others: &[RouteInfo]) -> bool {
        let (one, ours) = (&self.route, self.by == BY_SOURCE);
        let is_rival = |other: &RouteInfo| {
            // Of an implementation that does not mark what it adds: whoever has a default route needs no second one.
            let beside = ours && other.priority() != one.priority();
            other.dst.prefix() == 0 && other.dst.is_ipv4() == one.dst.is_ipv4() && !beside
        };
        let was_there = one.protocol != BY_SOURCE && (ours || one.protocol != EARLIER);
        one.dst.prefix() > 0 || was_there && !others.iter().any(is_rival)
    }
}

impl Kernel {
    /// Returns the routes of the main table that leave by a link and may move to another table.
    pub(crate) fn movable(&mut self, place: Place, index: u32) -> Result<Vec<RouteInfo>, Cause> {
        let mut routes = route::of_link(self.socket(place)?, route::MAIN, index)?;
        routes.retain(moves);
        Ok(routes)
    }

    /// Returns the first table from `first` on that has no routes and that none of these rules, which are all, names.
    pub(crate) fn free_table(
        &mut self,
        place: Place,
        first: u32,
        taken: &[u32],
        rules: &[RuleInfo],
    ) -> Result<u32, Cause> {
        let socket = self.socket(place)?;
        for table in (first..=u32::MAX).filter(|table| !OWN_TABLES.contains(table) && !taken.contains(table))
        {
            if rules.iter().all(|rule| rule.table != table) && route::of_table(socket, table)?.is_empty() {
                return Ok(table);
            }
        }
        Err(Cause::NoTable)
    }

    /// Returns the table that packets from an address look in, or else the next that is free.
    pub(crate) fn source_table(&mut self, place: Place, address: IpAddr) -> Result<(u32, bool), Cause> {
        let rules = rule::all(self.socket(place)?)?;
        match rules.iter().find(|rule| rule.from == Some(address) && rule.table >= FIRST_SOURCE_TABLE) {
            Some(rule) => Ok((rule.table, true)),
            None => Ok((self.free_table(place, FIRST_SOURCE_TABLE, &[], &rules)?, false)),
        }
    }

    pub(crate) fn remove_routing(&mut self, place: Place, routing: &Routing) -> Result<(), Cause> {
        if place == Place::Container && !self.has_container() {
            return Ok(());
        }
        match routing {
            Routing::Source(source) => self.remove_source_routing(place, source),
            Routing::Vrf(vrf) => self.leave_vrf(place, vrf),
        }
    }

    fn remove_source_routing(&mut self, place: Place, source: &SourceRouting) -> Result<(), Cause> {
        let index = self.look(place, &source.dev)?.map(|link| link.index);
        let mut addresses: Vec<IpAddr> = source.addresses.iter().map(|(address, _)| address.ip()).collect();
        if addresses.is_empty() && index.is_some() {
            addresses = self.addresses(place, &source.dev)?.iter().map(IpNetwork::ip).collect();
        }
        let mut moved = Vec::new();
        for rule in rule::all(self.socket(place)?)? {
            let Some(from) = rule.from.filter(|from| addresses.contains(from)) else { continue };
            let mut going = Batch::new();
            going.push(rule::delete(from, rule.table));
            // A table that was asked for is somebody else's.
            if let Some(index) = index.filter(|_| source.table.is_none() && rule.table >= FIRST_SOURCE_TABLE)
            {
                let stale = route::of_link(self.socket(place)?, rule.table, index)?;
                for one in &stale {
                    going.push(route::delete(one));
                }
                moved.extend(stale.into_iter().map(|one| Moved { route: one, by: rule.protocol }));
            }
            for reply in self.socket(place)?.call(&mut going)?.each() {
                reply.or_else(|error| if error.is_missing() { Ok(()) } else { Err(error) })?;
            }
        }
        if moved.is_empty() { Ok(()) } else { self.put_back(place, &moved) }
    }

    /// Has the main table have a link's routes again, as it had before they moved to a table of their own. What the kernel
    /// does not take, such as that of a link that is down, goes with the link.
    fn put_back(&mut self, place: Place, moved: &[Moved]) -> Result<(), Cause> {
        let socket = self.socket(place)?;
        let others = route::of_table(socket, route::MAIN)?;
        let back = moved.iter().filter(|one| one.is_needed(&others)).map(|one| &one.route);
        let mut back: Vec<_> = back.filter(|one| moves(one)).collect();
        // The way to a gateway comes first.
        back.sort_by_key(|one| one.gateway.is_some());
        let mut batch = Batch::new();
        for one in back {
            batch.push(route::add(&RouteInfo { table: route::MAIN, ..*one }, false));
        }
        socket.call(&mut batch)?;
        Ok(())
    }

    fn leave_vrf(&mut self, place: Place, vrf: &Vrf) -> Result<(), Cause> {
        let Some(domain) = self.look(place, &vrf.name)?.filter(|link| link.table.is_some()) else {
            return Ok(());
        };
        if let Some(member) = self.look(place, &vrf.dev)?.filter(|link| link.master == Some(domain.index)) {
            let leave = Change { master: Some(0), ..Change::default() };
            self.ask_away(place, link::change(member.index, &leave))?;
        }
        if link::ports(self.socket(place)?, domain.index)?.is_empty() {
            self.ask_away(place, link::delete_index(domain.index))?;
            self.forget(place, &vrf.name);
        }
        Ok(())
    }

    pub(crate) fn observe_routing(
        &mut self,
        place: Place,
        wanted: &Routing,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        match wanted {
            Routing::Source(source) => {
                let rules = rule::all(self.socket(place)?)?;
                for (address, _) in &source.addresses {
                    let of = |rule: &&RuleInfo| {
                        rule.from == Some(address.ip())
                            && source.table.is_none_or(|table| rule.table == table)
                    };
                    if !rules.iter().any(|rule| of(&rule)) {
                        found.push(format!("there is no rule for packets from {}", address.ip()));
                    }
                }
                Ok(())
            }
            Routing::Vrf(vrf) => {
                let domain = self.look(place, &vrf.name)?.filter(|link| link.table.is_some());
                let master = self.look(place, &vrf.dev)?.and_then(|link| link.master);
                if domain.is_none() || domain.map(|link| link.index) != master {
                    // CNI: the reference plugin's words.
                    found.push(format!("failed to find {} associated to vrf {}", vrf.dev, vrf.name));
                }
                Ok(())
            }
        }
    }
}
