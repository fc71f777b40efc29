//! Whether the kernel has what a transaction would make.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{Emitable, NLA_HEADER_SIZE, NlasIterator};
use netlink_packet_netfilter::NetfilterMessageInner;

use crate::encode::{self, Encoded};
use crate::read::{self, Listed};
use crate::transaction::Change;
use crate::{Chain, Element, Error, Rule, RuleInfo, Set, Socket, Transaction};

/// NLA_F_NESTED and NLA_F_NET_BYTEORDER, which the kernel does not always repeat.
const NLA_FLAGS: u16 = 0xc000;
/// What the kernel adds to the flags of a translation by what else it is told (nft_nat_init): NF_NAT_RANGE_MAP_IPS and
/// NF_NAT_RANGE_PROTO_SPECIFIED.
const IMPLIED_FLAGS: u32 = 0b11;

impl Socket {
    /// Returns whether the chains and sets that a transaction makes are there, with its rules and elements and no others.
    /// Of rules, those without a comment stand in the same order. `unless` names chains that somebody else fills.
    ///
    /// It costs a listing for each chain and each set.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn has_all(
        &mut self,
        transaction: &Transaction,
        unless: impl Fn(&Chain) -> bool,
    ) -> Result<bool, Error> {
        let made = Made::by(transaction);
        for (chain, rules) in made.chains.into_values() {
            let there = self.rules(chain.table, &chain.name)?;
            if !unless(chain) && !are_same_rules(&rules, &there)
                || there.is_empty() && !self.has_chain(chain.table, &chain.name)?
            {
                return Ok(false);
            }
        }
        for (set, elements) in made.sets.into_values() {
            let there = self.elements(set)?;
            if !are_same_elements(set, &elements, &there) || there.is_empty() && !self.has_set(set)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What a transaction makes, by the table's text and the object's name.
#[derive(Default)]
struct Made<'a> {
    chains: BTreeMap<(String, &'a str), (&'a Chain, Vec<&'a Rule>)>,
    sets: BTreeMap<(String, &'a str), (&'a Set, Vec<&'a Element>)>,
}

impl<'a> Made<'a> {
    fn by(transaction: &'a Transaction) -> Self {
        let mut made = Self::default();
        for change in &transaction.changes {
            match change {
                Change::AddChain(chain, _) => {
                    let key = (chain.table.to_string(), &*chain.name);
                    made.chains.entry(key).or_insert_with(|| (chain, Vec::new()));
                }
                Change::AddSet(set, _) => {
                    let key = (set.table.to_string(), &*set.name);
                    made.sets.entry(key).or_insert_with(|| (set, Vec::new()));
                }
                Change::AddRule(rule) | Change::InsertRule(rule) => {
                    let chain = made.chains.get_mut(&(rule.table.to_string(), &*rule.chain));
                    let is_first = matches!(change, Change::InsertRule(_));
                    chain.into_iter().for_each(|(_, rules)| {
                        rules.insert(if is_first { 0 } else { rules.len() }, rule);
                    });
                }
                Change::Elements(set, elements, _) => {
                    let found = made.sets.get_mut(&(set.table.to_string(), &*set.name));
                    found.into_iter().for_each(|(_, all)| all.extend(elements));
                }
                _ => {}
            }
        }
        made
    }
}

/// Rules with a comment come and go one by one, and their order among each other means nothing.
fn are_same_rules(wanted: &[&Rule], there: &[RuleInfo]) -> bool {
    if wanted.len() != there.len() {
        return false;
    }
    let (mut named, plain): (Vec<&Rule>, Vec<&Rule>) =
        wanted.iter().copied().partition(|rule| rule.comment.is_some());
    let (mut named_there, plain_there): (Vec<&RuleInfo>, Vec<&RuleInfo>) =
        there.iter().partition(|rule| rule.comment.is_some());
    named.sort_by(|one, other| one.comment.cmp(&other.comment));
    named_there.sort_by(|one, other| one.comment.cmp(&other.comment));
    let all = named.into_iter().chain(plain).zip(named_there.into_iter().chain(plain_there));
    all.into_iter().all(|(rule, found)| rule.comment == found.comment && covers(&steps(rule), &found.steps))
}

/// Returns the bytes of a rule's expressions, as they are sent.
pub(crate) fn steps(rule: &Rule) -> Vec<u8> {
    let Encoded { message, .. } = encode::change(&Change::AddRule(rule.clone()), 0);
    let NetfilterMessageInner::NfTables(message) = message else { return Vec::new() };
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    read::attribute(&bytes, read::RULE_EXPRESSIONS).map(<[u8]>::to_vec).unwrap_or_default()
}

/// Returns whether what the kernel lists has every attribute that was sent. It adds others, which it has chosen.
pub(crate) fn covers(sent: &[u8], listed: &[u8]) -> bool {
    if sent == listed || is_same_number(sent, listed) {
        return true;
    }
    let (Some(sent), Some(listed)) = (attributes(sent), attributes(listed)) else { return false };
    let of_kind = |all: &[(u16, &[u8])], kind: u16| -> Vec<Vec<u8>> {
        all.iter().filter(|(own, _)| *own == kind).map(|(_, value)| value.to_vec()).collect()
    };
    let kinds: BTreeSet<u16> = sent.iter().map(|(kind, _)| *kind).collect();
    kinds.into_iter().all(|kind| {
        let (ours, theirs) = (of_kind(&sent, kind), of_kind(&listed, kind));
        // An expression that is told nothing (`counter`, `notrack`) is listed with what it has chosen, or with nothing.
        let says_nothing = theirs.is_empty() && ours.iter().all(Vec::is_empty);
        says_nothing
            || ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(one, other)| covers(one, other))
    })
}

/// KERNEL: a register of four words is listed by the number it had before registers had one word each (nft_dump_register).
fn is_same_number(sent: &[u8], listed: &[u8]) -> bool {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let (Some(sent), Some(listed)) = (number(sent), number(listed)) else { return false };
    let is_register = (8..24).contains(&sent) && sent % 4 == 0 && listed == sent / 4 - 1;
    is_register || sent > IMPLIED_FLAGS && listed & !IMPLIED_FLAGS == sent
}

/// Returns attributes with their values, or `None` for what is no list of them.
fn attributes(bytes: &[u8]) -> Option<Vec<(u16, &[u8])>> {
    let mut all = Vec::new();
    for nla in NlasIterator::new(bytes) {
        let nla = nla.ok()?;
        let (kind, len) = (nla.kind() & !NLA_FLAGS, usize::from(nla.length()));
        all.push((kind, nla.into_inner().get(NLA_HEADER_SIZE..len)?));
    }
    Some(all)
}

fn are_same_elements(set: &Set, wanted: &[&Element], there: &[Listed]) -> bool {
    let mut known = BTreeMap::new();
    for (first, last, found) in there {
        // One that is about to go does not count.
        if found.expires.is_none() {
            known.insert(first.as_slice(), (last, found));
        }
    }
    let wanted: BTreeMap<&[u8], &Element> =
        wanted.iter().map(|element| (element.key.bytes(set.key), *element)).collect();
    known.len() == wanted.len()
        && wanted.iter().all(|(key, element)| {
            let found = known.get(key);
            let is_last = |last: &Option<Vec<u8>>| match &element.last {
                Some(wanted) => last.as_deref() == Some(wanted.bytes(set.key)),
                None => true,
            };
            found.is_some_and(|(last, found)| {
                is_last(last) && element.has_value_of(found) && element.comment == found.comment
            })
        })
}
