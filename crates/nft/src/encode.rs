//! Changes as netlink messages.
//!
//! Attribute numbers are those of `linux/netfilter/nf_tables.h`; the ones named here belong to
//! expressions and attributes that `netlink-packet-netfilter` leaves to its callers.

mod expression;

use netlink_packet_core::{DefaultNla, Emitable, NLA_F_NESTED};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, DevHookNumber, Hook as HookAttribute, HookNumber,
    InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute, RuleMessage, SetAttribute, SetDescription,
    SetElementAttribute, SetElementFlags, SetElementList, SetElementMessage, SetFlags, SetMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{NetfilterMessageInner, NetfilterProtoFamily};

use crate::transaction::{Change, Existing, Fate};
use crate::userdata;
use crate::{Base, Chain, ChainKind, Data, Element, Hook, Key, Policy, Rule, Set, Table, Type, Values};

use expression::{expression, verdict};

pub(crate) const CREATE: u16 = netlink_packet_core::NLM_F_CREATE;
const EXCLUSIVE: u16 = CREATE | netlink_packet_core::NLM_F_EXCL;
const APPEND: u16 = CREATE | netlink_packet_core::NLM_F_APPEND;

/// Verdicts shared with the rest of netfilter (linux/netfilter.h).
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
/// The data type of verdict maps (NFT_DATA_VERDICT).
const DATA_VERDICT: u32 = 0xffff_ff00;
/// How libnftables packs the types of a concatenation into one number (TYPE_BITS).
const TYPE_BITS: u32 = 6;
const LIST_ELEM: u16 = 1;
const SET_FIELD_LEN: u16 = 1;
/// How often the kernel looks for expired elements to free, in milliseconds. They stop matching at
/// once either way; the default of one second would walk every set every second.
const COLLECT_INTERVAL: u32 = 60_000;
/// How long an element that is being deleted by expiry lives on, in milliseconds.
const EXPIRE_NOW: u64 = 1;

/// A change as the netlink layer wants it: the family, the flags, the message.
pub(crate) struct Encoded {
    pub(crate) family: NetfilterProtoFamily,
    pub(crate) flags: u16,
    pub(crate) message: NetfilterMessageInner,
}

fn encoded(table: Table, flags: u16, message: NfTablesMessage) -> Encoded {
    Encoded { family: table.family.into(), flags, message: message.into() }
}

/// Returns the message for one change; `id` names it within its transaction.
pub(crate) fn change(change: &Change, id: u32) -> Encoded {
    match change {
        Change::AddTable(table, comment) => {
            let mut attributes = vec![TableAttribute::Name(table.name.into())];
            attributes
                .extend(comment.as_deref().map(|text| TableAttribute::UserData(userdata::comment(text))));
            encoded(*table, CREATE, NfTablesMessage::NewTable(TableMessage { attributes }))
        }
        Change::DeleteTable(table) => encoded(*table, 0, NfTablesMessage::DeleteTable(table_message(*table))),
        Change::AddChain(chain, existing) => {
            encoded(chain.table, flags(*existing), NfTablesMessage::NewChain(chain_message(chain)))
        }
        Change::FlushChain(table, chain) => {
            encoded(*table, 0, NfTablesMessage::DeleteRule(rules_message(*table, chain, None)))
        }
        Change::DeleteChain(table, chain) => {
            let attributes =
                vec![ChainAttribute::Table(table.name.into()), ChainAttribute::Name(chain.to_string())];
            encoded(*table, 0, NfTablesMessage::DeleteChain(ChainMessage { attributes }))
        }
        Change::AddRule(rule) => encoded(rule.table, APPEND, NfTablesMessage::NewRule(rule_message(rule))),
        Change::InsertRule(rule) => encoded(rule.table, CREATE, NfTablesMessage::NewRule(rule_message(rule))),
        Change::DeleteRule(table, chain, handle) => {
            encoded(*table, 0, NfTablesMessage::DeleteRule(rules_message(*table, chain, Some(*handle))))
        }
        Change::AddSet(set, existing) => {
            encoded(set.table, flags(*existing), NfTablesMessage::NewSet(set_message(set, id)))
        }
        Change::FlushSet(set) => {
            let message = elements_list(set.table, &set.name, None);
            encoded(set.table, 0, NfTablesMessage::DeleteSetElement(message))
        }
        Change::DeleteSet(table, name) => {
            let attributes =
                vec![SetAttribute::Table(table.name.into()), SetAttribute::Name(name.to_string())];
            encoded(*table, 0, NfTablesMessage::DeleteSet(SetMessage { attributes }))
        }
        Change::Elements(set, elements, fate) => {
            let message = elements_message(set, elements, *fate);
            match fate {
                Fate::Add(existing) => {
                    encoded(set.table, flags(*existing), NfTablesMessage::NewSetElement(message))
                }
                Fate::Expire => encoded(set.table, CREATE, NfTablesMessage::NewSetElement(message)),
                Fate::Delete => encoded(set.table, 0, NfTablesMessage::DeleteSetElement(message)),
            }
        }
    }
}

fn flags(existing: Existing) -> u16 {
    match existing {
        Existing::Fine => CREATE,
        Existing::Refused => EXCLUSIVE,
    }
}

pub(crate) fn table_message(table: Table) -> TableMessage {
    TableMessage { attributes: vec![TableAttribute::Name(table.name.into())] }
}

/// Returns the message that names all rules of a chain, or the one with this handle.
pub(crate) fn rules_message(table: Table, chain: &str, handle: Option<u64>) -> RuleMessage {
    let mut attributes = vec![RuleAttribute::Table(table.name.into()), RuleAttribute::Chain(chain.into())];
    attributes.extend(handle.map(RuleAttribute::Handle));
    RuleMessage { attributes }
}

fn chain_message(chain: &Chain) -> ChainMessage {
    let mut attributes =
        vec![ChainAttribute::Table(chain.table.name.into()), ChainAttribute::Name(chain.name.to_string())];
    if let Some(base) = chain.base {
        attributes.extend(base_attributes(base, chain.device.as_deref()));
    }
    attributes.extend(chain.comment.as_deref().map(|text| ChainAttribute::UserData(userdata::comment(text))));
    ChainMessage { attributes }
}

fn base_attributes(base: Base, device: Option<&str>) -> [ChainAttribute; 3] {
    let hook = match base.hook {
        Hook::Prerouting => InetHookNumber::PreRouting.into(),
        Hook::Input => InetHookNumber::LocalIn.into(),
        Hook::Forward => InetHookNumber::Forward.into(),
        Hook::Output => InetHookNumber::LocalOut.into(),
        Hook::Postrouting => InetHookNumber::PostRouting.into(),
        Hook::Ingress => HookNumber::Dev(DevHookNumber::Ingress),
    };
    let mut place = vec![HookAttribute::Number(hook), HookAttribute::Priority(base.priority.cast_unsigned())];
    place.extend(device.map(|name| HookAttribute::NetDeviceName(name.into())));
    let kind = match base.kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    };
    let policy = match base.policy {
        Policy::Accept => NF_ACCEPT,
        Policy::Drop => NF_DROP,
    };
    [ChainAttribute::Hook(place), ChainAttribute::Type(kind.into()), ChainAttribute::Policy(policy)]
}

fn rule_message(rule: &Rule) -> RuleMessage {
    let mut message = rules_message(rule.table, &rule.chain, None);
    let list = rule.exprs.iter().map(|expr| expression(expr).into()).collect();
    message.attributes.push(RuleAttribute::Expressions(list));
    message
        .attributes
        .extend(rule.comment.as_deref().map(|text| RuleAttribute::UserData(userdata::comment(text))));
    message
}

fn type_number(fields: &[Type]) -> u32 {
    fields.iter().fold(0, |number, field| (number << TYPE_BITS) | field.number())
}

fn key_len(fields: &[Type]) -> u32 {
    let len = match fields {
        [only] => only.len(),
        _ => fields.iter().map(|field| field.padded_len()).sum(),
    };
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn set_message(set: &Set, id: u32) -> SetMessage {
    let mut flags = SetFlags::default();
    flags.set(SetFlags::Map, set.values.is_some());
    flags.set(SetFlags::Interval, set.intervals);
    flags.set(SetFlags::Timeout, set.expiring);
    flags.set(SetFlags::Concat, set.intervals && set.is_concatenation());
    let host_endian = matches!(set.key, [Type::IfName]);
    let mut attributes = vec![
        SetAttribute::Table(set.table.name.into()),
        SetAttribute::Name(set.name.to_string()),
        SetAttribute::Flags(flags),
        SetAttribute::KeyType(type_number(set.key)),
        SetAttribute::KeyLen(key_len(set.key)),
        SetAttribute::Id(id),
        SetAttribute::UserData(userdata::set(host_endian, set.values)),
    ];
    match set.values {
        None => {}
        Some(Values::Verdict) => attributes.push(SetAttribute::DataType(DATA_VERDICT)),
        Some(Values::Data(fields)) => {
            attributes.push(SetAttribute::DataType(type_number(fields)));
            attributes.push(SetAttribute::DataLen(key_len(fields)));
        }
        Some(Values::Range(fields)) => {
            attributes.push(SetAttribute::DataType(type_number(fields)));
            attributes.push(SetAttribute::DataLen(2 * key_len(fields)));
        }
    }
    // `nft` 1.0 lists a map's interval and then does not load the listing.
    if set.expiring && set.values.is_none() {
        attributes.push(SetAttribute::GarbageCollectionInterval(COLLECT_INTERVAL));
    }
    if set.intervals && set.is_concatenation() {
        attributes.push(SetAttribute::Description(vec![SetDescription::Concat(field_lengths(set.key))]));
    }
    SetMessage { attributes }
}

/// Returns the description of a concatenation's fields, which ranges need: NFTA_LIST_ELEM nests
/// around NFTA_SET_FIELD_LEN.
///
/// KERNEL: the length is in bytes, whatever the header says (nft_set_desc_concat_parse compares it
/// with the key's length in bytes).
fn field_lengths(fields: &[Type]) -> Vec<DefaultNla> {
    fields
        .iter()
        .map(|field| {
            let len = u32::try_from(field.len()).unwrap_or(u32::MAX);
            let inner = DefaultNla::new(SET_FIELD_LEN, len.to_be_bytes().to_vec());
            let mut bytes = vec![0; inner.buffer_len()];
            inner.emit(&mut bytes);
            DefaultNla::new(LIST_ELEM | NLA_F_NESTED, bytes)
        })
        .collect()
}

fn elements_message(set: &Set, elements: &[Element], fate: Fate) -> SetElementMessage {
    let list = elements.iter().flat_map(|element| element_attributes(set, element, fate)).collect();
    elements_list(set.table, &set.name, Some(list))
}

/// Returns the message about these elements of a set, or about all it has.
fn elements_list(
    table: Table,
    set: &str,
    list: Option<Vec<ListAttribute<SetElementAttribute>>>,
) -> SetElementMessage {
    let mut attributes = vec![SetElementList::Table(table.name.into()), SetElementList::Set(set.into())];
    attributes.extend(list.map(SetElementList::Elements));
    SetElementMessage { attributes }
}

/// Returns the message that asks for every chain of a family, whatever its table.
pub(crate) fn chains_question(table: Table) -> Encoded {
    encoded(table, 0, NfTablesMessage::GetChain(ChainMessage { attributes: Vec::new() }))
}

/// Returns the message that asks for a set.
pub(crate) fn set_question(set: &Set) -> NfTablesMessage {
    let attributes =
        vec![SetAttribute::Table(set.table.name.into()), SetAttribute::Name(set.name.to_string())];
    NfTablesMessage::GetSet(SetMessage { attributes })
}

/// Returns the message that asks for every set of a table.
pub(crate) fn sets_question(table: Table) -> Encoded {
    let attributes = vec![SetAttribute::Table(table.name.into())];
    encoded(table, 0, NfTablesMessage::GetSet(SetMessage { attributes }))
}

/// Returns the message that asks for the element of one key. The kernel answers each entry of the
/// list with a message of its own, so there is only one: the end of a range is not asked for.
pub(crate) fn element_question(set: &Set, key: &Key) -> SetElementMessage {
    let mut list = element_attributes(set, &Element::new(key.clone()), Fate::Delete);
    list.truncate(1);
    elements_list(set.table, &set.name, Some(list))
}

/// Returns the message that asks for every element of a set.
pub(crate) fn elements_question(set: &Set) -> Encoded {
    encoded(set.table, 0, NfTablesMessage::GetSetElement(elements_list(set.table, &set.name, None)))
}

fn value(key: &Key, fields: &[Type]) -> DataAttribute {
    DataAttribute::Value(key.bytes(fields).to_vec())
}

/// NFTA_SET_ELEM_KEY_END holds NFTA_DATA_VALUE, as NFTA_SET_ELEM_KEY does.
fn key_end(key: &Key) -> SetElementAttribute {
    const DATA_VALUE: u16 = 1;
    SetElementAttribute::KeyEnd(vec![DefaultNla::new(DATA_VALUE, key.0.clone())])
}

/// Returns the one or two list entries of an element: a range of a set with a single field is two
/// elements, its first key and the key after its last.
fn element_attributes(set: &Set, element: &Element, fate: Fate) -> Vec<ListAttribute<SetElementAttribute>> {
    let mut attributes = vec![SetElementAttribute::Key(value(&element.key, set.key))];
    let mut end = None;
    if set.intervals {
        let last = element.last.as_ref().unwrap_or(&element.key);
        if set.is_concatenation() {
            attributes.push(key_end(last));
        } else {
            end = key_after(last.bytes(set.key));
        }
    }
    if !matches!(fate, Fate::Delete) {
        attributes.extend(element.data.as_ref().map(|data| {
            SetElementAttribute::Data(match data {
                Data::Verdict(to) => verdict(to),
                Data::Value(to) => match set.values {
                    Some(Values::Data(fields)) => value(to, fields),
                    _ => DataAttribute::Value(to.0.clone()),
                },
            })
        }));
        attributes.extend(
            element.comment.as_deref().map(|text| SetElementAttribute::UserData(userdata::comment(text))),
        );
    }
    if matches!(fate, Fate::Expire) {
        attributes.push(SetElementAttribute::Timeout(EXPIRE_NOW));
        attributes.push(SetElementAttribute::Expiration(EXPIRE_NOW));
    }
    let mut list = vec![ListAttribute::Element(attributes)];
    list.extend(end.map(|key| {
        ListAttribute::Element(vec![
            SetElementAttribute::Key(DataAttribute::Value(key)),
            SetElementAttribute::Flags(SetElementFlags::IntervalEnd),
        ])
    }));
    list
}

/// Returns the key after this one, or `None` after the highest: such a range has no end element.
fn key_after(key: &[u8]) -> Option<Vec<u8>> {
    let mut next = key.to_vec();
    for byte in next.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(next);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_after_carries() {
        assert_eq!(key_after(&[10, 0, 255, 255]), Some(vec![10, 1, 0, 0]));
        assert_eq!(key_after(&[255, 255]), None);
    }

    #[test]
    fn types_are_packed_as_libnftables_does() {
        assert_eq!(type_number(&[Type::Ipv4Addr]), 7);
        assert_eq!(type_number(&[Type::InetProto, Type::InetService]), (12 << 6) | 13);
        assert_eq!(key_len(&[Type::InetService]), 2);
        assert_eq!(key_len(&[Type::IfName, Type::EtherAddr]), 24);
    }
}
