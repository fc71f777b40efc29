//! Publishing: books first, then whoever carries the rules, then the books again.

use crate::fragment::Publish;
use crate::{Change, Firewall, FirewallError};

/// Brings an attachment from whatever it published to exactly what the fragment says.
pub(crate) fn ensure(_firewall: &mut Firewall, publish: &Publish) -> Result<Change, FirewallError> {
    let mut change = publish.books().change(&publish.endpoint)?;
    let before = change.confirmed().cloned();
    let claimed = change.claim(publish.owner()?, &publish.choices, &mut |protocol, host, port| {
        publish.is_free(protocol, host, port)
    })?;
    change.confirm(&claimed)?;
    Ok(if before.as_ref() == Some(&claimed.owner) { Change::AlreadyThere } else { Change::Made })
}

/// Takes back everything that the attachment publishes.
pub(crate) fn remove(_firewall: &mut Firewall, publish: &Publish) -> Result<(), FirewallError> {
    Ok(publish.books().change(&publish.endpoint)?.forget()?)
}

/// Returns what is missing.
pub(crate) fn observe(_firewall: &mut Firewall, publish: &Publish) -> Result<Vec<String>, FirewallError> {
    let owner = publish.books().owner(&publish.endpoint.container, &publish.endpoint.ifname);
    Ok(if owner.is_none() { vec![format!("claims of {}", publish.endpoint)] } else { Vec::new() })
}
