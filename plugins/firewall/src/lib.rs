//! The `firewall` CNI plugin: a container's packets pass the host's firewall, and its bridge is apart from others.
//!
//! It is chained: it works on the interfaces and addresses that the plugins before it made, and
//! passes their result on.

mod about;
mod conf;
mod plan;

use weft_cni::{Failure, Finding};
use weft_model::Endpoint;
use weft_plan::Plan;
use weft_plugin::{About, Call, Driven, Driver, Keeps, Leases, examine_firewall, restore_firewall};
use weft_state::Root;

pub use conf::{Conf, ConfError, Settings, Surroundings};

/// The `firewall` driver.
pub struct Firewall;

/// The plugin.
pub static PLUGIN: Driven<Firewall> = Driven(Firewall);

impl Driver for Firewall {
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

    fn addresses(&self, settings: &Settings, endpoint: &Endpoint, leases: &Leases) -> Plan {
        plan::addresses(settings, endpoint, leases)
    }

    fn keeps(&self) -> Keeps {
        Keeps::Nothing
    }

    fn holds(&self, call: &Call) -> Vec<Endpoint> {
        weft_firewall::admitted_of(&call.root.masquerade_dir(), &call.conf.name)
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
