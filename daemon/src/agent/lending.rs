//! Addresses of this host's blocks that other hosts ask for, for a container that is to have just this one.
//!
//! Containers here get theirs without asking anybody, so an address is lent once none of them can get it: it is reserved in the
//! network's file, and then taken as a lease, which no ADD gets past that has read an older file.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use tokio::task::{spawn_blocking, spawn_local};
use weft_overlay::records::{Borrow, BorrowState, Network};
use weft_overlay::{HostId, NetworkId};
use weft_state::StateError;
use weft_state::lock::FileLock;

use super::agent::Agent;
use super::claim;
use super::known::Inner;

/// What stands in a lease for the container; no container's id begins so in a CNI runtime's hands by accident.
const HOLDER: &str = "weft-lent-to-";

/// What is done about addresses that others ask for.
#[derive(Debug, Default)]
pub(crate) struct Answers {
    /// Answers that are on their way.
    running: BTreeSet<(NetworkId, IpAddr)>,
    /// Leases that were taken, of the networks whose leases were looked through.
    taken: BTreeMap<NetworkId, BTreeSet<IpAddr>>,
}

/// An address to take as a lease, or to give back.
pub(super) struct Lease {
    dir: PathBuf,
    address: IpAddr,
}

/// Answers hosts that have asked, keeps what is lent, and takes back what was given back.
pub(crate) fn look(agent: &Rc<Agent>) {
    for (network, borrow) in agent.change(Inner::unanswered) {
        spawn_local(answer(agent.clone(), network, borrow));
    }
}

async fn answer(agent: Rc<Agent>, network: Network, borrow: Borrow) {
    let lease = Lease::of(&agent, &network, borrow.address);
    let (holder, address) = (borrow.host, borrow.address);
    let taken = spawn_blocking(move || lease.take(holder)).await.map_err(|error| error.to_string());
    let outcome = match taken.and_then(|taken| taken.map_err(|error| error.to_string())) {
        Ok(true) if borrow.is_active() => Ok(()),
        Ok(true) => claim::lend(&agent, &borrow, None).await.map_err(|refusal| refusal.to_string()),
        Ok(false) if borrow.is_active() => Err(format!(
            "{address} of network {} is in use here, and was lent to host {holder}",
            network.name
        )),
        Ok(false) => {
            let refused = claim::lend(&agent, &borrow, Some("it is in use there".into())).await;
            refused.map_err(|refusal| refusal.to_string())
        }
        Err(why) => Err(why),
    };
    agent.trouble(&about(network.id, address), outcome.err());
    agent.change(|inner| {
        inner.answers.running.remove(&(network.id, address));
        // Whoever has it: a lease that is not one of these is left alone.
        inner.answers.taken.entry(network.id).or_default().insert(address);
    });
}

/// Returns under what it is noted that something is wrong with an address.
fn about(network: NetworkId, address: IpAddr) -> String {
    format!("lent {address} of {network}")
}

impl Inner {
    /// Returns addresses whose lease is lacking, and notes that it is being seen to. Leases of what nobody has any more go.
    fn unanswered(&mut self) -> Vec<(Network, Borrow)> {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return Vec::new() };
        if !self.hearing.connected || self.hearing.alarm.is_some() {
            return Vec::new();
        }
        let mut unanswered = Vec::new();
        for network in self.snapshot.networks() {
            let lent: Vec<&Borrow> = self.snapshot.lent(network.id, own).collect();
            let dir = self.usage.dir(&network.name);
            let leases = self.usage.of(&network.name);
            let taken = self.answers.taken.entry(network.id).or_insert_with(|| {
                let is_ours = |address: &&IpAddr| is_lent(&dir.join(address.to_string()));
                leases.iter().filter(is_ours).copied().collect()
            });
            taken.retain(|address| {
                if lent.iter().any(|borrow| borrow.address == *address) {
                    return true;
                }
                self.troubles.remove(&about(network.id, *address));
                !Lease { dir: dir.clone(), address: *address }.give_back()
            });
            // No ADD that begins now gets the address: the network's file has it among those that are reserved.
            let made = self.made.get(&network.id).map(|made| made.local.lent.as_slice()).unwrap_or_default();
            for borrow in lent.into_iter().filter(|borrow| made.contains(&borrow.address)) {
                let settled = borrow.is_active() && leases.contains(&borrow.address);
                if !settled && self.answers.running.insert((network.id, borrow.address)) {
                    unanswered.push((network.clone(), borrow.clone()));
                }
            }
        }
        unanswered
    }

    /// Returns the addresses of a network that containers of this host have.
    pub(crate) fn leases(&mut self, network: &Network) -> Vec<IpAddr> {
        let Some(own) = self.membership.as_ref().map(|membership| membership.host) else { return Vec::new() };
        let lent: Vec<IpAddr> = self.snapshot.lent(network.id, own).map(|borrow| borrow.address).collect();
        let all = self.usage.of(&network.name).iter().copied();
        all.filter(|address| !lent.contains(address)).collect()
    }
}

impl Lease {
    pub(super) fn of(agent: &Agent, network: &Network, address: IpAddr) -> Self {
        Self { dir: agent.with(|inner| inner.usage.dir(&network.name)), address }
    }

    fn path(&self) -> PathBuf {
        self.dir.join(self.address.to_string())
    }

    /// Takes the lease under the lock that every ADD takes; `false` when a container has it.
    pub(super) fn take(&self, holder: HostId) -> Result<bool, StateError> {
        weft_state::atomic::create_dir(&self.dir, 0o755)?;
        let _lock = FileLock::exclusive(&self.dir.join("lock"))?;
        let path = self.path();
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match made {
            Ok(mut file) => {
                let text = format!("{HOLDER}{holder}\r\noverlay");
                file.write_all(text.as_bytes()).map_err(StateError::io("write", &path))?;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(is_lent(&path)),
            Err(error) => Err(StateError::io("create", &path)(error)),
        }
    }

    /// Gives the lease back, if it is one of these. Returns whether that is done; else it is tried again with the next look.
    pub(super) fn give_back(&self) -> bool {
        !is_lent(&self.path()) || std::fs::remove_file(self.path()).is_ok()
    }
}

fn is_lent(path: &Path) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.starts_with(HOLDER))
}

/// Returns what became of an address that this host has asked for: nothing yet, or an answer to this very question.
pub(crate) fn answered(borrow: Option<&Borrow>, asked: &Borrow) -> Option<Result<(), String>> {
    let borrow = borrow.filter(|borrow| borrow.host == asked.host && borrow.epoch == asked.epoch)?;
    match &borrow.state {
        BorrowState::Asked => None,
        BorrowState::Active => Some(Ok(())),
        BorrowState::Refused { why } => Some(Err(why.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_once_and_given_back_by_whom_it_was_lent_for() {
        let dir = tempfile::tempdir().unwrap();
        let lease = |address: &str| Lease { dir: dir.path().join("blue"), address: address.parse().unwrap() };
        let (free, taken) = (lease("10.1.0.9"), lease("10.1.0.10"));
        let borrower = HostId::new([2; 16]);
        assert!(free.take(borrower).unwrap());
        assert!(free.take(borrower).unwrap(), "as after a restart between lease and answer");
        let container = "container\r\neth0";
        weft_state::atomic::write(
            &taken.path(),
            container.as_bytes(),
            weft_state::atomic::Durability::Boot,
            0o600,
        )
        .unwrap();
        assert!(!taken.take(borrower).unwrap());
        assert!(taken.give_back() && free.give_back());
        assert_eq!((taken.path().exists(), free.path().exists()), (true, false));
    }

    #[test]
    fn an_answer_is_to_the_question_that_was_put() {
        let asked = Borrow {
            network: NetworkId::new([1; 16]),
            address: "10.1.0.9".parse().unwrap(),
            host: HostId::new([2; 16]),
            holder: "db".into(),
            epoch: 7,
            state: BorrowState::Asked,
        };
        let with = |state: BorrowState, epoch| Borrow { state, epoch, ..asked.clone() };
        assert_eq!(answered(None, &asked), None);
        assert_eq!(answered(Some(&asked), &asked), None);
        assert_eq!(answered(Some(&with(BorrowState::Active, 7)), &asked), Some(Ok(())));
        let no = BorrowState::Refused { why: "no".into() };
        assert_eq!(answered(Some(&with(no.clone(), 7)), &asked), Some(Err("no".into())));
        assert_eq!(answered(Some(&with(no, 6)), &asked), None, "an answer to an earlier question");
    }
}
