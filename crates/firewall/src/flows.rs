//! Flows that outlive what they were translated by.
//!
//! A connection of TCP ends with the container it leads to, and its client begins a new one. UDP has clients that never
//! stop sending, and SCTP's associations try other ways first: what the kernel remembers of them would lead to where the port
//! led before. Whatever goes wrong here is told to nobody: the rules stand, and every flow ends by itself some day.

use weft_model::port::{Protocol, Publication};
use weft_nft::conntrack::{Tuple, Whose, forget};
use weft_state::ports::{Claim, Owner};

use crate::weft::ports;
use crate::{Backend, Firewall};

/// Forgets what led to an attachment by what it no longer publishes, as far as that was its own, and what
/// led elsewhere by what it publishes now.
pub(crate) fn follow(firewall: &mut Firewall, before: &[&Owner], after: Option<&Owner>, owned: &[Claim]) {
    let has = |owner: &Owner, one: &Publication| owner.publications.contains(one);
    let gone = |owner: &Owner| -> Vec<Tuple> {
        let stays = |one: &&Publication| after.is_some_and(|after| has(after, one));
        let own = |one: &&Publication| owned.contains(&Claim::Host(one.protocol, one.host, one.host_ports));
        translated(owner).filter(|one| own(one) && !stays(one)).map(tuple).collect()
    };
    let gone: Vec<Tuple> = before.iter().flat_map(|owner| gone(owner)).collect();
    let was_there = |one: &&Publication| before.iter().any(|before| has(before, one));
    let come: Vec<Tuple> =
        after.into_iter().flat_map(translated).filter(|one| !was_there(one)).map(tuple).collect();
    if gone.is_empty() && come.is_empty() {
        return;
    }
    let Ok(socket) = firewall.inet() else { return };
    if !gone.is_empty() {
        let ours: Vec<_> =
            before.iter().filter(|owner| Backend::named(&owner.backend) == Backend::Weft).copied().collect();
        ports::await_expiry(socket, &ours, after, owned);
        drop(forget(socket, &gone, Whose::Ours));
    }
    drop(forget(socket, &come, Whose::Others));
}

/// Returns what is published by translating addresses, in protocols whose clients go on for ever.
fn translated(owner: &Owner) -> impl Iterator<Item = &Publication> {
    owner.publications.iter().filter(|one| lasts(one.protocol) && owner.gateways.of(one.target).translates())
}

/// Tells whether flows of a protocol outlive the container they lead to.
pub(crate) fn lasts(protocol: Protocol) -> bool {
    protocol != Protocol::Tcp
}

fn tuple(one: &Publication) -> Tuple {
    let Publication { protocol, host, host_ports, target, .. } = *one;
    Tuple { protocol: protocol.number(), address: host, ports: host_ports.ports(), target }
}
