//! What an overlay is in this host's kernel: devices, and the ways to its peers.

mod devices;
mod error;
mod gate;
mod home;
mod kept;
mod look;
mod peers;
mod reason;
mod reconcile;
mod shortcuts;
mod stale;
mod uplink;
mod verify;

pub use devices::{devices, outside};
pub use error::KernelError;
pub use gate::{Gates, State as GateState, Wanted as WantedGates};
pub use home::{home, netns_path};
pub use peers::Subject;
pub use reason::Reason;
pub use reconcile::{Reconciler, Report, Trouble};
pub use shortcuts::outgoing_shortcut;
pub use uplink::leads_outside;
pub(crate) use uplink::pair;
pub use verify::Drift;
pub use weft_plan::possible_shortcuts;

/// Who made a route or a neighbour: the number that weft signs with (rtm_protocol, NDA_PROTOCOL). Nobody has it in
/// `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 201;

/// What the alias of a VXLAN device of ours starts with; the network's id follows.
pub const ALIAS: &str = "weft-overlay:";

/// The metric of black holes: every other route wins.
pub(crate) const LAST: u32 = 4_278_198_272;
