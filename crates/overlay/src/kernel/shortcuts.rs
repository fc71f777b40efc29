//! The ways past the firewall of networks that asked for them whoever else has a say.

use weft_model::IfName;
use weft_netlink::link;
use weft_netns::Netns;
use weft_plan::{Kernel, Place, Plan, Shortcut, Slow};

use super::error::KernelError;
use super::reconcile::open;
use crate::local::LocalNetwork;
use crate::records::Fastpath;

/// Returns what has packets within the network pass by the firewall: those that a container sends to other hosts, which come by
/// its end of a pair.
pub fn outgoing_shortcut(local: &LocalNetwork, port: &IfName) -> Option<Shortcut> {
    let (from, to) = (local.bridge.clone(), local.vxlan.clone());
    (local.fastpath == Fastpath::Always).then(|| Shortcut { dev: port.clone(), from, to })
}

/// The same for all that other hosts send, and for what the containers that are there do.
fn all(local: &LocalNetwork, home: Option<&Netns>) -> Result<Vec<Shortcut>, KernelError> {
    if local.fastpath != Fastpath::Always {
        return Ok(Vec::new());
    }
    let (dev, to) = (local.vxlan.clone(), local.bridge.clone());
    let mut shortcuts = vec![Shortcut { from: dev.clone(), dev, to }];
    let mut socket = open(home)?;
    if let Some(bridge) = socket.link(link::get(&local.bridge))? {
        let found = link::ports(&mut socket, bridge.index)?;
        // What an administrator has put there is none of ours.
        let pairs = found.iter().filter(|port| port.kind.as_deref() == Some("veth"));
        let ports = pairs.filter_map(|port| port.name.parse::<IfName>().ok());
        shortcuts.extend(ports.filter_map(|port| outgoing_shortcut(local, &port)));
    }
    Ok(shortcuts)
}

/// Returns what it takes to have them all.
pub(super) fn shortcuts(local: &LocalNetwork, home: Option<&Netns>) -> Result<Plan, KernelError> {
    let mut plan = Plan::new();
    for shortcut in all(local, home)? {
        plan.network(shortcut);
    }
    Ok(plan)
}

/// Returns why packets within the network go by the firewall though it has asked for better; nothing when none do. A kernel that
/// has no shortcuts is said once.
pub(super) fn why_slow(local: &LocalNetwork, home: Option<&Netns>) -> Result<Vec<Slow>, KernelError> {
    let mut kernel = Kernel::at(home, None)?;
    let mut why = Vec::new();
    for shortcut in all(local, home)? {
        why.extend(kernel.why_slow(Place::Host, &shortcut)?);
        if let Some(Slow::Kernel(_)) = why.last() {
            break;
        }
    }
    Ok(why)
}
