//! What the kernel says, as a function of bytes: nothing may panic, whatever the bytes are. Programs of others may have put anything
//! into names, comments and rules that we read.

use crate::message::Messages;
use crate::{Family, Known, conntrack, hooked, list, monitor, read};

/// Reads a datagram the way everybody does who asks the kernel or listens to it, and compares rules with those that are known.
pub fn read(datagram: &[u8], known: &Known) {
    monitor::tells_of_a_change(datagram);
    for (header, attributes) in Messages(datagram).map_while(|message| message) {
        drop(list::Listing::new(header.sequence).add(datagram, read::rule));
        read_all(attributes, known);
    }
}

fn read_all(attributes: &[u8], known: &Known) {
    read::generation(attributes);
    drop(read::table_comment(attributes));
    drop(read::chain_name(attributes));
    drop(read::set_name(attributes));
    drop(read::element(attributes));
    drop(read::elements(attributes));
    if let Some(called) = hooked::called(attributes, Family::Netdev).flatten() {
        called.is_for("ovb1388");
    }
    if let Some(rule) = read::rule(attributes) {
        known.has_anywhere(&rule);
    }
    conntrack::read_all(attributes);
}
