//! What is not as it should be, found without a change.

use weft_overlay::records::Slots;

use super::{Driver, View, now};
use crate::device;
use crate::keys::ClusterSecret;
use crate::mesh::MeshError;
use crate::rotation::{self, Own, Step};
use crate::slot::Slot;

impl Driver {
    /// Returns what is not as [`Driver::advance`] leaves it, a line each, and changes nothing.
    ///
    /// # Errors
    ///
    /// When the kernel or the disk cannot be asked.
    pub fn verify(&mut self, view: &View, secret: &ClusterSecret) -> Result<Vec<String>, MeshError> {
        let mut drifts = Vec::new();
        let stored = self.stored()?;
        if !device::is_closed(&mut self.socket, view.prefix)? {
            drifts.push(format!("route unreachable {} does not exist", view.prefix));
        }
        for slot in Slot::ALL {
            let Some(key) = *slot.of(&stored.wireguard) else { continue };
            if let Some(lack) = device::lack(&mut self.socket, slot, &view.device(&key))? {
                drifts.push(format!("link {}: {lack}", slot.device()));
                continue;
            }
            let asked = self.mesh.strays(slot, &view.peers(slot, &key, secret));
            let asked = asked.and_then(|strays| self.mesh.stats(slot).map(|_| strays));
            match asked {
                Ok(strays) => drifts.extend(strays.iter().map(|what| format!("{}: {what}", slot.device()))),
                Err(error) => drifts.push(error.to_string()),
            }
        }
        if stored.wireguard == Slots::default() {
            drifts.push(format!("link {}: this host has no key yet", Slot::A.device()));
        }
        let observed = self.observe(&stored)?;
        let own = Own { wireguard: stored.wireguard, retiring_for: stored.retiring_for() };
        for step in rotation::plan(&own, &view.remotes, &observed, now(), self.policy) {
            match step {
                // One that leads elsewhere is on its way from one key to the next.
                Step::Route(to, slot) if !observed.routes.contains_key(&to) => {
                    drifts.push(format!("route {to} dev {} does not exist", slot.device()));
                }
                Step::Unroute(to, slot) => {
                    drifts.push(format!("route {to} dev {} should not be there", slot.device()));
                }
                _ => {}
            }
        }
        Ok(drifts)
    }
}
