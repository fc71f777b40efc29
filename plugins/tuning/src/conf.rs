//! The configuration as written, then as meant.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_model::{Mac, MacError, Mtu, NumberError};
use weft_plan::Sysctl;
use weft_plugin::{Call, Verb};

use crate::sysctl;

/// The tuning configuration exactly as it appears in a conflist, and the same keys of `args.cni`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Conf {
    sysctl: BTreeMap<String, String>,
    mac: Option<String>,
    mtu: Option<i64>,
    promisc: Option<bool>,
    allmulti: Option<bool>,
    #[serde(rename = "txQLen")]
    tx_q_len: Option<i64>,
    data_dir: Option<PathBuf>,
}

/// What the plugin will do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// The sysctls by their paths below `/proc/sys`, in which `IFNAME` stands for the interface.
    pub sysctl: BTreeMap<String, String>,
    /// The Ethernet address, where it changes.
    pub mac: Option<Mac>,
    /// The MTU, where it changes.
    pub mtu: Option<Mtu>,
    /// Whether frames meant for other stations are to be taken; `false` leaves it as it is.
    pub promisc: bool,
    /// Whether frames to any group are taken, where it changes.
    pub allmulti: Option<bool>,
    /// How many frames may wait, where it changes.
    pub tx_queue_len: Option<u32>,
    /// Where what was before is kept.
    pub data_dir: PathBuf,
}

/// Why a configuration is not legal. Where the reference plugin has a text, it is this.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// A sysctl that is none of a network namespace.
    #[error("invalid net sysctl key: {0:?}")]
    Key(String),
    /// A sysctl is there twice.
    #[error("duplicated sysctl keys are not allowed")]
    Twice,
    /// The administrator does not allow a sysctl.
    #[error("Sysctl {0} is not allowed. Only the following sysctls are allowed: [{1}]")]
    NotAllowed(String, String),
    /// The administrator's list cannot be read.
    #[error("{}: {reason}", path.display())]
    List {
        /// The list.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The Ethernet address is none.
    #[error("invalid args {0} for MAC addr: {1}")]
    Mac(String, MacError),
    /// The MTU is none.
    #[error("mtu: {0}")]
    Mtu(NumberError),
    /// A queue has no such length.
    #[error("txQLen {0} is no length of a queue: 0 to 4294967295")]
    Queue(i64),
    /// The directory is none from the root.
    #[error("dataDir {0:?} is not absolute")]
    DataDir(PathBuf),
}

/// What is not in the plugin's own keys and yet decides about it.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The same keys in `args.cni`, which win.
    pub args: Conf,
    /// The Ethernet address of `runtimeConfig`, else that of `CNI_ARGS`, else none.
    pub mac: Option<String>,
    /// Where what was before is kept when nothing is said.
    pub data_dir: PathBuf,
}

impl Conf {
    /// Says what was meant.
    ///
    /// # Errors
    ///
    /// If a value is not legal.
    pub fn settle(self, around: Surroundings) -> Result<Settings, ConfError> {
        let args = around.args;
        let mut sysctl = BTreeMap::new();
        for (key, value) in self.sysctl.iter().chain(&args.sysctl) {
            sysctl.insert(Sysctl::key_of(key).ok_or_else(|| ConfError::Key(key.clone()))?, value.clone());
        }
        let mac = [args.mac, around.mac, self.mac].into_iter().flatten().find(|mac| !mac.is_empty());
        Ok(Settings {
            sysctl,
            mac: mac.map(mac_of).transpose()?,
            mtu: Mtu::written(args.mtu.or(self.mtu).unwrap_or(0)).map_err(ConfError::Mtu)?,
            promisc: args.promisc.or(self.promisc).unwrap_or(false),
            allmulti: args.allmulti.or(self.allmulti),
            tx_queue_len: args.tx_q_len.or(self.tx_q_len).map(length_of).transpose()?,
            data_dir: data_dir(self.data_dir, around.data_dir)?,
        })
    }
}

fn mac_of(text: String) -> Result<Mac, ConfError> {
    Mac::of_interface(&text).map_err(|error| ConfError::Mac(text, error))
}

fn length_of(length: i64) -> Result<u32, ConfError> {
    u32::try_from(length).map_err(|_| ConfError::Queue(length))
}

fn data_dir(written: Option<PathBuf>, usual: PathBuf) -> Result<PathBuf, ConfError> {
    match written.filter(|dir| !dir.as_os_str().is_empty()) {
        None => Ok(usual),
        Some(dir) if dir.is_absolute() => Ok(dir),
        Some(dir) => Err(ConfError::DataDir(dir)),
    }
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. What is taken apart was legal once: then only the directory counts.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let usual = call.root.cni_tuning_dir();
        if call.dismantles() {
            let written = call.conf.conf::<Directory>().unwrap_or_default();
            let data_dir = data_dir(written.data_dir, usual.clone()).unwrap_or(usual);
            return Ok(Self { data_dir, ..Self::default() });
        }
        if call.verb != Verb::Status {
            call.required_prev_result()?;
        }
        let conf: Conf = call.conf.conf()?;
        sysctl::check_once(&call.stdin).map_err(refused)?;
        let mut names = conf.sysctl.clone();
        let around = Surroundings { args: arguments(call)?, mac: runtime_mac(call)?, data_dir: usual };
        names.extend(around.args.sysctl.clone());
        if call.verb == Verb::Add {
            let list = call.root.cni_sysctl_allowlist();
            sysctl::check_allowed(&list, &names).map_err(refused)?;
        }
        conf.settle(around).map_err(refused)
    }
}

/// What DEL goes by.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Directory {
    data_dir: Option<PathBuf>,
}

/// The keys that `args.cni` has in common with the configuration.
fn arguments(call: &Call) -> Result<Conf, Failure> {
    Ok(Conf {
        sysctl: call.conf.cni_arg("sysctl")?.unwrap_or_default(),
        mac: call.conf.cni_arg("mac")?,
        mtu: call.conf.cni_arg("mtu")?,
        promisc: call.conf.cni_arg("promisc")?,
        allmulti: call.conf.cni_arg("allmulti")?,
        tx_q_len: call.conf.cni_arg("txQLen")?,
        data_dir: None,
    })
}

fn runtime_mac(call: &Call) -> Result<Option<String>, Failure> {
    let args = call.cni_args(&["MAC"])?;
    let told = call.conf.capability::<String>("mac")?.filter(|mac| !mac.is_empty());
    Ok(told.or_else(|| args.get("MAC").map(String::from)))
}

fn refused(error: ConfError) -> Failure {
    let hint = match error {
        ConfError::Key(_) => Some("keys start with `net.`".into()),
        _ => None,
    };
    Failure::new(Code::InvalidConfig, error).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn settle(conf: Value, args: Value, mac: Option<&str>) -> Result<Settings, String> {
        let read = |value: &Value| weft_cni::json::from_value::<Conf>(value).unwrap();
        let around = Surroundings { args: read(&args), mac: mac.map(String::from), data_dir: "/d".into() };
        read(&conf).settle(around).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_stays_as_it_is() {
        let nothing = settle(json!({}), json!({}), None).unwrap();
        assert_eq!(nothing, Settings { data_dir: "/d".into(), ..Settings::default() });
        let zeroes = json!({"mtu": 0, "mac": "", "promisc": false, "dataDir": "", "sysctl": {}});
        assert_eq!(settle(zeroes, json!({}), None).unwrap(), nothing);
    }

    #[test]
    fn arguments_win() {
        let conf = json!({
            "MAC": "02:00:00:00:00:01", "MTU": 1400, "txqlen": 5, "allMulti": true, "promisc": true,
            "sysctl": {"net.a": "1", "net.b": "1"}, "dataDir": "/elsewhere",
        });
        let alone = settle(conf.clone(), json!({}), None).unwrap();
        assert_eq!(alone.mac, Some(Mac([2, 0, 0, 0, 0, 1])));
        assert_eq!((alone.mtu.map(Mtu::get), alone.tx_queue_len), (Some(1400), Some(5)));
        assert_eq!((alone.allmulti, alone.promisc), (Some(true), true));
        assert_eq!(alone.data_dir, PathBuf::from("/elsewhere"));
        let told = settle(conf.clone(), json!({}), Some("02:00:00:00:00:02")).unwrap();
        assert_eq!(told.mac, Some(Mac([2, 0, 0, 0, 0, 2])));
        let args = json!({
            "mac": "02:00:00:00:00:03", "mtu": 1300, "txQLen": 0, "allmulti": false, "promisc": false,
            "sysctl": {"net/b": "2"},
        });
        let settled = settle(conf, args, Some("02:00:00:00:00:02")).unwrap();
        assert_eq!(settled.mac, Some(Mac([2, 0, 0, 0, 0, 3])));
        assert_eq!((settled.mtu.map(Mtu::get), settled.tx_queue_len), (Some(1300), Some(0)));
        assert_eq!((settled.allmulti, settled.promisc), (Some(false), false));
        assert_eq!(settled.sysctl, [("net/a".into(), "1".into()), ("net/b".into(), "2".into())].into());
    }

    #[test]
    fn each_bad_value_is_named() {
        for (conf, says) in [
            (json!({"sysctl": {"kernel.x": "1"}}), r#"invalid net sysctl key: "kernel.x""#),
            (json!({"mac": "x"}), "invalid args x for MAC addr: "),
            (json!({"mac": "01:00:5e:00:00:01"}), "is a group's MAC address or nobody's"),
            (json!({"mac": "00:00:00:00:00:00"}), "is a group's MAC address or nobody's"),
            (json!({"mtu": 5}), "mtu: "),
            (json!({"mtu": -1}), "mtu: "),
            (json!({"txQLen": -1}), "txQLen -1 is no length"),
            (json!({"txQLen": 4_294_967_296_i64}), "txQLen 4294967296 is no length"),
            (json!({"dataDir": "x"}), r#"dataDir "x" is not absolute"#),
        ] {
            let told = settle(conf.clone(), json!({}), None).unwrap_err();
            assert!(told.contains(says), "{conf}: {told}");
        }
    }
}
