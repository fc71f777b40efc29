//! The `vrf` CNI plugin: a container's interface in a virtual routing domain.
//!
//! It is chained. The domain is made for its first interface and goes with its last; addresses and routes of the
//! interface come along.

mod about;
mod conf;
mod plan;

use serde_json::Value;
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

    fn remember(&self, settings: &Settings) -> Value {
        settings.name.as_ref().map_or(Value::Null, |name| name.as_str().into())
    }

    /// A configuration that has become unreadable since does not tell which domain to leave.
    fn recall(&self, settings: &mut Settings, memory: &Value) {
        settings.name = settings.name.take().or_else(|| memory.as_str()?.parse().ok());
    }

    fn keeps(&self) -> Keeps {
        Keeps::Own
    }

    fn is_chained(&self) -> bool {
        true
    }
}
