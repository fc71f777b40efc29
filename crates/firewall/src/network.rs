//! What belongs to a network and to no attachment: fences around it, and what its attachments' rules refer to.

use std::path::Path;

use weft_model::NetworkName;

use crate::claim::Claims;
use crate::entry::{self, Entry};
use crate::iptables::forward;
use crate::part::Part;
use crate::weft::{self, Demand};
use crate::{Backend, Change, Firewall, FirewallError, Guard, apart, foreign};

impl Firewall {
    /// Isolation and the guard. The reference plugins have neither, so their layout says nothing about these.
    pub(crate) fn ensure_fence(
        &mut self,
        backend: Backend,
        demand: &Demand<'_>,
    ) -> Result<Change, FirewallError> {
        if backend == Backend::Iptables {
            let change = forward::ensure(demand)?;
            if change == Change::Made {
                self.introduce(&demand.claims)?;
            }
            return Ok(change);
        }
        let change = weft::ensure(self.inet()?, demand)?;
        if change == Change::Made {
            forward::follow(&demand.claims)?;
            self.introduce(&demand.claims)?;
        }
        Ok(change)
    }

    /// Where there are no nf_tables, there is no guard of ours in them.
    fn introduce(&mut self, claims: &Claims<'_>) -> Result<(), FirewallError> {
        self.inet().map_or(Ok(()), |socket| weft::introduce(socket, claims))
    }

    /// Other filters are looked at when the network's first rule is written: that takes too long for every ADD.
    pub(crate) fn ensure_guard(&mut self, guard: &Guard) -> Result<Change, FirewallError> {
        let change = self.ensure_fence(guard.backend, &guard.demand())?;
        if change == Change::Made && guard.backend != Backend::Iptables {
            foreign::let_pass(self, &guard.claims, &guard.network, &guard.bridge);
        }
        if guard.keeps_ports_apart() {
            apart::ensure(self.inet()?)?;
        }
        Ok(change)
    }

    pub(crate) fn remove_guard(&mut self, guard: &Guard) -> Result<(), FirewallError> {
        let outcome = self.drop_for_network(&guard.network, &guard.claims, &entry::GUARD);
        outcome.and(foreign::close(&guard.claims))
    }

    pub(crate) fn observe_guard(&mut self, guard: &Guard) -> Result<Vec<String>, FirewallError> {
        let mut missing = self.observe_fence(guard.backend, &guard.demand())?;
        if guard.keeps_ports_apart() {
            missing.extend(apart::missing(self.inet()?)?);
        }
        Ok(missing)
    }

    pub(crate) fn observe_fence(
        &mut self,
        backend: Backend,
        demand: &Demand<'_>,
    ) -> Result<Vec<String>, FirewallError> {
        match backend {
            Backend::Iptables => forward::observe(demand),
            Backend::Weft | Backend::UpstreamNftables => weft::observe(self.inet()?, demand),
        }
    }

    /// What the rules of a network's attachments refer to. Other layouts than ours have it in these rules.
    pub(crate) fn ensure_for_network(
        &mut self,
        backend: Backend,
        demand: &Demand<'_>,
    ) -> Result<Change, FirewallError> {
        match backend {
            Backend::Iptables | Backend::UpstreamNftables => demand.claim(),
            Backend::Weft => weft::ensure(self.inet()?, demand),
        }
    }

    pub(crate) fn observe_for_network(
        &mut self,
        backend: Backend,
        demand: &Demand<'_>,
    ) -> Result<Vec<String>, FirewallError> {
        match backend {
            Backend::Iptables | Backend::UpstreamNftables => Ok(Vec::new()),
            Backend::Weft => weft::observe(self.inet()?, demand),
        }
    }

    /// Drops what a network claims of these kinds, from wherever its rules are: the configuration may name
    /// another place by now.
    pub(crate) fn drop_for_network(
        &mut self,
        network: &NetworkName,
        claims: &Path,
        kinds: &[&str],
    ) -> Result<(), FirewallError> {
        let claims = Claims(claims);
        let by_iptables = claims.is_by_iptables(network);
        let entries = claims.drop_all(network, kinds)?;
        if entries.is_empty() {
            return Ok(());
        }
        let fences = entries.iter().any(|entry| kinds_of_fences().any(|kind| kind == entry.kind()));
        if by_iptables {
            if fences {
                forward::write(&claims)?;
            }
            let inside: Vec<_> =
                entries.into_iter().filter(|entry| matches!(entry, Entry::Inside(_))).collect();
            if !inside.is_empty()
                && let Ok(socket) = self.inet()
                && Part::Forward.is_there(socket).unwrap_or_default()
            {
                weft::remove(socket, &claims, &inside)?;
            }
            return Ok(());
        }
        weft::remove(self.inet()?, &claims, &entries)?;
        if entries.iter().any(|entry| matches!(entry, Entry::NoIcc(_))) {
            apart::retire(self.inet()?, &claims)?;
        }
        if fences { forward::follow(&claims) } else { Ok(()) }
    }
}

fn kinds_of_fences() -> impl Iterator<Item = &'static str> {
    entry::ISOLATION.into_iter().chain(entry::GUARD)
}
