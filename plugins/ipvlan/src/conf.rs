//! The configuration as written, then as meant.

use serde::Deserialize;
use weft_cni::{Code, Failure, NetworkResult, Verb};
use weft_plan::ipvlan::{Flag, Ipvlan, Mode};
use weft_plugin::{Call, Leases, Master};

/// The configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    master: Option<String>,
    mode: Option<String>,
    flag: Option<String>,
    mtu: i64,
    link_in_container: bool,
}

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The link below, and the MTU.
    pub master: Master,
    /// What the container's link is.
    pub link: Ipvlan,
    /// The addresses and routes of the plugin before this one, which are used where there is no IPAM plugin.
    pub inherited: Option<Leases>,
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. What takes things apart minds nothing.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let written = || {
            // On CHECK and DEL the result is that of the whole chain, this plugin's own included.
            let previous = match call.verb {
                Verb::Add => call.conf.prev_result()?,
                _ => None,
            };
            let settings = call.conf.conf::<Conf>()?.settle(previous)?;
            let addressed = call.conf.ipam_type().is_some();
            if call.verb == Verb::Add && !addressed && settings.inherited.is_none() {
                let text = "no plugin name provided";
                let hint =
                    "without addresses of a plugin before it, ipvlan needs an \"ipam\" with a \"type\"";
                return Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint.into())));
            }
            Ok(Self { inherited: settings.inherited.filter(|_| !addressed), ..settings })
        };
        match written() {
            Err(_) if call.dismantles() => Conf::default().settle(None),
            settings => settings,
        }
    }
}

impl Conf {
    fn settle(self, previous: Option<NetworkResult>) -> Result<Settings, Failure> {
        let refuse = |text: String| Failure::text(Code::InvalidConfig, text);
        let named = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let mode = named(&self.mode).map(|mode| {
            let hint = format!("its values are {}", Mode::ALL.map(Mode::as_str).join(", "));
            let unknown = || refuse(format!("unknown ipvlan mode: {mode:?}")).with_hint(Some(hint.clone()));
            mode.parse().map_err(|()| unknown())
        });
        let flag = named(&self.flag).map(|flag| {
            let hint = format!("its values are {}", Flag::ALL.map(Flag::as_str).join(", "));
            let unknown = || refuse(format!("unknown ipvlan flag: {flag:?}")).with_hint(Some(hint.clone()));
            flag.parse().map_err(|()| unknown())
        });
        let link = Ipvlan {
            mode: mode.transpose()?.unwrap_or_default(),
            flag: flag.transpose()?.unwrap_or_default(),
        };
        let master = match (named(&self.master), &previous) {
            (None, Some(previous)) => Some(only_interface(previous)?),
            (master, _) => master,
        };
        Ok(Settings {
            master: Master::of(master.as_deref(), self.link_in_container, self.mtu)?,
            link,
            inherited: previous.filter(|previous| !previous.ips.is_empty()).map(Leases::from),
        })
    }
}

/// Returns the interface that the plugin before this one has made.
fn only_interface(previous: &NetworkResult) -> Result<String, Failure> {
    match &previous.interfaces[..] {
        [only] if !only.name.is_empty() => Ok(only.name.clone()),
        _ => {
            let text = "chained master failure. PrevResult lacks a single named interface";
            Err(Failure::text(Code::InvalidConfig, text).with_hint(Some("name the link: \"master\"".into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(verb: Verb, keys: &str) -> Call {
        let stdin = format!(r#"{{"name": "net"{keys}}}"#);
        Call::read(verb, stdin.as_bytes()).unwrap()
    }

    const IPAM: &str = r#""ipam": {"type": "x"}"#;

    #[test]
    fn nothing_written_is_the_reference_plugins_default() {
        let settings = Settings::of(&call(Verb::Add, &format!(", {IPAM}"))).unwrap();
        assert_eq!(settings.link, Ipvlan { mode: Mode::L2, flag: Flag::Bridge });
        assert_eq!((settings.master.name, settings.inherited), (None, None));
    }

    #[test]
    fn behind_another_plugin_its_interface_is_the_master_and_its_addresses_are_used() {
        let previous = r#""cniVersion": "1.0.0", "prevResult": {"cniVersion": "1.0.0",
            "interfaces": [{"name": "up0"}], "ips": [{"address": "10.1.2.3/24", "interface": 0}]}"#;
        let settings = Settings::of(&call(Verb::Add, &format!(", {previous}"))).unwrap();
        assert_eq!(settings.master.name.unwrap().as_str(), "up0");
        let ips = settings.inherited.unwrap().ips;
        assert_eq!((ips.len(), ips[0].interface), (1, None));
        let settings = Settings::of(&call(Verb::Add, &format!(", {previous}, {IPAM}"))).unwrap();
        assert_eq!(settings.inherited, None, "an IPAM plugin wins");
    }

    #[test]
    fn bad_configurations_are_refused_by_name_unless_things_are_taken_apart() {
        let two = r#""cniVersion": "1.0.0", "prevResult": {"cniVersion": "1.0.0",
            "interfaces": [{"name": "up0"}, {"name": "up1"}], "ips": [{"address": "10.1.2.3/24"}]}"#;
        let table = [
            (format!(r#", "mode": "l4", {IPAM}"#), "unknown ipvlan mode: \"l4\""),
            (format!(r#", "flag": "l4", {IPAM}"#), "unknown ipvlan flag: \"l4\""),
            (String::new(), "no plugin name provided"),
            (format!(", {two}"), "chained master failure. PrevResult lacks a single named interface"),
        ];
        for (keys, text) in table {
            let failure = Settings::of(&call(Verb::Add, &keys)).unwrap_err();
            assert_eq!((failure.code, failure.msg.as_str()), (Code::InvalidConfig, text), "{keys}");
            Settings::of(&call(Verb::Del, &keys)).unwrap();
        }
    }
}
