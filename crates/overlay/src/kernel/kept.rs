//! The gate of one network, and what asks it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use weft_model::Mac;
use weft_netlink::bpf::shortcut::{self, Clock, Guarded, Shortcut};
use weft_netlink::bpf::{self, Gate, Program};
use weft_netlink::link::LinkInfo;
use weft_netlink::{Socket, tc};

use super::gate::{State, unknown};
use super::look::Devices;
use super::reason::Reason;
use crate::local::LocalNetwork;

/// The longest time until connections are listed again when one of them is translated: that costs what there are of them.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often what is attached is compared although no link has come or gone.
const COMPARED: u8 = 10;

/// The gate of one network.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) local: LocalNetwork,
    gate: Gate,
    pub(super) open: bool,
    /// Whether it is shut although the last look has found nothing against it.
    pub(super) may_open: bool,
    /// Whether what somebody else may have left in connection tracking is forgotten.
    pub(super) fresh: bool,
    /// A translated connection that was found, and when to look for one again.
    pub(super) translated: Option<Translated>,
    programs: BTreeMap<Way, Program>,
    /// The links with a filter that asks this gate.
    attached: BTreeSet<(u32, Way)>,
    /// Why the kernel refuses that.
    incapable: Option<Reason>,
    /// How many looks are left until that is compared, or tried, again.
    compared: u8,
}

#[derive(Debug)]
pub(super) struct Translated {
    pub(super) why: Reason,
    waits: Duration,
    until: Instant,
}

/// What tells one program of a network's from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    from: u32,
    station: [u8; 6],
    to: u32,
}

impl Kept {
    pub(super) fn new(local: &LocalNetwork) -> Result<Self, Reason> {
        let gate = Gate::new().map_err(|error| Reason::Incapable(error.to_string()))?;
        Ok(Self {
            local: local.clone(),
            gate,
            open: false,
            may_open: false,
            fresh: false,
            translated: None,
            programs: BTreeMap::new(),
            attached: BTreeSet::new(),
            incapable: None,
            compared: 0,
        })
    }

    /// Has all links of the network ask this gate.
    pub(super) fn attach(&mut self, socket: &mut Socket, devices: &Devices<'_>) -> Result<(), Reason> {
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

    /// Shuts the gate if something speaks against it, and puts off its end if it is open. Returns how it is, unless it may be opened.
    pub(super) fn settle(&mut self, mut reasons: Vec<Reason>, until: Duration) -> Option<State> {
        self.may_open = reasons.is_empty() && !self.open;
        if self.may_open {
            return None;
        }
        if reasons.is_empty() {
            match self.open(until) {
                Ok(()) => return Some(State::Open),
                Err(why) => reasons.push(why),
            }
        }
        self.shut();
        self.translated = None;
        Some(State::Shut(reasons))
    }

    pub(super) fn open(&mut self, until: Duration) -> Result<(), Reason> {
        if Gate::now().map_err(|error| unknown(&error))? >= until {
            return Err(unknown(&"looking has taken longer than a gate stays open"));
        }
        self.gate.open_until(until).map_err(|error| unknown(&error))?;
        self.fresh &= self.open;
        self.open = true;
        Ok(())
    }

    /// Returns whether it was open.
    pub(super) fn shut(&mut self) -> bool {
        // What cannot be written is too old soon.
        drop(self.gate.shut());
        let was_open = std::mem::take(&mut self.open);
        self.fresh &= !was_open;
        was_open
    }

    /// Returns whether it is too early to look for translated connections again.
    pub(super) fn waits(&self, now: Instant) -> bool {
        self.translated.as_ref().is_some_and(|found| now < found.until)
    }

    /// Keeps what was found of translated connections.
    pub(super) fn found(&mut self, connection: Option<[IpAddr; 2]>, now: Instant) {
        let before = self.translated.take();
        self.translated = connection.map(|ends| {
            let waits =
                before.map_or(Duration::from_secs(1), |before| before.waits.saturating_mul(2).min(PATIENCE));
            Translated { why: Reason::Translated(ends), waits, until: now + waits }
        });
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
