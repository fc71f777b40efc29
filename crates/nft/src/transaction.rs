//! A list of changes that happen together or not at all.

use std::borrow::Cow;
use std::fmt;

use crate::{Chain, Element, Rule, Set, Table};

/// Whether an object may exist already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Fine,
    Refused,
}

/// What happens to elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Add(Existing),
    Delete,
    Expire,
}

#[derive(Clone, Debug)]
pub(crate) enum Change {
    AddTable(Table, Option<String>),
    DeleteTable(Table),
    AddChain(Chain, Existing),
    FlushChain(Table, Cow<'static, str>),
    DeleteChain(Table, Cow<'static, str>),
    AddRule(Rule),
    InsertRule(Rule),
    DeleteRule(Table, Cow<'static, str>, u64),
    AddSet(Set, Existing),
    FlushSet(Set),
    DeleteSet(Table, Cow<'static, str>),
    Elements(Set, Vec<Element>, Fate),
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable(table, _) | Self::DeleteTable(table) => write!(out, "table {table}"),
            Self::AddChain(chain, _) => chain.fmt(out),
            Self::FlushChain(table, name) | Self::DeleteChain(table, name) => {
                write!(out, "chain {table} {name}")
            }
            Self::AddRule(rule) | Self::InsertRule(rule) => {
                write!(out, "rule of chain {} {}", rule.table, rule.chain)
            }
            Self::DeleteRule(table, chain, handle) => write!(out, "rule {handle} of chain {table} {chain}"),
            Self::AddSet(set, _) | Self::FlushSet(set) => set.fmt(out),
            Self::DeleteSet(table, name) => write!(out, "set {table} {name}"),
            Self::Elements(set, ..) => write!(out, "element of {set}"),
        }
    }
}

/// Changes to the ruleset that happen together or not at all, in this order.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    pub(crate) changes: Vec<Change>,
    pub(crate) generation: Option<u32>,
}

impl Transaction {
    /// Returns a transaction that changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes the whole transaction depend on no other having happened since the ruleset had this
    /// generation ([`crate::Socket::generation`]). Otherwise it is refused with `ERESTART`.
    pub fn only_if_generation(&mut self, generation: u32) -> &mut Self {
        self.generation = Some(generation);
        self
    }

    /// Creates a table unless it exists.
    pub fn table(&mut self, table: Table, comment: Option<&str>) -> &mut Self {
        self.push(Change::AddTable(table, comment.map(str::to_owned)))
    }

    /// Deletes a table and everything in it.
    pub fn delete_table(&mut self, table: Table) -> &mut Self {
        self.push(Change::DeleteTable(table))
    }

    /// Creates a chain unless it exists.
    pub fn chain(&mut self, chain: &Chain) -> &mut Self {
        self.push(Change::AddChain(chain.clone(), Existing::Fine))
    }

    /// Creates a chain; if it exists the whole transaction is refused with `EEXIST`.
    pub fn new_chain(&mut self, chain: &Chain) -> &mut Self {
        self.push(Change::AddChain(chain.clone(), Existing::Refused))
    }

    /// Deletes the rules of a chain.
    pub fn flush_chain(&mut self, table: Table, chain: impl Into<Cow<'static, str>>) -> &mut Self {
        self.push(Change::FlushChain(table, chain.into()))
    }

    /// Deletes a chain, which must have neither rules nor jumps to it.
    pub fn delete_chain(&mut self, table: Table, chain: impl Into<Cow<'static, str>>) -> &mut Self {
        self.push(Change::DeleteChain(table, chain.into()))
    }

    /// Adds a rule at the end of its chain.
    pub fn rule(&mut self, rule: Rule) -> &mut Self {
        self.push(Change::AddRule(rule))
    }

    /// Adds a rule at the head of its chain.
    pub fn first_rule(&mut self, rule: Rule) -> &mut Self {
        self.push(Change::InsertRule(rule))
    }

    /// Deletes the rule of this handle.
    pub fn delete_rule(
        &mut self,
        table: Table,
        chain: impl Into<Cow<'static, str>>,
        handle: u64,
    ) -> &mut Self {
        self.push(Change::DeleteRule(table, chain.into(), handle))
    }

    /// Creates a set unless it exists.
    pub fn set(&mut self, set: &Set) -> &mut Self {
        self.push(Change::AddSet(set.clone(), Existing::Fine))
    }

    /// Creates a set; if it exists the whole transaction is refused with `EEXIST`.
    pub fn new_set(&mut self, set: &Set) -> &mut Self {
        self.push(Change::AddSet(set.clone(), Existing::Refused))
    }

    /// Deletes all elements of a set.
    pub fn flush_set(&mut self, set: &Set) -> &mut Self {
        self.push(Change::FlushSet(set.clone()))
    }

    /// Deletes a set with its elements. No rule may refer to it.
    pub fn delete_set(&mut self, table: Table, set: impl Into<Cow<'static, str>>) -> &mut Self {
        self.push(Change::DeleteSet(table, set.into()))
    }

    /// Adds elements unless they exist.
    pub fn elements(&mut self, set: &Set, elements: Vec<Element>) -> &mut Self {
        self.push_elements(set, elements, Fate::Add(Existing::Fine))
    }

    /// Adds elements; if one exists the whole transaction is refused with `EEXIST`.
    pub fn new_elements(&mut self, set: &Set, elements: Vec<Element>) -> &mut Self {
        self.push_elements(set, elements, Fate::Add(Existing::Refused))
    }

    /// Deletes elements, which must exist.
    ///
    /// KERNEL: closing any netfilter socket afterwards waits 7 to 16 ms for an RCU grace period
    /// (nft_rcv_nl_event, net/netfilter/nf_tables_api.c). [`Self::expire`] does not.
    pub fn delete_elements(&mut self, set: &Set, elements: Vec<Element>) -> &mut Self {
        self.push_elements(set, elements, Fate::Delete)
    }

    /// Lets elements of an expiring set run out at once.
    ///
    /// KERNEL: the timeout of an existing element can be changed since Linux 6.12; older kernels accept
    /// the message and ignore it. [`crate::Socket::expire`] looks and falls back to deleting.
    pub fn expire(&mut self, set: &Set, elements: Vec<Element>) -> &mut Self {
        self.push_elements(set, elements, Fate::Expire)
    }

    /// Adds all changes of another transaction.
    pub fn append(&mut self, mut other: Self) -> &mut Self {
        self.changes.append(&mut other.changes);
        self
    }

    /// Returns the sets that the transaction makes.
    pub fn sets(&self) -> impl Iterator<Item = &Set> {
        self.changes.iter().filter_map(|change| match change {
            Change::AddSet(set, _) => Some(set),
            _ => None,
        })
    }

    /// Returns how many messages the transaction is, which is what it costs.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Returns whether the transaction changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// An attribute's length has 16 bits: 64 elements with the longest keys and comments fit well.
    fn push_elements(&mut self, set: &Set, elements: Vec<Element>, fate: Fate) -> &mut Self {
        for part in elements.chunks(64) {
            self.changes.push(Change::Elements(set.clone(), part.to_vec(), fate));
        }
        self
    }

    fn push(&mut self, change: Change) -> &mut Self {
        self.changes.push(change);
        self
    }
}
