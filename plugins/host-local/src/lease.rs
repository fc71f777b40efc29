//! Leasing addresses: one from each range set, or none at all.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_cni::{Code, Failure};
use weft_ipam::{Choice, RangeSet, RequestError, Taken};
use weft_state::StateError;

use crate::conf::Settings;
use crate::cursor::Cursor;
use crate::index::Lease;
use crate::key::Key;
use crate::store::Store;

/// An address is somebody's already.
pub const TAKEN: Code = Code::TAKEN;

/// Why there is no lease. The texts are those of the CNI reference implementation.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// One of the range sets gave nothing.
    #[error("failed to allocate for range {set}: {cause}")]
    Set {
        /// Which one.
        set: usize,
        /// Why.
        cause: Refusal,
    },
    /// Some of the addresses asked for are in no range set, or are two of one.
    #[error("failed to allocate all requested IPs:{0}")]
    Unused(String),
    /// The leases cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Why a range set gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Everything is taken.
    #[error("no IP addresses available in range set: {set}")]
    Exhausted {
        /// The range set.
        set: String,
        /// Who has the addresses.
        holders: String,
    },
    /// The attachment has an address already.
    #[error("{address} has been allocated to {container}, duplicate allocation is not allowed")]
    Duplicate {
        /// The address it has.
        address: IpAddr,
        /// The container's id.
        container: String,
    },
    /// Somebody has the address that was asked for.
    #[error("requested IP address {address} is not available in range set {set}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// The range set.
        set: String,
        /// Who has it.
        holder: Option<Key>,
    },
    /// Nobody may have the address that was asked for.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The lease cannot be written.
    #[error(transparent)]
    State(#[from] StateError),
}

impl From<LeaseError> for Failure {
    fn from(error: LeaseError) -> Self {
        let (code, hint) = match &error {
            LeaseError::Unused(_) => (Code::InvalidConfig, None),
            LeaseError::State(_) => (Code::Io, None),
            LeaseError::Set { cause, .. } => match cause {
                Refusal::Exhausted { holders, .. } => (Code::EXHAUSTED, Some(holders.clone())),
                Refusal::Duplicate { .. } => (TAKEN, None),
                Refusal::Taken { address, holder, .. } => {
                    (TAKEN, holder.as_ref().map(|key| format!("{address} is leased to {key}")))
                }
                // The bridge has the gateway's address, and what is reserved is kept for somebody.
                Refusal::Request(RequestError::Gateway(_) | RequestError::Reserved(_)) => (TAKEN, None),
                Refusal::Request(RequestError::Edge(..)) => (Code::UNFIT, None),
                Refusal::Request(RequestError::Outside(..)) => (Code::InvalidConfig, None),
                Refusal::State(_) => (Code::Io, None),
            },
        };
        Self::text(code, error.to_string()).with_hint(hint)
    }
}

/// Leases one address from each range set.
///
/// # Errors
///
/// When a set gives none or a request is for none of them. All leases of this call are then given back;
/// the failure names those that could not be.
pub fn lease(settings: &Settings, store: &mut Store, key: &Key) -> Result<Vec<Choice>, Failure> {
    let mut made = Vec::new();
    lease_each(settings, store, key, &mut made).map_err(|error| {
        let mut failure = Failure::from(error);
        for lease in &made {
            if let Err(error) = store.release(lease) {
                failure = failure.with_details(error.to_string());
            }
        }
        failure
    })
}

fn lease_each(
    settings: &Settings,
    store: &mut Store,
    key: &Key,
    made: &mut Vec<Lease>,
) -> Result<Vec<Choice>, LeaseError> {
    let mut held = Vec::new();
    for lease in store.leases_of(key)? {
        // The machine went down before the attachment did, and now its name is back.
        if store.is_dead(&lease) {
            store.release(&lease)?;
        } else {
            held.push(lease);
        }
    }
    let mut requested = settings.requested.clone();
    let mut choices = Vec::new();
    for (number, set) in settings.pool.sets().iter().enumerate() {
        let asked = requested.iter().position(|ip| set.is_asked_for(*ip, &settings.policy));
        let asked = asked.map(|index| requested.remove(index));
        let refuse = |cause| LeaseError::Set { set: number, cause };
        if let Some(lease) = held.iter().find(|lease| set.is_asked_for(lease.address, &settings.policy)) {
            let container = key.container().into();
            return Err(refuse(Refusal::Duplicate { address: lease.address, container }));
        }
        let mut one = Set::new(number, set, settings, store);
        let choice = match asked {
            Some(address) => one.take(address, key),
            None => one.take_next(key),
        };
        let choice = choice.map_err(refuse)?;
        let address = choice.address.ip();
        made.push(Lease { holder: key.hash(), address, boot: 0, written: 0 });
        one.cursor.set(address)?;
        choices.push(choice);
    }
    if requested.is_empty() {
        Ok(choices)
    } else {
        Err(LeaseError::Unused(requested.iter().map(|ip| format!(" {ip}")).collect()))
    }
}

/// One range set and where its leases are.
struct Set<'call> {
    set: &'call RangeSet,
    settings: &'call Settings,
    store: &'call mut Store,
    cursor: Cursor,
}

impl<'call> Set<'call> {
    fn new(number: usize, set: &'call RangeSet, settings: &'call Settings, store: &'call mut Store) -> Self {
        let cursor = store.cursor(number);
        Self { set, settings, store, cursor }
    }

    /// Leases the address that was asked for.
    fn take(&mut self, address: IpAddr, key: &Key) -> Result<Choice, Refusal> {
        let choice = self.set.request(address, &self.settings.policy)?;
        if let Some(lease) = self.store.lease_at(address)?
            && self.store.is_dead(&lease)
        {
            self.store.release(&lease)?;
        }
        if self.store.first_free(address, address)?.is_some() && self.store.reserve(address, key)? {
            return Ok(choice);
        }
        let holder = self.store.holder(address)?;
        Err(Refusal::Taken { address, set: self.set.to_string(), holder })
    }

    /// Leases the next address. When all are taken, those of a boot that is over are given back first.
    fn take_next(&mut self, key: &Key) -> Result<Choice, Refusal> {
        loop {
            match self.next()? {
                Some(choice) if self.store.reserve(choice.address.ip(), key)? => return Ok(choice),
                Some(_) => {}
                None if self.reclaim()? => {}
                None => return Err(self.exhausted()?),
            }
        }
    }

    fn next(&mut self) -> Result<Option<Choice>, StateError> {
        self.set.next(self.cursor.last(), &self.settings.policy, self.store)
    }

    /// Returns whether there is an address now that was not free before.
    fn reclaim(&mut self) -> Result<bool, StateError> {
        let dead = self.store.dead()?;
        let dead: Vec<Lease> = dead.into_iter().filter(|lease| self.set.contains(lease.address)).collect();
        for lease in &dead {
            self.store.release(lease)?;
        }
        Ok(!dead.is_empty())
    }

    fn exhausted(&mut self) -> Result<Refusal, StateError> {
        let mut leases = self.store.leases()?;
        leases.retain(|lease| self.set.contains(lease.address));
        let holders: BTreeSet<u64> = leases.iter().map(|lease| lease.holder).collect();
        let (leases, holders) = (leases.len(), holders.len());
        let holders = format!("{leases} of its addresses are leased to {holders} attachments");
        Ok(Refusal::Exhausted { set: self.set.to_string(), holders })
    }
}

/// Refuses when an ADD would find no address in one of the range sets.
///
/// # Errors
///
/// Code 50 when that is so.
pub fn available(settings: &Settings, store: &mut Store) -> Result<(), Failure> {
    let unavailable = |error: Refusal| match error {
        Refusal::Exhausted { set, holders } => {
            let msg = format!("no IP addresses available in range set: {set}");
            Failure::text(Code::NotAvailable, msg).with_details(holders)
        }
        other => Failure::new(Code::Io, other),
    };
    for (number, set) in settings.pool.sets().iter().enumerate() {
        let mut one = Set::new(number, set, settings, store);
        let io = |error| unavailable(Refusal::State(error));
        if one.next().map_err(io)?.is_some() {
            continue;
        }
        let dead = one.store.dead().map_err(io)?;
        if !dead.iter().any(|lease| set.contains(lease.address)) {
            return Err(unavailable(one.exhausted().map_err(io)?));
        }
    }
    Ok(())
}
