//! The `none` CNI plugin: a container with a loopback interface and nothing else.
//!
//! `conf.rs` reads the configuration, `plan.rs` says what should exist, `compose.rs` writes a
//! conflist, and this file ties them together. Everything else is the engine's.

mod compose;
mod conf;
mod plan;

use serde_json::Value;
use weft_cni::{Failure, NetworkResult, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Plan};
use weft_plugin::{About, Call, ComposeRequest, Driven, Driver, DriverAbout, Leases, loopback_addresses};

pub use conf::Settings;

/// The `none` driver.
pub struct NoNetwork;

/// The plugin.
pub static PLUGIN: Driven<NoNetwork> = Driven(NoNetwork);

static ABOUT: About = About {
    kind: "none",
    summary: "a loopback interface and nothing else",
    versions: &Version::ALL,
    options: &[],
    driver: Some(DriverAbout {
        addressing: false,
        attachable: true,
        clustered: false,
        instances: Some(1),
        refusal: None,
        hint: None,
    }),
};

impl Driver for NoNetwork {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn links(&self, _settings: &Settings, _endpoint: &Endpoint) -> Plan {
        plan::links()
    }

    fn addresses(&self, _settings: &Settings, _endpoint: &Endpoint, _leases: &Leases) -> Plan {
        Plan::new()
    }

    fn report(&self, kernel: &mut Kernel, result: &mut NetworkResult) -> Result<(), Failure> {
        loopback_addresses(kernel, result)
    }

    fn compose(&self, request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
        compose::compose(request)
    }
}
