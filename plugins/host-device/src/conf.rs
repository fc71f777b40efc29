//! The configuration as written, then as meant.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use weft_cni::{Code, Failure};
use weft_model::{IfName, Mac};
use weft_plan::Lent;
use weft_plugin::Call;

/// The configuration exactly as it appears in a conflist.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Conf {
    device: Option<String>,
    hwaddr: Option<String>,
    kernelpath: Option<String>,
    #[serde(rename = "pciBusID")]
    pci_bus_id: Option<String>,
}

/// What the plugin will do.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// How the device is named.
    pub wanted: Wanted,
    /// The device, once somebody has looked.
    pub device: Device,
}

/// How a device is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By its link.
    Name(IfName),
    /// By its link's Ethernet address.
    Mac(Mac),
    /// By its place below `/sys/devices`.
    KernelPath(PathBuf),
    /// By its address on the PCI bus.
    Pci(String),
    /// As the runtime's device plugin names it: an address on the PCI bus, or a name on the auxiliary bus.
    Id(String),
    /// Not at all: things are taken apart, and the device is in the container.
    Nothing,
}

/// What a device is to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A link.
    Link(Lent),
    /// Nothing: a program drives it.
    Unseen,
    /// Nobody has looked, or nobody knows any more.
    Unknown,
}

impl Settings {
    /// Reads the settings of a call.
    ///
    /// # Errors
    ///
    /// If the configuration is not legal. What takes things apart minds nothing.
    pub fn of(call: &Call) -> Result<Self, Failure> {
        let written = || {
            let id = call.conf.capability::<String>("deviceID")?;
            call.conf.conf::<Conf>()?.settle(id)
        };
        let wanted = match written() {
            Err(_) if call.dismantles() => Wanted::Nothing,
            wanted => wanted?,
        };
        Ok(Self { wanted, device: Device::Unknown })
    }
}

impl Conf {
    /// The order in which upstream looks: the runtime's device is the last.
    fn settle(self, id: Option<String>) -> Result<Wanted, Failure> {
        let refuse = |text: String| Failure::text(Code::InvalidConfig, text);
        let named = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(device) = named(self.device) {
            let name = device.parse().map_err(|error| refuse(format!("device {device:?}: {error}")));
            return name.map(Wanted::Name);
        }
        if let Some(mac) = named(self.hwaddr) {
            let mac =
                mac.parse().map_err(|error| refuse(format!("failed to parse MAC address {mac:?}: {error}")));
            return mac.map(Wanted::Mac);
        }
        if let Some(path) = named(self.kernelpath) {
            let inside = Path::new(&path).starts_with("/sys/devices")
                && Path::new(&path).components().all(|part| part != Component::ParentDir);
            let text = format!("kernel device path {path:?} must be absolute and begin with /sys/devices/");
            return if inside { Ok(Wanted::KernelPath(path.into())) } else { Err(refuse(text)) };
        }
        let (key, id, wanted): (_, _, fn(String) -> Wanted) = match (named(id), named(self.pci_bus_id)) {
            (Some(id), _) => ("runtimeConfig.deviceID", id, Wanted::Id),
            (None, Some(id)) => ("pciBusID", id, Wanted::Pci),
            (None, None) => {
                let text = "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\"";
                return Err(refuse(text.into()));
            }
        };
        if id.contains('/') || id.starts_with('.') {
            return Err(refuse(format!("{key} {id:?} is no name on a bus")));
        }
        Ok(wanted(id))
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
    fn a_device_is_named_in_five_ways_and_the_first_counts() {
        let table = [
            (r#", "device": "dev0", "hwaddr": "02:00:00:00:00:01""#, Wanted::Name("dev0".parse().unwrap())),
            (r#", "hwaddr": "02:00:00:00:00:01""#, Wanted::Mac("02:00:00:00:00:01".parse().unwrap())),
            (r#", "kernelpath": "/sys/devices/virtual""#, Wanted::KernelPath("/sys/devices/virtual".into())),
            (r#", "pciBusID": "0000:00:1f.6""#, Wanted::Pci("0000:00:1f.6".into())),
            (
                r#", "pciBusID": "0000:00:1f.6", "runtimeConfig": {"deviceID": "mlx5_core.sf.4"}"#,
                Wanted::Id("mlx5_core.sf.4".into()),
            ),
        ];
        for (keys, wanted) in table {
            assert_eq!(Settings::of(&call(Verb::Add, keys)).unwrap().wanted, wanted, "{keys}");
        }
    }

    #[test]
    fn bad_configurations_are_refused_by_name_unless_things_are_taken_apart() {
        let table = [
            ("", "specify either \"device\", \"hwaddr\", \"kernelpath\" or \"pciBusID\""),
            (
                r#", "device": "a/b""#,
                "device \"a/b\": interface name contains / or : or whitespace characters",
            ),
            (r#", "hwaddr": "x""#, "failed to parse MAC address \"x\": "),
            (
                r#", "kernelpath": "/tmp""#,
                "kernel device path \"/tmp\" must be absolute and begin with /sys/devices/",
            ),
            (
                r#", "kernelpath": "/sys/devices/../class""#,
                "kernel device path \"/sys/devices/../class\" must be absolute and begin with /sys/devices/",
            ),
            (r#", "pciBusID": "../../x""#, "pciBusID \"../../x\" is no name on a bus"),
        ];
        for (keys, text) in table {
            let failure = Settings::of(&call(Verb::Add, keys)).unwrap_err();
            assert_eq!(failure.code, Code::InvalidConfig, "{keys}");
            assert!(failure.msg.starts_with(text), "{keys}: {}", failure.msg);
            assert_eq!(Settings::of(&call(Verb::Del, keys)).unwrap().wanted, Wanted::Nothing);
        }
    }
}
