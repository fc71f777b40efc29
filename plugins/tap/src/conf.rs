//! The configuration as written, then as meant.

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_model::{IfName, Mac, Mtu};
use weft_plan::tun::Tap;
use weft_plugin::Call;

/// The configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    multi_queue: bool,
    mtu: i64,
    mac: Option<String>,
    owner: Option<u32>,
    group: Option<u32>,
    selinux_context: Option<String>,
    bridge: Option<String>,
}

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the container's link is.
    pub link: Tap,
    /// Its MTU; absent means Ethernet's.
    pub mtu: Option<Mtu>,
    /// Its Ethernet address; absent means one that the kernel draws.
    pub mac: Option<Mac>,
    /// The bridge of the container that it joins.
    pub bridge: Option<IfName>,
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
        let refuse = |text: String| Failure::text(Code::InvalidConfig, text);
        let named = |text: Option<String>| text.filter(|text| !text.is_empty());
        let bridge = named(self.bridge).map(|bridge| {
            bridge.parse::<IfName>().map_err(|error| refuse(format!("bridge {bridge:?}: {error}")))
        });
        let selinux = named(self.selinux_context);
        if let Some(context) = &selinux {
            fits(context).map_err(|why| refuse(format!("selinuxContext {context:?}: {why}")))?;
        }
        Ok(Settings {
            link: Tap { multi_queue: self.multi_queue, owner: self.owner, group: self.group, selinux },
            mtu: Mtu::written(self.mtu).map_err(|error| Failure::new(Code::InvalidConfig, error))?,
            mac,
            bridge: bridge.transpose()?,
        })
    }
}

/// A context is one word of a page at most, with the parts user, role, type and often a level.
fn fits(context: &str) -> Result<(), &'static str> {
    match context {
        _ if context.len() > 4095 => Err("it is longer than a page"),
        _ if context.bytes().any(|byte| !byte.is_ascii_graphic()) => Err("it is not one word"),
        _ if context.split(':').count() < 3 => Err("user:role:type is expected"),
        _ => Ok(()),
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
    fn every_key_is_read() {
        let keys = r#", "multiQueue": true, "mtu": 1454, "mac": "c2:11:22:33:44:01", "owner": 0, "group": 7,
            "selinuxContext": "system_u:system_r:container_t:s0", "bridge": "br1""#;
        let settings = Settings::of(&call(Verb::Add, keys)).unwrap();
        let selinux = Some("system_u:system_r:container_t:s0".into());
        assert_eq!(settings.link, Tap { multi_queue: true, owner: Some(0), group: Some(7), selinux });
        assert_eq!(settings.mtu.unwrap().get(), 1454);
        assert_eq!(settings.bridge.unwrap().as_str(), "br1");
        assert_eq!(settings.mac.unwrap().0[5], 1);
        assert_eq!(Settings::of(&call(Verb::Add, "")).unwrap().link, Tap::default());
    }

    #[test]
    fn bad_configurations_are_refused_by_name_unless_things_are_taken_apart() {
        let table = [
            (r#", "mac": "x""#, "invalid args x for MAC addr: "),
            (r#", "bridge": "a/b""#, "bridge \"a/b\": interface name contains"),
            (r#", "mtu": -1"#, "MTU -1 is not between 68 and 65535"),
            (r#", "owner": -1"#, "owner"),
            (r#", "selinuxContext": "a b""#, "selinuxContext \"a b\": it is not one word"),
            (r#", "selinuxContext": "ab""#, "selinuxContext \"ab\": user:role:type is expected"),
        ];
        for (keys, text) in table {
            let failure = Settings::of(&call(Verb::Add, keys)).unwrap_err();
            assert_eq!(failure.code, Code::InvalidConfig, "{keys}");
            assert!(failure.msg.contains(text), "{keys}: {}", failure.msg);
            Settings::of(&call(Verb::Del, keys)).unwrap();
        }
    }
}
