//! The `dummy` CNI plugin: containers with an interface that leads nowhere.

mod conf;
mod plan;

use weft_cni::{Failure, Version};
use weft_model::Endpoint;
use weft_plan::Plan;
use weft_plugin::{About, Call, Driven, Driver, Leases};

pub use conf::Settings;

/// The `dummy` driver.
pub struct Dummy;

/// The plugin.
pub static PLUGIN: Driven<Dummy> = Driven(Dummy);

static ABOUT: About = About {
    kind: "dummy",
    summary: "containers with an interface that leads nowhere",
    versions: &Version::ALL,
    options: &[],
    driver: None,
};

impl Driver for Dummy {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn addresses(&self, _settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        leases.announced(&endpoint.ifname)
    }
}
