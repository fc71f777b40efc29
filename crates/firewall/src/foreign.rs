//! Filters of others that drop what is forwarded: docker's policy, ufw's, firewalld's.
//!
//! An accept in our table does not keep another table from dropping the packet. What our networks forward
//! carries a bit of the mark while other filters look at it ([`crate::admission::layout`]), and where a filter drops
//! by default, one rule per host in its own hook lets that bit pass: in `DOCKER-USER` where docker is, at the
//! head of `FORWARD` elsewhere. firewalld cannot match marks, so our bridges join its zone `trusted`. Why so:
//! docs/adr/0007-foreign-forward-drop.md.
//!
//! What was written is on record, and goes with the last network that forwards:
//!
//! ```text
//! foreign/<program>,<chain>         our rule is in this chain
//! foreign/firewalld,<interface>     this bridge has joined the zone
//! ```
//!
//! Looking costs some questions to the kernel; programs are started only where one of their tables has rules. It is done
//! when a network's first rule is written, and when everything is.

mod hooks;

use std::fs;
use std::path::Path;

use weft_model::{IfName, NetworkName};
use weft_netlink::{link, route};

use crate::admission::layout::BIT;
use crate::claim::{Claims, create, listed, remove_file};
use crate::entry::{Entry, INSIDE, PASSAGE};
use crate::firewalld::{Firewalld, Member, TRUSTED};
use crate::iptables::lock::Writer;
use crate::iptables::part::{self, Part, Scripts};
use crate::iptables::tool::{Saved, Table, Tool};
use crate::weft::Demand;
use crate::{Firewall, FirewallError, weft};

pub(crate) use hooks::obstacles;
use hooks::{has_firewalld, places, strangers};

const FORWARD: &str = "FORWARD";
const DOCKER_USER: &str = "DOCKER-USER";
const FIREWALLD: &str = "firewalld";

/// Something that keeps what we forward from passing, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) what: String,
    pub(crate) why: String,
    pub(crate) mend: String,
}

/// A chain where our rule belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    tool: Tool,
    chain: &'static str,
    /// Whether our rule is there.
    done: bool,
}

impl Place {
    /// Whether our rule is there, and on record.
    pub(crate) fn is_done(&self, claims: &Claims<'_>) -> bool {
        self.done && claims.0.join("foreign").join(self.record()).exists()
    }

    fn record(&self) -> String {
        format!("{},{}", self.tool.program(), self.chain)
    }
}

impl Part for Place {
    fn name(&self) -> String {
        format!("our rule in chain {} of {}", self.chain, self.tool.program())
    }

    fn tool(&self) -> Option<Tool> {
        Some(self.tool.or_chosen())
    }

    fn tables(&self) -> &'static [Table] {
        &[Table::Filter]
    }

    fn is_in(&self, _tool: Tool) -> bool {
        true
    }

    fn may_leave(&self, _tool: Tool) -> bool {
        false
    }

    fn scripts(&self, there: &Saved, _tool: Tool) -> Scripts {
        let Self { chain, .. } = self;
        let rule = rule(chain);
        let is_there = there.table(Table::Filter).has(chain, &rule);
        let first = rule.replacen(&format!("-A {chain} "), &format!("-I {chain} 1 "), 1);
        Scripts { filter: if is_there { Vec::new() } else { vec![first] }, ..Scripts::default() }
    }
}

/// What of others drops what it does not know.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    /// Where a rule of ours has to be.
    pub(crate) places: Vec<Place>,
    /// Whether there is firewalld.
    has_firewalld: bool,
    /// Whether there are chains of an administrator's own.
    has_strangers: bool,
}

impl Filters {
    /// Returns what there is, where that is a question of anybody's.
    pub(crate) fn of_host(firewall: &mut Firewall, claims: &Claims<'_>) -> Result<Self, FirewallError> {
        if !claims.any(&PASSAGE)? && !claims.any_in_our_table(&INSIDE)? {
            return Ok(Self::default());
        }
        let mut socket = firewall.inet().ok();
        Ok(Self {
            places: places(socket.as_deref_mut())?,
            has_firewalld: has_firewalld(socket.as_deref_mut()),
            has_strangers: !strangers(socket)?.is_empty(),
        })
    }

    /// Whether there are any that can be told to let something pass.
    fn can_be_told(&self) -> bool {
        !self.places.is_empty() || self.has_firewalld
    }
}

fn rule(chain: &str) -> String {
    let mark = format!("{BIT:#x}/{BIT:#x}");
    format!(
        r#"-A {chain} -m comment --comment "weft: what its networks forward" -m mark --mark {mark} -j ACCEPT"#
    )
}

/// Lets a network's packets pass other filters, if any would drop them.
///
/// A network that cannot be let through is still one: its containers reach each other and the host. So nothing
/// fails here, and [`obstacles`] tells.
pub(crate) fn let_pass(firewall: &mut Firewall, claims: &Path, network: &NetworkName, bridge: &IfName) {
    let mut open = || -> Result<(), FirewallError> {
        let others = !strangers(firewall.inet().ok())?.is_empty();
        if open(firewall, claims, Some(bridge))? || others {
            let passing = Entry::Passing(bridge.clone());
            let entries = outward().into_iter().map(Entry::Outward).chain([passing]).collect();
            weft::ensure(firewall.inet()?, &Demand { network, claims: Claims(claims), entries })?;
        }
        Ok(())
    };
    open().ok();
}

/// Lets a container's packets take the way outside, if that is a bridge.
pub(crate) fn let_out(
    firewall: &mut Firewall,
    claims: &Path,
    owner: &NetworkName,
) -> Result<(), FirewallError> {
    let entries: Vec<_> = outward().into_iter().map(Entry::Outward).collect();
    if !entries.is_empty() {
        weft::ensure(firewall.inet()?, &Demand { network: owner, claims: Claims(claims), entries })?;
    }
    Ok(())
}

/// Returns the bridge by which the host's default route leaves, if it is one: not what others keep their containers
/// on.
pub(crate) fn outward() -> Option<IfName> {
    let index = route::default_link().ok().flatten()?;
    let mut socket = weft_netlink::Socket::open().ok()?;
    let found = socket.link(link::get_index(index)).ok().flatten()?;
    found.name.parse().ok().filter(|_| found.is_bridge())
}

/// Claims for every network what other filters make necessary: they may have come after it.
pub(crate) fn claim(claims: &Path, filters: &Filters) -> Result<(), FirewallError> {
    if !filters.can_be_told() && !filters.has_strangers {
        return Ok(());
    }
    let claimed = Claims(claims);
    let outward: Vec<_> = outward().into_iter().map(Entry::Outward).collect();
    for entry in claimed.in_our_table(&INSIDE)? {
        let Entry::Inside(bridge) = &entry else { continue };
        for network in claimed.networks(&entry)? {
            for wanted in outward.iter().cloned().chain([Entry::Passing(bridge.clone())]) {
                claimed.take(&network, &wanted)?;
            }
        }
    }
    Ok(())
}

/// Returns those places whose rule is wanted by now, and notes that it is there.
pub(crate) fn still_wanted(claims: &Claims<'_>, places: &[Place]) -> Result<Vec<Place>, FirewallError> {
    if !claims.any(&PASSAGE)? {
        return Ok(Vec::new());
    }
    places.iter().try_for_each(|place| note(claims.0, &place.record()))?;
    Ok(places.to_vec())
}

/// Has the bridges of every network in firewalld's zone again. Returns what firewalld refused.
pub(crate) fn restore_firewalld(claims: &Path, filters: &Filters) -> Vec<FirewallError> {
    if !filters.has_firewalld {
        return Vec::new();
    }
    let bridges = Claims(claims).in_our_table(&INSIDE).map(|entries| entries.into_iter().filter_map(inside));
    let join = |bridge: IfName| {
        let refused = join_zone(claims, &bridge).err()?;
        Some(FirewallError::unrestored(format!("interface {bridge} of firewalld's zone {TRUSTED}"), refused))
    };
    match bridges {
        Ok(bridges) => bridges.filter_map(join).collect(),
        Err(error) => vec![error],
    }
}

fn inside(entry: Entry) -> Option<IfName> {
    match entry {
        Entry::Inside(bridge) => Some(bridge),
        _ => None,
    }
}

fn join_zone(claims: &Path, bridge: &IfName) -> Result<(), FirewallError> {
    let _writer = Writer::alone(claims)?;
    // What has been given up meanwhile stays away.
    if !Claims(claims).is_wanted(&Entry::Passing(bridge.clone()))? {
        return Ok(());
    }
    let Some(firewalld) = Firewalld::connect()? else { return Ok(()) };
    note(claims, &format!("{FIREWALLD},{bridge}"))?;
    firewalld.add(TRUSTED, Member::Interface(bridge))
}

/// Sees to it that other filters let pass what carries our mark, and what an interface of ours forwards. Returns whether
/// any would not.
pub(crate) fn open(
    firewall: &mut Firewall,
    claims: &Path,
    bridge: Option<&IfName>,
) -> Result<bool, FirewallError> {
    let places = places(firewall.inet().ok())?;
    let has_firewalld = has_firewalld(firewall.inet().ok());
    if places.is_empty() && !has_firewalld {
        return Ok(false);
    }
    let writer = Writer::alone(claims)?;
    places.iter().try_for_each(|place| note(claims, &place.record()))?;
    let parts: Vec<_> = places.iter().filter(|place| !place.done).map(|place| place as &dyn Part).collect();
    part::write(&writer, &parts)?;
    if let (true, Some(bridge), Some(firewalld)) = (has_firewalld, bridge, Firewalld::connect()?) {
        note(claims, &format!("{FIREWALLD},{bridge}"))?;
        firewalld.add(TRUSTED, Member::Interface(bridge))?;
    }
    Ok(true)
}

/// Whether our rules are on record: whoever comes later need not look.
pub(crate) fn is_open(claims: &Path) -> bool {
    listed(&claims.join("foreign")).is_ok_and(|records| !records.is_empty())
}

/// Takes back what nobody needs any more: bridges that are no network's, and the rules with the last network.
pub(crate) fn close(claims: &Path) -> Result<(), FirewallError> {
    let folder = claims.join("foreign");
    let records = listed(&folder)?;
    if records.is_empty() {
        return Ok(());
    }
    let _writer = Writer::alone(claims)?;
    let claimed = Claims(claims);
    let needed = claimed.any(&PASSAGE)?;
    for record in records {
        let Some((program, name)) = record.split_once(',') else { continue };
        if program == FIREWALLD {
            let Ok(bridge) = name.parse::<IfName>() else { continue };
            if claimed.is_wanted(&Entry::Passing(bridge.clone()))? {
                continue;
            }
            if let Some(firewalld) = Firewalld::connect()? {
                firewalld.remove(TRUSTED, Member::Interface(&bridge))?;
            }
        } else if needed {
            continue;
        } else if let Some(tool) = Tool::named(program).filter(|tool| tool.is_ready()) {
            let rules = tool.saved(Table::Filter)?;
            let ours = rule(name);
            let copies = rules.chain(name).unwrap_or_default().iter().filter(|line| **line == ours);
            let script: Vec<_> = copies.map(|line| line.replacen("-A ", "-D ", 1)).collect();
            tool.restore(Table::Filter, &script)?;
        }
        remove_file(&folder.join(&record))?;
    }
    fs::remove_dir(folder).ok();
    Ok(())
}

fn note(claims: &Path, record: &str) -> Result<(), FirewallError> {
    let path = claims.join("foreign").join(record);
    create(&path).map(drop).map_err(|source| FirewallError::Claim { path, source })
}
