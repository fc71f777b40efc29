//! The `tap` CNI plugin: an interface whose frames a program in the container reads and writes.

mod conf;
mod plan;

use weft_cni::{Code, Failure, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Place, Plan};
use weft_plugin::{About, Call, Driven, Driver, Leases};

pub use conf::{Conf, Settings};

/// The `tap` driver.
pub struct TapDevice;

/// The plugin.
pub static PLUGIN: Driven<TapDevice> = Driven(TapDevice);

static ABOUT: About = About {
    kind: "tap",
    summary: "an interface whose frames a program in the container reads and writes",
    versions: &Version::ALL,
    options: &[],
    driver: None,
};

impl Driver for TapDevice {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn survey(&self, settings: &mut Settings, kernel: &mut Kernel) -> Result<(), Failure> {
        let Some(bridge) = settings.bridge.as_ref().filter(|_| kernel.has_container()) else {
            return Ok(());
        };
        let there = kernel.exists(Place::Container, bridge);
        if there.map_err(|cause| Failure::new(Code::Internal, cause))? {
            return Ok(());
        }
        let text = format!("failed to get bridge {bridge}: Link not found");
        let hint = "the bridge is one of the container's";
        Err(Failure::text(Code::InvalidConfig, text).with_hint(Some(hint.into())))
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn addresses(&self, _settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        leases.announced(&endpoint.ifname)
    }
}
