//! Typed nf_tables objects, sent to the kernel as one atomic transaction.
//!
//! A [`Transaction`] lists what should be created and deleted; [`Socket::commit`] sends it as one
//! batch on a blocking netlink socket, and either all of it happens or nothing. A refusal names the
//! object that caused it. No process is spawned and nothing is read back, apart from the few
//! questions [`Socket`] answers in constant time: is there this table, this set element, which
//! rules has this one chain.
//!
//! The messages are those of `netlink-packet-netfilter`; what that crate has no type for is encoded
//! in [`expr`] and checked against `linux/netfilter/nf_tables.h` by listing it with `nft`.

pub mod answers;
mod compare;
pub mod conntrack;
mod encode;
mod error;
mod expire;
pub mod expr;
mod hooked;
mod keys;
mod known;
mod list;
mod message;
mod monitor;
mod object;
mod read;
mod set;
mod socket;
mod transaction;
mod userdata;

pub use error::Error;
pub use expr::Expr;
pub use hooked::{Called, Hooked};
pub use known::Known;
pub use monitor::Monitor;
pub use object::{Base, Chain, ChainKind, Family, Hook, Policy, Rule, RuleInfo, Table};
pub use set::{Data, Element, FoundElement, Key, Set, Type, Values};
pub use socket::{Socket, is_usable};
pub use transaction::Transaction;
