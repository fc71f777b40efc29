//! What is at the other end of the host's veth pairs, whoever made them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::IfName;
use weft_netlink::link::LinkInfo;
use weft_netlink::{address, link, route};

use crate::{Cause, Kernel, Place};

impl Kernel {
    /// Returns the addresses that somebody has behind the host's veth pairs: those in the namespaces that the pairs lead to,
    /// and those that the host has a route to by a pair. `except` is a bridge whose ports do not count.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to answer.
    pub fn addresses_behind_pairs(&mut self, except: Option<&IfName>) -> Result<BTreeSet<IpAddr>, Cause> {
        let socket = self.socket(Place::Host)?;
        let links = link::all(socket)?;
        let bridge = except.and_then(|name| links.iter().find(|link| link.name == name.as_str()));
        let counts = |link: &&LinkInfo| {
            link.leads_away() && (bridge.is_none() || link.master != bridge.map(|bridge| bridge.index))
        };
        let pairs: Vec<_> = links.iter().filter(counts).collect();
        let mut found = BTreeSet::new();
        let namespaces: BTreeSet<i32> = pairs.iter().filter_map(|pair| pair.peer_netns).collect();
        for netns in namespaces {
            found.extend(address::elsewhere(socket, netns)?.iter().map(|one| one.address.ip()));
        }
        for route in route::of_table(socket, route::MAIN)? {
            let is_one_address = route.dst.prefix() == if route.dst.is_ipv4() { 32 } else { 128 };
            if is_one_address && pairs.iter().any(|pair| pair.index == route.index) {
                found.insert(route.dst.ip());
            }
        }
        Ok(found)
    }
}
