//! What a network is on this host. The configuration names it, and what is known says the rest.

use weft_cni::{Code, Failure};
use weft_model::{Mac, NetworkName};
use weft_overlay::desired::Refused;
use weft_overlay::here::{self, Found};
use weft_overlay::local::LocalNetwork;
use weft_plugin::{Call, Verb};
use weft_state::Root;

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The network's name.
    pub network: NetworkName,
    /// The network on this host. Where things are taken apart, it may be known no more.
    pub local: Option<LocalNetwork>,
    /// Where our files are.
    pub root: Root,
    /// The container's Ethernet address, when somebody asked for one.
    pub mac: Option<Mac>,
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// Code 11 when this host has no such network (yet), 7 when it cannot have it, as without the secret of an encrypted one. Nothing that is
    /// only taken apart is refused.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let local = local(call)?;
        let mac = match (call.requested_mac(), call.verb) {
            (Ok(None), Verb::Add) => Some(Mac::random()),
            (Err(_), Verb::Del | Verb::Gc) => None,
            (requested, _) => requested?,
        };
        let settings = Self { network: call.conf.name.clone(), local, root: call.root.clone(), mac };
        match call.verb {
            Verb::Add => settings.sealed()?,
            Verb::Check => settings.required().map(drop)?,
            _ => {}
        }
        Ok(settings)
    }

    /// Returns the network, for what cannot do without.
    ///
    /// # Errors
    ///
    /// Code 11 when this host has no such network (yet), or is letting go of it.
    pub fn required(&self) -> Result<&LocalNetwork, Failure> {
        let local = self.local.as_ref().ok_or_else(|| self.unknown())?;
        if local.closing {
            let text = format!("overlay network {} is being removed", self.network);
            return Err(Failure::text(Code::TryAgainLater, text)
                .with_hint(Some("weft network ls tells whether it still exists".into())));
        }
        Ok(local)
    }

    /// Refuses a container that would reach nobody: without the secret there is no mesh on this host.
    fn sealed(&self) -> Result<(), Failure> {
        let local = self.required()?;
        if !local.secure || here::has_secret(&self.root) {
            return Ok(());
        }
        Err(cannot_be(&Refused {
            network: local.name.clone(),
            id: local.id,
            why: "it is encrypted, and this host has no cluster secret".into(),
            hint: "weft overlay leave, and join with --secret".into(),
        }))
    }

    pub(crate) fn unknown(&self) -> Failure {
        unknown(&self.network)
    }
}

/// Returns what the network is on this host.
pub(crate) fn local(call: &Call) -> Result<Option<LocalNetwork>, Failure> {
    let dismantles = call.dismantles();
    match here::network(&call.root, &call.conf.name) {
        Ok(Found::Here(local)) => Ok(Some(*local)),
        Ok(Found::Refused(refused)) if !dismantles => Err(cannot_be(&refused)),
        Ok(_) => Ok(None),
        Err(_) if dismantles => Ok(None),
        Err(error) => Err(Failure::new(Code::Io, error)),
    }
}

/// A network that this host knows nothing of. The cluster may tell it the next moment.
pub(crate) fn unknown(network: &NetworkName) -> Failure {
    let hint = "weft overlay status shows the networks of this host; static peers are in /etc/weft/overlay";
    Failure::text(Code::TryAgainLater, format!("this host takes no part in overlay network {network} (yet)"))
        .with_hint(Some(hint.into()))
}

/// A network that this host takes part in and cannot have.
pub(crate) fn cannot_be(refused: &Refused) -> Failure {
    let text = format!("network {} cannot be on this host: {}", refused.network, refused.why);
    Failure::text(Code::InvalidConfig, text).with_hint(Some(refused.hint.clone()))
}
