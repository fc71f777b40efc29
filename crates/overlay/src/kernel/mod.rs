//! What an overlay is in this host's kernel: devices, and the ways to its peers.

mod devices;
mod peers;
mod reconcile;
mod stale;
mod uplink;

pub use devices::{devices, home, netns_path, outgoing_shortcut, outside};
pub use peers::Subject;
pub use reconcile::{Drift, KernelError, Reconciler, Report, Trouble};
pub use uplink::leads_outside;
pub(crate) use uplink::pair;
pub use weft_plan::possible_shortcuts;

/// Who made a route or a neighbour: the number that weft signs with (rtm_protocol, NDA_PROTOCOL). Nobody has it in
/// `/etc/iproute2/rt_protos`.
pub const PROTOCOL: u8 = 201;

/// What the alias of a VXLAN device of ours starts with; the network's id follows.
pub const ALIAS: &str = "weft-overlay:";

/// The metric of black holes: every other route wins.
pub(crate) const LAST: u32 = 4_278_198_272;
