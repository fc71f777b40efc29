//! The `ptp` CNI plugin: a container at the end of a veth pair, routed by the host.

mod conf;
mod plan;

use weft_cni::{Failure, Finding, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Plan};
use weft_plugin::{About, Call, Driven, Driver, Leases, examine_firewall, restore_firewall};
use weft_state::Root;

pub use conf::{Conf, ConfError, Settings};

/// The `ptp` driver.
pub struct PointToPoint;

/// The plugin.
pub static PLUGIN: Driven<PointToPoint> = Driven(PointToPoint);

static ABOUT: About = About {
    kind: "ptp",
    summary: "containers at the end of a veth pair each, routed by the host",
    versions: &Version::ALL,
    options: &[],
    driver: None,
};

impl Driver for PointToPoint {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn survey(&self, settings: &mut Settings, kernel: &mut Kernel) -> Result<(), Failure> {
        settings.mtu = settings.mtu.or_else(|| kernel.uplink_mtu());
        Ok(())
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn resolve(&self, _settings: &Settings, _endpoint: &Endpoint, leases: Leases) -> Result<Leases, Failure> {
        plan::resolve(leases)
    }

    fn addresses(&self, settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        plan::addresses(settings, endpoint, leases)
    }

    fn network(&self, settings: &Settings) -> Plan {
        plan::network(settings)
    }

    fn restore(&self, root: &Root) -> Result<(), Failure> {
        restore_firewall(root)
    }

    fn diagnose(&self, root: &Root) -> Result<Vec<Finding>, Failure> {
        examine_firewall(root)
    }
}
