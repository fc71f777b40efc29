//! The `loopback` CNI plugin: raises a container's `lo`.
//!
//! CNI_IFNAME is ignored, as by the reference plugin: the loopback interface has one name.

use weft_cni::{Failure, NetworkResult, Version};
use weft_model::{Endpoint, IfName};
use weft_plan::{Kernel, Link, Plan};
use weft_plugin::{About, Call, Driven, Driver, Keeps, Leases, loopback_addresses};

/// The `loopback` driver.
pub struct Loopback;

/// The plugin.
pub static PLUGIN: Driven<Loopback> = Driven(Loopback);

static ABOUT: About = About {
    kind: "loopback",
    summary: "raises the container's lo",
    versions: &Version::ALL,
    options: &[],
    driver: None,
};

impl Driver for Loopback {
    type Settings = ();

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, _call: &Call) -> Result<(), Failure> {
        Ok(())
    }

    fn links(&self, (): &(), _endpoint: &Endpoint) -> Plan {
        let mut plan = Plan::new();
        plan.container(Link::existing(&IfName::loopback()).up(true));
        plan
    }

    fn addresses(&self, (): &(), _endpoint: &Endpoint, _leases: &Leases) -> Plan {
        Plan::new()
    }

    fn report(&self, kernel: &mut Kernel, result: &mut NetworkResult) -> Result<(), Failure> {
        loopback_addresses(kernel, result)
    }

    /// Every container has a `lo`; that it was raised is nothing to keep a record of.
    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    /// Runtimes call it alone or in any place of a chain.
    fn is_chained(&self) -> bool {
        true
    }
}
