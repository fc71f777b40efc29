//! Whether what the kernel lists is something that we write.

use std::collections::BTreeMap;

use crate::compare::{covers, steps};
use crate::transaction::Change;
use crate::{Family, RuleInfo, Transaction};

/// Rules and chains that may be there, by what would make them.
#[derive(Debug, Default)]
pub struct Known {
    /// By family and name of the table and name of the chain.
    chains: BTreeMap<(String, String, String), Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    is_base: bool,
    /// Comment and expressions of each rule.
    rules: Vec<(Option<String>, Vec<u8>)>,
}

impl Known {
    /// Adds what a transaction makes.
    pub fn add(&mut self, transaction: &Transaction) {
        for change in &transaction.changes {
            match change {
                Change::AddChain(chain, _) => {
                    self.chain(chain.table, &chain.name).is_base |= chain.base.is_some();
                }
                Change::AddRule(rule) | Change::InsertRule(rule) => {
                    let (comment, steps) = (rule.comment.clone(), steps(rule));
                    let rules = &mut self.chain(rule.table, &rule.chain).rules;
                    if !rules.iter().any(|known| known.0 == comment && known.1 == steps) {
                        rules.push((comment, steps));
                    }
                }
                _ => {}
            }
        }
    }

    fn chain(&mut self, table: crate::Table, name: &str) -> &mut Chain {
        self.chains.entry((table.family.to_string(), table.name.into(), name.into())).or_default()
    }

    fn find(&self, family: Family, table: &str, chain: &str) -> Option<&Chain> {
        self.chains.get(&(family.to_string(), table.into(), chain.into()))
    }

    /// Returns whether a chain that the kernel calls is one of these.
    pub fn has_base(&self, family: Family, table: &str, chain: &str) -> bool {
        self.find(family, table, chain).is_some_and(|chain| chain.is_base)
    }

    /// Returns the chains of a table.
    pub fn chains_of(&self, family: Family, table: &str) -> impl Iterator<Item = &str> {
        let family = family.to_string();
        let of_table = move |key: &&(String, String, String)| key.0 == family && key.1 == table;
        self.chains.keys().filter(of_table).map(|(_, _, chain)| chain.as_str())
    }

    /// Returns whether a rule is one of any chain's.
    pub(crate) fn has_anywhere(&self, rule: &RuleInfo) -> bool {
        self.chains.values().flat_map(|chain| &chain.rules).any(|(_, steps)| covers(steps, &rule.steps))
    }

    /// Returns whether a rule of a chain is one of these.
    pub fn has_rule(&self, family: Family, table: &str, chain: &str, rule: &RuleInfo) -> bool {
        let same = |(comment, steps): &(Option<String>, Vec<u8>)| {
            *comment == rule.comment && covers(steps, &rule.steps)
        };
        self.find(family, table, chain).is_some_and(|chain| chain.rules.iter().any(same))
    }
}
