//! The gates of networks whose packets are led past the firewall as long as nobody else there has a say (docs/adr/0023).
//!
//! A gate belongs to whoever keeps it, and shuts by itself when that process is gone: nothing of it is on disk. So programs that ask
//! another gate, of a keeper that was there before, are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use weft_firewall::Tunnels;
use weft_model::{IfName, Mac, NetworkName};
use weft_netlink::bpf::shortcut::{self, Clock, Guarded, Shortcut};
use weft_netlink::bpf::{self, Gate, Program};
use weft_netlink::link::{self, LinkInfo};
use weft_netlink::{Socket, tc};
use weft_netns::Netns;
use weft_nft::conntrack::{Among, forget_among, translated_among};
use weft_nft::{Error, Monitor};
use weft_state::Root;

use super::devices::home;
use super::look::{Devices, Looker, Ruleset, look_at_bridge};
use super::reason::Reason;
use crate::desired::Desired;
use crate::ids::NetworkId;
use crate::local::LocalNetwork;
use crate::records::Fastpath;

/// For how long a gate opens. It is put off about every second.
const LEASE: Duration = Duration::from_secs(3);
/// How often what is attached is compared although no link has come or gone.
const COMPARED: u8 = 10;

/// How the gate of a network is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Packets within the network take the fast path.
    Open,
    /// They do not, for these reasons.
    Shut(Vec<Reason>),
}

/// The networks whose gates are to be kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    networks: Vec<LocalNetwork>,
    tunnels: Option<Tunnels>,
}

impl Wanted {
    /// Returns those of what is desired.
    pub fn of(desired: &Desired) -> Self {
        let all = desired.networks.iter().map(|network| &network.local);
        let networks = all.filter(|local| local.fastpath == Fastpath::Auto).cloned().collect();
        Self { networks, tunnels: desired.tunnels.clone() }
    }
}

/// Keeps the gates of a host's networks.
#[derive(Debug)]
pub struct Gates {
    root: Root,
    looker: Looker,
    /// By namespace: the host's own, or that of an isolated network.
    places: BTreeMap<Option<NetworkName>, Place>,
    states: BTreeMap<NetworkName, State>,
}

/// A namespace with networks in it.
#[derive(Debug)]
struct Place {
    home: Option<Netns>,
    monitor: Monitor,
    socket: Socket,
    rules: weft_nft::Socket,
    ruleset: Option<Ruleset>,
    gates: BTreeMap<NetworkId, Kept>,
}

/// The gate of one network.
#[derive(Debug)]
struct Kept {
    local: LocalNetwork,
    gate: Gate,
    open: bool,
    /// Whether what somebody else may have left in connection tracking is forgotten.
    fresh: bool,
    programs: BTreeMap<Way, Program>,
    /// The links with a filter that asks this gate.
    attached: BTreeSet<(u32, Way)>,
    /// Why the kernel refuses that.
    incapable: Option<Reason>,
    /// How many looks are left until that is compared, or tried, again.
    compared: u8,
}

/// What tells one program of a network's from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    from: u32,
    station: [u8; 6],
    to: u32,
}

impl Gates {
    /// Returns a keeper of no gates.
    pub fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            looker: Looker::default(),
            places: BTreeMap::new(),
            states: BTreeMap::new(),
        }
    }

    /// Looks at everything, opens the gates that nothing speaks against and shuts the others. Whoever does this again within
    /// a second or two keeps them open.
    pub fn look(&mut self, wanted: &Wanted) {
        self.states.clear();
        let mut by_place: BTreeMap<Option<NetworkName>, Vec<&LocalNetwork>> = BTreeMap::new();
        for local in &wanted.networks {
            by_place.entry(local.isolated.then(|| local.name.clone())).or_default().push(local);
        }
        // Whose network is gone has no links that would ask.
        self.places.retain(|place, _| by_place.contains_key(place));
        if by_place.is_empty() {
            return;
        }
        self.looker.look_everywhere();
        for (name, locals) in by_place {
            let outcome = self.at(&name, &locals, wanted.tunnels.as_ref());
            match outcome {
                Ok(states) => self.states.extend(states),
                Err(why) => {
                    // Its gates go with it, and what asks them finds them shut when their time is over.
                    if let Some(mut place) = self.places.remove(&name) {
                        place.shut();
                    }
                    let shut = |local: &&LocalNetwork| (local.name.clone(), State::Shut(vec![why.clone()]));
                    self.states.extend(locals.iter().map(shut));
                }
            }
        }
    }

    fn at(
        &mut self,
        name: &Option<NetworkName>,
        locals: &[&LocalNetwork],
        tunnels: Option<&Tunnels>,
    ) -> Result<Vec<(NetworkName, State)>, Reason> {
        if !self.places.contains_key(name) {
            let place = match name {
                None => Place::open(None)?,
                Some(_) => {
                    let found = locals.first().map(|local| home(local, &self.root, false)).transpose();
                    let home = found.map_err(|error| unknown(&error))?.flatten().ok_or(Reason::Devices)?;
                    Place::open(Some(home))?
                }
            };
            self.places.insert(name.clone(), place);
        }
        let looker = &self.looker;
        let Some(place) = self.places.get_mut(name) else { return Err(Reason::Devices) };
        // What guards the host's tunnels is in its own namespace.
        let tunnels = tunnels.filter(|_| name.is_none());
        place.inside(|place| place.look(looker, locals, tunnels))?
    }

    /// Returns how the gates were found by the last look.
    pub fn states(&self) -> &BTreeMap<NetworkName, State> {
        &self.states
    }

    /// Returns what announces changes of rulesets, for whoever waits for them.
    pub fn monitors(&self) -> impl Iterator<Item = &Monitor> {
        self.places.values().map(|place| &place.monitor)
    }

    /// Shuts the gates where the ruleset has changed since the last look. Returns whether it has anywhere.
    pub fn hear(&mut self) -> bool {
        let mut heard = false;
        for place in self.places.values_mut() {
            // One that cannot be heard any more is given up by the next look.
            if place.monitor.changed().unwrap_or(true) {
                heard = true;
                place.shut();
            }
        }
        heard
    }

    /// Shuts all gates.
    pub fn shut(&mut self) {
        self.places.values_mut().for_each(Place::shut);
    }
}

fn unknown(error: &impl std::fmt::Display) -> Reason {
    Reason::Unknown(error.to_string())
}

impl Place {
    fn open(home: Option<Netns>) -> Result<Self, Reason> {
        let open = || {
            let monitor = Monitor::open().map_err(|error| unknown(&error))?;
            let rules = weft_nft::Socket::open().map_err(|error| unknown(&error))?;
            Ok((monitor, rules, Socket::open().map_err(|error| unknown(&error))?))
        };
        let (monitor, rules, socket) = match &home {
            Some(home) => home.run(open).map_err(|error| unknown(&error))??,
            None => open()?,
        };
        Ok(Self { home, monitor, socket, rules, ruleset: None, gates: BTreeMap::new() })
    }

    /// Does something in its namespace.
    fn inside<T: Send>(&mut self, work: impl FnOnce(&mut Self) -> T + Send) -> Result<T, Reason> {
        let Some(home) = self.home.take() else { return Ok(work(self)) };
        let outcome = home.run(|| work(self));
        self.home = Some(home);
        outcome.map_err(|error| unknown(&error))
    }

    fn look(
        &mut self,
        looker: &Looker,
        locals: &[&LocalNetwork],
        tunnels: Option<&Tunnels>,
    ) -> Result<Vec<(NetworkName, State)>, Reason> {
        // What changes from here on is heard below, or later.
        self.monitor.changed().map_err(|error| unknown(&error))?;
        let mut around = looker.look_around(&mut self.socket);
        if let Err(why) = looker.look_at_rules(&mut self.rules, tunnels, &mut self.ruleset) {
            around.push(why);
        }
        self.gates.retain(|id, _| locals.iter().any(|local| local.id == *id));
        let mut found = Vec::new();
        for local in locals {
            let reasons = match self.about(local) {
                Ok(reasons) => around.iter().cloned().chain(reasons).collect(),
                Err(why) => vec![why],
            };
            found.push((*local, reasons));
        }
        let changed = self.monitor.changed().map_err(|error| unknown(&error))?;
        let mut states = Vec::new();
        for (local, mut reasons) in found {
            if changed && reasons.is_empty() {
                reasons.push(Reason::Changed);
            }
            states.push((local.name.clone(), self.settle(local, reasons)));
        }
        Ok(states)
    }

    /// Sees to it that a network's links ask its gate, and looks at what is its own.
    fn about(&mut self, local: &LocalNetwork) -> Result<Vec<Reason>, Reason> {
        let mut get = |name: &IfName| self.socket.link(link::get(name)).map_err(|error| unknown(&error));
        let (Some(bridge), Some(vxlan)) = (get(&local.bridge)?, get(&local.vxlan)?) else {
            return Err(Reason::Devices);
        };
        let mut ports = link::ports(&mut self.socket, bridge.index).map_err(|error| unknown(&error))?;
        // What an administrator has put there is none of ours.
        ports.retain(LinkInfo::is_veth);
        let kept = match self.gates.remove(&local.id) {
            Some(kept) => kept,
            None => Kept::new(local)?,
        };
        let kept = self.gates.entry(local.id).or_insert(kept);
        kept.local = local.clone();
        let devices = Devices { bridge: &bridge, vxlan: &vxlan, ports: &ports };
        kept.attach(&mut self.socket, &devices)?;
        let mut reasons = look_at_bridge(&mut self.socket, &bridge);
        reasons.extend(self.ruleset.iter().flat_map(|ruleset| ruleset.about(&devices)));
        Ok(reasons)
    }

    /// Opens or shuts a gate, by what speaks against it.
    fn settle(&mut self, local: &LocalNetwork, mut reasons: Vec<Reason>) -> State {
        let Some(kept) = self.gates.get_mut(&local.id) else { return State::Shut(reasons) };
        if reasons.is_empty()
            && !kept.open
            && let Some(why) = kept.translated(&mut self.rules)
        {
            reasons.push(why);
        }
        if reasons.is_empty()
            && let Err(error) = kept.gate.open_for(LEASE)
        {
            reasons.push(unknown(&error));
        }
        if !reasons.is_empty() {
            kept.shut(&mut self.rules);
            return State::Shut(reasons);
        }
        if !kept.open {
            kept.open = true;
            // Their packets go unseen from now on, whoever has seen them begin.
            kept.forget(&mut self.rules);
        }
        State::Open
    }

    fn shut(&mut self) {
        let gates = self.gates.values().any(|kept| kept.open);
        // Before anything else that takes time.
        self.gates.values().for_each(|kept| drop(kept.gate.shut()));
        if gates {
            let outcome = self.inside(|place| {
                let Self { gates, rules, .. } = place;
                gates.values_mut().for_each(|kept| kept.shut(rules));
            });
            // Then they are forgotten when the gate opens the next time, or by the next keeper.
            drop(outcome);
        }
    }
}

impl Kept {
    fn new(local: &LocalNetwork) -> Result<Self, Reason> {
        let gate = Gate::new().map_err(|error| Reason::Incapable(error.to_string()))?;
        Ok(Self {
            local: local.clone(),
            gate,
            open: false,
            fresh: false,
            programs: BTreeMap::new(),
            attached: BTreeSet::new(),
            incapable: None,
            compared: 0,
        })
    }

    /// Has all links of the network ask this gate.
    fn attach(&mut self, socket: &mut Socket, devices: &Devices<'_>) -> Result<(), Reason> {
        let (bridge, vxlan) = (devices.bridge, devices.vxlan);
        let out = Way { from: bridge.index, station: station(bridge), to: vxlan.index };
        let back = Way { from: vxlan.index, station: station(vxlan), to: bridge.index };
        let ports = devices.ports.iter().map(|port| (port.index, out));
        let wanted: BTreeSet<(u32, Way)> = ports.chain([(vxlan.index, back)]).collect();
        self.compared = self.compared.checked_sub(1).unwrap_or(COMPARED);
        if self.compared == COMPARED {
            self.attached.clear();
            self.incapable = None;
        }
        // Each attempt is a change that others hear of.
        if let Some(why) = &self.incapable {
            return Err(why.clone());
        }
        self.attached.retain(|link| wanted.contains(link));
        self.programs.retain(|way, _| [out, back].contains(way));
        for (link, way) in wanted {
            if self.attached.contains(&(link, way)) {
                continue;
            }
            match self.attach_one(socket, link, way) {
                Ok(true) => drop(self.attached.insert((link, way))),
                // It has gone.
                Ok(false) => {}
                Err(why) => {
                    self.incapable = Some(why.clone());
                    return Err(why);
                }
            }
        }
        Ok(())
    }

    /// Returns whether it is there now: a link may have gone.
    fn attach_one(&mut self, socket: &mut Socket, link: u32, way: Way) -> Result<bool, Reason> {
        let refused = |what: &str, error: weft_netlink::Error| Reason::Incapable(format!("{what}: {error}"));
        let wanted = Shortcut { from: way.from, station: Mac(way.station), to: way.to };
        // Its descriptor is another one for each process; its id is told from all others'.
        let known = Guarded { gate: self.gate.id(), clock: Clock::Coarse };
        let name = shortcut::name(&shortcut::program(&wanted, Some(known)));
        let there = tc::deciders(socket, link).map_err(|error| unknown(&error))?;
        if there.contains(&name) {
            return Ok(true);
        }
        if !self.programs.contains_key(&way) {
            self.programs.insert(way, load(&wanted, self.gate.descriptor())?);
        }
        let Some(program) = self.programs.get(&way) else { return Ok(false) };
        let queue_is_new = match socket.request(tc::watch_received(link)) {
            Ok(_) => true,
            Err(error) if error.is_exists() => false,
            Err(error) if is_gone(&error) => return Ok(false),
            Err(error) => {
                return Err(refused(
                    "the kernel has no queue for what a link receives (CONFIG_NET_SCH_INGRESS)",
                    error,
                ));
            }
        };
        match socket.request(tc::decide_received(link, program, &name)) {
            Ok(_) => Ok(true),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => {
                if queue_is_new {
                    drop(socket.request(tc::ignore_received(link)));
                }
                Err(refused(
                    "the kernel has no program decide about what a link receives (CONFIG_NET_CLS_BPF)",
                    error,
                ))
            }
        }
    }

    fn among(local: &LocalNetwork) -> Vec<IpAddr> {
        local.blocks.iter().map(|block| block.gateway).collect()
    }

    /// Returns a connection that somebody has to see all packets of.
    fn translated(&self, rules: &mut weft_nft::Socket) -> Option<Reason> {
        let own = Self::among(&self.local);
        match translated_among(rules, &Among { subnets: &self.local.subnets, own: &own }) {
            Ok(found) => found.map(Reason::Translated),
            Err(error) => Some(unknown(&format!("connections: {error}"))),
        }
    }

    /// Has connection tracking begin anew with what goes on within the network.
    fn forget(&mut self, rules: &mut weft_nft::Socket) {
        let own = Self::among(&self.local);
        let outcome: Result<usize, Error> =
            forget_among(rules, &Among { subnets: &self.local.subnets, own: &own });
        // It is tried again with the next look.
        self.fresh = outcome.is_ok();
    }

    fn shut(&mut self, rules: &mut weft_nft::Socket) {
        // What cannot be written is too old soon.
        drop(self.gate.shut());
        if self.open || !self.fresh {
            self.open = false;
            self.forget(rules);
        }
    }
}

/// A link that was there a moment ago.
fn is_gone(error: &weft_netlink::Error) -> bool {
    error.errno().is_some_and(|errno| errno == nix::errno::Errno::ENODEV)
}

impl Drop for Kept {
    fn drop(&mut self) {
        // What cannot be written is too old soon.
        drop(self.gate.shut());
    }
}

fn station(link: &LinkInfo) -> [u8; 6] {
    link.mac.unwrap_or(Mac([0; 6])).0
}

fn load(wanted: &Shortcut, gate: u32) -> Result<Program, Reason> {
    let mut refused = None;
    for clock in [Clock::Coarse, Clock::Exact] {
        let code = shortcut::program(wanted, Some(Guarded { gate, clock }));
        match bpf::load(&code) {
            Ok(program) => return Ok(program),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(Reason::Incapable(refused.map(|error| error.to_string()).unwrap_or_default()))
}
