//! What is in the way of forwarded packets: which filters drop by default, and where our rule belongs.

use std::path::Path;

use weft_nft::{Family, Hook, Hooked, Policy, Socket, Table as NftTable};

use super::{DOCKER_USER, FIREWALLD, FORWARD, Obstacle, Place, rule};
use crate::admission::layout::{AFTER_PRIORITY, BEFORE_PRIORITY, BIT};
use crate::claim::Claims;
use crate::entry::{Entry, INSIDE, PASSAGE};
use crate::firewalld::{Firewalld, Member, TRUSTED};
use crate::iptables::tool::{Rules, Table, Tool};
use crate::{Firewall, FirewallError};

/// How many chains deep a rule is looked for that drops everything.
const DEPTH: usize = 8;

/// Returns what drops the packets of networks that are to pass, and has no rule of ours.
pub(crate) fn obstacles(firewall: &mut Firewall, claims: &Path) -> Result<Vec<Obstacle>, FirewallError> {
    let claimed = Claims(claims);
    // A filter that has come after our networks has let none of them ask.
    if !claimed.any(&PASSAGE)? && !claimed.any_in_our_table(&INSIDE)? {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for place in places(firewall.inet().ok())?.into_iter().filter(|place| !place.done) {
        found.push(Obstacle {
            what: format!("chain {} of {}", place.chain, place.tool.program()),
            why: "drops what it does not know, and has no rule for what weft's networks forward".into(),
            mend: "weft network reload".into(),
        });
    }
    let marked = |entry: &Entry| match entry {
        Entry::Inside(bridge) => claimed.is_wanted(&Entry::Passing(bridge.clone())).unwrap_or_default(),
        _ => true,
    };
    let all_marked = claimed.in_our_table(&INSIDE)?.iter().all(marked);
    for stranger in strangers(firewall.inet().ok())?.into_iter().filter(|stranger| !stranger.has_our_rule) {
        found.push(obstacle(&stranger.chain, all_marked));
    }
    if has_firewalld(firewall.inet().ok())
        && let Some(firewalld) = Firewalld::connect()?
    {
        for entry in claimed.in_our_table(&INSIDE)? {
            let Entry::Inside(bridge) = entry else { continue };
            if !firewalld.has(TRUSTED, Member::Interface(&bridge))? {
                found.push(Obstacle {
                    what: format!("interface {bridge}"),
                    why: format!(
                        "is not in firewalld's zone {TRUSTED}, so firewalld rejects what it forwards"
                    ),
                    mend: "weft network reload".into(),
                });
            }
        }
    }
    Ok(found)
}

/// What an administrator's own chain drops is the administrator's to let through: there is no hook to use.
fn obstacle(chain: &Hooked, marked: bool) -> Obstacle {
    let Hooked { family, table, name, priority, .. } = chain;
    let sees = (BEFORE_PRIORITY + 1..AFTER_PRIORITY).contains(priority);
    let mut mend = if sees {
        let rule = format!("meta mark and {BIT:#x} != 0 accept comment \\\"weft\\\"");
        format!("nft insert rule {family} {table} {name} {rule}")
    } else {
        format!("give it a priority from 0 to {}: nft list chain {family} {table} {name}", AFTER_PRIORITY - 1)
    };
    if !marked {
        mend.push_str(" && weft network reload");
    }
    Obstacle {
        what: format!("chain {family} {table} {name}"),
        why: "has the policy drop, and has no rule for what weft's networks forward".into(),
        mend,
    }
}

/// A chain of nobody's we know that drops what reaches its end.
pub(super) struct Stranger {
    chain: Hooked,
    /// Whether a rule names us in its comment, which is taken for the mending one.
    has_our_rule: bool,
}

pub(super) fn strangers(socket: Option<&mut Socket>) -> Result<Vec<Stranger>, FirewallError> {
    let Some(socket) = socket else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for family in [Family::Inet, Family::Ip, Family::Ip6] {
        for chain in socket.hooked(family, Hook::Forward).map_err(wrap)? {
            let known = chain.table == FIREWALLD || chain.table == "filter" && chain.name == FORWARD;
            if known || chain.policy == Policy::Accept {
                continue;
            }
            let rules = socket.rules_of(&chain).map_err(wrap)?;
            let names_us = |text: &str| text.starts_with("weft");
            let has_our_rule = rules.iter().any(|rule| rule.comment.as_deref().is_some_and(names_us));
            found.push(Stranger { chain, has_our_rule });
        }
    }
    Ok(found)
}

fn wrap(source: weft_nft::Error) -> FirewallError {
    crate::table::refused(crate::layout::INET, source)
}

/// Returns where a filter of iptables drops by default.
pub(super) fn places(mut socket: Option<&mut Socket>) -> Result<Vec<Place>, FirewallError> {
    let mut places = Vec::new();
    for tool in Tool::BOTH {
        let mut tools = Vec::new();
        if socket.as_deref_mut().is_some_and(|socket| may_drop(socket, tool)) {
            tools.push(tool.nft());
        }
        if tool.has_legacy(Table::Filter) {
            tools.push(tool.legacy());
        }
        for tool in tools.into_iter().filter(|tool| tool.is_installed()) {
            places.extend(place(tool, &tool.saved(Table::Filter)?));
        }
    }
    Ok(places)
}

/// Whether it is worth starting a program to look at the rules.
fn may_drop(socket: &mut Socket, tool: Tool) -> bool {
    let family = if tool.is_v6() { Family::Ip6 } else { Family::Ip };
    match socket.policy(family, "filter", FORWARD) {
        Ok(Some(Policy::Drop)) => true,
        Ok(Some(Policy::Accept)) => {
            socket.rules(NftTable::new(family, "filter"), FORWARD).is_ok_and(|rules| !rules.is_empty())
        }
        _ => false,
    }
}

fn place(tool: Tool, rules: &Rules) -> Option<Place> {
    if rules.policy(FORWARD) != Some("DROP") && !drops(rules, FORWARD, DEPTH) {
        return None;
    }
    // Docker keeps what is in this chain, and leads there first.
    let docker = rules.has(FORWARD, &format!("-A {FORWARD} -j {DOCKER_USER}"));
    let chain = if docker { DOCKER_USER } else { FORWARD };
    Some(Place { tool, chain, done: rules.has(chain, &rule(chain)) })
}

/// Whether a chain has a rule without a condition that drops, itself or where it leads.
fn drops(rules: &Rules, chain: &str, depth: usize) -> bool {
    let start = format!("-A {chain} -j ");
    let unconditional =
        rules.chain(chain).unwrap_or_default().iter().filter_map(|rule| rule.strip_prefix(&start));
    let mut targets = unconditional.filter_map(|target| target.split(' ').next());
    targets.any(|target| matches!(target, "DROP" | "REJECT") || depth > 0 && drops(rules, target, depth - 1))
}

pub(super) fn has_firewalld(socket: Option<&mut Socket>) -> bool {
    let table = NftTable::new(Family::Inet, FIREWALLD);
    socket.is_some_and(|socket| socket.table(table).is_ok_and(|found| found.is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rules: &str) -> Option<(&'static str, bool)> {
        place(Tool::V4, &Rules::parse(rules)).map(|place| (place.chain, place.done))
    }

    #[test]
    fn filters_that_drop_are_recognised() {
        assert_eq!(found(":FORWARD ACCEPT [0:0]\n-A FORWARD -s 10.0.0.1/32 -j DROP"), None);
        assert_eq!(found(":FORWARD DROP [0:0]"), Some(("FORWARD", false)));
        assert_eq!(
            found(":FORWARD ACCEPT [0:0]\n-A FORWARD -j REJECT --reject-with icmp-host-prohibited"),
            Some(("FORWARD", false))
        );
        let ufw = ":FORWARD ACCEPT [0:0]\n:ufw-reject-forward - [0:0]\n-A FORWARD -j ufw-reject-forward\n\
                   -A ufw-reject-forward -j REJECT --reject-with icmp-port-unreachable";
        assert_eq!(found(ufw), Some(("FORWARD", false)));
        assert_eq!(found(":FORWARD ACCEPT [0:0]\n:X - [0:0]\n-A FORWARD -j X\n-A X -j FORWARD"), None);
    }

    #[test]
    fn dockers_hook_is_used_where_docker_is() {
        let docker =
            ":FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A DOCKER-USER -j RETURN";
        assert_eq!(found(docker), Some(("DOCKER-USER", false)));
        let mended = format!("{docker}\n{}", rule(DOCKER_USER));
        assert_eq!(found(&mended), Some(("DOCKER-USER", true)));
        // A docker that is gone has left its chain, to which nothing leads.
        assert_eq!(found(":FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]"), Some(("FORWARD", false)));
    }

    #[test]
    fn an_administrators_chain_is_explained() {
        let chain = Hooked {
            family: Family::Inet,
            table: "filter".into(),
            name: "forward".into(),
            priority: 0,
            policy: Policy::Drop,
        };
        assert_eq!(
            obstacle(&chain, true).mend,
            r#"nft insert rule inet filter forward meta mark and 0x10000000 != 0 accept comment \"weft\""#
        );
        let late = Hooked { priority: 50, ..chain };
        assert!(obstacle(&late, true).mend.starts_with("give it a priority from 0 to 19"));
        assert!(obstacle(&late, false).mend.ends_with(" && weft network reload"));
    }
}
