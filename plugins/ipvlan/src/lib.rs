//! The `ipvlan` CNI plugin: containers with addresses of their own on a link of the host, whose MAC address they share.

mod compose;
mod conf;
mod plan;

use serde_json::Value;
use weft_cni::{Failure, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Plan};
use weft_plugin::{About, Call, ComposeRequest, Driven, Driver, DriverAbout, Leases};

pub use conf::{Conf, Settings};

/// The `ipvlan` driver.
pub struct Ipvlan;

/// The plugin.
pub static PLUGIN: Driven<Ipvlan> = Driven(Ipvlan);

static ABOUT: About = About {
    kind: "ipvlan",
    summary: "containers with addresses of their own on a link of the host, whose MAC address they share",
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

impl Driver for Ipvlan {
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

    fn resolve(&self, settings: &Settings, _endpoint: &Endpoint, leases: Leases) -> Result<Leases, Failure> {
        Ok(plan::resolve(settings, leases))
    }

    fn addresses(&self, _settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        leases.announced(&endpoint.ifname)
    }

    fn compose(&self, request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
        compose::compose(request)
    }
}
