//! VLANs of bridge ports.

use weft_netlink::bridge_vlan::{self, Side, Vlans};
use weft_netlink::{Error, link};

use super::{Ensure, Meaning, at};
use crate::journal::Undo;
use crate::{ApplyError, BridgeVlan, Cause, Place, Step, VlanRange, VlanSide};

impl<'a> Ensure<'a> {
    pub(super) fn vlan(&mut self, step: &'a Step, vlan: &'a BridgeVlan) -> Result<(), ApplyError> {
        let place = step.place;
        let index = self.index(step, place, &vlan.dev)?;
        let side = side(vlan.side);
        let wanted: Vec<_> = vlan.vlans.iter().map(vlans).collect();
        // What was there before matters only for a link that stays when everything is taken back.
        let fresh = self.is_fresh(place, &vlan.dev);
        let before = if fresh {
            Vec::new()
        } else {
            self.flush()?;
            let socket = self.kernel.socket(place).map_err(at(step))?;
            bridge_vlan::of_link(socket, index).map_err(|error| at(step)(error.into()))?
        };
        let default = match (vlan.side, vlan.keep_default) {
            (VlanSide::Port, false) => self.default_vlan(step, vlan).map_err(at(step))?,
            _ => None,
        };
        let unwanted =
            default.filter(|id| !wanted.iter().any(|range| (range.first..=range.last).contains(id)));
        if let Some(id) = unwanted.filter(|id| fresh || contains(&before, *id)) {
            let out = Vlans { first: id, last: id, pvid: true, untagged: true };
            let dev = vlan.dev.clone();
            let undo = Undo::AddVlans { place, dev, index, side, vlans: vec![out] };
            let request = bridge_vlan::delete(index, side, &[out]);
            self.queue(step, request, Meaning::Vlans((!fresh).then_some(undo)))?;
        }
        let missing: Vec<_> = wanted.into_iter().filter(|range| !before.contains(range)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let request = bridge_vlan::add(index, side, &missing);
        let undo = Undo::DeleteVlans { place, dev: vlan.dev.clone(), index, side, vlans: missing };
        self.queue(step, request, Meaning::Vlans((!fresh).then_some(undo)))
    }

    /// Returns the VLAN that the bridge puts a new port into.
    fn default_vlan(&mut self, step: &Step, vlan: &BridgeVlan) -> Result<Option<u16>, Cause> {
        let port = self.kernel.known(step.place, &vlan.dev);
        let Some(master) = port.and_then(|port| port.master) else { return Ok(None) };
        let known = self.kernel.a_bridge().filter(|bridge| bridge.facts.index == master);
        let bridge = match known.and_then(|known| known.bridge) {
            Some(bridge) => Some(bridge),
            None => {
                self.kernel.socket(Place::Host)?.link(link::get_index(master))?.and_then(|link| link.bridge)
            }
        };
        Ok(bridge.map(|bridge| bridge.default_pvid).filter(|id| *id != 0))
    }
}

fn contains(ranges: &[Vlans], id: u16) -> bool {
    ranges.iter().any(|range| (range.first..=range.last).contains(&id))
}

pub(crate) fn side(side: VlanSide) -> Side {
    match side {
        VlanSide::Port => Side::Port,
        VlanSide::Bridge => Side::Bridge,
    }
}

pub(crate) fn vlans(range: &VlanRange) -> Vlans {
    Vlans { first: range.first.get(), last: range.last.get(), pvid: range.pvid, untagged: range.untagged }
}

/// A kernel built without CONFIG_BRIDGE_VLAN_FILTERING refuses in a way that nobody would understand.
pub(super) fn refused(error: Error) -> Cause {
    match error.is_unsupported() {
        true => {
            Cause::Lacks { feature: "VLAN filtering for bridges", option: "CONFIG_BRIDGE_VLAN_FILTERING" }
        }
        false => error.into(),
    }
}
