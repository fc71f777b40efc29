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
const ELEM_FLAGS: u16 = 3;
const ELEM_EXPIRATION: u16 = 5;
const ELEM_USERDATA: u16 = 6;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
/// NFT_SET_ELEM_CATCHALL.
const CATCH_ALL: u32 = 2;

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

/// An element of a list: the first and the last of its keys, and what it leads to. The first is empty where it stands for all keys that
/// have no element of their own.
pub(crate) type Listed = (Vec<u8>, Option<Vec<u8>>, FoundElement);

/// Returns the elements of one message of a list, unless one of them cannot be read.
pub(crate) fn elements(attributes: &[u8]) -> Option<Vec<Listed>> {
    attributes_of(attribute(attributes, ELEM_LIST_ELEMENTS)?, LIST_ELEM).map(listed).collect()
}

fn listed(element: &[u8]) -> Option<Listed> {
    let key = |bytes| attribute(bytes, DATA_VALUE).map(<[u8]>::to_vec);
    let first = match attribute(element, ELEM_KEY) {
        Some(bytes) => key(bytes)?,
        // KERNEL: since Linux 5.13 there is an element without a key (nf_tables_fill_setelem).
        None => is_catch_all(element).then(Vec::new)?,
    };
    let last = match attribute(element, ELEM_KEY_END) {
        Some(bytes) => Some(key(bytes)?),
        None => None,
    };
    Some((first, last, found(element)))
}

fn is_catch_all(element: &[u8]) -> bool {
    let flags = attribute(element, ELEM_FLAGS).and_then(|bytes| bytes.try_into().ok());
    flags.is_some_and(|bytes| u32::from_be_bytes(bytes) & CATCH_ALL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nla(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn an_element_that_cannot_be_read_is_not_passed_over() {
        let list = |elements: &[&[u8]]| {
            let all: Vec<u8> = elements.iter().flat_map(|element| nla(LIST_ELEM, element)).collect();
            elements_of(&nla(ELEM_LIST_ELEMENTS, &all))
        };
        let seven = nla(ELEM_KEY, &nla(DATA_VALUE, &[7, 0, 0, 0]));
        let flagged = |flags: u32| nla(ELEM_FLAGS, &flags.to_be_bytes());
        assert_eq!(list(&[]), Some(Vec::new()));
        assert_eq!(list(&[&seven, &flagged(CATCH_ALL)]), Some(vec![vec![7, 0, 0, 0], Vec::new()]));
        assert_eq!(list(&[&seven, &flagged(1)]), None);
        assert_eq!(list(&[&seven, &[]]), None);
        assert_eq!(list(&[&nla(ELEM_KEY, &[]), &seven]), None);
        assert_eq!(list(&[&[seven.clone(), nla(ELEM_KEY_END, &[])].concat()]), None);
    }

    fn elements_of(attributes: &[u8]) -> Option<Vec<Vec<u8>>> {
        Some(elements(attributes)?.into_iter().map(|(first, ..)| first).collect())
    }
}
