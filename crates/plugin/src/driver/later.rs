//! What plugins later in the chain have made of an interface, as CHECK of the one that made it has to see it.
//!
//! CNI: CHECK is given the result of the whole chain, and must tolerate what later plugins changed (SPEC 1.1.0, section
//! 4). What they moved to other routing tables the kernel itself knows (`Kernel::observe`).

use weft_cni::{Interface, NetworkResult};
use weft_model::{Endpoint, Mtu};
use weft_plan::{Link, LinkKind, Place, Plan, Resource};
use weft_state::Root;
use weft_state::attachment::Records;

use crate::Attachment;

/// Who has tuned an interface.
#[derive(Clone, Copy, PartialEq)]
enum Tuned {
    No,
    /// It tells what it changed in its result, as far as the result's version has words for it.
    ByOurs,
    /// CNI: plugins/meta/tuning tells the address, and passes on what was said of the MTU before.
    ByUpstreams,
}

impl Tuned {
    fn of(attachment: &Attachment) -> Self {
        let (root, endpoint) = (&attachment.root, &attachment.endpoint);
        let record = Records::of_plugin(root, "tuning").get(&endpoint.container, &endpoint.ifname);
        match record {
            Some(_) => Self::ByOurs,
            None if Root::tuning_backup(&root.cni_tuning_dir(), endpoint).exists() => Self::ByUpstreams,
            None => Self::No,
        }
    }
}

/// Makes a plan one that the attachment can meet after everybody has been at work: what the result says of the interface
/// stands for what was configured, and what `tuning` changes and does not tell may be anything. It looks itself.
pub(super) fn concede(plan: &mut Plan, previous: &mut NetworkResult, attachment: &Attachment) {
    let endpoint = &attachment.endpoint;
    let tuned = Tuned::of(attachment);
    let interface = previous.interfaces.iter_mut().find(|one| is_ours(one, endpoint));
    let Some(told) = interface else { return };
    if tuned == Tuned::ByUpstreams {
        told.mtu = None;
    }
    if tuned != Tuned::No {
        let of_container = |resource: &Resource| matches!(resource, Resource::Sysctl(_));
        plan.steps.retain(|step| step.place != Place::Container || !of_container(&step.resource));
    }
    for step in &mut plan.steps {
        let Resource::Link(link) = &mut step.resource else { continue };
        if step.place == Place::Container && link.name == endpoint.ifname {
            adopt(link, told, tuned);
        } else if let LinkKind::Veth(peer) = &mut link.kind
            && (peer.place, &peer.name) == (Place::Container, &endpoint.ifname)
        {
            peer.mac = peer.mac.and_then(|_| told.mac.as_deref()?.parse().ok()).or(peer.mac);
        }
    }
}

fn is_ours(interface: &Interface, endpoint: &Endpoint) -> bool {
    let sandboxed = interface.sandbox.as_deref().is_some_and(|sandbox| !sandbox.is_empty());
    sandboxed && interface.name == endpoint.ifname.as_str()
}

fn adopt(link: &mut Link, told: &Interface, tuned: Tuned) {
    link.mac = link.mac.and_then(|_| told.mac.as_deref()?.parse().ok()).or(link.mac);
    match told.mtu.filter(|mtu| *mtu != 0) {
        Some(mtu) => link.mtu = link.mtu.and_then(|_| Mtu::try_from(i64::from(mtu)).ok()),
        None if tuned != Tuned::No => link.mtu = None,
        None => {}
    }
}
