//! What weft asks of the host's firewall, and the layouts it is written in.
//!
//! A plan carries a [`Fragment`], which is data. [`ensure`] makes it so, [`remove`] takes it back,
//! [`observe`] says what is missing. The default backend spawns no process, reads no ruleset back, and
//! in the steady state changes nothing: one question to the kernel tells that the network is
//! known already.
//!
//! Our own rules are in `table inet weft` and `table bridge weft`; no other table is touched unless the
//! configuration asks for upstream's layout.

mod admission;
mod apart;
mod backend;
mod claim;
mod elements;
mod entry;
mod error;
mod exact;
mod firewalld;
mod flows;
mod foreign;
mod fragment;
mod inherited;
mod iptables;
mod layout;
mod localnet;
mod loopback;
mod mend;
mod network;
mod part;
mod publish;
mod spoof;
mod strangers;
mod table;
mod tunnels;
mod upstream;
mod upstream_ports;
mod weft;

use std::path::Path;

use weft_model::Endpoint;
use weft_nft::{Socket, Table};

pub use admission::{Admission, Carrier, Ingress, holders as admitted_of};
pub use backend::Backend;
pub use error::FirewallError;
pub use firewalld::TRUSTED as FIREWALLD_ZONE;
pub use fragment::{
    Conditions, Fragment, Guard, Hairpin, Isolation, Localnet, Loopback, Masquerade, Occupied, Publish,
    SourceAddress, SpoofCheck,
};

pub use inherited::{Departed, Survivors, collect, disinherit};
pub use mend::{Problem, diagnose, holders, release, reload};

pub use iptables::admission::ADMIN_CHAIN as IPTABLES_ADMIN_CHAIN;
pub use iptables::tool::is_chain_name;
pub use layout::bridge::APART;

pub use elements::{Elements, Network as ElementsOf};
pub use strangers::{Ours, Stranger, read_answers};
pub use tunnels::{Tunnels, UPLINKS};

use claim::{Claims, Way};
use iptables::masquerade as iptables_masquerade;

/// Whether ensuring something changed the host or was the first to claim what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not there and is now.
    Made,
    /// It was there.
    AlreadyThere,
}

/// Makes a fragment so.
///
/// # Errors
///
/// When the kernel or iptables refuses, or an ownership record cannot be written. Nothing is left half
/// done: each backend makes its change as one transaction.
pub fn ensure(fragment: &Fragment) -> Result<Change, FirewallError> {
    Firewall::new().ensure(fragment)
}

/// Takes a fragment back. What is not there is no error.
///
/// # Errors
///
/// When the kernel or iptables refuses. As much as possible is removed all the same, and the first
/// refusal is returned.
pub fn remove(fragment: &Fragment) -> Result<(), FirewallError> {
    Firewall::new().remove(fragment)
}

/// Returns what of a fragment is missing, a line each; nothing when it is in place.
///
/// # Errors
///
/// When the kernel or iptables refuses to answer.
pub fn observe(fragment: &Fragment) -> Result<Vec<String>, FirewallError> {
    Firewall::new().observe(fragment)
}

/// Tells whether a fragment that was ensured is among what [`reload`] writes again and [`diagnose`] looks at by the books, so
/// that nobody need ask for it once more. What our own backend has is cheap to ask for, and never is.
pub fn is_on_record(fragment: &Fragment) -> bool {
    let noted = |demand: &weft::Demand<'_>| {
        demand.claims.is_by_iptables(demand.network)
            && demand.entries.iter().all(|entry| demand.claims.has(demand.network, entry))
    };
    match fragment {
        Fragment::Masquerade(one) => {
            let way = match one.backend {
                Backend::Weft => return false,
                Backend::UpstreamNftables => Way::Nftables,
                Backend::Iptables => Way::Iptables,
            };
            let known =
                |endpoint: &Endpoint| Claims(&one.claims).is_masqueraded(way, endpoint, &one.addresses);
            one.endpoint.as_ref().is_some_and(known)
        }
        Fragment::SpoofCheck(one) => {
            let known = Claims(&one.claims).spoof_check_of(&one.host_ifname);
            known.is_some_and(|(endpoint, mac)| endpoint == one.endpoint && Some(mac) == one.mac)
        }
        Fragment::Isolation(one) => one.backend == Backend::Iptables && noted(&one.demand()),
        Fragment::Guard(one) => {
            one.backend == Backend::Iptables && !one.keeps_ports_apart() && noted(&one.demand())
        }
        _ => false,
    }
}

/// Returns the attachments that have something of their own on record, whatever it is, each as often as it has: those that are
/// let through, those that are masqueraded in upstream's ways, and those whose senders are checked.
pub fn on_record(claims: &Path) -> Vec<Endpoint> {
    let books = Claims(claims);
    let mut all = admission::on_record(claims);
    for way in [Way::Iptables, Way::Nftables] {
        let masqueraded = books.masqueraded(way).unwrap_or_default();
        all.extend(masqueraded.into_iter().map(|(endpoint, _)| endpoint));
    }
    all.extend(books.spoof_checks().unwrap_or_default().into_iter().map(|(_, endpoint, _)| endpoint));
    all
}

/// A firewall in the network namespace of the thread that first uses it. It opens its socket when it
/// needs one and keeps it, so that several fragments share it.
#[derive(Debug, Default)]
pub struct Firewall {
    socket: Option<Socket>,
}

impl Firewall {
    /// Returns a firewall that has done nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a fragment so.
    ///
    /// # Errors
    ///
    /// As [`ensure`].
    pub fn ensure(&mut self, fragment: &Fragment) -> Result<Change, FirewallError> {
        match fragment {
            Fragment::Masquerade(masquerade) => match masquerade.backend {
                Backend::Weft => weft::ensure(self.socket(layout::INET)?, &masquerade.demand()),
                Backend::UpstreamNftables => upstream::ensure(self.socket(upstream::TABLE)?, masquerade),
                Backend::Iptables => iptables_masquerade::ensure(masquerade),
            },
            Fragment::Isolation(isolation) => self.ensure_fence(isolation.backend, &isolation.demand()),
            Fragment::SpoofCheck(check) => spoof::ensure(self.socket(layout::BRIDGE)?, check),
            Fragment::Admission(admission) => admission::ensure(self, admission),
            Fragment::Publish(publish) => publish::ensure(self, publish),
            Fragment::Hairpin(hairpin) => self.ensure_for_network(hairpin.backend, &hairpin.demand()),
            Fragment::Loopback(wanted) => loopback::ensure(self, wanted),
            Fragment::Localnet(wanted) => localnet::ensure(self, wanted),
            Fragment::Guard(guard) => self.ensure_guard(guard),
            Fragment::SourceAddress(source) => self.ensure_for_network(source.backend, &source.demand()),
        }
    }

    /// Returns what brings back what stands before [`Firewall::ensure`] replaces it. Of most fragments several stand beside
    /// each other, and nothing is replaced.
    pub fn present(&self, fragment: &Fragment) -> Option<Fragment> {
        match fragment {
            Fragment::Publish(wanted) => publish::present(wanted).map(Box::new).map(Fragment::Publish),
            _ => None,
        }
    }

    /// Takes a fragment back.
    ///
    /// # Errors
    ///
    /// As [`remove`].
    pub fn remove(&mut self, fragment: &Fragment) -> Result<(), FirewallError> {
        match fragment {
            Fragment::Masquerade(masquerade) => match &masquerade.endpoint {
                Some(_) => self.remove_attachment(masquerade),
                None => self.drop_for_network(&masquerade.network, &masquerade.claims, &entry::MASQUERADING),
            },
            Fragment::Isolation(isolation) => {
                self.drop_for_network(&isolation.network, &isolation.claims, &entry::ISOLATION)
            }
            Fragment::Admission(admission) => admission::remove(self, admission),
            Fragment::Publish(publish) => publish::remove(self, publish),
            Fragment::Hairpin(hairpin) => {
                self.drop_for_network(&hairpin.network, &hairpin.claims, &entry::HAIRPIN)
            }
            Fragment::Loopback(wanted) => loopback::remove(self, wanted),
            Fragment::Localnet(wanted) => localnet::remove(self, wanted),
            Fragment::Guard(guard) => self.remove_guard(guard),
            Fragment::SourceAddress(source) => {
                self.drop_for_network(&source.network, &source.claims, &entry::SOURCE)
            }
            Fragment::SpoofCheck(check) => match self.socket(layout::BRIDGE) {
                Ok(socket) => spoof::remove(socket, check),
                Err(error) => without_nftables(error),
            },
        }
    }

    /// Returns what of a fragment is missing.
    ///
    /// # Errors
    ///
    /// As [`observe`].
    pub fn observe(&mut self, fragment: &Fragment) -> Result<Vec<String>, FirewallError> {
        match fragment {
            Fragment::Masquerade(masquerade) => match masquerade.backend {
                Backend::Weft => self.observe_masquerade(masquerade),
                Backend::UpstreamNftables => upstream::observe(self.socket(upstream::TABLE)?, masquerade),
                Backend::Iptables => iptables_masquerade::observe(masquerade),
            },
            Fragment::Isolation(isolation) => self.observe_fence(isolation.backend, &isolation.demand()),
            Fragment::SpoofCheck(check) => spoof::observe(self.socket(layout::BRIDGE)?, check),
            Fragment::Admission(admission) => admission::observe(self, admission),
            Fragment::Publish(publish) => publish::observe(self, publish),
            Fragment::Loopback(wanted) => loopback::observe(self, wanted),
            Fragment::Localnet(wanted) => localnet::observe(self, wanted),
            Fragment::Hairpin(hairpin) => self.observe_for_network(hairpin.backend, &hairpin.demand()),
            Fragment::Guard(guard) => self.observe_guard(guard),
            Fragment::SourceAddress(source) => self.observe_for_network(source.backend, &source.demand()),
        }
    }

    /// What our table lacks may be upstream's to do, for a container that was there before us.
    fn observe_masquerade(&mut self, masquerade: &Masquerade) -> Result<Vec<String>, FirewallError> {
        let missing = weft::observe(self.socket(layout::INET)?, &masquerade.demand())?;
        let Some(endpoint) = masquerade.endpoint.as_ref().filter(|_| !missing.is_empty()) else {
            return Ok(missing);
        };
        if !inherited::masquerades(self.socket(layout::INET)?, endpoint) {
            return Ok(missing);
        }
        let by_upstream = iptables_masquerade::observe(masquerade)?;
        Ok(if by_upstream.is_empty() { by_upstream } else { missing })
    }

    /// Writes `table inet weft` anew from the ownership records, in one transaction: what a flush took
    /// away comes back, and what nobody owns goes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses or the records cannot be read.
    pub fn rebuild(&mut self, claims: &Path) -> Result<(), FirewallError> {
        weft::rebuild(self.socket(layout::INET)?, &Claims(claims))
    }

    /// Takes back what any backend may have for one attachment, whichever the configuration names
    /// now. iptables is only started when it is named or when our records say it was used.
    fn remove_attachment(&mut self, masquerade: &Masquerade) -> Result<(), FirewallError> {
        let nftables = match self.socket(upstream::TABLE) {
            Ok(socket) => upstream::remove(socket, masquerade),
            Err(error) => without_nftables(error),
        };
        let iptables = iptables_masquerade::remove(masquerade);
        nftables.and(iptables)
    }

    /// Returns how many messages the kernel was sent, which is most of what this costs.
    pub fn messages(&self) -> u32 {
        self.socket.as_ref().map_or(0, Socket::messages)
    }

    /// Returns the socket, for `table inet weft`.
    pub(crate) fn inet(&mut self) -> Result<&mut Socket, FirewallError> {
        self.socket(layout::INET)
    }

    fn socket(&mut self, table: Table) -> Result<&mut Socket, FirewallError> {
        match &mut self.socket {
            Some(socket) => Ok(socket),
            empty => {
                let socket = Socket::open().map_err(|source| table::refused(table, source))?;
                Ok(empty.insert(socket))
            }
        }
    }
}

/// Where netfilter sockets cannot even be opened, no nf_tables rule can be left either.
fn without_nftables(error: FirewallError) -> Result<(), FirewallError> {
    match &error {
        FirewallError::Nft { source: weft_nft::Error::Open(errno), .. } if error::is_lacking(*errno) => {
            Ok(())
        }
        _ => Err(error),
    }
}
