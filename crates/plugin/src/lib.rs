//! The skeleton of a plugin binary.
//!
//! A plugin implements [`Plugin`], or [`Driver`] when it makes links. One binary holds several, and its `main` calls [`main`].
//! Everything else the protocol asks for is here: the environment, the configuration, the versions,
//! errors as JSON, delegates.

mod about;
mod call;
pub mod delegate;
mod dispatch;
mod driver;
pub mod env;
mod linked;
mod plugin;

pub use about::{About, DriverAbout, OptionAbout};
pub use call::{Attachment, Call};
pub use driver::{
    ContainerRequest, Driven, Driver, Keeps, Leases, Masqueraded, Master, Options, attachments_elsewhere,
    bad_option, default_routes, examine_firewall, host_local, loopback_addresses, masquerade_backend,
    on_parent, release_ports, restore_firewall,
};
pub use linked::{Head, Linked};
pub use plugin::{Plugin, main};
pub use weft_cni::{ComposeRequest, ComposedSubnet, Finding, Verb};
