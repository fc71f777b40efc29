//! Ports of the host that lead to ports of a container.

mod protocol;
mod publication;
mod range;
mod spec;

pub use protocol::{Protocol, ProtocolError};
pub use publication::{Publication, PublicationError, allowed_of, is_same_family};
pub use range::{PortRange, PortRangeError};
pub use spec::{HostPorts, PublishError, PublishSpec};
