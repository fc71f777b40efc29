//! Bridges.

use std::collections::BTreeSet;

use weft_model::{IfName, Mac, Mtu};
use weft_netlink::link::{self, Change, LinkInfo, NewBridge};
use weft_netlink::{Batch, Error, Request};

use super::existing::inverse;
use super::made::no_kind;
use super::{Ensure, at, vlan};
use crate::journal::Undo;
use crate::kernel::Known;
use crate::{ApplyError, BridgeOptions, Cause, Link, Resource, Step};

/// The alias of a bridge that a plan created. A bridge without it is somebody else's and is never removed.
pub(crate) const MADE_BY_WEFT: &str = "weft";

/// How often a bridge may vanish or appear between the question and the request.
const ATTEMPTS: usize = 3;

impl Ensure<'_> {
    pub(super) fn bridge(&mut self, step: &Step, link: &Link, options: BridgeOptions) -> Result<(), Cause> {
        let mut last = Cause::NoLink { place: step.place, name: link.name.clone() };
        for _ in 0..ATTEMPTS {
            let result = match self.kernel.glimpse_or_look(step.place, &link.name)? {
                Some(found) => self.adopt(step, link, options, &found),
                None => self.create_bridge(step, link, options),
            };
            match result {
                // Another ADD was first, or the bridge went: no lock is held between plugins.
                Err(Cause::Netlink(error)) if error.is_exists() || error.is_missing() => last = error.into(),
                other => return other,
            }
        }
        Err(last)
    }

    /// KERNEL: until someone sets its address, a bridge takes the lowest MAC among its ports
    /// (br_stp_recalculate_bridge_id, net/bridge/br_stp_if.c). Containers come and go, so neighbours'
    /// ARP entries would go stale for minutes. An address given at birth stays.
    /// Kept honest by tests/bridge.rs: a_bridge_keeps_its_mac_and_mtu.
    ///
    /// KERNEL: the same goes for the MTU, but one given at birth does not count: only a change marks
    /// it as the user's (BROPT_MTU_SET_BY_USER, net/bridge/br_device.c).
    fn create_bridge(&mut self, step: &Step, link: &Link, options: BridgeOptions) -> Result<(), Cause> {
        let new = NewBridge {
            name: &link.name,
            mac: link.mac.unwrap_or_else(Mac::random),
            vlan_filtering: options.vlan_filtering,
            promisc: options.promisc,
            up: link.up,
        };
        let mut batch = Batch::new();
        let created = batch.push(link::create_bridge(&new));
        // The alias says who removes the bridge when nobody uses it any more.
        let change = Change { mtu: link.mtu.map(Mtu::get), alias: Some(MADE_BY_WEFT), ..Change::default() };
        let changed = batch.push(link::change_named(&link.name, &change));
        let replies = self.kernel.socket(step.place)?.call(&mut batch)?;
        let reply = replies.of(created).map_err(|error| match options.vlan_filtering {
            true => vlan::refused(error),
            false => no_kind(error, "bridge"),
        })?;
        let created = self.kernel.socket(step.place)?.created(reply, &link.name)?;
        let mut known = Known { fresh: true, follows: None, ..Known::from(&created) };
        let undo = Undo::DeleteLink { place: step.place, name: link.name.clone(), index: known.facts.index };
        if replies.of(changed).is_ok() {
            known.facts.mtu = link.mtu.map_or(known.facts.mtu, Mtu::get);
        }
        self.kernel.learn(step.place, &link.name, known);
        self.note(step, undo);
        replies.of(changed)?;
        Ok(())
    }

    /// An existing bridge keeps its MTU and what it has more of than was asked for.
    fn adopt(
        &mut self,
        step: &Step,
        link: &Link,
        options: BridgeOptions,
        found: &LinkInfo,
    ) -> Result<(), Cause> {
        let Some(bridge) = found.bridge else {
            return Err(Cause::OtherKind { name: link.name.clone(), wanted: "bridge" });
        };
        let change = Change {
            up: (link.up && !found.up).then_some(true),
            promisc: (options.promisc && !found.promisc).then_some(true),
            vlan_filtering: (options.vlan_filtering && !bridge.vlan_filtering).then_some(true),
            mac: link.mac.filter(|mac| found.mac != Some(*mac)),
            ..Change::default()
        };
        if change == Change::default() {
            return Ok(());
        }
        let request = link::change(found.index, &change);
        self.kernel.socket(step.place)?.request(request).map_err(|error: Error| {
            if change.vlan_filtering.is_some() { vlan::refused(error) } else { error.into() }
        })?;
        if let Some(mac) = change.mac {
            let mut known = Known { follows: None, ..Known::from(found) };
            known.facts.mac = mac;
            self.kernel.learn(step.place, &link.name, known);
        }
        let back = inverse(found, &change);
        let undo =
            Undo::ChangeLink { place: step.place, name: link.name.clone(), index: found.index, change: back };
        self.note(step, undo);
        Ok(())
    }

    /// Looks again at the bridges that may have taken the address of a port that joined. Ours do not, so
    /// nothing is asked about them.
    pub(super) fn look_at_followers(&mut self) -> Result<(), ApplyError> {
        let mut seen = BTreeSet::new();
        for step in self.plan.steps() {
            let Resource::Link(Link { port: Some(port), .. }) = &step.resource else { continue };
            if self.kernel.follows(step.place, &port.bridge) && seen.insert(&port.bridge) {
                self.kernel.look(step.place, &port.bridge).map_err(at(step))?;
            }
        }
        Ok(())
    }

    /// Prepares to give a bridge that may follow its ports' addresses one of its own: the one it has now.
    ///
    /// KERNEL: setting the address it has is enough (NET_ADDR_SET, net/bridge/br_device.c). There is no way
    /// back, but the address itself can be put back. A bridge whose last port has left has an address of
    /// zeroes, which nobody can be given.
    pub(super) fn pin(&mut self, step: &Step, bridge: &IfName) -> Result<Option<Pin>, Cause> {
        self.kernel.look(step.place, bridge)?;
        let Some(mut known) = self.kernel.known(step.place, bridge) else { return Ok(None) };
        let before = known.follows.take();
        let mac = Some(known.facts.mac).filter(|mac| !is_zero(*mac)).unwrap_or_else(Mac::random);
        known.facts.mac = mac;
        let index = known.facts.index;
        self.kernel.learn(step.place, bridge, known);
        let back = before.filter(|before| *before != mac && !is_zero(*before));
        let undo = back.map(|mac| Undo::ChangeLink {
            place: step.place,
            name: bridge.clone(),
            index,
            change: Change { mac: Some(mac), ..Change::default() },
        });
        Ok(Some(Pin { request: link::change(index, &Change { mac: Some(mac), ..Change::default() }), undo }))
    }
}

/// A bridge about to get an address of its own.
pub(super) struct Pin {
    pub(super) request: Request,
    pub(super) undo: Option<Undo>,
}

fn is_zero(mac: Mac) -> bool {
    mac == Mac([0; 6])
}
