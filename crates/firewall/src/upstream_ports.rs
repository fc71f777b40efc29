//! Published ports in the tables of upstream's `portmap`, `ip cni_hostport` and `ip6 cni_hostport`.
//!
//! CNI: plugins/meta/portmap/portmap_nftables.go.
//!
//! ```text
//! chain prerouting { type nat hook prerouting priority dstnat; fib daddr type local jump hostports_all }
//! chain output { type nat hook output priority -100; fib daddr type local jump hostports_all }
//! chain hostports_all { jump hostip_hostports; jump hostports }
//! chain hostports { [conditions] tcp dport 8080 dnat to 10.0.0.2:80 comment "<container>" }
//! chain masquerading { type nat hook postrouting priority srcnat
//!     ip saddr 10.0.0.2 ip daddr 10.0.0.2 masquerade comment "<container>"
//!     ip saddr 127.0.0.1 ip daddr 10.0.0.2 masquerade comment "<container>"
//! }
//! ```
//!
//! It is there for whoever asks for it by name, or has conditions in the language of nft(8), which only
//! that program can read: two listings and one transaction. Our own backend needs none.
//!
//! Upstream writes the conditions of the last ADD into the hooks, where they hold for every network; here they are
//! on the rules they were written for. Upstream takes a container's rules by its id, whatever the network;
//! here by id and address, and what the books say is another attachment's stays. And what is there is not written twice.

mod rules;

use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use weft_model::Endpoint;
use weft_model::port::Publication;
use weft_nft::{self as nft, Socket};
use weft_state::ports::Owner;

use crate::claim::Claims;
use crate::error::all_but_refused;
use crate::inherited::Departed;
use crate::iptables::lock::Writer;
use crate::{Backend, Change, FirewallError, exact};

use rules::{Family, Listed, is_of_any, is_refusal, leads_to, listed, translates};

const TABLE: &str = "cni_hostport";
const ALL: &str = "hostports_all";
const BY_HOST: &str = "hostip_hostports";
const PORTS: &str = "hostports";
const MASQUERADING: &str = "masquerading";
const LOCALHOST: &str = "localhost_only";
/// The chains with rules of attachments.
const SHARED: [&str; 3] = [PORTS, BY_HOST, MASQUERADING];

/// Brings an attachment from whatever it had to exactly what the books say.
///
/// `before` is what the books said until now: its rules are known by the addresses.
pub(crate) fn ensure(claims: &Path, before: Option<&Owner>, owner: &Owner) -> Result<Change, FirewallError> {
    let _writer = Writer::alone(claims)?;
    write(&[(before, owner)])
}

/// Brings attachments, each with what the books said before, to what they say now.
fn write(owners: &[(Option<&Owner>, &Owner)]) -> Result<Change, FirewallError> {
    let mut script = String::new();
    for family in Family::BOTH {
        let listing = family.listing()?;
        for (before, owner) in owners {
            family.write(&mut script, listing.as_deref(), *before, owner);
        }
    }
    if script.is_empty() {
        return Ok(Change::AlreadyThere);
    }
    nft(&["-f", "-"], Some(&script)).map(|()| Change::Made)
}

/// Brings everything back that the books say, in one transaction. Where attachments' rules are refused, the others get
/// theirs; returns what was refused.
pub(crate) fn restore(claims: &Path) -> Vec<FirewallError> {
    let is_here = |owner: &Owner| Backend::named(&owner.backend) == Backend::UpstreamNftables;
    let owners =
        || -> Vec<Owner> { Claims(claims).books().owners_as_changed().into_iter().filter(is_here).collect() };
    if owners().is_empty() {
        return Vec::new();
    }
    let _writer = match Writer::alone(claims) {
        Ok(writer) => writer,
        Err(error) => return vec![error],
    };
    // Read again: what is given up is struck from the books before its writer lets others in, and does not come back.
    let owners = owners();
    let all: Vec<_> = owners.iter().map(|owner| (None, owner)).collect();
    let refused = all_but_refused(&all, &mut |owners| write(owners).map(drop));
    refused.into_iter().map(|((_, owner), why)| FirewallError::unrestored(&owner.endpoint, why)).collect()
}

/// Takes back everything of an attachment that the books say.
pub(crate) fn remove(claims: &Path, owner: &Owner) -> Result<(), FirewallError> {
    let container = owner.endpoint.container.as_str();
    take(claims, |family, listing| {
        let known: Vec<_> = family.of(owner).collect();
        listed(listing, container, |rule| is_of_any(rule, &known))
    })
}

/// Takes back what has the container's id and is in no books: what leads to these addresses or, without any, all but what
/// `others`, attachments of the same container, have by the books.
pub(crate) fn remove_unknown(
    claims: &Path,
    endpoint: &Endpoint,
    addresses: &[IpAddr],
    others: &[Owner],
) -> Result<(), FirewallError> {
    take(claims, |family, listing| {
        let known: Vec<_> = others.iter().flat_map(|owner| family.of(owner)).collect();
        // A refusal names no address of the container's.
        let leads_there = |rule: &str| {
            addresses.is_empty() || is_refusal(rule) || addresses.iter().any(|addr| leads_to(rule, *addr))
        };
        listed(listing, endpoint.container.as_str(), |rule| leads_there(rule) && !is_of_any(rule, &known))
    })
}

/// Takes back what containers had that have gone, each known by its id and an address: an id alone may be connected to
/// other networks still, and a rule does not say to which. Where there is nothing of theirs, nothing is started.
pub(crate) fn collect(
    socket: &mut Socket,
    claims: &Path,
    departed: &[Departed<'_>],
) -> Result<(), FirewallError> {
    if departed.is_empty() || !has_any(socket, |comment| departed.iter().any(|one| one.container == comment))
    {
        return Ok(());
    }
    take(claims, |_, listing| {
        let of_one = |one: &Departed<'_>| listed(listing, one.container, |rule| leads_to(rule, one.address));
        departed.iter().flat_map(of_one).collect()
    })
}

/// Deletes rules that are chosen from the listing of either family.
fn take(
    claims: &Path,
    chosen: impl for<'a> Fn(Family, &'a str) -> Vec<Listed<'a>>,
) -> Result<(), FirewallError> {
    let _writer = Writer::alone(claims)?;
    for family in Family::BOTH {
        let Some(listing) = family.listing()? else { continue };
        let mut script = String::new();
        family.delete(&mut script, &chosen(family, &listing));
        if !script.is_empty() {
            nft(&["-f", "-"], Some(&script))?;
        }
    }
    Ok(())
}

/// Returns whether the kernel has rules with a container's id in these tables. Starts nothing.
pub(crate) fn is_there(socket: &mut Socket, endpoint: &Endpoint) -> bool {
    has_any(socket, |comment| comment == endpoint.container.as_str())
}

/// Returns whether a rule has such a comment.
fn has_any(socket: &mut Socket, is_wanted: impl Fn(&str) -> bool) -> bool {
    let tables = [nft::Family::Ip, nft::Family::Ip6].map(|family| nft::Table::new(family, TABLE));
    tables.into_iter().any(|table| {
        let exists = socket.table(table).is_ok_and(|found| found.is_some());
        let has_rules = |chain: &&str| {
            let rules = socket.rules(table, chain).unwrap_or_default();
            rules.iter().any(|rule| rule.comment.as_deref().is_some_and(&is_wanted))
        };
        exists && SHARED.iter().any(has_rules)
    })
}

/// Returns what is missing, in upstream's words.
pub(crate) fn observe(owner: &Owner) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    for family in Family::BOTH {
        let wanted = family.rules(owner);
        if wanted.is_empty() {
            continue;
        }
        let listing = family.listing()?.unwrap_or_default();
        let known: Vec<_> = family.of(owner).collect();
        let present = listed(&listing, owner.endpoint.container.as_str(), |rule| is_of_any(rule, &known));
        for chain in SHARED {
            let count = |rules: &mut dyn Iterator<Item = &str>| rules.filter(|name| *name == chain).count();
            let there = count(&mut present.iter().map(|rule| rule.chain));
            if there < count(&mut wanted.iter().map(|(chain, _)| *chain)) {
                missing.push(format!("missing hostport rules in {chain:?} chain"));
            }
        }
        if !family.has_hooks(&listing, owner) {
            missing.push(format!("hooks of table {} {TABLE}", family.name()));
        }
    }
    Ok(missing)
}

/// Returns which publications upstream's plugin has no rule for, where the books know nothing.
pub(crate) fn observe_upstream(
    endpoint: &Endpoint,
    publications: &[Publication],
) -> Result<Vec<String>, FirewallError> {
    let mut missing = Vec::new();
    for family in Family::BOTH {
        let mut own = publications.iter().filter(|one| family.is_of(one)).peekable();
        if own.peek().is_none() {
            continue;
        }
        let listing = family.listing()?.unwrap_or_default();
        let there = listed(&listing, endpoint.container.as_str(), |_| true);
        for one in own.flat_map(exact::singles) {
            if !there.iter().any(|listed| translates(listed.rule, &one)) {
                missing.push(format!("publication {one} in table {} {TABLE}", family.name()));
            }
        }
    }
    Ok(missing)
}

/// Runs nft(8), which must succeed.
fn nft(args: &[&str], stdin: Option<&str>) -> Result<(), FirewallError> {
    let output = attempt(args, stdin)?;
    if output.status.success() { Ok(()) } else { Err(failed(String::from_utf8_lossy(&output.stderr))) }
}

fn attempt(args: &[&str], stdin: Option<&str>) -> Result<Output, FirewallError> {
    #[expect(clippy::disallowed_methods, reason = "conditions in the language of nft are its to read")]
    let mut child = Command::new("nft")
        .args(args)
        .env("PATH", crate::iptables::tool::search_path())
        .env("LC_ALL", "C")
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let script = stdin.unwrap_or_default().as_bytes();
    let written = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(script));
    let output = child.wait_with_output().map_err(failed)?;
    // A program that fails at once closes its end; what it says explains more than our broken pipe.
    if output.status.success() {
        written.map_err(failed)?;
    }
    Ok(output)
}

fn failed(problem: impl ToString) -> FirewallError {
    let problem = problem.to_string();
    // After its own line nft repeats the command and points at the word.
    let first = problem.lines().next().unwrap_or_default().trim().to_owned();
    FirewallError::Program { program: "nft", problem: first }
}

#[cfg(test)]
mod tests;
