//! What passes from one interface to another, where the kernel has no nf_tables: chains of our own and a jump
//! from FORWARD.
//!
//! ```text
//! -I FORWARD -j WEFT-FORWARD
//! WEFT-FORWARD     -j WEFT-USER                                   the administrator's, never emptied by us
//!                  -i br-inner ! -o br-inner -j DROP              internal: nothing in or out
//!                  ! -i br-inner -o br-inner -j DROP
//!                  -m conntrack --ctstate DNAT -g WEFT-PASS      published ports are for everybody
//!                  -j WEFT-ISOLATION
//!                  -i br-quiet -o br-quiet -j DROP                containers apart
//!                  -o br-blue -j WEFT-GUARD
//!                  -j WEFT-PASS
//! WEFT-ISOLATION   -i br-blue ! -o br-blue -j WEFT-ISOLATION-2    nothing from one isolated bridge to another
//! WEFT-ISOLATION-2 -o br-blue -j DROP
//! WEFT-GUARD       -i br-blue -j RETURN                           from networks of ours
//!                  -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN
//!                  -j WEFT-ROUTED                                 ports of routed networks (publish.rs)
//!                  -o br-routed -p icmp -j RETURN
//!                  -j DROP
//! WEFT-PASS        -o br-blue -j ACCEPT                           whatever FORWARD would do afterwards
//!                  -i br-blue -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
//!                  -o docker0 -j RETURN                           somebody else's containers: theirs to judge
//!                  -i br-blue -j ACCEPT
//! ```
//!
//! A rule of iptables cannot ask whether an interface is a bridge, so other people's are listed as they are when the chains
//! are written; those that docker will make are known by their names.
//!
//! All chains but the administrator's and that of routed ports are written as a whole from the claims, by one
//! listing and one `iptables-restore` for each family.

use weft_model::IfName;
use weft_netlink::link;

use super::lock::Writer;
use super::part::{self, Part, Scripts, deletion};
use super::publish::ROUTED;
use super::tool::{Rules, Saved, Table, Tool};
use crate::claim::Claims;
use crate::entry::{Entry, Family, GUARD as GUARDING, INSIDE, ISOLATION};
use crate::weft::Demand;
use crate::{Change, FirewallError, foreign};

const BUILTIN: &str = "FORWARD";
const FORWARD: &str = "WEFT-FORWARD";
const USER: &str = "WEFT-USER";
const FIRST: &str = "WEFT-ISOLATION";
const SECOND: &str = "WEFT-ISOLATION-2";
const GUARD: &str = "WEFT-GUARD";
const PASS: &str = "WEFT-PASS";
/// The chains that are ours to write.
const OURS: [&str; 5] = [FORWARD, FIRST, SECOND, GUARD, PASS];
/// The chains that others fill.
const THEIRS: [&str; 2] = [USER, ROUTED];
/// What docker calls its bridges.
const DOCKERS: [&str; 2] = ["docker+", "br-+"];

/// Claims what a network wants and writes the chains unless they are in place.
pub(crate) fn ensure(demand: &Demand<'_>) -> Result<Change, FirewallError> {
    let claimed = demand.claim()?;
    let written = write(&demand.claims)?;
    Ok(if claimed == Change::Made { claimed } else { written })
}

/// Writes the chains as they are claimed, or takes them away with the last claim.
pub(crate) fn write(claims: &Claims<'_>) -> Result<Change, FirewallError> {
    let writer = Writer::alone(claims.0)?;
    part::write(&writer, &[&Fences::of(claims)?])
}

/// The chains as they are claimed.
pub(crate) struct Fences {
    entries: Vec<Claimed>,
    bridges: Bridges,
}

impl Fences {
    pub(crate) fn of(claims: &Claims<'_>) -> Result<Self, FirewallError> {
        let entries = claimed(claims)?;
        let bridges = if entries.is_empty() { Bridges::default() } else { Bridges::of_host(&entries)? };
        Ok(Self { entries, bridges })
    }

    /// Returns what is missing of one family in what was saved.
    pub(crate) fn missing(&self, there: &Rules, tool: Tool) -> Vec<String> {
        let mut missing = Vec::new();
        if jumps(there).is_empty() {
            missing.push(format!("{} rule from {BUILTIN} to chain {FORWARD}", tool.program()));
        }
        for (chain, rules) in chains(&self.entries, &self.bridges, tool) {
            let lacks = |rule: &&String| !there.has(chain, rule);
            missing.extend(rules.iter().filter(lacks).map(|rule| format!("{} rule {rule}", tool.program())));
        }
        missing
    }
}

impl Part for Fences {
    fn name(&self) -> String {
        format!("chain {FORWARD} of networks by iptables")
    }

    fn tables(&self) -> &'static [Table] {
        &[Table::Filter]
    }

    fn is_in(&self, tool: Tool) -> bool {
        !self.entries.is_empty() && Tool::usable().any(|usable| usable == tool)
    }

    fn may_leave(&self, _tool: Tool) -> bool {
        true
    }

    fn scripts(&self, there: &Saved, tool: Tool) -> Scripts {
        let filter = script(&self.entries, &self.bridges, there.table(Table::Filter), tool);
        Scripts { filter, ..Scripts::default() }
    }
}

/// Returns what is missing of what a network wants.
pub(crate) fn observe(demand: &Demand<'_>) -> Result<Vec<String>, FirewallError> {
    let Demand { network, claims, entries } = demand;
    let mut missing = Vec::new();
    let fences = Fences::of(claims)?;
    for tool in Tool::usable() {
        missing.extend(fences.missing(&tool.saved(Table::Filter)?, tool));
    }
    let unclaimed = entries.iter().filter(|entry| !claims.has(network, entry));
    missing.extend(unclaimed.map(|entry| format!("claim of {network} on {entry}")));
    Ok(missing)
}

/// Returns what the chains say: what networks want whose rules are here, and, so that a network of ours in the other
/// place is apart from them as well, who else is isolated and who else is one of ours.
fn claimed(claims: &Claims<'_>) -> Result<Vec<Claimed>, FirewallError> {
    let here = |entry| Claimed { entry, here: true };
    let own = [claims.in_iptables(&ISOLATION)?, claims.in_iptables(&GUARDING)?].concat();
    let mut all: Vec<_> = own.into_iter().map(here).collect();
    if all.is_empty() {
        return Ok(all);
    }
    for entry in claims.in_our_table(&[ISOLATION.as_slice(), &INSIDE].concat())? {
        let shared = matches!(entry, Entry::Isolated(_) | Entry::Inside(_));
        if shared && !all.iter().any(|claimed| claimed.entry == entry) {
            all.push(Claimed { entry, here: false });
        }
    }
    Ok(all)
}

/// Something that a network wants.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Claimed {
    entry: Entry,
    /// Whether its rules are in these chains.
    here: bool,
}

/// Bridges of the host that are not networks of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bridges {
    /// The one by which the default route leaves.
    outward: Option<IfName>,
    /// The others.
    strangers: Vec<IfName>,
}

impl Bridges {
    fn of_host(claimed: &[Claimed]) -> Result<Self, FirewallError> {
        let all = weft_netlink::Socket::open().and_then(|mut socket| link::all(&mut socket));
        let all = all.map_err(FirewallError::Links)?;
        let ours = |name: &IfName| claimed.iter().any(|one| one.entry == Entry::Inside(name.clone()));
        let outward = foreign::outward().filter(|name| !ours(name));
        let bridges = all.iter().filter(|link| link.is_bridge()).filter_map(|link| link.name.parse().ok());
        let mut strangers: Vec<IfName> = bridges
            .filter(|name: &IfName| !ours(name) && Some(name) != outward.as_ref() && is_plain(name.as_str()))
            .collect();
        strangers.sort_unstable();
        Ok(Self { outward, strangers })
    }
}

/// Whether a name can stand in a rule as it is, and means one interface.
fn is_plain(name: &str) -> bool {
    !name.starts_with('-') && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c))
}

/// Writes the chains again if there are any: a network in the other place has come or gone.
pub(crate) fn follow(claims: &Claims<'_>) -> Result<(), FirewallError> {
    if claims.has_networks_in_iptables()? { write(claims).map(drop) } else { Ok(()) }
}

/// The rules of FORWARD that lead to our chain, or led there in an earlier version.
fn jumps(there: &Rules) -> Vec<&String> {
    let rules = there.chain(BUILTIN).unwrap_or_default();
    rules
        .iter()
        .filter(|rule| [FORWARD, FIRST].iter().any(|chain| rule.ends_with(&format!(" -j {chain}"))))
        .collect()
}

/// Returns the lines that lead from what is there to what is claimed; none if that is the same.
fn script(entries: &[Claimed], bridges: &Bridges, there: &Rules, tool: Tool) -> Vec<String> {
    if entries.is_empty() {
        return retirement(there);
    }
    let mut lines = Vec::new();
    // Named only where they are not: that would empty them.
    lines.extend(THEIRS.iter().filter(|chain| there.chain(chain).is_none()).map(|chain| name(chain)));
    let wanted = chains(entries, bridges, tool);
    if wanted.iter().any(|(chain, rules)| there.chain(chain) != Some(rules)) {
        lines.extend(OURS.iter().map(|chain| name(chain)));
        lines.extend(wanted.into_iter().flat_map(|(_, rules)| rules));
    }
    let jump = format!("-A {BUILTIN} -j {FORWARD}");
    let stale = jumps(there).into_iter().filter(|rule| **rule != jump);
    lines.extend(stale.map(|rule| deletion(rule)));
    if !there.has(BUILTIN, &jump) {
        lines.push(jump.replacen("-A ", "-I ", 1));
    }
    lines
}

/// The lines that take everything away but what others have written.
fn retirement(there: &Rules) -> Vec<String> {
    let mut lines: Vec<_> = jumps(there).into_iter().map(|jump| deletion(jump)).collect();
    let present = OURS.iter().copied().filter(|chain| there.chain(chain).is_some());
    let empty = THEIRS.iter().copied().filter(|chain| there.chain(chain).is_some_and(<[_]>::is_empty));
    // Named first, so that all are empty and nothing leads from one to another when they are deleted.
    lines.extend(present.clone().map(name));
    lines.extend(present.chain(empty).map(|chain| format!("-X {chain}")));
    lines
}

/// Returns the chains with their rules, as `iptables-save` prints them.
fn chains(entries: &[Claimed], bridges: &Bridges, tool: Tool) -> [(&'static str, Vec<String>); 5] {
    let mut rules = Writing { tool, forward: vec![format!("-A {FORWARD} -j {USER}")], ..Writing::new(tool) };
    for entry in entries {
        if let Entry::Internal(name) = &entry.entry {
            rules.forward.push(format!("-A {FORWARD} -i {name} ! -o {name} -j DROP"));
            rules.forward.push(format!("-A {FORWARD} ! -i {name} -o {name} -j DROP"));
        }
    }
    rules.forward.push(format!("-A {FORWARD} -m conntrack --ctstate DNAT -g {PASS}"));
    rules.forward.push(format!("-A {FORWARD} -j {FIRST}"));
    for entry in entries {
        rules.write(entry);
    }
    rules.finish(bridges)
}

/// The chains while they are written.
struct Writing {
    tool: Tool,
    forward: Vec<String>,
    first: Vec<String>,
    second: Vec<String>,
    guarded: Vec<String>,
    inside: Vec<String>,
    icmp: Vec<String>,
    /// Networks of ours, in these chains and elsewhere.
    here: Vec<IfName>,
    elsewhere: Vec<IfName>,
}

impl Writing {
    fn new(tool: Tool) -> Self {
        let none = Vec::new;
        let (forward, first, second, guarded) = (none(), none(), none(), none());
        Self {
            tool,
            forward,
            first,
            second,
            guarded,
            inside: none(),
            icmp: none(),
            here: Vec::new(),
            elsewhere: Vec::new(),
        }
    }

    fn write(&mut self, claimed: &Claimed) {
        let family = if self.tool.is_v6() { Family::V6 } else { Family::V4 };
        match &claimed.entry {
            Entry::Isolated(name) => {
                self.first.push(format!("-A {FIRST} -i {name} ! -o {name} -j {SECOND}"));
                self.second.push(format!("-A {SECOND} -o {name} -j DROP"));
            }
            Entry::NoIcc(name) => self.forward.push(format!("-A {FORWARD} -i {name} -o {name} -j DROP")),
            Entry::Inside(name) => {
                self.inside.push(format!("-A {GUARD} -i {name} -j RETURN"));
                if claimed.here { &mut self.here } else { &mut self.elsewhere }.push(name.clone());
            }
            Entry::Guarded(of, name) if *of == family => {
                self.guarded.push(format!("-A {FORWARD} -o {name} -j {GUARD}"));
            }
            Entry::Routed(of, name) if *of == family => {
                let icmp = if self.tool.is_v6() { "ipv6-icmp" } else { "icmp" };
                self.icmp.push(format!("-A {GUARD} -o {name} -p {icmp} -j RETURN"));
            }
            _ => {}
        }
    }

    /// What is accepted of what has come that far.
    fn passing(&self, bridges: &Bridges) -> Vec<String> {
        let mut rules: Vec<_> =
            self.here.iter().map(|name| format!("-A {PASS} -o {name} -j ACCEPT")).collect();
        for name in &self.here {
            rules.push(format!("-A {PASS} -i {name} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"));
            let known = self.elsewhere.iter().chain(&bridges.outward);
            rules.extend(known.map(|other| format!("-A {PASS} -i {name} -o {other} -j ACCEPT")));
        }
        let others = bridges.strangers.iter().map(IfName::as_str).chain(DOCKERS);
        rules.extend(others.map(|other| format!("-A {PASS} -o {other} -j RETURN")));
        rules.extend(self.here.iter().map(|name| format!("-A {PASS} -i {name} -j ACCEPT")));
        rules
    }

    fn finish(mut self, bridges: &Bridges) -> [(&'static str, Vec<String>); 5] {
        let pass = self.passing(bridges);
        self.forward.append(&mut self.guarded);
        self.forward.push(format!("-A {FORWARD} -j {PASS}"));
        let mut guard = self.inside;
        guard.push(format!("-A {GUARD} -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"));
        guard.push(format!("-A {GUARD} -j {ROUTED}"));
        guard.append(&mut self.icmp);
        guard.push(format!("-A {GUARD} -j DROP"));
        [(FORWARD, self.forward), (FIRST, self.first), (SECOND, self.second), (GUARD, guard), (PASS, pass)]
    }
}

fn name(chain: &str) -> String {
    format!(":{chain} - [0:0]")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Claimed> {
        let name = |text: &str| text.parse().unwrap();
        let all = [
            Entry::Isolated(name("br0")),
            Entry::Internal(name("br1")),
            Entry::NoIcc(name("br0")),
            Entry::Inside(name("br0")),
            Entry::Guarded(Family::V4, name("br0")),
            Entry::Routed(Family::V6, name("br0")),
        ];
        all.map(|entry| Claimed { entry, here: true }).into()
    }

    fn bridges() -> Bridges {
        Bridges { outward: Some("lan".parse().unwrap()), strangers: vec!["virbr0".parse().unwrap()] }
    }

    /// What a table would have after these lines.
    fn table(lines: &[String]) -> Rules {
        let text = lines.join("\n").replace("-I FORWARD -j", "-A FORWARD -j");
        Rules::parse(&format!(":FORWARD ACCEPT [0:0]\n{text}\n"))
    }

    #[test]
    fn the_administrator_is_asked_first_and_everything_ours_passes_at_the_end() {
        let [(_, forward), (_, first), (_, second), (_, guard), (_, pass)] =
            chains(&entries(), &bridges(), Tool::V4);
        assert_eq!(
            forward,
            [
                "-A WEFT-FORWARD -j WEFT-USER",
                "-A WEFT-FORWARD -i br1 ! -o br1 -j DROP",
                "-A WEFT-FORWARD ! -i br1 -o br1 -j DROP",
                "-A WEFT-FORWARD -m conntrack --ctstate DNAT -g WEFT-PASS",
                "-A WEFT-FORWARD -j WEFT-ISOLATION",
                "-A WEFT-FORWARD -i br0 -o br0 -j DROP",
                "-A WEFT-FORWARD -o br0 -j WEFT-GUARD",
                "-A WEFT-FORWARD -j WEFT-PASS",
            ]
        );
        assert_eq!(first, ["-A WEFT-ISOLATION -i br0 ! -o br0 -j WEFT-ISOLATION-2"]);
        assert_eq!(second, ["-A WEFT-ISOLATION-2 -o br0 -j DROP"]);
        assert_eq!(
            guard,
            [
                "-A WEFT-GUARD -i br0 -j RETURN",
                "-A WEFT-GUARD -m conntrack --ctstate RELATED,ESTABLISHED -j RETURN",
                "-A WEFT-GUARD -j WEFT-ROUTED",
                "-A WEFT-GUARD -j DROP",
            ]
        );
        assert_eq!(
            pass,
            [
                "-A WEFT-PASS -o br0 -j ACCEPT",
                "-A WEFT-PASS -i br0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                "-A WEFT-PASS -i br0 -o lan -j ACCEPT",
                "-A WEFT-PASS -o virbr0 -j RETURN",
                "-A WEFT-PASS -o docker+ -j RETURN",
                "-A WEFT-PASS -o br-+ -j RETURN",
                "-A WEFT-PASS -i br0 -j ACCEPT",
            ]
        );
    }

    #[test]
    fn a_network_in_our_table_is_apart_but_let_through_there() {
        let mut all = entries();
        let other: IfName = "br9".parse().unwrap();
        let elsewhere = [Entry::Isolated(other.clone()), Entry::Inside(other)];
        all.extend(elsewhere.map(|entry| Claimed { entry, here: false }));
        let [_, (_, first), _, (_, guard), (_, pass)] = chains(&all, &bridges(), Tool::V4);
        assert!(first.iter().any(|rule| rule.contains("-i br9 ")), "{first:?}");
        assert!(guard.iter().any(|rule| rule.contains("-i br9 ")), "{guard:?}");
        let of_other: Vec<_> = pass.iter().filter(|rule| rule.contains("br9")).collect();
        assert_eq!(of_other, ["-A WEFT-PASS -i br0 -o br9 -j ACCEPT"]);
    }

    #[test]
    fn each_family_has_its_own_guard() {
        let [(_, forward), .., (_, guard), _] = chains(&entries(), &bridges(), Tool::V6);
        assert!(!forward.contains(&"-A WEFT-FORWARD -o br0 -j WEFT-GUARD".to_owned()), "{forward:?}");
        assert!(guard.contains(&"-A WEFT-GUARD -o br0 -p ipv6-icmp -j RETURN".to_owned()), "{guard:?}");
    }

    #[test]
    fn the_chains_are_written_only_when_they_differ() {
        let entries = entries();
        let all = script(&entries, &bridges(), &Rules::default(), Tool::V4);
        assert_eq!(all[..2], [":WEFT-USER - [0:0]", ":WEFT-ROUTED - [0:0]"]);
        assert_eq!(all.last().map(String::as_str), Some("-I FORWARD -j WEFT-FORWARD"));
        assert!(script(&entries, &bridges(), &table(&all), Tool::V4).is_empty());
        let less = script(&entries[1..], &bridges(), &table(&all), Tool::V4);
        assert!(!less.is_empty());
        assert!(!less.iter().any(|line| line.contains("WEFT-USER - ") || line.contains("WEFT-ROUTED - ")));
    }

    #[test]
    fn the_chains_go_with_the_last_network_but_not_the_administrators_rules() {
        let all = script(&entries(), &bridges(), &Rules::default(), Tool::V4);
        let gone = script(&[], &bridges(), &table(&all), Tool::V4);
        assert_eq!(gone.first().map(String::as_str), Some("-D FORWARD -j WEFT-FORWARD"));
        assert!(
            gone.contains(&"-X WEFT-USER".to_owned()) && gone.contains(&"-X WEFT-GUARD".to_owned()),
            "{gone:?}"
        );
        let mut used = all;
        used.push("-A WEFT-USER -s 192.0.2.7/32 -j DROP".into());
        assert!(!script(&[], &bridges(), &table(&used), Tool::V4).contains(&"-X WEFT-USER".to_owned()));
        assert!(script(&[], &bridges(), &Rules::default(), Tool::V4).is_empty());
    }
}
