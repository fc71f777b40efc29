//! What is wrong, noted until it is not any more, and said once.

use std::collections::BTreeMap;

use weft_overlay::NetworkId;

use super::agent::Agent;
use super::known::Inner;

impl Agent {
    /// Notes what is wrong with something, or that nothing is any more. It is said once.
    pub(crate) fn trouble(&self, about: &str, why: Option<String>) {
        self.change(|inner| match why {
            None => drop(inner.troubles.remove(about)),
            Some(why) => {
                if inner.troubles.get(about) != Some(&why) {
                    eprintln!("weftd: {why}");
                }
                inner.troubles.insert(about.into(), why);
            }
        });
    }

    /// Notes which networks cannot be had, and no others, for reasons of one kind.
    pub(crate) fn refuse(&self, kind: &'static str, refused: BTreeMap<NetworkId, String>) {
        let before = self.with(|inner| {
            inner.refusals.keys().filter(|key| key.0 == kind).map(|key| key.1).collect::<Vec<_>>()
        });
        for id in before {
            if !refused.contains_key(&id) {
                self.refuse_one(kind, id, None);
            }
        }
        for (id, why) in refused {
            self.refuse_one(kind, id, Some(why));
        }
    }

    /// Notes that a network cannot be had, or that it can. It is said once.
    pub(crate) fn refuse_one(&self, kind: &'static str, id: NetworkId, why: Option<String>) {
        self.change(|inner| match why {
            None => drop(inner.refusals.remove(&(kind, id))),
            Some(why) => {
                if inner.refusals.get(&(kind, id)) != Some(&why) {
                    let name = inner.snapshot.network(id).map(|network| network.name.to_string());
                    eprintln!(
                        "weftd: network {} is not to be had on this host: {why}",
                        name.unwrap_or_default()
                    );
                }
                inner.refusals.insert((kind, id), why);
            }
        });
    }
}

impl Inner {
    /// Returns why a network is not to be had on this host, if it is not.
    pub(crate) fn refused(&self, network: NetworkId) -> Option<&String> {
        self.refusals.iter().find(|((_, id), _)| *id == network).map(|(_, why)| why)
    }

    /// Returns whether a network is not to be had for a reason of this kind.
    pub(crate) fn is_refused_by(&self, kind: &'static str, network: NetworkId) -> bool {
        self.refusals.contains_key(&(kind, network))
    }

    /// Returns all networks that are not to be had on this host, and why.
    pub(crate) fn all_refused(&self) -> impl Iterator<Item = (NetworkId, &String)> {
        self.refusals.iter().map(|((_, id), why)| (*id, why))
    }
}
