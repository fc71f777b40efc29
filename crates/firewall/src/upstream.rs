//! Masquerading in the table of the CNI reference plugins, so that a host can switch between them and us.
//!
//! CNI: plugins/pkg/ip/ipmasq_nftables_linux.go. One rule per address, found again by its comment. Whose addresses they are is
//! on record ([`Way::Nftables`]), so that they come back after a flush with everything else, as one transaction.

use std::collections::HashMap;

use ipnetwork::IpNetwork;
use nix::errno::Errno;
use sha2::{Digest, Sha512};
use weft_model::{Endpoint, NetworkName};
use weft_nft::expr::{Comparison, Field, Verdict, is_family, is_within};
use weft_nft::{Chain, Error, Expr, Family, Rule, RuleInfo, Socket, Table, Transaction};

use crate::claim::{Claims, Way};
use crate::{Change, FirewallError, Masquerade, layout, table};

pub(crate) const TABLE: Table = Table::new(Family::Inet, "cni_plugins_masquerade");
const TABLE_COMMENT: &str = "Masquerading for plugins from github.com/containernetworking/plugins";
const CHECKS: &str = "masq_checks";
const CHECKS_COMMENT: &str =
    "Masquerade traffic from certain IPs to any (non-multicast) IP outside their subnet";
const POSTROUTING: &str = "postrouting";
const POSTROUTING_RULES: usize = 3;
const LONGEST_COMMENT: usize = 128;
const ATTEMPTS: usize = 16;

fn wrap(source: Error) -> FirewallError {
    table::refused(TABLE, source)
}

/// Writes a rule per address, in place of those that the same attachment had.
pub(crate) fn ensure(socket: &mut Socket, masquerade: &Masquerade) -> Result<Change, FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(Change::AlreadyThere) };
    let claims = Claims(&masquerade.claims);
    let before = claims.masqueraded_of(Way::Nftables, endpoint);
    claims.take_chain(Way::Nftables, endpoint, &masquerade.addresses)?;
    let written = retrying(|is_last| {
        // By the claim a reload may write the same rules before we do: then these are to be replaced as well.
        let generation = socket.generation()?;
        let old = own_rules(socket, endpoint)?;
        let mut transaction = Transaction::new();
        // Where others change something all the time, a rule that may be there twice is better than none.
        if !is_last {
            transaction.only_if_generation(generation);
        }
        create(&mut transaction, socket.rules(TABLE, POSTROUTING)?.len());
        delete(&mut transaction, &old);
        for &address in &masquerade.addresses {
            transaction.rule(rule(address, endpoint));
        }
        socket.commit(&transaction)
    });
    match written {
        Ok(()) => Ok(Change::Made),
        // What was never there is not to be restored; what was there before is.
        Err(error) => match before {
            Some(addresses) => claims.take_chain(Way::Nftables, endpoint, &addresses).and(Err(error)),
            None => claims.drop_chain(Way::Nftables, endpoint).and(Err(error)),
        },
    }
}

/// Notes what leads from what is there to what is on record; nothing where that is the same. Returns whose rules are written.
pub(crate) fn restore(
    socket: &mut Socket,
    claims: &Claims<'_>,
    transaction: &mut Transaction,
) -> Result<Vec<Endpoint>, FirewallError> {
    let all = claims.masqueraded(Way::Nftables)?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let hooks = socket.rules(TABLE, POSTROUTING).map_err(wrap)?.len();
    let there = Present::read(socket)?;
    let lacking: Vec<_> =
        all.iter().filter(|(endpoint, addresses)| !there.has(endpoint, addresses)).collect();
    if hooks != POSTROUTING_RULES || !lacking.is_empty() {
        create(transaction, hooks);
    }
    for (endpoint, addresses) in &lacking {
        delete(transaction, there.of(endpoint));
        for address in addresses {
            transaction.rule(rule(*address, endpoint));
        }
    }
    Ok(lacking.into_iter().map(|(endpoint, _)| endpoint.clone()).collect())
}

/// Takes back what was restored of attachments that have been given up meanwhile: whoever did that may have found nothing.
/// Returns whether none of them is wanted again by now.
pub(crate) fn withdraw(
    socket: &mut Socket,
    claims: &Claims<'_>,
    written: &[Endpoint],
) -> Result<bool, FirewallError> {
    let gone = given_up(claims, written)?;
    for endpoint in &gone {
        remove_rules(socket, endpoint)?;
    }
    Ok(given_up(claims, &gone)?.len() == gone.len())
}

/// Returns those of the attachments that are on record no more.
fn given_up(claims: &Claims<'_>, written: &[Endpoint]) -> Result<Vec<Endpoint>, FirewallError> {
    if written.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = claims.masqueraded(Way::Nftables)?;
    let is_wanted = |one: &&Endpoint| wanted.iter().any(|(endpoint, _)| endpoint == *one);
    Ok(written.iter().filter(|one| !is_wanted(one)).cloned().collect())
}

/// Returns whose rules are missing of all on record, and what of them.
pub(crate) fn missing(
    socket: &mut Socket,
    claims: &Claims<'_>,
) -> Result<Vec<(Endpoint, Vec<String>)>, FirewallError> {
    let all = claims.masqueraded(Way::Nftables)?;
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let hooks = missing_hooks(socket)?;
    let there = Present::read(socket)?;
    let of_each = |(endpoint, addresses): (Endpoint, Vec<IpNetwork>)| {
        let missing = hooks.iter().cloned().chain(there.missing(&endpoint, &addresses)).collect();
        (endpoint, missing)
    };
    Ok(all.into_iter().map(of_each).collect())
}

/// The rules that are there, by whose they are.
struct Present(HashMap<String, Vec<RuleInfo>>);

impl Present {
    fn read(socket: &mut Socket) -> Result<Self, FirewallError> {
        let mut rules: HashMap<String, Vec<RuleInfo>> = HashMap::new();
        for rule in socket.rules(TABLE, CHECKS).map_err(wrap)? {
            let whose = rule.comment.as_deref().and_then(|comment| comment.split(',').next());
            rules.entry(whose.unwrap_or_default().into()).or_default().push(rule);
        }
        Ok(Self(rules))
    }

    fn of(&self, endpoint: &Endpoint) -> &[RuleInfo] {
        self.0.get(&instance(endpoint)).map(Vec::as_slice).unwrap_or_default()
    }

    fn has(&self, endpoint: &Endpoint, addresses: &[IpNetwork]) -> bool {
        self.missing(endpoint, addresses).is_none()
    }

    fn missing(&self, endpoint: &Endpoint, addresses: &[IpNetwork]) -> Option<String> {
        let (present, wanted) = (self.of(endpoint).len(), addresses.len());
        (present != wanted)
            .then(|| format!("rules of chain {TABLE} {CHECKS} for {endpoint}: {present} instead of {wanted}"))
    }
}

fn missing_hooks(socket: &mut Socket) -> Result<Option<String>, FirewallError> {
    let rules = socket.rules(TABLE, POSTROUTING).map_err(wrap)?.len();
    Ok((rules < POSTROUTING_RULES).then(|| format!("rules of chain {TABLE} {POSTROUTING}")))
}

/// Deletes the attachment's rules, whatever its addresses were.
pub(crate) fn remove(socket: &mut Socket, masquerade: &Masquerade) -> Result<(), FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(()) };
    Claims(&masquerade.claims).drop_chain(Way::Nftables, endpoint)?;
    match socket.table(TABLE) {
        Ok(None) => return Ok(()),
        Ok(Some(_)) => {}
        // A kernel without nf_tables has none of its rules.
        Err(Error::Refused { errno: Errno::EINVAL, .. }) => return Ok(()),
        Err(error) => return Err(wrap(error)),
    }
    remove_rules(socket, endpoint)
}

fn remove_rules(socket: &mut Socket, endpoint: &Endpoint) -> Result<(), FirewallError> {
    retrying(|_| {
        let mut transaction = Transaction::new();
        delete(&mut transaction, &own_rules(socket, endpoint)?);
        socket.commit(&transaction)
    })
}

/// Deletes the rules of a network's attachments that are not among `valid`, each a container and its interface.
///
/// CNI: plugins/pkg/ip/ipmasq_nftables_linux.go, GCIPMasqForNetwork, which nothing there calls.
pub(crate) fn collect(
    socket: &mut Socket,
    claims: &Claims<'_>,
    network: &NetworkName,
    valid: &[(&str, &str)],
) -> Result<(), FirewallError> {
    for (endpoint, _) in claims.masqueraded(Way::Nftables)? {
        let stays = valid.contains(&(endpoint.container.as_str(), endpoint.ifname.as_str()));
        if endpoint.network == *network && !stays {
            claims.drop_chain(Way::Nftables, &endpoint)?;
        }
    }
    if !matches!(socket.table(TABLE), Ok(Some(_))) {
        return Ok(());
    }
    let own = format!("{}-", short_hash(network.as_str()));
    let kept: Vec<String> = valid
        .iter()
        .map(|(container, ifname)| format!("{own}{}", short_hash(&format!("{ifname}:{container}"))))
        .collect();
    retrying(|_| {
        let mut rules = socket.rules(TABLE, CHECKS)?;
        rules.retain(|rule| {
            let comment = rule.comment.as_deref().unwrap_or_default();
            comment.starts_with(&own) && !kept.iter().any(|kept| comment.starts_with(kept))
        });
        let mut transaction = Transaction::new();
        delete(&mut transaction, &rules);
        socket.commit(&transaction)
    })
}

/// Returns which addresses have no rule.
pub(crate) fn observe(socket: &mut Socket, masquerade: &Masquerade) -> Result<Vec<String>, FirewallError> {
    let Some(endpoint) = &masquerade.endpoint else { return Ok(Vec::new()) };
    let mut missing: Vec<_> = missing_hooks(socket)?.into_iter().collect();
    missing.extend(Present::read(socket)?.missing(endpoint, &masquerade.addresses));
    Ok(missing)
}

/// Removes the spoof check that upstream's bridge plugin made for an attachment. Where it never made
/// one, this is a single question.
///
/// CNI: plugins/pkg/link/spoofcheck.go. Two chains for each attachment, and a jump to the first.
pub(crate) fn remove_spoof_check(socket: &mut Socket, endpoint: &Endpoint) -> Result<(), FirewallError> {
    const NAT: Table = Table::new(Family::Bridge, "nat");
    const PREROUTING: &str = "PREROUTING";
    let wrap = |source| table::refused(NAT, source);
    let chain = format!("cni-br-iface-{}-{}", endpoint.container, endpoint.ifname);
    if !socket.has_chain(NAT, &chain).map_err(wrap)? {
        return Ok(());
    }
    let inner = format!("{chain}-mac");
    let comment = format!("macspoofchk-{}-{}", endpoint.container, endpoint.ifname);
    let mut transaction = Transaction::new();
    for rule in socket.rules(NAT, PREROUTING).map_err(wrap)? {
        if rule.comment.as_ref() == Some(&comment) {
            transaction.delete_rule(NAT, PREROUTING, rule.handle);
        }
    }
    transaction.flush_chain(NAT, chain.clone()).delete_chain(NAT, chain);
    if socket.has_chain(NAT, &inner).map_err(wrap)? {
        transaction.flush_chain(NAT, inner.clone()).delete_chain(NAT, inner);
    }
    match socket.commit(&transaction) {
        // Someone else removes it at the same time.
        Err(Error::Refused { errno: Errno::ENOENT, .. }) => Ok(()),
        outcome => outcome.map_err(wrap),
    }
}

/// Repeats a reading and the change that follows from it when another process came in between.
/// It is told whether it will not be asked again.
fn retrying(mut change: impl FnMut(bool) -> Result<(), Error>) -> Result<(), FirewallError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        match change(attempts == ATTEMPTS) {
            Err(Error::Refused { errno: Errno::ENOENT | Errno::ERESTART, .. }) if attempts < ATTEMPTS => {}
            outcome => return outcome.map_err(wrap),
        }
    }
}

fn create(transaction: &mut Transaction, postrouting_rules: usize) {
    let postrouting = TABLE.base_chain(POSTROUTING, layout::AT_POSTROUTING);
    transaction
        .table(TABLE, Some(TABLE_COMMENT))
        .chain(&TABLE.chain(CHECKS).comment(CHECKS_COMMENT))
        .chain(&postrouting);
    if postrouting_rules == POSTROUTING_RULES {
        return;
    }
    transaction.flush_chain(TABLE, POSTROUTING);
    for network in layout::multicast() {
        let [meta, compare] = is_family(network.ip());
        let mut exprs = vec![meta, compare];
        exprs.extend(is_within(Field::destination_of(network.ip()), network, Comparison::Equal));
        exprs.push(Expr::Verdict(Verdict::Return));
        transaction.rule(postrouting.rule(exprs));
    }
    transaction.rule(postrouting.rule([Expr::Verdict(Verdict::Goto(CHECKS.into()))]));
}

fn delete(transaction: &mut Transaction, rules: &[RuleInfo]) {
    for rule in rules {
        transaction.delete_rule(TABLE, CHECKS, rule.handle);
    }
}

fn own_rules(socket: &mut Socket, endpoint: &Endpoint) -> Result<Vec<RuleInfo>, Error> {
    let prefix = instance(endpoint);
    let mut rules = socket.rules(TABLE, CHECKS)?;
    rules.retain(|rule| rule.comment.as_deref().is_some_and(|comment| comment.starts_with(&prefix)));
    Ok(rules)
}

fn rule(address: IpNetwork, endpoint: &Endpoint) -> Rule {
    let chain: Chain = TABLE.chain(CHECKS);
    let [meta, compare] = is_family(address.ip());
    let mut exprs = vec![meta, compare];
    exprs.extend(is_within(Field::source_of(address.ip()), IpNetwork::from(address.ip()), Comparison::Equal));
    exprs.extend(is_within(Field::destination_of(address.ip()), address, Comparison::NotEqual));
    exprs.push(Expr::Masquerade);
    chain.rule(exprs).comment(comment(endpoint))
}

/// Returns the comment by which upstream finds an attachment's rules.
fn comment(endpoint: &Endpoint) -> String {
    let Endpoint { network, container, ifname } = endpoint;
    let text = format!("{}, net: {network}, if: {ifname}, id: {container}", instance(endpoint));
    text.replace('"', "").chars().take(LONGEST_COMMENT).collect()
}

/// Returns the part of the comment that names the attachment.
fn instance(endpoint: &Endpoint) -> String {
    let Endpoint { network, container, ifname } = endpoint;
    format!("{}-{}", short_hash(network.as_str()), short_hash(&format!("{ifname}:{container}")))
}

/// Returns the first 16 hex digits of a text's SHA-512.
fn short_hash(text: &str) -> String {
    hex::encode(&Sha512::digest(text)[..8])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_name_the_attachment_and_fit() {
        let endpoint = |container: &str| Endpoint {
            network: "net".parse().unwrap(),
            container: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let text = comment(&endpoint("c1"));
        assert!(text.ends_with(", net: net, if: eth0, id: c1"), "{text}");
        assert_eq!(text.find(','), Some(33));
        let long = endpoint(&"c".repeat(200));
        assert_eq!(comment(&long).len(), LONGEST_COMMENT);
        assert!(comment(&long).starts_with(&instance(&long)));
        assert_ne!(instance(&endpoint("c1")), instance(&endpoint("c2")));
    }

    #[test]
    fn the_hash_is_a_prefix_of_sha512() {
        // The well-known digest of "abc" (FIPS 180-4).
        assert_eq!(short_hash("abc"), "ddaf35a193617aba");
    }
}
