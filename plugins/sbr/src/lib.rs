//! The `sbr` CNI plugin, source based routing: packets from an interface's addresses go by that interface's routes.
//!
//! It is chained. Each address gets a rule and a table of its own, which the interface's routes move into.

mod about;
mod conf;
mod plan;

use weft_cni::{Code, Failure};
use weft_model::Endpoint;
use weft_plan::Plan;
use weft_plugin::{About, Call, Driven, Driver, Keeps, Leases};

pub use conf::{Conf, ConfError, Settings};

/// The `sbr` driver.
pub struct SourceBased;

/// The plugin.
pub static PLUGIN: Driven<SourceBased> = Driven(SourceBased);

impl Driver for SourceBased {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &about::ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn links(&self, _settings: &Settings, _endpoint: &Endpoint) -> Plan {
        Plan::new()
    }

    fn resolve(&self, _settings: &Settings, endpoint: &Endpoint, leases: Leases) -> Result<Leases, Failure> {
        if leases.ips.is_empty() {
            let error = ConfError::NoAddresses(endpoint.ifname.to_string());
            return Err(Failure::new(Code::InvalidConfig, error));
        }
        Ok(leases)
    }

    fn addresses(&self, settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        plan::addresses(settings, endpoint, leases)
    }

    fn keeps(&self) -> Keeps {
        Keeps::Own
    }

    fn is_chained(&self) -> bool {
        true
    }
}
