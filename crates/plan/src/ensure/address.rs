//! Addresses.

use std::thread;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use weft_model::IfName;
use weft_netlink::{Batch, Error, address};

use super::bridge::Pin;
use super::{Ensure, Meaning, at};
use crate::journal::Undo;
use crate::{Address, ApplyError, Cause, Conflict, Place, Resource, Step};

/// How long an address may take to be found unique, and how often we look.
const PROBE_LIMIT: Duration = Duration::from_secs(10);
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// An address on its way to the kernel.
pub(super) struct Wanted<'a> {
    address: &'a Address,
    index: u32,
}

/// An address that is being probed for duplicates.
pub(super) struct Probing<'a> {
    step: &'a Step,
    address: &'a Address,
    index: u32,
}

impl<'a> Ensure<'a> {
    pub(super) fn address(&mut self, step: &'a Step, address: &'a Address) -> Result<(), ApplyError> {
        let index = self.index(step, step.place, &address.dev)?;
        let fresh = self.is_fresh(step.place, &address.dev);
        if address.conflict != Conflict::Allow && !fresh {
            self.flush()?;
            if self.resolve_conflicts(step, address, index).map_err(at(step))? {
                return Ok(());
            }
        }
        // A bridge that somebody else made may still follow its ports' addresses (see bridge.rs).
        let pin = if self.kernel.follows(step.place, &address.dev) {
            self.flush()?;
            self.pin(step, &address.dev).map_err(at(step))?
        } else {
            None
        };
        let request = match address.prefix_route {
            true => address::add(index, address.address, address.dad),
            false => address::add_alone(index, address.address, address.dad),
        };
        self.queue(step, request, Meaning::Address(Wanted { address, index }))?;
        if let Some(Pin { request, undo }) = pin {
            self.queue(step, request, Meaning::Made(undo))?;
        }
        if address.dad && address.address.is_ipv6() {
            self.probing.push(Probing { step, address, index });
        }
        Ok(())
    }

    /// Looks at the link's other addresses; returns whether the wanted one is there already.
    fn resolve_conflicts(&mut self, step: &Step, wanted: &Address, index: u32) -> Result<bool, Cause> {
        let found = address::of_link(self.kernel.socket(step.place)?, index)?;
        if found.iter().any(|one| one.address == wanted.address) {
            return Ok(true);
        }
        let planned = self.planned(step.place, &wanted.dev);
        let mut others: Vec<_> = found.into_iter().map(|one| one.address).collect();
        others.retain(|other| conflict(*other, wanted.address) && !planned.contains(other));
        if others.is_empty() {
            return Ok(false);
        }
        if wanted.conflict == Conflict::Refuse {
            return Err(Cause::AddressConflict { dev: wanted.dev.clone(), address: wanted.address });
        }
        let mut batch = Batch::new();
        let tickets: Vec<_> = others.iter().map(|other| batch.push(address::delete(index, *other))).collect();
        let replies = self.kernel.socket(step.place)?.call(&mut batch)?;
        let dev = wanted.dev.clone();
        self.note(step, Undo::AddAddresses { place: step.place, dev, index, addresses: others });
        for ticket in tickets {
            match replies.of(ticket) {
                // KERNEL: the first address of a subnet takes the others along (promote_secondaries is off).
                Err(error) if !error.is_missing() => return Err(error.into()),
                _ => {}
            }
        }
        Ok(false)
    }

    /// The addresses that this plan gives a link: they do not conflict with each other.
    fn planned(&self, place: Place, dev: &IfName) -> Vec<IpNetwork> {
        let steps = self.plan.steps().iter().filter(|step| step.place == place);
        let addresses = steps.filter_map(|step| match &step.resource {
            Resource::Address(address) if address.dev == *dev => Some(address.address),
            _ => None,
        });
        addresses.collect()
    }

    pub(super) fn address_answered(
        &mut self,
        step: &Step,
        Wanted { address, index }: Wanted<'_>,
        refused: Option<Error>,
    ) -> Result<(), Cause> {
        match refused {
            None => {
                let dev = address.dev.clone();
                self.note(
                    step,
                    Undo::DeleteAddress { place: step.place, dev, index, address: address.address },
                );
                Ok(())
            }
            Some(error) if error.is_exists() => {
                // KERNEL: IPv6 refuses the same address with another prefix length, too.
                let found = address::of_link(self.kernel.socket(step.place)?, index)?;
                if found.iter().any(|one| one.address == address.address) {
                    Ok(())
                } else {
                    Err(error.into())
                }
            }
            Some(error) => Err(error.into()),
        }
    }

    /// Waits until the addresses that should be probed are known to be unique.
    pub(super) fn wait_for_probes(&mut self) -> Result<(), ApplyError> {
        for probing in std::mem::take(&mut self.probing) {
            self.wait_for(&probing).map_err(at(probing.step))?;
        }
        Ok(())
    }

    fn wait_for(&mut self, Probing { step, address, index }: &Probing<'_>) -> Result<(), Cause> {
        let deadline = Instant::now() + PROBE_LIMIT;
        loop {
            let found = address::of_link(self.kernel.socket(step.place)?, *index)?;
            let Some(found) = found.into_iter().find(|one| one.address == address.address) else {
                return Ok(());
            };
            if found.duplicate {
                return Err(Cause::Duplicate { dev: address.dev.clone(), address: address.address });
            }
            if !found.tentative {
                return Ok(());
            }
            if Instant::now() > deadline {
                let state = format!("address {} of {} is tentative", address.address, address.dev);
                return Err(Error::Timeout { state, limit: PROBE_LIMIT }.into());
            }
            thread::sleep(PROBE_INTERVAL);
        }
    }
}

/// CNI: any other IPv4 address of a bridge conflicts; of IPv6 only what overlaps (cni.dev, plugin bridge).
fn conflict(one: IpNetwork, other: IpNetwork) -> bool {
    match (one, other) {
        (IpNetwork::V4(_), IpNetwork::V4(_)) => true,
        (IpNetwork::V6(one), IpNetwork::V6(other)) => one.contains(other.ip()) || other.contains(one.ip()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv4_addresses_exclude_each_other_and_ipv6_networks_do_if_they_overlap() {
        let table = [
            ("10.0.0.1/8", "192.168.0.1/24", true),
            ("10.0.0.1/8", "fd00::1/64", false),
            ("fd00::1/64", "fd01::1/64", false),
            ("fd00::1/64", "fd00::2/64", true),
            ("fd00::1/32", "fd00:0:1::2/64", true),
            ("fd00:0:1::2/64", "fd00::1/32", true),
            ("fe80::1/64", "fd00::1/64", false),
        ];
        for (one, other, expected) in table {
            assert_eq!(conflict(one.parse().unwrap(), other.parse().unwrap()), expected, "{one} {other}");
        }
    }
}
