//! The skeleton of a plugin binary.
//!
//! A plugin implements [`Plugin`], or a driver when it makes links, and its `main` calls [`main`].
//! Everything else the protocol asks for is here: the environment, the configuration, the versions,
//! errors as JSON, delegates.

mod about;
mod call;
pub mod delegate;
mod dispatch;
pub mod env;
mod plugin;

pub use about::{About, DriverAbout, OptionAbout};
pub use call::{Attachment, Call};
pub use plugin::{Plugin, main};
pub use weft_cni::{ComposeRequest, ComposedSubnet, Verb};
