//! Links of any kind, and those that somebody else created.

use weft_model::IfName;
use weft_netlink::link::{self, Change, LinkInfo, PortOptions};

use super::{Ensure, Meaning, at};
use crate::journal::Undo;
use crate::kernel::Known;
use crate::{ApplyError, Link, LinkKind, Port, Step};

impl<'a> Ensure<'a> {
    pub(super) fn link(&mut self, step: &'a Step, link: &'a Link) -> Result<(), ApplyError> {
        match &link.kind {
            LinkKind::Bridge(options) => {
                self.flush()?;
                self.bridge(step, link, *options).map_err(at(step))
            }
            LinkKind::Veth(peer) => self.veth(step, link, peer),
            LinkKind::Made(made) => self.made(step, link, made),
            LinkKind::Vxlan(options) => {
                self.flush()?;
                self.vxlan(step, link, options).map_err(at(step))
            }
            LinkKind::Lent(lent) => self.lent(step, link, lent.as_deref()),
            LinkKind::Unseen => Ok(()),
            LinkKind::Existing => self.existing(step, link),
        }
    }

    /// A link we created a moment ago is told by index, and goes as a whole if it must. One that was
    /// there is asked for in the same send, so that its state before is known afterwards.
    fn existing(&mut self, step: &'a Step, link: &'a Link) -> Result<(), ApplyError> {
        let change = self.wanted(step, link)?;
        let name = &link.name;
        // It may be about to be created by what has gathered.
        if self.kernel.known(step.place, name).is_none() && !self.pending.is_empty() {
            self.flush()?;
        }
        let known = self.kernel.known(step.place, name).filter(|known| known.fresh);
        if !link.link_local {
            // Where IPv6 is off there is nothing to say, and the kernel refuses to listen.
            self.push(step.place, link::without_ipv6_address(name))?;
        }
        if change != Change::default() {
            if let Some(known) = known {
                self.queue(step, link::change(known.facts.index, &change), Meaning::Made(None))?;
            } else {
                let look = self.push(step.place, link::get(name))?;
                self.queue(
                    step,
                    link::change_named(name, &change),
                    Meaning::Existing { look, name, change },
                )?;
            }
        }
        if let Some(port) = &link.port {
            self.queue(step, link::set_port(name, options(port), port.group), Meaning::Made(None))?;
        }
        Ok(())
    }

    fn wanted(&mut self, step: &Step, link: &Link) -> Result<Change, ApplyError> {
        let master = match &link.port {
            Some(port) => Some(self.index(step, step.place, &port.bridge)?),
            None => None,
        };
        Ok(Change {
            up: link.up.then_some(true),
            mtu: link.mtu.map(|mtu| mtu.get()),
            mac: link.mac,
            master,
            ..Change::default()
        })
    }

    pub(super) fn existing_answered(
        &mut self,
        step: &Step,
        name: &IfName,
        before: &LinkInfo,
        change: &Change,
    ) {
        let known = Known { master: change.master.or(before.master), ..Known::from(before) };
        self.kernel.learn(step.place, name, known);
        let back = inverse(before, change);
        if back != Change::default() {
            let undo =
                Undo::ChangeLink { place: step.place, name: name.clone(), index: before.index, change: back };
            self.note(step, undo);
        }
    }
}

/// Returns what brings a link back to how it was before a change: only what the change altered.
pub(super) fn inverse(before: &LinkInfo, change: &Change) -> Change {
    let filtering = before.bridge.map(|bridge| bridge.vlan_filtering);
    Change {
        up: change.up.and(Some(before.up)).filter(|up| Some(*up) != change.up),
        mtu: change.mtu.and(Some(before.mtu)).filter(|mtu| Some(*mtu) != change.mtu),
        mac: change.mac.and(before.mac).filter(|mac| Some(*mac) != change.mac),
        promisc: change.promisc.and(Some(before.promisc)).filter(|on| Some(*on) != change.promisc),
        allmulti: change.allmulti.and(Some(before.allmulti)).filter(|on| Some(*on) != change.allmulti),
        tx_queue_len: change
            .tx_queue_len
            .and(Some(before.tx_queue_len))
            .filter(|length| Some(*length) != change.tx_queue_len),
        master: change
            .master
            .and(Some(before.master.unwrap_or(0)))
            .filter(|index| Some(*index) != change.master),
        vlan_filtering: change.vlan_filtering.and(filtering).filter(|on| Some(*on) != change.vlan_filtering),
        // What is changed about a link of somebody else's has no alias in it.
        alias: None,
    }
}

pub(super) fn options(port: &Port) -> PortOptions {
    PortOptions { hairpin: port.hairpin, isolated: port.isolated }
}
