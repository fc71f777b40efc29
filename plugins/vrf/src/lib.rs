//! The `vrf` CNI plugin: a container's interface in a virtual routing domain.
//!
//! It is chained. The domain is made for its first interface and goes with its last; addresses and routes of the
//! interface come along.

mod about;
mod conf;
mod plan;

use weft_cni::Failure;
use weft_model::Endpoint;
use weft_plan::Plan;
use weft_plugin::{About, Call, Driven, Driver, Keeps, Leases};

pub use conf::{Conf, ConfError, Settings};

/// The `vrf` driver.
pub struct RoutingDomain;

/// The plugin.
pub static PLUGIN: Driven<RoutingDomain> = Driven(RoutingDomain);

impl Driver for RoutingDomain {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &about::ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn addresses(&self, _settings: &Settings, _endpoint: &Endpoint, _leases: &Leases) -> Plan {
        Plan::new()
    }

    fn keeps(&self) -> Keeps {
        Keeps::Own
    }

    fn is_chained(&self) -> bool {
        true
    }
}
