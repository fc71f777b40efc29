//! The `vlan` CNI plugin: containers on one VLAN of a link of the host.

mod conf;
mod plan;

use serde_json::Value;
use weft_cni::{Failure, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Plan};
use weft_plugin::{About, Call, Driven, Driver, Leases};

pub use conf::{Conf, Settings};

/// The `vlan` driver.
pub struct Tagged;

/// The plugin.
pub static PLUGIN: Driven<Tagged> = Driven(Tagged);

static ABOUT: About = About {
    kind: "vlan",
    summary: "containers on one VLAN of a link of the host",
    versions: &Version::ALL,
    options: &[],
    driver: None,
};

impl Driver for Tagged {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn survey(&self, settings: &mut Settings, kernel: &mut Kernel) -> Result<(), Failure> {
        settings.master.survey(kernel)
    }

    fn remember(&self, settings: &Settings) -> Value {
        settings.master.remember()
    }

    fn recall(&self, settings: &mut Settings, memory: &Value) {
        settings.master.recall(memory);
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn addresses(&self, _settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        leases.announced(&endpoint.ifname)
    }
}
