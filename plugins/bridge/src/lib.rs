//! The `bridge` CNI plugin: containers on one Linux bridge, each with a veth pair.

mod compose;
mod conf;
mod plan;

use std::net::IpAddr;

use serde_json::Value;
use weft_cni::{Code, Failure, Finding, Version};
use weft_model::Endpoint;
use weft_plan::{Kernel, Plan};
use weft_plugin::{
    About, Call, ComposeRequest, Driven, Driver, DriverAbout, Leases, examine_firewall, restore_firewall,
};
use weft_state::Root;

pub use conf::{Conf, ConfError, Gateway, Settings, Surroundings, Vlans};

/// The `bridge` driver.
pub struct Bridge;

/// The plugin.
pub static PLUGIN: Driven<Bridge> = Driven(Bridge);

static ABOUT: About = About {
    kind: "bridge",
    summary: "containers on one Linux bridge, each with a veth pair",
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

/// Refuses an address that packets could leave with and no answer would come back to.
fn refuse_foreign(source: IpAddr, kernel: &mut Kernel) -> Result<(), Failure> {
    match kernel.is_own_address(source) {
        Ok(true) => Ok(()),
        Ok(false) => {
            let how = "weft network create -o allow_foreign_host_ip, or \"allowForeignHostIP\": true";
            let hint = format!("name an address of this host, or allow others for the network: {how}");
            Err(Failure::new(Code::UNFIT, ConfError::ForeignSource(source)).with_hint(Some(hint)))
        }
        Err(cause) => Err(Failure::new(Code::Internal, cause)),
    }
}

impl Driver for Bridge {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn survey(&self, settings: &mut Settings, kernel: &mut Kernel) -> Result<(), Failure> {
        // Links of one bridge that differ in MTU lose each other's long packets without a word.
        let of_ours = |kernel: &mut Kernel| kernel.mtu_of_ours(&settings.bridge);
        settings.mtu = settings.mtu.or_else(|| of_ours(kernel)).or_else(|| kernel.uplink_mtu());
        if settings.foreign_sources {
            return Ok(());
        }
        settings.sources.iter().try_for_each(|source| refuse_foreign(*source, kernel))
    }

    fn links(&self, settings: &Settings, endpoint: &Endpoint) -> Plan {
        plan::links(settings, endpoint)
    }

    fn resolve(&self, settings: &Settings, _endpoint: &Endpoint, leases: Leases) -> Result<Leases, Failure> {
        plan::resolve(settings, leases)
    }

    fn addresses(&self, settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        plan::addresses(settings, endpoint, leases)
    }

    fn network(&self, settings: &Settings) -> Plan {
        plan::network(settings)
    }

    /// What networks and ports have in the firewall is written from its own books.
    fn restore(&self, root: &Root) -> Result<(), Failure> {
        restore_firewall(root)
    }

    fn diagnose(&self, root: &Root) -> Result<Vec<Finding>, Failure> {
        examine_firewall(root)
    }

    fn compose(&self, request: &ComposeRequest) -> Result<Vec<Value>, Failure> {
        compose::compose(request)
    }
}
