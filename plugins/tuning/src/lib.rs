//! The `tuning` CNI plugin: attributes of an interface that the plugins before it made, and sysctls of its namespace.
//!
//! It is chained. What was before is kept in the reference plugin's files, and put back by DEL.

mod about;
mod conf;
mod plan;
mod sysctl;

use weft_cni::{Failure, NetworkResult};
use weft_model::Endpoint;
use weft_plan::{Kernel, Place, Plan};
use weft_plugin::{About, Call, Driven, Driver, Keeps, Leases};

pub use conf::{Conf, ConfError, Settings, Surroundings};

/// The `tuning` driver.
pub struct Tuned;

/// The plugin.
pub static PLUGIN: Driven<Tuned> = Driven(Tuned);

impl Driver for Tuned {
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

    fn amend(
        &self,
        _settings: &Settings,
        endpoint: &Endpoint,
        kernel: &mut Kernel,
        previous: &mut NetworkResult,
    ) -> Result<(), Failure> {
        let facts = kernel.link(Place::Container, &endpoint.ifname);
        // CNI: the reference plugin tells the address to every interface of that name.
        for interface in previous.interfaces.iter_mut().filter(|one| one.name == endpoint.ifname.as_str()) {
            let Some(facts) = facts else { continue };
            interface.mac = interface.mac.as_ref().map(|_| facts.mac.to_string());
            interface.mtu = interface.mtu.map(|_| facts.mtu);
        }
        Ok(())
    }

    fn keeps(&self) -> Keeps {
        Keeps::Own
    }

    fn is_chained(&self) -> bool {
        true
    }
}
