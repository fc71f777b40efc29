//! The configuration as written, then as meant.

use std::path::PathBuf;

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_firewall::{Backend, FirewallError};
use weft_model::{Mac, Mtu, NetworkName, NumberError};
use weft_plugin::{Call, Verb, masquerade_backend};

/// The configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    ip_masq: bool,
    ip_masq_backend: Option<String>,
    mtu: i64,
}

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The network's name, which the firewall's records carry.
    pub network: NetworkName,
    /// Who masquerades outgoing traffic; absent means that packets leave with the container's address.
    pub masquerade: Option<Backend>,
    /// Where the firewall keeps its ownership records.
    pub claims: PathBuf,
    /// The MTU of both ends; absent means the uplink's, and without an uplink Ethernet's.
    pub mtu: Option<Mtu>,
    /// The Ethernet address of the container's end, drawn by ADD.
    pub mac: Option<Mac>,
}

/// Why a configuration is not legal.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// A link between two machines needs an address at either end. The words are those of the reference plugin.
    #[error("no plugin name provided")]
    NoAddresses,
    /// The MTU is out of range.
    #[error("{0}")]
    Mtu(NumberError),
    /// The masquerading backend is unknown.
    #[error("{0}")]
    Backend(FirewallError),
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. DEL takes apart what follows from the endpoint and minds nothing.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let conf = match call.conf.conf::<Conf>() {
            Err(_) if call.dismantles() => Conf::default(),
            conf => conf?,
        };
        conf.settle(call).map_err(|error| {
            let hint = match error {
                ConfError::NoAddresses => Some("give the network an \"ipam\" with a \"type\"".into()),
                ConfError::Mtu(_) | ConfError::Backend(_) => None,
            };
            Failure::new(Code::InvalidConfig, error).with_hint(hint)
        })
    }
}

impl Conf {
    fn settle(self, call: &Call) -> Result<Settings, ConfError> {
        let (addressed, dismantles) = (call.conf.ipam_type().is_some(), call.dismantles());
        if !addressed && !dismantles {
            return Err(ConfError::NoAddresses);
        }
        let mtu = match Mtu::written(self.mtu) {
            Err(_) if dismantles => None,
            mtu => mtu.map_err(ConfError::Mtu)?,
        };
        let backend = self.ip_masq_backend.as_deref();
        let (network, claims) = (call.conf.name.clone(), call.root.masquerade_dir());
        let usual = || Backend::usual_of(&network, &claims);
        let masquerade = masquerade_backend(backend, self.ip_masq, addressed, dismantles, usual)
            .map_err(ConfError::Backend)?;
        Ok(Settings { network, masquerade, claims, mtu, mac: (call.verb == Verb::Add).then(Mac::random) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(verb: Verb, keys: &str) -> Result<Settings, Failure> {
        let stdin = format!(r#"{{"name": "net"{keys}}}"#);
        Settings::of(&Call::read(verb, stdin.as_bytes()).unwrap())
    }

    #[test]
    fn nothing_written_is_the_reference_plugins_default() {
        let settings = settle(Verb::Add, r#", "ipam": {"type": "host-local"}"#).unwrap();
        assert_eq!((settings.masquerade, settings.mtu), (None, None));
        assert!(settings.mac.is_some());
    }

    #[test]
    fn bad_configurations_are_refused_by_name_unless_things_are_taken_apart() {
        let table = [
            ("", "no plugin name provided"),
            (r#", "ipam": {}"#, "no plugin name provided"),
            (r#", "ipam": {"type": "x"}, "mtu": 3"#, "MTU 3 is not between 68 and 65535"),
            (
                r#", "ipam": {"type": "x"}, "ipMasq": true, "ipMasqBackend": "pf""#,
                "unknown ipmasq backend \"pf\"",
            ),
        ];
        for (keys, text) in table {
            let failure = settle(Verb::Add, keys).unwrap_err();
            assert_eq!((failure.code, failure.msg.as_str()), (Code::InvalidConfig, text), "{keys}");
            settle(Verb::Del, keys).unwrap();
        }
    }
}
