//! CNI wire types, every spec version and the conversions between them.
//!
//! Nothing here does I/O. What a runtime or a plugin reads comes in as bytes or as a
//! [`serde_json::Value`]; what it prints goes out as text.

pub mod address;
pub mod args;
mod compose;
mod conf;
mod conflist;
mod failure;
pub mod json;
mod mend;
mod result;
mod verb;
pub mod version;

pub use args::CniArgs;
pub use compose::{ComposeRequest, ComposedSubnet};
pub use conf::{AttachmentId, NetConf};
pub use conflist::Conflist;
pub use failure::{Code, Failure};
pub use mend::{Finding, Findings, MendRequest};
pub use result::{Dns, Interface, IpConfig, NetworkResult, Route};
pub use verb::Verb;
pub use version::Version;
