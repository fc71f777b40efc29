//! Comparing a plan with what is there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_netlink::kind;
use weft_netlink::link::{self, LinkInfo};
use weft_netlink::route::RouteInfo;
use weft_netlink::{address, bridge_vlan, route, rule};

use crate::ensure::{blackhole, no_kind, route_info, vlans_of};
use crate::{
    Address, Blackhole, BridgeOptions, BridgeVlan, Cause, Difference, Kernel, Kind, Link, LinkKind, Made,
    Peer, Place, Plan, Port, Resource, Rivals, Route, Routing, Step, Sysctl, Traffic, sysctl,
};

impl Kernel {
    /// Says how what is there differs from a plan; nothing when it does not.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn observe(&mut self, plan: &Plan) -> Result<Vec<Difference>, Cause> {
        let mut found = Vec::new();
        for step in plan.steps() {
            if step.place == Place::Container && !self.has_container() {
                return Err(Cause::NoContainer);
            }
            self.observe_step(step, &mut found)?;
        }
        let mut differences: Vec<Difference> = Vec::new();
        for text in found {
            // Several steps may miss the same link.
            if !differences.iter().any(|difference| difference.0 == text) {
                differences.push(Difference(text));
            }
        }
        Ok(differences)
    }

    /// Says whether a plan could be made as far as names are concerned: no link of the host that it wants for a
    /// bridge is something else.
    ///
    /// # Errors
    ///
    /// [`Cause::OtherKind`] when one is, or when the kernel refuses to answer.
    pub fn allows(&mut self, plan: &Plan) -> Result<(), Cause> {
        for step in plan.steps() {
            let Resource::Link(Link { name, kind: LinkKind::Bridge(_), .. }) = &step.resource else {
                continue;
            };
            if self.look(step.place, name)?.is_some_and(|link| !link.is_bridge()) {
                return Err(Cause::OtherKind { name: name.clone(), wanted: "bridge" });
            }
        }
        Ok(())
    }

    /// Says whether the kernel has the kinds of links that a plan makes.
    ///
    /// # Errors
    ///
    /// [`Cause::NoKind`] when it lacks one.
    pub fn offers(&mut self, plan: &Plan) -> Result<(), Cause> {
        let kinds: BTreeSet<&str> = plan.steps().iter().filter_map(|step| made(&step.resource)).collect();
        for kind in kinds {
            if let Err(error) = self.socket(Place::Host)?.request(kind::probe(kind))
                && error.is_unknown_kind()
            {
                return Err(no_kind(error, kind));
            }
        }
        Ok(())
    }

    fn observe_step(&mut self, step: &Step, found: &mut Vec<String>) -> Result<(), Cause> {
        let place = step.place;
        match &step.resource {
            Resource::Link(wanted) => self.observe_link(place, wanted, found),
            Resource::Address(wanted) => self.observe_address(place, wanted, found),
            Resource::Route(wanted) => self.observe_route(place, wanted, found),
            Resource::Blackhole(wanted) => self.observe_blackhole(place, wanted, found),
            Resource::BridgeVlan(wanted) => self.observe_vlans(place, wanted, found),
            Resource::Sysctl(wanted) => self.observe_sysctl(place, wanted, found),
            Resource::Tuning(wanted) => self.observe_tuning(place, wanted, found),
            Resource::Traffic(wanted) => self.observe_traffic(place, wanted, found),
            Resource::Shortcut(wanted) => self.observe_shortcut(place, wanted, found),
            Resource::Routing(wanted) => self.observe_routing(place, wanted, found),
            Resource::Firewall(wanted) => {
                found.extend(self.firewall(|one| one.observe(wanted))??);
                Ok(())
            }
        }
    }

    /// Returns a link, or says that it is missing.
    pub(crate) fn find(
        &mut self,
        place: Place,
        name: &IfName,
        found: &mut Vec<String>,
    ) -> Result<Option<LinkInfo>, Cause> {
        let link = self.look(place, name)?;
        if link.is_none() {
            found.push(format!("{place} interface {name} does not exist"));
        }
        Ok(link)
    }

    fn observe_link(&mut self, place: Place, wanted: &Link, found: &mut Vec<String>) -> Result<(), Cause> {
        if wanted.kind == LinkKind::Unseen {
            return Ok(());
        }
        let Some(link) = self.find(place, &wanted.name, found)? else { return Ok(()) };
        let title = format!("{place} interface {}", wanted.name);
        let mut note = |wrong: bool, text: String| found.extend(wrong.then(|| format!("{title} {text}")));
        note(wanted.up && !link.up, "is down".into());
        if let Some(mac) = wanted.mac {
            let is = link.mac.map_or_else(|| "none".into(), |mac| mac.to_string());
            note(link.mac != Some(mac), format!("has MAC address {is}, not {mac}"));
        }
        // A bridge that existed already has kept its own.
        let mtu = wanted.mtu.map(|mtu| mtu.get()).filter(|_| !matches!(wanted.kind, LinkKind::Bridge(_)));
        note(
            mtu.is_some_and(|mtu| mtu != link.mtu),
            format!("has MTU {}, not {}", link.mtu, mtu.unwrap_or_default()),
        );
        match &wanted.kind {
            LinkKind::Existing | LinkKind::Lent(_) | LinkKind::Unseen => {}
            LinkKind::Bridge(options) => found.extend(bridge_differences(&title, *options, &link)),
            LinkKind::Veth(peer) => self.observe_peer(&title, peer, &link, found)?,
            LinkKind::Made(made) => self.observe_made(&title, made, &link, found)?,
            LinkKind::Vxlan(options) if !options.is_met_by(&link) => {
                found.push(format!("{title} is not the network's VXLAN device"));
            }
            LinkKind::Vxlan(_) => {}
        }
        match &wanted.port {
            Some(port) => self.observe_port(place, &title, port, &link, found),
            None => Ok(()),
        }
    }

    fn observe_peer(
        &mut self,
        title: &str,
        peer: &Peer,
        link: &LinkInfo,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        if !link.is_veth() {
            found.push(format!("{title} is not a veth"));
            return Ok(());
        }
        let Some(other) = self.find(peer.place, &peer.name, found)? else { return Ok(()) };
        if link.peer != Some(other.index) || other.peer != Some(link.index) {
            found.push(format!("{title} is not the other end of {} interface {}", peer.place, peer.name));
        }
        if let Some(mac) = peer.mac.filter(|mac| other.mac != Some(*mac)) {
            let is = other.mac.map_or_else(|| "none".into(), |mac| mac.to_string());
            found.push(format!("{} interface {} has MAC address {is}, not {mac}", peer.place, peer.name));
        }
        Ok(())
    }

    fn observe_made(
        &mut self,
        title: &str,
        made: &Made,
        link: &LinkInfo,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        found.extend(kind_difference(title, &made.kind, link));
        let Some(over) = &made.over else { return Ok(()) };
        let Some(lower) = self.find(over.place, &over.name, found)? else { return Ok(()) };
        if link.peer != Some(lower.index) {
            found.push(format!("{title} is not on {} interface {}", over.place, over.name));
        }
        Ok(())
    }

    fn observe_port(
        &mut self,
        place: Place,
        title: &str,
        port: &Port,
        link: &LinkInfo,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let Some(bridge) = self.find(place, &port.bridge, found)? else { return Ok(()) };
        if link.master != Some(bridge.index) {
            found.push(format!("{title} is not a port of {}", port.bridge));
            return Ok(());
        }
        let Some(options) = link.port else { return Ok(()) };
        // A plugin behind the one that made the port may need hairpin mode where that one did not, and have left it to the
        // rules about a port's group to keep it from others.
        let hairpin = port.hairpin || options.hairpin;
        let by_group = port.group.is_some_and(|group| group == link.group) && options.hairpin;
        let isolated = port.isolated && (options.isolated || !by_group);
        for (name, wanted, is) in
            [("hairpin", hairpin, options.hairpin), ("isolated", isolated, options.isolated)]
        {
            if wanted != is {
                found.push(format!("{title} has {name} {}, not {}", switch(is), switch(wanted)));
            }
        }
        if let Some(group) = port.group.filter(|group| *group != link.group) {
            found.push(format!("{title} is in group {}, not {group}", link.group));
        }
        Ok(())
    }

    fn observe_address(
        &mut self,
        place: Place,
        wanted: &Address,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let Some(link) = self.find(place, &wanted.dev, found)? else { return Ok(()) };
        let addresses = address::of_link(self.socket(place)?, link.index)?;
        if !addresses.iter().any(|one| one.address == wanted.address) {
            found.push(format!("{place} interface {} does not have address {}", wanted.dev, wanted.address));
            return Ok(());
        }
        self.observe_neighbourhood(place, wanted, found)
    }

    /// CNI: of a container's address the reference plugins count the way to its subnet as well, which the kernel made.
    fn observe_neighbourhood(
        &mut self,
        place: Place,
        wanted: &Address,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let address = wanted.address;
        let is_alone = address.prefix() == if address.is_ipv4() { 32 } else { 128 };
        if place != Place::Container || !wanted.prefix_route || is_alone {
            return Ok(());
        }
        let Ok(subnet) = IpNetwork::new(address.network(), address.prefix()) else { return Ok(()) };
        self.observe_route(place, &Route::to(subnet, &wanted.dev), found)
    }

    fn observe_route(&mut self, place: Place, wanted: &Route, found: &mut Vec<String>) -> Result<(), Cause> {
        let Some(link) = self.find(place, &wanted.dev, found)? else { return Ok(()) };
        let info = route_info(wanted, link.index);
        let routes = route::of_link(self.socket(place)?, info.table, link.index)?;
        let there = routes.iter().any(|one| info.is_met_by(one));
        if !there && !self.is_served(place, &info)? && !self.has_moved(place, &info, &link)? {
            // How it was made says nothing about what is missing.
            let wanted = wanted.clone().rivals(Rivals::Refuse);
            found.push(format!("{place} {wanted} does not exist"));
        }
        Ok(())
    }

    /// Returns whether packets to a route's destination go where they should by way of any link.
    ///
    /// CNI: plugins later in the chain may have moved the route to a link of theirs. The reference plugins
    /// count what is in the main table and do not look at a default route's gateway.
    fn is_served(&mut self, place: Place, wanted: &RouteInfo) -> Result<bool, Cause> {
        let routes = route::of_table(self.socket(place)?, route::MAIN)?;
        Ok(routes.iter().any(|one| leads_alike(one, wanted)))
    }

    /// Returns whether a route of the main table is in another one that the link's packets look in: that of its VRF, or
    /// of a rule for packets from one of its addresses. Plugins later in the chain may have moved it there.
    fn has_moved(&mut self, place: Place, wanted: &RouteInfo, link: &LinkInfo) -> Result<bool, Cause> {
        if wanted.table != route::MAIN {
            return Ok(false);
        }
        let socket = self.socket(place)?;
        let mut tables = BTreeSet::new();
        if let Some(master) = link.master {
            tables.extend(socket.link(link::get_index(master))?.and_then(|master| master.table));
        }
        let addresses = address::of_link(socket, link.index)?;
        let is_own = |from: IpAddr| addresses.iter().any(|one| one.address.ip() == from);
        let rules = rule::all(socket)?;
        tables.extend(rules.iter().filter(|rule| rule.from.is_some_and(is_own)).map(|rule| rule.table));
        for table in tables {
            let routes = route::of_link(socket, table, link.index)?;
            if routes.iter().any(|one| leads_alike(one, wanted)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn observe_blackhole(
        &mut self,
        place: Place,
        wanted: &Blackhole,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let routes = route::of_protocol(self.socket(place)?, wanted.protocol)?;
        let info = blackhole(wanted);
        if !routes.iter().any(|one| one.kind == info.kind && one.dst == info.dst && one.metric == info.metric)
        {
            found.push(format!("{place} {wanted} does not exist"));
        }
        Ok(())
    }

    fn observe_vlans(
        &mut self,
        place: Place,
        wanted: &BridgeVlan,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let Some(link) = self.find(place, &wanted.dev, found)? else { return Ok(()) };
        let is = bridge_vlan::of_link(self.socket(place)?, link.index)?;
        for range in &wanted.vlans {
            let vlans = vlans_of(range);
            // The kernel joins neighbours that are treated alike.
            let within = |one: &bridge_vlan::Vlans| {
                one.first <= vlans.first
                    && vlans.last <= one.last
                    && (one.pvid, one.untagged) == (vlans.pvid, vlans.untagged)
            };
            if !is.iter().any(within) {
                found.push(format!("{place} interface {} is not in VLAN {range}", wanted.dev));
            }
        }
        Ok(())
    }

    fn observe_sysctl(
        &mut self,
        place: Place,
        wanted: &Sysctl,
        found: &mut Vec<String>,
    ) -> Result<(), Cause> {
        let difference = self.run(place, || sysctl::observe(wanted))??;
        found.extend(difference.map(|text| format!("{place} {text}")));
        Ok(())
    }
}

/// Returns whether a route leads where another one should. A default route may be by way of any gateway.
fn leads_alike(one: &RouteInfo, wanted: &RouteInfo) -> bool {
    (one.dst.network(), one.dst.prefix()) == (wanted.dst.network(), wanted.dst.prefix())
        && (wanted.dst.prefix() == 0 || one.gateway == wanted.gateway)
}

/// CNI: the words about modes are those of the reference plugins.
fn kind_difference(title: &str, wanted: &Kind, link: &LinkInfo) -> Option<String> {
    let modes = |kind: &str, is: &str, wanted: &str| {
        (is != wanted).then(|| format!("container {kind} mode {is} does not match expected value: {wanted}"))
    };
    match (wanted, link.own.as_ref()) {
        (Kind::Macvlan(wanted), Some(Kind::Macvlan(is))) => {
            modes("macvlan", is.mode.as_str(), wanted.mode.as_str())
        }
        (Kind::Ipvlan(wanted), Some(Kind::Ipvlan(is))) => {
            modes("ipvlan", is.mode.as_str(), wanted.mode.as_str())
                .or_else(|| modes("ipvlan", is.flag.as_str(), wanted.flag.as_str()))
        }
        (Kind::Vlan(wanted), Some(Kind::Vlan(is))) => {
            (wanted != is).then(|| format!("{title} has VLAN id {}, not {}", is.id, wanted.id))
        }
        (Kind::Tap(wanted), Some(Kind::Tap(is))) => {
            (!wanted.is_met_by(is)).then(|| format!("{title} is a {is}, not a {wanted}"))
        }
        (Kind::Dummy, Some(Kind::Dummy)) => None,
        _ => Some(format!("{title} is not a {}", wanted.name())),
    }
}

fn bridge_differences(title: &str, options: BridgeOptions, link: &LinkInfo) -> Vec<String> {
    let Some(bridge) = link.bridge else { return vec![format!("{title} is not a bridge")] };
    let mut found = Vec::new();
    if options.vlan_filtering && !bridge.vlan_filtering {
        found.push(format!("{title} does not filter VLANs"));
    }
    if options.promisc && !link.promisc {
        found.push(format!("{title} is not promiscuous"));
    }
    found
}

fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// Returns the kind of link that a resource makes, as ip-link(8) has it: nothing for a tap device, which has a file of its own.
fn made(resource: &Resource) -> Option<&'static str> {
    match resource {
        Resource::Link(link) => match &link.kind {
            LinkKind::Bridge(_) => Some("bridge"),
            LinkKind::Veth(_) => Some("veth"),
            LinkKind::Vxlan(_) => Some("vxlan"),
            LinkKind::Made(Made { kind: Kind::Tap(_), .. }) => None,
            LinkKind::Made(made) => Some(made.kind.name()),
            LinkKind::Existing | LinkKind::Lent(_) | LinkKind::Unseen => None,
        },
        Resource::Traffic(Traffic::Ifb { .. }) => Some("ifb"),
        Resource::Routing(Routing::Vrf(_)) => Some("vrf"),
        _ => None,
    }
}
