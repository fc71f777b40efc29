//! What the kernel says, as a function of bytes: nothing may panic, whatever the bytes are. Programs of others may have put anything
//! into names, labels and options that we read.

use std::hint::black_box;

use crate::link::LinkInfo;
use crate::route::{Path, RouteInfo};
use crate::rule::RuleInfo;
use crate::sockets::Listener;
use crate::wire::{Message, messages, u32_at};
use crate::{address, bridge_vlan, monitor, neighbour, tc, wireguard, xfrm};

/// Reads a datagram the way everybody does who asks the kernel or listens to it.
pub fn read(datagram: &[u8]) {
    messages(datagram).map_while(Result::ok).for_each(read_all);
}

fn read_all(message: Message<'_>) {
    drop(message.verdict().map_err(|error| error.to_string()));
    let payload = message.payload;
    let index = u32_at(payload, 4).unwrap_or_default();
    black_box((monitor::event(message), LinkInfo::read(payload), address::AddressInfo::read(payload)));
    black_box((neighbour::read(payload), bridge_vlan::read(payload, index)));
    black_box((RouteInfo::read(payload), Path::read(payload), RuleInfo::read(payload)));
    black_box((wireguard::read_device(payload), Listener::read(payload)));
    black_box((xfrm::count(payload), xfrm::blocks(payload)));
    tc::read_all(payload, index);
}
