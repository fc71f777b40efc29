//! The gates of networks whose packets are led past the firewall as long as nobody else there has a say (docs/adr/0023).
//!
//! A gate belongs to whoever keeps it, and shuts by itself when that process is gone: nothing of it is on disk. So programs that ask
//! another gate, of a keeper that was there before, are replaced.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_firewall::Tunnels;
use weft_model::{IfName, NetworkName};
use weft_netlink::Socket;
use weft_netlink::bpf::Gate;
use weft_netlink::link::{self, LinkInfo};
use weft_netns::Netns;
use weft_nft::Monitor;
use weft_nft::conntrack::{Among, forget_among, translated_among};
use weft_state::Root;

use super::home::home;
use super::kept::Kept;
use super::look::{Devices, Looker, Ruleset, look_at_bridge};
use super::reason::Reason;
use crate::desired::Desired;
use crate::ids::NetworkId;
use crate::local::LocalNetwork;
use crate::records::Fastpath;

/// For how long a gate opens, counted from the beginning of the look that opens it. It is put off about every second.
const LEASE: Duration = Duration::from_secs(3);

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

    /// Returns whether there is no gate to keep.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty()
    }
}

/// Keeps the gates of a host's networks.
#[derive(Debug)]
pub struct Gates {
    root: Root,
    looker: Looker,
    /// By namespace: the host's own, or that of an isolated network.
    places: BTreeMap<Option<NetworkId>, Place>,
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
        let mut by_place: BTreeMap<Option<NetworkId>, Vec<&LocalNetwork>> = BTreeMap::new();
        for local in &wanted.networks {
            by_place.entry(local.isolated.then_some(local.id)).or_default().push(local);
        }
        // Whose network is gone has no links that would ask. A namespace that was made anew is another one.
        self.places.retain(|id, place| by_place.contains_key(id) && place.is_there());
        if by_place.is_empty() {
            return;
        }
        // What is found holds for the moment before it is looked for, whoever is held up after that.
        let until = Gate::now().map(|now| now.saturating_add(LEASE)).map_err(|error| unknown(&error));
        self.looker.look_everywhere();
        // What has to be shut is shut everywhere before anything is done that takes longer where there are many connections.
        for (id, locals) in &by_place {
            let outcome =
                until.clone().and_then(|until| self.at(*id, locals, wanted.tunnels.as_ref(), until));
            self.note(*id, locals, outcome);
        }
        for (id, locals) in &by_place {
            let Some(place) = self.places.get_mut(id) else { continue };
            let outcome = until.clone().and_then(|until| place.inside(|place| place.open_more(until))?);
            self.note(*id, locals, outcome);
        }
    }

    /// Keeps what was found about the networks of a namespace, or why nothing was.
    fn note(
        &mut self,
        id: Option<NetworkId>,
        locals: &[&LocalNetwork],
        outcome: Result<Vec<(NetworkName, State)>, Reason>,
    ) {
        match outcome {
            Ok(states) => self.states.extend(states),
            Err(why) => {
                // Its gates go with it, and what asks them finds them shut when their time is over.
                if let Some(mut place) = self.places.remove(&id) {
                    place.shut();
                    place.forget_in_there();
                }
                let shut = |local: &&LocalNetwork| (local.name.clone(), State::Shut(vec![why.clone()]));
                self.states.extend(locals.iter().map(shut));
            }
        }
    }

    fn at(
        &mut self,
        id: Option<NetworkId>,
        locals: &[&LocalNetwork],
        tunnels: Option<&Tunnels>,
        until: Duration,
    ) -> Result<Vec<(NetworkName, State)>, Reason> {
        if !self.places.contains_key(&id) {
            let place = match id {
                None => Place::open(None)?,
                Some(_) => {
                    let found = locals.first().map(|local| home(local, &self.root, false)).transpose();
                    let home = found.map_err(|error| unknown(&error))?.flatten().ok_or(Reason::Devices)?;
                    Place::open(Some(home))?
                }
            };
            self.places.insert(id, place);
        }
        let looker = &self.looker;
        let Some(place) = self.places.get_mut(&id) else { return Err(Reason::Devices) };
        // What guards the host's tunnels is in its own namespace.
        let tunnels = tunnels.filter(|_| id.is_none());
        place.inside(|place| place.look(looker, locals, tunnels, until))?
    }

    /// Returns how the gates were found by the last look.
    pub fn states(&self) -> &BTreeMap<NetworkName, State> {
        &self.states
    }

    /// Returns what announces changes of rulesets, for whoever waits for them.
    pub fn monitors(&self) -> impl Iterator<Item = &Monitor> {
        self.places.values().map(|place| &place.monitor)
    }

    /// Shuts the gates where the rules have changed since the last look. Returns whether one of them was open, so that it
    /// is worth it to look again soon.
    pub fn hear(&mut self) -> bool {
        let mut heard = false;
        for place in self.places.values_mut() {
            match place.monitor.rules_changed() {
                Ok(false) => {}
                Ok(true) => heard |= place.shut(),
                // One that cannot be heard any more is given up by the next look.
                Err(_) => {
                    place.shut();
                    heard = true;
                }
            }
        }
        if heard {
            self.places.values_mut().for_each(Place::forget_in_there);
        }
        heard
    }

    /// Shuts all gates.
    pub fn shut(&mut self) {
        for place in self.places.values_mut() {
            place.shut();
        }
        self.places.values_mut().for_each(Place::forget_in_there);
    }
}

pub(super) fn unknown(error: &impl std::fmt::Display) -> Reason {
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

    /// Returns whether its namespace is still the one that its networks have.
    fn is_there(&self) -> bool {
        self.home.as_ref().is_none_or(|home| home.is_at(home.path()))
    }

    /// Shuts the gates that something speaks against, and puts off the end of those that are open. Returns how they are; of those
    /// that may be opened nothing yet.
    fn look(
        &mut self,
        looker: &Looker,
        locals: &[&LocalNetwork],
        tunnels: Option<&Tunnels>,
        until: Duration,
    ) -> Result<Vec<(NetworkName, State)>, Reason> {
        // What changes from here on is heard below, or later.
        self.monitor.rules_changed().map_err(|error| unknown(&error))?;
        let mut around = looker.look_around(&mut self.socket);
        if let Err(why) = looker.look_at_rules(&mut self.rules, tunnels, &mut self.ruleset) {
            around.push(why);
            self.ruleset = None;
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
        let changed = self.monitor.rules_changed().map_err(|error| unknown(&error))?;
        let mut states = Vec::new();
        for (local, mut reasons) in found {
            if changed && reasons.is_empty() {
                reasons.push(Reason::Changed);
            }
            let state = match self.gates.get_mut(&local.id) {
                Some(kept) => kept.settle(reasons, until),
                None => Some(State::Shut(reasons)),
            };
            states.extend(state.map(|state| (local.name.clone(), state)));
        }
        Ok(states)
    }

    /// Opens the gates that nothing was found to speak against, unless a connection is translated, and has connection tracking begin
    /// anew where one has been opened or shut. Returns how those gates are.
    fn open_more(&mut self, until: Duration) -> Result<Vec<(NetworkName, State)>, Reason> {
        let translated = self.translated();
        // To list connections may have taken a while.
        let changed = self.monitor.rules_changed().map_err(|error| unknown(&error))?;
        let mut states = Vec::new();
        for kept in self.gates.values_mut().filter(|kept| kept.may_open || (changed && kept.open)) {
            let why = translated.get(&kept.local.id).cloned().or_else(|| changed.then_some(Reason::Changed));
            let outcome = why.map_or_else(|| kept.open(until), Err);
            if outcome.is_err() {
                kept.shut();
            }
            let state = outcome.map_or_else(|why| State::Shut(vec![why]), |()| State::Open);
            states.push((kept.local.name.clone(), state));
        }
        self.forget();
        Ok(states)
    }

    /// Returns the gates that may be opened but for a connection that somebody has to see all packets of.
    fn translated(&mut self) -> BTreeMap<NetworkId, Reason> {
        let now = Instant::now();
        let may_open = self.gates.values_mut().filter(|kept| kept.may_open);
        let (waiting, mut due): (Vec<_>, Vec<_>) = may_open.partition(|kept| kept.waits(now));
        let mut reasons: BTreeMap<NetworkId, Reason> = BTreeMap::new();
        let known = |kept: &&mut Kept| Some((kept.local.id, kept.translated.as_ref()?.why.clone()));
        reasons.extend(waiting.iter().filter_map(known));
        if due.is_empty() {
            return reasons;
        }
        match among(&due, |networks| translated_among(&mut self.rules, networks)) {
            Ok(found) => {
                for (kept, found) in due.iter_mut().zip(found) {
                    kept.found(found, now);
                }
                reasons.extend(due.iter().filter_map(known));
            }
            Err(error) => {
                let why = unknown(&format!("connections: {error}"));
                reasons.extend(due.iter().map(|kept| (kept.local.id, why.clone())));
                self.ask_anew();
            }
        }
        reasons
    }

    /// Has connection tracking begin anew with what goes on within networks whose gates have been opened or shut: the packets went or
    /// go unseen, whoever has seen them begin.
    fn forget(&mut self) {
        let mut stale: Vec<&mut Kept> = self.gates.values_mut().filter(|kept| !kept.fresh).collect();
        if stale.is_empty() {
            return;
        }
        let outcome = among(&stale, |networks| forget_among(&mut self.rules, networks));
        // Else it is tried again with the next look.
        stale.iter_mut().for_each(|kept| kept.fresh = outcome.is_ok());
        if outcome.is_err() {
            self.ask_anew();
        }
    }

    /// What a list that was broken off has left is no answer to what is asked next.
    fn ask_anew(&mut self) {
        if let Ok(rules) = weft_nft::Socket::open() {
            self.rules = rules;
        }
    }

    /// Does the same from wherever.
    fn forget_in_there(&mut self) {
        // Then they are forgotten with the next look, or by the next keeper.
        drop(self.inside(Self::forget));
    }

    /// Shuts its gates. Returns whether one of them was open.
    fn shut(&mut self) -> bool {
        self.gates.values_mut().fold(false, |open, kept| kept.shut() | open)
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
        let mut reasons = look_at_bridge(&mut self.socket, &devices);
        reasons.extend(self.ruleset.iter().flat_map(|ruleset| ruleset.about(local, &devices)));
        Ok(reasons)
    }
}

/// Asks about the connections within several networks at once.
fn among<T>(gates: &[&mut Kept], ask: impl FnOnce(&[Among<'_>]) -> T) -> T {
    let own =
        |kept: &&mut Kept| -> Vec<IpAddr> { kept.local.blocks.iter().map(|block| block.gateway).collect() };
    let own: Vec<Vec<IpAddr>> = gates.iter().map(own).collect();
    let networks = gates.iter().zip(&own).map(|(kept, own)| Among { subnets: &kept.local.subnets, own });
    ask(&networks.collect::<Vec<_>>())
}
