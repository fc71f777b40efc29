//! The `portmap` CNI plugin: ports of the host that lead to a container which other plugins have connected.

mod about;
mod conf;
mod fold;
mod host;
mod mapping;
mod plan;
mod resolve;
mod settings;

use weft_cni::{Failure, Finding};
use weft_model::Endpoint;
use weft_plan::Plan;
use weft_plugin::{
    About, Call, Driven, Driver, Keeps, Leases, examine_firewall, release_ports, restore_firewall,
};
use weft_state::Root;
use weft_state::ports::Books;

pub use conf::{Conf, ConfError, Rules};
pub use host::HostError;
pub use mapping::MappingError;
pub use resolve::{Addresses, ResolveError, Wanted, resolve};
pub use settings::{Folders, Settings};

/// The `portmap` driver.
pub struct Portmap;

/// The plugin.
pub static PLUGIN: Driven<Portmap> = Driven(Portmap);

impl Driver for Portmap {
    type Settings = Settings;

    fn about(&self) -> &'static About {
        &about::ABOUT
    }

    fn settings(&self, call: &Call) -> Result<Settings, Failure> {
        Settings::of(call)
    }

    fn fit(&self, settings: &mut Settings, endpoint: &Endpoint) -> Result<(), Failure> {
        settings.fit(endpoint)
    }

    fn links(&self, _settings: &Settings, _endpoint: &Endpoint) -> Plan {
        Plan::new()
    }

    fn addresses(&self, settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        plan::attachment(settings, endpoint, leases)
    }

    fn network(&self, settings: &Settings) -> Plan {
        plan::network(settings)
    }

    /// What is published is in books of its own; the attachment is somebody else's.
    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    fn holds(&self, call: &Call) -> Vec<Endpoint> {
        Books::new(&call.root).holders(&call.conf.name)
    }

    fn give_up(&self, call: &Call) -> Result<(), Failure> {
        release_ports(&call.root, &call.conf.name)
    }

    /// What networks and ports have in the firewall is written from its own books.
    fn restore(&self, root: &Root) -> Result<(), Failure> {
        restore_firewall(root)
    }

    fn diagnose(&self, root: &Root) -> Result<Vec<Finding>, Failure> {
        examine_firewall(root)
    }

    fn is_chained(&self) -> bool {
        true
    }
}
