//! The configuration as written, then as meant.

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_model::{IfName, IfNameError};
use weft_plugin::Call;

/// The vrf configuration exactly as it appears in a conflist.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conf {
    vrfname: String,
    table: i64,
}

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The domain; none where things are taken apart and nobody says from what.
    pub name: Option<IfName>,
    /// Its table; absent means the first that is free.
    pub table: Option<u32>,
}

/// Why a configuration is not legal. The first two texts are those of the reference plugin.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// The plugin is not behind another one.
    #[error("missing prevResult from earlier plugin")]
    NoPrevResult,
    /// There is no name.
    #[error("configuration is expected to have a valid vrf name")]
    NoName,
    /// The name is none of an interface.
    #[error("configuration is expected to have a valid vrf name: {0}")]
    Name(IfNameError),
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
        if self.vrfname.is_empty() {
            return Err(ConfError::NoName);
        }
        let name = self.vrfname.parse().map_err(ConfError::Name)?;
        let table = u32::try_from(self.table).map_err(|_| ConfError::Table(self.table))?;
        Ok(Settings { name: Some(name), table: Some(table).filter(|table| *table != 0) })
    }
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. Where things are taken apart, nothing that is not legal was made.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let refused = |error| Failure::new(Code::InvalidConfig, error);
        let settled = call.conf.conf::<Conf>().and_then(|conf| conf.settle().map_err(refused));
        if call.dismantles() {
            return Ok(settled.unwrap_or(Self { name: None, table: None }));
        }
        let connects = call.connects();
        if connects && call.conf.prev_result()?.is_none() {
            return Err(refused(ConfError::NoPrevResult));
        }
        settled
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_domain_has_a_name() {
        let settle = |conf| {
            let conf: Conf = weft_cni::json::from_value(&conf).unwrap();
            conf.settle().map_err(|error| error.to_string())
        };
        let blue = settle(json!({"VrfName": "blue", "Table": 10})).unwrap();
        assert_eq!((blue.name.unwrap().as_str(), blue.table), ("blue", Some(10)));
        assert_eq!(settle(json!({"vrfname": "blue", "table": 0})).unwrap().table, None);
        for (conf, says) in [
            (json!({}), "configuration is expected to have a valid vrf name"),
            (json!({"vrfname": ""}), "configuration is expected to have a valid vrf name"),
            (json!({"vrfname": "a/b"}), "configuration is expected to have a valid vrf name: "),
            (json!({"vrfname": "blue", "table": -1}), "table -1 is no routing table"),
            (json!({"vrfname": "blue", "table": 4_294_967_296_i64}), "table 4294967296 is no routing table"),
        ] {
            let told = settle(conf.clone()).unwrap_err();
            assert!(told.starts_with(says), "{conf}: {told}");
        }
    }
}
