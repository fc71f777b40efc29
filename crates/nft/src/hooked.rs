//! Chains of anybody's that the kernel calls at a hook.

use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, NfTablesMessage, RuleAttribute, RuleMessage,
};

use crate::encode::{self, Encoded};
use crate::read::{attribute, attributes_of, text};
use crate::{Error, Family, Hook, Policy, RuleInfo, Socket, Table, read};

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const HOOK_DEVICE: u16 = 3;
const HOOK_DEVICES: u16 = 4;
const DEVICE_NAME: u16 = 1;
const DEVICE_PREFIX: u16 = 2;
/// NF_DROP.
const DROP: u32 = 0;

/// A chain that the kernel calls, of whatever table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hooked {
    /// The packets it sees.
    pub family: Family,
    /// The table it is in.
    pub table: String,
    /// Its name.
    pub name: String,
    /// Its turn among the chains of the hook.
    pub priority: i32,
    /// What happens at its end.
    pub policy: Policy,
}

/// A chain that the kernel calls, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Called {
    /// The chain.
    pub chain: Hooked,
    /// The hook's number in its family (enum nf_inet_hooks, enum nf_dev_hooks, linux/netfilter_bridge.h).
    pub hook: u32,
    /// The interfaces that it is called for, where it is for some alone; the start of a name ends with a `*`.
    pub devices: Vec<String>,
}

impl Called {
    /// Returns whether it is called for an interface.
    pub fn is_for(&self, link: &str) -> bool {
        let matches = |device: &String| match device.strip_suffix('*') {
            Some(start) => link.starts_with(start),
            None => link == device,
        };
        self.devices.is_empty() || self.devices.iter().any(matches)
    }
}

impl Socket {
    /// Returns all chains of a family that the kernel calls.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn called(&mut self, family: Family) -> Result<Vec<Called>, Error> {
        let object = format!("the chains of family {family}");
        let question = || encode::chains_question(Table::new(family, ""));
        let found = self.dump(question, &object, |attributes| called(attributes, family))?;
        read::all(found, || object)
    }

    /// Returns the chains of a family that the kernel calls at a hook. It is asked for all chains of the family.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn hooked(&mut self, family: Family, hook: Hook) -> Result<Vec<Hooked>, Error> {
        let object = format!("the chains of family {family}");
        let wanted = number_of(hook);
        let question = || encode::chains_question(Table::new(family, ""));
        let found = self.dump(question, &object, |attributes| chain(attributes, family))?;
        Ok(found.into_iter().filter(|(number, _)| *number == wanted).map(|(_, chain)| chain).collect())
    }

    /// Returns what happens at the end of one such chain; `None` if it is not there, or not called by the kernel.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn policy(&mut self, family: Family, table: &str, name: &str) -> Result<Option<Policy>, Error> {
        let attributes = vec![ChainAttribute::Table(table.into()), ChainAttribute::Name(name.into())];
        let question = NfTablesMessage::GetChain(ChainMessage { attributes });
        let object = format!("chain {family} {table} {name}");
        let read = |attributes: &[u8]| Some(chain(attributes, family).map(|(_, chain)| chain.policy));
        Ok(self.ask(family.into(), question, &object, read)?.flatten())
    }

    /// Returns the rules of a chain of anybody's.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn rules_of(&mut self, chain: &Hooked) -> Result<Vec<RuleInfo>, Error> {
        let question = || {
            let names =
                vec![RuleAttribute::Table(chain.table.clone()), RuleAttribute::Chain(chain.name.clone())];
            let message = NfTablesMessage::GetRule(RuleMessage { attributes: names }).into();
            Encoded { family: chain.family.into(), flags: 0, message }
        };
        let object = format!("the rules of chain {} {}", chain.table, chain.name);
        let found = self.dump(question, &object, |attributes| Some(read::rule(attributes)))?;
        read::all(found, || object)
    }
}

/// Reads a chain that the kernel calls. Nothing is one that it does not call, and `None` within one that cannot be read.
pub(crate) fn called(attributes: &[u8], family: Family) -> Option<Option<Called>> {
    let hooked = attribute(attributes, CHAIN_HOOK)?;
    Some(chain(attributes, family).map(|(hook, chain)| Called { chain, hook, devices: devices(hooked) }))
}

fn devices(hook: &[u8]) -> Vec<String> {
    let one = attribute(hook, HOOK_DEVICE).map(text);
    let list = attribute(hook, HOOK_DEVICES).unwrap_or_default();
    let names = attributes_of(list, DEVICE_NAME).map(text);
    let starts = attributes_of(list, DEVICE_PREFIX).map(|start| format!("{}*", text(start)));
    let mut all: Vec<String> = one.into_iter().chain(names).chain(starts).collect();
    all.dedup();
    all
}

fn chain(attributes: &[u8], family: Family) -> Option<(u32, Hooked)> {
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    let hook = attribute(attributes, CHAIN_HOOK)?;
    let policy = attribute(attributes, CHAIN_POLICY).and_then(number);
    let chain = Hooked {
        family,
        table: text(attribute(attributes, CHAIN_TABLE)?),
        name: text(attribute(attributes, CHAIN_NAME)?),
        priority: attribute(hook, HOOK_PRIORITY).and_then(number)?.cast_signed(),
        policy: if policy == Some(DROP) { Policy::Drop } else { Policy::Accept },
    };
    Some((attribute(hook, HOOK_NUMBER).and_then(number)?, chain))
}

/// Returns a hook's number (enum nf_inet_hooks).
fn number_of(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
        Hook::Ingress => 5,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLA_HEADER_SIZE;

    use super::*;

    fn attribute_of(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(NLA_HEADER_SIZE + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_chain_that_cannot_be_read_is_not_passed_over() {
        let names = [attribute_of(CHAIN_TABLE, b"t\0"), attribute_of(CHAIN_NAME, b"c\0")].concat();
        let read = |hook: Option<&[u8]>| {
            let hook = hook.map(|hook| attribute_of(CHAIN_HOOK, hook)).unwrap_or_default();
            let one = called(&[names.clone(), hook].concat(), Family::Inet);
            read::all(one.into_iter().collect(), || "the chains".into())
        };
        assert_eq!(read(None).unwrap(), [], "the kernel does not call it");
        let hook = [attribute_of(HOOK_NUMBER, &[0, 0, 0, 2]), attribute_of(HOOK_PRIORITY, &[0; 4])].concat();
        assert_eq!(read(Some(&hook)).unwrap()[0].hook, 2);
        for hook in [&hook[..8], &hook[8..], &hook[1..], &[]] {
            assert!(read(Some(hook)).is_err(), "{hook:?}");
        }
    }
}
