//! Publishing: books first, then whoever carries the rules, then the books again.

use crate::fragment::Publish;
use crate::{Backend, Change, Firewall, FirewallError, iptables, upstream_ports};

/// Brings an attachment from whatever it published to exactly what the fragment says.
pub(crate) fn ensure(_firewall: &mut Firewall, publish: &Publish) -> Result<Change, FirewallError> {
    let mut change = publish.books().change(&publish.endpoint)?;
    let before = change.confirmed().cloned();
    let claimed = change.claim(publish.owner()?, &publish.choices, &mut |protocol, host, port| {
        publish.is_free(protocol, host, port)
    })?;
    match publish.backend {
        Backend::Weft => {}
        Backend::Iptables => {
            iptables::publish::ensure(&publish.claims, &claimed.owner)?;
        }
        Backend::UpstreamNftables => {
            upstream_ports::ensure(&publish.claims, before.as_ref(), &claimed.owner)?;
        }
    }
    change.confirm(&claimed)?;
    Ok(if before.as_ref() == Some(&claimed.owner) { Change::AlreadyThere } else { Change::Made })
}

/// Takes back everything that the attachment publishes.
pub(crate) fn remove(_firewall: &mut Firewall, publish: &Publish) -> Result<(), FirewallError> {
    let mut change = publish.books().change(&publish.endpoint)?;
    let owner = change.confirmed().cloned();
    let backend = owner.as_ref().map_or(publish.backend, |owner| Backend::named(&owner.backend));
    match backend {
        Backend::Weft => {}
        Backend::Iptables => iptables::publish::remove(&publish.claims, &publish.endpoint)?,
        Backend::UpstreamNftables => {
            upstream_ports::remove(&publish.claims, &publish.endpoint, owner.as_ref())?;
        }
    }
    Ok(change.forget()?)
}

/// Returns what is missing.
pub(crate) fn observe(_firewall: &mut Firewall, publish: &Publish) -> Result<Vec<String>, FirewallError> {
    let owner = publish.books().owner(&publish.endpoint.container, &publish.endpoint.ifname);
    let Some(owner) = owner else { return Ok(vec![format!("claims of {}", publish.endpoint)]) };
    match Backend::named(&owner.backend) {
        Backend::Weft => Ok(Vec::new()),
        Backend::Iptables => iptables::publish::observe(&owner),
        Backend::UpstreamNftables => upstream_ports::observe(&owner),
    }
}
