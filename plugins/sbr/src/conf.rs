//! The configuration as written, then as meant.

use std::net::IpAddr;

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_plugin::Call;

/// The sbr configuration exactly as it appears in a conflist.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    table: Option<i64>,
    gateways: Vec<String>,
    add_source_hints: bool,
}

/// What the plugin will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The table of all addresses; absent means one for each.
    pub table: Option<u32>,
    /// The gateways in the place of the addresses' own, one for each family at most.
    pub gateways: Vec<IpAddr>,
    /// Whether the main table keeps what is on the link.
    pub hints: bool,
}

/// Why a configuration is not legal. The texts are those of the reference plugin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// The plugin is not behind another one.
    #[error("This plugin must be called as chained plugin")]
    NotChained,
    /// The interface has no address.
    #[error("No IP addresses supplied on interface: {0}")]
    NoAddresses(String),
    /// More gateways than families.
    #[error("gateways list cannot contain more than 2 entries (one IPv4, one IPv6)")]
    Gateways,
    /// A gateway that is no address.
    #[error("invalid static gateway IP address: {0}")]
    Gateway(String),
    /// Two gateways of a family.
    #[error("gateways list contains multiple {family} addresses: {one} and {other}")]
    TwoGateways {
        /// The family.
        family: &'static str,
        /// The first.
        one: IpAddr,
        /// The second.
        other: IpAddr,
    },
    /// The table is none.
    #[error("table {0} is no routing table: 1 to 4294967295")]
    Table(i64),
}

impl Conf {
    /// Says what was meant.
    ///
    /// # Errors
    ///
    /// If a value is not legal.
    pub fn settle(self) -> Result<Settings, ConfError> {
        let table = |number: i64| {
            u32::try_from(number).ok().filter(|table| *table != 0).ok_or(ConfError::Table(number))
        };
        Ok(Settings {
            table: self.table.map(table).transpose()?,
            gateways: gateways(&self.gateways)?,
            hints: self.add_source_hints,
        })
    }
}

fn gateways(list: &[String]) -> Result<Vec<IpAddr>, ConfError> {
    if list.len() > 2 {
        return Err(ConfError::Gateways);
    }
    let mut gateways: Vec<IpAddr> = Vec::new();
    for text in list {
        let other: IpAddr = text.parse().map_err(|_| ConfError::Gateway(text.clone()))?;
        if let Some(one) = gateways.iter().copied().find(|one| one.is_ipv4() == other.is_ipv4()) {
            let family = if one.is_ipv4() { "IPv4" } else { "IPv6" };
            return Err(ConfError::TwoGateways { family, one, other });
        }
        gateways.push(other);
    }
    Ok(gateways)
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. What is taken apart is told by the addresses, whatever else is said.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        if call.dismantles() {
            let conf: Conf = call.conf.conf().unwrap_or_default();
            let table = conf.table.and_then(|table| u32::try_from(table).ok());
            return Ok(Self { table, ..Self::default() });
        }
        let refused = |error| Failure::new(Code::InvalidConfig, error);
        if call.connects() && call.conf.prev_result()?.is_none() {
            return Err(refused(ConfError::NotChained));
        }
        call.conf.conf::<Conf>()?.settle().map_err(refused)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use weft_plugin::Verb;

    use super::*;

    fn settle(conf: &Value) -> Result<Settings, String> {
        let conf: Conf = weft_cni::json::from_value(conf).unwrap();
        conf.settle().map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_has_a_value() {
        assert_eq!(settle(&json!({})).unwrap(), Settings::default());
        let all = json!({"Table": 5000, "gateways": ["10.0.0.1", "fd00::1"], "addsourcehints": true});
        let all = settle(&all).unwrap();
        assert_eq!((all.table, all.gateways.len(), all.hints), (Some(5000), 2, true));
    }

    #[test]
    fn each_bad_value_is_named() {
        for (conf, says) in [
            (
                json!({"gateways": ["10.0.0.1", "fd00::1", "10.0.0.2"]}),
                "gateways list cannot contain more than 2 entries (one IPv4, one IPv6)",
            ),
            (json!({"gateways": ["x"]}), "invalid static gateway IP address: x"),
            (
                json!({"gateways": ["10.0.0.1", "10.0.0.2"]}),
                "gateways list contains multiple IPv4 addresses: 10.0.0.1 and 10.0.0.2",
            ),
            (
                json!({"gateways": ["fd00::1", "fd00::2"]}),
                "gateways list contains multiple IPv6 addresses: fd00::1 and fd00::2",
            ),
            (json!({"table": 0}), "table 0 is no routing table: 1 to 4294967295"),
            (json!({"table": -5}), "table -5 is no routing table: 1 to 4294967295"),
        ] {
            assert_eq!(settle(&conf).unwrap_err(), says, "{conf}");
        }
        let alone = Call::read(Verb::Add, br#"{"name": "n"}"#).unwrap();
        assert_eq!(Settings::of(&alone).unwrap_err().msg, ConfError::NotChained.to_string());
    }
}
