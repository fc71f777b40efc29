//! Answers of the kernel, read attribute by attribute: only what we ask for is looked at, so that a
//! ruleset with expressions we do not know never stands in the way.

use std::time::Duration;

use netlink_packet_core::{NLA_HEADER_SIZE, NlasIterator};

use crate::userdata;
use crate::{Error, FoundElement, RuleInfo};

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const SET_NAME: u16 = 2;
const TABLE_USERDATA: u16 = 6;
const RULE_HANDLE: u16 = 3;
pub(crate) const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const GEN_ID: u16 = 1;
const ELEM_LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_EXPIRATION: u16 = 5;
const ELEM_USERDATA: u16 = 6;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;

/// Returns what was read of a list, unless something of it could not be: what is passed over must not be taken for what is not there.
pub(crate) fn all<T>(found: Vec<Option<T>>, object: impl FnOnce() -> String) -> Result<Vec<T>, Error> {
    found.into_iter().collect::<Option<Vec<T>>>().ok_or_else(|| Error::Answer(object()))
}

/// Returns the values of the attributes of this kind.
pub(crate) fn attributes_of(bytes: &[u8], kind: u16) -> impl Iterator<Item = &[u8]> {
    NlasIterator::new(bytes).map_while(Result::ok).filter(move |nla| nla.kind() == kind).map(|nla| {
        let len = usize::from(nla.length());
        &nla.into_inner()[NLA_HEADER_SIZE..len]
    })
}

/// Returns the value of the first attribute of this kind.
pub(crate) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes_of(bytes, kind).next()
}

pub(crate) fn generation(attributes: &[u8]) -> Option<u32> {
    attribute(attributes, GEN_ID)?.try_into().ok().map(u32::from_be_bytes)
}

pub(crate) fn table_comment(attributes: &[u8]) -> Option<String> {
    userdata::find_comment(attribute(attributes, TABLE_USERDATA)?)
}

pub(crate) fn rule(attributes: &[u8]) -> Option<RuleInfo> {
    Some(RuleInfo {
        handle: attribute(attributes, RULE_HANDLE)?.try_into().ok().map(u64::from_be_bytes)?,
        comment: attribute(attributes, RULE_USERDATA).and_then(userdata::find_comment),
        steps: attribute(attributes, RULE_EXPRESSIONS).map(<[u8]>::to_vec).unwrap_or_default(),
    })
}

/// Returns the table and the name of a chain.
pub(crate) fn chain_name(attributes: &[u8]) -> Option<(String, String)> {
    Some((text(attribute(attributes, CHAIN_TABLE)?), text(attribute(attributes, CHAIN_NAME)?)))
}

/// Returns the name of a set.
pub(crate) fn set_name(attributes: &[u8]) -> Option<String> {
    attribute(attributes, SET_NAME).map(text)
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

pub(crate) fn element(attributes: &[u8]) -> Option<FoundElement> {
    Some(found(attribute(attribute(attributes, ELEM_LIST_ELEMENTS)?, LIST_ELEM)?))
}

fn found(element: &[u8]) -> FoundElement {
    let millis = |bytes: &[u8]| bytes.try_into().ok().map(u64::from_be_bytes);
    FoundElement {
        comment: attribute(element, ELEM_USERDATA).and_then(userdata::find_comment),
        expires: attribute(element, ELEM_EXPIRATION).and_then(millis).map(Duration::from_millis),
        value: attribute(element, ELEM_DATA).and_then(|data| attribute(data, DATA_VALUE)).map(<[u8]>::to_vec),
    }
}

/// An element of a list: the first and the last of its keys, and what it leads to.
pub(crate) type Listed = (Vec<u8>, Option<Vec<u8>>, FoundElement);

/// Returns the elements of one message of a list.
pub(crate) fn elements(attributes: &[u8]) -> Option<Vec<Listed>> {
    let key = |element, kind| attribute(attribute(element, kind)?, DATA_VALUE).map(<[u8]>::to_vec);
    let one = |element| Some((key(element, ELEM_KEY)?, key(element, ELEM_KEY_END), found(element)));
    Some(attributes_of(attribute(attributes, ELEM_LIST_ELEMENTS)?, LIST_ELEM).filter_map(one).collect())
}
