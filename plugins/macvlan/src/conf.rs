//! The configuration as written, then as meant.

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_model::Mac;
use weft_plan::macvlan::{Macvlan, Mode};
use weft_plugin::{Call, Master};

/// The configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    master: Option<String>,
    mode: Option<String>,
    mtu: i64,
    mac: Option<String>,
    link_in_container: bool,
    bcqueuelen: Option<u32>,
    bclim: Option<i32>,
}

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The link below, and the MTU.
    pub master: Master,
    /// What the container's link is.
    pub link: Macvlan,
    /// Its Ethernet address; absent means one that the kernel draws.
    pub mac: Option<Mac>,
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. What takes things apart minds nothing.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let written = || {
            let conf: Conf = call.conf.conf()?;
            let mac = call.mac_or(conf.mac.as_deref())?;
            conf.settle(mac)
        };
        match written() {
            Err(_) if call.dismantles() => Conf::default().settle(None),
            settings => settings,
        }
    }
}

impl Conf {
    fn settle(self, mac: Option<Mac>) -> Result<Settings, Failure> {
        let mode = self.mode.as_deref().filter(|mode| !mode.is_empty());
        let unknown = |mode: &str| {
            let modes = Mode::ALL.map(Mode::as_str).join(", ");
            let failure = Failure::text(Code::InvalidConfig, format!("unknown macvlan mode: {mode:?}"));
            failure.with_hint(Some(format!("its values are {modes}")))
        };
        let mode = mode.map(|mode| mode.parse().map_err(|()| unknown(mode))).transpose()?;
        let link = Macvlan {
            mode: mode.unwrap_or_default(),
            // 0 is the kernel's own choice to the reference plugin.
            broadcast_queue: self.bcqueuelen.filter(|length| *length != 0),
            broadcast_cutoff: self.bclim,
        };
        Ok(Settings {
            master: Master::of(self.master.as_deref(), self.link_in_container, self.mtu)?,
            link,
            mac,
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
    fn nothing_written_is_the_reference_plugins_default() {
        let settings = Settings::of(&call(Verb::Add, "")).unwrap();
        assert_eq!(settings.link, Macvlan::default());
        assert_eq!(settings.link.mode, Mode::Bridge);
        assert_eq!((settings.master.name, settings.mac), (None, None));
    }

    #[test]
    fn the_runtimes_hardware_address_beats_the_networks() {
        let keys = r#", "mac": "c2:11:22:33:44:01", "runtimeConfig": {"mac": "c2:11:22:33:44:02"}"#;
        assert_eq!(Settings::of(&call(Verb::Add, keys)).unwrap().mac.unwrap().0[5], 2);
        let keys = r#", "mac": "c2:11:22:33:44:01""#;
        assert_eq!(Settings::of(&call(Verb::Add, keys)).unwrap().mac.unwrap().0[5], 1);
    }

    #[test]
    fn bad_configurations_are_refused_by_name_unless_things_are_taken_apart() {
        let table = [
            (r#", "mode": "tap""#, "unknown macvlan mode: \"tap\""),
            (r#", "mac": "x""#, "invalid args x for MAC addr: "),
            (
                r#", "master": "a/b""#,
                "master \"a/b\": interface name contains / or : or whitespace characters",
            ),
            (r#", "mtu": "1500""#, "mtu"),
        ];
        for (keys, text) in table {
            let failure = Settings::of(&call(Verb::Add, keys)).unwrap_err();
            assert_eq!(failure.code, Code::InvalidConfig, "{keys}");
            assert!(failure.msg.contains(text), "{keys}: {}", failure.msg);
            Settings::of(&call(Verb::Del, keys)).unwrap();
        }
    }
}
