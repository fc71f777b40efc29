//! The configuration as written, then as meant.

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_plan::vlan::Vlan;
use weft_plugin::{Call, Master};

/// The configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    master: Option<String>,
    vlan_id: i64,
    mtu: i64,
    link_in_container: bool,
}

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The link below, and the MTU.
    pub master: Master,
    /// What the container's link is.
    pub link: Vlan,
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. What takes things apart minds nothing.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let written = || {
            let settings = call.conf.conf::<Conf>()?.settle()?;
            if call.conf.ipam_type().is_none() {
                let text = "failed to execute IPAM delegate: no plugin name provided";
                let hint = "give the network an \"ipam\" with a \"type\"";
                return Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint.into())));
            }
            Ok(settings)
        };
        match written() {
            Err(_) if call.dismantles() => {
                Ok(Self { master: Master::of(None, false, 0)?, link: Vlan { id: 0 } })
            }
            settings => settings,
        }
    }
}

impl Conf {
    fn settle(self) -> Result<Settings, Failure> {
        let refuse = |text: String| Failure::text(Code::InvalidConfig, text);
        if self.master.as_deref().unwrap_or_default().is_empty() {
            let text =
                "\"master\" field is required. It specifies the host interface name to create the VLAN for";
            return Err(refuse(text.into()));
        }
        // The text is upstream's, which allows 4094 at most.
        let id = u16::try_from(self.vlan_id).ok().filter(|id| *id <= 4094);
        let bad =
            || refuse(format!("invalid VLAN ID {} (must be between 0 and 4095 inclusive)", self.vlan_id));
        Ok(Settings {
            master: Master::of(self.master.as_deref(), self.link_in_container, self.mtu)?,
            link: Vlan { id: id.ok_or_else(bad)? },
        })
    }
}

#[cfg(test)]
mod tests {
    use weft_plugin::Verb;

    use super::*;

    fn call(verb: Verb, keys: &str) -> Call {
        let stdin = format!(r#"{{"name": "net"{keys}}}"#);
        Call::read(verb, stdin.as_bytes()).unwrap()
    }

    #[test]
    fn a_vlan_has_a_link_and_a_number() {
        let keys = r#", "master": "up0", "vlanId": 4094, "ipam": {"type": "x"}"#;
        let settings = Settings::of(&call(Verb::Add, keys)).unwrap();
        assert_eq!((settings.master.name.unwrap().as_str(), settings.link.id), ("up0", 4094));
    }

    #[test]
    fn bad_configurations_are_refused_by_name_unless_things_are_taken_apart() {
        let ipam = r#""ipam": {"type": "x"}"#;
        let table = [
            (
                format!(", {ipam}"),
                "\"master\" field is required. It specifies the host interface name to create the VLAN for",
            ),
            (
                format!(r#", "master": "up0", "vlanId": 4095, {ipam}"#),
                "invalid VLAN ID 4095 (must be between 0 and 4095 inclusive)",
            ),
            (
                format!(r#", "master": "up0", "vlanId": -1, {ipam}"#),
                "invalid VLAN ID -1 (must be between 0 and 4095 inclusive)",
            ),
            (r#", "master": "up0""#.into(), "failed to execute IPAM delegate: no plugin name provided"),
        ];
        for (keys, text) in table {
            let failure = Settings::of(&call(Verb::Add, &keys)).unwrap_err();
            assert_eq!(failure.code, Code::InvalidConfig, "{keys}");
            assert_eq!(failure.msg, text, "{keys}");
            Settings::of(&call(Verb::Del, &keys)).unwrap();
        }
    }
}
