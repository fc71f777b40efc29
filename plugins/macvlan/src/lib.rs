//! The `macvlan` CNI plugin: containers with a MAC address of their own on a link of the host.

mod compose;
mod conf;
mod plan;

use serde_json::Value;
use weft_cni::{Failure, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Plan};
use weft_plugin::{About, Call, ComposeRequest, Driven, Driver, DriverAbout, Leases};

pub use conf::{Conf, Settings};

/// The `macvlan` driver.
pub struct Macvlan;

/// The plugin.
pub static PLUGIN: Driven<Macvlan> = Driven(Macvlan);

static ABOUT: About = About {
    kind: "macvlan",
    summary: "containers with a MAC address of their own on a link of the host",
    versions: &Version::ALL,
    options: compose::OPTIONS,
    driver: Some(DriverAbout {
        addressing: true,
        attachable: true,
        clustered: false,
        instances: None,
        refusal: None,
        hint: None,
    }),
};

impl Driver for Macvlan {
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

    fn compose(&self, request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
        compose::compose(request)
    }
}
