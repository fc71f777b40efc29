//! Hosts come, go and are replaced.

use std::net::IpAddr;

use weft_overlay::blocks::{Taken, overlap};
use weft_overlay::records::{
    Alive, Block, BlockState, Cluster, Host, HostClaim, Left, Network, Slot, Slots, Underlay, encode,
    rewritten,
};
use weft_overlay::snapshot::Record;
use weft_overlay::{HostId, Key, keys};

use super::{ATTEMPTS, CHUNK, ClaimError, Claims, Found, networks_of, only, pause};
use crate::{Compare, LeaseId, Op, Read};

/// Who wants to join.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// The host, the same with every boot.
    pub id: HostId,
    /// Its name.
    pub name: String,
    /// The kernel's boot id.
    pub boot: String,
    /// Its addresses outside, one at least.
    pub underlay: Underlay,
    /// The MTU of its underlay interface.
    pub mtu: u32,
    /// The version of weft on it.
    pub version: String,
    /// Its keys; none of a slot leaves what is published.
    pub wireguard: Slots<Option<Slot>>,
    /// Whether it replaces a silent host that has its address.
    pub takeover: bool,
    /// The cluster to found if there is none.
    pub cluster: Cluster,
}

/// What became of a host that joined.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    /// Its record.
    pub host: Host,
    /// The cluster it is in now.
    pub cluster: Cluster,
    /// The hosts it replaces.
    pub replaced: Vec<HostId>,
}

/// What a transaction will be.
#[derive(Default)]
struct Draft {
    compares: Vec<Compare>,
    ops: Vec<Op>,
}

impl Draft {
    /// Writes a key that has to be as it was found.
    fn put<T>(&mut self, key: &Key, found: Option<&Found<T>>, value: Vec<u8>) {
        self.compares.push(match found {
            Some(found) => Compare::unchanged(key, found.modified),
            None => Compare::absent(key),
        });
        self.ops.push(Op::put(key, value));
    }
}

impl Claims {
    /// Joins the cluster, or founds it; a host that is in already says again what it is.
    ///
    /// # Errors
    ///
    /// An underlay address of another host, a host that is out, a network whose subnet covers the underlay; what keeps the store
    /// from answering.
    pub async fn join(&self, request: &JoinRequest) -> Result<Joined, ClaimError> {
        for attempt in 0..ATTEMPTS {
            if let Some(joined) = self.try_join(request, attempt).await? {
                // The address is ours now; what the other one had goes into quarantine.
                for replaced in &joined.replaced {
                    self.clear(*replaced).await?;
                }
                return Ok(joined);
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(format!("what host {} claims", request.id)))
    }

    async fn try_join(&self, request: &JoinRequest, attempt: u32) -> Result<Option<Joined>, ClaimError> {
        let mut draft = Draft::default();
        let wanted = [Key::Cluster, Key::Left(request.id), Key::Host(request.id)];
        let wanted = wanted.iter().map(Read::key).chain([Read::Prefix(Key::networks())]);
        let claims = request.underlay.addresses().map(|address| Read::key(&Key::Underlay(address)));
        let mut answers = self.store.read(&wanted.chain(claims).collect::<Vec<_>>()).await?.into_iter();
        let cluster = match only::<Cluster>(&mut answers)? {
            Some(found) => found.value,
            None => {
                draft.put::<()>(&Key::Cluster, None, encode(&request.cluster));
                request.cluster.clone()
            }
        };
        let (left, known) = (only::<Left>(&mut answers)?, only::<Host>(&mut answers)?);
        check_underlay(request.underlay, &networks_of(answers.next().unwrap_or_default()))?;
        if let Some(left) = left {
            return Err(ClaimError::Left { host: request.id, reason: left.value.reason });
        }
        draft.compares.push(Compare::absent(&Key::Left(request.id)));
        if let Some(by) = known.as_ref().and_then(|known| known.value.superseded_by) {
            return Err(ClaimError::Superseded { host: request.id, by });
        }
        let mut host = self.described(request, known.as_ref().map(|known| &known.value));
        if known.is_none() {
            host.mesh = mesh_number(request.id, attempt);
            draft.put::<()>(&Key::Mesh(host.mesh), None, encode(&HostClaim { host: host.id }));
        }
        let mut replaced = Vec::new();
        for address in request.underlay.addresses() {
            let claim = only::<HostClaim>(&mut answers)?;
            self.claim_underlay((address, claim), request, &mut host, &mut draft, &mut replaced).await?;
        }
        let kept: Vec<IpAddr> = request.underlay.addresses().collect();
        let before = known.iter().flat_map(|known| known.value.underlay.addresses());
        for address in before.filter(|address| !kept.contains(address)) {
            self.drop_underlay(address, host.id, &mut draft).await?;
        }
        let value = known.as_ref().map_or_else(|| encode(&host), |known| known.rewritten(&host));
        draft.put(&Key::Host(host.id), known.as_ref(), value);
        Ok(self.txn(&draft.compares, &draft.ops).await?.then_some(Joined { host, cluster, replaced }))
    }

    fn described(&self, request: &JoinRequest, known: Option<&Host>) -> Host {
        let published = known.map(|known| known.wireguard).unwrap_or_default();
        Host {
            id: request.id,
            name: request.name.clone(),
            incarnation: known.map_or(1, |known| known.incarnation),
            boot: request.boot.clone(),
            underlay: request.underlay,
            mesh: known.map_or(0, |known| known.mesh),
            wireguard: Slots {
                a: request.wireguard.a.or(published.a),
                b: request.wireguard.b.or(published.b),
            },
            mtu: request.mtu,
            version: request.version.clone(),
            epoch: known.map_or_else(|| self.now(), |known| known.epoch),
            superseded_by: None,
        }
    }

    async fn claim_underlay(
        &self,
        (address, claim): (IpAddr, Option<Found<HostClaim>>),
        request: &JoinRequest,
        host: &mut Host,
        draft: &mut Draft,
        replaced: &mut Vec<HostId>,
    ) -> Result<(), ClaimError> {
        let key = Key::Underlay(address);
        draft.put(&key, claim.as_ref(), encode(&HostClaim { host: host.id }));
        let Some(owner) = claim.map(|claim| claim.value.host).filter(|owner| *owner != host.id) else {
            return Ok(());
        };
        let Some(other) = self.read::<Host>(&Key::Host(owner)).await? else {
            // It left in two steps and was killed between them: nobody's address.
            draft.compares.push(Compare::absent(&Key::Host(owner)));
            return Ok(());
        };
        let owner_name = other.value.name.clone();
        let alive = self.store.get(&Key::Alive(owner).to_string()).await?.is_some();
        if alive {
            return Err(ClaimError::AddressInUse { address, owner, owner_name, host: host.id });
        }
        if !request.takeover {
            return Err(ClaimError::AddressOfSilent { address, owner, owner_name, host: host.id });
        }
        host.incarnation = host.incarnation.max(other.value.incarnation + 1);
        if !replaced.contains(&owner) {
            replaced.push(owner);
            draft.compares.push(Compare::absent(&Key::Alive(owner)));
            let superseded = Host { superseded_by: Some(host.id), ..other.value.clone() };
            draft.put(&Key::Host(owner), Some(&other), other.rewritten(&superseded));
            for address in
                other.value.underlay.addresses().filter(|a| !request.underlay.addresses().any(|b| b == *a))
            {
                self.drop_underlay(address, owner, draft).await?;
            }
        }
        Ok(())
    }

    async fn drop_underlay(
        &self,
        address: IpAddr,
        host: HostId,
        draft: &mut Draft,
    ) -> Result<(), ClaimError> {
        let key = Key::Underlay(address);
        if let Some(claim) = self.read::<HostClaim>(&key).await?.filter(|claim| claim.value.host == host) {
            draft.compares.push(Compare::unchanged(&key, claim.modified));
            draft.ops.push(Op::delete(&key));
        }
        Ok(())
    }

    /// Changes a host's own record: its keys, its MTU. Returns it as it is then.
    ///
    /// # Errors
    ///
    /// [`ClaimError::NotJoined`] when there is none, [`ClaimError::Superseded`] when another host has its place.
    pub async fn update_host(
        &self,
        host: HostId,
        change: impl Fn(&mut Host) + Send + Sync,
    ) -> Result<Host, ClaimError> {
        let key = Key::Host(host);
        for attempt in 0..ATTEMPTS {
            let found = self.read::<Host>(&key).await?.ok_or(ClaimError::NotJoined(host))?;
            if let Some(by) = found.value.superseded_by {
                return Err(ClaimError::Superseded { host, by });
            }
            let mut changed = found.value.clone();
            change(&mut changed);
            if changed == found.value {
                return Ok(changed);
            }
            let compares = [Compare::unchanged(&key, found.modified)];
            if self.txn(&compares, &[Op::put(&key, found.rewritten(&changed))]).await? {
                return Ok(changed);
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(key.to_string()))
    }

    /// Says that a host is there, for as long as the lease is kept alive.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Left`] or [`ClaimError::NotJoined`] when the cluster does not have the host any more,
    /// [`ClaimError::Superseded`] when another has its place, a lease that has run out.
    pub async fn announce(&self, alive: &Alive, lease: LeaseId) -> Result<(), ClaimError> {
        for attempt in 0..ATTEMPTS {
            let Some(host) = self.read::<Host>(&Key::Host(alive.host)).await? else {
                return Err(self.gone(alive.host).await?);
            };
            if let Some(by) = host.value.superseded_by {
                return Err(ClaimError::Superseded { host: alive.host, by });
            }
            let key = Key::Alive(alive.host).to_string();
            let put = Op::Put { key, value: encode(alive), lease: Some(lease) };
            // Not beside a host that takes our address at this moment.
            let compares = [Compare::unchanged(&Key::Host(alive.host), host.modified)];
            if self.txn(&compares, &[put]).await? {
                return Ok(());
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(Key::Host(alive.host).to_string()))
    }

    /// Why a host that had joined is not there.
    pub(super) async fn gone(&self, host: HostId) -> Result<ClaimError, ClaimError> {
        Ok(match self.read::<Left>(&Key::Left(host)).await? {
            Some(left) => ClaimError::Left { host, reason: left.value.reason },
            None => ClaimError::NotJoined(host),
        })
    }

    /// Leaves the cluster: the host's blocks go into quarantine, and everybody may drop what leads to it.
    ///
    /// # Errors
    ///
    /// What keeps the store from answering. A host that is out already only has cleared away what is left of it.
    pub async fn leave(&self, host: HostId, reason: &str) -> Result<(), ClaimError> {
        self.put_out(host, reason, true).await
    }

    /// Declares a host gone that does not say so itself.
    ///
    /// # Errors
    ///
    /// [`ClaimError::Alive`] when it is there, [`ClaimError::NotJoined`] when there is nothing left of it.
    pub async fn forget(&self, host: HostId, reason: &str) -> Result<(), ClaimError> {
        self.put_out(host, reason, false).await
    }

    async fn put_out(&self, host: HostId, reason: &str, itself: bool) -> Result<(), ClaimError> {
        for attempt in 0..ATTEMPTS {
            let Some(entry) = self.store.get(&Key::Host(host).to_string()).await? else {
                let left = self.read::<Left>(&Key::Left(host)).await?;
                let something = self.clear(host).await?;
                return if itself || left.is_some() || something {
                    self.put_tombstone(host, reason).await
                } else {
                    Err(ClaimError::NotJoined(host))
                };
            };
            if !itself && self.store.get(&Key::Alive(host).to_string()).await?.is_some() {
                return Err(ClaimError::Alive(host));
            }
            let mut draft = Draft::default();
            // First the tombstone: whoever hears of the rest has heard of it.
            let left = Left { host, at: self.now(), reason: reason.into() };
            draft.ops.push(Op::put(&Key::Left(host), encode(&left)));
            draft.compares.push(Compare::unchanged(&Key::Host(host), entry.modified));
            draft.ops.push(Op::delete(&Key::Host(host)));
            // By the claims, and not by its record, which may make no sense: it is what forgetting is for.
            for prefix in ["underlay/", "mesh/"] {
                let (claims, _) = self.records(&format!("{}{prefix}", keys::PREFIX)).await?;
                for claim in claims.into_iter().filter(|claim| claim.value.owner() == Some(host)) {
                    let key = claim.value.key();
                    draft.compares.push(Compare::unchanged(&key, claim.modified));
                    draft.ops.push(Op::delete(&key));
                }
            }
            if itself {
                draft.ops.push(Op::delete(&Key::Alive(host)));
            } else {
                draft.compares.push(Compare::absent(&Key::Alive(host)));
            }
            if self.txn(&draft.compares, &draft.ops).await? {
                return self.clear(host).await.map(drop);
            }
            pause(attempt).await;
        }
        Err(ClaimError::Busy(Key::Host(host).to_string()))
    }

    /// Leaves a word for hosts that hold what the store has lost of this one.
    async fn put_tombstone(&self, host: HostId, reason: &str) -> Result<(), ClaimError> {
        let key = Key::Left(host);
        let left = Left { host, at: self.now(), reason: reason.into() };
        self.txn(&[Compare::absent(&key)], &[Op::put(&key, encode(&left))]).await.map(drop)
    }

    /// Puts the blocks of a host that is out into quarantine, and removes what else it had. Doing so twice is as well.
    ///
    /// Returns whether there was anything.
    pub(super) async fn clear(&self, host: HostId) -> Result<bool, ClaimError> {
        let mut something = false;
        for attempt in 0..ATTEMPTS {
            let mut todo = Vec::new();
            for prefix in ["block/", "borrow/", "member/"] {
                let (found, _) = self.records(&format!("{}{prefix}", keys::PREFIX)).await?;
                todo.extend(found.into_iter().filter(|found| found.value.owner() == Some(host)));
            }
            let drafts: Vec<(Compare, Op)> = todo.iter().filter_map(|found| self.cleared(found)).collect();
            if drafts.is_empty() {
                return Ok(something);
            }
            something = true;
            for chunk in drafts.chunks(CHUNK) {
                let (compares, ops): (Vec<_>, Vec<_>) = chunk.iter().cloned().unzip();
                self.txn(&compares, &ops).await?;
            }
            pause(attempt.min(1)).await;
        }
        Err(ClaimError::Busy(format!("what host {host} had")))
    }

    fn cleared(&self, found: &Found<Record>) -> Option<(Compare, Op)> {
        let key = found.value.key();
        let op = match &found.value {
            Record::Block(block) if block.state == BlockState::Active => {
                let state = BlockState::Quarantine { since: self.now() };
                let quarantined = encode(&Block { state, ..block.clone() });
                Op::put(&key, rewritten(&found.raw, &encode(block), quarantined))
            }
            // In quarantine already, or nobody's.
            Record::Block(_) => return None,
            _ => Op::delete(&key),
        };
        Some((Compare::unchanged(&key, found.modified), op))
    }
}

/// Refuses a host whose own address is inside a network: packets to it would go into the network.
fn check_underlay(underlay: Underlay, networks: &[Network]) -> Result<(), ClaimError> {
    for network in networks {
        for address in underlay.addresses() {
            if let Some(other) = network.subnets.iter().find(|subnet| overlap(**subnet, address.into())) {
                let what = format!("network {}", network.name);
                return Err(Taken::Overlap { subnet: address.into(), other: *other, what }.into());
            }
        }
    }
    Ok(())
}

/// Returns the number in the mesh that a host tries to get: its id's, then others.
fn mesh_number(host: HostId, attempt: u32) -> u32 {
    let [a, b, c, d, ..] = *host.bytes();
    // 0 is the subnet router's address (RFC 4291, section 2.6.1).
    u32::from_be_bytes([a, b, c, d]).wrapping_add(attempt).max(1)
}
