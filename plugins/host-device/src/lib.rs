//! The `host-device` CNI plugin: a device of the host, lent to a container.

mod conf;
mod find;
mod plan;

use serde_json::{Value, json};
use weft_cni::{Failure, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Plan};
use weft_plugin::{About, Call, Driven, Driver, Leases};

pub use conf::{Conf, Device, Settings, Wanted};

/// The `host-device` driver.
pub struct HostDevice;

/// The plugin.
pub static PLUGIN: Driven<HostDevice> = Driven(HostDevice);

static ABOUT: About = About {
    kind: "host-device",
    summary: "a device of the host, lent to a container",
    versions: &Version::ALL,
    options: &[],
    driver: None,
};

impl Driver for HostDevice {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn survey(&self, settings: &mut Settings, kernel: &mut Kernel) -> Result<(), Failure> {
        settings.device = find::device(&settings.wanted, kernel)?;
        Ok(())
    }

    fn remember(&self, settings: &Settings) -> Value {
        match &settings.device {
            Device::Link(lent) => json!({"lent": lent}),
            Device::Unseen => json!({"unseen": true}),
            Device::Unknown => Value::Null,
        }
    }

    fn recall(&self, settings: &mut Settings, memory: &Value) {
        if let Ok(lent) = serde_json::from_value(memory["lent"].clone()) {
            settings.device = Device::Link(lent);
        } else if memory["unseen"] == true {
            settings.device = Device::Unseen;
        }
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn addresses(&self, settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        plan::addresses(settings, endpoint, leases)
    }
}
