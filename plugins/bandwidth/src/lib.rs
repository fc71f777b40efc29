//! The `bandwidth` CNI plugin: how fast a container that other plugins have connected sends and receives.
//!
//! It is chained. What the container receives passes a token bucket at the host's end of its pair; what it sends is
//! redirected there to a link of its own, which has another bucket.

mod about;
mod conf;
mod plan;

use weft_cni::{Code, Failure, Interface, NetworkResult};
use weft_model::Endpoint;
use weft_plan::{Kernel, Place, Plan};
use weft_plugin::{About, Call, Driven, Driver, Keeps, Leases};

pub use conf::{Conf, ConfError, Settings, Surroundings};

/// The `bandwidth` driver.
pub struct Bandwidth;

/// The plugin.
pub static PLUGIN: Driven<Bandwidth> = Driven(Bandwidth);

impl Driver for Bandwidth {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &about::ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn locate(
        &self,
        settings: &mut Settings,
        endpoint: &Endpoint,
        kernel: &mut Kernel,
    ) -> Result<(), Failure> {
        if settings.is_idle() {
            return Ok(());
        }
        let refused = |error: ConfError| Failure::new(Code::InvalidConfig, error);
        if settings.candidates.as_ref().is_some_and(Vec::is_empty) {
            return Err(refused(ConfError::NoInterfaces));
        }
        let end = kernel.other_end(&endpoint.ifname).map_err(|cause| Failure::new(Code::Internal, cause))?;
        if settings.candidates.as_ref().is_some_and(|list| !list.contains(&end.to_string())) {
            return Err(refused(ConfError::NoPeer));
        }
        settings.host_end = Some(end);
        Ok(())
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn addresses(&self, _settings: &Settings, _endpoint: &Endpoint, _leases: &Leases) -> Plan {
        Plan::new()
    }

    fn amend(
        &self,
        settings: &Settings,
        endpoint: &Endpoint,
        kernel: &mut Kernel,
        previous: &mut NetworkResult,
    ) -> Result<(), Failure> {
        let name = plan::ifb(settings, endpoint);
        if settings.egress.is_none() || previous.interfaces.iter().any(|one| one.name == name.as_str()) {
            return Ok(());
        }
        let facts = kernel.link(Place::Host, &name);
        previous.interfaces.push(Interface {
            name: name.to_string(),
            mac: facts.map(|facts| facts.mac.to_string()),
            mtu: facts.map(|facts| facts.mtu),
            ..Interface::default()
        });
        Ok(())
    }

    fn keeps(&self) -> Keeps {
        Keeps::Own
    }

    fn is_chained(&self) -> bool {
        true
    }
}
